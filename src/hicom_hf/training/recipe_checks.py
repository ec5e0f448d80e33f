"""What a recipe's values must be to fit together; nothing is read from disk here."""

from dataclasses import asdict

from ..data.record_files import TAR_SUFFIXES
from ..processors.frame_selection_hicom import FrameSelection
from .recipe import HUB_DATASETS, HUB_PREFIX, EvalRecipe, Recipe, is_stream

# What each stage trains. Source: paper, figure 3 and table A1; the last two of instruction tuning: release script.
MUST_TRAIN: dict[str, tuple[str, ...]] = {
    "alignment": ("compressor",),
    "conditional_pretraining": ("compressor", "injection"),
    "instruction_tuning": ("language_model",),
}
MAY_TRAIN: dict[str, tuple[str, ...]] = {
    "alignment": ("compressor",),
    "conditional_pretraining": ("compressor", "injection"),
    "instruction_tuning": ("compressor", "injection", "language_model", "vision_head", "instruction_encoder"),
}


def check_values(recipe: Recipe, name: str) -> None:
    """Refuse values out of range and keys that contradict each other, naming them."""
    at_least_one = {
        "batch_size": recipe.batch_size,
        "batch_size_per_device": recipe.batch_size_per_device,
        "data.max_length": recipe.data.max_length,
        "checkpoints.every": recipe.checkpoints.every,
        "checkpoints.keep": recipe.checkpoints.keep,
        "logging.every": recipe.logging.every,
    }
    optional = {
        "max_steps": recipe.max_steps,
        "data.num_frames": recipe.data.num_frames,
        "data.max_frames": recipe.data.max_frames,
    }
    if recipe.eval is not None:
        keys = ("every", "patience", "max_samples", "max_new_tokens")
        optional |= {f"eval.{key}": getattr(recipe.eval, key) for key in keys}
    at_least_one |= {key: value for key, value in optional.items() if value is not None}
    if recipe.lora is not None:
        at_least_one |= {"lora.rank": recipe.lora.rank, "lora.alpha": recipe.lora.alpha}
    for key, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"{name}: {key} must be at least 1, got {value}")
    for key in ("num_workers", "shuffle_buffer", "max_skipped"):
        if (getattr(recipe.data, key) or 0) < 0:
            raise ValueError(f"{name}: data.{key} must be at least 0, got {getattr(recipe.data, key)}")
    if not recipe.epochs > 0:
        raise ValueError(f"{name}: epochs must be above 0, got {recipe.epochs}")
    for key in ("beta1", "beta2", "warmup"):
        if not 0 <= getattr(recipe.optimizer, key) < 1:
            raise ValueError(f"{name}: optimizer.{key} must be in [0, 1), got {getattr(recipe.optimizer, key)}")
    for key in ("epsilon", "weight_decay", "max_grad_norm"):
        if getattr(recipe.optimizer, key) < 0:
            raise ValueError(f"{name}: optimizer.{key} must not be negative, got {getattr(recipe.optimizer, key)}")
    check_batch(recipe, name)
    _check_rates(recipe, name)
    _check_combinations(recipe, name)


def check_batch(recipe: Recipe, name: str, processes: int = 1) -> None:
    """Refuse batches that do not divide over the processes of a run."""
    if recipe.batch_size % (recipe.batch_size_per_device * processes):
        times = f" times {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"{name}: batch_size {recipe.batch_size} is not a multiple of batch_size_per_device "
            f"{recipe.batch_size_per_device}{times}"
        )


def _check_rates(recipe: Recipe, name: str) -> None:
    """Refuse to train what the stage does not, or not what it does."""
    rates = {part: rate for part, rate in asdict(recipe.learning_rates).items() if rate is not None}
    for part, rate in rates.items():
        if not rate > 0:
            raise ValueError(f"{name}: learning_rates.{part} must be above 0, or null to freeze the part; got {rate}")
        if part not in MAY_TRAIN[recipe.stage]:
            raise ValueError(
                f"{name}: learning_rates.{part} must be null: the stage {recipe.stage} trains "
                f"{', '.join(MAY_TRAIN[recipe.stage])} only"
            )
    for part in MUST_TRAIN[recipe.stage]:
        if part not in rates:
            raise ValueError(f"{name}: learning_rates.{part} is missing: the stage {recipe.stage} trains the {part}")


def _check_combinations(recipe: Recipe, name: str) -> None:
    """Refuse keys that exclude each other."""
    if recipe.lora is not None:
        if recipe.stage != "instruction_tuning":
            raise ValueError(f"{name}: lora needs the stage instruction_tuning; {recipe.stage} does not train the LLM")
        for part in ("vision_head", "instruction_encoder"):
            if getattr(recipe.learning_rates, part) is not None:
                raise ValueError(
                    f"{name}: learning_rates.{part} must be null with lora, whose folder holds the LLM's adapters and the "
                    "compressor only"
                )
        if (recipe.learning_rates.compressor is None) != (recipe.learning_rates.injection is None):
            raise ValueError(
                f"{name}: with lora the compressor is trained and saved whole: give learning_rates.compressor and "
                "learning_rates.injection both, or neither"
            )
        if not 0 <= recipe.lora.dropout < 1:
            raise ValueError(f"{name}: lora.dropout must be in [0, 1), got {recipe.lora.dropout}")
        if recipe.sharding is not None and recipe.lora.quantize is not None:
            raise ValueError(f"{name}: sharding must be null with lora.quantize; quantized weights are not sharded")
    if recipe.stage == "alignment" and recipe.data.per_turn:
        raise ValueError(
            f"{name}: data.per_turn must be false in the stage alignment, which injects no instruction (release: whole "
            "dialogues, all answers supervised)"
        )
    if recipe.stage == "alignment" and recipe.new_injection is not None:
        raise ValueError(
            f"{name}: new_injection must be null in the stage alignment: `hicom init` builds the injections"
        )
    if recipe.stage != "alignment" and not recipe.data.per_turn:
        raise ValueError(
            f"{name}: data.per_turn must be true in {recipe.stage}: every answer is conditioned on its question"
        )
    _check_data(recipe, name)
    if recipe.eval is not None:
        _check_evaluation(recipe, recipe.eval, name)


def _check_evaluation(recipe: Recipe, section: EvalRecipe, name: str) -> None:
    """Refuse held-out data that are not stated, and evaluations whose best checkpoint would not be there."""
    if bool(section.files) == (section.share is not None):
        raise ValueError(f"{name}: give one of eval.files and eval.share")
    if section.share is not None:
        if not 0 < section.share < 1:
            raise ValueError(f"{name}: eval.share must be between 0 and 1, got {section.share}")
        if recipe.data.is_stream:
            raise ValueError(
                f"{name}: eval.share must be null with streams, of which no part is read twice; give eval.files"
            )
    if any(is_stream(source) for source in section.files):
        raise ValueError(f"{name}: eval.files must be JSON, JSONL or mixture files; streams have no end")
    if section.answers is not None and recipe.sharding in ("fsdp2", "fsdp2_offload"):
        raise ValueError(
            f"{name}: eval.answers must be null with sharding {recipe.sharding}, which cannot generate text"
        )
    if section.best_by == "score" and section.answers is None:
        raise ValueError(f"{name}: eval.best_by score needs eval.answers")
    if section.patience is not None and not section.keep_best:
        raise ValueError(f"{name}: eval.patience needs eval.keep_best, to end with the best checkpoint")
    if section.keep_best and recipe.checkpoints.every % section.every:
        raise ValueError(
            f"{name}: checkpoints.every must be a multiple of eval.every with eval.keep_best, so that the best "
            f"weights are in a checkpoint; got {recipe.checkpoints.every} and {section.every}"
        )
    if section.keep_best and recipe.sharding is not None:
        raise ValueError(f"{name}: eval.keep_best must be false with sharding")


def _check_data(recipe: Recipe, name: str) -> None:
    """Refuse ways of reading the data that do not go with them, or with what is trained."""
    if (recipe.data.num_frames is None) == (recipe.data.fps is None):
        raise ValueError(f"{name}: give one of data.num_frames and data.fps, and set the other one to null")
    if recipe.data.fps is not None and not recipe.data.fps > 0:
        raise ValueError(f"{name}: data.fps must be above 0, got {recipe.data.fps}")
    if recipe.data.max_frames is not None and recipe.data.fps is None:
        raise ValueError(f"{name}: data.max_frames is for data.fps; data.num_frames is a fixed number")
    restricted = recipe.data.allowed_local_media_path or recipe.data.allowed_media_domains
    if recipe.data.media == "open" and restricted:
        raise ValueError(
            f"{name}: data.allowed_local_media_path and data.allowed_media_domains go with data.media guarded; open allows all"
        )
    _check_shares(recipe, name)
    if recipe.data.selection is not None:
        _check_selection(recipe, recipe.data.selection, name)
    if recipe.data.tiles is not None:
        if recipe.stage == "alignment":
            raise ValueError(f"{name}: data.tiles must be null in the stage alignment: no question chooses there")
        check_tiles(recipe, name, "data.tiles must be null")
    if recipe.data.is_stream:
        for source in recipe.data.files:
            if source.startswith(HUB_PREFIX) and not source.startswith(HUB_DATASETS):
                raise ValueError(
                    f"{name}: data.files: a dataset of the Hub is {HUB_DATASETS}OWNER/NAME, got {source!r}"
                )
        if recipe.max_steps is None:
            raise ValueError(f"{name}: max_steps is missing: data.files are streams, whose length is not known")
        if recipe.data.feature_cache is not None:
            raise ValueError(f"{name}: data.feature_cache must be null with streams")
    if recipe.data.feature_cache is not None:
        if recipe.learning_rates.vision_head is not None:
            raise ValueError(
                f"{name}: data.feature_cache must be null while learning_rates.vision_head is set: features of a tower that "
                "is trained change with every step"
            )
        if recipe.sharding is not None:
            raise ValueError(f"{name}: data.feature_cache must be null with sharding; it is for small data and models")


def _check_selection(recipe: Recipe, selection: FrameSelection, name: str) -> None:
    """Refuse to choose frames where no question or no fixed budget does."""
    if recipe.stage == "alignment":
        raise ValueError(f"{name}: data.selection must be null in the stage alignment: no question chooses there")
    if recipe.data.is_stream:
        raise ValueError(
            f"{name}: data.selection must be null with streams: frames are chosen before training, and streams are read as "
            "they come; train from JSON files"
        )
    if selection.num_frames is None:
        raise ValueError(f"{name}: data.selection.num_frames is missing: the budget in training is a number of frames")
    check_choosing(recipe, name, "data.selection must be null")


def check_choosing(recipe: Recipe, name: str, what: str) -> None:
    """Refuse to train what scores frames while questions choose frames.

    Args:
        recipe: in which questions choose.
        name: of the recipe.
        what: is to be changed, for the message.
    """
    for part in ("vision_head", "instruction_encoder"):
        if getattr(recipe.learning_rates, part) is not None:
            raise ValueError(
                f"{name}: {what} while learning_rates.{part} is set: the scores that choose frames change with every step"
            )


def check_tiles(recipe: Recipe, name: str, what: str) -> None:
    """Refuse to train the features of tiles.

    Args:
        recipe: in which frames are seen as tiles.
        name: of the recipe.
        what: is to be changed, for the message.
    """
    if recipe.learning_rates.vision_head is not None:
        raise ValueError(
            f"{name}: {what} while learning_rates.vision_head is set: the features of squares are computed without gradients"
        )


def _check_shares(recipe: Recipe, name: str) -> None:
    """Refuse several streams without `data.shares`, and `data.shares` without a stream."""
    files, shares = recipe.data.files, recipe.data.shares
    if shares is None:
        tars = all(source.lower().endswith(TAR_SUFFIXES) for source in files)
        if recipe.data.is_stream and len(files) > 1 and not tars:
            raise ValueError(
                f"{name}: data.shares is missing: data.files mix a stream with other data, so give the share of each, "
                f"[0.5, 0.5] for example; {len(files)} are needed"
            )
        return
    if not recipe.data.is_stream:
        raise ValueError(
            f"{name}: data.shares is for streams, and data.files are none; a mixture (.yaml) says how much of each file is taken"
        )
    if len(shares) != len(files) or len(set(files)) != len(files):
        raise ValueError(
            f"{name}: data.shares must have one number for each of data.files, which are to be named once each; got "
            f"{len(shares)} for {len(files)} files"
        )
    if not all(share > 0 for share in shares):
        raise ValueError(f"{name}: data.shares must be above 0, got {shares}")
