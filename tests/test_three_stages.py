"""The paper's three stages under two processes, with packing, evaluation, a kill in each stage, and resumption.

Once with hicom-tiny; once with the widths and the vocabulary of the paper's 0.5B model, with fewer layers and frames.
The recipes are the shipped ones of that size.
"""

import json
import math
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import run_as_killed, start_ranks, weights_of

from hicom_hf import HiComConfig, HiComForConditionalGeneration, HiComProcessor, HiComVideoProcessor, hicom_tiny
from hicom_hf.modeling.configuration_hicom import SIGLIP_SO400M_TEXT, SIGLIP_SO400M_VISION
from hicom_hf.modeling.parts_hicom import PARTS
from hicom_hf.shapes import write_dataset
from hicom_hf.training.checkpoints import last_checkpoint
from hicom_hf.training.recipe_reading import read_recipe
from hicom_hf.training.stages import part_of

STAGES = {  # and the file of records of each
    "alignment": "alignment.json",
    "conditional_pretraining": "pretraining.json",
    "instruction_tuning": "tuning.json",
}
TRAINED = {
    "alignment": {"compressor"},
    "conditional_pretraining": {"compressor", "injection"},
    "instruction_tuning": {"compressor", "injection", "language_model"},
}
# Steps of a stage, from one checkpoint and evaluation to the next, and after which a process is killed.
STEPS, SAVED, KILLED = 20, 10, 13
TIMEOUT = 1800  # seconds until a start counts as hanging
MOST_MEMORY = 16 * 2**30  # bytes, of both processes and their loaders: what a machine of 16 GB has
QWEN2_5_HALF_B = {  # Source: config.json of Qwen2.5-0.5B-Instruct
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def write_wide_model(folder: Path) -> Path:
    """A random model of the paper's widths: 2 layers in each tower, 4 in the LLM; the tokenizers are those of hicom-tiny."""
    tiny, processor = HiComConfig.from_pretrained(hicom_tiny()), HiComProcessor.from_pretrained(hicom_tiny())
    tokens = {key: getattr(tiny.text_config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = HiComConfig(
        vision_config={**SIGLIP_SO400M_VISION, "num_hidden_layers": 2},
        instruction_config={**SIGLIP_SO400M_TEXT, "num_hidden_layers": 2},
        text_config={**tokens, **QWEN2_5_HALF_B, "num_hidden_layers": 4},
        image_token_id=tiny.image_token_id,
        video_token_id=tiny.video_token_id,
        untrained_parts=list(PARTS),
    )
    torch.manual_seed(0)
    HiComForConditionalGeneration._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    HiComProcessor(
        tokenizer=processor.tokenizer,
        instruction_tokenizer=processor.instruction_tokenizer,
        video_processor=HiComVideoProcessor(),
        chat_template=processor.chat_template,
        ratio=config.compressor_config.ratio,
        grid=config.grid,
        num_global_tokens=config.compressor_config.num_global_tokens,
        instruction_length=config.instruction_config.max_position_embeddings,
        instruction_vocab_size=config.instruction_config.vocab_size,
    ).save_pretrained(folder)
    return folder


def recipes_of(model: Path, data: Path, folder: Path, changes: dict[str, Any]) -> dict[str, dict]:
    """The shipped recipes of the 0.5B model by stage, each from the folder of the one before."""
    recipes = {}
    for stage, file in STAGES.items():
        sets = {
            "model": model,
            "output_dir": folder / stage,
            "data.files": f"[{data / file}]",
            "data.media_root": data,
            "data.packing": "true",
            "batch_size": 4,
            "batch_size_per_device": 2,
            "max_steps": STEPS,
            "cpu": "true",
            "logging.every": 1,
            "logging.progress_bar": "false",
            "checkpoints.every": SAVED,
            "checkpoints.keep": 1,
            "eval.share": 0.3,
            "eval.every": SAVED,
            "eval.max_samples": 4,
            "eval.answers": "exact",
            "eval.max_new_tokens": 4,
            **changes,
        }
        recipe = read_recipe(f"{stage}_0.5b", [f"{key}={value}" for key, value in sets.items()])
        recipes[stage] = recipe.to_dict()
        model = folder / stage / "model"
    return recipes


class Watch(threading.Thread):
    """Notes memory and time of processes and their children; a page that several share counts once."""

    def __init__(self, pids: list[int]):
        super().__init__(daemon=True)
        self.pids, self.peak, self.ended = pids, 0, threading.Event()
        self._seconds: dict[int, float] = {}

    def run(self):
        while not self.ended.wait(2):
            pids = [*self.pids]
            for pid in self.pids:
                with suppress(OSError):  # it has ended
                    pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            memory = 0
            for pid in pids:
                with suppress(OSError):
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                    memory += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
                    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                    self._seconds[pid] = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            self.peak = max(self.peak, memory)

    @property
    def seconds(self) -> float:
        """Of a core, in all."""
        return sum(self._seconds.values())


def run_stages(recipes: dict[str, dict], killed: list[str], folder: Path) -> list[Watch]:
    """Each start is killed in one stage, and the next one goes on there."""
    stages, watches = list(recipes), []
    for start in range(len(killed) + 1):
        begin = stages.index(killed[start - 1]) if start else 0
        is_last = start == len(killed)
        now = stages[begin:] if is_last else stages[begin : stages.index(killed[start]) + 1]
        notes = {stage: str(folder / f"{stage}.jsonl") for stage in now}
        step = None if is_last else KILLED
        started = start_ranks(run_as_killed, [recipes[stage] for stage in now], list(notes.values()), step)
        watches.append(Watch([process.pid for process in started]))
        watches[-1].start()
        for process in reversed(started):  # the one that is killed first
            process.join(TIMEOUT)
            hangs = process.is_alive()
            process.kill()
            assert not hangs
        watches[-1].ended.set()
        watches[-1].join()
        assert [process.exitcode for process in started] == (
            [0, 0] if is_last else [started[0].exitcode, -signal.SIGKILL]
        )
        assert is_last or started[0].exitcode  # it cannot go on alone
    return watches


def check_stage(stage: str, start: Path, output_dir: Path, notes: Path, was_killed: bool) -> None:
    """A stage ran all steps, went on where its checkpoint was, measured held-out data, and changed what it trains alone."""
    steps = [tuple(json.loads(line)) for line in notes.read_text().splitlines()]
    if was_killed:
        again = steps[KILLED - 1 : 2 * (KILLED - 1) - SAVED]
        assert again == steps[SAVED : KILLED - 1]  # step and loss, bit by bit
        del steps[SAVED : KILLED - 1]
    assert [step for step, _ in steps] == [*range(1, STEPS + 1)]
    assert all(math.isfinite(loss) for _, loss in steps)
    state = json.loads((last_checkpoint(output_dir) / "trainer_state.json").read_text())
    measured = [(entry["step"], entry["eval_samples"]) for entry in state["log_history"] if "eval_loss" in entry]
    assert measured == [(SAVED, 4.0), (STEPS, 4.0)]
    assert len((output_dir / "answers" / f"step-{STEPS}.jsonl").read_text().splitlines()) == 4
    before, after = weights_of(start), weights_of(output_dir / "model")
    assert before.keys() == after.keys()
    changed = {part_of(name) for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])}
    assert changed == TRAINED[stage]


@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.parametrize("size", ["hicom-tiny", pytest.param("the paper's widths", marks=pytest.mark.slow)])
def test_three_stages_under_two_processes_are_killed_and_resumed(size, tmp_path):
    data = tmp_path / "data"
    write_dataset(data, 12, num_frames=8)
    if size == "hicom-tiny":
        model, killed = Path(hicom_tiny()), ["conditional_pretraining"]
        fast = {"precision": "fp32", "gradient_checkpointing": "false", "attn_implementation": "eager"}
        changes = {**fast, "data.num_frames": 2, "data.num_workers": 0}
    else:
        model, killed = write_wide_model(tmp_path / "start"), list(STAGES)
        changes = {"data.num_frames": 4, "data.num_workers": 1, "checkpoints.trainable_only": "true"}
    watches = run_stages(recipes_of(model, data, tmp_path, changes), killed, tmp_path)
    peak = max(watch.peak for watch in watches)
    peaks = ", ".join(f"{watch.peak / 1e9:.2f}" for watch in watches)
    print(f"{size}: {peaks} GB in each start, {sum(watch.seconds for watch in watches):.0f} s of a core")
    assert peak < MOST_MEMORY
    for stage in STAGES:
        check_stage(stage, model, tmp_path / stage, tmp_path / f"{stage}.jsonl", stage in killed)
        model = tmp_path / stage / "model"
