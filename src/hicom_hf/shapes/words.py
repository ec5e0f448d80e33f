"""The attributes of the world's objects, and how objects are called by two of them."""

from itertools import product
from typing import NamedTuple

# RGB; far apart in hue and brightness, because H.264 keeps colour at half the resolution only.
COLOURS = {
    "red": (230, 30, 35),
    "green": (35, 165, 50),
    "blue": (45, 80, 245),
    "yellow": (250, 235, 50),
    "purple": (165, 50, 200),
    "orange": (250, 135, 20),
    "cyan": (60, 225, 235),
    "white": (245, 245, 245),
}
SHAPES = {  # with their plural
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "diamond": "diamonds",
    "cross": "crosses",
    "moon": "moons",
}
TEXTURES = ("solid", "hollow", "striped", "dotted")
ATTRIBUTES = ("colour", "shape", "texture")

# Never shown in training, and named only in the LLM's pre-training: each shape once.
HELD_OUT_PAIRS = (
    ("red", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "diamond"),
    ("purple", "cross"),
    ("orange", "moon"),
)
Appearance = tuple[str, str, str]  # colour, shape, texture
ALL_APPEARANCES: tuple[Appearance, ...] = tuple(product(COLOURS, SHAPES, TEXTURES))
# Appearances that training never shows, though it shows every two of their attributes together: two of each colour, two or
# three of each shape, four of each texture.
HELD_OUT_APPEARANCES = tuple(
    (colour, tuple(SHAPES)[(place + 1 + 2 * step) % len(SHAPES)], TEXTURES[(place + step) % len(TEXTURES)])
    for place, colour in enumerate(COLOURS)
    for step in range(2)
)
HELD_OUT_PAIR_APPEARANCES = tuple(appearance for appearance in ALL_APPEARANCES if appearance[:2] in HELD_OUT_PAIRS)
TRAINING_APPEARANCES = tuple(
    appearance for appearance in ALL_APPEARANCES if appearance not in HELD_OUT_APPEARANCES + HELD_OUT_PAIR_APPEARANCES
)


class Name(NamedTuple):
    """What a question calls an object: two of its attributes, the third is None.

    Example:
        >>> Name("orange", "circle", None).phrase, Name("red", None, "striped").plural
        ('orange circle', 'striped red objects')
    """

    colour: str | None
    shape: str | None
    texture: str | None

    @property
    def asked(self) -> str:
        """The attribute that the name leaves open."""
        return ATTRIBUTES[self.index(None)]

    @property
    def phrase(self) -> str:
        """The name of one object, such as "striped red object"."""
        return self._with(self.shape or "object")

    @property
    def plural(self) -> str:
        """The name of several objects."""
        return self._with(SHAPES[self.shape] if self.shape else "objects")

    def fits(self, colour: str, shape: str, texture: str) -> bool:
        """Whether something with these attributes may be called so."""
        return all(mine in (None, theirs) for mine, theirs in zip(self, (colour, shape, texture), strict=True))

    def _with(self, noun: str) -> str:
        return " ".join(word for word in (self.texture, self.colour, noun) if word)


def with_article(phrase: str) -> str:
    """ "a red circle", "an orange circle"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"
