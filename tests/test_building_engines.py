"""Parts that need packages of their own: Ray gives the files of the local engine; PySceneDetect's cuts are its own."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer
from hicom_hf.dataset_building.engine_local import DIED
from hicom_hf.dataset_building.export import export
from hicom_hf.dataset_building.settings import DEFAULT_THRESHOLDS, PANDA_THRESHOLD, ShotSettings, settings_from_dict
from hicom_hf.dataset_building.stages import Stage


def settings_of(films, output_dir, base_url="http://localhost:1/v1", **values):
    captions = {"base_url": base_url, "model": MODEL, "num_frames": 4}
    given = {"videos": [str(films[0])], "output_dir": str(output_dir), "shots": SHOTS, "workers": 2}
    return settings_from_dict(
        {**given, "media_root": str(films[0]), "keyframes": KEYFRAMES, "captions": captions, **values}
    )


def contents(folder: Path) -> dict[str, object]:
    """Of all results and exports; compressed arrays hold the date of their writing, and the log holds dates."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: value.tobytes() for key, value in arrays.items()}
        elif path.is_file() and path.name != "log.jsonl" and path.name[0] != ".":
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def ray_engine():
    pytest.importorskip("ray")
    from hicom_hf.dataset_building.engine_ray import RayEngine

    os.environ.setdefault("RAY_worker_niceness", "0")  # at 15, Ray's default, a busy machine gives its workers no time
    with RayEngine(workers=2) as engine:
        yield engine


@pytest.mark.slow
def test_ray_gives_the_files_of_the_local_engine_for_the_same_answers(world_films, ray_engine, tmp_path):
    scenes = list({take.seed: take.scene for takes in world_films[1].values() for take in takes}.values())
    videos = tmp_path / "videos"
    shutil.copytree(world_films[0], videos)
    (videos / "broken.mp4").write_text("no video")
    films = (videos, world_films[1])
    with SceneServer(scenes) as server:
        local = Build(settings_of(films, tmp_path / "local", server.base_url))
        local.run()
        asked = server.asked
    by_ray = Build(settings_of(films, tmp_path / "ray"))
    by_ray.run(until="clips", engine=ray_engine)
    for stage in ("captions", "pairs"):  # the stored answers
        folder = by_ray.clip_stages[stage].folder
        shutil.copytree(local.output_dir / folder.name, folder)
    by_ray.run(engine=ray_engine)  # nothing is asked: there is no server
    for build in (local, by_ray):
        export(build, ("jsonl", "parquet", "webdataset"), clip_height=120)
    assert asked > 10 and contents(by_ray.output_dir) == contents(local.output_dir)
    assert by_ray.failures() == local.failures() != []


@pytest.mark.slow
def test_a_ray_task_that_dies_is_a_row_and_the_others_are_done(ray_engine, tmp_path):
    def dies_at_three(number):
        if number == 3:
            os._exit(9)
        if number == 4:
            raise ValueError("four")
        return {"number": number}

    stage = Stage(tmp_path, "work", {})
    items = {f"{number:02}": number for number in range(6)}
    ray_engine.run_stage(stage, items, dies_at_three)
    assert {row["item"]: row["error"] for row in stage.failures(items)} == {"03": DIED, "04": "ValueError: four"}
    assert all(stage.is_done(f"{number:02}") for number in (0, 1, 2, 5))


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    import sys

    from hicom_hf.dataset_building.engine_ray import RayEngine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"hicom_hf\[build-ray\]"):
        RayEngine()


# PySceneDetect -------------------------------------------------------------------------------------------------------------


def test_without_pyscenedetect_the_run_ends_before_it_begins(world_films, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ImportError, match=r"hicom_hf\[build-scenedetect\]"):
        Build(settings_of(world_films, tmp_path / "out", shots={"detector": "pyscenedetect"})).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [12.0, 27.0])
def test_pyscenedetects_cuts_are_those_of_its_own_backend(world_films, tmp_path, threshold):
    scenedetect = pytest.importorskip("scenedetect")
    from hicom_hf.dataset_building.settings import KeyframeSettings
    from hicom_hf.dataset_building.watching import watch

    class NoEmbedder:
        provenance = {"embedder": "none"}

        def embed_frames(self, frames):
            return np.zeros((len(frames), 2), np.float32)

    shots = ShotSettings(detector="pyscenedetect", threshold=threshold)
    from hicom_hf.dataset_building.detectors import make_detector

    for path in sorted(world_films[0].glob("*.mp4")):
        watched = watch(str(path), KeyframeSettings(), NoEmbedder(), shots)
        cuts = make_detector(shots).cuts(watched["times"], watched["distances"], shots)
        detector = scenedetect.ContentDetector(threshold=threshold, min_scene_len=1.0)
        scenes = scenedetect.detect(str(path), detector, backend="pyav")
        assert cuts == pytest.approx([scene[0].seconds for scene in scenes[1:]], abs=0.01)
        assert len(cuts) >= 2 or threshold > 20


def test_the_defaults_give_fewer_cuts_than_panda_70m():
    assert DEFAULT_THRESHOLDS["pyscenedetect"] > PANDA_THRESHOLD
    assert ShotSettings().chosen_threshold > 0.2  # of PySceneDetect's HistogramDetector
    assert ShotSettings(detector="pyscenedetect").chosen_threshold == 40
    with pytest.raises(ValueError, match=r"from 8 to 255 with shots.detector pyscenedetect"):
        settings_from_dict(
            {"videos": ["a"], "output_dir": "b", "shots": {"detector": "pyscenedetect", "threshold": 3}}
        )
