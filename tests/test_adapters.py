"""LoRA: what it adapts, one folder that everything loads, and back to a plain model."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_runs import recipe, write_data, write_model
from transformers import AutoModelForImageTextToText, AutoProcessor, Phi3Config, Qwen3MoeConfig

from hicom_hf import HiComForConditionalGeneration
from hicom_hf.assembly import random_model as tiny
from hicom_hf.assembly.random_model import tiny_config, tiny_model
from hicom_hf.cli.main import main
from hicom_hf.hub.loading import quantization_config
from hicom_hf.training.adapters import COMPRESSOR, add_adapters, merge_adapter
from hicom_hf.training.recipe import LearningRates, LoraRecipe
from hicom_hf.training.run import build_trainer, run_recipe, save_finished
from hicom_hf.training.stages import set_trainable
from hicom_hf.training.trainer_arguments import training_arguments

pytestmark = pytest.mark.usefixtures("no_curves")
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
RATES = {"compressor": 1e-2, "injection": 1e-2, "language_model": 1e-2}


class Trained:
    """A run with adapters, its folder, and the model as it was at its end."""

    def __init__(self, folder: Path):
        self.data = write_data(folder)
        self.base = write_model(folder / "base")
        run = recipe(
            "instruction_tuning", self.base, self.data, folder / "out", max_steps=5, lora=LORA, learning_rates=RATES
        )
        trainer = build_trainer(run, training_arguments(run))
        trainer.train()
        self.folder = save_finished(trainer, run)
        self.model = trainer.model.eval()
        self.processor = trainer.processing_class
        frames = torch.randint(0, 255, (4, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        prompt = f"{self.processor.video_token}\nWhat colour is it?"
        self.inputs = self.processor(text=prompt, videos=[frames.numpy()], return_tensors="pt", num_frames=4)
        self.logits = self.logits_of(self.model)

    def logits_of(self, model) -> torch.Tensor:
        with torch.no_grad():
            for parameter in model.parameters():
                # Weights mapped from a file may lie where matrix kernels add in another order (2e-6 off).
                parameter.data = parameter.data.clone()
            return model.eval()(**self.inputs).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("adapter"))


def test_adapters_are_on_the_llm_only_and_the_compressor_is_copied_whole():
    model = add_adapters(tiny_model(), LoraRecipe(rank=4), train_compressor=True)
    set_trainable(model, model.get_base_model().config, LearningRates(**RATES))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = {name for name in names if ".lora_" in name}
    assert len(adapted) == 2 * 7 * 2  # layers, linear maps, A and B
    assert all(".language_model.layers." in name for name in adapted)
    copied = {name.split(".modules_to_save.default.")[1] for name in names - adapted}
    assert copied == {name for name, _ in tiny_model().model.compressor.named_parameters()}


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}


def model_with(text_config) -> HiComForConditionalGeneration:
    config = tiny_config()
    config.text_config = text_config
    return HiComForConditionalGeneration(config)


def adapted_kinds(model) -> set[str]:
    names = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert all(".language_model.layers." in name for name in names)
    return {name.partition(".layers.")[2].partition(".")[2] for name in names}


def test_an_llm_with_fused_maps_is_adapted_whole(caplog):
    model = add_adapters(model_with(Phi3Config(**TEXT)), LoraRecipe(rank=4), train_compressor=True)
    assert adapted_kinds(model) == {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    assert "LoRA adapts" not in caplog.text


def test_what_lora_leaves_alone_is_named(caplog):
    model = add_adapters(model_with(Qwen3MoeConfig(**TEXT, **EXPERTS)), LoraRecipe(rank=4), train_compressor=True)
    assert adapted_kinds(model) == {f"self_attn.{name}_proj" for name in "qkvo"}
    left = "stay as they are: mlp.experts.down_proj, mlp.experts.gate_up_proj, mlp.gate."
    assert left in caplog.text


def test_targets_are_chosen_by_name_and_experts_can_be_adapted(caplog):
    lora = LoraRecipe(rank=4, dropout=0.0, targets=["q_proj", "experts.gate_up_proj", "experts.down_proj"])
    model = add_adapters(model_with(Qwen3MoeConfig(**TEXT, **EXPERTS)), lora, train_compressor=False)
    assert adapted_kinds(model) == {"self_attn.q_proj", "mlp.experts", "mlp.experts.base_layer"}
    assert "stay as they are: mlp.gate, self_attn.k_proj, self_attn.o_proj, self_attn.v_proj." in caplog.text
    set_trainable(model, model.get_base_model().config, LearningRates(language_model=1e-4))
    ids = torch.arange(3, 12)[None]
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    before = model(input_ids=ids).logits
    torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)


def test_experts_alone_can_be_adapted():
    lora = LoraRecipe(rank=4, dropout=0.0, targets=["experts.down_proj"])
    model = add_adapters(model_with(Qwen3MoeConfig(**TEXT, **EXPERTS)), lora, train_compressor=False)
    assert adapted_kinds(model) == {"mlp.experts"}


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["q_proj", "qkv_proj"]}, r"no 'qkv_proj' to adapt; they have .*mlp.experts.down_proj"),
        ({"targets": ["proj"]}, "no 'proj' to adapt"),
        ({"targets": ["mlp.gate"]}, "no 'mlp.gate' to adapt"),
        ({"targets": ["down_proj"]}, r"lora.dropout must be 0 with mlp.experts.down_proj"),
        ({"targets": ["down_proj"], "dora": True}, "lora.dora must be false with"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused(lora, message):
    with pytest.raises(ValueError, match=message):
        add_adapters(model_with(Qwen3MoeConfig(**TEXT, **EXPERTS)), LoraRecipe(**lora), train_compressor=False)


def test_wrong_targets_of_a_recipe_are_refused_before_the_model_is_loaded(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("hicom_hf.training.run.load_stage", lambda *a, **k: pytest.fail("the model was loaded"))
    wrong = {**LORA, "targets": ["qkv_proj"]}
    run = recipe("instruction_tuning", trained.base, trained.data, tmp_path, lora=wrong, learning_rates=RATES)
    with pytest.raises(ValueError, match=r"lora.targets: the LLM's layers have no 'qkv_proj'"):
        build_trainer(run, training_arguments(run))


def test_kinds_of_adapters_reach_peft():
    lora = LoraRecipe(rank=4, alpha=8, dora=True, rslora=True, targets=["q_proj"])
    model = add_adapters(tiny_model(), lora, train_compressor=False)
    config = model.peft_config["default"]
    assert config.use_dora and config.use_rslora
    layer = model.get_base_model().model.language_model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 4.0  # 8 / sqrt(4)
    set_trainable(model, model.get_base_model().config, LearningRates(language_model=1e-4))
    assert layer.lora_magnitude_vector["default"].weight.requires_grad


def test_a_dora_run_is_saved_loaded_and_merged_to_the_same_numbers(trained, tmp_path):
    kinds = {**LORA, "dora": True, "rslora": True, "targets": ["q_proj", "v_proj", "down_proj"]}
    run = recipe(
        "instruction_tuning",
        trained.base,
        trained.data,
        tmp_path / "out",
        max_steps=2,
        lora=kinds,
        learning_rates=RATES,
    )
    trainer = build_trainer(run, training_arguments(run))
    trainer.train()
    folder = save_finished(trainer, run)
    expected = trained.logits_of(trainer.model)
    assert not torch.equal(expected, trained.logits_of(HiComForConditionalGeneration.from_pretrained(trained.base)))
    saved = load_file(folder / "adapter_model.safetensors")
    assert sum("lora_magnitude_vector" in name for name in saved) == 3 * 2
    base = HiComForConditionalGeneration.from_pretrained(trained.base)
    for model in (HiComForConditionalGeneration.from_pretrained(folder), PeftModel.from_pretrained(base, folder)):
        assert torch.equal(trained.logits_of(model), expected)
    plain = HiComForConditionalGeneration.from_pretrained(merge_adapter(folder, tmp_path / "plain"))
    torch.testing.assert_close(trained.logits_of(plain), expected, atol=1e-5, rtol=1e-5)


def test_an_llm_in_which_lora_finds_nothing_is_refused():
    model = tiny_model()
    model.model.language_model.layers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"lora finds no linear maps in language_model\.layers"):
        add_adapters(model, LoraRecipe(rank=4), train_compressor=True)


def test_only_the_compressor_bears_the_name_that_is_saved_with_the_adapters():
    names = [name for name, _ in tiny_model().named_modules() if name.endswith(COMPRESSOR)]
    assert names == ["model.compressor"]


def test_without_a_rate_the_compressor_is_neither_trained_nor_saved():
    model = add_adapters(tiny_model(), LoraRecipe(rank=4), train_compressor=False)
    set_trainable(model, model.get_base_model().config, LearningRates(language_model=1e-4))
    assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def test_training_changes_adapters_and_compressor_and_leaves_the_base_bit_identical(trained):
    base = load_file(trained.base / "model.safetensors")
    state = trained.model.get_base_model().state_dict()
    for name, tensor in base.items():
        plain = name.replace("model.compressor.", "model.compressor.original_module.")
        layer = plain.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        assert torch.equal(state[plain if plain in state else layer], tensor), name
    saved = load_file(trained.folder / "adapter_model.safetensors")
    for name, tensor in saved.items():
        if ".compressor." in name:
            assert not torch.equal(tensor, base[name.removeprefix("base_model.model.")]), name
        else:
            assert tensor.any(), name


def test_the_folder_loads_through_from_pretrained_and_peft_to_the_same_numbers(trained):
    direct = HiComForConditionalGeneration.from_pretrained(trained.folder)
    auto = AutoModelForImageTextToText.from_pretrained(trained.folder)
    base = HiComForConditionalGeneration.from_pretrained(trained.base)
    peft = PeftModel.from_pretrained(base, trained.folder)
    for model in (direct, auto, peft):
        assert torch.equal(trained.logits_of(model), trained.logits)
    processor = AutoProcessor.from_pretrained(trained.folder)
    assert processor.num_visual_tokens(4) == trained.processor.num_visual_tokens(4)


def test_the_folder_holds_adapters_compressor_processor_and_recipe_and_nothing_of_the_base(trained):
    files = {path.name for path in trained.folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json", "recipe.yaml"} <= files
    assert "training_args.bin" not in files and not any(name.startswith("model") for name in files)
    saved = load_file(trained.folder / "adapter_model.safetensors")
    assert all(".lora_" in name or ".compressor." in name for name in saved)
    assert json.loads((trained.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        trained.base
    )


def test_merging_gives_a_plain_model_with_the_same_answers(trained, tmp_path, capsys):
    assert main(["merge", str(trained.folder), str(tmp_path / "plain")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "plain")
    plain, info = HiComForConditionalGeneration.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    # W x + B A x against (W + B A) x in float32: the order of additions differs.
    torch.testing.assert_close(trained.logits_of(plain), trained.logits, atol=1e-5, rtol=1e-5)
    assert set(plain.config.untrained_parts) == {"vision_tower", "instruction_encoder"}
    assert AutoProcessor.from_pretrained(tmp_path / "plain").num_global_tokens == 8
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert not any("adapter" in name for name in names)


def test_a_merged_model_is_the_merged_model_in_memory_bit_by_bit(trained, tmp_path):
    merged = HiComForConditionalGeneration.from_pretrained(trained.base)
    merged = PeftModel.from_pretrained(merged, trained.folder).merge_and_unload().state_dict()
    merge_adapter(trained.folder, tmp_path / "plain")
    stored = load_file(tmp_path / "plain" / "model.safetensors")
    assert set(stored) == set(merged)
    assert all(torch.equal(stored[name], merged[name]) for name in stored)


def test_a_base_that_has_moved_can_be_named(trained, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(trained.base)
    assert main(["merge", str(trained.folder), str(tmp_path / "plain"), "--base", str(moved)]) == 0


def test_merging_what_is_no_adapter_or_over_something_is_refused(trained, tmp_path, capsys):
    assert main(["merge", str(trained.base), str(tmp_path / "plain")]) == 1
    assert capsys.readouterr().err.startswith(f"hicom: error: {trained.base} is not the folder of an adapter")
    assert main(["merge", str(trained.folder), str(trained.base)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_bitsandbytes_says_of_kernels_when_peft_imports_it_is_not_shown(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning(
        "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please `pip install kernels`", "x"
    )
    logger.warning("something else")
    assert caplog.messages == ["something else"]


def test_a_run_with_adapters_can_start_from_a_checkpoint_of_the_same_run(trained, tmp_path):
    run = recipe(
        "instruction_tuning", trained.base, trained.data, tmp_path, max_steps=3, lora=LORA, learning_rates=RATES
    )
    assert (run_recipe(run) / "adapter_model.safetensors").is_file()


# QLoRA ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_qlora_trains_on_a_4_bit_llm_resumes_exactly_and_merges(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    # 4-bit weights come in blocks of 64.
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    for name, value in wide.items():
        monkeypatch.setitem(tiny.TINY_TEXT, name, value)
    base, data = write_model(tmp_path / "base"), write_data(tmp_path)
    changes = {"max_steps": 4, "precision": "bf16", "checkpoints": {"every": 2}, "learning_rates": RATES}
    run = recipe("instruction_tuning", base, data, tmp_path / "out", lora={**LORA, "quantize": "nf4"}, **changes)
    model = build_trainer(run, training_arguments(run)).model.get_base_model()
    quantized = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert (
        len(quantized) == 2 * 7 * 2
    )  # linear maps of the LLM's layers, each named by the adapter and as its base layer
    assert all("language_model.layers" in name for name in quantized)

    folder = run_recipe(run)
    weights = load_file(folder / "adapter_model.safetensors")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    resumed = load_file(run_recipe(run) / "adapter_model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    merged = merge_adapter(folder, tmp_path / "plain")
    assert HiComForConditionalGeneration.from_pretrained(merged).dtype == torch.float32


def test_without_quantize_nothing_is_quantized():
    assert quantization_config(None) is None


def test_qlora_asks_for_nf4_in_bfloat16_and_leaves_all_but_the_llm_alone(monkeypatch):
    monkeypatch.setattr("hicom_hf.hub.loading.is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr("transformers.utils.quantization_config.BitsAndBytesConfig.post_init", lambda self: None)
    config = quantization_config("nf4")
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_qlora_without_bitsandbytes_says_what_to_install(monkeypatch):
    monkeypatch.setattr("hicom_hf.hub.loading.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'hicom_hf\[qlora\]'"):
        quantization_config("nf4")
