"""Cutting a video's patches into groups, the unit of local compression.

Letters: B batch, T frames, H/W patch rows and columns, D width, nT/nH/nW groups per axis, G = nT * nH * nW groups,
K patches per group.
"""

from collections.abc import Sequence
from math import ceil

import torch


def group_spans(size: int, ratio: int) -> list[tuple[int, int]]:
    """Cut an axis of `size` positions into `ceil(size / ratio)` groups of equal length that cover it.

    A group has `min(size, ratio)` members. Where `ratio` does not divide `size`, neighbours overlap: the
    `groups * ratio - size` surplus positions are dealt out over the boundaries as evenly as possible, the later
    boundaries having the larger overlaps.

    Differs: the official release overlaps neighbours by at most one position and fails where that is not enough (4-frame
    groups over 5, 6 or 9 frames). Dealing the surplus out evenly gives its numbers wherever it works, and a cover of
    equally long groups everywhere else.

    Args:
        size: number of positions on the axis, at least 1.
        ratio: wanted group length, at least 1.

    Returns:
        `(start, stop)` of each group, `stop` exclusive, in order.

    Raises:
        ValueError: if `size` or `ratio` is below 1.

    Source: paper, section 3.1 (`N_i = ceil(i / a_i)`); official release, grouping of its local compressor.

    Example:
        >>> group_spans(8, 4)
        [(0, 4), (4, 8)]
        >>> group_spans(5, 4)
        [(0, 4), (1, 5)]
    """
    if size < 1 or ratio < 1:
        raise ValueError(f"size and ratio must be at least 1, got size={size} and ratio={ratio}")
    length = min(size, ratio)
    groups = ceil(size / ratio)
    if groups == 1:
        return [(0, length)]
    overlap, extra = divmod(
        groups * length - size, groups - 1
    )  # per boundary; the last `extra` boundaries get one more
    spans = [(0, length)]
    for boundary in range(1, groups):
        start = spans[-1][1] - overlap - (1 if boundary > groups - 1 - extra else 0)
        spans.append((start, start + length))
    return spans


def num_groups(grid: tuple[int, int, int], ratio: Sequence[int]) -> tuple[int, int, int]:
    """Number of groups per axis, `ceil(size / ratio)`, for a grid of (T, H, W) patches."""
    frames, rows, columns = (ceil(size / step) for size, step in zip(grid, ratio, strict=True))
    return frames, rows, columns


def group(hidden: torch.Tensor, ratio: Sequence[int]) -> torch.Tensor:
    """Collect the patches of every group.

    Args:
        hidden: (B, T, H, W, D).
        ratio: wanted group lengths over (T, H, W).

    Returns:
        (B, G, K, D): groups ordered by frame, row, column; the members of a group likewise.
    """
    for axis, step in enumerate(ratio, start=1):
        # The axis of size S becomes two, (groups, members): axis 1 + 2 * (axis - 1) once the earlier ones were split.
        dim = 2 * axis - 1
        size = hidden.shape[dim]
        is_symbol = isinstance(hidden.shape[dim], torch.SymInt)
        groups, length = -(-size // step), step if size >= step else size
        if is_symbol or groups * length != size:  # neighbours overlap: repeat what they share
            hidden = hidden.index_select(dim, _members(size, groups, length, hidden.device))
        hidden = hidden.unflatten(dim, (groups, length))
    # (B, nT, aT, nH, aH, nW, aW, D) -> (B, nT, nH, nW, aT, aH, aW, D) -> (B, G, K, D)
    return hidden.movedim((1, 3, 5), (1, 2, 3)).flatten(4, 6).flatten(1, 3)


def _members(size: int, groups: int, length: int, device: torch.device) -> torch.Tensor:
    """Members of all groups of `group_spans`, in order, (groups * length).

    Computed where they are needed, from numbers only: nothing is copied to the device, and the number of frames may be a
    symbol of `torch.export`.
    """
    boundaries = max(groups - 1, 1)
    surplus = groups * length - size
    overlap, extra = surplus // boundaries, surplus % boundaries
    number = torch.arange(groups, device=device)  # of the group; the last `extra` boundaries overlap by one more
    starts = number * (length - overlap) - (number - (boundaries - extra)).clamp(min=0)
    return (starts[:, None] + torch.arange(length, device=device)).flatten()


def group_positions(grid: tuple[int, int, int], ratio: Sequence[int]) -> torch.Tensor:
    """Where the members of every group lie.

    Returns:
        (G, K, 3) int64: frame, row and column of each member, in the order of `group`.
    """
    axes = [torch.arange(size) for size in grid]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (T, H, W, 3)
    return group(positions[None], ratio)[0]
