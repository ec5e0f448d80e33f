"""Small sound files to damage: videos of every common codec and container, and pictures, all made here."""

import io
import struct
from pathlib import Path

import av
import numpy as np
from PIL import Image

MEDIA = Path(__file__).parents[1] / "media"
WIDTH, HEIGHT, NUM_FRAMES = 96, 64, 24
# Name of the seed -> encoder and suffix, which chooses the container. Encoders that this build of FFmpeg lacks are left out.
VIDEOS = {
    "h264_mp4": ("libx264", "mp4"),
    "h264_mkv": ("libx264", "mkv"),
    "h264_ts": ("libx264", "ts"),
    "h264_avi": ("libx264", "avi"),
    "h264_flv": ("libx264", "flv"),
    "hevc_mp4": ("libx265", "mp4"),
    "av1_mp4": ("libsvtav1", "mp4"),
    "vp8_webm": ("libvpx", "webm"),
    "vp9_webm": ("libvpx-vp9", "webm"),
    "mpeg2_ts": ("mpeg2video", "ts"),
    "mpeg4_avi": ("mpeg4", "avi"),
    "mpeg4_mp4": ("mpeg4", "mp4"),
    "mjpeg_avi": ("mjpeg", "avi"),
    "ffv1_mkv": ("ffv1", "mkv"),
    "wmv2_asf": ("wmv2", "asf"),
}
QUIET = {"libx265": {"x265-params": "log-level=none"}}
ANIMATIONS = ("gif", "webp", "png")
PICTURES = ("jpeg", "png", "webp", "bmp", "tiff", "gif")


def moving_frames(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """uint8 (T, height, width, 3): a box that moves over a sloping ground, so that a wrong frame shows."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ground = np.stack([rows * 3, columns * 2, rows + columns], axis=-1)
    texture = np.random.default_rng(0).integers(0, 50, ground.shape)
    ground = np.minimum(ground + texture, 255).astype(np.uint8)
    frames = np.repeat(ground[None], num_frames, axis=0)
    for index, frame in enumerate(frames):
        left, top = 3 * index % (WIDTH - 24), 2 * index % (HEIGHT - 24)
        frame[top : top + 24, left : left + 24] = (255 - 8 * index, 40 + 8 * index, 8 * index)
    return frames


def video_seeds(folder: Path, names: tuple[str, ...] = tuple(VIDEOS)) -> dict[str, Path]:
    """Writes the seeds of `VIDEOS` by name, and animations; returns their paths."""
    seeds = {}
    for name in names:
        codec, suffix = VIDEOS[name]
        seeds[name] = _write(folder / f"{name}.{suffix}", codec)
    return seeds


def _write(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=QUIET.get(codec, {}))
        stream.width, stream.height, stream.codec_context.gop_size = WIDTH, HEIGHT, 8
        stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
        stream.bit_rate = 400_000
        for pixels in moving_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def animation_seeds(folder: Path) -> dict[str, Path]:
    """A GIF, an animated WebP and an animated PNG."""
    images = [Image.fromarray(frame) for frame in moving_frames(8)]
    seeds = {}
    for suffix in ANIMATIONS:
        path = seeds[f"animation_{suffix}"] = folder / f"animation.{suffix}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    return seeds


def picture_seeds() -> dict[str, bytes]:
    """A still picture in each format, as bytes."""
    seeds = {}
    for kind in PICTURES:
        content = io.BytesIO()
        Image.fromarray(moving_frames(1)[0]).save(content, format=kind)
        seeds[kind] = content.getvalue()
    return seeds


def bomb_seeds(folder: Path) -> list[Path]:
    """Files of some kB that unpack to gigabytes, or that promise a million packets."""
    contents = {
        "pictures.gif": _gif(2000, 2000, 2000),
        "large.gif": _gif(16000, 16000, 200),
        "many.gif": _gif(1, 1, 200_000),
    }
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, format="png")
    contents["large.png"] = small.getvalue().replace(struct.pack(">II", 16, 16), struct.pack(">II", 16000, 16000))
    lying = _write(folder / "png.mov", "png").read_bytes()  # the container says 96 x 64, its pictures 16000 x 16000
    size = struct.pack(">II", WIDTH, HEIGHT)
    contents["lying.mov"] = lying.replace(b"IHDR" + size, b"IHDR" + struct.pack(">II", 16000, 16000))
    # Those that take seconds come last: the quick set leaves them out.
    contents |= {
        "within_bounds.gif": _gif(1000, 1000, 1000),
        "packets.mov": (MEDIA / "many_packets.mov").read_bytes(),
        "one_time.mov": (MEDIA / "one_time.mov").read_bytes(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def _gif(width: int, height: int, num_pictures: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    dot = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + (b"\x21\xf9\x04\x04\x0a\0\0\0" + dot) * num_pictures + b";"
