"""The web page: a video, its sampled frames, a chat about it, and the attention.

All work is the engine's, so the page shares its queue, limits and cache with every other client. Features lie in the engine's
cache, which is bounded. A visitor's session holds the frames of one video and the maps of its last answers.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves this machine

import gradio as gr  # pyright: ignore[reportMissingImports] of the extra web

from ..assets import example_videos
from ..modeling.model_card_hicom import EXAMPLE_QUESTIONS
from .engine import Engine
from .page import MAX_SHOWN_FRAMES, Page

SESSION_SECONDS = 1800  # after which a visitor's state is dropped
SWEEP_SECONDS = 600  # between searches for uploads that are older than twice that
FONTS = ("system-ui", "sans-serif")  # gradio's default fonts would be fetched from a server of Google
QUESTIONS = (*list(EXAMPLE_QUESTIONS)[:2], "Describe the picture.")


def make_page(engine: Engine, title: str) -> gr.Blocks:
    """The page on an engine.

    Args:
        engine: answers; made with `keep_pictures=True`.
        title: name of the model.
    """
    page = Page(engine)
    with gr.Blocks(
        title=f"HICom: {title}", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, 2 * SESSION_SECONDS)
    ) as blocks:
        visit = gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=page.forget)
        note = f"\n\n*Note: {engine.session.note}.*" if engine.session.note else ""
        gr.Markdown(f"# HICom: ask {title} about a video{note}")
        with gr.Row():
            with gr.Column(min_width=320):
                video, opening, about, timeline, frames = _video_column(engine)
            with gr.Column(min_width=320):
                chat, question, send, stop, instruction, length, used = _chat_column(engine)
        with gr.Row():
            with gr.Column(min_width=320):
                which = gr.Dropdown([], label="Attention of the answer to", elem_id="which", interactive=True)
                branch = gr.Radio(["local", "global"], value="local", label="Branch", elem_id="branch")
                number = gr.Slider(1, 16, 1, step=1, label="Frame", elem_id="number")
            with gr.Column(min_width=320):
                picture = gr.Image(
                    label="Attention of the compressor", height=320, elem_id="attention", interactive=False
                )
        shown_attention = [visit, which, number, branch]
        for control in (video.change, opening[0].release, opening[1].change, opening[2].change):
            control(page.open, [video, *opening, visit], [visit, frames, about, timeline]).then(
                page.controls, [visit, which], [which, number]
            ).then(lambda: ([], "", None), None, [chat, used, picture])
        asking = []
        for control in (send.click, question.submit):
            answered = control(
                page.ask,
                [question, chat, visit, instruction, length],
                [chat, visit, used, frames, timeline],
                concurrency_limit=engine.limits.max_queue,
            )
            _then_map(page, answered, question, shown_attention, picture)
            asking.append(answered)
        stop.click(None, cancels=asking)
        which.input(page.controls, [visit, which], [which, number]).then(page.attention, shown_attention, picture)
        for control in (number.change, branch.change):
            control(page.attention, shown_attention, picture, show_progress="hidden")
    return blocks


def _video_column(engine: Engine) -> tuple:
    """The video and its frames: the components that the page reads and writes."""
    video = gr.Video(label="Video", sources=["upload"], height=260, elem_id="video")
    gr.Examples([[str(path)] for path in example_videos()], [video], label="Examples")
    most = min(engine.limits.max_frames, MAX_SHOWN_FRAMES)
    count = gr.Slider(1, most, min(16, most), step=1, label="Frames that a question sees")
    choose = gr.Checkbox(
        label="Each question chooses its frames",
        info="among one frame per second, more of a short video",
        elem_id="choose",
        visible=engine.can_choose,
    )
    tiles = gr.Checkbox(
        label="Tiles",
        info="for wide and large pictures: each question chooses the detail",
        elem_id="tiles",
        visible=engine.can_choose,
    )
    about = gr.Markdown("Choose a video.", elem_id="about")
    timeline = gr.HTML("", elem_id="timeline")
    frames = gr.Gallery(
        label="Frames that the model sees", columns=4, height=240, object_fit="contain", elem_id="frames"
    )
    return video, [count, choose, tiles], about, timeline, frames


def _chat_column(engine: Engine) -> tuple:
    """The chat and how it is asked: the components that the page reads and writes."""
    chat = gr.Chatbot(label="Chat", height=320, elem_id="chat")
    question = gr.Textbox(label="Question", placeholder=QUESTIONS[0], elem_id="question", max_length=2000)
    with gr.Row():
        send = gr.Button("Ask", variant="primary", elem_id="ask")
        stop = gr.Button("Stop", elem_id="stop")
    gr.Examples([[text] for text in QUESTIONS], [question], label="Questions")
    with gr.Accordion("Instruction and length", open=False):
        instruction = gr.Textbox(
            label="Instruction", info="Conditions the compression; empty: the question", elem_id="instruction"
        )
        most = engine.limits.max_new_tokens
        length = gr.Slider(1, most, min(128, most), step=1, label="Longest answer, tokens", elem_id="length")
    used = gr.Markdown("", elem_id="used")
    return chat, question, send, stop, instruction, length, used


def _then_map(page: Page, answered: Any, question: gr.Textbox, shown_attention: list, picture: gr.Image) -> None:
    """What follows an answer: an empty question, and the attention of the answer."""
    visit, which, number, _ = shown_attention
    newest: Callable = lambda visit: page.controls(visit, None)  # noqa: E731
    answered.then(lambda: "", None, question).then(newest, visit, [which, number]).then(
        page.attention, shown_attention, picture
    )


def launch_page(engine: Engine, title: str, host: str, port: int | None, waits: bool = True) -> gr.Blocks:
    """Show the page.

    Args:
        engine, title: see `make_page`.
        host, port: where it listens; port None takes a free one.
        waits: until it is interrupted; False returns at once, and the page's `close` ends it.

    Raises:
        OSError: the port is taken.
    """
    theme = gr.themes.Default(font=FONTS, font_mono=("monospace",))  # pyright: ignore[reportPrivateImportUsage]
    if waits:  # SIGTERM leaves through the callers, which delete uploads
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    blocks = make_page(engine, title)
    options = {"server_name": host, "server_port": port, "share": False, "prevent_thread_lock": not waits}
    options["max_file_size"] = engine.media.access.max_bytes
    blocks.launch(**options, theme=theme, footer_links=[], quiet=not waits)
    return blocks
