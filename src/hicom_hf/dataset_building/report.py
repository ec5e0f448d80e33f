"""One HTML page with pictures of what a build did: funnel, lengths, cuts and keyframes, clips with their texts, failures."""

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ..hub.files import read_json_lines, write_text
from ..processors.frame_sampling_hicom import FrameSampling
from ..processors.video_reading_hicom import read_video
from .building import Build
from .clips import Clip
from .detectors import make_detector
from .engine_local import ITEM_ERRORS
from .export import Exported, collect, decontamination_note
from .keyframes import similarity_quantiles
from .planning import PAPER_CLIP_SECONDS
from .probe import SourceVideo
from .settings import DEFAULT_THRESHOLDS
from .shots import recall_and_precision
from .stages import LOG_FILE, REPORT_FILE
from .truth import TOLERANCE, Truth, compare, read_takes

LENGTH_EDGES = (0, 5, 10, 20, 30, 45, 60, 90, 120)  # seconds
THUMBNAIL = 96  # pixels
NUM_VIDEOS, NUM_CLIPS, NUM_FRAMES = 4, 12, 6  # shown
CURVE_WIDTH, CURVE_HEIGHT = 900, 80
CURVE_THRESHOLDS = {
    "histogram": (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0),
    "pyscenedetect": (8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 27.0, 30.0, 40.0, 50.0, 70.0, 100.0),
}
STYLE = """body{font:14px sans-serif;max-width:1000px;margin:2em auto}table{border-collapse:collapse}td,th{padding:2px 10px;
text-align:left;border-bottom:1px solid #ddd;vertical-align:top}img{margin-right:2px;max-width:100%}
.bar{background:#69c;height:12px}"""


def write_report(build: Build, truth: Truth | None = None) -> str:
    """Write report.html into the build's folder, as far as the build is.

    Args:
        build: see there.
        truth: what was compared with known takes, see `truth.compare`; for the cuts that were missed and the pairs that are
            not true. None compares with the takes in the build's folder, which only the demo has.

    Returns:
        Its path.
    """
    found = collect(build) if build.pairs is not None else Exported()
    films = read_takes(build) or {}
    takes = {name: [take.end for take in shown[:-1]] for name, shown in films.items()}
    if truth is None and films and build.pairs is not None and any(build.chosen_videos()):
        truth = compare(build, films)
    parts = [
        "<h1>Build</h1>",
        f"<p>{html.escape(str(build.output_dir))}. Benchmarks: {html.escape(decontamination_note(build))}.</p>",
        _section("From videos to pairs", _table(("", "number"), funnel(build, found))),
        *([] if truth is None else [_section("Against the truth", _truth(build, truth))]),
        _section("Lengths of clips", _lengths([clip.end - clip.start for clip in build.clips()])),
        _section("Categories", _categories(build)),
        _section("Cuts against the threshold", _cuts_by_threshold(build, takes)),
        _section("Similarity of sampled frames", _quantiles(build)),
        _section(
            "Cuts and keyframes", "".join(_film(build, video) for video in list(build.videos.values())[:NUM_VIDEOS])
        ),
        _section("Clips", "".join(_clip(build, clip) for clip in _chosen(build.selected_clips(), NUM_CLIPS))),
        _section("How different the instructions are", _table(("", ""), diversity(found.records))),
        _section("How instructions begin", _table(("first two words", "pairs"), first_words(found.records))),
        _section("Tokens and cost", _table(("", ""), tokens(build))),
        _section(
            "Failures",
            _table(("video", "stage", "error"), [(r["path"], r["stage"], r["error"]) for r in build.failures()[:100]]),
        ),
    ]
    path = build.output_dir / REPORT_FILE
    page = f"<!doctype html><meta charset=utf-8><title>hicom build-data</title><style>{STYLE}</style>{''.join(parts)}"
    write_text(path, page)
    return str(path)


def funnel(build: Build, found: Exported) -> list[tuple[str, int]]:
    """What is left after each step, and what each rule took."""
    status = build.status()
    stages, shots = status["stages"], status["shots"]
    rows = [("videos", status["videos"])]
    rows += [(f"videos that failed: {name}", stages[name]["failed"]) for name in build.stages]
    in_part = sum(chosen["lost_frames"] > 0 for _, chosen in build.chosen_videos())
    rows += [("videos of which a part cannot be read", in_part), ("shots", shots["all"])]
    rows += [(f"shots: {reason}", count) for reason, count in shots.items() if reason != "all"]
    rows += [(f"clips left out: {reason}", count) for reason, count in status["left out"].items()]
    answers = [name for name in build.clip_stages if name != "filter"]  # it drops pairs, not clips
    rows += [(f"clips with {name}", stages[name]["done"]) for name in answers]
    rows += [(f"clips that failed: {name}", stages[name]["failed"]) for name in answers]
    reasons = Counter((row["stage"], row["reason"]) for row in build.failures() if "reason" in row)
    rows += [(f"of these, {name}: {reason}", count) for (name, reason), count in sorted(reasons.items())]
    rows += [(f"pairs dropped: {reason}", count) for reason, count in sorted(found.dropped.items())]
    return [*rows, ("pairs", len(found.records))]


def first_words(records: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """The commonest two words that instructions begin with."""
    instructions = [record["conversations"][0]["value"].partition("\n")[2] for record in records]
    return Counter(" ".join(text.lower().split()[:2]) for text in instructions).most_common(10)


def tokens(build: Build) -> list[tuple[str, Any]]:
    """What the server counted, over everything that was ever answered in this folder."""
    total = Counter()
    for entry in read_json_lines(build.output_dir / LOG_FILE):
        total["answers"] += "attempts" in entry
        if "no use" in entry:
            total[f"answers of no use, {entry['stage']}: {entry['no use']}"] += 1
        total["tries"] += entry.get("attempts", 0)
        for name, count in entry.get("usage", {}).items():
            total[name] += count if isinstance(count, int) else 0
    rows: list[tuple[str, Any]] = list(sorted(total.items()))
    captions = build.settings.captions
    if captions is not None and captions.price_in is not None and captions.price_out is not None:
        prices = (total["prompt_tokens"] * captions.price_in, total["completion_tokens"] * captions.price_out)
        rows.append(("cost", f"{sum(prices) / 1e6:.2f}"))
    return rows


def diversity(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """How often instructions repeat, and how long both texts are."""
    if not records:
        return []
    instructions = [record["conversations"][0]["value"].partition("\n")[2].lower() for record in records]
    words = [word.strip(".,?!:;") for text in instructions for word in text.split()]
    lengths = np.quantile([len(record["conversations"][1]["value"].split()) for record in records], (0.05, 0.5, 0.95))
    return [
        ("pairs", str(len(records))),
        ("different instructions", f"{len(set(instructions)) / len(instructions):.0%}"),
        ("different words, of all", f"{len(set(words))} of {len(words)}"),
        ("words of an answer: 5 %, median, 95 %", ", ".join(f"{length:.0f}" for length in lengths)),
    ]


# Pictures ------------------------------------------------------------------------------------------------------------------


def _truth(build: Build, truth: Truth) -> str:
    """Missed cuts, and the clips that show several scenes for that reason; clips that are wrong without one are a fault."""
    kinds = Counter(cut.transition for cut in truth.missed_cuts)
    right, number = truth.true_clips
    rows = [
        ("cuts: recall, precision", f"{truth.recall:.3g}, {truth.precision:.3g}"),
        ("cuts that were missed", ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"),
        ("new scenes with a keyframe", f"{truth.new_kept[0]} of {truth.new_kept[1]}"),
        ("returning scenes with a keyframe", f"{truth.returning_kept[0]} of {truth.returning_kept[1]}"),
        ("clips whose pairs are all true of the scene that fills most of them", f"{right} of {number}"),
        ("clips that show several scenes, because a cut was missed", truth.mixed_clips),
        ("clips that show one scene and whose pairs are not all true of it", truth.unexplained_clips),
    ]
    paths = {clip.id: clip.video.path for clip in build.clips()}
    shown = ""
    for clip in truth.doubtful_clips:
        cuts = ", ".join(f"{time:.1f}" for time in clip.missed) or "none"
        words = (
            "true of the scene that fills most of it"
            if clip.is_true
            else "not true of the scene that fills most of it"
        )
        shown += (
            f"<h3>{html.escape(clip.video)}, {clip.start:.1f} to {clip.end:.1f} s</h3><p>Cuts missed within it: {cuts} s. "
            f"Pairs: {words}; they describe {clip.described:.0%} of the clip.</p>"
            f"{_picture(paths[clip.id], clip.start, clip.end, 2 * NUM_FRAMES)}"
        )
    cuts = [(cut.video, f"{cut.time:.2f} s", cut.transition) for cut in truth.missed_cuts]
    return _table(("", ""), rows) + _table(("missed cut in", "at", "kind"), cuts) + shown


def _lengths(lengths: list[float]) -> str:
    if not lengths:
        return "<p>No clips.</p>"
    longest = max(lengths)
    edges = (*LENGTH_EDGES, longest) if longest > LENGTH_EDGES[-1] else LENGTH_EDGES
    counts, _ = np.histogram(lengths, edges)
    most = max(counts.max(), 1)
    rows = "".join(
        f"<tr><td>{low:g} to {high:g} s<td>{count}<td><div class=bar style='width:{300 * count / most:.0f}px'></div>"
        for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
    )
    return f"<p>Mean {np.mean(lengths):.2f} s; HICom-248K: {PAPER_CLIP_SECONDS} s (figure 4).</p><table>{rows}</table>"


def _categories(build: Build) -> str:
    """How many videos were selected for each of the paper's categories."""
    if build.settings.select is None:
        return "<p>No selection: all videos are taken.</p>"
    counts = Counter(category for categories in build.selected_videos().values() for category in categories)
    return _table(("category", "videos"), counts.most_common())


def _cuts_by_threshold(build: Build, takes: Mapping[str, Sequence[float]]) -> str:
    """Curves over the threshold: cuts per minute, and recall and precision where the true cuts are known."""
    curves = cut_curves(build, takes)
    if not curves:
        return "<p>No videos.</p>"
    thresholds = [row["threshold"] for row in curves]
    x = CURVE_WIDTH * np.linspace(0, 1, len(thresholds))
    most = max(max(row["per minute"] for row in curves), 1e-6)
    drawn = _curve(x, np.array([row["per minute"] for row in curves]) / most, "#888")
    for name, colour in (("recall", "#393"), ("precision", "#c33")) if takes else ():
        drawn += _curve(x, np.array([row[name] for row in curves]), colour)
    shots = build.settings.shots
    default = DEFAULT_THRESHOLDS[shots.detector]
    for value, colour in ((shots.chosen_threshold, "#000"), (default, "#69c")):
        place = float(np.interp(value, thresholds, x))
        drawn += f"<line x1={place:.1f} x2={place:.1f} y1=0 y2={CURVE_HEIGHT} stroke={colour} stroke-dasharray=4 />"
    known = " Green: recall of the true cuts. Red: precision." if takes else ""
    note = (
        f"<p>{shots.detector}. Grey: cuts per minute, at most {most:.1f}.{known} Dashed: black, the threshold of this build, "
        f"{shots.chosen_threshold:g}; blue, the default for real videos, {default:g}.</p>"
    )
    head = tuple(curves[0])
    rows = [tuple(f"{row[name]:.3g}" for name in head) for row in curves]
    return f"{note}<svg width={CURVE_WIDTH} height={CURVE_HEIGHT}>{drawn}</svg>{_table(head, rows)}"


def cut_curves(build: Build, takes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """For each of some thresholds: cuts per minute, and over the videos whose true cuts are known recall and precision."""
    shots, detector = build.settings.shots, make_detector(build.settings.shots)
    watched = [(video.relative, build.watched.read(video.id)) for video, _ in build.chosen_videos()]
    minutes = sum(float(seen["duration"]) for _, seen in watched) / 60
    if not minutes:
        return []
    curves = []
    for threshold in CURVE_THRESHOLDS[shots.detector]:
        tried, counts = replace(shots, threshold=threshold), Counter()
        for name, seen in watched:
            cuts = detector.cuts(seen["times"], seen["distances"], tried)
            counts["found"] += len(cuts)
            if name in takes:
                _, _, missed = recall_and_precision(cuts, takes[name], TOLERANCE)
                counts["true"] += len(takes[name])
                counts["hits"] += len(takes[name]) - len(missed)
                counts["compared"] += len(cuts)
        row = {"threshold": threshold, "per minute": counts["found"] / minutes}
        if takes:
            row["recall"] = counts["hits"] / max(counts["true"], 1)
            row["precision"] = counts["hits"] / counts["compared"] if counts["compared"] else 1.0
        curves.append(row)
    return curves


def _quantiles(build: Build) -> str:
    """Of some videos, so that a threshold can be chosen between the two rows."""
    rows: dict[str, list[list[float]]] = {}
    for video, chosen in list(build.chosen_videos())[: 10 * NUM_VIDEOS]:
        watched = build.watched.read(video.id)
        shots = np.searchsorted(chosen["cuts"], watched["sampled_times"], side="right")
        for name, values in similarity_quantiles(watched["vectors"], shots).items():
            rows.setdefault(name, []).extend([values] if values else [])
    means = [(name, *(f"{value:.3f}" for value in np.mean(values, axis=0))) for name, values in rows.items() if values]
    note = f"<p>keyframes.threshold is {build.settings.keyframes.threshold}; quantiles are means over videos.</p>"
    return note + _table(("two frames", "5 %", "25 %", "50 %", "75 %", "95 %"), means)


def _film(build: Build, video: SourceVideo) -> str:
    """A video's keyframes, and the curves of both measures over its time."""
    if not build.chosen.is_done(video.id):
        return ""
    chosen, watched = build.chosen.read(video.id), build.watched.read(video.id)
    duration = max(chosen["duration"], 1e-6)
    x = CURVE_WIDTH / duration
    distances, similarities = watched["distances"], np.array(chosen["similarities"])
    # The first frame has nothing to be like. The others lie close together, so the curve takes the whole height.
    least = min([*similarities[1:], build.settings.keyframes.threshold]) - 0.01
    similarities = np.clip((similarities - least) / (1 - least), 0, 1)
    marks = "".join(
        f"<line x1={cut * x:.1f} x2={cut * x:.1f} y1=0 y2={CURVE_HEIGHT} stroke=#c33 />" for cut in chosen["cuts"]
    )
    marks += "".join(f"<circle cx={time * x:.1f} cy=6 r=3 fill=#393 />" for time in chosen["keyframes"])
    scale = CURVE_THRESHOLDS[build.settings.shots.detector][-1]
    curves = _curve(watched["times"] * x, np.clip(distances / scale, 0, 1), "#c99")
    curves += _curve(watched["sampled_times"] * x, similarities, "#69c")
    curves += _level(build.settings.shots.chosen_threshold / scale, "#c99")
    curves += _level((build.settings.keyframes.threshold - least) / (1 - least), "#69c")
    times = _chosen(chosen["keyframes"], 2 * NUM_FRAMES)
    return (
        f"<h3>{html.escape(video.relative)}</h3><p>{duration:.1f} s. Red: distance of neighbouring frames, from 0 to "
        f"{scale:g}, and cuts. Blue: similarity to earlier keyframes, from {least:.2f} to 1. Dashed: thresholds. Green: "
        f"keyframes.</p><svg width={CURVE_WIDTH} "
        f"height={CURVE_HEIGHT}>{curves}{marks}</svg><br>{''.join(_picture(video.path, time, time + 0.5) for time in times)}"
    )


def _curve(x: np.ndarray, values: np.ndarray, colour: str) -> str:
    points = " ".join(
        f"{a:.1f},{CURVE_HEIGHT * (1 - b):.1f}" for a, b in zip(x.tolist(), values.tolist(), strict=True)
    )
    return f"<polyline points='{points}' fill=none stroke='{colour}' />"


def _level(value: float, colour: str) -> str:
    y = CURVE_HEIGHT * (1 - value)
    return f"<line x1=0 x2={CURVE_WIDTH} y1={y:.1f} y2={y:.1f} stroke='{colour}' stroke-dasharray=4 />"


def _clip(build: Build, clip: Clip) -> str:
    texts = ""
    if build.captions is not None and build.pairs is not None and build.pairs.is_done(clip.id):
        caption = html.escape(build.captions.read(clip.id)["caption"])
        pairs = build.pairs.read(clip.id)["pairs"]
        verdicts = build.verdicts_of(clip.id)
        rows = [(pair["instruction"], pair["answer"], verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
        texts = f"<p>{caption}</p>{_table(('instruction', 'answer', 'filter'), rows)}"
    name = html.escape(f"{clip.video.relative}, {clip.start:.1f} to {clip.end:.1f} s")
    return f"<h3>{name}</h3>{_picture(clip.video.path, clip.start, clip.end, NUM_FRAMES)}{texts}"


def _picture(path: str, start: float, end: float, num_frames: int = 1) -> str:
    """Frames of a part of a video side by side."""

    def small(frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(image)

    sampling = FrameSampling(num_frames=num_frames, start=start, end=end)
    try:
        frames, _ = read_video(path, sampling, transform=small, on_decode_error="keep")
    except ITEM_ERRORS as error:  # it was moved or damaged since it was watched
        return f"<p>No picture: {html.escape(str(error))}</p>"
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(buffer, "JPEG", quality=80)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


# HTML ----------------------------------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}' for cell in row)}" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}' for cell in head)}{cells}</table>"


def _chosen(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, spread evenly."""
    if len(items) <= count:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, count)]
