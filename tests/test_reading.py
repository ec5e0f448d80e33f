"""Errors name what was being read; JSON files and indexes that are damaged are one clear error."""

import json

import pytest
from torch import nn

from hicom_hf.hub.loading import check_finite, load_config, load_model
from hicom_hf.hub.reading import Reading, being_read, read_json_object, shard_names


def test_an_error_says_what_was_being_read_the_innermost_first():
    with pytest.raises(ValueError, match="damaged") as caught, Reading("outer"):
        try:
            with Reading("inner"):
                {}["key"]
        except KeyError as error:
            raise ValueError("damaged") from error
    assert being_read(caught.value) == ["outer", "inner"]
    assert being_read(ValueError("nothing")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is not JSON"),
        (b"\xff\xfe", "this is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must hold a JSON object, got list"),
        (b"null", "must hold a JSON object, got NoneType"),
    ],
)
def test_json_that_is_no_object_is_named(content, message, tmp_path):
    path = tmp_path / "values.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json_object(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("weights", [None, {}, [1], {"a": 1}, {"a": "x", "b": None}])
def test_an_index_that_names_no_files_is_refused(weights, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ValueError, match="must have a weight_map that gives the file of each tensor"):
        shard_names(path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "."])
def test_an_index_does_not_lead_out_of_its_folder(name, model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "outside.safetensors")
    names = dict.fromkeys(model.state_dict(), name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match="which is no file of its own folder; it is not read"):
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_a_config_does_not_choose_attention_code_of_the_hub(part, model, tmp_path):
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part])["attn_implementation"] = "somebody/attention"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json asks for attention code from elsewhere"):
        load_config(tmp_path)


def test_weights_that_are_no_numbers_are_named():
    layer = nn.Linear(2, 2)
    check_finite(layer, "folder")
    layer.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match="folder holds weights that are NaN or infinite, in 1 tensors: bias"):
        check_finite(layer, "folder")
