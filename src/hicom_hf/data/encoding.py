"""From a training item to tensors: its videos and images read, its chat tokenised, its answers marked.

Letters: L tokens of the sample, V videos of it, T frames of one, S image side in pixels.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch

from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.media_access_hicom import OPEN_ACCESS, MediaAccess
from ..processors.processing_hicom import HiComProcessor
from ..processors.square_frames_hicom import concatenated_features, joined
from ..processors.tiled_video_hicom import TiledVideo
from ..processors.video_reading_hicom import OnDecodeError
from .bad_samples import BAD_RECORD, PLACEHOLDER_MISMATCH, TOO_LONG, SampleError
from .batch_tiles import is_tiled
from .conversations import TrainingItem
from .feature_cache import FeatureCache
from .media_reader import MediaReader
from .record_media import Medium, same_medium
from .selected_frames import SelectedFrames

IGNORED = -100  # label of a token that is not learnt; what PyTorch's cross entropy ignores


class ItemEncoder:
    """Turns training items into the tensors of `HiComForConditionalGeneration.forward`.

    Args:
        processor: a `HiComProcessor`; its chat template gives the layout and its video processor the frames.
        sampling, on_decode_error, media_access, selection, tiles: which frames of what, see `MediaReader`.
        max_length: most tokens of a sample, visual tokens included; None for no limit.
        raw_pixels: leave pixels as uint8, a quarter of the memory between loader processes; the consumer of the batch normalises
            them (`HiComTrainer` does, on its device).
        feature_cache: a `FeatureCache` that stands in for pixels.

    Attributes:
        selected_frames: the `SelectedFrames` of videos whose frames a question chooses; None where nothing was chosen.

    Raises:
        ValueError: `max_length` is below 1, the cache was made for other frames, or `tiles` do not go with the processor.

    Example:
        >>> encoder = ItemEncoder(processor, FrameSampling(num_frames=32), max_length=4096)  # doctest: +SKIP
        >>> dataset = HiComDataset("train.json", encoder)  # doctest: +SKIP
    """

    def __init__(
        self,
        processor: HiComProcessor,
        sampling: FrameSampling | None = None,
        *,
        on_decode_error: OnDecodeError | None = None,
        media_access: MediaAccess = OPEN_ACCESS,
        max_length: int | None = None,
        raw_pixels: bool = False,
        feature_cache: FeatureCache | None = None,
        selection: FrameSelection | None = None,
        tiles: FrameTiles | None = None,
    ):
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, got {max_length}")
        self.processor = processor
        self.reader = MediaReader(processor.video_processor, sampling, on_decode_error, media_access, selection, tiles)
        if feature_cache is not None and feature_cache.reader.settings != self.reader.settings:
            raise ValueError(
                f"the feature cache samples frames by {feature_cache.reader.settings}, the data set by "
                f"{self.reader.settings}; they must agree"
            )
        self.max_length = max_length
        self.raw_pixels = raw_pixels
        self.feature_cache = feature_cache
        self.selected_frames: SelectedFrames | None = None

    def __call__(self, item: TrainingItem, known: dict | None = None) -> dict[str, Any]:
        """Encode one item.

        Args:
            item: the item.
            known: what was read for items of the same record before; what is read now is added.

        Returns:
            `input_ids` (L,); `labels` (L,), -100 off the supervised answers; with videos `video_num_frames` (V,),
            `video_instruction_ids` (V, 64) and `pixel_values_videos` (sum T, 3, S, S) or, from a cache,
            `video_features`; with images `image_instruction_ids` and `pixel_values` or `image_features`; `video_tiles` and
            `image_tiles`, see `batch_tiles`, where frames are seen as tiles; and `decode_seconds`, the time that reading took.
            Pixels are float32, or uint8 with `raw_pixels`.

        Raises:
            SampleError: a video or image cannot be read, or no supervised token is left within `max_length`.
        """
        begin = time.perf_counter()
        known = {} if known is None else known
        media = self.media(item)
        keys = [same_medium(medium) for medium in media]
        for key, medium in zip(keys, media, strict=True):
            if key not in known:
                known[key] = self.read(medium)
        visuals = [known[key] for key in keys]
        decode_seconds = time.perf_counter() - begin
        counts = [self.processor.num_visual_tokens(frames) for frames, _ in visuals]
        input_ids, labels = self.tokenize(item, counts)
        sample: dict[str, Any] = {"input_ids": torch.tensor(input_ids), "labels": torch.tensor(labels)}
        for kind in ("video", "image"):
            of_kind = [visual for medium, visual in zip(item.media, visuals, strict=True) if medium.kind == kind]
            if of_kind:
                sample |= self._inputs(kind, of_kind)
                sample[f"{kind}_instruction_ids"] = self.instruction_ids(item, len(of_kind))
        sample["decode_seconds"] = decode_seconds
        return sample

    def _inputs(self, kind: str, visuals: list[tuple[int, Any]]) -> dict[str, Any]:
        """What a sample holds of its videos or images, each as of `read`."""
        inputs: dict[str, Any] = {}
        padded = [(frames, content) for frames, content in visuals if not is_tiled(content)]
        if len(padded) < len(visuals):
            inputs[f"{kind}_tiles"] = [content if is_tiled(content) else None for _, content in visuals]
        contents = [content for _, content in padded]
        if padded and self.feature_cache is not None:
            inputs[f"{kind}_features"] = concatenated_features(contents)
        elif padded:
            inputs["pixel_values" if kind == "image" else "pixel_values_videos"] = joined(contents)
            if kind == "video":
                inputs["video_num_frames"] = torch.tensor([frames for frames, _ in padded])
        return inputs

    def media(self, item: TrainingItem) -> tuple[Medium, ...]:
        """The videos and images of an item, with the frames that its question has chosen.

        Raises:
            SampleError: a question is to choose, and nothing was chosen for it.
        """
        return tuple(
            medium if self.reader.selection_of(medium) is None else self._chosen(medium, item) for medium in item.media
        )

    def _chosen(self, medium: Medium, item: TrainingItem) -> Medium:
        if self.selected_frames is None:
            raise SampleError(
                item.source,
                BAD_RECORD,
                "its question is to choose the frames of its video, which a model does before training: `hicom train` does so "
                "for records in files; elsewhere set `selected_frames` of the encoder, or leave out the selection",
            )
        return self.selected_frames.chosen(medium, item.question)

    def instruction_ids(self, item: TrainingItem, count: int = 1) -> torch.Tensor:
        """The instruction of an item's question, (count, 64): the same row for each of its videos or images."""
        instruction = self.processor.extract_instruction(item.question, report=False)
        return self.processor.encode_instructions([instruction] * count, report=False)

    def read(self, medium: Medium) -> tuple[int, Any]:
        """Frames of a video (1 for an image), and its pixels (T, 3, S, S) or cached features; or its squares or their features.

        Raises:
            SampleError: it is not there or cannot be read.
        """
        if self.feature_cache is not None:
            features = self.feature_cache.get(medium)
            if isinstance(features, TiledVideo):
                return features.num_frames, features
            return int(features["num_frames"].sum()), features
        if self.reader.tiles_of(medium) is not None:
            squares = self.reader.squares(medium)
            return len(squares.pictures), squares
        pixels = self.reader.frames(medium) if self.raw_pixels else self.reader.pixels(medium)
        return len(pixels), pixels

    def tokenize(self, item: TrainingItem, counts: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and labels of an item whose media make `counts` visual tokens, in their order.

        Raises:
            SampleError: too long, or a text that holds the placeholder token itself.
        """
        input_ids, labels = [], []
        placeholders = {self.processor.video_token_id, self.processor.image_token_id}
        remaining = list(reversed(counts))
        for ids, supervised in tokenized_segments(self.processor, item):
            for token in ids:
                repeats = 1
                if token in placeholders:
                    if supervised or not remaining:
                        raise SampleError(
                            item.source, PLACEHOLDER_MISMATCH, "a text holds a placeholder token of the processor"
                        )
                    repeats = remaining.pop()
                input_ids.extend([token] * repeats)
                labels.extend([token if supervised else IGNORED] * repeats)
        if remaining:
            raise SampleError(item.source, PLACEHOLDER_MISMATCH, "the chat template leaves out a video or image")
        if self.max_length is None or len(input_ids) <= self.max_length:
            return input_ids, labels
        return self._truncated(input_ids, labels, placeholders, item)

    def _truncated(self, input_ids: list[int], labels: list[int], placeholders: set[int], item: TrainingItem):
        """Cut the end off, unless that takes every supervised token or a part of a video."""
        kept, cut = labels[: self.max_length], input_ids[self.max_length :]
        if all(label == IGNORED for label in kept) or not placeholders.isdisjoint(cut):
            visual = sum(token in placeholders for token in input_ids)
            raise SampleError(
                item.source,
                TOO_LONG,
                f"{len(input_ids)} tokens ({visual} of them visual) leave nothing of the answer within "
                f"max_length={self.max_length}",
            )
        return input_ids[: self.max_length], kept


def tokenized_segments(processor, item: TrainingItem) -> Iterator[tuple[list[int], bool]]:
    """Token ids of a chat, cut where supervision begins and ends; each video or image is one placeholder.

    A supervised segment is what the chat template adds to the prompt for an answer: its text, and the tokens that end the
    turn. The ids before it are those of the prompt at inference: special tokens that a text holds are plain text.

    Raises:
        SampleError: the template writes earlier turns differently once later ones follow.
    """
    texts = [(processor.as_written(text), supervised) for text, supervised in _segments(processor, item)]
    tokenizer = processor.tokenizer
    whole = "".join(text for text, _ in texts)
    begins, position = [], 0
    for text, _ in texts:
        begins.append(position)
        position += len(text)
    marked = any(processor.is_marked(text) for text, _ in texts)
    if tokenizer.is_fast and not marked:
        encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        starts = {start: number for number, (start, _) in reversed(list(enumerate(encoded["offset_mapping"])))}
        if all(begin in starts for begin in begins):
            cuts = [starts[begin] for begin in begins] + [len(encoded["input_ids"])]
            for number, (_, supervised) in enumerate(texts):
                yield encoded["input_ids"][cuts[number] : cuts[number + 1]], supervised
            return
    # A token spans the border (an answer that begins with a line break): the model sees them apart at inference, too.
    for text, supervised in texts:
        arguments = {"sanitize_control_tokens": True} if processor.is_marked(text) else {}
        yield tokenizer(text, add_special_tokens=False, **arguments)["input_ids"], supervised


def _segments(processor, item: TrainingItem) -> list[tuple[str, bool]]:
    """The rendered chat in pieces, each with whether it is supervised."""
    for token in processor.placeholders:
        if any(token in text for message in item.messages for text in _texts(message)):
            raise SampleError(
                item.source, PLACEHOLDER_MISMATCH, f"a text holds {token}, a placeholder token of the processor"
            )
    segments, done, messages = [], "", processor.marked(item.messages)
    for index in item.supervised:
        prompt = _render(processor, messages[:index], add_generation_prompt=True)
        answered = _render(processor, messages[: index + 1])
        if not (prompt.startswith(done) and answered.startswith(prompt)):
            raise SampleError(
                item.source,
                BAD_RECORD,
                f"the chat template writes the turns before message {index + 1} differently once it follows, so the answers "
                "cannot be distinguished; train on one answer per item (per_turn=True)",
            )
        segments += [(prompt[len(done) :], False), (answered[len(prompt) :], True)]
        done = answered
    return segments


def _texts(message: dict) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _render(processor, messages: list[dict], add_generation_prompt: bool = False) -> str:
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
