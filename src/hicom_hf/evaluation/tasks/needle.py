"""A scene among many others: does the question find it, at the tokens of 8 frames?

Needs no download. A needle is a scene of normal clutter; the haystack are scenes in which nothing may be called what the
question names. A question is asked about videos of several lengths with the needle at five places: with the frames that it
chooses, with as many frames spread evenly, with eight times as many, and with all frames of short videos. Three haystacks take
turns. Questions about the whole video have no needle: every other scene of their videos has mainly the colour that is the
answer, and the videos begin at five places. Frames may have any shape; with tiles, the frames of each way are read again as
tiles. Condition: the question itself.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...hub.files import settings_fingerprint
from ...hub.progress import Progress
from ...processors.answering_hicom import Chat, EncodedVideo, answer_chats
from ...processors.candidate_frames_hicom import (
    CandidateFiles,
    CandidateFrames,
    choose_for_questions,
    chosen_sampling,
    chosen_video,
    scored_tiles,
)
from ...processors.frame_selection_hicom import FrameSelection, SelectionRecord
from ...processors.frame_tiles_hicom import FrameTiles, TilesRecord
from ...processors.tiled_video_hicom import TiledVideo, choose_tiles, encode_tiled_video
from ...shapes import Name, Scene, SceneObject, questions
from ...shapes import Question as SceneQuestion
from ...shapes.rendering import height_and_width
from ..haystacks import SCENE_FRAMES, SQUARE, Cuts, EncodedScenes, Film, Part, Size, encode_scenes
from ..needle_report import (
    ALONE,
    CHOSEN,
    EVENLY,
    EVENLY_8,
    EVERYTHING,
    GROUPS,
    METHODS,
    PLACES,
    WHOLE,
    as_markdown,
    draw,
)
from ..questions import Question
from ..runner import Asked, Asking
from .shapes import mark
from .task import Protocol, Task

DEFAULT_LENGTHS = (256, 1024)
DEFAULT_TRIALS = 6  # of each group
DEFAULT_FRAMES = 8
HAYSTACKS = 3
NEEDLE_SEED, HAY_SEED = 5_000_000, 900_000
SEEDS_PER_DRAW, SEEDS_PER_HAY = 100_000, 10_000  # of needles and of the scenes around, between two values of `seed`
ATTRIBUTES, EVENTS = ("colour", "shape", "texture", "where"), ("motion", "when")
MOST_FRAMES_TO_READ = 256  # of "everything"; hicom-tiny's LLM reads 4,096 tokens
# Scenes that haystacks are drawn from, for each one needed: many hold what a question names.
SCENES_PER_PART = {"sparse": 2.0, "normal": 5.0}
CHOSEN_METHODS = {CHOSEN: 1, EVENLY: 1, EVENLY_8: 8}  # and how many times the frames


class Seen(NamedTuple):
    """What a question sees, and why."""

    video: EncodedVideo
    selection: SelectionRecord
    tiles: TilesRecord | None = None


@dataclass(frozen=True)
class Trial:
    """A question about one needle, or about two, and the names that no other scene may hold; or about the main colour of all."""

    name: str
    group: str
    question: SceneQuestion
    needles: tuple[Scene, ...]
    names: tuple[Name, ...]
    theme: str = ""


@cache
def hay_scenes(clutter: str, count: int, seed: int = 0) -> tuple[Scene, ...]:
    """The scenes that the haystacks of one clutter and seed are drawn from."""
    first = _first_hay(seed)
    return tuple(Scene.from_seed(number, clutter=clutter, split="test") for number in range(first, first + count))


def _first_hay(seed: int) -> int:
    return HAY_SEED + seed * SEEDS_PER_HAY


def num_scenes(lengths: Sequence[int], clutter: str) -> int:
    return 40 + int(SCENES_PER_PART[clutter] * max(lengths) / SCENE_FRAMES)


@cache
def trials(count: int, lengths: tuple[int, ...], clutter: str, seed: int = 0) -> tuple[Trial, ...]:
    """`count` questions of each group, the groups in turn, for which there is hay enough."""
    found: dict[str, list[Trial]] = {group: [] for group in GROUPS}
    hay, needed = hay_scenes(clutter, num_scenes(lengths, clutter), seed), max(lengths) // SCENE_FRAMES
    themes = {scene.theme for scene in hay}
    dice, drawn = random.Random(seed), NEEDLE_SEED + seed * SEEDS_PER_DRAW
    while any(len(some) < count for some in found.values()):
        pair = [Scene.from_seed(drawn + step, clutter="normal", split="test") for step in (0, 1)]
        drawn += 2
        counts = {key: len(some) for key, some in found.items()}
        for group, question, needles, names in _candidates(pair[0], pair[1], counts, dice):
            if len(found[group]) < count and sum(not _holds(scene, names) for scene in hay) >= needed:
                name = f"{group} {len(found[group])}"
                found[group].append(Trial(name, group, question, tuple(needles), tuple(names)))
        about_all = next((question for question in questions(pair[0]) if question.kind == "vague"), None)
        if about_all is not None and len(found[WHOLE]) < count and pair[0].theme in themes:
            found[WHOLE].append(Trial(f"{WHOLE} {len(found[WHOLE])}", WHOLE, about_all, (), (), pair[0].theme))
    return tuple(trial for row in zip(*found.values(), strict=True) for trial in row)


def _candidates(scene: Scene, other: Scene, counts: Mapping[str, int], dice: random.Random):
    """What may be asked about two scenes: group, question, needles, names; kinds of a group take turns."""
    asked = {question.kind: question for question in questions(scene, 1)}
    for group, kinds in (("attributes", ATTRIBUTES), ("motion, when", EVENTS)):
        question = asked.get(kinds[counts[group] % len(kinds)])
        if question is not None:
            yield group, question, [scene], _names(question.referents)
    question = asked.get("exist")
    if question is not None:
        absent = [name for name in scene.absent if name.phrase in question.text]
        yield f"exist: {question.answer}", question, [scene], _names(question.referents) or absent
    pair = dice.choice(scene.subjects), dice.choice(other.subjects)
    one, two = _names(pair)
    if not _holds(other, [one]) and not _holds(scene, [two]):
        end = dice.choice(("first", "last"))
        named = dice.sample([one.phrase, two.phrase], 2)
        text = f"Which comes {end}, the {named[0]} or the {named[1]}?"
        question = SceneQuestion("order", text, (one if end == "first" else two).phrase, tuple(named), pair)
        yield "two needles: order", question, [scene, other], [one, two]


def _names(objects: Sequence[SceneObject]) -> list[Name]:
    """What subjects are called; other objects have no name."""
    return [found.name for found in objects if found.name is not None]


def _holds(scene: Scene, names: Sequence[Name]) -> bool:
    return any(name.fits(*found.attributes) for name in names for found in scene.objects)


def read(
    folder: Path, protocol: Protocol, lengths: tuple[int, ...], clutter: str, count: int, seed: int, size: Size
) -> list[Question]:
    """One question per trial, length, place and method, trial by trial."""
    found = []
    for trial in trials(count, lengths, clutter, seed):
        cells: list[tuple[str, int, float]] = []
        if trial.needles:
            cells.append((ALONE, len(trial.needles) * SCENE_FRAMES, 0.0))
        for length in lengths:
            methods = METHODS if length <= MOST_FRAMES_TO_READ else METHODS[:-1]
            cells += [(method, length, place) for place in PLACES for method in methods]
        for method, length, place in cells:
            needles = [SCENE_FRAMES * at for at in _needle_places(trial, length, place)]
            details = {"group": trial.group, "method": method, "length": length, "place": place, "needles": needles}
            if size != SQUARE:
                details["size"] = list(size)
            found.append(
                Question(
                    id=f"{trial.name}, {method}, {length} frames, {place:.0%}",
                    video=trial.name,
                    prompt=trial.question.text,
                    instruction=trial.question.text,
                    gold=trial.question.answer,
                    categories={"method": method, "group and method": f"{trial.group}, {method}"},
                    details=details,
                )
            )
    return found


def _needle_places(trial: Trial, length: int, place: float) -> list[int]:
    """Where the needles stand among the scenes of a film; two of them half the video apart, the first in its first half."""
    num_hay = length // SCENE_FRAMES - len(trial.needles)
    if not trial.needles:
        return []
    if len(trial.needles) == 1:
        return [round(place * num_hay)]
    first = round(place / 2 * num_hay)
    return [first, first + num_hay // 2 + 1]


def ask(
    session: Any,
    asked: Sequence[Question],
    asking: Asking,
    progress: Progress,
    *,
    lengths: tuple[int, ...],
    clutter: str,
    count: int,
    seed: int,
    size: Size,
) -> Iterator[list[Asked]]:
    """Answer trial by trial; the scenes of the haystacks are encoded first.

    Raises:
        ValueError: the sampling asks for something else than a number of frames.
    """
    if not asked:
        return
    unused = sorted(set(asking.sampling) - ({"num_frames"} if asking.selection is None else set()))
    if unused:
        raise ValueError(f"needle makes its videos itself, so {unused[0]} has no meaning; take --lengths and --frames")
    model, processor = session.model, session.processor
    selection = asking.selection or FrameSelection(num_frames=asking.sampling.get("num_frames", DEFAULT_FRAMES))
    scenes = hay_scenes(clutter, num_scenes(lengths, clutter), seed)
    scored = scored_tiles(selection, asking.tiles)
    hay, cut = _hay(session, scenes, size, scored, progress), Cuts(model, processor)
    by_name = {trial.name: (number, trial) for number, trial in enumerate(trials(count, lengths, clutter, seed))}
    of_trial: dict[str, list[Question]] = {}
    for question in asked:
        of_trial.setdefault(question.video, []).append(question)
    for name, some in of_trial.items():
        number, trial = by_name[name]
        encoded = encode_scenes(model, processor, trial.needles, size=size, tiles=scored)
        needles = EncodedScenes(encoded, trial.needles, size, scored)
        usable = usable_scenes(scenes, trial, number // len(GROUPS) % HAYSTACKS, max(lengths) // SCENE_FRAMES)
        films: dict[tuple[int, float], Film] = {}
        tiled: dict[tuple, TiledVideo] = {}
        seen = []
        for question in some:
            key = question.details["length"], question.details["place"]
            if key not in films:
                films[key] = Film(film_parts(question, hay, needles, usable), cut)
            record = _frames_of(model, processor, films[key], question, selection)
            if asking.tiles is None:
                seen.append(Seen(chosen_video(model, films[key], record), record))
            else:
                tiles = asking.tiles.of_chosen()
                seen.append(_as_tiles(model, processor, films[key], question, record, tiles, tiled))
        yield _answers(session, some, seen, asking)
        hay.forget_scores()
        cut.keep_within(hay)


def _hay(
    session: Any, scenes: Sequence[Scene], size: Size, tiles: FrameTiles | None, progress: Progress
) -> EncodedScenes:
    """The scenes of the haystacks, from the session's folder of features if it has one and they are there."""
    described = {"scenes": "needle", "clutter": scenes[0].clutter, "first": scenes[0].seed, "number": len(scenes)}
    if size != SQUARE:
        described["size"] = list(size)
    if tiles is not None:
        described["tiles"] = [list(tiles.zooms), tiles.overlap, tiles.overview]
    key = settings_fingerprint(described)

    def encode(files: CandidateFiles | None) -> CandidateFrames:
        return encode_scenes(session.model, session.processor, scenes, progress, files, size, tiles)

    return EncodedScenes(session.cache.candidates(key, encode, torch.bfloat16), scenes, size, tiles)


def usable_scenes(scenes: Sequence[Scene], trial: Trial, haystack: int, count: int) -> list[int]:
    """The numbers of the scenes that a trial's films are made of, in the order of one haystack."""
    dice = random.Random(haystack)
    usable = [place for place, scene in enumerate(scenes) if not _holds(scene, trial.names)]
    dice.shuffle(usable)
    if not trial.theme:
        return usable
    themes = [[place for place in usable if scenes[place].theme == theme] for theme in (trial.theme, "")]
    pairs = zip(*map(cycle, themes), strict=True)
    return list(islice(chain.from_iterable(pairs), count))


def film_parts(question: Question, hay: EncodedScenes, needles: EncodedScenes, usable: Sequence[int]) -> list[Part]:
    """The scenes of a film: hay in the order of its haystack, and the needles at their places."""
    if not question.details["needles"]:
        count = question.details["length"] // SCENE_FRAMES
        first = round(question.details["place"] * count)
        return [Part(hay, usable[(first + place) % count]) for place in range(count)]
    at = {frame // SCENE_FRAMES: number for number, frame in enumerate(question.details["needles"])}
    rest = iter(usable)
    count = question.details["length"] // SCENE_FRAMES
    return [Part(needles, at[place]) if place in at else Part(hay, next(rest)) for place in range(count)]


def _frames_of(
    model: Any, processor: Any, film: Film, question: Question, selection: FrameSelection
) -> SelectionRecord:
    """The frames that a question sees by its method."""
    method = question.details["method"]
    rule = selection.rule if method == CHOSEN else "uniform"
    budget = selection.num_frames or processor.max_frames_for(selection.max_video_tokens)
    wanted = len(film) if method == EVERYTHING else min(budget * CHOSEN_METHODS.get(method, 1), len(film))
    chosen_by = replace(selection, rule=rule, num_frames=wanted, max_video_tokens=None)
    return choose_for_questions(model, processor, film, [question.prompt], chosen_by, question.instruction)[0]


def _as_tiles(
    model: Any,
    processor: Any,
    film: Film,
    question: Question,
    selection: SelectionRecord,
    tiles: FrameTiles,
    known: dict[tuple, TiledVideo],
) -> Seen:
    """Chosen frames, read again as tiles, and the patches that the question sees of them."""
    rows = selection.frames
    key = film.names(rows)
    tiled = known.get(key) or encode_tiled_video(model, processor, film.frames(rows), tiles, num_frames="all")
    if question.details["method"] == CHOSEN:  # mostly the same frames of the needle at each place
        known[key] = tiled
    [(record, video)] = choose_tiles(model, processor, tiled, [question.prompt], question.instruction)
    return Seen(replace(video, sampling=chosen_sampling(film, selection)), selection, record)


def _answers(session: Any, some: Sequence[Question], seen: Sequence[Seen], asking: Asking) -> list[Asked]:
    """Answers to one trial's questions; those with equally many frames are asked together."""
    from ...inference.open_videos import Video

    found: dict[str, Asked] = {}
    order = sorted(range(len(some)), key=lambda place: seen[place].video.num_frames)
    while order:
        frames = seen[order[0]].video.num_frames
        batch = [place for place in order if seen[place].video.num_frames == frames][: asking.batch_size]
        order = [place for place in order if place not in batch]
        before = [] if asking.system is None else [_turn("system", [{"type": "text", "text": asking.system}])]
        chats = [
            Chat(
                [*before, _turn("user", [{"type": "video"}, {"type": "text", "text": some[place].prompt}])],
                [seen[place].video],
                some[place].instruction,
            )
            for place in batch
        ]
        with session.lock:
            answers = answer_chats(
                session.model, session.processor, chats, max_new_tokens=some[batch[0]].max_new_tokens
            )
        for place, answer in zip(batch, answers, strict=True):
            video, selection, tiles = seen[place]
            told = replace(answer, selection=selection, tiles=tiles)
            found[some[place].id] = Asked(some[place], some[place].prompt, told, Video(session, video))
    return [found[question.id] for question in some]


def _turn(role: str, content: list[dict[str, str]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def needle_task(
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    clutter: str = "sparse",
    count: int = DEFAULT_TRIALS,
    seed: int = 0,
    size: Size = SQUARE,
) -> Task:
    """The task for other lengths, clutter or numbers of questions.

    Args:
        lengths: frames of the videos, multiples of 16.
        clutter: of the haystack's scenes, "sparse" (9 objects each) or "normal" (27, so that near misses are everywhere).
        count: questions of each group.
        seed: of the needles and of the scenes around them; other seeds give other questions and other haystacks.
        size: height and width of the frames, in pixels.

    Raises:
        ValueError: a length is no such multiple, the clutter is unknown, or a side is below 48 pixels.
    """
    wrong = [length for length in lengths if length % SCENE_FRAMES or length < 4 * SCENE_FRAMES]
    if wrong:
        raise ValueError(f"needle: lengths are multiples of {SCENE_FRAMES} from {4 * SCENE_FRAMES} on, got {wrong[0]}")
    if clutter not in SCENES_PER_PART:
        raise ValueError(f"needle: clutter must be one of {', '.join(SCENES_PER_PART)}, got {clutter!r}")
    size = height_and_width(size)
    options = {"lengths": tuple(lengths), "clutter": clutter, "count": count, "seed": seed, "size": size}
    shape = "" if size == SQUARE else f" of {size[1]} x {size[0]}"
    return Task(
        name="needle",
        title=f"a scene among others, in {', '.join(f'{length:,}' for length in lengths)} frames{shape}",
        data="made here from seeds; needs no download",
        read=partial(read, **options),
        mark=mark,
        max_new_tokens={"ours": 10},
        protocols=("ours",),
        ask=partial(ask, **options),
        headline=("method", CHOSEN),
        report=as_markdown,
        plot=draw,
    )


NEEDLE = needle_task()
