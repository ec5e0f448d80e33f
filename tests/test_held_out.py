"""Evaluation while training: what is held out, the loss and the answers against plain loops, the best by score, the curves."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import encoder_of, recipe_values, weights_of, write_data, write_model

from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset, load_records
from hicom_hf.data.holding_out import records_of_side
from hicom_hf.data.record_media import Record
from hicom_hf.processors.answer_options_hicom import option_texts
from hicom_hf.training.checkpoints import StopWithoutProgress, last_checkpoint
from hicom_hf.training.console import held_out_line
from hicom_hf.training.curves import draw_curves
from hicom_hf.training.held_out import HeldOutGroups, score_choice, score_exact, scorer_named
from hicom_hf.training.recipe_reading import recipe_from_dict
from hicom_hf.training.run import build_held_out, build_trainer, run_recipe
from hicom_hf.training.trainer_arguments import training_arguments


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_model(folder / "model"), write_data(folder)


@pytest.fixture(scope="module")
def evaluated(start, tmp_path_factory):
    """A run that holds out two fifths of the videos and asks about them; its folder and finished model."""
    folder = tmp_path_factory.mktemp("evaluated")
    values = values_of(start, folder / "out", max_steps=2, checkpoints={"every": 2})
    return folder / "out", run_recipe(recipe_from_dict(values))


def values_of(start, output_dir: Path, **changes) -> dict:
    section = {"share": 0.4, "every": 2, "answers": "exact", "max_new_tokens": 6, **changes.pop("eval", {})}
    return recipe_values("instruction_tuning", *start, output_dir, eval=section, **changes)


def log_of(output_dir: Path) -> list[dict]:
    return json.loads((last_checkpoint(output_dir) / "trainer_state.json").read_text())["log_history"]


# What is held out ----------------------------------------------------------------------------------------------------------


def record(number: int, *videos: str) -> Record:
    turns = [{"from": "human", "value": "<video>" * len(videos) + "Who?"}, {"from": "gpt", "value": "A cat."}]
    return Record({"id": number, "videos": list(videos), "conversations": turns}, f"record {number}")


def test_no_video_is_on_both_sides_and_more_records_move_none():
    records = [record(number, f"{number // 2}.mp4") for number in range(400)]
    trained = list(records_of_side(records, 0.25, 3, "training"))
    held_out = list(records_of_side(records, 0.25, 3, "held out"))
    assert sorted([*trained, *held_out], key=records.index) == records
    videos = [{tuple(found.data["videos"]) for found in side} for side in (trained, held_out)]
    assert not videos[0] & videos[1]
    assert 0.15 < len(videos[1]) / 200 < 0.35
    assert list(records_of_side(records[:100], 0.25, 3, "held out")) == [r for r in held_out if r in records[:100]]
    assert list(records_of_side(records, 0.25, 4, "held out")) != held_out


def test_data_that_were_moved_have_the_same_sides():
    def numbers(root):
        records = [record(number, f"{number}.mp4") for number in range(100)]
        moved = [replace(one, media_root=root) for one in records]
        return [one.source for one in records_of_side(moved, 0.25, 3, "held out")]

    assert numbers("/data/first") == numbers("/data/second") == numbers(None) != []


def test_a_record_with_videos_of_both_sides_is_left_out_and_counted(caplog):
    sides = {
        name: next(iter(records_of_side([record(0, name)], 0.5, 0, "training")), None) is not None
        for name in "abcdefgh"
    }
    trained, held_out = (next(name for name in sides if sides[name] is wanted) for wanted in (True, False))
    mixed = record(1, trained, held_out)
    assert not list(records_of_side([mixed], 0.5, 0, "held out"))
    assert not list(records_of_side([mixed], 0.5, 0, "training")) and "1 records are left out" in caplog.text
    text = Record(
        {"conversations": [{"from": "human", "value": "Say one."}, {"from": "gpt", "value": "One."}]}, "text"
    )
    assert list(records_of_side([text], 0.99, 0, "training")) == [text]


def test_a_share_that_holds_out_nothing_is_named(start, tmp_path):
    processor = HiComProcessor.from_pretrained(start[0])
    run = recipe_from_dict(values_of(start, tmp_path, eval={"share": 0.0001}))
    with pytest.raises(
        ValueError, match=r"eval\.share 0\.0001 .*'held out' of data\.files: no sample is left of 0 rec"
    ):
        build_held_out(run, processor)


def test_an_evaluation_takes_whole_videos_up_to_its_bound(start):
    dataset = HiComDataset(start[1], encoder_of(HiComProcessor.from_pretrained(start[0])))
    whole = HeldOutGroups(dataset, None, seed=0)
    assert sorted(index for group in whole.groups for index in group) == list(range(len(dataset)))
    assert Counter(map(len, whole.groups)) == {2: 4, 1: 3}  # two questions a video; an image; two dialogues of text
    bounded = HeldOutGroups(dataset, 3, seed=0)
    assert bounded.num_samples == 3 and bounded.groups == HeldOutGroups(dataset, 3, seed=0).groups


# Loss and answers ----------------------------------------------------------------------------------------------------------


def test_loss_and_answers_are_those_of_a_plain_loop_and_each_video_is_encoded_once(evaluated, start, monkeypatch):
    output_dir, folder = evaluated
    run = recipe_from_dict({**values_of(start, output_dir), "model": str(folder), "output_dir": str(output_dir) + "2"})
    trainer = build_trainer(run, training_arguments(run))
    trainer.model.train()
    encoded = []
    encode = HiComForConditionalGeneration.encode_videos
    monkeypatch.setattr(
        HiComForConditionalGeneration,
        "encode_videos",
        lambda self, pixels, frames: encoded.append(frames) or encode(self, pixels, frames),
    )
    state = torch.random.get_rng_state()
    metrics = trainer.evaluation.measure(trainer)
    assert torch.equal(torch.random.get_rng_state(), state) and trainer.model.training
    processor = HiComProcessor.from_pretrained(folder)
    dataset = build_held_out(run, processor)
    assert 2 * len(encoded) >= len(dataset) > len(encoded)
    dataset.encoder.raw_pixels = False
    model, collate = trainer.model.eval(), HiComDataCollator(processor)
    losses, tokens, answers = 0.0, 0, {}
    for index in range(len(dataset)):
        batch = collate([dataset[index]])
        labelled = batch["labels"] != -100
        with torch.no_grad():
            losses += model(**batch).loss.item() * int(labelled.sum())
        tokens += int(labelled.sum())
        begin = int(labelled[0].nonzero()[0])
        prompt = {name: batch[name][:, :begin] for name in ("input_ids", "attention_mask")}
        visual = {
            name: value for name, value in batch.items() if "pixel" in name or "video" in name or "image" in name
        }
        output = model.generate(**prompt, **visual, max_new_tokens=6, do_sample=False)
        answers[dataset.item(index).source] = processor.decode(output[0, begin:], skip_special_tokens=True).strip()
    assert metrics["eval_loss"] == pytest.approx(losses / tokens, abs=1e-5)  # float32, other batches
    lines = [json.loads(line) for line in (Path(run.output_dir) / "answers" / "step-0.jsonl").read_text().splitlines()]
    assert {line["source"]: line["answer"] for line in lines} == answers


def test_a_run_logs_loss_and_score_and_draws_its_curves(evaluated):
    output_dir, _ = evaluated
    [entry] = [entry for entry in log_of(output_dir) if "eval_loss" in entry]
    lines = [json.loads(line) for line in (output_dir / "answers" / "step-2.jsonl").read_text().splitlines()]
    assert entry["eval_samples"] == len(lines) > 0
    assert entry["eval_score"] == sum(line["score"] for line in lines) / len(lines)
    with Image.open(output_dir / "curves.png") as picture:
        assert picture.size == (960, 720)


def test_the_best_checkpoint_by_score_becomes_the_model(start, tmp_path):
    (tmp_path / "mark.py").write_text(
        "calls = []\n"
        "def earlier_is_better(question, answer, right):\n"
        "    calls.append(answer)\n"
        "    return 1 / len(calls)\n"
    )
    values = values_of(
        start,
        tmp_path / "out",
        max_steps=3,
        checkpoints={"every": 1, "keep": 3},
        eval={"every": 1, "answers": f"{tmp_path}/mark.py:earlier_is_better", "best_by": "score", "max_samples": 1},
    )
    model = run_recipe(recipe_from_dict(values))
    scores = [entry["eval_score"] for entry in log_of(tmp_path / "out") if "eval_score" in entry]
    assert scores == [1 / 2, 1 / 3, 1 / 4]  # the first call tries the function, before anything is loaded
    best = weights_of(tmp_path / "out" / "checkpoint-1")
    assert all(torch.equal(best[name], tensor) for name, tensor in weights_of(model).items())


def test_a_held_out_video_that_cannot_be_read_is_counted_or_stops_the_run(start, tmp_path):
    records = [{**found.data, "video": "gone.mp4"} for found in load_records(start[1])[:1]] + [
        dict(found.data) for found in load_records(start[1])[2:4]
    ]
    (tmp_path / "held_out.json").write_text(json.dumps(records))
    section = {"share": None, "files": [str(tmp_path / "held_out.json")]}
    for on_bad_sample in ("skip", "raise"):
        data = {"media_root": str(start[1].parent), "on_bad_sample": on_bad_sample}
        run = recipe_from_dict(values_of(start, tmp_path / "out", eval=section, data=data))
        trainer = build_trainer(run, training_arguments(run))
        if on_bad_sample == "skip":
            metrics = trainer.evaluation.measure(trainer)
            assert metrics["eval_skipped"] == 1 and metrics["eval_samples"] == 2
        else:
            with pytest.raises(ValueError, match=r"gone\.mp4: missing media"):
                trainer.evaluation.measure(trainer)


# Scorers -------------------------------------------------------------------------------------------------------------------


def test_answers_are_marked_strictly():
    question = "What colour is it?\nA. red\nB. blue\nAnswer with the option's letter."
    assert [score_exact("", answer, "Red.") for answer in ("red", " RED. ", "dark red", "")] == [1, 1, 0, 0]
    answers = ("B", "(B)", "blue", "Definitely B.", "A", "red", "", "A or B")
    assert [score_choice(question, answer, "B") for answer in answers] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert score_choice(question, "b", "B. blue") == 1
    with pytest.raises(ValueError, match="'green' names none of the 2 options"):
        score_choice(question, "A", "green")


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Which?\n(A) red\n(B) a blue one, far\nAnswer:", ["red", "a blue one, far"]),
        ("Which? (a) one (b) two", ["one", "two"]),
        ("Options: A: x B: y", ["x", "y"]),
        ("Is it a dog?", []),
    ],
)
def test_options_are_read_from_the_question(prompt, options):
    assert option_texts(prompt) == options


def test_a_scorer_is_found_by_its_name(tmp_path):
    (tmp_path / "mine.py").write_text("def half(question, answer, right):\n    return 0.5\n")
    assert scorer_named(f"{tmp_path}/mine.py:half")("", "", "") == 0.5
    assert scorer_named("hicom_hf.training.held_out:score_exact") is score_exact
    with pytest.raises(ValueError, match="no function 'whole'"):
        scorer_named(f"{tmp_path}/mine.py:whole")
    with pytest.raises(FileNotFoundError, match=r"eval\.answers: nowhere\.py does not exist"):
        scorer_named("nowhere.py:half")
    with pytest.raises(ValueError, match=r"exact, choice, FILE\.py:FUNCTION or MODULE:FUNCTION, got 'excat'"):
        scorer_named("excat")


def test_answers_that_are_no_option_are_refused_before_training(start, tmp_path):
    run = recipe_from_dict(values_of(start, tmp_path, eval={"answers": "choice"}))
    with pytest.raises(ValueError, match=r"train\.json: record \d.*names none of the 0 options"):
        build_trainer(run, training_arguments(run))


@pytest.mark.parametrize("body", ["return 'yes'", "return answer.nothing", "return None"])
def test_a_function_that_cannot_mark_is_refused_before_training(body, start, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"def mark(question, answer, right):\n    {body}\n")
    monkeypatch.setattr(
        HiComForConditionalGeneration, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded")
    )
    run = recipe_from_dict(values_of(start, tmp_path / "out", eval={"answers": f"{tmp_path}/mine.py:mark"}))
    with pytest.raises(
        ValueError, match=r"eval\.answers: the function cannot mark the right answer of .*train\.json: record"
    ):
        build_trainer(run, training_arguments(run))


# Logs ----------------------------------------------------------------------------------------------------------------------


def test_stopping_follows_the_metric_that_is_given():
    from types import SimpleNamespace

    for metric, greater_is_better, values, stops in (
        ("eval_score", True, [0.1, 0.3, 0.2, 0.3], True),
        ("eval_score", True, [0.3, 0.2, 0.4], False),
        ("eval_loss", False, [0.3, 0.4, 0.5], True),
    ):
        state = SimpleNamespace(log_history=[{metric: value} for value in values])
        control = SimpleNamespace(should_training_stop=False)
        StopWithoutProgress(2, metric, greater_is_better).on_evaluate(None, state, control)
        assert control.should_training_stop is stops


def test_the_line_of_an_evaluation_says_what_was_right_and_what_was_skipped():
    logs = {"eval_loss": 0.5, "eval_score": 0.25, "eval_samples": 8.0, "eval_skipped": 2.0, "eval_runtime": 3.2}
    assert held_out_line(logs) == "held-out loss 0.5000  answers 25.0 % right of 8  2 samples skipped  (3 s)"


def test_without_matplotlib_or_a_log_nothing_is_drawn(tmp_path, monkeypatch):
    assert not draw_curves([{"step": 1, "train_runtime": 1.0}], tmp_path / "curves.png")
    monkeypatch.setattr("hicom_hf.training.curves.is_matplotlib_available", lambda: False)
    assert not draw_curves([{"step": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.undo()
    assert draw_curves([{"step": 1, "eval_loss": 1.0}], tmp_path / "curves.png")  # shorter than a line of the log
