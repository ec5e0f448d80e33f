"""Tasks in, summaries out: reads, asks what has no answer yet, marks, sums up."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..assets import model_source
from ..hub.files import settings_fingerprint, write_text
from ..hub.progress import Progress, no_progress
from ..inference.session import HiComSession
from ..processors.candidate_frames_hicom import candidate_request
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.media_access_hicom import MediaAccess, MediaAccessError
from .pictures import draw_summary
from .questions import Question, questions_fingerprint, shard
from .results import PLOT_FILE, SUMMARY_FILE, ResultsFolder, answer_line
from .runner import Asked, Asking, ask_questions, num_batches
from .summaries import summarize
from .tasks import Task, task_named
from .tasks.task import Mark, Protocol

RESULTS_VERSION = 1  # raised when the same settings give other answers or other lines
PROTOCOL_DTYPES: dict[Protocol, str] = {"official": "bfloat16", "lmms": "bfloat16", "ours": "auto"}
NOT_OF_ANSWERS = ("_name_or_path", "dtype", "transformers_version")  # of a configuration; dtype is a setting by itself
SAMPLED_VALUES = 64  # of each weight, for its fingerprint


def evaluate(
    tasks: Sequence[str | Task],
    model: str | Path | HiComSession | None,
    output: str | Path,
    *,
    data: str | Path | None = None,
    protocol: Protocol = "ours",
    asking: Asking | None = None,
    limit: int | None = None,
    part: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
    **loading: Any,
) -> list[dict[str, Any]]:
    """Measure a model on tasks. Questions with an answer in the folder of results are not asked again.

    Args:
        tasks: names, or tasks of your own.
        model: folder, Hub repo id, or a session; None for the packaged hicom-tiny.
        output: folder; the results of a task lie in OUTPUT/TASK.
        data: folder of the benchmarks' published files, that of a task in DATA/TASK, or DATA itself; None for OUTPUT/data, where
            tasks that make their own data put it.
        protocol: whose prompts, clip ranges, lengths and dtype: "ours", "official" (the authors' scripts), "lmms" (lmms-eval).
        asking: sampling, frame selection, tiles, system prompt, batches and workers; None for the model's own sampling.
        limit: the first so many questions of each task.
        part: which shard of how many, by video; the last one to end joins them.
        progress: shows progress over an iterable, given its length and a name.
        **loading: of `HiComSession.load`: device, dtype (None for that of the protocol), quantize, ...

    Returns:
        One summary per task, see `summarize`.

    Raises:
        FileNotFoundError: published files or all videos are missing.
        MediaAccessError: `asking.media_access` allows none of the videos.
        ValueError: an unknown task or protocol, or a folder of results with other settings.
        BlockingIOError: another process works on the same results.

    Example:
        >>> [summary] = evaluate(["shapes"], "hicom-tiny", "results", limit=50)  # doctest: +SKIP
    """
    asking = asking or Asking()
    chosen = _tasks(tasks, protocol)
    FrameSampling(**{name: value for name, value in asking.sampling.items() if name in FrameSampling.__annotations__})
    progress = progress or no_progress
    folder = Path(output) / "data" if data is None else Path(data)
    published = {task.name: read_questions(task, folder, protocol) for task in chosen}
    questions = {name: asked[:limit] for name, asked in published.items()}
    mine = {name: shard(asked, *part) for name, asked in questions.items()}
    for task in chosen:
        _prepare(task, _data_of(task, folder), questions[task.name], mine[task.name], asking.media_access, progress)
    session = model if isinstance(model, HiComSession) else load_session(model, protocol, **loading)
    with ExitStack() as stack:
        results = {
            task.name: stack.enter_context(
                ResultsFolder(
                    Path(output) / task.name, _settings(task, session, protocol, asking, published[task.name]), part
                )
            )
            for task in chosen
        }
        _answer(chosen, mine, results, session, asking, progress)
        return [_finish(task, questions[task.name], results[task.name], limit) for task in chosen]


def _tasks(tasks: Sequence[str | Task], protocol: Protocol) -> list[Task]:
    """The tasks, each of which has the protocol."""
    chosen = [task if isinstance(task, Task) else task_named(task) for task in tasks]
    for task in chosen:
        if protocol not in task.protocols:
            raise ValueError(f"{task.name} has no protocol {protocol!r}; it has {', '.join(task.protocols)}")
    return chosen


def load_session(model: str | Path | None, protocol: Protocol, **loading: Any) -> HiComSession:
    """A session without a cache of features, because each video is asked about once; arguments of `evaluate`."""
    loading["dtype"] = loading.get("dtype") or PROTOCOL_DTYPES[protocol]
    return HiComSession.load(model_source(model), cache_bytes=0, **loading)


def read_questions(task: Task, data: Path, protocol: Protocol) -> list[Question]:
    """All questions of a task, ready to be asked.

    Raises:
        FileNotFoundError: the published files are not there.
        ValueError: they hold something else, or two questions have one id.
    """
    found = task.read(_data_of(task, data), protocol)
    ids = [question.id for question in found]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"{task.name}: two questions have the id {twice!r}")
    return [replace(question, task=task.name, max_new_tokens=task.max_new_tokens[protocol]) for question in found]


def _data_of(task: Task, data: Path) -> Path:
    """DATA/TASK if it is there, or is to be made; DATA otherwise."""
    own = data / task.name
    return own if own.is_dir() or task.prepare is not None else data


def _prepare(
    task: Task,
    folder: Path,
    questions: Sequence[Question],
    mine: Sequence[Question],
    access: MediaAccess,
    progress: Progress,
) -> None:
    """Make the videos of a task that makes them, and refuse a folder that has none."""
    if task.prepare is not None:
        task.prepare(folder, mine, progress)
    if task.ask is None:
        _check_videos(task, folder, questions, access)


def _check_videos(task: Task, folder: Path, questions: Sequence[Question], access: MediaAccess) -> None:
    """Refuse a folder that has none of the videos, or may not be read: single videos that are missing count as wrong."""
    local = [question.video for question in questions if "://" not in question.video]
    if not questions or len(local) < len(questions):
        return
    refusals: dict[str, MediaAccessError] = {}
    for video in local:
        try:
            access.local_path(Path(video))
        except MediaAccessError as error:
            refusals[video] = error
    if len(refusals) == len(set(local)):
        raise MediaAccessError(f"{task.name}: none of its videos may be read (first {local[0]}): {refusals[local[0]]}")
    if not any(Path(video).exists() for video in local):
        videos = len(set(local))
        raise FileNotFoundError(
            f"{folder}: none of the {videos} videos of {task.name} is there (looked first for {questions[0].video}); they are "
            f"to be had from: {task.data}"
        )


def _settings(
    task: Task, session: HiComSession, protocol: Protocol, asking: Asking, published: Sequence[Question]
) -> dict[str, Any]:
    """All that an answer depends on; the number of questions asked (`limit`, shards) and batches are not."""
    tiles = asking.tiles
    if (
        tiles is not None and asking.selection is None and task.ask is None
    ):  # a task that asks by itself always chooses
        tiles = tiles.of_chosen()
    sampling = dict(asking.sampling)
    if asking.selection is not None and task.ask is None:
        sampling = candidate_request(sampling)  # with the default, which may change
    return {
        "version": RESULTS_VERSION,
        "task": task.name,
        "protocol": protocol,
        "model": session.model.config.name_or_path,
        "weights": weights_fingerprint(session.model),
        "configuration": configuration_fingerprint(session),
        "dtype": str(session.model.dtype).removeprefix("torch."),
        "sampling": sampling,
        "model_sampling": _model_sampling(session),
        **({} if asking.selection is None else {"selection": asdict(asking.selection)}),
        **({} if tiles is None else {"tiles": json.loads(json.dumps(asdict(tiles)))}),
        "system": asking.system,
        "max_new_tokens": task.max_new_tokens[protocol],
        "questions": questions_fingerprint(published),
    }


def configuration_fingerprint(session: HiComSession) -> str:
    """A digest of what the model's folder says besides weights: its configuration, its video processor, its chat template."""
    config = {name: value for name, value in session.model.config.to_dict().items() if name not in NOT_OF_ANSWERS}
    own = session.processor
    plain = {"config": config, "video": own.video_processor.to_dict(), "chat": own.chat_template}
    return settings_fingerprint(json.loads(json.dumps(plain, default=str)))


def _model_sampling(session: HiComSession) -> dict[str, Any]:
    """Which frames the model takes where nothing is asked for."""
    own = session.processor.video_processor
    values = {name: getattr(own, name, None) for name in ("num_frames", "fps", "max_frames")}
    return {name: value for name, value in values.items() if value is not None}


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A digest of some values of every weight: enough to distinguish two trained models, and fast at 7B."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        step = max(1, weight.numel() // SAMPLED_VALUES)
        digest.update(json.dumps(weight.detach().flatten()[::step].float().tolist()).encode())
    return digest.hexdigest()[:16]


def _answer(
    tasks: Sequence[Task],
    mine: Mapping[str, Sequence[Question]],
    results: Mapping[str, ResultsFolder],
    session: HiComSession,
    asking: Asking,
    progress: Progress,
) -> None:
    """Ask what has no line yet; each batch is written as soon as it is answered."""
    by_name = {task.name: task for task in tasks}
    known = {name: result.answers() for name, result in results.items()}
    pending = {name: [one for one in asked if one.id not in known[name]] for name, asked in mine.items()}
    together = [one for name, asked in pending.items() if by_name[name].ask is None for one in asked]
    runs = [(ask_questions(session, together, asking), num_batches(together, asking.batch_size))]
    for task in tasks:
        if task.ask is not None:
            asked = pending[task.name]
            runs.append((task.ask(session, asked, asking, progress), len({one.video for one in asked})))
    for batches, count in runs:
        for batch in progress(batches, count, "questions"):
            for one in batch:
                task = by_name[one.question.task]
                results[task.name].add(answer_line(one, mark_of(task, one)))


def mark_of(task: Task, asked: Asked) -> Mark:
    """The strict mark of an answer; of a video that cannot be read, wrong."""
    if asked.answer is None:
        return Mark(None, None if asked.question.gold is None else 0.0)
    return task.mark(asked.question, asked.answer.answer)


def _finish(task: Task, questions: Sequence[Question], results: ResultsFolder, limit: int | None) -> dict[str, Any]:
    """The summary of what is answered; lines are put in order, and shards joined, once all is."""
    is_complete = results.join(questions)
    lines = results.answers()
    if is_complete and limit is None and task.finish is not None:
        task.finish(results.folder, questions, lines)
    summary = summarize(task, questions, lines, results.settings, limited=limit is not None)
    write_text(results.folder / SUMMARY_FILE, json.dumps(summary, indent=1))
    if task.plot is not None:
        task.plot(questions, lines, results.folder / PLOT_FILE)
    else:
        draw_summary(summary, results.folder / PLOT_FILE)
    return summary
