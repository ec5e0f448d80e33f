"""The index of records on disk: the same data set, opened at once, made once, shared; answers of one video together."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from started import processes
from training_runs import encoder_of, recipe, recipe_values, write_data, write_model

from hicom_hf import HiComProcessor
from hicom_hf.data import record_index
from hicom_hf.data.batch_sampling import HiComGroupedSampler
from hicom_hf.data.datasets import HiComDataset, RecordSource
from hicom_hf.data.epoch_padding import FILLER, FilledDataset, sampler_of
from hicom_hf.data.media_reader import MediaReader
from hicom_hf.data.mixtures import SamplingStrategy
from hicom_hf.data.record_index import MappedRecords
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import build_dataset, run_recipe

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


@pytest.fixture(scope="module")
def encoder(start):
    return encoder_of(HiComProcessor.from_pretrained(start[0]), 4)


def test_a_data_set_with_an_index_is_the_one_without(start, encoder, tmp_path):
    plain, indexed = HiComDataset(start[1], encoder), HiComDataset(start[1], encoder, index=tmp_path)
    assert isinstance(indexed.records, MappedRecords) and list(indexed.records) == list(plain.records)
    for name in ("lengths", "visual_tokens", "modalities", "media_numbers", "_places"):
        assert np.array_equal(getattr(indexed, name), getattr(plain, name)), name
    assert indexed.summary() == plain.summary()
    assert [indexed.item(number) for number in range(len(plain))] == [plain.item(n) for n in range(len(plain))]
    again = pickle.loads(pickle.dumps(indexed))  # to a process that was started afresh
    assert len(pickle.dumps(indexed.records)) < 500 and list(again.records) == list(plain.records)


def test_an_index_is_made_once_and_anew_when_something_changes(start, encoder, tmp_path, monkeypatch):
    made, make = [], record_index._make
    monkeypatch.setattr(record_index, "_make", lambda *arguments: made.append(1) or make(*arguments))
    data = tmp_path / "data.jsonl"
    lines = [json.dumps(record) for record in json.loads(start[1].read_text())]
    data.write_text("\n".join(lines))

    def opened(**options):
        return HiComDataset(data, encoder, start[1].parent, index=tmp_path / "index", **options)

    assert len(opened()) == len(opened()) == 11 and len(made) == 1
    opened(per_turn=False)
    assert len(made) == 2
    data.write_text("\n".join([*lines, "", lines[0]]))
    assert len(opened()) == 12 and len(made) == 3
    HiComDataset(data, encoder_of(encoder.processor, 8), start[1].parent, index=tmp_path / "index")
    assert len(made) == 4


def test_records_that_were_left_out_are_known_from_the_index(start, encoder, tmp_path):
    records = json.loads(start[1].read_text())
    records[1] = {"video": "a.mp4"}
    (tmp_path / "bad.json").write_text(json.dumps(records))
    skipped = [
        HiComDataset(tmp_path / "bad.json", encoder, on_bad_sample="skip", index=tmp_path / "index").skipped
        for _ in range(2)
    ]
    assert skipped[0] == skipped[1] and "record 1" in skipped[0][0].source
    with pytest.raises(ValueError, match="record 1"):
        HiComDataset(tmp_path / "bad.json", encoder, index=tmp_path / "raise")
    assert not list((tmp_path / "raise").iterdir())  # nothing that could be taken for an index
    with pytest.raises(TypeError, match="records in memory are not indexed"):
        HiComDataset(records[2:], encoder, index=tmp_path)


def open_it(data: str, model: str, index: str, said: str) -> None:
    """What one of several processes does."""
    from pathlib import Path

    from hicom_hf.data import record_index

    make = record_index._make

    def noting(*arguments):
        Path(said).write_text("made")
        make(*arguments)

    record_index._make = noting
    HiComDataset(data, encoder_of(HiComProcessor.from_pretrained(model), 4), index=index)


@pytest.mark.slow
def test_processes_that_open_it_at_once_make_it_once(start, tmp_path):
    started = [
        processes().Process(
            target=open_it,
            args=(str(start[1]), str(start[0]), str(tmp_path / "index"), str(tmp_path / f"said{number}")),
        )
        for number in range(3)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("said*"))) == 1
    assert len(list((tmp_path / "index").glob("*/index.json"))) == 1


def test_a_recipe_indexes_its_records_in_its_folder(start, tmp_path):
    dataset = build_dataset(recipe("alignment", *start, tmp_path / "out"), HiComProcessor.from_pretrained(start[0]))
    assert isinstance(dataset.records, MappedRecords) and dataset.records.folder.parent == tmp_path / "out" / "records"
    with_place = recipe("alignment", *start, tmp_path / "two", data={"index": str(tmp_path / "shared")})
    dataset = build_dataset(with_place, HiComProcessor.from_pretrained(start[0]))
    assert dataset.records.folder.parent == tmp_path / "shared"


def test_several_files_and_a_part_are_one_index(start, encoder, tmp_path):
    source = RecordSource([str(start[1]), str(start[1])], part=(0.4, 0, "held out"))
    dataset = HiComDataset(source, encoder, index=tmp_path)
    assert 0 < len(dataset) < 22 and len(dataset) % 2 == 0
    assert set(dataset.modalities.tolist()) <= {1, 2}


# Answers of one video ------------------------------------------------------------------------------------------------------


def test_answers_of_one_video_come_together_and_each_sample_once():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 300)
    units = rng.permutation(np.repeat(np.arange(300) * 7, sizes))  # samples of a video lie anywhere
    lengths = rng.integers(10, 100, len(units))
    for by_length in (False, True):
        sampler = HiComGroupedSampler(lengths, None, 16, 3, by_length, units=units, unit_batch=8)
        order = list(sampler)
        assert sorted(order) == list(range(len(units)))
        batches = [order[begin : begin + 8] for begin in range(0, len(order), 8)]
        decodes = sum(len({units[index] for index in batch}) for batch in batches)
        assert decodes <= 1.05 * 300  # one sample alone each: len(units), 2.5 times as many
        sampler.set_epoch(1)
        assert list(sampler) != order
        assert list(HiComGroupedSampler(lengths, None, 16, 3, by_length, units=units, unit_batch=8)) == order


def test_a_video_with_more_answers_than_a_batch_holds_is_divided():
    sampler = HiComGroupedSampler([1] * 21, None, 4, units=np.repeat([1, 2], (20, 1)), unit_batch=4)
    assert sorted(sampler) == list(range(21))


def test_the_order_without_units_is_that_of_lists():
    sampler = HiComGroupedSampler([5, 90, 6, 80, 7], [0, 2, 0, 2, 0], batch_size=2, seed=1)
    order = list(sampler)
    assert all(isinstance(index, int) for index in order)
    assert {frozenset(order[:2]), frozenset(order[2:4])} > {frozenset({1, 3})} and sorted(order) == [0, 1, 2, 3, 4]


def test_lists_of_frames_are_compared_by_their_paths_not_by_where_they_lie_in_memory(encoder, tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    turns = [{"from": "human", "value": "<video>Who?"}, {"from": "gpt", "value": "Ann."}]
    rows = [{"video": [[str(tmp_path / f"{name}.png")] * 4], "conversations": turns} for name in "abab"]
    data = tmp_path / "frames.json"
    data.write_text(json.dumps(rows))
    first, second = HiComDataset(data, encoder), HiComDataset(data, encoder)
    numbers = first.media_numbers.tolist()
    assert numbers[:2] == numbers[2:] and numbers[0] != numbers[1] and numbers == second.media_numbers.tolist()
    together = first.__getitems__(range(4))
    alone = [first[index] for index in range(4)]
    assert [torch.equal(one["pixel_values_videos"], alone[0]["pixel_values_videos"]) for one in together] == [
        True,
        False,
        True,
        False,
    ]


def test_a_batch_reads_each_of_its_videos_once(encoder, start, monkeypatch):
    dataset, read = HiComDataset(start[1], encoder), []
    frames = MediaReader.frames
    monkeypatch.setattr(MediaReader, "frames", lambda self, medium: read.append(medium.source) or frames(self, medium))
    filled = FilledDataset(dataset, 16)
    samples = filled.__getitems__([0, 2, 1, 13, 8])
    assert len(read) == 3 == len(set(read)) and samples[3] is FILLER
    assert samples[2]["input_ids"].tolist() == dataset[1]["input_ids"].tolist()
    order = list(sampler_of(dataset, 2, 0, None, together=2))
    media = [{dataset.media_numbers[index] for index in order[begin : begin + 2]} for begin in range(0, 11, 2)]
    assert sum(map(len, media)) <= 8  # 7 videos, images and texts; an odd one may divide a pair
    with pytest.raises(ValueError, match="answers_together needs a HiComDataset, got list"):
        sampler_of([1, 2], 2, 0, None, together=2)


def test_a_recipe_reads_the_videos_of_answers_that_stand_together_once(start, tmp_path, monkeypatch):
    read, frames = [], MediaReader.frames
    monkeypatch.setattr(MediaReader, "frames", lambda self, medium: read.append(medium.source) or frames(self, medium))
    data = {"answers_together": True, "group_by": "modality"}
    values = recipe_values("conditional_pretraining", *start, tmp_path, data=data, batch_size=2)
    run_recipe(recipe_from_dict(values))
    assert len(set(read)) == 5 and len(read) <= 6  # of 8 answers about 4 videos, and an image


# Upsampling ----------------------------------------------------------------------------------------------------------------


def test_random_may_take_more_than_all():
    strategy = SamplingStrategy.parse("random:250%")
    chosen = strategy.choose(10, "0:1")
    assert Counter(Counter(chosen).values()) == {2: 5, 3: 5} and chosen == strategy.choose(10, "0:1")
    with pytest.raises(ValueError, match=r"takes more than 100 %; more than all is random:150%"):
        SamplingStrategy.parse("first:150%")
