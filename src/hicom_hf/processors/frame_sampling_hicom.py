"""Which frames of a video are used: a request (`FrameSampling`) and presentation times in, frame indices out.

Letters: T frames of the video, n frames wanted. Times are seconds, ascending, relative to the first frame.
"""

import math
import numbers
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

DEFAULT_NUM_FRAMES = 32  # paper, section 4.1
# Seconds. Containers round times (Matroska to 1 ms), so two times closer than this count as the same moment.
TIME_TOLERANCE = 1e-3
# Of one request by `fps`: eleven days at 1 per second. More comes from a damaged file with senseless times.
MAX_INTERVALS = 1_000_000


@dataclass(frozen=True)
class FrameSampling:
    """A request for frames, checked at construction.

    Exactly one of four ways to choose holds: `num_frames` frames spread evenly (the default, 32), one frame per
    1/`fps` seconds, every frame (`num_frames="all"`), or the frames of certain numbers (`indices`).

    Args:
        num_frames: number of frames, at least 1, or "all". None means 32, or "decided by `fps`" when that is given.
        fps: frames per second of video time, above 0. Not together with `num_frames`. `min_frames` and `max_frames`
            bound the number of frames.
        start: first second that is used, at least 0. None is the beginning.
        end: second before which frames are used, after `start`. None is the end of the video.
        max_frames: upper bound on the number of frames, at least 1 (from a token budget, for example). The frames
            that remain are spread evenly.
        short_video: frames of a video that has fewer than wanted: "once" takes each frame once; "repeat" repeats frames
            until the wanted number is reached, as in the official release.
        indices: numbers of the frames in order of presentation, from 0, ascending, as in `indices` of `SamplingRecord`; together
            with nothing else.
        min_frames: lower bound on the number of frames that `fps` gives, at least 1: where these are fewer, as many are spread
            evenly, as far as the video has them; with "repeat" they are repeated. `max_frames` binds it, too.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of its range, or two values contradict each other.

    Example:
        >>> FrameSampling(num_frames=8, start=2.5, end=10.0).num_frames
        8
        >>> FrameSampling().num_frames
        32
    """

    num_frames: int | Literal["all"] | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_frames: int | None = None
    short_video: Literal["once", "repeat"] = "once"
    indices: tuple[int, ...] | None = None
    min_frames: int | None = None

    def __post_init__(self) -> None:
        if self.indices is not None:
            self._check_indices()
            return
        if self.num_frames is not None and self.fps is not None:
            raise ValueError(
                f"num_frames={self.num_frames!r} and fps={self.fps!r} both say how many frames to take; "
                "give one of them (max_frames bounds the number of frames that fps gives)"
            )
        if self.num_frames is None and self.fps is None:
            object.__setattr__(self, "num_frames", DEFAULT_NUM_FRAMES)
        if self.num_frames != "all":
            check_count("num_frames", self.num_frames)
        check_count("max_frames", self.max_frames)
        check_count("min_frames", self.min_frames)
        if self.min_frames is not None and self.fps is None:
            raise ValueError(f"min_frames={self.min_frames!r} is for fps; num_frames is a fixed number")
        for name in ("fps", "start", "end"):
            _check_number(name, getattr(self, name))
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be above 0 frames per second, got {self.fps!r}")
        for name in ("start", "end"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 seconds, got {getattr(self, name)!r}")
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(
                f"zero-length range: end={self.end!r} must be after start={self.start or 0!r} (both in seconds)"
            )
        if self.short_video not in ("once", "repeat"):
            raise ValueError(f'short_video must be "once" or "repeat", got {self.short_video!r}')

    def _check_indices(self) -> None:
        indices = tuple(self.indices or ())
        if not indices:
            raise ValueError("indices must hold the number of at least one frame")
        for index in indices:
            if isinstance(index, bool) or not isinstance(index, numbers.Integral):
                raise TypeError(f"indices must be whole numbers, got {index!r}")
        if indices[0] < 0 or any(one >= other for one, other in pairwise(indices)):
            raise ValueError(f"indices must be at least 0 and ascend, each once, got {indices!r}")
        object.__setattr__(self, "indices", tuple(map(int, indices)))
        beside = [
            name
            for name in ("num_frames", "fps", "start", "end", "max_frames", "min_frames")
            if getattr(self, name) is not None
        ]
        beside += ["short_video"] if self.short_video != "once" else []
        if beside:
            raise ValueError(f"indices and {', '.join(beside)} both say which frames are taken; give one of them")

    def as_keywords(self) -> dict[str, Any]:
        """The request as keywords; values that are None are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def needs_clock(self) -> bool:
        """Whether the request contains seconds, so that frames without times cannot fulfil it."""
        return self.fps is not None or self.start is not None or self.end is not None


def with_request(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call in which `sampling`, a `FrameSampling`, is replaced by the keywords that say the same.

    Raises:
        TypeError: `sampling` is no `FrameSampling`.
        ValueError: there is a keyword beside it that says something about the frames as well.
    """
    arguments = dict(arguments)
    request = arguments.pop("sampling", None)
    if request is None:
        return arguments
    if type(request).__name__ != FrameSampling.__name__:  # remote code has a class of its own
        raise TypeError(f"sampling must be a FrameSampling, got {type(request).__name__}")
    names = (*(field.name for field in fields(FrameSampling)), "do_sample_frames", "max_video_tokens")
    beside = [name for name in names if arguments.get(name) is not None]
    if beside:
        raise ValueError(f"sampling and {', '.join(beside)} both say which frames are taken; give one of them")
    return {**arguments, **request.as_keywords()}


def uniform_indices(num_source_frames: int, num_frames: int) -> list[int]:
    """Spreads `num_frames` indices evenly over a video; indices repeat where the video is shorter.

    Index i is floor((2i+1)(T-1)/(2n) + 1/2), in whole numbers.

    Args:
        num_source_frames: T, at least 1.
        num_frames: n, at least 1.

    Returns:
        n indices from 0 to T-1, ascending.

    Raises:
        ValueError: one of the two is below 1.

    Source: official release, frame sampling.

    Example:
        >>> uniform_indices(100, 4)
        [12, 37, 62, 87]
    """
    check_count("num_source_frames", num_source_frames)
    check_count("num_frames", num_frames)
    span = num_source_frames - 1
    return [((2 * i + 1) * span + num_frames) // (2 * num_frames) for i in range(num_frames)]


def select_frames(times: Sequence[float], sampling: FrameSampling) -> list[int]:
    """Chooses the frames that a request asks for.

    A range takes the frames that begin in it; if none does, the one that is on screen at `start`. `fps` takes the
    frame on screen in the middle of each interval of 1/`fps` seconds, by the real times.

    Differs: the release numbers frames by the average rate, off by one at both ends of a range, and its `fps` steps
    over frame numbers; both are wrong for a variable frame rate.

    Args:
        times: presentation time of each of the T frames, seconds, ascending, T at least 1.
        sampling: the request.

    Returns:
        Indices into `times`, ascending; with "once" each at most once.

    Raises:
        ValueError: there are no frames, `start` lies after the end of the video, `fps` asks for a million frames, or the video
            is too short for `indices`.

    Example:
        >>> select_frames([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], FrameSampling(fps=5))
        [1, 3, 5]
    """
    if sampling.indices is not None:
        if sampling.indices[-1] >= len(times):
            raise ValueError(
                f"indices ask for frame {sampling.indices[-1]}, but the video has {len(times)} frames, numbered from 0"
            )
        return list(sampling.indices)
    first, last = _frames_in_range(times, sampling)
    if sampling.fps is not None:
        indices = _one_per_interval(times, sampling, sampling.fps, first, last)
        least = min(sampling.min_frames or 1, sampling.max_frames or math.inf)
        if len(indices if sampling.short_video == "repeat" else set(indices)) < least:
            indices = _spread(first, last, replace(sampling, fps=None, min_frames=None, num_frames=least))
    elif sampling.num_frames == "all":
        indices = list(range(first, last + 1))
    else:
        indices = _spread(first, last, sampling)
    if sampling.short_video == "once":
        indices = list(dict.fromkeys(indices))
    if sampling.max_frames is not None and len(indices) > sampling.max_frames:
        indices = [indices[i] for i in uniform_indices(len(indices), sampling.max_frames)]
    return indices


def num_requested(times: Sequence[float], sampling: FrameSampling) -> int | None:
    """How many frames a request asks for, whether or not the video has them; None for "every frame"."""
    if sampling.indices is not None:
        return len(sampling.indices)
    if sampling.num_frames == "all":
        return None
    if sampling.fps is None:
        return _num_spread(sampling)
    by_rate = select_frames(times, replace(sampling, short_video="repeat", min_frames=None))
    return max(len(by_rate), len(select_frames(times, sampling)))  # a lower bound asks for no more than there are


def video_end(times: Sequence[float]) -> float:
    """Second at which the last frame leaves the screen, if it stays as long as the average one."""
    if len(times) < 2:
        return times[-1]
    return times[-1] + (times[-1] - times[0]) / (len(times) - 1)


def _num_spread(sampling: FrameSampling) -> int:
    """`num_frames`, at most `max_frames`, of a request that gives it as a number."""
    assert sampling.num_frames is not None and sampling.num_frames != "all"
    return min(sampling.num_frames, sampling.max_frames or sampling.num_frames)


def _spread(first: int, last: int, sampling: FrameSampling) -> list[int]:
    num_available = last - first + 1
    num_frames = _num_spread(sampling)
    if sampling.short_video == "once" and num_available <= num_frames:
        return list(range(first, last + 1))
    return [first + index for index in uniform_indices(num_available, num_frames)]


def _frames_in_range(times: Sequence[float], sampling: FrameSampling) -> tuple[int, int]:
    """First and last index of the range, both included."""
    if len(times) == 0:
        raise ValueError("there are no frames to choose from")
    start, end = sampling.start or 0.0, sampling.end
    if start > times[-1] + TIME_TOLERANCE and start >= video_end(times):
        raise ValueError(f"start={start:g} s lies after the end of the video, which lasts {video_end(times):.3f} s")
    first = bisect_left(times, start - TIME_TOLERANCE)
    last = len(times) - 1 if end is None else bisect_left(times, end - TIME_TOLERANCE) - 1
    if last < first:  # no frame begins in the range: the one on screen at its start
        first = last = max(first - 1, 0)
    return first, last


def _one_per_interval(times: Sequence[float], sampling: FrameSampling, fps: float, first: int, last: int) -> list[int]:
    start = sampling.start or 0.0
    end = video_end(times) if sampling.end is None else min(sampling.end, video_end(times))
    exact = (end - start) * fps - 0.5 - TIME_TOLERANCE
    if exact > MAX_INTERVALS:
        raise ValueError(
            f"fps={fps:g} over {end - start:.0f} s asks for more than {MAX_INTERVALS} frames; "
            "give a lower fps, or start and end"
        )
    num_intervals = math.ceil(exact)  # those whose middle is inside
    if num_intervals < 1:
        return [(first + last) // 2]
    middles = (start + (i + 0.5) / fps for i in range(num_intervals))
    shown = (bisect_right(times, middle + TIME_TOLERANCE) - 1 for middle in middles)
    return [min(max(index, first), last) for index in shown]


def check_count(name: str, value: object) -> None:
    """
    Raises:
        TypeError: it is no whole number; None is none.
        ValueError: it is below 1.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")


def from_fields(kind: type, values: Mapping[str, Any]) -> Any:
    """A request of a dataclass, from a dictionary of its fields.

    Raises:
        TypeError: there is no such field; names those that there are.
    """
    names = [field.name for field in fields(kind)]
    for key in values:
        if key not in names:
            raise TypeError(f"{kind.__name__} has no field {key!r}; its fields are {', '.join(names)}")
    return kind(**values)


def check_is_number(name: str, value: object) -> None:
    """
    Raises:
        TypeError: it is none; also for None.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")


def _check_number(name: str, value: Any) -> None:
    if value is None:
        return
    check_is_number(name, value)
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        is_finite = False
    if not is_finite:
        raise ValueError(f"{name} must be a finite number, got {value!r}")
