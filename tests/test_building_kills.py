"""kill -9 at random moments of every stage: the same clips, no duplicate, no partial file, and no answer is asked for twice."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer
from hicom_hf.dataset_building.export import export
from hicom_hf.dataset_building.settings import settings_from_dict
from hicom_hf.hub.processes import worker_context

SLOW_STAGES = ("probe", "select", "watch", "captions", "pairs")
QUICK_STAGES = ("shots", "keyframes", "clips", "deduplicate", "decontaminate", "filter")  # need many videos to be hit
KILLS = 20
COPIES = 40  # of each film
KILLS_OF_EACH = 4
PATIENCE = 120  # seconds
CLIP_ID = re.compile(r'"uuid": "([0-9a-f]{16}-\d{8}-\d{8})-0"')


def values_of(films, output_dir, base_url, workers):
    return {
        "videos": [str(films[0])],
        "output_dir": str(output_dir),
        "workers": workers,
        "select": {"per_category": 1, "random": 10},
        "shots": SHOTS,
        "keyframes": KEYFRAMES,
        "captions": {"base_url": base_url, "model": MODEL, "num_frames": 2, "max_in_flight": 2, "media_ids": True},
    }


def run_build(values, only=None):
    os.setpgid(0, 0)  # so that the test ends its workers with it, as a machine that crashes would
    Build(settings_from_dict(values)).run(only=only)


def results_of(folder):
    found = {}
    for path in sorted(folder.glob("*-*/??/*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():  # what a killed process was writing
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: value.tobytes() for key, value in arrays.items()}
        else:
            found[name] = path.read_bytes()
    return found


def killed_within(stage, total, values, folder, rng):
    """Run until a stage has a random number of further results, then kill at a random moment; true if it still ran."""
    process = worker_context().Process(target=run_build, args=(values,))
    process.start()
    done = min(total, len(list(folder.glob(f"{stage}-*/??/*"))) + rng.choice([0, 1, 1, 2]))
    end = time.monotonic() + PATIENCE
    while process.is_alive() and len(list(folder.glob(f"{stage}-*/??/*"))) < done and time.monotonic() < end:
        time.sleep(0.002)
    while process.is_alive() and not list(folder.glob(f"{stage}-*")) and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.15))
    return killed(process)


def killed(process):
    """Kill a process and its workers; true if it still ran."""
    was_alive = process.is_alive()
    for kill in (os.killpg, os.kill):
        try:
            kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.join()
    return was_alive


def asked_for(server):
    """How many good answers were given, by clip and kind."""
    found = Counter()
    for body, count in server.answered.items():
        found[CLIP_ID.search(body)[1], "pairs" if '\\"pairs\\"' in body else "captions"] += count
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_change_nothing(world_films, tmp_path):
    rng = random.Random(0)
    scenes = list({take.seed: take.scene for takes in world_films[1].values() for take in takes}.values())
    kills = Counter()
    with SceneServer(scenes, delay=0.15) as server:
        whole = Build(settings_from_dict(values_of(world_films, tmp_path / "whole", server.base_url, 1)))
        whole.run()
        expected, records = results_of(whole.output_dir), export(whole, ("jsonl",)).records
        number = -1
        while kills.total() < KILLS:
            number += 1
            folder = tmp_path / f"killed-{number}"
            values = values_of(world_films, folder, server.base_url, 1 + number % 2)
            server.answered.clear()
            build, stored = Build(settings_from_dict(values)), {}
            for stage in SLOW_STAGES:
                total = len(list(whole.clips())) if stage in build.clip_stages else len(world_films[1])
                kills[stage] += killed_within(stage, total, values, folder, rng)
                time.sleep(0.2)  # what is on its way is answered
                asked = asked_for(server)
                for kind, answers in build.clip_stages.items():
                    kept = {path.stem for path in answers.folder.glob("??/*.json")}
                    stored |= {(clip, kind): asked[clip, kind] for clip in kept if (clip, kind) not in stored}
            build.run()
            assert not list(folder.rglob("*.unfinished*"))  # no partial file
            assert results_of(folder) == expected  # no clip too few, none twice
            assert export(build, ("jsonl",)).records == records
            again = asked_for(server)
            assert {key: again[key] for key in stored} == stored  # what was stored was not asked for again
            assert again.total() <= 2 * len(list(build.clips())) + 2 * 2  # two kills, of two requests in flight each
    assert len({record["id"] for record in records}) == len(records) > 10
    assert len(kills) == len(SLOW_STAGES) and min(kills.values()) >= 3, kills
    print(json.dumps(kills))


def copied(small, films, videos, values):
    """A build of many copies of the films, with the results of the small one, so that nothing is decoded or asked for."""
    build = Build(settings_from_dict({**values, "videos": [str(videos)]}))
    originals = {Path(video.path).name[:6]: item for item, video in small.videos.items()}
    for item, video in build.videos.items():
        original = originals[Path(video.path).name[:6]]
        for name, stage in {**build.stages, **build.clip_stages}.items():
            if name in SLOW_STAGES:
                source = {**small.stages, **small.clip_stages}[name].folder
                for path in source.glob(f"{original[:2]}/{original}*"):
                    target = stage.folder / item[:2] / path.name.replace(original, item)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes())
    return build


def killed_alone(stage, values, build, rng):
    """Run one stage alone and kill it at a random moment; true if it still ran."""
    process = worker_context().Process(target=run_build, args=(values, stage))
    process.start()
    folder, lock = build.output_dir, build.output_dir / "locks" / "whole"
    before, end = len(list(folder.glob(f"{stage}-*/??/*"))), time.monotonic() + PATIENCE
    more = rng.choice([0, 1, 5, 20]) if stage not in build.set_stages else 0
    while process.is_alive() and not list(lock.glob("*")) and time.monotonic() < end:
        time.sleep(0.002)
    while process.is_alive() and len(list(folder.glob(f"{stage}-*/??/*"))) < before + more and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    return killed(process)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_quick_stage_is_killed_by_itself_and_changes_nothing(world_films, tmp_path):
    rng, kills, tried = random.Random(1), Counter(), Counter()
    scenes = list({take.seed: take.scene for takes in world_films[1].values() for take in takes}.values())
    videos, names = tmp_path / "videos", tmp_path / "names.txt"
    videos.mkdir()
    for film in sorted(world_films[0].glob("*.mp4")):
        for number in range(COPIES):
            os.link(film, videos / f"{film.stem}-{number:03}.mp4")
    names.write_text("film00-001\n")
    with SceneServer(scenes) as server:
        values = values_of(world_films, tmp_path / "small", server.base_url, 1)
        values |= {"select": {"per_category": 0, "random": 1000, "num_frames": 2}}
        small = Build(settings_from_dict(values))
        small.run()
    values |= {"videos": [str(videos)], "deduplicate": {"threshold": 0.9999999}}
    values |= {"decontaminate": {"benchmark_files": [str(names)]}}
    whole = copied(small, world_films, videos, {**values, "output_dir": str(tmp_path / "whole")})
    build = copied(small, world_films, videos, {**values, "output_dir": str(tmp_path / "killed")})
    for stage in QUICK_STAGES:
        whole.run(only=stage)
        expected = {name: content for name, content in results_of(whole.output_dir).items() if name.startswith(stage)}
        while kills[stage] < KILLS_OF_EACH:
            tried[stage] += 1
            assert tried[stage] < 40, (kills, tried)
            kills[stage] += killed_alone(stage, build.settings.to_dict(), build, rng)
            found = results_of(build.output_dir)
            assert all(expected[name] == content for name, content in found.items() if name.startswith(stage))
            if build.count(stage)["missing"] == 0:  # it was too quick: once more from the beginning
                for folder in build.output_dir.glob(f"{stage}-*"):
                    shutil.rmtree(folder)
        build.run(only=stage)
        assert not list(build.output_dir.rglob("*.unfinished*"))
    assert results_of(build.output_dir) == results_of(whole.output_dir)
    assert export(build, ("jsonl",)).records == export(whole, ("jsonl",)).records
    print(json.dumps({"kills": kills, "tried": tried}))
