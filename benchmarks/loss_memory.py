"""Memory and time of the loss, with logits of all tokens and of labelled tokens only (`skip_logits=True`).

In: nothing. Out: a line for each, and the ratio full / labelled. Run: `python benchmarks/loss_memory.py`.

Sizes: the head of Qwen2.5-0.5B (151,936 words of width 896), 2 rows of 744 tokens, 60 of them labelled, as of a video of 32
frames with an answer of 60 tokens; float32 on one CPU thread, each variant in a separate process.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from hicom_hf import HiComConfig, HiComForConditionalGeneration

ROWS, LENGTH, LABELLED = 2, 744, 60
VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
}
INSTRUCTION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_size": 128,
    "vocab_size": 1000,
    "bos_token_id": None,
    "eos_token_id": 1,
}
TEXT = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}


def resident_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(skip_logits: bool) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = HiComConfig(
        vision_config=VISION, instruction_config=INSTRUCTION, text_config=TEXT, image_token_id=11, video_token_id=10
    )
    model = HiComForConditionalGeneration(config).train().requires_grad_(False)
    embeds = (torch.randn(ROWS, LENGTH, TEXT["hidden_size"]) * 0.02).requires_grad_()
    labels = torch.full((ROWS, LENGTH), -100)
    labels[:, -LABELLED:] = torch.randint(20, 1000, (ROWS, LABELLED))
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before, start = resident_mb("VmRSS"), time.process_time()
    if skip_logits:
        loss = model._loss_of_labelled_tokens(hidden, labels)
    else:
        loss = model.loss_function(logits=model.lm_head(hidden), labels=labels, vocab_size=TEXT["vocab_size"])
    loss.backward()
    return {
        "logits": "labelled" if skip_logits else "all",
        "peak_mb": round(resident_mb("VmHWM") - before),
        "cpu_seconds": round(time.process_time() - start, 2),
        "loss": round(loss.item(), 5),
        "gradient_norm": round(embeds.grad.norm().item(), 6),
    }


def main():
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == "labelled")))
        return
    rows = []
    for variant in ("all", "labelled"):
        run = subprocess.run([sys.executable, __file__, variant], capture_output=True, text=True, check=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]))
    full, labelled = rows
    print(json.dumps({f"{name}_ratio": round(full[name] / labelled[name], 1) for name in ("peak_mb", "cpu_seconds")}))


if __name__ == "__main__":
    main()
