"""The estimate of memory against the peak of live tensors in real runs, and what it says of loaders and several GPUs."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_runs import recipe_values, write_data, write_model

from hicom_hf import HiComProcessor
from hicom_hf.cli.main import main
from hicom_hf.training.live_bytes import LiveBytes
from hicom_hf.training.memory import GIB, LargestBatch, MemoryEstimate, _sharded, estimate_memory, largest_batch
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import build_dataset, build_trainer
from hicom_hf.training.trainer_arguments import training_arguments

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder, with_text=False)


def test_live_bytes_are_those_of_torchs_own_tracker():
    from torch.distributed._tools.mem_tracker import MemTracker

    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.LayerNorm(64))
    inputs = torch.randn(512, 64)

    def step():
        model.zero_grad()
        model(inputs).square().sum().backward()

    step()
    ours, theirs = LiveBytes(), MemTracker()
    ours.add(list(model.parameters()))
    theirs.track_external(model)
    with ours:
        step()
    with theirs:
        step()
    expected = theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert ours.peak == pytest.approx(expected, rel=0.02)  # small tensors are counted at other moments


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="whole"),
        pytest.param({"lora": {"rank": 8, "alpha": 8}}, id="lora", marks=slow),
        pytest.param({"lora": {"rank": 8, "alpha": 8, "dora": True}}, id="dora", marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing", marks=slow),
        pytest.param({"precision": "bf16"}, id="bf16", marks=slow),
        pytest.param({"skip_logits": False}, id="all logits", marks=slow),
        pytest.param({"data": {"packing": True, "num_frames": 8}}, id="packing", marks=slow),
        pytest.param({"batch_size": 2}, id="no accumulation", marks=slow),
        pytest.param({"stage": "alignment"}, id="alignment", marks=slow),
    ],
)
def test_the_estimate_is_within_15_percent_of_the_peak_of_live_tensors(changes, start, tmp_path):
    stage = changes.pop("stage", "instruction_tuning")
    run = recipe_from_dict(
        recipe_values(stage, *start, tmp_path, max_steps=2, **{"data": {"num_frames": 8}, **changes})
    )
    trainer = build_trainer(run, training_arguments(run))
    estimate = estimate_memory(run, trainer.train_dataset)
    trainer._save_checkpoint = lambda *arguments: None  # reading weights back to store them is no part of a step
    live = LiveBytes()
    live.add([*trainer.model.parameters(), *trainer.model.buffers()])
    with live:
        trainer.train()
    assert estimate.gpu == pytest.approx(live.peak, rel=0.15)
    size = sum(parameter.numel() * parameter.element_size() for parameter in trainer.model.parameters())
    assert estimate.weights == size


def test_loaders_and_shared_memory_are_counted_by_hand(start, tmp_path, monkeypatch):
    run = recipe_from_dict(
        recipe_values("alignment", *start, tmp_path, data={"num_workers": 3}, batch_size=8, batch_size_per_device=4)
    )
    dataset = build_dataset(run, HiComProcessor.from_pretrained(start[0]))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    estimate = estimate_memory(run, dataset)
    side = dataset.encoder.processor.video_processor.size["height"]
    batch = estimate.batch
    assert (batch.num_rows, batch.num_frames) == (4, 4)
    assert batch.num_tokens == max(len(dataset[index]["input_ids"]) for index in range(len(dataset)))
    bytes_of_batch = 4 * (4 * 3 * side**2 + batch.num_tokens * 16)
    assert estimate.shared == 2 * 3 * 2 * bytes_of_batch  # processes, workers, batches ahead
    assert "too small: lower data.num_workers" in replace(estimate, shared_there=1).table()


def test_samples_that_are_too_long_are_counted_as_such_and_named(start, tmp_path, caplog):
    run = recipe_from_dict(
        recipe_values("conditional_pretraining", *start, tmp_path, data={"max_length": 20}, batch_size_per_device=4)
    )
    dataset = build_dataset(run, HiComProcessor.from_pretrained(start[0]))
    logging.disable(logging.NOTSET)
    assert largest_batch(run, dataset).num_tokens == 20
    assert f"{len(dataset)} of the {len(dataset)} longest samples cannot be used" in caplog.text
    assert "leave nothing of the answer within max_length=20" in caplog.text


def test_what_is_sharded_is_divided():
    whole = MemoryEstimate(LargestBatch(1, 1, 1, 1), 16.0, 8.0, 16.0, 1.0, 2.0, 0.0, 0.0, None, 1)

    class Run:
        sharding: str | None = None

    run = Run()
    assert _sharded(whole, run, 1) == whole
    assert _sharded(whole, run, 4).gradients == 16.0  # DDP keeps buckets beside them
    run.sharding = "fsdp2"
    assert (_sharded(whole, run, 4).weights, _sharded(whole, run, 4).optimizer) == (4.0, 4.0)
    run.sharding = "zero2"
    assert (_sharded(whole, run, 4).weights, _sharded(whole, run, 4).optimizer) == (12.0, 6.0)


def test_hicom_train_check_prints_it(start, tmp_path, capsys):
    import yaml

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe_values("alignment", *start, tmp_path / "out")))
    logging.disable(logging.NOTSET)
    assert main(["train", str(tmp_path / "run.yaml"), "--check"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "Estimated for 2 x",
        "per GPU",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "/dev/shm",
    ):
        assert words in printed


@pytest.mark.gpu
def test_the_estimate_is_within_15_percent_of_what_a_gpu_allocates(start, tmp_path):
    changes = {"cpu": False, "data": {"num_frames": 64}, "batch_size_per_device": 4, "precision": "bf16"}
    run = recipe_from_dict(recipe_values("instruction_tuning", *start, tmp_path, max_steps=2, **changes))
    trainer = build_trainer(run, training_arguments(run))
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    estimate = estimate_memory(run, trainer.train_dataset)
    assert estimate.gpu == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
    assert estimate.gpu < GIB
