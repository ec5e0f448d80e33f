"""What each stage trains: against the official optimiser groups, and what a stage refuses to start from."""

import json
import logging
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared_data import GOLDEN_DIR, needs_golden
from training_runs import recipe, write_model

from hicom_hf.assembly.random_model import tiny_config, tiny_model
from hicom_hf.modeling.parts_hicom import PARTS, still_untrained
from hicom_hf.training.recipe import LearningRates
from hicom_hf.training.stages import (
    cast_for_training,
    load_stage,
    optimizer_groups,
    part_of,
    set_trainable,
    unused_parameters,
)

RELEASE = {"formulation": "release", "local_injection": "direct", "global_injection": "direct"}

# Official names -> ours, first match.
RENAMES = (
    (r"model\.mm_projector\.local_compressor\.", "model.compressor.local_branch."),
    (r"model\.mm_projector\.global_compressor\.query$", "model.compressor.global_branch.queries"),
    (r"model\.mm_projector\.global_compressor\.attn_layer\.", "model.compressor.global_branch.attention."),
    (r"model\.mm_projector\.global_compressor\.", "model.compressor.global_branch."),
    (r"model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"model\.vision_tower\.guide_encoder\.text_model\.", "model.instruction_encoder."),
    (r"model\.(?=embed_tokens|layers|norm)", "model.language_model."),
)

# Where ours differs from what the official program did, by stage: name -> why.
DIFFERENCES = {
    "alignment": {"lm_head.weight": "trained by the release, which freezes the inner model only"},
    "conditional_pretraining": {
        "lm_head.weight": "trained by the release, which freezes the inner model only",
        "model.compressor.global_branch.queries": "in a group of the release, but without a gradient: nothing reads it",
    },
    "instruction_tuning": {
        "model.compressor.global_branch.queries": "in a group of the release, but without a gradient: nothing reads it",
        "model.vision_tower.head.probe": "in a group of the release, but without a gradient: unused",
        "model.vision_tower.head.attention.in_proj_weight": "likewise",
        "model.vision_tower.head.attention.in_proj_bias": "likewise",
        "model.vision_tower.head.attention.out_proj.weight": "likewise",
        "model.vision_tower.head.attention.out_proj.bias": "likewise",
    },
}
RATES = {
    "alignment": LearningRates(compressor=1e-3),
    "conditional_pretraining": LearningRates(compressor=1e-4, injection=1e-3),
    "instruction_tuning": LearningRates(
        compressor=1e-5, injection=1e-5, language_model=1e-5, vision_head=2e-6, instruction_encoder=2e-6
    ),
}


def our_name(official: str) -> str:
    for pattern, replacement in RENAMES:
        if re.match(pattern, official):
            official = re.sub(pattern, replacement, official)
            break
    return re.sub(r"readout\.(0|2)\.", lambda m: f"readout.linear_{1 if m[1] == '0' else 2}.", official)


@needs_golden
@pytest.mark.parametrize(("index", "stage"), list(enumerate(RATES)))
def test_rates_of_all_parameters_are_the_official_ones_but_for_the_listed_defects(index, stage):
    official = json.loads((GOLDEN_DIR / "training/parameter_groups.json").read_text())["stages"][index]
    expected = {our_name(n): (g["lr"], g["weight_decay"]) for g in official["groups"] for n in g["params"]}
    frozen = {our_name(name) for name in official["frozen"]}

    injections = {"local_injection": "none", "global_injection": "none"} if stage == "alignment" else {}
    model = tiny_model(**{**RELEASE, **injections})
    set_trainable(model, model.config, RATES[stage])
    groups = optimizer_groups(model, RATES[stage], 0.0, set())
    ours = {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["parameter_names"]}

    names = {name for name, _ in model.named_parameters()}
    assert set(expected) <= names and frozen <= names  # the renaming reaches real parameters
    differing = {n for n in set(expected) | set(ours) if expected.get(n) != ours.get(n)}
    assert differing == set(DIFFERENCES[stage])
    assert all(name not in ours for name in differing)  # each is one that we freeze


def test_every_parameter_belongs_to_a_part():
    parts = {part_of(name) for name, _ in tiny_model().named_parameters()}
    assert parts == {
        "injection",
        "compressor",
        "language_model",
        "vision_head",
        "instruction_encoder",
        "vision_tower",
    }


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.compressor.global_branch.injection.mlp.linear_1.weight", "injection"),
        ("model.compressor.global_branch.queries", "compressor"),
        ("model.language_model.embed_tokens.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("model.vision_tower.head.mlp.fc1.weight", "vision_head"),
        ("model.vision_tower.head.layernorm.bias", "vision_head"),
        ("model.vision_tower.head.probe", "vision_tower"),
        ("model.vision_tower.head.attention.in_proj_weight", "vision_tower"),
        ("model.instruction_encoder.head.weight", "instruction_encoder"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight", "language_model"),
        ("base_model.model.model.compressor.modules_to_save.default.global_branch.queries", "compressor"),
        ("base_model.model.model.compressor.modules_to_save.default.local_branch.injection.x", "injection"),
        ("base_model.model.model.compressor.original_module.local_branch.injection.x", "injection"),
    ],
)
def test_a_parameter_is_told_by_its_name(name, part):
    assert part_of(name) == part


def test_a_parameter_of_no_part_is_refused():
    with pytest.raises(ValueError, match=r"no part of the model has the parameter 'model\.adapter\.weight'"):
        part_of("model.adapter.weight")


def test_what_has_no_rate_is_frozen_lm_head_included():
    model = tiny_model()
    counts = set_trainable(model, model.config, RATES["conditional_pretraining"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("model.compressor.")}
    assert sum(counts.values()) == sum(p.numel() for p in model.model.compressor.parameters())


def test_biases_and_norms_do_not_decay():
    model = tiny_model()
    set_trainable(model, model.config, LearningRates(compressor=1e-3))
    names = {name for name, _ in model.named_parameters()}
    no_decay = {name for name in names if name.endswith("bias")}
    groups = optimizer_groups(model, LearningRates(compressor=1e-3), 0.1, no_decay)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("compressor", 0.1), ("compressor", 0.0)]
    assert all(name.endswith("bias") for name in groups[1]["parameter_names"])


def test_queries_that_nothing_reads_are_named_unless_the_injection_is_bypassed():
    assert unused_parameters(tiny_config(**RELEASE)) == {"model.compressor.global_branch.queries"}
    assert unused_parameters(tiny_config(**RELEASE, bypass_injection=True)) == set()
    assert unused_parameters(tiny_config()) == set()


def test_a_rate_for_a_tower_that_the_compressor_does_not_read_is_refused():
    model = tiny_model(local_injection="none", global_injection="none")
    with pytest.raises(ValueError, match=r"learning_rates\.vision_head must be null"):
        set_trainable(model, model.config, LearningRates(language_model=1e-5, vision_head=1e-6))
    with pytest.raises(ValueError, match=r"learning_rates\.instruction_encoder must be null"):
        set_trainable(model, model.config, LearningRates(language_model=1e-5, instruction_encoder=1e-6))


# Starting from a folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


@pytest.mark.parametrize("stage", RATES)
def test_alignment_bypasses_the_injections_and_the_other_stages_run_them(folder, stage):
    model = load_stage(recipe(stage, folder, folder, folder))
    assert model.config.compressor_config.bypass_injection == (stage == "alignment")
    assert model.model.compressor.config.bypass_injection == (stage == "alignment")
    assert any("injection" in name for name, _ in model.named_parameters())


def test_a_folder_that_lacks_or_exceeds_or_reshapes_weights_is_refused_with_all_names(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    queries = "model.compressor.global_branch.queries"
    changes = {
        "missing: model.compressor.global_branch.queries": {queries: None},
        "not known to this model: model.compressor.extra": {"model.compressor.extra": torch.ones(1)},
        r"of another shape: model.compressor.global_branch.queries \(9, 64\) instead of \(8, 64\)": {
            queries: torch.ones(9, 64)
        },
    }
    for message, change in changes.items():
        changed = {name: tensor for name, tensor in {**weights, **change}.items() if tensor is not None}
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load_stage(recipe("conditional_pretraining", folder, folder, folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_refused_with_their_names(value, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[3, 1] = value
    model.save_pretrained(tmp_path)
    message = r"holds weights that are NaN or infinite, in 1 tensors: lm_head.weight. The folder is damaged"
    with pytest.raises(ValueError, match=message):
        load_stage(recipe("alignment", tmp_path, tmp_path, tmp_path))


def test_a_projector_without_injections_gets_fresh_ones_named_in_the_log(tmp_path, caplog):
    bare = {"formulation": "release", "local_injection": "none", "global_injection": "none"}
    folder = write_model(tmp_path / "converted", **bare)
    wanted = {"local_injection": "direct", "global_injection": "coarse"}
    with caplog.at_level(logging.WARNING):
        model = load_stage(recipe("conditional_pretraining", folder, folder, folder, new_injection=wanted))
    assert model.config.compressor_config.global_injection == "coarse"
    (line,) = [r.getMessage() for r in caplog.records if "New, untrained injection modules" in r.getMessage()]
    assert "model.compressor.global_branch.injection.mlp.linear_1.weight" in line
    before = load_file(folder / "model.safetensors")
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    scale = after["model.compressor.global_branch.injection.norm.weight"]
    assert torch.equal(scale, torch.ones_like(scale))


def test_injections_that_are_there_are_not_replaced(folder):
    wanted = {"local_injection": "coarse", "global_injection": "coarse"}
    with pytest.raises(ValueError, match=r"new_injection.local_injection is 'coarse' but .* has 'direct' already"):
        load_stage(recipe("conditional_pretraining", folder, folder, folder, new_injection=wanted))


def test_adapters_do_not_start_from_a_folder_whose_injections_are_bypassed(tmp_path):
    folder = write_model(tmp_path / "aligned", bypass_injection=True)
    with pytest.raises(ValueError, match=r"lora cannot start from .*aligned, whose injections are bypassed"):
        load_stage(recipe("instruction_tuning", folder, folder, folder, lora={"rank": 4}))


def test_frozen_weights_are_kept_in_bfloat16_and_trained_ones_in_float32(folder):
    model = load_stage(recipe("alignment", folder, folder, folder, precision="bf16"))
    set_trainable(model, model.config, RATES["alignment"])
    cast_for_training(model)
    for name, parameter in model.named_parameters():
        is_trained = part_of(name) in (
            "compressor",
            "injection",
        )  # the injections lie within, and have the compressor's type
        assert parameter.dtype == (torch.float32 if is_trained else torch.bfloat16)


def test_the_compressor_is_trained_in_bfloat16_around_injections_that_are_frozen(folder):
    model = load_stage(recipe("instruction_tuning", folder, folder, folder, precision="bf16"))
    set_trainable(model, model.config, LearningRates(compressor=1e-3))
    cast_for_training(model)
    size = model.config.vision_config.image_size
    frames, instruction = torch.rand(4, 3, size, size).bfloat16(), torch.ones(1, 64, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.model.get_video_features(frames, [4], instruction)  # a layer norm once refused its input's type
    torch.cat(tokens.pooler_output).float().sum().backward()
    frozen = [one for name, one in model.named_parameters() if part_of(name) == "injection"]
    assert frozen and all(one.grad is None for one in frozen)


def test_trained_parts_are_no_longer_called_untrained():
    left = still_untrained(PARTS, ["injection", "vision_head"])
    assert left == ["vision_tower", "instruction_encoder", "language_model"]
    assert still_untrained(left, ["language_model", "instruction_encoder"]) == ["vision_tower"]
