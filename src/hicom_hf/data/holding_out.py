"""A share of the data held out for evaluation, by video: no video is both trained on and evaluated on."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from .bad_samples import SampleError
from .conversations import training_items
from .record_media import Medium, Record

logger = logging.getLogger(__name__)

Side = Literal["training", "held out"]


def records_of_side(records: Iterable[Record], share: float, seed: int, side: Side) -> Iterator[Record]:
    """The records of one side, in their order.

    A video or image is held out by a digest of its path below `media_root`, so all clips of one file are on one side, adding
    records moves none to the other, and neither does moving the data. A record with media of both sides belongs to neither and
    is counted in the log. Records without media are trained on.

    Args:
        records: of all data.
        share: of the videos and images that are held out, above 0 and below 1.
        seed: another seed holds out others.
        side: which records are wanted.
    """
    num_between = 0
    for record in records:
        sides = _sides(record, share, seed)
        if len(sides) > 1:
            num_between += 1
        elif side == (sides.pop() if sides else "training"):
            yield record
    if num_between and side == "training":
        logger.warning("%d records are left out: they hold videos of both sides of eval.share.", num_between)


def _sides(record: Record, share: float, seed: int) -> set[Side]:
    try:
        media = training_items(record, per_turn=False)[0].media
    except SampleError:  # the data set reports it
        return set()
    return {"held out" if _position(medium, record.media_root, seed) < share else "training" for medium in media}


def _position(medium: Medium, root: str | None, seed: int) -> float:
    """A number in [0, 1) that depends on the file's name below its root alone: parts of one video share scenes, so they stay
    together, and a data set that was moved has the same sides."""
    source = medium.source
    if root is not None and isinstance(source, (str, os.PathLike)) and Path(source).is_relative_to(root):
        source = Path(source).relative_to(root).as_posix()
    content = source if isinstance(source, bytes) else repr(source).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(f"{seed}:".encode() + content).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
