"""Training through stock TRL. Slow; needs trl: `pip install -c constraints.txt trl` into an environment with the package."""

import datasets
import pytest
import torch
from PIL import Image
from training_runs import encoder_of, write_data, write_model

from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.data.datasets import load_records
from hicom_hf.data.row_collating import HiComPreferenceCollator, HiComRowCollator
from hicom_hf.training.prompt_instructions import find_instructions_in_prompts

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


def without(settings: dict, name: str) -> dict:
    return {key: value for key, value in settings.items() if key != name}


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


def test_preferences_about_videos_train_through_stock_dpo_with_our_collator(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    answers = {"chosen": "red.", "rejected": "a cat"}
    row = {side: [{"role": "assistant", "content": text}] for side, text in answers.items()}
    row |= {"prompt": [{"role": "user", "content": "What colour is it?"}], "videos": ["red.mp4"], "images": []}
    trainer = trl.DPOTrainer(
        model=HiComForConditionalGeneration.from_pretrained(start[0]),
        args=trl.DPOConfig(tmp_path, remove_unused_columns=False, **BASE),
        train_dataset=datasets.Dataset.from_list([row] * 4),
        data_collator=HiComPreferenceCollator(encoder_of(processor, 4), str(start[1].parent)),
        processing_class=processor,
    )
    seen = []
    inner = trainer.model.model
    inner.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 3 and losses[-1] < losses[0] < 0.70  # ln 2 before the first step
    assert all({"pixel_values_videos", "video_instruction_ids"} <= names for names in seen)


class GRPOWithReference(trl.GRPOTrainer):
    """As in docs/training.md: TRL's scoring takes a fixed list of inputs."""

    def _get_per_token_logps_and_entropies(self, *args, image_instruction_ids=None, **kwargs):
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)


@pytest.mark.parametrize(("trainer_class", "beta"), [(trl.GRPOTrainer, 0.0), (GRPOWithReference, 0.1)])
def test_rewards_about_images_train_with_instructions_found_in_prompts(trainer_class, beta, start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    model = HiComForConditionalGeneration.from_pretrained(start[0])
    questions = ("What is shown?", "Which colour is it?")
    rows = [
        {
            "prompt": [{"role": "user", "content": questions[number % 2]}],
            "images": [Image.new("RGB", (64, 48), colour)],
        }
        for number, colour in enumerate(("red", "blue", "red", "green"))
    ]
    data = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    arguments = without(BASE, "max_length") | {"num_generations": 2, "max_completion_length": 6, "beta": beta}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trainer_class(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(str(text))) for text in completions],
        args=trl.GRPOConfig(tmp_path, **arguments),
        train_dataset=data,
        processing_class=processor,
    )
    seen = []
    for scored in (trainer.model, trainer.ref_model):
        if scored is not None:
            find_instructions_in_prompts(scored, processor)
            scored.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    trainer.train()
    assert trainer.state.global_step == 3 and (trainer.ref_model is None) == (beta == 0)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert any("compressor" in name for name in changed) and any("language_model" in name for name in changed)
    expected = {tuple(row) for row in processor.encode_instructions(list(questions)).tolist()}
    with_pixels = [kwargs for kwargs in seen if kwargs.get("pixel_values") is not None]
    assert {tuple(row) for kwargs in with_pixels for row in kwargs["image_instruction_ids"].tolist()} == expected


def test_videos_in_prompts_of_grpo_are_refused(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    model = HiComForConditionalGeneration.from_pretrained(start[0])
    find_instructions_in_prompts(model, processor)
    content = [{"type": "video", "path": str(start[1].parent / "red.mp4")}, {"type": "text", "text": "What is shown?"}]
    rows = [{"prompt": [{"role": "user", "content": content}]}] * 4
    with pytest.raises(ValueError, match="video placeholder tokens"):
        trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [1.0] * len(completions),
            args=trl.GRPOConfig(tmp_path, num_generations=2, max_completion_length=6, **without(BASE, "max_length")),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=processor,
        ).train()


def test_a_column_of_videos_that_trl_drops_is_noted(start, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("hicom_hf.modeling.visual_tokens_hicom.logger.warning_once", said.append)
    processor = HiComProcessor.from_pretrained(start[0])
    messages = [{"role": "user", "content": "What is shown?"}, {"role": "assistant", "content": "a pan"}]
    rows = [{"videos": [str(start[1].parent / "red.mp4")], "messages": messages}] * 4
    trl.SFTTrainer(
        model=HiComForConditionalGeneration.from_pretrained(start[0]),
        args=trl.SFTConfig(tmp_path, **BASE),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
    ).train()
    assert said and "TRL's own collators with `videos`" in said[0]
