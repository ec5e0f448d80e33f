"""Visual tokens: made of videos of any lengths, and put in the place of their placeholders.

Letters: B batch rows, V videos of the whole batch, T frames of one, H/W patch rows and columns, D vision width, C LLM width,
L = 64 instruction tokens, N visual tokens of one video.
"""

from collections.abc import Callable, Sequence

import torch
from transformers.utils import logging

from .compressor_hicom import HiComCompressor, HiComCompressorAttentions, HiComVideoParts
from .outputs_hicom import HiComVideoFeatures, HiComVisualOutput

logger = logging.get_logger(__name__)

Instruction = tuple[torch.Tensor, torch.Tensor]


def note_text_only() -> None:
    """Warn once that a training batch has neither videos nor images: a trainer may have dropped them silently."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        logger.warning_once(
            "A batch without videos and images is trained on. If the data have some, the trainer leaves them out: most do so "
            "with columns that they do not know, TRL's own collators with `videos`. HiComRowCollator reads them "
            "(docs/training.md)."
        )


def whole_numbers(counts: torch.Tensor | list[int], total: int | None = None) -> list[int]:
    """Frame counts on the host.

    Args:
        counts: (V,).
        total: their sum, if the shapes of the frames tell it. A single count is then not read from a device, which would make
            the host wait, nor in a graph, which would end there.
    """
    if not isinstance(counts, torch.Tensor):
        return list(counts)
    if total is not None and len(counts) == 1 and (torch.compiler.is_compiling() or counts.device.type != "cpu"):
        return [total]
    return counts.tolist()


class HostNumbers:
    """Whole numbers of a device on their way to the host, which queues more work and does not wait for that.

    Args:
        numbers: of whole numbers, of any shape.
    """

    def __init__(self, numbers: torch.Tensor):
        self._numbers, self._event = numbers, None
        if numbers.is_cuda:  # elsewhere copies to the host wait anyway
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list:
        """The numbers, as `Tensor.tolist` gives them; waits for what was queued before this object was made."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()


def compress_one_video(
    compressor: HiComCompressor,
    features: torch.Tensor,
    aligned_features: torch.Tensor | None,
    instruction: Instruction | None,
    num_rows: int,
    output_attentions: bool,
    parts: HiComVideoParts | None = None,
) -> HiComVisualOutput:
    """One video for one or more instructions; its features are not copied.

    Args:
        features, aligned_features: (T, H, W, D).
        instruction: pooled (rows, D) and tokens (rows, L, D), or None.
        num_rows: how many instructions there are; all rows are equal where none is injected.
        parts: of the video, if they are kept.
    """
    tokens, attentions = compressor(
        features[None],
        None if aligned_features is None else aligned_features[None],
        instruction,
        output_attentions=output_attentions,
        parts=parts,
    )
    return HiComVisualOutput(
        pooler_output=list(tokens.expand(num_rows, -1, -1)),
        compressor_attentions=tuple(_row(attentions, row) for row in range(num_rows)) if output_attentions else None,
    )


def compress_packed_videos(
    compressor: HiComCompressor,
    features: torch.Tensor,
    aligned_features: torch.Tensor | None,
    instruction: Instruction | None,
    lengths: list[int],
    output_attentions: bool,
) -> HiComVisualOutput:
    """Several videos, one instruction each; those of one length are compressed together.

    Args:
        features, aligned_features: (sum T, H, W, D).
        instruction: pooled (V, D) and tokens (V, L, D), or None.
        lengths: frames of each video.
    """
    tokens: dict[int, torch.Tensor] = {}  # by video
    attentions: dict[int, HiComCompressorAttentions] = {}
    for length in sorted(set(lengths)):
        videos = [video for video, frame_count in enumerate(lengths) if frame_count == length]
        batch_tokens, batch_attentions = compressor(
            _equally_long(features, lengths, length),
            None if aligned_features is None else _equally_long(aligned_features, lengths, length),
            None if instruction is None else tuple(_rows(part, videos) for part in instruction),
            output_attentions=output_attentions,
        )
        for row, video in enumerate(videos):
            tokens[video] = batch_tokens[row]
            if output_attentions:
                attentions[video] = _row(batch_attentions, row)
    order = range(len(lengths))
    return HiComVisualOutput(
        pooler_output=[tokens[video] for video in order],
        compressor_attentions=tuple(attentions[video] for video in order) if output_attentions else None,
    )


def check_one_each(instruction_ids: torch.Tensor, num_videos: int) -> None:
    """
    Raises:
        ValueError: there are more or fewer instructions than videos.
    """
    if len(instruction_ids) != num_videos:
        raise ValueError(f"got {len(instruction_ids)} instructions for {num_videos} videos; one each is needed")


def compress_each_video(
    compress: Callable[[HiComVideoFeatures | dict, torch.Tensor | None], HiComVisualOutput],
    videos: Sequence[HiComVideoFeatures | dict],
    instruction_ids: torch.Tensor | None,
) -> HiComVisualOutput:
    """Several videos, some of them for several instructions; no features are copied.

    Args:
        compress: of one video and its instructions.
        videos: one for each instruction; those that are one object are one video.
        instruction_ids: (rows, L), or None.

    Raises:
        ValueError: an entry holds several videos, or there are more or fewer instructions.
    """
    if instruction_ids is not None:
        check_one_each(instruction_ids, len(videos))
    rows: dict[int, list[int]] = {}
    for row, video in enumerate(videos):
        if len(video["num_frames"]) != 1:
            raise ValueError(
                f"entry {row} of video_features holds {len(video['num_frames'])} videos; give one in each"
            )
        rows.setdefault(id(video["features"]), []).append(row)
    tokens: dict[int, torch.Tensor] = {}
    attentions: dict[int, HiComCompressorAttentions] = {}
    for of_one in rows.values():
        output = compress(videos[of_one[0]], None if instruction_ids is None else _rows(instruction_ids, of_one))
        made, seen = output.pooler_output or [], output.compressor_attentions
        for number, row in enumerate(of_one):
            number = number if len(made) > 1 else 0  # without instructions all rows are equal
            tokens[row] = made[number]
            if seen is not None:
                attentions[row] = seen[number]
    order = range(len(videos))
    return HiComVisualOutput(
        pooler_output=[tokens[row] for row in order],
        compressor_attentions=tuple(attentions[row] for row in order) if attentions else None,
    )


def check_placeholders(
    counts: list[int], visual_tokens: list[torch.Tensor] | torch.Tensor | None, modality: str
) -> None:
    """Refuse a prompt that has more or fewer placeholders than there are visual tokens.

    Args:
        counts: placeholders of each row.
        visual_tokens: one (N, C) tensor per video; None if there are none.
        modality: "image" or "video", for the error.

    Raises:
        ValueError: with the numbers.
    """
    lengths = [] if visual_tokens is None else [len(tokens) for tokens in visual_tokens]
    if sum(counts) != sum(lengths):
        raise ValueError(
            f"the prompt has {sum(counts)} {modality} placeholder tokens (per row: {counts}) but the {len(lengths)} "
            f"{modality}s given make {sum(lengths)} visual tokens (each: {lengths}); give the prompt, the {modality}s and their "
            "frame counts from one call of the model's processor"
        )


def merge_visual_tokens(
    inputs_embeds: torch.Tensor, placeholders: torch.Tensor, visual_tokens: list[torch.Tensor] | torch.Tensor | None
) -> torch.Tensor:
    """Put visual tokens in the place of their placeholders, which must be as many; see `check_placeholders`.

    Args:
        inputs_embeds: (B, length, C).
        placeholders: (B, length) bool, where they are.
        visual_tokens: one (N, C) tensor per video, in the order of the prompt; None if there are none.
    """
    if visual_tokens is None or not len(visual_tokens):
        return inputs_embeds
    tokens = torch.cat(list(visual_tokens)).to(inputs_embeds)
    return inputs_embeds.masked_scatter(placeholders[..., None].to(inputs_embeds.device), tokens)


def _equally_long(features: torch.Tensor, lengths: list[int], length: int) -> torch.Tensor:
    """Of packed videos (sum T, H, W, D) those with `length` frames, (B, T, H, W, D); a view if all have."""
    if all(other == length for other in lengths):
        return features.unflatten(0, (-1, length))
    return torch.stack([video for video in features.split(lengths) if len(video) == length])


def _rows(tensor: torch.Tensor, numbers: list[int]) -> torch.Tensor:
    """Some rows of a tensor, in ascending order. By views: an index would be copied to the device, and the host would wait."""
    return tensor if len(numbers) == len(tensor) else torch.stack([tensor[number] for number in numbers])


def _row(attentions: HiComCompressorAttentions, row: int) -> HiComCompressorAttentions:
    """One video's attention out of a batch's, with a batch of 1."""
    return HiComCompressorAttentions(
        local_weights=None if attentions.local_weights is None else attentions.local_weights[row : row + 1],
        local_positions=attentions.local_positions,
        global_weights=None if attentions.global_weights is None else attentions.global_weights[row : row + 1],
    )
