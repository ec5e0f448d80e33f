"""Attention as maps: against loops written from the words of the docstrings; pictures: sizes, and heat where it belongs."""

import numpy as np
import pytest
import torch
from PIL import Image

from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.inference import (
    AttentionMaps,
    Explained,
    attention_fraction,
    attention_maps,
    global_map,
    local_map,
    picture,
    shown_frames,
)
from hicom_hf.inference.attention_picture import (
    CELL,
    GAP,
    LABELS,
    LEAST_ROW,
    LEAST_WIDTH,
    LEGEND,
    MARGIN,
    SQUARE,
    heated_frame,
)
from hicom_hf.modeling.grouping_hicom import group_positions
from hicom_hf.processors.answering_hicom import encode_video, read_frames
from hicom_hf.shapes import Scene, patch_cover, questions


@pytest.fixture(scope="module")
def frames():
    """5 frames, wider than high."""
    return np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def video(model, processor, frames):
    return encode_video(model, read_frames(processor, frames))


def random_weights(num_groups, group_size, seed=0):
    return torch.rand(num_groups, group_size, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)


def explained(grid=(3, 4, 4), local=1.0, over_all=1.0, question="Where is it?", answer="there", **more):
    maps = AttentionMaps("", np.full(grid, local), np.full(grid, over_all))
    return Explained(question, answer, maps, **more)


# Maps ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 12, 12), (5, 7, 8), (1, 4, 2), (9, 3, 3)])
def test_the_local_map_is_that_of_a_loop_over_groups(grid):
    positions = group_positions(grid, (4, 3, 3))
    weights = random_weights(*positions.shape[:2])
    values = {}
    for group_weights, members in zip(weights.tolist(), positions.tolist(), strict=True):
        for weight, member in zip(group_weights, members, strict=True):
            values.setdefault(tuple(member), []).append(weight * len(members))
    found = local_map(weights, positions)
    assert found.shape == grid
    for place, shares in values.items():
        assert found[place] == pytest.approx(sum(shares) / len(shares))


def test_without_overlap_every_group_of_the_local_map_has_mean_1():
    positions = group_positions((8, 12, 12), (4, 3, 3))
    found = local_map(random_weights(*positions.shape[:2]), positions)
    means = found.reshape(2, 4, 4, 3, 4, 3).mean(axis=(1, 3, 5))
    assert means == pytest.approx(np.ones((2, 4, 4)), abs=1e-6)  # the weights are float32


def test_even_attention_is_1_everywhere_in_both_maps():
    positions = group_positions((5, 7, 8), (4, 3, 3))
    size = positions.shape[1]
    assert local_map(torch.full(positions.shape[:2], 1 / size), positions) == pytest.approx(np.ones((5, 7, 8)))
    assert global_map(torch.full((2, 3, 5, 7, 8), 1 / 280)) == pytest.approx(np.ones((5, 7, 8)))


def test_the_global_map_is_the_mean_over_heads_and_queries():
    weights = torch.rand(2, 3, 60, generator=torch.Generator().manual_seed(1)).softmax(dim=-1).view(2, 3, 3, 4, 5)
    found = global_map(weights)
    for place in np.ndindex(3, 4, 5):
        singles = [float(weights[head, query][place]) for head in range(2) for query in range(3)]
        assert found[place] == pytest.approx(60 * sum(singles) / 6, rel=1e-6)
    assert found.mean() == pytest.approx(1, rel=1e-6)


def test_weights_of_other_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"weights must be \(G, K\) and positions \(G, K, 3\), got \(2, 3\) and \(2, 4, 3\)"
    ):
        local_map(torch.ones(2, 3), torch.ones(2, 4, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"weights must be \(heads, Q, T, H, W\), got \(3, 4\)"):
        global_map(torch.ones(3, 4))


# A model's maps --------------------------------------------------------------------------------------------------------


def test_a_models_maps_are_those_of_its_compressor(model, processor, video):
    maps = attention_maps(model, processor, video, "Where is it?\nOptions:\nA. here\nB. there")
    output = model.model.get_video_features(
        video_features=video.features,
        video_instruction_ids=processor.encode_instructions(["Where is it?"]),
        output_compressor_attentions=True,
    )
    [attentions] = output.compressor_attentions
    assert maps.instruction == "Where is it?"
    assert maps.local_map.shape == maps.global_map.shape == (5, 7, 7)
    assert np.array_equal(maps.local_map, local_map(attentions.local_weights[0], attentions.local_positions))
    assert np.array_equal(maps.global_map, global_map(attentions.global_weights[0]))


def test_another_question_looks_elsewhere(model, processor, video):
    one, other = (attention_maps(model, processor, video, text) for text in ("What is it?", "Where is the red cat?"))
    assert not np.allclose(one.local_map, other.local_map)
    assert not np.allclose(one.global_map, other.global_map)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"local_branch": "average_pool", "local_injection": "none"}, "local_map"),
        ({"num_global_tokens": 0, "global_injection": "none"}, "global_map"),
    ],
)
def test_a_branch_that_does_not_attend_has_no_map(processor, frames, changes, missing):
    model = tiny_model(**changes)
    asked = encode_video(model, read_frames(processor, frames))
    maps = attention_maps(model, processor, asked, "What is it?")
    assert getattr(maps, missing) is None
    item = Explained("What is it?", "nothing", maps)
    assert (
        picture(np.zeros((5, 9, 9, 3), np.uint8), [], [item]).height
        < picture(np.zeros((3, 9, 9, 3), np.uint8), [], [explained()]).height
    )


def test_without_grouping_the_local_map_is_the_mean_over_all_tokens(processor, frames):
    model = tiny_model(grouping=False, local_injection="coarse")
    maps = attention_maps(model, processor, encode_video(model, read_frames(processor, frames)), "What is it?")
    assert maps.local_map.shape == (5, 7, 7)
    assert maps.local_map.mean() == pytest.approx(1, abs=1e-6)


def test_an_empty_question_is_refused(model, processor, video):
    with pytest.raises(ValueError, match="the question is empty"):
        attention_maps(model, processor, video, " ")


# Shares ----------------------------------------------------------------------------------------------------------------


def test_the_share_is_that_of_a_loop_over_patches():
    random = np.random.default_rng(2)
    attention, cover = random.random((3, 4, 5)), random.random((3, 4, 5))
    share = attention_fraction(attention, cover)
    on_it = sum(attention[place] * cover[place] for place in np.ndindex(3, 4, 5))
    assert share.attention == pytest.approx(on_it / attention.sum())
    assert share.area == pytest.approx(sum(cover[place] for place in np.ndindex(3, 4, 5)) / 60)
    assert share.times_even == pytest.approx(share.attention / share.area)


def test_even_attention_has_the_share_of_the_area():
    question = next(found for found in questions(Scene.from_seed(3)) if found.referents)
    share = attention_fraction(np.ones((8, 12, 12)), patch_cover(question.referents, 8))
    assert 0 < share.area < 0.05
    assert share.times_even == pytest.approx(1)


def test_of_several_objects_the_larger_cover_counts():
    cover = np.zeros((2, 1, 2, 2))
    cover[0, 0, 0], cover[1, 0, 0] = [0.5, 0.0], [0.25, 1.0]
    assert attention_fraction(np.ones((1, 2, 2)), cover).area == pytest.approx((0.5 + 1.0) / 4)


def test_groups_that_an_object_does_not_touch_do_not_count_in_a_local_map():
    """The quotient is the mean over the touched groups, each weighted by how much of the object it holds."""
    positions = group_positions((8, 12, 12), (4, 3, 3))
    weights = random_weights(*positions.shape[:2])
    question = next(found for found in questions(Scene.from_seed(3)) if found.kind == "motion")
    cover = patch_cover(question.referents, 8)
    [members] = cover[:, *positions.unbind(-1)]  # (G, K)
    touched = members.sum(axis=1) > 0
    assert 0 < touched.sum() < len(members)
    members, inside = members[touched], weights.double().numpy()[touched]
    in_groups = (inside * members).sum(axis=1) / members.mean(axis=1)  # attention over area, group by group
    expected = np.average(in_groups, weights=members.sum(axis=1))
    assert attention_fraction(local_map(weights, positions), cover).times_even == pytest.approx(expected)


def test_nothing_covered_has_no_quotient():
    for cover in (np.zeros((1, 2, 2)), np.zeros((0, 1, 2, 2))):
        share = attention_fraction(np.ones((1, 2, 2)), cover)
        assert (share.attention, share.area) == (0, 0) and np.isnan(share.times_even)


def test_maps_and_covers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2, 2\) and \(1, 2, 3\)"):
        attention_fraction(np.ones((1, 2, 2)), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="must lie from 0 to 1, got 0 to 2"):
        attention_fraction(np.ones((1, 1, 2)), np.array([[[0.0, 2.0]]]))
    with pytest.raises(ValueError, match="0 everywhere"):
        attention_fraction(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))


# Pictures --------------------------------------------------------------------------------------------------------------


def test_the_frames_are_shown_as_the_model_sees_them(processor, frames):
    shown = shown_frames(processor, read_frames(processor, frames))
    side = processor.video_processor.size["height"]
    assert shown.dtype == np.uint8 and shown.shape == (5, side, side, 3)
    # 24 x 32 pixels are padded to a square with grey above and below, then resized.
    edge = shown[:, [0, -1]].astype(int)
    assert np.abs(edge - processor.video_processor.pad_value).max() <= 2


@pytest.mark.parametrize(("num_frames", "num_shown"), [(1, 1), (3, 3), (8, 8), (32, 8)])
def test_the_picture_has_a_column_for_each_shown_frame(num_frames, num_shown):
    image = picture(np.zeros((num_frames, 24, 24, 3), np.uint8), [], [explained((num_frames, 4, 4))])
    assert image.mode == "RGB"
    assert image.width == 2 * MARGIN + LABELS + max(num_shown * (CELL + GAP) - GAP, LEAST_WIDTH)


def test_wide_frames_keep_their_shape_under_the_attention():
    values = np.zeros((2, 4, 4))
    values[:, :, 0], values[:, :, 1:] = 4.0, 0.0  # the left quarter
    frame = np.full((2, 50, 100, 3), 200, np.uint8)
    heated = heated_frame(frame[0], values, 0)
    assert heated.size == (100, 50)
    assert np.array(heated)[:, 2, 0].min() > np.array(heated)[:, 60:, 0].max() + 50
    image = np.array(picture(frame, [], [Explained("Q", "A", AttentionMaps("Q", values, None))]))
    row = image[:, MARGIN + LABELS + CELL // 2]
    grey = np.flatnonzero((row == 200).all(axis=1))
    assert np.ptp(grey) == CELL // 2 - 1  # as high as a frame that is twice as wide


def test_every_question_adds_two_rows():
    frames, times = np.zeros((3, 24, 24, 3), np.uint8), [0.0, 0.5, 1.0]
    heights = [picture(frames, times, [explained()] * number).height for number in (1, 2, 3)]
    assert heights[1] - heights[0] == heights[2] - heights[1] > 2 * CELL
    assert picture(frames, times, [explained()], "title").height > heights[0]


def test_heat_lies_where_the_attention_is():
    frames = np.full((2, 24, 24, 3), 100, np.uint8)
    cold, hot = explained((2, 4, 4), local=0.5), explained((2, 4, 4), local=0.5)
    hot.maps.local_map[1, 0, 3] = 9.0  # second frame, top right
    without, heated = (np.asarray(picture(frames, [], [item]), dtype=int)[: -LEGEND - MARGIN] for item in (cold, hot))
    changed = np.argwhere((without != heated).any(axis=-1))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    second = MARGIN + LABELS + CELL + GAP
    assert second + CELL // 2 <= left and right == second + CELL - 1
    assert bottom - top < CELL // 2
    red, _, blue = heated[top, right]
    assert red - blue > 60  # the frames of this test are grey


def test_attention_that_is_even_shows_no_heat():
    frames = np.full((3, 24, 24, 3), 100, np.uint8)
    even, less = (picture(frames, [], [explained(local=value, over_all=value)]) for value in (1.0, 0.2))
    assert np.array_equal(np.asarray(even), np.asarray(less))


def test_what_is_asked_about_is_outlined_in_the_rows_of_attention():
    frames = np.zeros((2, 24, 24, 3), np.uint8)
    boxes = np.full((1, 2, 4), np.nan)
    boxes[0, 1] = 0.25, 0.25, 0.5, 0.5
    plain, outlined = (
        np.asarray(picture(frames, [], [explained((2, 4, 4), boxes=given)]), dtype=int) for given in (None, boxes)
    )
    changed = np.argwhere((plain != outlined).any(axis=-1))
    second = MARGIN + LABELS + CELL + GAP
    assert changed[:, 1].min() > second and changed[:, 1].max() < second + CELL
    assert np.ptp(changed[:, 0]) > CELL  # in the local and in the global row


def test_the_best_square_is_outlined_within_its_frame_and_named():
    frames = np.zeros((2, 54, 96, 3), np.uint8)
    square = np.full((2, 4), np.nan)
    square[1] = 0.0, 0.0, 54 / 96, 1.0
    image = np.asarray(picture(frames, [], [explained((2, 4, 4), best_square=square)]))
    rows, columns = np.nonzero((image == SQUARE).all(axis=-1))
    second, height = MARGIN + LABELS + CELL + GAP, round(CELL * 54 / 96)
    in_frames = rows < len(image) - LEGEND - MARGIN
    assert columns[in_frames].min() == second and columns[in_frames].max() == second + height
    edges = np.unique(rows[in_frames])
    assert len(edges) == 2 * height  # four sides each in the local and in the global row
    assert (~in_frames).any()  # the legend


def test_a_row_is_as_high_as_its_frames_and_its_labels():
    sizes = (96, 48), (48, 96), (12, 96)
    heights = [picture(np.zeros((2, *size, 3), np.uint8), [], [explained((2, 4, 4))]).height for size in sizes]
    assert heights[0] - heights[1] == 3 * (CELL - CELL // 2) and heights[1] - heights[2] == 3 * (CELL // 2 - LEAST_ROW)


def test_right_and_wrong_answers_are_told_apart():
    frames = np.zeros((3, 24, 24, 3), np.uint8)
    right, wrong, unknown = (
        np.asarray(picture(frames, [], [explained(right_answer=answer)])) for answer in ("there", "here", None)
    )
    assert not np.array_equal(right, wrong) and not np.array_equal(right, unknown)


def test_texts_that_are_too_long_or_have_no_letters_are_drawn_all_the_same():
    frames = np.zeros((1, 24, 24, 3), np.uint8)
    item = explained((1, 4, 4), question="Where\nis it? " * 100, answer="", note="\N{CAT FACE} 何 " * 50)
    assert isinstance(picture(frames, [0.0], [item], "title " * 100), Image.Image)


def test_a_picture_of_what_does_not_fit_together_is_refused():
    frames = np.zeros((3, 24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match=r"uint8 \(T, height, width, 3\) with at least one, got float64"):
        picture(np.zeros((3, 24, 24, 3)), [], [explained()])
    with pytest.raises(ValueError, match="there are 3 frames and 2 times"):
        picture(frames, [0.0, 1.0], [explained()])
    with pytest.raises(ValueError, match="nothing is explained"):
        picture(frames, [], [])
    with pytest.raises(ValueError, match=r"local_map must be \(3, H, W\) for these frames, got \(2, 4, 4\)"):
        picture(frames, [], [explained((2, 4, 4))])
