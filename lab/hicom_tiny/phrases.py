"""Texts for contrastive pre-training, with the names of what they ask for."""

from dataclasses import dataclass

from hicom_hf.shapes import Name
from hicom_hf.shapes.descriptions import CAPTION_REQUESTS, DESCRIPTION_REQUESTS, WHOLE_REQUEST
from hicom_hf.shapes.dice import Dice
from hicom_hf.shapes.questions import ENDS, TEMPLATES
from hicom_hf.shapes.words import with_article

NAMED_ATTRIBUTES = (1, 1, 2, 2, 2, 3)  # number of attributes in a name; questions use two
TWO_THINGS = 0.12  # fraction of texts about two things
EVERYTHING = 0.04  # fraction of texts about everything in the patch
BARE = 0.25  # fraction of names without a sentence around them


@dataclass(frozen=True)
class Phrase:
    """A text and what it is about: every object that fits one of the names."""

    text: str
    names: tuple[Name, ...]


def draw_name(attributes: tuple[str, str, str], dice: Dice) -> Name:
    """A name that fits an object with these attributes."""
    kept = dice.shuffled(range(3))[: dice.choose(NAMED_ATTRIBUTES)]
    return Name(*(value if place in kept else None for place, value in enumerate(attributes)))


def draw_phrase(names: list[Name], dice: Dice) -> Phrase:
    """A text about the first name, at times about two of them or about everything.

    Args:
        names: two, of objects that are there.
    """
    chance = dice.uniform(0.0, 1.0)
    if chance < EVERYTHING:
        text = dice.choose((*TEMPLATES["vague"], *CAPTION_REQUESTS, WHOLE_REQUEST))
        return Phrase(text, (Name(None, None, None),))
    if chance < EVERYTHING + TWO_THINGS:
        template = dice.choose((*TEMPLATES["order"], *_requests("the {name} and the {other}")))
        words = {"name": names[0].phrase, "other": names[1].phrase, "end": dice.choose(ENDS)}
        return Phrase(template.format(**words), tuple(names[:2]))
    name = names[0]
    if chance > 1 - BARE:
        return Phrase(dice.choose((name.phrase, with_article(name.phrase), name.plural)), (name,))
    kind = dice.choose(("colour", "shape", "texture", "where", "when", "motion", "exist", "count", "describe"))
    template = dice.choose(_requests("the {name}") if kind == "describe" else TEMPLATES[kind])
    words = {"name": name.phrase, "names": name.plural, "a_name": with_article(name.phrase)}
    return Phrase(template.format(**words), (name,))


def _requests(what: str) -> tuple[str, ...]:
    return tuple(request.format(what=what) for request in DESCRIPTION_REQUESTS)
