"""Packing without padding: equal to padded batches, refused where an LLM would mix the samples."""

import pytest
import torch
from training_runs import encoder_of, losses_of, recipe_values, weights_of, write_data, write_model

from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.data.bad_samples import SkippedSample
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.training.packing import check_packing
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import check_packages, run_recipe

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


@pytest.fixture(scope="module")
def dataset(start):
    return HiComDataset(start[1], encoder_of(HiComProcessor.from_pretrained(start[0]), 4))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_has_the_loss_and_the_gradients_of_padded_rows(attention, start, dataset):
    model = HiComForConditionalGeneration.from_pretrained(start[0], attn_implementation=attention)
    samples = [dataset[index] for index in (0, 8, 10, 3)]  # videos, an image, text
    results = {}
    for packing in (False, True):
        batch = HiComDataCollator(dataset.encoder.processor, packing=packing)(samples)
        model.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        results[packing] = loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert batch["input_ids"].shape == (1, sum(len(sample["input_ids"]) for sample in samples))
    assert "attention_mask" not in batch
    torch.testing.assert_close(results[True][0], results[False][0], rtol=0, atol=1e-5)  # float32, other sums
    assert results[True][1].keys() == results[False][1].keys()
    for name, gradient in results[False][1].items():
        torch.testing.assert_close(results[True][1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_rows_without_padding_are_counted_as_such_and_skipped_samples_leave_a_row(dataset):
    collate = HiComDataCollator(dataset.encoder.processor, packing=True)
    batch = collate([dataset[10], SkippedSample("a", "gone"), dataset[9]])
    assert batch["position_ids"][0].tolist() == [
        *range(len(dataset[10]["input_ids"])),
        *range(len(dataset[9]["input_ids"])),
    ]
    assert collate.last_statistics.num_padding_tokens == 0
    assert collate.last_statistics.num_text_tokens == batch["input_ids"].numel()
    empty = collate([SkippedSample("a", "gone")])
    assert empty["input_ids"].shape == (1, 1) and (empty["labels"] == -100).all()
    with pytest.raises(ValueError, match="pad_to_multiple_of must be None with packing"):
        HiComDataCollator(dataset.encoder.processor, packing=True, pad_to_multiple_of=8)


def test_llms_that_mix_samples_of_one_row_are_refused(monkeypatch):
    model = tiny_model()
    check_packing(model)
    forward = type(model.model.language_model).forward
    monkeypatch.setattr(  # an LLM that does not look at positions, as a recurrent one
        type(model.model.language_model),
        "forward",
        lambda self, position_ids=None, **kwargs: forward(self, **kwargs),
    )
    with pytest.raises(ValueError, match=r"data\.packing must be false: Qwen2Model with \w+ attention does not keep"):
        check_packing(model)


def test_a_recipe_with_packing_trains_the_same_weights(start, tmp_path):
    results = {}
    for packing in (False, True):
        values = recipe_values(
            "instruction_tuning",
            *start,
            tmp_path / str(packing),
            data={"packing": packing},
            max_steps=2,
            checkpoints={"every": 2},
        )
        results[packing] = weights_of(run_recipe(recipe_from_dict(values))), losses_of(tmp_path / str(packing))
    assert dict(results[True][1]) == pytest.approx(dict(results[False][1]), abs=1e-4)
    for name, tensor in results[False][0].items():
        torch.testing.assert_close(results[True][0][name], tensor, rtol=0, atol=1e-4, msg=name)  # two steps of Adam


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # tracing reads what warns
def test_a_compiled_run_has_the_losses_of_a_plain_one(start, tmp_path):
    losses = {}
    for name, section in (("plain", {}), ("compiled", {"torch_compile": True, "torch_compile_backend": "aot_eager"})):
        values = recipe_values(
            "instruction_tuning",
            *start,
            tmp_path / name,
            max_steps=3,
            checkpoints={"every": 3},
            data={"packing": True},
            trainer=section,
        )
        run_recipe(recipe_from_dict(values))
        losses[name] = losses_of(tmp_path / name)
    assert dict(losses["compiled"]) == pytest.approx(dict(losses["plain"]), abs=1e-4)


def test_liger_kernels_that_are_not_installed_are_named_before_anything_is_loaded(start, tmp_path):
    values = recipe_values("alignment", *start, tmp_path, trainer={"use_liger_kernel": True})
    with pytest.raises(ImportError, match=r"trainer\.use_liger_kernel needs .* pip install 'hicom_hf\[liger\]'"):
        check_packages(recipe_from_dict(values))
