"""What a recipe needs of memory, estimated before a model is loaded.

A step is computed with tensors that have a shape and no content, so it needs neither weights nor a GPU: forward and backward,
with the recipe's precision, LoRA and checkpointing. What live tensors occupy at their peak is counted. Not counted is what no
tensor holds: CUDA's context and kernels (about 0.5 to 1 GiB) and the gaps of the allocator.

Letters: B samples of a batch, L tokens of the longest, K labelled ones of it, T frames, S image side, V vocabulary, P processes.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from ..data.bad_samples import SampleError
from ..data.datasets import HiComDataset
from ..data.encoding import IGNORED, ItemEncoder
from ..data.streaming import HiComStreamingDataset
from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from .adapters import add_adapters
from .live_bytes import LiveBytes
from .recipe import Recipe
from .stages import base_model, cast_for_training, set_trainable, stage_config

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

GIB = 2**30
SAMPLES_LOOKED_AT = 64  # of the longest, to learn how many of their tokens are labelled
PREFETCHED_BATCHES = 2  # of each loader process, PyTorch's default
PROCESS_BYTES = int(0.9 * GIB)  # a Python process with torch and transformers imported; our measurement
LOADER_BYTES = int(0.15 * GIB)  # a loader process beside its parent, whose pages it shares
NF4_BYTES = 0.5 + 0.127 / 8  # per weight, with double quantization (QLoRA, section 3)
DEFAULT_OPTIMIZER_BYTES = 8  # per trained number: two moments of AdamW in float32
OPTIMIZER_BYTES = {"8bit": 2, "bnb_8bit": 2, "adafactor": 0, "sgd": 0, "lion_32bit": 4}  # by a part of `trainer.optim`


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that a process may meet.

    Attributes:
        num_rows: B.
        num_tokens: L.
        num_labelled: K.
        num_frames: T of each row's video; 0 where there are none.
    """

    num_rows: int
    num_tokens: int
    num_labelled: int
    num_frames: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one GPU, and of a machine with `processes` of them.

    Attributes:
        batch: what it was computed for.
        weights, gradients, optimizer: of one GPU.
        logits: of labelled tokens, and their gradients.
        activations: everything else at the peak.
        host: memory of the machine: all processes and their loaders, without what is mapped from disk.
        shared: of it in `/dev/shm`: batches on their way from loader processes.
        shared_there: size of `/dev/shm` here; None where there is none.
        processes: on this machine.
        num_choosing: samples whose question chooses frames before training.
        num_tiled: samples that see frames as tiles.
    """

    batch: LargestBatch
    weights: float
    gradients: float
    optimizer: float
    logits: float
    activations: float
    host: float
    shared: float
    shared_there: int | None
    processes: int
    num_choosing: int = 0
    num_tiled: int = 0

    @property
    def gpu(self) -> float:
        """Of one GPU, all together."""
        return self.weights + self.gradients + self.optimizer + self.logits + self.activations

    def table(self) -> str:
        """For a person."""
        rows = [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
        ]
        parts = "\n".join(f"  {name:12}{_size(value):>12}" for name, value in rows)
        batch = self.batch
        there = "" if self.shared_there is None else f", {_size(self.shared_there)} are there"
        shared = f"{_size(self.shared)}{there}"
        if self.shared_there is not None and self.shared > self.shared_there:
            shared += "; too small: lower data.num_workers, or start the container with a larger --shm-size"
        return (
            f"Estimated for {batch.num_rows} x {batch.num_tokens} tokens ({batch.num_labelled} labelled, {batch.num_frames} "
            f"frames each):\nper GPU       {_size(self.gpu):>12}, and about 0.5 to 1 GiB of CUDA itself\n{parts}\n"
            f"host memory   {_size(self.host):>12} for {self.processes} processes and their loaders\n"
            f"/dev/shm      {shared:>12}{self._choosing()}"
        )

    def _choosing(self) -> str:
        lines = ""
        if self.num_choosing:
            lines += (
                f"\nBefore training, the questions of {self.num_choosing} samples choose frames: all candidates of each video "
                "are encoded once."
            )
        if self.num_tiled:
            lines += (
                f"\n{self.num_tiled} samples see frames as tiles. Counted is one square of each frame; one of 16:9 has two at "
                "zoom 1, and all of them are held while they are encoded."
            )
        return lines


def _size(value: float) -> str:
    return f"{value / GIB:.2f} GiB" if value >= GIB / 10 else f"{value / 2**20:.1f} MiB"


def estimate_memory(recipe: Recipe, dataset: HiComDataset | HiComStreamingDataset) -> MemoryEstimate:
    """What a run needs at its peak.

    Args:
        recipe: of the run.
        dataset: its training data, whose longest samples make the batch.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    batch = largest_batch(recipe, dataset)
    estimate = _of_one_gpu(recipe, batch)
    side = dataset.encoder.processor.video_processor.size["height"]
    pixels = batch.num_rows * batch.num_frames * 3 * side**2  # uint8
    workers = recipe.data.num_workers
    shared = processes * workers * PREFETCHED_BATCHES * (pixels + batch.num_rows * batch.num_tokens * 16)
    host = processes * (PROCESS_BYTES + workers * LOADER_BYTES + pixels * 5) + shared  # and the batch in float32
    if not recipe.cpu:
        host += processes * estimate.weights  # while a process loads them
    there = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    return replace(
        _sharded(estimate, recipe, int(os.environ.get("WORLD_SIZE", "1"))),
        host=host,
        shared=shared,
        shared_there=None if there is None else there.f_frsize * there.f_blocks,
        processes=processes,
        num_choosing=dataset.num_choosing if isinstance(dataset, HiComDataset) else 0,
        num_tiled=dataset.num_tiled if isinstance(dataset, HiComDataset) else 0,
    )


def largest_batch(recipe: Recipe, dataset: HiComDataset | HiComStreamingDataset) -> LargestBatch:
    """The longest samples of the data, as many as a process takes at a time; of a stream, the longest that is let through."""
    rows = recipe.batch_size_per_device
    encoder = dataset.encoder
    if not isinstance(dataset, HiComDataset):
        frames = recipe.data.num_frames or recipe.data.max_frames or encoder.reader.video_processor.num_frames
        length = recipe.data.max_length
        return LargestBatch(rows, length, max(1, length - encoder.processor.num_visual_tokens(frames)), frames)
    longest = np.argsort(dataset.lengths)[-max(rows, SAMPLES_LOOKED_AT) :]
    labelled, tokens, frames, refused = 1, 1, 0, []
    for index in longest:
        item = dataset.item(int(index))
        counts = [encoder.reader.most_frames(medium) or recipe.data.max_frames or 0 for medium in item.media]
        frames = max(frames, sum(counts))
        try:
            length, answer = _tokens_of(encoder, item, counts)
        except SampleError as error:  # a video with fewer frames than are asked for may still fit
            refused.append(error)
            length, answer = recipe.data.max_length, 1
        tokens, labelled = max(tokens, length), max(labelled, answer)
    if refused:
        logger.warning(
            "%d of the %d longest samples cannot be used; `hicom data check` lists all. The first one: %s",
            len(refused),
            len(longest),
            refused[0],
        )
    return LargestBatch(rows, min(tokens, recipe.data.max_length), labelled, frames)


def _tokens_of(encoder: ItemEncoder, item, frames: list[int]) -> tuple[int, int]:
    """All tokens and labelled tokens of a sample, nothing decoded; `SampleError` of one that training will refuse."""
    ids, labels = encoder.tokenize(item, [encoder.processor.num_visual_tokens(count) for count in frames])
    return len(ids), sum(label != IGNORED for label in labels)


# A step without content ----------------------------------------------------------------------------------------------------


def _of_one_gpu(recipe: Recipe, batch: LargestBatch) -> MemoryEstimate:
    """The peak of a step where nothing is sharded; host and shared memory are left at 0."""
    model = model_without_weights(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True), _as_if_compiling():
        _without_content(model)
        base = base_model(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = {parameter.untyped_storage(): parameter for parameter in model.parameters()}  # tied ones once
        size = float(sum(parameter.numel() * parameter.element_size() for parameter in weights.values()))
        if recipe.batch_size > recipe.batch_size_per_device * int(os.environ.get("WORLD_SIZE", "1")):
            for parameter in trained:  # of the batches before in the same step
                parameter.grad = torch.zeros_like(parameter)
        live = LiveBytes()
        live.add([*model.parameters(), *model.buffers(), *(parameter.grad for parameter in trained)])
        with live:
            _step(model, base, recipe, batch)
    saved = 0.0
    if recipe.lora is not None and recipe.lora.quantize == "nf4":
        quantized = _quantized_numbers(base)
        saved = quantized * (2 - NF4_BYTES)
    gradients = 4.0 * sum(parameter.numel() for parameter in trained)
    per_number = _optimizer_bytes(recipe)
    vocabulary = base.config.text_config.vocab_size
    kept = batch.num_labelled if recipe.skip_logits else batch.num_tokens
    half = 2 if recipe.precision == "bf16" else 4
    # The logits, their copy in float32, the probabilities, and the gradient of each.
    logits = float(batch.num_rows * kept * vocabulary * (2 * half + 8))
    optimizer = per_number / 4 * gradients
    peak = max(live.peak, size + gradients)
    activations = max(0.0, peak - size - gradients - logits)
    if peak < size + gradients + logits:
        logits = max(0.0, peak - size - gradients)
    return MemoryEstimate(batch, size - saved, gradients, optimizer, logits, activations, 0.0, 0.0, None, 1)


@contextmanager
def _as_if_compiling() -> Iterator[None]:
    """The model leaves out checks that read values, as it does in a graph; there are no values here."""
    before = torch.compiler.is_compiling
    torch.compiler.is_compiling = lambda: True
    try:
        yield
    finally:
        torch.compiler.is_compiling = before


def model_without_weights(recipe: Recipe) -> "HiComForConditionalGeneration | PeftModel":
    """The model of a recipe as it is trained, on the device "meta"."""
    config, _ = stage_config(recipe)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    with torch.device("meta"), no_init_weights():
        model = HiComForConditionalGeneration._from_config(config, dtype=dtype, **_attention(recipe))
        model.train()
        if recipe.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if recipe.lora is not None:
            model = add_adapters(model, recipe.lora, recipe.learning_rates.compressor is not None)
        set_trainable(model, base_model(model).config, recipe.learning_rates)
        cast_for_training(model)
    return model


def _without_content(model: nn.Module) -> None:
    """Put tensors of the present FakeTensorMode in the place of all parameters and buffers; tied ones stay one."""
    known: dict[int, torch.Tensor] = {}

    def replaced(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in known:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_weight = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return known[id(tensor)]

    for module in model.modules():
        for place in cast(tuple[dict[str, Any], ...], (module._parameters, module._buffers)):
            for name, tensor in place.items():
                if tensor is not None:
                    place[name] = replaced(tensor)


def _attention(recipe: Recipe) -> dict[str, str]:
    """Flash attention has no tensors without content; SDPA's memory is the same."""
    chosen = recipe.attn_implementation
    return {} if chosen is None or "flash" in chosen else {"attn_implementation": chosen}


def _step(model: nn.Module, base: HiComForConditionalGeneration, recipe: Recipe, batch: LargestBatch) -> None:
    """Forward and backward of a batch whose rows each have one video."""
    rows, length = batch.num_rows, batch.num_tokens
    if recipe.data.packing:
        rows, length = 1, rows * length
    inputs: dict[str, Any] = {"input_ids": torch.zeros(rows, length, dtype=torch.long)}
    if recipe.data.packing:
        inputs["position_ids"] = torch.zeros(rows, length, dtype=torch.long)
    else:
        inputs["attention_mask"] = torch.ones(rows, length, dtype=torch.long)
    if batch.num_frames:
        inputs |= _visual_inputs(base, recipe, batch)
    kept = batch.num_labelled * batch.num_rows // rows if recipe.skip_logits else length
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), torch.zeros(rows * kept, dtype=torch.long))
    del logits
    loss.backward()


def _visual_inputs(base: HiComForConditionalGeneration, recipe: Recipe, batch: LargestBatch) -> dict[str, Any]:
    """Videos of a batch. A frozen tower is gone through with one chunk of frames, whose memory all chunks share."""
    config: HiComConfig = base.config
    side = cast(int, config.vision_config.image_size)  # HiComConfig allows no other
    frames = [batch.num_frames] * batch.num_rows
    shape = (batch.num_rows, config.instruction_config.max_position_embeddings)
    instructions = {"video_instruction_ids": torch.zeros(shape, dtype=torch.long), "video_num_frames": frames}
    pixels = torch.zeros(sum(frames), 3, side, side)
    if recipe.learning_rates.vision_head is not None:
        return {"pixel_values_videos": pixels, **instructions}
    chunk = min(config.vision_batch_size, sum(frames))
    base.encode_videos(pixels[:chunk], [chunk])
    size = (sum(frames), *config.grid, config.vision_config.hidden_size)
    dtype = base.model.vision_tower.dtype
    features = {
        "pixels": pixels,  # they stay with the batch
        "num_frames": frames,
        "features": torch.zeros(size, dtype=dtype),
        "aligned_features": torch.zeros(size, dtype=dtype) if config.compressor_config.uses_aligned_features else None,
    }
    return {"video_features": features, **instructions}


def _quantized_numbers(base: HiComForConditionalGeneration) -> int:
    """Weights that bitsandbytes keeps in 4 bits: linear maps of the LLM."""
    llm = base.model.language_model
    names = {name for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    return sum(
        parameter.numel()
        for name, parameter in llm.named_parameters()
        if name.rpartition(".")[0] in names and ".lora_" not in name and parameter.ndim == 2
    )


def _optimizer_bytes(recipe: Recipe) -> int:
    optimizer = str(recipe.trainer.get("optim", ""))
    return next((size for part, size in OPTIMIZER_BYTES.items() if part in optimizer), DEFAULT_OPTIMIZER_BYTES)


def _sharded(estimate: MemoryEstimate, recipe: Recipe, processes: int) -> MemoryEstimate:
    """What one of P GPUs holds of it."""
    if processes == 1:
        return estimate
    if (
        recipe.sharding == "fsdp2_offload"
    ):  # the LLM's layers come one by one; what is shared lies in the host's memory
        return replace(estimate, weights=estimate.weights / processes, gradients=0.0, optimizer=0.0)
    if recipe.sharding == "fsdp2":
        return replace(
            estimate,
            weights=estimate.weights / processes,
            gradients=estimate.gradients / processes,
            optimizer=estimate.optimizer / processes,
        )
    if recipe.sharding == "zero2":  # weights and gradients in half precision, moments and float32 weights divided
        half = estimate.gradients / 2
        return replace(
            estimate,
            weights=estimate.weights - half,
            gradients=half,
            optimizer=(estimate.optimizer + estimate.gradients) / processes,
        )
    return replace(estimate, gradients=2 * estimate.gradients)  # DDP's buckets
