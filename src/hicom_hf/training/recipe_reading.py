"""Reading recipes: YAML 1.2's numbers (`1e-3` is a number), single values replaced by their dotted key (`--set key=value`), and
a wrong key, a wrong type or a missing file as an error that names the key.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..hub.files import require_file
from ..hub.reading import Reading
from .recipe import Recipe
from .recipe_checks import check_values
from .typed_yaml import build, load_yaml, set_value

SHIPPED_DIR = Path(__file__).parent / "recipes"


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package, which `read_recipe` takes as well as paths."""
    return sorted(path.stem for path in SHIPPED_DIR.glob("*.yaml"))


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe, given as a path or by the name of a shipped one.

    Raises:
        FileNotFoundError: if it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in shipped_recipes():
        return SHIPPED_DIR / f"{name}.yaml"
    raise FileNotFoundError(
        f"no recipe {str(name)!r}: neither a file nor one of the package's recipes, which are {', '.join(shipped_recipes())}"
    )


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; its files are checked by `recipe_files.check_files`.

    Args:
        name: path of a YAML file, or name of a shipped recipe.
        overrides: "key=value" each, the key dotted ("data.num_frames=16"), the value as in YAML.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: a wrong key, a missing one, a value of the wrong type, or values that do not fit together.

    Example:
        >>> read_recipe("alignment_7b", ["batch_size_per_device=8"]).batch_size
        512
    """
    path = recipe_path(name)
    with Reading(path):
        values = load_yaml(require_file(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values, got {type(values).__name__}")
    for override in overrides:
        set_value(values, override)
    return recipe_from_dict(values, str(path))


def recipe_from_dict(values: dict[str, Any], name: str = "recipe") -> Recipe:
    """Build a recipe from plain values; errors as of `read_recipe`."""
    recipe = build(Recipe, values, name)
    check_values(recipe, name)
    return recipe


def recipe_text(recipe: Recipe) -> str:
    """A recipe with all its values as YAML."""
    return yaml.safe_dump(recipe.to_dict(), sort_keys=False)
