"""Interrupted and resumed training equals uninterrupted training, and nothing half-written is ever taken up."""

import itertools
import json
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from started import processes
from torch.utils.data import Subset
from training_runs import (
    encoder_of,
    losses_of,
    recipe,
    recipe_values,
    result_of,
    run_quietly,
    write_data,
    write_model,
)
from transformers import TrainerCallback, TrainingArguments

from hicom_hf import HiComForConditionalGeneration
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.hub import files
from hicom_hf.training.checkpoints import (
    MARKER,
    UNFINISHED,
    checkpoint_to_resume,
    checkpoints,
    complete_folder,
    frozen_fingerprint,
    is_complete,
    last_checkpoint,
    load_weights,
    read_weights,
    remove_old_checkpoints,
)
from hicom_hf.training.held_out import HeldOutEvaluation
from hicom_hf.training.recipe import LearningRates
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import run_recipe
from hicom_hf.training.trainer import HiComTrainer

pytestmark = pytest.mark.usefixtures("no_curves", "ctrl_c_interrupts")
NUM_STEPS = 6
CHANGES = {"max_steps": NUM_STEPS, "checkpoints": {"every": 1, "keep": 3}, "logging": {"every": 2}}
VARIANTS = {
    "compressor": ("conditional_pretraining", {}),
    "trainable only": ("conditional_pretraining", {"checkpoints": {"every": 1, "keep": 3, "trainable_only": True}}),
    "everything": ("instruction_tuning", {"gradient_checkpointing": True}),
    "adapters with dropout": ("instruction_tuning", {"lora": {"rank": 2, "alpha": 4, "dropout": 0.3}}),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Folder of the model that runs start from, and the data."""
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """By variant: final weights and losses of a run that nothing disturbs."""
    results = {}

    def run(variant):
        if variant not in results:
            folder = tmp_path_factory.mktemp("uninterrupted")
            stage, changes = VARIANTS[variant]
            model = run_recipe(recipe(stage, *start, folder, **{**CHANGES, **changes}))
            results[variant] = (result_of(model), losses_of(folder))
        return results[variant]

    return run


def assert_same(folder: Path, expected) -> None:
    weights, losses = expected
    result = result_of(folder / "model")
    assert set(result) == set(weights)
    assert all(torch.equal(result[name], weights[name]) for name in weights)  # bit by bit
    assert losses_of(folder) == losses


class InterruptAt(TrainerCallback):
    """Does something once, at the end of a step, before the trainer saves."""

    def __init__(self, step: int, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            self.action()


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step, action): the runs that follow share one `InterruptAt`."""

    def arm(step, action):
        train, callback = HiComTrainer.train, InterruptAt(step, action)

        def with_interrupt(self, *args, **kwargs):
            self.callback_handler.callbacks.insert(0, callback)
            return train(self, *args, **kwargs)

        monkeypatch.setattr(HiComTrainer, "train", with_interrupt)

    yield arm


# Interrupting and resuming -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name != "compressor" else ()) for name in VARIANTS],
)
def test_a_run_told_to_stop_saves_and_resumes_to_the_same_losses_and_weights(
    variant, start, uninterrupted, interrupt, tmp_path
):
    stage, changes = VARIANTS[variant]
    run = recipe(stage, *start, tmp_path, **{**CHANGES, **changes})
    expected = uninterrupted(variant)
    interrupt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert run_recipe(run) is None
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in checkpoints(tmp_path)][-1] == "checkpoint-3"
    assert run_recipe(run) == tmp_path / "model"
    assert_same(tmp_path, expected)


def test_a_run_that_keeps_one_checkpoint_resumes_where_it_was_stopped_not_at_its_best(
    start, interrupt, tmp_path, monkeypatch
):
    monkeypatch.setattr(  # the first evaluation is the best
        HeldOutEvaluation,
        "measure",
        lambda self, trainer: {"eval_loss": float(trainer.state.global_step), "eval_runtime": 0.0},
    )
    loaded = []
    monkeypatch.setattr(HiComTrainer, "_load_from_checkpoint", lambda self, path, model=None: loaded.append(path))
    changes = {**CHANGES, "checkpoints": {"every": 1, "keep": 1}, "eval": {"share": 0.4, "every": 1}}
    run = recipe("conditional_pretraining", *start, tmp_path, **changes)
    interrupt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run_recipe(run) is None
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3"]
    assert loaded == []  # the best weights are of no use to a run that goes on
    assert run_recipe(run) == tmp_path / "model"
    assert [Path(path).name for path in loaded] == ["checkpoint-3", "checkpoint-1"]  # resumed, finished
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1", f"checkpoint-{NUM_STEPS}"]


def test_ctrl_c_between_two_checkpoints_saves_where_it_is(start, uninterrupted, interrupt, tmp_path):
    expected = uninterrupted("compressor")
    run = recipe("conditional_pretraining", *start, tmp_path, **{**CHANGES, "checkpoints": {"every": 100}})
    interrupt(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run_recipe(run) is None
    assert last_checkpoint(tmp_path).name == "checkpoint-5"
    run_recipe(run)
    assert_same(tmp_path, expected)


def test_a_run_resumes_with_smaller_micro_batches(start, uninterrupted, interrupt, tmp_path):
    expected, losses = uninterrupted("compressor")
    interrupt(5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # as a scheduler does after an out-of-memory error
    assert run_recipe(recipe("conditional_pretraining", *start, tmp_path, **CHANGES)) is None
    model = run_recipe(
        recipe("conditional_pretraining", *start, tmp_path, **{**CHANGES, "batch_size_per_device": 1, "batch_size": 4})
    )
    resumed = dict(losses_of(tmp_path))
    assert [resumed[step] for step, _ in losses] == pytest.approx([loss for _, loss in losses], abs=1e-3)
    for name, tensor in result_of(model).items():
        if not name.endswith("k_proj.bias"):  # its gradient is 0 up to rounding
            torch.testing.assert_close(tensor, expected[name], atol=1e-3, rtol=0, msg=name)


def test_a_second_ctrl_c_stops_at_once(start, interrupt, tmp_path):
    run = recipe("conditional_pretraining", *start, tmp_path, **CHANGES)

    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    interrupt(2, twice)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(run)
    assert last_checkpoint(tmp_path).name == "checkpoint-1"


def test_a_full_disk_stops_training_with_the_last_checkpoint_whole_and_named(
    start, uninterrupted, interrupt, tmp_path
):
    expected = uninterrupted("compressor")
    run = recipe("conditional_pretraining", *start, tmp_path, **CHANGES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])))  # bytes per file
    try:
        with pytest.raises(OSError, match=r"checkpoint-4 could not be written .*checkpoint-3 is complete: the same"):
            run_recipe(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last_checkpoint(tmp_path).name == "checkpoint-3" and not (tmp_path / UNFINISHED).exists()
    run_recipe(run)
    assert_same(tmp_path, expected)


def run_until_killed(values: dict, moment: int) -> None:
    """What a started process does: run a recipe, and kill itself when it forces a file to disk for the `moment`-th time."""
    forced = itertools.count(1)
    run_quietly(values, fsync=lambda _: next(forced) == moment and os.kill(os.getpid(), signal.SIGKILL))


def kill_and_resume(values: dict, kills: int) -> None:
    """Start a run again and again, `kills` times killed at a random moment of writing its checkpoints."""
    chance = random.Random(0)
    for _ in range(kills):
        process = processes().Process(target=run_until_killed, args=(values, chance.randint(1, 40)))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run_recipe(recipe_from_dict(values))


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_losses_and_weights(kills, start, uninterrupted, tmp_path):
    values = recipe_values("conditional_pretraining", *start, tmp_path, **CHANGES)
    kill_and_resume(values, kills)
    assert_same(tmp_path, uninterrupted("compressor"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["trainable only", "everything", "adapters with dropout"])
def test_other_runs_killed_at_random_moments_do_so_as_well(variant, start, uninterrupted, tmp_path):
    stage, changes = VARIANTS[variant]
    values = recipe_values(stage, *start, tmp_path, **{**CHANGES, **changes})
    kill_and_resume(values, kills=5)
    assert_same(tmp_path, uninterrupted(variant))


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    start, uninterrupted, interrupt, tmp_path, caplog
):
    run = recipe("conditional_pretraining", *start, tmp_path, **CHANGES)
    interrupt(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run_recipe(run)
    flip_a_bit(tmp_path / "checkpoint-4" / "model.safetensors")
    run_recipe(run)
    assert "checkpoint-4 is damaged (model.safetensors changed)" in caplog.text
    assert_same(tmp_path, uninterrupted("compressor"))


def test_a_run_killed_after_its_last_checkpoint_trains_no_step_more(start, tmp_path):
    changes = {**CHANGES, "max_steps": 2, "optimizer": {"schedule": "constant"}}  # cosine ends at a rate of 0
    run = recipe("conditional_pretraining", *start, tmp_path, **changes)
    expected = result_of(run_recipe(run)), losses_of(tmp_path)
    shutil.rmtree(tmp_path / "model")
    run_recipe(run)
    assert_same(tmp_path, expected)
    assert last_checkpoint(tmp_path).name == "checkpoint-2"


@pytest.fixture
def evaluated(start, tmp_path):
    """evaluated(**arguments): a trainer that evaluates and saves every step."""

    def trainer(trainable_only=False, folder="run", **arguments) -> HiComTrainer:
        torch.manual_seed(0)
        model, processor = HiComForConditionalGeneration.from_pretrained(start[0]), tiny_processor()
        dataset = HiComDataset(start[1], encoder_of(processor, 2))
        settings = {"max_steps": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "use_cpu": True}
        settings |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "eval_loss"}
        settings |= {"load_best_model_at_end": True, "remove_unused_columns": False, "label_names": ["labels"]}
        return HiComTrainer(
            model=model,
            args=TrainingArguments(str(tmp_path / folder), **settings, **arguments),
            train_dataset=dataset,
            eval_dataset=Subset(dataset, range(2)),
            data_collator=HiComDataCollator(processor),
            processing_class=processor,
            learning_rates=LearningRates(compressor=1e-2, injection=1e-2),
            trainable_only=trainable_only,
            progress_bar=False,
        )

    return trainer


@pytest.mark.parametrize("trainable_only", [False, True])
def test_the_best_model_is_kept_and_loaded_at_the_end(trainable_only, evaluated, tmp_path):
    # The highest loss counts as the best, so that it is not the last.
    trainer = evaluated(trainable_only, greater_is_better=True, save_total_limit=2)
    trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = max(losses, key=losses.get)
    assert best < 4
    folder = tmp_path / "run" / f"checkpoint-{best}"
    assert trainer.state.best_model_checkpoint == str(folder)
    assert [path.name for path in checkpoints(tmp_path / "run")] == [folder.name, "checkpoint-4"]
    assert trainer.evaluate()["eval_loss"] == losses[best]
    weights, state = read_weights(folder), trainer.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    for checkpoint in checkpoints(tmp_path / "run"):
        noted = json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"]
        assert noted == str(folder)


def test_a_resumed_run_that_has_moved_knows_its_best_checkpoint(evaluated, tmp_path):
    evaluated(greater_is_better=True, save_total_limit=2).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run").rename(tmp_path / "moved")
    trainer = evaluated(folder="moved", greater_is_better=True, save_total_limit=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == str(
        tmp_path / "moved" / f"checkpoint-{trainer.state.best_global_step}"
    )
    assert trainer.state.best_global_step < 4 and is_complete(Path(trainer.state.best_model_checkpoint))


def test_a_run_is_not_resumed_with_another_recipe(start, interrupt, tmp_path):
    interrupt(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run_recipe(recipe("conditional_pretraining", *start, tmp_path, **CHANGES))
    changed = {**CHANGES, "batch_size": 8, "learning_rates": {"injection": 0.5}}
    message = r"differs in batch_size \(was 4, is 8\), learning_rates.injection \(was 0.001, is 0.5\)"
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe("conditional_pretraining", *start, tmp_path, **changed))
    with pytest.raises(FileExistsError, match="holds checkpoints; resume, or choose another output_dir"):
        run_recipe(recipe("conditional_pretraining", *start, tmp_path, **CHANGES), resume=False)


def test_checkpoints_without_frozen_weights_are_small_and_refuse_another_base(start, interrupt, tmp_path):
    changes = {**CHANGES, "checkpoints": {"every": 1, "keep": 3, "trainable_only": True}}
    run = recipe("conditional_pretraining", *start, tmp_path / "run", **changes)
    interrupt(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run_recipe(run)
    weights = read_weights(last_checkpoint(tmp_path / "run"))
    assert {name.split(".")[1] for name in weights} == {"compressor"}
    other = tiny_model(seed=1)
    shutil.copytree(start[0], tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"this model's frozen weights are not those it was trained with"):
        run_recipe(recipe("conditional_pretraining", tmp_path / "other", start[1], tmp_path / "run", **changes))


# Folders -------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: nothing handles it."""


def write_checkpoint(output_dir: Path, step: int) -> Path:
    staging = output_dir / UNFINISHED / f"checkpoint-{step}"
    (staging / "sub").mkdir(parents=True)
    (staging / "weights").write_bytes(bytes(1000))
    (staging / "sub" / "state").write_bytes(bytes(10))
    complete_folder(staging, output_dir / f"checkpoint-{step}")
    return output_dir / f"checkpoint-{step}"


@pytest.mark.parametrize("call", range(1, 8))
def test_a_kill_at_any_point_of_writing_leaves_the_checkpoint_before_as_the_newest(call, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1)
    calls = 0

    def dies(function):
        def wrapper(*args):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return function(*args)

        return wrapper

    for name in ("fsync", "rename"):
        monkeypatch.setattr(files.os, name, dies(getattr(os, name)))
    try:
        write_checkpoint(tmp_path, 2)
        newest = "checkpoint-2"
    except Killed:
        newest = "checkpoint-1"
        if calls > 6:  # after the rename only its being on disk was left to be made sure
            newest = "checkpoint-2"
    assert last_checkpoint(tmp_path).name == newest
    assert call <= calls


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / MARKER).unlink(),
        lambda folder: (folder / MARKER).write_text("{"),
        lambda folder: (folder / "weights").write_bytes(bytes(999)),
        lambda folder: (folder / "sub" / "state").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(damage, tmp_path, caplog):
    write_checkpoint(tmp_path, 9)
    damage(write_checkpoint(tmp_path, 10))
    assert last_checkpoint(tmp_path).name == "checkpoint-9"
    assert "checkpoint-10 is not complete and is not used" in caplog.text
    write_checkpoint(tmp_path, 10)  # and it is replaced when training gets there again
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


def test_checkpoints_are_counted_not_spelled_and_the_oldest_go(tmp_path):
    for step in (2, 10, 9):
        write_checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    remove_old_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("keep", "best", "kept"), [(2, 1, [1, 4]), (1, 1, [1, 4]), (2, 4, [3, 4]), (3, None, [2, 3, 4])]
)
def test_the_best_checkpoint_stays_as_one_of_those_that_are_kept(keep, best, kept, tmp_path):
    paths = {step: write_checkpoint(tmp_path, step) for step in (1, 2, 3, 4)}
    remove_old_checkpoints(tmp_path, keep, paths.get(best))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in kept]


def test_a_complete_folder_is_never_overwritten(tmp_path):
    write_checkpoint(tmp_path, 1)
    with pytest.raises(FileExistsError, match=r"checkpoint-1 exists already"):
        write_checkpoint(tmp_path, 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_before_a_checkpoint_is_resumed_from(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path) is None
    first, second = (write_checkpoint(tmp_path, step) for step in (1, 2))
    flip_a_bit(second / "weights")
    assert is_complete(second)  # as far as sizes tell
    assert checkpoint_to_resume(tmp_path) == first
    assert "checkpoint-2 is damaged (weights changed) and is not used" in caplog.text
    flip_a_bit(first / "sub" / "state")
    message = (
        r"none of the checkpoints in .* can be used \(.*checkpoint-\d.*\): .* remove them to start from the beginning"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint_to_resume(tmp_path)
    trainer = HiComTrainer.__new__(HiComTrainer)
    with pytest.raises(ValueError, match="checkpoint-1 is damaged: sub/state changed since it was written"):
        trainer.train(resume_from_checkpoint=str(first))


def test_the_trainer_resumes_from_complete_folders_only(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    trainer = HiComTrainer.__new__(HiComTrainer)
    with pytest.raises(ValueError, match="checkpoint-3 is not a complete checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# Weights -------------------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused_with_their_names(tmp_path):
    from safetensors.torch import save_file

    model = torch.nn.Linear(2, 2)
    for weights, message in (
        ({"weight": torch.ones(2, 2)}, r"does not fit this run: it lacks bias"),
        ({**model.state_dict(), "extra": torch.ones(1)}, r"does not fit this run: it also holds extra"),
    ):
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_weights(model, tmp_path, trainable_only=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\*.safetensors"):
        read_weights(tmp_path)


def test_a_fingerprint_tells_frozen_weights_apart_and_ignores_trained_ones():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].requires_grad_(False)
    before = frozen_fingerprint(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert frozen_fingerprint(model) == before
    with torch.no_grad():
        model[1].bias[2] += 1e-3
    assert frozen_fingerprint(model) != before


def test_the_log_of_a_checkpoint_says_how_far_it_is(start, interrupt, tmp_path):
    run = recipe("conditional_pretraining", *start, tmp_path, **CHANGES)
    interrupt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run_recipe(run)
    progress = json.loads((last_checkpoint(tmp_path) / "progress_0.json").read_text())
    assert progress["last_logged"] == 2 and progress["loss"] > 0
