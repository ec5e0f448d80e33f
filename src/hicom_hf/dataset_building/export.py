"""What a build gives: records for `hicom train`, where each came from, and a card that says what they are."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..hub.files import atomic_file, write_text
from ..hub.progress import Progress, no_progress
from .building import Build
from .clips import Clip
from .cutting import CLIP_SUFFIX, cut_clip, cut_stage
from .decontamination import NOT_DECONTAMINATED
from .filtering import KEPT, Pair
from .planning import PAPER_CLIP_SECONDS
from .sharding import SHARDS_FOLDER, Sample, write_shards
from .stages import REPORT_FILE, Stage

RECORDS_FILE, PROVENANCE_FILE, CARD_FILE = "train.jsonl", "train.provenance.parquet", "data_card.md"
FORMATS = ("jsonl", "parquet", "webdataset")
USUAL_FORMATS = ("jsonl", "parquet")
EXPORT_FILE = "export.json"  # how the last export was made, for `delete_video`
EXPORTED = (RECORDS_FILE, PROVENANCE_FILE, CARD_FILE)
NOT_CUT = "its clip could not be cut"


@dataclass
class Exported:
    """Records with their provenance, and how many pairs were dropped for what.

    Attributes:
        records: for the trainer, one per pair.
        provenance: of each record.
        dropped: number of pairs by reason.
        clips: how many have at least one pair.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    clips: int = 0


def collect(build: Build, cut: Stage | None = None) -> Exported:
    """All pairs that are there and pass the filter.

    Args:
        build: as far as it is.
        cut: where clips were cut; None for records that name times of the videos.

    Raises:
        ValueError: the build ends with clips.
    """
    if build.pairs is None:
        raise ValueError("captions: this build has no captioner, so there are no pairs; name one in the build file")
    found = Exported()
    watched_by = lru_cache(maxsize=1)(
        lambda item: json.loads(str(build.watched.read(item, "provenance")["provenance"]))
    )
    for clip in build.selected_clips():
        if not build.pairs.is_done(clip.id):
            continue
        stored = build.pairs.read(clip.id)
        if cut is not None and not cut.is_done(clip.id):
            found.dropped[NOT_CUT] += len(stored["pairs"])
            continue
        before = len(found.records)
        for number, (pair, verdict) in enumerate(zip(stored["pairs"], build.verdicts_of(clip.id), strict=True)):
            if verdict != KEPT:
                found.dropped[verdict] += 1
                continue
            record = _record(build, clip, number, pair, cut)
            found.records.append(record)
            found.provenance.append(
                {"id": record["id"], **_provenance(build, clip, stored, watched_by(clip.video.id))}
            )
        found.clips += len(found.records) > before
    return found


def _record(build: Build, clip: Clip, number: int, pair: Pair, cut: Stage | None) -> dict[str, Any]:
    """One record per pair, so that no answer stands in the context of another."""
    if cut is None:
        where: dict[str, Any] = {"video": clip.video.relative, "start": clip.start, "end": clip.end}
    else:
        where = {"video": cut.path(clip.id, CLIP_SUFFIX).relative_to(build.output_dir).as_posix()}
    return {
        "id": f"{clip.id}-{number}",
        **where,
        "conversations": [
            {"from": "human", "value": f"<video>\n{pair['instruction']}"},
            {"from": "gpt", "value": pair["answer"]},
        ],
    }


def _provenance(build: Build, clip: Clip, stored: dict[str, Any], watched: dict[str, Any]) -> dict[str, Any]:
    """Of one pair, from the clip's answer and from what its video was watched with."""
    from .. import __version__

    settings = build.settings
    assert settings.captions is not None and build.pairs is not None  # there are pairs
    return {
        "video_id": clip.video.id,
        "video": clip.video.relative,
        "start": clip.start,
        "end": clip.end,
        "keyframes": list(clip.keyframes),
        "detector": watched["detector"],
        "shots": json.dumps({"threshold": settings.shots.chosen_threshold, "min_length": settings.shots.min_length}),
        "embedder": json.dumps({key: value for key, value in watched.items() if key not in ("detector", "version")}),
        "embedder_settings": json.dumps(build.watched.settings),
        "keyframe_rule": f"{settings.keyframes.rule} {settings.keyframes.threshold}",
        "captioner": stored["reply"]["model"],
        "caption_prompt": settings.captions.prompt,
        "pairs_prompt": settings.pairs.prompt,
        "request": stored["prompt"],
        "temperature": settings.pairs.temperature,
        "answer_file": build.pairs.path(clip.id).relative_to(build.output_dir).as_posix(),
        "licence": licence_of(build, clip.video.relative),
        "version": __version__,
    }


def licence_of(build: Build, relative: str) -> str:
    """Of a video: that of the longest beginning of its path that `licences` names, else `licence`."""
    named = build.settings.licences or {}
    fitting = [beginning for beginning in named if relative.startswith(beginning)]
    return named[max(fitting, key=len)] if fitting else build.settings.licence


def export(
    build: Build,
    formats: tuple[str, ...] = USUAL_FORMATS,
    clip_height: int | None = None,
    progress: Progress = no_progress,
) -> Exported:
    """Write records, provenance and card into the build's folder; each file completely or not at all.

    Args:
        build: as far as it is.
        formats: "jsonl" for records, "parquet" for provenance (takes pyarrow), "webdataset" for shards of cut clips.
        clip_height: cut clips of this height, and let the records name them, relative to the build's folder; None for records
            that name times of the original videos.
        progress: of the cutting.

    Raises:
        ValueError: there is no pair, or shards without cut clips are asked for.
        ImportError: pyarrow is not there.
    """
    if "webdataset" in formats and clip_height is None:
        raise ValueError("shards hold cut clips: give a height for them, such as --clips 360p")
    cut = None if clip_height is None else _cut(build, clip_height, progress)
    found = collect(build, cut)
    if not found.records:
        raise ValueError(
            f"{build.output_dir}: there are no pairs yet; `hicom build-data status` shows how far the build is"
        )
    if "parquet" in formats:
        import pyarrow
        from pyarrow import parquet

        with atomic_file(build.output_dir / PROVENANCE_FILE) as written:
            parquet.write_table(pyarrow.Table.from_pylist(found.provenance), written)
    if "jsonl" in formats:
        lines = [json.dumps(record, ensure_ascii=False) for record in found.records]
        write_text(build.output_dir / RECORDS_FILE, "\n".join(lines))
    if "webdataset" in formats and cut is not None:
        write_shards(build.output_dir / SHARDS_FOLDER, _samples(build, found, cut))
    write_text(build.output_dir / CARD_FILE, data_card(build, found))
    write_text(build.output_dir / EXPORT_FILE, json.dumps({"formats": list(formats), "clip_height": clip_height}))
    return found


def _cut(build: Build, height: int, progress: Progress) -> Stage:
    """Cut all clips that have pairs and are not cut yet."""
    stage = cut_stage(build.output_dir, height)
    assert build.pairs is not None or not build.clip_stages
    wanted = [clip for clip in build.selected_clips() if build.pairs is not None and build.pairs.is_done(clip.id)]
    values = {clip.id: (clip.id, clip.video.path, clip.start, clip.end) for clip in wanted}
    build.engine.run_stage(stage, values, partial(cut_clip, stage, height), progress)
    return stage


def _samples(build: Build, found: Exported, cut: Stage) -> Iterator[Sample]:
    """One per clip; the JSON names no file, for the clip beside it is meant."""
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for record in found.records:
        by_clip.setdefault(record["id"].rpartition("-")[0], []).append(record)
    for clip, records in by_clip.items():
        yield (
            clip,
            [{key: one[key] for key in ("id", "conversations")} for one in records],
            cut.path(clip, CLIP_SUFFIX),
        )


def delete_video(build: Build, video_id: str) -> int:
    """Remove everything that came from a video, for good, from the results, the log, the report and what was exported.

    Returns:
        How many files were removed.

    Raises:
        ValueError: the build has no such video.
    """
    count = build.delete_video(video_id)
    (build.output_dir / REPORT_FILE).unlink(missing_ok=True)  # it may show the video's frames
    how = build.output_dir / EXPORT_FILE
    if how.exists():
        values = json.loads(how.read_text(encoding="utf-8"))
        for path in [build.output_dir / name for name in EXPORTED] + list(
            (build.output_dir / SHARDS_FOLDER).glob("*.tar")
        ):
            path.unlink(missing_ok=True)
        if build.pairs is not None and any(build.pairs.is_done(clip.id) for clip in build.selected_clips()):
            export(build, tuple(values["formats"]), values["clip_height"])
    return count


def decontamination_note(build: Build) -> str:
    """What was left out for benchmarks, or "not decontaminated"."""
    chosen = build.settings.decontaminate
    if chosen is None:
        return NOT_DECONTAMINATED
    sources = [*(chosen.benchmarks or {}), *(Path(file).name for file in chosen.benchmark_files or [])]
    sources += [] if chosen.benchmark_videos is None else [f"what {chosen.benchmark_videos} shows"]
    note, unseen = f"decontaminated against {', '.join(sources)}", build.benchmark_videos_not_seen()
    return note + (f"; {unseen} videos of a benchmark were not or could not be compared with" if unseen else "")


def data_card(build: Build, found: Exported) -> str:
    """Markdown: what the data are, whence, under which licence, and what they are not."""
    seconds = {(entry["video_id"], entry["start"]): entry["end"] - entry["start"] for entry in found.provenance}

    def stated(key: str) -> str:
        return ", ".join(sorted({entry[key] for entry in found.provenance}))

    mean = sum(seconds.values()) / max(len(seconds), 1)
    dropped = "\n".join(f"| dropped: {reason} | {count} |" for reason, count in sorted(found.dropped.items()))
    return f"""# Instruction-conditioned descriptions of video clips

Made with `hicom build-data` as section 3.2 of the HICom paper describes it. Texts were written by a model, not by people.

| | |
|---|---|
| videos | {len({entry["video_id"] for entry in found.provenance})} |
| clips | {found.clips} |
| pairs | {len(found.records)} |
| mean length of a clip | {mean:.2f} s (HICom-248K: {PAPER_CLIP_SECONDS} s) |
| captioner, as its server states it | {stated("captioner")} |
| licence of the videos | {stated("licence")} |
| detector of cuts | {stated("detector")} |
| embedder | {stated("embedder")} |
| benchmarks | {decontamination_note(build)} |
{dropped}

`{RECORDS_FILE}` names videos or clips, and texts. It holds no video: the videos stay under their own licence, which holds for
clips and shards that were cut from them, too, and training needs them. Faces, number plates and voices are as the videos show
them; nothing was blurred. Cut clips have no sound. `hicom build-data delete` removes what came from one video.
"""
