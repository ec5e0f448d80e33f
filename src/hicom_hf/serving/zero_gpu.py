"""An engine for ZeroGPU, where a GPU exists only inside of functions that run in a process of their own.

Features stay on the CPU between calls. Written to the documentation of ZeroGPU; not verified there.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..inference.attention_maps import AttentionMaps, attention_maps
from ..inference.session import HiComSession
from ..processors.answering_hicom import Answer, Chat, EncodedVideo, ReadVideo, answer_chats, encode_video
from .engine import Engine
from .requests import Settings

CALL_SECONDS = 60  # for which a call reserves the GPU, ZeroGPU's default


class ZeroGPUEngine(Engine):
    """Runs the model in functions that `gpu` decorates.

    Answers are streamed. What a client cancels ends with its batch: the process that answers does not hear of it.

    Args:
        session: its model was moved to the GPU when it was loaded, as ZeroGPU wants it.
        gpu: `spaces.GPU`, or what takes its place: called with `duration`, it gives a decorator.
        **options: of `Engine`.
    """

    can_choose = False

    def __init__(self, session: HiComSession, gpu: Callable[..., Callable], **options: Any):
        def encode(video: ReadVideo) -> EncodedVideo:
            return _moved(encode_video(session.model, video), "cpu")

        def answer(chats: list[Chat], settings: Settings) -> Iterator[tuple[int, str] | list[Answer]]:
            device = session.model.device
            there = [replace(chat, videos=[_moved(video, device) for video in chat.videos]) for chat in chats]
            yield from _pieces(session, there, settings)  # ZeroGPU looks for a generator function

        def attend(video: EncodedVideo, question: str) -> AttentionMaps:
            there = _moved(video, session.model.device)
            return attention_maps(session.model, session.processor, there, question)

        self._encode_there = gpu(duration=CALL_SECONDS)(encode)
        self._answer_there = gpu(duration=CALL_SECONDS)(answer)
        self._attend_there = gpu(duration=CALL_SECONDS)(attend)
        super().__init__(session, **options)

    def encode_video(self, video: ReadVideo) -> EncodedVideo:
        return self._encode_there(video)

    def answer_chats(
        self,
        chats: list[Chat],
        settings: Settings,
        on_text: Callable[[int, str], None],
        is_cancelled: Callable[[int], bool],
    ) -> list[Answer]:
        for piece in self._answer_there(chats, settings):
            if isinstance(piece, list):
                return piece
            on_text(*piece)
        raise RuntimeError("the GPU ended before the answer did")

    def attention(self, video: EncodedVideo, question: str) -> AttentionMaps:
        return self._attend_there(video, question)


def _pieces(session: HiComSession, chats: list[Chat], settings: Settings) -> Iterator[tuple[int, str] | list[Answer]]:
    """(row, text) as it is generated, and at the end the list of answers."""
    pieces: queue.SimpleQueue[tuple[int, str] | list[Answer] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers = answer_chats(
                session.model,
                session.processor,
                chats,
                **settings.generation,
                on_text=lambda row, text: pieces.put((row, text)),
            )
            pieces.put(answers)
        except Exception as error:  # raised again below
            pieces.put(error)

    threading.Thread(target=run, daemon=True).start()
    while True:
        piece = pieces.get()
        if isinstance(piece, Exception):
            raise piece
        yield piece
        if isinstance(piece, list):
            return


def _moved(video: EncodedVideo, device: Any) -> EncodedVideo:
    """The same video with its features on a device."""
    features = {name: None if value is None else value.to(device) for name, value in video.features.items()}
    return replace(video, features=type(video.features)(**features))
