"""What a follow-up question costs, against a first question about the same video.

In: nothing (random weights of a middle size, random frames). Out: a table with seconds and the ratio to the first question,
both measured in the same run, and the visual tokens beside the patches they stand for.

    python benchmarks/follow_up.py [--frames 32] [--runs 3]
"""

import argparse
import statistics
import time

import torch

from hicom_hf import HiComConfig, HiComForConditionalGeneration
from hicom_hf.assembly.random_model import tiny_config

# SigLIP base sizes at 224 pixels, and an LLM of Qwen2.5-0.5B's width with a quarter of its layers.
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 6, "num_attention_heads": 14}


def build() -> HiComForConditionalGeneration:
    tiny = tiny_config()
    config = HiComConfig(
        vision_config={**VISION, "image_size": 224, "patch_size": 16},
        instruction_config={**VISION, "projection_size": 768, "vocab_size": 1000, "max_position_embeddings": 64},
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "vocab_size": tiny.text_config.vocab_size,
            "eos_token_id": None,
        },
        compressor_config={},
        image_token_id=tiny.image_token_id,
        video_token_id=tiny.video_token_id,
    )
    return HiComForConditionalGeneration(config).eval()


def median_seconds(function, runs: int) -> float:
    times = []
    for _ in range(runs + 1):  # the first run warms up
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=32, help="frames of the video")
    parser.add_argument("--runs", type=int, default=3, help="runs per row, of which the median counts")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = build()
    num_frames = torch.tensor([arguments.frames])
    pixels = torch.randn(arguments.frames, 3, 224, 224)
    instruction_ids = torch.randint(2, 1000, (1, 64))
    tokens = model.config.num_visual_tokens(arguments.frames)
    ids = torch.full((1, tokens + 20), 5)
    ids[:, 5 : 5 + tokens] = model.config.video_token_id
    prompt = {"input_ids": ids, "video_instruction_ids": instruction_ids, "logits_to_keep": 1}
    features = model.encode_videos(pixels, num_frames)
    instruction = model.model.instruction_encoder(instruction_ids)
    batched = [features[name][None] for name in ("features", "aligned_features")]
    rows = {
        "first question": lambda: model(pixel_values_videos=pixels, video_num_frames=num_frames, **prompt),
        "follow-up question": lambda: model(video_features=features, **prompt),
        "  of it, compressor": lambda: model.model.compressor(*batched, instruction),
    }
    seconds = {name: median_seconds(function, arguments.runs) for name, function in rows.items()}
    patches = arguments.frames * model.config.grid[0] * model.config.grid[1]
    print(
        f"{arguments.frames} frames, {patches} patches, {tokens} visual tokens ({patches / tokens:.1f} patches per token)"
    )
    print(f"{'':22}{'seconds':>9}{'ratio to the first question':>30}")
    for name, value in seconds.items():
        print(f"{name:22}{value:>9.3f}{value / seconds['first question']:>30.3f}")


if __name__ == "__main__":
    main()
