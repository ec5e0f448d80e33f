"""The config: defaults of the paper, rules between fields, nothing unknown."""

import pytest

from hicom_hf import HiComCompressorConfig, HiComConfig
from hicom_hf.assembly.random_model import tiny_config, tiny_processor


def test_defaults_are_the_paper_s_7b():
    config = HiComConfig()
    assert config.compressor_config.formulation == "paper"
    assert (config.vision_config.hidden_size, config.text_config.hidden_size) == (1152, 3584)
    assert config.grid == (27, 27)
    assert config.instruction_config.max_position_embeddings == 64
    # paper, section 4: 680, 1,328 and 2,624 tokens for 32, 64 and 128 frames; 81 + 32 for an image
    assert [config.num_visual_tokens(frames) for frames in (1, 32, 64, 128)] == [113, 680, 1328, 2624]


@pytest.mark.parametrize(
    "ratio, frames, tokens",
    [((1, 3, 3), 32, 2592), ((4, 3, 3), 32, 648), ((1, 3, 3), 8, 648)],  # the average pools of table 4
)
def test_tokens_of_table_4(ratio, frames, tokens):
    compressor = HiComCompressorConfig(
        ratio=ratio, local_branch="average_pool", local_injection="none", global_injection="none", num_global_tokens=0
    )
    assert compressor.num_tokens((frames, 27, 27)) == tokens


def test_a_config_survives_its_json():
    config = tiny_config(ratio=(2, 3, 2), local_injection="fine")
    assert HiComConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ratios": [4, 3, 3]}, "no field 'ratios'"),
        ({"ratio": [4, 3]}, "three whole numbers"),
        ({"ratio": [4, 0, 3]}, "at least 1"),
        ({"num_global_tokens": -1}, "num_global_tokens must be at least 0"),
        ({"formulation": "official"}, "formulation"),
        ({"local_injection": "guide"}, "local_injection"),
        ({"global_injection": "direct"}, "makes all global tokens equal"),
        ({"local_branch": "average_pool"}, "needs local_branch='attention'"),
        ({"local_branch": None, "local_injection": "none", "num_global_tokens": 0}, "needs a local branch"),
        ({"num_global_tokens": 0}, "needs a global branch"),
        ({"grouping": False}, "without grouping makes all local tokens equal"),
        ({"grouping": False, "local_injection": "coarse", "formulation": "release"}, "needs local_branch='attention'"),
        ({"key_adapter": True}, "under formulation='release' only"),
        (
            {"formulation": "release", "value_adapter": True, "local_branch": None, "local_injection": "none"},
            "adapter need local_branch='attention'",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        HiComCompressorConfig(**fields)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vision_batch_size": 0}, "vision_batch_size must be at least 1"),
        ({"vision_config": {"hidden_size": 64, "vision_use_head": False}}, "vision_use_head must be true"),
        ({"vision_config": {"hidden_size": 72, "num_attention_heads": 2}}, "take both towers from one SigLIP"),
        ({"vision_config": {"hidden_size": 64, "image_size": 8, "patch_size": 14}}, "smaller than one patch"),
        (
            {
                "vision_config": {"hidden_size": 40, "num_attention_heads": 2},
                "instruction_config": {"hidden_size": 40, "projection_size": 40},
            },
            "divisible by 16",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    fields = {**tiny_config().to_dict(), **change}
    with pytest.raises(ValueError, match=message):
        HiComConfig(**{key: fields[key] for key in ("vision_config", "instruction_config", "text_config", *change)})


def test_tied_embeddings_of_the_llm_are_taken_over():
    fields = tiny_config().to_dict()
    fields["text_config"]["tie_word_embeddings"] = True
    assert HiComConfig(text_config=fields["text_config"]).tie_word_embeddings


@pytest.mark.parametrize("ratio", [(4, 3, 3), (1, 2, 5), (8, 9, 9)])
@pytest.mark.parametrize("num_global_tokens", [0, 5])
def test_processor_and_model_count_the_same_tokens(ratio, num_global_tokens):
    fields = {} if num_global_tokens else {"global_injection": "none"}
    config = tiny_config(ratio=ratio, num_global_tokens=num_global_tokens, **fields)
    processor = tiny_processor(config)
    for frames in range(1, 40):
        assert processor.num_visual_tokens(frames) == config.num_visual_tokens(frames)


def test_processor_and_model_count_the_same_tokens_without_a_local_branch():
    config = tiny_config(local_branch=None, local_injection="none")
    assert tiny_processor(config).num_visual_tokens(9) == config.num_visual_tokens(9) == 8
