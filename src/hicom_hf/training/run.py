"""Run a recipe: load, set the stage, train with checkpoints, write the folder that the next stage starts from."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed, nn
from tqdm.auto import tqdm
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available
from transformers.utils.import_utils import is_bitsandbytes_available, is_liger_kernel_available, is_peft_available

from ..data.collating import HiComDataCollator
from ..data.datasets import HiComDataset, RecordSource
from ..data.encoding import ItemEncoder
from ..data.feature_cache import FeatureCache
from ..data.holding_out import Side
from ..data.record_files import TAR_SUFFIXES
from ..data.sample_table import NoSampleError
from ..data.selected_frames import SelectedFrames
from ..data.streaming import HiComStreamingDataset
from ..hub.files import FolderLock, atomic_folder
from ..hub.loading import quantization_config
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.parts_hicom import still_untrained
from ..processors.media_access_hicom import media_access_of
from ..processors.processing_hicom import HiComProcessor
from .adapters import add_adapters, name_magnitudes
from .checkpoints import StopWithoutProgress, checkpoints, last_checkpoint
from .curves import draw_curves
from .held_out import HeldOutEvaluation, scorer_named
from .memory import MemoryEstimate, estimate_memory, model_without_weights
from .packing import check_packing
from .recipe import HUB_DATASETS, Recipe
from .recipe_checks import check_choosing, check_tiles
from .recipe_files import check_files
from .recipe_reading import recipe_text
from .same_run import RECIPE_FILE, claim_run
from .stages import base_model, cast_for_training, load_stage, set_trainable
from .trainer import HiComTrainer
from .trainer_arguments import best_metric, training_arguments

logger = logging.getLogger(__name__)

CURVES_FILE = "curves.png"  # under output_dir, as is:
INDEX_FOLDER = "records"  # under output_dir: the index of the records
MODEL_FOLDER = "model"  # under output_dir: the finished model


def run_recipe(recipe: Recipe, resume: bool = True, name: str = "recipe") -> Path | None:
    """Train as a recipe says.

    Args:
        recipe: see `read_recipe`.
        resume: continue from the newest complete checkpoint in `output_dir`, if there is one.
        name: of the recipe, for messages.

    Returns:
        The folder of the finished model, or None if a signal has stopped the run; the same call resumes it.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, ImportError: before any model is loaded, the recipe cannot be run.
        BlockingIOError: another run writes to `output_dir`.
    """
    check_files(recipe, name)
    check_packages(recipe, name)
    output_dir = Path(recipe.output_dir)
    if not resume and checkpoints(output_dir):
        raise FileExistsError(
            f"{name}: output_dir: {output_dir} holds checkpoints; resume, or choose another output_dir"
        )
    arguments = training_arguments(recipe)
    is_first = arguments.process_index == 0
    with FolderLock(output_dir, "a training run") if is_first else nullcontext():
        claim_run(recipe, output_dir, arguments.world_size, write=is_first)
        trainer = build_trainer(recipe, arguments, name)
        trainer.train(resume_from_checkpoint=True)
        if is_first:
            draw_curves(trainer.state.log_history, output_dir / CURVES_FILE)
        if trainer.stop.stopped:
            logger.warning(
                "Stopped after step %d; the same command resumes from %s.",
                trainer.state.global_step,
                last_checkpoint(output_dir),
            )
            return None
        return save_finished(trainer, recipe)


def check_run(recipe: Recipe, name: str = "recipe") -> MemoryEstimate:
    """Everything that a run does before it loads the model: files, packages, and all records of the data.

    Returns:
        What it will need of memory.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, ImportError: the recipe cannot be run.
    """
    check_files(recipe, name)
    check_packages(recipe, name)
    training_arguments(recipe)
    processor = HiComProcessor.from_pretrained(recipe.source)
    dataset, held_out = build_dataset(recipe, processor), build_held_out(recipe, processor)
    check_records(recipe, dataset, held_out, name)
    build_evaluation(recipe, held_out)
    return estimate_memory(recipe, dataset)


def check_packages(recipe: Recipe, name: str = "recipe") -> None:
    """Refuse a recipe that needs a package which is not installed.

    Raises:
        ImportError: with what to install.
    """
    lora = recipe.lora
    needed = (
        ("sharding zero2", "deepspeed", recipe.sharding == "zero2" and not is_deepspeed_available()),
        ("lora", "train", lora is not None and not is_peft_available()),
        ("lora.quantize", "qlora", lora is not None and lora.quantize and not is_bitsandbytes_available()),
        (
            "trainer.use_liger_kernel",
            "liger",
            recipe.trainer.get("use_liger_kernel") and not is_liger_kernel_available(),
        ),
    )
    for key, extra, is_missing in needed:
        if is_missing:
            raise ImportError(f"{name}: {key} needs packages that are not installed: pip install 'hicom_hf[{extra}]'")


def build_trainer(recipe: Recipe, arguments: TrainingArguments, name: str = "recipe") -> HiComTrainer:
    """Data, model and trainer of a recipe; the data first, because a bad record is found in less time than a model loads."""
    processor = HiComProcessor.from_pretrained(recipe.source)
    dataset, held_out = build_dataset(recipe, processor), build_held_out(recipe, processor)
    check_records(recipe, dataset, held_out, name)
    evaluation = build_evaluation(recipe, held_out)
    if recipe.lora is not None and recipe.lora.targets is not None:
        model_without_weights(recipe)  # refuses targets that the LLM does not have
    quantization = quantization_config(recipe.lora.quantize if recipe.lora is not None else None)
    extra = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": arguments.device}}
    if recipe.attn_implementation is not None:
        extra["attn_implementation"] = recipe.attn_implementation
    torch.manual_seed(recipe.seed)  # fresh injections are the same in every process, and in every run
    model = load_stage(recipe, **extra)
    for data in (dataset, held_out):
        if isinstance(data, HiComDataset) and data.num_choosing:  # before parts of the model get types of their own
            data.encoder.selected_frames = selected_frames(recipe, model, data, arguments.device)
    if recipe.lora is not None:
        torch.manual_seed(recipe.seed)  # likewise the adapters
        model = add_adapters(model, recipe.lora, recipe.learning_rates.compressor is not None)
    base = base_model(model)
    counts = set_trainable(model, base.config, recipe.learning_rates)
    cast_for_training(model)
    if recipe.data.packing:
        check_packing(base)
    logger.info("Trained: %s.", ", ".join(f"{part} {count / 1e6:.3g}M" for part, count in counts.items()))
    if recipe.data.feature_cache is not None and isinstance(dataset, HiComDataset):  # a recipe has none with streams
        dataset.encoder.feature_cache = filled_cache(recipe, base, dataset, arguments.device)
        if held_out is not None:
            held_out.encoder.feature_cache = filled_cache(recipe, base, held_out, arguments.device)
    trainer = HiComTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=held_out,
        evaluation=evaluation,
        data_collator=HiComDataCollator(processor, packing=recipe.data.packing, with_statistics=True),
        processing_class=processor,
        learning_rates=recipe.learning_rates,
        trainable_only=recipe.checkpoints.trainable_only,
        group_by=recipe.data.group_by,
        answers_together=recipe.data.answers_together,
        max_skipped=recipe.data.max_skipped,
        skip_logits=recipe.skip_logits,
        progress_bar=recipe.logging.progress_bar,
    )
    if recipe.eval is not None and recipe.eval.patience is not None:
        trainer.add_callback(StopWithoutProgress(recipe.eval.patience, *best_metric(recipe.eval)))
    if recipe.logging.tensorboard and arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        trainer.add_callback(TensorBoardCallback(SummaryWriter(Path(recipe.output_dir) / "tensorboard")))
    return trainer


def build_dataset(recipe: Recipe, processor: HiComProcessor) -> HiComDataset | HiComStreamingDataset:
    """The data of a recipe; several files are one data set.

    Raises:
        SampleError, ValueError, OSError: a record or a file of records cannot be used.
    """
    data, encoder = recipe.data, build_encoder(recipe, processor)
    if data.is_stream:
        # load_dataset takes OWNER/NAME; tar shards, on the Hub as well, are opened by their address.
        files = [f if f.lower().endswith(TAR_SUFFIXES) else f.removeprefix(HUB_DATASETS) for f in data.files]
        source: Any = files if len(files) > 1 else files[0]
        if data.shares is not None:
            source = dict(zip(files, data.shares, strict=True))
        return HiComStreamingDataset(
            source,
            encoder,
            data.media_root,
            per_turn=data.per_turn,
            on_bad_sample=data.on_bad_sample,
            shuffle_buffer=data.shuffle_buffer,
            seed=recipe.seed,
            repeat=True,
        )
    side: Side | None = None if recipe.eval is None or recipe.eval.share is None else "training"
    dataset = _dataset_of(recipe, data.files, encoder, side)
    logger.info("Data: %s.", dataset.summary())
    return dataset


def check_records(recipe: Recipe, dataset: Any, held_out: HiComDataset | None, name: str = "recipe") -> None:
    """Refuse records that ask for what the recipe cannot do: questions that choose frames while what scores them is trained,
    or tiles while their features are.

    Raises:
        ValueError: with the key to change.
    """
    for data in (dataset, held_out):
        if isinstance(data, HiComDataset) and data.num_choosing:
            check_choosing(recipe, name, 'records must have no "selection"')
        if isinstance(data, HiComDataset) and data.num_tiled:
            check_tiles(recipe, name, 'records must have no "tiles"')


def build_held_out(recipe: Recipe, processor: HiComProcessor) -> HiComDataset | None:
    """The data that a recipe evaluates on, if it does; errors as of `build_dataset`."""
    if recipe.eval is None:
        return None
    encoder = build_encoder(recipe, processor)
    if recipe.eval.share is None:
        dataset = _dataset_of(recipe, recipe.eval.files, encoder)
    else:
        dataset = _dataset_of(recipe, recipe.data.files, encoder, "held out")
    logger.info("Held-out data: %s.", dataset.summary())
    return dataset


def build_evaluation(recipe: Recipe, held_out: HiComDataset | None) -> HeldOutEvaluation | None:
    """How held-out data are evaluated; None leaves it to transformers, where weights are sharded.

    Raises:
        ValueError, FileNotFoundError, ImportError: `eval.answers` names no scorer, or none for these data.
    """
    section = recipe.eval
    if section is None or held_out is None or recipe.sharding in ("fsdp2", "fsdp2_offload"):
        return None
    evaluation = HeldOutEvaluation(
        held_out,
        None if section.answers is None else scorer_named(section.answers),
        max_samples=section.max_samples,
        seed=recipe.seed,
        max_new_tokens=section.max_new_tokens,
        batch_size=recipe.batch_size_per_device,
        num_workers=recipe.data.num_workers,
        skip_logits=recipe.skip_logits,
    )
    groups = evaluation.groups
    logger.info(
        "Evaluation: %d of the %d held-out samples, in %d groups.", groups.num_samples, len(held_out), len(groups)
    )
    return evaluation


def build_encoder(recipe: Recipe, processor: HiComProcessor) -> ItemEncoder:
    """How samples are read, for training and evaluation alike; what the recipe does not say is the processor's own."""
    data = recipe.data
    sampling = processor.video_processor.frame_sampling(
        num_frames=data.num_frames, fps=data.fps, max_frames=data.max_frames
    )
    access = media_access_of(data.media, data.allowed_local_media_path, data.allowed_media_domains)
    return ItemEncoder(
        processor,
        sampling,
        media_access=access,
        max_length=data.max_length,
        raw_pixels=True,
        selection=data.selection,
        tiles=data.tiles,
    )


def _dataset_of(recipe: Recipe, files: list[str], encoder: ItemEncoder, side: Side | None = None) -> HiComDataset:
    data, share = recipe.data, recipe.eval.share if recipe.eval is not None else None
    part = None if side is None or share is None else (share, recipe.seed, side)
    try:
        return HiComDataset(
            RecordSource(files, data.media_root, recipe.seed, part),
            encoder,
            per_turn=data.per_turn,
            on_bad_sample=data.on_bad_sample,
            index=data.index or Path(recipe.output_dir) / INDEX_FOLDER,
        )
    except NoSampleError as error:
        if part is None:
            raise
        raise ValueError(
            f"eval.share {share} leaves nothing on the side {side!r} of data.files: {error}. Choose another share, or give "
            "eval.files"
        ) from error


def selected_frames(
    recipe: Recipe, model: HiComForConditionalGeneration, dataset: HiComDataset, device: torch.device
) -> SelectedFrames:
    """The frames that the questions of a data set choose; each process encodes the candidates of a part of the videos."""
    encoder = dataset.encoder
    chosen = SelectedFrames(
        recipe.data.index or Path(recipe.output_dir) / INDEX_FOLDER, model, encoder.processor, encoder.reader
    )
    known = len(chosen)
    if _fill(chosen, dataset.items(), recipe, model, device):
        chosen.refresh()
    used = ", ".join(f"{rule} {count}" for rule, count in sorted(chosen.rules.items()))
    logger.info(
        "Chosen frames: %d choices in %s, %d of them new (%s).", len(chosen), chosen.folder, len(chosen) - known, used
    )
    return chosen


def _fill(
    store: FeatureCache | SelectedFrames,
    wanted: Any,
    recipe: Recipe,
    model: HiComForConditionalGeneration,
    device: torch.device,
) -> bool:
    """Make what a store lacks of media or items, each process a part; whether there are other processes that did."""
    several = distributed.is_available() and distributed.is_initialized()
    with _without_llm_on(device, model):
        store.fill(
            model,
            wanted,
            on_bad_sample=recipe.data.on_bad_sample,
            rank=distributed.get_rank() if several else 0,
            world_size=distributed.get_world_size() if several else 1,
            progress=lambda values, total, name: tqdm(values, total=total, desc=name, disable=None, file=sys.stderr),
        )
    if several:
        distributed.barrier()
    return several


@contextmanager
def _without_llm_on(device: torch.device, model: HiComForConditionalGeneration) -> Iterator[None]:
    """Towers and compressor on a device, and afterwards where they were: the whole model need not fit if it is to be sharded."""
    parts = (model.model.vision_tower, model.model.instruction_encoder, model.model.compressor)
    before = [next(part.parameters()).device for part in parts]
    for part in parts:
        nn.Module.to(part, device)
    try:
        yield
    finally:
        for part, place in zip(parts, before, strict=True):
            nn.Module.to(part, place)


def filled_cache(
    recipe: Recipe, model: HiComForConditionalGeneration, dataset: HiComDataset, device: torch.device
) -> FeatureCache:
    """SigLIP's features of all of a data set's videos and images; each process encodes a part of those that are missing."""
    autocast = torch.bfloat16 if recipe.precision == "bf16" else None
    cache = FeatureCache(cast(str, recipe.data.feature_cache), model, dataset.encoder.reader, autocast_dtype=autocast)
    _fill(cache, dataset.media(), recipe, model, device)
    return cache


# The result --------------------------------------------------------------------------------------------------------------


def save_finished(trainer: HiComTrainer, recipe: Recipe) -> Path:
    """Write model, processor and recipe as one folder, complete or not at all.

    A model is stored in the type of `recipe.precision`; an adapter in float32.
    """
    destination = Path(recipe.output_dir) / MODEL_FOLDER
    config = trainer.accelerator.unwrap_model(trainer.model).config
    trained = [part for part, rate in asdict(recipe.learning_rates).items() if rate is not None]
    config.untrained_parts = still_untrained(config.untrained_parts, trained)
    trainer.final_dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    if trainer.args.process_index == 0:
        with atomic_folder(destination) as folder:
            _save_into(trainer, recipe, folder)
    else:  # sharded weights are gathered by all
        trainer.save_model(str(destination))
    trainer.accelerator.wait_for_everyone()
    return destination


def _save_into(trainer: HiComTrainer, recipe: Recipe, folder: Path) -> None:
    trainer.save_model(str(folder))
    name_magnitudes(folder)
    (folder / "training_args.bin").unlink(
        missing_ok=True
    )  # a pickle with paths of this machine; the recipe has the same content
    (folder / RECIPE_FILE).write_text(recipe_text(recipe), encoding="utf-8")
