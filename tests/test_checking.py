"""`hicom data check`: what it counts, what it finds, and its exit code."""

import json

import numpy as np
import pytest
from PIL import Image
from training_runs import encoder_of
from video_files import write_truncated_video, write_video

from hicom_hf.cli.main import main
from hicom_hf.data.bad_samples import PROBLEM_KINDS
from hicom_hf.data.checking import check_data
from hicom_hf.data.datasets import HiComDataset


def record(record_id, *texts, **media):
    turns = [{"from": "gpt" if i % 2 else "human", "value": text} for i, text in enumerate(texts)]
    return {"id": record_id, **media, "conversations": turns}


GOOD = [
    record("ok", "<video>\nWho?", "Ann.", "Why?", "Why not.", video="twelve.mp4"),
    record("red", "<image>Colour?", "Red.", image="red.png"),
    record("hi", "Hi", "Hello."),
]
BAD = [
    record("no", "Who?", "Ann.", video="nowhere.mp4"),
    record("half", "Who?", "Ann.", video="broken.mp4"),
    record("two", "<video><video>Who?", "Ann.", video="twelve.mp4"),
    record("mute", "Who?", "", video="twelve.mp4"),
    record("odd", "Who?", "Ann.", "Why?", video="twelve.mp4"),
    {"id": "none"},
]
LONG = record("long", "Tell me", "everything " * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("data")
    write_video(folder / "twelve.mp4", 12)
    write_truncated_video(folder / "broken.mp4")
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    (folder / "good.json").write_text(json.dumps(GOOD))
    (folder / "bad.json").write_text(json.dumps([*GOOD, *BAD, LONG]))
    processor.save_pretrained(folder / "model")
    return folder


def test_a_good_data_set_is_counted_and_measured(folder, processor):
    report = check_data(folder / "good.json", processor, num_frames=8, max_length=2000, num_workers=2)
    assert (report.num_records, report.num_media, report.problems) == (3, 2, [])
    assert report.samples == {"text": 1, "image": 1, "video": 2}
    dataset = HiComDataset(folder / "good.json", encoder_of(processor))
    assert report.lengths == [len(dataset[index]["input_ids"]) for index in range(4)]
    assert report.length_quantiles()["max"] == max(report.lengths)


def test_records_are_measured_with_their_own_numbers_of_frames(folder, processor):
    frames = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    media = [{"video": source, "num_frames": n} for source in ("twelve.mp4", [frames]) for n in (2, 12, None)]
    records = [record(number, "<video>Who?", "Ann.", **medium) for number, medium in enumerate(media)]
    report = check_data(records, processor, folder, num_frames=8)
    dataset = HiComDataset(records, encoder_of(processor), folder)
    assert (report.num_media, report.problems) == (6, [])
    assert report.lengths == [len(dataset[index]["input_ids"]) for index in range(6)]
    assert len(set(report.lengths)) == 3


def test_a_wrong_number_of_frames_is_a_problem_with_the_record(folder, processor):
    records = [record("q7", "<video>Who?", "Ann.", video="twelve.mp4", num_frames=True)]
    (problem,) = check_data(records, processor, folder).problems
    assert problem == ("bad record", "record 0 (id q7)", "num_frames must be a whole number of at least 1, got True")


@pytest.mark.parametrize("num_workers", [1, 4])
def test_every_kind_of_problem_is_found_and_named_by_record_and_path(folder, processor, num_workers):
    report = check_data(folder / "bad.json", processor, num_frames=8, max_length=400, num_workers=num_workers)
    assert report.counts == dict.fromkeys(PROBLEM_KINDS, 1)
    found = {problem.kind: problem.source for problem in report.problems}
    assert "record 3 (id no)" in found["missing media"]
    assert str(folder / "nowhere.mp4") in found["missing media"]
    assert str(folder / "broken.mp4") in found["unreadable media"]
    for kind, name in {
        "placeholder mismatch": "two",
        "empty answer": "mute",
        "odd turns": "odd",
        "bad record": "none",
        "too long": "long",
    }.items():
        assert f"(id {name})" in found[kind]
    assert "the answer would lose its end" in next(p.reason for p in report.problems if p.kind == "too long")


def test_without_decoding_only_missing_files_are_seen(folder):
    report = check_data(folder / "bad.json", decode=False)
    assert (report.counts["missing media"], report.counts["unreadable media"]) == (1, 0)
    assert report.lengths == []


def test_a_length_limit_needs_a_processor(folder, processor):
    with pytest.raises(ValueError, match="max_length counts tokens: it needs a processor"):
        check_data(folder / "good.json", max_length=10)
    with pytest.raises(ValueError, match="num_workers must be at least 1"):
        check_data(folder / "good.json", num_workers=0)


def test_the_command_prints_a_table_and_exits_with_0_if_nothing_is_wrong(folder, capsys):
    model = str(folder / "model")
    assert main(["data", "check", str(folder / "good.json"), "--processor", model, "--workers", "1"]) == 0
    captured = capsys.readouterr()
    rows = dict(line.rsplit(maxsplit=1) for line in captured.out.splitlines())
    assert rows["samples: video"] == "2"
    assert rows["problems: missing media"] == "0"
    assert int(rows["tokens per sample: max"]) > 100
    assert "records" in captured.err


def test_the_command_lists_the_first_problems_and_exits_with_1(folder, capsys):
    assert main(["data", "check", str(folder / "bad.json"), "--show", "2", "--no-decode"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "... and 3 more"
    assert lines[-3].startswith(f"{folder / 'bad.json'}: record 8 (id none): bad record:")


def test_the_command_prints_json_with_all_problems(folder, capsys):
    assert main(["data", "check", str(folder / "bad.json"), "--json", "--workers", "2"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 10
    assert report["problems"]["unreadable media"] == 1
    assert len(report["details"]) == 6
    assert report["details"][0]["kind"] == "bad record"


def test_the_command_finds_media_under_another_root(folder, tmp_path, capsys):
    (tmp_path / "good.json").write_text((folder / "good.json").read_text())
    assert main(["data", "check", str(tmp_path / "good.json")]) == 1
    assert main(["data", "check", str(tmp_path / "good.json"), "--media-root", str(folder)]) == 0
    capsys.readouterr()


def test_a_file_that_is_no_data_set_is_one_line_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    assert main(["data", "check", str(tmp_path / "a.json")]) == 1
    assert "a.json: this is not JSON" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json" in capsys.readouterr().err


def test_wrong_arguments_are_exit_code_2(capsys):
    assert main(["data"]) == 2
    assert main(["data", "check", "a.json", "--workers", "0"]) == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err
    assert main(["data", "check", "a.json", "--max-length", "9"]) == 2
    assert "--max-length counts tokens: it needs --processor" in capsys.readouterr().err


def test_guarded_media_are_those_below_named_folders(folder, capsys):
    path = str(folder / "good.json")
    assert main(["data", "check", path, "--json", "--media", "guarded"]) == 1
    problems = json.loads(capsys.readouterr().out)["details"]
    assert problems and all("local files are not allowed here" in problem["reason"] for problem in problems)
    assert main(["data", "check", path, "--media", "guarded", "--allowed-local-media-path", str(folder)]) == 0
    capsys.readouterr()
    assert main(["data", "check", path, "--allowed-local-media-path", str(folder)]) == 1
    assert "restrict guarded media; open allows all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("num_frame", 8, "num_frames"),
        ("numFrames", 8, "num_frames"),
        ("max_frame", 8, "max_frames"),
        ("FPS", 2, "fps"),
        ("ends", 3.0, "end"),
        ("video_strat", 1.0, "video_start"),
        ("imgae", "red.png", "image"),
    ],
)
def test_a_wrong_spelling_of_a_key_is_refused_by_check_and_training_with_the_nearest_key(
    folder, processor, key, value, meant
):
    records = [record("q7", "<video>Who?", "Ann.", video="twelve.mp4"), {**record("q8", "Hi", "Ho"), key: value}]
    report = check_data(records, None, folder)
    (problem,) = report.problems
    assert problem.kind == "bad record" and f"{key!r}; the nearest that is read is {meant!r}" in problem.reason
    with pytest.raises(ValueError, match=rf"id q8\): bad record: nothing reads the key '{key}'"):
        HiComDataset(records, encoder_of(processor), folder)
    assert len(HiComDataset(records, encoder_of(processor), folder, on_bad_sample="skip").skipped) == 1


def test_a_video_under_the_name_of_another_format_does_not_train_on_its_text_alone(folder):
    (problem,) = check_data([record("q7", "Who?", "Ann.", video_path="twelve.mp4")], None, folder).problems
    assert "nothing reads the key 'video_path'; name it 'video'" in problem.reason


def test_a_system_prompt_that_is_no_text_is_refused(folder):
    (problem,) = check_data([record("q7", "Who?", "Ann.", system=5)], None, folder).problems
    assert problem.reason == '"system" must be a text, got 5'
    assert check_data([record("q7", "Who?", "Ann.", system=""), record("q8", "Who?", "Ann.")]).problems == []


@pytest.mark.parametrize("key", ["video", "images", "Video", "image_path"])
def test_a_video_or_image_that_a_turn_names_does_not_go_unseen(key):
    turns = [{"role": "user", "content": "Who?", key: "a.mp4"}, {"role": "assistant", "content": "Ann."}]
    (problem,) = check_data([{"messages": turns}]).problems
    assert problem.reason.startswith(f"turn 1: nothing reads the key {key!r} of a turn; give it in the record")


def test_keys_of_turns_that_nothing_reads_are_named_once_per_record():
    turns = [{"from": "human", "value": "Who?", "weight": None}, {"from": "gpt", "value": "Ann.", "weight": 0}]
    report = check_data([{"conversations": [*turns, *turns]}] * 2)
    assert report.problems == [] and report.unread_keys == {"conversations.weight": 2}


@pytest.mark.parametrize("kind", [["video"], {"a": 1}, 5, None])
def test_the_type_of_a_part_that_is_no_text_is_a_problem_of_its_record(kind):
    part = {"type": kind, "max_pixels": 5, "video": "a.mp4"}
    turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "Ann."}]
    (problem,) = check_data([{"messages": turns}]).problems
    assert problem.kind == "bad record" and "a part of turn 1 must be" in problem.reason


def test_columns_of_no_use_are_named_and_no_problem(folder, processor, caplog):
    columns = {"source": "web", "license": None, "start_time": 3.5, "data_source": "x", "state": "done"}
    records = [record(1, "<video>Who?", "Ann.", video="twelve.mp4", **columns)]
    records += [{"video": "twelve.mp4", "question": "Who?", "answer": "Ann.", "stars": 3}]
    report = check_data(records, None, folder)
    assert report.problems == []
    assert report.unread_keys == {"source": 1, "start_time": 1, "data_source": 1, "state": 1, "stars": 1}
    assert "nothing reads: source, start_time (start?), data_source, state, stars." in report.table()
    assert report.to_dict()["unread_keys"]["stars"] == 1
    HiComDataset(records, encoder_of(processor), folder)
    assert "nothing reads: source, start_time (start?)" in caplog.text


@pytest.mark.parametrize(("name", "content"), [("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.jsonl", "")])
def test_a_file_without_records_is_an_error(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    assert main(["data", "check", str(tmp_path / name)]) == 1
    assert f"{tmp_path / name} holds no records" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there are no records"):
        check_data([])
