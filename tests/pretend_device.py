"""Asks a model on a device that computes nothing: reading a value from it is an error, as it has none.

It stands in for a GPU, on which such a read makes the host wait until all that was queued is done. Prints a JSON object: for
each way of asking, what was read, or null.
"""

import json
import sys
import traceback
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.modeling import backbone_hicom

DEVICE = "pretend:0"
NUM_FRAMES = 8


class Early:
    """In place of `HostNumbers`, whose copies are on their way before the videos are queued: here they never arrive."""

    def __init__(self, numbers):
        pass

    def read(self):
        return False


def attention(query, key, value, **options):
    """In place of PyTorch's, which knows no such device; the shape is what counts."""
    return torch.empty_like(query)


def read_by(ask):
    """The line that reads from the device, None if none does."""
    try:
        ask()
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        frames = traceback.extract_tb(error.__traceback__)
        return next(
            f"{frame.filename}:{frame.lineno}" for frame in reversed(frames) if "/torch/" not in frame.filename
        )
    return None


def to_pretend(model, mode):
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = torch.nn.Parameter(mode.from_tensor(tensor.detach()).to(DEVICE), requires_grad=False)
    return model


@torch.no_grad()
def main():
    torch.nn.functional.scaled_dot_product_attention = attention
    backbone_hicom.HostNumbers = Early
    backbone_hicom.check_placeholders = lambda *arguments: None
    model = tiny_model()
    num_tokens = model.config.num_visual_tokens(NUM_FRAMES)
    side: Any = model.config.vision_config.image_size
    listed, here = [NUM_FRAMES], torch.tensor([NUM_FRAMES])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = to_pretend(model, mode)
        there = torch.full((1,), NUM_FRAMES).to(DEVICE)

        def prompt(rows, videos):
            ids = torch.full((rows, videos * num_tokens + 10), model.config.video_token_id).to(DEVICE)
            mask, instructions = torch.ones_like(ids), torch.ones(rows * videos, 64, dtype=torch.long).to(DEVICE)
            return {
                "input_ids": ids,
                "attention_mask": mask,
                "video_instruction_ids": instructions,
                "logits_to_keep": 1,
            }

        def pixels(videos):
            return torch.empty(videos * NUM_FRAMES, 3, side, side).to(DEVICE)

        features = model.encode_videos(pixels(1), listed)
        moved = {**features, "num_frames": there}
        positions = torch.arange(num_tokens + 10)[None].to(DEVICE)
        unmasked = {name: value for name, value in prompt(1, 1).items() if name != "attention_mask"}
        one, two = {"pixel_values_videos": pixels(1)}, {"pixel_values_videos": pixels(2)}
        ways = {
            "counts as a list": {**prompt(1, 1), **one, "video_num_frames": listed},
            "counts on the host": {**prompt(1, 1), **one, "video_num_frames": here},
            "one count on the device": {**prompt(1, 1), **one, "video_num_frames": there},
            "two videos": {**prompt(1, 2), **two, "video_num_frames": listed * 2},
            "own positions": {**unmasked, **one, "video_num_frames": listed, "position_ids": positions},
            "follow-up": {**prompt(1, 1), "video_features": features},
            "follow-up, all on the device": {**prompt(1, 1), "video_features": moved},
            "8 questions on one video": {**prompt(8, 1), "video_features": features},
            "two counts on the device": {**prompt(1, 2), **two, "video_num_frames": torch.cat([there, there])},
        }
        found = {name: read_by(lambda way=way: model(**way, use_cache=False)) for name, way in ways.items()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend("pretend")
    main()
