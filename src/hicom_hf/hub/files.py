"""Files and folders that are complete or not there, locks on folders, and fingerprints of what was written.

A file or folder is written in a workplace beside its destination and renamed to it at the end, which is atomic:

```
FOLDER/
    model                                     the destination
    model.unfinished-<host>-<process>-<token>/
        model                                 what is being written, under its final name
        model.replaced                        what the destination held before, during the exchange
```
A process that is killed leaves its workplace. The next writer of the same destination removes it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

logger = logging.getLogger(__name__)

WORKPLACE = re.compile(r"(?P<name>.+)\.unfinished-(?P<host>[^-]+)-(?P<process>\d+)-\w+")
LOCK_FILE = ".lock"
FINGERPRINT_LENGTH = 16  # hexadecimal digits

# Reading -------------------------------------------------------------------------------------------------------------------


def require_file(path: str | os.PathLike) -> Path:
    """The path of a file to read; a pipe would block its reader, and a device may have no end.

    Raises:
        OSError: it is not there, or no regular file.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder has an error of its own
        raise OSError(f"{os.fspath(path)}: this is a pipe, socket or device, not a file; pass a regular file")
    return Path(path)


# Writing -------------------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_file(destination: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """A path to write a file to, which becomes `destination` at the end of the block, or nothing if the block fails.

    Args:
        destination: a file there is replaced. Its folder is made.
        durable: force the content to disk before the file gets its name, so that it survives a loss of power.

    Example:
        >>> with atomic_file("notes.json") as path:  # doctest: +SKIP
        ...     path.write_text("{}")
    """
    destination = Path(destination).absolute()
    with _workplace(destination) as workplace:
        written = workplace / destination.name
        yield written
        if durable:
            force_to_disk(written)
        os.replace(written, destination)
        if durable:
            _sync(destination.parent)


@contextmanager
def atomic_folder(destination: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `destination` at the end of the block, or nothing if the block fails.

    Args:
        destination: may be there as an empty folder.
        replace: a folder with content may be there and is replaced; it is kept if the block fails.

    Raises:
        FileExistsError: at the end of the block, `destination` is there and may not be replaced.

    Example:
        >>> with atomic_folder("my-model") as folder:  # doctest: +SKIP
        ...     model.save_pretrained(folder)
    """
    destination = Path(destination).absolute()
    with _workplace(destination) as workplace:
        written = workplace / destination.name
        written.mkdir()
        yield written
        force_to_disk(written)
        if os.path.lexists(destination):
            if not destination.is_dir() or (any(destination.iterdir()) and not replace):
                raise FileExistsError(f"{destination} exists already")
            os.rename(destination, workplace / f"{destination.name}.replaced")
        os.rename(written, destination)
        _sync(destination.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file completely or not at all, with a line break at its end."""
    with atomic_file(path) as written:
        written.write_text(text.removesuffix("\n") + "\n", encoding="utf-8")


def publish_folder(written: Path, destination: Path) -> None:
    """Force a folder to disk and give it its final name, on the same file system."""
    force_to_disk(written)
    os.rename(written, destination)
    _sync(destination.parent)


def force_to_disk(path: Path) -> None:
    """Return once a file, or a folder with all that it holds, would survive a loss of power."""
    if path.is_dir():
        for entry in path.rglob("*"):
            _sync(entry)
    _sync(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that at no moment a part of it bears its name."""
    if folder.exists():
        with _workplace(folder.absolute()) as workplace:
            os.rename(folder, workplace / folder.name)


def remove_leftovers(folder: str | os.PathLike, name: str | None = None) -> None:
    """Remove what killed processes of this machine have left of files and folders in `folder`.

    A folder that was to be replaced when its process was killed gets its place back.

    Args:
        folder: where the destinations lie.
        name: of one destination; default: of all.
    """
    folder = Path(folder)
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        match = WORKPLACE.fullmatch(path.name)
        if match is None or name not in (None, match["name"]):
            continue
        if match["host"] == _host() and not is_running(int(match["process"])):
            _close_workplace(path, folder / match["name"])


def is_running(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


@contextmanager
def _workplace(destination: Path) -> Iterator[Path]:
    """A new folder beside a destination, which is removed with what is left in it."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(destination.parent, destination.name)
    prefix = f"{destination.name}.unfinished-{_host()}-{os.getpid()}-"
    workplace = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
    try:
        yield workplace
    finally:
        _close_workplace(workplace, destination)


def _close_workplace(workplace: Path, destination: Path) -> None:
    """Remove a workplace; what was to be replaced goes back to its place if nothing took it."""
    replaced = workplace / f"{destination.name}.replaced"
    if replaced.exists() and not os.path.lexists(destination):
        os.rename(replaced, destination)
    shutil.rmtree(workplace, ignore_errors=True)


def _sync(path: Path) -> None:
    if fcntl is None and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    """This machine's name, without the signs that separate the parts of a workplace's name."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


# Lines of JSON -------------------------------------------------------------------------------------------------------------


def append_json_line(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Add a record to a JSONL file and force it to disk.

    A line that a killed process has left incomplete stays on its own and is passed over by `read_json_lines`.
    """
    line = json.dumps(record) + "\n"
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())  # in one piece, at the end of the file whoever else writes there
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Records of a file of `append_json_line`; none if there is no file. Incomplete lines are logged and passed over."""
    path, records = Path(path), []
    if not path.exists():
        return records
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            logger.warning("%s: line %d is incomplete and is not used.", path, number)
    return records


# Locks ---------------------------------------------------------------------------------------------------------------------


class FolderLock:
    """A folder that one process at a time may write to.

    The operating system releases the lock when the process ends, however it ends. The lock is not inherited by processes that
    this one starts. The file in the folder names the holder, for the message.

    Args:
        folder: made if it is not there.
        purpose: what the folder is locked for, for the message of who comes second.

    Raises:
        BlockingIOError: entering, another process holds it, or this one does already.

    Example:
        >>> with FolderLock("runs/a", "a training run"):  # doctest: +SKIP
        ...     train()
    """

    _held: set[tuple[int, Path]] = set()  # process and file: a process is not stopped by its own locks

    def __init__(self, folder: str | os.PathLike, purpose: str = "another command"):
        self.path = Path(folder).absolute() / LOCK_FILE
        self.purpose = purpose
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            logger.warning("%s cannot be locked on this system: no other command may write there.", self.path.parent)
            return self
        if (os.getpid(), self.path) in self._held:
            raise BlockingIOError(f"{self.path.parent} is in use by this process already")
        while not self._acquire():
            pass  # the holder has just removed the file: it is created again
        self._held.add((os.getpid(), self.path))
        holder = {"host": socket.gethostname(), "process": os.getpid(), "purpose": self.purpose}
        text = json.dumps({**holder, "since": datetime.now().astimezone().isoformat(timespec="seconds")})
        descriptor = self._descriptor
        assert descriptor is not None  # `_acquire` was successful
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        return self

    def _acquire(self) -> bool:
        """Lock the file; false if it is no longer the one of this name."""
        assert fcntl is not None  # asked in `__enter__`
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.pread(descriptor, 10_000, 0).decode(errors="replace")
            os.close(descriptor)
            raise BlockingIOError(self._refusal(holder)) from error
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): make sure that no other command writes there.", self.path.parent, error
            )
        if not self.path.exists() or not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _refusal(self, text: str) -> str:
        try:
            holder = json.loads(text)
            by = f"{holder['purpose']} (process {holder['process']} on {holder['host']}, since {holder['since']})"
        except (ValueError, KeyError, TypeError):  # it has not written its name yet
            by = "another process"
        return f"{self.path.parent} is in use by {by}; wait until it has ended, or choose another folder"

    def __exit__(self, *exception) -> None:
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)  # before it is released, so that nobody else's file is removed
        self._held.discard((os.getpid(), self.path))
        os.close(self._descriptor)
        self._descriptor = None


# Fingerprints --------------------------------------------------------------------------------------------------------------


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """A short text that is the same for the same settings, in any order.

    Args:
        settings: plain values.

    Example:
        >>> settings_fingerprint({"a": 1, "b": 2}) == settings_fingerprint({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def file_fingerprint(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_fingerprint(path)}
        for path in files
    }


def changed_files(folder: Path, fingerprints: Mapping[str, Mapping[str, Any]], content: bool = True) -> list[str]:
    """Files that are missing or differ from their fingerprints; what was added later does not count.

    Args:
        folder: where they lie.
        fingerprints: see `folder_fingerprints`.
        content: compare contents; false compares sizes only, which reads nothing.
    """
    changed = []
    for name, expected in fingerprints.items():
        path = folder / name
        same = path.is_file() and path.stat().st_size == expected["size"]
        if not same or (content and file_fingerprint(path) != expected["sha256"]):
            changed.append(name)
    return changed
