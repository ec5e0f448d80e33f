"""Writes small videos for tests. Frame i is grey with the value of `grey_of(i)`, so that a frame tells its number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

GREY_STEP = 20  # far above what compression changes
NUM_GREYS = 12
TICKS_PER_SECOND = 1000
# Display matrices of MP4 (16.16 fixed point, the last column 2.30): clockwise degrees -> the four turning entries.
TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
MIRRORED = (-1, 0, 0, 1)


def grey_of(index: int) -> int:
    """The grey value of frame `index`; repeats after `NUM_GREYS` frames."""
    return 10 + GREY_STEP * (index % NUM_GREYS)


def numbers_of(frames: np.ndarray) -> list[int]:
    """The number (modulo `NUM_GREYS`) of each frame (T, height, width, 3) that was painted with `grey_of`."""
    greys = frames.reshape(len(frames), -1).mean(axis=1)
    return [round((grey - 10) / GREY_STEP) for grey in greys.tolist()]


def numbered_frames(num_frames: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (num_frames, height, width, 3)."""
    greys = np.array([grey_of(index) for index in range(num_frames)], dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (num_frames, height, width, 3)).copy()


def write_video(
    path: Path,
    num_frames: int = 12,
    *,
    frame_rate: int = 10,
    times: Sequence[float] | None = None,
    frames: np.ndarray | None = None,
    codec: str = "libx264",
    keyframe_interval: int = 6,
    width: int = 64,
    height: int = 48,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of numbered frames; the suffix of `path` chooses the container.

    Args:
        path: where to write.
        num_frames: number of frames.
        frame_rate: frames per second.
        times: seconds of each frame, for a variable rate; replaces `num_frames` and `frame_rate`.
        frames: uint8 (T, height, width, 3) instead of numbered ones.
        codec: FFmpeg's name of the encoder.
        keyframe_interval: frames from one keyframe to the next.
        width, height: pixels, even.
        options: of the container.
    """
    times = [index / frame_rate for index in range(num_frames)] if times is None else times
    frames = numbered_frames(len(times), width, height) if frames is None else frames
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=frame_rate)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = keyframe_interval
        stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        for seconds, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(seconds * TICKS_PER_SECOND), Fraction(1, TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_rotated_video(path: Path, frames: np.ndarray, matrix: tuple[float, float, float, float], **kwargs) -> Path:
    """An MP4 whose header asks the player to turn the picture by `matrix`, one of `TURNS` or `MIRRORED`."""
    write_video(path, frames=frames, num_frames=len(frames), **kwargs)
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    a, b, c, d = (round(x * 2**16) for x in matrix)
    start = header + 4 + 40  # behind name, version, times, track number, duration, layer and volume
    content[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 2**30], dtype=">i4").tobytes()
    path.write_bytes(content)
    return path


def write_truncated_video(path: Path, num_frames: int = 60, share: float = 0.6) -> Path:
    """A video file whose end is missing: `share` of its bytes are there."""
    noise = np.random.default_rng(0).integers(0, 255, (num_frames, 48, 64, 3), dtype=np.uint8)
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else None
    write_video(path, num_frames, frames=noise, options=options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def write_corrupted_video(path: Path, num_frames: int = 24, broken_frame: int = 8) -> Path:
    """A complete MP4 (one keyframe every six frames) in which the data of one packet, `broken_frame`, is nonsense."""
    noise = np.random.default_rng(0).integers(0, 255, (num_frames, 48, 64, 3), dtype=np.uint8)
    write_video(path, num_frames, frames=noise)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place = sorted(packets, key=lambda packet: packet.pts)[broken_frame]
        position, size = place.pos, place.size
    content = bytearray(path.read_bytes())
    content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    return path


def write_audio(path: Path) -> Path:
    """A file with one second of silence and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_gif(path: Path, durations: Sequence[int], width: int = 32, height: int = 24) -> Path:
    """An animation of numbered frames, each shown for its duration in milliseconds."""
    images = [Image.fromarray(pixels) for pixels in numbered_frames(len(durations), width, height)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(durations), loop=0)
    return path


def write_frame_folder(folder: Path, num_frames: int, width: int = 32, height: int = 24) -> Path:
    """A folder with 0.png, 1.png, ..., and a text file that is no frame."""
    folder.mkdir()
    for index, pixels in enumerate(numbered_frames(num_frames, width, height)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("not a frame")
    return folder
