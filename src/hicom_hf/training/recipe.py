"""Recipes: everything that decides a training run, in one typed YAML file, checked before any model is loaded.

`recipe_reading` reads one, `recipe_checks` says what its values must be, `recipe_files` what its files must be.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..assets import model_source
from ..data.record_files import TAR_SUFFIXES
from ..processors.frame_selection_hicom import FrameSelection
from ..processors.frame_tiles_hicom import FrameTiles

HUB_PREFIX = "hf://"  # in front of OWNER/NAME, as huggingface_hub's file system writes it
HUB_DATASETS = f"{HUB_PREFIX}datasets/"

Stage = Literal["alignment", "conditional_pretraining", "instruction_tuning"]


def is_stream(source: str) -> bool:
    """Whether a file of records is read as it comes."""
    return source.startswith(HUB_PREFIX) or source.lower().endswith(TAR_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rate of each part of the model; null is frozen. Which parts a stage may train: see `stages`.

    Args:
        compressor: everything in the compressor but the injections.
        injection: the modules through which the instruction enters the compressor.
        language_model: the LLM with its embeddings and `lm_head`; with `lora`, its adapters.
        vision_head: layer norm and MLP of SigLIP's pooling head (the release trains them in instruction tuning).
        instruction_encoder: SigLIP's text tower (likewise).
    """

    compressor: float | None = None
    injection: float | None = None
    language_model: float | None = None
    vision_head: float | None = None
    instruction_encoder: float | None = None


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is trained on.

    Args:
        files: JSON, JSONL or mixture YAML; or streams: webdataset tar shards (with `*` or `{000..127}`), or
            `hf://datasets/OWNER/NAME` of the Hub. Streams need `max_steps`.
        shares: of each of `files`, for streams: every record is drawn of one of them at random, by these shares, and a file or
            stream that ends begins again. Needed to mix streams with files, or with data sets of the Hub; null reads tar shards
            as one stream.
        media_root: the folder that paths of videos and images in the files are relative to; null: that of each file.
        num_frames: frames of a video, sampled uniformly, unless its record has a `num_frames`. 32: paper, section 4.1. Null
            with `fps`.
        fps: frames per second that are sampled of a video, in place of a fixed number.
        max_frames: the most that `fps` gives; longer videos are sampled more sparsely.
        selection: the question of each sample chooses among these frames: the fields of `FrameSelection`, with `num_frames` as
            the budget (docs/long_video.md). A record's own `selection` comes before it. The model that the run starts from
            chooses once before training. Null: every question sees all frames.
        tiles: frames and images are seen as overlapping squares, and the question of each sample chooses among their patches:
            the fields of `FrameTiles` (docs/tiles.md). A record's own `tiles` comes before it. The model chooses in every step,
            by its weights of that step. With `selection`, frames are chosen by these squares, too, unless `score_candidates` is
            false. Null: frames are padded.
        max_length: tokens of a sample, visual ones included. 4096: release script.
        per_turn: one sample per answer, conditioned on its question; false: whole dialogues, no instruction (alignment).
        on_bad_sample: "raise" stops with the sample's path, "skip" counts it and lists it in
            `OUTPUT_DIR/skipped_<process>.jsonl`. Never replaced by another.
        max_skipped: with "skip", stop when a process has left out more samples than this; null: never.
        group_by: what the samples of a batch have in common, to waste less on padding: null, "length" (and modality, as in
            the release), "modality", or "visual_tokens" (as many of them). Streams come as they come.
        packing: lay the `batch_size_per_device` samples of a batch end to end in one row, without padding: the same losses and
            gradients. Refused for LLMs that do not keep them apart. Worth it with flash attention, or where lengths differ much.
        answers_together: samples about the same videos come in one batch of one GPU, where the videos are read once for all of
            them. Epochs are shuffled by video then. Streams do so always.
        index: a folder for indices of the records, which lie on disk and in memory once for all processes of a machine, and for
            the frames that questions choose; later runs on the same files open them at once. Null: `OUTPUT_DIR/records`.
        shuffle_buffer: records of a stream that are shuffled among each other; every loader process holds as many, with the
            files of their videos.
        feature_cache: a folder to keep SigLIP's features in, for small data and frozen towers; its size is reported before
            anything is written.
        num_workers: processes that read videos, per GPU.
        media: "open" reads all files and servers that the user may; "guarded", for records of strangers, only public servers
            and what the next two name (docs/untrusted_input.md).
        allowed_local_media_path: with "guarded", folders below which files may be read.
        allowed_media_domains: with "guarded", the only hosts that may be asked, and their subdomains; null: all.
    """

    files: list[str]
    shares: list[float] | None = None
    media_root: str | None = None
    num_frames: int | None = 32
    fps: float | None = None
    max_frames: int | None = None
    selection: FrameSelection | None = None
    tiles: FrameTiles | None = None
    max_length: int = 4096
    per_turn: bool = True
    on_bad_sample: Literal["raise", "skip"] = "raise"
    max_skipped: int | None = None
    group_by: Literal["length", "modality", "visual_tokens"] | None = "length"
    packing: bool = False
    answers_together: bool = False
    index: str | None = None
    shuffle_buffer: int = 1000
    feature_cache: str | None = None
    num_workers: int = 4
    media: Literal["open", "guarded"] = "open"
    allowed_local_media_path: list[str] | None = None
    allowed_media_domains: list[str] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the data are read as they come, without a length."""
        return any(is_stream(source) for source in self.files)


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Low-rank adapters on the LLM in place of its weights; the compressor is trained whole and saved with them.

    Args:
        rank, alpha, dropout: of the adapters.
        targets: which matrices of the LLM's layers are adapted, by their names there or the ends of them: "q_proj", for example,
            or, of a mixture of experts, "experts.gate_up_proj". Null: all linear maps; what is left over is named in the log.
        dora: also learn the norm of each column (DoRA, arXiv:2402.09353).
        rslora: scale by alpha / sqrt(rank) in place of alpha / rank (rsLoRA, arXiv:2312.03732), for large ranks.
        quantize: "nf4" keeps the frozen LLM in 4 bits (QLoRA; needs bitsandbytes). SigLIP, compressor and `lm_head` stay.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.05
    targets: list[str] | None = None
    dora: bool = False
    rslora: bool = False
    quantize: Literal["nf4"] | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """AdamW and its schedule.

    Args:
        beta1, beta2, epsilon: 0.9, 0.999, 1e-8 in the release.
        weight_decay: 0 in the release; biases and norms never decay.
        schedule: of all learning rates.
        warmup: fraction of the steps in which rates rise from 0. 0.03: release script.
        max_grad_norm: gradients are scaled down to this norm, 0 leaves them. `Differs:` 1.0 is the default of the
            transformers trainer; the release's DeepSpeed files drop it, so its runs were, as far as can be read, unclipped.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup: float = 0.03
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """When training can be resumed from.

    Args:
        every: steps from one checkpoint to the next.
        keep: how many of the newest stay; the older ones go once a newer one is complete.
        trainable_only: leave out frozen weights; resuming takes them from `model` again.
    """

    every: int = 500
    keep: int = 2
    trainable_only: bool = False


@dataclass(frozen=True, kw_only=True)
class LoggingRecipe:
    """Logging and progress.

    Args:
        every: steps from one line to the next.
        tensorboard: also write event files, to `OUTPUT_DIR/tensorboard`.
        progress_bar: on the terminal.
    """

    every: int = 10
    tensorboard: bool = False
    progress_bar: bool = True


@dataclass(frozen=True, kw_only=True)
class EvalRecipe:
    """Evaluation on held-out data while training: the loss, and answers that are generated and marked.

    Args:
        files: JSON, JSONL or mixture YAML, read like the training data. None of their videos should occur in `data`.
            Left out with `share`.
        share: in place of `files`, the share of the videos and images of `data.files` that is held out; no video is on both
            sides.
        every: steps from one evaluation to the next.
        max_samples: most samples of an evaluation, which bounds its time; whole videos are drawn once, by `seed`. Null: all.
        answers: also generate answers and mark them by "exact" (the same words), "choice" (the letter of an option, parsed as in
            `hicom eval`), or a function of yours, `FILE.py:FUNCTION` or `MODULE:FUNCTION`, which is called with question,
            answer and right answer and returns a number. Null: the loss alone.
        max_new_tokens: where a generated answer is cut.
        best_by: what says which checkpoint is the best: the lowest "loss" or the highest "score" of the answers.
        keep_best: keep the best checkpoint, and make the finished model of it.
        patience: stop after as many evaluations that were not better than the best; null trains to the end.
    """

    files: list[str] = field(default_factory=list)
    share: float | None = None
    every: int = 500
    max_samples: int | None = 500
    answers: str | None = None
    max_new_tokens: int = 32
    best_by: Literal["loss", "score"] = "loss"
    keep_best: bool = True
    patience: int | None = None


@dataclass(frozen=True, kw_only=True)
class NewInjection:
    """Injections to build into a model that has none: an official stage-1 projector after conversion.

    Args:
        local_injection, global_injection: as in `HiComCompressorConfig`.
    """

    local_injection: Literal["none", "direct", "coarse", "fine"] = "none"
    global_injection: Literal["none", "direct", "coarse", "fine"] = "none"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run.

    Args:
        stage: "alignment", "conditional_pretraining" or "instruction_tuning" (paper, figure 3).
        model: the folder that it starts from, with model and processor: `hicom init` for the first stage, `OUTPUT_DIR/model`
            of the stage before for the others; `hf://OWNER/NAME`; or `hicom-tiny`, the model in the package.
        output_dir: checkpoints, logs and, at the end, the folder `model`.
        data, learning_rates: see there.
        batch_size: samples per optimiser step, over all GPUs.
        batch_size_per_device: of them at a time on one GPU; the rest is accumulated.
        epochs: passes over the data. 1: paper, table A1.
        max_steps: stop after this many optimiser steps; needed for data without a length (streams).
        precision: "bf16" computes in bfloat16 and keeps trained weights in float32; "fp32" does all in float32.
        gradient_checkpointing: compute activations twice rather than keep them.
        skip_logits: compute logits of labelled tokens only: the same loss and gradients for a fraction of the memory (not with
            `trainer.label_smoothing_factor`); false computes all.
        seed: of the order of the data, of dropout and of new weights.
        deterministic: let PyTorch use deterministic GPU kernels only, so that a resumed run is bit-identical there as well
            (on the CPU it always is); slower.
        sharding: null (DDP when there are several GPUs), "fsdp2" (the LLM's layers one by one, the rest as a whole),
            "fsdp2_offload" (the same, kept in the host's memory between uses) or "zero2". No ZeRO-3: it gathers weights at each
            call of a module, and processes whose videos differ in length call SigLIP and the compressor a different number of
            times (`configs/accelerate_zero3.yaml` is for data where they do not).
        cpu: train on the CPU even if there is a GPU.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...; null lets transformers choose. For small models on CPUs
            "eager" is about twice as fast.
        new_injection, lora, optimizer, checkpoints, logging, eval: see there.
        trainer: further `TrainingArguments` of transformers by name, for what has no key here: `report_to` (wandb, mlflow,
            trackio, ...), `optim`, `torch_compile`, `use_liger_kernel` (the LLM's kernels), `neftune_noise_alpha`, ...
    """

    stage: Stage
    model: str
    output_dir: str
    data: DataRecipe
    learning_rates: LearningRates
    batch_size: int
    batch_size_per_device: int = 1
    epochs: float = 1.0
    max_steps: int | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    skip_logits: bool = True
    seed: int = 42
    deterministic: bool = False
    sharding: Literal["fsdp2", "fsdp2_offload", "zero2"] | None = None
    cpu: bool = False
    attn_implementation: str | None = None
    new_injection: NewInjection | None = None
    lora: LoraRecipe | None = None
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    logging: LoggingRecipe = field(default_factory=LoggingRecipe)
    eval: EvalRecipe | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where `model` is: a folder, or a name on the Hub."""
        return model_source(self.model.removeprefix(HUB_PREFIX))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values; `recipe_from_dict` takes it back."""
        return asdict(self)
