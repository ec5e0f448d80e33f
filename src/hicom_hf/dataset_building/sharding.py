"""WebDataset shards of a build: tar files that `hicom train` streams, one sample per clip.

A sample is `<clip>.mp4`, the cut clip, and `<clip>.json`, a list with a record for each pair, so that no answer stands in the
context of another. Training reads the clip once for all of them.
"""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..hub.files import atomic_file

Sample = tuple[str, list[dict[str, Any]], Path]  # key, records, file of the clip
SHARDS_FOLDER = "shards"
SHARD_BYTES = 256 * 10**6


def write_shards(folder: Path, samples: Iterable[Sample], most: int = SHARD_BYTES) -> list[Path]:
    """Write samples into `train-000000.tar` and so on; shards of before are replaced.

    Args:
        folder: of the shards.
        samples: of each its key, its records, and the file of its clip.
        most: bytes of a shard; a new one begins after that.

    Returns:
        The shards. Equal samples give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    waiting: list[Sample] = []
    size = 0
    for sample in samples:
        waiting.append(sample)
        size += sample[2].stat().st_size
        if size >= most:
            written.append(_write(folder, len(written), waiting))
            waiting, size = [], 0
    if waiting:
        written.append(_write(folder, len(written), waiting))
    for path in folder.glob("train-*.tar"):
        if path not in written:
            path.unlink()
    return written


def _write(folder: Path, number: int, samples: list[Sample]) -> Path:
    path = folder / f"train-{number:06d}.tar"
    with atomic_file(path) as unfinished, tarfile.open(unfinished, "w") as archive:
        for key, records, clip in samples:
            data = json.dumps(records, ensure_ascii=False).encode()
            for suffix, content in ((".json", data), (clip.suffix, clip.read_bytes())):
                member = tarfile.TarInfo(f"{key}{suffix}")  # without a date, so that equal samples give equal bytes
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
