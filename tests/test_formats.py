"""Records of other formats: one table with the field names that are published, files of other kinds, refusals."""

import csv
import io
import json
import tarfile

import pytest
from PIL import Image
from training_runs import encoder_of
from video_files import write_video

from hicom_hf.cli.main import main
from hicom_hf.data.bad_samples import SampleError
from hicom_hf.data.checking import check_data
from hicom_hf.data.conversations import training_items
from hicom_hf.data.converting import convert_data
from hicom_hf.data.datasets import HiComDataset, load_records
from hicom_hf.data.formats import FORMATS, record_format
from hicom_hf.data.record_media import Record
from hicom_hf.data.streaming import HiComStreamingDataset

VIDEO_PART = {"type": "video_url", "video_url": {"url": "cat.mp4"}}
QWEN_PART = {
    "type": "video",
    "video": "cat.mp4",
    "max_pixels": 151200,
    "fps": 1.0,
    "video_start": 0.1,
    "video_end": 0.9,
}
TEXT_PART = {"type": "text", "text": "Who runs?"}
SHOWN = [{"role": "assistant", "content": "A cat."}]

# (format, record as published, question as training sees it, answer)
TABLE = [
    (
        "VideoChat2-IT (QA)",
        {"video": "cat.mp4", "QA": [{"i": "Look.", "q": "Who runs?", "a": "A cat."}]},
        "Look.\nWho runs?",
        "A cat.",
    ),
    ("question and answer", {"video": "cat.mp4", "question": "Who?", "answer": "A cat."}, "Who?", "A cat."),
    (  # MVBench
        "question and answer",
        {"video": "cat.mp4", "question": "Who?", "candidates": ["dog", "cat"], "answer": "cat"},
        "Who?\nA. dog\nB. cat",
        "B. cat",
    ),
    (
        "ShareGPT4Video (captions)",
        {
            "video_id": "cat",
            "video_path": "cat.mp4",
            "timestamp": ["00:00:00.000"],
            "keyframe": [0],
            "captions": [{"idx": "1", "content": "A tail."}, {"idx": "-1", "content": "A cat."}],
            "zip_folder": "x.zip",
        },
        "Describe the video.",
        "A cat.",
    ),
    (
        "Video-R1 (problem, solution)",
        {
            "problem_id": 7,
            "problem": "Who?",
            "data_type": "video",
            "problem_type": "multiple choice",
            "options": ["A. dog", "B. cat"],
            "process": "",
            "solution": "<answer>B</answer>",
            "path": "./cat.mp4",
        },
        "Who?\nA. dog\nB. cat",
        "B",
    ),
    (
        "TRL (prompt, completion)",
        {"prompt": [{"role": "user", "content": "Who?"}], "completion": SHOWN, "videos": ["cat.mp4"]},
        "Who?",
        "A cat.",
    ),
    (
        "TRL (prompt, completion)",
        {"prompt": "Who?", "completion": "A cat.", "videos": ["cat.mp4"]},
        "Who?",
        "A cat.",
    ),
    (
        "ms-swift (query, response)",
        {"query": "<video>Who?", "response": "A cat.", "history": [["Hi?", "Yes."]], "videos": ["cat.mp4"]},
        "Who?",
        "A cat.",
    ),
    (
        "alpaca (instruction, output)",
        {"instruction": "<video>Answer.", "input": "Who?", "output": "A cat.", "videos": ["cat.mp4"]},
        "Answer.\nWho?",
        "A cat.",
    ),
    ("captions", {"video": "cat.mp4", "caption": "A cat."}, "Describe the video.", "A cat."),
    ("captions", {"image": "cat.png", "caption": "A cat."}, "Describe the image.", "A cat."),
    ("captions of a videofolder", {"file_name": "cat.mp4", "text": "A cat."}, "Describe the video.", "A cat."),
    (
        "messages of OpenAI or Qwen (video_url, max_pixels)",
        {"messages": [{"role": "user", "content": [VIDEO_PART, TEXT_PART]}, *SHOWN]},
        "Who runs?",
        "A cat.",
    ),
    (
        "messages of OpenAI or Qwen (video_url, max_pixels)",
        {"messages": [{"role": "user", "content": [QWEN_PART, TEXT_PART]}, *SHOWN]},
        "Who runs?",
        "A cat.",
    ),
]
UNKNOWN = {"video": "cat.mp4", "question": "Who?", "reply": "A cat."}


def text_of(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "cat.mp4", 4)
    Image.new("RGB", (40, 30), "red").save(folder / "cat.png")
    return folder


@pytest.mark.parametrize(("name", "data", "question", "answer"), TABLE)
def test_records_as_others_publish_them_are_read_and_converted_to_the_same_samples(
    name, data, question, answer, folder, processor, tmp_path
):
    assert record_format(data).name == name
    item = training_items(Record(data, "x.json: record 0", str(folder)))[-1]
    assert (text_of(item.messages[-2]), text_of(item.messages[-1])) == (question, answer)
    (medium,) = item.media
    assert medium.source.endswith(("cat.mp4", "cat.png"))
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps(data))
    conversion = convert_data(source, tmp_path / "deeper" / "train.json", folder)
    assert conversion.formats == {name: 1}
    (record,) = load_records(tmp_path / "deeper" / "train.json")
    assert record_format(record.data) is None
    converted = training_items(record)[-1]
    assert converted.messages == item.messages
    assert converted.media[0][2:] == medium[2:]
    assert len(HiComDataset([record], encoder_of(processor, 2))[-1 % len(training_items(record))]["input_ids"]) > 5


def test_every_format_has_a_row_in_the_table():
    assert {known.name for known in FORMATS if not known.needs_files} < {row[0] for row in TABLE}


def test_data_sets_and_checks_say_which_formats_they_read(folder, processor):
    records = [TABLE[0][1], TABLE[0][1], TABLE[9][1], {"conversations": [], "id": 1}]
    dataset = HiComDataset(records, encoder_of(processor, 2), folder, on_bad_sample="skip")
    assert "2 read as VideoChat2-IT (QA), 1 read as captions" in dataset.summary()
    assert check_data(records, media_root=folder).formats == {"VideoChat2-IT (QA)": 2, "captions": 1}


def test_a_record_of_no_known_format_is_refused_with_the_nearest_one(folder, tmp_path):
    nearest = r"question and answer, which has 'question', 'answer'; 'answer' lacks"
    with pytest.raises(SampleError, match=rf"the keys are \['question', 'reply', 'video'\]\. .*{nearest}"):
        training_items(Record(UNKNOWN, "x.json: record 0"))
    (tmp_path / "x.json").write_text(json.dumps([UNKNOWN]))
    with pytest.raises(
        ValueError, match=rf"x\.json: record 0: bad record: this is no known format of records.*{nearest}"
    ):
        convert_data(tmp_path / "x.json", tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()


def test_a_record_that_is_not_as_its_format_should_be_is_refused(tmp_path):
    broken = {"video": "cat.mp4", "QA": [{"q": "Who?"}]}
    with pytest.raises(SampleError, match=r"bad record: not as VideoChat2-IT \(QA\) should be: it has no 'a'"):
        training_items(Record(broken, "x.json: record 0"))
    (tmp_path / "x.json").write_text(json.dumps([broken]))
    with pytest.raises(
        ValueError, match=r"record 0: bad record: not as VideoChat2-IT \(QA\) should be: it has no 'a'"
    ):
        convert_data(tmp_path / "x.json", tmp_path / "train.json")
    captions = {"captions": [{"idx": "1", "content": "x"}], "video_path": "cat.mp4"}
    with pytest.raises(SampleError, match='exactly one of "captions" must have the "idx" -1'):
        training_items(Record(captions, "x.json: record 0"))


def test_videos_named_by_an_id_are_looked_up_by_convert_only(folder, tmp_path):
    record = {"q": "Who?", "a": "A cat.", "video_id": "cat"}
    others = [
        {"question": "Who?", "answer": "a cat", "video_id": "cat", "id": 158581},  # MSRVTT-QA
        {"videoID": "cat", "caption": "A cat."},  # Panda-70M
        {"video": "cat", "question": "Who?", "answer": "1", "qid": "6", "a0": "a dog", "a1": "a cat"},  # NExT-QA
    ]
    for one in (record, *others[:2]):
        with pytest.raises(SampleError, match="names its video without the suffix; `hicom data convert` looks it up"):
            training_items(Record(one, "x.json: record 0", str(folder)))
    (tmp_path / "x.json").write_text(json.dumps([record, *others]))
    convert_data(tmp_path / "x.json", tmp_path / "train.json", folder)
    assert check_data(tmp_path / "train.json").problems == []
    items = [training_items(one)[0] for one in load_records(tmp_path / "train.json")]
    assert all(len(item.media) == 1 for item in items)
    assert (
        text_of(items[-1].messages[0]) == "Who?\nA. a dog\nB. a cat" and text_of(items[-1].messages[1]) == "B. a cat"
    )
    (tmp_path / "x.json").write_text(json.dumps([{**record, "video_id": "dog"}]))
    with pytest.raises(SampleError, match=r"record 0: missing media: there is no video .*dog\.\*.*check --media-root"):
        convert_data(tmp_path / "x.json", tmp_path / "dogs.json", folder)


CAT = [{"from": "human", "value": "<video>Who runs?"}, {"from": "gpt", "value": "A cat."}]
UNUSABLE = [
    ("odd turns", {"video": "cat.mp4", "conversations": CAT[:1]}),
    ("empty answer", {"video": "cat.mp4", "conversations": [CAT[0], {"from": "gpt", "value": " "}]}),
    ("empty answer", {"video": "cat.mp4", "caption": ""}),
    ("placeholder mismatch", {"video": ["cat.mp4", "cat.mp4"], "conversations": CAT}),
    ("placeholder mismatch", {"conversations": CAT}),
    ("bad record", {"video": "cat.mp4", "conversations": CAT, "num_frames": 0}),
    ("bad record", {"video": "cat.mp4", "conversations": CAT, "num_frame": 4}),
    ("bad record", {"video": "cat.mp4", "conversations": CAT, "system": 5}),
    ("bad record", {"conversations": [{**CAT[0], "value": "Who runs?", "video": "cat.mp4"}, CAT[1]]}),
    ("bad record", UNKNOWN),
    ("missing media", {"q": "Who?", "a": "A dog.", "video_id": "dog"}),
]


@pytest.mark.parametrize(("kind", "data"), UNUSABLE)
def test_what_training_would_refuse_is_not_written(kind, data, folder, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"video": "cat.mp4", "conversations": CAT}, data]))
    with pytest.raises(SampleError, match=rf"x\.json: record 1: {kind}: "):
        convert_data(tmp_path / "x.json", tmp_path / "train.json", folder)
    assert not (tmp_path / "train.json").exists()


def test_records_that_are_skipped_are_counted_and_listed(folder, tmp_path, capsys, caplog):
    source, destination = tmp_path / "x.json", tmp_path / "train.json"
    source.write_text(json.dumps([{"video": "cat.mp4", "conversations": CAT}, *(data for _, data in UNUSABLE)]))
    arguments = ["data", "convert", str(source), str(destination), "--media-root", str(folder)]
    assert main(arguments) == 1
    assert main([*arguments, "--on-bad-sample", "skip"]) == 0
    assert f": 1 records (1 of conversations or messages), {len(UNUSABLE)} records skipped" in capsys.readouterr().out
    for number, (kind, _) in enumerate(UNUSABLE, start=1):
        assert f"skipped: {source}: record {number}: {kind}: " in caplog.text
    assert check_data(destination).problems == []
    source.write_text(json.dumps([data for _, data in UNUSABLE]))
    with pytest.raises(
        ValueError, match=rf"none of its {len(UNUSABLE)} records can be used; the first one: .*odd turns"
    ):
        convert_data(source, tmp_path / "none.json", folder, on_bad_sample="skip")
    assert not (tmp_path / "none.json").exists()


OPTIONS = ["(A) a cat", "(B) a dog"]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ({"video": "cat.mp4", "question": "Who?", "options": OPTIONS, "answer": "(B) a dog"}, "(B) a dog"),
        ({"video": "cat.mp4", "question": "Who?", "options": OPTIONS, "answer": "B"}, "B"),
        ({"video": "cat.mp4", "question": "How many?", "answer": 3}, "3"),
    ],
)
def test_answers_stay_as_they_are_published(data, answer):
    assert text_of(training_items(Record(data, "x"))[0].messages[-1]) == answer


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"video": "cat.mp4", "question": "Who?", "options": ["a", "b"], "answer": 1}, "counted from 0 or from 1"),
        ({"video": "cat.mp4", "question": "Who?", "answer": ["a", "b"]}, '"answer" must be a text'),
        ({"caption": "A cat."}, "it names no video and no image for its caption"),
        (
            {"videoid": "1", "contentUrl": "https://x.org/1.mp4", "name": "A cat."},
            "shares no key with any other format",
        ),
        ({"video": "cat.mp4", "question": "Who?", "answer": "9", "a0": "x", "a1": "y"}, "should be: list index"),
    ],
)
def test_records_that_would_be_read_wrongly_are_refused(data, message, tmp_path):
    with pytest.raises(SampleError, match=message):
        training_items(Record(data, "x"))
    (tmp_path / "x.json").write_text(json.dumps([data]))
    with pytest.raises(ValueError, match=message):
        convert_data(tmp_path / "x.json", tmp_path / "train.json")


def test_frames_as_qwen_lists_them_keep_their_rate():
    video = {"type": "video", "video": ["file:///a/1.jpg", "file:///a/2.jpg"], "sample_fps": 2.0, "max_pixels": 5}
    messages = [{"role": "user", "content": [video, {"type": "text", "text": "Who?"}]}]
    messages.append({"role": "assistant", "content": "A cat."})
    (medium,) = training_items(Record({"messages": messages}, "x"))[0].media
    assert medium.frame_rate == 2.0 and len(medium.source) == 2


def test_what_a_table_says_of_its_files_is_no_wish_for_frames(folder, tmp_path, caplog):
    rows = [
        {"video": folder / "cat.mp4", "caption": "A cat.", "aesthetic score": 4.5, "fps": 24.0, "seconds": 3.2}
    ] * 2
    convert_data(write_table(tmp_path / "openvid.csv", rows), tmp_path / "train.jsonl")
    (medium,) = training_items(load_records(tmp_path / "train.jsonl")[0])[0].media
    assert medium.fps is None
    assert caplog.text.count("fps left out: in a table they describe the files") == 1


# Files of other kinds ----------------------------------------------------------------------------------------------------


def write_table(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_source(kind, folder, tmp_path):
    """A source of two captions of one video."""
    content = (folder / "cat.mp4").read_bytes()
    captions = ("A cat.", "A red cat.")
    if kind in ("csv", "tsv"):
        rows = [{"video": folder / "cat.mp4", "caption": caption, "end": 0.2} for caption in captions]
        return write_table(tmp_path / f"source.{kind}", rows, "\t" if kind == "tsv" else ",")
    if kind.startswith("tar"):
        files = {}
        for number, caption in enumerate(captions):
            files[f"{number:06d}.mp4"] = content
            if kind == "tar with json":
                files[f"{number:06d}.json"] = json.dumps({"caption": caption, "url": "https://x.org/1"}).encode()
            else:
                files[f"{number:06d}.txt"] = caption.encode()
        return write_tar(tmp_path / "source.tar", files)
    if kind == "videofolder":
        (tmp_path / "clips").mkdir()
        (tmp_path / "clips" / "cat.mp4").write_bytes(content)
        rows = [{"file_name": "cat.mp4", "text": caption} for caption in captions]
        (tmp_path / "clips" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return tmp_path / "clips"
    import datasets

    rows = [{"video": {"bytes": content, "path": "cat.mp4"}, "caption": caption} for caption in captions]
    table = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        table.to_parquet(tmp_path / "source.parquet")
        return tmp_path / "source.parquet"
    if kind == "folder of parquet":
        (tmp_path / "hub" / "data").mkdir(parents=True)
        table.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
        return tmp_path / "hub"
    table.cast_column("video", datasets.Video(decode=False)).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


KINDS = [
    "csv",
    "tsv",
    "tar with json",
    "tar with txt",
    "videofolder",
    "parquet",
    "folder of parquet",
    "saved by datasets",
]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_converted_on_the_command_line_and_pass_the_check(kind, folder, tmp_path, capsys):
    source, destination = write_source(kind, folder, tmp_path), tmp_path / "out" / "train.jsonl"
    assert main(["data", "convert", str(source), str(destination)]) == 0
    assert "2 records (2 of captions" in capsys.readouterr().out
    assert main(["data", "check", str(destination), "--workers", "1"]) == 0
    answers = [training_items(record)[0].messages[-1]["content"] for record in load_records(destination)]
    assert answers == ["A cat.", "A red cat."]
    stored = list((tmp_path / "out").glob("train_media/*.mp4"))
    assert len(stored) == (0 if kind in ("csv", "tsv", "videofolder") else 2)
    with pytest.raises(FileExistsError, match="exists already; choose another file"):
        convert_data(source, destination)


@pytest.mark.parametrize("kind", ["tar with json", "tar with txt"])
def test_shards_of_captions_are_trained_on_as_they_are(kind, folder, tmp_path, processor):
    source = write_source(kind, folder, tmp_path)
    samples = list(HiComStreamingDataset(str(source), encoder_of(processor, 2)))
    expected = HiComDataset([TABLE[9][1]], encoder_of(processor, 2), folder)[0]
    assert len(samples) == 2
    assert samples[0]["input_ids"].tolist() == expected["input_ids"].tolist()


def test_a_folder_of_videos_gives_a_file_to_fill_in(folder, tmp_path, capsys):
    assert main(["data", "convert", str(folder), str(tmp_path / "mine.json")]) == 0
    (record,) = json.loads((tmp_path / "mine.json").read_text())
    assert [turn["value"] for turn in record["conversations"]] == ["Describe the video.", ""]
    (problem,) = check_data(tmp_path / "mine.json").problems
    assert problem.kind == "empty answer"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.json", FileNotFoundError, r"none\.json does not exist"),
        ("cat.png", ValueError, r"cat\.png is of no known kind: JSON, JSONL, CSV, TSV, Parquet, tar, or a folder"),
        ("", ValueError, r"holds no record and no video \(mp4, mkv"),
    ],
)
def test_what_is_no_source_is_refused(source, error, message, folder, tmp_path):
    place = folder / source if source else tmp_path / "empty"
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        convert_data(place, tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()
    with pytest.raises(ValueError, match=r"train\.txt: the records are written as \.json or \.jsonl"):
        convert_data(folder, tmp_path / "train.txt")


# Checks ------------------------------------------------------------------------------------------------------------------


def test_streams_and_folders_are_checked_too(folder, tmp_path, capsys):
    source = write_source("tar with txt", folder, tmp_path)
    assert main(["data", "check", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["records"], report["media"], report["formats"]) == (2, 1, {"captions": 2})  # one video, twice
    write_tar(tmp_path / "bad.tar", {"1.mp4": b"no video", "1.txt": b"A cat."})
    assert main(["data", "check", str(tmp_path / "bad.tar")]) == 1
    assert "1: <video in memory>: unreadable media" in capsys.readouterr().out
    for kind in ("folder of parquet", "saved by datasets"):
        assert check_data(write_source(kind, folder, tmp_path)).samples["video"] == 2


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "videos"])
def test_a_check_of_what_must_be_converted_first_says_so(name, folder, tmp_path):
    content = b"video,caption\ncat.mp4,A cat." if name.endswith("csv") else b"PAR1\x96"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "cat.mp4").write_bytes(b"")
    if name != "videos":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*`hicom data convert"):
        check_data(tmp_path / name)


def test_saved_splits_are_named(folder, tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([{"video": str(folder / "cat.mp4"), "caption": "A cat."}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    for function in (check_data, lambda source: convert_data(source, tmp_path / "out.json")):
        with pytest.raises(ValueError, match=r"saved holds several splits; give one of its folders: train, test"):
            function(tmp_path / "saved")
    assert check_data(tmp_path / "saved" / "train").samples["video"] == 1


def test_words_that_the_tokenizer_cannot_spell_are_counted(folder):
    from hicom_hf import HiComProcessor, hicom_tiny

    processor = HiComProcessor.from_pretrained(hicom_tiny())
    turns = [{"from": "human", "value": "Is the pancake red?"}, {"from": "gpt", "value": "red"}]
    report = check_data([{"video": "cat.mp4", "conversations": turns}], processor, folder, num_frames=2)
    assert report.num_unknown_tokens >= 1 and "pancake" in report.unknown_words and "red" not in report.unknown_words
    assert "The model's tokenizer cannot spell" in report.table() and "pancake" in report.table()


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"question": "Which?", "answer": "blue"}, "B. blue"),
        ({"problem": "Which?", "solution": "<answer>B</answer>"}, "B"),
    ],
)
def test_options_in_a_dictionary_keep_their_letters(keys, answer):
    record = Record({"video": "a.mp4", "options": {"A": "red", "B": "blue", "C": 3, "D": None}, **keys}, "r")
    (item,) = training_items(record)
    assert item.question.endswith("Which?\nA. red\nB. blue\nC. 3")
    assert item.messages[-1]["content"] == answer
    with pytest.raises(SampleError, match="the options must be a list or a dictionary, got 'red, blue'"):
        training_items(Record({**record.data, "options": "red, blue"}, "r"))
