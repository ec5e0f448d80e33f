"""What a build gives: records for `hicom train`, where each came from, and a card that says what they are."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hub.files import atomic_file, write_text
from .building import Build, Clip
from .decontamination import NOT_DECONTAMINATED
from .filtering import reason_to_drop, without_repetitions

RECORDS_FILE, PROVENANCE_FILE, CARD_FILE = "train.jsonl", "train.provenance.parquet", "data_card.md"
REPETITION = "the same instruction twice"
FORMATS = ("jsonl", "parquet")


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


def collect(build: Build) -> Exported:
    """All pairs that are there and pass the filter.

    Raises:
        ValueError: the build ends with clips.
    """
    if build.pairs is None:
        raise ValueError("captions: this build has no captioner, so there are no pairs; name one in the build file")
    found = Exported()
    for clip in build.selected_clips():
        if not build.pairs.is_done(clip.id):
            continue
        stored = build.pairs.read(clip.id)
        pairs, repeated = without_repetitions(stored["pairs"])
        found.dropped[REPETITION] += repeated
        before = len(found.records)
        for number, pair in enumerate(pairs):
            reason = reason_to_drop(pair)
            if reason is not None:
                found.dropped[reason] += 1
                continue
            record = _record(clip, number, pair)
            found.records.append(record)
            found.provenance.append({"id": record["id"], **_provenance(build, clip, stored)})
        found.clips += len(found.records) > before
    found.dropped = +found.dropped
    return found


def _record(clip: Clip, number: int, pair: dict[str, str]) -> dict[str, Any]:
    """One record per pair, so that no answer stands in the context of another."""
    return {
        "id": f"{clip.id}-{number}",
        "video": clip.video.relative,
        "start": clip.start,
        "end": clip.end,
        "conversations": [
            {"from": "human", "value": f"<video>\n{pair['instruction']}"},
            {"from": "gpt", "value": pair["answer"]},
        ],
    }


def _provenance(build: Build, clip: Clip, stored: dict[str, Any]) -> dict[str, Any]:
    from .. import __version__

    settings = build.settings
    return {
        "video_id": clip.video.id,
        "video": clip.video.relative,
        "start": clip.start,
        "end": clip.end,
        "keyframes": list(clip.keyframes),
        "shots": json.dumps(build.chosen.settings["shots"]),
        "embedder": json.dumps(build.watched.settings),
        "keyframe_rule": f"{settings.keyframes.rule} {settings.keyframes.threshold}",
        "captioner": stored["reply"]["model"],
        "caption_prompt": settings.captions.prompt,
        "pairs_prompt": settings.pairs.prompt,
        "request": stored["prompt"],
        "temperature": settings.pairs.temperature,
        "answer_file": build.pairs.path(clip.id).relative_to(build.output_dir).as_posix(),
        "licence": settings.licence,
        "version": __version__,
    }


def export(build: Build, formats: tuple[str, ...] = FORMATS) -> Exported:
    """Write records, provenance and card into the build's folder; each file completely or not at all.

    Args:
        build: as far as it is.
        formats: "jsonl" for records, "parquet" for provenance (takes pyarrow).

    Raises:
        ValueError: there is no pair.
        ImportError: pyarrow is not there.
    """
    found = collect(build)
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
    write_text(build.output_dir / CARD_FILE, data_card(build, found))
    return found


def decontamination_note(build: Build) -> str:
    """What was left out for benchmarks, or "not decontaminated"."""
    chosen = build.settings.decontaminate
    if chosen is None:
        return NOT_DECONTAMINATED
    sources = [*(Path(file).name for file in chosen.benchmark_files or []), chosen.benchmark_videos]
    return "decontaminated against " + ", ".join(str(source) for source in sources if source is not None)


def data_card(build: Build, found: Exported) -> str:
    """Markdown: what the data are, whence, under which licence, and what they are not."""
    seconds = {(entry["video_id"], entry["start"]): entry["end"] - entry["start"] for entry in found.provenance}
    captioners = ", ".join(sorted({entry["captioner"] for entry in found.provenance}))
    mean = sum(seconds.values()) / max(len(seconds), 1)
    dropped = "\n".join(f"| dropped: {reason} | {count} |" for reason, count in sorted(found.dropped.items()))
    return f"""# Instruction-conditioned descriptions of video clips

Made with `hicom build-data` as section 3.2 of the HICom paper describes it. Texts were written by a model, not by people.

| | |
|---|---|
| videos | {len({entry["video_id"] for entry in found.provenance})} |
| clips | {found.clips} |
| pairs | {len(found.records)} |
| mean length of a clip | {mean:.2f} s (HICom-248K: 25.67 s) |
| captioner, as its server states it | {captioners} |
| licence of the videos | {build.settings.licence} |
| benchmarks | {decontamination_note(build)} |
{dropped}

`{RECORDS_FILE}` names videos, times and texts. It holds no video: the videos stay under their own licence, and training needs
them. Faces, number plates and voices are as the videos show them; nothing was blurred. `hicom build-data delete` removes what
came from one video.
"""
