"""Training from the command line: three stages one after another, answers learnt by heart, logs, caches, streams."""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from started import processes
from training_runs import (
    encoder_of,
    losses_of,
    recipe,
    recipe_values,
    run_as_second,
    weights_of,
    write_data,
    write_model,
)
from transformers import TrainerState, TrainingArguments
from video_files import write_video

from hicom_hf import HiComForConditionalGeneration, HiComProcessor, hicom_tiny
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.cli.main import main
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.encoding import ItemEncoder
from hicom_hf.data.epoch_padding import FILLER, FilledCollator, FilledDataset, FilledSampler, sampler_of
from hicom_hf.hub.files import read_json_lines
from hicom_hf.training import checkpoints
from hicom_hf.training.checkpoints import last_checkpoint
from hicom_hf.training.console import Meter, report_line, throughput
from hicom_hf.training.recipe import LearningRates
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import build_dataset, build_trainer, check_packages, check_run, run_recipe
from hicom_hf.training.stages import part_of, unused_parameters
from hicom_hf.training.text_only_batches import UnseenImage
from hicom_hf.training.trainer import HiComTrainer
from hicom_hf.training.trainer_arguments import sharding_arguments, training_arguments

pytestmark = pytest.mark.usefixtures("no_curves")
STAGES = ("alignment", "conditional_pretraining", "instruction_tuning")
TOWERS = {"vision_head": 2e-6, "instruction_encoder": 2e-6}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


# Three stages --------------------------------------------------------------------------------------------------------------


def train(values: dict, folder: Path, *arguments: str) -> Path:
    """`hicom train` on a recipe file; its result."""
    path = folder / f"{values['stage']}.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path), *arguments]) == 0
    return Path(values["output_dir"]) / "model"


@pytest.mark.parametrize("formulation", ["paper", pytest.param("release", marks=pytest.mark.slow)])
def test_three_stages_change_exactly_what_they_train_each_from_the_folder_before(formulation, tmp_path, capsys):
    injections = {"global_injection": "direct"} if formulation == "release" else {}
    folder = write_model(tmp_path / "init", formulation=formulation, **injections)
    data = write_data(tmp_path)
    weights = weights_of(folder)
    for stage in STAGES:
        values = recipe_values(stage, folder, data, tmp_path / stage, epochs=2)
        if stage == "instruction_tuning":
            values["learning_rates"] |= TOWERS
        folder = train(values, tmp_path)
        assert capsys.readouterr().out.strip() == str(folder)

        after = weights_of(folder)
        config = HiComForConditionalGeneration.config_class.from_pretrained(folder)
        assert set(after) == set(weights)
        unused = unused_parameters(config)
        for name, tensor in weights.items():
            learns = part_of(name) in values["learning_rates"] and name not in unused
            assert torch.equal(after[name], tensor) != learns, (stage, name)
        assert config.compressor_config.bypass_injection == (stage == "alignment")
        assert ("compressor" in config.untrained_parts) is False
        weights = after
    assert config.untrained_parts == ["vision_tower"]
    assert HiComProcessor.from_pretrained(folder).num_global_tokens == 8


def test_the_same_from_python_in_a_dozen_lines(start, tmp_path):
    model = HiComForConditionalGeneration.from_pretrained(start[0])
    processor = HiComProcessor.from_pretrained(start[0])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = HiComTrainer(
        model=model,
        args=TrainingArguments(
            tmp_path, per_device_train_batch_size=4, max_steps=3, use_cpu=True, remove_unused_columns=False
        ),
        train_dataset=HiComDataset(start[1], encoder_of(processor, 4)),
        data_collator=HiComDataCollator(processor, with_statistics=True),
        processing_class=processor,
        learning_rates=LearningRates(compressor=1e-4, injection=1e-3),
    )
    trainer.train()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.startswith("model.compressor.")}


@pytest.mark.slow
def test_torchrun_style_and_hicom_style_commands_give_the_same_folder(start, tmp_path):
    results = []
    for number, command in enumerate((["hicom_hf", "train"], ["hicom_hf.cli.main", "train"])):
        values = recipe_values("alignment", *start, tmp_path / f"run{number}", max_steps=2)
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(values))
        done = subprocess.run([sys.executable, "-m", *command, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(tmp_path / f"run{number}" / "model")
        results.append(weights_of(tmp_path / f"run{number}" / "model"))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# The command ---------------------------------------------------------------------------------------------------------------


def test_a_wrong_recipe_is_refused_before_a_model_is_loaded(start, tmp_path, capsys, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(HiComForConditionalGeneration, "from_pretrained", load)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values("alignment", *start, tmp_path / "out")))
    for override, message in (
        ("bach_size=3", "unknown key bach_size; did you mean batch_size"),
        ("epochs=long", "epochs must be a number"),
        ("data.files=nowhere.json", "data.files: nowhere.json does not exist"),
        ("model=nowhere", "model: nowhere is not the folder of a model"),
        ("batch_size_per_device=3", "batch_size 4 is not a multiple of batch_size_per_device 3"),
    ):
        assert main(["train", str(path), "--set", override]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["train"]) == 2


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_data_that_cannot_be_read_are_refused_before_a_model_is_loaded(
    arguments, start, tmp_path, capsys, monkeypatch
):
    def load(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(HiComForConditionalGeneration, "from_pretrained", load)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "x.parquet").write_text("PAR1")
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": 7, "video": "a.mp4", "QA": []}))
    for name, message in (
        ("folder.json", "folder.json is a folder; records are read from JSON and JSONL files"),
        ("x.parquet", "x.parquet is of another kind; records are read from JSON and JSONL files (.json, .jsonl), mix"),
        ("broken.json", "broken.json: this is not JSON"),
        ("empty.json", "no sample is left of 0 records"),
        ("bad.jsonl", "bad.jsonl: record 0 (id 7)"),
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_values("alignment", start[0], tmp_path / name, tmp_path / "out")))
        assert main(["train", str(path), *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "package", "message"),
    [
        ({"sharding": "zero2"}, "deepspeed", r"sharding zero2 needs packages .*: pip install 'hicom_hf\[deepspeed\]'"),
        ({"lora": {"rank": 2}}, "peft", r"lora needs packages .*: pip install 'hicom_hf\[train\]'"),
        ({"lora": {"quantize": "nf4"}}, "bitsandbytes", r"lora.quantize needs .*: pip install 'hicom_hf\[qlora\]'"),
    ],
)
def test_packages_that_are_not_installed_are_named_before_anything_is_loaded(
    changes, package, message, start, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"hicom_hf.training.run.is_{package}_available", lambda: False)
    monkeypatch.setattr("hicom_hf.training.run.build_dataset", lambda *args: pytest.fail("data were opened"))
    run = recipe("instruction_tuning", *start, tmp_path / "out", **changes)
    for function in (run_recipe, check_run):
        with pytest.raises(ImportError, match=message):
            function(run)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(f"hicom_hf.training.run.is_{package}_available", lambda: True)
    check_packages(run)


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_goes_on(start, tmp_path, monkeypatch):
    run = recipe("alignment", *start, tmp_path / "out", max_steps=2, checkpoints={"every": 1})
    train, refused = HiComTrainer.train, []

    def with_a_second_run(self, *args, **kwargs):
        process = processes().Process(target=run_as_second, args=(run.to_dict(), str(tmp_path / "said")))
        process.start()
        process.join()
        refused.append((tmp_path / "said").read_text())
        return train(self, *args, **kwargs)

    monkeypatch.setattr(HiComTrainer, "train", with_a_second_run)
    assert run_recipe(run) == tmp_path / "out" / "model"
    assert f"out is in use by a training run (process {os.getpid()} on " in refused[0]
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_run_is_not_resumed_on_other_data(start, tmp_path):
    for name in ("train.json", "m.yaml"):
        (tmp_path / name).write_text(start[1].read_text().replace("A leaf.", "A tree."))
    (tmp_path / "m.yaml").write_text("datasets:\n  - json_path: train.json")
    data = {"files": [str(tmp_path / "m.yaml")], "media_root": str(start[1].parent)}
    run = recipe("alignment", *start, tmp_path / "out", max_steps=2, checkpoints={"every": 1}, data=data)
    run_recipe(run)
    for name in ("model", "checkpoint-2"):
        shutil.rmtree(tmp_path / "out" / name)
    text = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(text.replace("A tree.", "A bush."))  # of the same size
    with pytest.raises(ValueError, match=r"on other data: \S*train.json changed since it began; restore the files"):
        run_recipe(run)
    (tmp_path / "train.json").write_text(text)
    run_recipe(run)


def test_recipes_are_listed_shown_and_checked(start, tmp_path, capsys):
    assert main(["train", "--list"]) == 0
    assert "alignment_7b\n" in capsys.readouterr().out
    assert main(["train", "alignment_7b", "--show", "--set", "seed=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values("alignment", *start, tmp_path / "out")))
    assert main(["train", str(path), "--check"]) == 0


def test_the_model_in_the_package_is_trained_by_its_name(start, tmp_path):
    run = recipe("instruction_tuning", "hicom-tiny", start[1], tmp_path / "out", max_steps=1, batch_size=2)
    check_run(run)
    assert weights_of(run_recipe(run)).keys() == weights_of(hicom_tiny()).keys()
    with pytest.raises(FileNotFoundError, match=r"hicom-tinny is not the folder of a model.*or hicom-tiny"):
        check_run(replace(run, model="hicom-tinny"))


def test_a_run_that_was_told_to_stop_has_exit_code_1_and_no_result(start, tmp_path, capsys, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values("alignment", *start, tmp_path / "out")))
    monkeypatch.setattr("hicom_hf.training.run.run_recipe", lambda *args, **kwargs: None)
    assert main(["train", str(path)]) == 1
    assert capsys.readouterr().out == ""


def test_a_finished_run_is_not_run_again(start, tmp_path):
    run = recipe("alignment", *start, tmp_path, max_steps=1)
    run_recipe(run)
    with pytest.raises(FileExistsError, match="exists already, so this run has finished"):
        run_recipe(run)


# Answers by heart ----------------------------------------------------------------------------------------------------------


def learn_by_heart(folder: Path, **changes):
    """Train on eight questions about four videos until nothing is left to learn; the trainer."""
    data, model = write_data(folder, with_text=False), write_model(folder / "init")
    schedule = {"optimizer": {"schedule": "linear", "warmup": 0.1}, "logging": {"every": 50}}
    trainer = build_trainer(
        run := recipe(
            "instruction_tuning",
            model,
            data,
            folder / "out",
            batch_size=8,
            batch_size_per_device=8,
            data={"group_by": None},
            **schedule,
            **changes,
        ),
        training_arguments(run),
    )
    dataset = trainer.train_dataset
    trainer.train_dataset = [dataset[index] for index in range(len(dataset))]  # decoded once
    trainer.train()
    return trainer, dataset


def answers(model, processor, dataset) -> list[tuple[str, str]]:
    """What the model answers, and what it should."""
    pairs = []
    for index in range(len(dataset)):
        item = dataset.item(index)
        question = item.messages[0]["content"][-1]
        chat = [{"role": "user", "content": [{"type": "video", "path": item.media[0].source}, question]}]
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", num_frames=4
        )
        output = model.eval().generate(**inputs, max_new_tokens=16, do_sample=False)
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        pairs.append((answer, item.messages[-1]["content"]))
    return pairs


def test_eight_answers_about_four_videos_are_learnt_by_heart(tmp_path):
    rates = {"compressor": 3e-3, "injection": 3e-3, "language_model": 3e-3}
    trainer, dataset = learn_by_heart(tmp_path, max_steps=70, learning_rates=rates)
    pairs = answers(trainer.model, trainer.processing_class, dataset)
    assert len(pairs) == len(set(pairs)) == 8
    assert all(answer == expected for answer, expected in pairs), pairs


@pytest.mark.slow
def test_eight_answers_are_learnt_by_heart_with_lora(tmp_path):
    rates = {"compressor": 1e-2, "injection": 1e-2, "language_model": 1e-2}
    lora = {"rank": 16, "alpha": 32, "dropout": 0.0}
    trainer, dataset = learn_by_heart(tmp_path, max_steps=70, learning_rates=rates, lora=lora)
    pairs = answers(trainer.model, trainer.processing_class, dataset)
    assert all(answer == expected for answer, expected in pairs), pairs


# Text-only batches ---------------------------------------------------------------------------------------------------------


def test_a_text_only_batch_gives_every_trained_parameter_a_gradient_of_zero_and_the_same_loss():
    model, processor = tiny_model().train(), tiny_processor()
    inputs = processor(text=["hello", "good day"], return_tensors="pt", padding=True)
    labels = inputs["input_ids"]
    expected = model(**inputs, labels=labels).loss
    UnseenImage(model.model)
    calls = []
    model.get_input_embeddings().register_forward_hook(lambda *args: calls.append(1))
    loss = model(**inputs, labels=labels).loss
    assert torch.equal(loss, expected)
    assert len(calls) == 1  # as with videos: FSDP2 gathers the embedding at each call, in all processes together
    loss.backward()
    for name, parameter in model.named_parameters():
        if part_of(name) in ("compressor", "injection", "instruction_encoder", "vision_head"):
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_evaluation_and_batches_with_pixels_do_without_the_unseen_image():
    model, processor = tiny_model(), tiny_processor()
    inner = model.model
    UnseenImage(inner)
    calls = []
    inner.compressor.register_forward_hook(lambda *args: calls.append(1))
    inputs = processor(text="hello", return_tensors="pt")
    model(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    assert not calls
    frames = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    inputs = processor(
        text=f"{processor.video_token} what?", videos=[frames.numpy()], return_tensors="pt", num_frames=4
    )
    model(**inputs)
    assert len(calls) == 1


def test_pixels_that_travel_as_bytes_train_the_same_weights(start, tmp_path):
    processor, results = HiComProcessor.from_pretrained(start[0]), []
    arguments = {"per_device_train_batch_size": 4, "max_steps": 2, "use_cpu": True, "remove_unused_columns": False}
    for raw in (True, False):
        trainer = HiComTrainer(
            model=HiComForConditionalGeneration.from_pretrained(start[0]),
            args=TrainingArguments(tmp_path / str(raw), **arguments),
            train_dataset=HiComDataset(start[1], encoder_of(processor, 2, raw_pixels=raw)),
            data_collator=HiComDataCollator(processor),
            processing_class=processor,
            learning_rates=LearningRates(compressor=1e-3),
        )
        trainer.train()
        results.append(trainer.model.state_dict())
    assert all(torch.equal(results[0][name], tensor) for name, tensor in results[1].items())
    trainer.processing_class = None
    with pytest.raises(ValueError, match=r"raw_pixels=True.*give HiComTrainer the processor as processing_class"):
        trainer._prepare_inputs({"pixel_values": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})


@pytest.fixture
def head_calls(monkeypatch):
    """(rows, columns) or (tokens,) of everything that is sent to `lm_head`, with whether it is for training."""
    seen, forward = [], HiComForConditionalGeneration.forward

    def noting(self, *args, **kwargs):
        hook = self.lm_head.register_forward_hook(
            lambda module, args, output: seen.append((self.training, args[0].shape[:-1]))
        )
        try:
            return forward(self, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(HiComForConditionalGeneration, "forward", noting)
    return seen


def test_logits_of_labelled_tokens_only_give_the_same_losses_in_training_and_evaluation(start, tmp_path, head_calls):
    losses, calls = {}, {}
    for skip in (True, False):
        values = held_out(start, tmp_path, max_steps=2, skip_logits=skip, eval={"keep_best": False})
        values |= {"output_dir": str(tmp_path / str(skip)), "checkpoints": {"every": 2}}
        run_recipe(recipe_from_dict(values))
        losses[skip] = [loss for _, loss in losses_of(tmp_path / str(skip))] + held_out_losses(tmp_path / str(skip))
        calls[skip] = [shape for _, shape in head_calls]
        assert {training for training, _ in head_calls} == {True, False}
        head_calls.clear()
    assert len(losses[True]) == 4
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)  # float32, sums in another order
    assert all(len(shape) == 1 for shape in calls[True]) and all(len(shape) == 2 for shape in calls[False])
    assert sum(shape.numel() for shape in calls[True]) < sum(shape.numel() for shape in calls[False]) / 3


def test_all_logits_are_there_where_somebody_reads_them(start, tmp_path, head_calls):
    processor = HiComProcessor.from_pretrained(start[0])
    dataset = HiComDataset(start[1], encoder_of(processor, 2))
    arguments = {"per_device_train_batch_size": 4, "max_steps": 1, "use_cpu": True, "remove_unused_columns": False}
    shared = {"train_dataset": dataset, "eval_dataset": [dataset[0]], "processing_class": processor}
    shared |= {"learning_rates": LearningRates(compressor=1e-4), "data_collator": HiComDataCollator(processor)}
    predictions = []

    def trainer(**options):
        smoothing = options.pop("label_smoothing_factor", 0.0)
        args = TrainingArguments(tmp_path, label_smoothing_factor=smoothing, label_names=["labels"], **arguments)
        return HiComTrainer(
            model=HiComForConditionalGeneration.from_pretrained(start[0]), args=args, **shared, **options
        )

    trainer(label_smoothing_factor=0.1).train()
    assert [len(shape) for _, shape in head_calls] == [2]
    head_calls.clear()
    trainer(compute_metrics=lambda output: predictions.append(output.predictions) or {}).evaluate()
    assert [len(shape) for _, shape in head_calls] == [2]
    assert predictions[0].shape[:2] == (1, len(dataset[0]["input_ids"]))


def test_a_step_whose_samples_were_all_skipped_has_a_loss_of_zero(tmp_path, start):
    data = tmp_path / "bad.json"
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "x"}]
    data.write_text(json.dumps([{"video": f"missing{n}.mp4", "conversations": turns} for n in range(4)]))
    run = recipe("alignment", start[0], data, tmp_path / "out", data={"files": [str(data)], "on_bad_sample": "skip"})
    folder = run_recipe(run)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(folder).values())
    (entry, *_) = json.loads((last_checkpoint(tmp_path / "out") / "trainer_state.json").read_text())["log_history"]
    assert entry["loss"] == 0.0 and entry["skipped_samples"] == 4
    listed = read_json_lines(tmp_path / "out" / "skipped_0.jsonl")
    assert len(listed) == 4 and all("missing" in line["reason"] and line["step"] == 0 for line in listed)


def test_too_many_skipped_samples_stop_training_with_their_list(tmp_path, start):
    records = json.loads(start[1].read_text())
    for number in (1, 3, 5):
        records[number]["video"] = f"lost{number}.mp4"
    data = tmp_path / "some_bad.json"
    data.write_text(json.dumps(records))
    section = {"files": [str(data)], "media_root": str(start[1].parent), "on_bad_sample": "skip"}
    changes = {"epochs": 2, "data": {**section, "max_skipped": 3}, "checkpoints": {"every": 2}}
    run_recipe(recipe("conditional_pretraining", *start, tmp_path / "enough", **changes))  # each counts once
    assert len(read_json_lines(tmp_path / "enough" / "skipped_0.jsonl")) == 3
    shutil.rmtree(tmp_path / "enough" / "model")
    shutil.rmtree(last_checkpoint(tmp_path / "enough"))
    run_recipe(recipe("conditional_pretraining", *start, tmp_path / "enough", **changes))
    assert len(read_json_lines(tmp_path / "enough" / "skipped_0.jsonl")) == 3  # a resumed run lists none of them again
    changes["data"]["max_skipped"] = 2
    with pytest.raises(
        ValueError, match=r"3 samples could not be read, more than data\.max_skipped=2; .*skipped_0\.jsonl"
    ):
        run_recipe(recipe("conditional_pretraining", *start, tmp_path / "out", **changes))


@pytest.mark.parametrize("every", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 100))])
def test_a_loss_that_is_not_a_number_stops_training_and_is_not_saved(every, tmp_path, start):
    changes = {"learning_rates": {"compressor": 1e30, "injection": 1e30}, "max_steps": 5, "logging": {"every": every}}
    run = recipe("conditional_pretraining", *start, tmp_path, checkpoints={"every": 1}, **changes)
    with pytest.raises(ValueError, match=r"the .* is (nan|inf) at step \d.*the last checkpoint is .*checkpoint-\d"):
        run_recipe(run)
    assert not (tmp_path / "model").exists()
    run = recipe("conditional_pretraining", *start, tmp_path / "b", checkpoints={"every": 100}, **changes)
    with pytest.raises(ValueError, match=r"the .* is (nan|inf) at step"):
        run_recipe(run)
    assert not (tmp_path / "b" / "model").exists()


def test_a_sample_that_cannot_be_read_stops_training_with_its_path(tmp_path, start):
    records = json.loads(start[1].read_text())
    records[3]["video"] = "lost.mp4"
    data = start[1].with_name("lost.json")
    data.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"lost\.mp4"):
        run_recipe(recipe("conditional_pretraining", start[0], data, tmp_path / "out"))


def test_a_data_set_without_lengths_is_not_grouped():
    with pytest.raises(ValueError, match="group_by='length' needs a HiComDataset, got list; set group_by=None"):
        sampler_of([1, 2], 2, 0, "length")
    assert sorted(sampler_of([1, 2, 3], 2, 0, None)) == [0, 1, 2]


def test_fillers_make_several_processes_equally_long_and_no_rows():
    dataset = FilledDataset(["a", "b", "c"], 4)
    order = list(FilledSampler(sampler_of(["a", "b", "c"], 4, 0, None), len(dataset)))
    assert order[3:] == [3] and sorted(order) == [0, 1, 2, 3]
    assert [dataset[index] for index in range(4)] == ["a", "b", "c", FILLER]
    assert FilledCollator(list)(["a", FILLER]) == ["a"] and FilledCollator(list)([FILLER]) == []


# Order, logs, cache, streams -----------------------------------------------------------------------------------------------


def test_epochs_have_different_orders_and_runs_with_one_seed_the_same(start, tmp_path):
    def orders(name):
        run = recipe("conditional_pretraining", *start, tmp_path / name, epochs=2, batch_size=2, max_steps=None)
        trainer = build_trainer(run, training_arguments(run))
        seen = []
        collate = trainer.data_collator
        trainer.data_collator = lambda samples: (
            seen.append([s["input_ids"].sum().item() for s in samples]),
            collate(samples),
        )[1]
        trainer.train()
        half = len(seen) // 2
        return seen[:half], seen[half:]

    first, second = orders("a")
    assert first != second and sorted(chain(*first)) == sorted(chain(*second))
    assert orders("b") == (first, second)


def test_the_log_tells_rates_by_part_throughput_and_the_share_of_waiting(start, tmp_path, capsys):
    run = recipe("conditional_pretraining", *start, tmp_path, max_steps=2, logging={"tensorboard": True})
    run_recipe(run)
    state = json.loads((last_checkpoint(tmp_path) / "trainer_state.json").read_text())
    entry = state["log_history"][1]  # the first step of the warm-up has rates of 0
    assert entry["learning_rate/injection"] == 10 * entry["learning_rate/compressor"] > 0
    assert entry["tokens_per_second"] > 0 and entry["visual_tokens_per_step"] > 0
    assert 0 < entry["wait_seconds"] < entry["step_seconds"] and entry["decode_seconds"] > 0
    assert "step 1/2  loss" in capsys.readouterr().err
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_the_wait_in_the_log_is_that_of_the_slowest_process():
    trainer = HiComTrainer.__new__(HiComTrainer)
    trainer._meter, trainer._steps_metered = Meter(text_tokens=10, wait_seconds=1.0), 0
    trainer.state, trainer.args = TrainerState(global_step=2), SimpleNamespace(device="cpu")
    other = torch.tensor([[30.0, 0.0, 0.0, 0.0, 0.0, 6.0]])
    trainer.accelerator = SimpleNamespace(gather=lambda row: torch.cat([row, other]))
    entries = trainer._throughput()
    assert entries["wait_seconds"] == 6.0 / 2
    assert entries["tokens_per_second"] * entries["step_seconds"] == pytest.approx(40 / 2)


def test_throughput_is_counted_by_hand():
    counts = [600, 400, 250, 3.0, 2]  # text, visual and padding tokens, seconds of decoding, samples skipped
    entries = throughput(counts, wait_seconds=4.0, seconds=10.0, steps=5)
    assert entries == {
        "tokens_per_second": 100.0,
        "visual_tokens_per_step": 80.0,
        "padding_share": 0.2,
        "step_seconds": 2.0,
        "wait_seconds": 0.8,
        "decode_seconds": 0.6,
        "skipped_samples": 2,
    }
    line = report_line({"loss": 1.5, "learning_rate/compressor": 1e-4, **entries}, 5, 10)
    assert line == (
        "step 5/10  loss 1.5000  rates compressor 1.00e-04  100 tokens/s  80 visual tokens/step  2.00 s/step (0.80 s waiting "
        "for data, 0.60 s decoding)  the loader is the bottleneck (data.num_workers)  2 samples skipped"
    )


def test_a_run_with_cached_features_ends_with_the_same_weights_and_fills_the_cache_once(start, tmp_path, capsys):
    stage = "conditional_pretraining"
    plain = run_recipe(recipe(stage, *start, tmp_path / "plain", epochs=2))
    cached = {"data": {"feature_cache": str(tmp_path / "cache")}}
    first = run_recipe(recipe(stage, *start, tmp_path / "first", epochs=2, **cached))
    assert "GiB" in capsys.readouterr().err
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    again = run_recipe(recipe(stage, *start, tmp_path / "again", epochs=2, **cached))
    assert shards == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    expected = weights_of(plain)
    for folder in (first, again):
        result = weights_of(folder)
        assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())


def test_tar_shards_are_trained_on_and_resumed_without_reading_again(start, tmp_path, monkeypatch):
    folder = start[1].parent
    with tarfile.open(tmp_path / "data-000.tar", "w") as archive:
        for record in json.loads(start[1].read_text())[:6]:
            archive.add(folder / record.pop("video"), f"{record['id']:04}.mp4")
            path = tmp_path / "record.json"
            path.write_text(json.dumps(record))
            archive.add(path, f"{record['id']:04}.json")
    shards = {"data": {"files": [str(tmp_path / "data-{000..000}.tar")], "shuffle_buffer": 4}}
    steps = {"max_steps": 4, "checkpoints": {"every": 2}}
    whole = run_recipe(recipe("conditional_pretraining", *start, tmp_path / "whole", **shards, **steps))
    run = recipe("conditional_pretraining", *start, tmp_path / "resumed", **shards, **steps)
    run_recipe(run)
    for name in ("checkpoint-4", "model"):
        (tmp_path / "resumed" / name).rename(tmp_path / f"away-{name}")
    read, original = [], ItemEncoder.read
    monkeypatch.setattr(ItemEncoder, "read", lambda self, medium: read.append(medium) or original(self, medium))
    resumed = weights_of(run_recipe(run))
    assert len(read) == 10  # of the last two steps, four samples each, and of a batch of two that is read ahead
    assert (tmp_path / "resumed" / "checkpoint-2" / "stream_0.json").is_file()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights_of(whole).items())

    shutil.rmtree(tmp_path / "resumed" / "model")
    workers = {"data": {**shards["data"], "num_workers": 2}}
    with pytest.raises(ValueError, match=r"which differs in data.num_workers \(was 0, is 2\)"):
        run_recipe(recipe("conditional_pretraining", *start, tmp_path / "resumed", **workers, **steps))
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match=r"on a stream with 1 processes, .* with 2 its order would be another one"):
        run_recipe(run)
    monkeypatch.undo()
    with (tmp_path / "data-000.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ValueError, match=r"run on other data: .*data-000.tar changed since it began"):
        run_recipe(run)


def test_a_stream_mixed_with_a_file_is_trained_on_and_resumed(start, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3):
            archive.add(start[1].parent / "red.mp4", f"{number}.mp4")
            (tmp_path / "caption.txt").write_text("red")
            archive.add(tmp_path / "caption.txt", f"{number}.txt")
    mixed = {"data": {"files": [str(tmp_path / "a.tar"), str(start[1])], "shares": [1, 3]}}
    steps = {"max_steps": 2, "checkpoints": {"every": 1}}
    run = recipe("conditional_pretraining", *start, tmp_path / "out", **mixed, **steps)
    whole = weights_of(run_recipe(run))
    for name in ("checkpoint-2", "model"):
        shutil.rmtree(tmp_path / "out" / name)
    resumed = weights_of(run_recipe(run))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"files": ["a.tar"]}}, "max_steps is missing: data.files are streams"),
        ({"data": {"files": ["a.tar", "b.json"]}, "max_steps": 1}, "data.shares is missing: data.files mix"),
        (
            {"data": {"files": ["a.tar", "b.json"], "shares": [1]}, "max_steps": 1},
            "data.shares must have one number for",
        ),
        ({"data": {"files": ["a.tar", "b.json"], "shares": [1, 0]}, "max_steps": 1}, "data.shares must be above 0"),
        ({"data": {"files": ["b.json"], "shares": [1]}}, "data.shares is for streams, and data.files are none"),
        (
            {"data": {"files": ["a.tar"], "shares": ["1"]}, "max_steps": 1},
            "data.shares must be a list of numbers or null",
        ),
        ({"data": {"files": ["hf://a/b"]}, "max_steps": 1}, "the Hub is hf://datasets/OWNER/NAME, got 'hf://a/b'"),
        (
            {"data": {"files": ["a.tar"], "feature_cache": "c"}, "max_steps": 1},
            "feature_cache must be null with streams",
        ),
        ({"data": {"shuffle_buffer": -1}}, "data.shuffle_buffer must be at least 0"),
    ],
)
def test_streams_are_refused_where_they_cannot_be_used(changes, message, start, tmp_path):
    with pytest.raises(ValueError, match=message):
        recipe("conditional_pretraining", *start, tmp_path, **changes)


# Further arguments ---------------------------------------------------------------------------------------------------------


def test_the_trainer_section_reaches_transformers(start, tmp_path):
    section = {"optim": "adafactor", "report_to": "tensorboard", "neftune_noise_alpha": 1.0}
    arguments = training_arguments(recipe("alignment", *start, tmp_path, trainer=section))
    assert (arguments.optim, arguments.report_to, arguments.neftune_noise_alpha) == ("adafactor", ["tensorboard"], 1.0)
    assert training_arguments(recipe("alignment", *start, tmp_path)).report_to == []


@pytest.mark.parametrize(
    ("capability", "precision", "warned"), [("AVX2", "bf16", True), ("AVX2", "fp32", False), ("AVX512", "bf16", False)]
)
def test_bfloat16_on_a_cpu_without_instructions_for_it_is_warned_of(
    capability, precision, warned, start, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    training_arguments(recipe("alignment", *start, tmp_path, precision=precision, cpu=True))
    assert ("precision: fp32 is several times faster" in caplog.text) is warned


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"learning_rate": 1.0}, ValueError, r"trainer\.learning_rate must not be given: other keys"),
        ({"optm": "adafactor"}, ValueError, r"unknown key trainer\.optm: .*; did you mean trainer\.optim\?"),
        ({"report_to": ["tensorboard", "nobody"]}, ImportError, r"trainer\.report_to: nobody is not installed"),
        ({"optim": "stable_adamw"}, ImportError, r"trainer\.optim stable_adamw: You need to install `torch-optimi`"),
        ({"optim": "galore_adamw"}, ValueError, r"trainer\.optim must not be galore_adamw: it makes groups"),
        ({"train_sampling_strategy": "group_by_length"}, ValueError, r"data\.group_by decides it"),
        (
            {"save_only_model": True},
            ValueError,
            r"trainer\.save_only_model must not be given: such checkpoints cannot",
        ),
    ],
)
def test_what_the_trainer_section_cannot_pass_on_is_refused(section, error, message, start, tmp_path):
    run = recipe("alignment", *start, tmp_path / "out", trainer=section)
    for function in (run_recipe, check_run):
        with pytest.raises(error, match=message):
            function(run)
    assert not (tmp_path / "out").exists()


def test_frames_by_the_second_are_what_training_reads(start, tmp_path):
    data = {"num_frames": None, "fps": 5.0, "max_frames": 2}
    dataset = build_dataset(recipe("alignment", *start, tmp_path, data=data), tiny_processor())
    assert {dataset[index]["video_num_frames"].item() for index in range(8)} == {2}
    dataset = build_dataset(recipe("alignment", *start, tmp_path, data={**data, "max_frames": None}), tiny_processor())
    assert {dataset[index]["video_num_frames"].item() for index in range(8)} == {3}  # 6 frames at 10 per second


def test_guarded_media_are_what_training_reads(start, tmp_path):
    guarded = {"media": "guarded"}
    with pytest.raises(ValueError, match="local files are not allowed here"):
        build_dataset(recipe("alignment", *start, tmp_path, data=guarded), tiny_processor())[0]
    guarded["allowed_local_media_path"] = [str(start[1].parent)]
    assert (
        build_dataset(recipe("alignment", *start, tmp_path, data=guarded), tiny_processor())[0]["video_num_frames"]
        == 4
    )


# Evaluation ----------------------------------------------------------------------------------------------------------------


def held_out(start, tmp_path, **changes) -> dict:
    """A recipe that evaluates every step on two answers of letters that no training answer has, so that the loss rises."""
    records = json.loads(start[1].read_text())[:2]
    for record in records:
        record["conversations"][1]["value"] = "ZQXJ " * 5
    (tmp_path / "held_out.json").write_text(json.dumps(records))
    data = {"media_root": str(start[1].parent)}
    section = {"files": [str(tmp_path / "held_out.json")], "every": 1, **changes.pop("eval", {})}
    rates = {"compressor": 3e-2, "injection": 3e-2}
    settings = {"learning_rates": rates, "optimizer": {"schedule": "constant"}, "checkpoints": {"every": 1, "keep": 2}}
    return recipe_values(
        "conditional_pretraining", *start, tmp_path / "out", data=data, eval=section, **settings, **changes
    )


def held_out_losses(output_dir: Path) -> list[float]:
    state = json.loads((last_checkpoint(output_dir) / "trainer_state.json").read_text())
    return [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]


def test_the_finished_model_is_the_one_with_the_lowest_loss_on_held_out_data(start, tmp_path, capsys):
    model = run_recipe(recipe_from_dict(held_out(start, tmp_path, max_steps=4)))
    losses = held_out_losses(tmp_path / "out")
    best = losses.index(min(losses)) + 1
    assert len(losses) == 4 and best < 4
    assert f"step {best}/4  held-out loss {min(losses):.4f}  (" in capsys.readouterr().err
    kept = weights_of(tmp_path / "out" / f"checkpoint-{best}")
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights_of(model).items())


def test_a_run_without_progress_stops_and_a_resumed_one_stops_there_as_well(start, tmp_path):
    values = held_out(start, tmp_path, max_steps=12, eval={"patience": 2})
    expected = weights_of(run_recipe(recipe_from_dict(values)))
    losses = held_out_losses(tmp_path / "out")
    assert len(losses) == losses.index(min(losses)) + 3 < 12
    shutil.rmtree(tmp_path / "out" / "model")  # killed when it had stopped
    resumed = weights_of(run_recipe(recipe_from_dict(values)))
    assert held_out_losses(tmp_path / "out") == losses
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_evaluation_alone_does_not_change_what_is_trained(start, tmp_path):
    values = held_out(start, tmp_path, max_steps=2, eval={"keep_best": False})
    evaluated = weights_of(run_recipe(recipe_from_dict(values)))
    plain = {**values, "eval": None, "output_dir": str(tmp_path / "plain")}
    assert all(
        torch.equal(evaluated[name], tensor)
        for name, tensor in weights_of(run_recipe(recipe_from_dict(plain))).items()
    )


# The page in docs ----------------------------------------------------------------------------------------------------------


def test_the_page_on_training_does_what_it_says(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "hicom-7b")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "soup.mp4", 40)
    pushed = []
    monkeypatch.setattr(
        HiComForConditionalGeneration, "push_to_hub", lambda self, name, processor: pushed.append(name)
    )
    ran = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL):
        if language == "json":
            Path("train.json").write_text(block)
        elif language == "yaml":
            Path("my_recipe.yaml").write_text(block)
        elif language == "console":
            for line in re.findall(r"^\$ hicom (.*)$", block, flags=re.MULTILINE):
                assert main(shlex.split(line)) == 0, (line, capsys.readouterr().err)
                ran.append(line.split()[0])
        else:
            assert language == "python"
            if "run_recipe" not in block:  # the recipe was run by its command; test_public_surface.py runs the block
                exec(compile(block, "docs/training.md", "exec"), {})
    assert ran == ["data", "train", "train", "merge", "ask"] and pushed == ["you/soup-7b"]
    assert last_checkpoint(tmp_path / "runs" / "soup") is not None


# Precision and arguments ---------------------------------------------------------------------------------------------------


def test_bfloat16_runs_train_in_float32_and_end_in_bfloat16(start, tmp_path):
    run = recipe("alignment", *start, tmp_path, max_steps=2, precision="bf16", gradient_checkpointing=True)
    folder = run_recipe(run)
    checkpoint = load_file(last_checkpoint(tmp_path) / "model.safetensors")
    queries = "model.compressor.global_branch.queries"
    assert checkpoint[queries].dtype == torch.float32 and checkpoint["lm_head.weight"].dtype == torch.bfloat16
    weights = weights_of(folder)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert torch.equal(weights[queries], checkpoint[queries].bfloat16())
    start_weights = weights_of(start[0])
    assert torch.equal(weights["lm_head.weight"], start_weights["lm_head.weight"].bfloat16())


def test_tied_embeddings_stay_one_tensor(tmp_path, start):
    from hicom_hf.assembly.random_model import tiny_config

    values = tiny_config().to_dict()
    values["text_config"]["tie_word_embeddings"] = True
    model = HiComForConditionalGeneration(HiComForConditionalGeneration.config_class.from_dict(values))
    model.save_pretrained(tmp_path / "tied")
    tiny_processor(model.config).save_pretrained(tmp_path / "tied")
    changes = {"max_steps": 2, "checkpoints": {"every": 1}, "precision": "bf16"}
    run = recipe("instruction_tuning", tmp_path / "tied", start[1], tmp_path / "out", **changes)
    weights = weights_of(run_recipe(run))
    assert "lm_head.weight" not in weights
    assert "lm_head.weight" not in load_file(last_checkpoint(tmp_path / "out") / "model.safetensors")


def test_the_batch_is_divided_over_devices_and_time(start, tmp_path, monkeypatch):
    run = recipe("alignment", *start, tmp_path, batch_size=12, batch_size_per_device=2)
    assert training_arguments(run).gradient_accumulation_steps == 6
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        ValueError, match="batch_size 12 is not a multiple of batch_size_per_device 2 times 4 processes"
    ):
        training_arguments(run)


def test_arguments_are_those_of_the_release_and_clipping_is_on(start, tmp_path):
    arguments = training_arguments(recipe("conditional_pretraining", *start, tmp_path, precision="bf16"))
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (arguments.lr_scheduler_type, arguments.warmup_steps, arguments.weight_decay) == ("cosine", 0.03, 0.0)
    assert (arguments.bf16, arguments.max_grad_norm, arguments.num_train_epochs) == (True, 1.0, 1.0)


def test_sharding_takes_a_config_of_the_package_and_wraps_the_layers_of_the_llm_only(start, tmp_path):
    def arguments(sharding):
        return sharding_arguments(recipe_from_dict(recipe_values("alignment", *start, tmp_path, sharding=sharding)))

    assert Path(arguments("zero2")["deepspeed"]).is_file()
    config = arguments("fsdp2")["fsdp_config"]
    assert config["transformer_layer_cls_to_wrap"] == ["Qwen2DecoderLayer"] and config["version"] == 2
    assert not config["cpu_offload"] and arguments("fsdp2_offload")["fsdp_config"]["cpu_offload"]


def test_a_launcher_with_fsdp_is_told_the_layers_of_the_llm_of_the_recipe(start, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_TRANSFORMER_CLS_TO_WRAP", raising=False)
    monkeypatch.setattr("hicom_hf.training.trainer_arguments.TrainingArguments", lambda **arguments: arguments)
    monkeypatch.setattr("hicom_hf.training.trainer_arguments.check_trainer_section", lambda *arguments: None)
    training_arguments(recipe_from_dict(recipe_values("alignment", *start, tmp_path)))
    assert os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Qwen2DecoderLayer"
    launcher = (Path(checkpoints.__file__).parent / "configs" / "accelerate_fsdp2.yaml").read_text()
    assert "DecoderLayer" not in launcher


def test_what_is_trained_is_logged(start, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hicom_hf"):
        run = recipe("conditional_pretraining", *start, tmp_path, max_steps=1)
        build_trainer(run, training_arguments(run))
    text = caplog.text
    assert "Trained: compressor 0.0281M, injection 0.0415M." in text
    assert "11 samples (2 text, 1 image, 8 video) of 11 records" in text
