"""Means of questions and of groups, with intervals by video."""

import math

import numpy as np
import pytest

from hicom_hf.evaluation.scoring import score_answers


def test_with_one_question_per_video_the_interval_is_that_of_the_binomial():
    values = [1.0] * 300 + [0.0] * 100
    score = score_answers(values, [str(number) for number in range(400)])
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert score.mean == 0.75 and (score.num_questions, score.num_videos) == (400, 400)
    assert score.low == pytest.approx(0.75 - half, abs=0.005) and score.high == pytest.approx(0.75 + half, abs=0.005)


def test_questions_that_share_a_video_and_an_outcome_count_as_one():
    one = score_answers([1.0, 0.0] * 50, [str(number) for number in range(100)])
    four = score_answers(
        [value for value in [1.0, 0.0] * 50 for _ in range(4)], [str(n) for n in range(100) for _ in range(4)]
    )
    assert (four.low, four.high) == (one.low, one.high)
    apart = score_answers([1.0, 0.0] * 200, [str(number) for number in range(400)])
    assert apart.high - apart.low < 0.6 * (four.high - four.low)


def test_the_mean_of_groups_weighs_each_group_equally():
    values, groups = [1, 1, 1, 0], ["large", "large", "large", "small"]
    assert score_answers(values, list("abcd"), groups).mean == 0.5
    assert score_answers(values, list("abcd")).mean == 0.75


def test_a_bootstrap_written_from_the_definition_gives_the_same():
    rng = np.random.default_rng(3)
    videos = [str(number) for number in rng.integers(0, 30, 200)]
    values = rng.integers(0, 2, 200).astype(float)
    names = list(dict.fromkeys(videos))
    by_name = [values[[video == name for video in videos]] for name in names]
    drawn = []
    for _ in range(2000):
        chosen = rng.integers(0, len(names), len(names))
        drawn.append(np.concatenate([by_name[place] for place in chosen]).mean())
    score = score_answers(values, videos)
    assert (score.low, score.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def test_the_same_answers_have_the_same_interval_and_none_are_refused():
    assert score_answers([1, 0, 1], list("abc")) == score_answers([1, 0, 1], list("abc"))
    with pytest.raises(ValueError, match="no answers"):
        score_answers([], [])
