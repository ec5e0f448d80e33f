"""A recipe in the words of transformers: its `TrainingArguments`, with the settings of FSDP2 and DeepSpeed."""

import logging
import os
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_MAPPING, Trainer, TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ..hub.loading import cpu_lacks_bfloat16
from ..modeling.configuration_hicom import HiComConfig
from .recipe import EvalRecipe, Recipe
from .recipe_checks import check_batch
from .typed_yaml import load_yaml

CONFIGS_DIR = Path(__file__).parent / "configs"  # of FSDP2, DeepSpeed and accelerate

OPTIMIZERS_WITH_OWN_GROUPS = ("galore", "apollo", "lomo", "adalomo")  # beginnings of names
DECIDED = {  # arguments that would do nothing, or break what a recipe promises, and why
    "train_sampling_strategy": "data.group_by decides it",
    "gradient_checkpointing": "the recipe's own gradient_checkpointing decides it",
    "save_only_model": "such checkpoints cannot be resumed; checkpoints.trainable_only makes them small",
    "load_best_model_at_end": "eval.keep_best decides it",
    "resume_from_checkpoint": "a run resumes from the newest checkpoint in output_dir",
}

logger = logging.getLogger(__name__)


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """A recipe in the words of transformers.

    Raises:
        ValueError: the batch does not divide over the processes, or `trainer` holds what transformers does not know or the
            recipe has keys of its own for.
        ImportError: `trainer.report_to` or `trainer.optim` names what is not installed.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    check_batch(recipe, "recipe", processes)
    workers = recipe.data.num_workers
    on_cpu = recipe.cpu or not torch.accelerator.is_available()
    if on_cpu and not recipe.cpu:
        logger.warning("There is no GPU: training on the CPU.")
    if on_cpu and recipe.precision == "bf16" and cpu_lacks_bfloat16():
        logger.warning(
            "This CPU has no instructions for bfloat16 (AVX-512 or AMX): precision: fp32 is several times faster here."
        )
    arguments = dict(
        output_dir=recipe.output_dir,
        per_device_train_batch_size=recipe.batch_size_per_device,
        gradient_accumulation_steps=recipe.batch_size // (recipe.batch_size_per_device * processes),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        bf16=recipe.precision == "bf16",
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
        seed=recipe.seed,
        data_seed=recipe.seed,
        full_determinism=recipe.deterministic,
        use_cpu=on_cpu,
        logging_steps=recipe.logging.every,
        save_steps=recipe.checkpoints.every,
        save_total_limit=recipe.checkpoints.keep,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,  # the collator handles the columns of raw samples
        label_names=["labels"],
        ddp_find_unused_parameters=False,  # every trained parameter is used in every step, see HiComTrainer
        ddp_backend="gloo" if processes > 1 and on_cpu else None,
        **optimizer_arguments(recipe),
        **evaluation_arguments(recipe),
        **sharding_arguments(recipe),
    )
    check_trainer_section(recipe, arguments)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # `accelerate launch` with FSDP: its file names no layers
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", ",".join(llm_layers(recipe)))
    result = TrainingArguments(**arguments, **recipe.trainer)
    if "optim" in recipe.trainer:
        check_optimizer(result)
    return result


def check_optimizer(arguments: TrainingArguments) -> None:
    """Refuse an optimizer that cannot be made, before anything is loaded.

    Raises:
        ImportError: its package is not installed.
        ValueError: it makes groups of the weights itself, so that parts cannot have rates of their own.
    """
    name = str(getattr(arguments.optim, "value", arguments.optim))
    if name.startswith(OPTIMIZERS_WITH_OWN_GROUPS):
        raise ValueError(
            f"trainer.optim must not be {name}: it makes groups of the weights itself, and learning_rates makes one per part"
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError) as error:
        raise ImportError(f"trainer.optim {name}: {error}") from error


def check_trainer_section(recipe: Recipe, arguments: dict) -> None:
    """Refuse what `trainer` cannot pass on; errors as of `training_arguments`.

    Args:
        recipe: of the run.
        arguments: what the other keys of the recipe decide.
    """
    known = {field.name for field in fields(TrainingArguments) if field.init}
    for key in recipe.trainer:
        if key in arguments:
            raise ValueError(f"trainer.{key} must not be given: other keys of the recipe decide it")
        if key in DECIDED:
            raise ValueError(f"trainer.{key} must not be given: {DECIDED[key]}")
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean trainer.{close[0]}?" if close else ""
            raise ValueError(f"unknown key trainer.{key}: transformers has no such training argument{hint}")
    services = recipe.trainer.get("report_to") or []
    missing = {services} if isinstance(services, str) else set(services)
    missing -= {"all", "none", *get_available_reporting_integrations()}
    if missing:
        raise ImportError(
            f"trainer.report_to: {', '.join(sorted(missing))} is not installed, or not known to transformers"
        )


def optimizer_arguments(recipe: Recipe) -> dict:
    """AdamW, its schedule and clipping; the rates themselves are those of the parts."""
    optimizer = recipe.optimizer
    return {
        "learning_rate": max(rate for rate in asdict(recipe.learning_rates).values() if rate is not None),
        "lr_scheduler_type": optimizer.schedule,
        "warmup_steps": optimizer.warmup,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
    }


def evaluation_arguments(recipe: Recipe) -> dict:
    """When to evaluate, and what is the best."""
    section = recipe.eval
    if section is None:
        return {}
    metric, greater_is_better = best_metric(section)
    best = {
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": greater_is_better,
    }
    return {
        "eval_strategy": "steps",
        "eval_steps": section.every,
        "per_device_eval_batch_size": recipe.batch_size_per_device,
        "prediction_loss_only": True,
        **(best if section.keep_best else {}),
    }


def best_metric(section: EvalRecipe) -> tuple[str, bool]:
    """Name of the metric that says which checkpoint is the best, and whether greater is better."""
    return f"eval_{section.best_by}", section.best_by == "score"


def sharding_arguments(recipe: Recipe) -> dict:
    """FSDP2 or DeepSpeed, from the configs in the package.

    FSDP2 shards the LLM's layers one by one and everything else together: SigLIP and the compressor are called as often as
    a process' videos need, so gathering them per call would not be in step with the other processes.
    """
    if recipe.sharding is None:
        return {}
    if recipe.sharding == "zero2":
        return {"deepspeed": str(CONFIGS_DIR / "zero2.json")}
    config = load_yaml((CONFIGS_DIR / "fsdp2.json").read_text(encoding="utf-8"), "fsdp2.json")
    config["cpu_offload"] = recipe.sharding == "fsdp2_offload"
    return {"fsdp": True, "fsdp_config": {**config, "transformer_layer_cls_to_wrap": llm_layers(recipe)}}


def llm_layers(recipe: Recipe) -> list[str]:
    """Classes of the layers of a recipe's LLM, which are sharded one by one."""
    language_model: Any = MODEL_MAPPING[type(HiComConfig.from_pretrained(recipe.source).text_config)]
    return sorted(language_model._no_split_modules)
