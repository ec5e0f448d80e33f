"""`hicom demo`: its parts on tiny random weights, the command on the packaged model."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from hicom_hf.assets import example_scene, example_videos
from hicom_hf.cli.main import main
from hicom_hf.inference.demo import (
    GENERAL_QUESTIONS,
    ask_all,
    attention_picture,
    choose_questions,
    explained_questions,
    make_video,
    seen_cover,
)
from hicom_hf.processors.answering_hicom import answer_question
from hicom_hf.shapes import Scene, patch_cover, render


@pytest.fixture(scope="module")
def scene():
    return Scene.from_seed(**example_scene(example_videos()[2]))


@pytest.fixture(scope="module")
def asked(model, processor, scene):
    """The wide example, 144 x 192, 16 frames of which the tiny processor takes all."""
    return ask_all(model, processor, example_videos()[2], scene)


def demo(tmp_path, *arguments):
    return main(["demo", "--output", str(tmp_path / "demo.png"), *map(str, arguments)])


# Its parts -------------------------------------------------------------------------------------------------------------


def test_a_new_video_is_made_of_its_seed_alone(tmp_path):
    one, other, third = (make_video(tmp_path, seed) for seed in (4, 4, 5))
    assert one == other and one[1] != third[1]
    assert one[1] == Scene.from_seed(4, "normal", "test")
    assert one[0].suffix == ".mp4" and one[0].stat().st_size > 10_000


def test_there_is_one_question_of_each_kind(scene):
    kinds = [question.kind for question in choose_questions(scene)]
    assert len(kinds) == len(set(kinds)) >= 7


def test_of_a_video_without_scene_general_things_are_asked():
    assert [question.text for question in choose_questions(None)] == list(GENERAL_QUESTIONS)


def test_the_answers_are_those_of_single_questions(model, processor, asked):
    assert len(asked.answers) == len(asked.questions)
    for question, answer in zip(asked.questions, asked.answers, strict=True):
        single = answer_question(model, processor, asked.video, question.text, max_new_tokens=16)
        assert answer.answer == single.answer


def test_right_answers_are_counted(asked):
    from dataclasses import replace

    answers = [
        replace(answer, answer=question.answer)
        for question, answer in zip(asked.questions, asked.answers, strict=True)
    ]
    assert asked.num_right == 0  # the words of random weights
    assert replace(asked, answers=answers).num_right == len(answers)
    assert replace(asked, answers=[*answers[:-1], asked.answers[-1]]).num_right == len(answers) - 1
    assert replace(asked, scene=None).num_right is None


def test_the_times_are_sums_and_means_of_what_was_measured(asked):
    report = asked.to_dict()
    first, *further = [answer["seconds"] for answer in report["answers"]]
    seconds = report["seconds"]
    assert seconds["first_question"] == pytest.approx(seconds["read"] + seconds["encode"] + first)
    assert seconds["follow_up_question"] == pytest.approx(sum(further) / len(further))
    assert json.loads(json.dumps(report)) == report


def test_the_picture_shows_two_questions_about_different_objects(scene):
    questions = choose_questions(scene)
    one, other = explained_questions(questions)
    assert len(questions[one].referents) == len(questions[other].referents) == 1
    assert questions[one].referents != questions[other].referents
    assert explained_questions(choose_questions(None)) == [0, 1]


def test_the_picture_is_drawn_with_and_without_a_scene(model, processor, asked, tmp_path):
    known = attention_picture(model, processor, asked, "title")
    unknown = attention_picture(
        model, processor, ask_all(model, processor, write_video(tmp_path / "numbers.mp4", 12), None), "title"
    )
    assert known.size == unknown.size == (1360, known.height)  # 8 frames, two questions
    assert np.asarray(known).std() > 10


def test_the_cover_is_that_of_the_frames_that_were_taken(asked):
    question = asked.questions[explained_questions(asked.questions)[0]]
    cover = seen_cover(asked, question, (7, 7))
    every = patch_cover(question.referents, 16, (144, 192), (7, 7))
    assert cover.shape == (1, asked.video.num_frames, 7, 7)
    assert np.array_equal(cover, every[:, asked.video.sampling.indices])


# The command -----------------------------------------------------------------------------------------------------------


def test_the_demo_answers_tells_costs_and_draws(tmp_path, capsys):
    assert demo(tmp_path, "--seed", 7) == 0
    captured = capsys.readouterr()
    assert "knows only its synthetic world of coloured shapes" in captured.err
    assert captured.out.startswith("hicom-tiny, 2.2 million parameters\n")
    assert captured.out.count("8 of 16 frames, 1,152 patches become 40 visual tokens (28.8 times fewer)") == 2
    assert "shapes_normal.mp4" in captured.out and "a new video, seed 7" in captured.out
    assert re.search(
        r"^  (9|10) of 10 right; first question ", captured.out, re.MULTILINE
    )  # the example; 10 when shipped
    assert captured.out.count(" right; first question ") == 2 and captured.out.count("every further one") == 2
    assert "hicom demo --seed 7 makes the same new video again" in captured.out
    with Image.open(tmp_path / "demo.png") as drawn:
        assert drawn.format == "PNG" and drawn.width == 1360


def test_json_says_the_same_to_a_program(tmp_path, capsys):
    assert demo(tmp_path, "--seed", 7, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["seed"]) == ("hicom-tiny", 7)
    assert report["picture"] == str(tmp_path / "demo.png")
    assert "knows only its synthetic world" in report["note"]
    first, second = report["videos"]
    assert first["scene"] == example_scene(example_videos()[0])
    assert second["scene"] == {"seed": 7, "clutter": "normal", "split": "test"}
    assert first["num_right"] >= 9
    for video in (first, second):
        right = [answer["answer"] == answer["right_answer"] for answer in video["answers"]]
        assert video["num_right"] == sum(right)
        assert (video["num_visual_tokens"], video["num_uncompressed_patches"]) == (40, 1152)


@pytest.mark.slow
def test_a_fresh_seed_is_drawn_and_repeats_the_video(tmp_path, capsys):
    reports = []
    for arguments in ([], []):
        assert demo(tmp_path, "--json", *arguments) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["seed"] != reports[1]["seed"]
    assert demo(tmp_path, "--json", "--seed", reports[0]["seed"]) == 0
    again = json.loads(capsys.readouterr().out)["videos"][1]
    asked = [(answer["question"], answer["answer"]) for answer in again["answers"]]
    assert asked == [(answer["question"], answer["answer"]) for answer in reports[0]["videos"][1]["answers"]]


def test_an_own_video_takes_the_place_of_the_first(tmp_path, capsys):
    path = write_video(tmp_path / "numbers.mp4", 12)
    assert demo(tmp_path, "--video", path, "--seed", 7) == 0
    out = capsys.readouterr().out
    assert "numbers.mp4: 8 of 12 frames" in out and GENERAL_QUESTIONS[0] in out
    assert out.count(" right; first question ") == 1


# The random model's tokenizer spells instructions byte by byte, so that some are longer than 64 tokens.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hicom_hf.processors.instruction_hicom.InstructionWarning")
def test_another_model_may_be_shown(model, processor, tmp_path, capsys):
    model.save_pretrained(tmp_path / "random")
    processor.save_pretrained(tmp_path / "random")
    assert demo(tmp_path, "--model", tmp_path / "random", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tmp_path / "random")
    assert "mean nothing" in report["note"] and "hicom-tiny" not in report["note"]


def test_bad_arguments_are_named_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hicom_hf.hub.loading.load_model", lambda *args: pytest.fail("weights were loaded"))
    assert demo(tmp_path, "--seed", -1) == 2
    assert "argument --seed: must be from 0 to 9223372036854775807, got -1" in capsys.readouterr().err
    for output in (tmp_path, tmp_path / "nowhere" / "demo.png"):
        assert main(["demo", "--output", str(output)]) == 1
        assert f"{output}: the picture cannot be written there" in capsys.readouterr().err


def test_a_video_that_is_not_there_is_named(tmp_path, capsys):
    assert demo(tmp_path, "--video", tmp_path / "missing.mp4") == 1
    assert "missing.mp4: there is no such file or folder" in capsys.readouterr().err


def test_the_new_video_shows_its_scene_after_encoding(tmp_path):
    from hicom_hf.processors.frame_sampling_hicom import FrameSampling
    from hicom_hf.processors.video_reading_hicom import read_video

    path, scene = make_video(tmp_path, 3)
    frames, _ = read_video(path, FrameSampling(fps=4.0))
    assert np.abs(frames.astype(float) - render(scene)[0]).mean() < 8  # of 255; encoding loses 3 to 5
