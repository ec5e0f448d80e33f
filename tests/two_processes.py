"""What each of two processes runs in the tests of distributed training: `torchrun ... two_processes.py TASK ARGUMENTS`."""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import distributed

torch.set_num_threads(1)


def main(task: str, *arguments: str) -> None:
    globals()[f"run_{task}"](*arguments)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def run_recipes(*paths: str) -> None:
    """One recipe after another."""
    from hicom_hf.training.recipe_reading import read_recipe
    from hicom_hf.training.run import run_recipe

    for path in paths:
        run_recipe(read_recipe(path))


def run_sharded(*paths: str) -> None:
    """Recipes with sharding, each once and once more from its first checkpoint, by the FSDP2 of accelerate.

    accelerate ignores it on CPUs: what it does for GPUs is done here.
    """
    from accelerate import state
    from accelerate.utils import DistributedType
    from torch.distributed.fsdp import CPUOffloadPolicy

    from hicom_hf.training.recipe_reading import read_recipe

    init = state.AcceleratorState.__init__

    def init_sharded(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            if fsdp_plugin.cpu_offload:
                fsdp_plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # there is no device to pin for
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = init_sharded
    for path in paths:
        run_recipes(path)
        output_dir = Path(read_recipe(path).output_dir)
        if distributed.get_rank() == 0:
            shutil.rmtree(output_dir / "model")
            shutil.rmtree(max(output_dir.glob("checkpoint-*")))
        distributed.barrier()
        run_recipes(path)


def run_stop(recipe: str, report: str) -> None:
    """Only the second process is told to stop; both must stop at the same step."""
    import signal

    from transformers import TrainerCallback

    from hicom_hf.training.recipe_reading import read_recipe
    from hicom_hf.training.run import build_trainer
    from hicom_hf.training.trainer_arguments import training_arguments

    class Tell(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2 and args.process_index == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    run = read_recipe(recipe)
    trainer = build_trainer(run, training_arguments(run))
    trainer.add_callback(Tell())
    trainer.train()
    told = {"step": trainer.state.global_step, "stopped": trainer.stop.stopped}
    Path(f"{report}-{trainer.args.process_index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
