"""What building data costs: watching a video beside decoding it, and how well the client keeps a server busy.

In: nothing; it makes its own H.264 file of 720p (moving stripes), and a server that answers after 50 ms.
Out: two tables on stdout. Seconds are CPU seconds of this process, the two ways interleaved in the same run.

    python benchmarks/building_data.py --seconds 20
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pixels import write_stripes

from hicom_hf.dataset_building.demo_server import SceneServer
from hicom_hf.dataset_building.settings import KeyframeSettings
from hicom_hf.dataset_building.watching import watch
from hicom_hf.evaluation.client import ChatClient, Endpoint
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


def decode_and_scale(path: Path) -> None:
    with open(path, "rb") as file:
        reader = StreamReader(file, str(path), MediaBounds(), PictureSettings(), SETTINGS.max_side)
        for _ in reader.read(list(range(len(reader.times)))):
            pass


def cpu_seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


class Waiting(SceneServer):
    """Answers without looking."""

    def answer(self, body):
        return "yes"


def serve(connection) -> None:
    """In a separate process, because one interpreter runs one thread at a time."""
    with Waiting([], delay=DELAY) as server:
        connection.send(server.base_url)
        threading.Event().wait()


async def ask(url: str, in_flight: int) -> float:
    """Wall-clock seconds of all requests, after the number in flight has grown."""
    async with ChatClient(Endpoint(base_url=url, model="m", max_in_flight=in_flight)) as client:
        messages = [{"role": "user", "content": "?"}]
        await asyncio.gather(*(client.chat(messages) for _ in range(2 * in_flight)))
        begin = time.perf_counter()
        await asyncio.gather(*(client.chat(messages) for _ in range(REQUESTS)))
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="of video")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
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
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = ours.recv()
    for in_flight in IN_FLIGHT:
        begin = time.process_time()
        seconds = asyncio.run(ask(url, in_flight))
        each = (time.process_time() - begin) / (REQUESTS + 2 * in_flight) * 1000
        share = REQUESTS * DELAY / in_flight / seconds
        print(
            f"{in_flight} requests in flight\t{share:.0%} of the ideal, {each:.1f} ms of this process for each request"
        )
    server.terminate()


if __name__ == "__main__":
    main()
