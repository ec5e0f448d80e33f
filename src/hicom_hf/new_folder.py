"""Write a folder completely or not at all: beside its place first, renamed at the end."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

    A process that is killed leaves `<destination>.incomplete-<process id>` and never a half-written destination; the next one
    for the same destination deletes it, and puts a folder that was about to be replaced back.

    Args:
        destination: where the folder shall be; see `check_destination`.
        overwrite: replace a model folder that is there.

    Example:
        >>> with new_folder("my-model") as folder:  # doctest: +SKIP
        ...     model.save_pretrained(folder)
    """
    path = Path(destination).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    check_destination(destination, overwrite)
    workplace = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    beside = workplace / path.name  # under its final name already, which a model card takes from the folder
    replaced = path.with_name(f"{path.name}.replaced-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside
        check_destination(destination, overwrite)
        if path.exists():
            path.rename(replaced)
        beside.rename(path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
        _settle_replaced(path, replaced)


def _settle_replaced(path: Path, replaced: Path) -> None:
    """The folder that was to be replaced goes once the new one is there, and back into its place if none came."""
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.exists():
        replaced.rename(path)


def _remove_left_over(path: Path) -> None:
    """Clear away what killed processes left beside a destination."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*-*"):
        kind, _, process_id = left.name.removeprefix(f"{path.name}.").partition("-")
        if not process_id.isdecimal() or _is_running(int(process_id)):
            continue
        if kind == "incomplete":
            shutil.rmtree(left)
        elif kind == "replaced":  # killed between the two renames
            _settle_replaced(path, left)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
