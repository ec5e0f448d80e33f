"""What happens on the web page, control by control; `web.py` lays it out.

Letters: T frames, S image side.
"""

import base64
import html
import io
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] of the extra web
import numpy as np
from PIL import Image

from ..inference.attention_maps import AttentionMaps
from ..inference.attention_picture import heated_frame, shown_frames, whole_frames
from ..processors.candidate_frames_hicom import CANDIDATE_FPS, reading_of_chosen
from ..processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ..processors.frame_tiles_hicom import FrameTiles, TilesRecord
from .engine import Engine
from .requests import Request, Result, Settings, VideoSource

MAX_SHOWN_FRAMES = 64
LEAST_SIDE = 320  # pixels of a frame under its attention
SQUARE_SIDE = 240  # pixels of the frame on which the chosen square is outlined
MAX_ANSWERS = 8  # of a session, whose attention can be looked at
MAX_VISITS = 64  # sessions that hold frames; the one that was used longest ago goes first
CANDIDATES_PER_FRAME = 4  # at least, where a short video would have fewer at one per second
CLOSED = "This session was closed, since others needed its memory. Choose the video again."
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-!|<>$~])")


@dataclass
class MappedAnswer:
    """An answer whose attention can be looked at.

    Attributes:
        question: as it was asked.
        maps: the attention of the compressor.
        frames: uint8 (T, S, S, 3), as the question saw them; with tiles (T, height, width, 3), over which maps are spread.
        times: seconds of each.
    """

    question: str
    maps: AttentionMaps
    frames: np.ndarray
    times: list[float]


@dataclass
class Visit:
    """What a visitor has open.

    Attributes:
        path: of the video.
        source: what the engine is asked about.
        frames: uint8 (T, S, S, 3), as the model sees them without a choice; with tiles (T, height, width, 3), without margins.
        times: seconds of each.
        duration: of the video, in seconds; None without a clock.
        turns: of the chat, as the engine takes them.
        mapped: the last answers with their attention, oldest first.
        first_seconds: to the first token of the first question.
        is_closed: whether the session lost its memory to others.
    """

    path: str
    source: VideoSource
    frames: np.ndarray
    times: list[float]
    duration: float | None
    turns: list[dict[str, Any]] = field(default_factory=list)
    mapped: list[MappedAnswer] = field(default_factory=list)
    first_seconds: float | None = None
    is_closed: bool = False


class Page:
    """Each method serves one control.

    Args:
        engine: answers; the page asks it to read only what was uploaded to this server.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.config = engine.session.model.config
        self._visits: OrderedDict[int, Visit] = OrderedDict()
        self._lock = threading.Lock()

    # Sessions ----------------------------------------------------------------------------------------------------------

    def forget(self, visit: Visit | None) -> None:
        """Free what a session holds."""
        if visit is None:
            return
        with self._lock:
            self._visits.pop(id(visit), None)
        visit.frames, visit.mapped, visit.is_closed = np.empty((0, 0, 0, 3), np.uint8), [], True

    def _remember(self, visit: Visit) -> None:
        """Keep a visit, as the newest one; the oldest ones are closed where there are too many."""
        with self._lock:
            self._visits[id(visit)] = visit
            self._visits.move_to_end(id(visit))
            closed = list(self._visits.values())[: max(0, len(self._visits) - MAX_VISITS)]
        for old in closed:
            self.forget(old)

    # The video ---------------------------------------------------------------------------------------------------------

    def open(self, path: str | None, num_frames: int, chooses: bool, tiles: bool, before: Visit | None) -> tuple:
        """Read a video: the visit, its frames with their times, a line about them, and no timeline; or the error as that line.

        Args:
            path: of the upload.
            num_frames: that a question sees.
            chooses: whether it chooses them.
            tiles: whether it chooses among squares of each frame.
            before: what the session had open.
        """
        self.forget(before)
        if not path:
            return None, [], "Choose a video.", ""
        num_frames = int(num_frames)
        try:
            with self.engine.media.fetched(path) as file:
                read = self.engine.media.read(file, {"num_frames": num_frames})
        except ValueError as error:
            return None, [], f"**This video cannot be read.** {plain(error)}", ""
        record, source = read.sampling, VideoSource(path, {"num_frames": num_frames})
        if chooses and record.duration:
            fps = max(CANDIDATE_FPS, CANDIDATES_PER_FRAME * num_frames / record.duration)
            source = VideoSource(path, {"fps": fps}, FrameSelection(num_frames=num_frames))
        frames = shown_frames(self.engine.session.processor, read)
        if tiles:
            source = replace(source, tiles=FrameTiles())
            frames = whole_frames(self.engine.session.processor, frames, record)
        visit = Visit(path, source, frames, record.times, record.duration)
        self._remember(visit)
        rows, columns = self.config.grid
        patches, tokens = len(frames) * rows * columns, self.config.num_visual_tokens(len(frames))
        line = (
            f"{len(frames)} frames, {patches:,} patches → **{tokens:,} tokens** ({patches / tokens:.1f} times fewer)"
        )
        if source.selection is not None:
            line += f"; each question chooses at most {num_frames} among {source.sampling['fps']:.3g} per second"
        elif chooses:
            line += "; **questions do not choose frames of this video**, as it has no duration: all see these"
        if tiles:
            line += "; each question chooses the patches among squares of the frames"
        return visit, captioned(frames, record.times), line, ""

    # The chat ----------------------------------------------------------------------------------------------------------

    def ask(
        self, question: str, chat: list, visit: Visit | None, instruction: str, max_tokens: int
    ) -> Iterator[tuple]:
        """Answer a question: the chat piece by piece; at the end the visit, a line about the answer, and what it saw."""
        skip = gr.skip()
        if not (question or "").strip():
            yield chat, visit, skip, skip, skip
            return
        chat = [*chat, {"role": "user", "content": plain(question)}]
        if visit is None or visit.is_closed:
            text = "Choose a video first." if visit is None else CLOSED
            yield [*chat, {"role": "assistant", "content": text}], None, skip, skip, skip
            return
        self._remember(visit)
        first = [] if visit.turns else [{"type": "video"}]
        turn = {"role": "user", "content": [*first, {"type": "text", "text": question}]}
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        ticket = None
        try:
            settings = Settings(max_new_tokens=int(max_tokens))
            own = (instruction or "").strip() or None
            request = Request([*visit.turns, turn], [visit.source], own, settings)
            ticket = self.engine.submit(request, lambda _, text: pieces.put(text))
            ticket.future.add_done_callback(lambda _: pieces.put(None))
            answer = ""
            while (piece := pieces.get()) is not None:
                answer += piece
                yield [*chat, {"role": "assistant", "content": plain(answer)}], skip, skip, skip, skip
            result = ticket.future.result()
        except (ValueError, RuntimeError) as error:
            yield [*chat, {"role": "assistant", "content": f"**Error:** {plain(error)}"}], skip, skip, skip, skip
            return
        finally:
            if ticket is not None:
                ticket.cancel()  # Stop closes this generator: the answer ends at its next token
        reply = {"role": "assistant", "content": [{"type": "text", "text": result.texts[0]}]}
        visit.turns = [*visit.turns, turn, reply]
        answer = self._map(visit, question, result)
        shown = f"{plain(result.texts[0]) or '(nothing)'}\n\n*compressed on: {plain(answer.maps.instruction)}*"
        gallery, pictures = skip, ""
        if result.selections[0] is not None:
            gallery, pictures = captioned(answer.frames, answer.times), timeline(result.selections[0], visit.duration)
        if result.tiles[0] is not None:
            pictures += chosen_square(result.tiles[0], answer.frames, answer.times)
        yield (
            [*chat, {"role": "assistant", "content": shown}],
            visit,
            self._line(visit, result),
            gallery,
            pictures or skip,
        )

    def _map(self, visit: Visit, question: str, result: Result) -> MappedAnswer:
        """Keep the attention of the compressor for an answer."""
        maps = self.engine.attention(result.videos[0], result.answers[0].instruction)
        frames, times = visit.frames, visit.times
        record, candidates = result.selections[0], result.candidates[0]
        if record is not None and candidates is not None:
            times = list(record.times)
            frames = (
                self._chosen_frames(visit, reading_of_chosen(record, {}))
                if result.tiles[0]
                else (candidates.pictures(record.frames))
            )
        visit.mapped = [*visit.mapped, MappedAnswer(question, maps, frames, times)][-MAX_ANSWERS:]
        return visit.mapped[-1]

    def _chosen_frames(self, visit: Visit, request: dict[str, Any]) -> np.ndarray:
        """Frames that a question has chosen, read again as they are, without margins."""
        processor = self.engine.session.processor
        with self.engine.media.fetched(visit.path) as file:
            read = self.engine.media.read(file, request)
        return whole_frames(processor, shown_frames(processor, read), read.sampling)

    def _line(self, visit: Visit, result: Result) -> str:
        seconds = result.first_token_seconds
        line = f"Compressed on: **{plain(result.answers[0].instruction)}** · first token after {seconds:.2f} s "
        was_cached = result.num_cached_tokens > 0
        if visit.first_seconds is None:
            visit.first_seconds = seconds
            return line + f"(first question, {'features kept' if was_cached else 'video encoded'})"
        kept = "features kept" if was_cached else "frames encoded"
        return line + f"(follow-up, {kept}; the first question took {visit.first_seconds:.2f} s)"

    # The attention -----------------------------------------------------------------------------------------------------

    def controls(self, visit: Visit | None, which: int | None) -> tuple:
        """The list of answers and the slider over the frames of one of them.

        Args:
            visit: of the session.
            which: number of the answer; None for the newest.
        """
        mapped = [] if visit is None else visit.mapped
        which = len(mapped) - 1 if which is None or which >= len(mapped) else which
        frames = visit.frames if visit is not None else ()
        if mapped:
            frames = mapped[which].frames
        choices = [(answer.question, number) for number, answer in enumerate(mapped)]
        return (
            gr.Dropdown(choices, value=which if mapped else None),
            gr.Slider(1, max(len(frames), 2), value=1, step=1, label="Frame"),
        )

    def attention(self, visit: Visit | None, which: int | None, number: float, branch: str) -> Any:
        """One frame under the attention of an answer; None where there is none."""
        if visit is None or not visit.mapped:
            return None
        answer = visit.mapped[-1 if which is None or which >= len(visit.mapped) else which]
        index = min(max(int(number), 1), len(answer.frames)) - 1
        values = answer.maps.local_map if branch == "local" else answer.maps.global_map
        frame = answer.frames[index]
        shown = Image.fromarray(frame) if values is None else heated_frame(frame, values, index)
        larger = -(-LEAST_SIDE // shown.width)
        return shown.resize((shown.width * larger, shown.height * larger))


def captioned(frames: np.ndarray, times: list[float]) -> list[tuple[np.ndarray, str]]:
    """Frames with their times, as a gallery takes them."""
    names = [f"{time:.2f} s" for time in times] or [f"frame {number}" for number in range(1, len(frames) + 1)]
    return list(zip(frames, names, strict=True))[:MAX_SHOWN_FRAMES]


def plain(text: Any) -> str:
    """A text whose characters mean themselves in Markdown and HTML.

    Example:
        >>> plain("a *b* <c>")
        'a \\\\*b\\\\* \\\\<c\\\\>'
    """
    return MARKDOWN.sub(r"\\\1", str(text))


def timeline(record: SelectionRecord, duration: float | None) -> str:
    """A bar as long as the video, with the chosen frames on it, as SVG.

    Args:
        record: which frames were chosen.
        duration: of the video, in seconds.
    """
    length = duration or (record.times[-1] if record.times else 0) or 1.0
    marks = "".join(
        f'<rect x="{1000 * time / length:.1f}" y="0" width="3" height="28" fill="#d9480f"><title>{time:.2f} s</title></rect>'
        for time in record.times
    )
    names = ", ".join(f"{time:.1f}" for time in record.times)
    label = html.escape(f"{len(record.frames)} of {record.num_candidates} frames, at seconds {names}: {record.reason}")
    return (
        f'<figure style="margin:0"><svg viewBox="0 0 1000 28" width="100%" height="28" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><rect width="1000" height="28" fill="#8884"/>{marks}</svg>'
        f'<figcaption style="display:flex;justify-content:space-between"><span>0 s</span><span>{length:.1f} s</span>'
        f'</figcaption><p style="overflow-wrap:anywhere">{label}</p></figure>'
    )


def chosen_square(record: TilesRecord, frames: np.ndarray, times: list[float]) -> str:
    """The frame with the patch that fits a question best, small, and the square of that patch on it, as HTML.

    Args:
        record: which squares a question sees.
        frames: uint8 (T, height, width, 3), without margins.
        times: seconds of each; empty without a clock.
    """
    best = record.tiles[0]
    picture, content = Image.fromarray(np.ascontiguousarray(frames[best.frame])), io.BytesIO()
    picture.thumbnail((SQUARE_SIDE, SQUARE_SIDE))
    picture.save(content, "PNG")
    source = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    top, left, bottom, right = (100 * part for part in best.box)
    when = f"at {times[best.frame]:.2f} s" if times else f"of frame {best.frame + 1}"
    label = html.escape(
        f"zoom {record.zoom}, {len(record.tiles)} squares seen; the best one, {when}: rows {top:.0f} to {bottom:.0f} %, "
        f"columns {left:.0f} to {right:.0f} %, score {best.score:.2f}"
    )
    return (
        f'<figure style="margin:0"><div style="position:relative;display:inline-block"><img src="{source}" alt="{label}">'
        f'<div style="position:absolute;box-sizing:border-box;border:3px solid #d9480f;top:{top:.1f}%;left:{left:.1f}%;'
        f'width:{right - left:.1f}%;height:{bottom - top:.1f}%"></div></div>'
        f'<figcaption style="overflow-wrap:anywhere">{label}</figcaption></figure>'
    )
