"""A picture of the compressor's attention: the frames, and below them for each question the attention of both branches.

Drawn with Pillow alone. Letters: T frames, H/W patch rows and columns.

Source: paper, figure 6.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..processors.answering_hicom import ReadVideo
from ..processors.frame_sampling_hicom import uniform_indices
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_reading_hicom import SamplingRecord
from ..shapes import is_right
from .attention_maps import AttentionMaps

# Pixels.
CELL = 150  # longer side of a frame
LEAST_ROW = 60  # height of a row, which has three lines of labels
GAP = 4  # between frames
MARGIN = 20
LABELS = 92  # width of the column of row labels
LEAST_WIDTH = 760  # of the frames' part, so that questions and legend have room beside a single picture
SMALL, LARGE = 14, 18  # text
OUTLINE = 2  # from an object to its outline
BAR = 180, 12  # width and height of a colour bar

MAX_SHOWN = 8  # frames; of more, evenly spread ones are shown
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (110, 110, 120)
SQUARE = (90, 200, 250)  # outline of the best square
BLUE, GREEN, RED = (20, 70, 160), (0, 120, 60), (180, 30, 30)
# Colours from "as in an even spread" to the maximum, RGB.
HEAT = np.array([(70, 0, 110), (190, 20, 110), (250, 90, 40), (255, 190, 30), (255, 250, 170)], dtype=np.float64)
DIM, GREY = 0.62, 0.35  # brightness that frames keep under the heat, and how much of their colour they lose
LEAST_TOP = 2.0  # times an even spread; a scale that ends lower would make noise look like attention
TOP_SHARE = 0.997  # of the patches lie on the scale; a few brighter ones would darken all the others


@dataclass(frozen=True)
class Explained:
    """A question, its answer, and the attention for it.

    Attributes:
        question: as it was asked.
        answer: the model's.
        maps: what `attention_maps` returned.
        right_answer: shown beside the model's, if it is known.
        boxes: (R, T, 4), left, top, right and bottom of what is asked about, fractions of the frame that is shown, NaN where
            it is not seen; outlined in the rows of attention.
        best_square: (T, 4), likewise: the square of tiles that fits the question best; outlined in another colour.
        note: text after the answer.
    """

    question: str
    answer: str
    maps: AttentionMaps
    right_answer: str | None = None
    boxes: np.ndarray | None = None
    best_square: np.ndarray | None = None
    note: str = ""


def shown_frames(processor: HiComProcessor, video: ReadVideo) -> np.ndarray:
    """The frames as the model sees them: padded to a square and resized.

    Args:
        processor: of the model.
        video: what `read_frames` returned.

    Returns:
        uint8 (T, S, S, 3).
    """
    return shown_pixels(processor, video.pixel_values).numpy()


def whole_frames(processor: HiComProcessor, frames: np.ndarray, sampling: SamplingRecord) -> np.ndarray:
    """Frames without the margins that padding gave them: with tiles, maps are spread over these.

    Args:
        processor: of the model.
        frames: uint8 (T, S, S, 3), see `shown_frames`.
        sampling: the record of these frames.

    Returns:
        uint8 (T, height, width, 3), in the shape of the video, the longer side S.
    """
    if not processor.video_processor.do_pad:
        return frames
    size, larger = (sampling.height, sampling.width), max(sampling.height, sampling.width)
    scale = frames.shape[1] / larger
    starts = [(larger - one) // 2 for one in size]  # as `pad_to_square` places it
    rows, columns = (
        slice(round(start * scale), max(round((start + one) * scale), round(start * scale) + 1))
        for start, one in zip(starts, size, strict=True)
    )
    return frames[:, rows, columns]


def shown_pixels(processor: HiComProcessor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Pixel values (T, 3, S, S) as pictures, uint8 (T, S, S, 3) on the CPU: what `shown_frames` gives, for parts of a video."""
    settings = processor.video_processor
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (settings.image_mean, settings.image_std))
    pixels = pixel_values.float().cpu() * std + mean  # 0 to 1
    return (pixels * 255 + 0.5).clamp(0, 255).to(torch.uint8).movedim(1, -1)


def picture(
    frames: np.ndarray, times: Sequence[float], explained: Sequence[Explained], title: str = ""
) -> Image.Image:
    """Draw the frames in a row, and for each question a row of local and a row of global attention.

    All rows of one branch have the same scale, which the legend gives in multiples of an even spread. Patches with no more
    than an even spread are not coloured.

    Args:
        frames: uint8 (T, S, S, 3), what the model sees, see `shown_frames`; with tiles (T, height, width, 3), see
            `whole_frames`. Of more than 8 frames, 8 are shown.
        times: seconds of each frame; empty for frames without a clock.
        explained: at least one, all about these frames.
        title: a line on top.

    Returns:
        An RGB picture, 1,360 pixels wide with 8 frames.

    Raises:
        ValueError: nothing is explained, or the shapes of frames, times and maps do not fit together.

    Example:
        >>> picture(frames, times, [Explained(question, answer, maps)]).save("attention.png")  # doctest: +SKIP
    """
    _check(frames, times, explained)
    chosen = uniform_indices(len(frames), MAX_SHOWN) if len(frames) > MAX_SHOWN else list(range(len(frames)))
    shown = [_resized(frames[index]) for index in chosen]
    sheet = _Sheet(len(chosen), max(shown[0].height, LEAST_ROW), explained, title)
    if title:
        sheet.write([(title, INK, LARGE)])
    sheet.row(
        ("frames", "what the", "model sees"),
        shown,
        [f"{times[index]:.2f} s" if len(times) else f"frame {index + 1}" for index in chosen],
    )
    tops = {branch: _top([_map(item, branch) for item in explained], chosen) for branch in BRANCHES}
    for item in explained:
        sheet.y += SMALL
        sheet.write([(item.question, INK, LARGE)])
        sheet.write(_verdict(item))
        for branch, labels in BRANCHES.items():
            values = _map(item, branch)
            if values is not None:
                cells = [_heated(frames[index], values[index], tops[branch]) for index in chosen]
                for cell, index in zip(cells, chosen, strict=True):
                    if item.best_square is not None:
                        _outline(cell, item.best_square[None, index], 0, SQUARE)
                    if item.boxes is not None:
                        _outline(cell, item.boxes[:, index], OUTLINE, PAPER)
                sheet.row(labels, cells)
    sheet.legend(tops, explained[0].maps, any(item.best_square is not None for item in explained))
    return sheet.image


def heated_frame(frame: np.ndarray, attention: np.ndarray, index: int) -> Image.Image:
    """One frame under its attention, on the scale of the whole map.

    Args:
        frame: uint8 (height, width, 3).
        attention: (T, H, W), a map of `AttentionMaps`.
        index: of the frame.
    """
    top, side = _top([attention], list(range(len(attention)))), max(frame.shape[:2])
    return _heated(frame, attention[index], top, side)


# Which map, and the labels of its rows.
BRANCHES = {"local_map": ("local", "within each", "group"), "global_map": ("global", "over the", "whole video")}
LINE = LARGE + 10  # height of a line of text
TIMES, LEGEND = SMALL + 6, 2 * SMALL + BAR[1] + 3  # heights


def _map(item: Explained, branch: str) -> np.ndarray | None:
    return getattr(item.maps, branch)


class _Sheet:
    """The picture in the making; what is added goes below what is there.

    Args:
        num_frames: in a row.
        cell_height: of a row, without the gap below it.
        explained, title: what is to be written, for the height.
    """

    def __init__(self, num_frames: int, cell_height: int, explained: Sequence[Explained], title: str):
        self.cell_height = cell_height
        rows = 1 + sum(_map(item, branch) is not None for item in explained for branch in BRANCHES)
        texts = bool(title) * LINE + len(explained) * (SMALL + 2 * LINE)
        height = 2 * MARGIN + texts + TIMES + rows * (cell_height + GAP) + LEGEND
        self.width = LABELS + max(num_frames * (CELL + GAP) - GAP, LEAST_WIDTH)
        self.image = Image.new("RGB", (self.width + 2 * MARGIN, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def text(self, x: int, y: int, text: str, colour=INK, size: int = SMALL, anchor: str = "la") -> None:
        self.draw.text((x, y), text, fill=colour, font=ImageFont.load_default(size), anchor=anchor)

    def write(self, parts: list[tuple[str, tuple, int]]) -> None:
        """A line of parts one after another, cut where the picture ends."""
        bottom, x = self.y + LARGE, MARGIN
        for text, colour, size in parts:
            font = ImageFont.load_default(size)
            text = _cut(" ".join(text.split()), font, MARGIN + self.width - x)
            self.text(x, bottom, text, colour, size, anchor="ls")
            x += round(font.getlength(text)) + LARGE
        self.y += LINE

    def row(self, labels: tuple[str, str, str], cells: list[Image.Image], captions: Sequence[str] = ()) -> None:
        for number, caption in enumerate(captions):
            self.text(MARGIN + LABELS + number * (CELL + GAP) + CELL // 2, self.y, caption, FAINT, anchor="ma")
        self.y += TIMES if captions else 0
        for line, label in enumerate(labels):
            self.text(
                MARGIN,
                self.y + self.cell_height // 2 + (line - 1) * (SMALL + 4),
                label,
                FAINT if line else INK,
                anchor="lm",
            )
        for number, cell in enumerate(cells):
            x, y = MARGIN + LABELS + number * (CELL + GAP), self.y
            self.image.paste(cell, (x + (CELL - cell.width) // 2, y + (self.cell_height - cell.height) // 2))
        self.y += self.cell_height + GAP

    def legend(self, tops: dict[str, float], maps: AttentionMaps, has_squares: bool) -> None:
        """A colour bar for each branch, and the colour of the best square."""
        self.y += SMALL
        x = MARGIN + LABELS
        for branch, labels in BRANCHES.items():
            if getattr(maps, branch) is None:
                continue
            bar = _colours(np.linspace(0, 1, BAR[0]))[None].repeat(BAR[1], axis=0)
            self.image.paste(Image.fromarray(bar.astype(np.uint8)), (x, self.y))
            for share, number in ((0.0, 1.0), (0.5, (1 + tops[branch]) / 2), (1.0, tops[branch])):
                self.text(x + round(share * BAR[0]), self.y + BAR[1] + 3, f"{number:.3g}x", FAINT, anchor="ma")
            self.text(x + BAR[0] + 14, self.y + BAR[1] // 2, labels[0], INK, anchor="lm")
            x += BAR[0] + 100
        self.text(x, self.y + BAR[1] // 2, "attention, times an even spread", FAINT, anchor="lm")
        if has_squares:
            below = self.y + BAR[1] + 5
            self.draw.rectangle((x, below, x + BAR[1], below + BAR[1]), outline=SQUARE)
            self.text(x + BAR[1] + 8, below + BAR[1] // 2, "the best square", FAINT, anchor="lm")


def _verdict(item: Explained) -> list[tuple[str, tuple, int]]:
    parts = [(item.answer or "(nothing)", BLUE, LARGE)]
    if item.right_answer is not None:
        right = is_right(item.answer, item.right_answer)
        parts.append(("right", GREEN, SMALL) if right else (f"wrong, it is {item.right_answer}", RED, SMALL))
    return [*parts, (item.note, FAINT, SMALL)]


def _top(maps: Sequence[np.ndarray | None], chosen: list[int]) -> float:
    """Where the scale ends."""
    shown = [values[chosen].ravel() for values in maps if values is not None]
    return max(float(np.quantile(np.concatenate(shown), TOP_SHARE)), LEAST_TOP) if shown else LEAST_TOP


def _heated(frame: np.ndarray, values: np.ndarray, top: float, side: int = CELL) -> Image.Image:
    """A frame (height, width, 3) under the heat of its map (H, W), as a picture whose longer side has `side` pixels."""
    shown = _resized(frame, side)
    heat = np.clip((values - 1) / (top - 1), 0, 1)
    heat = np.array(Image.fromarray(heat.astype(np.float32)).resize(shown.size, Image.Resampling.BILINEAR))
    pixels = np.array(shown, dtype=np.float64)
    grey = pixels.mean(axis=-1, keepdims=True)
    dimmed = DIM * (GREY * grey + (1 - GREY) * pixels)
    alpha = 0.8 * heat[..., None] ** 0.75
    return Image.fromarray((dimmed * (1 - alpha) + _colours(heat) * alpha).astype(np.uint8))


def _outline(cell: Image.Image, boxes: np.ndarray, distance: int, colour: tuple[int, int, int]) -> None:
    """Draw boxes (R, 4) onto a cell, some pixels larger than what they hold, as far as the cell has room."""
    size = np.array((cell.width, cell.height, cell.width, cell.height))
    for box in boxes[~np.isnan(boxes).any(axis=1)]:
        edges = (box * size + (-distance, -distance, distance, distance)).round()
        ImageDraw.Draw(cell).rectangle(tuple(np.clip(edges, 0, size - 1).tolist()), outline=colour)


def _colours(heat: np.ndarray) -> np.ndarray:
    """(...) from 0 to 1 -> RGB (..., 3)."""
    steps = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(heat, steps, channel) for channel in HEAT.T], axis=-1)


def _resized(frame: np.ndarray, side: int = CELL) -> Image.Image:
    height, width = (max(1, round(side * one / max(frame.shape[:2]))) for one in frame.shape[:2])
    return Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of a text as has room."""
    if font.getlength(text) <= width:
        return text
    room = bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(text[:count] + "..."))
    return text[:room].rstrip() + "..." if room else ""


def _check(frames: np.ndarray, times: Sequence[float], explained: Sequence[Explained]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"frames must be uint8 (T, height, width, 3) with at least one, got {frames.dtype} {frames.shape}"
        )
    if len(times) not in (0, len(frames)):
        raise ValueError(f"there are {len(frames)} frames and {len(times)} times")
    if not explained:
        raise ValueError("nothing is explained; give at least one question with its maps")
    for item in explained:
        for branch in BRANCHES:
            values = _map(item, branch)
            if values is not None and (values.ndim != 3 or len(values) != len(frames)):
                raise ValueError(f"{branch} must be ({len(frames)}, H, W) for these frames, got {values.shape}")
