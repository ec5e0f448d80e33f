"""What the stages do with one video: functions of a module, for worker processes and Ray to find them."""

from functools import lru_cache
from typing import Any

from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.video_reading_hicom import read_video
from .categories import CATEGORIES
from .clips import choose_keyframes, choose_shots
from .embedders import Embedder, make_embedder
from .engine_local import EmbedderError
from .settings import KeyframeSettings, ShotSettings
from .stages import Stage
from .watching import watch


def watch_with(settings: KeyframeSettings, shots: ShotSettings, device: str, path: str) -> dict[str, Any]:
    return watch(path, settings, _embedder(settings, device), shots)


def match_with(settings: KeyframeSettings, num_frames: int, device: str, path: str) -> dict[str, Any]:
    """Mean similarity of a video's frames to each category."""
    embedder = _embedder(settings, device)  # first, so that nothing is decoded if it cannot be loaded
    frames, _ = read_video(path, FrameSampling(num_frames=num_frames), on_decode_error="keep")
    return {"scores": embedder.match(list(frames), CATEGORIES).mean(axis=0).round(6).tolist()}


def shots_of(watched: Stage, settings: ShotSettings, item: str) -> dict[str, Any]:
    return choose_shots(watched.read(item), settings)


def keyframes_of(watched: Stage, settings: KeyframeSettings, item: str) -> dict[str, Any]:
    return choose_keyframes(watched.read(item), settings)


@lru_cache(maxsize=1)
def _embedder(settings: KeyframeSettings, device: str) -> Embedder:
    """One for each process.

    Raises:
        EmbedderError: it cannot be loaded, or there is no such device; that is the fault of no video.
    """
    from ..hub.loading import choose_device

    try:
        chosen = str(choose_device(device, remedy="set device: cpu in the build file"))
    except ValueError as error:
        raise EmbedderError(str(error)) from error
    try:
        return make_embedder(settings, chosen)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        raise EmbedderError(f"keyframes.embedder {settings.embedder}, {settings.model}: {error}") from error
