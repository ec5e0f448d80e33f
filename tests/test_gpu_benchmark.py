"""benchmarks/gpu.py, tried out on the CPU with a tiny model: it measures what it can, and its table says what it could not."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/performance.md"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # where Python looks when the script is run
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu_table(gpu):
    return sys.modules["gpu_table"]


@pytest.fixture(scope="module")
def lines(gpu, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "lines.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--size", "tiny", "--out", str(path)])
        gpu.main()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_part_that_needs_no_gpu_is_measured(gpu_table, lines):
    found = {line["what"]: line for line in lines}
    failed = [line["what"] for line in lines if "error" in line]  # packages that are not there
    assert failed == [f"attention {name}: failed" for name in gpu_table.ATTENTION if name not in ("sdpa", "eager")]
    for part in gpu_table.PAPER:
        assert found[part]["ms"] > 0
    for row in (
        "first question",
        "follow-up question",
        "decode, dynamic cache",
        "8 questions, one batch",
        "8 frames, request",
        "decode, static cache, compiled",
        "follow-up and 32 words, compiled",
        "8 questions and 32 words, compiled",
        "follow-ups of other lengths and 32 words, compiled",
        "follow-ups of other lengths and 32 words, new caches",
        *gpu_table.FLOORS.values(),
        "encode, compiled",
        "instruction encoder, compiled",
        *(f"attention {name}, {part}" for name in ("sdpa", "eager") for part in gpu_table.ATTENDING),
    ):
        assert "ms" in found[row]
    for row in gpu_table.PAPER:
        assert found[f"LLaVA-OneVision, {row}"]["ms"] > 0
    assert found["LLaVA-OneVision, first question"]["visual_tokens"] == 65  # 4 frames of 4 x 4, and the end


@pytest.mark.slow
def test_what_was_not_measured_is_said(gpu_table, lines):
    table = gpu_table.table(lines)
    assert re.search(r"^\| reads from the device in a follow-up \| not measured \|", table, re.MULTILINE)
    assert re.search(r"^\| flash_attention_2 \| failed \|", table, re.MULTILINE)
    assert re.search(r"^\| first question, 32 frames \| \d+\.\d+ ms \| \d.* \| \d+\.\d \|$", table, re.MULTILINE)
    assert "measured" in gpu_table.table([]) and "No GPU" in gpu_table.table([])


def test_the_table_divides_by_the_rival_and_by_the_floor(gpu_table):
    times = {
        "first question": 50,
        "LLaVA-OneVision, first question": 225,
        "floor of a first question": 25,
        "decode, static cache, compiled": 5,
    }
    table = gpu_table.table([{"what": what, "ms": ms} for what, ms in times.items()])
    assert "| first question, all | 567.1 ms | 137.7 ms | 4.1 | 225 ms | 50 ms | 4.5 |" in table
    assert "| first question, 32 frames | 50 ms |  | 60 ms | 2.0 |" in table
    assert "| a token of the answer, compiled | 5 ms |  | 6 ms |  |" in table


def test_nothing_is_begun_when_the_time_is_up(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--size", "tiny", "--seconds", "0"])
    gpu.main()
    assert [json.loads(line)["what"] for line in capsys.readouterr().out.splitlines()] == ["machine", "end"]


def test_a_section_that_fails_leaves_a_line_and_the_next_one_runs(gpu, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--size", "tiny"])
    for name in ("questions", "rival", "decoding", "attention", "growth", "compiled"):
        monkeypatch.setattr(gpu, name, lambda run, *arguments: run.say("ran"))
    monkeypatch.setattr(gpu, "floors", lambda run: 1 // 0)
    gpu.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "ZeroDivisionError" in lines[1]["error"]
    assert [line["what"] for line in lines].count("ran") == 6


@pytest.mark.slow
def test_a_run_that_was_cut_gives_its_table(gpu_table, lines, tmp_path):
    results, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    results.write_text("\n".join(map(json.dumps, lines)) + '\n{"what": "cut')
    page.write_text(f"before\n{gpu_table.BEGIN}\nold\n{gpu_table.END}\nbehind\n")
    gpu_table.write_table(page, gpu_table.read_lines(results))
    assert page.read_text() == f"before\n{gpu_table.BEGIN}\n{gpu_table.table(lines)}{gpu_table.END}\nbehind\n"


def test_the_table_of_the_docs_is_that_of_the_script(gpu_table):
    results = ROOT / "benchmarks/results/gpu.jsonl"
    expected = gpu_table.table(gpu_table.read_lines(results) if results.exists() else [])
    assert expected in PAGE.read_text()
