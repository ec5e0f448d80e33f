"""Converts frames and sentences into vectors whose cosine is their similarity.

Letters: n frames, m texts, H/W patch rows and columns, D width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..assets import HICOM_TINY, model_source
from .settings import KeyframeSettings
from .video_embedders import PeVideoEmbedder, VideoPrismEmbedder

FIELDS = 4  # rows and columns of a frame whose means are kept apart


class Embedder(Protocol):
    """The interface of embedders.

    Attributes:
        provenance: plain values that say which one it is.
    """

    provenance: dict[str, Any]

    def embed_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors float32 (n, D) of frames uint8 (height, width, 3), for comparing frames with each other."""
        ...

    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Cosine of each frame and each text, float32 (n, m); (1, m) of embedders that take the frames as one video."""
        ...


class HiComEmbedder:
    """The SigLIP of a HICom model.

    A frame's vector is the mean of its aligned features in each of 4 x 4 fields: in the built-in world it separates scenes
    better (area under the curve 0.96) than the mean over the frame (0.94). All 12 x 12 patches separate them better still
    (0.98), and their vectors are nine times as long. SigLIP's own pooling is not used: HICom does not train its probe.

    Args:
        source: folder or repo of a HICom model; None for hicom-tiny.
        device: for the tower.
    """

    def __init__(self, source: str | None = None, device: str = "cpu"):
        from ..hub.loading import load_model, load_processor

        found = model_source(source)
        model = load_model(found, device, "float32")
        self.processor = load_processor(found)
        self.vision, self.text = model.model.vision_tower.eval(), model.model.instruction_encoder.eval()
        self.provenance = {"embedder": "hicom", "model": source or HICOM_TINY, "pooling": f"{FIELDS}x{FIELDS}"}

    @torch.no_grad()
    def aligned_features(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        """(n, H, W, D), in the space of the texts."""
        pixels = self.processor.video_processor(
            videos=[np.stack(list(frames))], num_frames=len(frames), return_tensors="pt"
        )["pixel_values_videos"]
        return self.vision(pixels.to(self.vision.device))[1].float().cpu()

    def embed_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        features = self.aligned_features(frames).movedim(-1, 1)  # (n, D, H, W)
        fields = torch.nn.functional.adaptive_avg_pool2d(features, FIELDS)
        return fields.flatten(1).numpy()

    @torch.no_grad()
    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        images = torch.nn.functional.normalize(self.aligned_features(frames).mean((1, 2)), dim=-1)
        ids = self.processor.encode_instructions(list(texts))
        words = torch.nn.functional.normalize(self.text(ids.to(self.text.device))[0].float().cpu(), dim=-1)
        return (images @ words.T).numpy()


class SiglipEmbedder:
    """A SigLIP or SigLIP 2, by its own pooling.

    Args:
        source: folder or repo.
        device: for the model.
    """

    def __init__(self, source: str, device: str = "cpu"):
        from transformers import AutoImageProcessor, AutoModel

        self.source = source
        self.model = AutoModel.from_pretrained(source, dtype=torch.float32).to(device).eval()
        self.image_processor = AutoImageProcessor.from_pretrained(source)
        self.provenance = {
            "embedder": "siglip",
            "model": source,
            "revision": vars(self.model.config).get("_commit_hash"),
        }

    @torch.no_grad()
    def embed_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        inputs = self.image_processor(list(frames), return_tensors="pt").to(self.model.device)
        return self.model.get_image_features(**inputs).pooler_output.float().cpu().numpy()

    @torch.no_grad()
    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source)  # only categories need one
        inputs = tokenizer(list(texts), padding="max_length", truncation=True, max_length=64, return_tensors="pt")
        words = self.model.get_text_features(**inputs.to(self.model.device)).pooler_output.float().cpu()
        images = torch.nn.functional.normalize(torch.from_numpy(self.embed_frames(frames)), dim=-1)
        return (images @ torch.nn.functional.normalize(words, dim=-1).T).numpy()


def make_embedder(settings: KeyframeSettings, device: str = "cpu") -> Embedder:
    """The embedder that settings name."""
    if settings.embedder == "hicom":
        return HiComEmbedder(settings.model, device)
    assert settings.model is not None  # checked with the settings
    kinds = {"siglip": SiglipEmbedder, "pe_video": PeVideoEmbedder, "videoprism": VideoPrismEmbedder}
    return kinds[settings.embedder](settings.model, device)
