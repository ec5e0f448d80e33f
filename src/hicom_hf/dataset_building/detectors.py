"""Detectors of cuts: how unlike the frame before a frame is, and at which of these distances a new shot begins.

The distances are measured while a video is decoded and are stored; cuts are found in them later, so that another threshold
decodes nothing again.

Letters: T frames.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from .settings import ShotSettings
from .shots import brightness_histogram, find_cuts, histogram_distance

Numbers = Sequence[float] | np.ndarray
MICROSECOND = Fraction(1, 1_000_000)


class Detector(Protocol):
    """Sees the frames of one video in their order.

    Attributes:
        provenance: plain values that say which one it is.
    """

    provenance: dict[str, Any]

    def distance(self, frame: np.ndarray, time: float) -> float:
        """Of a frame uint8 (height, width, 3), at a time in seconds, from the one before; 0 for the first one."""
        ...

    def cuts(self, times: Numbers, distances: Numbers, settings: ShotSettings) -> list[float]:
        """Times at which a new shot begins, from T distances."""
        ...


class HistogramDetector:
    """Distance of brightness histograms, see `shots`."""

    provenance = {"detector": "histogram"}

    def __init__(self):
        self._before: np.ndarray | None = None

    def distance(self, frame: np.ndarray, time: float) -> float:
        histogram, before = brightness_histogram(frame), self._before
        self._before = histogram
        return 0.0 if before is None else histogram_distance(before, histogram)

    def cuts(self, times: Numbers, distances: Numbers, settings: ShotSettings) -> list[float]:
        return find_cuts(times, distances, settings.chosen_threshold, settings.min_length)


class PySceneDetector:
    """PySceneDetect's ContentDetector and FlashFilter, as the paper and Panda-70M used them, fed by our own decoding.

    PySceneDetect's default backend, OpenCV, gives wrong times for variable frame rates and no frames of AV1; this one is as its
    PyAV backend.

    Raises:
        ImportError: scenedetect is not installed.
    """

    def __init__(self):
        try:
            import cv2  # pyright: ignore[reportMissingImports]
            import scenedetect  # pyright: ignore[reportMissingImports]
            from scenedetect.common import Timecode  # pyright: ignore[reportMissingImports]
            from scenedetect.scene_manager import compute_downscale_factor  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "shots.detector pyscenedetect needs PySceneDetect: pip install 'hicom_hf[build-scenedetect]'"
            ) from error
        self._cv2, self._scenedetect, self._timecode = cv2, scenedetect, Timecode
        self._factor = compute_downscale_factor
        self._detector = scenedetect.ContentDetector()
        self._detector.stats_manager = scenedetect.StatsManager()  # the only public way to a frame's distance
        self.provenance = {"detector": "pyscenedetect", "version": scenedetect.__version__}

    def distance(self, frame: np.ndarray, time: float) -> float:
        factor = self._factor(frame.shape[1])
        if factor > 1:  # as SceneManager does
            size = (max(1, round(frame.shape[1] / factor)), max(1, round(frame.shape[0] / factor)))
            frame = self._cv2.resize(frame, size, interpolation=self._cv2.INTER_LINEAR)
        place, manager = self._place(time), self._detector.stats_manager
        self._detector.process_frame(place, self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2BGR))
        key = self._detector.FRAME_SCORE_KEY
        return float(manager.get_metrics(place, [key])[0]) if manager.metrics_exist(place, [key]) else 0.0

    def cuts(self, times: Numbers, distances: Numbers, settings: ShotSettings) -> list[float]:
        from scenedetect.detector import FlashFilter  # pyright: ignore[reportMissingImports]

        waits = FlashFilter(FlashFilter.Mode.MERGE, float(settings.min_length))
        found = []
        for time, distance in zip(times, distances, strict=True):
            is_above = float(distance) >= settings.chosen_threshold
            found += [cut.seconds for cut in waits.filter(self._place(float(time)), is_above)]
        return found

    def _place(self, time: float) -> Any:
        moment = self._timecode(round(time / float(MICROSECOND)), MICROSECOND)
        return self._scenedetect.FrameTimecode(moment, fps=Fraction(25))  # the rate is used for whole frames only


def make_detector(settings: ShotSettings) -> Detector:
    """A detector for one video; errors as of the classes."""
    return PySceneDetector() if settings.detector == "pyscenedetect" else HistogramDetector()
