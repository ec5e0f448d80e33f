"""Records in a campaign's folder what its results are made with, so that a command with other settings is refused.

`settings.json` holds the settings, the seed on which rates are chosen, the world's version, digests of what the stages' recipes
say and of towers and LLM, and whether these were given.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hicom_hf.hub.files import write_text
from hicom_hf.shapes.writing import WORLD_VERSION
from hicom_hf.training.typed_yaml import load_yaml

from ..hicom_tiny.data_sets import STAGES, check_datasets
from ..hicom_tiny.making import RECIPES_DIR
from .campaign import Campaign, Settings


def claim(campaign: Campaign) -> None:
    """Note in the folder what its results are made with; towers and LLM of the campaign's own once they are there.

    Raises:
        ValueError: they were made with something else, which is named.
    """
    theirs, mine = campaign.record, _made_with(campaign)
    path = campaign.folder / "settings.json"
    if theirs:
        differing = [*_other_settings(campaign), *_other_code(theirs, mine), *_other_parts(campaign, theirs, mine)]
        if differing:
            raise ValueError(
                f"{campaign.folder} holds results with other settings ({', '.join(differing)}); choose another folder, or "
                f"give the same options as before (see {path})"
            )
        mine["parts"]["digests"] = theirs["parts"]["digests"] | mine["parts"]["digests"]
    write_text(path, json.dumps(mine, indent=1))


def check_data(campaign: Campaign) -> None:
    """Refuse data that is there and was made in another way than the campaign asks for.

    Raises:
        ValueError: a data set of another version of the world, or with other settings.
    """
    check_datasets(campaign.data_folder, (*campaign.settings.datasets, *campaign.settings.test_datasets().values()))


def _made_with(campaign: Campaign) -> dict[str, Any]:
    return {
        "settings": asdict(campaign.settings),
        "search_seed": campaign.search_seed,
        "world": WORLD_VERSION,
        "recipes": {stage: _recipe_digest(RECIPES_DIR / f"{stage}.yaml") for stage in STAGES},
        "parts": {"given": bool(campaign.parts), "digests": _part_digests(campaign)},
    }


def _other_settings(campaign: Campaign) -> list[str]:
    theirs = Settings.recorded(campaign.folder)
    names = [field.name for field in fields(Settings)]
    return [name for name in names if getattr(theirs, name) != getattr(campaign.settings, name)]


def _other_code(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """What another version of this package would train on, or how."""
    found = [f"recipe of {stage}" for stage in STAGES if theirs["recipes"].get(stage) != mine["recipes"][stage]]
    if theirs["world"] != mine["world"]:
        found.append(f"version {theirs['world']} of the world there and {mine['world']} now")
    return found


def _other_parts(campaign: Campaign, theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    told, found = theirs["parts"], mine["parts"]
    if told["given"] != found["given"]:
        return [
            f"towers and LLM were {'given with --parts' if told['given'] else 'made in the folder, without --parts'}"
        ]
    differing = []
    for seed in map(str, campaign.seeds):
        if seed in told["digests"] and seed not in found["digests"]:
            differing.append(f"parts of seed {seed} that are no longer in {campaign.parts_of(int(seed))}")
        elif told["digests"].get(seed, found["digests"].get(seed)) != found["digests"].get(seed):
            differing.append(f"parts of seed {seed}")
    return differing


def _part_digests(campaign: Campaign) -> dict[str, str]:
    """Of the towers and the LLM of each seed that has them."""
    found = {}
    for seed in campaign.seeds:
        folders = [campaign.parts_of(seed) / name for name in ("siglip", "llm")]
        if all(folder.exists() for folder in folders):
            files = (path for folder in folders for path in sorted(folder.glob("*.safetensors")))
            found[str(seed)] = _digest(path.read_bytes() for path in files)
    return found


def _recipe_digest(path: Path) -> str:
    """Of a recipe's values: another comment or order in the file trains the same model."""
    values = load_yaml(path.read_text(encoding="utf-8"), str(path))
    return _digest([json.dumps(values, sort_keys=True).encode()])


def _digest(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]
