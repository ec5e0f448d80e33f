"""Embedders that take several frames as one video: PE-AV's video part and VideoPrism.

A frame is compared as a video of one frame (PE-AV) or of equal frames (VideoPrism, which has a fixed number).

Letters: n frames, m texts, S side, D width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

TEXT_LENGTH = 64  # tokens


class VideoTextEmbedder:
    """What both models have in common.

    Args:
        source: folder or repo.
        device: for the model.
    """

    kind: str
    side: int  # pixels
    mean, std = 0.0, 1.0

    def __init__(self, source: str, device: str = "cpu"):
        from transformers import AutoModel

        self.source = source
        self.model = AutoModel.from_pretrained(source, dtype=torch.float32).to(device).eval()
        revision = vars(self.model.config).get("_commit_hash")
        self.provenance: dict[str, Any] = {"embedder": self.kind, "model": source, "revision": revision}

    def embed_frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """See `Embedder`."""
        return torch.cat([self.video_features(self.pixels([frame])) for frame in frames]).numpy()

    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """See `Embedder`; one row for all frames together."""
        video = torch.nn.functional.normalize(self.video_features(self.pixels(frames)), dim=-1)
        words = torch.nn.functional.normalize(self.text_features(texts), dim=-1)
        return (video @ words.T).numpy()

    def pixels(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        """One video (1, n, 3, S, S)."""
        size = (self.side, self.side)
        scaled = [Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR) for frame in frames]
        values = torch.from_numpy(np.stack([np.asarray(image) for image in scaled])).float() / 255
        return ((values - self.mean) / self.std).movedim(-1, 1)[None].to(self.model.device)

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source)  # only categories need one
        options = {"padding": "max_length", "truncation": True, "max_length": TEXT_LENGTH, "return_tensors": "pt"}
        found = tokenizer(list(texts), **options).to(self.model.device)
        return {key: found[key] for key in ("input_ids", "attention_mask")}

    def video_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, D), on the CPU."""
        raise NotImplementedError

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """(m, D), on the CPU."""
        raise NotImplementedError


class PeVideoEmbedder(VideoTextEmbedder):
    """`PeVideoModel`, such as facebook/pe-av-small-16-frame; its frames' encoder needs the package timm.

    Its `get_video_features` and `get_text_features` are no methods in transformers 5.23; this does what its `forward` does.
    """

    kind = "pe_video"
    mean, std = 0.5, 0.5

    def __init__(self, source: str, device: str = "cpu"):
        super().__init__(source, device)
        vision = self.model.video_encoder.embedder.vision_model
        self.side = getattr(vision.config, "image_size", None) or vision.timm_model.patch_embed.img_size[0]

    @torch.no_grad()
    def video_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.video_head(self.model.video_encoder(pixel_values_videos=pixels).pooler_output).float().cpu()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        states = self.model.text_model(**self.tokens(texts)).last_hidden_state
        return self.model.text_video_head(states[:, 0]).float().cpu()


class VideoPrismEmbedder(VideoTextEmbedder):
    """`VideoPrismClipModel`, such as google/videoprism-lvt-base-f16r288."""

    kind = "videoprism"

    def __init__(self, source: str, device: str = "cpu"):
        super().__init__(source, device)
        vision = self.model.config.vision_config
        self.side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        self.num_frames = vision.num_frames

    @torch.no_grad()
    def video_features(self, pixels: torch.Tensor) -> torch.Tensor:
        places = torch.linspace(0, pixels.shape[1] - 1, self.num_frames, device=pixels.device).round().long()
        found = self.model.get_video_features(pixel_values_videos=pixels[:, places]).pooler_output
        return found.reshape(1, -1).float().cpu()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.get_text_features(**self.tokens(texts)).pooler_output.reshape(len(texts), -1).float().cpu()
