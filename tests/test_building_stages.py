"""Each stage runs by itself, says what it needs, does nothing twice, and gives what a run of all stages gives."""

import json
import shutil

import pytest

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer
from hicom_hf.dataset_building.engine_local import EmbedderError
from hicom_hf.dataset_building.export import collect, delete_video
from hicom_hf.dataset_building.filtering import verdicts
from hicom_hf.dataset_building.planning import plan
from hicom_hf.dataset_building.settings import FilterSettings, KeyframeSettings, ShotSettings, settings_from_dict
from hicom_hf.dataset_building.stages import STAGES
from hicom_hf.dataset_building.video_work import watch_with


def settings_of(films, output_dir, base_url="http://localhost:1/v1", **values):
    given = {
        "videos": [str(films[0])],
        "output_dir": str(output_dir),
        "media_root": str(films[0]),
        "select": {"per_category": 1, "random": 10, "num_frames": 2},
        "shots": SHOTS,
        "keyframes": KEYFRAMES,
        "captions": {"base_url": base_url, "model": MODEL, "num_frames": 2},
        "deduplicate": {"threshold": 0.999999},
    }
    return settings_from_dict({**given, **values})


@pytest.fixture(scope="module")
def scenes(world_films):
    return list({take.seed: take.scene for takes in world_films[1].values() for take in takes}.values())


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The file of a benchmark that has a video of the films."""
    file = tmp_path_factory.mktemp("benchmark") / "names.txt"
    file.write_text("film01\n")
    return file


@pytest.fixture(scope="module")
def staged(world_films, scenes, names, tmp_path_factory):
    """A build that was made stage by stage, and how many requests each stage sent."""
    output_dir, asked = tmp_path_factory.mktemp("staged"), {}
    with SceneServer(scenes) as server:
        for stage in STAGES:
            build = Build(with_benchmark(world_films, output_dir, names, server.base_url))
            before = server.asked
            build.run(only=stage)
            asked[stage] = server.asked - before
            build.run(only=stage)
            assert server.asked - before == asked[stage]  # what is done is not done again
            assert build.count(stage)["missing"] == 0 and build.waiting(stage) == {}
    return build, asked


def with_benchmark(films, output_dir, names, base_url="http://localhost:1/v1", **values):
    return settings_of(films, output_dir, base_url, decontaminate={"benchmark_files": [str(names)]}, **values)


def results_of(folder):
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob("*-*/??/*"))}
    return {name: None if path.suffix == ".npz" else path.read_bytes() for name, path in found.items()}


def test_stages_one_by_one_give_the_files_of_one_run(staged, world_films, scenes, names, tmp_path):
    build, asked = staged
    assert asked["captions"] == asked["pairs"] == len(build.selected_clips()) >= 2
    assert not any(count for stage, count in asked.items() if stage not in ("captions", "pairs"))
    for folder in build.output_dir.glob("watch-*"):  # decoding twice would show nothing more
        shutil.copytree(folder, tmp_path / "out" / folder.name)
    with SceneServer(scenes) as server:
        whole = Build(with_benchmark(world_films, tmp_path / "out", names, server.base_url))
        whole.run()
    assert results_of(whole.output_dir) == results_of(build.output_dir)
    assert {path.parts[0].partition("-")[0] for path in map(type(names), results_of(whole.output_dir))} == set(STAGES)
    status = whole.status()
    assert list(status["stages"]) == list(STAGES)
    assert status["left out"] == {"of a benchmark": len(list(whole.clips())) - len(whole.selected_clips())}


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        ("select", "probe"),
        ("watch", "probe"),
        ("shots", "select"),
        ("clips", "select"),
        ("captions", "select"),
        ("filter", "select"),
    ],
)
def test_a_stage_alone_says_what_it_needs_first(world_films, names, tmp_path, stage, needed):
    build = Build(with_benchmark(world_films, tmp_path / "out", names))
    with pytest.raises(
        ValueError, match=rf"stage {stage} needs the stage {needed}.*run it first \(--stage {needed}\)"
    ):
        build.run(only=stage)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        ("shots", "watch"),
        ("keyframes", "watch"),
        ("clips", "shots"),
        ("deduplicate", "clips"),
        ("decontaminate", "clips"),
        ("captions", "clips"),
        ("pairs", "clips"),
        ("filter", "clips"),
    ],
)
def test_without_select_it_is_the_stage_before(world_films, names, tmp_path, stage, needed):
    build = Build(with_benchmark(world_films, tmp_path / "out", names, select=None))
    build.run(only="probe")
    if stage == "decontaminate":
        needed = "watch"  # it compares with what the benchmarks' videos show
    with pytest.raises(ValueError, match=rf"stage {stage} needs the stage {needed}"):
        build.run(only=stage)


def test_answers_need_what_is_left_out_and_pairs_need_captions(staged, world_films, names, tmp_path):
    output_dir = shutil.copytree(staged[0].output_dir, tmp_path / "out")
    build = Build(with_benchmark(world_films, output_dir, names))
    for folder in output_dir.glob("deduplicate-*"):
        shutil.rmtree(folder)
    for stage in ("captions", "pairs"):
        with pytest.raises(ValueError, match=rf"stage {stage} needs the stage deduplicate of all.*\d+ clips"):
            build.run(only=stage)
    build.run(only="deduplicate")
    shutil.rmtree(build.captions.folder)
    shutil.rmtree(build.pairs.folder)
    with pytest.raises(ValueError, match="stage pairs needs the stage captions"):
        build.run(only="pairs")
    with pytest.raises(ValueError, match="stage filter needs the stage pairs"):
        build.run(only="filter")


@pytest.mark.parametrize(
    ("stage", "key"),
    [("select", "select"), ("deduplicate", "deduplicate"), ("pairs", "captions"), ("filter", "captions")],
)
def test_a_stage_that_the_build_does_not_have_is_refused(world_films, tmp_path, stage, key):
    settings = settings_of(world_films, tmp_path / "out", select=None, captions=None, deduplicate=None)
    with pytest.raises(ValueError, match=rf"stage {stage}: this build has none, because its file has no '{key}'"):
        Build(settings).run(only=stage)


def test_a_stage_does_what_is_there_and_counts_what_waits(staged, world_films, names, tmp_path, capsys):
    output_dir = tmp_path / "out"
    settings = with_benchmark(world_films, output_dir, names)
    with pytest.raises(ValueError, match="stage select needs the stage probe"):
        Build(settings).run(only="select")
    for folder in staged[0].output_dir.glob("probe-*"):
        shutil.copytree(folder, output_dir / folder.name)
    with pytest.raises(ValueError, match="stage watch needs the stage select of all, which is missing for 2 videos"):
        Build(settings).run(only="watch")
    for name in ("select", "watch"):
        for folder in staged[0].output_dir.glob(f"{name}-*"):
            shutil.copytree(folder, output_dir / folder.name)
    next(output_dir.glob("watch-*/??/*")).unlink()  # as after a kill
    file = tmp_path / "build.yaml"
    file.write_text(json.dumps(settings.to_dict()))
    assert main(["build-data", "run", str(file), "--stage", "shots"]) == 0
    assert "shots: the stage watch is missing for 1, which wait for it" in capsys.readouterr().err
    assert Build(settings).count("shots") == {"done": 1, "failed": 0, "missing": 1}
    assert main(["build-data", "run", str(file), "--stage", "keyframes"]) == 0
    assert main(["build-data", "run", str(file), "--stage", "clips"]) == 0
    assert main(["build-data", "run", str(file), "--stage", "deduplicate"]) == 1  # it compares all clips
    assert "needs the stage clips of all, which is missing for 1 videos" in capsys.readouterr().err
    assert main(["build-data", "run", str(file), "--stage", "shots", "--until", "clips"]) == 2


def test_other_phrases_redo_the_filter_only(staged, world_films, names):
    build = staged[0]
    pairs = [pair for clip in build.selected_clips() for pair in build.pairs.read(clip.id)["pairs"]]
    word = pairs[0]["answer"].split()[1].upper()
    values = {"filter": {"phrases": [word], "min_answer_words": 0}}
    other = Build(with_benchmark(world_films, build.output_dir, names, **values))
    stages = other.status()["stages"]
    assert [name for name in STAGES if stages[name]["missing"]] == ["filter"]
    dropped = sum(word.lower() in pair["answer"].lower() for pair in pairs)
    assert collect(other).dropped == {"phrase of the build file": dropped} and dropped
    other.run(only="filter")
    assert other.count("filter")["missing"] == 0 and len(collect(other).records) == len(pairs) - dropped
    assert len(collect(build).records) == len(pairs)


def test_each_pair_has_its_verdict():
    pair = {"instruction": "Describe the cat.", "answer": "A black cat asleep."}
    pairs = [
        pair,
        {**pair, "instruction": "DESCRIBE  the cat."},
        {**pair, "instruction": "Why?", "answer": "I'm sorry."},
    ]
    assert verdicts(pairs, FilterSettings()) == ["kept", "the same instruction twice", "refusal"]
    assert verdicts([pair], FilterSettings(min_answer_words=5)) == ["too short an answer"]
    for values in ({"min_answer_words": -1}, {"phrases": [""]}):
        with pytest.raises(ValueError, match="filter takes min_answer_words"):
            settings_from_dict({"videos": ["a"], "output_dir": "b", "filter": values})


def test_a_deleted_video_is_named_by_no_comparison(staged, world_films, names, tmp_path):
    output_dir = shutil.copytree(staged[0].output_dir, tmp_path / "out")
    build = Build(with_benchmark(world_films, output_dir, names))
    first = next(iter(build.videos))
    delete_video(build, first)
    left = [path for path in output_dir.rglob("*") if path.is_file() and path.name != "deleted.jsonl"]
    assert not [path for path in left if first.encode() in path.read_bytes() or first in path.name]


def test_before_the_selection_the_plan_states_the_most_that_it_may_cost(staged, world_films, names, tmp_path):
    values = {"select": {"per_category": 0, "random": 1, "num_frames": 2}}
    build = Build(with_benchmark(world_films, tmp_path / "out", names, **values))
    build.run(only="probe")
    found = plan(build)
    assert found["selected"] == "at most 1, not known before the stage select" and found["watch"]["missing"] == 1
    assert (
        found["captions"]["requests"] == pytest.approx(found["hours"] * 3600 / 2 / 25.67, abs=1)
        and found["captions"]["requests"]
    )
    done = plan(staged[0])
    assert "selected" not in done and done["watch"]["missing"] == done["pairs"]["requests"] == 0


# Before any work -----------------------------------------------------------------------------------------------------------


def test_what_would_fail_later_is_refused_before_any_work(world_films, names, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    captions = {"base_url": "http://localhost:1/v1", "model": MODEL, "api_key_variable": "NO_SUCH_KEY"}
    build = Build(settings_of(world_films, tmp_path / "out", captions=captions))
    with pytest.raises(ValueError, match="environment variable NO_SUCH_KEY is not set"):
        build.run()
    wrong = settings_of(
        world_films, tmp_path / "out", decontaminate={"benchmark_files": [str(tmp_path / "none.json")]}
    )
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        Build(wrong).run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotADirectoryError, match=r"output_dir: .*names\.txt is a file; name a folder"):
        Build(settings_of(world_films, names)).run()


@pytest.mark.parametrize("keyframes", [{"embedder": "siglip", "model": "no/such/folder/of/a/model"}])
def test_an_embedder_that_cannot_be_loaded_stops_the_run_and_costs_no_video(world_films, tmp_path, keyframes):
    from hicom_hf.dataset_building.engine_local import EmbedderError

    build = Build(settings_of(world_films, tmp_path / "out", keyframes=keyframes, select=None))
    with pytest.raises(EmbedderError, match=r"keyframes\.embedder siglip, no/such/folder/of/a/model: "):
        build.run()
    assert build.failures() == []


def test_a_device_that_is_not_there_names_the_key_of_the_build_file(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        EmbedderError, match=r"^device 'cuda' was asked for.*; set device: cpu in the build file, or install"
    ):
        watch_with(KeyframeSettings(embedder="siglip", model="x"), ShotSettings(), "cuda", "x.mp4")
