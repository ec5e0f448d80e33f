"""`HiComTrainer`: the Trainer of transformers with rates by part, text-only batches, exact resuming and atomic checkpoints."""

import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations.liger import apply_liger_kernel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from ..data.bad_samples import SkippedSample
from ..data.batch_sampling import HiComGroupedSampler
from ..data.batch_tiles import choose_when_called, has_tiles, with_chosen_patches
from ..data.datasets import HiComDataset
from ..data.epoch_padding import Collator, FilledCollator, FilledDataset, FilledSampler, sampler_of
from ..data.streaming import HiComStreamingDataset, StreamCollator
from ..hub.files import append_json_line, read_json_lines
from ..processors.processing_hicom import HiComProcessor
from .checkpoints import (
    UNFINISHED,
    WRITE_ERRORS,
    StopOnSignal,
    cast_tensors,
    checked_checkpoint,
    checkpoint_to_resume,
    complete_folder,
    frozen_fingerprint,
    is_complete,
    last_checkpoint,
    load_weights,
    remove_old_checkpoints,
    remove_unfinished,
    trainable_names,
)
from .console import ConsoleReport, Meter, throughput
from .held_out import HeldOutEvaluation
from .recipe import LearningRates
from .stages import base_model, optimizer_groups, set_trainable
from .stream_progress import StreamProgress
from .text_only_batches import use_visual_path_always

logger = logging.getLogger(__name__)

PIXELS = ("pixel_values", "pixel_values_videos")
EPOCH_ROUNDING = 1e-6  # epochs are counted in fractions of their steps
TRAINABLE_FILE = "trainable.json"  # in a checkpoint: whether frozen weights are left out, and which they were


class HiComTrainer(Trainer):
    """Trains the parts of a HICom model that have a learning rate.

    Args:
        learning_rates: by part; everything else is frozen.
        trainable_only: checkpoints without frozen weights.
        group_by: "length": batches of one modality and similar lengths; "modality": of one modality; "visual_tokens": of one
            modality and equally many visual tokens; None: shuffled.
        answers_together: samples about the same videos come in one batch of a process, which reads the videos once.
        max_skipped: stop when this process has left out more samples than this that could not be read; None: never.
        skip_logits: compute logits of labelled tokens only, where logits are not needed: the same loss and gradients. Not with
            label smoothing, `compute_loss_func` or, in evaluation, `compute_metrics`, which read logits.
        progress_bar: see `ConsoleReport`.
        evaluation: how `evaluate` measures; None: as in transformers, on `eval_dataset`.
        **kwargs: of `transformers.Trainer`. `args.save_total_limit` old checkpoints are kept, `args.output_dir` holds them.

    Attributes:
        stop: its `stopped` is true if a signal has ended training early.

    Example:
        >>> trainer = HiComTrainer(model=model, args=args, train_dataset=dataset,
        ...     data_collator=HiComDataCollator(processor, with_statistics=True), processing_class=processor,
        ...     learning_rates=LearningRates(compressor=1e-4, injection=1e-3))  # doctest: +SKIP
        >>> trainer.train(resume_from_checkpoint=True)  # doctest: +SKIP
    """

    # Types that transformers leaves open.
    model: nn.Module
    train_dataset: HiComDataset | HiComStreamingDataset
    data_collator: Collator
    processing_class: HiComProcessor | None

    def __init__(
        self,
        *,
        model: nn.Module,
        learning_rates: LearningRates,
        trainable_only: bool = False,
        group_by: Literal["length", "modality", "visual_tokens"] | None = None,
        answers_together: bool = False,
        max_skipped: int | None = None,
        skip_logits: bool = True,
        progress_bar: bool = True,
        evaluation: HeldOutEvaluation | None = None,
        **kwargs: Any,
    ):
        self.learning_rates = learning_rates
        self.trainable_only = trainable_only
        self.group_by = group_by
        self.answers_together = answers_together
        self.max_skipped = max_skipped
        self.skip_logits = skip_logits
        self.evaluation = evaluation
        self._skipped: set[str] = set()
        self.final_dtype: torch.dtype | None = None
        self._staging: Path | None = None
        self._resumed_from: Path | None = None
        self._meter = Meter()
        self._steps_metered = 0
        self._rates: dict[str, float] = {}
        self._sampler: HiComGroupedSampler | None = None
        self._stream: StreamProgress | None = None
        set_trainable(model, base_model(model).config, learning_rates)
        super().__init__(model=model, **kwargs)
        if self.args.use_liger_kernel:  # transformers knows no kernels for the whole
            config = {**(self.args.liger_kernel_config or {}), "fused_linear_cross_entropy": False}  # it has no head
            apply_liger_kernel(base_model(model).model.language_model, config)
        self.args.logging_nan_inf_filter = False  # it shows the average loss where the loss is not a number
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.stop = StopOnSignal()
        for callback in (_Bookkeeping(self), self.stop, ConsoleReport(progress_bar)):
            self.add_callback(callback)
        self._fingerprint = frozen_fingerprint(model) if trainable_only else None
        if self.is_fsdp_enabled and self.processing_class is not None:
            choose_when_called(
                base_model(self.model), self.processing_class
            )  # before it is looked whether a batch has videos
        use_visual_path_always(self.model, self.args.world_size)

    @property
    def output_dir(self) -> Path:
        """The folder of the run."""
        return Path(cast(str, self.args.output_dir))  # transformers puts a default in the place of None

    @property
    def _skipped_file(self) -> Path:
        return self.output_dir / f"skipped_{self.args.process_index}.jsonl"

    # Optimiser and data ------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group per part with its rate; biases and norms do not decay."""
        model = self.model if model is None else model
        if self.optimizer is None:
            names = {name for name, _ in model.named_parameters()}
            no_decay = names - set(self.get_decay_parameter_names(model))
            groups = optimizer_groups(model, self.learning_rates, self.args.weight_decay, no_decay)
            for group in groups:
                del group["parameter_names"]
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, cast(PreTrainedModel, model))
            self.optimizer = optimizer_class(groups, **arguments)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Every sample once per epoch; the order depends on the seed, the epoch and the batch over all processes only."""
        dataset, processes = self.train_dataset, self.args.world_size
        options: dict[str, Any] = {
            "batch_size": self._train_batch_size,
            "collate_fn": self.data_collator,
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            "persistent_workers": self.args.dataloader_persistent_workers,
        }
        if isinstance(dataset, HiComStreamingDataset):  # it is split between processes already
            # With a worker that has no shard, the order of the batches would depend on timing.
            options["num_workers"] = min(options["num_workers"], dataset.num_shards)
            options["persistent_workers"] &= options["num_workers"] > 0
            if dataset.repeat and not self.args.ignore_data_skip:
                self._stream = StreamProgress(
                    dataset, self._train_batch_size, options["num_workers"], self.args.process_index
                )
                self._stream.begin(self._resumed_from)
                options["collate_fn"] = StreamCollator(self.data_collator)
            return prepare_data_loader(
                DataLoader(dataset, **options),
                self.accelerator.device,
                num_processes=1,
                process_index=0,
                put_on_device=True,
                dispatch_batches=False,
            )
        batch_size = self._train_batch_size * processes * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        together = self._train_batch_size if self.answers_together else None
        self._sampler = sampler_of(dataset, batch_size, seed, self.group_by, together)
        if processes > 1:
            dataset = FilledDataset(dataset, self._train_batch_size * processes)
            options["collate_fn"] = FilledCollator(self.data_collator)
        loader = DataLoader(dataset, sampler=FilledSampler(self._sampler, len(dataset)), **options)
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """As in transformers; measures the wait, and takes what the model does not read out of the batches."""
        begin = time.perf_counter()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._meter.wait_seconds += time.perf_counter() - begin
        for batch in batches:
            if self._stream is not None:
                self._stream.note(batch)
            statistics = batch.pop("statistics", None)
            if statistics is not None:
                self._meter.add(statistics)
                self._note_skipped(statistics.skipped)
        return batches, num_items

    def _note_skipped(self, samples: list[SkippedSample]):
        """List samples that were left out, each once, and stop if there are too many."""
        for sample in samples:
            if sample.source in self._skipped:
                continue
            self._skipped.add(sample.source)
            append_json_line(self._skipped_file, {"step": self.state.global_step, **sample._asdict()})
            if self.max_skipped is not None and len(self._skipped) > self.max_skipped:
                raise ValueError(
                    f"{len(self._skipped)} samples could not be read, more than data.max_skipped={self.max_skipped}; "
                    f"{self._skipped_file} lists them. Correct the data (`hicom data check`), or allow more"
                )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in transformers; pixels that come as uint8 are normalised on the device, and questions choose among tiles."""
        inputs = self._with_pixels(super()._prepare_inputs(inputs))
        if self.is_fsdp_enabled or not has_tiles(inputs):
            return inputs
        with self.accelerator.autocast():
            return with_chosen_patches(base_model(self.model), self._processor("squares of tiles"), inputs)

    def _with_pixels(self, inputs: dict[str, Any]) -> dict[str, Any]:
        raw = [name for name in PIXELS if name in inputs and inputs[name].dtype == torch.uint8]
        if not raw:
            return inputs
        normalised = self._processor("pixels as uint8 (raw_pixels=True)").video_processor.normalised
        return {**inputs, **{name: normalised(inputs[name]) for name in raw}}

    def _processor(self, given: str) -> HiComProcessor:
        """The processor, which is needed for what the data set gives."""
        if self.processing_class is None:
            raise ValueError(
                f"the data set gives {given}: give HiComTrainer the processor as processing_class, which normalises them"
            )
        return self.processing_class

    def _get_num_items_in_batch(self, batch_samples, device):
        # If every sample of a step was skipped, its loss is 0 / 1.
        num_items = super()._get_num_items_in_batch(batch_samples, device)
        return num_items.clamp(min=1) if torch.is_tensor(num_items) else num_items

    # Loss --------------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As in transformers; without logits when only the loss is asked for."""
        inputs = {"use_cache": False, **inputs}  # packed rows have none, and nobody reads it in training
        inputs = inputs if return_outputs else self._without_logits(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """As in transformers; without logits when only the loss is asked for."""
        inputs = self._without_logits(inputs) if prediction_loss_only else inputs
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in transformers, or as `evaluation` says."""
        if self.evaluation is None:
            return super().evaluate(*args, **kwargs)
        metrics = self.evaluation.measure(self)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _without_logits(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs of a step whose loss the model computes itself."""
        reads_logits = self.label_smoother is not None or self.compute_loss_func is not None
        return {**inputs, "skip_logits": True} if self.skip_logits and not reads_logits else inputs

    # Logs --------------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in transformers, with the rate of every part and the throughput."""
        if "loss" in logs:
            for name in ("loss", "grad_norm"):
                self._check_finite("norm of the gradients" if name == "grad_norm" else name, logs.get(name))
            logs.pop("learning_rate", None)
            logs.update({f"learning_rate/{part}": rate for part, rate in self._rates.items()})
            logs.update(self._throughput())
        super().log(logs, start_time)

    def _check_finite(self, name: str, value: float | None) -> None:
        """Stop when there is nothing left to train: neither a checkpoint nor a model is made of such weights."""
        if value is None or math.isfinite(value):
            return
        last = last_checkpoint(self.output_dir)
        raise ValueError(
            f"the {name} is {value} at step {self.state.global_step}, or became so since the last line of the log; training "
            f"has stopped. Lower the learning rates, warm up for longer, or clip the gradients; the last checkpoint is {last}"
        )

    def _throughput(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._meter.begin
        values = torch.tensor([*self._meter.counts(), self._meter.wait_seconds], dtype=torch.float32)
        rows = cast(
            torch.Tensor, self.accelerator.gather(values[None].to(self.args.device))
        ).cpu()  # (processes, values)
        steps = self.state.global_step - self._steps_metered
        self._meter, self._steps_metered = Meter(), self.state.global_step
        return throughput(rows[:, :-1].double().sum(0).tolist(), rows[:, -1].max().item(), seconds, steps)

    # Checkpoints -------------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As in transformers; `True` resumes from the newest complete checkpoint, if there is one."""
        if resume_from_checkpoint and resume_from_checkpoint is not True:
            self._resumed_from = checked_checkpoint(Path(resume_from_checkpoint))
        else:
            self._resumed_from = self._newest_checkpoint() if resume_from_checkpoint else None
        resume_from_checkpoint = None if self._resumed_from is None else str(self._resumed_from)
        if self.args.should_save:
            remove_unfinished(self.output_dir)
        try:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            self._check_finite("loss", output.training_loss)
            return output
        finally:
            self.stop.restore()

    def _newest_checkpoint(self) -> Path | None:
        """The checkpoint to resume from; one process reads them all, the others take its word."""
        found = [checkpoint_to_resume(self.output_dir) if self.args.process_index == 0 else None]
        return broadcast_object_list(found)[0]

    def _run_epoch(self, **kwargs):
        """As in transformers; nothing if the run was killed after its last step, or a callback stops it at its beginning.

        transformers trains one more step when it resumes from a checkpoint at `max_steps`.
        """
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model, trial):
        """Write a checkpoint beside the others, and give it its name once it is complete."""
        output_dir = Path(super()._get_output_dir(trial))
        destination = output_dir / f"checkpoint-{self.state.global_step}"
        if is_complete(destination):
            return
        self._check_finite("loss", self._tr_loss.item())
        staging = output_dir / UNFINISHED / destination.name
        try:
            self._staging = staging.parent
            super()._save_checkpoint(model, trial)
            self._save_progress(staging, output_dir)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                complete_folder(staging, destination)
                remove_old_checkpoints(
                    output_dir, self.args.save_total_limit or self.state.max_steps, self._best_checkpoint(output_dir)
                )
        except WRITE_ERRORS as error:
            remove_unfinished(output_dir)
            last = last_checkpoint(output_dir)
            resume = (
                "there is none before it" if last is None else f"{last} is complete: the same command resumes there"
            )
            raise OSError(f"{destination} could not be written ({error}); {resume}") from error
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _best_checkpoint(self, output_dir: Path) -> Path | None:
        """The complete checkpoint of the best evaluation so far."""
        best = output_dir / f"checkpoint-{self.state.best_global_step}"
        return best if self.state.best_global_step and is_complete(best) else None

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers, which with `save_total_limit=1` then removes all checkpoints but the best: the newest stays.

        A run that was stopped resumes from it, and so does one that is killed before the finished model is written.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint as strictly as those of one to resume from; not for a run that was stopped."""
        if self.stop.stopped:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(cast(str, self.state.best_model_checkpoint))  # the caller has looked

    def _save_progress(self, folder: Path, output_dir: Path):
        """What transformers forgets: the loss since the last line of the log, and where the best checkpoint will be."""
        if self.state.best_global_step == self.state.global_step:  # transformers has noted the folder's present name
            self.state.best_model_checkpoint = str(output_dir / folder.name)
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        progress = {"loss": self._tr_loss.item(), "last_logged": self._globalstep_last_logged}
        path = folder / f"progress_{self.args.process_index}.json"
        path.write_text(json.dumps(progress), encoding="utf-8")
        if self._stream is not None:
            self._stream.write(folder)
        if self.args.should_save:
            trainable = {"trainable_only": self.trainable_only, "frozen": self._fingerprint}
            (folder / TRAINABLE_FILE).write_text(json.dumps(trainable), encoding="utf-8")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in transformers; without frozen weights in a checkpoint that is to have none, in the final type at the end."""
        if not hasattr(self.model, "peft_config"):
            if self._staging is not None and self.trainable_only:
                state_dict = self.model.state_dict() if state_dict is None else state_dict
                trained = trainable_names(self.model)
                state_dict = {name: tensor for name, tensor in state_dict.items() if name in trained}
            elif self._staging is None and self.final_dtype is not None:
                state_dict = self.model.state_dict() if state_dict is None else state_dict
                state_dict = cast_tensors(state_dict, self.final_dtype)
        super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights strictly."""
        folder = Path(resume_from_checkpoint)
        if hasattr(self.model, "peft_config") or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            # peft has made all its parameters trainable
            set_trainable(self.model, base_model(self.model).config, self.learning_rates)
            return
        stored = json.loads((folder / TRAINABLE_FILE).read_text(encoding="utf-8"))
        if stored["trainable_only"] and stored["frozen"] != frozen_fingerprint(self.model):
            raise ValueError(
                f"{folder} holds trained weights only, and this model's frozen weights are not those it was trained with"
            )
        load_weights(self.model, folder, stored["trainable_only"])


class _Bookkeeping(TrainerCallback):
    """Sets the sampler's epoch, notes the rates of each step, and takes up the loss since the last line of the log."""

    def __init__(self, trainer: HiComTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer._meter, trainer._steps_metered = Meter(), state.global_step
        if trainer._resumed_from is None:
            return
        trainer._skipped = {line["source"] for line in read_json_lines(trainer._skipped_file)}  # they count, too
        best = trainer._best_checkpoint(trainer.output_dir)  # also if the folder of the run has moved
        state.best_model_checkpoint = None if best is None else str(best)
        path = trainer._resumed_from / f"progress_{args.process_index}.json"
        if path.is_file():  # not there for a process more than there were
            progress = json.loads(path.read_text(encoding="utf-8"))
            trainer._tr_loss += progress["loss"]
            trainer._globalstep_last_logged = progress["last_logged"]

    def on_epoch_begin(self, args, state, control, **kwargs):
        # transformers reaches the epoch of its own samplers only.
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(math.floor((state.epoch or 0) + EPOCH_ROUNDING))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        optimizer = cast(torch.optim.Optimizer, self.trainer.optimizer)
        self.trainer._rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
