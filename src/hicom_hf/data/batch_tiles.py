"""Tiles in batches: squares of videos and images encoded, and of their patches those that each question chooses.

Under `video_tiles` and `image_tiles` a batch has an entry for each of its videos and images: squares that were read
(`ReadTiles`), or their features (`TiledVideo`, from a `FeatureCache`), or None where frames are padded and stand among the usual
inputs. Patches are chosen when the batch is about to go through the model, by its weights of that moment, as a session with
these weights chooses them. Letters: L = 64 instruction tokens.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..processors.square_frames_hicom import concatenated_features
from ..processors.tiled_video_hicom import ReadTiles, TiledVideo, choose_by_scores, encode_tiles

if TYPE_CHECKING:
    from ..modeling.modeling_hicom import HiComForConditionalGeneration
    from ..processors.processing_hicom import HiComProcessor

Tiles = ReadTiles | TiledVideo
KEYS = {"video": "video_tiles", "image": "image_tiles"}


def is_tiled(content: Any) -> bool:
    """Whether what was read of a medium is tiles, and not padded frames or their features."""
    return isinstance(content, (ReadTiles, TiledVideo))


def has_tiles(inputs: Mapping[str, Any]) -> bool:
    """Whether a sample or a batch holds tiles."""
    return any(inputs.get(key) is not None for key in KEYS.values())


def with_chosen_patches(
    model: "HiComForConditionalGeneration", processor: "HiComProcessor", batch: dict[str, Any]
) -> dict[str, Any]:
    """A batch in which each question has chosen its patches; one without tiles as it is.

    Squares of a video are encoded once, however many questions of the batch are about it.

    Args:
        model: that is trained; under autocast if it is trained under it.
        processor: of the same folder.
        batch: of `HiComDataCollator`.

    Returns:
        With `video_features` and `image_features` in place of tiles and of the pixels beside them.

    Raises:
        ValueError: the vision tower is trainable, whose features have no gradients here.

    Example:
        >>> model(**with_chosen_patches(model, processor, collator(samples))).loss  # doctest: +SKIP
    """
    kinds = [kind for kind, key in KEYS.items() if batch.get(key) is not None]
    if kinds and any(parameter.requires_grad for parameter in model.model.vision_tower.parameters()):
        raise ValueError(
            "tiles need a frozen vision tower: the features of squares are computed without gradients; freeze it "
            "(model.model.vision_tower.requires_grad_(False)), or train without tiles"
        )
    batch = dict(batch)
    with torch.no_grad():
        for kind in kinds:
            padded = iter(_padded(model, kind, batch))
            encoded: dict[int, TiledVideo] = {}
            parts = []
            for tiles, ids in zip(batch.pop(KEYS[kind]), batch[f"{kind}_instruction_ids"], strict=True):
                if tiles is None:
                    parts.append(next(padded))
                    continue
                if id(tiles) not in encoded:
                    encoded[id(tiles)] = encoded_tiles(model, processor, tiles)
                parts.append(chosen_features(model, encoded[id(tiles)], ids))
            batch[f"{kind}_features"] = concatenated_features(parts)
    return batch


def choose_when_called(model: "HiComForConditionalGeneration", processor: "HiComProcessor") -> None:
    """Let questions choose among tiles when the model is called: before that, no process has all weights of a sharded model.

    Args:
        model: whose inner model gets the hook.
        processor: of the same folder.
    """

    def choose(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        return (args, with_chosen_patches(model, processor, kwargs)) if has_tiles(kwargs) else None

    model.model.register_forward_pre_hook(choose, with_kwargs=True)


def encoded_tiles(model: Any, processor: Any, tiles: Tiles) -> TiledVideo:
    """The features of squares, if they are not there yet."""
    return tiles if isinstance(tiles, TiledVideo) else encode_tiles(model, processor, tiles)


def chosen_features(model: Any, video: TiledVideo, instruction_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The patches that one question sees, as `HiComVideoFeatures` on the model's device.

    Args:
        instruction_ids: (L,).
    """
    scorer = model.frame_scorer(instruction_ids[None])
    with torch.autocast(model.device.type, enabled=False):  # it would compare scores in bfloat16
        _, chosen = choose_by_scores(model, video, scorer)
    return of_model(model, chosen.features)


def _padded(model: Any, kind: str, batch: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Features of each video or image that is not seen as tiles; its inputs are taken out of the batch."""
    pixels = batch.pop("pixel_values" if kind == "image" else "pixel_values_videos", None)
    features = batch.pop(f"{kind}_features", None)
    counts = batch.pop("video_num_frames", None) if kind == "video" else None
    if pixels is not None:
        features = model.encode_videos(pixels, [1] * len(pixels) if counts is None else counts)
    if features is None:
        return []
    lengths = features["num_frames"].tolist()
    parts = {name: value.split(lengths) for name, value in features.items() if name != "num_frames"}
    return [
        of_model(model, {**{name: values[number] for name, values in parts.items()}, "num_frames": [length]})
        for number, length in enumerate(lengths)
    ]


def of_model(model: Any, features: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the compressor reads of one video, on its device; the number of frames stays on the CPU."""
    names = ["features", *(["aligned_features"] if model.config.compressor_config.uses_aligned_features else [])]
    found = {name: features[name].to(model.device) for name in names}
    return {**found, "num_frames": torch.as_tensor(features["num_frames"])}
