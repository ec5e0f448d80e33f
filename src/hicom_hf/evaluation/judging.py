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
from .client import AnswerError, ChatClient, Endpoint
from .judge_prompts import (
    LOWEST,
    PROMPT_VERSION,
    SCHEMA,
    Wording,
    asks_verdict,
    judge_messages,
    parse_judgement,
    wording_of,
)
from .results import SETTINGS_FILE, SUMMARY_FILE, check_settings, read_answers, read_settings
from .scoring import score_answers

JUDGEMENTS_FILE = "judgements.jsonl"
MAX_TOKENS = 256  # of a judgement
PARTS = {"generic": ("correctness", "detail", "context"), "temporal": ("temporal",), "consistency": ("consistency",)}


@dataclass(frozen=True)
class Item:
    """What a judge is asked once.

    Attributes:
        id: of the question, or of a pair of wordings.
        aspect: one of `ASPECTS`.
        video: that it is about.
        wording: whose words ask.
        messages: of the request.
        is_empty: there is no answer to mark: it has the lowest score without a judge.
    """

    id: str
    aspect: str
    video: str
    wording: Wording
    messages: list[dict[str, str]]
    is_empty: bool


def judge(
    folder: str | Path, endpoint: Endpoint, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Mark the stored answers of a task; answers that are marked already are not sent again.

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
        EndpointError: the endpoint does not answer, or refuses every request.
    """
    folder = Path(folder)
    items = judge_items(folder)[:limit]
    place = folder / f"judge-{re.sub(r'[^A-Za-z0-9.]+', '-', endpoint.model)}"
    version = f"ours, version {PROMPT_VERSION}" if items and items[0].wording == "ours" else "published"
    settings = {"judge": endpoint.model, "prompts": version, "temperature": 0.0}
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


def read_judged(folder: Path) -> list[dict[str, Any]]:
    """The summaries of all judges that have marked a folder of results."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"judge-*/{SUMMARY_FILE}"))]


def judge_items(folder: Path) -> list[Item]:
    """What there is to be marked in a folder of results.

    Raises:
        FileNotFoundError: it has no results.
        ValueError: its task needs no judge.
    """
    settings = read_settings(folder)
    task, wording = settings["task"], wording_of(settings["protocol"])
    lines = list(read_answers(folder).values())
    if task == "activitynet_qa":
        return [_item(line["id"], "match", [line], wording) for line in lines]
    if task != "videochatgpt":
        raise ValueError(f"{folder}: {task} is marked without a judge; its score is in {SUMMARY_FILE}")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        is_pair = line["categories"]["part"] == "consistency"
        groups.setdefault(line["id"].rpartition("-")[0] if is_pair else line["id"], []).append(line)
    return [
        _item(name, aspect, group, wording)
        for name, group in groups.items()
        for aspect in PARTS[group[0]["categories"]["part"]]
    ]


def _item(name: str, aspect: str, lines: Sequence[Mapping[str, Any]], wording: Wording) -> Item:
    is_empty = not all((line["answer"] or "").strip() for line in lines)
    return Item(name, aspect, lines[0]["video"], wording, judge_messages(wording, aspect, lines), is_empty)


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
        verdict = False if asks_verdict(item.wording, item.aspect) else None
        return item, place | {"correct": verdict, "score": LOWEST, "judge": None, "reply": None}
    schema = SCHEMA if item.wording == "ours" else None
    try:
        reply = await client.chat(item.messages, schema=schema, temperature=0.0, max_tokens=MAX_TOKENS)
        correct, score = parse_judgement(reply.text, item.wording, item.aspect)
    except AnswerError as error:
        return item, str(error)
    return item, place | {"correct": correct, "score": score, "judge": reply.model, "reply": reply.text}


def _summary(items: Sequence[Item], lines: Sequence[Mapping], settings: Mapping, failures: Mapping) -> dict[str, Any]:
    wanted = {(item.id, item.aspect) for item in items}
    judged = [line for line in lines if (line["id"], line["aspect"]) in wanted]
    aspects = {}
    for aspect in dict.fromkeys(item.aspect for item in items):
        group = [line for line in judged if line["aspect"] == aspect]
        if group:
            videos = [line["video"] for line in group]
            verdicts = [100.0 * line["correct"] for line in group if line["correct"] is not None]
            aspects[aspect] = {
                "accuracy": asdict(score_answers(verdicts, videos)) if verdicts else None,
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
    lines = [f"judge {summary['judge']}, prompts: {summary['prompts']}, {summary['num_judged']} judgements"]
    for aspect, found in summary["aspects"].items():
        accuracy, score = found["accuracy"], found["score"]
        line = f"{aspect}: score {score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
        if accuracy is not None:
            line += f", accuracy {accuracy['mean']:.1f} % ({accuracy['low']:.1f} to {accuracy['high']:.1f})"
        lines.append(line)
    if summary["unjudged"]:
        lines.append(
            f"{summary['unjudged']} without a usable judgement, left out; the same command asks for them again"
        )
    return "\n".join(lines)
