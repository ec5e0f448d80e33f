"""Overlapping squares that cover a frame of any shape, and the patch of them that shows each place best.

`FrameSampling` says which frames are taken, `FrameTiles` at which detail. Nothing here knows of models. Letters: n squares,
G patches along a square's side, P patches of all squares that are kept, H/W rows and columns of the compressor's grid.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from .frame_sampling_hicom import check_is_number
from .source_names_hicom import VideoReadError

OVERVIEW = 0  # the zoom of the whole frame, padded to a square
# Our choices, measured in the shapes world (docs/tiles.md).
DEFAULT_OVERLAP = 0.2
MAX_SQUARES = 64  # of one frame, over all zooms


@dataclass(frozen=True)
class FrameTiles:
    """At which detail a frame is encoded, so that the question can choose among its parts; checked at construction.

    At zoom z the side of a square is 1/z of the frame's shorter side. Squares are resized to the size that SigLIP takes. A
    square frame at zoom 1 is one square, the frame as it is without tiles.

    Args:
        zooms: whole numbers, each once. With several, each question chooses one of them.
        overlap: least fraction of a square's side that it shares with its neighbour, 0 to 0.9.
        overview: the whole frame, padded to a square, is one more choice. Not needed for square frames with zoom 1.
        score_candidates: matters with a selection only: its candidates are scored by these squares. That finds smaller things,
            and encodes all squares of each candidate, twice as many for 16:9 at zoom 1; only keys of them are kept. Square
            frames at zoom 1 cost what they do without tiles. False: frames are chosen as they are without tiles, padded.

    Raises:
        TypeError: a zoom is no whole number, or the overlap no number.
        ValueError: a value is out of its range, or there is no zoom.

    Example:
        >>> FrameTiles(zooms=(1, 2)).overlap
        0.2
    """

    zooms: tuple[int, ...] = (1,)
    overlap: float = DEFAULT_OVERLAP
    overview: bool = False
    score_candidates: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.zooms, str) or not isinstance(self.zooms, Iterable):
            raise TypeError(f"zooms must be a tuple of whole numbers, such as (1, 2), got {self.zooms!r}")
        object.__setattr__(self, "zooms", tuple(self.zooms))
        for zoom in self.zooms:
            if isinstance(zoom, bool) or not isinstance(zoom, int):
                raise TypeError(f"zooms must be whole numbers, got {zoom!r}")
        if not self.zooms or min(self.zooms) < 1 or len(set(self.zooms)) < len(self.zooms):
            raise ValueError(f"zooms must be numbers of at least 1, each once, got {self.zooms!r}")
        check_is_number("overlap", self.overlap)
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(f"overlap must be from 0 to 0.9, got {self.overlap!r}")

    @classmethod
    def of_zooms(cls, zooms: Sequence[int], score_candidates: bool = True) -> "FrameTiles":
        """The request that is written as a list of zooms, where 0 is the overview.

        Example:
            >>> FrameTiles.of_zooms([0, 1]) == FrameTiles(zooms=(1,), overview=True)
            True
        """
        own = tuple(zoom for zoom in zooms if zoom != OVERVIEW)
        return cls(own, overview=OVERVIEW in zooms, score_candidates=score_candidates)

    def of_chosen(self) -> "FrameTiles":
        """How frames are seen where there is no selection, or that a question has chosen already.

        `score_candidates` says nothing of them. It is False, so that keys of caches do not depend on it.
        """
        return replace(self, score_candidates=False)


class Square(NamedTuple):
    """A part of a frame, in pixels; the overview is larger than the frame and begins outside of it."""

    top: int
    left: int
    side: int


@dataclass(frozen=True)
class ChosenTile:
    """A square of which a question sees patches.

    Attributes:
        box: top, left, bottom, right, as fractions of the frame's height and width.
        patches: fraction of the grid that shows this square.
        score: of its best patch in any frame.
        frame: number of the sampled frame in which it is.
    """

    box: tuple[float, float, float, float]
    patches: float
    score: float
    frame: int


@dataclass(frozen=True)
class TilesRecord:
    """Which parts of the frames a question sees, and why.

    Attributes:
        zoom: that was chosen; 0 for the whole frame, padded.
        zooms: all that there were.
        heights: of each zoom, how far its best patch stands above the median patch of its frame; the greatest was chosen.
        tiles: squares of that zoom, best score first.
    """

    zoom: int
    zooms: tuple[int, ...]
    heights: tuple[float, ...]
    tiles: tuple[ChosenTile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that json can write."""
        return asdict(self)


def zoom_levels(tiles: FrameTiles, height: int, width: int) -> dict[int, list[Square]]:
    """The squares of each zoom for frames of one size; under `OVERVIEW` the padded frame, if it is asked for and another.

    Args:
        tiles: the request.
        height, width: of the frames, in pixels.

    Raises:
        ValueError: there are more than `MAX_SQUARES`.

    Example:
        >>> zoom_levels(FrameTiles(), 144, 256)
        {1: [Square(top=0, left=0, side=144), Square(top=0, left=112, side=144)]}
    """
    levels: dict[int, list[Square]] = {}
    if tiles.overview and (height != width or 1 not in tiles.zooms):
        side = max(height, width)  # as `pad_to_square` places it
        levels[OVERVIEW] = [Square(-((side - height) // 2), -((side - width) // 2), side)]
    for zoom in tiles.zooms:
        side = max(1, round(min(height, width) / zoom))
        tops, lefts = (_starts(size, side, tiles.overlap) for size in (height, width))
        levels[zoom] = [Square(top, left, side) for top in tops for left in lefts]
    count = sum(len(squares) for squares in levels.values())
    if count > MAX_SQUARES:
        raise ValueError(
            f"zooms {tiles.zooms} make {count} squares of a frame of {width}x{height} (width x height), more than the "
            f"{MAX_SQUARES} that are allowed; take a lower zoom or a smaller overlap"
        )
    return levels


def levels_of(tiles: FrameTiles, name: str, height: int, width: int) -> dict[int, list[Square]]:
    """The squares of each zoom for the frames of a video.

    Raises:
        VideoReadError: there are too many for one frame; names the video.
    """
    try:
        return zoom_levels(tiles, height, width)
    except ValueError as error:
        raise VideoReadError(f"{name}: {error}") from error


def cut_square(frame: np.ndarray, square: Square) -> np.ndarray:
    """The part of a frame (height, width, 3) that lies in a square; the whole frame for an overview."""
    if square.top < 0 or square.left < 0 or square.side > max(frame.shape[:2]):
        return frame
    rows, columns = (slice(start, start + square.side) for start in (square.top, square.left))
    return np.ascontiguousarray(frame[rows, columns])


def cut_frame(
    frame: np.ndarray, levels: dict[int, list[Square]], make_square: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The squares of a frame (height, width, 3), one zoom after another: (n, S, S, 3).

    Args:
        levels: see `zoom_levels`.
        make_square: gives a part of a frame its size.
    """
    return np.stack([make_square(cut_square(frame, square)) for some in levels.values() for square in some])


def patch_centres(squares: list[Square], height: int, width: int, patches: int) -> np.ndarray:
    """Where the centres of the squares' patches lie in the frame.

    Args:
        squares: n of them.
        height, width: of the frame, in pixels.
        patches: G.

    Returns:
        float64 (n, G, G, 2), row and column as fractions of the frame; outside of 0 to 1 in the margin of an overview.
    """
    steps = (np.arange(patches) + 0.5) / patches
    centres = np.empty((len(squares), patches, patches, 2))
    for number, square in enumerate(squares):
        centres[number, ..., 0] = ((square.top + steps * square.side) / height)[:, None]
        centres[number, ..., 1] = ((square.left + steps * square.side) / width)[None]
    return centres


def seen_centrally(squares: list[Square], patches: int) -> np.ndarray:
    """Which patches are kept: those that lie nearer to the centre of their own square than to that of any other.

    So each place is seen once, by the square that shows most around it. Distances are the larger of those along both axes; of
    equal ones the first square counts.

    Args:
        squares: n of one side.
        patches: G.

    Returns:
        bool (n, G, G).
    """
    # In units of half a patch, whole numbers: the same on every machine.
    steps = (2 * np.arange(patches) + 1) * squares[0].side
    middles = np.array([(square.top, square.left) for square in squares]) * 2 * patches + squares[0].side * patches
    kept = np.empty((len(squares), patches, patches), dtype=bool)
    for number, square in enumerate(squares):
        rows = np.abs(square.top * 2 * patches + steps[:, None] - middles[:, 0])  # (G, n)
        columns = np.abs(square.left * 2 * patches + steps[:, None] - middles[:, 1])
        kept[number] = np.maximum(rows[:, None], columns[None]).argmin(axis=-1) == number
    return kept


def cell_members(centres: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which patches may stand for each cell of a grid that is spread over the whole frame: those whose centre lies in it.

    A cell without any takes the patch whose centre is nearest to its own, along the axis where they are farther apart.

    Args:
        centres: (P, 2), row and column as fractions of the frame.
        grid: (H, W).

    Returns:
        int64 (H * W, M), numbers of patches in ascending order; M is the most that a cell has, others end in -1.
    """
    rows, columns = grid
    places = np.floor(centres * (rows, columns) + 1e-9).astype(int)
    members = []
    for row in range(rows):
        for column in range(columns):
            inside = np.flatnonzero((places[:, 0] == row) & (places[:, 1] == column))
            if not len(inside):
                away = np.abs(centres - ((row + 0.5) / rows, (column + 0.5) / columns)).max(axis=1)
                inside = away.argmin(keepdims=True)
            members.append(inside)
    table = np.full((len(members), max(map(len, members))), -1)
    for cell, inside in enumerate(members):
        table[cell, : len(inside)] = inside
    return table


def _starts(size: int, side: int, overlap: float) -> list[int]:
    """Where squares begin along an axis, evenly spread from one end to the other."""
    if size <= side:
        return [0]
    count = ceil((size - side) / max(side * (1 - overlap), 1)) + 1
    return [round(number * (size - side) / (count - 1)) for number in range(count)]
