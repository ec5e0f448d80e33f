"""The table of docs/performance.md that the lines of benchmarks/gpu.py fill: beside the paper's, goals, floors, attention."""

import json
import re
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks/gpu.py -->", "<!-- end -->"
Measured = dict[str, Any]  # of one line

# Paper, table A6: LLaVA-OneVision-7B and HICom-7B, 32 frames. Milliseconds, but for the last one.
PAPER = {
    "encode": (11.1, 11.1),
    "compress": (2.3, 23.9),
    "llm": (553.7, 102.7),
    "first question": (567.1, 137.7),
    "request": (4.25, 1.51),
}
# Row, what was measured, its field, the goal.
GOALS = [
    ("a token of the answer, compiled", "decode, static cache, compiled", "ms", "6 ms"),
    ("a token of the answer, not compiled", "decode, dynamic cache", "ms", ""),
    ("compiling: the first answer, 65 tokens", "decode, static cache, compiled, 65 tokens", "first_ms", ""),
    ("first question, 32 frames", "first question", "ms", "60 ms"),
    ("follow-up question", "follow-up question", "ms", "20 ms"),
    ("follow-up question and 32 words, compiled", "follow-up and 32 words, compiled", "ms", "250 ms"),
    ("the same, prompts of other lengths", "follow-ups of other lengths and 32 words, compiled", "ms", "250 ms"),
    ("the same, a new cache for each answer", "follow-ups of other lengths and 32 words, new caches", "ms", ""),
    (
        "8 questions on one video and 32 words, one batch, compiled",
        "8 questions and 32 words, compiled",
        "ms",
        "250 ms",
    ),
    ("CUDA graphs recorded for all these answers", "recordings, kept caches", "number", ""),
    ("CUDA graphs recorded for those of new caches", "recordings, new caches", "number", ""),
    ("reads from the device in a first question", "reads in a first question", "number", "0"),
    ("reads from the device in a follow-up", "reads in a follow-up", "number", "0"),
    ("memory above the weights, first question", "first question", "peak_gib", ""),
    ("SigLIP, 32 frames", "encode", "ms", ""),
    ("SigLIP, 32 frames, compiled", "encode, compiled", "ms", ""),
    ("instruction encoder", "instruction encoder", "ms", ""),
    ("compressor", "compressor", "ms", ""),
    ("floor of a first question: products at the measured rate", "floor of a first question", "ms", ""),
    ("floor of a follow-up: likewise", "floor of a follow-up", "ms", ""),
    ("floor of a token: weights read once at the measured rate", "floor of a token", "ms", ""),
    ("matrix product, bf16", "matrix product", "tflops", ""),
    ("copy", "copy", "tb_per_s", ""),
]
# What is measured -> the floor that it is divided by.
FLOORS = {
    "decode, static cache, compiled": "floor of a token",
    "decode, dynamic cache": "floor of a token",
    "first question": "floor of a first question",
    "follow-up question": "floor of a follow-up",
}
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "kernels-community/flash-attn3")
# What is attended to: SigLIP's heads have a width of 72, the global branch 32 queries and all patches as keys.
ATTENDING = {
    "encode": "SigLIP, 32 frames",
    "global branch": "global branch",
    "llm": "LLM, first token",
    "follow-up": "follow-up question, all",
}


def table(lines: list[Measured]) -> str:
    """The part of docs/performance.md that these lines fill; "not measured" where they do not."""
    found = {line["what"]: line for line in lines}

    def cell(what: str, field: str = "ms", unit: str = "ms") -> str:
        value = found.get(what, {}).get(field)
        if value is None:
            return "failed" if {f"{what}: failed", f"{what.split(',')[0]}: failed"} & set(found) else "not measured"
        return f"{value} {unit}".strip()

    def ratio(above: str, below: str) -> str:
        values = [found.get(what, {}).get("ms") for what in (above, below)]
        return f"{values[0] / values[1]:.1f}" if values[0] and values[1] else ""

    machine = found.get("machine")
    about = "No GPU was there when this table was made."
    if machine is not None:
        about = f"{machine['device']}, torch {machine['torch']}, transformers {machine['transformers']}, {machine['dtype']}."
    text = [
        f"{about} Ratios of this table are LLaVA-OneVision / HICom; the goal of a first question is 4.",
        "",
        "| 32 frames | paper: LLaVA-OV-7B | paper: HICom-7B | ratio | here: LLaVA-OneVision | here: HICom | ratio |",
        "|" + "---|" * 7,
    ]
    rows = {
        "encode": "vision encoder",
        "compress": "compressor, text encoder included; there projector and pooling",
        "llm": "LLM, first token",
        "first question": "first question, all",
        "request": "whole request, 33 tokens (paper: from the file, as many tokens as it takes)",
    }
    for what, label in rows.items():
        unit = "s" if what == "request" else "ms"
        theirs, ours = PAPER[what]
        measured = f"{cell(f'LLaVA-OneVision, {what}')} | {cell(what)} | {ratio(f'LLaVA-OneVision, {what}', what)}"
        text.append(f"| {label} | {theirs} {unit} | {ours} {unit} | {theirs / ours:.1f} | {measured} |")
    text += ["", "| | measured | least to most | goal | times its floor |", "|---|---|---|---|---|"]
    units = {"ms": "ms", "first_ms": "ms", "peak_gib": "GiB", "tflops": "TFLOP/s", "tb_per_s": "TB/s", "number": ""}
    for label, what, field, goal in GOALS:
        spread = found.get(what, {}).get("spread") if field == "ms" else None
        between = f"{spread[0]} to {spread[1]}" if spread else ""
        times = ratio(what, FLOORS.get(what, "")) if field == "ms" else ""
        text.append(f"| {label} | {cell(what, field, units[field])} | {between} | {goal} | {times} |")
    text += ["", f"| attention | {' | '.join(ATTENDING.values())} |", "|" + "---|" * (len(ATTENDING) + 1)]
    for name in ATTENTION:
        text.append(f"| {name} | {' | '.join(cell(f'attention {name}, {part}') for part in ATTENDING)} |")
    return "\n".join(text) + "\n"


def write_table(path: Path, lines: list[Measured]) -> None:
    """Puts the table between its marks in a page."""
    page = path.read_text()
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    path.write_text(f"{page[:start]}\n{table(lines)}{page[stop:]}")


def read_lines(path: Path) -> list[Measured]:
    """The results of one file; of a run that was cut in the middle of a line without that line."""
    return [json.loads(line) for line in path.read_text().splitlines() if re.fullmatch(r"\{.*\}", line)]
