"""Two processes on the CPU: the same result as one, no hanging on text, stopping together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training_runs import recipe_values, result_of, run_as, start_ranks, weights_of, write_data, write_model

from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import run_recipe

HERE = Path(__file__).parent
TIMEOUT = 120  # seconds until a run counts as hanging


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


def two_processes(*arguments, processes: int = 2) -> None:
    """Run `two_processes.py` under torchrun, or, with one process, without."""
    launcher = (
        ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"] if processes > 1 else []
    )
    command = [sys.executable, *launcher, str(HERE / "two_processes.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-4000:]


def cases(start, folder: Path) -> dict[str, dict[int, dict]]:
    """Recipes by what they show, for one process and for two, with the same batches."""
    text = start[1].with_name("text.json")  # in an order in which one process has text where the other has a video
    records = json.loads(start[1].read_text())
    text.write_text(json.dumps([records[i] for i in (9, 0, 1, 10, 9, 2, 3, 10)]))
    stages = {
        "stage 2": ("conditional_pretraining", {}),
        "stage 3": ("instruction_tuning", {"gradient_checkpointing": True}),
        "text on one side": ("conditional_pretraining", {"data": {"files": [str(text)], "group_by": None}}),
    }
    return {
        name: {
            processes: recipe_values(
                stage,
                *start,
                folder / f"{name}-{processes}",
                batch_size_per_device=2 // processes,
                max_steps=4,
                **changes,
            )
            for processes in (1, 2)
        }
        for name, (stage, changes) in stages.items()
    }


def assert_same_result(name: str, values: dict[int, dict], start) -> None:
    """One process is run here and now."""
    run_recipe(recipe_from_dict(values[1]))
    one, two = (result_of(Path(values[number]["output_dir"]) / "model") for number in (1, 2))
    assert one.keys() == two.keys()
    queries = next(weight for weight in one if weight.endswith("model.compressor.global_branch.queries"))
    assert not torch.equal(one[queries], weights_of(start[0])["model.compressor.global_branch.queries"])
    for weight, expected in one.items():
        if weight.endswith("k_proj.bias") and "compressor" in weight:
            # Its gradient is 0 up to rounding (softmax does not see it), which AdamW blows up to full steps.
            continue
        # float32; the order in which gradients are added differs.
        where = f"{name}, {weight}: "
        torch.testing.assert_close(
            two[weight], expected, atol=1e-5, rtol=0, msg=lambda text, where=where: where + text
        )


def test_two_processes_of_which_one_has_text_only_end_with_the_weights_of_one(start, tmp_path):
    values = cases(start, tmp_path)["text on one side"]
    for process in start_ranks(run_as, [values[2]]):
        process.join()
        hangs = process.is_alive()
        process.kill()
        assert not hangs and process.exitcode == 0
    assert_same_result("text on one side", values, start)


@pytest.mark.slow
def test_two_processes_of_torchrun_end_with_the_weights_of_one_at_every_stage(start, tmp_path):
    recipes = cases(start, tmp_path)
    paths = {name: tmp_path / f"{name}.yaml" for name in recipes}
    for name, path in paths.items():
        path.write_text(yaml.safe_dump(recipes[name][2]))
    two_processes("recipes", *paths.values())
    for name, values in recipes.items():
        assert_same_result(name, values, start)


@pytest.mark.slow
def test_if_one_process_is_told_to_stop_both_stop_at_the_same_step(start, tmp_path):
    values = recipe_values("conditional_pretraining", *start, tmp_path / "out", max_steps=6, batch_size_per_device=1)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    two_processes("stop", path, tmp_path / "told")
    told = [json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told == [{"step": 3, "stopped": True}] * 2
    assert (tmp_path / "out" / "checkpoint-3" / "rng_state_1.pth").is_file()


@pytest.mark.slow
def test_fsdp2_ends_with_the_weights_of_one_process_whatever_each_process_holds(start, tmp_path):
    cases = {
        "fsdp2": {},
        "fsdp2_offload": {"gradient_checkpointing": True},
        "fsdp2 with adapters": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}},
    }
    assert_sharded_as_one(cases, start, tmp_path)


@pytest.mark.slow
def test_questions_choose_frames_and_tiles_for_fsdp2_as_for_one_process(start, tmp_path):
    choices = {"selection": {"num_frames": 2, "max_p_value": 1.0}, "tiles": {"zooms": [1, 2]}}
    assert_sharded_as_one({"fsdp2": {"data": choices}}, start, tmp_path)


def assert_sharded_as_one(cases: dict[str, dict], start, tmp_path: Path) -> None:
    """Recipes whose name begins with their sharding end with the weights of one process."""
    records = json.loads(start[1].read_text())
    videos = [{"type": "video", "path": "red.mp4", "num_frames": 2}, {"type": "video", "path": "blue.mp4"}]
    question = {"role": "user", "content": [*videos, {"type": "text", "text": "Which?"}]}
    two = {
        "messages": [question, {"role": "assistant", "content": "both."}]
    }  # of two lengths: two calls of the compressor
    mixed = start[1].with_name("mixed.json")  # text, one video, two videos, an image
    mixed.write_text(json.dumps([records[9], two, records[0], records[10], records[1], records[8], two, records[9]]))
    recipes = {}
    for name, changes in cases.items():
        data = {"files": [str(mixed)], "group_by": None, **changes.pop("data", {})}
        for processes in (1, 2):
            values = recipe_values(
                "instruction_tuning",
                *start,
                tmp_path / f"{name}-{processes}",
                batch_size_per_device=2 // processes,
                max_steps=4,
                checkpoints={"every": 2},
                data=data,
                sharding=name.split()[0] if processes == 2 else None,
                **changes,
            )
            recipes[name, processes] = values
            (tmp_path / f"{name}-{processes}.yaml").write_text(yaml.safe_dump(values))
    two_processes("sharded", *(tmp_path / f"{name}-2.yaml" for name in cases))
    for name in cases:
        assert_same_result(name, {number: recipes[name, number] for number in (1, 2)}, start)
