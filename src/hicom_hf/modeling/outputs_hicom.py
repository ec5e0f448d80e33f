"""What the model returns.

Letters: V videos, T frames of one, H/W patch rows and columns, D vision width, C LLM width, N visual tokens of one video.
"""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from .compressor_hicom import HiComCompressorAttentions


@dataclass
class HiComVideoFeatures(ModelOutput):
    """SigLIP's features of some videos: all that the model needs of them, for every question.

    A dictionary of tensors, so `safetensors.torch.save_file(dict(features), path)` keeps it and
    `model(..., video_features=load_file(path))` takes it back.

    Attributes:
        features: (sum T, H, W, D).
        aligned_features: (sum T, H, W, D); absent if the compressor does not need them.
        num_frames: (V,) int64, frames of each video.
    """

    # transformers lets an output have one field without a default; these two are always there.
    features: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    num_frames: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    aligned_features: torch.Tensor | None = None


@dataclass
class HiComVisualOutput(BaseModelOutputWithPooling):
    """Visual tokens as transformers' `generate` expects them.

    Attributes:
        pooler_output: one (N, C) tensor per video.
        compressor_attentions: one `HiComCompressorAttentions` per video, if asked for.
    """

    # transformers declares one tensor; its `generate` takes a list as well.
    pooler_output: list[torch.Tensor] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    compressor_attentions: tuple[HiComCompressorAttentions, ...] | None = None


@dataclass
class HiComModelOutputWithPast(BaseModelOutputWithPast):
    """`BaseModelOutputWithPast` and the compressor's attention, one entry per image and per video, if asked for."""

    image_compressor_attentions: tuple[HiComCompressorAttentions, ...] | None = None
    video_compressor_attentions: tuple[HiComCompressorAttentions, ...] | None = None


@dataclass
class HiComCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast` and the compressor's attention, one entry per image and per video, if asked for."""

    image_compressor_attentions: tuple[HiComCompressorAttentions, ...] | None = None
    video_compressor_attentions: tuple[HiComCompressorAttentions, ...] | None = None
