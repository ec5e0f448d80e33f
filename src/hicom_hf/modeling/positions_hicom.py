"""The 3D sinusoidal position embedding of the global branch.

Letters: T frames, H/W patch rows and columns, D width.
"""

import torch

BASE = 10000.0
# Shares of D for time, rows and columns, in eighths. Source: paper, appendix A (3/8, 3/8 and 2/8, after CogVideoX, which
# gives time the 2/8).
PAPER_EIGHTHS = (2, 3, 3)


def sinusoid(size: int, width: int) -> torch.Tensor:
    """Standard sinusoidal table over positions 0 ... size - 1.

    Channel c of position p has the angle `p / 10000 ** (2 * floor(c / 2) / width)`; even channels hold its sine, odd ones
    its cosine.

    Returns:
        (size, width) float64, on the CPU.
    """
    channel = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(size, dtype=torch.float64)[:, None] / BASE ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def position_embedding(
    grid: tuple[int, int, int],
    width: int,
    formulation: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """3D position embedding of a grid of patches.

    `paper`: time, rows and columns each have their own share of the channels (2/8, 3/8, 3/8), concatenated. `release`: each
    axis has a sinusoid over the full width and the three are added, so that exchanging two coordinates changes nothing.

    Args:
        grid: (T, H, W).
        width: D; divisible by 16 under `paper`, so that every share is even.
        formulation: "paper" or "release".
        device: where the result lies.
        dtype: its type. Axis tables are always computed in float64.

    Returns:
        (T, H, W, D).

    Source: paper, equation 2 and appendix A; official release, `PositionalEncoding3D`-like sum of three tables.

    Example:
        >>> position_embedding((32, 27, 27), 1152, "paper").shape
        torch.Size([32, 27, 27, 1152])
    """
    time, row, column = axis_tables(grid, width, formulation, device, dtype)
    if formulation == "release":
        return time + row + column
    return torch.cat([table.expand(*grid, -1) for table in (time, row, column)], dim=-1)


def axis_tables(
    grid: tuple[int, int, int],
    width: int,
    formulation: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `position_embedding` is made of: (T, 1, 1, ...), (1, H, 1, ...) and (1, 1, W, ...), each with its channels."""
    widths = [width * eighths // 8 for eighths in PAPER_EIGHTHS] if formulation == "paper" else [width] * 3
    time, row, column = (
        sinusoid(size, share).to(device=device, dtype=dtype) for size, share in zip(grid, widths, strict=True)
    )
    return time[:, None, None], row[None, :, None], column[None, None]


def add_positions(
    features: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor], formulation: str
) -> torch.Tensor:
    """features + position_embedding(...), both (B, T, H, W, D), bit for bit.

    Under `paper`, each axis is added to its own channels, so the embedding of the whole grid (107 MB for 32 frames of so400m in
    float32) is never made.

    Args:
        features: (B, T, H, W, D).
        tables: `axis_tables` of its grid, on its device.
        formulation: "paper" or "release".
    """
    if formulation == "release":
        return features + sum(tables[1:], tables[0]).to(features.dtype)
    shares = features.split([table.shape[-1] for table in tables], dim=-1)
    return torch.cat([share + table.to(features.dtype) for share, table in zip(shares, tables, strict=True)], dim=-1)
