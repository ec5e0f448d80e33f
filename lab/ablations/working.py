"""What the processes of a campaign do: pre-train parts, fill the feature cache, align, train, measure."""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from hicom_hf.hub.files import write_text
from hicom_hf.hub.new_folder import new_folder
from hicom_hf.processors.processing_hicom import HiComProcessor
from hicom_hf.training.recipe import Recipe
from hicom_hf.training.run import build_dataset, filled_cache
from hicom_hf.training.stages import load_stage, set_trainable

from ..hicom_tiny.making import (
    MODEL_FOLDER,
    make_llm,
    make_siglip,
    run_stage,
    stage_losses,
    stage_recipe,
    start,
)
from ..hicom_tiny.record import commit
from .campaign import CPU, Campaign, Run, parts_budget, validation_score
from .measuring import measure
from .planning import Job
from .variants import PLATEAU, VARIANTS, Variant

CHECKPOINT_EVERY = 200  # steps; what a killed process loses at most
PLATEAU_SEED = 1000  # added to the seed per repetition, so that each has its own order of the data


def do(job: Job, campaign: Campaign) -> None:
    """Do a job; what it has done before an interruption is kept.

    Args:
        job: whose needs are there.
        campaign: that it belongs to.
    """
    if job.kind == "towers":
        make_siglip(job.result.parent, campaign.data_folder, job.seed, parts_budget(campaign.settings))
    elif job.kind == "llm":
        make_llm(job.result.parent, job.seed, parts_budget(campaign.settings))
    elif job.kind == "features":
        _fill_features(job, campaign)
    elif job.kind == "alignment":
        _align(job, campaign)
    elif job.kind == "train":
        _train(job.run, campaign)
    else:
        _train_to_the_plateau(job.run, campaign)


# Features and alignment ----------------------------------------------------------------------------------------------------


def _fill_features(job: Job, campaign: Campaign) -> None:
    """Encode once what all variants read, so that two processes never encode the same at a time."""
    name = "conditional-local" if job.aligned else "average-pool-4-3-3"
    place = campaign.folder / "features" / f"start-{job.seed}-{'aligned' if job.aligned else 'plain'}"
    start(campaign.parts_of(job.seed), job.seed, VARIANTS[name].compressor, str(place / "start"))
    for stage in ("instruction_tuning",) if job.aligned else ("alignment", "instruction_tuning"):
        model_folder = f"model={json.dumps(str(place / 'start'))}"
        overrides = [*_common(campaign), model_folder]
        recipe = stage_recipe(stage, place, campaign.data_folder, campaign.settings.datasets, job.seed, overrides)
        model, processor = load_stage(recipe), HiComProcessor.from_pretrained(recipe.model)
        set_trainable(model, model.config, recipe.learning_rates)
        filled_cache(recipe, model, build_dataset(recipe, processor), torch.device("cpu"))
    shutil.rmtree(place)
    write_text(job.result, json.dumps({"seconds": None}))


def _align(job: Job, campaign: Campaign) -> None:
    folder = job.result.parent
    start(campaign.parts_of(job.seed), job.seed, VARIANTS[job.run.variant].compressor, str(folder / "start"))
    overrides = _overrides("alignment", campaign, job.run, campaign.settings.steps["alignment"])
    begin = time.perf_counter()
    run_stage("alignment", folder, campaign.data_folder, campaign.settings.datasets, job.seed, overrides)
    record = {"losses": _losses(folder / "alignment"), "seconds": _since(begin), "cpu_seconds": time.process_time()}
    write_text(job.result, json.dumps(record))
    _remove(folder / "start", *(folder / "alignment").glob("checkpoint-*"))


# Training ------------------------------------------------------------------------------------------------------------------


def _train(run: Run, campaign: Campaign) -> None:
    """The stages after alignment, and the scores; these stay as they are where the model alone is gone."""
    variant, place, begin = VARIANTS[run.variant], campaign.place(run), time.perf_counter()
    settings, model_folder = campaign.settings, campaign.alignment(run).parent / "alignment" / MODEL_FOLDER
    record = {**_about(run, variant, campaign), "losses": {}}
    aligned = json.loads(campaign.alignment(run).read_text())
    record["losses"]["alignment"] = aligned["losses"]
    for stage in variant.stages:
        steps = sum(settings.steps[name] for name in stage.steps_of)
        files = [str(campaign.data_folder / data.name / name) for name in stage.files for data in settings.datasets]
        overrides = [
            *_overrides(stage.stage, campaign, run, steps),
            f"model={json.dumps(str(model_folder))}",
            f"data.files={json.dumps(files)}",
        ]
        model_folder = run_stage(stage.stage, place, campaign.data_folder, settings.datasets, run.seed, overrides)
        record["steps"][stage.stage] = steps
        record["losses"][stage.stage] = _losses(place / stage.stage)
    record["seconds"] = {"alignment": aligned["seconds"], "training": _since(begin)}
    if campaign.keep_models or run.variant in PLATEAU:
        with new_folder(campaign.model_folder(run), overwrite=True) as destination:
            shutil.copytree(model_folder, destination, dirs_exist_ok=True)
    if campaign.result(run) is None:
        begin = time.perf_counter()
        measures = ("questions", *variant.measures, *(("validation",) if campaign.is_measured(run) else ()))
        record["scores"] = measure(model_folder, campaign, measures)
        record["seconds"]["measuring"] = _since(begin)
        record["cpu_seconds"] = {"alignment": aligned["cpu_seconds"], "run": time.process_time()}
        write_text(campaign.result_file(run), json.dumps(record, indent=1))
    _remove(*(place / stage.stage for stage in variant.stages))


def _train_to_the_plateau(run: Run, campaign: Campaign) -> None:
    """Repeat instruction tuning until the validation score no longer improves; the best repetition counts."""
    base, place, settings = replace(run, plateau=False), campaign.place(run), campaign.settings
    begin, before = time.perf_counter(), campaign.result(base)
    curve_file = place / "curve.json"
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else []

    def model_after(number: int) -> Path:
        chunk = place / f"chunk-{number}" / "instruction_tuning" / MODEL_FOLDER
        return chunk if number else campaign.model_folder(base)

    if not all(model_after(number).exists() for number in range(len(curve))):
        curve = []
        _remove(*place.glob("chunk-*"))
    while len(curve) <= settings.max_chunks and not has_stopped(curve, settings.patience, settings.improvement):
        number = len(curve)
        if number:
            overrides = _overrides("instruction_tuning", campaign, run, settings.steps["instruction_tuning"])
            overrides += [
                f"model={json.dumps(str(model_after(number - 1)))}",
                f"seed={run.seed + PLATEAU_SEED * number}",
            ]
            folder = place / f"chunk-{number}"
            run_stage("instruction_tuning", folder, campaign.data_folder, settings.datasets, run.seed, overrides)
        curve.append(validation_score({"scores": measure(model_after(number), campaign, ("validation",))}))
        write_text(curve_file, json.dumps(curve))
        _remove(*place.glob(f"chunk-{number}/instruction_tuning/checkpoint-*"))
    best = max(range(len(curve)), key=lambda number: (curve[number], -number))
    record = _about(run, VARIANTS[run.variant], campaign)
    record |= {
        "curve": curve,
        "best_chunk": best,
        "stopped": has_stopped(curve, settings.patience, settings.improvement),
    }
    record["steps"] = {**before["steps"], "instruction_tuning": settings.steps["instruction_tuning"] * (best + 1)}
    record["scores"] = measure(model_after(best), campaign, ("questions", "validation"))
    record["seconds"] = {"training and measuring": _since(begin)}
    record["cpu_seconds"] = {"run": time.process_time()}
    write_text(campaign.result_file(run), json.dumps(record, indent=1))
    _remove(*place.glob("chunk-*"))


def has_stopped(curve: list[float], patience: int, improvement: float) -> bool:
    """Whether the last `patience` values are all less than `improvement` above the best before them.

    Example:
        >>> has_stopped([40.0, 44.0, 44.5, 44.2], patience=2, improvement=1.0)
        True
    """
    return len(curve) > patience and max(curve[-patience:]) < max(curve[:-patience]) + improvement


# Recipes and records -------------------------------------------------------------------------------------------------------


def _common(campaign: Campaign) -> list[str]:
    return [
        f"data.feature_cache={json.dumps(str(campaign.folder / 'features'))}",
        f"checkpoints.every={CHECKPOINT_EVERY}",
        "logging.progress_bar=false",
    ]


def _overrides(stage: str, campaign: Campaign, run: Run, steps: int) -> list[str]:
    """What differs from the shipped recipe of a stage: steps, rates and the device."""
    usual: Recipe = stage_recipe(stage, campaign.folder, campaign.data_folder, campaign.settings.datasets, run.seed)
    rates = {
        part: rate * run.factor
        for part in ("compressor", "injection", "language_model")
        if (rate := getattr(usual.learning_rates, part)) is not None
    }
    return [
        *_common(campaign),
        f"max_steps={steps}",
        f"cpu={json.dumps(not campaign.gpu)}",
        *(f"learning_rates.{part}={rate!r}" for part, rate in rates.items()),
    ]


def _about(run: Run, variant: Variant, campaign: Campaign) -> dict:
    return {
        "arm": run.variant,
        "seed": run.seed,
        "factor": run.factor,
        "plateau": run.plateau,
        "compressor": variant.compressor,
        "tokens": variant.num_tokens,
        "steps": {"alignment": campaign.settings.steps["alignment"]},
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if campaign.gpu else CPU,
    }


def _since(begin: float) -> float:
    """Seconds; of the last part only of a run that was interrupted."""
    return round(time.perf_counter() - begin, 1)


def _losses(stage_folder: Path) -> list[list[float]]:
    return [[step, round(loss, 4)] for step, loss in stage_losses(stage_folder)]


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unneeded(campaign: Campaign, jobs: Iterable[Job]) -> None:
    """Delete the alignments that no run needs any more."""
    needed = {campaign.alignment(job.run).parent for job in jobs if job.kind == "train" and not job.is_done}
    for folder in campaign.folder.glob("alignment/*/seed-*"):
        if folder not in needed:
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
