"""The 3D sinusoidal position embedding of the global branch.

Letters: B batch, T frames, H/W patch rows and columns, D width.
"""

import torch
from torch import nn

BASE = 10000.0
# Fractions of D for time, rows and columns, in eighths. Source: paper, appendix A (3/8, 3/8 and 2/8, after CogVideoX, which
# gives time the 2/8).
PAPER_EIGHTHS = (2, 3, 3)
MAX_TABLES = 16  # grids whose tables are kept, a few hundred KB each

AxisTables = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


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


class HiComPositions(nn.Module):
    """V -> V + Pos(V): time, rows and columns each have channels of their own (2/8, 3/8, 3/8), concatenated.

    D must be divisible by 16, so that the channels of each axis are even in number. There are no weights.

    Source: paper, equation 2 and appendix A.

    Example:
        >>> HiComPositions().embedding((32, 27, 27), 1152).shape
        torch.Size([32, 27, 27, 1152])
    """

    def __init__(self):
        super().__init__()
        self._tables: dict[tuple, AxisTables] = {}  # by grid, width and device

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, D) -> (B, T, H, W, D)."""
        return self.add(features, self.tables_for(features))

    def axis_widths(self, width: int) -> tuple[int, int, int]:
        """Channels of the tables of time, rows and columns, for a width D."""
        time, row, column = (width * eighths // 8 for eighths in PAPER_EIGHTHS)
        return time, row, column

    def axis_tables(
        self,
        grid: tuple[int, int, int],
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> AxisTables:
        """What `embedding` is made of: (T, 1, 1, ...), (1, H, 1, ...) and (1, 1, W, ...), each with its channels.

        They are computed in float64 for every `dtype`.
        """
        time, row, column = (
            sinusoid(size, channels).to(device=device, dtype=dtype)
            for size, channels in zip(grid, self.axis_widths(width), strict=True)
        )
        return time[:, None, None], row[None, :, None], column[None, None]

    def embedding(
        self,
        grid: tuple[int, int, int],
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Pos(V) of a grid (T, H, W), as a whole: (T, H, W, D)."""
        tables = self.axis_tables(grid, width, device, dtype)
        return torch.cat([table.expand(*grid, -1) for table in tables], dim=-1)

    def add(self, features: torch.Tensor, tables: AxisTables) -> torch.Tensor:
        """features + embedding(...), both (B, T, H, W, D), bit for bit.

        Each axis is added to its own channels, so the embedding of the whole grid (107 MB for 32 frames of so400m in float32)
        is never made.
        """
        parts = features.split([table.shape[-1] for table in tables], dim=-1)
        return torch.cat([part + table.to(features.dtype) for part, table in zip(parts, tables, strict=True)], dim=-1)

    def tables_for(self, features: torch.Tensor) -> AxisTables:
        """The axis tables of a grid of features; the same for every question, so they are kept."""
        _, frames, rows, columns, width = features.shape
        grid = frames, rows, columns
        if torch.compiler.is_compiling() or features.is_meta:
            return self.axis_tables(grid, width, device=features.device)
        key = (*grid, width, features.device)
        if key not in self._tables:
            if len(self._tables) == MAX_TABLES:
                self._tables.pop(next(iter(self._tables)))
            with torch.inference_mode(False):  # they may serve a later training step
                self._tables[key] = self.axis_tables(grid, width, device=features.device)
        return self._tables[key]


class HiComReleasePositions(HiComPositions):
    """Each axis has a sinusoid over all channels and the three are added, so exchanging two coordinates changes nothing.

    Source: official release, `PositionalEncoding3D`-like sum of three tables.
    """

    def axis_widths(self, width: int) -> tuple[int, int, int]:
        return width, width, width

    def embedding(
        self,
        grid: tuple[int, int, int],
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        time, row, column = self.axis_tables(grid, width, device, dtype)
        return time + row + column

    def add(self, features: torch.Tensor, tables: AxisTables) -> torch.Tensor:
        time, row, column = tables
        return features + (time + row + column).to(features.dtype)
