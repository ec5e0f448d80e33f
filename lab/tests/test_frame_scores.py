"""What the figures on frame scores count."""

from dataclasses import replace

import numpy as np
import pytest

from hicom_hf.assets import hicom_tiny
from hicom_hf.inference.session import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection, choose_frames
from lab.frame_scores.measuring import (
    BFLOAT16,
    FLOAT32,
    INT8,
    ONE_VECTOR,
    WAYS,
    Asked,
    Budget,
    _cuts,
    _greatest_error,
    _is_right,
    as_markdown,
    measure,
)


def is_right(group, needles, frames, used="question"):
    record = choose_frames(FrameSelection(rule="uniform", num_frames=1), 1, 1, 64)
    return _is_right(replace(record, frames=frames, used=used), Asked(group, needles, None, {}))


def test_a_choice_is_right_if_it_shows_every_scene_or_of_what_is_not_there_none():
    assert is_right("two needles: order", [16, 32], (3, 17, 40))
    assert not is_right("two needles: order", [16, 32], (3, 17, 48))
    assert is_right("exist: no", [16], (3, 17, 40), used="uniform")
    assert not is_right("exist: no", [16], (3, 17, 40), used="mixture")


def test_an_error_is_a_fraction_of_the_height_of_the_best_score():
    exact = np.array([[0.0, 1.0, 2.0, 3.0, 12.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    errors = np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.2]])
    assert _greatest_error(exact + errors, exact) == pytest.approx(0.2)
    assert _greatest_error(exact, exact) == 0


def test_cuts_are_counted_among_the_borders_of_scenes():
    assert _cuts([(0, 16), (16, 40), (40, 48), (48, 64)], 64).tolist() == [3, 2, 60, 1]


@pytest.mark.slow
def test_the_tables_hold_every_way_and_group():
    session = HiComSession.load(hicom_tiny(), device="cpu", dtype="float32")
    measured = measure(session, Budget(questions=1, length=64, seeds=(3,)))
    assert list(measured["right"]) == [*WAYS, ONE_VECTOR]
    assert measured["trials"] == {
        "attributes": 2,
        "motion, when": 2,
        "exist: yes": 2,
        "exist: no": 2,
        "two needles: order": 2,
    }
    assert all(0 <= value <= 100 for row in measured["right"].values() for value in row.values())
    assert {way: row["trials"] for way, row in measured["agreement"].items()} == {BFLOAT16: 10, INT8: 10}
    assert 0 < measured["agreement"][BFLOAT16]["error"] < measured["agreement"][INT8]["error"] < 10
    assert measured["cuts"]["borders"] == 30 and measured["cuts"]["other frames"] == 600
    assert f"| {FLOAT32} |" in as_markdown(measured)
