"""Results beside the weights: the Hub's `.eval_results/*.yaml` and a table in the model card, from files of results alone.

```
MODEL/
    .eval_results/videomme-ours-32-frames.yaml     one file per task, protocol and sampling
    README.md                                      the table stands between two marks and is replaced as a whole
```
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..hub.files import write_text
from ..modeling.model_card_hicom import CARD_FILE
from .judging import read_judged
from .results import ANSWERS_FILE, SUMMARY_FILE, read_results_file, read_settings
from .scoring import paper_text
from .tasks import TASKS

RESULTS_FOLDER = ".eval_results"
START, END = "<!-- hicom eval: results -->", "<!-- hicom eval: end of results -->"
BEFORE_SECTION = "\n## Limits"  # of a generated card
FRAMEWORK = "hicom_hf"


def find_results(output: str | Path) -> list[Path]:
    """The folders of results below a folder: OUTPUT/TASK, OUTPUT/N-frames/TASK.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(
        path.parent for path in Path(output).rglob(SUMMARY_FILE) if not path.parent.name.startswith("judge-")
    )
    if not found:
        raise FileNotFoundError(
            f"{output}: there are no results in it (no {SUMMARY_FILE}); name the --output of a run"
        )
    return found


def write_results(model: str | Path, folders: Sequence[str | Path]) -> list[Path]:
    """Write the results of a model beside its weights; what is not scored is left out.

    Args:
        model: folder of the model that was measured.
        folders: of results, OUTPUT/TASK.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: there is no such model, or a folder is none of results.
        ValueError: a run is not complete, or is of another model, or two are of different weights.
    """
    model = Path(model)
    if not (model / "config.json").is_file():
        raise FileNotFoundError(
            f"{model}: there is no folder of a model (no config.json); results are written beside weights"
        )
    found = [_read(Path(folder), model) for folder in folders]
    weights = {summary["settings"]["weights"]: summary["folder"] for summary in found}
    if len(weights) > 1:
        raise ValueError(
            f"results of different weights: {' and '.join(map(str, weights.values()))}; name those of one model"
        )
    rows = [row for summary in found for row in _rows(summary)]
    if not rows:
        raise ValueError(f"nothing is scored in {', '.join(str(summary['folder']) for summary in found)}")
    written = []
    for row in rows:
        if row["dataset"] is not None:
            path = model / RESULTS_FOLDER / f"{row['name']}.yaml"
            write_text(path, _as_yaml(row))
            written.append(path)
    _write_card(model / CARD_FILE, _as_markdown(rows))
    return [*written, model / CARD_FILE]


def _read(folder: Path, model: Path) -> dict[str, Any]:
    """A summary that may be published.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not complete, or of another model.
    """
    read_settings(folder)
    summary = read_results_file(folder, SUMMARY_FILE)
    if not summary["complete"]:
        raise ValueError(
            f"{folder}: {summary['num_answered']} questions are answered, not all of the task; run it without --limit to the end"
        )
    measured = summary["settings"]["model"]
    is_this = (
        Path(measured).resolve() == model.resolve() if Path(measured).exists() else Path(measured).name == model.name
    )
    if not is_this:
        raise ValueError(f"{folder} holds results of {measured}, not of {model}")
    moment = datetime.fromtimestamp((folder / ANSWERS_FILE).stat().st_mtime, tz=UTC)
    return summary | {"folder": folder, "date": moment.date().isoformat(), "judged": read_judged(folder)}


def _rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per number: the score, or one per judge and aspect."""
    settings = summary["settings"]
    task, sampling = TASKS.get(summary["task"]), settings["sampling"]
    frames = ", ".join(f"{name} {value:g}" for name, value in sampling.items()) or "frames of the model"
    if "selection" in settings:
        selection = settings["selection"]
        frames = f"{selection['num_frames']} frames by {selection['rule']} among {frames}"
    if "tiles" in settings:
        zooms = [0] * settings["tiles"]["overview"] + settings["tiles"]["zooms"]
        frames += f", tiles at zoom {' or '.join(map(str, zooms))}"
    frames = re.sub(r"^num_frames (\d+)$", r"\1 frames", frames)
    common = {
        "task": summary["task"],
        "name": _plain(f"{summary['task']} {settings['protocol']} {frames}"),
        "frames": frames,
        "protocol": settings["protocol"],
        "questions": summary["num_questions"],
        "date": summary["date"],
        "dataset": None if task is None else task.hub_dataset,
        "notes": f"{frames}, protocol {settings['protocol']}, {settings['dtype']}",
    }
    rows = []
    if summary["score"] is not None:
        rows.append({**common, **_measured(summary["score"]), "metric": "accuracy, %", "paper": summary["paper"]})
    for judged in summary["judged"]:
        for aspect, found in judged["aspects"].items():
            for metric, unit in (("accuracy", "accuracy, %"), ("score", "score, 0 to 5")):
                if found[metric] is None:
                    continue
                judge = f"{aspect}: {unit}, judge {judged['judge']}"
                name = f"{common['name']}-{aspect}-{metric}-{_plain(judged['judge'])}"
                notes = f"{common['notes']}; {judge}, prompts: {judged['prompts']}"
                rows.append(
                    {
                        **common,
                        **_measured(found[metric]),
                        "name": name,
                        "metric": judge,
                        "notes": notes,
                        "paper": None,
                    }
                )
    return rows


def _plain(text: str) -> str:
    """A part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _measured(score: dict[str, Any]) -> dict[str, float]:
    return {"value": round(score["mean"], 2), "low": round(score["low"], 2), "high": round(score["high"], 2)}


def _as_yaml(row: dict[str, Any]) -> str:
    """A list of one entry, in the form of the Hub. JSON strings are YAML strings."""
    notes = f"{row['notes']}; 95 % interval {row['low']:g} to {row['high']:g}"
    return "\n".join(
        [
            "- dataset:",
            f"    id: {json.dumps(row['dataset'])}",
            f"    task_id: {json.dumps(row['task'])}",
            f"  value: {row['value']:g}",
            f"  date: {json.dumps(row['date'])}",
            f"  evaluation_framework: {FRAMEWORK}",
            f"  notes: {json.dumps(notes)}",
        ]
    )


def _as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    heads = ("task", "frames", "protocol", "measured", "value", "95 % interval", "questions", "paper's HICom-7B")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda row: row["name"]):
        cells = [row["task"], row["frames"], row["protocol"], row["metric"], f"{row['value']:.2f}"]
        cells += [f"{row['low']:.2f} to {row['high']:.2f}", f"{row['questions']:,}", paper_text(row["paper"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write_card(path: Path, table: str) -> None:
    """Put the table into the card: in place of the one that is there, before the section of limits, or at the end."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = f"{START}\n## Results\n\nMeasured with `hicom eval`; intervals by video.\n\n{table}\n{END}"
    if START in text and END in text:
        before, _, rest = text.partition(START)
        text = f"{before}{block}{rest.partition(END)[2]}"
    elif BEFORE_SECTION in text:
        text = text.replace(BEFORE_SECTION, f"\n{block}\n{BEFORE_SECTION}", 1)
    else:
        text = f"{text.rstrip()}\n\n{block}".lstrip()
    write_text(path, text)
