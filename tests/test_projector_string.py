"""Option strings and projector tensors: what they build, and what is refused by name."""

import pytest
import torch

from hicom_hf.conversion import UnreleasedOptionError, build_official_compressor, parse_projector_string
from hicom_hf.conversion.names import PROJECTOR_RULES, RULES, our_name
from hicom_hf.conversion.official_config import projector_plan

STRINGS = [
    ("local43_global32", None, {"local_injection": "none", "global_injection": "none"}),
    ("local43_global32", "off", {"local_injection": "none", "global_injection": "none"}),
    ("local43_global32", "direct", {"local_injection": "direct", "global_injection": "direct"}),
    ("local43_global32_coarse", "direct", {"local_injection": "direct", "global_injection": "direct"}),
    ("local43_global32_guidecoarse", "direct", {"local_injection": "direct", "global_injection": "coarse"}),
    ("global32_guidecoarse_local43", "direct", {"local_injection": "direct", "global_injection": "coarse"}),
    ("local43guidecoarse_global32_guidefine", None, {"local_injection": "coarse", "global_injection": "fine"}),
    ("local43_guideoff_global32", "coarse", {"local_injection": "none", "global_injection": "coarse"}),
    ("local43_adaptkv_global32", "direct", {"key_adapter": True, "value_adapter": True}),
    ("local43_guidefine_adaptk_global32", "direct", {"key_adapter": True, "value_adapter": False}),
    ("local43adaptv_global8", "direct", {"key_adapter": False, "value_adapter": True, "num_global_tokens": 8}),
    ("local43", "fine", {"local_injection": "fine", "num_global_tokens": 0}),
    ("global16", "coarse", {"local_branch": None, "num_global_tokens": 16, "global_injection": "coarse"}),
    ("local89_global1", None, {"ratio": [8, 9, 9]}),
    ("local113_global64", None, {"ratio": [1, 13, 13], "num_global_tokens": 64}),
]


@pytest.mark.parametrize("text, use_guide, expected", STRINGS)
def test_a_string_builds_what_the_official_program_builds(text, use_guide, expected):
    config = parse_projector_string(text, use_guide).config
    assert config.formulation == "release"
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_published_string_is_put_into_words():
    plan = parse_projector_string("local43_global32_coarse", "direct")
    assert plan.words == (
        "local branch: groups of 4 x 3 x 3 patches, direct injection (from use_guide)",
        "global branch: 32 tokens, direct injection (from use_guide)",
    )
    inert, equal = plan.notes
    assert "_coarse in 'local43_global32_coarse' has no effect" in inert and "guidecoarse" in inert
    assert "tokens are all equal" in equal


def test_a_coarse_global_branch_needs_no_note():
    assert parse_projector_string("local43_global32_guidecoarse", "direct").notes == ()


@pytest.mark.parametrize(
    "text, use_guide, note",
    [
        ("local43_global32_guidefine", "direct", "cannot run in the official program"),
        ("local43_global32_guidecoarse", None, "hands no instruction to the branches that ask for one"),
    ],
)
def test_what_the_official_program_cannot_run_is_said(text, use_guide, note):
    assert any(note in found for found in parse_projector_string(text, use_guide).notes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("mlp2x_gelu", "which is no HICom compressor"),
        (None, "which is no HICom compressor"),
        ("local4_global32", "local4 must be followed by one digit for frames"),
        ("local40_global32", "none of them zero"),
        ("local03_global32", "none of them zero"),
        ("local4123_global32", "local4123 must be followed by"),
        ("local_global32", "local needs a number behind it"),
        ("local43_global", "global needs a number behind it"),
        ("local43_global0", "global needs a number behind it"),
        ("local43_global32_corase", "'corase' in the global part is not understood"),
        ("local43_global32_guidecorase", "'guidecorase' in the global part is not understood"),
        ("local43_guidedirectadaptk_global32", "'guidedirectadaptk' in the local part is not understood"),
        ("hybrid_local43", "'hybrid_' is not understood"),
        ("local43_local43", "has two local parts"),
        ("local43_guidefine_guidecoarse", "says the same thing twice in its local part"),
        ("local43_adaptkk", "says the same thing twice in its local part"),
        ("local43_global32_adaptkv", "adaptkv stands in the global part"),
    ],
)
def test_a_string_that_is_not_understood_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_projector_string(text, "direct")


@pytest.mark.parametrize("use_guide", ["Direct", "guide", True])
def test_an_unknown_use_guide_is_an_error(use_guide):
    with pytest.raises(ValueError, match=f"use_guide is {use_guide!r} in the official config"):
        parse_projector_string("local43", use_guide)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mm_projector_type": "local43_adaptq_global32"}, r"query adapters \(adaptq\)"),
        ({"mm_projector_type": "local43_adaptkvq_guidecoarse"}, r"query adapters \(adaptq\)"),
        ({"mm_projector_type": "local43_adaptg_global32"}, r"instruction adapters \(adaptg\)"),
        ({"mm_projector_type": "local43_global32_adaptg"}, r"instruction adapters \(adaptg\)"),
        ({"use_clip_scale": "local"}, "logit scale"),
        ({"text_dim": 64}, "another text width"),
        ({"image_aspect_ratio": "anyres_max_9"}, "any-resolution layouts"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "newline tokens"),
        ({"mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "grid"}, "newline tokens"),
    ],
)
def test_unreleased_experiments_are_refused_by_name(options, message):
    config = {"mm_projector_type": "local43_global32", "use_guide": "direct", "mm_hidden_size": 128, **options}
    with pytest.raises(UnreleasedOptionError, match=message):
        projector_plan(config)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mm_patch_merge_type": "grid"}, "mm_patch_merge_type is 'grid'"),
        ({"mm_projector_type": "linear"}, "which is no HICom compressor"),
    ],
)
def test_options_of_other_programs_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        projector_plan({"mm_projector_type": "local43", "use_guide": None, **options})


def test_a_config_without_a_projector_is_an_error():
    with pytest.raises(ValueError, match="has no mm_projector_type"):
        projector_plan({"hidden_size": 8})


# Tensors -------------------------------------------------------------------------------------------------------------

CONFIG = {
    "mm_projector_type": "local43_global4_guidecoarse",
    "use_guide": "direct",
    "mm_hidden_size": 8,
    "hidden_size": 6,
}
MLP = {"0.weight": (6, 8), "0.bias": (6,), "2.weight": (6, 6), "2.bias": (6,)}
SHAPES = {
    **{f"{branch}_compressor.readout.{name}": shape for branch in ("local", "global") for name, shape in MLP.items()},
    **{f"global_compressor.attn_layer.{p}_proj.weight": (8, 8) for p in ("q", "k", "v", "out")},
    **{f"global_compressor.attn_layer.{p}_proj.bias": (8,) for p in ("q", "k", "v", "out")},
    "global_compressor.query": (4, 8),
    "global_compressor.guide_injector.coarse_proj.0.weight": (16, 8),
    "global_compressor.guide_injector.coarse_proj.0.bias": (16,),
    "global_compressor.guide_injector.coarse_proj.2.weight": (16, 16),
    "global_compressor.guide_injector.coarse_proj.2.bias": (16,),
    "global_compressor.guide_injector.coarse_norm.weight": (8,),
    "global_compressor.guide_injector.coarse_norm.bias": (8,),
}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float16) for name, shape in SHAPES.items()}


def test_every_tensor_arrives_in_float32():
    state_dict = tensors()
    compressor = build_official_compressor(CONFIG, state_dict)
    ours = compressor.state_dict()
    assert len(ours) == len(state_dict) and not compressor.training
    for name, tensor in state_dict.items():
        assert torch.equal(ours[our_name(name, PROJECTOR_RULES)], tensor.float())


def test_all_that_does_not_fit_is_reported_together():
    state_dict = tensors()
    state_dict["global_compressor.query"] = torch.zeros(5, 8)
    state_dict["local_compressor.rotor"] = torch.zeros(1)
    state_dict["local_compressor.k_alpha"] = torch.zeros(1)
    state_dict["local_compressor.q_alpha"] = torch.zeros(1)
    del state_dict["local_compressor.readout.0.bias"]
    with pytest.raises(ValueError) as caught:
        build_official_compressor(CONFIG, state_dict)
    message = str(caught.value)
    for part in (
        r"of unreleased experiments: local_compressor.q_alpha (query adapters (adaptq))",
        "1 unknown: local_compressor.rotor",
        "1 unused: local_compressor.k_alpha",
        "1 missing: local_branch.readout.linear_1.bias",
        "1 misshapen: global_compressor.query (5, 8), expected (4, 8)",
        "The config builds: local branch: groups of 4 x 3 x 3 patches",
    ):
        assert part in message


def test_the_claim_of_the_config_is_checked_against_the_tensors():
    with pytest.raises(ValueError, match=r"6 unused: global_compressor.guide_injector.coarse_proj.0.weight"):
        build_official_compressor({**CONFIG, "mm_projector_type": "local43_global4_coarse"}, tensors())


@pytest.mark.parametrize("key", ["mm_hidden_size", "hidden_size"])
def test_a_config_without_widths_is_an_error(key):
    with pytest.raises(ValueError, match=f"the official config has no {key}, the widths of the projector"):
        build_official_compressor({name: value for name, value in CONFIG.items() if name != key}, tensors())


def test_one_tensor_under_two_names_is_an_error():
    state_dict = tensors()
    norm = "global_compressor.guide_injector.{}_norm.weight"
    state_dict[norm.format("fine")] = state_dict[norm.format("coarse")]
    with pytest.raises(ValueError, match=r"1 found twice: global_compressor.guide_injector.fine_norm.weight and"):
        build_official_compressor(CONFIG, state_dict)


@pytest.mark.parametrize(
    "official, ours",
    [
        ("model.layers.3.self_attn.q_proj.bias", "model.language_model.layers.3.self_attn.q_proj.bias"),
        ("model.mm_projector.global_compressor.query", "model.compressor.global_branch.queries"),
        ("model.vision_tower.vision_tower.vision_model.head.probe", "model.vision_tower.head.probe"),
        ("vision_model.head.probe", "model.vision_tower.head.probe"),
        ("model.vision_tower.guide_encoder.text_model.head.bias", "model.instruction_encoder.head.bias"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("text_model.embeddings.position_ids", None),
        ("logit_scale", None),
    ],
)
def test_names_of_whole_checkpoints_and_of_their_parts(official, ours):
    assert our_name(official, RULES) == ours


def test_a_local_branch_without_injection_takes_the_keys_that_the_tower_hands_over():
    """`guideoff` beside a guided global branch: the official local branch takes aligned features whenever there are any."""
    config = parse_projector_string("local43_guideoff_global4_guidecoarse", "direct").config
    assert config.uses_aligned_features
    compressor = build_official_compressor(
        {**CONFIG, "mm_projector_type": "local43_guideoff_global4_guidecoarse"}, tensors()
    )
    generator = torch.Generator().manual_seed(0)
    features, aligned = torch.randn(2, 1, 4, 3, 3, 8, generator=generator)
    instruction = (torch.randn(1, 8, generator=generator), torch.randn(1, 64, 8, generator=generator))
    with torch.no_grad():
        with_keys, _ = compressor(features, aligned, instruction)
        without, _ = compressor(features, None, instruction)
        query = torch.nn.functional.interpolate(features.movedim(-1, 1), size=(1, 1, 1), mode="trilinear").flatten(1)
        pooled = (aligned.flatten(1, 3) @ query[..., None] * 8**-0.5).softmax(1).mT @ features.flatten(1, 3)
        expected = compressor.local_branch.readout(pooled)
    torch.testing.assert_close(with_keys[:, :1], expected, atol=1e-6, rtol=0)  # float32, one sum in another order
    assert (with_keys[:, :1] - without[:, :1]).abs().max() > 1e-3
    assert torch.equal(with_keys[:, 1:], without[:, 1:])
