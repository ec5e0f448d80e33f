"""A video as overlapping squares, encoded once; each question chooses which of their patches the compressor gets.

The compressor's grid is spread over the whole frame. For each of its cells a question takes, of the patches whose centre lies
there, the one that fits it best. So the number of tokens and their order are those of a video without tiles, and the LLM reads
places in the whole frame. Letters: T frames, n squares of a frame, P patches that are kept of them, H/W patch grid, D vision
width, S image side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch

from .answering_hicom import EncodedVideo, own_instructions
from .frame_tiles_hicom import (
    OVERVIEW,
    ChosenTile,
    FrameTiles,
    Square,
    TilesRecord,
    cell_members,
    cut_frame,
    levels_of,
    patch_centres,
    seen_centrally,
)
from .source_names_hicom import VideoReadError, source_name


@dataclass(frozen=True)
class ZoomLevel:
    """The patches of one zoom.

    Attributes:
        zoom: z; 0 for the overview.
        squares: n of them, in pixels.
        features, aligned_features: (T, P, D); features as if their places were those in the whole frame.
        square_of: (P,), the number of each patch's square.
        members: (H * W, M), see `cell_members`.
        inside: bool (P,), whether the patch shows the frame, not the margin of an overview.
    """

    zoom: int
    squares: list[Square]
    features: torch.Tensor
    aligned_features: torch.Tensor
    square_of: torch.Tensor
    members: torch.Tensor
    inside: torch.Tensor


@dataclass(frozen=True)
class TiledVideo:
    """A video encoded at one or more zooms.

    Attributes:
        levels: by zoom, the overview first.
        sampling: the `SamplingRecord` of the frames that were taken.
        num_frames: T.
        seconds: spent on reading and encoding.
    """

    levels: list[ZoomLevel]
    sampling: Any
    num_frames: int
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Of the features."""
        return sum(level.features.nbytes + level.aligned_features.nbytes for level in self.levels)


@dataclass(frozen=True)
class ReadTiles:
    """The squares of the frames that were sampled from a video, before they are encoded.

    Attributes:
        pictures: uint8 (T, n, S, S, 3); the squares of all zooms, one zoom after another.
        levels: the squares of each zoom, in pixels.
        sampling: the `SamplingRecord` of the frames that were taken.
        seconds: spent on reading, cutting and resizing.
    """

    pictures: np.ndarray
    levels: dict[int, list[Square]]
    sampling: Any
    seconds: float


def read_tiles(
    processor: Any, video: Any, tiles: FrameTiles, *, max_squares: int | None = None, **sampling: Any
) -> ReadTiles:
    """Read a video or an image as squares; no model is needed.

    Args:
        processor: of the model.
        video: see `read_video`.
        tiles: the request.
        max_squares: of all frames together; None for no bound.
        **sampling: as of `read_frames`.

    Raises:
        VideoReadError: it cannot be read, its shape makes too many squares, or there are more than `max_squares`.
        ValueError: the request contradicts itself, or wants the overview of a model that does not pad.
    """
    read = partial(processor.read_transformed, video, **sampling)
    return cut_tiles(read, processor.video_processor, tiles, source_name(video), max_squares)


def check_overview(tiles: FrameTiles, video_processor: Any) -> None:
    """
    Raises:
        ValueError: the overview is wanted of a model that does not pad.
    """
    if tiles.overview and not video_processor.do_pad:
        raise ValueError("the overview is a padded frame, but this model's processor has do_pad=False; leave it out")


def cut_tiles(
    read: Callable[[Callable[[np.ndarray], np.ndarray]], tuple[np.ndarray, Any]],
    video_processor: Any,
    tiles: FrameTiles,
    name: str,
    max_squares: int | None = None,
) -> ReadTiles:
    """Cut the frames of a video into squares as they are read.

    Args:
        read: reads the video; given what becomes of a frame, it returns the results, stacked (T, ...), and the
            `SamplingRecord`.
        video_processor: of the model.
        name: of the video, for messages.
        tiles, max_squares: as of `read_tiles`, whose errors these are.
    """
    started = perf_counter()
    check_overview(tiles, video_processor)
    make_square = video_processor.square_frame
    levels: dict[int, list[Square]] = {}
    num_cut = 0

    def check(count: int, factor: int = 1) -> None:
        if max_squares is not None and count > factor * max_squares:
            raise VideoReadError(
                f"{name}: its frames make more than the {max_squares} squares that are allowed; take fewer "
                "frames or a lower zoom"
            )

    def cut(frame: np.ndarray) -> np.ndarray:
        nonlocal num_cut
        levels.update(levels_of(tiles, name, *frame.shape[:2]))  # the frames of a video have one size
        num_cut += sum(map(len, levels.values()))
        check(num_cut, factor=2)  # a video whose end is missing is read twice
        return cut_frame(frame, levels, make_square)

    pictures, record = read(cut)  # (T, n, S, S, 3)
    check(pictures.shape[0] * pictures.shape[1])
    return ReadTiles(pictures, levels, record, perf_counter() - started)


def encode_tiles(model: Any, processor: Any, read: ReadTiles) -> TiledVideo:
    """Encode the squares of a video, `vision_batch_size` of them at a time.

    Args:
        model: a `HiComForConditionalGeneration`.
        processor: of the same folder; anything that has its `video_processor` will do.
        read: what `read_tiles` returned.
    """
    started = perf_counter()
    pictures, record = read.pictures, read.sampling
    grey = np.rint(pictures.mean(axis=(0, 1, 2, 3))).astype(np.uint8)
    with torch.no_grad():
        effect, _ = _encode(model, processor, np.broadcast_to(grey, (1, *pictures.shape[2:])))  # (1, H, W, D)
        encoded, first = [], 0
        for zoom, squares in read.levels.items():
            some = pictures[:, first : first + len(squares)]
            encoded.append(
                _encode_level(model, processor, some, zoom, squares, (record.height, record.width), effect[0])
            )
            first += len(squares)
    return TiledVideo(encoded, record, len(pictures), read.seconds + perf_counter() - started)


def encode_tiled_video(model: Any, processor: Any, video: Any, tiles: FrameTiles, **sampling: Any) -> TiledVideo:
    """Read a video or an image and encode the squares of its frames.

    Arguments and errors are those of `read_tiles` and `encode_tiles`.
    """
    return encode_tiles(model, processor, read_tiles(processor, video, tiles, **sampling))


def _encode(model: Any, processor: Any, pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and aligned features (n, H, W, D) of squares (n, S, S, 3), uint8."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1)
    return model.encode_frames(processor.video_processor.normalised(pixels))


def _encode_level(
    model: Any,
    processor: Any,
    pictures: np.ndarray,
    zoom: int,
    squares: list[Square],
    size: tuple[int, int],
    effect: torch.Tensor,
) -> ZoomLevel:
    """Encode the squares of one zoom, (T, n, S, S, 3), and keep the patches that are needed."""
    side = effect.shape[0]
    centres = patch_centres(squares, *size, side)  # (n, H, W, 2)
    kept = np.ones(centres.shape[:3], dtype=bool) if zoom == OVERVIEW else seen_centrally(squares, side)
    mask = torch.from_numpy(kept)
    features, aligned_features = [], []
    at_a_time = max(1, model.config.vision_batch_size // len(squares))  # frames
    for start in range(0, len(pictures), at_a_time):
        some = pictures[start : start + at_a_time]
        whole, aligned = (
            part.unflatten(0, some.shape[:2]) for part in _encode(model, processor, some.reshape(-1, *some.shape[2:]))
        )
        features.append(whole[:, mask])
        aligned_features.append(aligned[:, mask])
    found = torch.cat(features)  # (T, P, D)
    if zoom == OVERVIEW:
        members = np.arange(side * side)[:, None]
    else:
        members = cell_members(centres[kept], (side, side))
        if len(squares) > 1:  # one square is the whole frame, with its own places
            found = found + _moved(effect, torch.from_numpy(centres))[mask].to(found)
    inside = np.all((centres > 0) & (centres < 1), axis=-1)[kept]
    return ZoomLevel(
        zoom,
        squares,
        found,
        torch.cat(aligned_features),
        torch.from_numpy(np.nonzero(kept)[0]),
        torch.from_numpy(members),
        torch.from_numpy(inside),
    )


def _moved(effect: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """What is added to features so that their places are those in the whole frame: the effect there less that in the square.

    SigLIP's features contain the place in the square that was encoded. How places act on them is seen in a picture without
    contents. Between patches the effect is interpolated linearly, beyond the outermost it is theirs.

    Args:
        effect: (H, W, D), features of a picture of one colour.
        centres: (n, H, W, 2), row and column of each patch, fractions of the frame.

    Returns:
        (n, H, W, D), float32.
    """
    table = effect.float().movedim(-1, 0)[None].expand(len(centres), -1, -1, -1)  # (n, D, H, W)
    places = (centres.flip(-1) * 2 - 1).to(table)  # x, y from -1 to 1
    there = torch.nn.functional.grid_sample(
        table, places, mode="bilinear", padding_mode="border", align_corners=False
    ).movedim(1, -1)
    return there - effect.float()


def choose_tiles(
    model: Any,
    processor: Any,
    video: TiledVideo,
    questions: Sequence[str],
    instruction: str | Sequence[str | None] | None = None,
) -> list[tuple[TilesRecord, EncodedVideo]]:
    """The patches that each question sees.

    Args:
        model, processor: of one folder.
        video: what `encode_tiled_video` returned.
        questions: B texts; their instruction is extracted as for the compression.
        instruction: chooses in place of the words of each question: one for all, or one per question.

    Returns:
        B records, each with the video that is to be asked about; a question has the bits that it has alone.
    """
    chosen = []
    for question, own in zip(questions, own_instructions(questions, instruction), strict=True):
        text = processor.extract_instruction(question, report=False) if own is None else own
        with torch.no_grad():
            scorer = model.frame_scorer(processor.encode_instructions([text], report=False))
            chosen.append(choose_by_scores(model, video, scorer))
    return chosen


def choose_by_scores(model: Any, video: TiledVideo, scorer: Any) -> tuple[TilesRecord, EncodedVideo]:
    """The patches that one question sees.

    Args:
        model: that the video was encoded with.
        video: what `encode_tiles` returned.
        scorer: the `HiComFrameScorer` of the question alone.
    """
    scores = [_scores(model, level, scorer) for level in video.levels]  # (T, P) each
    heights = [height(some[:, level.inside]) for some, level in zip(scores, video.levels, strict=True)]
    best = max(range(len(heights)), key=lambda number: (heights[number], -number))
    level, scored = video.levels[best], scores[best]
    taken = choose_patches(scored, level.members)  # (T, H * W)
    record = TilesRecord(
        level.zoom,
        tuple(one.zoom for one in video.levels),
        tuple(heights),
        _tiles_of(level, scored, taken, video.sampling.height, video.sampling.width),
    )
    return record, _as_video(model, video, level, taken)


def without_question(model: Any, video: TiledVideo) -> EncodedVideo:
    """What is seen before anything is asked: the first patch of each cell, at the first zoom."""
    level = video.levels[0]
    return _as_video(model, video, level, level.members[:, 0].expand(video.num_frames, -1))


def _as_video(model: Any, video: TiledVideo, level: ZoomLevel, taken: torch.Tensor) -> EncodedVideo:
    """Patches by their number, (T, H * W), as the grid of a video."""
    grid = tuple(model.config.grid)
    frames = torch.arange(video.num_frames)[:, None]
    return EncodedVideo(
        features={
            "features": level.features[frames, taken].unflatten(1, grid),
            "aligned_features": level.aligned_features[frames, taken].unflatten(1, grid),
            "num_frames": torch.tensor([video.num_frames]),
        },
        sampling=video.sampling,
        num_frames=video.num_frames,
        num_patches=video.num_frames * grid[0] * grid[1],
        num_visual_tokens=model.config.num_visual_tokens(video.num_frames),
        seconds=video.seconds,
    )


def _scores(model: Any, level: ZoomLevel, scorer: Any) -> torch.Tensor:
    keys = level.aligned_features.to(model.device, scorer.query.dtype)
    return scorer.patch_scores(keys[:, :, None])[0, ..., 0].cpu()  # (T, P)


def choose_patches(scores: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """The patch with the highest score of each cell, of equal ones the first.

    Args:
        scores: (T, P).
        members: (H * W, M), see `cell_members`.

    Returns:
        int64 (T, H * W), numbers of patches.
    """
    candidates = scores[:, members.clamp(min=0)].masked_fill(members < 0, -torch.inf)  # (T, H * W, M)
    best = candidates.max(dim=-1, keepdim=True).values
    first = (candidates == best).int().argmax(dim=-1)  # (T, H * W)
    return members[torch.arange(len(members)), first]


def height(scores: torch.Tensor) -> float:
    """How far the best patch of any frame stands above the median patch of its own frame: scores (T, P)."""
    return float((scores.amax(dim=1) - scores.median(dim=1).values).max())


def _tiles_of(
    level: ZoomLevel, scores: torch.Tensor, taken: torch.Tensor, rows: int, columns: int
) -> tuple[ChosenTile, ...]:
    """The squares that patches were taken from."""
    owners, found = level.square_of[taken], []
    reached = scores.gather(1, taken)  # (T, H * W)
    for number, square in enumerate(level.squares):
        own = owners == number
        if not own.any():
            continue
        best = reached.masked_fill(~own, -torch.inf)
        frame = int(best.amax(dim=1).argmax())
        bottom, right = min(square.top + square.side, rows), min(square.left + square.side, columns)
        top, left = max(square.top, 0), max(square.left, 0)
        box = (top / rows, left / columns, bottom / rows, right / columns)
        found.append(ChosenTile(box, float(own.float().mean()), float(best.max()), frame))
    return tuple(sorted(found, key=lambda tile: -tile.score))
