"""Long videos made of scenes that were encoded once: a scene at any place among others, without a file.

Features and scores of a frame do not depend on its place, so that the scenes of a haystack are encoded and scored once for all
lengths and places. Letters: T frames, P parts of a question.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..hub.progress import Progress, no_progress
from ..processors.candidate_frames_hicom import CandidateFiles, CandidateFrames
from ..processors.frame_tiles_hicom import FrameTiles
from ..processors.video_reading_hicom import SamplingRecord
from ..shapes import Scene, render
from ..shapes.rendering import DEFAULT_SIZE

SCENE_FRAMES = 16
Size = tuple[int, int]  # height and width of frames, in pixels
SQUARE: Size = (DEFAULT_SIZE, DEFAULT_SIZE)


class EncodedScenes(CandidateFrames):
    """Scenes of `SCENE_FRAMES` frames that were encoded; scores are kept until `forget_scores`.

    Args:
        encoded: what `encode_scenes` returned for the same scenes, size and tiles.
        scenes, size, tiles: see there.
    """

    def __init__(
        self, encoded: CandidateFrames, scenes: Sequence[Scene], size: Size = SQUARE, tiles: FrameTiles | None = None
    ):
        files = CandidateFiles(encoded.features, encoded.aligned_features, encoded.keys, encoded.scales)
        super().__init__(files, encoded.changes, None, encoded.seconds)
        self.scenes, self.size, self.tiles = scenes, size, tiles
        self._borders: dict[int, torch.Tensor] = {}
        self._scores: dict[bytes, torch.Tensor] = {}

    def scores(self, model: Any, scorers: Sequence[Any]) -> torch.Tensor:
        """(P, T); a query that was seen before costs nothing."""
        rows = []
        for scorer in scorers:
            key = scorer.query.float().cpu().numpy().tobytes()
            if key not in self._scores:
                self._scores[key] = super().scores(model, [scorer])
            rows.append(self._scores[key])
        return torch.cat(rows)

    def forget_scores(self) -> None:
        self._scores.clear()

    def frame_features(self, model: Any, processor: Any, row: int) -> torch.Tensor:
        """The features of one frame, (1, H, W, D), for what changes at a cut; those of squares are encoded again, once."""
        if self.has_features:
            return self.features.take([row])
        if row not in self._borders:
            frame = scene_frames(self.scenes[row // SCENE_FRAMES], self.size)[row % SCENE_FRAMES]
            pixels: list[torch.Tensor] = []
            processor.video_processor.read_in_chunks(frame[None], pixels.append, 1, num_frames="all", tiles=self.tiles)
            self._borders[row] = model.encode_frames(pixels[0][0])[0].flatten(0, 1)[None].to(torch.bfloat16)
        return self._borders[row]


def encode_scenes(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    progress: Progress = no_progress,
    files: CandidateFiles | None = None,
    size: Size = SQUARE,
    tiles: FrameTiles | None = None,
) -> CandidateFrames:
    """Encode scenes, one behind the other; their `changes` are those inside of scenes.

    Args:
        size: of their frames.
        tiles: frames are scored as squares; None pads them.
        files: new ones that stay; None for temporary ones in bfloat16.
    """
    files = files or CandidateFiles.temporary(torch.bfloat16)
    changes: list[float] = []
    for scene in progress(scenes, len(scenes), "scenes"):
        last: list[torch.Tensor] = []
        processor.video_processor.read_in_chunks(
            scene_frames(scene, size),
            lambda pixels, last=last: changes.extend(files.append(model, pixels, last)),
            SCENE_FRAMES,
            num_frames="all",
            tiles=tiles,
        )
    return CandidateFrames(files, changes, None, 0.0)


@lru_cache(maxsize=64)  # as many as an even choice reads again as tiles; 1.8 MB each at 16:9
def scene_frames(scene: Scene, size: Size) -> np.ndarray:
    """The frames of a scene, uint8 (16, height, width, 3)."""
    return render(scene, num_frames=SCENE_FRAMES, size=size)[0]


class Part(NamedTuple):
    """A scene of a film: the scene `number` of `scenes`."""

    scenes: EncodedScenes
    number: int

    def changes(self) -> list[float]:
        within = SCENE_FRAMES - 1
        return self.scenes.changes[self.number * within : (self.number + 1) * within]

    def row(self, frame: int) -> int:
        return self.number * SCENE_FRAMES + frame


class Film(CandidateFrames):
    """Scenes one behind the other, as the candidates of one video at a frame per second.

    Args:
        parts: in order.
        cut: how much changes from the end of one part to the beginning of the next, see `Cuts`.
    """

    def __init__(self, parts: Sequence[Part], cut: Callable[[Part, Part], float]):
        self.parts = parts
        changes = []
        for place, part in enumerate(parts):
            changes += part.changes()
            if place + 1 < len(parts):
                changes.append(cut(part, parts[place + 1]))
        count = len(parts) * SCENE_FRAMES
        record = SamplingRecord(
            source="<scenes>",
            indices=list(range(count)),
            times=[float(frame) for frame in range(count)],
            num_source_frames=count,
            duration=float(count),
            frame_rate=1.0,
            stream_index=None,
            rotation=0,
            height=parts[0].scenes.size[0],
            width=parts[0].scenes.size[1],
            requested_frames=None,
            fewer_than_requested=False,
        )
        joined: list[Any] = [_Joined(parts, name) for name in CandidateFiles._fields]  # read like files
        super().__init__(CandidateFiles(*joined), changes, record, 0.0)

    def __len__(self) -> int:
        return len(self.parts) * SCENE_FRAMES

    def names(self, rows: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """Which frames of which scenes these are, whatever the film."""
        parts = [(self.parts[row // SCENE_FRAMES], row % SCENE_FRAMES) for row in rows]
        return tuple((id(part.scenes), part.number, frame) for part, frame in parts)

    def frames(self, rows: Sequence[int]) -> np.ndarray:
        """Frames by their number as they are before they are padded, uint8 (n, height, width, 3)."""
        found = []
        for row in rows:
            part = self.parts[row // SCENE_FRAMES]
            found.append(scene_frames(part.scenes.scenes[part.number], part.scenes.size)[row % SCENE_FRAMES])
        return np.stack(found)

    def scores(self, model: Any, scorers: Sequence[Any]) -> torch.Tensor:
        """Of each of P parts of a question, (P, T)."""
        rows = {id(part.scenes): part.scenes for part in self.parts}
        rows = {key: scenes.scores(model, scorers) for key, scenes in rows.items()}
        found = [rows[id(part.scenes)][:, part.row(0) : part.row(SCENE_FRAMES)] for part in self.parts]
        return torch.cat(found, dim=1)


class _Joined:
    """The features of a film's frames, read where their scenes lie."""

    def __init__(self, parts: Sequence[Part], name: str):
        self.parts, self.name = parts, name

    def take(self, rows: Sequence[int]) -> torch.Tensor:
        found = []
        for row in rows:
            part = self.parts[row // SCENE_FRAMES]
            found.append(getattr(part.scenes, self.name).take([part.row(row % SCENE_FRAMES)]))
        return torch.cat(found)


class Cuts:
    """How much changes between two scenes; measured once for each pair."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor, self._known = model, processor, {}

    def __call__(self, before: Part, after: Part) -> float:
        key = (id(before.scenes), before.number, id(after.scenes), after.number)
        if key not in self._known:
            ends = (before.scenes, before.row(SCENE_FRAMES - 1)), (after.scenes, after.row(0))
            pair = [scenes.frame_features(self.model, self.processor, row) for scenes, row in ends]
            self._known[key] = self.model.frame_changes(torch.cat(pair)).item()
        return self._known[key]

    def keep_within(self, scenes: EncodedScenes) -> None:
        """Forget what belongs to other scenes, which are about to go."""
        self._known = {key: value for key, value in self._known.items() if key[0] == key[2] == id(scenes)}
