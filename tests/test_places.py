"""What a MODEL argument may be: a packaged name, a folder, a repo with a revision, an adapter; one loader for all of them."""

import os
import subprocess
import sys

import pytest
import torch

from hicom_hf import HiComSession
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos, hicom_tiny
from hicom_hf.cli.main import main
from hicom_hf.hub.loading import check_options, load_config, load_model, load_processor
from hicom_hf.hub.places import ModelPlace, find_model
from hicom_hf.hub.saving import save_hub_folder
from hicom_hf.training.adapters import add_adapters, merge_adapter
from hicom_hf.training.recipe import LoraRecipe

QUESTION = "Which way does the cyan moon move?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model. Do not change it."""
    model = tiny_model()
    return save_hub_folder(model, tiny_processor(model.config), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """An adapter on it, with values that change every answer, and a trained compressor."""
    path = tmp_path_factory.mktemp("adapters") / "lora"
    model = add_adapters(load_model(folder, "cpu"), LoraRecipe(rank=4, alpha=8), train_compressor=True)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(path)
    load_processor(folder).save_pretrained(path)
    return path


def answer(model, **options):
    session = HiComSession.load(model, device="cpu", dtype="float32", **options)
    return session.open(example_videos()[0], num_frames=4).ask("What is it?", max_new_tokens=6)


@pytest.mark.parametrize("model", [None, "hicom-tiny", hicom_tiny(), str(hicom_tiny())])
def test_the_packaged_model_by_its_name_and_by_its_folder(model):
    assert find_model(model) == ModelPlace(str(hicom_tiny()))


def test_a_place_is_found_once(folder):
    place = find_model(folder)
    assert find_model(place) is place and str(place) == str(folder)


@pytest.mark.slow
def test_a_repo_may_have_a_revision(folder, tmp_path):
    repo, commit = tmp_path / "hub" / "models--somebody--hicom", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "v1.0").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(folder)
    code = (
        "import sys; from hicom_hf.cli.main import main; "
        "sys.exit(main(['inspect', 'somebody/hicom@v1.0']) or main(['ask', sys.argv[1], 'What?', '--max-new-tokens', '2', "
        "'--model', 'somebody/hicom@v1.0']) or 3 * (main(['inspect', 'somebody/hicom@v2.0']) != 1))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(example_videos()[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("somebody/hicom@v1.0: HICom, paper formulation, 353.10 k parameters")
    assert "error: somebody/hicom@v2.0: there is no such folder, and no such Hub repo could be read" in done.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("somebody/hicom@", r"somebody/hicom@: there is no revision after the @"),
        ("nowhere/in/here@v1", "nowhere/in/here: there is no such folder"),
    ],
)
def test_a_model_that_cannot_be_is_named(model, message):
    with pytest.raises((ValueError, OSError), match=message):
        find_model(model)


def test_an_adapter_brings_its_base_along_and_answers_as_the_merged_model(folder, adapter, tmp_path):
    place = find_model(adapter)
    assert (place.source, place.adapter, str(place)) == (str(folder), str(adapter), str(adapter))
    assert load_config(folder).untrained_parts and "compressor" not in load_config(adapter).untrained_parts
    merged = merge_adapter(adapter, tmp_path / "merged")
    there, here = load_model(merged, "cpu").state_dict(), load_model(adapter, "cpu").state_dict()
    assert there.keys() == here.keys()
    for name, tensor in there.items():
        torch.testing.assert_close(here[name], tensor, rtol=1e-5, atol=1e-6)  # float32, sums in another order
    assert answer(adapter).answer == answer(merged).answer != answer(folder).answer


def test_commands_take_an_adapter(adapter, capsys):
    assert main(["inspect", str(adapter)]) == 0
    assert "a LoRA adapter, " in capsys.readouterr().out
    video = str(example_videos()[0])
    assert main(["ask", video, "What?", "--model", str(adapter), "--max-new-tokens", "2", "--num-frames", "2"]) == 0


def test_an_adapter_whose_base_is_gone_says_how_to_name_another(adapter, tmp_path):
    config = (adapter / "adapter_config.json").read_text()
    base = str(find_model(adapter).source)
    (tmp_path / "adapter_config.json").write_text(config.replace(base, base + "-gone"))
    with pytest.raises(
        FileNotFoundError, match=r"the base of this adapter is not there: .*hicom merge .* --base FOLDER"
    ):
        find_model(tmp_path)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_tokens():
    plain = HiComSession.load(device="cpu", dtype="float32")
    compiled = HiComSession.load(device="cpu", dtype="float32", compile=True)
    settings = compiled.model.compile_settings
    assert settings is not None and plain.model.compile_settings is None
    settings.backend = "eager"  # inductor takes minutes here; what is compiled is the same
    questions = [QUESTION, "How many shapes are there?"]
    answers = [session.open(example_videos()[0]).ask_all(questions, max_new_tokens=6) for session in (plain, compiled)]
    assert [one.answer for one in answers[0]] == [one.answer for one in answers[1]]
    assert [one.num_new_tokens for one in answers[0]] == [one.num_new_tokens for one in answers[1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "device_map": "auto"}, "both say where the model goes"),
        ({"quantize": "int3"}, "quantize must be one of nf4, int8, got 'int3'"),
        ({"device": "meta"}, "device 'meta' holds no values"),
        ({"device": "abacus"}, "device must be auto, cpu, cuda, cuda:1 or mps"),
        *(
            ({"device": name}, f"device '{name}' was asked for, but torch .* has none")
            for name in ("xla", "xpu", "hpu")
        ),
        (
            {"device_map": "lazy"},
            "device 'lazy' was asked for, but torch .* has none of this type here; use auto, balanced",
        ),
        ({"device_map": "disk"}, "device_map must be auto, balanced, balanced_low_0, sequential, cpu.*, got 'disk'"),
        ({"device_map": "meta"}, "device 'meta' holds no values"),
        (
            {"attn_implementation": "SDPA"},
            "attn_implementation must be one of eager, .*sdpa, or a repo .*; got 'SDPA'",
        ),
        ({"attn_implementation": ""}, "attn_implementation must be one of"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        check_options(**options)
    with pytest.raises(ValueError, match=message):
        HiComSession.load("nowhere/at/all", **options)


def test_compiling_under_a_torch_that_does_not_compile_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(ValueError, match=r"compile needs torch 2\.7 or newer, .* under 2\.6\.0\+cpu; leave it out"):
        HiComSession.load("nowhere/at/all", compile=True)
    check_options()


@pytest.mark.parametrize(
    ("capability", "dtype", "warned"), [("AVX2", "auto", 1), ("AVX2", "float32", 0), ("AVX512", "auto", 0)]
)
def test_bfloat16_on_a_cpu_without_instructions_for_it_is_warned_of(capability, dtype, warned, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    load_model(hicom_tiny(), "cpu", dtype)
    assert caplog.text.count("hicom-tiny is saved in bfloat16, for which this CPU has no instructions") == warned


def test_a_device_map_takes_the_place_of_a_device(folder):
    mapped = load_model(folder, device_map={"": "cpu"})
    assert all(map(torch.equal, mapped.parameters(), load_model(folder, "cpu").parameters()))
