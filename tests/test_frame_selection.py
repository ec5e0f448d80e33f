"""Which frames a question chooses: the rules as pure functions, the scores against loops, the session end to end."""

import errno
import hashlib
import json
import math
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
import torch

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.inference import HiComSession
from hicom_hf.modeling.frame_scores_hicom import HiComFrameScorer, best_pairs, frame_changes, int8_rows
from hicom_hf.processors import candidate_frames_hicom
from hicom_hf.processors.candidate_frames_hicom import FeatureFile, encode_candidates
from hicom_hf.processors.frame_sampling_hicom import FrameSampling, uniform_indices
from hicom_hf.processors.frame_selection_hicom import (
    FrameSelection,
    SelectionRecord,
    choose_frames,
    question_parts,
)
from hicom_hf.processors.frame_shots_hicom import find_shots, outstanding, prominence
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.shapes import Scene, questions, render

BACKGROUND = [0.0, 0.1, -0.1, 0.05, -0.05, 0.02, -0.08, 0.07]  # scores of frames that do not fit


# Heights of 30 shots of which none fits, spread as such heights are.
USUAL = {shot: -math.log((7 * shot % 30 + 0.5) / 30) for shot in range(30)}


def haystack(num_shots, fitting, length=8):
    """Scores of shots of equal length; `fitting` gives the height of those that fit."""
    return [
        fitting.get(shot, 0.0) + BACKGROUND[frame % len(BACKGROUND)]
        for shot in range(num_shots)
        for frame in range(length)
    ]


def choose(selection, scores, length=8, group_length=4, times=()):
    num_candidates = np.shape(scores)[-1]
    shots = [(start, start + length) for start in range(0, num_candidates, length)]
    return choose_frames(
        selection, selection.num_frames, group_length, num_candidates, scores=scores, shots=shots, times=times
    )


# The request ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rule": "best", "num_frames": 8}, ValueError, "rule must be one of uniform, question, mixture, got 'best'"),
        ({}, ValueError, "a selection needs one budget"),
        ({"num_frames": 8, "max_video_tokens": 80}, ValueError, "a selection needs one budget"),
        ({"num_frames": 0}, ValueError, "num_frames must be at least 1"),
        ({"num_frames": 2.5}, TypeError, "num_frames must be a whole number"),
        ({"num_frames": 8, "max_shots": True}, TypeError, "max_shots must be a whole number"),
        ({"num_frames": 8, "max_p_value": "0.05"}, TypeError, "max_p_value must be a number, got '0.05'"),
        ({"num_frames": 8, "min_spacing": None}, TypeError, "min_spacing must be a number, got None"),
        ({"num_frames": 8, "max_p_value": 1.5}, ValueError, "max_p_value must be from 0 to 1"),
        ({"num_frames": 8, "min_spacing": -1}, ValueError, "min_spacing must be at least 0"),
        ({"num_frames": 8, "min_prominence": math.inf}, ValueError, "min_prominence must be at least 0 and finite"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        FrameSelection(**values)


# Shots ------------------------------------------------------------------------------------------------------------------


def test_a_shot_ends_where_more_changes_than_usual():
    changes = [1, 1, 1, 1, 5, 1, 1, 1, 1, 3, 1, 1, 1]
    assert find_shots(changes, min_frames=4) == [(0, 5), (5, 10), (10, 14)]


def test_a_restless_shot_beside_calm_ones_is_not_cut_to_pieces():
    changes = [1.0] * 15 + [9.0] + [3.0, 4.0, 5.0] * 5 + [9.0] + [1.0] * 15
    assert [cut for cut, _ in find_shots(changes, min_frames=4)] == [0, 16, 32]


def test_the_stronger_of_two_close_cuts_counts():
    changes = [1, 1, 1, 1, 5, 1, 9, 1, 1, 1, 1, 1]
    assert find_shots(changes, min_frames=4) == [(0, 7), (7, 13)]


def test_no_shot_is_shorter_than_a_group_or_longer_than_asked_for():
    draw = np.random.default_rng(0)
    for size in (1, 3, 4, 9, 100, 333):
        shots = find_shots(draw.exponential(size=size - 1).tolist(), min_frames=4, max_frames=16)
        assert shots[0][0] == 0 and shots[-1][1] == size
        assert all(one[1] == other[0] for one, other in pairwise(shots))
        assert all(min(4, size) <= stop - start <= 16 for start, stop in shots)


def test_a_cut_is_over_twice_the_median_of_the_changes_around():
    for change, shots in ((2.1, [(0, 9), (9, 18)]), (1.9, [(0, 18)])):
        assert find_shots([1.0] * 8 + [change] + [1.0] * 8, min_frames=4) == shots


def test_at_least_four_changes_on_either_side_are_usual_ones():
    cuts = [start for start, _ in find_shots([9, 9, 9, 1, 5, 1, 9, 9, 9], min_frames=1)]
    assert 5 not in cuts


def test_parts_of_a_long_shot_hold_a_group_also_where_shorter_ones_are_asked_for():
    assert find_shots([0.0] * 9, min_frames=4, max_frames=4) == [(0, 5), (5, 10)]


# The choice -------------------------------------------------------------------------------------------------------------


def test_all_groups_go_to_the_one_shot_that_fits_spread_over_it():
    record = choose(FrameSelection(num_frames=4), haystack(10, {6: 5.0}))
    assert record.used == "question" and record.frames == tuple(48 + place for place in uniform_indices(8, 4))
    assert [shot[:2] for shot in record.shots] == [(48, 56)]


def test_a_shot_gets_two_groups_before_another_gets_any():
    scores = haystack(12, {7: 5.0, 2: 4.9})
    record = choose(FrameSelection(num_frames=8), scores)
    assert record.used == "question" and record.frames == tuple(range(56, 64))
    record = choose(FrameSelection(num_frames=16), scores)
    assert record.frames == tuple(range(16, 24)) + tuple(range(56, 64))
    assert [shot[:2] for shot in record.shots] == [(16, 24), (56, 64)]


def test_the_shots_of_two_things_that_are_named_get_a_group_each_in_order_of_time():
    scores = [haystack(12, {7: 5.0}), haystack(12, {2: 40.0}), haystack(12, {})]
    record = choose(FrameSelection(num_frames=8), scores)
    assert record.frames == tuple(start + place for start in (16, 56) for place in uniform_indices(8, 4))
    assert len(choose(FrameSelection(num_frames=4), scores).shots) == 1


def test_the_part_that_stands_out_most_comes_first():
    scores = [haystack(30, {**USUAL, 7: 9.0}), haystack(30, {**USUAL, 2: 12.0})]
    for rows in (scores, scores[::-1]):
        record = choose(FrameSelection(num_frames=4, max_p_value=1.0), rows)
        assert [shot[0] // 8 for shot in record.shots] == [2]


def test_groups_of_consecutive_frames_lie_within_one_shot():
    draw = np.random.default_rng(1)
    for _ in range(30):
        scores = (draw.normal(size=160) + 8 * (draw.random(160) > 0.97)).tolist()
        record = choose(FrameSelection(num_frames=12, max_p_value=1.0), scores)
        assert len(record.frames) == len(set(record.frames)) == 12 and list(record.frames) == sorted(record.frames)
        for group in range(0, 12, 4):
            assert len({frame // 8 for frame in record.frames[group : group + 4]}) == 1


def test_a_flat_score_gives_even_frames_and_says_so():
    record = choose(FrameSelection(num_frames=8), np.random.default_rng(0).normal(size=80))
    assert record.used == "uniform" and record.frames == tuple(uniform_indices(80, 8))
    why = r"because no shot stands out for this question \(\d\.\d deviations, 6 are needed\)\."
    assert re.fullmatch(f"Frames are spread evenly, {why}", record.reason)


def test_a_shot_is_as_good_as_the_frame_that_fits_least_of_its_best_group():
    scores = haystack(12, {2: 3.0})
    for frame, height in enumerate([9.0, 9.0, 9.0, 0.0, 9.0, 9.0], start=66):  # never four in a row
        scores[frame] = height
    record = choose(FrameSelection(num_frames=8), scores)
    assert record.used == "question" and [shot[:2] for shot in record.shots] == [(16, 24)]
    assert record.shots[0][2] == pytest.approx(3.0 + min(BACKGROUND[4:8]))  # of the eight, the last four fit best


@pytest.mark.parametrize(("first", "shot"), [(69, 64), (70, 72), (71, 72), (0, 0), (92, 88)])
def test_a_group_that_a_cut_divides_belongs_to_the_shot_of_its_middle(first, shot):
    scores = haystack(12, {2: 3.0})
    scores[first : first + 4] = [9.0] * 4
    assert [taken[0] for taken in choose(FrameSelection(num_frames=8, max_shots=1), scores).shots] == [shot]


def test_what_is_seen_for_less_than_a_group_does_not_stand_out():
    scores = np.random.default_rng(0).normal(size=40 * 8)
    scores[160:163] += 40.0
    assert choose(FrameSelection(num_frames=8), scores).used == "uniform"
    scores[163] += 40.0
    record = choose(FrameSelection(num_frames=8), scores)
    assert record.used == "question" and [taken[0] for taken in record.shots] == [160]


def test_a_video_of_fewer_frames_than_a_group_is_chosen_from():
    record = choose_frames(FrameSelection(num_frames=2), 2, 4, 3, scores=[0.0, 1.0, 2.0], shots=[(0, 3)])
    assert record.used == "uniform" and record.frames == tuple(uniform_indices(3, 2))


def test_where_several_shots_fit_about_as_well_half_of_the_frames_are_spread():
    steps = {shot: 5.0 - 0.7 * shot for shot in range(6)}
    record = choose(FrameSelection(num_frames=16), haystack(13, steps))
    assert record.rule == "question" and record.used == "mixture" and record.p_value > 0.05
    assert [shot[0] // 8 for shot in record.shots] == [0, *uniform_indices(13, 2)]
    why = "No shot is clearly better than the others, so half of the groups are spread evenly."
    assert record.reason == f"Frames are from 3 of 13 shots. {why}"


def test_the_bounds_are_those_of_the_request():
    scores = haystack(30, {**USUAL, 7: 7.5})
    found = choose(FrameSelection(num_frames=16), scores)
    assert 0.01 < found.p_value < 0.5

    def used(**bounds):
        return choose(FrameSelection(num_frames=16, **bounds), scores).used

    assert [used(max_p_value=found.p_value * factor) for factor in (0.99, 1.01)] == ["mixture", "question"]
    heights = [found.prominence * factor for factor in (0.99, 1.01)]
    assert [used(max_p_value=0.0, min_prominence=height) for height in heights] == ["mixture", "uniform"]


def test_fewer_frames_than_the_budget_are_whole_groups_and_the_reason_says_so():
    record = choose(FrameSelection(num_frames=7), haystack(30, {3: 9.0}))
    assert len(record.frames) == 4
    why = "These are 4 frames and not 7, because a shot gives whole groups of 4 frames."
    assert record.reason == f"Frames are from 1 of 30 shots. {why}"
    assert choose(FrameSelection(num_frames=8), haystack(30, {3: 9.0})).reason == "Frames are from 1 of 30 shots."


def test_a_single_group_goes_to_the_best_shot_where_none_stands_out():
    record = choose(FrameSelection(num_frames=4, max_p_value=0.0), haystack(30, {3: 9.0}))
    assert record.used == "mixture" and [shot[0] // 8 for shot in record.shots] == [3]
    why = "No shot is clearly better than the others, so the one with the highest score is taken."
    assert record.reason == f"Frames are from 1 of 30 shots. {why}"


def test_one_shot_alone_is_taken_beside_those_spread_evenly():
    scores = haystack(30, {**USUAL, 1: 9.0, 5: 8.9}, length=16)
    record = choose(FrameSelection(num_frames=32, max_p_value=0.0), scores, length=16)
    assert record.used == "mixture" and [shot[0] // 16 for shot in record.shots] == [1, *uniform_indices(30, 4)]


def test_a_budget_below_a_group_is_spread_over_the_best_shot():
    record = choose(FrameSelection(num_frames=2), haystack(10, {6: 5.0}))
    assert record.frames == tuple(48 + place for place in uniform_indices(8, 2))


def test_a_gap_is_judged_by_fishers_distribution():
    scores = [9.0, 8.0, 3.0, 2.5, 2.0, 1.6, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    gaps = [rank * (scores[rank - 1] - scores[rank]) for rank in range(1, 8)]  # those above the median

    def probability(k):  # of a value above, by F(2, 2 (m - k))
        return (1 + gaps[k - 1] / np.mean(gaps[k:]) / (7 - k)) ** -(7 - k)

    p_value, count = outstanding(scores, 2)
    assert count == 2 and p_value == pytest.approx(2 * probability(2)) and probability(2) < probability(1)
    assert outstanding(list(reversed(scores)), 2) == (p_value, count)
    assert outstanding([1.0] * 9, 3) == (1.0, 1) and outstanding([5.0, 1.0], 2) == (1.0, 1)
    assert outstanding([2.0] + [1.0] * 9, 1) == (0.0, 1)
    assert outstanding([5.0], 1) == outstanding([5.0, 4.0, 1.0, 0.0], 0) == (1.0, 1)  # nothing to compare with


@pytest.mark.parametrize("count", [16, 160, 1024])
def test_as_many_videos_without_a_fitting_shot_pass_as_are_allowed_whatever_their_length(count):
    draw = np.random.default_rng(0)
    passed = np.mean([outstanding(draw.exponential(size=count), 2)[0] <= 0.1 for _ in range(400)])
    assert 0.05 <= passed <= 0.13  # Bonferroni's bound is 0.1


def test_constant_scores_are_flat():
    assert prominence([2.0] * 5) == 0.0 and prominence([2.0] * 4 + [3.0]) == math.inf


def test_prominence_is_that_of_its_formula():
    scores = [0.3, -1.0, 2.0, 0.5, 7.0]
    spread = 1.4826 * median([abs(score - 0.5) for score in scores])
    assert prominence(scores) == pytest.approx((7.0 - 0.5) / spread)


def test_a_record_can_be_written_as_json():
    record = choose(FrameSelection(num_frames=8), [0.0] * 40 + [5.0] * 8 + [0.0] * 40)
    assert record.prominence == math.inf  # all others are alike
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False))["prominence"] is None


def test_a_part_whose_scores_are_all_alike_changes_nothing():
    scores = haystack(10, {6: 5.0})
    record = choose(FrameSelection(num_frames=4, max_p_value=1.0), [scores, [1.0] * 80])
    assert record.frames == choose(FrameSelection(num_frames=4), scores).frames
    assert np.isfinite(record.scores).all()


def test_a_budget_that_holds_everything_takes_everything():
    assert choose(FrameSelection(num_frames=99), haystack(4, {1: 5.0})).frames == tuple(range(32))


def test_a_mixture_gives_half_of_the_groups_to_evenly_spread_shots():
    record = choose(FrameSelection("mixture", num_frames=16), haystack(9, {1: 5.0}))
    starts = [shot[0] // 8 for shot in record.shots]
    assert starts == [1, 2, 6]  # the best, and those of uniform_indices(9, 2)
    assert len([frame for frame in record.frames if frame // 8 == 1]) == 8


def test_spacing_leaves_out_a_shot_that_is_too_near_a_better_one():
    scores, times = haystack(10, {2: 5.0, 3: 4.9, 8: 4.8}, length=16), [float(frame) for frame in range(160)]
    near = choose(FrameSelection(num_frames=16), scores, length=16, times=times)
    apart = choose(FrameSelection(num_frames=16, min_spacing=20.0), scores, length=16, times=times)
    assert [shot[0] // 16 for shot in near.shots] == [2, 3]
    assert [shot[0] // 16 for shot in apart.shots] == [2, 8]
    assert apart.times == tuple(float(frame) for frame in apart.frames)


def test_groups_that_spaced_shots_have_no_frames_for_go_to_the_next_best_one_that_is_apart():
    scores, times = haystack(10, {2: 5.0, 3: 4.9, 8: 4.8}), [float(frame) for frame in range(80)]
    spaced = FrameSelection(num_frames=24, min_spacing=20.0)
    record = choose(spaced, scores, times=times)
    assert len(record.frames) == 24 and not {3, 9} & {shot[0] // 8 for shot in record.shots}
    best = [max(range(*shot[:2]), key=scores.__getitem__) for shot in record.shots]
    assert min(np.diff(best)) >= 20 and record.reason == "Frames are from 3 of 10 shots."


@pytest.mark.parametrize("bound", [{"min_spacing": 1e5}, {"max_shots": 1}])
@pytest.mark.parametrize(("rule", "spread"), [("question", []), ("mixture", [2, 5, 8])])
def test_where_the_bounds_leave_too_few_shots_fewer_frames_are_seen(bound, rule, spread):
    scores, times = haystack(10, {3: 5.0, 6: 4.9}), [float(frame) for frame in range(80)]
    record = choose(FrameSelection(rule, num_frames=24, **bound), scores, times=times)
    assert [shot[0] // 8 for shot in record.shots] == sorted([3, *spread])
    seen = 8 + 4 * len(spread)  # all of the best shot
    assert len(record.frames) == seen
    assert record.reason.endswith(
        f"shots. These are {seen} frames and not 24, because max_shots or min_spacing excludes other shots."
    )


def test_without_bounds_the_frames_are_those_of_the_published_figures():
    draw, chosen = np.random.RandomState(24), []  # the same numbers in every version of numpy
    for _ in range(200):
        num_candidates, parts = draw.randint(5, 300), draw.randint(1, 4)
        group_length, num_frames = int(draw.choice([1, 2, 4])), int(draw.randint(1, 40))
        shots = find_shots(draw.exponential(size=num_candidates - 1), group_length)
        scores = draw.normal(size=(parts, num_candidates))
        for start, stop in [shots[place] for place in draw.randint(len(shots), size=4)]:
            scores[draw.randint(parts), start:stop] += draw.choice([0.0, 4.0, 12.0])
        rule = str(draw.choice(["question", "mixture"]))
        selection = FrameSelection(rule, num_frames=num_frames, max_p_value=0.3, min_prominence=3.0)
        chosen.append(choose_frames(selection, num_frames, group_length, num_candidates, scores=scores, shots=shots))
    assert {record.used for record in chosen} == {"question", "mixture", "uniform"}
    frames = repr([record.frames for record in chosen])
    assert hashlib.sha256(frames.encode()).hexdigest()[:16] == "09eb4e6699a1963c"  # of docs/images/needle*.json


def test_a_spacing_in_seconds_needs_a_clock():
    with pytest.raises(ValueError, match="min_spacing is in seconds, but this video has no clock; pass frame_rate"):
        choose(FrameSelection(num_frames=24, min_spacing=20.0), haystack(10, {2: 5.0}))


def test_max_shots_bounds_the_shots_that_fit():
    scores = haystack(10, {2: 5.0, 8: 4.9}, length=16)
    for max_shots, shots in ((None, [2, 8]), (1, [2])):
        record = choose(FrameSelection(num_frames=16, max_shots=max_shots), scores, length=16)
        assert [shot[0] // 16 for shot in record.shots] == shots


def test_scores_that_are_missing_are_an_error():
    with pytest.raises(ValueError, match='rule "question" needs scores and shots of all 40 candidates'):
        choose_frames(FrameSelection(num_frames=8), 8, 4, 40)


# Several things in one question -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Where is the orange sander?", ["Where is the orange sander?"]),
        ("Is the cat or the dog first?", ["Is the cat", "the dog first?"]),
        ("a, b; c and d", ["a", "b", "c", "d"]),
        (", ,", [", ,"]),
        ("", [""]),
    ],
)
def test_a_question_is_cut_where_it_names_another_thing(text, parts):
    assert question_parts(text) == parts


def test_scores_of_several_parts_are_reported_on_one_scale():
    strong, weak, flat = haystack(12, {2: 50.0}), haystack(12, {7: 5.0}), haystack(12, {})
    record = choose(FrameSelection(num_frames=8), [strong, weak, flat])
    for frame, score in zip(record.frames, record.scores, strict=True):
        heights = [(row[frame] - median(row)) / (max(row) - median(row)) for row in (strong, weak)]
        assert score == pytest.approx(max(heights))


def test_where_no_part_stands_out_the_score_is_that_of_the_most_prominent_part():
    flat = np.random.default_rng(0).normal(size=80).tolist()
    record = choose(FrameSelection(num_frames=8), [[0.0] * 80, flat])
    assert record.used == "uniform" and record.scores == tuple(flat[frame] for frame in record.frames)


# Scores -----------------------------------------------------------------------------------------------------------------


def test_the_score_of_a_frame_is_that_of_a_loop_over_its_patches():
    model, processor = tiny_model(), tiny_processor()
    ids = processor.encode_instructions(["What colour is the ring?", "Where is it?"])
    grid = (3, *model.config.grid, model.config.vision_config.hidden_size)
    keys = torch.randn(grid)
    scores = model.frame_scorer(ids).frame_scores(keys)
    pooled, tokens = model.model.instruction_encoder(ids)
    queries = model.model.compressor.local_branch.injection(None, pooled, tokens)
    for question in range(2):
        for frame in range(3):
            rows, columns = range(grid[1]), range(grid[2])
            of = {(y, x): (keys[frame, y, x] @ queries[question, 0]).item() for y in rows for x in columns}
            pairs = [min(of[y, x], of[other]) for y, x in of for other in ((y + 1, x), (y, x + 1)) if other in of]
            assert scores[question, frame].item() == pytest.approx(max(pairs), abs=1e-4)  # float32, other order


def test_two_patches_side_by_side_or_one_above_the_other_make_the_score_of_a_frame():
    patches = torch.zeros(5, 3, 4)
    patches[0, 1, 1] = 9.0  # alone
    patches[1, [0, 1], [0, 1]] = 9.0  # at a corner
    patches[2, [0, 2], 2] = 9.0  # apart
    patches[3, 2, 2:], patches[4, 1:, 3] = torch.tensor([7.0, 5.0]), torch.tensor([5.0, 7.0])
    assert best_pairs(patches).tolist() == [0.0, 0.0, 0.0, 5.0, 5.0]
    assert best_pairs(patches[None]).shape == (1, 5)


def test_a_frame_of_one_patch_has_the_score_of_that_patch():
    assert best_pairs(torch.tensor([[[3.0]]])).tolist() == [3.0]
    assert best_pairs(torch.tensor([[[3.0, 4.0, 1.0]]])).tolist() == [3.0]


@pytest.mark.parametrize(
    "compressor",
    [
        {"local_injection": "none"},
        {"local_injection": "coarse"},
        {"local_injection": "fine"},
        {"local_injection": "direct", "bypass_injection": True},
    ],
)
def test_without_direct_injection_the_query_is_siglips_pooled_text(compressor):
    model, processor = tiny_model(**compressor), tiny_processor()
    ids = processor.encode_instructions(["What colour is the ring?"])
    keys = torch.randn(2, *model.config.grid, model.config.vision_config.hidden_size)
    scores = model.frame_scorer(ids).patch_scores(keys)
    pooled = model.model.instruction_encoder(ids)[0][0]
    torch.testing.assert_close(scores[0], keys @ (pooled / pooled.norm()), atol=1e-5, rtol=0)  # float32


@pytest.mark.parametrize("local_injection", ["none", "direct", "coarse", "fine"])
@pytest.mark.parametrize("adapters", [False, True])
@torch.no_grad()
def test_under_the_release_formulation_keys_and_query_are_those_of_its_branch(local_injection, adapters):
    model = tiny_model(
        formulation="release", local_injection=local_injection, global_injection="coarse", key_adapter=adapters
    )
    branch = model.model.compressor.local_branch
    if adapters:
        branch.key_adapter.alpha.data.fill_(0.5)
    ids = tiny_processor().encode_instructions(["What colour is the ring?"])
    features = torch.randn(2, *model.config.grid, model.config.vision_config.hidden_size)
    pooled = model.model.instruction_encoder(ids)[0][0]
    is_direct = local_injection == "direct"
    keys = branch.key_adapter(features) if adapters and is_direct else features
    query = pooled if is_direct else pooled / pooled.norm()
    scores = model.frame_scorer(ids).patch_scores(features)[0]
    torch.testing.assert_close(scores, keys @ query, atol=1e-4, rtol=0)  # float32
    numbers, factors = model.frame_keys(features)
    assert (numbers * factors[..., None] - keys).abs().max() <= keys.abs().max() / 253  # half a step


@pytest.mark.parametrize("formulation", ["paper", "release"])
@pytest.mark.parametrize("local_injection", ["none", "direct", "coarse", "fine"])
def test_a_question_chooses_and_is_answered_with_every_injection(film, formulation, local_injection):
    model = tiny_model(formulation=formulation, local_injection=local_injection, global_injection="fine")
    video = HiComSession(model, tiny_processor(), cache_bytes=0).open(
        film, num_frames="all", selection=FrameSelection(num_frames=8, max_p_value=1.0)
    )
    answer = video.ask("Where is the ring?", max_new_tokens=2)
    assert answer.selection.used == "question" and len(answer.selection.frames) == 8
    by_hand = video.session.open(film[list(answer.selection.frames)], num_frames="all")
    assert by_hand.ask("Where is the ring?", max_new_tokens=2).answer == answer.answer


def test_scores_of_half_precision_are_added_in_float32():
    model, processor = tiny_model().bfloat16(), tiny_processor()
    scorer = model.frame_scorer(processor.encode_instructions(["What colour is the ring?"]))
    keys = torch.randn(2, *model.config.grid, model.config.vision_config.hidden_size).bfloat16()
    scores = scorer.patch_scores(keys)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[0], keys.float() @ scorer.query[0].float(), atol=1e-4, rtol=0)


def test_int8_keys_keep_a_score_to_a_hundredth_of_the_longest_key():
    model, processor = tiny_model(), tiny_processor()
    ids = processor.encode_instructions(["What colour is the ring?", "Where is it?"])
    features = torch.randn(5, *model.config.grid, model.config.vision_config.hidden_size)
    scorer = model.frame_scorer(ids)
    kept = scorer.int8_frame_scores(*model.frame_keys(features))
    exact = scorer.frame_scores(features)
    bound = 0.01 * features.norm(dim=-1).max() * scorer.query.norm(dim=-1, keepdim=True)
    assert kept.shape == exact.shape == (2, 5) and ((kept - exact).abs() <= bound).all()
    alone = model.frame_scorer(ids[1:]).int8_frame_scores(*model.frame_keys(features))
    assert torch.equal(alone[0], kept[1])


def test_keys_of_int8_are_multiples_of_their_factor():
    keys, factors = int8_rows(torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]]))
    assert keys.tolist() == [[127, -50, 0], [0, 0, 0]] and factors[0].item() == pytest.approx(0.01)


def test_instructions_that_are_not_padded_are_refused():
    with pytest.raises(ValueError, match="must be padded to all"):
        HiComFrameScorer(tiny_model(), torch.zeros(1, 3, dtype=torch.long))


def test_a_change_is_the_median_over_patches():
    features = torch.randn(4, 3, 3, 8)
    expected = [
        median(
            1
            - torch.nn.functional.cosine_similarity(
                features[t, row, column], features[t + 1, row, column], dim=0
            ).item()
            for row in range(3)
            for column in range(3)
        )
        for t in range(3)
    ]
    assert frame_changes(features).tolist() == pytest.approx(expected, abs=1e-5)


# Candidates -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=0)


@pytest.fixture(scope="module")
def film():
    """40 frames of five scenes, uint8."""
    return np.concatenate([render(Scene.from_seed(seed), num_frames=8, size=56)[0] for seed in range(5)])


@pytest.mark.parametrize("chunk_size", [1, 7, 40, 64])
def test_candidates_are_the_features_of_the_frames_whatever_the_chunk(session, film, chunk_size):
    session.model.config.vision_batch_size = chunk_size
    candidates = encode_candidates(session.model, session.processor, film, num_frames=20)
    pixels = session.processor.video_processor(film, num_frames=20)["pixel_values_videos"]
    features = session.model.encode_videos(pixels, [20])
    for name in ("features", "aligned_features"):
        kept = getattr(candidates, name).read(0, 20)
        torch.testing.assert_close(kept, features[name], atol=1e-5, rtol=0)  # float32, other chunks
    assert candidates.changes == pytest.approx(frame_changes(features["features"]).tolist(), abs=1e-5)
    assert candidates.sampling.indices == uniform_indices(40, 20)


def test_features_may_be_kept_in_half_the_bytes(session, film):
    full = encode_candidates(session.model, session.processor, film, num_frames=10)
    half = encode_candidates(session.model, session.processor, film, num_frames=10, dtype=torch.bfloat16)
    assert 2 * half.features.num_bytes == full.features.num_bytes and half.keys.num_bytes == full.keys.num_bytes
    assert torch.equal(half.features.read(3, 5), full.features.read(3, 5).bfloat16())


def test_candidates_are_encoded_once_for_all_sessions_with_one_folder(tmp_path, monkeypatch):
    selection, film = FrameSelection(num_frames=8, max_p_value=1.0), str(example_videos()[0])
    first = HiComSession(tiny_model(), tiny_processor(), cache_bytes=0, cache_dir=tmp_path)
    opened = first.open(film, num_frames=16, selection=selection)
    asked = opened.ask("Where is the ring?", max_new_tokens=4)
    second = HiComSession(first.model, first.processor, cache_bytes=0, cache_dir=tmp_path)
    monkeypatch.setattr(type(first.model), "encode_frames", None)
    video = second.open(film, num_frames=16, selection=selection)
    assert opened.candidates.seconds > 0 and opened.encoded.seconds == opened.candidates.seconds
    assert video.candidates.seconds == 0.0  # nothing was read
    again = video.ask("Where is the ring?", max_new_tokens=4)
    assert again.selection == asked.selection and again.answer == asked.answer
    assert video.candidates.sampling.times and second.cache.hits == 1


@pytest.mark.parametrize("own_reader", [False, True])
def test_the_model_is_held_for_one_chunk_of_candidates_at_a_time(session, film, monkeypatch, own_reader):
    read_in_chunks, encode = session.processor.video_processor.read_in_chunks, session.model.encode_frames
    other, answers = session.open(film, num_frames=4), []

    def is_free():
        return session.lock.acquire(blocking=False) and (session.lock.release() or True)

    def read(video, consume, chunk_size, **request):
        def take(pixel_values):
            assert threads.submit(is_free).result()  # else a question would wait here without an end
            answers.append(threads.submit(other.ask, "Where is it?", max_new_tokens=2).result().answer)
            consume(pixel_values)

        return read_in_chunks(video, take, chunk_size, **request)

    def encode_frames(pixel_values):
        assert not threads.submit(is_free).result()
        return encode(pixel_values)

    session.model.config.vision_batch_size = 8
    monkeypatch.setattr(session.model, "encode_frames", encode_frames)
    if not own_reader:
        monkeypatch.setattr(session.processor.video_processor, "read_in_chunks", read)
    with ThreadPoolExecutor(1) as threads:
        how = {"read": read} if own_reader else {}
        video = session.open(film, num_frames="all", selection=FrameSelection(num_frames=8), **how)
    assert len(video.candidates) == 40
    assert answers == [other.ask("Where is it?", max_new_tokens=2).answer] * 5


def test_threads_that_open_the_same_candidates_encode_them_once(tmp_path, monkeypatch):
    session = HiComSession(tiny_model(), tiny_processor(), cache_bytes=0, cache_dir=tmp_path)
    read_in_chunks, readers = session.processor.video_processor.read_in_chunks, []
    two_read, together = threading.Event(), threading.Barrier(3)

    def read(*arguments, **request):
        readers.append(threading.get_ident())
        if len(readers) > 1:
            two_read.set()
        two_read.wait(0.2)  # for a second reader, which must not come
        return read_in_chunks(*arguments, **request)

    def open_film(number):
        together.wait()
        return session.open(str(example_videos()[0]), num_frames=16, selection=FrameSelection(num_frames=8))

    monkeypatch.setattr(session.processor.video_processor, "read_in_chunks", read)
    with ThreadPoolExecutor(3) as threads:
        films = list(threads.map(open_film, range(3)))
    assert len(readers) == 1 and not session.cache._turns
    assert len({film.choose("Where is the ring?") for film in films}) == 1 and session.cache.hits == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("keys", b"short", r"damaged \(.*keys is shorter than 16 rows"),
        ("about.json", b"", r"damaged \(Expecting value.*delete the folder"),
        ("about.json", b"[]", r"damaged \(list indices.*delete the folder"),
        ("about.json", b'{"format": 1, "files": []}', r"damaged \(.*delete the folder"),
        ("about.json", b'{"format": 0}', r"damaged \(of format 0, not 1\); delete the folder"),
        ("about.json", None, r"damaged \(.*about.json'\); delete the folder"),
    ],
)
def test_kept_candidates_that_are_damaged_are_named(session, film, tmp_path, name, content, message):
    kept = HiComSession(session.model, session.processor, cache_bytes=0, cache_dir=tmp_path)
    request = {"num_frames": 16, "selection": FrameSelection(num_frames=8)}
    kept.open(str(example_videos()[0]), **request)
    [folder] = tmp_path.iterdir()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kept.open(str(example_videos()[0]), **request)


def test_candidates_of_another_adapter_of_the_keys_are_not_taken(tmp_path):
    compressor = {"formulation": "release", "global_injection": "coarse", "key_adapter": True}
    for gate in (0.0, 0.9):
        model = tiny_model(**compressor)
        model.model.compressor.local_branch.key_adapter.alpha.data.fill_(gate)
        records = []
        for folder in (None, tmp_path):
            session = HiComSession(model, tiny_processor(), cache_bytes=0, cache_dir=folder)
            request = {"num_frames": 16, "selection": FrameSelection(num_frames=8)}
            records.append(session.open(str(example_videos()[0]), **request).choose("Where is the ring?"))
        assert records[0] == records[1]
    assert len(list(tmp_path.iterdir())) == 2
    assert model.scoring_parts()["key_adapter"] is model.model.compressor.local_branch.key_adapter


def test_threads_read_one_file_at_a_time():
    file, wrong = FeatureFile(), []
    file.append(torch.arange(400.0)[:, None].expand(-1, 64))

    class Slow:
        def __getattr__(self, name):
            return getattr(whole, name)

        def seek(self, place, origin=0):
            whole.seek(place, origin)
            time.sleep(1e-4)  # another thread's turn

    whole, file._file = file._file, Slow()

    def read(rows):
        wrong.extend(row for row in rows if file.read(row, row + 1)[0, 0] != row)

    threads = [threading.Thread(target=read, args=(range(first, 400, 40),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_of_features_that_became_shorter_is_an_error(tmp_path):
    file = FeatureFile(path=tmp_path / "features")
    file.append(torch.zeros(6, 2))
    os.truncate(tmp_path / "features", 20)
    with pytest.raises(OSError, match=rf"{tmp_path}: a file of features has become shorter while it was in use"):
        file.read(2, 4)


def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch):
    file = FeatureFile(folder=str(tmp_path))

    class Full:
        def __getattr__(self, name):
            return getattr(temporary, name)

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    temporary, file._file = file._file, Full()
    with pytest.raises(OSError, match=rf"{tmp_path}: the features .*No space left on device.*TMPDIR") as raised:
        file.append(torch.zeros(6, 2))
    assert raised.value.errno == errno.ENOSPC


def test_a_request_is_of_its_class_or_a_dictionary(session, film):
    assert session.open(film, num_frames=8, selection={"num_frames": 2}).selection == FrameSelection(num_frames=2)
    with pytest.raises(TypeError, match="selection must be a FrameSelection or a dictionary of its fields, got int"):
        session.open(film, num_frames=8, selection=2)
    with pytest.raises(TypeError, match="tiles must be a FrameTiles or a dictionary of its fields, got list"):
        session.open(film, num_frames=8, tiles=[1])
    with pytest.raises(TypeError, match="FrameSelection has no field 'frames'; its fields are rule, num_frames,"):
        session.open(film, num_frames=8, selection={"frames": 2})


def test_what_says_nothing_of_candidates_is_refused_with_a_remedy(session, film):
    selection = FrameSelection(num_frames=8)
    with pytest.raises(ValueError, match="max_video_tokens says nothing of candidates; give it to the selection"):
        session.open(film, selection=selection, max_video_tokens=80)
    with pytest.raises(ValueError, match='do_sample_frames says nothing of candidates; num_frames="all"'):
        session.open(film, selection=selection, do_sample_frames=False)


def test_candidates_may_be_named_by_their_numbers(session, film):
    assert session.open(
        film, selection=FrameSelection(num_frames=2), indices=(3, 9, 30)
    ).candidates.sampling.indices == [3, 9, 30]


def test_rows_that_are_forgotten_are_not_numbered():
    file = FeatureFile()
    file.append(torch.arange(12.0).view(6, 2))
    file.forget(2)
    file.append(torch.tensor([[20.0, 21.0]]))
    assert file.num_rows == 5
    assert file.take([0, 3, 4]).tolist() == [[4.0, 5.0], [10.0, 11.0], [20.0, 21.0]]


def test_frames_that_were_read_by_a_wrong_clock_are_not_kept(session, film):
    def read_twice(video, consume, chunk_size, **request):
        for frames in (film[:3], film[8:18]):
            consume(session.processor.video_processor(frames, num_frames="all")["pixel_values_videos"])
        return None, list(range(3, 13))

    candidates = encode_candidates(session.model, session.processor, film, read=read_twice)
    expected = encode_candidates(session.model, session.processor, film[8:18], num_frames="all")
    assert len(candidates) == 10 and candidates.changes == pytest.approx(expected.changes, abs=1e-5)  # float32
    for kept, one in ((candidates.keys, expected.keys), (candidates.features, expected.features)):
        torch.testing.assert_close(kept.take([0, 9]), one.take([0, 9]), atol=1e-5, rtol=0)  # float32, other chunks


def test_the_instruction_chooses_not_what_a_prompt_says_about_the_answer(session, film):
    video = session.open(film, num_frames="all", selection=FrameSelection(num_frames=8, max_p_value=1.0))
    prompt = "Where is the red circle?\nAnswer the question using a single word or phrase."
    assert video.choose(prompt) == video.choose("Where is the red circle?")


def test_repeated_candidates_are_refused(session, film):
    with pytest.raises(ValueError, match="candidates must be different frames"):
        encode_candidates(session.model, session.processor, film, num_frames=50, short_video="repeat")


def test_a_uniform_selection_answers_as_a_session_without_one(session, film):
    plain = session.open(film, num_frames=8).ask("Where is the ring?", max_new_tokens=6)
    chosen = session.open(film, num_frames="all", selection=FrameSelection("uniform", num_frames=8)).ask(
        "Where is the ring?", max_new_tokens=6
    )
    assert chosen.answer == plain.answer and plain.selection is None
    assert chosen.selection.frames == tuple(uniform_indices(40, 8))


def test_every_question_is_answered_from_the_frames_that_it_chose(session, film):
    selection = FrameSelection(num_frames=8, max_p_value=1.0)
    video = session.open(film, sampling=FrameSampling(num_frames="all"), selection=selection, frame_rate=4.0)
    texts = ["Where is the red circle?", "What shape is it?"]
    answers = video.ask_all(texts, max_new_tokens=6)
    for text, answer in zip(texts, answers, strict=True):
        record = video.choose(text)
        assert answer.selection == record and len(record.frames) == 8
        assert record.times == tuple(frame / 4 for frame in record.frames) and record.indices == record.frames
        by_hand = session.open(film[list(record.frames)], num_frames="all").ask(text, max_new_tokens=6)
        assert by_hand.answer == answer.answer


@pytest.mark.parametrize("tiles", [None, FrameTiles()])
def test_questions_that_see_other_frames_are_answered_in_one_batch(session, film, monkeypatch, tiles):
    video = session.open(film[:, :32], num_frames="all", tiles=tiles, selection=FrameSelection(num_frames=8))
    rows = {"one": (0, 1, 2, 3, 20, 21, 22, 23), "two": (8, 9, 10, 11), "three": (8, 9, 10, 11)}
    even = video.choose("Anything?")

    def choose_all(questions, instruction=None):
        return [replace(even, frames=rows[words], indices=rows[words]) for words in instruction or questions]

    monkeypatch.setattr(video, "choose_all", choose_all)
    texts = ["What shape is it?", "Where is the red circle?", "Which way?"]
    one_by_one = [
        video.ask(text, instruction=words, max_new_tokens=6) for text, words in zip(texts, rows, strict=True)
    ]
    batches, encoded, pieces = [], [], ["", "", ""]
    monkeypatch.setattr(session, "generate", lambda answer: batches.append(answer()) or batches[-1])
    monkeypatch.setattr(session, "open", lambda *_, open=session.open, **how: encoded.append(how) or open(*_, **how))
    cancel = [threading.Event() for _ in texts]
    cancel[1].set()

    def on_text(number, text):
        pieces[number] += text

    together = video.ask_all(texts, instruction=list(rows), max_new_tokens=6, on_text=on_text, cancel=cancel)
    assert len(batches) == 1
    assert len(encoded) == (0 if tiles is None else 2)  # the same frames once
    for number, (alone, answer) in enumerate(zip(one_by_one, together, strict=True)):
        assert answer.instruction == list(rows)[number]
        assert answer.selection == alone.selection and answer.selection.frames == rows[answer.instruction]
        assert answer.tiles == alone.tiles
        if tiles is not None:
            assert answer.tiles == video.chosen(answer.selection).choose(answer.instruction)
        assert answer.cancelled == (number == 1)
        assert alone.answer.startswith(answer.answer) if answer.cancelled else alone.answer == answer.answer
        assert pieces[number].strip() == answer.answer
        assert answer.first_token_seconds <= answer.seconds


@pytest.mark.parametrize(("frame_rate", "number"), [(2.0, 100), (20.0, 64)])
def test_one_candidate_per_second_is_the_default_or_64_and_the_chosen_ones_are_described(
    session, film, frame_rate, number
):
    frames = np.repeat(film, 5, axis=0)
    video = session.open(frames, selection=FrameSelection("uniform", num_frames=4), frame_rate=frame_rate)
    assert len(video.candidates) == number and not video.candidates.sampling.warnings
    sampling = video.encoded.sampling
    assert sampling.indices == [video.candidates.sampling.indices[frame] for frame in uniform_indices(number, 4)]
    assert sampling.times == [index / frame_rate for index in sampling.indices]
    assert sampling.requested_frames == 4 and not sampling.fewer_than_requested


def test_all_frames_of_a_shorter_video_are_candidates_without_a_warning(session, film):
    candidates = session.open(film, selection=FrameSelection(num_frames=4), frame_rate=4.0).candidates
    assert len(candidates) == len(film) and not candidates.sampling.warnings
    asked_for = session.open(film, selection=FrameSelection(num_frames=4), frame_rate=4.0, fps=1.0).candidates
    assert len(asked_for) == 10


def test_an_instruction_chooses_in_place_of_the_question(session, film):
    video = session.open(film, num_frames="all", selection=FrameSelection(num_frames=8, max_p_value=1.0))
    answer = video.ask("And now?", instruction="Where is the red circle?", max_new_tokens=2)
    assert answer.selection == video.choose("Where is the red circle?")


def test_a_budget_of_tokens_is_as_many_frames_as_fit(session, film):
    tokens = session.processor.num_visual_tokens(8)
    video = session.open(film, num_frames="all", selection=FrameSelection("uniform", max_video_tokens=tokens))
    assert video.encoded.num_frames == 8 and video.encoded.num_visual_tokens == tokens


def test_two_scenes_that_one_question_names_are_both_found():
    session = HiComSession.load(dtype="float32", device="cpu")
    one, two = (Scene.from_seed(seed, clutter="sparse", split="test").subjects[0].name for seed in (4, 9))
    scenes = [Scene.from_seed(seed, clutter="sparse", split="test") for seed in range(30)]
    hay = [each for each in scenes if not any(n.fits(*o.attributes) for n in (one, two) for o in each.objects)][:8]
    film = np.concatenate([render(each)[0] for each in [*hay[:2], scenes[4], *hay[2:], scenes[9]]])
    video = session.open(film, num_frames="all", selection=FrameSelection(num_frames=8))
    record = video.choose(f"Which comes first, the {one.phrase} or the {two.phrase}?")
    assert {frame // 16 for frame in record.frames} == {2, 9}


def test_the_packaged_model_finds_a_scene_among_others_and_answers_from_it():
    session = HiComSession.load(dtype="float32", device="cpu")
    scene = Scene.from_seed(800_003, clutter="normal", split="test")
    question = next(question for question in questions(scene) if question.kind == "colour")
    [referent] = question.referents
    others = (Scene.from_seed(seed, clutter="sparse", split="test") for seed in range(900_000, 900_100))
    hay = [other for other in others if not any(referent.name.fits(*found.attributes) for found in other.objects)][:15]
    film = np.concatenate([render(each)[0] for each in [*hay[:9], scene, *hay[9:]]])
    video = session.open(film, num_frames="all", selection=FrameSelection(num_frames=8))
    answer = video.ask(question.text, max_new_tokens=8)
    assert all(144 <= frame < 160 for frame in answer.selection.frames)
    assert answer.answer == question.answer
    assert video.choose("What is this video mainly about?").used == "uniform"


# hicom ask --------------------------------------------------------------------------------------------------------------


def test_the_command_answers_from_the_chosen_frames_and_names_them(capsys):
    asked = [str(example_videos()[0]), "What colour is the ring?", "--num-frames", "16", "--select", "question"]
    assert main(["ask", *asked, "--frames", "8", "--max-new-tokens", "4", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    [answer] = report["answers"]
    assert len(answer["selection"]["frames"]) == 8 and answer["selection"]["num_candidates"] == 16
    assert "16 candidates" in printed.err and "each question sees at most 8 of them" in printed.err


@pytest.mark.parametrize(
    ("rule", "budget", "said"),
    [("question", 7, "at most 7"), ("uniform", 7, "7"), ("question", 99, "16")],
)
def test_the_command_says_whether_questions_may_see_fewer_frames_than_the_budget(rule, budget, said, capsys):
    asked = [str(example_videos()[0]), "What colour is the ring?", "--num-frames", "16", "--max-new-tokens", "1"]
    assert main(["ask", *asked, "--select", rule, "--frames", str(budget)]) == 0
    assert f"; each question sees {said} of them" in capsys.readouterr().err


def test_the_report_has_the_frames_that_the_questions_chose(capsys, monkeypatch):
    chosen = iter([(0, 1, 4, 6, 7), (1, 2)])  # of 8 candidates, the odd frames of the file

    def choose_others(selection, *_, times, **__):
        frames = (0, 7) if selection.rule == "uniform" else next(chosen)
        seconds = tuple(times[frame] for frame in frames)
        return SelectionRecord("question", "question", "", 8, math.inf, None, frames, seconds, (), ())

    monkeypatch.setattr(candidate_frames_hicom, "choose_frames", choose_others)
    asked = [str(example_videos()[0]), "What colour is the ring?", "Where is the ring?"]
    options = ["--fps", "2", "--select", "question", "--frames", "4", "--max-new-tokens", "1", "--json"]
    assert main(["ask", *asked, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    one, other = (answer["selection"] for answer in report["answers"])
    assert one["prominence"] is None  # JSON has no infinity
    assert one["indices"] == [1, 3, 9, 13, 15] and other["indices"] == [3, 5]
    assert report["video"]["indices"] == [1, 3, 5, 9, 13, 15]
    times = dict(zip(one["indices"] + other["indices"], one["times"] + other["times"], strict=True))
    assert report["video"]["times"] == [times[index] for index in report["video"]["indices"]]
    assert report["num_frames"] == 5 and report["num_uncompressed_patches"] == 5 * 12 * 12
    assert report["num_visual_tokens"] == HiComSession.load().model.config.num_visual_tokens(5) > 24


@pytest.mark.parametrize(
    "options",
    [
        ["--select", "question"],
        ["--frames", "8"],
        ["--select", "uniform", "--frames", "8", "--max-video-tokens", "99"],
    ],
)
def test_the_command_wants_one_budget_with_a_selection(options, capsys):
    assert main(["ask", str(example_videos()[0]), "Where?", *options]) == 2
    assert "--select: takes --frames or --max-video-tokens" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [["--select", "question", "--frames", "8"], ["--tiles", "1"]])
@pytest.mark.parametrize("video", ["missing.mp4", "file:///missing.mp4"])
def test_a_missing_file_is_found_before_weights_are_loaded(choice, video, capsys):
    assert main(["ask", video, "Where?", *choice]) == 1
    said = capsys.readouterr().err
    assert "there is no such file or folder" in said and "loading" not in said


def test_candidates_are_not_repeated(capsys):
    asked = ["ask", str(example_videos()[0]), "Where?", "--select", "question", "--frames", "8"]
    assert main([*asked, "--short-video", "repeat"]) == 2
    assert "--short-video: repeat goes without --select" in capsys.readouterr().err


@pytest.mark.parametrize(("frames", "is_said"), [(["--fps", "1"], True), (["--num-frames", "all"], False)])
def test_the_command_says_how_a_short_video_gets_more_candidates(frames, is_said, capsys):
    asked = ["ask", str(example_videos()[0]), "Where?", *frames, "--max-new-tokens", "1"]
    assert main([*asked, "--select", "question", "--frames", "99"]) == 0
    hint = "fewer candidates than --frames; --num-frames 99 or a higher --fps may give more"
    assert (hint in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("asked", [["--from", "q.jsonl", "--output", "a.jsonl"], ["a.mp4", "Where?"]])
def test_a_selection_has_one_budget(asked, capsys):
    for wrong in (["--select", "question"], ["--select", "question", "--frames", "8", "--max-video-tokens", "40"]):
        assert main(["ask", *asked, *wrong]) == 2
        assert "--select: takes --frames or --max-video-tokens, one of them" in capsys.readouterr().err
