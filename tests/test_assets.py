"""What comes with the package: a model that loads without code of its own, and videos of known scenes."""

import configparser
import fnmatch
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import hicom_hf
from hicom_hf import HiComForConditionalGeneration, HiComProcessor, assets
from hicom_hf.assets import example_scene, example_videos, hicom_tiny, model_note, model_source
from hicom_hf.hub.loading import check_fits, load_config, load_model, load_processor
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.shapes import KINDS, Scene, questions, render
from lab.hicom_tiny.evaluating import CONDITIONS, as_markdown

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(hicom_hf.__file__).parent


# hicom-tiny ----------------------------------------------------------------------------------------------------------


def test_hicom_tiny_is_whole_trained_and_small():
    config, processor = load_config(hicom_tiny()), load_processor(hicom_tiny())
    check_fits(config, processor, hicom_tiny())
    model = load_model(hicom_tiny(), "cpu")  # refuses a folder that lacks weights
    assert config.untrained_parts == []
    assert model.num_parameters() < 3e6
    assert sum(path.stat().st_size for path in hicom_tiny().rglob("*") if path.is_file()) < 12e6
    assert (config.grid, config.num_visual_tokens(8)) == ((12, 12), 40)


def test_the_auto_classes_load_it_though_the_folder_holds_no_code():
    assert not list(hicom_tiny().rglob("*.py"))
    assert type(AutoModel.from_pretrained(hicom_tiny())) is HiComForConditionalGeneration
    assert type(AutoModelForImageTextToText.from_pretrained(hicom_tiny())) is HiComForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(hicom_tiny())) is HiComProcessor


def test_its_tokenizers_know_the_words_of_the_world():
    """transformers rebuilds a tokenizer as Qwen2's if it goes by the LLM's type; words then become letters, without an error."""
    processor = load_processor(hicom_tiny())
    for path in example_videos():
        for question in questions(Scene.from_seed(**example_scene(path))):
            ids = processor.tokenizer(question.answer)["input_ids"]
            assert len(ids) == len(question.answer.split())
            assert processor.tokenizer.decode(ids) == question.answer
            [instruction] = processor.instruction_tokenizer([question.text])["input_ids"]
            assert len(instruction) == len(question.text.replace(",", "").split()) + 1  # and the end
            assert processor.instruction_tokenizer.unk_token_id not in instruction


def test_saving_it_elsewhere_adds_the_code(tmp_path):
    HiComForConditionalGeneration.from_pretrained(hicom_tiny()).save_pretrained(tmp_path)
    HiComProcessor.from_pretrained(hicom_tiny()).save_pretrained(tmp_path)
    saved = {path.name for path in tmp_path.iterdir()}
    assert {"modeling_hicom.py", "processing_hicom.py", "video_text_to_text.py"} <= saved
    assert str(PACKAGE) not in (tmp_path / "config.json").read_text()


def test_no_name_and_its_name_mean_the_packaged_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_source(None) == model_source("hicom-tiny") == str(hicom_tiny())
    assert model_source("somebody/hicom-7b") == "somebody/hicom-7b"
    assert model_source(tmp_path) == str(tmp_path)


def test_a_folder_of_that_name_here_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hicom-tiny").mkdir()
    assert model_source("hicom-tiny") == "hicom-tiny"
    assert model_source(None) == str(hicom_tiny())
    assert model_note("hicom-tiny") is None


def test_the_note_is_about_the_packaged_folder_alone():
    assert "knows only its synthetic world of coloured shapes" in model_note(hicom_tiny())
    assert model_note(str(hicom_tiny())) == model_note(hicom_tiny())
    assert model_note("hicom-7b") is None


def test_links_lead_to_the_same_model_and_scenes(tmp_path):
    (tmp_path / "tiny").symlink_to(hicom_tiny())
    (tmp_path / "video.mp4").symlink_to(example_videos()[1])
    assert model_note(tmp_path / "tiny") == model_note(hicom_tiny())
    assert example_scene(tmp_path / "video.mp4") == example_scene(example_videos()[1])


def test_the_recorded_scores_are_those_that_are_told_and_what_is_promised():
    """At least 95 % of 1,000 unseen questions, 89 % of every kind; the table in docs and card is written from the record."""
    scores = json.loads((hicom_tiny() / "scores.json").read_text())
    unseen = scores["unseen videos"]
    assert set(unseen) == {*KINDS, "all"} and unseen["all"]["questions"] >= 1000
    assert unseen["all"]["right"] >= 95 and min(row["right"] for row in unseen.values()) >= 89
    assert {condition.name for condition in CONDITIONS} == set(scores)
    for told in (ROOT / "docs" / "hicom_tiny.md", hicom_tiny() / "README.md"):
        assert as_markdown(scores) in told.read_text(), told


def test_the_record_belongs_to_the_weights():
    record = json.loads((hicom_tiny() / "made_with.json").read_text())
    assert record["sha256"] == hashlib.sha256((hicom_tiny() / "model.safetensors").read_bytes()).hexdigest()
    assert record["commit"] in (hicom_tiny() / "README.md").read_text()


# The videos ----------------------------------------------------------------------------------------------------------


def test_three_videos_are_small_and_of_scenes_that_no_training_has_seen():
    assert [path.name for path in example_videos()] == ["shapes_normal.mp4", "shapes_dense.mp4", "shapes_wide.mp4"]
    assert sum(path.stat().st_size for path in example_videos()) < 300_000
    for path in example_videos():
        scene = Scene.from_seed(**example_scene(path))
        assert scene.split == "test"
        assert {question.kind for question in questions(scene)} == set(KINDS)


def test_each_shows_its_scene():
    listed = json.loads((PACKAGE / "assets/videos/videos.json").read_text())
    for path in example_videos():
        world = listed[path.name]
        frames, record = read_video(path, FrameSampling(fps=world["fps"]))
        drawn, times = render(Scene.from_seed(**example_scene(path)), world["num_frames"], world["size"], world["fps"])
        assert record.times == pytest.approx(times.tolist())
        assert frames.shape == drawn.shape
        assert (
            np.abs(frames.astype(float) - drawn).mean() < 8
        )  # of 255; encoding loses 3 to 5, another scene differs by 20


def test_only_example_videos_have_a_known_scene(tmp_path, monkeypatch):
    assert example_scene(tmp_path / "shapes_normal.mp4") is None
    monkeypatch.chdir(example_videos()[0].parent)
    assert example_scene("shapes_dense.mp4") == {"seed": 64, "clutter": "dense", "split": "test"}


# What is missing -----------------------------------------------------------------------------------------------------


def test_missing_files_are_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"hicom-tiny is missing \(no config\.json\).*install hicom_hf again"):
        hicom_tiny()
    with pytest.raises(FileNotFoundError, match="hicom-tiny is missing"):
        model_source(None)
    with pytest.raises(FileNotFoundError, match=r"videos\.json: the list of example videos is missing"):
        example_videos()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "videos.json").write_text('{"gone.mp4": {}}')
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: this example video is missing"):
        example_videos()


def test_every_file_of_the_folder_is_part_of_an_installation():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["hicom_hf"].split()
    files = [
        path.relative_to(PACKAGE)
        for path in (PACKAGE / "assets").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    for path in files:
        fitting = [pattern for pattern in patterns if pattern.count("/") == len(path.parts) - 1]
        assert any(fnmatch.fnmatch(path.as_posix(), pattern) for pattern in fitting), path
