"""A saved or uploaded folder is all that is needed: it loads where `hicom_hf` cannot be imported, with the same logits."""

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from fake_hub import FakeHub
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor
from video_files import write_video
from without_package import BOTH, MODEL_CLASSES, QUESTION, frames, logits_of, prompt

import hicom_hf
from hicom_hf.assembly.random_model import tiny_config, tiny_model, tiny_processor
from hicom_hf.assets import example_scene, example_videos
from hicom_hf.hub import push_to_hub, save_hub_folder
from hicom_hf.inference import HiComSession
from hicom_hf.modeling.model_card_hicom import (
    EXAMPLE_QUESTIONS,
    count_parameters,
    is_replaceable,
    render_model_card,
)
from hicom_hf.modeling.saving_hicom import EXAMPLE_VIDEO
from hicom_hf.shapes import Scene
from hicom_hf.shapes import questions as scene_questions

REPOSITORY = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHIPPED = {
    path.name for part in ("modeling", "processors") for path in (REPOSITORY / "src/hicom_hf" / part).glob("*.py")
}
# All but what makes new chat templates: a saved folder has one.
# Used by the package only: new models.
NOT_WRITTEN = {"__init__.py", "chat_template_hicom.py"}
WRITTEN = (SHIPPED - NOT_WRITTEN) | {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "example.mp4",
    "generation_config.json",
    "instruction_tokenizer/tokenizer.json",
    "instruction_tokenizer/tokenizer_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def snippets(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def hub_cache(folder, home, repo_id="user/hicom-7b"):
    """Lay out a folder as a download of a repo would be."""
    repo = home / "hub" / f"models--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for name in files_in(folder):
        blob = repo / "blobs" / hashlib.sha256((folder / name).read_bytes()).hexdigest()
        shutil.copyfile(folder / name, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))


def run_without_package(output, home, *sources, **environment):
    script = Path(__file__).with_name("without_package.py")
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, str(script), str(output), *map(str, sources)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [output / str(number) for number in range(len(sources))]


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    return save_hub_folder(model, processor, tmp_path_factory.mktemp("models") / "hicom-7b")


@pytest.fixture(scope="module")
def remote(folder, tmp_path_factory):
    """What a process without the package made of the folder, and of a repo id in an offline cache."""
    home = tmp_path_factory.mktemp("home")
    hub_cache(folder, home)
    runs = run_without_package(tmp_path_factory.mktemp("remote"), home, folder, "user/hicom-7b")
    return dict(zip(("folder", "repo"), runs, strict=True))


@pytest.fixture(params=["folder", "repo"])
def run(remote, request):
    return remote[request.param]


# What is written -------------------------------------------------------------------------------------------------------


def test_model_and_processor_write_all_that_is_needed(folder):
    assert files_in(folder) == WRITTEN
    for path in folder.glob("*_*.py"):
        [original] = (REPOSITORY / "src" / "hicom_hf").glob(f"*/{path.name}")
        assert path.read_bytes() == original.read_bytes()


def test_the_model_alone_writes_its_half_with_the_pipeline(model, tmp_path):
    model.save_pretrained(tmp_path)
    names = files_in(tmp_path)
    assert {"README.md", "config.json", "model.safetensors", "video_text_to_text.py", "modeling_hicom.py"} <= names
    assert "processor_config.json" not in names


def test_the_config_names_the_code_of_every_auto_class(folder):
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoProcessor", *MODEL_CLASSES}
    assert {config["auto_map"][name] for name in MODEL_CLASSES} == {"modeling_hicom.HiComForConditionalGeneration"}
    assert config["custom_pipelines"]["video-text-to-text"]["impl"] == "video_text_to_text.VideoTextToTextPipeline"


def test_a_config_saved_alone_keeps_the_names_of_code_and_pipeline(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    assert "custom_pipelines" not in vars(config)  # with the package, transformers is not to ask for trust
    config.save_pretrained(tmp_path)
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path))
    assert after["custom_pipelines"] == before["custom_pipelines"] and after["auto_map"] == before["auto_map"]


def test_nothing_written_names_a_path_of_this_machine(folder):
    for name in files_in(folder) - {"model.safetensors", "example.mp4"}:
        assert str(folder.parent) not in (folder / name).read_text()


def test_a_processor_of_another_model_is_refused(model, tmp_path):
    other = tiny_processor(tiny_config(num_global_tokens=4))
    with pytest.raises(ValueError, match="the processor was made for another model"):
        save_hub_folder(model, other, tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"user/mixed: the processor was made for another model"):
        push_to_hub(model, other, "user/mixed")
    assert not (tmp_path / "mixed").exists()


def test_sharded_weights_load_to_the_same_logits(model, processor, tmp_path):
    save_hub_folder(model, processor, tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    inputs = prompt(processor)
    assert torch.equal(logits_of(AutoModel.from_pretrained(tmp_path), inputs), logits_of(model, inputs))


def test_other_ranks_write_no_code_and_no_card(model, tmp_path):
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not {"README.md", "video_text_to_text.py"} & files_in(tmp_path)


def test_an_adapter_is_saved_without_a_card_of_a_model(processor, tmp_path):
    peft = pytest.importorskip("peft")
    if transformers.__version__ >= "5.24" and peft.__version__ < "0.22":
        pytest.skip("this transformers refuses this peft")
    model = tiny_model()
    model.add_adapter(peft.LoraConfig(target_modules=r".*language_model.*q_proj"))
    model.save_pretrained(tmp_path)
    assert "adapter_model.safetensors" in files_in(tmp_path)
    assert not {"README.md", "video_text_to_text.py", "config.json"} & files_in(tmp_path)


def test_a_pipeline_whose_source_is_gone_is_missed_by_name(model, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("hicom_hf.modeling.saving_hicom.__file__", str(tmp_path / "elsewhere" / "saving_hicom.py"))
    monkeypatch.setattr(model.config, "_name_or_path", "no/such-repo")
    model.save_pretrained(tmp_path / "saved")
    assert "video_text_to_text.py was found neither" in caplog.text and "no/such-repo" in caplog.text


# With the package ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODEL_CLASSES)
def test_with_the_package_every_auto_class_gives_its_model_without_trust(folder, name):
    loaded = getattr(transformers, name).from_pretrained(folder)
    assert type(loaded) is hicom_hf.HiComForConditionalGeneration


def test_with_the_package_config_and_processor_are_its_own(folder):
    assert type(AutoConfig.from_pretrained(folder)) is hicom_hf.HiComConfig
    assert type(AutoProcessor.from_pretrained(folder)) is hicom_hf.HiComProcessor


def test_saving_what_was_loaded_gives_the_same_folder(folder, tmp_path):
    copy = tmp_path / folder.name
    save_hub_folder(AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder), copy)
    assert files_in(copy) == files_in(folder)
    for name in ("README.md", "model.safetensors", "processor_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name


# Without the package ---------------------------------------------------------------------------------------------------


def test_without_the_package_all_classes_come_from_the_folder(run):
    classes = json.loads((run / "results.json").read_text())["classes"]
    assert {name: found for name, (_, found) in classes.items()} == {
        "AutoConfig": "HiComConfig",
        "AutoProcessor": "HiComProcessor",
        **dict.fromkeys(MODEL_CLASSES, "HiComForConditionalGeneration"),
        "pipeline": "VideoTextToTextPipeline",
    }
    assert all(module.startswith("transformers_modules.") for module, _ in classes.values())


def test_without_the_package_the_logits_are_exactly_the_same(run, model, processor):
    expected = logits_of(model, prompt(processor))
    logits = load_file(run / "logits.safetensors")
    assert set(logits) == set(MODEL_CLASSES)
    for name in MODEL_CLASSES:
        assert torch.equal(logits[name], expected), name


def test_without_the_package_the_pipeline_gives_the_same_answers(run, model, processor):
    pipe = transformers.pipeline("video-text-to-text", model=model, processor=processor, max_new_tokens=8)
    answers = [record[0]["generated_text"] for record in pipe(frames(), text=[QUESTION, "Who?"])]
    results = json.loads((run / "results.json").read_text())
    assert results["answers"] == answers
    assert results["answer"] == results["batched_answer"] == results["answer_again"] == answers[0]
    [of_tiles] = pipe(frames(), text=QUESTION, tiles=hicom_hf.FrameTiles((1, 2)), return_metadata=True)
    assert results["of_tiles"] == json.loads(json.dumps(of_tiles))
    assert len(results["chosen_frames"]) == 2
    [of_both] = pipe(frames(), text=QUESTION, num_frames="all", return_metadata=True, **BOTH)
    assert results["of_both"] == json.loads(json.dumps(of_both)) and len(of_both["tiles"]) == 1


def test_a_remotely_loaded_model_is_saved_with_code_and_pipeline(run, folder):
    assert files_in(run / "pipeline_again") == files_in(folder)
    alone = files_in(run / "model_again")
    assert {"video_text_to_text.py", "modeling_hicom.py", "model_card_hicom.py", "README.md"} <= alone
    for name in alone & {path.name for path in folder.glob("*.py")}:
        assert (run / "model_again" / name).read_bytes() == (folder / name).read_bytes()
    config = json.loads((run / "model_again" / "config.json").read_text())
    assert config["custom_pipelines"] == json.loads((folder / "config.json").read_text())["custom_pipelines"]


# The model card --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compressor",
    [
        {},
        {
            "local_branch": "average_pool",
            "local_injection": "none",
            "num_global_tokens": 0,
            "global_injection": "none",
        },
        {"local_branch": None, "local_injection": "none", "global_injection": "fine"},
        {"formulation": "release", "global_injection": "direct"},
        {"bypass_injection": True},
    ],
)
def test_the_card_of_every_kind_of_model_is_valid_and_says_what_it_is(compressor, tmp_path):
    model = tiny_model(**compressor)
    model.save_pretrained(tmp_path / "some-model")
    text = (tmp_path / "some-model" / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-text-to-text")
    assert card.data.license == "other" and "custom_code" in card.data.tags
    for num_frames, patches in ((1, 49), (32, 1568)):
        assert f"| {num_frames} | {patches:,} | {model.config.num_visual_tokens(num_frames)} |" in text
    assert f"| all | {sum(parameter.numel() for parameter in model.parameters()):,} |" in text
    assert f"Formulation `{model.config.compressor_config.formulation}`" in text
    assert "random, untrained weights" in text and "2503.16036" in text and 'model_id = "some-model"' in text
    assert "{" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # everything is filled in


@pytest.mark.parametrize(
    "compressor, query",
    [
        ({"local_injection": "direct"}, "an MLP of the instruction's pooled embedding is the query"),
        (
            {"formulation": "release", "local_injection": "direct"},
            "the instruction's pooled embedding itself is the query",
        ),
    ],
)
def test_the_card_says_what_direct_injection_computes(compressor, query):
    config = tiny_config(**compressor)
    card = render_model_card(config, count_parameters(hicom_hf.HiComForConditionalGeneration, config), "some-model")
    assert card.count("direct injection: ") == card.count(f"direct injection: {query}") == 1


def test_the_card_of_a_trained_model_speaks_of_no_untrained_parts(model):
    config = type(model.config).from_dict({**model.config.to_dict(), "untrained_parts": []})
    assert "untrained" not in render_model_card(config, count_parameters(type(model), config), "user/trained")


def test_tied_words_are_counted_once(model):
    config = tiny_config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    untied = count_parameters(type(model), tiny_config())["language_model"]
    words = config.text_config.vocab_size * config.text_config.hidden_size
    assert count_parameters(type(model), config)["language_model"] == untied - words


def test_the_card_in_the_repository_is_that_of_the_default_model():
    config = hicom_hf.HiComConfig()
    sizes = count_parameters(hicom_hf.HiComForConditionalGeneration, config)
    assert (REPOSITORY / "model_card.md").read_text() == render_model_card(config, sizes, "hicom-7b")
    assert sizes["vision_tower"] == 428_225_600  # "428M", paper, table A6


def test_the_snippets_of_the_card_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    write_video(folder.parent / "my_video.mp4", 40)
    shutil.copyfile(folder / "example.mp4", folder.parent / "example.mp4")  # as in a clone of the repo
    code = snippets((REPOSITORY / "model_card.md").read_text())
    assert len(code) == 4
    namespace = {}
    for snippet in code:
        exec(compile(snippet, "model_card.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.count("generated_text") == 5
    assert "Which way does the cyan moon move? [{" in printed or "Which way does the cyan moon move? {" in printed


def test_the_example_of_the_card_and_its_answers_are_those_of_the_packaged_world():
    scene = example_scene(example_videos()[0])
    assert example_videos()[0] == EXAMPLE_VIDEO
    session = HiComSession.load(dtype="float32", device="cpu")
    video = session.open(EXAMPLE_VIDEO, num_frames=8)
    answers = {question: video.ask(question, max_new_tokens=16).answer for question in EXAMPLE_QUESTIONS}
    assert answers == EXAMPLE_QUESTIONS
    right = {asked.text: asked.answer for asked in scene_questions(Scene.from_seed(**scene))}
    assert all(EXAMPLE_QUESTIONS[text] == right[text] for text in EXAMPLE_QUESTIONS if text in right)
    card = render_model_card(session.model.config, count_parameters(type(session.model), session.model.config), "a/b")
    assert "[a/b](https://huggingface.co/spaces/a/b)" in card and "[example.mp4](example.mp4)" in card


def test_a_card_that_somebody_edited_is_left_alone(model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    written = card.read_text()
    card.write_text(written.replace("# ", "# My own ", 1))
    model.save_pretrained(tmp_path)
    assert "# My own " in card.read_text() and "stays as it is" in caplog.text
    card.write_text("My words.")
    model.save_pretrained(tmp_path)
    assert card.read_text() == "My words."


def test_a_card_that_was_generated_is_brought_up_to_date(model, tmp_path):
    tiny_model(num_global_tokens=4).save_pretrained(tmp_path)
    old = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_bytes(old.replace("\n", "\r\n").encode())  # git may have changed line ends
    model.save_pretrained(tmp_path)
    new = (tmp_path / "README.md").read_text()
    assert new != old and "8 learnable tokens" in new and is_replaceable(new)


# Uploads ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hub: real huggingface_hub code up to the network."""
    with FakeHub() as hub:
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url),
        )
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # made once, with the endpoint of that moment
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def test_model_and_processor_are_uploaded_in_one_commit(hub, model, processor):
    push_to_hub(model, processor, "user/hicom-7b", commit_message="First", tags=["demo"], token="a token")
    [(header, paths)] = hub.commits
    assert header["summary"] == "First" and set(paths) == WRITTEN
    card = ModelCard(hub.files["README.md"].decode())
    assert "demo" in card.data.tags and 'model_id = "user/hicom-7b"' in card.text


def test_an_uploaded_card_is_replaced_only_as_long_as_nobody_edits_it(hub, model, processor):
    push_to_hub(model, processor, "user/hicom-7b", token="a token")
    push_to_hub(model, processor, "user/hicom-7b", token="a token", tags=["second"])
    assert b"- second" in hub.files["README.md"]
    hub.edit("README.md", b"My words.")
    model.push_to_hub("user/hicom-7b", token="a token")
    assert hub.files["README.md"] == b"My words." and "README.md" not in hub.commits[-1][1]


def test_a_card_that_transformers_wrote_for_the_processor_is_replaced(hub, model, processor):
    processor.push_to_hub("user/hicom-7b", token="a token")
    assert b"model card of a" in hub.files["README.md"]
    model.push_to_hub("user/hicom-7b", token="a token")
    card = hub.files["README.md"].decode()
    assert "on the condition of the question" in card
    processor.push_to_hub("user/hicom-7b", token="a token")  # transformers reads the card and writes it again
    assert hub.files["README.md"].decode() == card and set(hub.files) == WRITTEN


def test_a_pipeline_uploads_model_and_processor(hub, model, processor):
    pipe = transformers.pipeline("video-text-to-text", model=model, processor=processor)
    pipe.push_to_hub("user/hicom-7b", token="a token", revision="v1")
    assert set(hub.commits[0][1]) == WRITTEN
    assert ("POST", "/api/models/user/hicom-7b/branch/v1") in hub.requests


def test_saving_may_upload_at_once(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "local", push_to_hub=True, repo_id="user/hicom-7b", token="a token")
    assert set(hub.commits[0][1]) == files_in(tmp_path / "local")


@pytest.mark.slow
def test_an_uploaded_repo_loads_by_its_id_without_the_package(hub, model, processor, tmp_path):
    push_to_hub(model, processor, "user/hicom-7b", token="a token")
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    [run] = run_without_package(tmp_path / "online", tmp_path, "user/hicom-7b", **online)
    expected = logits_of(model, prompt(processor))
    assert all(torch.equal(logits, expected) for logits in load_file(run / "logits.safetensors").values())
    [run] = run_without_package(tmp_path / "offline", tmp_path, "user/hicom-7b")
    assert all(torch.equal(logits, expected) for logits in load_file(run / "logits.safetensors").values())


def test_the_core_needs_no_library_for_video_but_pyav():
    config = configparser.ConfigParser(interpolation=None)
    config.read(REPOSITORY / "setup.cfg")
    required = config["options"]["install_requires"]
    assert not any(name in required for name in ("torchvision", "torchcodec", "decord", "opencv"))
