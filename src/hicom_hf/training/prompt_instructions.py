"""Instructions for trainers that hand on a fixed list of inputs, and so lose them between the processor and the model.

Letters: B rows, L = 64 instruction tokens.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..modeling.backbone_hicom import HiComModel
from ..processors.processing_hicom import HiComProcessor


def find_instructions_in_prompts(model: nn.Module, processor: HiComProcessor) -> RemovableHandle:
    """Let a model take the instructions of its videos and images from the prompt, in calls that come without them.

    TRL's trainers for GRPO and RLOO hand on pixels, but not `image_instruction_ids`. The prompt's tokens hold the question, so
    the instruction is found in them as the processor finds it in the prompt's text: the last user turn, by the same rules.

    Args:
        model: `HiComForConditionalGeneration`, also inside of a PEFT model.
        processor: of the model; its chat template is ChatML.

    Returns:
        A handle, whose `remove()` ends it.

    Raises:
        ValueError: the model is called with pixels and without instructions, and a prompt was written by another template, or
            its placeholders do not fit the images.

    Example:
        >>> find_instructions_in_prompts(model, processor)  # doctest: +SKIP
        >>> trainer = trl.GRPOTrainer(model, reward_funcs=reward, train_dataset=rows,  # doctest: +SKIP
        ...     processing_class=processor, args=args)
    """
    inner = next(module for module in model.modules() if isinstance(module, HiComModel))

    def add(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        found = _missing_instructions(kwargs, processor)
        return (args, {**kwargs, **found}) if found else None

    return inner.register_forward_pre_hook(add, with_kwargs=True)


def _missing_instructions(kwargs: dict[str, Any], processor: HiComProcessor) -> dict[str, torch.Tensor]:
    """Instruction ids, (images, L) or (videos, L), of what a call has pixels for and no instructions."""
    pixels = {"image": kwargs.get("pixel_values"), "video": kwargs.get("pixel_values_videos")}
    missing = [
        kind for kind, given in pixels.items() if given is not None and kwargs.get(f"{kind}_instruction_ids") is None
    ]
    input_ids = kwargs.get("input_ids")
    if not missing or input_ids is None:
        return {}
    rows, kinds = [], []
    frames = iter([] if kwargs.get("video_num_frames") is None else [int(n) for n in kwargs["video_num_frames"]])
    mask = kwargs.get("attention_mask")
    for number, ids in enumerate(input_ids):
        ids = ids if mask is None else ids[mask[number].bool()]
        text, visuals = _prompt_of(ids.tolist(), frames, processor)
        rows.append(text)
        kinds.append(visuals)
    found = processor._instructions(rows, kinds, None)
    return {
        f"{kind}_instruction_ids": found[f"{kind}_instruction_ids"].to(input_ids.device)
        for kind in missing
        if f"{kind}_instruction_ids" in found
    }


def _prompt_of(ids: list[int], frames: Any, processor: HiComProcessor) -> tuple[str, list[str]]:
    """The text of a row, each video and image one placeholder, and what they are."""
    tokens = {processor.image_token_id: "image", processor.video_token_id: "video"}
    kept, visuals, position = [], [], 0
    while position < len(ids):
        kind = tokens.get(ids[position])
        kept.append(ids[position])
        if kind is None:
            position += 1
            continue
        visuals.append(kind)
        position += processor.num_visual_tokens(1 if kind == "image" else next(frames, 1))
    text = processor.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text, visuals
