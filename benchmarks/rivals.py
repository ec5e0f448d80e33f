"""How long reading takes beside torchcodec and decord, and the way to tensors beside LLaVA-OneVision's processor.

In: videos, or nothing: it makes an MP4 of 720p (moving stripes). Needs torchcodec (with the libraries of FFmpeg) or decord, and
--tensors also torchvision. None of them is a dependency of this package.
Out: a table per video on stdout: seconds and CPU seconds of each way (median), and the ratio ours / theirs. The ways take turns
in one process; one that fails is named in a line and left out. With --memory also the peak of memory of each way above its
imports, in a process of its own, and the ratio. With --json FILE the same as JSON lines.

    python benchmarks/rivals.py film.mp4 --num-frames 32 --rounds 7 --tensors
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from growth import forget_peak, resident
from pixels import FRAME_RATE, write_stripes

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.processors.video_reading_hicom import read_video

OURS = "ours"
PACKAGES = ("torchcodec", "decord", "torchvision")


def readers(path: Path, indices: list[int]) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to the same frames, uint8 (T, height, width, 3); those whose package is there."""
    found = {OURS: lambda: read_video(path, FrameSampling(num_frames=len(indices)))[0]}
    if find_spec("torchcodec"):
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        def by_torchcodec() -> np.ndarray:
            decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=0, dimension_order="NHWC")
            return decoder.get_frames_at(indices=indices).data.numpy()

        found["torchcodec, exact"] = by_torchcodec
    if find_spec("decord"):
        import decord  # pyright: ignore[reportMissingImports]

        found["decord"] = lambda: decord.VideoReader(str(path)).get_batch(indices).asnumpy()
    return found


def to_tensors(path: Path, indices: list[int]) -> dict[str, Callable[[], torch.Tensor]]:
    """From a path to what a vision tower of 384 pixels takes, of the same frames."""
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
    from transformers.video_utils import load_video

    ours, theirs = HiComVideoProcessor(), LlavaOnevisionVideoProcessor()

    def llava_onevision() -> torch.Tensor:
        source: Any = str(path)
        chosen = load_video(source, backend="torchcodec", sample_indices_fn=lambda **_: np.array(indices))
        video = torch.as_tensor(chosen[0])
        video = video.permute(0, 3, 1, 2) if video.shape[-1] == 3 else video
        return theirs(videos=[video], return_tensors="pt")["pixel_values_videos"]

    return {
        OURS: lambda: ours(path, num_frames=len(indices))["pixel_values_videos"],
        "LLaVA-OneVision behind torchcodec": llava_onevision,
    }


def working(what: str, ways: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The ways that come to their end, each run once to warm up; a rival that fails is named in a line and left out."""
    found = {}
    for name, way in ways.items():
        try:
            way()
        except Exception as error:
            if name == OURS:
                raise
            leave_out(what, name, str(error))
        else:
            found[name] = way
    return found


def leave_out(what: str, name: str, error: str) -> None:
    reason = next((line.strip() for line in error.splitlines() if line.strip()), "no message")
    print(f"{what[:34]:34} {name[:34]:34}  left out, it fails: {reason[:160]}", flush=True)


def compare(what: str, ways: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, Any]]:
    """Seconds and CPU seconds of each way, and the median of ours / theirs over the rounds, with least and most."""
    ways = working(what, ways)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin, cpu_begin = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - cpu_begin)
    lines = []
    for name in ways:
        line: dict[str, Any] = {"what": what, "way": name, "load": round(os.getloadavg()[0], 1)}
        for kind, measured in (("wall", wall), ("cpu", cpu)):
            ratios = [ours / theirs for ours, theirs in zip(measured[OURS], measured[name], strict=True)]
            line[kind] = round(statistics.median(measured[name]), 4)
            line[f"{kind}_ratio"] = [
                round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))
            ]
        lines.append(line)
    return lines


def print_peak(way: str, path: Path, indices: list[int]) -> None:
    """Prints the MiB that reading takes at most, above what the process had; read by `peaks`."""
    read = readers(path, indices)[way]
    forget_peak()
    before = resident("VmRSS")
    frames = read()
    print(json.dumps({"mib": resident("VmHWM") - before, "frames_mib": frames.nbytes / 2**20}))


def peaks(path: Path, indices: list[int], rounds: int = 2) -> list[dict[str, Any]]:
    """The peak of memory of each way, and the median of ours / theirs, with least and most."""
    what = f"{path.name}, memory"
    mib: dict[str, list[float]] = {name: [] for name in readers(path, indices)}
    for _ in range(rounds):
        for name in list(mib):
            command = [sys.executable, __file__, str(path), "--peak-of", name, "--indices", *map(str, indices)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                if name == OURS:
                    sys.exit(run.stderr)
                leave_out(what, name, run.stderr.rstrip().rpartition("\n")[2])
                del mib[name]
                continue
            mib[name].append(json.loads(run.stdout.splitlines()[-1])["mib"])
    lines = []
    for name in mib:
        ratios = [ours / theirs for ours, theirs in zip(mib[OURS], mib[name], strict=True)]
        spread = [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))]
        lines.append({"what": what, "way": name, "mib": round(statistics.median(mib[name]), 1), "mib_ratio": spread})
    return lines


def show(line: dict[str, Any]) -> None:
    parts = [f"{line['what'][:34]:34} {line['way'][:34]:34}"]
    for kind, unit in (("wall", "s"), ("cpu", "s"), ("mib", "MiB")):
        if kind in line:
            middle, least, most = line[f"{kind}_ratio"]
            parts.append(f"{kind} {line[kind]:8.3f} {unit}, ours / this {middle:.2f} [{least:.2f} to {most:.2f}]")
    print("  ".join(parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="*", help="files to read (default: one is made)")
    parser.add_argument("--num-frames", type=int, default=32, help="frames that are sampled (default 32)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken (default 5)")
    parser.add_argument("--tensors", action="store_true", help="also the way to tensors")
    parser.add_argument("--memory", action="store_true", help="also the peak of memory of reading (Linux)")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--indices", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file that the results are added to")
    arguments = parser.parse_args()
    if arguments.peak_of is not None:
        print_peak(arguments.peak_of, arguments.videos[0], arguments.indices)
        return
    packages = {name: version(name) for name in ("torch", "transformers", "av", *PACKAGES) if find_spec(name)}
    lines = [{"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), **packages}]
    print(lines[0])
    with tempfile.TemporaryDirectory() as folder:
        videos = arguments.videos or [Path(folder) / "stripes.mp4"]
        if not arguments.videos:
            write_stripes(videos[0], 20 * FRAME_RATE)
        for path in videos:
            with av.open(str(path)) as container:
                print(f"{path.name}: {container.streams.video[0].width} x {container.streams.video[0].height}")
            indices = read_video(path, FrameSampling(num_frames=arguments.num_frames))[1].indices
            found = compare(f"{path.name}, read", readers(path, indices), arguments.rounds)
            if arguments.tensors:
                found += compare(f"{path.name}, tensors", to_tensors(path, indices), arguments.rounds)
            if arguments.memory:
                found += peaks(path, indices)
            for line in found:
                show(line)
            lines += found
    if arguments.json is not None:
        with arguments.json.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
