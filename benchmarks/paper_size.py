"""What compression saves at the paper's size: seconds and memory of a question, beside average pooling of 2 x 2 patches.

SigLIP so400m at 384 pixels and an LLM of Qwen2.5-7B's shape, with random weights, which cost what trained ones do. A video of
32 frames is 680 visual tokens for HICom, and 6,272 for pooling (paper, figure 1).

In: nothing. Out: a table with seconds until the first word of a first question (frames to logits), of a follow-up question
(features kept), and of 32 words that follow; peak memory on a GPU; and the ratio of pooling to HICom, measured in the same run.

    python benchmarks/paper_size.py [--device cuda] [--dtype bfloat16] [--frames 32] [--attention sdpa] [--layers 28] [--runs 5]
"""

import argparse
import statistics
import time

import torch

from hicom_hf import HiComConfig, HiComForConditionalGeneration
from hicom_hf.modeling.configuration_hicom import QWEN2_5_7B

COMPRESSORS = {
    "HICom": {},
    "average pool (1,2,2)": {
        "local_branch": "average_pool",
        "ratio": [1, 2, 2],
        "local_injection": "none",
        "num_global_tokens": 0,
        "global_injection": "none",
    },
}
TEXT_TOKENS, NEW_TOKENS = 40, 32
VIDEO_TOKEN, PLAIN_TOKEN = 10, 5  # any ids do
GIB = 2**30


def build(compressor: dict, arguments) -> HiComForConditionalGeneration:
    config = HiComConfig(
        compressor_config=compressor,
        text_config={**QWEN2_5_7B, "num_hidden_layers": arguments.layers},
        image_token_id=VIDEO_TOKEN + 1,
        video_token_id=VIDEO_TOKEN,
    )
    dtype = getattr(torch, arguments.dtype)
    with torch.device(arguments.device):
        model = HiComForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=arguments.attention
        )
    model.generation_config.eos_token_id = None
    return model.eval()


def seconds_of(function, device: str, runs: int) -> float:
    """The median; the first run warms up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def measure(compressor: dict, arguments) -> dict[str, float]:
    device, on_gpu = arguments.device, arguments.device.startswith("cuda")
    model = build(compressor, arguments)
    weights = torch.cuda.memory_allocated() / GIB if on_gpu else 0.0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    num_frames = torch.tensor([arguments.frames], device=device)
    pixels = torch.randn(arguments.frames, 3, 384, 384, device=device, dtype=model.dtype)
    tokens = model.config.num_visual_tokens(arguments.frames)
    ids = torch.full((1, tokens + TEXT_TOKENS), PLAIN_TOKEN, device=device)
    ids[:, 5 : 5 + tokens] = VIDEO_TOKEN
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.compressor_config.uses_instruction:
        prompt["video_instruction_ids"] = torch.randint(2, 1000, (1, 64), device=device)
    features = model.encode_videos(pixels, num_frames)
    first = {"pixel_values_videos": pixels, "video_num_frames": num_frames, **prompt, "logits_to_keep": 1}
    follow_up = {"video_features": features, **prompt}

    def answer():
        model.generate(**follow_up, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)

    found = {
        "visual tokens": tokens,
        "first question, s": seconds_of(lambda: model(**first), device, arguments.runs),
        "follow-up question, s": seconds_of(lambda: model(**follow_up, logits_to_keep=1), device, arguments.runs),
        f"follow-up and {NEW_TOKENS} words, s": seconds_of(answer, device, arguments.runs),
    }
    if on_gpu:
        found["weights, GiB"] = weights
        found["peak above weights, GiB"] = torch.cuda.max_memory_allocated() / GIB - weights
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda if any"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--attention", default="sdpa", help="attention implementation (default sdpa)")
    parser.add_argument("--frames", type=int, default=32, help="frames of the video (default 32)")
    parser.add_argument("--layers", type=int, default=28, help="of the LLM (default 28, all of Qwen2.5-7B)")
    parser.add_argument("--runs", type=int, default=5, help="runs per number, of which the median counts (default 5)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    columns = {}
    for name, compressor in COMPRESSORS.items():
        columns[name] = measure(compressor, arguments)
        if arguments.device.startswith("cuda"):
            torch.cuda.empty_cache()
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    print(f"{device}, {arguments.dtype}, {arguments.attention}, {arguments.frames} frames, {arguments.layers} layers")
    print(f"{'':30}{''.join(f'{name:>24}' for name in columns)}{'ratio':>8}")
    ours, other = columns.values()
    for row, value in ours.items():
        numbers = "".join(
            f"{column[row]:>24,}" if isinstance(value, int) else f"{column[row]:>24.3f}" for column in columns.values()
        )
        print(f"{row:30}{numbers}{other[row] / value:>8.2f}")


if __name__ == "__main__":
    main()
