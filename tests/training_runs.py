"""Small real runs for the tests of training: videos and JSON on disk, a tiny model's folder, recipes that use them."""

import gc
import json
import logging
import os
import signal
import socket
from multiprocessing import set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from started import processes
from transformers import TrainerCallback
from video_files import write_video

from hicom_hf import FrameSampling
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.data.encoding import ItemEncoder
from hicom_hf.training.recipe import Recipe
from hicom_hf.training.recipe_reading import recipe_from_dict

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "white": (235, 235, 235)}
# Every answer depends on the video and on the question.
QUESTIONS = {"What colour is it?": "{colour}.", "Which letter?": "letter {letter}"}
RATES = {
    "alignment": {"compressor": 1e-3},
    "conditional_pretraining": {"compressor": 1e-4, "injection": 1e-3},
    "instruction_tuning": {"compressor": 1e-3, "injection": 1e-3, "language_model": 1e-3},
}


def write_data(folder: Path, with_text: bool = True) -> Path:
    """Four videos, two questions about each, an image and (if asked for) two dialogues without either, as train.json."""
    from PIL import Image

    records = []
    for letter, (colour, rgb) in zip("abcd", COLOURS.items(), strict=True):
        frames = np.broadcast_to(np.array(rgb, dtype=np.uint8), (6, 48, 48, 3))
        write_video(folder / f"{colour}.mp4", 6, frames=frames)
        for question, answer in QUESTIONS.items():
            turns = [("human", f"<video>\n{question}"), ("gpt", answer.format(colour=colour, letter=letter))]
            records.append({"video": f"{colour}.mp4", "conversations": [{"from": w, "value": t} for w, t in turns]})
    if with_text:
        Image.new("RGB", (40, 30), (10, 200, 100)).save(folder / "leaf.png")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A leaf."}]
        records.append({"image": "leaf.png", "conversations": turns})
        for word in ("one", "two"):
            turns = [{"from": "human", "value": f"Say {word}."}, {"from": "gpt", "value": f"{word}!"}]
            records.append({"conversations": turns})
    path = folder / "train.json"
    path.write_text(json.dumps([{"id": number, **record} for number, record in enumerate(records)]))
    return path


def encoder_of(processor, num_frames: int = 8, **options) -> ItemEncoder:
    """An encoder that takes as many frames of every video; `options` are those of `ItemEncoder`."""
    return ItemEncoder(processor, FrameSampling(num_frames=num_frames), **options)


def write_model(folder: Path, **compressor) -> Path:
    """A tiny model and its processor as one folder."""
    model = tiny_model(**compressor)
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


def recipe_values(stage: str, model: Path, data: Path, output_dir: Path, /, **changes) -> dict:
    """A recipe for the CPU, as plain values; `changes` replace values, nested ones key by key."""
    values = {
        "stage": stage,
        "model": str(model),
        "output_dir": str(output_dir),
        "data": {"files": [str(data)], "num_frames": 4, "num_workers": 0, "per_turn": stage != "alignment"},
        "learning_rates": dict(RATES[stage]),
        "batch_size": 4,
        "batch_size_per_device": 2,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "cpu": True,
        "logging": {"every": 1, "progress_bar": False},
        "checkpoints": {"every": 1000},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    return values


def recipe(*args, **changes) -> Recipe:
    return recipe_from_dict(recipe_values(*args, **changes))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from hicom_hf.training.checkpoints import read_weights

    return read_weights(Path(folder))


def result_of(model: Path) -> dict[str, torch.Tensor]:
    """All tensors of a finished model, or of finished adapters."""
    adapter = model / "adapter_model.safetensors"
    return load_file(adapter) if adapter.is_file() else weights_of(model)


def losses_of(output_dir: Path) -> list[tuple[int, float]]:
    """Steps and losses in the newest checkpoint's log."""
    from hicom_hf.training.checkpoints import last_checkpoint

    state = json.loads((last_checkpoint(output_dir) / "trainer_state.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry]


def run_quietly(values: dict, fsync=lambda descriptor: None) -> None:
    """What a started process does: run a recipe."""
    from hicom_hf.training.run import run_recipe

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    os.fsync = fsync  # it matters when the machine dies, not the process
    run_recipe(recipe_from_dict(values))


def run_as_second(values: dict, said: str) -> None:
    """What a second process does on a recipe that another one is running: it notes what refuses it."""
    try:
        run_quietly(values)
    except BlockingIOError as error:
        Path(said).write_text(str(error))


def run_as(rank: int, world_size: int, port: int, recipes: list[dict]) -> None:
    """What one of several processes does: what torchrun would have it do."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for values in recipes:
        run_quietly(values)
        gc.collect()  # `hicom train` is a process of its own for each recipe
    torch.distributed.destroy_process_group()


def start_ranks(target, *arguments, world_size: int = 2) -> list[BaseProcess]:
    """Start `target(rank, world_size, port, *arguments)` in as many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        processes().Process(target=target, args=(rank, world_size, port, *arguments)) for rank in range(world_size)
    ]
    for process in started:
        process.start()
    return started


class NotesAndKill(TrainerCallback):
    """Notes step and loss of every step; at the end of a step the last process is killed, if a step is given."""

    def __init__(self, notes: Path, step: int | None):
        self.notes, self.step = notes, step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if args.process_index == 0 and logs and "loss" in logs:
            with self.notes.open("a") as file:
                file.write(json.dumps([state.global_step, logs["loss"]]) + "\n")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def run_as_killed(
    rank: int, world_size: int, port: int, recipes: list[dict], notes: list[str], step: int | None
) -> None:
    """As `run_as`; losses are noted, and in the last recipe the last process is killed at the end of a step, if one is given."""
    from hicom_hf.training.trainer import HiComTrainer

    set_start_method("fork", force=True)  # of loaders, as under torchrun: they end with a process that is killed
    train, waiting = HiComTrainer.train, [Path(path) for path in notes]

    def train_with_notes(self, *args, **kwargs):
        path = waiting.pop(0)
        self.callback_handler.callbacks.insert(0, NotesAndKill(path, None if waiting else step))
        return train(self, *args, **kwargs)

    HiComTrainer.train = train_with_notes
    run_as(rank, world_size, port, recipes)
