"""What is known of every sample before anything is decoded: where it lies, how long it is, what it shows.

Letters: M samples.
"""

import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from .bad_samples import OnBadSample, SampleError, SkippedSample, raise_or_skip
from .conversations import TrainingItem, training_items
from .encoding import ItemEncoder
from .formats import record_format
from .record_keys import UNREAD, describe_unread, unread_keys
from .record_media import Medium, Record, same_medium

logger = logging.getLogger(__name__)

MODALITIES = ("text", "image", "video")


class NoSampleError(ValueError):
    """Records of which no sample is left."""


@dataclass
class SampleTable:
    """One row per sample.

    Attributes:
        places: (M, 2) int64, number of the record and of the answer in it.
        characters: (M,) int64, of all messages.
        visual_tokens: (M,) int64, tokens of the sample's videos and images, estimated.
        modalities: (M,) int8, index into `MODALITIES`.
        media: (M,) int64, equal for samples that read the same of the same videos and images; without any, of no other sample.
        skipped: records that were left out.
        formats: records of other formats than ours, by name.
        num_choosing: samples whose question chooses the frames of a video.
        num_tiled: samples that see a video or image as tiles.
    """

    places: np.ndarray
    characters: np.ndarray
    visual_tokens: np.ndarray
    modalities: np.ndarray
    media: np.ndarray
    skipped: list[SkippedSample] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    num_choosing: int = 0
    num_tiled: int = 0


def describe_samples(
    records: Iterable[Record], encoder: ItemEncoder, per_turn: bool, on_bad_sample: OnBadSample
) -> SampleTable:
    """Check every record, and note which samples it gives and how long they are.

    Args:
        records: in their order.
        encoder: says how many frames and tokens a video makes.
        per_turn, on_bad_sample: as of `HiComDataset`.

    Raises:
        SampleError: a record cannot be used (with "raise").
        NoSampleError: no sample is left.
    """
    # Numbers of millions of samples, in a quarter of the memory of lists.
    places, characters, visual_tokens = array("q"), array("q"), array("q")
    modalities, media = array("b"), array("q")
    skipped: list[SkippedSample] = []
    formats: Counter[str] = Counter()
    num_tokens = cache(encoder.processor.num_visual_tokens)  # few numbers of frames, many records
    counts: dict[tuple, int] = {}  # frames by what a record says of them: few kinds
    unread: Counter[str] = Counter()
    number, num_choosing, num_tiled = -1, 0, 0
    for number, record in enumerate(records):
        try:
            items = training_items(record, per_turn)
        except SampleError as error:
            skipped.append(raise_or_skip(error, on_bad_sample))
            continue
        known = record_format(record.data)
        if known is not None:
            formats[known.name] += 1
        unread.update(unread_keys(record.data))
        for place, item in enumerate(items):
            kinds = {medium.kind for medium in item.media}
            places.extend((number, place))
            characters.append(sum(map(_num_characters, item.messages)))
            visual_tokens.append(sum(num_tokens(_usual_num_frames(encoder, medium, counts)) for medium in item.media))
            modalities.append(2 if "video" in kinds else 1 if kinds else 0)
            chooses = any(encoder.reader.selection_of(medium) is not None for medium in item.media)
            num_choosing += chooses
            num_tiled += any(encoder.reader.tiles_of(medium) is not None for medium in item.media)
            media.append(_number_of_media(item, chooses) if item.media else -len(media) - 1)
    if unread:
        logger.warning("%s: %s", UNREAD, describe_unread(unread))
    if not places:
        raise NoSampleError(f"no sample is left of {number + 1} records ({len(skipped)} skipped)")
    return SampleTable(
        places=np.array(places, dtype=np.int64).reshape(-1, 2),
        characters=np.array(characters, dtype=np.int64),
        visual_tokens=np.array(visual_tokens, dtype=np.int64),
        modalities=np.array(modalities, dtype=np.int8),
        media=np.array(media, dtype=np.int64),
        skipped=skipped,
        formats=formats,
        num_choosing=num_choosing,
        num_tiled=num_tiled,
    )


def _number_of_media(item: TrainingItem, chooses: bool) -> int:
    """62 bits of a digest of what an item's videos and images are, and of what chooses their frames; never below 0."""
    read = [*map(same_medium, item.media), *([item.question] if chooses else [])]
    content = repr(read).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 2


def _usual_num_frames(encoder: ItemEncoder, medium: Medium, known: dict[tuple, int]) -> int:
    """Frames of a medium, for estimates: as many as it gives at most, or the processor's number if it has no bound."""
    kind = (medium.kind, medium.num_frames, medium.fps, medium.max_frames, medium.selection)
    if kind not in known:
        reader = encoder.reader
        without_range = medium._replace(start=None, end=None)
        known[kind] = reader.most_frames(without_range) or reader.video_processor.num_frames
    return known[kind]


def _num_characters(message: dict[str, Any]) -> int:
    content = message["content"]
    if isinstance(content, str):
        return len(content)
    return sum(len(part.get("text", "")) for part in content)
