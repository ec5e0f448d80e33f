"""lmms-eval 0.7.3 itself, in an environment of its own, installed as docs/evaluation.md says.

Slow: about 160 packages. The environment is made anew, or, with HICOM_LMMS_ENVIRONMENT=FOLDER, kept there and used again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hicom_hf.shapes import write_dataset

ROOT = Path(__file__).parents[1]
MODEL = "pretrained=hicom-tiny,device=cpu,dtype=float32"
YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 16
process_results: !function utils.process_results
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
UTILS = """from PIL import Image


def doc_to_visual(doc):
    return [doc["video"]] if doc["video"] else [Image.new("RGB", (8, 8))]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"right": float(results[0].strip().lower() == doc["answer"].lower())}
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def documented_commands():
    """The indented block under "Through lmms-eval", without the last command, which is the evaluation."""
    text = (ROOT / "docs/evaluation.md").read_text().partition("## Through lmms-eval")[2].partition("\n## ")[0]
    block = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert block[0].startswith("python -m venv lmms") and block[-1].startswith("lmms-eval --model hicom")
    return block


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    kept = os.environ.get("HICOM_LMMS_ENVIRONMENT")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("environment")
    install = "pip install --no-deps hicom_hf"
    assert any(line.startswith(install) for line in documented_commands())
    ours = f"pip install -q --no-deps --force-reinstall {ROOT}"
    commands = [ours if line.startswith(install) else line for line in documented_commands()[:-1]]
    if (folder / "lmms" / "bin" / "lmms-eval").exists():
        commands = [". lmms/bin/activate", ours]
    commands[0] = commands[0].replace("python -m venv", f"{sys.executable} -m venv")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=folder, check=True, env=variables)
    return folder / "lmms" / "bin", variables | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows about three videos, mixed up, and tasks of lmms-eval that ask them."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, 3, 1000, split="test", stage="tuning")
    rows = []
    for record in json.loads((folder / "tuning.json").read_text()):
        if "video" in record:
            asked, told = (turn["value"] for turn in record["conversations"])
            video = str(folder / record["video"])
            rows.append({"video": video, "question": asked.removeprefix("<video>\n"), "answer": told})
    rows.sort(key=lambda row: row["question"])
    write_task(folder, "shapes_local", rows)
    write_task(folder, "pictures_local", [rows[0] | {"video": ""}])
    (folder / "utils.py").write_text(UTILS)
    return folder, rows


def write_task(folder, name, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(YAML.format(name=name, rows=path, kind="generate_until"))


def lmms_eval(environment, folder, task, output):
    programs, variables = environment
    command = [programs / "lmms-eval", "--model", "hicom", "--model_args", MODEL, "--tasks", task, "--log_samples"]
    command += ["--include_path", folder, "--output_path", output]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=folder, check=False)
    return run, list(output.glob("*/*_results.json"))


def test_the_documented_command_measures_a_task_of_lmms_eval(environment, world, tmp_path):
    folder, rows = world
    run, results = lmms_eval(environment, folder, "shapes_local", tmp_path)
    assert len(results) == 1, run.stderr[-3000:]
    assert json.loads(results[0].read_text())["results"]["shapes_local"]["right,none"] >= 0.95
    [samples] = tmp_path.glob("*/*_samples_shapes_local.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(lines) == len(rows) and {line["target"] for line in lines} == {row["answer"] for row in rows}


def test_a_task_that_hands_over_a_picture_is_refused_by_its_name(environment, world, tmp_path):
    run, results = lmms_eval(environment, world[0], "pictures_local", tmp_path)
    assert not results and "pictures_local: hands over 1 parts of image, not one video" in run.stdout + run.stderr


def test_prompts_and_second_column_are_those_of_lmms_eval(environment):
    programs, variables = environment
    command = [programs / "python", ROOT / "tests" / "inside_lmms.py"]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["compared"] > 150 and found["differences"] == []
