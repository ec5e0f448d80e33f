"""A batch without videos and images sends one black image through SigLIP and compressor, with weight 0.

So every parameter that is trained has a gradient in every step: processes that hold text only take part in the gathering of
gradients (and, when sharded, of weights), in place of hanging; and one process computes the same as several. The release
feeds a black image to text-only samples, too.
"""

from typing import Any, cast

import torch
from torch import nn

from ..modeling.backbone_hicom import HiComModel
from .stages import part_of

VISUAL_INPUTS = ("pixel_values", "pixel_values_videos", "image_features", "video_features")
VISUAL_PARTS = ("compressor", "injection", "vision_head", "instruction_encoder")


def use_visual_path_always(model: nn.Module, world_size: int) -> None:
    """Add the black image to batches of text, if a visual part is trained or there are several processes."""
    inner = next(module for module in model.modules() if isinstance(module, HiComModel))
    inner.expects_text_only = True
    trained = any(p.requires_grad and part_of(name) in VISUAL_PARTS for name, p in model.named_parameters())
    if trained or world_size > 1:
        UnseenImage(inner)


class UnseenImage:
    """Adds a black image's visual tokens to what the LLM is given of a batch of text only, times 0.

    To its input and not to its output, so that the LLM's layers are also gone through backwards, as on a process that has
    videos: sharded layers are gathered for that, by all processes together. For the same reason the LLM's embedding, which FSDP2
    shards by itself, is called once, as for a batch with videos.

    Args:
        model: gets the hooks; they do nothing in evaluation mode and without gradients.
    """

    def __init__(self, model: HiComModel):
        self.model, self.is_due = model, False
        model.register_forward_pre_hook(self._look, with_kwargs=True)
        model.language_model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _look(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        has_visual_inputs = any(kwargs.get(name) is not None for name in VISUAL_INPUTS)
        self.is_due = self.model.training and torch.is_grad_enabled() and not has_visual_inputs

    def _add(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not self.is_due:
            return None
        self.is_due = False
        embeds = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeds + self._tokens(embeds.device).to(embeds.dtype)}

    def _tokens(self, device: torch.device) -> torch.Tensor:
        """The black image, as one number that is 0 and has a gradient of 0."""
        config = self.model.config
        side = cast(int, config.vision_config.image_size)  # HiComConfig allows no other
        padding = cast(int, config.instruction_config.pad_token_id)
        pixels = torch.zeros(1, 3, side, side, dtype=self.model.vision_tower.dtype, device=device)
        ids = torch.full((1, config.instruction_config.max_position_embeddings), padding, device=device)
        output = self.model.get_image_features(pixels, image_instruction_ids=ids, return_dict=True)
        return 0.0 * cast(list[torch.Tensor], output.pooler_output)[0].float().mean()
