"""What building data costs: watching a video beside decoding it, and how well the client keeps a server busy.

In: nothing; it makes its own H.264 file of 720p (moving stripes), and a server that answers after 50 ms.
Out: two tables on stdout. Seconds are CPU seconds of this process, the two ways interleaved in the same run.

    python benchmarks/building_data.py --seconds 20
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from pixels import write_stripes

from hicom_hf.dataset_building.settings import KeyframeSettings
from hicom_hf.dataset_building.watching import watch
from hicom_hf.evaluation.client import ChatClient, Endpoint, httpx
from hicom_hf.processors.media_bounds_hicom import MediaBounds
from hicom_hf.processors.picture_settings_hicom import PictureSettings
from hicom_hf.processors.video_decoding_hicom import StreamReader

FRAME_RATE = 24
DELAY = 0.05  # seconds
IN_FLIGHT, REQUESTS = (4, 16), 400
SETTINGS = KeyframeSettings()


class NoEmbedder:
    """Leaves the embedder out: its cost is that of the model that one chooses."""

    provenance = {"embedder": "none"}

    def embed_frames(self, frames):
        return np.zeros((len(frames), 2), np.float32)

    def match(self, frames, texts):
        return np.zeros((len(frames), len(texts)), np.float32)


def decode_and_scale(path: Path) -> None:
    with open(path, "rb") as file:
        reader = StreamReader(file, str(path), MediaBounds(), PictureSettings(), SETTINGS.max_side)
        for _ in reader.read(list(range(len(reader.times)))):
            pass


def cpu_seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


ANSWER = json.dumps({"model": "m", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As little work as a server can do, so that the client is what is measured."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            await asyncio.sleep(DELAY)
            writer.write(HEAD + ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        writer.close()


def serve(connection) -> None:
    """In a separate process, because one interpreter runs one thread at a time."""

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        connection.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        await server.serve_forever()

    asyncio.run(run())


async def timed(chat: Callable[[], Awaitable[object]], in_flight: int) -> float:
    """Wall-clock seconds of all requests, after the number in flight has grown."""
    await asyncio.gather(*(chat() for _ in range(2 * in_flight)))
    begin = time.perf_counter()
    await asyncio.gather(*(chat() for _ in range(REQUESTS)))
    return time.perf_counter() - begin


async def ask(url: str, in_flight: int) -> float:
    """By the client."""
    async with ChatClient(Endpoint(base_url=url, model="m", max_in_flight=in_flight)) as client:
        messages = [{"role": "user", "content": "?"}]
        return await timed(lambda: client.chat(messages), in_flight)


async def sleep(in_flight: int) -> float:
    """Without a server: what this machine, as busy as it is, lets an event loop reach."""
    places = asyncio.Semaphore(in_flight)

    async def chat() -> None:
        async with places:
            await asyncio.sleep(DELAY)

    return await timed(chat, in_flight)


async def post(url: str, in_flight: int) -> float:
    """By the library alone: no retries, no parsing, no throttle that grows."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "temperature": 0.0, "max_tokens": 1024}
    places = asyncio.Semaphore(in_flight)
    async with httpx.AsyncClient(limits=limits, timeout=60) as http:

        async def chat() -> None:
            async with places:
                (await http.post(f"{url}/chat/completions", json=body)).json()

        return await timed(chat, in_flight)


def measure_client() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = ours.recv()
    for in_flight in IN_FLIGHT:
        ideal = REQUESTS * DELAY / in_flight
        begin = time.process_time()
        client = asyncio.run(ask(url, in_flight))
        each = (time.process_time() - begin) / (REQUESTS + 2 * in_flight) * 1000
        library, loop = asyncio.run(post(url, in_flight)), asyncio.run(sleep(in_flight))
        print(
            f"{in_flight} requests in flight\tclient {ideal / client:.0%} of the ideal, {each:.1f} ms of this process for each "
            f"request; httpx alone {ideal / library:.0%}; no server {ideal / loop:.0%}"
        )
    server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="of video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", action="store_true", help="only the client")
    args = parser.parse_args()
    if args.client:
        measure_client()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stripes.mp4"
        write_stripes(path, args.seconds * FRAME_RATE)
        ways = {
            "decode and scale": lambda: decode_and_scale(path),
            "watch": lambda: watch(str(path), SETTINGS, NoEmbedder()),
        }
        measured = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                measured[name].append(cpu_seconds(way))
    hour = 3600 / args.seconds
    for name, seconds in measured.items():
        print(
            f"{name}\t{statistics.median(seconds) * hour:.0f} CPU s per hour of 720p at {FRAME_RATE} frames per second"
        )
    pairs = zip(measured["watch"], measured["decode and scale"], strict=True)
    print(f"ratio\t{statistics.median(watched / decoded for watched, decoded in pairs):.2f}")
    measure_client()


if __name__ == "__main__":
    main()
