"""Subtitles: reading SubRip files, and the lines that are spoken at given moments of a video."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

TIMES = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})\s*-->\s*(\d+):(\d\d):(\d\d)[,.](\d{1,3})")
TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


class Line(NamedTuple):
    """A subtitle: seconds from and to which it is shown, and its text in one line."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class SubtitleRule:
    """Which subtitles precede a prompt, and in which format.

    Attributes:
        path: SubRip file, which need not be there.
        before, after: what stands in front of the lines and behind them.
        moments: "sampled" for the frames that the model sees, or a number of frames spread evenly over the video.
        repeats: a line that is spoken at several frames stands there several times, as in the release.
        without: what stands there where nothing is spoken.
        missing: what stands there where the video has no file.
    """

    path: str
    before: str
    after: str = "\n"
    moments: Literal["sampled"] | int = "sampled"
    repeats: bool = False
    without: str = ""
    missing: str = ""

    def heading(self, times: Sequence[float], duration: float | None) -> str:
        """The text in front of the prompt.

        Raises:
            ValueError: the file cannot be read as text.
        """
        if not Path(self.path).is_file():
            return self.missing
        if self.moments != "sampled" and duration is not None:
            times = [duration * number / max(self.moments - 1, 1) for number in range(self.moments)]
        spoken = lines_at(read_subtitles(self.path), times)
        texts = spoken if self.repeats else list(dict.fromkeys(spoken))
        return f"{self.before}{chr(10).join(texts)}{self.after}" if texts else self.without


def read_subtitles(path: str | Path) -> list[Line]:
    """Lines of a SubRip file in the order of their times, without marks of fonts.

    Raises:
        ValueError: the file is no text in UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the subtitles are not text in UTF-8 ({error.reason}); convert the file") from error
    found = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        match = TIMES.search(block)
        if match is None:
            continue
        words = " ".join(TAG.sub("", block[match.end() :]).split())
        if words:
            numbers = [int(part) for part in match.groups()[:3]], [int(part) for part in match.groups()[4:7]]
            fractions = [int(match[group].ljust(3, "0")) / 1000 for group in (4, 8)]
            start, end = (3600 * h + 60 * m + s + part for (h, m, s), part in zip(numbers, fractions, strict=True))
            found.append(Line(start, end, words))
    return sorted(found)


def lines_at(lines: Sequence[Line], times: Iterable[float]) -> list[str]:
    """The text that is spoken at each moment, in the order of the moments; moments of silence give none."""
    starts = [line.start for line in lines]
    spoken = []
    for time in times:
        place = bisect_right(starts, time) - 1
        if place >= 0 and time <= lines[place].end:
            spoken.append(lines[place].text)
    return spoken
