"""The README keeps its word: its snippets run, its commands and links exist."""

import re
from pathlib import Path

import pytest
from video_files import write_video

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def marked(kind, name):
    """The code block that follows `<!-- kind: name -->`."""
    return re.search(rf"<!-- {kind}: {name} -->\n```\w+\n(.*?)\n```", README, re.DOTALL).group(1)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, model, processor):
    """A folder with `hicom-7b` (tiny weights) and `my_video.mp4`, as the snippets want them."""
    folder = tmp_path_factory.mktemp("readme")
    processor.save_pretrained(folder / "hicom-7b")
    model.save_pretrained(folder / "hicom-7b")
    write_video(folder / "my_video.mp4", num_frames=40)
    return folder


def test_the_quickstart_and_the_follow_up_questions_run_as_they_stand(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    namespace = {}
    exec(marked("snippet", "quickstart"), namespace)
    assert namespace["inputs"]["video_num_frames"].tolist() == [32]
    assert capsys.readouterr().out.count("\n") >= 1
    exec(marked("snippet", "follow_up"), namespace)
    assert namespace["features"]["features"].shape[0] == 32
    assert capsys.readouterr().out.count("\n") >= 2


def test_the_session_snippet_runs_as_pasted_and_its_answer_is_right(capsys):
    exec(marked("snippet", "session"), {})
    assert capsys.readouterr().out.strip() == re.search(r"# -> (\w+)", marked("snippet", "session"))[1]


def test_the_pipeline_snippet_runs_as_it_stands(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    exec(marked("snippet", "pipeline"), {})
    assert "generated_text" in capsys.readouterr().out


def test_every_command_of_the_table_exists():
    from hicom_hf.cli.main import COMMANDS

    named = set(re.findall(r"^\| `hicom ([\w-]+)", README, re.MULTILINE))
    assert named == set(COMMANDS)


def test_links_and_files_that_the_readme_names_exist():
    for path in re.findall(r"\]\(\s*([^)#:]+?)\s*\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:modeling|training)/[\w/]+(?:\.py)?)/?`", README):
        assert (ROOT / "src/hicom_hf" / path).exists(), path
    for path in re.findall(r"`(tests/\w+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_the_two_commands_make_their_own_environment_from_the_pinned_versions():
    for name in ("demo", "test"):
        command = marked("command", name)
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ")
    assert len(re.findall(r"<!-- command: ", README)) == 2
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
