"""How long a video takes from its path to the tensors of the vision tower, with torch's resizing and with Pillow's.

In: a video, or nothing: it makes its own H.264 file of 720p (moving stripes).
Out: a table on stdout: seconds of each part and way, and the ratio torch / Pillow, interleaved in the same run.

    python benchmarks/pixels.py --seconds 20
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.processors.video_reading_hicom import read_video

WIDTH, HEIGHT, FRAME_RATE, KEYFRAME_INTERVAL = 1280, 720, 24, 48


def write_stripes(path: Path, num_frames: int) -> None:
    """Writes a video of moving diagonal stripes."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = KEYFRAME_INTERVAL
        for index in range(num_frames):
            grey = ((rows + columns + 3 * index) // 4 % 200).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        container.mux(stream.encode(None))


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each function in each round, after one round that is not counted."""
    measured: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if number:
                measured[name].append(time.perf_counter() - begin)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a file to read (default: one is made)")
    parser.add_argument("--seconds", type=int, default=20, help="length of the video that is made (default 20)")
    parser.add_argument("--num-frames", type=int, default=32, help="frames that are sampled (default 32)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken (default 5)")
    arguments = parser.parse_args()
    num_frames = arguments.num_frames
    by_torch, by_pillow = HiComVideoProcessor(), HiComVideoProcessor(resample="exact")
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.video or Path(folder) / "stripes.mp4"
        if arguments.video is None:
            write_stripes(path, arguments.seconds * FRAME_RATE)
        frames, _ = read_video(path, FrameSampling(num_frames=num_frames))
        squares = np.stack([by_torch.square_frame(frame) for frame in frames])
        measured = interleaved(
            {
                "path to tensors, torch": lambda: by_torch(path, num_frames=num_frames),
                "path to tensors, Pillow": lambda: by_pillow(path, num_frames=num_frames),
                "read only": lambda: read_video(path, FrameSampling(num_frames=num_frames)),
                "pad and resize, torch": lambda: [by_torch.square_frame(frame) for frame in frames],
                "pad and resize, Pillow": lambda: [by_pillow.square_frame(frame) for frame in frames],
                "normalise": lambda: by_torch.normalised(torch.from_numpy(squares).movedim(-1, 1)),
            },
            arguments.rounds,
        )
    height, width = frames.shape[1:3]
    print(f"{len(frames)} frames of {width} x {height}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, times in measured.items():
        print(f"{name:26}{statistics.median(times) * 1000:8.0f} ms")
    for part in ("path to tensors", "pad and resize"):
        ratios = [a / b for a, b in zip(measured[f"{part}, torch"], measured[f"{part}, Pillow"], strict=True)]
        print(f"{part}: torch / Pillow {statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
