"""Where a model is: what a MODEL argument names, found before anything large is read."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError

from ..assets import model_source
from .reading import read_json_object

ADAPTER_CONFIG = "adapter_config.json"
HUB_SECONDS = 10.0  # to wait for the Hub to say whether a repo exists
# Errors of huggingface_hub's HTTP library without a network.
NO_ANSWER = cast(type[Exception], HfHubHTTPError.__bases__[0])


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is.

    Attributes:
        source: folder or repo id of the whole model; of an adapter, its base.
        revision: branch, tag or commit of a repo; None for its main branch, and for a folder.
        adapter: folder of a LoRA adapter that was trained on it; None for a model alone.
    """

    source: str
    revision: str | None = None
    adapter: str | None = None

    def __str__(self) -> str:
        if self.adapter is not None:
            return self.adapter
        return self.source if self.revision is None else f"{self.source}@{self.revision}"


Model = str | os.PathLike | ModelPlace | None  # how a model may be named


def find_model(model: Model = None) -> ModelPlace:
    """Where a model is that is named by its user.

    Args:
        model: None or "hicom-tiny" for the packaged model; a folder; a Hub repo id, with `@revision` or without; the folder of a
            LoRA adapter, which brings its base along. What was found already is returned as it is.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        NotADirectoryError: it is a file.
        OSError: there is no such repo, or no answer from the Hub.
        ValueError: an adapter does not say which base it was trained on.

    Example:
        >>> find_model("hicom-tiny").revision is None
        True
    """
    if isinstance(model, ModelPlace):
        return model
    source = model_source(model)
    folder = Path(source)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return _base_of_adapter(source)
    revision = None
    if not folder.exists() and not isinstance(model, os.PathLike) and "@" in source:
        source, _, revision = source.partition("@")
        if not revision:
            raise ValueError(f"{model}: there is no revision after the @; a repo is OWNER/NAME or OWNER/NAME@REVISION")
    check_exists(Path(source) if isinstance(model, os.PathLike) else source, revision)
    return ModelPlace(source, revision)


def base_of(adapter: str | os.PathLike) -> str:
    """The folder or Hub name of the model that an adapter was trained on.

    Raises:
        FileNotFoundError: `adapter` is no adapter's folder.
        ValueError: it does not name its base.
    """
    path = Path(adapter) / ADAPTER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{adapter} is not the folder of an adapter (no {ADAPTER_CONFIG} there)")
    base = read_json_object(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path} does not name the adapter's base (base_model_name_or_path is {base!r})")
    return base


def _base_of_adapter(adapter: str) -> ModelPlace:
    base = base_of(adapter)
    revision = read_json_object(Path(adapter) / ADAPTER_CONFIG).get("revision")
    source = model_source(base)
    try:
        check_exists(source, revision)
    except OSError as error:
        raise FileNotFoundError(
            f"{adapter}: the base of this adapter is not there: {error}; `hicom merge {adapter} DEST --base FOLDER` makes a "
            "model of the adapter and a base that lies elsewhere"
        ) from error
    return ModelPlace(source, revision if isinstance(revision, str) else None, adapter)


def check_exists(source: str | Path, revision: str | None = None) -> None:
    """Distinguish a missing folder from a repo id, which transformers would look up for minutes without a network.

    Args:
        source: folder or repo id of a model of any kind; as a `Path`, a folder.
        revision: of a repo.

    Raises:
        FileNotFoundError: `source` is the path of nothing, or a folder without config.json.
        NotADirectoryError: it is a file.
        OSError: it may be a repo id, but there is no such repo, or no answer.
    """
    path = Path(source)
    if path.is_dir():
        if (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{source}: this folder holds adapters; `hicom merge {source} DEST` makes a model of them"
            )
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{source}: this folder holds no model (config.json is missing)")
    elif path.exists():
        raise NotADirectoryError(f"{source}: a model is a folder or a repo id, and this is a file")
    elif (similar := _similar(path)) or isinstance(source, Path) or not _can_be_repo_id(source):
        raise FileNotFoundError(f"{source}: there is no such folder{similar}")
    else:
        _ask_hub(source, revision)


def unreadable(source: object, error: Exception) -> OSError:
    """The error for a folder or repo that transformers could not read: transformers' own often names neither."""
    if Path(str(source)).is_dir():
        return OSError(f"{source}: the model in this folder cannot be read: {error}")
    return OSError(f"{source}: there is no such folder, and no such Hub repo could be read: {error}")


def _can_be_repo_id(source: str) -> bool:
    return source.count("/") <= 1 and not source.startswith((".", "/", "~")) and not source.endswith("/")


def _similar(path: Path) -> str:
    """Folders beside a path that is not there whose names are nearly its own, as the end of a message."""
    if not path.name or not path.parent.is_dir() or str(path.parent) == ".":
        return ""
    folders = [child.name for child in path.parent.iterdir() if child.is_dir()]
    near = [str(path.parent / name) for name in get_close_matches(path.name, folders)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _ask_hub(repo: str, revision: str | None) -> None:
    """Ask the Hub once whether a repo exists, unless it is in the cache."""
    if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS)
    except (OSError, ValueError, NO_ANSWER) as error:
        raise unreadable(repo if revision is None else f"{repo}@{revision}", error) from error
