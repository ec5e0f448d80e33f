"""Long videos to train on: two scenes hidden among others with questions of all groups, or a colour that prevails.

The scenes of a film, `SCENE_FRAMES` frames each, follow one another. No other scene of a film may be called what its questions
name, but objects that share one attribute with it are everywhere. All scenes are of the split "train"; `hicom eval needle` asks
about the split "test".
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, cycle, islice, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hicom_hf.evaluation.haystacks import SCENE_FRAMES
from hicom_hf.hub.files import write_text
from hicom_hf.shapes import COLOURS, Name, Question, Scene, SceneObject, questions, render, write_video
from hicom_hf.shapes.dice import Dice
from hicom_hf.shapes.questions import ENDS, TEMPLATES, THEME_ANSWERS
from hicom_hf.shapes.words import with_article

from ..hicom_tiny.processes import in_parallel, progress_bar

FILMS_FILE = "films.json"
FILM_STREAM = 31
HAY_SEED, NEEDLE_SEED = 60_000_000, 61_000_000  # data sets of the laboratory have lower ones
SEEDS_PER_FILM = 10_000
HAY_PER_PART = {"sparse": 60, "normal": 160}  # scenes that are drawn for each one in the longest film
WHOLE_EVERY = 5  # every so many films the colour of all is asked about
ABOUT_ONE = ("colour", "shape", "texture", "where", "when", "motion")


@dataclass(frozen=True)
class Films:
    """A set of films.

    Args:
        number: how many.
        lengths: in frames, in turn; multiples of `SCENE_FRAMES`.
    """

    number: int = 96
    lengths: tuple[int, ...] = (256, 256, 256, 1024)


class Film(NamedTuple):
    """The scenes of a film, what is asked about it, and the names that only the scenes asked about hold."""

    scenes: Sequence[Scene]
    asked: Sequence[Question]
    names: frozenset[Name]


def names_in(scene: Scene) -> frozenset[Name]:
    """Everything that an object of a scene may be called."""
    values = (found.attributes for found in scene.objects)
    return frozenset(
        name for colour, shape, texture in values
        for name in (Name(None, shape, texture), Name(colour, None, texture), Name(colour, shape, None))
    )  # fmt: skip


def film(number: int, films: Films) -> Film:
    """Film `number` of a set: clutters and lengths take turns."""
    clutter = tuple(HAY_PER_PART)[number % 2]
    parts = films.lengths[number // 2 % len(films.lengths)] // SCENE_FRAMES
    hay = _hay(clutter, HAY_PER_PART[clutter] * max(films.lengths) // SCENE_FRAMES)
    dice = Dice(FILM_STREAM, number)
    return (_about_all if number % WHOLE_EVERY == WHOLE_EVERY - 1 else _with_needles)(number, parts, hay, dice)


def write_films(folder: Path, films: Films) -> list[dict]:
    """Write the films that are not there, in two processes.

    Returns:
        By film: path of the video, number of frames, and kind, question and answer of what is asked.
    """
    done = folder / FILMS_FILE
    if not done.exists():
        numbers = range(films.number)
        shares = in_parallel([(_write, folder, films, share) for share in (numbers[::2], numbers[1::2]) if share])
        found = sorted((one for share in shares for one in share), key=lambda one: one["video"])
        write_text(done, json.dumps(found, indent=1))
    return json.loads(done.read_text())


def _write(folder: Path, films: Films, numbers: Sequence[int]) -> list[dict]:
    found = []
    for number in progress_bar(numbers, len(numbers), "films"):
        drawn, path = film(number, films), folder / f"{number:04d}.mp4"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_video(path, np.concatenate([render(scene, SCENE_FRAMES)[0] for scene in drawn.scenes]))
        asked = [[question.kind, question.text, question.answer] for question in drawn.asked]
        found.append({"video": str(path), "frames": len(drawn.scenes) * SCENE_FRAMES, "asked": asked})
    return found


@cache
def _hay(clutter: str, number: int) -> list[tuple[Scene, frozenset[Name]]]:
    scenes = (Scene.from_seed(HAY_SEED + seed, clutter) for seed in range(number))
    return [(scene, names_in(scene)) for scene in scenes]


def _about_all(number: int, parts: int, hay: Sequence[tuple[Scene, frozenset[Name]]], dice: Dice) -> Film:
    """Every other scene has mainly the colour that is asked about, the others have no main colour."""
    theme = dice.choose(tuple(COLOURS))
    kinds = [dice.shuffled([scene for scene, _ in hay if scene.theme == wanted]) for wanted in (theme, "")]
    in_turn = (next(one) for one in cycle([cycle(kind) for kind in kinds]))
    asked = [Question("vague", text, THEME_ANSWERS[theme]) for text in TEMPLATES["vague"]]
    return Film(list(islice(in_turn, parts)), asked, frozenset())


def _with_needles(number: int, parts: int, hay: Sequence[tuple[Scene, frozenset[Name]]], dice: Dice) -> Film:
    """Two needles, one in each half, of which each is asked about two subjects and a name that nothing has."""
    drawn = _pairs(NEEDLE_SEED + number * SEEDS_PER_FILM, dice)
    with_hay = ((*one, [scene for scene, others in hay if not others & one[-1]]) for one in drawn)
    pair, asked_of, names, usable = next(one for one in with_hay if len(one[-1]) >= parts - 2)
    scenes = dice.shuffled(usable)[: parts - 2]
    half = parts // 2
    scenes.insert(dice.below(half), pair[0])
    scenes.insert(half + dice.below(parts - half), pair[1])
    asked: list[Question] = []
    for scene, (*subjects, absent) in zip(pair, asked_of, strict=True):
        known = questions(scene, len(scene.objects))
        asked += [one for one in known if one.kind in ABOUT_ONE and one.referents[0] in subjects]
        for name, answer in ((dice.choose(subjects).own_name, "yes"), (absent, "no")):
            asked += [_exist(text, name, answer) for text in TEMPLATES["exist"]]
    order = _order([dice.choose(subjects) for *subjects, _ in asked_of], dice)
    return Film(scenes, [*asked, *order], names)


def _pairs(seed: int, dice: Dice) -> Iterator[tuple[list[Scene], list[tuple], frozenset[Name]]]:
    """Pairs of scenes; for each, a subject that stands still, one that moves, and a name that neither scene holds; and all of
    the names. Nothing but the subjects is called as they are.
    """
    for first in count(seed, 2):
        pair = [Scene.from_seed(first + step, "normal") for step in (0, 1)]
        held = [names_in(scene) for scene in pair]
        choices = [dice.shuffled(_askable(scene)) for scene in pair]
        for asked in product(*choices):
            theirs = [{subject.own_name for subject in subjects} for *subjects, _ in asked]
            names = frozenset().union(*theirs, [absent for *_, absent in asked])
            if [some & names for some in held] == theirs:
                yield pair, list(asked), names
                break


def _askable(scene: Scene) -> list[tuple]:
    """What may be asked about: a subject that stands still, one that moves, and a name that is absent."""
    kinds = [[found for found in scene.subjects if found.moves == moves] for moves in (False, True)]
    return list(product(*kinds, scene.absent))


def _exist(text: str, name: Name, answer: str) -> Question:
    return Question("exist", text.format(a_name=with_article(name.phrase)), answer)


def _order(pair: Sequence[SceneObject], dice: Dice) -> list[Question]:
    """Which of two objects comes first, and which last; the first of the pair does."""
    found = []
    for end, right in zip(ENDS, pair, strict=True):
        name, other = (one.own_name.phrase for one in dice.shuffled(pair))
        text = dice.choose(TEMPLATES["order"]).format(end=end, name=name, other=other)
        found.append(Question("order", text, right.own_name.phrase))
    return found
