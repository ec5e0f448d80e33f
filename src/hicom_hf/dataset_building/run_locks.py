"""Which commands on one folder exclude one another: runs of the same videos, and a deletion and every run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..hub.files import FolderLock

LOCKS_FOLDER = "locks"
WHOLE_BUILD = (0, 1)


@contextmanager
def part_lock(output_dir: Path, shard: tuple[int, int], purpose: str) -> Iterator[None]:
    """Hold a part of a build.

    Shards of one number have no video in common; those of another number, and the whole, share videos with this one.

    Args:
        output_dir: of the build.
        shard: (i, n), the part; (0, 1) is the whole, which no run may share.
        purpose: what it is held for, for the message of who comes second.

    Raises:
        BlockingIOError: another process holds this part, or one that shares videos with it.
    """
    folder = output_dir / LOCKS_FOLDER
    with FolderLock(folder / _name(shard), purpose):
        for other in sorted(folder.iterdir()):
            if other.name.rpartition("-")[2] != _name(shard).rpartition("-")[2]:
                with FolderLock(other, purpose):
                    pass  # nobody holds it
        yield


def _name(shard: tuple[int, int]) -> str:
    return "whole" if shard == WHOLE_BUILD else f"shard-{shard[0]}-of-{shard[1]}"
