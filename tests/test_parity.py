"""The official program's numbers: the small set of tests/golden always, the full one where it is."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from official_checkpoints import GOLDEN, checkpoint
from parity.checks import CaseResult, Comparison, LeftOut, largest
from parity.compressor_cases import compress, hashed
from parity.suite import ParityRun, find_cases
from safetensors.torch import load_file, save_file
from shared_data import GOLDEN_DIR, needs_golden

from hicom_hf.conversion.official_config import build_official_compressor

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "parity.py"
SMALL = find_cases(GOLDEN)
FULL = find_cases(GOLDEN_DIR) if (GOLDEN_DIR / "index.json").is_file() else []
# Marks that the full set was skipped, in the report of a run without it.
FULL_OR_SKIPPED = FULL or [{"id": "the full set of reference numbers", "kind": "absent"}]


def case_id(case):
    return case["id"]


@pytest.fixture(scope="module")
def small():
    with ParityRun(GOLDEN) as run:
        yield run


@pytest.fixture(scope="module")
def full():
    with ParityRun(GOLDEN_DIR) as run:
        yield run


def is_compared(case):
    """Whether a compressor case has numbers of something that is built, by its own description."""
    config = case["config"]
    refused = (
        re.search("adapt[kv]*[qg]", case["mm_projector_type"])
        or config.get("use_clip_scale")
        or config.get("text_dim") != config.get("mm_hidden_size")
    )
    return not refused and any(run["error"] is None for run in case["runs"])


@pytest.mark.parametrize("case", SMALL, ids=case_id)
def test_the_small_set_agrees(small, case):
    result = small.run(case)
    assert result.applies and result.passed, result.line()


@needs_golden
@pytest.mark.parametrize("case", FULL_OR_SKIPPED, ids=case_id)
def test_the_full_set_agrees(full, case):
    result = full.run(case)
    assert result.passed, result.line()
    if case["kind"] == "training":
        assert not result.applies
    elif case["kind"] == "compressor":
        assert result.applies == is_compared(case), result.line()
    elif case["kind"] != "compressor_newline":  # its runs are refused one by one
        assert result.applies, result.line()
    assert result.applies or all(item.reason for item in result.left_out)


def test_the_small_set_is_small_and_holds_what_it_should():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 12 * 10**6
    kinds = [case["kind"] for case in SMALL]
    assert (kinds.count("compressor"), kinds.count("e2e"), kinds.count("table")) == (3, 2, 1)
    assert len({case["checkpoint"] for case in SMALL if case["kind"] == "e2e"}) == 2


# A wrong number is found ---------------------------------------------------------------------------------------------


@pytest.fixture
def altered(tmp_path):
    """A copy of the small set without its end-to-end cases, to be made wrong."""
    shutil.copytree(GOLDEN, tmp_path / "golden", ignore=shutil.ignore_patterns("e2e"))
    index = json.loads((tmp_path / "golden" / "index.json").read_text())
    index["cases"] = [case for case in index["cases"] if case["kind"] != "e2e"]
    (tmp_path / "golden" / "index.json").write_text(json.dumps(index))
    return tmp_path / "golden"


def change(file, name, amount):
    tensors = load_file(file)
    tensors[name].view(-1)[-1] += amount
    save_file(tensors, file)


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stopped.value.code, capsys.readouterr().out.splitlines()


def test_the_benchmark_prints_a_line_per_case_and_a_summary(altered, monkeypatch, capsys):
    code, lines = run_script(monkeypatch, capsys, altered)
    assert code == 0
    assert [line.split()[0] for line in lines[:4]] == ["agrees"] * 4
    assert lines[4].startswith("4 cases: 4 agree (10 comparisons), 0 left out, 0 miss")


@pytest.mark.parametrize("amount, code", [(5e-5, 0), (3e-4, 1)])
def test_the_benchmark_fails_on_a_single_wrong_value(altered, monkeypatch, capsys, amount, code):
    change(altered / "compressor/release_direct/out_1_7x10x10_video.safetensors", "output", amount)
    found, lines = run_script(monkeypatch, capsys, altered)
    assert found == code
    assert ("MISS      release_direct: 3.0" in "\n".join(lines)) == bool(code)
    assert lines[-2].endswith("1 miss: release_direct" if code else "0 miss")


def test_the_benchmark_fails_on_a_wrong_weight_and_on_a_wrong_table(altered, monkeypatch, capsys):
    change(
        altered / "compressor/direct_local_coarse_global/weights.safetensors", "local_compressor.readout.2.bias", 0.01
    )
    table = json.loads((altered / "tables/grouping.json").read_text())
    table["entries"][-1]["start"][-1] += 1
    (altered / "tables/grouping.json").write_text(json.dumps(table))
    code, lines = run_script(monkeypatch, capsys, altered)
    assert code == 1
    assert lines[-2].endswith("2 miss: direct_local_coarse_global, grouping")


def test_an_error_of_our_code_is_a_miss_and_a_refusal_is_not(altered, monkeypatch, capsys):
    for name, string in (
        ("release_direct", "local43_global32_corase"),
        ("adaptkv_direct_local_coarse_global", "local43_adaptq"),
    ):
        path = altered / "compressor" / name / "case.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "mm_projector_type": string}))
    code, lines = run_script(monkeypatch, capsys, altered)
    assert code == 1
    text = "\n".join(lines)
    assert "MISS      release_direct: inf in an error, ValueError" in text and "'corase' in the global part" in text
    assert "left out  adaptkv_direct_local_coarse_global" in text and "query adapters" in text


def test_a_case_that_cannot_be_run_is_a_miss_and_the_others_still_run(altered, monkeypatch, capsys):
    (altered / "compressor/release_direct/weights.safetensors").write_bytes(b"no tensors")
    index = json.loads((altered / "index.json").read_text())
    index["cases"][:0] = [{"id": "no kind"}, {"id": "no files", "kind": "table", "files": []}, {"kind": "e2e"}]
    (altered / "index.json").write_text(json.dumps(index))
    code, lines = run_script(monkeypatch, capsys, altered)
    assert code == 1
    assert [line.split()[0] for line in lines[:7]].count("agrees") == 3
    assert "7 cases: 3 agree" in "\n".join(lines)
    assert "4 miss: no kind, no files, a case without an id, release_direct" in "\n".join(lines)


def test_a_checkpoint_with_an_unreleased_option_is_left_out_by_name(tmp_path):
    checkpoint(tmp_path / "checkpoint", mm_projector_type="local43_adaptq_global32")
    tower = str(GOLDEN / "e2e" / "hicom_release" / "siglip_tower")
    case = {"id": "one", "kind": "e2e", "checkpoint": "checkpoint", "siglip_tower": tower}
    (tmp_path / "index.json").write_text(json.dumps({"cases": [case]}))
    with ParityRun(tmp_path) as run:
        (result,) = run.all()
    assert not result.applies and "refused" in result.line() and "query adapters (adaptq)" in result.line()


def test_inputs_are_found_from_a_case_folder_in_another_place(altered, monkeypatch, capsys):
    moved = altered / "elsewhere" / "deeper" / "renamed"
    moved.parent.mkdir(parents=True)
    (altered / "compressor/release_direct").rename(moved)
    index = (altered / "index.json").read_text()
    (altered / "index.json").write_text(index.replace("compressor/release_direct/", "elsewhere/deeper/renamed/"))
    code, lines = run_script(monkeypatch, capsys, altered)
    assert code == 0, lines


def test_the_frames_of_an_image_are_not_grouped():
    """By the official rule; a compressor without groups over frames gives the same tokens for a video."""
    torch.manual_seed(0)
    sizes = {"0.weight": (4, 8), "0.bias": (4,), "2.weight": (4, 4), "2.bias": (4,)}
    tensors = {f"local_compressor.readout.{name}": torch.randn(size) for name, size in sizes.items()}
    config = {"use_guide": None, "mm_hidden_size": 8, "hidden_size": 4}
    grouped, single = (
        build_official_compressor({**config, "mm_projector_type": name}, tensors) for name in ("local43", "local13")
    )
    inputs = (torch.randn(4, 6, 6, 8), None, None, None)
    image, video = ({"modality": kind, "guide_used": None} for kind in ("image", "video"))
    assert torch.equal(compress(grouped, inputs, image), compress(single, inputs, video))


def test_a_folder_where_nothing_can_be_compared_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "index.json").write_text(
        json.dumps({"cases": [{"id": "one", "kind": "training"}, {"id": "two", "kind": "new"}]})
    )
    code, lines = run_script(monkeypatch, capsys, tmp_path)
    assert code == 1
    assert lines[0].startswith("left out  one: all (samples and optimiser groups")
    assert lines[1] == "left out  two: all (unknown kind of case 'new')"
    assert lines[2].startswith("2 cases: 0 agree (0 comparisons), 2 left out, 0 miss")


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.json is not there: not a folder of reference numbers"):
        find_cases(tmp_path)


# Parts ---------------------------------------------------------------------------------------------------------------


def test_nan_and_other_shapes_never_agree():
    assert not largest("x", torch.tensor([float("nan")]), torch.zeros(1)).passed
    assert not largest("x", torch.zeros(2), torch.zeros(1)).passed
    assert largest("x", torch.full((1,), 0.5), torch.zeros(1), tolerance=0.5).passed


def test_the_worst_comparison_is_reported_relative_to_its_tolerance():
    result = CaseResult("one", "table", (Comparison("a", 0.5, 1.0), Comparison("b", 2e-4)), (LeftOut("c", "why"),))
    assert result.line() == "MISS      one: 2.00e-04 in b (allowed 1e-04), 2 compared; left out: c (why)"


def test_generated_inputs_are_those_of_the_recipe():
    """By hand, in whole numbers, modulo 2^32."""
    values = []
    for index in range(6):
        x = ((index + 1) * 2654435761 + 18 * 2246822519) % 2**32
        x ^= x >> 15
        x = x * 739982445 % 2**32
        x ^= x >> 12
        x = x * 695872825 % 2**32
        x ^= x >> 15
        values.append(2 * ((x >> 8) / 2**23 - 1))
    assert hashed((1, 2, 3), 18).flatten().tolist() == values
