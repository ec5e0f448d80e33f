"""What is said to the captioner: the frames of a clip, and the first of two requests (paper, section 3.2: caption, then pairs).

Prompts are versioned files of this folder. `Differs:` they are ours, the paper prints none; its two rules stand in them.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.video_reading_hicom import read_video
from .settings import CaptionSettings

PROMPTS_DIR = Path(__file__).parent / "prompts"


def prompt_text(name: str) -> str:
    """A prompt by its name, such as "caption_v1", or by the path of a file.

    Raises:
        FileNotFoundError: it is neither.
    """
    for path in (PROMPTS_DIR / f"{name}.txt", Path(name)):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    known = ", ".join(sorted(path.stem for path in PROMPTS_DIR.glob("*.txt")))
    raise FileNotFoundError(f"prompt {name!r} is neither a file nor one of {known}")


def filled(prompt: str, **values: Any) -> str:
    """A prompt with its {names} replaced; other braces stay.

    Example:
        >>> filled('{seconds} s: {"a": 1}', seconds=3)
        '3 s: {"a": 1}'
    """
    for name, value in values.items():
        prompt = prompt.replace(f"{{{name}}}", str(value))
    return prompt


def clip_pictures(path: str, start: float, end: float, settings: CaptionSettings) -> list[bytes]:
    """JPEG files of frames spread evenly over a clip.

    Raises:
        VideoReadError: the clip cannot be read.
    """

    def encoded(frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame)
        image.thumbnail((settings.max_side, settings.max_side))
        return np.asarray(image)

    sampling = FrameSampling(num_frames=settings.num_frames, start=start, end=end)
    frames, _ = read_video(path, sampling, transform=encoded, on_decode_error="keep")
    return [_jpeg(frame, settings.jpeg_quality) for frame in frames]


def media_parts(pictures: Sequence[bytes], clip_id: str, settings: CaptionSettings) -> list[dict[str, Any]]:
    """Pictures as parts of a message. They come before the words, so that a server that keeps prefixes reads them once.

    transport "images" is one `image_url` per frame; "video" is vLLM's `data:video/jpeg`, whose frames are used as they are.
    """
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    if settings.transport == "video":
        part = {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(encoded)}}
        return [part | ({"uuid": clip_id} if settings.media_ids else {})]
    return [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
        | ({"uuid": f"{clip_id}-{number}"} if settings.media_ids else {})
        for number, picture in enumerate(encoded)
    ]


def request(parts: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """One message of a user."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}]


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
