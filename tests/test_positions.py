"""The 3D position embedding, against the formula and the release's table."""

import math

import pytest
import torch
from safetensors.torch import load_file
from shared_data import GOLDEN_DIR, needs_golden

from hicom_hf.modeling.positions_hicom import HiComPositions, HiComReleasePositions, sinusoid


def test_sinusoid_is_the_textbook_formula():
    table = sinusoid(5, 6)
    for position in range(5):
        for channel in range(6):
            angle = position / 10000 ** (2 * (channel // 2) / 6)
            expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
            assert table[position, channel].item() == pytest.approx(expected, abs=1e-15)


def test_paper_gives_time_two_eighths_and_rows_and_columns_three_eighths_each():
    table = HiComPositions().embedding((3, 4, 5), 32, dtype=torch.float64)
    assert table.shape == (3, 4, 5, 32)
    assert torch.equal(table[2, 1, 3], torch.cat([sinusoid(3, 8)[2], sinusoid(4, 12)[1], sinusoid(5, 12)[3]]))


@needs_golden
def test_release_adds_three_full_width_sinusoids_as_in_its_table():
    # Float64 values of another library's power and sine: equal but for the last bit, and exactly equal in float32, the
    # type in which the model adds them.
    golden = load_file(GOLDEN_DIR / "tables/position_embedding.safetensors")
    small = {name: table for name, table in golden.items() if name.startswith("pos_")}
    assert small
    for name, expected in small.items():
        *grid, width = map(int, name.removeprefix("pos_").split("x"))
        table = HiComReleasePositions().embedding(grid, width, dtype=torch.float64)
        torch.testing.assert_close(table, expected, atol=1e-15, rtol=0)
        assert torch.equal(table.float(), expected.float()), name
    big = HiComReleasePositions().embedding((32, 27, 27), 128, dtype=torch.float64)
    frame, row, column = golden["big_index"].long().unbind(-1)
    assert torch.equal(big[frame, row, column].float(), golden["big_values"].float())


def test_no_two_patches_share_a_position_in_the_paper_s_embedding():
    rows = HiComPositions().embedding((4, 5, 6), 32).flatten(0, 2)
    assert (torch.cdist(rows, rows) + torch.eye(len(rows))).min() > 0.1


def test_the_release_s_sum_cannot_tell_the_axes_apart():
    table = HiComReleasePositions().embedding((3, 3, 3), 32, dtype=torch.float64)
    torch.testing.assert_close(table[1, 0, 2], table[2, 1, 0], atol=1e-15, rtol=0)
