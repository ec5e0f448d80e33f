"""The ablations: variants are what the tables claim, interrupted runs resume, and the report lists what is missing."""

import json
import multiprocessing
import re
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hicom_hf.hub.files import write_text
from hicom_hf.modeling.compressor_hicom import HiComCompressor
from hicom_hf.shapes import write_dataset
from hicom_hf.shapes.writing import WORLD_VERSION
from lab.ablations import claiming, running, working
from lab.ablations.__main__ import main
from lab.ablations.campaign import LEVELS, Campaign, Run, Settings
from lab.ablations.claiming import check_data, claim
from lab.ablations.paper_tables import TABLES
from lab.ablations.planning import chosen_variants, plan
from lab.ablations.reporting import FRAMING, write_report
from lab.ablations.results import Results, Value, mean_right
from lab.ablations.running import run_campaign
from lab.ablations.targets import losses, pairs, targets
from lab.ablations.variants import CONDITIONAL, FIRST, GRID, PLATEAU, POOL, REPRESENTATIVES, UNCONDITIONAL, VARIANTS
from lab.ablations.working import do, has_stopped, remove_unneeded
from lab.hicom_tiny import language_model, packed_contexts
from lab.hicom_tiny.data_sets import Dataset
from lab.hicom_tiny.language_model import PackedReader, save_language_model
from lab.hicom_tiny.towers import Towers, save_siglip

SMALL = Settings(
    steps={"alignment": 1, "conditional_pretraining": 2, "instruction_tuning": 2},
    datasets=(Dataset("few", 2, 0, {}),),
    test_videos=1,
    validation_videos=1,
    factors=(1.0,),
    max_chunks=1,
)
CONDITIONAL_RUN = Run(CONDITIONAL, 0)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Folders `parts`, with towers and LLM of the right format and random weights, and `data`."""
    folder = tmp_path_factory.mktemp("ablations")
    save_siglip(Towers(), folder / "parts" / "siglip")
    save_language_model(PackedReader(), folder / "parts" / "llm")
    return folder


@pytest.fixture(scope="module")
def campaign(untrained):
    """Two variants, trained for a few steps, and one of them to its plateau, in this process."""
    campaign = Campaign(untrained / "out", SMALL, (0,), (untrained / "parts",), untrained / "data")
    for dataset in (*SMALL.datasets, *SMALL.test_datasets().values()):
        write_dataset(untrained / "data" / dataset.name, dataset.videos, dataset.seed, **dataset.settings)
    claim(campaign)
    do_all(campaign, variants=(CONDITIONAL, POOL))
    return campaign


def do_all(campaign, **chosen):
    """What `run_campaign` does, without processes of its own."""
    done = []
    while ready := [
        job for job in plan(campaign, **chosen) if not job.is_done and all(path.exists() for path in job.needs)
    ]:
        do(ready[0], campaign)
        done.append(ready[0].title)
    return done


def fake_result(campaign, run, right=50.0, validation=50.0, stopped=True, **kinds):
    """Pretend that a run has found something."""

    def rows():
        values = {"colour": right, "where": right, "vague": right, "all": right} | kinds
        return {kind: {"right": value, "chance": 25.0, "questions": 10} for kind, value in values.items()}

    variant = VARIANTS[run.variant]
    scores = {"questions": {level: rows() for level in LEVELS}}
    scores |= {"vague": {level: rows() for level in LEVELS}} if "vague" in variant.measures else {}
    scores |= {f"{count} frames": {"long": rows()} for count in (8, 16, 32)} if "frames" in variant.measures else {}
    scores["validation"] = {"validation": {"all": {"right": validation, "chance": 25.0, "questions": 10}}}
    about = {
        "seed": run.seed,
        "factor": run.factor,
        "plateau": run.plateau,
        "compressor": variant.compressor,
        "commit": "abc",
    }
    record = {**about, "scores": scores, "seconds": {"training": 60.0}, "cpu_seconds": {"run": 3600.0}}
    if run.plateau:
        record |= {"curve": [40.0, 41.0], "stopped": stopped}
    else:
        record["cpu_seconds"]["alignment"] = 1800.0
    write_text(campaign.result_file(run), json.dumps(record))


def fake_whole(campaign):
    """Pretend that everything was run, the search included."""
    for name, variant in VARIANTS.items():
        for seed in campaign.seeds:
            right = {"conditional": 80.0, "unconditional": 40.0, "pooling": 45.0}[variant.family] + seed
            where = {"where": 30.0} if name == CONDITIONAL else {}
            fake_result(campaign, Run(name, seed), right, **where)
            if name in PLATEAU:
                fake_result(campaign, Run(name, seed, plateau=True), 75.0)
    for family, name in REPRESENTATIVES.items():
        for factor in (0.5, 2.0):
            fake_result(campaign, Run(name, campaign.search_seed, factor), validation=10.0)
        assert campaign.factor(family) == 1.0


def copied(campaign, folder, **changes):
    """The campaign in another folder, to which its settings and results alone were copied."""
    for path in (campaign.folder / "settings.json", *campaign.folder.glob("runs/**/result.json")):
        target = folder / path.relative_to(campaign.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return replace(campaign, folder=folder, **changes)


def open_jobs(campaign, **chosen):
    return [job for job in plan(campaign, **chosen) if not job.is_done]


# Variants ----------------------------------------------------------------------------------------------------------------------


def test_the_variants_have_the_tokens_that_they_claim():
    tokens = {name: variant.num_tokens for name, variant in VARIANTS.items()}
    assert (tokens[CONDITIONAL], tokens[UNCONDITIONAL], tokens[POOL]) == (40, 40, 32)
    assert [tokens[f"average-pool-{ratio}"] for ratio in ("1-3-3", "2-4-3", "4-6-6", "8-6-6")] == [128, 48, 8, 4]
    width, frames = 16, GRID[0]
    for variant in VARIANTS.values():
        compressor = HiComCompressor(variant.config, width, width)
        instruction = (torch.randn(1, width), torch.randn(1, 5, width))
        features, aligned = torch.randn(2, 1, frames, *GRID[1:], width)
        assert compressor(features, aligned, instruction)[0].shape == (1, variant.num_tokens, width), variant.name


def test_within_a_table_all_have_the_same_tokens_unless_it_says_otherwise():
    for table in TABLES.values():
        tokens = {row.num_tokens for row in table.rows if row.variant}
        assert (len(tokens) > 1) == bool(table.tokens_differ), table.name


def test_every_variant_is_in_a_table_and_every_row_without_one_says_why():
    rows = [row for table in TABLES.values() for row in table.rows]
    assert {row.variant for row in rows if row.variant} == set(VARIANTS)
    assert all(row.why for row in rows if row.variant is None)
    for row in rows:
        measure = "frames" if row.measure.endswith(" frames") else row.measure
        assert measure == "questions" or measure in VARIANTS[row.variant].measures


def test_every_variant_has_the_same_budget_and_no_two_are_the_same():
    for variant in VARIANTS.values():
        assert sorted(name for stage in variant.stages for name in stage.steps_of) == [
            "conditional_pretraining",
            "instruction_tuning",
        ]
    assert len(
        {json.dumps([variant.compressor, str(variant.stages)], sort_keys=True) for variant in VARIANTS.values()}
    ) == len(VARIANTS)


def test_families_follow_from_the_configs():
    for variant in VARIANTS.values():
        pooling = variant.config.local_branch == "average_pool"
        family = "pooling" if pooling else "conditional" if variant.config.uses_instruction else "unconditional"
        assert variant.family == family
    assert {VARIANTS[name].family: name for name in REPRESENTATIVES.values()} == REPRESENTATIVES


# Planning ------------------------------------------------------------------------------------------------------------------


def test_the_main_claim_comes_first_then_the_search_then_its_other_seeds_then_the_rest(tmp_path):
    jobs = [job for job in plan(Campaign(tmp_path)) if job.kind in ("train", "plateau")]
    assert [(job.run.variant, job.seed) for job in jobs[:5]] == [(name, 0) for name in FIRST]
    searched = [(job.run.variant, job.run.factor) for job in jobs[5:11]]
    assert searched == [(name, factor) for name in REPRESENTATIVES.values() for factor in (0.5, 2.0)]
    assert [(job.run.variant, job.seed) for job in jobs[11:21]] == [(name, seed) for seed in (1, 2) for name in FIRST]
    assert [(job.run.variant, job.seed) for job in jobs if job.kind == "plateau"][:3] == [
        (name, 0) for name in PLATEAU
    ]
    assert [job.kind for job in jobs[21:24]] == ["plateau"] * 3
    assert [job.seed for job in jobs[24:]] == sorted(job.seed for job in jobs[24:])
    assert len(jobs) == 3 * (len(VARIANTS) + len(PLATEAU)) + 6
    assert all(job.needs for job in plan(Campaign(tmp_path)) if job.kind not in ("towers", "llm"))


def test_a_finished_run_needs_nothing_any_more(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0,))
    fake_result(campaign, Run("fine-fine", 0))
    assert [job.kind for job in plan(campaign, variants=("fine-fine",))] == ["train"]
    assert open_jobs(campaign, variants=("fine-fine",)) == []


def test_a_model_that_was_not_moved_along_is_made_again_where_it_is_to_be_trained_on(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0,))
    base, plateau = Run(POOL, 0), Run(POOL, 0, plateau=True)
    fake_result(campaign, base)
    jobs = open_jobs(campaign, variants=(POOL,))
    assert [job.kind for job in jobs] == ["towers", "llm", "features", "alignment", "train", "plateau"]
    assert campaign.model_folder(base) in jobs[-1].needs
    campaign.model_folder(base).mkdir()
    assert [job.kind for job in open_jobs(campaign, variants=(POOL,))] == ["plateau"]
    campaign.model_folder(base).rmdir()
    fake_result(campaign, plateau)
    assert open_jobs(campaign, variants=(POOL,)) == []


def test_the_seed_of_the_search_is_that_of_the_first_command(tmp_path):
    campaign = Campaign(tmp_path)
    claim(campaign)
    others = Campaign(tmp_path, seeds=(1, 2))
    assert others.search_seed == 0
    with pytest.raises(ValueError, match="not chosen yet: add seed 0 to --seeds"):
        plan(others)
    for name in REPRESENTATIVES.values():
        for factor, score in ((1.0, 50.0), (0.5, 60.0), (2.0, 55.0)):
            fake_result(campaign, Run(name, 0, factor), validation=score)
    claim(others)
    assert others.search_seed == 0
    assert {job.run.factor for job in open_jobs(others) if job.kind == "train"} == {0.5}
    assert {job.seed for job in open_jobs(others)} == {1, 2}


def test_the_best_rate_on_the_validation_videos_serves_the_whole_family(tmp_path):
    campaign = Campaign(tmp_path)
    for factor, score in ((1.0, 50.0), (0.5, 60.0)):
        fake_result(campaign, Run(POOL, 0, factor), validation=score)
    waiting = next(job for job in plan(campaign) if job.kind == "train" and job.run.variant == "average-pool-1-3-3")
    assert campaign.result_file(Run(POOL, 0, 2.0)) in waiting.needs and campaign.factor("pooling") is None
    fake_result(campaign, Run(POOL, 0, 2.0), validation=55.0)
    assert campaign.factor("pooling") == 0.5
    runs = [job.run for job in plan(campaign) if job.kind == "train" and job.run.variant == "average-pool-1-3-3"]
    assert {run.factor for run in runs} == {0.5}
    fake_result(campaign, Run(POOL, 0, 0.5), validation=55.0)
    fake_result(campaign, Run(POOL, 0, 1.0), validation=55.0)
    assert campaign.factor("pooling") == 1.0  # equal scores: the recipes' rates


def test_variants_with_the_same_compressor_share_their_alignment(tmp_path):
    jobs = plan(Campaign(tmp_path, replace(SMALL), (0,)))
    aligned = [job.run.variant for job in jobs if job.kind == "alignment"]
    assert CONDITIONAL in aligned and "without-pretraining" not in aligned and "coarse-coarse" in aligned


def test_tables_and_variants_choose_what_is_run():
    assert chosen_variants(["formulation"]) == [CONDITIONAL, "release-formulation"]
    ungrouped = ["coarse-local-ungrouped", "unconditional-local-ungrouped"]
    assert chosen_variants(["A3"], ["fine-fine"]) == ["unconditional-local", "fine-fine", "coarse-local", *ungrouped]
    with pytest.raises(ValueError, match="there is no table 7; there are 4, 5, 6"):
        chosen_variants(["7"])
    with pytest.raises(ValueError, match="there is no variant attention"):
        chosen_variants([], ["attention"])


def test_training_to_the_plateau_stops_after_two_repetitions_without_a_point():
    assert not has_stopped([40.0, 40.1], 2, 1.0)
    assert has_stopped([40.0, 40.1, 40.9], 2, 1.0)
    assert not has_stopped([40.0, 40.1, 41.0], 2, 1.0)


# Running -------------------------------------------------------------------------------------------------------------------


def test_two_variants_run_from_parts_to_scores(campaign):
    result = campaign.result(CONDITIONAL_RUN)
    assert set(result["scores"]) == {"questions", "vague", "8 frames", "16 frames", "32 frames", "validation"}
    assert set(result["scores"]["questions"]) == set(LEVELS)
    assert result["steps"] == SMALL.steps and result["tokens"] == 40
    assert list(result["losses"]) == list(SMALL.steps)  # none yet: a line is logged every 20 steps
    pool = campaign.result(Run(POOL, 0, plateau=True))
    assert len(pool["curve"]) == 2 and not pool["stopped"]
    assert {path.name for path in campaign.place(CONDITIONAL_RUN).iterdir()} == {"result.json"}
    assert {path.name for path in campaign.place(Run(POOL, 0)).iterdir()} == {"result.json", "model"}


def test_what_is_done_is_not_repeated(campaign):
    assert do_all(campaign, variants=(CONDITIONAL, POOL)) == []
    assert run_campaign(campaign, variants=(CONDITIONAL, POOL)) == []
    remove_unneeded(campaign, plan(campaign, variants=(CONDITIONAL, POOL)))
    assert list(campaign.folder.glob("alignment/*")) == []


@pytest.mark.slow
def test_a_killed_run_resumes_where_it_was(campaign):
    """A real process, killed once it has finished a stage; what it has finished stays, the rest is done."""
    run, chosen = Run("fine-fine", 0), {"variants": ("fine-fine",)}
    finished = campaign.place(run) / "conditional_pretraining" / "model" / "config.json"
    killed, returned = [], threading.Event()

    def kill_when_finished():  # no deadline: it watches until the campaign returns
        while not killed and not returned.is_set():
            if finished.exists():
                for process in multiprocessing.active_children():
                    process.kill()
                    killed.append(process.name)
            time.sleep(0.005)

    while (job := next(job for job in plan(campaign, **chosen) if not job.is_done)).kind != "train":
        do(job, campaign)
    watcher = threading.Thread(target=kill_when_finished)
    watcher.start()
    failed = run_campaign(campaign, workers=1, **chosen)
    returned.set()
    watcher.join()

    assert killed == [run_title(run)] and failed == [campaign.place(run) / "log.txt"]
    assert campaign.result(run) is None
    stamp = finished.stat().st_mtime_ns
    measured = []
    original = working.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            working, "measure", lambda *args: measured.append(finished.stat().st_mtime_ns) or original(*args)
        )
        assert do_all(campaign, **chosen) == [run_title(run)]
    assert measured == [stamp]
    assert campaign.result(run)["scores"]["questions"]


@pytest.mark.slow
def test_from_results_alone_a_plateau_is_reached_elsewhere(campaign, tmp_path):
    """The model that was not copied is trained again; its scores stay those of the folder that was copied."""
    moved, base, plateau = copied(campaign, tmp_path / "out"), Run(POOL, 0), Run(POOL, 0, plateau=True)
    claim(moved)
    assert open_jobs(moved, variants=(CONDITIONAL, POOL)) == []
    moved.result_file(plateau).unlink()
    write_text(moved.place(plateau) / "curve.json", "[1000.0, 1000.0]")  # of repetitions whose models are gone
    done = do_all(moved, variants=(CONDITIONAL, POOL))
    assert done[-3:] == [f"alignment of {base.title}", base.title, plateau.title]
    assert moved.result(base) == campaign.result(base)
    curve = moved.result(plateau)["curve"]
    assert len(curve) == 2 and max(curve) <= 100


def run_title(run):
    return f"{VARIANTS[run.variant].title}, seed {run.seed}"


def test_other_settings_in_the_same_folder_are_refused(campaign, untrained):
    other = replace(campaign, settings=replace(SMALL, test_videos=2))
    with pytest.raises(ValueError, match=r"holds results with other settings \(test_videos\)"):
        run_campaign(other)


def test_the_settings_of_a_folder_are_recorded(campaign, tmp_path):
    assert Settings.recorded(campaign.folder) == SMALL
    assert Settings.recorded(tmp_path) is None
    claim(Campaign(tmp_path))
    assert Settings.recorded(tmp_path) == Settings()


def test_another_world_or_recipe_is_refused(tmp_path):
    campaign, path = Campaign(tmp_path), tmp_path / "settings.json"
    claim(campaign)
    record = json.loads(path.read_text())
    write_text(path, json.dumps(record | {"world": 1}))
    with pytest.raises(ValueError, match=rf"\(version 1 of the world there and {WORLD_VERSION} now\)"):
        claim(campaign)
    write_text(path, json.dumps(record | {"recipes": record["recipes"] | {"alignment": "another"}}))
    with pytest.raises(ValueError, match=r"\(recipe of alignment\)"):
        claim(campaign)


def test_a_recipe_is_what_it_says_not_how_it_is_written(tmp_path, monkeypatch):
    campaign, stage = Campaign(tmp_path / "out"), "instruction_tuning"
    claim(campaign)
    recipes = shutil.copytree(claiming.RECIPES_DIR, tmp_path / "recipes")
    monkeypatch.setattr(claiming, "RECIPES_DIR", recipes)
    text = (recipes / f"{stage}.yaml").read_text()
    write_text(recipes / f"{stage}.yaml", text.replace("compressor: 2e-4", "compressor: 0.0002  # as in the paper"))
    claim(campaign)
    write_text(recipes / f"{stage}.yaml", text.replace("compressor: 2e-4", "compressor: 3e-4"))
    with pytest.raises(ValueError, match=rf"\(recipe of {stage}\)"):
        claim(campaign)


def test_the_campaign_in_the_repository_resumes(tmp_path):
    """As its README describes: further runs have the settings of the stored ones."""
    stored = Path(__file__).parents[1] / "ablations" / "record"
    copied(Campaign(stored), tmp_path)
    moved = Campaign(tmp_path, Settings.recorded(tmp_path), parts=(stored / "parts",))
    claim(moved)
    assert moved.record == Campaign(stored).record


def test_data_of_another_world_are_refused(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0,))
    check_data(campaign)  # it will be written
    write_dataset(tmp_path / "data" / "few", 2, 0)
    check_data(campaign)
    world = tmp_path / "data" / "few" / "world.json"
    for changed, words in (
        ({"version": 1}, f"version 1 there and {WORLD_VERSION} asked for"),
        ({"fps": 1.0}, "fps 1.0 there"),
    ):
        before = world.read_text()
        write_text(world, json.dumps(json.loads(before) | changed))
        with pytest.raises(ValueError, match=words):
            run_campaign(campaign, variants=(POOL,))
        write_text(world, before)


def test_given_parts_and_parts_of_its_own_are_not_mixed(tmp_path, untrained):
    given = Campaign(tmp_path / "given", SMALL, (0,), (untrained / "parts",))
    claim(given)
    with pytest.raises(ValueError, match="towers and LLM were given with --parts"):
        claim(replace(given, parts=()))
    own = Campaign(tmp_path / "own", SMALL, (0,))
    claim(own)
    assert own.record["parts"] == {"given": False, "digests": {}}
    with pytest.raises(ValueError, match="towers and LLM were made in the folder, without --parts"):
        claim(replace(own, parts=given.parts))


def test_parts_of_its_own_are_noted_once_they_are_there(tmp_path, untrained):
    own = Campaign(tmp_path, SMALL, (0, 1))
    parts = own.parts_of(0)
    shutil.copytree(untrained / "parts", parts)
    claim(own)
    assert list(own.record["parts"]["digests"]) == ["0"]
    shutil.rmtree(parts)
    with pytest.raises(ValueError, match=r"\(parts of seed 0 that are no longer in .*seed-0\)"):
        claim(own)
    shutil.copytree(untrained / "parts", parts)
    (parts / "llm" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"\(parts of seed 0\)"):
        claim(own)


def test_parts_that_are_not_there_are_named(tmp_path, untrained):
    with pytest.raises(FileNotFoundError, match="there is no siglip with a config"):
        Campaign(tmp_path, SMALL, (0,), (tmp_path,))
    with pytest.raises(ValueError, match="got 2 for 1 seeds"):
        Campaign(tmp_path, SMALL, (0,), (untrained / "parts",) * 2)


# Report --------------------------------------------------------------------------------------------------------------------


def test_values_are_means_with_spreads_over_seeds_and_questions():
    assert str(Value((50.0, 60.0))) == "55.0 ± 7.1" and str(Value((50.0,))) == "50.0"
    tables = {
        "a": {"all": {"right": 100.0, "chance": 25.0, "questions": 10}},
        "b": {"all": {"right": 0.0, "chance": 25.0, "questions": 30}},
    }
    assert mean_right(tables) == 25.0
    assert mean_right(tables, "colour") is None


def test_the_report_of_the_small_campaign_names_what_was_not_run(campaign, tmp_path):
    report, *pictures = write_report(campaign, tmp_path / "docs" / "ablations.md")
    text = report.read_text()
    assert "* `unconditional-local`: no seed" in text and "* `average-pool-4-3-3`:" not in text
    assert "| average pool (1,3,3) | 128 | not run |" in text
    assert "| conditional local+global not below conditional local | not run |" in text
    assert all(path.parent == tmp_path / "docs" / "images" / "ablations" for path in pictures)


def test_a_whole_campaign_gives_every_table_its_picture_and_every_target_its_verdict(tmp_path):
    campaign = Campaign(tmp_path / "out", seeds=(0, 1))
    fake_whole(campaign)
    results = Results(campaign)
    assert [target.met for target in targets(results)[:7]] == [True, True, True, False, False, False, True]
    lost = losses(results)
    beside = [loss for loss in lost if (loss.row.variant, loss.other.variant) == (CONDITIONAL, UNCONDITIONAL)]
    assert any(loss.num_seeds == 2 and "where" in loss.behind for loss in beside)
    report, *pictures = write_report(campaign, tmp_path / "docs" / "ablations.md")
    text = report.read_text()
    assert len(pictures) == len(TABLES) and all(path.stat().st_size > 5000 for path in pictures)
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == [f"images/ablations/{name}.png" for name in TABLES]
    assert "| conditional local+global | 40 | 80.5 ± 0.7 | 80.5 ± 0.7 |" in text
    assert "Nothing is missing" in text and "**missed**" in text
    assert "| pooling | average pool (4,3,3) | 10.0 | 50.0 | 10.0 | x 1 |" in text
    assert "| chance, 40 vague questions | | 25.0 | 25.0 | 25.0 | 25.0 | 25.0 | | | |" in text
    assert "up to 7.9 points (standard error)" in text and "up to 15.8 points; smaller differences" in text
    assert "to 40 questions about unseen videos" in text and "to 10 about longer videos" in text
    runs, alignments = (
        len(VARIANTS) * 2 + 2 * len(PLATEAU) + 6,
        len({json.dumps(variant.compressor) for variant in VARIANTS.values()}) * 2 + 6,
    )
    assert f"{runs} runs, including those of the search and to a plateau" in text and "Commits: `abc`." in text
    hours = runs + alignments / 2
    assert f"| CPU | {runs} | {runs // 2 + 3} | {runs // 2 - 3} | {hours:.1f} |" in text
    assert "$" not in text


def test_the_report_says_which_runs_a_gpu_has_trained(tmp_path):
    campaign = Campaign(tmp_path / "out", seeds=(0, 1))
    for seed in campaign.seeds:
        fake_result(campaign, Run(POOL, seed))
    path = campaign.result_file(Run(POOL, 1))
    write_text(path, json.dumps(json.loads(path.read_text()) | {"device": "NVIDIA H100"}))
    text = write_report(campaign, tmp_path / "ablations.md")[0].read_text()
    assert "| device | runs | seed 0 | seed 1 | hours of one core |" in text
    assert "| CPU | 1 | 1 | 0 | 1.5 |\n| NVIDIA H100 | 1 | 0 | 1 | 1.5 |" in text


def test_without_a_gpu_training_on_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is no CUDA GPU to train on"):
        Campaign(tmp_path, gpu=True)


def test_what_is_compared_has_the_same_tokens_but_with_the_average_pool_and_the_local_branch_alone():
    for row, other in pairs():
        same = row.num_tokens == other.num_tokens
        assert (
            same
            or VARIANTS[other.variant].family == "pooling"
            or other.variant == "conditional-local"
            or other.plateau
        )


def test_where_the_conditional_variant_loses_to_a_pool_of_other_tokens_it_says_so(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0,))
    fake_result(campaign, CONDITIONAL_RUN, 50.0)
    fake_result(campaign, Run("average-pool-1-3-3", 0), 60.0)
    (line,) = losses(Results(campaign))
    assert (line.row.num_tokens, line.other.num_tokens, line.num_seeds) == (40, 128, 1)
    assert line.behind["all"] == pytest.approx(10.0)
    text = write_report(campaign, tmp_path / "ablations.md")[0].read_text()
    assert "| conditional local+global | average pool (1,3,3) | 40, 128 | 1 | 10.0 |" in text


def test_targets_compare_the_seeds_that_both_have_and_say_how_many(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0, 1, 2))
    for seed, right in ((0, 80.0), (1, 80.0), (2, 0.0)):
        fake_result(campaign, Run(CONDITIONAL, seed), right)
    fake_result(campaign, Run(UNCONDITIONAL, 1), 40.0)
    main_claim = targets(Results(campaign))[0]
    assert (main_claim.verdict, main_claim.numbers) == ("met (1 seed)", "80.0 against 40.0, +40.0, 1 seed")
    fake_result(campaign, Run(UNCONDITIONAL, 0), 50.0)
    fake_result(campaign, Run(UNCONDITIONAL, 2), 0.0)
    assert targets(Results(campaign))[0].verdict == "met"


@pytest.mark.parametrize("right,verdict", [(40.0, "open (2 seeds)"), (75.0, "**missed** (2 seeds)")])
def test_nothing_is_met_beside_a_baseline_that_was_still_improving(tmp_path, right, verdict):
    campaign = Campaign(tmp_path, SMALL, (0, 1))
    for seed in campaign.seeds:
        fake_result(campaign, Run(CONDITIONAL, seed), 80.0)
        fake_result(campaign, Run(POOL, seed, plateau=True), right, stopped=seed == 0)
    target = next(one for one in targets(Results(campaign)) if "pool trained to its plateau" in one.text)
    assert target.verdict == verdict and target.numbers.endswith("2 seeds; 1 of 2 were still improving")


def test_vague_instructions_are_judged_by_the_vague_questions(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0, 1, 2))
    for seed in campaign.seeds:
        fake_result(campaign, Run(CONDITIONAL, seed), 80.0, vague=30.0)
        fake_result(campaign, Run(UNCONDITIONAL, seed), 40.0, vague=31.0)
    target = targets(Results(campaign))[-1]
    assert (target.verdict, target.numbers[:17]) == ("**missed**", "30.0 ± 0.0 agains")
    assert target.numbers.endswith("3 seeds; 40 questions")
    report, *_ = write_report(campaign, tmp_path / "ablations.md")
    assert "| conditional local+global, vague questions | 40 | 30.0 ± 0.0 | 30.0 ± 0.0 |" in report.read_text()


def test_a_kind_that_no_video_asks_about_has_no_value(tmp_path):
    campaign = Campaign(tmp_path, SMALL, (0,))
    fake_result(campaign, CONDITIONAL_RUN)
    result = campaign.result(CONDITIONAL_RUN)
    for level in LEVELS[1:]:
        del result["scores"]["questions"][level]["vague"]
    write_text(campaign.result_file(CONDITIONAL_RUN), json.dumps(result))
    report, *_ = write_report(campaign, tmp_path / "ablations.md")
    line = "| conditional local+global, vague questions | 40 | 50.0 | 50.0 | not asked | not asked | not asked | 1 | 48.1 |"
    assert line in report.read_text()


def test_the_report_knows_what_a_seed_decides_and_marks_rates_at_the_edge(tmp_path, untrained):
    def text_of(campaign):
        return write_report(campaign, tmp_path / "ablations.md")[0].read_text()

    own = Campaign(tmp_path / "own", seeds=(0,))
    assert "A seed decides all weights, those of towers and LLM included" in text_of(own)
    given = Campaign(tmp_path / "given", seeds=(0,), parts=(untrained / "parts",))
    claim(given)
    assert "and the order of the data; towers and LLM were given." in text_of(given)
    for factor, score in ((1.0, 50.0), (0.5, 60.0), (2.0, 55.0)):
        fake_result(given, Run(POOL, 0, factor), validation=score)
    both = replace(given, seeds=(1, 0))
    claim(both)
    text = text_of(both)
    assert "and the order of the data; towers and LLM were the same for all seeds." in text
    assert "| 60.0 | 50.0 | 55.0 | x 0.5, at the edge of what was tried |" in text
    assert "conditional) on seed 0 and scored" in text


def test_a_campaign_resumes_from_its_settings_and_results_alone(tmp_path, untrained):
    campaign = Campaign(tmp_path / "out", seeds=(0, 1), parts=(untrained / "parts",))
    claim(campaign)
    fake_whole(campaign)
    campaign.result_file(Run("fine-fine", 1)).unlink()
    campaign.result_file(Run(POOL, 1, plateau=True)).unlink()
    moved = copied(campaign, tmp_path / "moved")
    claim(moved)
    kinds = ["features", "alignment", "train", "features", "alignment", "train", "plateau"]
    assert sorted(job.kind for job in open_jobs(moved)) == sorted(kinds)
    assert {job.run for job in open_jobs(moved) if job.kind == "train"} == {Run("fine-fine", 1), Run(POOL, 1)}
    for seeds in ((0, 1), (1,)):
        before, after = (
            write_report(replace(one, seeds=seeds), tmp_path / f"{one.folder.name}.md")[0].read_text()
            for one in (campaign, moved)
        )
        assert before == after and "| x 1 |" in after


def test_what_the_report_says_of_the_pre_training_on_words_is_so():
    shares = {(frames, groups): share for share, frames, groups in packed_contexts.RASTERS}
    layouts = [(2, 4, 4), (8, 4, 4), (2, 2, 2), (1, 2, 2), (4, 3, 4)]  # (4,3,3), then the others of figure 5, (2,4,3)
    assert [shares.get((8, groups)) for groups in layouts] == [0.58, 0.05, 0.05, 0.04, None]
    assert packed_contexts.RASTERS[:1] == packed_contexts.FIRST_RASTERS
    assert (packed_contexts.GLOBAL_ALONE, language_model.UNCONDITIONAL_SHARE) == (0.06, (0.7, 0.4))
    lowest, highest = packed_contexts.UNCONDITIONAL
    assert lowest == -highest  # half of them are below 0, which counts as 0
    assert {16, 32, 64} < {frames for frames, _ in shares}
    text = FRAMING.read_text()
    assert "| with the layout of (4,3,3), last part of the training | 58 % |" in text
    assert "| 4 to 5 % |" in text


def test_what_the_report_says_of_the_compressors_sizes_is_so():
    names = ("average-pool-4-3-3", "unconditional-local", "conditional-local", UNCONDITIONAL, CONDITIONAL)
    configs = [VARIANTS[name].config for name in names]
    sizes = [sum(p.numel() for p in HiComCompressor(config, 128, 128).parameters()) for config in configs]
    assert [round(size / 1000) for size in sizes] == [33, 33, 99, 133, 298]
    assert [config.uses_aligned_features for config in configs] == [False, False, True, False, True]
    text = " ".join(FRAMING.read_text().split())
    assert (
        "average pool and unconditional local 33, conditional local 99, unconditional 133, conditional local+global 298"
        in text
    )


def test_seeds_that_lie_far_apart_are_listed_one_by_one():
    assert Value((38.4, 56.7, 54.7)).told == "49.9 ± 10.0 (38.4, 56.7, 54.7)"
    assert Value((50.0, 51.0)).told == "50.5 ± 0.7" and Value((50.0,)).told == "50.0"


def test_without_matplotlib_the_extra_is_named(campaign, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'hicom_hf\[plots\]'"):
        write_report(campaign, tmp_path / "ablations.md")


# Command -------------------------------------------------------------------------------------------------------------------


def test_the_list_shows_variants_tables_and_time(tmp_path, capsys):
    assert main([str(tmp_path), "--list", "--seeds", "0"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*VARIANTS, *TABLES))
    assert all(re.search(rf"^{name}, to the plateau +\d+  - +plateau$", printed, re.MULTILINE) for name in PLATEAU)
    assert re.search(r"0 of \d+ jobs done; the others take about \d+\.\d hours", printed)
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_and_rates_are_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--list", "--variants", "nothing"]) == 1
    assert "there is no variant nothing" in capsys.readouterr().err
    assert main([str(tmp_path), "--list", "--rates", "0.5"]) == 1
    assert "must include 1" in capsys.readouterr().err
    assert main([str(tmp_path), "--rates", "0"]) == 2
    assert main([str(tmp_path), "--seeds", "-1"]) == 2
    assert "--seeds: must be from 0 to 9223372036854775807, got -1" in capsys.readouterr().err
    assert main([str(tmp_path), "--report", str(tmp_path / "ablations.md")]) == 1
    assert "there is no campaign in this folder" in capsys.readouterr().err


def test_the_report_of_a_folder_is_written_by_the_command(campaign, tmp_path, capsys):
    path = tmp_path / "ablations.md"
    assert main([str(campaign.folder), "--report", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(path)
    assert "1 + 2 + 2 steps" in path.read_text()  # as recorded, not as the command's own defaults are


def test_options_that_were_not_given_are_those_that_the_folder_was_begun_with(campaign, tmp_path, monkeypatch, capsys):
    folder, runs = copied(campaign, tmp_path / "out").folder, []

    def run_campaign(campaign, *_):
        claim(campaign)
        runs.append(campaign)
        return []

    monkeypatch.setattr(running, "run_campaign", run_campaign)
    command = [str(folder), "--seeds", "0", "--parts", str(campaign.parts[0]), "--data", str(campaign.data)]
    assert main(command) == 0
    assert runs[0].settings == SMALL
    assert main([*command, "--test-videos", "1"]) == 0
    assert main([*command, "--test-videos", "2"]) == 1
    assert "other settings (test_videos)" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), "--rates", "2", "1", "--steps-scale", "0.1"]) == 0
    new = runs[-1].settings
    assert (new.factors, new.parts_scale, new.test_videos, new.steps["alignment"]) == ((1.0, 2.0), 0.1, 25, 30)
