"""What a judge is asked, and how its reply is read: our wording for the protocol "ours", the published one for the others.

The published prompts are the files of `judge_prompts/`: the system message, a line "=== user ===", the user's message.

Source: Video-ChatGPT's quantitative evaluation, as lmms-eval 0.7.3 has it (lmms_eval/tasks/activitynetqa and videochatgpt;
Apache License 2.0; Copyright (c) 2025 LMMs-Lab). Differs: Video-ChatGPT's script of consistency sends the first question twice.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .client import AnswerError, parse_json

Wording = Literal["ours", "published"]
PROMPT_VERSION = 1  # of our wording; raised with every change
FOLDER = Path(__file__).with_name("judge_prompts")
USER_LINE = "\n=== user ===\n"
LOWEST, HIGHEST = 0, 5
SCHEMA = {
    "type": "object",
    "properties": {"correct": {"type": "boolean"}, "score": {"type": "number"}},
    "required": ["correct", "score"],
    "additionalProperties": False,
}
SYSTEM = (
    "You mark answers to questions about videos. You see the question, the right answer, and the answer to be marked. "
    "Synonyms and paraphrases are as good as the same words. Answer with a JSON object alone."
)
# Our wording of ActivityNet-QA's match and the five aspects of VideoChatGPT-Bench; the published one asks for Python text.
ASPECTS = {
    "match": "Mark whether the answer means the same as the right answer.",
    "correctness": "Mark whether the facts of the answer agree with the right answer, without false statements.",
    "detail": "Mark whether the answer has all main points of the right answer, with its specific details.",
    "context": "Mark whether the answer fits the overall context and theme of the right answer.",
    "temporal": "Mark whether the order and times of events in the answer agree with the right answer.",
    "consistency": "The answers are to one question in two wordings. Mark whether both mean the same as the right answer.",
}
FORM = f'"correct": true or false, "score": a number from {LOWEST} to {HIGHEST}, {HIGHEST} for the best match'
SCORE = re.compile(r"['\"]+score['\"]+\s*:\s*['\"]?(-?\d+(?:\.\d+)?)['\"]?\s*[,}]")
VERDICT = re.compile(r"['\"]+pred['\"]+\s*:\s*['\"](yes|no)['\"]", re.IGNORECASE)


def wording_of(protocol: str) -> Wording:
    """Whose words the judge of a protocol reads."""
    return "ours" if protocol == "ours" else "published"


def asks_verdict(wording: Wording, aspect: str) -> bool:
    """Whether the judge says right or wrong, and not a score alone."""
    return wording == "ours" or aspect == "match"


def judge_messages(wording: Wording, aspect: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the judge reads.

    Args:
        wording: whose.
        aspect: one of `ASPECTS`.
        lines: of results: one, or the two wordings of a question.
    """
    if wording == "ours":
        asked = [f"Question: {line['prompt']}\nAnswer to be marked: {line['answer']}" for line in lines]
        user = "\n".join([ASPECTS[aspect], f"Right answer: {lines[0]['gold']}", *asked, "{" + FORM + "}"])
        return _messages(SYSTEM, user)
    system, user = _published(aspect)
    texts = {"question": lines[0]["instruction"], "answer": lines[0]["gold"], "prediction": lines[0]["answer"]}
    texts |= {"question 2": lines[-1]["instruction"], "prediction 2": lines[-1]["answer"]}
    # In one pass, so that a model's answer is never taken for a placeholder.
    return _messages(system, re.sub(r"<([a-z]+(?: 2)?)>", lambda found: str(texts[found[1]]), user))


@cache
def _published(aspect: str) -> tuple[str, str]:
    system, _, user = (FOLDER / f"{aspect}.txt").read_text(encoding="utf-8").partition(USER_LINE)
    return system, user.removesuffix("\n")


def _messages(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def parse_judgement(text: str, wording: Wording = "ours", aspect: str = "match") -> tuple[bool | None, float]:
    """What a judge says: whether the answer is right (None where the published prompt does not ask), and its score.

    The text is searched for what was asked for and never evaluated, though the published prompts ask for Python.

    Raises:
        AnswerError: it is something else, or the score is out of range.

    Example:
        >>> parse_judgement('{"correct": true, "score": 4}')
        (True, 4.0)
        >>> parse_judgement("{'pred': 'yes', 'score': 4}", "published")
        (True, 4.0)
    """
    correct, score = _from_json(text) if wording == "ours" else _from_published(text, aspect)
    has_verdict = isinstance(correct, bool) or not asks_verdict(wording, aspect)
    is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
    if not has_verdict or not is_number or not LOWEST <= float(score) <= HIGHEST:
        raise AnswerError(f"expected a verdict and a score from {LOWEST} to {HIGHEST} as asked for, got {text!r}")
    return correct, float(score)


def _from_json(text: str) -> tuple[Any, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise AnswerError(str(error)) from error
    return found.get("correct"), found.get("score")


def _from_published(text: str, aspect: str) -> tuple[Any, Any]:
    scores, verdicts = SCORE.findall(text), VERDICT.findall(text)
    if len(scores) != 1 or len(verdicts) > 1:
        return None, None
    verdict = verdicts[0].lower() == "yes" if verdicts and asks_verdict("published", aspect) else None
    return verdict, float(scores[0])
