"""Training: from records of conversations to a checkpoint; `hicom_hf.data` reads the records.

What trains in Python is exported here. `HiComTrainer` and `run_recipe` are imported when they are asked for: they need
accelerate, of the extra `train`, while recipes can be read without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..data import (
    FeatureCache,
    HiComDataCollator,
    HiComDataset,
    HiComPreferenceCollator,
    HiComRowCollator,
    HiComStreamingDataset,
    ItemEncoder,
)
from .prompt_instructions import find_instructions_in_prompts
from .recipe import LearningRates, Recipe
from .recipe_reading import read_recipe, recipe_from_dict, shipped_recipes

if TYPE_CHECKING:
    from .run import check_run, run_recipe
    from .trainer import HiComTrainer

NEED_ACCELERATE = {"HiComTrainer": ".trainer", "check_run": ".run", "run_recipe": ".run"}

__all__ = [
    "FeatureCache",
    "HiComDataCollator",
    "HiComDataset",
    "HiComPreferenceCollator",
    "HiComRowCollator",
    "HiComStreamingDataset",
    "HiComTrainer",
    "ItemEncoder",
    "LearningRates",
    "Recipe",
    "check_run",
    "find_instructions_in_prompts",
    "read_recipe",
    "recipe_from_dict",
    "run_recipe",
    "shipped_recipes",
]


def __getattr__(name: str) -> Any:
    if name not in NEED_ACCELERATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NEED_ACCELERATE[name], __name__), name)
