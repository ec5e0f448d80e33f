"""The shapes world: crowded synthetic videos with questions; which tokens are worth keeping depends on the question.

`Scene.from_seed` draws what happens, `render` turns it into frames, `questions` asks about it, `captions` and
`descriptions` describe it, and `write_dataset` writes mp4 files and LLaVA-format JSON that the trainer reads.
docs/shapes.md describes the world.
"""

from .descriptions import caption, descriptions
from .objects import SceneObject
from .questions import CHANCE, KINDS, Question, multiple_choice, questions
from .rendering import box_cover, contact_sheet, padded_boxes, patch_cover, referent_boxes, render, render_still
from .scenes import CLUTTER_LEVELS, SPLITS, Scene
from .vocabulary import VOCABULARY, is_right, split_words
from .words import COLOURS, HELD_OUT_APPEARANCES, HELD_OUT_PAIRS, SHAPES, TEXTURES, Name
from .writing import STAGES, write_dataset, write_video

__all__ = [
    "CHANCE",
    "CLUTTER_LEVELS",
    "COLOURS",
    "HELD_OUT_APPEARANCES",
    "HELD_OUT_PAIRS",
    "KINDS",
    "SHAPES",
    "SPLITS",
    "STAGES",
    "TEXTURES",
    "VOCABULARY",
    "Name",
    "Question",
    "Scene",
    "SceneObject",
    "box_cover",
    "caption",
    "contact_sheet",
    "descriptions",
    "is_right",
    "multiple_choice",
    "padded_boxes",
    "patch_cover",
    "questions",
    "referent_boxes",
    "render",
    "render_still",
    "split_words",
    "write_dataset",
    "write_video",
]
