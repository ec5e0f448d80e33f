"""The comparison of built pairs: its data are as many and of other scenes, and it goes on where it was interrupted."""

import json

import pytest

from lab.built_pairs.comparing import ALIGNMENT, PRETRAINING, TUNING, VARIANTS, Budget, as_markdown, compare, overall


@pytest.mark.slow
def test_three_variants_are_trained_on_as_many_pairs_and_scored(tmp_path):
    budget = Budget(1, 4, 6, 1, ((ALIGNMENT, 2), (PRETRAINING, 2), (TUNING, 2)), batch_size=4)
    record = compare(tmp_path, budget)
    assert list(record["scores"]) == list(VARIANTS) and as_markdown(record).count("\n") == 4
    built, own = (json.loads((tmp_path / name / "records.json").read_text()) for name in ("built", "own"))
    assert len(built) == len(own) == record["pairs"] > 5
    assert not {one["video"] for one in built} & {one["video"] for one in own}
    assert compare(tmp_path, budget)["scores"] == record["scores"]  # nothing is trained again
    with pytest.raises(ValueError, match="another budget"):
        compare(tmp_path, Budget())


def test_scores_are_weighted_by_questions():
    rows = {"a": {"all": {"right": 100.0, "questions": 1}}, "b": {"all": {"right": 50.0, "questions": 3}}}
    assert overall(rows) == 62.5
