"""Time and memory of a training step with padded rows and with the same samples in one packed row.

In: nothing. Out: a line for each number of samples of a batch, with the share of padding and the ratios packed / padded within
the run. Run: `python benchmarks/packing.py`.

A model of the width of Qwen2.5-0.5B with 4 layers on one CPU thread, float32, SDPA; lengths are drawn between 60 and 800 tokens,
a tenth of them labelled. Memory is the peak of live tensors.
"""

import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from hicom_hf.training.live_bytes import LiveBytes

REPEATS = 3


def batch(lengths: list[int], packed: bool) -> dict[str, torch.Tensor]:
    """Inputs of a step; the labels of both ways are the same tokens."""
    rows = [torch.arange(length) % 1000 for length in lengths]
    labels = [torch.where(torch.arange(len(row)) >= len(row) * 9 // 10, row, -100) for row in rows]
    if packed:
        positions = torch.cat([torch.arange(length) for length in lengths])
        return {"input_ids": torch.cat(rows)[None], "labels": torch.cat(labels)[None], "position_ids": positions[None]}
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
    }


def step(model: Qwen2ForCausalLM, inputs: dict[str, torch.Tensor]) -> tuple[float, int]:
    """Seconds of the fastest of some steps, peak of live bytes."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        model(**inputs, use_cache=False).loss.backward()
        seconds.append(time.perf_counter() - begin)
        model.zero_grad()
    live = LiveBytes()
    with live:
        model(**inputs, use_cache=False).loss.backward()
    model.zero_grad()
    return min(seconds), live.peak


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=4,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=1000,
    )
    model = Qwen2ForCausalLM(config).train()
    for count in (2, 4, 8):
        lengths = torch.randint(60, 800, (count,)).tolist()
        padding = 1 - sum(lengths) / (count * max(lengths))
        padded, packed = (step(model, batch(lengths, way)) for way in (False, True))
        print(
            f"{count} samples, {padding:.0%} padding: packed / padded time {packed[0] / padded[0]:.2f}, memory "
            f"{packed[1] / padded[1]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
