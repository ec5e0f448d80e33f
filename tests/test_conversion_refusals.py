"""Official folders that are refused, with the reason, and without anything written; conversions that are killed."""

import json
import os
import signal

import pytest
import torch
from official_checkpoints import DIRECT, TOWER, base_llm, checkpoint, convert, nothing_is_left, projector_run, weights
from safetensors.torch import save_file
from started import Started
from test_hub import files_in

from hicom_hf.conversion import UnreleasedOptionError


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return convert(DIRECT / "checkpoint", tmp_path_factory.mktemp("converted") / "hicom")


# Refusals: nothing is written ----------------------------------------------------------------------------------------


def test_tensors_that_do_not_fit_are_reported_together(tmp_path):
    tensors = weights()
    tensors["model.rotor.weight"] = torch.zeros(2)
    tensors["model.image_newline"] = torch.zeros(64)
    tensors["model.mm_projector.local_compressor.k_alpha"] = torch.zeros(1)
    tensors["model.norm.weight"] = torch.zeros(65)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    source = checkpoint(tmp_path / "official", tensors=tensors)
    with pytest.raises(ValueError, match="nothing was written") as caught:
        convert(source, tmp_path / "hicom")
    for part in (
        "1 of unreleased experiments: model.image_newline (newline tokens (image_newline))",
        "1 unknown: model.rotor.weight",
        "1 unused: model.mm_projector.local_compressor.k_alpha",
        "1 missing: model.language_model.layers.0.mlp.up_proj.weight",
        "1 misshapen: model.norm.weight (65,), expected (64,)",
    ):
        assert part in str(caught.value)
    assert nothing_is_left(tmp_path, "official")


def test_quantised_weights_are_refused(tmp_path):
    tensors = {
        name: tensor.to(torch.int8) if name == "model.norm.weight" else tensor for name, tensor in weights().items()
    }
    with pytest.raises(
        ValueError, match=r"such as model\.norm\.weight \(torch\.int8\); quantised checkpoints are not"
    ):
        convert(checkpoint(tmp_path / "official", tensors=tensors), tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_a_guided_checkpoint_needs_its_text_tower(tmp_path):
    tensors = {name: tensor for name, tensor in weights().items() if ".guide_encoder." not in name}
    source = checkpoint(tmp_path / "official", tensors=tensors)
    with pytest.raises(FileNotFoundError, match="for want of towers in the checkpoint, holds no weights"):
        convert(source, tmp_path / "hicom")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"model_type": "hicom_llama"}, UnreleasedOptionError, "of type 'hicom_llama'; only Qwen2.5"),
        ({"add_time_instruction": True}, UnreleasedOptionError, "add_time_instruction"),
        ({"mm_vision_select_layer": -1}, UnreleasedOptionError, "mm_vision_select_layer=-1"),
        ({"mm_vision_select_feature": "cls_patch"}, UnreleasedOptionError, "mm_vision_select_feature='cls_patch'"),
        ({"image_aspect_ratio": "anyres"}, UnreleasedOptionError, "any-resolution layouts"),
        ({"use_clip_scale": "local,global"}, UnreleasedOptionError, "logit scale"),
        ({"mm_newline_position": None}, UnreleasedOptionError, "newline tokens"),
        (
            {"mm_projector_type": "local43_guideoff_global32_guideoff"},
            UnreleasedOptionError,
            "guideoff in every branch with use_guide='direct'",
        ),
        ({"use_mm_proj": False}, ValueError, "use_mm_proj is false"),
        ({"delay_load": True}, ValueError, "delay_load is true"),
        ({"mm_hidden_size": 64}, ValueError, "is 128 wide, the official config says mm_hidden_size=64"),
        (
            {"mm_projector_type": "local43_global32_guidecoarse"},
            ValueError,
            "6 missing: model.compressor.global_branch",
        ),
        ({"mm_projector_type": "local43"}, ValueError, "13 unused: model.mm_projector.global_compressor.attn_layer"),
        ({"model_type": "hicom"}, ValueError, "already in the format of hicom_hf"),
    ],
)
def test_options_that_are_not_built_are_refused(tmp_path, options, error, message):
    source = checkpoint(tmp_path / "official", **options)
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_a_clip_tower_is_refused_by_name(tmp_path):
    from transformers import CLIPConfig

    CLIPConfig().save_pretrained(tmp_path / "clip")
    for name in ("spiece.model", "tokenizer_config.json"):
        (tmp_path / "clip" / name).write_bytes((TOWER / name).read_bytes())
    with pytest.raises(UnreleasedOptionError, match="CLIP towers"):
        convert(DIRECT / "checkpoint", tmp_path / "hicom", vision_tower=tmp_path / "clip")


def test_a_converted_folder_is_not_converted_again(direct, tmp_path):
    with pytest.raises(ValueError, match="already in the format of hicom_hf: there is nothing to convert"):
        convert(direct.folder, tmp_path / "again")
    assert nothing_is_left(tmp_path)


def test_a_pickle_that_could_run_code_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    source = checkpoint(tmp_path / "official")
    (source / "model.safetensors").unlink()
    torch.save({**weights(), "model.norm.weight": Evil()}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds more than tensors and is not read"):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_a_config_that_is_absent_or_damaged_is_named(tmp_path):
    source = checkpoint(tmp_path / "official")
    (source / "config.json").write_text("{half")
    with pytest.raises(ValueError, match=r"official.config\.json: this is not JSON"):
        convert(source, tmp_path / "hicom")
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no official HICom checkpoint: it has no config\.json"):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_sizes_that_the_config_does_not_give_are_named(tmp_path):
    source = checkpoint(tmp_path / "official", vocab_size=None, rope_theta=None)
    with pytest.raises(ValueError, match="the official config has no rope_theta, vocab_size, needed to build its LLM"):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_damaged_and_absent_files_are_named(tmp_path):
    source = checkpoint(tmp_path / "official")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or no safetensors file"):
        convert(source, tmp_path / "hicom")
    (source / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"official holds no weights: neither model.safetensors nor"):
        convert(source, tmp_path / "hicom")
    (source / "pytorch_model.bin").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged or no file of torch\.save"):
        convert(source, tmp_path / "hicom")
    torch.save([torch.zeros(2)], source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a dictionary of tensors"):
        convert(source, tmp_path / "hicom")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="names files that are not there: model-00001-of-00002"):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_a_tensor_in_two_shards_is_an_error(tmp_path):
    source = checkpoint(tmp_path / "official")
    (source / "model.safetensors").rename(source / "a.safetensors")
    save_file({"model.norm.weight": torch.zeros(64)}, source / "b.safetensors")
    weight_map = {"model.norm.weight": "a.safetensors", "lm_head.weight": "b.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        ValueError, match=r"b\.safetensors and .*a\.safetensors both hold a tensor model\.norm\.weight"
    ):
        convert(source, tmp_path / "hicom")


def test_models_that_a_checkpoint_refers_to_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not here; give a folder or repo id with --vision-tower"):
        convert(DIRECT / "checkpoint", tmp_path / "hicom", vision_tower=None)
    source, _ = projector_run(tmp_path / "stage1")
    with pytest.raises(FileNotFoundError, match="is not here; give a folder or repo id with --language-model"):
        convert(source, tmp_path / "hicom")
    llm, _ = base_llm(tmp_path / "qwen")
    with pytest.raises(FileNotFoundError, match=r"siglip_tower, given as --vision-tower, .* holds no weights"):
        convert(source, tmp_path / "hicom", language_model=llm)
    with pytest.raises(FileNotFoundError, match="nowhere/: there is no such folder"):
        convert("nowhere/", tmp_path / "hicom")
    with pytest.raises(ValueError, match=r"is no official HICom checkpoint: its config.json has no mm_projector_type"):
        convert(llm, tmp_path / "hicom")


@pytest.mark.parametrize("dtype", ["int8", torch.float64])
def test_an_unknown_dtype_is_an_error(tmp_path, dtype):
    with pytest.raises(ValueError, match="dtype must be one of bf16"):
        convert(DIRECT / "checkpoint", tmp_path / "hicom", dtype=dtype)


@pytest.mark.parametrize("size", ["5", "5Q", 0, "-1GB"])
def test_an_unknown_shard_size_is_an_error(tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes or such as '5GB'"):
        convert(DIRECT / "checkpoint", tmp_path / "hicom", max_shard_size=size)


def test_values_beyond_float16_are_not_made_infinite(tmp_path):
    tensors = {name: tensor.float() for name, tensor in weights().items()}
    tensors["model.norm.weight"][3] = 1e5
    source = checkpoint(tmp_path / "official", tensors=tensors)
    with pytest.raises(
        ValueError, match=r"model\.language_model\.norm\.weight has values beyond the range of float16"
    ):
        convert(source, tmp_path / "hicom", dtype="fp16")
    assert nothing_is_left(tmp_path, "official")  # although other tensors were written before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    tensors = weights()
    tensors["model.norm.weight"][3] = value
    source = checkpoint(tmp_path / "official", tensors=tensors)
    with pytest.raises(ValueError, match=r"official: model\.norm\.weight holds values that are NaN or infinite"):
        convert(source, tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "official")


def test_what_is_at_the_destination_stays_unless_it_may_be_overwritten(direct, tmp_path):
    destination = tmp_path / "hicom"
    destination.mkdir()
    (destination / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="this folder is not empty"):
        convert(DIRECT / "checkpoint", destination)
    assert (destination / "config.json").read_text() == "{}"
    convert(DIRECT / "checkpoint", destination, overwrite=True)
    assert files_in(destination) == files_in(direct.folder)
    assert nothing_is_left(tmp_path, "hicom")


def test_the_source_is_not_overwritten(tmp_path):
    source = checkpoint(tmp_path / "official")
    with pytest.raises(ValueError, match="which is read; choose another one"):
        convert(source, source, overwrite=True)
    assert "mm_projector_type" in json.loads((source / "config.json").read_text())


def convert_up_to_the_first_shard(source, destination):
    """What a started process does: it says that it begins to write, and waits to be killed."""

    def progress(line):
        print(line, flush=True)
        signal.pause()

    convert(source, destination, max_shard_size="300KB", progress=progress)


def test_a_killed_conversion_leaves_no_destination_and_the_next_one_cleans_up(tmp_path):
    with Started(convert_up_to_the_first_shard, DIRECT / "checkpoint", tmp_path / "hicom") as process:
        assert process.out.readline().startswith("writing model-00001")
    assert not (tmp_path / "hicom").exists()
    [left] = tmp_path.iterdir()
    assert left.name.startswith("hicom.unfinished-") and f"-{process.pid}-" in left.name
    convert(DIRECT / "checkpoint", tmp_path / "hicom")
    assert nothing_is_left(tmp_path, "hicom")
