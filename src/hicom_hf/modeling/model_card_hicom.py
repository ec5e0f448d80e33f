"""The model card of a folder of weights, filled in from the model's config; it ships with the weights, as their code does."""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import ModelCardData
from transformers.utils import logging

from .parts_hicom import PARTS, count_by_part

logger = logging.get_logger(__name__)

CARD_FILE = "README.md"
EXAMPLE_FILE = "example.mp4"
# What is asked about the example, and what is right; hicom-tiny answers all of it.
EXAMPLE_QUESTIONS = {
    "Which way does the cyan moon move?": "left",
    "How many blue moons are there?": "three",
    "Where is the striped diamond?": "bottom right",
    "When does the dotted purple object appear?": "late",
}
SHOWN_FRAMES = (1, 8, 16, 32, 64, 128)
# The card ends in the digest of all that stands before it, so that an edit by hand shows, and is never overwritten.
MARKER = "<!-- Written by hicom_hf from config.json; an edited card is left alone. sha256: {digest} -->"
MARKER_PATTERN = re.compile(re.escape(MARKER).replace(re.escape("{digest}"), "([0-9a-f]{64})") + r"\s*$")
# What transformers writes where it finds no card.
TRANSFORMERS_CARD = "This is the model card of a 🤗 transformers model that has been pushed on the Hub."

INJECTIONS = {
    "none": "no injection: the pooled group or the learnable token itself is the query",
    "direct": "direct injection: an MLP of the instruction's pooled embedding is the query",
    "coarse": "coarse injection: scale and shift from the instruction's pooled embedding",
    "fine": "fine injection: attention over the instruction's tokens",
}
RELEASE_INJECTIONS = {
    **INJECTIONS,
    "direct": "direct injection: the instruction's pooled embedding itself is the query",
}
FORMULATIONS = {
    "paper": "`paper`: the equations of the paper. What it leaves open (heads, readouts, the layer that keys come from) is "
    "decided in the code, each place marked `Differs:` or `Source:`. The authors' released code computes something else.",
    "release": "`release`: what the authors' released code computes, which differs from the equations of the paper; for "
    "checkpoints converted from theirs.",
}

CARD = """\
---
{metadata}
---

# {title}

A video language model whose visual tokens are compressed **on the condition of the question**: HICom, hybrid-level instruction
injection ([Liu et al., CVPR 2025](https://arxiv.org/abs/2503.16036)), in a format that `transformers` loads directly.

SigLIP encodes the frames. A local branch turns each group of patches into one token, by attention that the question steers; a
global branch adds learnable tokens that search the whole video. The LLM reads these tokens in place of the patches.
{untrained}
## What it is

| part | parameters | shape |
|---|---|---|
{parts}

* Local branch: {local}
* Global branch: {global_}
* Formulation {formulation}

| frames | patches | visual tokens that the LLM reads |
|---|---|---|
{tokens}

The LLM's context is {context:,} tokens, for visual tokens, question and answer together.

## How to use it

No package is needed beside `pip install "transformers>=5.23,<6" torch av pillow`. `trust_remote_code=True` runs the Python files of
this repository; read them first. With `hicom_hf` installed and imported the package's own code runs, and it can be left out.

```python
from transformers import AutoModel, AutoProcessor

model_id = "{name}"
model = AutoModel.from_pretrained(model_id, trust_remote_code=True)  # device_map="auto" for GPUs, with accelerate installed
processor = AutoProcessor.from_pretrained(model_id, trust_remote_code=True)

chat = [{{"role": "user", "content": [
    {{"type": "video", "path": "my_video.mp4"}},
    {{"type": "text", "text": "What happens in this video?"}},
]}}]
inputs = processor.apply_chat_template(
    chat, num_frames=32, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
).to(model.device)
output = model.generate(**inputs, max_new_tokens=128)
print(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

The expensive half does not depend on the question. Encode a video once, ask many:

```python
features = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])
for question in ("Who is there?", "What happens at the end?"):
    chat = [{{"role": "user", "content": [{{"type": "video"}}, {{"type": "text", "text": question}}]}}]
    follow_up = processor.apply_chat_template(
        chat, video_num_frames=features["num_frames"].tolist(),
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    ).to(model.device)
    output = model.generate(**follow_up, video_features=features, max_new_tokens=128)
    print(processor.decode(output[0, follow_up["input_ids"].shape[1]:], skip_special_tokens=True))
```

Or with the pipeline, for a path, a URL, a chat, or lists of them:

```python
from transformers import pipeline

answer = pipeline("video-text-to-text", model="{name}", trust_remote_code=True)
print(answer("my_video.mp4", text="What happens in this video?", num_frames=32, max_new_tokens=128))
print(answer("my_video.mp4", text=["Who is there?", "What happens at the end?"]))  # encoded once
```

## Demo

* **In the browser**: the Space [{space}](https://huggingface.co/spaces/{space}), if its owner has uploaded one.
* **On your own machine**: `hicom web {name}`, of the package `hicom_hf`, shows the same page. `hicom space DEST --model {space}` writes
  the Space, and `hf upload {space} DEST --repo-type space` uploads it.
* **An example**: [{example}]({example}), four seconds of a synthetic world, with questions and the right answers:

| question | right answer |
|---|---|
{questions}

```python
for question in ("{first_question}", "{second_question}"):
    print(question, answer("{example}", text=question, num_frames=8, max_new_tokens=16))
```

This prints the model's own answers. A model that was trained on other videos need not give the right ones.

## Limits, and what was not verified

* The compressed tokens depend on the question. When a conversation turns to another topic, ask the new question as a new prompt over
  the same encoded video, as above.
* The model sees frames, not sound. It has the errors and biases of its training data; its statements about people are not evidence.
* This card is filled in from the config. It contains no scores, because none were measured when it was written; those of the paper
  belong to its authors' weights.
* Not verified by the authors of this code: the published 7B weights themselves, and this repository's files on the real Hub.

## License

The code is Apache-2.0. Weights keep the terms of what they were made from: the SigLIP and the LLM that they started from, and the
data that they were trained on. The HICom authors call their release non-commercial; weights converted from it stay so.

## Citation

```bibtex
@inproceedings{{liu2025hicom,
  title     = {{Hybrid-Level Instruction Injection for Video Token Compression in Multi-modal Large Language Models}},
  author    = {{Liu, Zhihang and Xie, Chen-Wei and Li, Pandeng and Zhao, Liming and Tang, Longxiang and Zheng, Yun and Liu, Chuanbin and Xie, Hongtao}},
  booktitle = {{CVPR}},
  year      = {{2025}}
}}
```
"""  # noqa: E501


def write_model_card(model, folder: Path, name: str | None = None, tags: list[str] | tuple[str, ...] = ()) -> bool:
    """Write README.md, unless there is one that somebody wrote or edited.

    Args:
        model: with a `HiComConfig`.
        folder: of the weights.
        name: by which the snippets load it, a repo id; default: the name of the folder.
        tags: to add to the metadata.

    Returns:
        Whether it was written.
    """
    path = folder / CARD_FILE
    if path.exists() and not is_replaceable(path.read_text(encoding="utf-8")):
        logger.warning(f"{path} was written or edited by hand and stays as it is")
        return False
    card = render_model_card(
        model.config, count_parameters(type(model), model.config), name or folder.resolve().name, tags
    )
    path.write_text(card, encoding="utf-8")
    return True


def is_replaceable(card: str) -> bool:
    """Whether a card was generated, and not edited since."""
    text = card.replace("\r\n", "\n")
    marker = MARKER_PATTERN.search(text)
    if marker is None:
        return TRANSFORMERS_CARD in text
    return _digest(text[: marker.start()]) == marker[1]


def render_model_card(
    config, num_parameters: dict[str, int], name: str, tags: list[str] | tuple[str, ...] = ()
) -> str:
    """The card as text.

    Args:
        config: a `HiComConfig`.
        num_parameters: per part, see `count_parameters`.
        name: by which the snippets load the model.
        tags: to add to the metadata.
    """
    compressor, (rows, columns) = config.compressor_config, config.grid
    llm = config.text_config.to_dict()
    body = CARD.format(
        metadata=_metadata(config, tags),
        title=name.rsplit("/", 1)[-1],
        name=name,
        untrained=_untrained(config),
        parts=_parts(config, num_parameters),
        local=_local(compressor),
        global_=_global(compressor),
        formulation=FORMULATIONS[compressor.formulation],
        tokens="\n".join(
            f"| {frames} | {frames * rows * columns:,} | {config.num_visual_tokens(frames):,} |"
            for frames in SHOWN_FRAMES
        ),
        space=name if "/" in name else f"OWNER/{name}",
        example=EXAMPLE_FILE,
        questions="\n".join(f"| {question} | {answer} |" for question, answer in EXAMPLE_QUESTIONS.items()),
        first_question=next(iter(EXAMPLE_QUESTIONS)),
        second_question=list(EXAMPLE_QUESTIONS)[1],
        context=llm.get("max_position_embeddings") or 0,
    )
    return f"{body}\n{MARKER.format(digest=_digest(body + chr(10)))}\n"


def count_parameters(model_class: type, config) -> dict[str, int]:
    """Parameters of each part, counted on a model without memory: right also for quantized, sharded or adapted weights."""
    return dict(_counted(model_class, type(config), config.to_json_string(use_diff=False)))


@lru_cache(maxsize=8)  # each checkpoint of a training run has a card
def _counted(model_class: type, config_class: type, config: str) -> dict[str, int]:
    with torch.device("meta"):
        skeleton = model_class(config_class.from_dict(json.loads(config)))
    tied = "lm_head." if skeleton.config.tie_word_embeddings else None  # counted with the embeddings
    return count_by_part(
        (name, parameter.numel())
        for name, parameter in skeleton.named_parameters()
        if tied is None or not name.startswith(tied)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _metadata(config, tags: list[str] | tuple[str, ...]) -> str:
    own = ["hicom", "video", "video-text-to-text", "visual-token-compression", "siglip", config.text_config.model_type]
    return ModelCardData(
        language="en",
        license="other",
        license_name="code-apache-2.0-weights-by-origin",
        library_name="transformers",
        pipeline_tag="video-text-to-text",
        tags=list(dict.fromkeys([*own, "custom_code", *tags])),
    ).to_yaml()


def _untrained(config) -> str:
    if not config.untrained_parts:
        return ""
    parts = ", ".join(PARTS[part] for part in config.untrained_parts)
    return f"\n**The words of its answers mean nothing yet: these parts have random, untrained weights: {parts}.**\n"


def _parts(config, num_parameters: dict[str, int]) -> str:
    vision, text, llm = config.vision_config, config.instruction_config, config.text_config
    rows, columns = config.grid
    shapes = {
        "vision_tower": f"{vision.num_hidden_layers} layers, width {vision.hidden_size}, frames of {vision.image_size} px, "
        f"{rows} x {columns} patches",
        "instruction_encoder": f"{text.num_hidden_layers} layers, width {text.hidden_size}, "
        f"{text.max_position_embeddings} tokens",
        "compressor": f"width {vision.hidden_size} to {llm.hidden_size}",
        "language_model": f"`{llm.model_type}`, {llm.num_hidden_layers} layers, width {llm.hidden_size}",
    }
    lines = [f"| {PARTS[part]} | {num_parameters[part]:,} | {shapes[part]} |" for part in PARTS]
    return "\n".join([*lines, f"| all | {sum(num_parameters.values()):,} | |"])


def _local(compressor) -> str:
    if compressor.local_branch is None:
        return "none."
    frames, rows, columns = compressor.ratio
    groups = f"groups of {frames} frames x {rows} x {columns} patches"
    if compressor.local_branch == "average_pool":
        return f"the average of {groups}, whatever the question."
    return f"attention inside {groups}; {_injection(compressor, compressor.local_injection)}."


def _global(compressor) -> str:
    if not compressor.num_global_tokens:
        return "none."
    injection = _injection(compressor, compressor.global_injection)
    return f"{compressor.num_global_tokens} learnable tokens over all patches; {injection}."


def _injection(compressor, injection: str) -> str:
    words = {"paper": INJECTIONS, "release": RELEASE_INJECTIONS}[compressor.formulation][injection]
    bypassed = compressor.bypass_injection and injection != "none"
    return words + (" (not run yet: bypass_injection is set)" if bypassed else "")
