"""Training on chosen frames: what is asked about long videos is true, and the variants differ in their frames alone."""

import json

import pytest

from hicom_hf.shapes.questions import TEMPLATES, THEME_ANSWERS
from lab.chosen_frames.comparing import VARIANTS, Budget, as_markdown, by_group, compare
from lab.chosen_frames.films import Films, film

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


@pytest.mark.slow
def test_variants_differ_in_the_frames_of_long_videos_alone(tmp_path):
    budget = Budget(Films(1, (64,)), 5, 1, 1, 1, 2, 4, (("sparse", (64,), 1),), 0, ("64 frames in the video",), 1)
    record = compare(tmp_path, budget, (0,))
    assert set(record["scores"]) == {"before", *(f"{variant}-0" for variant in VARIANTS)}
    chosen, even, without = (json.loads((tmp_path / "records" / f"{name}.json").read_text()) for name in VARIANTS)
    differing = [place for place in range(len(without)) if chosen[place] != without[place]]
    assert len(chosen) == len(even) == len(without) and len(differing) == record["records"]["long"]
    for place in differing:
        assert chosen[place].pop("selection") == {"num_frames": 8}
        assert (chosen[place].pop("num_frames"), even[place].pop("num_frames")) == (64, 8)
    assert chosen == even
    table = as_markdown(record)
    assert "| question: exist: no | " in table and "64 frames in the video: all" in table
    assert compare(tmp_path, budget, (0,))["scores"] == record["scores"]  # nothing is trained again
    with pytest.raises(ValueError, match="another budget"):
        compare(tmp_path, Budget())
