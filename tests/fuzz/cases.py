"""The cases of each kind, endless and the same for the same seed, and the judgement of what they did."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.data.conversations import training_items
from hicom_hf.data.datasets import load_records
from hicom_hf.hub.loading import load_config, load_model
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.processors.video_sources_hicom import load_image
from hicom_hf.training.recipe_reading import read_recipe, recipe_path, shipped_recipes

from .forked import Outcome
from .mutations import mutated, mutated_value
from .seeds import animation_seeds, bomb_seeds, picture_seeds, video_seeds

EIGHT = FrameSampling(num_frames=8)
PIECES = (
    *(
        "<|video_pad|>",
        "<|image_pad|>",
        "<|im_start|>",
        "<|im_end|>",
        "<unk>",
        "<video>",
        "<image>",
        "\\<video>",
        "<|video_",
    ),
    *(
        "A. yes",
        "(B) no",
        "\n",
        "\x00",
        "\u202e",
        "\ue000",
        "{{",
        "{% for %}",
        "\ud800",
        "é",
        "What is it?",
        " ",
        "pad|>",
    ),
)
WORDS = (None, -1, 0, 1, 2.5, 10**30, 1e308, float("nan"), float("inf"), "all", "x", True, [], {}, (), b"", 7)


@dataclass
class Case:
    """One input.

    Attributes:
        name: kind, number and mutation.
        run: reads it.
        must_name: what an error message has to hold, if anything.
        errors: classes of errors that are clear.
    """

    name: str
    run: Callable[[], Any]
    must_name: str = ""
    errors: tuple[str, ...] = ("builtins.ValueError", "builtins.OSError")


def problem(case: Case, outcome: Outcome) -> str | None:
    """What is not allowed about an outcome, None if nothing is."""
    if outcome.kind == "error":
        if not set(case.errors) & set(outcome.types):
            return f"{case.name}: {outcome.error[:300]}\n{outcome.trace}"
        if case.must_name not in outcome.error:
            return f"{case.name}: the message does not name {case.must_name}: {outcome.error[:300]}"
    elif outcome.kind != "value":
        return f"{case.name}: {outcome.kind}, {outcome.error}, {outcome.cpu:.0f} s"
    return None


def videos(folder: Path, random: Random) -> Iterator[Case]:
    """Damaged videos and animations; errors are of one class and name the file."""
    seeds = list({**video_seeds(folder), **animation_seeds(folder)}.values())
    return _files(folder, random, {path.name: path.read_bytes() for path in seeds}, _read_video)


def images(folder: Path, random: Random) -> Iterator[Case]:
    """Damaged pictures."""
    return _files(
        folder, random, {f"picture.{kind}": content for kind, content in picture_seeds().items()}, load_image
    )


def bombs(folder: Path, random: Random) -> Iterator[Case]:
    """Small files that ask for much; refused, or read within the bounds of a case."""
    for path in bomb_seeds(folder):
        error = "hicom_hf.processors.source_names_hicom.VideoReadError"
        yield Case(path.name, lambda path=path: _read_video(path), path.name, (error,))


def _read_video(path: Path) -> tuple[np.ndarray, list[str]]:
    frames, record = read_video(path, EIGHT)
    return frames, record.warnings


def _files(folder: Path, random: Random, seeds: dict[str, bytes], read: Callable[[Path], Any]) -> Iterator[Case]:
    own_error = "hicom_hf.processors.source_names_hicom.VideoReadError"
    for number in _numbers():
        seed = random.choice(list(seeds))
        kind, content = mutated(seeds[seed], random, [other for name, other in seeds.items() if name != seed])
        path = folder / f"damaged_{seed}"
        path.write_bytes(content)
        yield Case(f"{number} {kind} {seed}", lambda path=path: read(path), path.name, (own_error,))


def records(folder: Path, random: Random) -> Iterator[Case]:
    """JSON and JSONL of training records, with wrong values and with damaged bytes."""
    turns = [{"from": "human", "value": "<video>\nWho?"}, {"from": "gpt", "value": "Ann."}]
    content = [{"type": "video", "path": "a.mp4", "start": 1.0, "num_frames": 4}, {"type": "text", "text": "Who?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Ann."}]
    sound = [{"id": "1", "video": "a.mp4", "conversations": turns}, {"id": 2, "messages": messages}]
    for number in _numbers():
        values, is_lines = sound, number % 2 == 1
        for _ in range(random.randrange(1, 4)):
            values = mutated_value(values, random)
        lines = values if is_lines and isinstance(values, list) else [values]
        text = "\n".join(map(json.dumps, lines)).encode()
        if random.random() < 0.3:
            text = mutated(text, random)[1]
        path = folder / ("records.jsonl" if is_lines else "records.json")
        path.write_bytes(text)
        yield Case(
            f"{number} {text[:200]!r}",
            lambda path=path: [training_items(record) for record in load_records(path)],
            "records",
        )


def yaml_files(folder: Path, random: Random) -> Iterator[Case]:
    """Recipes and mixtures."""
    recipes = [yaml.safe_load(recipe_path(name).read_text()) for name in shipped_recipes()]
    mixture = {"datasets": [{"json_path": "a.json", "sampling_strategy": "first:10"}]}
    for number in _numbers():
        is_mixture = number % 3 == 0
        values = mutated_value(mixture if is_mixture else random.choice(recipes), random)
        text = yaml.safe_dump(values).encode()
        if random.random() < 0.5:
            text = mutated(text, random)[1]
        path = folder / "damaged.yaml"
        path.write_bytes(text)
        read = load_records if is_mixture else read_recipe
        yield Case(f"{number} {text[:200]!r}", lambda path=path, read=read: read(path), "")


def configs(folder: Path, random: Random) -> Iterator[Case]:
    """config.json of a model."""
    model = folder / "config"
    tiny_model().config.save_pretrained(model)
    sound = (model / "config.json").read_bytes()
    for number in _numbers():
        values = mutated_value(json.loads(sound), random)
        kind, text = "value", json.dumps(values if isinstance(values, dict) else {}).encode()
        if random.random() < 0.3:
            kind, text = mutated(sound, random)
        (model / "config.json").write_bytes(text)
        yield Case(
            f"{number} {kind} {_difference(sound, text)}", lambda: load_config(model).num_visual_tokens(4), str(model)
        )


def checkpoints(folder: Path, random: Random) -> Iterator[Case]:
    """model.safetensors of a model; a NaN or a changed number inside is not seen from the file alone."""
    model, work = folder / "sound", folder / "checkpoint"
    tiny_model().save_pretrained(model)
    sound = (model / "model.safetensors").read_bytes()
    for number in _numbers():
        kind, content = mutated(sound, random, [sound])
        if random.random() < 0.5:  # mostly the header: the rest is numbers, and any number is one
            kind, head = mutated(sound[:2000], random)
            content = head + sound[2000:]
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(model, work)
        (work / "model.safetensors").write_bytes(content)
        yield Case(f"{number} {kind}", lambda: load_model(work, device="cpu").dtype, str(work))


def prompts(folder: Path, random: Random) -> Iterator[Case]:
    """Questions of special tokens and markup; the prompt has the placeholders of its one video and no more."""
    processor = tiny_processor()
    count = processor.num_visual_tokens(4)

    def ask(question: str, system: str) -> int:
        chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
        if system:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        inputs = processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, video_num_frames=[4], add_generation_prompt=True
        )
        found = inputs["input_ids"][0].count(processor.video_token_id)
        if found != count:
            raise AssertionError(f"{found} placeholders in place of {count}")
        return found

    for number in _numbers():
        question, system = ("".join(random.choices(PIECES, k=random.randrange(1, 30))) for _ in range(2))
        question = question * random.choice((1, 1, 1, 50))
        yield Case(f"{number} {question[:200]!r}", lambda q=question, s=system if number % 2 else "": ask(q, s))


def arguments(folder: Path, random: Random) -> Iterator[Case]:
    """Arguments of calls of the processor."""
    processor, frames = tiny_processor(), np.zeros((6, 16, 16, 3), dtype=np.uint8)
    names = (
        *(
            "num_frames",
            "fps",
            "start",
            "end",
            "max_frames",
            "short_video",
            "on_decode_error",
            "frame_rate",
            "media_access",
        ),
        *(
            "do_sample_frames",
            "max_video_tokens",
            "media_bounds",
            "sampling",
            "return_metadata",
            "instruction",
            "videos",
        ),
    )
    for number in _numbers():
        given = {name: random.choice(WORDS) for name in random.sample(names, random.randrange(1, 4))}
        call = {"videos": frames, "text": processor.video_token + " who", **given}
        errors = ("builtins.ValueError", "builtins.TypeError")
        yield Case(f"{number} {given}", lambda call=call: processor(**call)["input_ids"], "", errors)


def _difference(sound: bytes, damaged: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(sound, damaged, strict=False)) if a != b), 0)
    return repr(damaged[max(0, at - 30) : at + 60])


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


# Kind -> cases, and how many of them the quick set has.
KINDS = {
    "videos": (videos, 48),
    "images": (images, 32),
    "bombs": (bombs, 5),
    "records": (records, 24),
    "yaml": (yaml_files, 20),
    "configs": (configs, 20),
    "checkpoints": (checkpoints, 12),
    "prompts": (prompts, 16),
    "arguments": (arguments, 28),
}
