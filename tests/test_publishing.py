"""Results beside the weights, from files of results alone."""

import json

import pytest
import yaml

from hicom_hf.assets import hicom_tiny
from hicom_hf.cli.main import main
from hicom_hf.evaluation.publishing import END, START, find_results, write_results
from hicom_hf.evaluation.results import ANSWERS_FILE, SETTINGS_FILE, SUMMARY_FILE

SCORE = {"mean": 58.123, "low": 55.0, "high": 61.25, "num_questions": 2700, "num_videos": 900}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "hicom-7b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: other\n---\n\n# hicom-7b\n\n## Limits\n\nMany.\n")
    return folder


def results(folder, model, task="videomme", score=SCORE, weights="w1", complete=True, **settings):
    folder.mkdir(parents=True)
    settings = {
        "task": task,
        "protocol": "ours",
        "model": str(model),
        "weights": weights,
        "dtype": "bfloat16",
    } | settings
    settings.setdefault("sampling", {"num_frames": 32})
    summary = {"task": task, "settings": settings, "score": score, "num_questions": 2700, "num_answered": 2700}
    (folder / SUMMARY_FILE).write_text(json.dumps(summary | {"complete": complete, "paper": 58.1}))
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    (folder / ANSWERS_FILE).write_text("")
    return folder


def test_a_score_becomes_a_file_of_the_hub_and_a_row_of_the_card(model, tmp_path):
    folder = results(tmp_path / "out" / "videomme", model)
    written = write_results(model, [folder])
    assert written == [model / ".eval_results" / "videomme-ours-32-frames.yaml", model / "README.md"]
    [entry] = yaml.safe_load(written[0].read_text())
    assert entry["dataset"] == {"id": "lmms-lab/Video-MME", "task_id": "videomme"} and entry["value"] == 58.12
    assert entry["notes"] == "32 frames, protocol ours, bfloat16; 95 % interval 55 to 61.25"
    card = (model / "README.md").read_text()
    assert card.index(
        "| videomme | 32 frames | ours | accuracy, % | 58.12 | 55.00 to 61.25 | 2,700 | 58.1 |"
    ) < card.index("## Limits")
    assert card.startswith("---\nlicense") and card.endswith("Many.\n")


def test_the_table_is_replaced_and_the_rest_of_the_card_stays(model, tmp_path):
    folder = results(tmp_path / "out" / "videomme", model)
    write_results(model, [folder])
    first = (model / "README.md").read_text()
    write_results(model, [folder])
    assert (model / "README.md").read_text() == first and first.count(START) == first.count(END) == 1
    (model / "README.md").unlink()
    write_results(model, [folder])
    assert (model / "README.md").read_text().startswith(START)


def test_runs_of_several_frames_and_judged_ones_have_a_file_each(model, tmp_path):
    for frames in (32, 64):
        results(tmp_path / "out" / f"{frames}-frames" / "videomme", model, sampling={"num_frames": frames})
    judged = results(tmp_path / "out" / "activitynet_qa", model, "activitynet_qa", score=None) / "judge-gpt"
    judged.mkdir()
    aspects = {"match": {"accuracy": SCORE, "score": SCORE | {"mean": 3.1}}}
    (judged / SUMMARY_FILE).write_text(json.dumps({"judge": "GPT 4", "prompts": "published", "aspects": aspects}))
    folders = find_results(tmp_path / "out")
    assert len(folders) == 3  # the judge's folder is none of its own
    names = [path.name for path in write_results(model, folders)]
    assert {"videomme-ours-32-frames.yaml", "videomme-ours-64-frames.yaml"} < set(names) and len(names) == 5
    assert "activitynet-qa-ours-32-frames-match-score-gpt-4.yaml" in names


def test_what_must_not_be_published_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="not all of the task; run it without --limit"):
        write_results(model, [results(tmp_path / "a", model, complete=False)])
    with pytest.raises(ValueError, match="holds results of other, not of"):
        write_results(model, [results(tmp_path / "b", "other")])
    with pytest.raises(ValueError, match="results of different weights"):
        write_results(model, [results(tmp_path / "c", model), results(tmp_path / "d", model, weights="w2")])
    with pytest.raises(ValueError, match="nothing is scored"):
        write_results(model, [results(tmp_path / "e", model, score=None)])
    with pytest.raises(FileNotFoundError, match="no folder of a model"):
        write_results(tmp_path, [results(tmp_path / "f", model)])
    with pytest.raises(FileNotFoundError, match="there are no results in it"):
        find_results(model)
    assert not (model / ".eval_results").exists()


def test_the_command_writes_finished_runs_without_a_model(model, tmp_path, capsys):
    results(tmp_path / "out" / "videomme", model)
    assert main(["eval", "--write-results", str(model), "--output", str(tmp_path / "out")]) == 0
    assert "videomme-ours-32-frames.yaml" in capsys.readouterr().err
    assert main(["eval", "--write-results", str(model)]) == 2
    results(tmp_path / "tiny" / "shapes", hicom_tiny(), "shapes")
    assert main(["eval", "--write-results", str(model), "--output", str(tmp_path / "tiny")]) == 1
    assert "not of" in capsys.readouterr().err
