"""From untrimmed videos to clips: true cuts are found, new scenes are kept, bad files are rows, killed runs are repeated."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from started import Started, hicom
from video_files import write_corrupted_video, write_truncated_video
from video_files import write_video as write_numbered_video

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.categories import CATEGORIES, RANDOM, choose_videos
from hicom_hf.dataset_building.clips import choose_clips, choose_keyframes, choose_shots, verdict
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.embedders import HiComEmbedder, SiglipEmbedder
from hicom_hf.dataset_building.keyframes import find_keyframes, similarity_quantiles
from hicom_hf.dataset_building.probe import find_videos
from hicom_hf.dataset_building.run_locks import part_lock
from hicom_hf.dataset_building.settings import ClipSettings, KeyframeSettings, read_settings, settings_from_dict
from hicom_hf.dataset_building.shots import find_cuts, recall_and_precision
from hicom_hf.dataset_building.stages import Stage
from hicom_hf.dataset_building.watching import sampled_indices, watch
from hicom_hf.hub.files import FolderLock
from hicom_hf.hub.processes import worker_context
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.shapes.films import film

MEDIA = Path(__file__).parent / "media"
NUM_FILMS = 2
TOLERANCE = 0.38  # seconds: three frames at 8 per second; a transition takes half a second
WORLD_SETTINGS = {"shots": SHOTS, "keyframes": KEYFRAMES}


@pytest.fixture(scope="module")
def films(world_films):
    """A folder of films, and the takes of each by its file's name."""
    return world_films


@pytest.fixture(scope="module")
def built(films, tmp_path_factory):
    build = Build(settings_of(films[0], tmp_path_factory.mktemp("built")))
    build.run()
    return build


def settings_of(videos, output_dir, **values):
    return settings_from_dict({"videos": [str(videos)], "output_dir": str(output_dir), **WORLD_SETTINGS, **values})


def clips_of(watched, settings):
    shots, keyframes = choose_shots(watched, settings.shots), choose_keyframes(watched, settings.keyframes)
    return choose_clips("a", shots, keyframes, settings.clips)


def takes_of(video, films):
    return films[1][Path(video.path).name]


def test_cuts_of_the_built_in_world_are_found(built, films):
    recalls, precisions = [], []
    for video, chosen in built.chosen_videos():
        true = [take.end for take in takes_of(video, films)[:-1]]
        recall, precision, _ = recall_and_precision(chosen["cuts"], true, TOLERANCE)
        recalls.append(recall)
        precisions.append(precision)
    assert np.mean(recalls) >= 0.9 and np.mean(precisions) >= 0.9


def test_new_scenes_have_a_keyframe_and_returning_ones_have_none(built, films):
    new, returning = [], []
    for video, chosen in built.chosen_videos():
        for take in takes_of(video, films):
            has_keyframe = any(take.start <= keyframe < take.end for keyframe in chosen["keyframes"])
            (returning if take.returns else new).append(has_keyframe)
    assert np.mean(new) >= 0.95
    assert returning and np.mean(returning) <= 0.15


def test_clips_lie_within_one_scene(built, films):
    clips = list(built.clips())
    assert len(clips) >= 2 * NUM_FILMS
    mixed = [
        clip
        for clip in clips
        if not any(
            take.start - TOLERANCE <= clip.start and clip.end <= take.end + TOLERANCE
            for take in takes_of(clip.video, films)
        )
    ]
    assert len(mixed) <= 0.1 * len(clips)
    assert all(5 <= clip.end - clip.start <= 120 for clip in clips)


def test_a_film_is_the_same_again_and_its_takes_cover_it():
    frames, takes = film(3, num_takes=4, size=48, fps=4.0)
    again, _ = film(3, num_takes=4, size=48, fps=4.0)
    assert (frames == again).all()
    assert takes[-1].end == len(frames) / 4.0 and takes[-1].transition is None
    assert [take.start for take in takes[1:]] == [take.end for take in takes[:-1]]
    with pytest.raises(ValueError, match="num_takes"):
        film(0, num_takes=0)


def test_an_early_threshold_gives_more_cuts_than_a_late_one():
    times, distances = [0.0, 2.0, 4.0, 6.0], [0.0, 0.2, 0.5, 0.9]
    assert find_cuts(times, distances, 0.1, 1.0) == [2.0, 4.0, 6.0]
    assert find_cuts(times, distances, 0.6, 1.0) == [6.0]


def test_shots_are_dropped_for_the_papers_reasons_in_its_order():
    settings = ClipSettings()
    assert verdict(0, 10, [3.0], settings) == "kept"
    assert verdict(0, 3, [], settings) == "no keyframe"
    assert verdict(0, 121, [1.0], settings) == "too long"
    assert verdict(0, 10, [10.0], settings) == "no keyframe"  # it belongs to the next shot


def test_similarities_within_a_shot_and_between_shots_are_told_apart():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    found = similarity_quantiles(vectors, np.array([0, 0, 1, 1]))
    assert min(found["within a shot"]) > 0.9 > max(found["between shots"])
    assert similarity_quantiles(vectors[:1], np.array([0]))["within a shot"] == []


def test_similarities_of_a_long_video_are_those_of_some_frames(monkeypatch):
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(4, 8))
    shots = np.repeat(np.arange(4), 50)
    vectors = scenes[shots] + 0.1 * rng.normal(size=(200, 8))
    all_of_them = similarity_quantiles(vectors, shots)
    monkeypatch.setattr("hicom_hf.dataset_building.keyframes.COMPARED", 60)
    monkeypatch.setattr(
        np, "triu_indices", lambda n, k, triu=np.triu_indices: triu(n, k) if n == 60 else pytest.fail()
    )
    for name, values in similarity_quantiles(vectors, shots).items():
        assert values == pytest.approx(all_of_them[name], abs=0.05)


def test_the_first_frame_is_always_a_keyframe():
    assert find_keyframes(np.ones((3, 2)), threshold=-1.0)[0] == []
    assert find_keyframes(np.ones((3, 2)), threshold=0.5)[0] == [0]


@pytest.mark.parametrize(("times", "expected"), [([0.0], {0}), ([0.0, 0.2], {1}), ([0.0, 0.4, 0.9, 1.6], {1, 3})])
def test_frames_are_sampled_at_the_middles_of_seconds(times, expected):
    assert sampled_indices(times, 1.0) == expected


# Files ---------------------------------------------------------------------------------------------------------------------


class MeanEmbedder:
    """The mean colour, to test without weights."""

    provenance = {"embedder": "mean"}

    def embed_frames(self, frames):
        return np.stack([frame.mean((0, 1)) for frame in frames])


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_variable_frame_rates_and_av1_keep_their_times(tmp_path, codec):
    times = [0.0, 0.04, 0.08, 2.0, 5.0, 9.0]
    path = write_numbered_video(tmp_path / "a.mkv", times=times, codec=codec)
    watched = watch(str(path), KeyframeSettings(), MeanEmbedder())
    assert watched["times"] == pytest.approx(times, abs=2e-3)
    shots = clips_of(watched, settings_of(tmp_path, tmp_path))["shots"]
    assert all(shot["start"] < shot["end"] for shot in shots)


def test_a_video_of_one_frame_has_one_shot(tmp_path):
    path = write_numbered_video(tmp_path / "a.mp4", num_frames=1)
    chosen = clips_of(watch(str(path), KeyframeSettings(), MeanEmbedder()), settings_of(tmp_path, tmp_path))
    assert [shot["verdict"] for shot in chosen["shots"]] == ["too short"]


def test_frames_are_made_smaller_while_they_are_decoded(tmp_path):
    seen = []

    class Sizes(MeanEmbedder):
        def embed_frames(self, frames):
            seen.extend(frame.shape for frame in frames)
            return super().embed_frames(frames)

    path = write_numbered_video(tmp_path / "a.mp4", width=128, height=96)
    watch(str(path), KeyframeSettings(max_side=64), Sizes())
    assert set(seen) == {(48, 64, 3)}


def test_damaged_files_are_rows_and_the_others_are_done(films, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "good.mp4").write_bytes((films[0] / "film00.mp4").read_bytes())
    (folder / "cut.mp4").write_bytes((films[0] / "film00.mp4").read_bytes()[:1000])
    (folder / "text.mp4").write_text("no video")
    (folder / "broken.mp4").write_bytes((MEDIA / "broken_fragment.mp4").read_bytes())
    build = Build(settings_of(folder, tmp_path / "out"))
    build.run()
    failed = {Path(failure["path"]).name: failure for failure in build.failures()}
    assert {"cut.mp4", "text.mp4"} <= failed.keys() and "good.mp4" not in failed
    assert failed["text.mp4"]["stage"] == "probe" and "VideoReadError" in failed["text.mp4"]["error"]
    assert build.has_too_many_failures()
    assert build.status()["stages"]["clips"]["done"] >= 1
    build.run()  # what failed is not tried again
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == len(failed)
    build.run(retry_failed=True)
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2 * len(failed)


def test_a_file_whose_name_is_not_utf8_is_a_row(films, tmp_path):
    try:
        shutil.copy(films[0] / "film00.mp4", os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    build = Build(settings_of(tmp_path, tmp_path / "out", media_root=str(tmp_path)))
    build.run(until="clips")
    (row,) = build.failures()
    assert row["path"] == "caf\\xe9.mp4" and "is not UTF-8, so no record can name it" in row["error"]


def test_clips_of_a_file_that_breaks_end_where_it_can_be_read(tmp_path):
    videos = {"cut_off.mkv": write_truncated_video, "damaged.mp4": write_corrupted_video}
    for name, write in videos.items():
        write(tmp_path / name)
    build = Build(settings_of(tmp_path, tmp_path / "out", clips={"min_length": 0.5}))
    build.run(until="clips")
    clips = list(build.clips())
    assert {Path(clip.video.path).name for clip in clips} == set(videos)
    for clip in clips:  # as training reads them, which stops at what cannot be read
        read_video(clip.video.path, FrameSampling(num_frames="all", start=clip.start, end=clip.end))


@pytest.mark.slow
def test_the_same_files_come_from_several_processes(built, films, tmp_path):
    build = Build(settings_of(films[0], tmp_path / "out", workers=2))
    build.run()
    assert files_of(build.output_dir) == files_of(built.output_dir)


def test_other_thresholds_decode_nothing_again(films, built):
    settings = settings_of(films[0], built.output_dir, clips={"min_length": 7.0})
    build = Build(settings)
    assert build.status()["stages"]["watch"]["missing"] == 0
    assert build.status()["stages"]["clips"]["missing"] == NUM_FILMS
    other = Build(settings_of(films[0], built.output_dir, keyframes={"fps": 2.0, **WORLD_SETTINGS["keyframes"]}))
    assert other.status()["stages"]["watch"]["missing"] == NUM_FILMS


def test_shards_share_the_work(films, tmp_path):
    settings = settings_of(films[0], tmp_path)
    parts = [set(Build(settings, (number, 3)).videos) for number in range(3)]
    assert sum(map(len, parts)) == NUM_FILMS and set.union(*parts) == set(Build(settings).videos)


def test_two_runs_of_one_part_do_not_meet_and_a_plan_needs_no_lock(films, tmp_path, capsys):
    settings = settings_of(films[0], tmp_path)
    context = worker_context()
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "locks" / "whole", held, done), daemon=True)
    process.start()
    try:
        assert held.wait(120)  # seconds; the child may have ended
        for shard in ((0, 1), (1, 2)):  # a shard is a part of the whole
            with pytest.raises(BlockingIOError, match="is in use by"):
                Build(settings, shard).run()
        with pytest.raises(BlockingIOError, match="is in use by"):  # what is removed would be written again
            Build(settings).delete_video(next(iter(Build(settings).videos)))
        assert not (tmp_path / "deleted.jsonl").exists()
        file = tmp_path / "build.yaml"
        file.write_text(yaml.safe_dump(settings.to_dict()))
        assert main(["build-data", "plan", str(file), "--json"]) == 0  # a reader needs no lock
        shown = capsys.readouterr()
        assert json.loads(shown.out)["probed"] == 0 and "a run is in progress" in shown.err
    finally:
        done.set()
        process.join()
    assert process.exitcode == 0


def test_shards_of_one_number_run_together_and_those_of_another_do_not(tmp_path):
    with part_lock(tmp_path, (0, 2), "a run"), part_lock(tmp_path, (1, 2), "a run"):
        for shard in ((0, 3), (0, 1)):
            with pytest.raises(BlockingIOError), part_lock(tmp_path, shard, "a run"):
                pass
    with part_lock(tmp_path, (0, 3), "a run"):  # what others have held stands in no way
        pass


def hold(folder, held, done):
    with FolderLock(folder):
        held.set()
        done.wait()


def files_of(folder):
    """Contents of the results; compressed arrays hold the date of their writing."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.relative_to(folder)] = {key: value.tobytes() for key, value in arrays.items()}
        elif path.suffix == ".json":
            found[path.relative_to(folder)] = path.read_bytes()
    return found


@pytest.mark.parametrize("seconds", [0.3, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 1.0))])
def test_a_killed_run_loses_nothing_but_the_item_in_flight(built, films, tmp_path, seconds):
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(settings_of(films[0], tmp_path / "out").to_dict()))
    with Started(hicom, "build-data", "run", file) as process:
        while process.is_alive and not list((tmp_path / "out").glob("probe-*")):
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
    before = files_of(tmp_path / "out")
    assert main(["build-data", "run", str(file)]) == 0
    after = files_of(tmp_path / "out")
    assert {path: after[path] for path in before if "unfinished" not in str(path)}.items() <= after.items()
    assert after == files_of(built.output_dir)


@pytest.mark.slow
def test_a_process_that_dies_costs_one_row(tmp_path):
    from hicom_hf.dataset_building.engine_local import DIED, run_stage

    stage = Stage(tmp_path, "work", {})
    run_stage(stage, {f"{number:02}": number for number in range(6)}, dies_at_three, workers=2)
    assert [failure["error"] for failure in stage.failures(["03"])] == [DIED]
    assert all(stage.is_done(f"{number:02}") for number in (0, 1, 2, 4, 5))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so_and_costs_no_video(films, tmp_path):
    (tmp_path / "script.py").write_text(
        "from hicom_hf.dataset_building import Build, settings_from_dict\n"
        f"Build(settings_from_dict({settings_of(films[0], tmp_path / 'out', workers=2).to_dict()!r})).run(until='probe')\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False)
    assert done.returncode and "behind `if __name__ == '__main__':`" in done.stderr
    assert Build(settings_of(films[0], tmp_path / "out")).failures() == []


def dies_at_three(number):
    if number == 3:
        os._exit(9)
    return {"number": number}


# Selection -----------------------------------------------------------------------------------------------------------------


def test_the_first_of_each_category_are_chosen_and_some_of_the_others_at_random():
    assert len(set(CATEGORIES)) == 29
    scores = {f"{number:02}": [float(number == place) for place in range(29)] for number in range(40)}
    chosen = choose_videos(scores, per_category=1, num_random=4, seed=0)
    assert all(chosen[f"{number:02}"] == [CATEGORIES[number]] for number in range(29))
    assert sum(reasons == [RANDOM] for reasons in chosen.values()) == 4 and len(chosen) == 33
    assert chosen == choose_videos(scores, 1, 4, 0) != choose_videos(scores, 1, 4, 1)
    assert choose_videos({}, 1, 1, 0) == {}


def test_only_selected_videos_are_watched(films, tmp_path):
    build = Build(settings_of(films[0], tmp_path, select={"per_category": 0, "random": 1, "num_frames": 2}))
    build.run()
    status = build.status()["stages"]
    assert status["select"]["done"] == NUM_FILMS
    assert status["watch"] == status["clips"] == {"done": 1, "failed": 0, "missing": 0}
    assert [video.id for video, _ in build.chosen_videos()] == list(build.selected_videos())


# Embedders -----------------------------------------------------------------------------------------------------------------


def test_hicom_tiny_matches_a_scene_with_its_own_words():
    from hicom_hf.shapes import Scene, render_still

    scenes = [Scene.still(seed) for seed in range(12)]
    names = [f"{one.objects[0].texture} {one.objects[0].colour} {one.objects[0].shape}" for one in scenes]
    scores = HiComEmbedder().match([render_still(scene) for scene in scenes], names)
    assert scores.shape == (12, 12)
    own, others = np.diag(scores).mean(), scores[~np.eye(12, dtype=bool)].mean()
    assert own > others


def test_a_siglip_of_random_weights_gives_vectors(tmp_path):
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    config = SiglipConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": 32,
        },
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    )
    SiglipModel(config).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    vectors = SiglipEmbedder(str(tmp_path)).embed_frames(
        [np.zeros((48, 64, 3), np.uint8), np.ones((48, 64, 3), np.uint8)]
    )
    assert vectors.shape == (2, 16) and vectors.dtype == np.float32


# Settings and the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": {"threshhold": 1}}, "did you mean shots.threshold"),
        ({"shots": {"threshold": 0.001}}, "shots.threshold must be from 0.01 to 1 with"),
        ({"keyframes": {"threshold": 2.0}}, "a cosine"),
        ({"keyframes": {"fps": 0}}, "keyframes.fps must be above 0"),
        ({"keyframes": {"model": None}}, "must name a model"),
        ({"clips": {"max_length": 4.0}}, "clips.max_length must be above"),
        ({"select": {"num_frames": 0}}, "select takes num_frames"),
        ({"max_failures": 2}, "max_failures is a fraction"),
    ],
)
def test_wrong_values_are_refused_by_their_key(values, message):
    with pytest.raises(ValueError, match=message):
        settings_from_dict({"videos": ["a"], "output_dir": "b", **values})


def test_sources_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_videos([str(tmp_path / "none")], None)
    with pytest.raises(FileNotFoundError, match="no video in"):
        find_videos([str(tmp_path)], None)
    with pytest.raises(FileNotFoundError, match="no such build file"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="a build is a mapping"):
        read_settings(tmp_path / "list.yaml")


def test_the_command_plans_runs_and_reports_the_status(films, tmp_path, capsys):
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(settings_of(films[0], tmp_path / "out").to_dict()))
    assert main(["build-data", "plan", str(file), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["videos"] == NUM_FILMS and plan["hours"] > 0.02
    assert plan["watch"]["missing"] == NUM_FILMS and plan["watch"]["cpu_hours_if_720p"] > 0.002
    assert main(["build-data", "run", str(file), "--limit", "1"]) == 0
    assert "clips\t" not in capsys.readouterr().err
    assert main(["build-data", "status", str(file), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["stages"]["clips"] == {"done": 1, "failed": 0, "missing": NUM_FILMS - 1}
    assert main(["build-data", "run", str(file), "--shard", "3/3"]) == 2
