"""Streams: the samples are those of the same records in a file, each once, whatever the split."""

import builtins
import io
import json
import logging
import tarfile
from dataclasses import asdict
from itertools import islice

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training_runs import encoder_of
from video_files import write_video

from hicom_hf.data.bad_samples import SampleError, SkippedSample
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.encoding import ItemEncoder
from hicom_hf.data.epoch_padding import FILLER
from hicom_hf.data.row_sources import Reader
from hicom_hf.data.streaming import HiComStreamingDataset, StreamCollator, StreamPlace, StreamStart
from hicom_hf.data.tar_shards import expand_shards, tar_rows
from hicom_hf.training.stream_progress import StreamProgress

datasets = pytest.importorskip("datasets")


def record(number, question="<video>\nWho?", **media):
    turns = [("human", question), ("gpt", f"Number {number}."), ("human", "Why?"), ("gpt", "Why not.")]
    return {"id": number, **media, "conversations": [{"from": role, "value": value} for role, value in turns]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "three.mp4", 3)
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    return folder


def write_shard(path, samples):
    """`samples`: key -> (record, {suffix: content})."""
    with tarfile.open(path, "w") as archive:
        for key, (data, files) in samples.items():
            for suffix, content in {**files, "json": json.dumps(data).encode()}.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """Four shards: videos in three of them; images and text in the last."""
    shards = tmp_path_factory.mktemp("shards")
    video = (folder / "three.mp4").read_bytes()
    for shard in range(3):
        numbers = range(2 * shard, 2 * shard + 2)
        write_shard(shards / f"train-{shard:02}.tar", {f"a/{n:03}": (record(n), {"mp4": video}) for n in numbers})
    images = {"10.png": (folder / "blue.png").read_bytes(), "9.png": (folder / "red.png").read_bytes()}
    samples = {"006": (record(6, "<image><image>Same?"), images), "007": (record(7, "Hi"), {})}
    write_shard(shards / "train-03.tar", samples)
    return shards


def answers(samples, processor):
    """The first supervised words of each sample."""
    return [processor.tokenizer.decode(sample["labels"][sample["labels"] >= 0]).split("<")[0] for sample in samples]


def numbers(samples, processor):
    return [int(text.split()[1].strip(".")) for text in answers(samples, processor) if text.startswith("Number")]


def test_tar_shards_give_the_samples_of_the_same_records_in_a_file(folder, shards, processor):
    records = [record(n, video="three.mp4") for n in range(6)]
    records += [record(6, "<image><image>Same?", image=["red.png", "blue.png"]), record(7, "Hi")]
    expected = HiComDataset(records, encoder_of(processor, 2), folder)
    found = list(HiComStreamingDataset(str(shards / "train-*.tar"), encoder_of(processor, 2)))
    assert len(found) == len(expected) == 15
    for index, sample in enumerate(found):
        other = expected[index]
        assert set(sample) == set(other)
        assert all(torch.equal(sample[name], other[name]) for name in other if name != "decode_seconds")


def test_records_of_a_stream_have_their_own_numbers_of_frames(folder, processor, tmp_path):
    video = (folder / "three.mp4").read_bytes()
    samples = {str(n): (record(n, **({"num_frames": n} if n else {})), {"mp4": video}) for n in range(4)}
    shard = write_shard(tmp_path / "a.tar", samples)
    found = HiComStreamingDataset(str(shard), encoder_of(processor, 2))
    assert [sample["video_num_frames"].item() for sample in found] == [2, 2, 1, 1, 2, 2, 3, 3]  # two answers each


def test_keys_that_nothing_reads_are_named_once(folder, processor, tmp_path, caplog):
    samples = {f"{number}": (record(number, "Who?", source="web", start_time=number), {}) for number in range(3)}
    samples["3"] = (record(3, "Who?", source="web", stars=4), {})
    shard = write_shard(tmp_path / "a.tar", samples)
    assert len(list(HiComStreamingDataset(str(shard), encoder_of(processor, 2)))) == 4
    assert [line for line in caplog.messages if "nothing reads" in line] == [
        "keys of the records that nothing reads: source, start_time (start?)",
        "keys of the records that nothing reads: stars",
    ]


def test_a_video_is_read_once_for_all_answers_of_its_record(shards, processor, monkeypatch):
    dataset = HiComStreamingDataset(str(shards / "train-00.tar"), encoder_of(processor, 2))
    read = []
    original = dataset.encoder.read
    monkeypatch.setattr(dataset.encoder, "read", lambda medium: read.append(medium) or original(medium))
    assert len(list(dataset)) == 4
    assert len(read) == 2


def test_a_record_may_name_its_files(folder, tmp_path, processor):
    files = {"b.png": (folder / "blue.png").read_bytes(), "a.png": (folder / "red.png").read_bytes()}
    question = "<image>Colour?"
    samples = {
        "one": (record(1, question, image="b.png"), files),
        "two": (record(2, question, image="images/two.a.png"), files),
    }
    first, _, second, _ = HiComStreamingDataset(write_shard(tmp_path / "a.tar", samples), ItemEncoder(processor))
    assert first["pixel_values"][0, 0].mean() < second["pixel_values"][0, 0].mean()


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_records_without_overlap(shards, processor, world_size):
    seen = []
    for rank in range(world_size):
        dataset = HiComStreamingDataset(
            str(shards / "train-*.tar"),
            encoder_of(processor, 2),
            repeat=True,
            rank=rank,
            world_size=world_size,
        )
        (source,) = dataset.sources
        stream = [row["__files__"]["json"] for row, _ in source.rows(0, Reader(rank, world_size))]
        seen.extend(json.loads(content)["id"] for content in stream)
    assert sorted(seen) == list(range(8))


def test_the_processes_of_torchrun_are_known(shards, processor, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = HiComStreamingDataset(str(shards / "train-00.tar"), ItemEncoder(processor), repeat=True)
    assert (dataset.rank, dataset.world_size) == (1, 2)
    with pytest.raises(ValueError, match=r"needs repeat=True \(and max_steps"):
        HiComStreamingDataset(str(shards / "train-00.tar"), ItemEncoder(processor))


def test_loader_workers_share_the_shards(shards, processor):
    dataset = HiComStreamingDataset(str(shards / "train-0[012].tar"), encoder_of(processor, 2))
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=HiComDataCollator(processor))
    batches = list(loader)
    assert sum(len(batch["input_ids"]) for batch in batches) == 12


def test_shuffling_follows_seed_and_epoch_and_loses_nothing(shards, processor):
    def order(seed, epoch):
        dataset = HiComStreamingDataset(
            str(shards / "train-0[012].tar"),
            encoder_of(processor, 2),
            shuffle_buffer=10,
            seed=seed,
        )
        dataset.set_epoch(epoch)
        return numbers(dataset, processor)

    first = order(0, 0)
    assert sorted(first) == list(range(6))
    assert first == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) > 2


# Resuming --------------------------------------------------------------------------------------------------------------


def words_of(sample):
    return sample.source if isinstance(sample, SkippedSample) else tuple(sample["input_ids"].tolist())


class Recorded:
    """A stand-in for an encoder: tokenises, and notes what would be read of videos."""

    def __init__(self, monkeypatch, encoder):
        self.media = []

        def read(medium):
            self.media.append(medium)
            return 2, torch.zeros(2, 1)

        monkeypatch.setattr(encoder, "read", read)


def many_shards(folder, count=6, samples=5):
    """Shards of records with two answers each, whose videos are never decoded here."""
    for shard in range(count):
        numbers = range(shard * samples, (shard + 1) * samples)
        write_shard(folder / f"s-{shard}.tar", {f"{n:03}": (record(n), {"mp4": b"x"}) for n in numbers})
    (folder / "own.json").write_text(json.dumps([record(1000 + n, "Hi") for n in range(7)]))
    return str(folder / "s-*.tar")


@pytest.mark.parametrize(("buffer", "split"), [(0, (0, 1)), (4, (1, 2)), (4, (2, 4)), (100, (0, 1))])
def test_a_stream_goes_on_exactly_from_every_place_and_reads_only_what_is_to_come(
    buffer, split, processor, tmp_path, monkeypatch
):
    pattern = many_shards(tmp_path)
    sources = {pattern: 3, str(tmp_path / "own.json"): 1} if buffer == 4 else pattern

    def samples(start, number):
        options = {"shuffle_buffer": buffer, "repeat": True, "rank": split[0], "world_size": split[1]}
        dataset = HiComStreamingDataset(sources, encoder_of(processor, 2), **options)
        recorded = Recorded(monkeypatch, dataset.encoder)
        dataset.start_at(start)
        stream = iter(dataset)
        return [next(stream) for _ in range(number)], recorded.media

    whole, _ = samples(StreamStart(1), 87)  # more than an epoch
    for given in (1, 2, 7, 8, 9, 30, 60, 75):
        stored = json.loads(json.dumps(asdict(whole[given - 1].place)))
        place = StreamPlace(stored["draws"], tuple(stored["sources"]), stored["samples"])
        found, read = samples(StreamStart(1, given, {0: place}), given + 12)
        assert found[:given] == [FILLER] * given
        assert [words_of(one.sample) for one in found[given:]] == [
            words_of(one.sample) for one in whole[given : given + 12]
        ]
        assert [one.place for one in found[given:]] == [one.place for one in whole[given : given + 12]]
        assert len(read) <= 7  # of 12 samples, two of a record: the first record may be begun already


def test_a_stream_that_goes_on_opens_no_shard_that_it_has_finished(processor, tmp_path, monkeypatch):
    pattern = many_shards(tmp_path, count=30)
    opened, original = [], tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(1) or original(*a, **k))

    def samples(start, number):
        dataset = HiComStreamingDataset(pattern, encoder_of(processor, 2), repeat=True)
        Recorded(monkeypatch, dataset.encoder)
        dataset.start_at(start)
        opened.clear()
        stream = iter(dataset)
        return [next(stream) for _ in range(number)]

    whole = samples(StreamStart(1), 200)
    assert len(opened) == 20  # ten samples in each
    found = samples(StreamStart(1, 190, {0: whole[189].place}), 200)
    assert len(opened) <= 2 and words_of(found[-1].sample) == words_of(whole[-1].sample)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_loader_workers_go_on_where_they_were(num_workers, shards, processor, tmp_path):
    def batches(start, number):
        dataset = HiComStreamingDataset(
            str(shards / "train-0[012].tar"), encoder_of(processor, 2), shuffle_buffer=3, repeat=True
        )
        assert dataset.num_shards == 3
        progress = StreamProgress(dataset, 3, num_workers, process=0)
        progress.begin(start)
        collator = StreamCollator(HiComDataCollator(processor))
        loader = iter(DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=collator))
        return [next(loader) for _ in range(number)], progress

    whole, progress = batches(None, 8)
    for batch in whole[:5]:
        progress.note(batch)
    progress.write(tmp_path)
    resumed, progress = batches(tmp_path, 8)
    assert resumed[:5] == [{}] * 5
    assert progress.num_batches == 5 and len(progress.places) == max(1, num_workers)
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(resumed[5:], whole[5:], strict=True))


def test_a_place_of_another_order_is_refused(shards, processor, tmp_path):
    def progress(num_workers=2, batch_size=3, process=0, **options):
        dataset = HiComStreamingDataset(str(shards / "train-*.tar"), encoder_of(processor, 2), repeat=True, **options)
        return StreamProgress(dataset, batch_size, num_workers, process)

    progress().write(tmp_path)
    progress().begin(tmp_path)
    with pytest.raises(ValueError, match=r"another order of the stream, .* num_workers \(was 2, is 3\)"):
        progress(num_workers=3).begin(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size \(was 3, is 4\)"):
        progress(batch_size=4).begin(tmp_path)
    with pytest.raises(ValueError, match=r"seed \(was 0, is 1\)"):
        progress(seed=1).begin(tmp_path)
    with pytest.raises(ValueError, match=r"does not say where its run was .* \(no stream_1.json\)"):
        progress(process=1).begin(tmp_path)


def test_streams_that_cannot_be_read_from_a_place_are_refused(shards, processor):
    with pytest.raises(ValueError, match="only a repeated stream"):
        HiComStreamingDataset(str(shards / "train-00.tar"), ItemEncoder(processor)).start_at(StreamStart(1))
    rows = datasets.Dataset.from_list([record(n, "Hi") for n in range(4)]).to_iterable_dataset().shuffle(seed=0)
    with pytest.raises(ValueError, match="has a shuffle buffer of its own"):
        HiComStreamingDataset(rows, ItemEncoder(processor), repeat=True).start_at(StreamStart(1))


def test_records_that_are_skipped_count_when_a_stream_is_resumed(folder, processor, tmp_path):
    samples = {"a": ({"video": "x.mp4"}, {}), "b": (record(1, "Hi"), {}), "c": (record(2, "Hi"), {})}
    shard = write_shard(tmp_path / "a.tar", samples)

    def stream(start):
        dataset = HiComStreamingDataset(str(shard), ItemEncoder(processor), on_bad_sample="skip", repeat=True)
        dataset.start_at(start)
        return iter(dataset)

    whole = stream(StreamStart(2))
    place = [next(whole) for _ in range(2)][1].place
    resumed = stream(StreamStart(2, 1, {0: place}))
    assert [next(resumed) for _ in range(2)] == [FILLER, FILLER]
    assert words_of(next(resumed).sample) == words_of(next(whole).sample)


# Mixtures --------------------------------------------------------------------------------------------------------------


def test_streams_and_files_are_mixed_by_their_shares_and_each_begins_again(processor, tmp_path):
    pattern = many_shards(tmp_path)
    sources = {pattern: 2, str(tmp_path / "own.json"): 1}
    dataset = HiComStreamingDataset(sources, encoder_of(processor, 2), repeat=True, shuffle_buffer=5)
    assert dataset.num_shards == 6  # the fewer of 6 shards and 7 records
    rows = (row for row, _, _ in dataset._rows(Reader(0, 1), StreamPlace()))
    found = [dataset._items(row)[0].messages[1]["content"] for row in islice(rows, 600)]
    found = [int(answer.split()[1].strip(".")) for answer in found]
    own = [number for number in found if number >= 1000]
    assert 0.28 < len(own) / len(found) < 0.38
    for first in range(0, len(own) - 7, 7):
        assert sorted(own[first : first + 7]) == list(range(1000, 1007))  # each once an epoch
    epochs = {tuple(own[first : first + 7]) for first in range(0, len(own) - 7, 7)}
    assert len(epochs) > 10  # in other orders
    others = [number for number in found if number < 1000]
    assert sorted(others[:30]) == sorted(others[30:60]) == list(range(30))


def test_readers_share_the_records_of_a_file(processor, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps([record(n, "Hi") for n in range(11)]))
    source = HiComStreamingDataset(path, ItemEncoder(processor), shuffle_buffer=1, repeat=True).sources[0]
    seen = [
        row.data["id"]
        for rank in range(2)
        for worker in range(3)
        for row, _ in source.rows(0, Reader(rank, 2, worker, 3))
    ]
    assert sorted(seen) == list(range(11)) != seen


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({"a.tar": 1.0, "b.tar": 0}, {"repeat": True}, "needs a share above 0"),
        ({}, {"repeat": True}, "needs a share above 0"),
        ({"a.tar": 1, "b.tar": 1}, {}, "several sources need repeat=True"),
    ],
)
def test_wrong_shares_are_refused(sources, options, message, processor):
    with pytest.raises(ValueError, match=message):
        HiComStreamingDataset(sources, ItemEncoder(processor), **options)


def test_a_repeated_stream_goes_on(shards, processor):
    stream = iter(HiComStreamingDataset(str(shards / "train-00.tar"), encoder_of(processor, 2), repeat=True))
    assert numbers([next(stream) for _ in range(10)], processor) == [0, 1, 0, 1, 0]


def test_a_hub_data_set_in_chat_format_with_pictures_in_its_columns(folder, processor):
    messages = [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "No."}]
    pictures = [{"bytes": (folder / name).read_bytes(), "path": None} for name in ("red.png", "blue.png")]
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "images": datasets.List(datasets.Image()),
        }
    )
    source = datasets.Dataset.from_dict({"messages": [messages], "images": [pictures]}, features=features)
    expected = HiComDataset(
        [{"messages": messages, "images": ["red.png", "blue.png"]}], ItemEncoder(processor), folder
    )[0]
    for stream in (source, source.to_iterable_dataset()):
        (sample,) = HiComStreamingDataset(stream, ItemEncoder(processor))
        assert torch.equal(sample["input_ids"], expected["input_ids"])
        assert torch.equal(sample["pixel_values"], expected["pixel_values"])


def test_shards_that_datasets_opens_itself_give_the_same_samples(shards, processor):
    files = [str(shards / f"train-{shard:02}.tar") for shard in range(3)]
    opened = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    expected = list(HiComStreamingDataset(files, encoder_of(processor, 2)))
    found = list(HiComStreamingDataset(opened, encoder_of(processor, 2)))
    assert numbers(found, processor) == list(range(6))
    for sample, other in zip(found, expected, strict=True):
        assert all(torch.equal(sample[name], other[name]) for name in other if name != "decode_seconds")


def test_a_folder_with_json_lines_and_relative_paths(folder, tmp_path, processor):
    lines = [record(1, video="three.mp4"), {key: value for key, value in record(2, "Hi").items()}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    samples = list(HiComStreamingDataset(tmp_path, encoder_of(processor, 2), folder))
    assert ["pixel_values_videos" in sample for sample in samples] == [True, True, False]


def test_media_behind_another_protocol_are_fetched_with_fsspec(folder, processor):
    import fsspec

    with fsspec.open("memory://videos/three.mp4", "wb") as file:
        file.write((folder / "three.mp4").read_bytes())
    source = datasets.Dataset.from_list([record(1, video="three.mp4"), record(2, video="four.mp4")])
    stream = iter(HiComStreamingDataset(source, encoder_of(processor, 2), "memory://videos"))
    assert next(stream)["video_num_frames"].tolist() == [2]
    next(stream)
    with pytest.raises(SampleError, match=r"memory://videos/four.mp4: missing media"):
        next(stream)


# What cannot be used ---------------------------------------------------------------------------------------------------


BAD_SAMPLES = {
    "nojson": (None, {"mp4": b"x"}, "the sample has neither nojson.json nor nojson.txt"),
    "odd": ({"conversations": []}, {}, "odd turns"),
    "gone": (record(1, video="other.mp4"), {"mp4": b"x"}, "missing media: 'other.mp4' is none of the sample's files"),
    "half": (record(1), {"mp4": b"x" * 100}, "unreadable media"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_stops_with_shard_and_key_or_is_skipped_and_logged(name, tmp_path, processor, caplog):
    data, files, message = BAD_SAMPLES[name]
    path = write_shard(tmp_path / "bad.tar", {name: (data, files)})
    if data is None:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("nojson.mp4"), io.BytesIO())
    with pytest.raises(SampleError, match=rf"bad.tar: {name}.*{message}"):
        list(HiComStreamingDataset(path, ItemEncoder(processor)))
    with caplog.at_level(logging.WARNING):
        found = list(HiComStreamingDataset(path, ItemEncoder(processor), on_bad_sample="skip"))
    assert found and all(isinstance(sample, SkippedSample) for sample in found)
    assert name in caplog.text


def test_a_record_that_is_not_json_is_named(tmp_path, processor):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("key.json")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"{"))
    with pytest.raises(SampleError, match=r"a.tar: key: bad record: key.json is not JSON"):
        list(HiComStreamingDataset(tmp_path / "a.tar", ItemEncoder(processor)))


def test_an_archive_that_is_cut_off_is_an_error_with_its_path(shards, tmp_path):
    (tmp_path / "cut.tar").write_bytes((shards / "train-00.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut.tar: this is no complete tar archive"):
        list(tar_rows([str(tmp_path / "cut.tar")]))


def test_shard_patterns_are_expanded(shards, tmp_path):
    assert expand_shards("a-{098..100}.tar") == ["a-098.tar", "a-099.tar", "a-100.tar"]
    assert expand_shards(str(shards / "train-0[01].tar")) == [str(shards / f"train-0{n}.tar") for n in (0, 1)]
    with pytest.raises(ValueError, match="no tar shard matches"):
        expand_shards(str(tmp_path / "*.tar"))


def test_wrong_sources_are_refused(processor):
    with pytest.raises(TypeError, match=r"source must be a datasets.IterableDataset, .* got int"):
        HiComStreamingDataset(3, ItemEncoder(processor))
    with pytest.raises(ValueError, match="several sources must all be tar shards"):
        HiComStreamingDataset(["a.tar", "b.json"], ItemEncoder(processor))
    with pytest.raises(ValueError, match="on_bad_sample must be"):
        HiComStreamingDataset("a.tar", ItemEncoder(processor), on_bad_sample="replace")


def test_without_datasets_the_error_names_what_to_install(processor, monkeypatch):
    real_import = builtins.__import__

    def without_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ImportError, match=r"pip install hicom_hf\[train\]"):
        HiComStreamingDataset("a.tar", ItemEncoder(processor))
