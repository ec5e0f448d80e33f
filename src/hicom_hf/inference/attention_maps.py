"""From the weights of the compressor's attention to maps over the patches of a video, and how much of one lies on an object.

Both maps are relative to an even spread: 1 is what a patch gets if attention is uniform, 3 is three times as much.

Letters: T frames, H/W patch rows and columns, G groups, K patches per group, Q global queries, R objects.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.answering_hicom import EncodedVideo, check_question
from ..processors.processing_hicom import HiComProcessor

COVER_ROUNDING = 1e-9  # `patch_cover` multiplies and divides


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of the compressor for one question about one video.

    Attributes:
        instruction: the words of the question that conditioned the compression.
        local_map: float64 (T, H, W), see `local_map`; None for a compressor whose local branch does not attend.
        global_map: float64 (T, H, W), see `global_map`; None for a compressor without global branch.
    """

    instruction: str
    local_map: np.ndarray | None
    global_map: np.ndarray | None


@dataclass(frozen=True)
class AttentionFraction:
    """The fraction of a map that lies on objects.

    Attributes:
        attention: fraction of the attention on the objects, 0 to 1.
        area: fraction of the video's patches that they cover, 0 to 1.
    """

    attention: float
    area: float

    @property
    def times_even(self) -> float:
        """Attention over area: 1 for an even spread; NaN for objects that are never visible."""
        return self.attention / self.area if self.area else float("nan")


def attention_maps(
    model: HiComForConditionalGeneration, processor: HiComProcessor, video: EncodedVideo, question: str
) -> AttentionMaps:
    """Compress an encoded video for a question, and keep the attention; nothing is generated.

    Args:
        model, processor: of one folder.
        video: one video, as `encode_video` returned it.
        question: as it would be asked.

    Raises:
        ValueError: the question is empty.

    Example:
        >>> maps = attention_maps(model, processor, video, "Where is the red circle?")  # doctest: +SKIP
        >>> maps.local_map.shape == maps.global_map.shape == (8, 12, 12)  # doctest: +SKIP
        True
    """
    check_question(question)
    instruction = processor.extract_instruction(question)
    instruction_ids = processor.encode_instructions([instruction]).to(model.device)
    with torch.no_grad():
        output = model.model.get_video_features(
            video_features=video.features,
            video_instruction_ids=instruction_ids,
            output_compressor_attentions=True,
            return_dict=True,
        )
    assert output.compressor_attentions is not None  # asked for
    [attentions] = output.compressor_attentions
    local, positions, over_all = attentions.local_weights, attentions.local_positions, attentions.global_weights
    return AttentionMaps(
        instruction,
        None if local is None or positions is None else local_map(local[0], positions),
        None if over_all is None else global_map(over_all[0]),
    )


def over_whole_frames(maps: AttentionMaps, height: int, width: int) -> AttentionMaps:
    """Maps of padded frames, spread over the frames without their margins.

    A cell of the result has the value of the patch in which its centre lies. The mean is no longer 1, as the margins'
    part is left out.

    Args:
        maps: of frames that were padded to squares.
        height, width: of the frames, in pixels.
    """

    def spread(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        larger, numbers = max(height, width), []
        for size, count in zip((height, width), values.shape[1:], strict=True):
            start = (larger - size) // 2  # as `pad_to_square` places it
            numbers.append((((np.arange(count) + 0.5) / count * size + start) / larger * count).astype(int))
        return values[:, numbers[0][:, None], numbers[1]]

    return replace(maps, local_map=spread(maps.local_map), global_map=spread(maps.global_map))


def local_map(weights: torch.Tensor, positions: torch.Tensor) -> np.ndarray:
    """The local branch's attention, patch by patch.

    Every group gives one token, so its weights sum to 1 even if it contains nothing of interest. A patch's value is its weight
    times K: it compares the patch with the rest of its own group only. Where groups overlap, a patch gets the mean over the
    groups that contain it; in a compressor without grouping (paper, table A3) these are all. Without overlap the map's mean is
    1, over each group and over the video.

    Args:
        weights: (G, K), sums to 1 over K.
        positions: int (G, K, 3), frame, row and column of each member; together they cover the whole grid.

    Returns:
        float64 (T, H, W), 0 to K.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> weights = torch.tensor([[0.75, 0.25]])
        >>> local_map(weights, torch.tensor([[[0, 0, 0], [0, 0, 1]]])).tolist()
        [[[1.5, 0.5]]]
    """
    if weights.ndim != 2 or positions.shape != (*weights.shape, 3):
        raise ValueError(
            f"weights must be (G, K) and positions (G, K, 3), got {tuple(weights.shape)} and {tuple(positions.shape)}"
        )
    values = weights.detach().double().cpu().numpy() * weights.shape[1]  # (G, K)
    members = positions.cpu().numpy().reshape(-1, 3)  # (G * K, 3)
    shape = tuple(members.max(axis=0) + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, tuple(members.T), values.reshape(-1))
    np.add.at(count, tuple(members.T), 1)
    return total / count


def global_map(weights: torch.Tensor) -> np.ndarray:
    """The global branch's attention, patch by patch: the mean over heads and queries, times the number of patches.

    Args:
        weights: (heads, Q, T, H, W), sums to 1 over (T, H, W).

    Returns:
        float64 (T, H, W), mean 1.

    Raises:
        ValueError: the weights have another number of axes.

    Example:
        >>> global_map(torch.tensor([0.75, 0.25]).view(1, 1, 1, 1, 2)).tolist()
        [[[1.5, 0.5]]]
    """
    if weights.ndim != 5:
        raise ValueError(f"weights must be (heads, Q, T, H, W), got {tuple(weights.shape)}")
    mean = weights.detach().double().mean(dim=(0, 1)).cpu().numpy()  # (T, H, W)
    return mean * mean.size


def attention_fraction(attention: np.ndarray, cover: np.ndarray) -> AttentionFraction:
    """How much of a map lies on objects.

    `attention` is the sum of map times cover over the sum of the map, `area` the mean of the cover, and `times_even` their
    quotient: the mean of the map over what the objects cover.

    This holds for both branches. In a local map every group has the same total. `times_even` therefore compares each object with
    the rest of the groups that it lies in, and weights each group by the part of the objects in it. Its maximum is K / c for a
    group of K patches of which c show an object.

    Args:
        attention: (T, H, W), a map.
        cover: (T, H, W) or (R, T, H, W), how much of each patch is covered, 0 to 1; of several objects the largest counts.
            `hicom_hf.shapes.patch_cover` makes it, at the times of the frames that the model has seen.

    Raises:
        ValueError: the shapes differ, the cover lies outside 0 to 1, or the map is 0 everywhere.

    Example:
        >>> fraction = attention_fraction(np.array([[[1.5, 0.5]]]), np.array([[[1.0, 0.0]]]))
        >>> fraction.attention, fraction.area, fraction.times_even
        (0.75, 0.5, 1.5)
    """
    cover = np.asarray(cover, dtype=np.float64)
    if cover.ndim == 4:
        cover = cover.max(axis=0, initial=0.0)  # (R, T, H, W) -> (T, H, W); no object covers nothing
    if attention.ndim != 3 or cover.shape != attention.shape:
        raise ValueError(
            f"the map must be (T, H, W) and the cover (T, H, W) or (R, T, H, W), got {attention.shape} and {cover.shape}"
        )
    if cover.min() < 0 or cover.max() > 1 + COVER_ROUNDING:
        raise ValueError(f"the cover must lie from 0 to 1, got {cover.min():g} to {cover.max():g}")
    total = attention.sum()
    if not total > 0:
        raise ValueError("the map is 0 everywhere; a map of the compressor's attention never is")
    return AttentionFraction(float((attention * cover).sum() / total), float(cover.mean()))
