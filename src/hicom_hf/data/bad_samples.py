"""Samples that cannot be used: the error that names them, and what stands in their place where they are skipped."""

import logging
from typing import Literal, NamedTuple, get_args

logger = logging.getLogger(__name__)

OnBadSample = Literal["raise", "skip"]
# Kinds of faulty samples. The first four are found in the record, the others when its media are read.
BAD_RECORD = "bad record"
ODD_TURNS = "odd turns"
EMPTY_ANSWER = "empty answer"
PLACEHOLDER_MISMATCH = "placeholder mismatch"
MISSING_MEDIA = "missing media"
UNREADABLE_MEDIA = "unreadable media"
TOO_LONG = "too long"
PROBLEM_KINDS = (
    BAD_RECORD,
    ODD_TURNS,
    EMPTY_ANSWER,
    PLACEHOLDER_MISMATCH,
    MISSING_MEDIA,
    UNREADABLE_MEDIA,
    TOO_LONG,
)


class SampleError(ValueError):
    """A sample that cannot be used.

    Args:
        source: file and record, or path of a video, that the sample comes from. Without a kind: the traceback of such an
            error, from which `torch.utils.data` makes an error of a loader process anew.
        kind: one of `PROBLEM_KINDS`.
        reason: what is wrong.
    """

    def __init__(self, source: str, kind: str | None = None, reason: str = ""):
        if kind is None:
            source, kind, reason = _from_traceback(source)
        super().__init__(f"{source}: {kind}: {reason}")
        self.source, self.kind, self.reason = source, kind, reason

    def __reduce__(self):
        return type(self), (self.source, self.kind, self.reason)


def _from_traceback(text: str) -> tuple[str, str, str]:
    """Source, kind and reason of the `SampleError` in which a traceback ends."""
    said = text.rpartition("SampleError: ")[2].strip()
    for kind in PROBLEM_KINDS:
        source, found, reason = said.partition(f": {kind}: ")
        if found:
            return source, kind, reason
    return "a loader process", BAD_RECORD, said


def check_on_bad_sample(value: str) -> None:
    """Refuse what is no `OnBadSample`; raises ValueError."""
    if value not in get_args(OnBadSample):
        raise ValueError(f'on_bad_sample must be "raise" or "skip", got {value!r}')


class SkippedSample(NamedTuple):
    """What a data set gives in place of a sample that it was asked to skip; the collator counts it."""

    source: str
    reason: str


def raise_or_skip(error: SampleError, on_bad_sample: str) -> SkippedSample:
    """Logs a bad sample that is to be skipped, and gives what takes its place; otherwise raises the error."""
    if on_bad_sample == "raise":
        raise error
    logger.warning("skipped: %s", error)
    return SkippedSample(error.source, f"{error.kind}: {error.reason}")
