"""Load test of the serving engine and the HTTP side on hicom-tiny: answers against those asked alone, throughput, memory.

In: nothing. Out: one JSON object. The server runs in this process, clients are threads.

    python benchmarks/serving.py --requests 500 --clients 32
"""

import argparse
import base64
import json
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
LEAVES, BAD = 0.05, 0.05  # fractions of requests whose client leaves, and that are no video


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


def chat(url: str, question: str) -> list[dict]:
    return [
        {
            "role": "user",
            "content": [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ]


class Load:
    """What clients do, and what came of it."""

    def __init__(self, client: openai.OpenAI, urls: list[str], expected: dict[tuple[int, int, str], str]):
        self.client, self.urls, self.expected = client, urls, expected
        self.counts = dict.fromkeys(("right", "wrong", "left", "refused_bad", "busy"), 0)
        self.first = {"new": [], "follow_up": []}
        self.lock = threading.Lock()

    def ask(self, number: int) -> None:
        draw = random.Random(number)
        video, frames, question = draw.randrange(len(self.urls)), draw.randint(2, 8), draw.choice(QUESTIONS)
        kind = draw.random()
        url = self.urls[video] if kind >= BAD else "data:video/mp4;base64,AAAA"
        options = {"max_tokens": 48, "extra_body": {"mm_processor_kwargs": {"num_frames": frames}}}
        while True:
            try:
                outcome = self._once(url, (video, frames, question), options, leaves=BAD <= kind < BAD + LEAVES)
                break
            except openai.RateLimitError:
                with self.lock:
                    self.counts["busy"] += 1
                time.sleep(draw.uniform(0.05, 0.3))
            except openai.BadRequestError:
                outcome = "refused_bad"
                break
        with self.lock:
            self.counts[outcome] += 1

    def _once(self, url: str, asked: tuple[int, int, str], options: dict, leaves: bool) -> str:
        messages = chat(url, asked[2])
        if leaves:
            with self.client.chat.completions.create(
                model="hicom-tiny", messages=messages, stream=True, **options
            ) as stream:
                next(iter(stream))
            return "left"
        answer = self.client.chat.completions.create(model="hicom-tiny", messages=messages, **options)
        kind = "follow_up" if answer.usage.prompt_tokens_details.cached_tokens else "new"
        with self.lock:
            self.first[kind].append(answer.model_extra["hicom"]["first_token_seconds"])
        return "right" if answer.choices[0].message.content == self.expected[asked] else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()

    session, videos = HiComSession.load(device="cpu", dtype="float32"), example_videos()
    expected, seconds_alone = {}, []
    for number, video in enumerate(videos):
        for frames in range(2, 9):
            opened = session.open(video, num_frames=frames)
            for question in QUESTIONS:
                answer = opened.ask(question, max_new_tokens=48)
                expected[number, frames, question] = answer.answer
                seconds_alone.append(answer.seconds)
    session.cache.clear()
    server, thread, engine = start(session, args.clients)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    urls = ["data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() for path in videos]
    load, memory = Load(client, urls, expected), []
    started = time.monotonic()
    with ThreadPoolExecutor(args.clients) as pool:
        for done, _ in enumerate(pool.map(load.ask, range(args.requests)), 1):
            if done % max(1, args.requests // 10) == 0:
                memory.append(round(resident_mib()))
    seconds = time.monotonic() - started
    counted = engine.statistics
    server.should_exit = True
    thread.join()
    report = {
        **load.counts,
        "requests_per_second": args.requests / seconds,
        "answers_per_second_one_by_one": 1 / statistics.mean(seconds_alone),
        "mean_batch": counted.rows / counted.batches,
        "videos_encoded": counted.videos_encoded,
        "videos_cached": counted.videos_cached,
        "first_token_seconds": {kind: statistics.median(found) for kind, found in load.first.items() if found},
        "memory_mib_at_each_tenth": memory,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
