"""The general rules for the instruction, on prompts as benchmarks and data sets send them."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from hicom_hf.processors.instruction_hicom import extract_instruction

# Right and all prompts of each set. Nothing was tuned on the second one.
SCORES = {"tuned": (605, 605), "held out": (47, 53)}

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "instruction_prompts.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_the_table_is_large_and_its_prompts_differ():
    assert len(ROWS) >= 200
    assert len({row["prompt"] for row in ROWS}) == len(ROWS)


def test_every_prompt_of_the_table_gives_its_question():
    right, total, wrong = Counter(), Counter(), []
    for row in ROWS:
        found = extract_instruction(row["prompt"])
        total[row["set"]] += 1
        right[row["set"]] += found == row["instruction"]
        if found != row["instruction"]:
            wrong.append((row["set"], row["form"], found))
    assert {name: (right[name], total[name]) for name in total} == SCORES, wrong


@pytest.mark.parametrize("row", ROWS[:19], ids=[row["form"] for row in ROWS[:19]])
def test_what_lmms_eval_and_the_official_scripts_send_gives_the_question(row):
    assert extract_instruction(row["prompt"]) == row["instruction"]


def test_a_question_alone_stays_as_it_is():
    questions = {row["instruction"] for row in ROWS if row["set"] == "tuned"}
    assert [question for question in questions if extract_instruction(question) != question] == []


@pytest.mark.parametrize(
    "piece",
    [
        "A. ",
        "A. x\nB. y\n",
        "(A) x (B) y ",
        "- a\n",
        "select the ",
        "Options: ",
        "1\n00:00 --> 00:01\n",
        "<question>",
        "look at\n",
        "if you ",
        "frame 1: ",
        "The man walks and looks. ",
        "\n",
        " ",
        "(",
        "<video>\n",
        "#",
        "answer: ",
        "| A | x |\n",
        "A\nx\nB\ny\n",
        "'A. x', ",
        "json format: {a} ",
    ],
)
def test_a_long_text_of_any_kind_takes_seconds_at_most(piece):
    begin = time.process_time()
    extract_instruction(piece * (20_000 // len(piece)))
    assert time.process_time() - begin < 20  # about 0.5 s; patterns that track back take minutes
