"""Tar shards in WebDataset's layout: their names, their samples, and the records of a sample.

The files of one sample share their name up to its first dot and follow each other. `<key>.json` is the record, or a list of
records of one video; its videos and images are files of the sample, named by the record or, if it names none, all of them in
the order of their names. Without a record that has turns or a caption, `<key>.txt` is the caption.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .bad_samples import BAD_RECORD, MISSING_MEDIA, SampleError
from .formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES, has_turns
from .record_media import URL, Record

MEDIA_SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
SHARD_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # data-{000..127}.tar, as WebDataset writes it
GLOB_CHARACTERS = re.compile(r"[*?\[]")


def expand_shards(pattern: str) -> list[str]:
    """Paths or URLs of the shards that match a pattern with `*` or `{000..127}`.

    Raises:
        ValueError: none matches.

    Example:
        >>> expand_shards("train-{08..10}.tar")
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    span = SHARD_RANGE.search(pattern)
    if span is not None:
        numbers = range(int(span[1]), int(span[2]) + 1)
        names = [f"{pattern[: span.start()]}{n:0{len(span[1])}}{pattern[span.end() :]}" for n in numbers]
        shards = [shard for name in names for shard in expand_shards(name)]
    elif GLOB_CHARACTERS.search(pattern):
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(pattern)
        found = sorted(filesystem.glob(path))
        shards = [filesystem.unstrip_protocol(name) if URL.match(pattern) else name for name in found]
    else:
        shards = [pattern]
    if not shards:
        raise ValueError(f"no tar shard matches {pattern!r}")
    return shards


def tar_rows(shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Samples of tar shards: `__key__`, `__shard__` and `__files__`, content by what follows the key's dot.

    Raises:
        ValueError: a shard is no tar archive, or is cut off.
        OSError: it cannot be opened.
    """
    import fsspec

    for shard in shards:
        key, files = None, {}
        try:
            opened: Any = fsspec.open(shard, "rb")  # one file: no list
            with opened as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    member_key = f"{folder}/{stem}" if folder else stem
                    if member_key != key and files:
                        yield {"__key__": key, "__shard__": shard, "__files__": files}
                        files = {}
                    key = member_key
                    content = archive.extractfile(member)
                    assert content is not None  # of a file
                    files[suffix] = content.read()
        except tarfile.TarError as error:
            raise ValueError(f"{shard}: this is no complete tar archive ({error})") from error
        if files:
            yield {"__key__": key, "__shard__": shard, "__files__": files}


def records_of_files(key: str, shard: str, files: Mapping[str, Any]) -> list[Record]:
    """A tar sample as its records; "json" is content, or parsed already."""
    source = f"{shard}: {key}"
    data = files.get("json", {} if "txt" in files else None)
    if data is None:
        raise SampleError(source, BAD_RECORD, f"the sample has neither {key}.json nor {key}.txt, only {sorted(files)}")
    if isinstance(data, bytes):
        try:
            data = json.loads(data)
        except ValueError as error:
            raise SampleError(source, BAD_RECORD, f"{key}.json is not JSON ({error})") from error
    if isinstance(data, list) and data:
        return [_record_of_files(entry, f"{source}, record {n}", key, files) for n, entry in enumerate(data)]
    return [_record_of_files(data, source, key, files)]


def _record_of_files(data: Any, source: str, key: str, files: Mapping[str, Any]) -> Record:
    if isinstance(data, dict) and not any(data.get(name) for name in ("video", "videos", "image", "images")):
        data = dict(data)
        for kind, suffixes in MEDIA_SUFFIXES.items():
            names = [suffix for suffix in files if suffix.rpartition(".")[2].lower() in suffixes]
            data[kind] = sorted(names, key=_natural_key)
    if isinstance(data, dict) and "txt" in files and not has_turns(data):
        data = {**data, "caption": bytes(files["txt"]).decode("utf-8", "replace").strip()}

    def open_media(kind: str, name: Any) -> bytes:
        if isinstance(name, str):
            short = os.path.basename(name)
            for candidate in (name, short.removeprefix(f"{os.path.basename(key)}."), short):
                if candidate in files:
                    return files[candidate]
        raise SampleError(source, MISSING_MEDIA, f"{name!r} is none of the sample's files {sorted(files)}")

    return Record(data, source, None, open_media)


def _natural_key(name: str) -> list:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
