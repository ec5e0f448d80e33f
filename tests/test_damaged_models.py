"""Damaged model folders and checkpoints: a command answers, or says in one line what it was given; never a traceback."""

import copy
import json
import random
import shutil

import pytest
from official_checkpoints import TOWER, checkpoint

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.hub.loading import load_config
from hicom_hf.hub.saving import save_hub_folder

ABSENT = object()  # stands for a field that is taken out
VALUES = (ABSENT, None, -1, 0, "x", [], {}, 1e300, True, 2**31)
WHOLE_FILES = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "cut": b'{"model_type": "hi',
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
}
JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json")
TEXT_FILES = ("tokenizer.json", "instruction_tokenizer/tokenizer.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = tiny_model()
    return save_hub_folder(model, tiny_processor(model.config), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


def fields(values, path=()):
    """Paths of all fields, those of mappings too."""
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from fields(value, (*path, name))


def changed(values, path, value):
    values = copy.deepcopy(values)
    holder = values
    for name in path[:-1]:
        holder = holder[name]
    if value is ABSENT:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return json.dumps(values).encode()


def mutations(values, count, seed):
    """`count` files with one wrong field each."""
    chosen = random.Random(seed).sample([(path, value) for path in fields(values) for value in VALUES], count)
    return {f"{'.'.join(path)}={value!r}": changed(values, path, value) for path, value in chosen}


def outcome(arguments, capsys, named):
    """Run a command; where it fails it says so in one line that names what it was given."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert code in (0, 1) and "Traceback" not in captured.err, captured.err
    if code:
        errors = [line for line in captured.err.splitlines() if "error:" in line]
        assert len(errors) == 1 and str(named) in errors[0], captured.err
        assert "not foreseen" not in errors[0], captured.err
        assert report["error"]["message"] in errors[0]
    return code, captured.err


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_field_of_a_wrong_value_is_an_error_in_one_line(name, count, copied, capsys):
    path = copied / name
    original = path.read_bytes()
    for what, content in mutations(json.loads(original), count, name).items():
        path.write_bytes(content)
        _, errors = outcome(["inspect", copied], capsys, copied)
        assert "not foreseen" not in errors, (what, errors)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(name, damage, marks=() if name == "config.json" or damage == "cut" else pytest.mark.slow)
        for name in (*JSON_FILES, *TEXT_FILES)
        for damage in WHOLE_FILES
    ],
)
def test_a_file_of_other_content_is_an_error_in_one_line(name, damage, copied, capsys):
    (copied / name).write_bytes(WHOLE_FILES[damage])
    outcome(["inspect", copied], capsys, copied)


def test_weights_that_are_no_weights_are_named_by_ask(copied, capsys):
    weights = copied / "model.safetensors"
    original = weights.read_bytes()
    video = example_videos()[0]
    arguments = ["ask", video, "What?", "--model", copied, "--num-frames", 1, "--max-new-tokens", 1]
    for content in (
        b"",
        original[: len(original) // 2],
        b"\xff" * 500,
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        weights.write_bytes(content)
        assert outcome(arguments, capsys, copied)[0] == 1
    weights.unlink()
    for content in (b"\x80\x02}q\0.", b"cposix\nsystem\n(S'true'\ntR."):
        (copied / "pytorch_model.bin").write_bytes(content)
        code, errors = outcome(arguments, capsys, copied)
        assert code == 1 and "not foreseen" not in errors


@pytest.mark.parametrize("content", ['"x"', "3", "null", "true", "[]"])
def test_a_config_that_is_no_object_is_said_to_be_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object"):
        load_config(tmp_path)


def test_an_endless_number_of_layers_is_refused_at_once(copied, capsys):
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2**31
    (copied / "config.json").write_text(json.dumps(config))
    code, errors = outcome(["inspect", copied], capsys, copied)
    assert code == 1 and "num_hidden_layers=2147483648 is more than 10000" in errors


def test_a_number_that_is_none_is_refused(copied, capsys):
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = float("nan")
    (copied / "config.json").write_text(json.dumps(config))
    code, errors = outcome(["inspect", copied], capsys, copied)
    assert code == 1 and "rms_norm_eps must be finite, got nan" in errors


@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_checkpoint_with_a_wrong_config_is_an_error_in_one_line(count, tmp_path, capsys):
    source = tmp_path / "official"
    checkpoint(source)
    path = source / "config.json"
    values = json.loads(path.read_text())
    contents = mutations(values, count, "official") | WHOLE_FILES
    contents["mm_patch_merge_type=1e300"] = changed(values, ("mm_patch_merge_type",), 1e300)
    for number, (what, content) in enumerate(contents.items()):
        path.write_bytes(content)
        target = tmp_path / f"converted-{number}"
        code, errors = outcome(["convert", source, target, "--vision-tower", TOWER], capsys, source)
        assert "not foreseen" not in errors, (what, errors)
        assert target.exists() == (code == 0)
        shutil.rmtree(target, ignore_errors=True)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 500, b"\x80\x02}q\0.", b"<html>404</html>", bytes(range(256)) * 4]
)
def test_a_checkpoint_whose_weights_are_no_weights_is_named(content, tmp_path, capsys):
    source = tmp_path / "official"
    checkpoint(source)
    for file in (*source.glob("*.safetensors"), *source.glob("*.bin")):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(content)
    code, errors = outcome(["convert", source, tmp_path / "out", "--vision-tower", TOWER], capsys, source)
    assert code == 1 and "not foreseen" not in errors


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 10_000, b"", b"a: !!python/object:os.system x", b"\0\0"])
@pytest.mark.parametrize("command", [["train", "{}", "--check"], ["data", "check", "{}", "--json"]])
def test_recipes_and_data_that_are_neither_are_named(command, content, tmp_path, capsys):
    for suffix in (".yaml",) if command[0] == "train" else (".yaml", ".json", ".jsonl"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        assert main([str(path) if word == "{}" else word for word in command]) in (0, 1)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err and "not foreseen" not in captured.err, captured.err
        assert "error" not in captured.err or str(path) in captured.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generation_config.json", b"{", "generation_config.json: this is not JSON"),
        (
            "generation_config.json",
            b'{"eos_token_id": "x"}',
            "eos_token_id must be a whole number or a list of them, got 'x'",
        ),
        ("generation_config.json", b'{"pad_token_id": [1, true]}', "pad_token_id must be a whole number or a list"),
        ("chat_template.jinja", b"{% for x in %}", "the chat template cannot render this chat (TemplateSyntaxError"),
        (
            "chat_template.jinja",
            b"{% for i in range(10**9) %}x{% endfor %}",
            "render this chat (OverflowError: Range too big",
        ),
        (
            "chat_template.jinja",
            b"{{ ''.__class__.__mro__ }}",
            "the chat template cannot render this chat (SecurityError",
        ),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "model.safetensors is a pointer of Git LFS and not the weights; run `git lfs pull`",
        ),
        ("pytorch_model.bin", b"cos\nsystem\n(S'exit'\ntR.", "what else it holds is not run. Use safetensors"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_its_own_words(name, content, message, copied, capsys):
    if name == "pytorch_model.bin":
        (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(content)
    code, err = outcome(["ask", example_videos()[0], "Who?", "--model", copied], capsys, copied)
    assert code == 1 and message in err
