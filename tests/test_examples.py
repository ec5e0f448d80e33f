"""Every example runs as its first lines say, on the tiny model."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
from video_files import write_gif, write_video

from hicom_hf.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"
MAX_LINES = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "hicom-tiny-random"
    assert main(["init", "--tiny", str(path)]) == 0
    return str(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("videos") / "numbers.mp4", 12))


@pytest.fixture
def run(monkeypatch, capfd):
    """Run an example with arguments; returns what it printed, from its own processes, too."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capfd.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_opens_with_what_goes_in_what_comes_out_and_the_command(path):
    source = path.read_text()
    assert len(source.splitlines()) < MAX_LINES
    opening = ast.get_docstring(ast.parse(source))
    assert "\nIn: " in opening and "\nOut: " in opening
    assert f"\n    python examples/{path.name} hicom-7b" in opening


def test_ask_a_video(run, folder, video):
    shown = run("ask_a_video.py", folder, video, "--num-frames", "8", "--max-new-tokens", "4")
    assert shown.startswith("8 frames became 26 tokens\n")  # 2 x 3 x 3 groups and 8 global tokens


def test_many_questions_one_video_gives_an_answer_to_each(run, folder, video):
    questions = ("Who is there?", "Where are they?")
    shown = run("many_questions_one_video.py", folder, video, *questions, "--max-new-tokens", "4")
    assert "12 frames, 588 patches: read and encoded in" in shown
    assert [line for line in shown.splitlines() if line in questions] == list(questions)
    assert shown.count("(35 visual tokens, ") == 2


def test_a_batch_gives_the_answers_of_single_videos(run, folder, video, tmp_path):
    animation = str(write_gif(tmp_path / "short.gif", [100] * 5))
    options = ("--max-new-tokens", "4")
    together = run("batch.py", folder, "What is it?", video, animation, *options).splitlines()
    assert together[0].startswith(f"{video} (12 frames): ") and together[1].startswith(f"{animation} (5 frames): ")
    singles = [run("batch.py", folder, "What is it?", one, *options).splitlines()[0] for one in (video, animation)]
    assert together == singles


def test_the_pipeline_answers_a_question_a_chat_and_several_questions(run, folder, video):
    shown = run("pipeline.py", folder, video, "--max-new-tokens", "4")
    assert "Where is it? " in shown and "What is at the beginning? " in shown


@pytest.mark.slow
def test_save_and_load_as_hub_repo_answers_without_the_package(run, folder, video, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))  # of the process that the example starts
    shown = run("save_and_load_as_hub_repo.py", folder, str(tmp_path / "repo"), video)
    assert "HiComForConditionalGeneration from transformers_modules" in shown
    assert (tmp_path / "repo" / "README.md").is_file() and (tmp_path / "repo" / "video_text_to_text.py").is_file()
