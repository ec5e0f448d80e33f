"""What each of two processes runs in the tests of distributed training: `torchrun ... two_processes.py TASK ARGUMENTS`."""

import json
import os
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


def run_sharded(model_folder: str, result: str, offload: str = "") -> None:
    """FSDP2 by hand on the CPU (accelerate ignores it there): one step on text and video rows; gradients and weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    from hicom_hf import HiComForConditionalGeneration, HiComProcessor
    from hicom_hf.training.recipe import LearningRates
    from hicom_hf.training.stages import set_trainable
    from hicom_hf.training.text_only_batches import add_unseen_image

    rates = LearningRates(compressor=1e-3, injection=1e-3)
    model = HiComForConditionalGeneration.from_pretrained(model_folder).train()
    processor = HiComProcessor.from_pretrained(model_folder)
    set_trainable(model, model.config, rates)
    model.model.register_forward_pre_hook(add_unseen_image, with_kwargs=True)
    rank = 0
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        rank, mesh = distributed.get_rank(), init_device_mesh("cpu", (distributed.get_world_size(),))
        options = {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if offload else {}
        for layer in model.model.language_model.layers:
            fully_shard(layer, mesh=mesh, **options)
        fully_shard(model, mesh=mesh, **options)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = [
        batch_loss(model, processor, kind)
        for kind in (("text", "video")[rank:][:1] if "RANK" in os.environ else ("text", "video"))
    ]
    (sum(losses) / len(losses)).backward()
    optimizer.step()
    whole = {
        n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters() if p.requires_grad
    }
    if rank == 0:
        torch.save({name: tensor.detach().clone() for name, tensor in whole.items()}, result)


def batch_loss(model, processor, kind: str) -> torch.Tensor:
    if kind == "text":
        inputs = processor(text="Say one.", return_tensors="pt")
    else:
        frames = torch.arange(4 * 40 * 40 * 3, dtype=torch.uint8).reshape(4, 40, 40, 3).numpy()
        inputs = processor(text=f"{processor.video_token} Who?", videos=[frames], return_tensors="pt", num_frames=4)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.video_token_id, -100)
    return model(**inputs, labels=labels).loss


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
