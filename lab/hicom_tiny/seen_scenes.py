"""Scenes for pre-training: the objects in each patch of the sampled frames, and the frames themselves.

Letters: T frames, H/W patch rows and columns, O objects of a scene, S image side in pixels.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hicom_hf.hub.progress import Progress
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.shapes import COLOURS, SHAPES, TEXTURES, Scene, patch_cover
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
        cover: (O, T, H, W) float16, how much of a patch the box of an object covers.
        frames: (T, 3, S, S) uint8 as decoded, padded and resized; None where they are not used.
    """

    scene: Scene
    attributes: torch.Tensor
    cover: torch.Tensor
    frames: torch.Tensor | None = None


def attribute_ids(objects: Iterable[SceneObject]) -> torch.Tensor:
    """(O, 3) int64, indices into `VALUES`."""
    rows = [[values.index(value) for values, value in zip(VALUES, found.attributes, strict=True)] for found in objects]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, len(VALUES))


def sampled_cover(scene: Scene, num_source_frames: int, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    """(O, T, H, W) float16: cover of the patches in those frames of a video."""
    cover = patch_cover(scene.objects, num_source_frames, size, GRID)[:, indices]
    return torch.from_numpy(cover.astype(np.float16))


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
        cover = sampled_cover(scene, record.num_source_frames, record.indices, (world["height"], world["width"]))
        frames = _as_bytes(encoded["pixel_values_videos"], processor)
        found.append(SeenScene(scene, attribute_ids(scene.objects), cover, frames))
    return found


def _as_bytes(pixels: torch.Tensor, processor: HiComVideoProcessor) -> torch.Tensor:
    """Normalised pixels back to uint8, a quarter of the memory."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def as_pixels(frames: torch.Tensor, processor: HiComVideoProcessor) -> torch.Tensor:
    """uint8 frames (n, 3, S, S) as the vision tower takes them."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (frames.float() / 255 - mean) / std
