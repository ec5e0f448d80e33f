"""Tiles of a video as tensors with names and a description, as a file keeps them."""

from typing import Any

import torch

from ..processors.frame_tiles_hicom import Square
from ..processors.tiled_video_hicom import TiledVideo, ZoomLevel
from .candidate_cache import sampling_from_dict

# Which patches stand where: used on the CPU, whatever the features' device.
PLACES = ("square_of", "members", "inside")
NAMES = ("features", "aligned_features", *PLACES)  # of the tensors of each zoom


def tiles_as_tensors(video: TiledVideo) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of each zoom, named "zoom.attribute", and what else makes the video, as plain values."""
    tensors = {f"{level.zoom}.{name}": getattr(level, name) for level in video.levels for name in NAMES}
    levels = [{"zoom": level.zoom, "squares": [list(square) for square in level.squares]} for level in video.levels]
    return tensors, {"levels": levels, "sampling": video.sampling.to_dict(), "num_frames": video.num_frames}


def tiles_of_tensors(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> TiledVideo:
    """The video of which `tiles_as_tensors` made tensors; its seconds of reading are 0, because no video file was read."""
    levels = []
    for level in described["levels"]:
        start = f"{level['zoom']}."
        own = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
        own |= {name: own[name].cpu() for name in PLACES}
        levels.append(ZoomLevel(level["zoom"], [Square(*square) for square in level["squares"]], **own))
    return TiledVideo(levels, sampling_from_dict(described["sampling"]), described["num_frames"], 0.0)
