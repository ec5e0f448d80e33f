"""A build: everything that decides what is built, in one typed YAML file, checked before any work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..training.typed_yaml import build, load_yaml, set_value

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
# `Differs:` the paper says "a much looser threshold than Panda-70M" and states none; its clips are longer than Panda-70M's, so
# looser means fewer cuts. Panda-70M split at 25 of ContentDetector. PySceneDetect's own defaults are 27 and 0.2 (histogram).
DEFAULT_THRESHOLDS = {"histogram": 0.3, "pyscenedetect": 40.0}
PANDA_THRESHOLD = 25.0  # of ContentDetector
# Least and greatest ones that make sense. Below the least, noise cuts a video into pieces of `min_length`; PySceneDetect's
# filter then merges neighbouring cuts, so that it even finds fewer (recall 0.96 at 8, 0.62 at 3 in the built-in world).
THRESHOLD_RANGES = {"histogram": (0.01, 1.0), "pyscenedetect": (8.0, 255.0)}


@dataclass(frozen=True, kw_only=True)
class ShotSettings:
    """How a video is split.

    Args:
        detector: "histogram": of brightness, ours; "pyscenedetect": PySceneDetect's ContentDetector, which the paper used.
        threshold: distance of two neighbouring frames from which on they are two shots, on the detector's own scale; null is its
            default, see `DEFAULT_THRESHOLDS`. A higher value gives fewer cuts.
        min_length: seconds; cuts that follow the previous cut sooner are ignored.
    """

    detector: Literal["histogram", "pyscenedetect"] = "histogram"
    threshold: float | None = None
    min_length: float = 1.0

    @property
    def chosen_threshold(self) -> float:
        """The threshold, or the detector's default."""
        return DEFAULT_THRESHOLDS[self.detector] if self.threshold is None else self.threshold


@dataclass(frozen=True, kw_only=True)
class KeyframeSettings:
    """Which frames show something new.

    Args:
        embedder: "hicom": `model` is a HICom folder, whose SigLIP is used; "siglip", "pe_video" and "videoprism": a model of the
            Hub, SigLIP or SigLIP 2, PE-AV's video part, and VideoPrism with its text tower.
        model: null is hicom-tiny, which knows the built-in world only.
        fps: frames per second that are compared. `Differs:` the paper says "densely sampled"; ShareGPT4Video takes one in 2 s.
        rule: "all": a keyframe differs from every keyframe before; "last": from the last one, as in ShareGPT4Video, which
            keeps scenes that return.
        threshold: a frame is a keyframe if its cosine similarity is below. It does not carry over from one embedder to
            another: `hicom build-data report` prints the quantiles within a shot and between shots. 0.93: ShareGPT4Video.
        max_side: pixels; frames are made smaller while they are decoded.
    """

    embedder: Literal["hicom", "siglip", "pe_video", "videoprism"] = "siglip"
    model: str | None = "google/siglip2-so400m-patch14-384"
    fps: float = 1.0
    rule: Literal["all", "last"] = "all"
    threshold: float = 0.93
    max_side: int = 384


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Which shots are kept.

    Args:
        min_length, max_length: seconds. 5 and 120: paper, section 3.2.
        needs_keyframe: paper, section 3.2.
    """

    min_length: float = 5.0
    max_length: float = 120.0
    needs_keyframe: bool = True


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Which videos are taken, by the similarity of their frames to the sentences of the paper's 29 categories.

    Args:
        per_category, random: videos, at most. 1,500 and 10,000: paper, section 3.2.
        num_frames: of each video that are compared; their mean counts. `Differs:` the paper compares features of InternVideo2
            and does not say how it treats long videos; here it is the embedder of the keyframes.
        seed: of the random ones.
    """

    per_category: int = 1500
    random: int = 10000
    num_frames: int = 8
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """The captioner, and its first request: a detailed caption.

    Args:
        base_url: of a server that speaks OpenAI's chat protocol, up to and with "/v1".
        model: its name there. Paper: Qwen2-VL-72B-Instruct.
        api_key_variable: the environment variable with the key; null for none.
        prompt: a name in dataset_building/prompts, or the path of a file.
        num_frames, max_side, jpeg_quality: what is sent of a clip. `Differs:` the paper states none of them.
        transport: "images", or "video": vLLM's data:video/jpeg; newer servers take 32 frames of it at most.
        media_ids: send vLLM's `uuid` with each part, for its cache.
        temperature, max_tokens: of the answer.
        max_in_flight: requests at once, at most; fewer while the server says that it is busy.
        timeout: seconds of one try.
        tries: how often an answer that is cut, empty or no JSON is asked for.
        price_in, price_out: of a million tokens of requests and answers, in any currency; null where it is not known.
    """

    base_url: str
    model: str
    api_key_variable: str | None = None
    prompt: str = "caption_v1"
    num_frames: int = 16
    max_side: int = 448
    jpeg_quality: int = 90
    transport: Literal["images", "video"] = "images"
    media_ids: bool = False
    temperature: float = 0.0
    max_tokens: int = 1024
    max_in_flight: int = 32
    timeout: float = 300.0
    tries: int = 3
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The captioner's second request: pairs of an instruction and an answer, given clip and caption.

    Args:
        prompt: as of the captions.
        num_pairs: 3: paper, section 3.2.
        temperature, max_tokens: of the answer.
    """

    prompt: str = "pairs_v1"
    num_pairs: int = 3
    temperature: float = 0.7
    max_tokens: int = 1024


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which pairs are dropped, besides those with the paper's phrases and ours (dataset_building/filtering.py).

    Args:
        phrases: answers with one of them are dropped; upper and lower case count as the same.
        min_answer_words: shorter answers are dropped. Rule 2 of the paper: the answer describes in detail.
    """

    phrases: list[str] | None = None
    min_answer_words: int = 3


@dataclass(frozen=True, kw_only=True)
class DeduplicationSettings:
    """Which clips count as the same, before they are captioned. The paper states no deduplication.

    Args:
        threshold: cosine of two clips' mean vectors, of the keyframes' embedder.
    """

    threshold: float


@dataclass(frozen=True, kw_only=True)
class DecontaminationSettings:
    """Videos that must not be trained on. The paper states no decontamination.

    Args:
        benchmarks: folder with the published files of each benchmark, by its name in `hicom eval`, whose reader is used; its
            videos are left out by their names.
        benchmark_files: JSON, JSONL, CSV, TSV, parquet or text of others; a video whose file name (without suffix) stands in one
            is left out.
        benchmark_videos: a folder of videos; clips similar to one of them are left out.
        threshold: smallest cosine of two similar frames; needed with `benchmark_videos`.
    """

    benchmarks: dict[str, str] | None = None
    benchmark_files: list[str] | None = None
    benchmark_videos: str | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """A whole build.

    Args:
        videos: files or folders, which are searched through.
        output_dir: folder for all results.
        media_root: the folder that the paths in the result are relative to; null: they are absolute.
        licence: of the videos; goes into every record's provenance and the data card.
        licences: of some of them, by the beginning of their path relative to `media_root`; the longest that fits counts.
        shots, keyframes, clips, captions, pairs: see there. Without `captions` the build ends with clips.
        select: which of the videos are taken; null takes all. A shard selects among its own videos.
        filter: which pairs are dropped.
        deduplicate, decontaminate: what is left out before clips are captioned; null leaves out nothing.
        workers: processes that decode.
        device: where the embedder computes, "cpu" or "cuda"; with a GPU, each worker holds an embedder there.
        max_failures: fraction of the videos that may fail before the command itself fails.
    """

    videos: list[str]
    output_dir: str
    media_root: str | None = None
    licence: str = "not stated"
    licences: dict[str, str] | None = None
    select: SelectionSettings | None = None
    shots: ShotSettings = field(default_factory=ShotSettings)
    keyframes: KeyframeSettings = field(default_factory=KeyframeSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    captions: CaptionSettings | None = None
    pairs: PairSettings = field(default_factory=PairSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    deduplicate: DeduplicationSettings | None = None
    decontaminate: DecontaminationSettings | None = None
    workers: int = 1
    device: str = "cpu"
    max_failures: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, as a YAML file has them."""
        return asdict(self)


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> BuildSettings:
    """Read and check a build file.

    Args:
        path: YAML.
        overrides: "key=value" each, the key dotted ("shots.threshold=0.2").

    Raises:
        FileNotFoundError: no such file.
        ValueError: a wrong key, a missing one, a value of the wrong type or out of range; with its dotted key.

    Example:
        >>> read_settings("build.yaml").clips.max_length  # doctest: +SKIP
        120.0
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such build file; docs/building_data.md shows one")
    values = load_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a build is a mapping of keys to values, got {type(values).__name__}")
    for override in overrides:
        set_value(values, override)
    return settings_from_dict(values, str(path))


def settings_from_dict(values: dict[str, Any], name: str = "build") -> BuildSettings:
    """Settings from plain values; errors as of `read_settings`."""
    settings = build(BuildSettings, values, name)
    above_zero = {
        "keyframes.fps": settings.keyframes.fps,
        "keyframes.max_side": settings.keyframes.max_side,
        "shots.min_length": settings.shots.min_length,
        "clips.min_length": settings.clips.min_length,
        "workers": settings.workers,
    }
    for key, value in above_zero.items():
        if not value > 0:
            raise ValueError(f"{name}: {key} must be above 0, got {value}")
    least, most = THRESHOLD_RANGES[settings.shots.detector]
    if not least <= settings.shots.chosen_threshold <= most:
        raise ValueError(
            f"{name}: shots.threshold must be from {least:g} to {most:g} with shots.detector {settings.shots.detector}, got "
            f"{settings.shots.threshold}; a higher value gives fewer cuts"
        )
    if not -1 <= settings.keyframes.threshold <= 1:
        raise ValueError(f"{name}: keyframes.threshold is a cosine, from -1 to 1; got {settings.keyframes.threshold}")
    if not settings.clips.max_length > settings.clips.min_length:
        raise ValueError(f"{name}: clips.max_length must be above clips.min_length, {settings.clips.min_length}")
    if settings.keyframes.embedder != "hicom" and settings.keyframes.model is None:
        raise ValueError(
            f"{name}: keyframes.model must name a model of the Hub with keyframes.embedder {settings.keyframes.embedder}"
        )
    if settings.captions is not None:
        for key in ("num_frames", "max_side", "jpeg_quality", "max_tokens", "max_in_flight", "timeout", "tries"):
            if not getattr(settings.captions, key) > 0:
                raise ValueError(f"{name}: captions.{key} must be above 0, got {getattr(settings.captions, key)}")
        if not settings.captions.base_url.startswith(("http://", "https://")):
            raise ValueError(f"{name}: captions.base_url must begin with http:// or https://")
    if settings.pairs.num_pairs < 1:
        raise ValueError(f"{name}: pairs.num_pairs must be at least 1, got {settings.pairs.num_pairs}")
    if settings.filter.min_answer_words < 0 or not all(settings.filter.phrases or ["x"]):
        raise ValueError(f"{name}: filter takes min_answer_words of at least 0, and phrases that are not empty")
    if settings.select is not None and not (
        settings.select.num_frames >= 1
        and min(settings.select.per_category, settings.select.random, settings.select.seed) >= 0
    ):
        raise ValueError(
            f"{name}: select takes num_frames of at least 1, and per_category, random and seed of at least 0"
        )
    chosen = settings.decontaminate
    if chosen is not None and (chosen.benchmark_videos is None) != (chosen.threshold is None):
        raise ValueError(f"{name}: give decontaminate.benchmark_videos and decontaminate.threshold both, or neither")
    if chosen is not None and not (chosen.benchmark_videos or chosen.benchmark_files or chosen.benchmarks):
        raise ValueError(f"{name}: decontaminate needs benchmarks, benchmark_files or benchmark_videos")
    if not 0 <= settings.max_failures <= 1:
        raise ValueError(f"{name}: max_failures is a fraction from 0 to 1, got {settings.max_failures}")
    return settings
