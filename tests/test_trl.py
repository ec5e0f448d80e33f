"""Training through stock TRL. Slow; needs trl: `pip install trl==1.16.0` into an environment with the package."""

import datasets
import pytest
import torch
from PIL import Image
from training_runs import encoder_of, write_data, write_model

from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.data.datasets import load_records
from hicom_hf.data.row_collating import HiComRowCollator

trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
BASE = {
    "per_device_train_batch_size": 2,
    "max_steps": 3,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "max_length": None,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder, with_text=False)


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_supervised_tuning_with_videos_takes_raw_rows(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    rows = datasets.Dataset.from_list([dict(record.data) for record in load_records(start[1])])
    collator = HiComRowCollator(encoder_of(processor, 4), str(start[1].parent))
    model = HiComForConditionalGeneration.from_pretrained(start[0])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            tmp_path, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, **BASE
        ),
        train_dataset=rows,
        data_collator=collator,
        processing_class=processor,
    )
    batch = collator([rows[0], rows[1]])
    assert (batch["labels"] != -100).sum() < 20 and batch["pixel_values_videos"].shape[0] == 8
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 3 and losses[-1] < losses[0]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert any("compressor" in name for name in changed) and any("language_model" in name for name in changed)


def test_preferences_with_images_train_through_stock_dpo(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    picture = Image.new("RGB", (64, 48), "red")
    prompt = [{"role": "user", "content": "What is shown?"}]
    rows = [
        {
            "images": [picture],
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "a pan"}],
            "rejected": [{"role": "assistant", "content": "a cat"}],
        }
    ] * 4
    data = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    trainer = trl.DPOTrainer(
        model=HiComForConditionalGeneration.from_pretrained(start[0]),
        args=trl.DPOConfig(tmp_path, **BASE),
        train_dataset=data,
        processing_class=processor,
    )
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 3 and losses[-1] < losses[0] < 0.70  # ln 2 before the first step


def test_videos_in_preferences_are_refused_and_not_dropped(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is shown?"}]}]
    rows = [
        {
            "videos": [str(start[1].parent / "red.mp4")],
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a pan"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}],
        }
    ] * 4
    with pytest.raises(ValueError, match="placeholder"):
        trl.DPOTrainer(
            model=HiComForConditionalGeneration.from_pretrained(start[0]),
            args=trl.DPOConfig(tmp_path, **BASE),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=processor,
        ).train()
