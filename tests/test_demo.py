"""`hicom demo`: its parts on tiny random weights, the command on the packaged model."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from hicom_hf import FrameTiles
from hicom_hf.assets import example_scene, example_videos
from hicom_hf.cli.choices import timeline
from hicom_hf.cli.demo import _choice_arguments
from hicom_hf.cli.main import build_parser, main
from hicom_hf.inference import HiComSession
from hicom_hf.inference.demo import (
    GENERAL_QUESTIONS,
    ask_all,
    attention_picture,
    choose_questions,
    explained_questions,
    make_video,
    seen_cover,
)
from hicom_hf.inference.demo_film import _object_boxes, ask_choosing, choice_picture, make_film
from hicom_hf.processors.answering_hicom import answer_question
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.shapes import Scene, padded_boxes, patch_cover, render


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
    path, scene = make_video(tmp_path, 3)
    frames, _ = read_video(path, FrameSampling(fps=4.0))
    assert np.abs(frames.astype(float) - render(scene)[0]).mean() < 8  # of 255; encoding loses 3 to 5


# What questions choose --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("films"), 7, (56, 100), num_scenes=4)


@pytest.fixture(scope="module")
def chosen(model, processor, film):
    return ask_choosing(
        model, processor, film, selection=FrameSelection(num_frames=4), tiles=FrameTiles((1, 2)), fps=4.0
    )


def test_a_film_hides_its_scene_among_others_in_which_nothing_is_called_what_is_asked(film, tmp_path):
    frames, _ = read_video(film.path, FrameSampling(num_frames="all"))
    assert frames.shape == (64, 56, 100, 3) and film.first == 7 % 4 * 16
    scene = render(film.scene, 16, (56, 100))[0]
    differences = [np.abs(frames[at : at + 16].astype(float) - scene).mean() for at in range(0, 64, 16)]
    assert np.argmin(differences) == film.first // 16 and sorted(differences)[1] > 2 * min(differences)
    assert 1 <= len(film.questions) <= 4 and all(len(question.referents) == 1 for question in film.questions)
    alone = make_film(tmp_path, 7, (56, 100), num_scenes=1)
    assert (alone.first, alone.questions) == (0, choose_questions(film.scene))


def test_each_question_of_a_film_is_answered_about_what_it_chooses(model, processor, film, chosen):
    session = HiComSession(model, processor, cache_bytes=0)
    opened = session.open(film.path, fps=4.0, selection=FrameSelection(num_frames=4), tiles=FrameTiles((1, 2)))
    for question, answer in zip(film.questions, chosen.answers, strict=True):
        single = opened.ask(question.text, max_new_tokens=16)
        assert (answer.answer, answer.selection, answer.tiles) == (single.answer, single.selection, single.tiles)
    report = chosen.to_dict()
    assert report["answers"][0]["selection"]["num_candidates"] == 64 and report["seconds"]["read"] == 0
    assert report["answers"][0]["tiles"] == chosen.answers[0].tiles.to_dict()


def test_the_picture_of_choices_shows_the_frames_of_each_question(model, processor, film, chosen, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "hicom_hf.inference.demo_film.picture", lambda *args: drawn.append(args) or Image.new("RGB", (9, 5))
    )
    assert choice_picture(processor, film, chosen, "title").size == (9, 5 * len(drawn)) and len(drawn) == 2
    for number, (frames, times, [item], title) in zip(explained_questions(film.questions), drawn, strict=True):
        answer = chosen.answers[number]
        assert times == pytest.approx(answer.selection.times) and title == ("title" if number == 0 else "")
        assert frames.shape[2] / frames.shape[1] == pytest.approx(100 / 56, rel=0.1)
        objects, square = item.boxes, item.best_square
        top, left, bottom, right = answer.tiles.tiles[0].box
        assert np.allclose(square[answer.tiles.tiles[0].frame], (left, top, right, bottom))
        assert np.isnan(np.delete(square, answer.tiles.tiles[0].frame, axis=0)).all()
        inside = [film.first <= frame < film.first + 16 for frame in answer.selection.frames]
        seen = [
            film.questions[number].referents[0].is_seen((frame - film.first + 0.5) / 16)
            for frame in answer.selection.frames
        ]
        assert [not np.isnan(box).any() for box in objects[0]] == [a and b for a, b in zip(inside, seen, strict=True)]


def test_of_padded_frames_objects_are_outlined_in_the_padded_square(model, processor, film):
    asked = ask_choosing(
        model, processor, film, tiles=None, selection=FrameSelection("uniform", num_frames=64), fps=4.0
    )
    assert asked.answers[0].tiles is None
    question = film.questions[0]
    boxes = _object_boxes(film, question, asked.video.sampling, padded=True)
    expected = padded_boxes(question.referents, 16, (56, 100))
    assert np.allclose(boxes[:, film.first : film.first + 16], expected, equal_nan=True)
    wide = _object_boxes(film, question, asked.video.sampling, padded=False)[0, film.first : film.first + 16]
    rows = wide[:, 1][~np.isnan(wide[:, 1])]
    assert np.allclose(rows, (expected[0, :, 1][~np.isnan(expected[0, :, 1])] * 100 - 22) / 56)


@pytest.mark.slow
def test_the_demo_shows_what_questions_choose(tmp_path, capsys):
    assert demo(tmp_path, "--seed", 7, "--select", "question", "--tiles", 1) == 0
    out = capsys.readouterr().out
    assert "a new film, seed 7: 8 of 384 frames" in out and out.count(" right; first question ") == 2
    assert re.search(r"^ {4}[-#]{60}$", out, re.MULTILINE) and "8 of 384 frames, at seconds " in out
    assert "zoom 1, 2 squares; best in rows 0 to 100 %" in out
    assert "hicom demo --seed 7 --select question --tiles 1 makes the same new video again" in out
    with Image.open(tmp_path / "demo.png") as drawn:
        assert drawn.width == 1360
    assert demo(tmp_path, "--seed", 7, "--tiles", 1, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["videos"]
    assert "selection" not in second["answers"][0] and len(second["answers"][0]["tiles"]["tiles"]) == 2
    assert second["num_right"] >= 8 and len(first["answers"]) == 10


@pytest.mark.parametrize("choices", ["", "--score-tiles", "--no-score-tiles"])
def test_the_demo_repeats_how_frames_are_chosen(choices):
    line = f"--select question --tiles 1,2 {choices}".rstrip()
    assert _choice_arguments(build_parser().parse_args(["demo", *line.split()])) == f" {line}"


def test_frames_of_the_demo_go_with_a_selection(tmp_path, capsys):
    assert demo(tmp_path, "--frames", 4) == 2
    assert "argument --frames: goes with --select" in capsys.readouterr().err
    assert demo(tmp_path, "--fps", 4) == 2
    assert "argument --fps: goes with --select" in capsys.readouterr().err


def test_a_timeline_has_a_mark_where_frames_were_chosen():
    record = SimpleNamespace(times=[0.0, 5.0, 5.1, 10.0])
    assert timeline(record, 10.0) == "#" + "-" * 29 + "#" + "-" * 28 + "#"
    assert timeline(record, None) == timeline(SimpleNamespace(times=[]), 10.0) == ""
