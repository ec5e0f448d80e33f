"""The web page: a video, its sampled frames, a chat about it, and the attention.

All work is the engine's, so the page shares its queue, limits and cache with every other client. A visitor's session holds the
path of the video and the chat; features lie in the engine's cache, which is bounded.
"""

import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves this machine

import gradio as gr  # pyright: ignore[reportMissingImports] of the extra web, which the tests run without
import numpy as np
from PIL import Image

from ..assets import example_videos
from ..inference.attention_maps import AttentionMaps
from ..inference.attention_picture import heated_frame, shown_frames
from .engine import Engine
from .requests import Request, Settings, VideoSource

SESSION_SECONDS = 1800  # after which a visitor's state is dropped
MAX_SHOWN_FRAMES = 64
FONTS = ("system-ui", "sans-serif")  # gradio's own would be fetched from a server of Google
QUESTIONS = ("What colour is the ring?", "How many objects are there?", "Describe the picture.")


@dataclass
class Visit:
    """What a visitor has open.

    Attributes:
        path: of the video.
        num_frames: that were asked for.
        frames: uint8 (T, S, S, 3), as the model sees them.
        times: seconds of each.
        turns: of the chat, as the engine takes them.
        maps: of the last answer.
    """

    path: str
    num_frames: int
    frames: np.ndarray
    times: list[float]
    turns: list[dict[str, Any]] = field(default_factory=list)
    maps: AttentionMaps | None = None

    def caption(self, index: int) -> str:
        return f"{self.times[index]:.2f} s" if self.times else f"frame {index + 1}"


class Page:
    """What happens on the page. Each method serves one control.

    Args:
        engine: answers; the page asks it to read only what was uploaded to this server.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.config = engine.session.model.config

    def open(self, path: str | None, num_frames: int) -> tuple[Visit | None, list, str]:
        """Read a video: the visit, its frames with their times, and a line about them; or the error as that line."""
        if not path:
            return None, [], "Choose a video."
        num_frames = int(num_frames)
        try:
            with self.engine.media.fetched(path) as file:
                read = self.engine.media.read(file, {"num_frames": num_frames})
        except ValueError as error:
            return None, [], f"**This video cannot be read.** {error}"
        frames = shown_frames(self.engine.session.processor, read)
        visit = Visit(path, num_frames, frames, read.sampling.times)
        shown = [(frame, visit.caption(index)) for index, frame in enumerate(frames[:MAX_SHOWN_FRAMES])]
        rows, columns = self.config.grid
        patches, tokens = len(frames) * rows * columns, self.config.num_visual_tokens(len(frames))
        return (
            visit,
            shown,
            f"{len(frames)} frames, {patches:,} patches → **{tokens:,} tokens** ({patches / tokens:.1f} times fewer)",
        )

    def ask(
        self, question: str, chat: list, visit: Visit | None, instruction: str, max_tokens: int
    ) -> Iterator[tuple]:
        """Answer a question: the chat piece by piece, and at the end the visit and a line about the answer."""
        if not (question or "").strip():
            yield chat, visit, gr.skip()
            return
        chat = [*chat, {"role": "user", "content": question}]
        if visit is None:
            yield [*chat, {"role": "assistant", "content": "Choose a video first."}], None, gr.skip()
            return
        turn = {
            "role": "user",
            "content": [*([] if visit.turns else [{"type": "video"}]), {"type": "text", "text": question}],
        }
        source = VideoSource(visit.path, {"num_frames": visit.num_frames})
        settings = Settings(max_new_tokens=int(max_tokens))
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        ticket = None
        try:
            request = Request([*visit.turns, turn], [source], (instruction or "").strip() or None, settings)
            ticket = self.engine.submit(request, lambda _, text: pieces.put(text))
            ticket.future.add_done_callback(lambda _: pieces.put(None))
            answer = ""
            while (piece := pieces.get()) is not None:
                answer += piece
                yield [*chat, {"role": "assistant", "content": answer}], gr.skip(), gr.skip()
            result = ticket.future.result()
        except (ValueError, RuntimeError) as error:
            yield [*chat, {"role": "assistant", "content": f"**Error:** {error}"}], gr.skip(), gr.skip()
            return
        finally:
            if ticket is not None:
                ticket.cancel()  # Stop closes this generator: the answer ends at its next token
        used = result.answers[0].instruction
        visit.turns = [
            *visit.turns,
            turn,
            {"role": "assistant", "content": [{"type": "text", "text": result.texts[0]}]},
        ]
        visit.maps = self._maps(visit, used)
        kind = "follow-up, features kept" if result.num_cached_tokens else "first question, video encoded"
        line = f"Compressed on: **{used}** · first token after {result.first_token_seconds:.2f} s ({kind})"
        yield [*chat, {"role": "assistant", "content": result.texts[0] or "(nothing)"}], visit, line

    def _maps(self, visit: Visit, instruction: str) -> AttentionMaps:
        session = self.engine.session
        return session.open(visit.path, num_frames=visit.num_frames).attention(instruction)

    def slider(self, visit: Visit | None) -> Any:
        """The slider over the frames of a visit."""
        last = 1 if visit is None else len(visit.frames)
        return gr.Slider(1, max(last, 2), value=1, step=1, label="Frame")

    def attention(self, visit: Visit | None, number: float, branch: str) -> Any:
        """One frame under the attention of the last answer."""
        if visit is None or visit.maps is None:
            return None
        index = min(max(int(number), 1), len(visit.frames)) - 1
        values = visit.maps.local_map if branch == "local" else visit.maps.global_map
        if values is None:
            return Image.fromarray(visit.frames[index])
        return heated_frame(visit.frames[index], values, index)


def make_page(engine: Engine, title: str) -> gr.Blocks:
    """The page on an engine.

    Args:
        engine: answers.
        title: name of the model.
    """
    page = Page(engine)
    with gr.Blocks(title=f"HICom: {title}", analytics_enabled=False) as blocks:
        visit = gr.State(None, time_to_live=SESSION_SECONDS)
        note = f"\n\n*Note: {engine.session.note}.*" if engine.session.note else ""
        gr.Markdown(f"# HICom: ask {title} about a video{note}")
        with gr.Row():
            with gr.Column(min_width=320):
                video = gr.Video(label="Video", sources=["upload"], height=260)
                gr.Examples([[str(path)] for path in example_videos()], [video], label="Examples")
                count = gr.Slider(1, min(engine.limits.max_frames, MAX_SHOWN_FRAMES), 16, step=1, label="Frames")
                about = gr.Markdown("Choose a video.", elem_id="about")
                frames = gr.Gallery(label="Frames that the model sees", columns=4, height=240, elem_id="frames")
            with gr.Column(min_width=320):
                chat = gr.Chatbot(label="Chat", height=320, elem_id="chat")
                question = gr.Textbox(label="Question", placeholder=QUESTIONS[0], elem_id="question", max_length=2000)
                with gr.Row():
                    send = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Stop", elem_id="stop")
                gr.Examples([[text] for text in QUESTIONS], [question], label="Questions")
                with gr.Accordion("Instruction and length", open=False):
                    instruction = gr.Textbox(
                        label="Instruction",
                        info="Conditions the compression; empty: the question",
                        elem_id="instruction",
                    )
                    length = gr.Slider(1, engine.limits.max_new_tokens, 128, step=1, label="Longest answer, tokens")
                used = gr.Markdown("", elem_id="used")
        with gr.Row():
            with gr.Column(min_width=320):
                branch = gr.Radio(
                    ["local", "global"], value="local", label="Attention of the last answer", elem_id="branch"
                )
                number = gr.Slider(1, 16, 1, step=1, label="Frame", elem_id="number")
            with gr.Column(min_width=320):
                picture = gr.Image(
                    label="Where the compressor looked", height=320, elem_id="attention", interactive=False
                )
        opened = [visit, frames, about]
        for control in (video.change, count.release):
            control(page.open, [video, count], opened).then(page.slider, visit, number).then(
                lambda: ([], "", None), None, [chat, used, picture]
            )
        inputs = [question, chat, visit, instruction, length]
        for control in (send.click, question.submit):
            asking = control(page.ask, inputs, [chat, visit, used], concurrency_limit=engine.limits.max_queue)
            asking.then(lambda: "", None, question).then(page.attention, [visit, number, branch], picture)
            stop.click(None, cancels=[asking])
        for control in (number.change, branch.change):
            control(page.attention, [visit, number, branch], picture, show_progress="hidden")
    return blocks


def launch_page(engine: Engine, title: str, host: str, port: int) -> None:
    """Show the page until it is interrupted.

    Args:
        engine, title: see `make_page`.
        host, port: where it listens.

    Raises:
        OSError: the port is taken.
    """
    theme = gr.themes.Default(font=FONTS, font_mono=("monospace",))
    make_page(engine, title).launch(server_name=host, server_port=port, share=False, theme=theme, footer_links=[])
