"""Evaluation from questions to results: resumed, in shards, with videos that break, always with the condition stated."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.evaluation.evaluating import evaluate
from hicom_hf.evaluation.questions import Question, shard
from hicom_hf.evaluation.reading_ahead import Unreadable, read_ahead
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.summaries import as_table
from hicom_hf.evaluation.tasks import TASKS, Task, shapes
from hicom_hf.evaluation.tasks.shapes import mark, read
from hicom_hf.inference import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.shapes import write_dataset

LIMIT = 60  # questions, of five videos


@pytest.fixture(scope="module", autouse=True)
def fewer_videos():
    """Six videos of the built-in world in place of 200, whose scenes take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "NUM_VIDEOS", 6)
        shapes._stored.cache_clear()
        yield
    shapes._stored.cache_clear()


@pytest.fixture(scope="module")
def session():
    return HiComSession.load(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(session, data, tmp_path_factory):
    """A run that nothing disturbed: its summary and its lines."""
    folder = tmp_path_factory.mktemp("whole")
    [summary] = evaluate(["shapes"], session, folder, data=data, limit=LIMIT)
    return summary, comparable(folder / "shapes")


def comparable(folder):
    """Lines without what differs from run to run."""
    return {name: {**line, "seconds": None} for name, line in read_answers(folder).items()}


def test_the_shapes_questions_are_those_of_a_written_data_set(tmp_path):
    questions = read(tmp_path, "ours")
    write_dataset(tmp_path, 2, 1000, split="test", stage="tuning")
    records = json.loads((tmp_path / "tuning.json").read_text())
    assert [record["id"] for record in records] == [question.id for question in questions[: len(records)]]
    assert records[5]["conversations"][0]["value"] == f"<video>\n{questions[5].prompt}"


def test_a_run_has_a_line_per_question_and_a_summary(whole):
    summary, lines = whole
    assert len(lines) == summary["num_questions"] == summary["num_answered"] == LIMIT
    assert summary["score"]["mean"] >= 95 and summary["score"]["num_videos"] == 5
    line = next(iter(lines.values()))
    assert line["prompt"] == line["instruction"] and line["num_visual_tokens"] == 40 and len(line["times"]) == 8
    assert line["parsed"] == line["answer"] and line["value"] == 1.0
    assert summary["per_question"]["num_visual_tokens"] == 40


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_lines(session, data, whole, tmp_path):
    command = ["eval", "shapes", "--output", str(tmp_path), "--data", str(data), "--limit", str(LIMIT)]
    command += ["--device", "cpu", "--dtype", "float32", "--batch-size", "4"]
    with_fewer_videos = (
        "import sys; from hicom_hf.cli.main import main; from hicom_hf.evaluation.tasks import shapes; "
        f"shapes.NUM_VIDEOS = {shapes.NUM_VIDEOS}; main(sys.argv[1:])"
    )
    running = subprocess.Popen([sys.executable, "-c", with_fewer_videos, *command], stderr=subprocess.DEVNULL)
    answers = tmp_path / "shapes" / "answers.jsonl"
    while not (answers.exists() and b"\n" in answers.read_bytes()):
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = read_answers(answers.parent)
    assert 0 < len(before) < LIMIT
    with answers.open("ab") as file:
        file.write(b'{"id": "half a li')
    [summary] = evaluate(["shapes"], session, tmp_path, data=data, limit=LIMIT)
    assert list(comparable(answers.parent).items()) == list(whole[1].items()) and summary["score"] == whole[0]["score"]
    assert {name: line["seconds"] for name, line in read_answers(answers.parent).items() if name in before} == {
        name: line["seconds"] for name, line in before.items()
    }


def test_two_shards_joined_are_one_run(session, tmp_path, path):
    task = task_of([question_about(path, number) for number in range(3)] + [question_about(example_videos()[1], 3)])
    [whole] = evaluate([task], session, tmp_path / "one")
    [first] = evaluate([task], session, tmp_path / "two", part=(1, 2))
    assert (first["num_answered"], first["num_questions"]) == (3, 4)
    [joined] = evaluate([task], session, tmp_path / "two", part=(2, 2))
    assert joined["score"] == whole["score"] and joined["num_answered"] == 4
    assert list(comparable(tmp_path / "two" / "own").items()) == list(comparable(tmp_path / "one" / "own").items())


@pytest.mark.slow
def test_the_ranks_of_torchrun_are_shards(data, whole, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "hicom_hf",
        "eval",
        "shapes",
    ]
    command += [
        "--output",
        str(tmp_path),
        "--data",
        str(data),
        "--limit",
        str(LIMIT),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "shapes").glob("shard-*")} == {"shard-1-of-2", "shard-2-of-2"}
    assert list(comparable(tmp_path / "shapes").items()) == list(whole[1].items())
    assert json.loads((tmp_path / "shapes" / "summary.json").read_text())["score"] == whole[0]["score"]


def test_shards_hold_whole_videos_and_every_question_once():
    questions = [Question(str(number), f"{number // 3}.mp4", "?", "?") for number in range(30)]
    parts = [shard(questions, number, 4) for number in range(1, 5)]
    assert sorted(int(question.id) for part in parts for question in part) == list(range(30))
    videos = [{question.video for question in part} for part in parts]
    assert sum(map(len, videos)) == 10
    with pytest.raises(ValueError, match="shard 5/4"):
        shard(questions, 5, 4)


@pytest.fixture
def path():
    return example_videos()[0]


def question_about(path, number, **fields):
    return Question(f"q{number}", str(path), "Which way does the cyan moon move?", "the cyan moon", "left", **fields)


def task_of(questions):
    return Task("own", "a task of a test", "here", lambda folder, protocol: questions, mark, {"ours": 8}, ("ours",))


def test_a_broken_video_counts_as_wrong_and_is_listed(session, path, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:3000])
    [summary] = evaluate([task_of([question_about(path, 0), question_about(broken, 1)])], session, tmp_path / "out")
    assert summary["score"]["mean"] == 50 and summary["score_without_failed"]["mean"] == 100
    assert list(summary["failed_videos"]) == [str(broken)] and summary["unparsed"] == 0
    line = read_answers(tmp_path / "out" / "own")["q1"]
    assert line["answer"] is None and line["value"] == 0 and "broken.mp4" in line["failure"]


def test_a_limit_keeps_the_lines_of_a_longer_run(session, path, tmp_path):
    task = task_of([question_about(path, number) for number in range(3)])
    evaluate([task], session, tmp_path)
    [some] = evaluate([task], session, tmp_path, limit=1)
    assert len(read_answers(tmp_path / "own")) == 3 and some["num_answered"] == 1 and not some["complete"]


def test_a_clip_behind_the_end_of_its_video_counts_as_wrong(session, path, tmp_path):
    questions = [question_about(path, 0), question_about(path, 1, start=900.0, end=901.0)]
    [summary] = evaluate([task_of(questions)], session, tmp_path)
    assert summary["score"]["mean"] == 50 and len(summary["failed_videos"]) == 1


def test_a_folder_of_other_settings_is_refused_and_the_setting_named(session, path, tmp_path):
    task = task_of([question_about(path, 0)])
    evaluate([task], session, tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(sampling {} there and {'num_frames': 4} now\)"):
        evaluate([task], session, tmp_path, asking=Asking({"num_frames": 4}))
    with pytest.raises(ValueError, match="questions '"):
        evaluate([task_of([question_about(path, 0, start=1.0)])], session, tmp_path)


def test_another_model_is_noticed_by_its_weights(path, tmp_path):
    task, session = task_of([question_about(path, 0)]), HiComSession.load(dtype="float32", device="cpu")
    evaluate([task], session, tmp_path)
    with torch.no_grad():
        session.model.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="weights"):
        evaluate([task], session, tmp_path)


def test_the_models_own_sampling_and_configuration_are_settings(session, path, tmp_path):
    task = replace(task_of([question_about(path, 0)]), paper={8: 50.0})
    [summary] = evaluate([task], session, tmp_path)
    assert summary["settings"]["model_sampling"] == {"num_frames": 8} and summary["paper"] == 50
    template = session.processor.chat_template
    session.processor.chat_template = template + " "
    try:
        with pytest.raises(ValueError, match=r"other settings \(configuration "):
            evaluate([task], session, tmp_path)
    finally:
        session.processor.chat_template = template


def test_seconds_of_a_video_count_once_however_many_questions_it_has(session, path, tmp_path):
    task = task_of([question_about(path, number) for number in range(3)] + [question_about(example_videos()[1], 3)])
    [summary] = evaluate([task], session, tmp_path)
    seconds = {line["video"]: line["seconds"]["encode"] for line in read_answers(tmp_path / "own").values()}
    assert summary["per_question"]["encode_seconds"] == pytest.approx(sum(seconds.values()) / 2)


def test_a_folder_without_any_of_the_videos_is_refused(session, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of the 1 videos of own is there .* here"):
        evaluate([task_of([question_about(tmp_path / "no.mp4", 0)])], session, tmp_path)


def test_each_video_is_encoded_once_also_for_two_tasks(session, path, tmp_path, monkeypatch):
    calls, encode = [], session.model.encode_videos
    monkeypatch.setattr(session.model, "encode_videos", lambda *args, **more: calls.append(1) or encode(*args, **more))
    one = task_of([question_about(path, number) for number in range(5)])
    other = Task("other", "", "", one.read, mark, {"ours": 4}, ("ours",))
    first, second = evaluate([one, other], session, tmp_path, asking=Asking(batch_size=2))
    assert len(calls) == 1 and first["num_answered"] == second["num_answered"] == 5


def test_the_condition_is_that_of_the_task_not_of_the_prompt(session, path, tmp_path):
    asked = [
        question_about(path, 0),
        Question("q1", str(path), "Which way does the cyan moon move?", "nothing at all", "left"),
    ]
    evaluate([task_of(asked)], session, tmp_path)
    lines = read_answers(tmp_path / "own")
    assert [lines[name]["instruction"] for name in ("q0", "q1")] == ["the cyan moon", "nothing at all"]
    [alone] = [session.open(path).ask(asked[1].prompt, instruction="nothing at all", max_new_tokens=8)]
    assert lines["q1"]["answer"] == alone.answer


class Marking(os.PathLike):
    """A path that leaves a mark when it is opened."""

    def __init__(self, path, mark):
        self.path, self.mark = str(path), str(mark)

    def __fspath__(self):
        with open(self.mark, "a") as file:
            file.write("read\n")
        return self.path


class Deadly(os.PathLike):
    """A path that ends the process that opens it, as a crash of a decoder does."""

    def __fspath__(self):
        os._exit(9)

    def __str__(self):
        return "deadly.mp4"


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_next_videos_are_read_while_the_model_works_on_one(session, path, tmp_path, workers):
    marks = [tmp_path / str(number) for number in range(3)]
    reading = read_ahead(session.processor, [(Marking(path, mark), {"num_frames": 2}) for mark in marks], workers)
    next(reading)
    while not marks[1].exists():  # nothing is asked for meanwhile
        time.sleep(0.01)
    assert len(list(reading)) == 2


@pytest.mark.slow
def test_worker_processes_read_the_same_frames_and_survive_what_kills_one(session, path, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    requests = [
        (str(path), {"num_frames": 4}),
        (str(broken), {}),
        (Deadly(), {}),
        *[(str(path), {"num_frames": 2})] * 4,
    ]
    here = list(read_ahead(session.processor, [one for one in requests if not isinstance(one[0], Deadly)], workers=0))
    ahead = list(read_ahead(session.processor, requests, workers=2))
    assert isinstance(ahead[2], Unreadable) and ahead[2].reason.startswith("deadly.mp4: the process that read it died")
    del ahead[2]
    assert len(ahead) == len(here) and isinstance(ahead[1], Unreadable) and isinstance(here[1], Unreadable)
    for one, other in zip(ahead, here, strict=True):
        if one is not ahead[1]:
            assert torch.equal(one.pixel_values, other.pixel_values) and one.sampling == other.sampling


def test_each_question_chooses_its_frames_and_the_line_says_which(session, path, tmp_path, monkeypatch):
    asked = [question_about(path, 0), Question("q1", str(path), "Where is it?", "the red circle", "left")]
    asking = Asking({"num_frames": 16}, selection=FrameSelection(num_frames=4))
    batches, generate = [], session.generate
    monkeypatch.setattr(session, "generate", lambda answer: batches.append(generate(answer)) or batches[-1])
    [summary] = evaluate([task_of(asked)], session, tmp_path, asking=asking)
    assert [len(batch) for batch in batches] == [2]
    opened = session.open(path, num_frames=16, selection=asking.selection)
    alone = opened.ask_all([one.prompt for one in asked], instruction=[one.instruction for one in asked])
    for name, answer in zip(("q0", "q1"), alone, strict=True):
        line = read_answers(tmp_path / "own")[name]
        assert line["answer"] == answer.answer and line["instruction"] == answer.instruction
        assert line["times"] == pytest.approx(answer.selection.times, abs=0.001) and len(line["times"]) == 4
        assert line["selection"]["reason"] == answer.selection.reason
        assert line["selection"]["indices"] == list(answer.selection.indices)
    assert summary["settings"]["selection"]["num_frames"] == 4 and summary["paper"] is None
    used = [answer.selection.used for answer in alone]
    assert summary["chosen_by"] == {rule: used.count(rule) for rule in used}
    assert as_table([summary]).splitlines()[0].endswith("  frames chosen by")
    assert f"{used[0]} {used.count(used[0])}" in as_table([summary])
    with pytest.raises(ValueError, match=r"other settings \(selection"):
        evaluate([task_of(asked)], session, tmp_path, asking=Asking({"num_frames": 16}))


def test_each_question_chooses_its_tiles_and_the_line_says_which(session, path, tmp_path):
    asked = [question_about(path, 0), Question("q1", str(path), "Where is it?", "the red circle", "left")]
    asking = Asking({"num_frames": 4}, tiles=FrameTiles((1, 2)))
    [summary] = evaluate([task_of(asked)], session, tmp_path, asking=asking)
    opened = session.open(path, num_frames=4, tiles=asking.tiles)
    alone = opened.ask_all([one.prompt for one in asked], instruction=[one.instruction for one in asked])
    for name, answer in zip(("q0", "q1"), alone, strict=True):
        line = read_answers(tmp_path / "own")[name]
        assert line["answer"] == answer.answer and len(line["times"]) == 4
        assert line["tiles"]["zoom"] == answer.tiles.zoom
        assert line["tiles"]["best"]["box"] == pytest.approx(answer.tiles.tiles[0].box, abs=0.001)
    assert FrameTiles(**summary["settings"]["tiles"]) == asking.tiles.of_chosen()  # no candidates are scored
    assert summary["paper"] is None
    with pytest.raises(ValueError, match=r"other settings \(tiles"):
        evaluate([task_of(asked)], session, tmp_path, asking=Asking({"num_frames": 4}))
    padded = replace(asking, tiles=asking.tiles.of_chosen())
    for same in (asking, padded):
        evaluate([task_of(asked)], session, tmp_path, asking=same)  # resumes


def test_a_broken_video_among_candidates_counts_as_wrong(session, path, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    asking = Asking({"num_frames": 16}, selection=FrameSelection(num_frames=4))
    asked = [question_about(broken, 0), question_about(path, 1)]
    [summary] = evaluate([task_of(asked)], session, tmp_path / "out", asking=asking)
    assert list(summary["failed_videos"]) == [str(broken)] and summary["num_answered"] == 2


def test_results_say_which_frames_are_candidates_where_nothing_is_asked_for(session, path, tmp_path):
    asked, selection = [question_about(path, 0)], FrameSelection(num_frames=4)
    [summary] = evaluate([task_of(asked)], session, tmp_path, asking=Asking(selection=selection))
    assert summary["settings"]["sampling"] == {"min_frames": 64, "fps": 1.0}
    with pytest.raises(ValueError, match=r"other settings \(sampling"):
        evaluate([task_of(asked)], session, tmp_path, asking=Asking({"fps": 1.0}, selection=selection))


def test_guarded_media_must_name_the_folder_of_the_videos(session, path, tmp_path):
    task = task_of([question_about(path, 0)])
    with pytest.raises(ValueError, match=r"own: none of its videos may be read \(first .*allowed_local_media_path"):
        evaluate([task], session, tmp_path, asking=Asking(media_access=MediaAccess.guarded()))
    access = MediaAccess.guarded(allowed_local_media_path=path.parent)
    assert evaluate([task], session, tmp_path, asking=Asking(media_access=access))[0]["score"]["mean"] == 100


def test_the_command_prints_a_table_or_json(data, tmp_path, capsys):
    assert main(["eval", "shapes", "--output", str(tmp_path), "--data", str(data), "--limit", "3", "--json"]) == 0
    [summary] = json.loads(capsys.readouterr().out)
    assert summary["num_answered"] == 3
    assert main(["eval", "shapes", "--output", str(tmp_path), "--data", str(data), "--limit", "3"]) == 0
    assert "3/3" in capsys.readouterr().out
    assert main(["eval", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes"], "--output is missing"),
        ([], "name at least one TASK"),
        (["shapes", "--output", "x", "--shard", "3/2"], "I from 1 to N"),
        (["shapes", "--output", "x", "--max-frames", "3"], "bounds --fps"),
        (["shapes", "--output", "x", "--frames", "3", "--fps", "1"], "--fps: not allowed with argument --frames"),
        (["shapes", "--output", "x", "--candidates", "3"], "--candidates: goes with --select"),
        (["shapes", "--output", "x", "--select", "question"], "--select: --frames is missing"),
        (["paper", "--output", "x", "--data", "y", "--fps", "1"], "--fps: goes without paper"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_task_is_refused_by_name(tmp_path, capsys):
    assert main(["eval", "shape", "--output", str(tmp_path)]) == 1
    assert "there is no task 'shape'; known are shapes" in capsys.readouterr().err


def test_the_task_of_the_documentation_runs_as_it_stands_there(path, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    [code] = re.findall(
        r"```python\n(.*?)```", text.partition("## A task of your own")[2].partition("\n## ")[0], re.DOTALL
    )
    (tmp_path / "videos").mkdir()
    shutil.copy(path, tmp_path / "videos" / "cat.mp4")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "evaluation.md", "exec"), {"__name__": "documentation"})
    summary = json.loads((tmp_path / "results" / "mine" / "summary.json").read_text())
    assert summary["score"]["mean"] == 100 and summary["complete"]
    assert (tmp_path / "results" / "mine" / "summary.png").is_file()
