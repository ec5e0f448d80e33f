"""Load test of the server on hicom-tiny: every answer against the same one asked alone, throughput, first tokens, memory.

In: nothing. Out: one JSON object. The server runs in this process, clients are threads that speak HTTP. Parts:

* `load`: `--requests` requests of `--clients` clients at once, more than the queue holds, so that some are told to come again;
* `one_by_one`: one client, one request after another. Both take turns in rounds, so that other work on the machine slows both;
* `steady`: `--steady` more requests, in which memory is watched.

Requests ask about new videos and old ones, 5 % of them leave in the middle of a stream, and 5 % are bad. Afterwards every
answered question is asked again, alone, without a server. Exits with 1 if an answer is wrong or bad input is answered.

    python benchmarks/serving.py --requests 500 --clients 32 --steady 2000
"""

import argparse
import base64
import json
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import openai
import uvicorn

from hicom_hf.assets import example_videos
from hicom_hf.inference import HiComSession
from hicom_hf.serving.app import ServerOptions, make_app
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Limits

QUESTIONS = (
    "What colour is the ring?",
    "Where is the circle?",
    "How many objects are there?",
    "Describe the picture.",
)
BAD_SOURCES = ("data:video/mp4;base64,AAAA", "http://127.0.0.1:1/private.mp4", "file:///etc/passwd", "ftp://a/b.mp4")
LEAVES, BAD, NEW = 0.05, 0.05, 0.3  # fractions of requests
CACHE_BYTES = 32 * 2**20  # is full soon, so that memory shows what is kept beyond it
MAX_TOKENS = 48
ROUNDS = 5


class Asked(NamedTuple):
    """What one request asks: number of the video, frames, seconds at which it begins, question."""

    video: int
    frames: int
    start: float
    question: str


def resident_mib() -> float:
    """Memory of this process, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def start(session: HiComSession, clients: int) -> tuple[uvicorn.Server, threading.Thread, Engine]:
    engine = Engine(session, limits=Limits(max_queue=max(4, clients * 3 // 4)), num_workers=1)
    server = uvicorn.Server(uvicorn.Config(make_app(engine, ServerOptions("hicom-tiny")), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    engine.media.warm()
    return server, thread, engine


class Load:
    """What clients do, and what came of it.

    Args:
        client: of the server.
        urls: of the videos.
    """

    def __init__(self, client: openai.OpenAI, urls: list[str]):
        self.client, self.urls = client, urls
        self.lock = threading.Lock()
        self.answers: dict[Asked, set[str]] = {}
        self.part = Part()

    def ask(self, number: int) -> None:
        draw = random.Random(number)
        start = round(draw.uniform(0, 1.5), 3) if draw.random() < NEW else 0.0
        asked = Asked(draw.randrange(len(self.urls)), draw.randint(2, 8), start, draw.choice(QUESTIONS))
        kind = draw.random()
        while True:
            try:
                if kind < BAD:
                    outcome = self._bad(draw.choice(BAD_SOURCES), asked)
                else:
                    outcome = self._leave(asked) if kind < BAD + LEAVES else self._answer(asked)
                break
            except openai.RateLimitError as error:
                assert int(error.response.headers["retry-after"]) >= 1
                with self.lock:
                    self.part.counts["told_to_come_again"] += 1
                time.sleep(draw.uniform(0.05, 0.3))
        with self.lock:
            self.part.counts[outcome] += 1

    def _create(self, url: str, asked: Asked, **options):
        part = {"type": "video_url", "video_url": {"url": url}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": asked.question}]}]
        extras = {"mm_processor_kwargs": {"num_frames": asked.frames, "start": asked.start}}
        return self.client.chat.completions.create(
            model="hicom-tiny", messages=messages, max_tokens=MAX_TOKENS, extra_body=extras, **options
        )

    def _bad(self, url: str, asked: Asked) -> str:
        try:
            self._create(url, asked)
        except openai.BadRequestError:
            return "bad_refused"
        return "bad_answered"

    def _leave(self, asked: Asked) -> str:
        with self._create(self.urls[asked.video], asked, stream=True) as stream:
            next(iter(stream))
        return "left"

    def _answer(self, asked: Asked) -> str:
        answer = self._create(self.urls[asked.video], asked)
        kind = "follow_up" if answer.usage.prompt_tokens_details.cached_tokens else "new"
        with self.lock:
            self.part.first[kind].append(answer.model_extra["hicom"]["first_token_seconds"])
            self.answers.setdefault(asked, set()).add(answer.choices[0].message.content)
        return "answered"

    def run(self, part: "Part", numbers: range, clients: int) -> None:
        """Send requests, which count for a part."""
        self.part, started = part, time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            for done, _ in enumerate(pool.map(self.ask, numbers), 1):
                if done % max(1, len(numbers) // 10) == 0:
                    part.memory.append(round(resident_mib()))
        part.seconds += time.monotonic() - started


class Part:
    """What came of the requests of a part."""

    def __init__(self):
        self.counts = dict.fromkeys(("answered", "left", "bad_refused", "bad_answered", "told_to_come_again"), 0)
        self.first: dict[str, list[float]] = {"new": [], "follow_up": []}
        self.memory: list[int] = []
        self.seconds = 0.0

    @property
    def requests(self) -> int:
        return sum(count for outcome, count in self.counts.items() if outcome != "told_to_come_again")

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    def report(self) -> dict:
        first = {kind: round(statistics.median(found), 4) for kind, found in self.first.items() if found}
        return {
            "requests": self.requests,
            **self.counts,
            "seconds": round(self.seconds, 1),
            "requests_per_second": round(self.requests_per_second, 2),
            "answers_of_new_videos": len(self.first["new"]),
            "median_seconds_to_first_token": first,
            "resident_mib": self.memory,
        }


def num_wrong(session: HiComSession, videos: list[Path], answers: dict[Asked, set[str]]) -> int:
    """How many questions got an answer other than the one that they get alone."""
    wrong = 0
    for asked, texts in answers.items():
        video = session.open(videos[asked.video], num_frames=asked.frames, start=asked.start)
        wrong += texts != {video.ask(asked.question, max_new_tokens=MAX_TOKENS).answer}
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--steady", type=int, default=2000, help="requests in which memory is watched")
    args = parser.parse_args()

    session, videos = HiComSession.load(device="cpu", dtype="float32", cache_bytes=CACHE_BYTES), example_videos()
    server, thread, engine = start(session, args.clients)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=3600)
    urls = ["data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() for path in videos]
    load, parts = Load(client, urls), {name: Part() for name in ("load", "one_by_one", "steady")}
    first = 0

    def send(name: str, count: int, clients: int) -> None:
        nonlocal first
        load.run(parts[name], range(first, first + count), clients)
        first += count
        print(name, json.dumps(parts[name].report()), file=sys.stderr, flush=True)

    for _ in range(ROUNDS):
        send("load", args.requests // ROUNDS, args.clients)
        send("one_by_one", max(1, args.requests // ROUNDS // 4), 1)
    send("steady", args.steady, args.clients)
    server.should_exit = True
    thread.join()
    session.cache.clear()
    wrong = num_wrong(session, videos, load.answers)
    report = {
        "clients": args.clients,
        **{name: part.report() for name, part in parts.items()},
        "throughput_over_one_by_one": parts["load"].requests_per_second / parts["one_by_one"].requests_per_second,
        "mean_batch": engine.statistics.rows / engine.statistics.batches,
        "questions_compared": len(load.answers),
        "wrong_answers": wrong,
    }
    print(json.dumps(report, indent=2))
    return int(wrong > 0 or any(part.counts["bad_answered"] for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
