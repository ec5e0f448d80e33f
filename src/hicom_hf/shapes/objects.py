"""An object of the world: its appearance, its place, its times, its movement.

Time is a fraction of the video (0 its beginning, 1 its end), places are fractions of width and height, sizes fractions of
the shorter side. So the same events happen at every number of frames, frame rate, size and aspect ratio.
"""

import math
from dataclasses import dataclass

from .words import Name

OBJECT_SIZE = 0.118  # diameter, of the shorter side: 17 of 144 pixels
PHASES = ("early", "late", "always")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes:
        colour, shape, texture: names.
        x, y: centre at `start`, fractions of width and height.
        scale: diameter over `OBJECT_SIZE`.
        start, end: the object is visible from `start` to before `end`, fractions of the video.
        travel: displacement from `start` to `end`, fractions of width and height.
        name: its name in questions, which fits no other object. None for clutter.
    """

    colour: str
    shape: str
    texture: str
    x: float
    y: float
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    travel: tuple[float, float] = (0.0, 0.0)
    name: Name | None = None

    @property
    def own_name(self) -> Name:
        """The name of what is asked about; clutter has none."""
        assert self.name is not None
        return self.name

    @property
    def attributes(self) -> tuple[str, str, str]:
        """(colour, shape, texture)."""
        return self.colour, self.shape, self.texture

    @property
    def diameter(self) -> float:
        """Fraction of the picture's shorter side."""
        return self.scale * OBJECT_SIZE

    @property
    def moves(self) -> bool:
        """Whether the object moves."""
        return self.travel != (0.0, 0.0)

    @property
    def place(self) -> str:
        """Quarter of the picture in which it comes, such as "top left"."""
        return f"{'top' if self.y < 0.5 else 'bottom'} {'left' if self.x < 0.5 else 'right'}"

    @property
    def phase(self) -> str:
        """ "early", "late" or "always" for objects that are asked about; "" for others."""
        if (self.start, self.end) == (0.0, 1.0):
            return "always"
        return "early" if self.end < 0.5 else "late" if self.start > 0.5 else ""

    @property
    def direction(self) -> str:
        """ "left", "right", "up" or "down", "" for objects that stand still."""
        across, down = self.travel
        signs = ((across > 0) - (across < 0), (down > 0) - (down < 0))
        return next((name for name, way in DIRECTIONS.items() if way == signs), "")

    def is_seen(self, time: float) -> bool:
        """Whether the object is visible at a time, a fraction of the video."""
        return self.start <= time < self.end

    def position(self, time: float) -> tuple[float, float]:
        """Centre (x, y) at a time between `start` and `end`."""
        share = (time - self.start) / (self.end - self.start)
        return self.x + self.travel[0] * share, self.y + self.travel[1] * share


def squared_distance(one: SceneObject, other: SceneObject) -> float:
    """Least squared distance of two centres while both are seen; infinite if they never are together."""
    start, end = max(one.start, other.start), min(one.end, other.end)
    if start >= end:
        return math.inf
    if not one.moves and not other.moves:
        x, y = other.x - one.x, other.y - one.y
        return x * x + y * y
    (x, y), (other_x, other_y) = one.position(start), other.position(start)
    (x_end, y_end), (other_x_end, other_y_end) = one.position(end), other.position(end)
    # Seen from the one, the other goes straight from (x, y) along (across, down).
    x, y, across, down = other_x - x, other_y - y, other_x_end - x_end, other_y_end - y_end
    across, down = across - x, down - y
    length = across * across + down * down
    share = min(max(-(x * across + y * down) / length, 0.0), 1.0) if length else 0.0
    x, y = x + share * across, y + share * down
    return x * x + y * y
