"""Finds attributes, places and times for the objects of a scene, so that names are unique and nothing is ever covered.

What keeps apart in a square keeps apart in every wider or higher picture.
"""

from dataclasses import dataclass

from .dice import Dice
from .objects import DIRECTIONS, OBJECT_SIZE, PHASES, SceneObject, squared_distance
from .words import ATTRIBUTES, COLOURS, SHAPES, TEXTURES, Appearance, Name

SCALES = (0.92, 1.1)  # smallest and largest object, times OBJECT_SIZE
GAP = 1.05  # least distance of two centres, in mean diameters
BORDER = 0.01  # least distance from an object to the picture's edge
MIDDLE = 0.09  # objects whose place is asked keep this far from both middle lines

# Early objects leave, and late ones come, this near the middle of the video at most; the times of coming and going.
EARLY_START, EARLY_END = (0.0, 0.06), (0.32, 0.46)
CLUTTER_LENGTH = (0.2, 0.45)  # of which at least two thirds lie inside the video
TRAVEL = (0.45, 0.65)  # way of a moving object that is asked about
CLUTTER_TRAVEL = (0.15, 0.3)

MOVING_SUBJECTS, MOVING_CLUTTER = 0.25, 0.15  # fractions; the first subject always moves
THEME_SHARE = 0.45  # of the clutter that has the theme's colour
QUARTERS = ((0, 0), (1, 0), (0, 1), (1, 1))  # columns and rows
MAX_COUNT = len(QUARTERS)
NUM_ABSENT = 2  # names that nothing in the scene carries
TRIES, CLUTTER_TRIES = 200, 40  # places that are tried for an object


@dataclass(frozen=True)
class Wish:
    """What is known of an object before it has a place.

    Attributes:
        values: colour, shape and texture.
        name: what questions call it, if anything.
        phase: one of `PHASES`, or "" for any time.
        direction: one of `DIRECTIONS`, or "" for standing still.
        travel: shortest and longest way of a moving object.
        quarter: column and row of the picture, 0 or 1 each, None for either.
    """

    values: Appearance
    name: Name | None = None
    phase: str = "always"
    direction: str = ""
    travel: tuple[float, float] = (0.0, 0.0)
    quarter: tuple[int | None, int | None] = (None, None)


class NoRoom(Exception):
    """The objects of the questions do not fit; the scene is drawn again."""


class Layout:
    """A scene in the making: objects and reserved names.

    Args:
        dice: decides.
        appearances: of the objects of questions.
        clutter_appearances: of all others.
    """

    def __init__(self, dice: Dice, appearances: tuple[Appearance, ...], clutter_appearances: tuple[Appearance, ...]):
        self.dice, self.appearances, self.clutter_appearances = dice, appearances, clutter_appearances
        self.objects: list[SceneObject] = []
        self.absent: list[Name] = []
        self.count_name: Name | None = None

    def answer(self, asked: str) -> str:
        """A value of an attribute, each that occurs in the appearances equally likely."""
        values = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "texture": TEXTURES}[asked]
        place = ATTRIBUTES.index(asked)
        return self.dice.choose(
            [value for value in values if any(appearance[place] == value for appearance in self.appearances)]
        )

    def attributes(self, asked: str, answer: str) -> Appearance:
        """Colour, shape and texture of an object of which one is given."""
        position = ATTRIBUTES.index(asked)
        return self.dice.choose([appearance for appearance in self.appearances if appearance[position] == answer])

    def named_attributes(self, asked: str) -> tuple[Appearance, Name]:
        """Attributes, and a name that leaves `asked` open: nothing carries it yet, and they fit no reserved name.

        The answer is drawn once and the rest again if need be, so that answers stay equally likely.
        """
        answer = self.answer(asked)
        for _ in range(TRIES):
            values = self.attributes(asked, answer)
            name = Name(*(None if key == asked else value for key, value in zip(ATTRIBUTES, values, strict=True)))
            if not self.is_reserved(values) and not any(name.fits(*found.attributes) for found in self.objects):
                return values, name
        raise NoRoom

    def is_reserved(self, values: Appearance) -> bool:
        names = [found.name for found in self.objects if found.name] + self.absent
        return any(name.fits(*values) for name in names)

    def add_subjects(self, count: int) -> None:
        """Objects that are asked about, the moving ones first."""
        dice = self.dice
        moving = [index == 0 or dice.happens(MOVING_SUBJECTS) for index in range(count)]
        asked = [key for _ in range(0, count, len(ATTRIBUTES)) for key in dice.shuffled(ATTRIBUTES)][:count]
        for moves, key in zip(sorted(moving, reverse=True), dice.shuffled(asked), strict=True):
            values, name = self.named_attributes(key)
            if moves:
                wish = Wish(values, name, direction=dice.choose(tuple(DIRECTIONS)), travel=TRAVEL)
            else:
                wish = Wish(values, name, dice.choose(PHASES), quarter=(dice.below(2), dice.below(2)))
            if not self.place(wish, TRIES):
                raise NoRoom

    def add_counted(self, count: int) -> None:
        """Objects of the same name, seen all the time, each in a quarter of its own; the open attribute is drawn for each."""
        asked = self.dice.choose(ATTRIBUTES)
        _, name = self.named_attributes(asked)
        names = [found.own_name for found in self.objects]
        quarters = self.dice.shuffled(QUARTERS)
        for _ in range(TRIES):
            placed = len(self.objects) - len(names)
            if placed == count:
                break
            answer = self.answer(asked)
            colour, shape, texture = (value or answer for value in name)
            values = (colour, shape, texture)
            if values in self.clutter_appearances and not any(other.fits(*values) for other in names):
                self.place(Wish(values, name, quarter=quarters[placed]), 1)
        else:
            raise NoRoom
        self.count_name = name

    def add_absent(self) -> None:
        for _ in range(NUM_ABSENT):
            self.absent.append(self.named_attributes(self.dice.choose(ATTRIBUTES))[1])

    def add_clutter(self, count: int) -> None:
        """Objects nobody asks about, nearly half of them of one colour; fewer than `count` if the picture is full."""
        theme = self.dice.choose(tuple(COLOURS))
        for _ in range(count):
            values = self.clutter_attributes(theme)
            direction = self.dice.choose(tuple(DIRECTIONS)) if self.dice.happens(MOVING_CLUTTER) else ""
            self.place(Wish(values, phase="", direction=direction, travel=CLUTTER_TRAVEL), CLUTTER_TRIES)

    def clutter_attributes(self, theme: str) -> Appearance:
        while True:
            colour = theme if self.dice.happens(THEME_SHARE) else self.dice.choose(tuple(COLOURS))
            values = (colour, self.dice.choose(tuple(SHAPES)), self.dice.choose(TEXTURES))
            if values in self.clutter_appearances and not self.is_reserved(values):
                return values

    def place(self, wish: Wish, tries: int) -> bool:
        """Try places and times until the object covers nothing else, ever; False if none was found."""
        for _ in range(tries):
            start, end = _interval(self.dice, wish.phase)
            scale, length = self.dice.uniform(*SCALES), self.dice.uniform(*wish.travel)
            right, down = DIRECTIONS.get(wish.direction, (0, 0))
            travel = (right * length, down * length)
            x, y = (self.coordinate(scale, way, half) for way, half in zip(travel, wish.quarter, strict=True))
            candidate = SceneObject(*wish.values, x, y, scale, start, end, travel, wish.name)
            if self.has_room(candidate):
                self.objects.append(candidate)
                return True
        return False

    def coordinate(self, scale: float, moved: float, half: int | None) -> float:
        """Where along an axis an object may begin that moves by `moved`, and that lies in a half of the picture."""
        low, high = margin(scale), 1 - margin(scale)
        if half is not None:
            low, high = ((low, 0.5 - MIDDLE), (0.5 + MIDDLE, high))[half]
        return self.dice.uniform(low - min(moved, 0.0), high - max(moved, 0.0))

    def has_room(self, candidate: SceneObject) -> bool:
        return all(
            squared_distance(found, candidate) >= (GAP * (found.diameter + candidate.diameter) / 2) ** 2
            for found in self.objects
            if found.start < candidate.end and candidate.start < found.end
        )


def margin(scale: float) -> float:
    """Least distance of an object's centre from the picture's edge."""
    return scale * OBJECT_SIZE / 2 + BORDER


def _interval(dice: Dice, phase: str) -> tuple[float, float]:
    """When an object comes and goes."""
    if phase == "always":
        return 0.0, 1.0
    if not phase:
        length = dice.uniform(*CLUTTER_LENGTH)
        start = dice.uniform(-length / 3, 1 - length * 2 / 3)
        return max(start, 0.0), min(start + length, 1.0)
    start, end = dice.uniform(*EARLY_START), dice.uniform(*EARLY_END)
    return (start, end) if phase == "early" else (1 - end, 1 - start)
