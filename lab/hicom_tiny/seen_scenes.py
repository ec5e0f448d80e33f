"""Scenes for pre-training: the sampled frames, and where their objects are.

Letters: T frames, O objects of a scene, S image side in pixels.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hicom_hf.hub.progress import Progress
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.shapes import COLOURS, SHAPES, TEXTURES, Scene, padded_boxes
from hicom_hf.shapes.objects import SceneObject

from .sizes import IMAGE_SIZE, NUM_FRAMES, PATCH_SIZE

GRID = (IMAGE_SIZE // PATCH_SIZE, IMAGE_SIZE // PATCH_SIZE)
VALUES = (tuple(COLOURS), tuple(SHAPES), TEXTURES)  # of the attributes, in the order of `SceneObject.attributes`


@dataclass(frozen=True)
class SeenScene:
    """A scene with what a model is shown of it.

    Attributes:
        scene: what happens.
        attributes: (O, 3) int64, indices into `VALUES`.
        boxes: (O, T, 4) float64: left, top, right, bottom as fractions of S; NaN where an object is not seen.
        frames: (T, 3, S, S) uint8 as decoded, padded and resized.
    """

    scene: Scene
    attributes: torch.Tensor
    boxes: np.ndarray
    frames: torch.Tensor


def attribute_ids(objects: Iterable[SceneObject]) -> torch.Tensor:
    """(O, 3) int64, indices into `VALUES`."""
    rows = [[values.index(value) for values, value in zip(VALUES, found.attributes, strict=True)] for found in objects]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, len(VALUES))


def video_processor() -> HiComVideoProcessor:
    """The processor of the model that is being made."""
    return HiComVideoProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def read_seen_scenes(folder: Path, limit: int, progress: Progress) -> list[SeenScene]:
    """The first videos of a folder of the shapes world, through the real path: decoded, padded, resized.

    Args:
        folder: what `write_dataset` has written.
        limit: how many videos.
        progress: shows progress over an iterable, given its length and a name.
    """
    world = json.loads((folder / "world.json").read_text())
    records = {record["video"]: record["scene"] for record in json.loads((folder / "tuning.json").read_text())}
    chosen = list(records.items())[:limit]
    processor, found = video_processor(), []
    for video, values in progress(chosen, len(chosen), f"scenes of {folder.name}"):
        encoded = processor.preprocess([folder / video], num_frames=NUM_FRAMES, return_metadata=True)
        record = encoded["video_metadata"][0]
        scene = Scene.from_seed(**values)
        boxes = padded_boxes(scene.objects, record.num_source_frames, (world["height"], world["width"]))[
            :, record.indices
        ]
        frames = _as_bytes(encoded["pixel_values_videos"], processor)
        found.append(SeenScene(scene, attribute_ids(scene.objects), boxes, frames))
    return found


def _as_bytes(pixels: torch.Tensor, processor: HiComVideoProcessor) -> torch.Tensor:
    """Normalised pixels back to uint8, a quarter of the memory."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def as_pixels(frames: torch.Tensor, processor: HiComVideoProcessor) -> torch.Tensor:
    """uint8 frames (n, 3, S, S) as the vision tower takes them."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (frames.float() / 255 - mean) / std
