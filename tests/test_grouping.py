"""Groups: equal length, in order, everything covered; the release's rule wherever it has one."""

import itertools
import json

import pytest
import torch
from shared_data import GOLDEN_DIR, needs_golden

from hicom_hf.modeling.grouping_hicom import group, group_positions, group_spans, num_groups


@pytest.mark.parametrize(
    "size, ratio, spans",
    [
        (8, 4, [(0, 4), (4, 8)]),  # blocks
        (3, 4, [(0, 3)]),  # one shorter group
        (7, 4, [(0, 4), (3, 7)]),  # an overlap of one, as in the release
        (10, 3, [(0, 3), (3, 6), (5, 8), (7, 10)]),  # the last two boundaries overlap
        (5, 4, [(0, 4), (1, 5)]),  # the release fails on this and the next three
        (6, 4, [(0, 4), (2, 6)]),
        (9, 4, [(0, 4), (3, 7), (5, 9)]),  # a surplus of 3 over two boundaries: 1, then 2
        (4, 3, [(0, 3), (1, 4)]),
    ],
)
def test_group_spans_are_these(size, ratio, spans):
    assert group_spans(size, ratio) == spans


def test_groups_are_equally_long_cover_the_axis_and_number_ceil_of_size_over_ratio():
    for size in range(1, 70):
        for ratio in range(1, 12):
            spans = group_spans(size, ratio)
            assert len(spans) == -(-size // ratio)
            assert {stop - start for start, stop in spans} == {min(size, ratio)}
            assert {i for start, stop in spans for i in range(start, stop)} == set(range(size))
            assert spans == sorted(spans)


def test_overlaps_differ_by_at_most_one():
    for size in range(2, 70):
        for ratio in range(1, 12):
            spans = group_spans(size, ratio)
            overlaps = [left[1] - right[0] for left, right in itertools.pairwise(spans)]
            assert not overlaps or max(overlaps) - min(overlaps) <= 1


@needs_golden
def test_spans_equal_the_release_wherever_it_has_any():
    table = json.loads((GOLDEN_DIR / "tables/grouping.json").read_text())["entries"]
    worked = [entry for entry in table if entry["ok"]]
    assert len(worked) > 100
    for entry in worked:
        expected = list(zip(entry["start"], entry["end"], strict=True))
        assert group_spans(entry["size"], entry["kernel"]) == expected, (entry["size"], entry["kernel"])


@pytest.mark.parametrize("size, ratio", [(0, 3), (3, 0), (-1, 2)])
def test_sizes_and_ratios_below_one_are_refused(size, ratio):
    with pytest.raises(ValueError, match="at least 1"):
        group_spans(size, ratio)


@pytest.mark.parametrize("grid, ratio", [((8, 9, 9), (4, 3, 3)), ((7, 10, 5), (4, 3, 2)), ((1, 4, 7), (4, 3, 3))])
def test_group_collects_what_a_naive_loop_collects(grid, ratio):
    hidden = torch.arange(2 * torch.tensor(grid).prod() * 3).reshape(2, *grid, 3)
    expected = []
    for frames in group_spans(grid[0], ratio[0]):
        for rows in group_spans(grid[1], ratio[1]):
            for columns in group_spans(grid[2], ratio[2]):
                members = hidden[:, slice(*frames), slice(*rows), slice(*columns)]
                expected.append(members.reshape(2, -1, 3))
    assert torch.equal(group(hidden, ratio), torch.stack(expected, dim=1))


def test_group_positions_name_the_member_they_stand_for():
    grid, ratio = (7, 10, 10), (4, 3, 3)
    index = torch.arange(700).reshape(1, *grid, 1)
    members = group(index, ratio)[0, ..., 0]  # (G, K) flat indices
    frame, row, column = group_positions(grid, ratio).unbind(-1)
    assert torch.equal((frame * 10 + row) * 10 + column, members)


def test_number_of_groups_of_the_paper():
    assert num_groups((32, 27, 27), (4, 3, 3)) == (8, 9, 9)


@pytest.mark.parametrize("ratio", range(1, 9))
def test_members_of_groups_are_those_of_their_spans(ratio):
    for size in range(1, 40):
        spans = group_spans(size, ratio)
        wanted = [member for start, stop in spans for member in range(start, stop)]
        assert group(torch.arange(size).reshape(1, size, 1, 1, 1), (ratio, 1, 1)).flatten().tolist() == wanted
