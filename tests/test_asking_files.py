"""`hicom ask --from`: a file of questions about many videos; and paired differences of two runs."""

import json
import shutil

import pytest

from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.evaluation.comparing import as_text, compare
from hicom_hf.evaluation.results import ANSWERS_FILE, SETTINGS_FILE

ROWS = [
    {"video": "a.mp4", "question": "Which way does the cyan moon move?"},
    {"video": "missing.mp4", "question": "What is it?", "id": "no video"},
    {"video": "a.mp4", "question": "Which way does the cyan moon move?\n(A) left\n(B) right", "start": 0, "end": 4.0},
    {"video": "b.mp4", "question": "What does this video show?", "instruction": "the video"},
]


@pytest.fixture
def file(tmp_path):
    for name, path in zip(("a.mp4", "b.mp4"), example_videos(), strict=False):
        shutil.copy(path, tmp_path / name)
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return tmp_path / "questions.jsonl"


def ask(file, output, *more):
    return main(["ask", "--from", str(file), "--output", str(output), "--device", "cpu", "--dtype", "float32", *more])


def test_each_line_has_its_answer_or_the_reason_why_there_is_none(file, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert ask(file, output, "--max-new-tokens", "8") == 0
    assert (
        "4 of 4 questions have an answer, or the reason why there is none" in (said := capsys.readouterr().err)
        and "missing.mp4 was not read" in said
    )
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "no video", "3", "4"]
    assert [{name: row[name] for name in given if name != "id"} for row, given in zip(rows, ROWS, strict=True)] == [
        {name: given[name] for name in given if name != "id"} for given in ROWS
    ]
    assert rows[0]["answer"] == "left" and rows[1]["answer"] is None and "missing.mp4" in rows[1]["failure"]
    assert [row["instruction"] for row in rows[2:]] == ["Which way does the cyan moon move?", "the video"]


@pytest.mark.parametrize("budget", [("--frames", "4"), ("--max-video-tokens", "24")])
def test_each_question_chooses_its_frames_and_its_line_says_which(budget, file, tmp_path, capsys):
    output, choice = tmp_path / "answers.jsonl", ["--num-frames", "16", "--select", "question", *budget]
    assert ask(file, output, "--max-new-tokens", "8", *choice) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    capsys.readouterr()
    asked = ["ask", str(tmp_path / "a.mp4"), ROWS[0]["question"], "--device", "cpu", "--dtype", "float32", "--json"]
    assert main([*asked, *choice]) == 0
    [answer] = json.loads(capsys.readouterr().out)["answers"]
    assert rows[0]["answer"] == answer["answer"] and rows[0]["selection"]["indices"] == answer["selection"]["indices"]
    assert len(rows[0]["times"]) == len(rows[0]["selection"]["indices"]) == 4
    assert "selection" not in rows[1] and "times" not in rows[1]


def test_shards_write_the_file_once_the_last_one_has_ended(file, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    assert ask(file, output, "--max-new-tokens", "4", "--shard", "1/2") == 0
    assert not output.exists()
    assert ask(file, output, "--max-new-tokens", "4", "--shard", "2/2") == 0
    assert len(output.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: this is not JSON"),
        ("[]", "expected an object with video and question, got list"),
        ('{"video": "a.mp4"}', "'question' must be text, got None"),
        ('{"video": "a.mp4", "question": " "}', "the question is empty"),
        ('{"video": "a.mp4", "question": "?", "ends": 3}', "unknown field 'ends'"),
        ('{"video": "a.mp4", "question": "?", "start": "1"}', "'start' must be a number, got '1'"),
        ("", "there is no question in it"),
    ],
)
def test_a_line_that_is_no_question_is_refused_by_number_and_field(line, message, file, tmp_path, capsys):
    file.write_text(line)
    assert ask(file, tmp_path / "answers.jsonl") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "are required: VIDEO, QUESTION"),
        (["ask", "a.mp4"], "are required: VIDEO, QUESTION"),
        (["ask", "--from", "q.jsonl"], "--output is missing"),
        (["ask", "a.mp4", "?", "--output", "x"], "--output: goes with --from"),
        (["ask", "a.mp4", "--from", "q.jsonl", "--output", "x"], "goes without VIDEO"),
        (["ask", "--from", "q.jsonl", "--output", "x", "--temperature", "1"], "takes the likeliest words"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


# Comparing --------------------------------------------------------------------------------------------------------------


def write_run(folder, values, task="shapes", gold="left"):
    """A folder of results: two questions per video."""
    folder.mkdir()
    (folder / SETTINGS_FILE).write_text(json.dumps({"task": task}))
    lines = [
        {
            "id": str(number),
            "video": f"/data/{number // 2}.mp4",
            "categories": {"task": "x"},
            "gold": gold,
            "value": value,
        }
        for number, value in enumerate(values)
    ]
    (folder / ANSWERS_FILE).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_differences_are_paired_by_question(tmp_path, capsys):
    first = write_run(tmp_path / "a", [1, 0] * 50)
    second = write_run(tmp_path / "b", [1, 1] * 10 + [1, 0] * 40 + [1])
    [found] = compare([first, second])
    assert found["difference"]["mean"] == pytest.approx(10) and found["only_in_one"] == 1
    assert (found["became_right"], found["became_wrong"]) == (10, 0)
    assert 3 < found["difference"]["low"] < 10 < found["difference"]["high"] < 17
    assert "+10.00 points" in as_text([found]) and "1 questions of only one run" in as_text([found])
    assert main(["eval", "--compare", str(first), str(second)]) == 0
    assert "+10.00 points" in capsys.readouterr().out


def test_a_run_does_not_differ_from_itself(tmp_path):
    first = write_run(tmp_path / "a", [1, 0, 1, 1])
    [found] = compare([first, first])
    assert found["difference"]["mean"] == found["difference"]["low"] == found["difference"]["high"] == 0


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = write_run(tmp_path / "a", [1, 0])
    with pytest.raises(ValueError, match="at least two folders"):
        compare([first])
    with pytest.raises(FileNotFoundError, match=r"no settings\.json"):
        compare([first, tmp_path])
    with pytest.raises(ValueError, match="only runs of one task"):
        compare([first, write_run(tmp_path / "b", [1], task="mvbench")])
    with pytest.raises(ValueError, match="different right answers to '0'"):
        compare([first, write_run(tmp_path / "c", [1], gold="right")])
    with pytest.raises(ValueError, match="no marked question in common"):
        compare([first, write_run(tmp_path / "d", [None])])
