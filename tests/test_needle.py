"""The task needle: films of scenes that were encoded once, the same trials every time, one scorer and one report."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hicom_hf import FrameTiles
from hicom_hf.evaluation.evaluating import evaluate
from hicom_hf.evaluation.haystacks import SCENE_FRAMES, Cuts, EncodedScenes, Film, Part, encode_scenes
from hicom_hf.evaluation.needle_report import CHOSEN, EVENLY, EVERYTHING, GROUPS, METHODS, PLACES, WHOLE
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.tasks import needle_task
from hicom_hf.evaluation.tasks.needle import _as_tiles, _frames_of, _holds, hay_scenes, trials, usable_scenes
from hicom_hf.inference import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.shapes import Scene, render

LENGTHS = (64,)


@pytest.fixture(scope="module")
def session():
    return HiComSession.load(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def task():
    return needle_task(LENGTHS, count=1)


def test_questions_are_those_of_every_group_length_place_and_method(task):
    questions = task.read(None, "ours")
    assert len(questions) == len(GROUPS) * (1 + len(PLACES) * len(METHODS)) - 1  # no scene alone for the whole
    assert {question.details["group"] for question in questions} == set(GROUPS)
    for question in questions:
        if question.details["method"] in METHODS:
            starts = question.details["needles"]
            assert starts == sorted(starts) and all(0 <= start <= LENGTHS[0] - SCENE_FRAMES for start in starts)
            assert len(starts) == {WHOLE: 0, "two needles: order": 2}.get(question.details["group"], 1)
    longer = needle_task((320,), count=1).read(None, "ours")
    assert not any(question.details["method"] == EVERYTHING for question in longer)
    with pytest.raises(ValueError, match="multiples of 16 from 64 on, got 100"):
        needle_task((100,))


def test_nothing_in_the_haystack_may_be_called_what_the_question_names():
    for trial in trials(1, LENGTHS, "sparse")[:-1]:
        assert trial.names and sum(not _holds(scene, trial.names) for scene in hay_scenes("sparse", 48)) >= 4


def test_every_other_scene_of_a_film_about_the_whole_has_the_main_colour():
    trial, scenes = trials(1, LENGTHS, "sparse")[-1], hay_scenes("sparse", 48)
    usable = usable_scenes(scenes, trial, 0, 8)
    assert trial.question.answer == f"mostly {trial.theme} objects" and not trial.needles
    assert [scenes[place].theme for place in usable] == [trial.theme, ""] * 4


def test_another_seed_asks_about_other_scenes_among_others():
    first, other = (trials(1, LENGTHS, "sparse", seed)[0] for seed in (0, 1))
    assert first.needles[0].seed != other.needles[0].seed
    around = [{scene.seed for scene in hay_scenes("sparse", 48, seed)} for seed in (0, 1)]
    assert not around[0] & around[1]


def test_a_film_of_encoded_scenes_is_what_a_video_of_them_would_be(session):
    scenes = [Scene.from_seed(seed, clutter="sparse") for seed in (1, 2)]
    encoded = EncodedScenes(encode_scenes(session.model, session.processor, scenes), scenes)
    film = Film([Part(encoded, 1), Part(encoded, 0)], Cuts(session.model, session.processor))
    frames = torch.cat(
        [torch.from_numpy(render(scene, num_frames=SCENE_FRAMES)[0]) for scene in (scenes[1], scenes[0])]
    )
    video = session.open(frames.numpy(), num_frames=len(frames), selection=FrameSelection(num_frames=4))
    assert len(film) == len(video.candidates) == 2 * SCENE_FRAMES
    assert film.changes == pytest.approx(video.candidates.changes, abs=0.02)  # bfloat16 there
    taken = film.features.take([0, 20]), video.candidates.features.take([0, 20])
    assert torch.allclose(taken[0].float(), taken[1], atol=0.1)
    scorer = session.model.frame_scorer(session.processor.encode_instructions(["red circle"]))
    there, here = film.scores(session.model, [scorer]), video.candidates.scores(session.model, [scorer])
    assert torch.allclose(there, here, atol=0.3) and here.std() > 2


def test_frames_of_a_film_are_read_again_as_tiles(session):
    size, scenes = (56, 100), [Scene.from_seed(seed, clutter="sparse") for seed in (1, 2)]
    encoded = EncodedScenes(encode_scenes(session.model, session.processor, scenes, size=size), scenes, size)
    film = Film([Part(encoded, 1), Part(encoded, 0)], Cuts(session.model, session.processor))
    rows = (3, 20)
    frames = np.stack([render(scenes[1], 16, size)[0][3], render(scenes[0], 16, size)[0][4]])
    assert np.array_equal(film.frames(rows), frames)
    assert (film.sampling.height, film.sampling.width) == size
    question = Question("q", "v", "Where is it?", "the circle", details={"method": CHOSEN})
    selection = FrameSelection("uniform", num_frames=2)
    record = replace(_frames_of(session.model, session.processor, film, question, selection), frames=rows)
    how, known = (session.model, session.processor, film, question, record, FrameTiles()), {}
    seen = [_as_tiles(*how, known) for _ in range(2)]
    opened = session.open(frames, num_frames="all", tiles=FrameTiles())
    for one in seen:
        assert one.tiles == opened.choose("the circle") and one.video.sampling.indices == list(rows)
    assert len(known) == 1
    [(_, expected)] = opened._choose_all(["the circle"])
    assert torch.equal(seen[0].video.features["features"], expected.features["features"])


def test_a_film_of_scenes_that_are_scored_as_squares_is_what_a_video_of_them_would_be(session):
    size, tiles, scenes = (56, 100), FrameTiles(score_candidates=True), [Scene.from_seed(seed) for seed in (1, 2)]
    encoded = encode_scenes(session.model, session.processor, scenes, size=size, tiles=tiles)
    encoded = EncodedScenes(encoded, scenes, size, tiles)
    film = Film([Part(encoded, 1), Part(encoded, 0)], Cuts(session.model, session.processor))
    frames = film.frames(range(2 * SCENE_FRAMES))
    video = session.open(frames, num_frames="all", selection=FrameSelection(num_frames=4), tiles=tiles)
    assert film.changes == pytest.approx(video.candidates.changes, abs=0.02)  # the cut is measured in bfloat16
    scorer = session.model.frame_scorer(session.processor.encode_instructions(["red circle"]))
    there, here = film.scores(session.model, [scorer]), video.candidates.scores(session.model, [scorer])
    assert torch.allclose(there, here, rtol=0.01)


def test_the_size_of_frames_is_part_of_the_questions():
    plain, wide = (needle_task((64,), count=1, **size).read(None, "ours")[0] for size in ({}, {"size": (144, 256)}))
    assert "size" not in plain.details and wide.details["size"] == [144, 256]
    assert "of 256 x 144" in needle_task((64,), size=(144, 256)).title
    with pytest.raises(ValueError, match="size must be at least 48 pixels"):
        needle_task((64,), size=(20, 144))


@pytest.mark.slow
def test_a_run_reports_each_method_and_resumes(session, task, tmp_path):
    [some] = evaluate([task], session, tmp_path, limit=21)
    assert some["num_answered"] == 21 and "| | question | " in some["report"]
    answers = read_answers(tmp_path / "needle")
    before = {name: line["seconds"] for name, line in answers.items()}
    line = answers["attributes 0, question, 64 frames, 50%"]
    assert line["num_visual_tokens"] == 40 and len(line["times"]) == 8 and line["selection"]["used"] != "uniform"
    assert (tmp_path / "needle" / "summary.png").read_bytes().startswith(b"\x89PNG")
    [again] = evaluate([task], session, tmp_path, limit=42)
    assert again["num_answered"] == 42
    assert {
        name: line["seconds"] for name, line in read_answers(tmp_path / "needle").items() if name in before
    } == before
    chosen = [
        line["value"] for line in read_answers(tmp_path / "needle").values() if line["categories"]["method"] == CHOSEN
    ]
    assert again["score"]["mean"] == pytest.approx(100 * sum(chosen) / len(chosen))
    assert set(again["categories"]["method"]) >= {CHOSEN, EVENLY}


def test_sampling_that_has_no_meaning_is_refused(session, task, tmp_path):
    with pytest.raises(ValueError, match="needle makes its videos itself, so fps has no meaning"):
        evaluate([task], session, tmp_path, limit=1, asking=Asking({"fps": 1.0}))
    with pytest.raises(ValueError, match="so num_frames has no meaning"):
        asking = Asking({"num_frames": 100}, selection=FrameSelection(num_frames=4))
        evaluate([task], session, tmp_path / "other", limit=1, asking=asking)


@pytest.mark.slow
def test_the_frames_of_a_question_follow_its_rule(session, task, tmp_path):
    asking = Asking(selection=FrameSelection("uniform", num_frames=4))
    evaluate([task], session, tmp_path, limit=3, asking=asking)
    line = read_answers(tmp_path / "needle")["attributes 0, question, 64 frames, 0%"]
    assert line["selection"]["used"] == "uniform" and line["times"] == [8.0, 24.0, 39.0, 55.0]
