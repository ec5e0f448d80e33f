"""Questions about a scene: one unique referent each, every answer of a kind equally likely."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..processors.official_instruction_hicom import LETTER_REQUESTS
from .dice import Dice
from .layout import MAX_COUNT
from .objects import DIRECTIONS, PHASES, SceneObject
from .rendering import DEFAULT_SIZE, referent_boxes
from .scenes import SPLITS, Scene
from .words import COLOURS, SHAPES, TEXTURES, Name, with_article

NUMBERS = ("one", "two", "three", "four")[:MAX_COUNT]
PLACES = tuple(f"{row} {column}" for row in ("top", "bottom") for column in ("left", "right"))
LETTERS = "ABCD"
LETTER_REQUEST = LETTER_REQUESTS[1]  # the processor cuts it and the options off
QUESTION_STREAM, OPTION_STREAM, RARE_STREAM = 4, 5, 8
MAX_PER_KIND = 2  # questions about one scene
MAX_RARE_PAIRS = 4  # of objects, in `rare_questions`
ENDS = ("first", "last")

# Wordings of each kind; the first is the usual one.
TEMPLATES = {
    "colour": ("What colour is the {name}?", "Which colour does the {name} have?"),
    "shape": ("What shape is the {name}?", "Which shape does the {name} have?"),
    "texture": ("What texture is the {name}?", "Which texture does the {name} have?"),
    "where": ("Where is the {name}?", "In which part of the picture is the {name}?"),
    "when": ("When is the {name} seen?", "When does the {name} appear?"),
    "motion": ("Which way does the {name} move?", "In which direction does the {name} go?"),
    "exist": ("Is there {a_name}?", "Does {a_name} appear?"),
    "count": ("How many {names} are there?", "What is the number of {names}?"),
    "order": ("Which comes {end}, the {name} or the {other}?", "Which appears {end}, the {name} or the {other}?"),
    "vague": (
        "What is this video mainly about?",
        "What can be learned from this video?",
        "What does this video show?",
    ),
}
KINDS = tuple(TEMPLATES)
THEME_ANSWERS = {colour: f"mostly {colour} objects" for colour in COLOURS}
# Possible answers of each kind; the two names of an order question are its own.
ANSWERS = {
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "texture": TEXTURES,
    "where": PLACES,
    "when": PHASES,
    "motion": tuple(DIRECTIONS),
    "exist": ("yes", "no"),
    "count": NUMBERS,
    "order": None,
    "vague": tuple(THEME_ANSWERS.values()),
}
# Fraction of right answers of someone who has not seen the video but knows the kind's answers.
CHANCE = {kind: 1 / len(answers or ("name", "other")) for kind, answers in ANSWERS.items()}


@dataclass(frozen=True)
class Question:
    """A question, or an instruction to describe something.

    Attributes:
        kind: one of `KINDS`, or "description".
        text: what is asked.
        answer: the only right answer.
        options: all answers that the question admits, the right one among them; empty for descriptions.
        referents: the objects that the answer depends on; none if nothing is there or all the video is meant.
    """

    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    referents: tuple[SceneObject, ...] = ()

    def boxes(self, num_frames: int, size: int | tuple[int, int] = DEFAULT_SIZE) -> np.ndarray:
        """Boxes of the referents in every frame, see `referent_boxes`."""
        return referent_boxes(self.referents, num_frames, size)


def questions(scene: Scene, max_per_kind: int = MAX_PER_KIND) -> list[Question]:
    """What can be asked about a scene, at most `max_per_kind` of each kind, the same every time.

    Args:
        scene: what happens.
        max_per_kind: bound for each kind, so that none crowds out the others.

    Returns:
        Questions in the order of `KINDS`.

    Example:
        >>> {question.kind for question in questions(Scene.from_seed(3))} <= set(KINDS)
        True
    """
    dice = Dice(scene.seed, SPLITS.index(scene.split), QUESTION_STREAM)
    subjects = dice.shuffled(scene.subjects)
    still = [found for found in subjects if not found.moves]
    candidates = {
        "colour": [found for found in subjects if found.own_name.asked == "colour"],
        "shape": [found for found in subjects if found.own_name.asked == "shape"],
        "texture": [found for found in subjects if found.own_name.asked == "texture"],
        "where": still,
        "when": dice.shuffled(still),
        "motion": [found for found in subjects if found.moves],
    }
    answer_of: dict[str, Callable[[SceneObject], str]] = {
        "colour": lambda found: found.colour,
        "shape": lambda found: found.shape,
        "texture": lambda found: found.texture,
        "where": lambda found: found.place,
        "when": lambda found: found.phase,
        "motion": lambda found: found.direction,
    }
    asked = [
        _ask(dice, kind, answer_of[kind](found), (found,), name=found.own_name.phrase)
        for kind, group in candidates.items()
        for found in group[:max_per_kind]
    ]
    asked += _exist(scene, dice, subjects)[:max_per_kind]
    asked += _count(scene, dice)
    asked += [_order(dice, *pair, dice.choose(ENDS)) for pair in order_pairs(subjects)[:max_per_kind]]
    vague = _vague(scene)
    return asked + ([dice.choose(vague)] if vague else [])


def rare_questions(scene: Scene) -> list[Question]:
    """More questions of the kinds that scenes have few of, so that a training can show all kinds about equally often.

    Up to four pairs of objects in order, each from both ends: a model that has seen neither object cannot memorise both
    answers. The count in another wording or the same. And the theme in all wordings: of all kinds, its answers are the
    hardest to learn.
    """
    dice = Dice(scene.seed, SPLITS.index(scene.split), RARE_STREAM)
    pairs = order_pairs(dice.shuffled(scene.subjects))[:MAX_RARE_PAIRS]
    asked = [_order(dice, *pair, end) for pair in pairs for end in ENDS]
    return asked + _count(scene, dice) + _vague(scene)


def order_pairs(subjects: Sequence[SceneObject]) -> list[tuple[SceneObject, SceneObject]]:
    """All pairs of objects of which the first clearly comes before the second.

    As long as there are any, both objects of a pair are new; so a few pairs are about as many objects as can be.
    """
    still = [found for found in subjects if not found.moves]
    first = [found for found in still if found.phase != "late"]
    late = [found for found in still if found.phase == "late"]
    return [(one, late[(at + step) % len(late)]) for step in range(len(late)) for at, one in enumerate(first)]


def multiple_choice(question: Question, key: int = 0) -> Question:
    """The question with lettered options, the letter as its answer; the instruction that conditions stays the same.

    Args:
        question: one with options.
        key: chooses and orders up to four options.

    Raises:
        ValueError: the question has no options.

    Source: paper, table A5 (multiple-choice data); the wording is the official release's.
    """
    if not question.options:
        raise ValueError(f"{question.text!r} has no options to choose from")
    # The position of the right answer must not depend on which answer it is.
    dice = Dice(key, OPTION_STREAM)
    wrong = dice.shuffled([option for option in question.options if option != question.answer])[: len(LETTERS) - 1]
    options = dice.shuffled([question.answer, *wrong])
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return Question(
        kind=question.kind,
        text="\n".join([question.text, *lines, LETTER_REQUEST]),
        answer=LETTERS[options.index(question.answer)],
        options=tuple(LETTERS[: len(options)]),
        referents=question.referents,
    )


def _ask(dice: Dice, kind: str, answer: str, referents: tuple[SceneObject, ...] = (), **words: str) -> Question:
    return Question(kind, dice.choose(TEMPLATES[kind]).format(**words), answer, ANSWERS[kind], referents)


def _exist(scene: Scene, dice: Dice, subjects: list[SceneObject]) -> list[Question]:
    """A question for each absent name, or in its place, every other time, for an object that is there."""
    found = []
    for name, subject in zip(scene.absent, dice.shuffled(subjects), strict=False):
        is_there = dice.happens(0.5)
        called: Name = subject.own_name if is_there else name
        referents = (subject,) if is_there else ()
        found.append(_ask(dice, "exist", "yes" if is_there else "no", referents, a_name=with_article(called.phrase)))
    return found


def _count(scene: Scene, dice: Dice) -> list[Question]:
    if not scene.count_name:
        return []
    counted = tuple(scene.counted)
    return [_ask(dice, "count", NUMBERS[len(counted) - 1], counted, names=scene.count_name.plural)]


def _vague(scene: Scene) -> list[Question]:
    """In all wordings; none where no colour prevails."""
    if not scene.theme:
        return []
    return [Question("vague", text, THEME_ANSWERS[scene.theme], ANSWERS["vague"]) for text in TEMPLATES["vague"]]


def _order(dice: Dice, first: SceneObject, last: SceneObject, end: str) -> Question:
    answer = (first if end == "first" else last).own_name.phrase
    named = [found.own_name.phrase for found in dice.shuffled((first, last))]
    text = dice.choose(TEMPLATES["order"]).format(end=end, name=named[0], other=named[1])
    return Question("order", text, answer, tuple(named), (first, last))
