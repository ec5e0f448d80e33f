"""Run in a process of its own, in which `hicom_hf` and torchvision cannot be imported: load, compute, save again.

    python without_package.py OUTPUT_DIR SOURCE [SOURCE ...]

For every SOURCE (folder or repo id) OUTPUT_DIR gets SOURCE's number as a folder, with results.json, logits.safetensors, and the
model saved again in three ways.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # before transformers looks for them
    for blocked in ("hicom_hf", "torchvision", "torchcodec"):
        sys.modules[blocked] = None  # importing it now raises ImportError

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

MODEL_CLASSES = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")
QUESTION = "What is it?"
BOTH = {
    "selection": {"num_frames": 2, "max_p_value": 1.0},
    "tiles": {"zooms": [1]},
}  # the question chooses frames, then squares


def frames():
    return np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)


def prompt(processor):
    """The tensors of one question about `frames()`."""
    content = [{"type": "video", "video": frames()}, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def examine(source, folder):
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=True)
    classes, logits = {"AutoConfig": type(config), "AutoProcessor": type(processor)}, {}
    for name in MODEL_CLASSES:
        model = getattr(transformers, name).from_pretrained(source, trust_remote_code=True)
        classes[name] = type(model)
        logits[name] = logits_of(model, prompt(processor))
    save_file(logits, folder / "logits.safetensors")

    model.save_pretrained(folder / "model_again")  # before any pipeline: its file must be found all the same
    pipe = transformers.pipeline("video-text-to-text", model=source, trust_remote_code=True, max_new_tokens=8)
    classes["pipeline"] = type(pipe)
    pipe.save_pretrained(folder / "pipeline_again")
    single, batch = pipe(frames(), text=QUESTION), pipe([frames()] * 2, text=[QUESTION, "Who?"], batch_size=2)
    chosen = pipe(frames(), text=QUESTION, num_frames="all", selection={"num_frames": 2}, return_metadata=True)[0]
    again = transformers.pipeline("video-text-to-text", model=str(folder / "pipeline_again"), trust_remote_code=True)
    results = {
        "classes": {name: [found.__module__, found.__name__] for name, found in classes.items()},
        "answer": single[0]["generated_text"],
        "batched_answer": batch[0][0]["generated_text"],
        "answer_again": again(frames(), text=QUESTION, max_new_tokens=8)[0]["generated_text"],
        "of_tiles": pipe(frames(), text=QUESTION, tiles={"zooms": [1, 2]}, return_metadata=True)[0],
        "chosen_frames": chosen["selection"][0]["frames"],
        "of_both": pipe(frames(), text=QUESTION, num_frames="all", return_metadata=True, **BOTH)[0],
        "answers": [record[0]["generated_text"] for record in pipe(frames(), text=[QUESTION, "Who?"])],
    }
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, source in enumerate(sys.argv[2:]):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir(parents=True)
        examine(source, folder)
