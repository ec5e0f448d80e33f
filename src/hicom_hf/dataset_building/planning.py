"""What a build will cost before it is made, from what the files say of themselves and from what was measured elsewhere.

Every constant states where it comes from. Estimates are orders of magnitude: run `hicom build-data run --limit` first.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..hub.files import read_json_lines
from .categories import CATEGORIES
from .settings import CaptionSettings
from .stages import LOG_FILE

if TYPE_CHECKING:
    from .building import Build

PAPER_CLIP_SECONDS = 25.67  # mean length of a clip: paper, table 1
# CPU seconds of one core per hour of 720p video at 24 frames per second, without the embedder (benchmarks/building_data.py).
PROBE_SECONDS, WATCH_SECONDS, CUT_SECONDS = 0.9, 363, 680
# Of one core, with vectors of 1,152 numbers: per hour of video, and per square of the number of clips. Reading files counts.
SHOTS_SECONDS, KEYFRAMES_SECONDS, DEDUPLICATE_SECONDS = 0.04, 0.13, 2e-8
BYTES_PER_CLIP_SECOND = 51e3  # at 360p, H.264
# Estimates: H100-hours of SigLIP so400m at 384 pixels, and of a 72B captioner on a node of eight.
GPU_HOURS_PER_FRAME = 8 / 21.6e6
GPU_HOURS_PER_TOKEN = 550 / (496e3 * 8e3)
PIXELS_PER_TOKEN = 28  # a side, as Qwen2-VL and Qwen2.5-VL cut frames
WORDS_OF_A_PROMPT, WORDS_OF_AN_ANSWER = 200, 300  # tokens; an estimate until the server has counted some


def plan(build: "Build") -> dict[str, Any]:
    """Videos, hours, gigabytes, and of each stage what is missing and what that will cost; probes nothing itself."""
    probed = [build.probed.read(item) for item in build.videos if build.probed.is_done(item)]
    hours = sum(facts["duration"] or 0 for facts in probed) / 3600
    found: dict[str, Any] = {
        "videos": len(build.videos),
        "gigabytes": sum(video.num_bytes for video in build.videos.values()) / 1e9,
        "probed": len(probed),
        "hours": hours,
    }
    most = most_selected(build)
    is_selected = not ("select" in build.stages and build.count("select")["missing"])
    if not is_selected:
        found["selected"] = f"at most {most}, not known before the stage select"
    missing = {name: len(stage.missing(build.items_of(name))) for name, stage in build.stages.items()}
    share = {name: count / max(len(build.items_of(name)), 1) for name, count in missing.items()}
    if not is_selected:
        for name in ("watch", "shots", "keyframes", "clips"):
            missing[name], share[name] = most, most / max(len(build.videos), 1)
    frames = round(hours * 3600 * build.settings.keyframes.fps * share["watch"])
    costs: dict[str, dict[str, Any]] = {"probe": {"cpu_hours": hours * PROBE_SECONDS / 3600 * share["probe"]}}
    if "select" in share:
        per_video = build.settings.select.num_frames if build.settings.select else 0
        costs["select"] = {"embedded_frames": round(len(build.videos) * per_video * share["select"])}
    costs["watch"] = {
        "cpu_hours_if_720p": hours * WATCH_SECONDS / 3600 * share["watch"],
        "embedded_frames": frames,
        "gpu_hours_if_so400m": frames * GPU_HOURS_PER_FRAME,
    }
    for name, seconds in (("shots", SHOTS_SECONDS), ("keyframes", KEYFRAMES_SECONDS)):
        costs[name] = {"cpu_hours": hours * seconds / 3600 * share[name]}
    for name, count in missing.items():
        found[name] = {"missing": count, **costs.get(name, {})}
    if build.clip_stages:
        found |= _of_clips(build, hours if is_selected else hours * share["watch"], is_selected)
    return found


def most_selected(build: "Build") -> int:
    """How many videos are selected at most: those that can be read, or as many as `select` asks for."""
    select = build.settings.select
    readable = sum(not build.probed.has_failed(item) for item in build.videos)
    return readable if select is None else min(readable, select.per_category * len(CATEGORIES) + select.random)


def _of_clips(build: "Build", hours: float, is_selected: bool) -> dict[str, Any]:
    """Requests. Until clips are chosen, as many as if all of the videos became clips of the paper's mean length."""
    settings = build.settings.captions
    assert settings is not None  # there are stages of clips
    is_known = is_selected and not build.chosen.missing(build.items_of("clips"))
    clips = [clip for clip in build.selected_clips()] if is_known else []
    number = len(clips) if is_known else round(hours * 3600 / PAPER_CLIP_SECONDS)
    seconds = sum(clip.end - clip.start for clip in clips) if is_known else hours * 3600
    found: dict[str, Any] = {}
    for name in build.set_stages:
        count = build.count(name)["missing"] if is_known else number
        hours_of_it = {"cpu_hours": count**2 * DEDUPLICATE_SECONDS / 3600} if name == "deduplicate" else {}
        found[name] = {"missing": count, **hours_of_it}
    for name, stage in build.clip_stages.items():
        missing = len(stage.missing([clip.id for clip in clips])) if is_known else number
        if name == "filter":
            found[name] = {"missing": missing}
            continue
        tokens_in, tokens_out = tokens_per_request(build, name, settings)
        found[name] = {
            "clips": "known" if is_known else f"at most about {number}, not known before the stage clips",
            "requests": missing,
            "tokens_in": round(missing * tokens_in),
            "tokens_out": round(missing * tokens_out),
            "gpu_hours_if_72b": missing * (tokens_in + tokens_out) * GPU_HOURS_PER_TOKEN,
        }
        if settings.price_in is not None and settings.price_out is not None:
            prices = missing * (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6
            found[name]["cost"] = prices
    found["export --clips 360p"] = {
        "cpu_hours": seconds * CUT_SECONDS / 3600**2,
        "gigabytes": seconds * BYTES_PER_CLIP_SECOND / 1e9,
    }
    return found


def tokens_per_request(build: "Build", stage: str, settings: CaptionSettings) -> tuple[float, float]:
    """Of a request and of an answer: means of what the server has counted, else an estimate for square frames."""
    total, counted = Counter(), 0
    for entry in read_json_lines(build.output_dir / LOG_FILE):
        if entry["stage"] == stage and "prompt_tokens" in (entry.get("usage") or {}):
            counted += 1
            total.update({key: entry["usage"].get(key) or 0 for key in ("prompt_tokens", "completion_tokens")})
    if counted:
        return total["prompt_tokens"] / counted, total["completion_tokens"] / counted
    frame = (settings.max_side / PIXELS_PER_TOKEN) ** 2
    return settings.num_frames * frame + WORDS_OF_A_PROMPT, float(WORDS_OF_AN_ANSWER)
