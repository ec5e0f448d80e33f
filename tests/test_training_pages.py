"""What the pages on training say: the tutorial runs, and every promise names a test that is there."""

import re
import shlex
from pathlib import Path

import pytest

from hicom_hf.cli.main import main

DOCS = Path(__file__).parents[1] / "docs"
# The tutorial with two videos and two steps.
SMALLER = {
    "--limit 600": "--limit 3",
    "--videos 300": "--videos 6",
    "max_steps: 1600": "max_steps: 2",
    "every: 400": "every: 2",
    "max_samples: 120": "max_samples: 2",
    "share: 0.05 ": "share: 0.3 ",
    "batch_size: 16": "batch_size: 4",
    "batch_size_per_device: 16": "batch_size_per_device: 4",
}


def follow_tutorial(folder: Path, smaller: dict[str, str], monkeypatch, capsys) -> list[str]:
    """Run the first tutorial in a folder; what its commands print."""
    page = (DOCS / "training_tutorial.md").read_text().split("\n## ")[1]
    for long, short in smaller.items():
        assert long in page, long
        page = page.replace(long, short)
    monkeypatch.chdir(folder)
    printed = []
    for language, block in re.findall(r"^```(yaml|console)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        if language == "yaml":
            Path("choice.yaml" if block.startswith("stage") else "mixture.yaml").write_text(block)
            continue
        for line in re.findall(r"^\$ hicom (.*)$", block, flags=re.MULTILINE):
            code = main(shlex.split(line))
            output = capsys.readouterr()
            assert code == 0, (line, output.err)
            printed.append(output.out)
    return printed


def test_the_tutorial_runs_as_written_with_fewer_videos_and_steps(tmp_path, monkeypatch, capsys):
    printed = follow_tutorial(tmp_path, SMALLER, monkeypatch, capsys)
    assert len(printed) == 7
    assert (tmp_path / "runs" / "choice" / "model" / "config.json").is_file()
    assert (tmp_path / "runs" / "choice" / "curves.png").is_file()


@pytest.mark.slow
def test_the_whole_tutorial_teaches_multiple_choice(tmp_path, monkeypatch, capsys):
    from hicom_hf.evaluation.results import read_answers

    follow_tutorial(tmp_path, {}, monkeypatch, capsys)
    scores = [
        [line["value"] for line in read_answers(tmp_path / name / "shapes_choice").values()]
        for name in ("before", "after")
    ]
    before, after = (sum(values) / len(values) for values in scores)
    assert before < 0.2 and after > 0.45  # measured: 0.145 and 0.52


def test_every_promise_of_the_page_names_a_test_that_is_there():
    page = (DOCS / "training.md").read_text().split("## Promises")[1].split("\n## ")[0]
    promises = re.findall(r"^\| (.+) \| `tests/(\w+\.py)::(\w+)` \|$", page, flags=re.MULTILINE)
    assert len(promises) >= 20
    for promise, file, name in promises:
        text = (Path(__file__).parent / file).read_text()
        assert f"def {name}(" in text, promise
