"""How much faster reading chosen frames with keyframe seeks is than decoding the whole file.

In: nothing; it makes its own H.264 file (moving stripes, one keyframe per 250 frames, as x264 does by default).
Out: a table on stdout: seconds of each way, and the ratio to decoding everything, measured in the same run.

    python benchmarks/video_reading.py --minutes 5
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video

WIDTH, HEIGHT, FRAME_RATE, KEYFRAME_INTERVAL = 640, 360, 25, 250


def write_stripes(path: Path, num_frames: int) -> None:
    """Writes a video of moving diagonal stripes with a little noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    noise = rng.integers(0, 24, (16, HEIGHT, WIDTH), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = KEYFRAME_INTERVAL
        for index in range(num_frames):
            grey = ((rows + columns + 3 * index) // 4 % 200).astype(np.uint8) + noise[index % len(noise)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        container.mux(stream.encode(None))


def decode_everything(path: Path) -> int:
    """Decodes each frame of the file, without conversion to RGB."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a call."""
    measured = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        measured.append(time.perf_counter() - begin)
    return statistics.median(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the video (default 5)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken (default 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stripes.mp4"
        num_frames = round(arguments.minutes * 60 * FRAME_RATE)
        write_stripes(path, num_frames)
        print(f"{num_frames} frames of {WIDTH}x{HEIGHT}, {path.stat().st_size / 2**20:.1f} MiB, H.264")
        requests = {
            "4 frames": FrameSampling(num_frames=4),
            "32 frames": FrameSampling(num_frames=32),
            "128 frames": FrameSampling(num_frames=128),
            "32 frames of the last 10 s": FrameSampling(num_frames=32, start=arguments.minutes * 60 - 10),
            "1 frame per second": FrameSampling(fps=1.0),
        }
        whole = seconds(lambda: decode_everything(path), arguments.repeats)
        print(f"{'':28}{'seconds':>9}{'of whole':>10}\n{'decode everything':28}{whole:9.2f}{1:10.2f}")
        for name, sampling in requests.items():
            taken = seconds(lambda sampling=sampling: read_video(path, sampling), arguments.repeats)
            print(f"{name:28}{taken:9.2f}{taken / whole:10.2f}")


if __name__ == "__main__":
    main()
