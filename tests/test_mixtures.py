"""Mixtures: which records of which file are taken."""

import json

import pytest

from hicom_hf.data.datasets import HiComDataset, load_records
from hicom_hf.data.encoding import ItemEncoder
from hicom_hf.data.mixtures import SamplingStrategy, mixture_records


def numbered(count, prefix):
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]
    return [{"id": f"{prefix}{number}", "conversations": turns} for number in range(count)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(numbered(10, "a")))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, numbered(7, "b"))))
    return tmp_path


def ids(records):
    return [record.data["id"] for record in records]


def mixture(folder, *sources):
    path = folder / "mixture.yaml"
    path.write_text(json.dumps({"datasets": list(sources)}))  # JSON is YAML
    return path


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first:25%", [0, 1, 2]),  # 2.5, rounded up
        ("end:0.1%", [9]),
        ("first:0", []),
        ("end:0", []),
        ("end:100%", list(range(10))),
    ],
)
def test_counts_and_percentages_are_taken_from_the_named_end(strategy, expected):
    assert SamplingStrategy.parse(strategy).choose(10, "seed") == expected


def test_random_is_a_sample_without_repeats_fixed_by_the_seed():
    strategy = SamplingStrategy.parse("random:40%")
    chosen = strategy.choose(1000, "0:1")
    assert len(set(chosen)) == 400
    assert chosen == strategy.choose(1000, "0:1") == sorted(chosen)
    assert chosen != strategy.choose(1000, "1:1")
    assert 150 < sum(index < 500 for index in chosen) < 250


def test_percentages_are_exact_in_decimal():
    assert SamplingStrategy.parse("first:55%").count(100) == 55  # 0.55 * 100 is 55.00000000000001 in floating point


@pytest.mark.parametrize(
    "strategy", ["last:3", "first", "first:-1", "first:1.5", "first:101%", "first:3 %", "", None, 3]
)
def test_another_strategy_is_refused(strategy):
    with pytest.raises(ValueError, match=r"sampling_strategy"):
        SamplingStrategy.parse(strategy)


def test_a_mixture_is_its_data_sets_one_after_the_other(folder):
    path = mixture(
        folder,
        {"json_path": "a.json", "sampling_strategy": "end:2"},
        {"json_path": "b.jsonl", "media_root": "clips"},
    )
    records = list(mixture_records(path))
    assert ids(records) == ["a8", "a9", *(f"b{number}" for number in range(7))]
    assert records[0].media_root == str(folder)
    assert records[-1].media_root == str(folder / "clips")
    assert next(mixture_records(path, "/elsewhere")).media_root == "/elsewhere"
    assert records[0].source == f"{folder / 'a.json'}: record 8 (id a8)"


def test_the_same_file_twice_draws_differently_and_the_seed_repeats_it(folder):
    source = {"json_path": "a.json", "sampling_strategy": "random:5"}
    path = mixture(folder, source, source)
    drawn = ids(load_records(path, seed=3))
    assert drawn[:5] != drawn[5:]
    assert drawn == ids(load_records(path, seed=3)) != ids(load_records(path, seed=4))


def test_a_data_set_opens_a_mixture(folder, processor):
    assert len(HiComDataset(mixture(folder, {"json_path": "a.json"}), ItemEncoder(processor))) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "this is not YAML"),
        ("- a.json", 'a mixture has one key, "datasets"'),
        ("datasets: a.json", 'a mixture has one key, "datasets", with a list'),
        ("datasets: []\nseed: 1", 'a mixture has one key, "datasets"'),
        ("datasets: [{path: a.json}]", 'data set 1 must have the key "json_path"'),
        ("datasets: [{json_path: a.json, weight: 2}]", "data set 1 has unknown keys weight"),
        (
            "datasets: [{json_path: a.json, sampling_strategy: 'first:11'}]",
            r"data set 1 \(a.json\): first:11 asks for more",
        ),
        (
            "datasets: [{json_path: a.json, sampling_strategy: most}]",
            r"data set 1 \(a.json\): sampling_strategy must be",
        ),
    ],
)
def test_a_mixture_that_cannot_be_used_is_an_error_with_its_place(folder, content, message):
    (folder / "mixture.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"mixture.yaml: {message}"):
        list(mixture_records(folder / "mixture.yaml"))


def test_a_missing_file_of_a_mixture_is_an_error_with_its_path(folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere.json"):
        list(mixture_records(mixture(folder, {"json_path": "nowhere.json"})))
