"""Captions of pictures (alignment) and descriptions that follow an instruction (conditional pre-training)."""

from .dice import Dice
from .objects import SceneObject
from .questions import NUMBERS, TEMPLATES, THEME_ANSWERS, Question, order_pairs
from .scenes import SPLITS, Scene
from .words import with_article

DESCRIPTION_STREAM = 6
WHOLE_REQUEST = "Describe this video."
CAPTION_REQUESTS = ("Describe the picture.", "What does the picture show?")
DESCRIPTION_REQUESTS = ("Describe {what}.", "Tell me about {what}.", "What about {what}?")


def caption(scene: Scene) -> str:
    """All objects of a picture in reading order, quarter by quarter.

    Args:
        scene: of `Scene.still`.

    Example:
        >>> caption(Scene.still(1)).endswith(".")
        True
    """
    # The quarter decides first, so that a point a little higher on the right does not come before one on the left.
    in_order = sorted(scene.objects, key=lambda found: (found.y >= 0.5, found.x >= 0.5, found.y, found.x))
    return _sentence(", ".join(f"{_full(found)} at the {found.place}" for found in in_order))


def descriptions(scene: Scene) -> list[Question]:
    """Instructions to describe one thing, with the description: each object, the counted ones, two in order, the video.

    Args:
        scene: what happens.

    Returns:
        Questions of the kind "description", without options.
    """
    dice = Dice(scene.seed, SPLITS.index(scene.split), DESCRIPTION_STREAM)
    subjects = dice.shuffled(scene.subjects)
    found = [_asked(dice, f"the {one.own_name.phrase}", _life(one), (one,)) for one in subjects]
    if scene.count_name:
        name, count = scene.count_name, len(scene.counted)
        told = f"{NUMBERS[count - 1]} {name.phrase if count == 1 else name.plural}"
        found.append(_asked(dice, f"the {name.plural}", told, tuple(scene.counted)))
    for first, last in order_pairs(subjects)[:1]:
        names = [one.own_name.phrase for one in dice.shuffled((first, last))]
        told = f"first {_full(first)} at the {first.place}, then {_full(last)} at the {last.place}"
        found.append(_asked(dice, f"the {names[0]} and the {names[1]}", told, (first, last)))
    if scene.theme:
        text = dice.choose((*TEMPLATES["vague"], WHOLE_REQUEST))
        found.append(Question("description", text, _sentence(THEME_ANSWERS[scene.theme])))
    return found


def _asked(dice: Dice, what: str, told: str, referents: tuple[SceneObject, ...]) -> Question:
    return Question(
        "description", dice.choose(DESCRIPTION_REQUESTS).format(what=what), _sentence(told), referents=referents
    )


def _life(found: SceneObject) -> str:
    """What, where and when, or what and whither."""
    if found.moves:
        return f"{_full(found)} that moves {found.direction}"
    return f"{_full(found)} at the {found.place}, {found.phase}"


def _full(found: SceneObject) -> str:
    return with_article(f"{found.texture} {found.colour} {found.shape}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
