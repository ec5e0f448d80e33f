"""Pictures of results, drawn with Pillow, which reading videos needs as well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..hub.files import atomic_file
from .scoring import paper_text

FONT_SIZE = 14  # pixels
BAR, ROW, MARGIN = 420, 22, 16  # pixels: width of 100 %, height of a line, border
BLUE, ORANGE, GREY, DARK = "#3b6ea5", "#c8641e", "#d9d9d9", "#222222"
MOST_ROWS = 40  # of one category; VideoMME has 30 sub-categories


class Canvas:
    """A white picture to draw on."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT_SIZE)

    def text(self, place: tuple[float, float], text: str, anchor: str = "la", fill: str = DARK) -> None:
        self.pen.text(place, text, fill=fill, font=self.font, anchor=anchor)

    def width_of(self, text: str) -> int:
        return int(self.pen.textlength(text, font=self.font)) + 1

    def box(self, box: tuple[float, float, float, float], fill: Any) -> None:
        self.pen.rectangle(box, fill=fill)

    def line(self, start: tuple[float, float], end: tuple[float, float], fill: str = DARK) -> None:
        self.pen.line((*start, *end), fill=fill)

    def save(self, path: Path) -> None:
        """Completely or not at all."""
        with atomic_file(path) as written:
            self.image.save(written, format="PNG")


def shade(fraction: float) -> tuple[int, int, int]:
    """From red at 0 to green at 1, both dark enough for white text."""
    return int(200 - 150 * fraction), int(70 + 70 * fraction), int(60 + 30 * fraction)


def draw_summary(summary: Mapping[str, Any], path: Path) -> bool:
    """Bars of the score and of each category with their intervals; the paper's number as a mark on the score.

    Args:
        summary: of a task, see `summarize`.
        path: of the PNG file.

    Returns:
        Whether there was a score to draw.
    """
    if summary["score"] is None:
        return False
    rows: list[tuple[str, dict[str, Any] | None]] = [("all", summary["score"])]
    for category, found in summary["categories"].items():
        rows.append((category, None))
        rows += list(found.items())[:MOST_ROWS]
        if len(found) > MOST_ROWS:
            rows.append((f"(and {len(found) - MOST_ROWS} more)", None))
    ruler = Canvas(1, 1)
    left = MARGIN + max(ruler.width_of(name) for name, _ in rows) + 14
    told = [f"{score['mean']:.1f}  ({score['num_questions']})" if score else "" for _, score in rows]
    canvas = Canvas(left + BAR + 14 + max(map(ruler.width_of, told)) + MARGIN, (len(rows) + 3) * ROW + 2 * MARGIN)
    canvas.text((MARGIN, MARGIN), _title(summary))
    top, bottom = MARGIN + 2 * ROW, MARGIN + (2 + len(rows)) * ROW
    for percent in (0, 25, 50, 75, 100):
        x = left + BAR * percent / 100
        canvas.line((x, top - 4), (x, bottom), GREY)
        canvas.text((x, bottom + 3), f"{percent}", anchor="ma")
    for number, (name, score) in enumerate(rows):
        y = top + number * ROW
        canvas.text((MARGIN if score is None or number == 0 else MARGIN + 10, y), name)
        if score is None:
            continue
        middle = y + ROW / 2 - 1
        canvas.box((left, y + 2, left + BAR * score["mean"] / 100, y + ROW - 5), BLUE)
        low, high = (left + BAR * score[end] / 100 for end in ("low", "high"))
        canvas.line((low, middle), (high, middle))
        for end in (low, high):
            canvas.line((end, middle - 4), (end, middle + 4))
        canvas.text((left + BAR + 14, y), told[number])
    if summary["paper"] is not None:
        x = left + BAR * summary["paper"] / 100
        canvas.box((x - 1, top - 2, x + 1, top + ROW - 3), ORANGE)
    canvas.save(path)
    return True


def _title(summary: Mapping[str, Any]) -> str:
    settings = summary["settings"]
    model = Path(str(settings["model"])).name
    answered = f"{summary['num_answered']} of {summary['num_questions']} questions"
    paper = "" if summary["paper"] is None else f"; orange: the paper's {paper_text(summary['paper'])}"
    return (
        f"{summary['task']}, {model}, protocol {settings['protocol']}: {answered}; % right with 95 % intervals{paper}"
    )
