"""A new folder for a model: completely or not at all, and never in the place of something else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import atomic_folder, remove_leftovers


def check_destination(destination: str | Path, overwrite: bool = False) -> None:
    """Refuse a destination that holds something else; before the work starts, so that no work is lost.

    Raises:
        FileExistsError: it is a file, or a folder with content without `overwrite`, or with `overwrite` one that is not a
            model folder (it holds no config.json), so that a slip does not delete a home directory.
    """
    path = Path(destination)
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise FileExistsError(f"{destination}: there is a file of this name; choose another destination")
    if not overwrite:
        raise FileExistsError(
            f"{destination}: this folder is not empty; choose another one, or overwrite it (--overwrite)"
        )
    if not (path / "config.json").is_file():
        raise FileExistsError(f"{destination}: this is no model folder (no config.json), so it is not overwritten")


@contextmanager
def new_folder(destination: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `destination` when the block ends without an error, and is deleted otherwise.

    See `hub.files.atomic_folder` for what a killed process leaves and who removes it.

    Args:
        destination: where the folder shall be; see `check_destination`.
        overwrite: replace a model folder that is there.

    Example:
        >>> with new_folder("my-model") as folder:  # doctest: +SKIP
        ...     model.save_pretrained(folder)
    """
    path = Path(destination).absolute()
    remove_leftovers(path.parent, path.name)  # restores the folder that a killed process was about to replace
    check_destination(destination, overwrite)
    with atomic_folder(path, replace=overwrite) as folder:
        yield folder
        check_destination(destination, overwrite)
