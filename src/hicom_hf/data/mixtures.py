"""Mixtures: a YAML file that names data sets and how much is taken of each.

```yaml
datasets:
  - json_path: captions.json            # JSON or JSONL; relative to this file
    sampling_strategy: first:1000       # or end:500, random:25%, random:250% (repeats), all (the default)
    media_root: /data/captions          # optional: folder that the file's relative paths start from
```
"""

import math
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from ..hub.files import require_file
from ..hub.reading import nested_too_deeply
from .packed_records import PackedRecords
from .record_files import MIXTURE_SUFFIXES, file_records
from .record_media import Record

SOURCE_KEYS = ("json_path", "sampling_strategy", "media_root")
STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class SamplingStrategy:
    """How much of a data set is taken, and from where.

    Args:
        part: "all", or from the "first" records, the "end", or at "random".
        amount: records, or percent.
        is_percent: which of the two. Percentages are rounded up to whole records; "random" may take more than 100 %: 250 % is
            every record twice and half of them a third time.

    Source: official release, the strategies of its mixture files.
    """

    part: Literal["all", "first", "end", "random"] = "all"
    amount: Fraction = Fraction(0)
    is_percent: bool = False

    @classmethod
    def parse(cls, text: str) -> "SamplingStrategy":
        """Read "all", "first:100", "end:10%" or "random:0.5%".

        Raises:
            ValueError: anything else.

        Example:
            >>> SamplingStrategy.parse("random:12.5%").count(9)
            2
        """
        if text == "all":
            return cls()
        match = STRATEGY.fullmatch(text) if isinstance(text, str) else None
        if match is None or ("." in match[2] and not match[3]):
            raise ValueError(
                f'sampling_strategy must be "all", or "first", "end" or "random" with a number of records or a percentage '
                f'("first:100", "random:25%"), got {text!r}'
            )
        if match[3] and Fraction(match[2]) > 100 and match[1] != "random":
            raise ValueError(
                f"sampling_strategy {text!r} takes more than 100 %; more than all is random:{match[2]}%, which repeats"
            )
        return cls(cast(Literal["first", "end", "random"], match[1]), Fraction(match[2]), bool(match[3]))

    def count(self, num_records: int) -> int:
        """Records taken of `num_records`.

        Raises:
            ValueError: more are asked for than there are.
        """
        if self.part == "all":
            return num_records
        count = math.ceil(self.amount * num_records / 100) if self.is_percent else int(self.amount)
        if count > num_records and not self.is_percent:
            raise ValueError(f'{self.part}:{count} asks for more than the {num_records} records there are; use "all"')
        return count

    def choose(self, num_records: int, seed: str) -> list[int]:
        """Indices taken of `num_records`, ascending; the same for the same seed.

        Differs: the release draws from an unseeded generator, so that every run trains on other records.
        """
        count = self.count(num_records)
        if self.part == "random" and num_records:
            whole, rest = divmod(count, num_records)
            drawn = random.Random(seed).sample(range(num_records), rest)
            return sorted([*range(num_records)] * whole + drawn)
        start = num_records - count if self.part == "end" else 0
        return list(range(start, start + count))


def mixture_records(
    path: str | os.PathLike, media_root: str | os.PathLike | None = None, seed: int = 0
) -> Iterator[Record]:
    """Records of all data sets of a mixture, one data set after the other.

    Args:
        path: the YAML file.
        media_root: for data sets without their own; default: the folder of each data set's file.
        seed: of "random"; every data set of the mixture draws on its own.

    Raises:
        ValueError: a wrong key, strategy or data file, with the place in the mixture.
        OSError: a file cannot be read.
    """
    path = Path(path)
    for number, source in enumerate(mixture_sources(path), start=1):
        place = f"{path}: data set {number} ({source['json_path']})"
        root = source.get("media_root")
        root = path.parent / root if root is not None else media_root
        try:
            strategy = SamplingStrategy.parse(source.get("sampling_strategy", "all"))
            records = file_records(path.parent / source["json_path"], root)
            if strategy.part == "all":
                yield from records
                continue
            entries = PackedRecords(records)
            chosen = strategy.choose(len(entries), f"{seed}:{number}")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        yield from (entries[index] for index in chosen)


def check_mixture(path: str | os.PathLike) -> None:
    """Refuse a mixture with a wrong key or strategy, or whose files are not there; no data set is opened.

    Raises:
        ValueError, FileNotFoundError: with the place in the mixture.
    """
    path = Path(path)
    for number, source in enumerate(mixture_sources(path), start=1):
        place = f"{path}: data set {number}"
        if not (path.parent / source["json_path"]).is_file():
            raise FileNotFoundError(f"{place}: json_path: {path.parent / source['json_path']} does not exist")
        if source.get("media_root") is not None and not (path.parent / source["media_root"]).is_dir():
            raise FileNotFoundError(f"{place}: media_root: {path.parent / source['media_root']} is not a folder")
        try:
            SamplingStrategy.parse(source.get("sampling_strategy", "all"))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def files_of_records(path: str | os.PathLike) -> list[Path]:
    """A file of records; of a mixture, also those that it names. Errors as of `mixture_sources`."""
    path = Path(path)
    named = mixture_sources(path) if path.suffix.lower() in MIXTURE_SUFFIXES else []
    return [path, *(path.parent / source["json_path"] for source in named)]


def mixture_sources(path: Path) -> list[dict[str, Any]]:
    """What a mixture names, before any data set is opened.

    Raises:
        ValueError: a wrong key, with the place in the mixture.
        OSError: the file cannot be read.
    """
    import yaml

    try:
        content = yaml.safe_load(require_file(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is not YAML ({error})") from error
    except RecursionError as error:
        raise nested_too_deeply(str(path)) from error
    if not isinstance(content, dict) or set(content) != {"datasets"} or not isinstance(content["datasets"], list):
        raise ValueError(f'{path}: a mixture has one key, "datasets", with a list')
    for number, source in enumerate(content["datasets"], start=1):
        if not isinstance(source, dict) or not isinstance(source.get("json_path"), str):
            raise ValueError(f'{path}: data set {number} must have the key "json_path"')
        if not isinstance(source.get("media_root"), str | None):
            raise ValueError(f"{path}: data set {number}: media_root must be a folder, got {source['media_root']!r}")
        unknown = sorted(map(str, set(source) - set(SOURCE_KEYS)))
        if unknown:
            raise ValueError(
                f"{path}: data set {number} has unknown keys {', '.join(unknown)}; the keys are {', '.join(SOURCE_KEYS)}"
            )
    return content["datasets"]
