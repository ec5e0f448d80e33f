"""Untrimmed films of the shapes world: several scenes one after the other, whose true cuts are known.

Letters: T frames.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from .dice import Dice
from .rendering import render
from .scenes import Scene, Split

Transition = Literal["cut", "dissolve", "fade"]

FILM_STREAM = 11
TRANSITIONS: tuple[Transition, ...] = ("cut", "cut", "cut", "dissolve", "fade")  # three of five are hard cuts
RETURNING = 0.2  # probability that a take shows a scene that was there before
TAKE_SECONDS = (5.5, 10.0)  # shortest and longest take
TRANSITION_SECONDS = 0.5
REPEATED = 2  # each drawn frame is shown so often: drawing is what takes the time
SCENES_PER_FILM = 1000


@dataclass(frozen=True)
class Take:
    """A part of a film that shows one scene.

    Attributes:
        seed, clutter, split: what `Scene.from_seed` makes the scene of.
        start, end: seconds in the film, in the middle of a transition that takes time.
        returns: whether an earlier take of the film shows the same scene.
        transition: how it goes over to the next take; None for the last one.
    """

    seed: int
    clutter: str
    split: Split
    start: float
    end: float
    returns: bool
    transition: Transition | None

    @property
    def scene(self) -> Scene:
        return Scene.from_seed(self.seed, self.clutter, self.split)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def film_takes(
    seed: int, num_takes: int = 6, fps: float = 8.0, clutter: str = "normal", split: Split = "train"
) -> list[Take]:
    """The takes of the film that `film` draws for the same arguments; draws nothing.

    Raises:
        ValueError: no takes.

    Example:
        >>> [take.start for take in film_takes(0, num_takes=2)][0]
        0.0
    """
    if num_takes < 1:
        raise ValueError(f"num_takes must be at least 1, got {num_takes}")
    dice = Dice(seed, FILM_STREAM)
    seeds: list[int] = []
    for number in range(num_takes):
        # A scene that returns at once would be no new take.
        others = sorted(set(seeds[:-1]))
        seeds.append(dice.choose(others) if others and dice.happens(RETURNING) else seed * SCENES_PER_FILM + number)
        if number and seeds[number] == seeds[number - 1]:
            seeds[number] = seed * SCENES_PER_FILM + number
    takes: list[Take] = []
    for number, scene_seed in enumerate(seeds):
        count = round(dice.uniform(*TAKE_SECONDS) * fps)
        transition = dice.choose(TRANSITIONS) if number < num_takes - 1 else None
        start = takes[-1].end if takes else 0.0
        takes.append(
            Take(scene_seed, clutter, split, start, start + count / fps, scene_seed in seeds[:number], transition)
        )
    return takes


def film(
    seed: int,
    num_takes: int = 6,
    size: int | tuple[int, int] = (144, 192),
    fps: float = 8.0,
    clutter: str = "normal",
    split: Split = "train",
) -> tuple[np.ndarray, list[Take]]:
    """Draw a film.

    Args:
        seed: the same one gives the same film.
        num_takes: at least 1.
        size: (height, width) in pixels, or the side of a square.
        fps: frames per second.
        clutter, split: of all its scenes.

    Returns:
        Frames, uint8 (T, height, width, 3), and the takes in their order.

    Raises:
        ValueError: no takes, or what `render` refuses.

    Example:
        >>> frames, takes = film(0, num_takes=2, size=48, fps=4.0)
        >>> len(takes), takes[1].end == len(frames) / 4.0
        (2, True)
    """
    takes = film_takes(seed, num_takes, fps, clutter, split)
    half = max(1, round(TRANSITION_SECONDS * fps / 2))  # frames of a transition on each side of its middle
    frames: np.ndarray | None = None
    before: Transition = "cut"
    for take in takes:
        start, count = round(take.start * fps), round((take.end - take.start) * fps)
        frames = _joined(frames, _shown(take.scene, count + half, size, fps), before, half)
        frames = frames[: start + count + (half if take.transition == "dissolve" else 0)]
        before = take.transition or "cut"
    assert frames is not None  # there is a take
    return frames, takes


def _shown(scene: Scene, count: int, size: int | tuple[int, int], fps: float) -> np.ndarray:
    drawn, _ = render(scene, -(-count // REPEATED), size, fps)
    return np.repeat(drawn, REPEATED, axis=0)[:count]


def _joined(frames: np.ndarray | None, shown: np.ndarray, transition: Transition, half: int) -> np.ndarray:
    """A film and the take behind it; of a dissolve, `frames` ends `half` frames behind the middle."""
    if frames is None:
        return shown
    if transition == "dissolve":
        share = ((np.arange(2 * half) + 0.5) / (2 * half))[:, None, None, None]
        shown = np.concatenate(
            [shown[:1].repeat(half, axis=0), shown]
        )  # it begins half a transition before its middle
        mixed = (1 - share) * frames[-2 * half :] + share * shown[: 2 * half]
        return np.concatenate([frames[: -2 * half], mixed.round().astype(np.uint8), shown[2 * half :]])
    if transition == "fade":
        share = ((np.arange(half) + 0.5) / half)[:, None, None, None]
        frames, shown = frames.copy(), shown.copy()
        frames[-half:] = (frames[-half:] * share[::-1]).round().astype(np.uint8)
        shown[:half] = (shown[:half] * share).round().astype(np.uint8)
    return np.concatenate([frames, shown])
