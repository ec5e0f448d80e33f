"""kill -9 at random moments of every stage: the same clips, no duplicate, no partial file, and no answer is asked for twice."""

import json
import os
import random
import re
import signal
import time
from collections import Counter

import numpy as np
import pytest

from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer
from hicom_hf.dataset_building.export import export
from hicom_hf.dataset_building.settings import settings_from_dict
from hicom_hf.hub.processes import worker_context

STAGES = ("probe", "match", "watch", "captions", "pairs")  # "clips" takes no time: it is killed with its neighbours
KILLS = 20
PATIENCE = 120  # seconds
CLIP_ID = re.compile(r'"uuid": "([0-9a-f]{16}-\d{8}-\d{8})-0"')


def values_of(films, output_dir, base_url, workers):
    return {
        "videos": [str(films[0])],
        "output_dir": str(output_dir),
        "workers": workers,
        "select": {"per_category": 1, "random": 10},
        "shots": {"threshold": 0.05},
        "keyframes": {"embedder": "hicom", "model": None, "threshold": 0.91},
        "captions": {"base_url": base_url, "model": MODEL, "num_frames": 2, "max_in_flight": 2, "media_ids": True},
    }


def run_build(values):
    os.setpgid(0, 0)  # so that the test ends its workers with it, as a machine that crashes would
    Build(settings_from_dict(values)).run()


def results_of(folder):
    found = {}
    for path in sorted(folder.glob("*-*/??/*")):
        name = path.relative_to(folder).as_posix()
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
    killed = Counter()
    with SceneServer(scenes, delay=0.15) as server:
        whole = Build(settings_from_dict(values_of(world_films, tmp_path / "whole", server.base_url, 1)))
        whole.run()
        expected, records = results_of(whole.output_dir), export(whole, ("jsonl",)).records
        number = -1
        while killed.total() < KILLS:
            number += 1
            folder = tmp_path / f"killed-{number}"
            values = values_of(world_films, folder, server.base_url, 1 + number % 2)
            server.answered.clear()
            build, stored = Build(settings_from_dict(values)), {}
            for stage in STAGES:
                total = len(list(whole.clips())) if stage in build.clip_stages else len(world_films[1])
                killed[stage] += killed_within(stage, total, values, folder, rng)
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
    assert len(killed) == len(STAGES) and min(killed.values()) >= 3, killed
    print(json.dumps(killed))
