"""The tests of a finished model."""

from collections.abc import Iterable
from pathlib import Path

from hicom_hf.hub.loading import load_model, load_processor

from ..hicom_tiny.scoring import score, table
from .campaign import LEVELS, Campaign
from .variants import VAGUE_INSTRUCTION

FRAMES = (8, 16, 32)  # sampled at inference; 8 in training


def measure(model_folder: Path, campaign: Campaign, measures: Iterable[str]) -> dict[str, dict[str, dict]]:
    """Scores of a model.

    Args:
        model_folder: of the model.
        campaign: knows the questions.
        measures: "questions" (each level of clutter), "validation", "vague" (the levels again, the compression conditioned
            on a vague instruction), "frames" (long videos at several numbers of frames).

    Returns:
        By measure and data set: see `lab.hicom_tiny.scoring.table`; "frames" has one measure per number.
    """
    model, processor = load_model(model_folder, "cpu", "float32"), load_processor(model_folder)
    datasets = campaign.settings.test_datasets()

    def scored(name: str, **options) -> dict:
        return table(score(model, processor, campaign.data_folder / datasets[name].name / "tuning.json", **options))

    found = {}
    for name in measures:
        if name == "questions":
            found[name] = {level: scored(level) for level in LEVELS}
        elif name == "vague":
            found[name] = {level: scored(level, instruction=VAGUE_INSTRUCTION) for level in LEVELS}
        elif name == "frames":
            found |= {f"{count} frames": {"long": scored("long", num_frames=count)} for count in FRAMES}
        else:
            found[name] = {name: scored(name)}
    return found
