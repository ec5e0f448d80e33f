"""Watches a video once: every frame feeds the detector of cuts, some of them the embedder.

Decoding is what costs (docs/building_data.md), so both are fed by one decoding.

Letters: T frames, n sampled frames, D width of a vector.
"""

import json
import math
from collections.abc import Sequence

import numpy as np

from ..processors.media_bounds_hicom import MediaBounds
from ..processors.picture_settings_hicom import PictureSettings
from ..processors.video_decoding_hicom import StreamReader, TimesChangedError
from .detectors import make_detector
from .embedders import Embedder
from .settings import KeyframeSettings, ShotSettings

EMBEDDED_AT_ONCE = 32  # frames that are held


def watch(
    path: str, settings: KeyframeSettings, embedder: Embedder, shots: ShotSettings | None = None
) -> dict[str, np.ndarray]:
    """Decode a video once.

    Args:
        path: of the video.
        settings: how often frames are sampled, and how large they are.
        embedder: turns sampled frames into vectors.
        shots: which detector; None for the default one.

    Returns:
        times, distances (T,): of the frames that can be read, and of each from the one before; sampled_times (n,) and vectors
        float16 (n, D): of the sampled frames; duration in seconds, of a file that ends too early until its last frame begins;
        lost_times: of the frames that cannot be decoded; lost_frames: how many the file promises and does not give;
        provenance: JSON, of detector and embedder.

    Raises:
        VideoReadError: it is not a video, or no frame of it can be read.
    """
    with open(path, "rb") as file:
        reader = StreamReader(file, path, MediaBounds(), PictureSettings(), settings.max_side)
        try:
            return _watch(reader, settings, embedder, shots or ShotSettings())
        except TimesChangedError:  # the reader has found the true times; now they stand
            return _watch(reader, settings, embedder, shots or ShotSettings())


def _watch(
    reader: StreamReader, settings: KeyframeSettings, embedder: Embedder, shots: ShotSettings
) -> dict[str, np.ndarray]:
    sampled, detector = sampled_indices(reader.times, settings.fps), make_detector(shots)
    times, distances, sampled_times, vectors, held, lost_times = [], [], [], [], [], []
    # A part of such a file may not reach its last frame: the reader refuses what goes on behind it, see `read_video`.
    is_whole = reader.failure is None
    duration = reader.duration if is_whole else _milliseconds_below(reader.times[max(reader.num_readable - 1, 0)])
    for index, frame in reader.read(list(range(len(reader.times)))):
        if frame is None:
            lost_times.append(_milliseconds_below(reader.times[index]))
            continue
        times.append(reader.times[index])
        distances.append(detector.distance(frame, reader.times[index]))
        if index in sampled:
            held.append(frame)
            sampled_times.append(reader.times[index])
        if len(held) == EMBEDDED_AT_ONCE:
            vectors.append(embedder.embed_frames(held))
            held = []
    if held:
        vectors.append(embedder.embed_frames(held))
    if not vectors:
        raise ValueError(f"{reader.name}: none of the sampled frames can be read ({reader.failure})")
    return {
        "times": np.array(times),
        "distances": np.array(distances, dtype=np.float32),
        "sampled_times": np.array(sampled_times),
        "vectors": np.concatenate(vectors).astype(np.float16),
        "duration": np.array(duration or 0.0),
        "lost_times": np.array(lost_times),
        "lost_frames": np.array(len(lost_times) + reader.num_promised - len(reader.times)),
        "provenance": np.array(json.dumps({**detector.provenance, **embedder.provenance}, sort_keys=True)),
    }


def sampled_indices(times: Sequence[float], fps: float) -> set[int]:
    """The frames nearest to the middles of intervals of 1/fps seconds; one if the video is shorter than half of that.

    Example:
        >>> sorted(sampled_indices([0.0, 0.5, 1.0, 1.5, 2.0], fps=1.0))
        [1, 3]
    """
    middles = np.arange(0.5 / fps, times[-1] + 1e-9, 1 / fps)
    if not len(middles):
        return {len(times) // 2}
    places = np.searchsorted(times, middles).clip(1, len(times) - 1) if len(times) > 1 else np.zeros(1, dtype=int)
    before = np.asarray(times)[places - 1] if len(times) > 1 else np.zeros(1)
    nearer = (middles - before) < (np.asarray(times)[places] - middles)
    return {int(place) - int(near) for place, near in zip(places, nearer, strict=True)}


def _milliseconds_below(seconds: float) -> float:
    """Seconds to three digits, rounded down: a clip that ends there does not reach the frame that begins then."""
    return math.floor(round(seconds * 1000, 6)) / 1000
