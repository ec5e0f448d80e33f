"""A server that speaks the endpoint's protocol and answers from the known scenes of films, for the demo and for tests.

It sees what a captioner would see, the pictures in the request: their scene is the one whose own pictures are most like them.
"""

import base64
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from ..shapes import Scene, descriptions, render
from ..shapes.dice import Dice

MODEL = "known-scenes"
THUMBNAIL = (24, 18)  # width and height
RENDERED = 8  # pictures of each scene that requests are compared with
PAIRS_STREAM = 12
# A status such as "429"; "hang"; "broken" or "truncated", of the answer; one of `INSTEAD`, or "refusal field", which has a
# refusal where OpenAI puts it; "close" ends the connection without an answer; "die" ends the server as well.
Fault = str | None
INSTEAD = {"refuse": "I cannot help with that.", "one word": "Understood.", "empty": " ", "refusal field": ""}
HANG_SECONDS = 3.0


def pairs_of(scene: Scene, num_pairs: int) -> list[dict[str, str]]:
    """Instructions that name something of a scene, with true answers; the same for the same scene."""
    named = [question for question in descriptions(scene) if question.referents]
    chosen = Dice(scene.seed, PAIRS_STREAM).shuffled(named)[:num_pairs]
    return [{"instruction": question.text, "answer": question.answer} for question in chosen]


def caption_of(scene: Scene) -> str:
    """A description of everything in a scene."""
    return " ".join(question.answer for question in descriptions(scene))


class SceneServer:
    """The server; a context manager, within which it listens on a free port of this machine.

    Args:
        scenes: which it knows.
        faults: from the number of a request, counted from 0, to what goes wrong with it; None for nothing.
        delay: seconds that each answer takes.

    Attributes:
        asked: how many requests came.
        answered: how many times each request (its words and pictures) got a good answer.
    """

    def __init__(
        self, scenes: Sequence[Scene], faults: Callable[[int], Fault] = lambda number: None, delay: float = 0.0
    ):
        self.scenes, self.faults, self.delay = list(scenes), faults, delay
        self.asked, self.answered = 0, Counter()
        self._lock = threading.Lock()
        self.is_dead = False
        self._thumbnails = [
            np.stack([_thumbnail(Image.fromarray(frame)) for frame in render(scene, RENDERED, (144, 192))[0]])
            for scene in self.scenes
        ]

    def __enter__(self) -> "SceneServer":
        handler = type("Handler", (_Handler,), {"scene_server": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.die()

    def die(self) -> None:
        """Answer nothing any more, and refuse connections."""
        self.is_dead = True
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def scene_of(self, pictures: Sequence[Image.Image]) -> Scene:
        """The scene that most of the pictures show."""
        votes = Counter()
        for picture in pictures:
            seen = _thumbnail(picture)
            distances = [float(np.abs(known - seen).mean((1, 2, 3)).min()) for known in self._thumbnails]
            votes[int(np.argmin(distances))] += 1
        return self.scenes[votes.most_common(1)[0][0]]

    def next_number(self) -> int:
        with self._lock:
            self.asked += 1
            return self.asked - 1

    def answer(self, body: dict[str, Any]) -> str:
        parts = body["messages"][0]["content"]
        words = " ".join(part["text"] for part in parts if part["type"] == "text")
        scene = self.scene_of([picture for part in parts for picture in _pictures(part)])
        with self._lock:
            self.answered[json.dumps(body, sort_keys=True)] += 1
        if '"pairs"' not in words:
            return caption_of(scene)
        return json.dumps({"pairs": pairs_of(scene, 3)})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of clients that connect at the same moment

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless the client has left, as each does when its run ends."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    scene_server: SceneServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if len(sent) < int(self.headers["Content-Length"]):
            self.close_connection = True  # the client has left
            return
        body = json.loads(sent)
        fault = self.scene_server.faults(self.scene_server.next_number())
        time.sleep(self.scene_server.delay)
        if fault == "die" and not self.scene_server.is_dead:
            self.scene_server.die()
        if fault == "close" or self.scene_server.is_dead:
            self.close_connection = True
            return
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault in ("429", "500", "400", "401"):
            self._send(
                int(fault), {"error": {"message": f"fault {fault}"}}, {"Retry-After": "0"} if fault == "429" else {}
            )
            return
        text, reason = INSTEAD.get(fault or ""), "stop"
        text = self.scene_server.answer(body) if text is None else text
        if fault == "truncated":
            text, reason = text[: len(text) // 2], "length"
        if fault == "broken":
            text = text[: len(text) // 2]
        message = {"role": "assistant", "content": text}
        if fault == "refusal field":
            message["refusal"] = "This is against the rules of this server."
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"prompt_tokens": 1000, "completion_tokens": len(text.split())}
        self._send(200, {"id": "0", "model": MODEL, "choices": [choice], "usage": usage}, {})

    def _send(self, status: int, values: dict[str, Any], headers: dict[str, str]) -> None:
        data = json.dumps(values).encode()
        try:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has not waited

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def _pictures(part: dict[str, Any]) -> list[Image.Image]:
    if part["type"] == "text":
        return []
    url = part[part["type"]]["url"]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in url.partition("base64,")[2].split(",")]


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize(THUMBNAIL, Image.Resampling.BOX), dtype=np.float32)
