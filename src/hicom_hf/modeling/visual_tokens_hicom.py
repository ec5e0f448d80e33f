"""Visual tokens: made of videos of any lengths, and put in the place of their placeholders.

Letters: B batch rows, V videos of the whole batch, T frames of one, H/W patch rows and columns, D vision width, C LLM width,
L = 64 instruction tokens, N visual tokens of one video.
"""

import torch

from .compressor_hicom import HiComCompressor, HiComCompressorAttentions
from .outputs_hicom import HiComVisualOutput

Instruction = tuple[torch.Tensor, torch.Tensor]


def whole_numbers(counts: torch.Tensor | list[int]) -> list[int]:
    """Frame counts on the host."""
    return counts.tolist() if isinstance(counts, torch.Tensor) else list(counts)


def compress_one_video(
    compressor: HiComCompressor,
    features: torch.Tensor,
    aligned_features: torch.Tensor | None,
    instruction: Instruction | None,
    num_rows: int,
    output_attentions: bool,
) -> HiComVisualOutput:
    """One video for one or more instructions; its features are not copied.

    Args:
        features, aligned_features: (T, H, W, D).
        instruction: pooled (rows, D) and tokens (rows, L, D), or None.
        num_rows: how many instructions there are; all rows are equal where none is injected.
    """
    tokens, attentions = compressor(
        features[None],
        None if aligned_features is None else aligned_features[None],
        instruction,
        output_attentions=output_attentions,
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
            None if instruction is None else tuple(part[videos] for part in instruction),
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


def merge_visual_tokens(
    inputs_embeds: torch.Tensor,
    placeholders: torch.Tensor,
    visual_tokens: list[torch.Tensor] | torch.Tensor | None,
    modality: str,
) -> torch.Tensor:
    """Put visual tokens in the place of their placeholders.

    Args:
        inputs_embeds: (B, length, C).
        placeholders: (B, length) bool, where they are.
        visual_tokens: one (N, C) tensor per video, in the order of the prompt; None if there are none.
        modality: "image" or "video", for the error.

    Raises:
        ValueError: if there are more or fewer placeholders than visual tokens.
    """
    lengths = [] if visual_tokens is None else [len(tokens) for tokens in visual_tokens]
    if not torch.compiler.is_compiling() and int(placeholders.sum()) != sum(lengths):
        raise ValueError(
            f"the prompt has {int(placeholders.sum())} {modality} placeholder tokens (per row: "
            f"{placeholders.sum(-1).tolist()}) but the {len(lengths)} {modality}s given make {sum(lengths)} visual tokens "
            f"(each: {lengths}); give the prompt, the {modality}s and their frame counts from one call of the model's processor"
        )
    if visual_tokens is None or not lengths:
        return inputs_embeds
    tokens = torch.cat(list(visual_tokens)).to(inputs_embeds)
    return inputs_embeds.masked_scatter(placeholders[..., None].to(inputs_embeds.device), tokens)


def _equally_long(features: torch.Tensor, lengths: list[int], length: int) -> torch.Tensor:
    """Of packed videos (sum T, H, W, D) those with `length` frames, (B, T, H, W, D); a view if all have."""
    if all(other == length for other in lengths):
        return features.unflatten(0, (-1, length))
    return torch.stack([video for video in features.split(lengths) if len(video) == length])


def _row(attentions: HiComCompressorAttentions, row: int) -> HiComCompressorAttentions:
    """One video's attention out of a batch's, with a batch of 1."""
    return HiComCompressorAttentions(
        local_weights=None if attentions.local_weights is None else attentions.local_weights[row : row + 1],
        local_positions=attentions.local_positions,
        global_weights=None if attentions.global_weights is None else attentions.global_weights[row : row + 1],
    )
