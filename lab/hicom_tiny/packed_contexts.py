"""Contexts for the LLM's pre-training: possible outputs of a compressor, made of words instead of pixels.

Every group of patches becomes the sum of the word embeddings of the objects in it, weighted as attention of some sharpness
would: objects that the text names weigh exp(sharpness) times as much. Sharpness 0 is what average pooling gives, so that the
LLM learns to read conditional and unconditional compression alike: in the first what it is asked about stands out, in the second
it must be found among all the rest. The less of an object there is in a token, the more the token is amplified, as a trained
projector would, though not always fully: a projector that was trained on pictures meets fainter objects in videos.

Letters: B samples, N tokens of a context, O objects, T frames, G groups, Q global tokens, C LLM width.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, prod

import numpy as np
import torch

from hicom_hf.shapes import (
    KINDS,
    Name,
    Question,
    Scene,
    caption,
    descriptions,
    multiple_choice,
    patch_cover,
    questions,
)
from hicom_hf.shapes.descriptions import CAPTION_REQUESTS
from hicom_hf.shapes.dice import Dice
from hicom_hf.shapes.objects import SceneObject
from hicom_hf.shapes.questions import THEME_ANSWERS

from .seen_scenes import GRID, VALUES, attribute_ids
from .sizes import COMPRESSOR
from .towers import fitting

ROWS = COLUMNS = 4  # groups of 3 x 3 patches
# Fractions of the batches, sampled frames, and groups over (time, rows, columns).
RASTERS: tuple[tuple[float, int, tuple[int, int, int]], ...] = (
    (0.58, 8, (2, 4, 4)),
    (0.08, 1, (1, 4, 4)),  # pictures
    (0.10, 16, (4, 4, 4)),
    (0.06, 32, (8, 4, 4)),
    (0.04, 64, (16, 4, 4)),
    (0.05, 8, (8, 4, 4)),
    (0.05, 8, (2, 2, 2)),
    (0.04, 8, (1, 2, 2)),
)
TASKS = ((0.76, "question"), (0.16, "description"), (0.08, "choice"))
MAX_PER_KIND = 6  # questions about one scene: more than about a video, so that there are many different ones
NUM_QUERIES = COMPRESSOR["num_global_tokens"]
# Fractions of samples by what their context holds: local tokens alone, global tokens alone, else both.
LOCAL_ALONE, GLOBAL_ALONE = 0.3, 0.06
# Sharpness of conditional and of unconditional contexts. Below 0 it counts as 0, so half of the unconditional contexts have
# none. The others are a curriculum: without them, the LLM learns much later to find what it is asked about.
CONDITIONAL, UNCONDITIONAL = (4.0, 7.0), (-2.0, 2.0)
# The fixed setting: one raster, and mostly questions.
FIRST_RASTERS, FIRST_TASKS = RASTERS[:1], ((0.95, "question"), (0.05, "description"))
LIKENESS = 0.12  # of the sharpness goes to objects that share one attribute with the name
ORDER_OF_ALIKE = (
    "order of alike objects"  # a word for one of them fits the other, too: most wrong orders are of this kind
)
DRAWN_KINDS = (*KINDS, ORDER_OF_ALIKE)
LEAST_THEMED = 0.3  # smallest fraction of the objects about which a vague question is asked
PATCHES_PER_GROUP_FRAME = 9
OBJECT_SHARE = 0.11  # of the patches of a group, for an object that one can see well
LEAST_AMPLIFIED = 0.5  # smallest exponent of the gain that makes up for that; the largest is 1
USUAL_TOKENS = 64  # of a context; where it has more, the batch has fewer samples


@dataclass(frozen=True)
class PackedScene:
    """A scene as sums of cover.

    Attributes:
        scene: what happens.
        attributes: (O, 3), see `attribute_ids`.
        cover: by number of frames: (O, T, 4, 4), patches' worth of each object in 3 x 3 patches.
        asked: texts with answers, by task.
    """

    scene: Scene
    attributes: torch.Tensor
    cover: dict[int, torch.Tensor]
    asked: dict[str, list[tuple[Question, tuple[Name, ...]]]]


def pack(scene: Scene, frames: Sequence[int] = (8, 16, 32, 64)) -> PackedScene:
    """Appearance at a scene, without drawing it.

    Args:
        scene: what happens.
        frames: numbers of frames, each a divisor of the largest.
    """
    whole = patch_cover(scene.objects, max(frames), grid=GRID).astype(np.float32)
    blocks = torch.from_numpy(whole).unflatten(-1, (COLUMNS, -1)).unflatten(-3, (ROWS, -1))
    cover = blocks.sum((-1, -3)).half()  # (O, T, 4, 4)
    steps = {count: max(frames) // count for count in frames}
    covers = {count: cover[:, step // 2 :: step] for count, step in steps.items()}
    if frames == (1,):
        asked = [Question("description", request, caption(scene)) for request in CAPTION_REQUESTS]
        tasks = {"description": [(question, everything()) for question in asked]}
    else:
        plain = [(question, names_of(question, scene)) for question in questions(scene, MAX_PER_KIND)]
        tasks = {
            "question": plain,
            "description": [(question, names_of(question, scene)) for question in descriptions(scene)],
            "choice": [
                (multiple_choice(question, scene.seed + at), names) for at, (question, names) in enumerate(plain)
            ],
        }
    return PackedScene(scene, attribute_ids(scene.objects), covers, tasks)


def everything() -> tuple[Name, ...]:
    return (Name(None, None, None),)


def names_of(question: Question, scene: Scene) -> tuple[Name, ...]:
    """What a text names: its referents, or what it asks for in vain, or everything."""
    if question.referents:
        return tuple({found.name for found in question.referents})
    absent = tuple(name for name in scene.absent if name.phrase in question.text)
    return absent or everything()


@dataclass
class PackedBatch:
    """Contexts with questions.

    Attributes:
        weights: (B, N, O + 1), how much of each object is in each token; the last column is background.
        places: (B, N, 2), row and column of what is in it, 0 to 1: SigLIP's features carry it by their position embedding.
        attributes: (B, O, 3).
        present: (B, N) bool, whether the sample has that token.
        strengths: (B,), about how much of an object that one can see well is in a token, 0 to 1; noise is as much fainter.
        questions: B of them.
    """

    weights: torch.Tensor
    places: torch.Tensor
    attributes: torch.Tensor
    present: torch.Tensor
    strengths: torch.Tensor
    questions: list[Question]


@dataclass(frozen=True)
class ContextSettings:
    """How contexts are drawn.

    Attributes:
        fill: fraction of the clutter that is there, 0 to 1.
        sharpness: smallest and largest, see `CONDITIONAL` and `UNCONDITIONAL`.
        variety: 0 to 1; at 0 there is one raster, hardly a task but questions, and all is fully amplified.
        kind_weights: how often each of `DRAWN_KINDS` is drawn beside the others of its scene; 1 where nothing is said.
    """

    fill: float = 1.0
    sharpness: tuple[float, float] = CONDITIONAL
    variety: float = 1.0
    kind_weights: Mapping[str, float] = field(default_factory=dict)


def draw_packed(
    scenes: list[PackedScene],
    pictures: list[PackedScene],
    size: int,
    settings: ContextSettings,
    dice: Dice,
    raster: tuple[int, tuple[int, int, int]] | None = None,
) -> PackedBatch:
    """Draw a batch of one raster and one task.

    Args:
        scenes, pictures: to draw from.
        size: B, for contexts of usual length; of longer ones there are fewer.
        settings: see there.
        dice: decides.
        raster: (frames, groups) instead of a drawn one.
    """
    first = not dice.happens(settings.variety)
    frames, groups = raster or _draw_share(FIRST_RASTERS if first else RASTERS, dice)[1:]
    source, task = scenes, _draw_share(FIRST_TASKS if first else TASKS, dice)[1]
    if frames == 1:
        source, task = pictures, "description"
    size = max(1, size * USUAL_TOKENS // max(USUAL_TOKENS, prod(groups)))
    rows = [_draw_sample(source, task, frames, groups, settings, dice) for _ in range(size)]
    most = max(len(row.attributes) for row in rows)
    weights = torch.zeros(size, len(rows[0].weights), most + 1)
    attributes = torch.zeros(size, most, 3, dtype=torch.long)
    present = torch.ones(size, weights.shape[1], dtype=torch.bool)
    num_groups = weights.shape[1] - NUM_QUERIES
    for index, row in enumerate(rows):
        count = len(row.attributes)
        weights[index, :, :count], weights[index, :, -1] = row.weights[:, :-1], row.weights[:, -1]
        attributes[index, :count] = row.attributes
        chance = dice.uniform(0.0, 1.0)
        if chance < LOCAL_ALONE:
            present[index, num_groups:] = False
        elif chance < LOCAL_ALONE + GLOBAL_ALONE:
            present[index, :num_groups] = False
    return PackedBatch(
        weights,
        torch.stack([row.places for row in rows]),
        attributes,
        present,
        torch.tensor([row.strength for row in rows]),
        [row.question for row in rows],
    )


def _draw_share(choices: Sequence[tuple], dice: Dice) -> tuple:
    """One of the choices, which begin with their fraction of the draws."""
    chance = dice.uniform(0.0, sum(choice[0] for choice in choices))
    for choice in choices:
        chance -= choice[0]
        if chance < 0:
            return choice
    return choices[-1]


@dataclass(frozen=True)
class _Sample:
    weights: torch.Tensor  # (N, O + 1)
    places: torch.Tensor  # (N, 2)
    attributes: torch.Tensor  # (O, 3)
    strength: float
    question: Question


def _draw_sample(
    scenes: list[PackedScene],
    task: str,
    frames: int,
    groups: tuple[int, int, int],
    settings: ContextSettings,
    dice: Dice,
) -> _Sample:
    packed, fill = dice.choose(scenes), settings.fill
    question, names = _draw_question(packed, task, fill < 1 and frames > 1, dice, settings.kind_weights)
    sharp = max(0.0, dice.uniform(*settings.sharpness))
    if _asks_for_theme(question):
        question, kept = _thinned_theme(packed.scene, question, fill, dice)
    else:
        kept = [
            index
            for index, found in enumerate(packed.scene.objects)
            if found.name or frames == 1 or dice.happens(fill)
        ]
    attributes = packed.attributes[kept]
    cover = packed.cover[frames][kept].float()  # (O, T, 4, 4)
    fit = _fit(names, attributes)  # (O,) 0 to 1
    local = _coarser(cover, groups)  # (O, G)
    patches = PATCHES_PER_GROUP_FRAME * frames * ROWS * COLUMNS / local.shape[1]
    found, centres = _global_views(cover, dice)  # (O, Q), (O, Q, 2)
    seen = _attend(found, 0.5 * found.sum(0).clamp(min=1.0), sharp * fit * (not dice.happens(0.3)))
    middle = torch.full((1, NUM_QUERIES, 2), 0.5)
    weights = torch.cat([_attend(local, patches, sharp * fit), seen])
    full_gain = _full_gain(sharp)
    gain = full_gain ** dice.uniform(1 - settings.variety * (1 - LEAST_AMPLIFIED), 1.0)
    weights[:, :-1] *= gain
    places = torch.cat([_group_places(groups), torch.einsum("qo,oqp->qp", seen, torch.cat([centres, middle]))])
    return _Sample(weights, places, attributes, gain / full_gain, question)


def _draw_question(
    packed: PackedScene, task: str, thinned: bool, dice: Dice, kind_weights: Mapping[str, float]
) -> tuple[Question, tuple[Name, ...]]:
    """A question of the task with its names, of one of the kinds that the scene has."""
    asked = defaultdict(list)
    for pair in packed.asked[task]:
        if not thinned or _can_be_thinned(pair[0]):
            asked[drawn_as(pair[0])].append(pair)
    kind = _draw_share([(kind_weights.get(kind, 1.0), kind) for kind in sorted(asked)], dice)[1]
    return dice.choose(asked[kind])


def drawn_as(question: Question) -> str:
    """The kind by which a question is drawn: one of `DRAWN_KINDS`, or "description"."""
    if question.kind == "order":
        first, last = question.referents
        if _fits_partly(first.name, last) or _fits_partly(last.name, first):
            return ORDER_OF_ALIKE
    return question.kind


def _fits_partly(name: Name, found: SceneObject) -> bool:
    """Whether a word of the name fits the object."""
    return any(value is not None and value == own for value, own in zip(name, found.attributes, strict=True))


def _can_be_thinned(question: Question) -> bool:
    """Whether a question can be asked of a part of the objects; a text about all of them cannot, but for their theme."""
    return bool(question.referents) or question.kind == "exist" or _asks_for_theme(question)


def _asks_for_theme(question: Question) -> bool:
    """Not as multiple choice, whose options go with one theme."""
    return question.kind == "vague" and question.answer in THEME_ANSWERS.values()


def _thinned_theme(scene: Scene, question: Question, fill: float, dice: Dice) -> tuple[Question, list[int]]:
    """The theme of a subset of the objects, a different one each time, so that no scene's theme is memorised."""
    share = fill * dice.uniform(LEAST_THEMED, 1.0)
    while True:
        kept = [index for index in range(len(scene.objects)) if dice.happens(share)]
        theme = replace(scene, objects=tuple(scene.objects[index] for index in kept)).theme
        if theme:
            return replace(question, answer=THEME_ANSWERS[theme]), kept
        share = min(1.0, 1.5 * share)  # no colour prevails among too few


def _fit(names: tuple[Name, ...], attributes: torch.Tensor) -> torch.Tensor:
    """How well objects (O, 3) fit the names: 1 wholly, a little for every attribute they share, (O,)."""
    whole = fitting([names], attributes)[:, 0].float()
    partly = torch.zeros(len(attributes))
    for name in names:
        shared = torch.zeros(len(attributes))
        for place, value in enumerate(name):
            if value is not None:
                shared += attributes[:, place] == VALUES[place].index(value)
        partly = torch.maximum(partly, shared * LIKENESS)
    return torch.maximum(whole, partly)


def _coarser(cover: torch.Tensor, groups: tuple[int, int, int]) -> torch.Tensor:
    """(O, T, 4, 4) -> (O, G), groups by frame, row, column."""
    times, rows, columns = groups
    blocks = cover.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).unflatten(1, (times, -1))
    return blocks.sum((2, 4, 6)).flatten(1)


def _group_places(groups: tuple[int, int, int]) -> torch.Tensor:
    """(G, 2): row and column of the groups' centres, 0 to 1."""
    axes = [(torch.arange(count) + 0.5) / count for count in groups]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)[:, 1:]


def _global_views(cover: torch.Tensor, dice: Dice) -> tuple[torch.Tensor, torch.Tensor]:
    """What each global token may look at, all of the video or a part of it: cover (O, Q), and its middle (O, Q, 2)."""
    views = cover[..., None].repeat(1, 1, 1, 1, NUM_QUERIES)  # (O, T, 4, 4, Q)
    half = cover.shape[1] // 2
    for query in range(NUM_QUERIES):
        if half and dice.happens(0.5):
            hidden = dice.below(2) * half
            views[:, hidden : hidden + half, :, :, query] = 0
        if dice.happens(0.25):
            row, column = 2 * dice.below(2), 2 * dice.below(2)
            views[:, :, row : row + 2, :, query] = 0
            views[:, :, :, column : column + 2, query] = 0
    cells = _group_places((1, ROWS, COLUMNS))  # (16, 2)
    flat = views.sum(1).flatten(1, 2)  # (O, 16, Q)
    total = flat.sum(1)  # (O, Q)
    return total, torch.einsum("ocq,cp->oqp", flat, cells) / total.clamp(min=1e-6)[..., None]


def _attend(cover: torch.Tensor, patches: float | torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Attention weights over objects (O, N) and background, (N, O + 1)."""
    background = (patches - cover.sum(0)).clamp(min=0.5)  # (N,)
    weights = torch.cat([(cover * scores[:, None].exp()).T, background[:, None]], -1)
    return weights / weights.sum(-1, keepdim=True)


def _full_gain(sharpness: float) -> float:
    """What brings an object that one can see well to a weight of 1."""
    share = OBJECT_SHARE * exp(sharpness)
    return (share + 1 - OBJECT_SHARE) / share


def value_word_ids(vocabulary: Sequence[str]) -> torch.Tensor:
    """(3, 8) ids of the words of all attribute values in a vocabulary, padded with 0."""
    table = torch.zeros(len(VALUES), max(map(len, VALUES)), dtype=torch.long)
    for place, values in enumerate(VALUES):
        table[place, : len(values)] = torch.tensor([vocabulary.index(value) for value in values])
    return table
