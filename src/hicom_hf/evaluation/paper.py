"""The paper's table 2, and those columns of tables 3 and A7 that it shares with it: tasks at 32, 64 and 128 frames."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..inference.session import HiComSession
from .evaluating import evaluate, read_questions
from .judging import read_judged
from .runner import Asking
from .scoring import paper_text
from .tasks import TASKS, Task
from .tasks.task import Protocol

FRAMES = (32, 64, 128)
PAPER_TASKS = ("videomme", "videomme_subtitles", "mvbench", "egoschema", "mlvu_dev", "activitynet_qa", "videochatgpt")


def evaluate_paper(
    session: HiComSession,
    output: str | Path,
    data: str | Path,
    *,
    tasks: Sequence[Task] | None = None,
    frames: Sequence[int] = FRAMES,
    protocol: Protocol = "official",
    asking: Asking,
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run the tasks of the paper whose data are there, at each number of frames.

    Args:
        session: of the model.
        output: folder; results lie in OUTPUT/N-frames/TASK.
        data: see `evaluate`.
        tasks: None for those of the paper.
        frames: numbers of frames, spread over the whole video.
        protocol: whose prompts.
        asking: how; its sampling is replaced.
        **options: limit, part, progress of `evaluate`.

    Returns:
        Summaries, with those of judges that have marked a task's answers before, and why each task that could not be run was
        left out.

    Raises:
        FileNotFoundError: no task has its data.
    """
    chosen, missing = [], {}
    for task in tasks if tasks is not None else [TASKS[name] for name in PAPER_TASKS]:
        try:
            read_questions(task, Path(data), protocol)
            chosen.append(task)
        except FileNotFoundError as error:
            missing[task.name] = str(error)
    if not chosen:
        raise FileNotFoundError(
            f"{data}: no task has its data there; the first reason: {next(iter(missing.values()))}"
        )
    summaries = []
    for count in frames:
        folder = Path(output) / f"{count}-frames"
        sampled = replace(asking, sampling={"num_frames": count})
        found = evaluate(chosen, session, folder, data=data, protocol=protocol, asking=sampled, **options)
        summaries += [summary | {"judged": read_judged(folder / summary["task"])} for summary in found]
    return summaries, missing


def as_markdown(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A row per task, a pair of columns per number of frames: ours with its interval, and the paper's."""
    counts = list(dict.fromkeys(summary["settings"]["sampling"]["num_frames"] for summary in summaries))
    found = {(summary["task"], summary["settings"]["sampling"]["num_frames"]): summary for summary in summaries}
    heads = [f"{count} frames | paper" for count in counts]
    lines = [f"| task | {' | '.join(heads)} |", "|---" * (1 + 2 * len(counts)) + "|"]
    for name in dict.fromkeys(summary["task"] for summary in summaries):
        cells = []
        for count in counts:
            summary = found[name, count]
            cells.append(_cell(summary))
            cells.append(paper_text(summary["paper"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(summary: Mapping[str, Any]) -> str:
    """The score with its interval, or what each judge says."""
    score = summary["score"]
    if score is not None:
        return f"{score['mean']:.1f} ({score['low']:.1f} to {score['high']:.1f})"
    told = []
    for judged in summary["judged"]:
        match = judged["aspects"].get("match")
        number = f"{match['accuracy']['mean']:.1f} %" if match is not None else f"{judged['mean_score']:.2f} of 5"
        told.append(f"{number}, judge {judged['judge']}")
    return "; ".join(told) or "not scored here"
