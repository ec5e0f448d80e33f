"""From a seed to a scene: which objects are seen, where, when, how they move, and by which names one can ask for them."""

from dataclasses import dataclass
from typing import Literal

from .dice import Dice
from .layout import MAX_COUNT, SCALES, Layout, NoRoom
from .objects import SceneObject
from .words import (
    ALL_APPEARANCES,
    ATTRIBUTES,
    COLOURS,
    HELD_OUT_APPEARANCES,
    HELD_OUT_PAIR_APPEARANCES,
    TRAINING_APPEARANCES,
    Name,
)

Split = Literal["train", "validation", "test", "held_out", "held_out_pairs", "text"]
# Appearances of objects: those that questions are about, and all others. The first three draw different scenes of the
# same kind. "text" is what an LLM may read about before it sees anything; training never shows a video of it.
APPEARANCES = {
    "train": (TRAINING_APPEARANCES, TRAINING_APPEARANCES),
    "validation": (TRAINING_APPEARANCES, TRAINING_APPEARANCES),
    "test": (TRAINING_APPEARANCES, TRAINING_APPEARANCES),
    "held_out": (HELD_OUT_APPEARANCES, ALL_APPEARANCES),
    "held_out_pairs": (HELD_OUT_PAIR_APPEARANCES, ALL_APPEARANCES),
    "text": (ALL_APPEARANCES, ALL_APPEARANCES),
}
SPLITS = tuple(APPEARANCES)
# Density, from 0 (only what is asked about) to 1 (as full as fits); "mixed" draws a density for each scene.
CLUTTER_LEVELS = {"sparse": 0.03, "normal": 0.2, "dense": 0.5, "crowded": 1.0, "mixed": None}
MAX_CLUTTER = 100  # objects nobody asks about, over the whole video, at density 1

SCENE_STREAM, STILL_STREAM = 0, 1


@dataclass(frozen=True)
class Scene:
    """What happens in a video.

    Attributes:
        seed, split, clutter: what it was made of.
        density: of the clutter, 0 to 1.
        objects: what is asked about first, then the clutter.
        count_name: what the counted objects are called.
        absent: names that nothing in the scene carries, drawn as the names of objects are.
        background: RGB in the middle, and its change from left to right and from top to bottom.
    """

    seed: int
    split: Split
    clutter: str | float
    density: float
    objects: tuple[SceneObject, ...]
    count_name: Name | None
    absent: tuple[Name, ...]
    background: tuple[tuple[int, int, int], int, int]

    @classmethod
    def from_seed(cls, seed: int, clutter: str | float = "normal", split: Split = "train") -> "Scene":
        """Draw a scene.

        Args:
            seed: 0 or above; the same seed, clutter and split give the same scene.
            clutter: a name in `CLUTTER_LEVELS`, or a density from 0 to 1.
            split: one of `SPLITS`.

        Raises:
            ValueError: an unknown split or clutter, or a negative seed.

        Example:
            >>> Scene.from_seed(7, clutter="dense") == Scene.from_seed(7, clutter="dense")
            True
        """
        dice = _dice(seed, split, SCENE_STREAM)
        density = _density(clutter, dice)
        layout = _layout(dice, split, 3 + round(4 * density))
        layout.add_clutter(round(MAX_CLUTTER * density))
        return cls(
            seed=seed,
            split=split,
            clutter=clutter,
            density=density,
            objects=tuple(layout.objects),
            count_name=layout.count_name,
            absent=tuple(layout.absent),
            background=_background(dice),
        )

    @classmethod
    def still(cls, seed: int, split: Split = "train") -> "Scene":
        """Draw a picture: one to four objects, one in each quarter, that stay as they are.

        Raises:
            ValueError: an unknown split, or a negative seed.
        """
        dice = _dice(seed, split, STILL_STREAM)
        layout = Layout(dice, *APPEARANCES[split])
        quarters = [(x, y) for y in (0, 1) for x in (0, 1)]
        for quarter in sorted(dice.shuffled(quarters)[: 1 + dice.below(4)], key=quarters.index):
            asked = dice.choose(ATTRIBUTES)
            colour, shape, texture = layout.attributes(asked, layout.answer(asked))
            x, y = (layout.coordinate(SCALES[1], 0.0, side) for side in quarter)
            layout.objects.append(SceneObject(colour, shape, texture, x, y, dice.uniform(*SCALES)))
        return cls(seed, split, 0.0, 0.0, tuple(layout.objects), None, (), _background(dice))

    @property
    def subjects(self) -> list[SceneObject]:
        """The objects that one can ask about one by one."""
        return [found for found in self.objects if found.name not in (None, self.count_name)]

    @property
    def counted(self) -> list[SceneObject]:
        """The objects that are counted."""
        return [found for found in self.objects if self.count_name and found.name == self.count_name]

    @property
    def theme(self) -> str:
        """The commonest colour if it is clearly so (twice as common as the next, at least two objects more), else ""."""
        counts = {colour: sum(found.colour == colour for found in self.objects) for colour in COLOURS}
        first, second = sorted(counts, key=counts.__getitem__, reverse=True)[:2]
        is_clear = counts[first] >= max(counts[second] + 2, 2 * counts[second])
        return first if is_clear else ""


def _background(dice: Dice) -> tuple[tuple[int, int, int], int, int]:
    grey = 25 + dice.below(51)
    red, green, blue = (grey - 10 + dice.below(21) for _ in range(3))
    return (red, green, blue), dice.below(41) - 20, dice.below(41) - 20


def _dice(seed: int, split: str, stream: int) -> Dice:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or above, got {seed}")
    return Dice(seed, SPLITS.index(split), stream)


def _layout(dice: Dice, split: str, num_subjects: int) -> Layout:
    """The objects of the questions, drawn again until they fit; not the count, because large counts would become rarer."""
    count = 1 + dice.below(MAX_COUNT)
    while True:
        layout = Layout(dice, *APPEARANCES[split])
        try:
            layout.add_subjects(num_subjects)
            layout.add_counted(count)
            layout.add_absent()
        except NoRoom:
            continue
        return layout


def _density(clutter: str | float, dice: Dice) -> float:
    if isinstance(clutter, str):
        if clutter not in CLUTTER_LEVELS:
            raise ValueError(
                f"clutter must be one of {', '.join(CLUTTER_LEVELS)}, or a number from 0 to 1; got {clutter!r}"
            )
        if CLUTTER_LEVELS[clutter] is None:
            return dice.uniform(CLUTTER_LEVELS["sparse"], CLUTTER_LEVELS["crowded"])
        return CLUTTER_LEVELS[clutter]
    if not 0 <= clutter <= 1:
        raise ValueError(f"clutter as a number must be from 0 to 1, got {clutter!r}")
    return float(clutter)
