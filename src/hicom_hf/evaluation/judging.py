"""Open answers marked by a judge: a language model behind an OpenAI-compatible endpoint, at temperature 0.

Works on a folder of results alone, so that judging can be repeated, or done by another judge, without the model:

```
OUTPUT/TASK/judge-NAME/
    settings.json       judge, prompt version
    judgements.jsonl    one line per judgement, as it comes
    summary.json
```
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..hub.files import FolderLock, append_json_line, read_json_lines, write_text
from ..hub.progress import Progress, no_progress
from .client import AnswerError, ChatClient, Endpoint, parse_json
from .results import SETTINGS_FILE, SUMMARY_FILE, check_settings, read_answers
from .scoring import score_answers

PROMPT_VERSION = 1  # raised with every change of the words below
JUDGEMENTS_FILE = "judgements.jsonl"
LOWEST, HIGHEST = 0, 5
MAX_TOKENS = 256  # of a judgement
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
# Differs: our wording of the five aspects of VideoChatGPT-Bench and of the match of ActivityNet-QA; theirs ask for Python text.
ASPECTS = {
    "match": "Mark whether the answer means the same as the right answer.",
    "correctness": "Mark whether the facts of the answer agree with the right answer, without false statements.",
    "detail": "Mark whether the answer has all main points of the right answer, with its specific details.",
    "context": "Mark whether the answer fits the overall context and theme of the right answer.",
    "temporal": "Mark whether the order and times of events in the answer agree with the right answer.",
    "consistency": "The answers are to one question in two wordings. Mark whether both mean the same as the right answer.",
}
FORM = f'"correct": true or false, "score": a number from {LOWEST} to {HIGHEST}, {HIGHEST} for the best match'
PARTS = {"generic": ("correctness", "detail", "context"), "temporal": ("temporal",), "consistency": ("consistency",)}


@dataclass(frozen=True)
class Item:
    """What a judge is asked once.

    Attributes:
        id: of the question, or of a pair of wordings.
        aspect: one of `ASPECTS`.
        video: that it is about.
        words: of the request.
        is_empty: there is no answer to mark: it has the lowest score without a judge.
    """

    id: str
    aspect: str
    video: str
    words: str
    is_empty: bool


def judge(
    folder: str | Path, endpoint: Endpoint, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Mark the stored answers of a task; what is marked already is not asked again.

    Args:
        folder: of results, OUTPUT/TASK.
        endpoint: of the judge.
        limit: the first so many judgements.
        progress: shows progress over an iterable, given its length and a name.

    Returns:
        The summary: accuracy and mean score, by aspect, with intervals by video. What the judge gave no usable answer to is
        counted in `unjudged` and left out; the same call asks for it again.

    Raises:
        FileNotFoundError: the folder has no results.
        ValueError: the task needs no judge.
        EndpointError: the endpoint is dead or refuses everybody.
    """
    folder = Path(folder)
    items = judge_items(folder)[:limit]
    place = folder / f"judge-{re.sub(r'[^A-Za-z0-9.]+', '-', endpoint.model)}"
    settings = {"judge": endpoint.model, "prompt_version": PROMPT_VERSION, "temperature": 0.0}
    check_settings(place, settings)
    with FolderLock(place, "hicom eval --judge"):
        write_text(place / SETTINGS_FILE, json.dumps(settings, indent=1))
        path = place / JUDGEMENTS_FILE
        known = {(line["id"], line["aspect"]) for line in read_json_lines(path)}
        pending = [item for item in items if (item.id, item.aspect) not in known]
        failures = asyncio.run(_ask_all(pending, endpoint, path, progress or no_progress))
        summary = _summary(items, read_json_lines(path), settings, failures)
        write_text(place / SUMMARY_FILE, json.dumps(summary, indent=1))
    return summary


def judge_items(folder: Path) -> list[Item]:
    """What there is to be marked in a folder of results.

    Raises:
        FileNotFoundError: it has no results.
        ValueError: its task needs no judge.
    """
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"{folder} is no folder of results (no {SETTINGS_FILE}); name OUTPUT/TASK")
    task = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["task"]
    lines = list(read_answers(folder).values())
    if task == "activitynet_qa":
        return [_item(line["id"], "match", [line]) for line in lines]
    if task != "videochatgpt":
        raise ValueError(f"{folder}: {task} is marked without a judge; its score is in {SUMMARY_FILE}")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        is_pair = line["categories"]["part"] == "consistency"
        groups.setdefault(line["id"].rpartition("-")[0] if is_pair else line["id"], []).append(line)
    return [
        _item(name, aspect, group)
        for name, group in groups.items()
        for aspect in PARTS[group[0]["categories"]["part"]]
    ]


def _item(name: str, aspect: str, lines: Sequence[Mapping[str, Any]]) -> Item:
    asked = [f"Question: {line['prompt']}\nAnswer to be marked: {line['answer']}" for line in lines]
    words = "\n".join([ASPECTS[aspect], f"Right answer: {lines[0]['gold']}", *asked, "{" + FORM + "}"])
    return Item(
        name, aspect, lines[0]["video"], words, is_empty=not all((line["answer"] or "").strip() for line in lines)
    )


async def _ask_all(items: Sequence[Item], endpoint: Endpoint, path: Path, progress: Progress) -> dict[str, str]:
    """Judge what is pending; returns why single judgements failed."""
    failures: dict[str, str] = {}
    async with ChatClient(endpoint) as client:
        tasks = [asyncio.ensure_future(_ask(client, item)) for item in items]
        try:
            for done in progress(asyncio.as_completed(tasks), len(tasks), "judgements"):
                item, found = await done
                if isinstance(found, str):
                    failures[f"{item.id} {item.aspect}"] = found
                else:
                    append_json_line(path, found)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return failures


async def _ask(client: ChatClient, item: Item) -> tuple[Item, dict[str, Any] | str]:
    """The line of a judgement, or why there is none."""
    place = {"id": item.id, "aspect": item.aspect, "video": item.video}
    if item.is_empty:
        return item, place | {"correct": False, "score": LOWEST, "judge": None, "reply": None}
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": item.words}]
    try:
        reply = await client.chat(messages, schema=SCHEMA, temperature=0.0, max_tokens=MAX_TOKENS)
        correct, score = parse_judgement(reply.text)
    except AnswerError as error:
        return item, str(error)
    return item, place | {"correct": correct, "score": score, "judge": reply.model, "reply": reply.text}


def parse_judgement(text: str) -> tuple[bool, float]:
    """What a judge says; its text is parsed as JSON and never evaluated.

    Raises:
        AnswerError: it is no such object, or the score is out of range.

    Example:
        >>> parse_judgement('{"correct": true, "score": 4}')
        (True, 4.0)
    """
    try:
        found = parse_json(text)
    except ValueError as error:
        raise AnswerError(str(error)) from error
    correct, score = found.get("correct"), found.get("score")
    is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
    if not isinstance(correct, bool) or not is_number or not LOWEST <= score <= HIGHEST:
        raise AnswerError(f"expected correct (true or false) and score ({LOWEST} to {HIGHEST}), got {text!r}")
    return correct, float(score)


def _summary(items: Sequence[Item], lines: Sequence[Mapping], settings: Mapping, failures: Mapping) -> dict[str, Any]:
    wanted = {(item.id, item.aspect) for item in items}
    judged = [line for line in lines if (line["id"], line["aspect"]) in wanted]
    aspects = {}
    for aspect in dict.fromkeys(item.aspect for item in items):
        group = [line for line in judged if line["aspect"] == aspect]
        if group:
            videos = [line["video"] for line in group]
            aspects[aspect] = {
                "accuracy": asdict(score_answers([100.0 * line["correct"] for line in group], videos)),
                "score": asdict(score_answers([line["score"] for line in group], videos)),
            }
    means = [found["score"]["mean"] for found in aspects.values()]
    return {
        **settings,
        "num_judged": len(judged),
        "unjudged": len(items) - len(judged),
        "failures": dict(failures),
        "aspects": aspects,
        "mean_score": sum(means) / len(means) if means else None,
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """A line per aspect."""
    lines = [
        f"judge {summary['judge']}, prompts version {summary['prompt_version']}, {summary['num_judged']} judgements"
    ]
    for aspect, found in summary["aspects"].items():
        accuracy, score = found["accuracy"], found["score"]
        lines.append(
            f"{aspect}: score {score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f}), "
            f"accuracy {accuracy['mean']:.1f} % ({accuracy['low']:.1f} to {accuracy['high']:.1f})"
        )
    if summary["unjudged"]:
        lines.append(
            f"{summary['unjudged']} without a usable judgement, left out; the same command asks for them again"
        )
    return "\n".join(lines)
