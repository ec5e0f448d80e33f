"""Training on chosen frames: what is asked about long videos is true, and the variants differ in their frames alone."""

import json

import pytest

from hicom_hf.shapes.questions import TEMPLATES, THEME_ANSWERS
from lab.chosen_frames.comparing import Budget, as_markdown, by_group, compare
from lab.chosen_frames.films import Films, film
from lab.chosen_frames.records import VARIANTS, long_records, repeated_mistakes, write_records

FILMS = Films(lengths=(64,))


def holders(drawn, name):
    return [
        place for place, scene in enumerate(drawn.scenes) if any(name.fits(*one.attributes) for one in scene.objects)
    ]


def test_only_the_scene_that_is_asked_about_holds_what_is_named():
    drawn = film(0, FILMS)
    found = {name.phrase: holders(drawn, name) for name in drawn.names}
    assert len(drawn.scenes) == 4 and len(found) == 6
    absent = {phrase for phrase, places in found.items() if not places}
    assert len(absent) == 2 and all(len(places) == 1 for phrase, places in found.items() if phrase not in absent)
    for question in drawn.asked:
        named = {phrase for phrase in found if phrase in question.text}
        assert named and (named <= absent) == (question.answer == "no")
        if question.kind == "order":
            places = {phrase: found[phrase] for phrase in named}
            assert (places.pop(question.answer) < next(iter(places.values()))) == ("first" in question.text)
    assert {question.kind for question in drawn.asked} > {"exist", "order", "where", "when", "motion"}


def test_every_other_scene_has_mainly_the_colour_that_is_asked_about():
    drawn = film(4, FILMS)
    assert [question.text for question in drawn.asked] == list(TEMPLATES["vague"])
    theme = drawn.scenes[0].theme
    assert [scene.theme for scene in drawn.scenes] == [theme, "", theme, ""]
    assert {question.answer for question in drawn.asked} == {THEME_ANSWERS[theme]}


def test_answers_are_counted_again_by_how_frames_were_chosen():
    details = {"group": "exist: no", "method": "question", "length": 64}
    rows = [
        (details, {"value": value, "selection": {"used": used}})
        for value, used in ((1.0, "uniform"), (0.0, "question"))
    ]
    assert by_group(rows) == {
        "exist: no": {
            "question": {"64": [50.0, 2]},
            "question: uniform": {"64": [100.0, 1]},
            "question: question": {"64": [0.0, 1]},
        }
    }


def long_videos():
    asked = [
        ["exist", f"Is there {number}?", answer] for number, answer in enumerate(("yes", "yes", "yes", "no", "no"))
    ]
    return long_records([{"video": "/films/0000.mp4", "frames": 64, "asked": asked}])


def test_variants_differ_in_the_frames_of_long_videos_alone(tmp_path):
    usual = [{"id": number, **({"num_frames": 16} if number < 2 else {})} for number in range(20)]
    long = long_videos()
    write_records(tmp_path, usual, long, long[:2])
    of = {variant: json.loads((tmp_path / f"{variant}.json").read_text()) for variant in VARIANTS}
    assert of["without"] == usual and of["chosen"] == usual[:2] + long + usual[7:]
    assert of["mistakes"] == usual[:2] + long + long[:2] + usual[9:]
    for one, other in zip(of["chosen"][2:7], of["even"][2:7], strict=True):
        assert one.pop("selection") == {"num_frames": 8}
        assert (one.pop("num_frames"), other.pop("num_frames")) == (64, 8)
    assert of["chosen"] == of["even"]
    with pytest.raises(ValueError, match="need as many usual ones, got 18"):
        write_records(tmp_path, usual, long * 4, [])


def test_a_no_to_a_shot_that_stands_out_is_repeated_as_often_as_a_yes():
    long, used = long_videos(), ("question", "question", "question", "question", "mixture")
    by_question = {("/films/0000.mp4", f"Is there {number}?"): rule for number, rule in enumerate(used)}
    found = repeated_mistakes(long, by_question)
    assert [one["conversations"][0]["value"] for one in found] == ["<video>\nIs there 3?"] * 2
    assert repeated_mistakes(long, dict.fromkeys(by_question, "mixture")) == []


@pytest.mark.slow
def test_all_variants_are_trained_and_scored_and_nothing_is_done_twice(tmp_path):
    budget = Budget(Films(1, (64,)), 5, 1, 1, 1, 2, 4, (("sparse", (64,), 1, 2),), 0, ("64 frames in the video",), 1)
    record = compare(tmp_path, budget, (0,))
    assert set(record["scores"]) == {"before", *(f"{variant}-0" for variant in VARIANTS)}
    alone = record["scores"]["before"]["needle"]["sparse"]
    assert [alone[group]["alone"]["16"][1] for group in ("attributes", "exist: no")] == [1, 2]
    table = as_markdown(record)
    assert "| question: exist: no | " in table and "64 frames in the video: all" in table
    assert compare(tmp_path, budget, (0,))["scores"] == record["scores"]
    with pytest.raises(ValueError, match="another budget"):
        compare(tmp_path, Budget())
