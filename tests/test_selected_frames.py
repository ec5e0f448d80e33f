"""Selection in training: a sample reads the frames that its question chooses in a session; chosen once, refused where wrong."""

import json

import numpy as np
import pytest
import torch
from training_runs import encoder_of, recipe, write_model
from video_files import write_truncated_video, write_video

from hicom_hf import FrameSampling, FrameSelection, HiComSession
from hicom_hf.data import selected_frames as module
from hicom_hf.data.bad_samples import SampleError, SkippedSample
from hicom_hf.data.checking import check_data
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.conversations import training_items
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.encoding import ItemEncoder
from hicom_hf.data.feature_cache import FeatureCache
from hicom_hf.data.record_media import Record
from hicom_hf.data.selected_frames import SelectedFrames
from hicom_hf.training.held_out import HeldOutGroups
from hicom_hf.training.run import build_trainer, check_run, run_recipe
from hicom_hf.training.trainer_arguments import training_arguments

NUM_CANDIDATES = 20  # of 40 frames
# A random model finds nothing outstanding: the best shot is taken all the same.
SELECTION = {"num_frames": 4, "max_p_value": 1.0}
WIDER = {**SELECTION, "num_frames": 8}
STAGE = "conditional_pretraining"


def record(question, answer="Ann.", **media):
    return {**media, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    scenes = np.random.default_rng(0).integers(0, 255, (10, 6, 6, 3), dtype=np.uint8)
    frames = scenes.repeat(4, 0).repeat(8, 1).repeat(8, 2)  # (40, 48, 48, 3)
    write_video(folder / "film.mp4", 40, frames=frames)
    write_video(folder / "other.mp4", 40, frames=frames[::-1].copy())
    write_truncated_video(folder / "broken.mp4")
    return folder


@pytest.fixture
def records():
    return [
        record("<video>\nWhat colour is the moon?", video="film.mp4"),
        record("<video>\nIs it a dog or a cat?", video="film.mp4"),
        record("<video>\nWho runs?", video="other.mp4"),
        record("Hello"),
    ]


def dataset_of(records, processor, folder, selection=SELECTION, **options):
    selection = None if selection is None else FrameSelection(**selection)
    return HiComDataset(records, encoder_of(processor, NUM_CANDIDATES, selection=selection), folder, **options)


def chosen_by(dataset, model, folder, **options):
    """Let all questions of a data set choose."""
    encoder = dataset.encoder
    encoder.selected_frames = SelectedFrames(folder, model, encoder.processor, encoder.reader)
    return encoder.selected_frames.fill(model, dataset.items(), **options)


def indices_of(dataset):
    """Numbers of the frames that each sample reads."""
    samples = map(dataset.item, range(len(dataset)))
    return [medium.indices for item in samples for medium in dataset.encoder.media(item)]


def of_session(model, processor, path, question, selection=SELECTION):
    """What a session chooses: numbers of frames of the file, and the features that the question sees."""
    session = HiComSession(model, processor)
    film = session.open(str(path), num_frames=NUM_CANDIDATES, selection=FrameSelection(**selection))
    answer = film.ask(question, max_new_tokens=1)
    indices = tuple(film.candidates.sampling.indices[frame] for frame in answer.selection.frames)
    return indices, film.chosen(answer.selection).encoded.features["features"]


# The same frames as at inference -----------------------------------------------------------------------------------------


def test_a_sample_reads_the_frames_that_its_question_chooses_in_a_session(model, processor, folder, records, tmp_path):
    dataset = dataset_of(records, processor, folder)
    assert chosen_by(dataset, model, tmp_path) == []
    expected = [
        of_session(
            model, processor, folder / entry["video"], entry["conversations"][0]["value"].removeprefix("<video>\n")
        )
        for entry in records[:3]
    ]
    assert indices_of(dataset) == [indices for indices, _ in expected]
    assert expected[0][0] != expected[1][0]  # the test would see the frames of another question
    for sample, (_, features) in zip(map(dataset.__getitem__, range(3)), expected, strict=True):
        assert sample["video_num_frames"].tolist() == [4]
        found = model.encode_videos(sample["pixel_values_videos"], sample["video_num_frames"])["features"]
        # float32: the tower adds up in another order for other numbers of frames at a time
        torch.testing.assert_close(found, features, atol=1e-4, rtol=0)


def test_a_record_asks_for_itself(model, processor, folder, records, tmp_path):
    records[1]["selection"] = WIDER
    dataset = dataset_of(records, processor, folder, selection=None)
    assert dataset.num_choosing == 1
    chosen_by(dataset, model, tmp_path)
    indices, _ = of_session(model, processor, folder / "film.mp4", "Is it a dog or a cat?", WIDER)
    assert indices_of(dataset) == [None, indices, None]
    assert [dataset[number]["video_num_frames"].tolist() for number in range(3)] == [[20], [8], [20]]


def test_each_answer_of_a_dialogue_has_frames_of_its_own(model, processor, folder, tmp_path):
    dialogue = record("<video>\nWhat colour is the moon?", video="film.mp4")
    dialogue["conversations"] += record("Is it a dog or a cat?")["conversations"]
    dataset = dataset_of([dialogue], processor, folder)
    chosen_by(dataset, model, tmp_path)
    questions = ("What colour is the moon?", "Is it a dog or a cat?")
    expected = [of_session(model, processor, folder / "film.mp4", question)[0] for question in questions]
    assert indices_of(dataset) == expected and expected[0] != expected[1]


def test_lengths_are_those_of_the_chosen_frames(processor, folder, records):
    dataset = dataset_of(records, processor, folder)
    assert dataset.num_choosing == 3
    assert dataset.visual_tokens.tolist() == [*[processor.num_visual_tokens(4)] * 3, 0]
    records[0]["selection"] = SELECTION
    report = check_data(records[:1], processor, folder, num_frames=NUM_CANDIDATES)
    assert report.lengths == [len(dataset.encoder.tokenize(dataset.item(0), [processor.num_visual_tokens(4)])[0])]


def test_cached_features_are_those_of_the_chosen_frames(processor, folder, records, tmp_path, model):
    plain, cached = dataset_of(records, processor, folder), dataset_of(records, processor, folder)
    for dataset in (plain, cached):
        chosen_by(dataset, model, tmp_path)
    model.model.vision_tower.requires_grad_(False)
    try:
        cached.encoder.feature_cache = FeatureCache(tmp_path / "cache", model, cached.encoder.reader)
        cached.encoder.feature_cache.fill(model, cached.media(), report=lambda line: None)
    finally:
        model.model.vision_tower.requires_grad_(True)
    assert len(cached.encoder.feature_cache) == 3
    collator = HiComDataCollator(processor)
    with torch.no_grad():
        expected, found = (model(**collator([one[0], one[1], one[2]])).logits for one in (plain, cached))
    # float32: the tower adds up in another order for other numbers of frames at a time
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_held_out_samples_about_one_video_are_read_apart(model, processor, folder, records, tmp_path):
    dataset = dataset_of(records[:2], processor, folder)
    chosen_by(dataset, model, tmp_path)
    groups = HeldOutGroups(dataset, None, seed=0)
    assert len(groups) == 2
    read = [group.media[0] for group in (groups[0], groups[1])]
    assert not torch.equal(read[0], read[1])


# Chosen once --------------------------------------------------------------------------------------------------------------


def test_what_is_chosen_is_not_chosen_again(model, processor, folder, records, tmp_path, monkeypatch):
    dataset = dataset_of(records, processor, folder)
    encoded = []
    encode = module.encode_candidates
    monkeypatch.setattr(
        module, "encode_candidates", lambda *args, **options: encoded.append(args[2]) or encode(*args, **options)
    )
    chosen_by(dataset_of(records[:1], processor, folder), model, tmp_path)
    chosen_by(dataset, model, tmp_path)
    expected = indices_of(dataset)
    film, other = str(folder / "film.mp4"), str(folder / "other.mp4")
    assert encoded == [film, film, other]  # the second time for its other question
    again = dataset_of(records, processor, folder)
    chosen_by(again, model, tmp_path)
    assert len(encoded) == 3
    assert indices_of(again) == expected


def test_other_settings_choose_anew(model, processor, folder, records, tmp_path):
    selected = []
    for number, selection in (
        (NUM_CANDIDATES, SELECTION),
        (NUM_CANDIDATES, WIDER),
        (40, SELECTION),
    ):
        encoder = encoder_of(processor, number, selection=FrameSelection(**selection))
        dataset = HiComDataset(records[:1], encoder, folder)
        chosen_by(dataset, model, tmp_path)
        selected.append(indices_of(dataset)[0])
    assert [len(indices) for indices in selected] == [4, 8, 4]
    assert selected[2] != selected[0]


def test_other_weights_choose_anew(model, processor, folder, records, tmp_path):
    dataset = dataset_of(records[:1], processor, folder)
    chosen_by(dataset, model, tmp_path)
    before = dataset.encoder.selected_frames.folder
    weight = model.model.instruction_encoder.state_dict()["head.weight"]
    original = weight.clone()
    weight.zero_()
    try:
        chosen_by(dataset, model, tmp_path)
    finally:
        weight.copy_(original)
    assert dataset.encoder.selected_frames.folder != before


def test_processes_share_the_videos(model, processor, folder, records, tmp_path):
    dataset = dataset_of(records, processor, folder)
    counts = []
    for rank in range(2):
        chosen_by(dataset, model, tmp_path / str(rank), rank=rank, world_size=2)
        counts.append(len(dataset.encoder.selected_frames))
    assert sum(counts) == 3  # a video belongs to one process, whichever
    chosen_by(dataset, model, tmp_path / "0", rank=1, world_size=2)
    assert len(dataset.encoder.selected_frames) == 3
    alone = dataset_of(records, processor, folder)
    chosen_by(alone, model, tmp_path / "alone")
    assert indices_of(dataset) == indices_of(alone)


def test_candidates_are_different_frames_also_where_short_videos_repeat_theirs(
    model, processor, folder, records, tmp_path
):
    sampling = FrameSampling(num_frames=50, short_video="repeat")  # the video has 40
    encoder = ItemEncoder(processor, sampling, selection=FrameSelection(**SELECTION))
    dataset = HiComDataset(records[:1], encoder, folder)
    chosen_by(dataset, model, tmp_path)
    [indices] = indices_of(dataset)
    assert len(set(indices)) == 4


def test_a_video_that_cannot_be_read_is_named_or_skipped(model, processor, folder, records, tmp_path):
    entries = [records[0], record("<video>\nWho?", video="broken.mp4")]
    with pytest.raises(SampleError, match=r"broken\.mp4: unreadable media"):
        chosen_by(dataset_of(entries, processor, folder), model, tmp_path)
    dataset = dataset_of(entries, processor, folder, on_bad_sample="skip")
    assert len(chosen_by(dataset, model, tmp_path, on_bad_sample="skip")) == 1
    assert dataset[0]["video_num_frames"].tolist() == [4]
    assert isinstance(dataset[1], SkippedSample)
    assert [medium.indices is not None for medium in dataset.media()] == [True]


# A run --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory, folder):
    """A model and a file of records."""
    path = folder / "train.json"
    entries = [
        record(f"<video>\n{question}", video="film.mp4") for question in ("What colour?", "Is it a dog or a cat?")
    ]
    path.write_text(json.dumps(entries))
    return write_model(tmp_path_factory.mktemp("model") / "model"), path


def selecting(start, output_dir, stage=STAGE, /, **changes):
    data = {"num_frames": NUM_CANDIDATES, "selection": SELECTION, **changes.pop("data", {})}
    return recipe(stage, *start, output_dir, data=data, batch_size=2, **changes)


def test_a_run_trains_on_the_chosen_frames_and_the_next_one_opens_them(
    start, folder, tmp_path, monkeypatch, no_curves
):
    shared = {"data": {"index": str(tmp_path / "index")}}
    read = set()
    frames = module.MediaReader.frames
    monkeypatch.setattr(
        module.MediaReader, "frames", lambda self, medium: read.add(medium.indices) or frames(self, medium)
    )
    assert run_recipe(selecting(start, tmp_path / "first", max_steps=1, **shared)) is not None
    model, processor = HiComSession.load(start[0]).model, HiComSession.load(start[0]).processor
    questions = ("What colour?", "Is it a dog or a cat?")
    assert read == {of_session(model, processor, folder / "film.mp4", question)[0] for question in questions}
    monkeypatch.setattr(module, "encode_candidates", None)  # nothing is encoded again
    run = selecting(start, tmp_path / "second", **shared)
    dataset = build_trainer(run, training_arguments(run)).train_dataset
    assert set(indices_of(dataset)) == read


def test_check_says_that_questions_choose(start, tmp_path):
    table = check_run(selecting(start, tmp_path)).table()
    assert "the questions of 2 samples choose frames" in table
    assert ", 4 frames each)" in table


# Refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("alignment", {}, r"data\.selection must be null in the stage alignment: no question chooses"),
        (STAGE, {"data": {"files": ["a.tar"]}, "max_steps": 1}, r"data\.selection must be null with streams"),
        (
            "instruction_tuning",
            {"learning_rates": {"vision_head": 1e-6}},
            r"data\.selection must be null while learning_rates\.vision_head is set",
        ),
        (
            "instruction_tuning",
            {"learning_rates": {"instruction_encoder": 1e-6}},
            r"data\.selection must be null while learning_rates\.instruction_encoder is set",
        ),
        (STAGE, {"data": {"selection": {"max_video_tokens": 40}}}, r"data\.selection\.num_frames is missing"),
        (STAGE, {"data": {"selection": {"rule": "question"}}}, r"data\.selection: a selection needs one budget"),
        (STAGE, {"data": {"selection": {"num_frames": 8, "rules": "x"}}}, r"unknown key data\.selection\.rules"),
    ],
)
def test_recipes_in_which_no_choice_would_be_right_are_refused(stage, changes, message, start, tmp_path):
    with pytest.raises(ValueError, match=message):
        selecting(start, tmp_path, stage, **changes)


def test_records_that_choose_are_refused_where_the_scores_are_trained(start, folder, tmp_path):
    path = folder / "own.json"
    path.write_text(json.dumps([record("<video>\nWho?", video="film.mp4", selection=SELECTION)]))
    data = {"files": [str(path)], "selection": None}
    rates = {"learning_rates": {"vision_head": 1e-6}}
    with pytest.raises(ValueError, match=r'records must have no "selection" while learning_rates\.vision_head is set'):
        check_run(selecting(start, tmp_path, "instruction_tuning", data=data, **rates))
    with pytest.raises(SampleError, match='"selection" needs a question for each answer'):
        check_run(selecting(start, tmp_path, "alignment", data=data))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (8, r'"selection" 8: it must be a dictionary'),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"frames": 8}, "FrameSelection has no field 'frames'; its fields are rule, num_frames, "),
        ({"max_video_tokens": 40}, "its budget must be num_frames"),
    ],
)
def test_a_record_whose_request_makes_no_sense_is_named(selection, message):
    with pytest.raises(SampleError, match=rf"here: bad record: .*{message}"):
        training_items(Record(record("<video>Who?", video="a.mp4", selection=selection), "here"))


def test_without_a_model_a_sample_says_what_is_missing(processor, folder, records):
    with pytest.raises(SampleError, match="its question is to choose the frames of its video"):
        dataset_of(records, processor, folder)[0]
