"""Each thing that can be wrong with an endpoint or a video leaves its row, and the rest is done."""

import json
import os
import shutil
import signal
import socket
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import (
    TURNS,
    numbered_frames,
    write_audio,
    write_corrupted_video,
    write_rotated_video,
    write_truncated_video,
    write_video,
)

from hicom_hf.cli.main import main
from hicom_hf.dataset_building.building import Build
from hicom_hf.dataset_building.demo import KEYFRAMES, SHOTS
from hicom_hf.dataset_building.demo_server import MODEL, SceneServer
from hicom_hf.dataset_building.export import collect, delete_video, export
from hicom_hf.dataset_building.planning import plan
from hicom_hf.dataset_building.settings import settings_from_dict
from hicom_hf.evaluation.client import EndpointError
from hicom_hf.hub.processes import worker_context


def settings_of(videos, output_dir, base_url="http://localhost:1/v1", captions=None, **values):
    captions = {"base_url": base_url, "model": MODEL, "num_frames": 2, "max_in_flight": 4, **(captions or {})}
    given = {"videos": [str(videos)], "output_dir": str(output_dir), "media_root": str(videos), "keyframes": KEYFRAMES}
    return settings_from_dict({**given, "shots": SHOTS, "captions": captions, **values})


@pytest.fixture(scope="module")
def scenes(world_films):
    return list({take.seed: take.scene for takes in world_films[1].values() for take in takes}.values())


@pytest.fixture(scope="module")
def clipped(world_films, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("clipped")
    Build(settings_of(world_films[0], output_dir)).run(until="clips")
    return output_dir


@pytest.fixture
def output_dir(clipped, tmp_path, monkeypatch):
    for module in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(f"hicom_hf.evaluation.client.{module}", 0.01)
    return shutil.copytree(clipped, tmp_path / "out")


@pytest.mark.parametrize(
    ("fault", "stage", "words"),
    [
        pytest.param("429", "captions", "7 tries failed, the last one with 429: ", marks=pytest.mark.slow),
        ("truncated", "captions", "2 answers were of no use, the last one: the answer was cut at max_tokens"),
        pytest.param("broken", "pairs", "2 answers were of no use, the last one: ", marks=pytest.mark.slow),
        pytest.param("refuse", "captions", "the captioner refuses: 'I cannot help with that", marks=pytest.mark.slow),
        ("400", "captions", "the server refuses the request with 400"),
    ],
)
def test_an_endpoint_that_always_fails_leaves_its_words_in_a_row_for_each_clip(
    world_films, scenes, output_dir, fault, stage, words
):
    with SceneServer(scenes, lambda number: fault) as server:
        build = Build(settings_of(world_films[0], output_dir, server.base_url, {"tries": 2}))
        build.run()
        rows, asked = build.failures(), server.asked
        build.run()
        assert server.asked == asked  # only --retry-failed asks again
    assert len(rows) == len(list(build.clips())) and {row["stage"] for row in rows} == {stage}
    assert all(words in row["error"] and row["path"].startswith("film") for row in rows)
    with SceneServer(scenes) as server:  # mended
        again = Build(settings_of(world_films[0], output_dir, server.base_url, {"tries": 2}))
        again.run(retry_failed=True)
    assert again.failures() == [] and len(export(again, ("jsonl",)).records) == 3 * len(rows)


def test_an_endpoint_that_hangs_stops_the_run_in_time(world_films, scenes, output_dir, monkeypatch):
    monkeypatch.setattr("hicom_hf.dataset_building.demo_server.HANG_SECONDS", 0.3)
    with SceneServer(scenes, lambda number: "hang") as server:
        build = Build(settings_of(world_films[0], output_dir, server.base_url, {"timeout": 0.1}))
        with pytest.raises(EndpointError, match="no answer in time"):
            build.run()
    assert build.failures() == []  # nothing is wrong with the clips


@pytest.mark.parametrize("fault", ["die", "close"])
def test_a_server_that_ends_or_hangs_up_stops_the_run_and_costs_no_clip(world_films, scenes, output_dir, fault):
    with SceneServer(scenes, lambda number: None if number < 5 else fault) as server:
        build = Build(settings_of(world_films[0], output_dir, server.base_url))
        # Whether 7 tries of one request or 30 of all have failed first depends on their waits.
        words = "All connection attempts failed" if fault == "die" else "30 tries in a row failed, the last"
        with pytest.raises(EndpointError, match=words):
            build.run()
    assert build.failures() == []  # it is not the clips' fault
    kept = {path: path.stat().st_mtime_ns for path in output_dir.glob("[cp]a*-*/??/*.json")}
    assert 3 <= len(kept) <= 5
    with SceneServer(scenes) as server:  # it is back, at another address
        Build(settings_of(world_films[0], output_dir, server.base_url)).run()
        assert server.asked == 2 * len(list(build.clips())) - len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_ctrl_c_while_answers_are_awaited_is_no_error_and_keeps_what_is_there(
    ctrl_c_interrupts, world_films, scenes, output_dir, tmp_path, capsys
):
    def faults(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with SceneServer(scenes, faults, delay=0.1) as server:
        settings = settings_of(world_films[0], output_dir, server.base_url)
        (tmp_path / "build.yaml").write_text(json.dumps(settings.to_dict()))
        assert main(["build-data", "run", str(tmp_path / "build.yaml")]) == 130
        assert "not foreseen" not in capsys.readouterr().err
    assert Build(settings).failures() == []
    kept = len(list(output_dir.glob("[cp]a*-*/??/*.json")))
    with SceneServer(scenes) as server:
        Build(settings_of(world_films[0], output_dir, server.base_url)).run()
        assert server.asked == 2 * len(list(Build(settings).clips())) - kept


def test_no_server_at_the_address_stops_the_run_with_few_tries(world_films, scenes, output_dir, tmp_path, capsys):
    with SceneServer([]) as server:
        pass  # its address is free now
    settings = settings_of(world_films[0], output_dir, server.base_url)
    (tmp_path / "build.yaml").write_text(json.dumps(settings.to_dict()))
    assert main(["build-data", "run", str(tmp_path / "build.yaml")]) == 1
    words = capsys.readouterr().err
    assert f"{server.base_url} cannot be reached: All connection attempts failed" in words and "Traceback" not in words
    assert Build(settings).failures() == [] and not list(output_dir.glob("captions-*/??/*"))


@pytest.mark.slow
def test_a_server_whose_process_is_killed_stops_the_run_and_costs_no_clip(world_films, scenes, output_dir):
    context = worker_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_until_killed, args=(scenes, 5, theirs))
    process.start()
    build = Build(settings_of(world_films[0], output_dir, ours.recv()))
    with pytest.raises(EndpointError, match="cannot be reached"):
        build.run()
    process.join()
    assert process.exitcode == -signal.SIGKILL and build.failures() == []
    kept = len(list(output_dir.glob("[cp]a*-*/??/*.json")))
    assert 1 <= kept <= 5
    with SceneServer(scenes) as server:
        Build(settings_of(world_films[0], output_dir, server.base_url)).run()
        assert server.asked == 2 * len(list(build.clips())) - kept


def serve_until_killed(scenes, last, pipe):
    def faults(number):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    with SceneServer(scenes, faults) as server:
        pipe.send(server.base_url)
        threading.Event().wait()


def test_an_endpoint_that_always_fails_later_stops_the_run_and_its_answers_are_kept(world_films, scenes, output_dir):
    with SceneServer(scenes, lambda number: None if number < 5 else "500") as server:
        build = Build(settings_of(world_films[0], output_dir, server.base_url))
        with pytest.raises(EndpointError, match="30 tries in a row failed, the last one with 500"):
            build.run()
    kept = {path: path.stat().st_mtime_ns for path in output_dir.glob("captions-*/??/*.json")}
    assert len(kept) >= 3
    with SceneServer(scenes) as server:
        Build(settings_of(world_films[0], output_dir, server.base_url)).run()
        assert server.asked == 2 * len(list(build.clips())) - 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_clients_that_leave_are_no_error_of_the_server(capfd):
    with SceneServer([]) as server:
        for sent in (b"", b"POST /v1 HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
            with socket.create_connection(server.base_url[7:-3].split(":")) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
                client.sendall(sent)
        with socket.create_connection(server.base_url[7:-3].split(":")) as client:
            client.sendall(b"POST /v1 HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert server.asked == 0 and capfd.readouterr().err == ""


# Videos --------------------------------------------------------------------------------------------------------------------


def test_each_kind_of_video_has_its_clips_or_its_row(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "variable.mkv", times=[0.0, 0.04, 0.08, 2.0, 5.0, 9.0])
    write_video(videos / "av1.mkv", num_frames=60, codec="libsvtav1")
    write_rotated_video(videos / "turned.mp4", numbered_frames(60), TURNS[90])
    write_video(videos / "one_frame.mp4", num_frames=1)
    write_audio(videos / "sound.mp4")
    (videos / "text.mp4").write_text("no video")
    write_truncated_video(videos / "cut_off.mkv")
    write_corrupted_video(videos / "damaged.mp4")
    build = Build(settings_of(videos, tmp_path / "out", clips={"min_length": 0.5}))
    build.run(until="clips")
    found = {video.relative: chosen for video, chosen in build.chosen_videos()}
    rows = {row["path"]: (row["stage"], row["error"]) for row in build.failures()}
    verdicts = {name: [shot["verdict"] for shot in chosen["shots"]] for name, chosen in found.items()}
    assert found["variable.mkv"]["duration"] >= 9 and found["av1.mkv"]["lost_frames"] == 0
    assert all(shot["start"] < shot["end"] for chosen in found.values() for shot in chosen["shots"])
    assert "kept" in verdicts["turned.mp4"] and "kept" in verdicts["av1.mkv"]
    assert verdicts["one_frame.mp4"] == ["too short"]
    assert rows["sound.mp4"][0] == "probe" and "no video stream (its streams: audio)" in rows["sound.mp4"][1]
    assert rows["text.mp4"][0] == "probe" and "not a video file" in rows["text.mp4"][1]
    assert set(rows) == {"sound.mp4", "text.mp4"}  # what is damaged is used as far as it can be read
    assert 0 < found["cut_off.mkv"]["duration"] < 6
    assert build.status()["stages"]["watch"]["missing"] == 0  # what failed before does not wait


# Cut clips, shards, deletion, plan -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered(world_films, scenes, clipped, tmp_path_factory):
    output_dir = shutil.copytree(clipped, tmp_path_factory.mktemp("answered") / "out")
    with SceneServer(scenes) as server:
        build = Build(settings_of(world_films[0], output_dir, server.base_url, licences={"film01": "CC-BY-4.0"}))
        build.run()
        export(build, ("jsonl", "parquet", "webdataset"), clip_height=96)
    return build


def test_cut_clips_hold_the_frames_of_their_part_and_nothing_else(answered):
    from hicom_hf.data.checking import check_data

    def frames_of(path):
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    records = [json.loads(line) for line in (answered.output_dir / "train.jsonl").read_text().splitlines()]
    assert "start" not in records[0]
    clips = {clip.id: clip for clip in answered.clips()}
    for record in records[::3][:2]:
        clip = clips[record["id"].rpartition("-")[0]]
        frames = frames_of(answered.output_dir / record["video"])
        assert frames[0].shape[:2] == (96, 128)
        assert len(frames) == pytest.approx((clip.end - clip.start) * 8, abs=1)
        first = frames_of(clip.video.path)[round(clip.start * 8)]
        assert frames[0].mean((0, 1)) == pytest.approx(first.mean((0, 1)), abs=3)
    assert not check_data(answered.output_dir / "train.jsonl", media_root=str(answered.output_dir)).problems


def test_shards_are_read_as_training_reads_them_each_pair_on_its_own(answered, processor):
    from hicom_hf.data.encoding import ItemEncoder
    from hicom_hf.data.streaming import HiComStreamingDataset
    from hicom_hf.processors.frame_sampling_hicom import FrameSampling

    shards = sorted((answered.output_dir / "shards").glob("*.tar"))
    dataset = HiComStreamingDataset(
        [str(path) for path in shards], ItemEncoder(processor, FrameSampling(num_frames=2))
    )
    assert len(list(dataset)) == 3 * len(list(answered.clips()))


def test_provenance_has_a_licence_for_each_source(answered):
    from pyarrow import parquet

    rows = parquet.read_table(answered.output_dir / "train.provenance.parquet").to_pylist()
    assert {(row["video"], row["licence"]) for row in rows} == {
        ("film00.mp4", "not stated"),
        ("film01.mp4", "CC-BY-4.0"),
    }
    assert rows[0]["detector"] == "histogram" and json.loads(rows[0]["embedder"])["embedder"] == "hicom"


def test_a_deleted_video_is_gone_from_results_exports_shards_and_log(answered, tmp_path):
    output_dir = shutil.copytree(answered.output_dir, tmp_path / "out")
    build = Build(settings_from_dict({**answered.settings.to_dict(), "output_dir": str(output_dir)}))
    (output_dir / "report.html").write_text("pictures")
    first = next(iter(build.videos))
    assert delete_video(build, first) > 10
    left = [path for path in output_dir.rglob("*") if path.is_file() and path.name != "deleted.jsonl"]
    assert not [path for path in left if first.encode() in path.read_bytes() or first in path.name]
    assert (output_dir / "train.jsonl").read_text() and not (output_dir / "report.html").exists()


def test_a_video_is_deleted_whose_file_is_gone_and_by_a_deletion_that_was_killed(answered, tmp_path):
    videos = shutil.copytree(answered.settings.media_root, tmp_path / "videos")
    output_dir = shutil.copytree(answered.output_dir, tmp_path / "out")
    values = {**answered.settings.to_dict(), "videos": [str(videos)], "media_root": str(videos)}
    settings = settings_from_dict({**values, "output_dir": str(output_dir)})
    first, second = Build(settings).videos.items()
    unfinished = output_dir / "pairs-0" / first[0][:2] / f"{first[0]}-0.json.unfinished-host-1-a"
    unfinished.mkdir(parents=True)
    Path(first[1].path).unlink()
    delete_video(Build(settings), first[0])
    (output_dir / "deleted.jsonl").write_text(json.dumps({"video": second[0]}) + "\n")  # and no further
    delete_video(Build(settings), second[0])
    left = [path for path in output_dir.rglob("*") if path.name != "deleted.jsonl"]
    assert not [path for path in left if first[0] in path.name or second[0] in path.name]
    assert not (output_dir / "train.jsonl").exists()  # nothing is left to export
    for unknown in ("", "*", "0" * 16):
        with pytest.raises(ValueError, match="is no video of this build"):
            Build(settings).delete_video(unknown)


def test_what_a_video_was_watched_with_is_read_once_for_its_pairs(answered, monkeypatch):
    reads = []
    monkeypatch.setattr(
        answered.watched, "read", lambda *names, read=answered.watched.read: reads.append(names) or read(*names)
    )
    assert len(collect(answered).provenance) > 2 * len(reads)
    assert sorted(reads) == sorted((item, "provenance") for item in answered.videos)


def test_shards_without_cut_clips_are_refused(answered):
    with pytest.raises(ValueError, match="--clips 360p"):
        export(answered, ("webdataset",))


def test_the_plan_states_what_each_stage_will_cost(world_films, tmp_path, answered):
    prices = {"price_in": 0.5, "price_out": 2.0, "num_frames": 16}
    build = Build(settings_of(world_films[0], tmp_path / "out", captions=prices))
    build.run(until="probe")
    found = plan(build)
    assert found["watch"]["missing"] == 2 and found["watch"]["cpu_hours_if_720p"] == pytest.approx(0.0024, abs=5e-4)
    assert found["captions"]["requests"] == 3 and "not known" in found["captions"]["clips"]
    assert found["captions"]["tokens_in"] == 3 * (16 * 256 + 200)
    assert found["captions"]["cost"] == pytest.approx(3 * (4296 * 0.5 + 300 * 2.0) / 1e6)
    done = plan(answered)
    assert done["pairs"]["requests"] == 0 and done["pairs"]["clips"] == "known"


# Decontamination, embedders ----------------------------------------------------------------------------------------------------


def test_videos_of_evaluation_tasks_are_left_out_by_their_readers(world_films, clipped, tmp_path):
    rows = [{"q_uid": "film01", "question": "q", **{f"option {n}": "o" for n in range(5)}}]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    output_dir = shutil.copytree(clipped, tmp_path / "out")
    build = Build(settings_of(world_films[0], output_dir, decontaminate={"benchmarks": {"egoschema": str(tmp_path)}}))
    assert {Path(clip.video.path).stem for clip in build.selected_clips()} == {"film00"}
    wrong = Build(settings_of(world_films[0], output_dir, decontaminate={"benchmarks": {"nothing": str(tmp_path)}}))
    with pytest.raises(ValueError, match="no task 'nothing'"):
        wrong.selected_clips()


def test_left_out_clips_are_found_once(world_films, clipped, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "hicom_hf.dataset_building.leaving_out.find_duplicates", lambda vectors, _: calls.append(len(vectors)) or {}
    )
    output_dir = shutil.copytree(clipped, tmp_path / "out")
    settings = settings_of(world_films[0], output_dir, deduplicate={"threshold": 0.99})
    build = Build(settings)
    for _ in range(3):
        build.selected_clips()
        build.status()
    assert len(calls) == 1 and not list(output_dir.glob("deduplicate-*"))  # looking at a build changes nothing in it
    build.run(only="deduplicate")
    assert len(calls) == 2 and len(list(output_dir.glob("deduplicate-*/??/*.json"))) == 1
    for again in (build, Build(settings)):
        again.selected_clips(store=True)
        again.run(only="deduplicate")
    assert len(calls) == 2


def test_video_embedders_of_random_weights_give_vectors_and_scores(tmp_path, monkeypatch):
    import transformers

    from hicom_hf.assets import model_source
    from hicom_hf.dataset_building.video_embedders import PeVideoEmbedder, VideoPrismEmbedder

    frames = [np.full((48, 64, 3), value, np.uint8) for value in (0, 90, 200)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_source(None))
    tokenizer.save_pretrained(tmp_path)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    prism = transformers.VideoPrismConfig(
        vision_config={**small, **layers, "image_size": 36, "num_frames": 4},
        text_config={**small, "num_hidden_layers": 1, "vocab_size": len(tokenizer)},
    )
    transformers.VideoPrismClipModel(prism).save_pretrained(tmp_path)
    embedders = [VideoPrismEmbedder(str(tmp_path))]
    marks = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    tower = transformers.ViTConfig(**small, num_hidden_layers=1, image_size=32, patch_size=16, num_labels=16)
    pe = transformers.PeVideoConfig(
        text_config={**small, **marks, "num_hidden_layers": 1, "vocab_size": len(tokenizer)},
        video_config={**small, "num_hidden_layers": 1, "head_dim": 8, "vision_config": tower},
    )
    # Its published weights have a tower of timm, which is not installed here, and cannot be loaded with another.
    monkeypatch.setattr(
        transformers.AutoModel, "from_pretrained", lambda *args, **options: transformers.PeVideoModel(pe)
    )
    embedders.append(PeVideoEmbedder(str(tmp_path)))
    for embedder in embedders:
        vectors = embedder.embed_frames(frames)
        assert vectors.shape == (3, 16) and vectors.dtype == np.float32 and np.isfinite(vectors).all()
        assert not np.allclose(vectors[0], vectors[2])
        scores = embedder.match(frames, ["a red circle", "a cat"])
        assert scores.shape == (1, 2) and np.abs(scores).max() <= 1 + 1e-6
