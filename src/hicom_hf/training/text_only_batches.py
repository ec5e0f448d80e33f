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
        inner.register_forward_pre_hook(add_unseen_image, with_kwargs=True)


def add_unseen_image(module: HiComModel, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Forward pre-hook: add a black image's visual tokens to the embeddings of a batch of text only, times 0.

    To the embeddings and not to the output, so that the LLM's layers are also gone through backwards, as on a process that
    has videos: sharded layers are gathered for that, by all processes together.
    """
    if not (module.training and torch.is_grad_enabled()) or any(
        kwargs.get(name) is not None for name in VISUAL_INPUTS
    ):
        return None
    embeds = kwargs.get("inputs_embeds")
    if embeds is None:
        embeds = module.get_input_embeddings()(kwargs["input_ids"])
    side = cast(int, module.config.vision_config.image_size)  # HiComConfig allows no other
    instruction = module.config.instruction_config
    padding = cast(int, instruction.pad_token_id)
    pixels = torch.zeros(1, 3, side, side, dtype=module.vision_tower.dtype, device=embeds.device)
    ids = torch.full((1, instruction.max_position_embeddings), padding, device=embeds.device)
    output = module.get_image_features(pixels, image_instruction_ids=ids, return_dict=True)
    tokens = cast(list[torch.Tensor], output.pooler_output)[0]
    unseen = 0.0 * tokens.float().mean()
    return args, {**kwargs, "input_ids": None, "inputs_embeds": embeds + unseen.to(embeds.dtype)}
