"""The feature cache: equal results, encoded once, whole after an interruption, refused where it would be wrong."""

import hashlib
import json
import os
import shutil
import subprocess
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_runs import encoder_of
from video_files import write_truncated_video, write_video

from hicom_hf import FrameSampling
from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.data import feature_cache as module
from hicom_hf.data.bad_samples import SampleError, SkippedSample
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.feature_cache import FeatureCache, medium_key
from hicom_hf.data.media_reader import MediaReader
from hicom_hf.data.record_media import Medium
from hicom_hf.hub import files

FRAME_BYTES = 7 * 7 * 64 * 2 * 4  # patch rows and columns, width, two kinds of features, float32


def record(question, **media):
    return {**media, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "Ann."}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    write_video(folder / "twelve.mp4", frames=noise, num_frames=12)
    write_video(folder / "three.mp4", 3)
    write_truncated_video(folder / "broken.mp4")
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    return folder


@pytest.fixture
def frozen(model):
    """The tiny model with a frozen vision tower, as a stage leaves it."""
    model.model.vision_tower.requires_grad_(False)
    yield model
    model.model.vision_tower.requires_grad_(True)


@pytest.fixture
def records():
    return [
        record("<video>Who?", video="twelve.mp4"),
        record("<video>Again, who?", video="twelve.mp4"),
        record("<image><video>Is it him?", video="three.mp4", image="red.png"),
        record("Hello"),
    ]


def reader(processor, num_frames=8):
    return MediaReader(processor.video_processor, FrameSampling(num_frames=num_frames))


def media_of(records, processor, folder):
    return list(HiComDataset(records, encoder_of(processor), folder).media())


def test_a_request_that_names_no_newer_field_has_the_settings_of_caches_before_there_was_it(processor):
    before = {"num_frames": 8, "fps": None, "start": None, "end": None, "max_frames": None, "short_video": "once"}
    assert reader(processor).settings["sampling"] == before
    bounded = MediaReader(processor.video_processor, FrameSampling(fps=1.0, min_frames=8))
    assert bounded.settings["sampling"]["min_frames"] == 8


def test_results_equal_those_without_a_cache(frozen, processor, folder, records, tmp_path):
    plain = HiComDataset(records, encoder_of(processor), folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    assert cache.fill(frozen, plain.media(), report=lambda line: None) == []
    cached = HiComDataset(records, encoder_of(processor, feature_cache=cache), folder)
    collator = HiComDataCollator(processor)
    expected, batch = (collator([dataset[index] for index in range(4)]) for dataset in (plain, cached))
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert "pixel_values_videos" not in batch and "pixel_values" not in batch
    assert batch["video_features"]["num_frames"].tolist() == [8, 8, 3]
    with torch.no_grad():
        expected, found = frozen(**expected), frozen(**batch)
    # float32: the tower adds up in another order for other numbers of frames at a time
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=0)


def test_results_under_autocast_equal_those_without_a_cache(frozen, processor, folder, records, tmp_path):
    plain = HiComDataset(records, encoder_of(processor), folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor), autocast_dtype=torch.bfloat16)
    cache.fill(frozen, plain.media(), report=lambda line: None)
    cached = HiComDataset(records, encoder_of(processor, feature_cache=cache), folder)
    collator = HiComDataCollator(processor)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = (frozen(**collator([dataset[0]])).logits for dataset in (plain, cached))
    assert torch.equal(found, expected)  # one video at a time: the same products in the same order


def test_one_video_alone_gives_bit_identical_features(frozen, processor, folder, tmp_path):
    (medium,) = media_of([record("<video>Who?", video="twelve.mp4")], processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    cache.fill(frozen, [medium], report=lambda line: None)
    pixels = processor.video_processor([medium.source], num_frames=8)
    expected = frozen.encode_videos(pixels["pixel_values_videos"], pixels["video_num_frames"])
    found = cache.get(medium)
    assert all(torch.equal(found[name], expected[name]) for name in ("features", "aligned_features", "num_frames"))


def test_what_is_there_is_not_encoded_again(frozen, processor, folder, records, tmp_path, monkeypatch):
    media = media_of(records, processor, folder)
    FeatureCache(tmp_path, frozen, reader(processor)).fill(frozen, media[:1], report=lambda line: None)
    read = []
    monkeypatch.setattr(MediaReader, "pixels", lambda self, medium: read.append(medium) or _pixels(self, medium))
    again = FeatureCache(tmp_path, frozen, reader(processor))
    again.fill(frozen, media, report=lambda line: None)
    assert read == media[1:]
    again.fill(frozen, media, report=lambda line: None)
    assert read == media[1:]
    assert len(again) == 3
    assert all(medium in again for medium in media)


_pixels = MediaReader.pixels


def test_the_size_is_said_first_and_is_right(frozen, processor, folder, records, tmp_path, capsys):
    media = media_of(records, processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    assert cache.num_bytes(media) == (8 + 8 + 1) * FRAME_BYTES
    cache.fill(frozen, media)
    assert "0 videos and images are there, 3 to encode take 0.00 GiB" in capsys.readouterr().err
    stored = [tensor for path in cache.folder.glob("*.safetensors") for tensor in load_file(path).values()]
    assert sum(tensor.nbytes for tensor in stored) == (8 + 3 + 1) * FRAME_BYTES  # one video has three frames only


def test_at_7b_sizes_an_image_takes_3_4_and_a_video_of_32_frames_107_megabytes(frozen, processor, tmp_path):
    cache = FeatureCache(tmp_path, frozen, reader(processor, 32))
    cache._frame_size = 27 * 27 * 1152 * 2 * 2
    assert cache.num_bytes([Medium("image", "a")]) == pytest.approx(3.4e6, rel=0.02)
    assert cache.num_bytes([Medium("video", "a")]) == pytest.approx(107e6, rel=0.02)


def test_a_full_disk_is_refused_before_anything_is_encoded(frozen, processor, folder, records, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000))
    cache = FeatureCache(tmp_path / "new", frozen, reader(processor))
    with pytest.raises(OSError, match=r"needs 0.00 GiB .* has 0.00 GiB free; free some"):
        cache.fill(frozen, media_of(records, processor, folder), report=lambda line: None)
    assert not (tmp_path / "new").exists()


def test_a_trainable_tower_is_refused(processor, tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"needs a frozen vision tower, but \d+ of its parameters are trainable"):
        FeatureCache(tmp_path, model, MediaReader(processor.video_processor))
    model.model.vision_tower.requires_grad_(False)
    model.model.vision_tower.head.mlp.requires_grad_(True)  # the release trains it: aligned features would be stale
    with pytest.raises(ValueError, match=r"head.mlp"):
        FeatureCache(tmp_path, model, MediaReader(processor.video_processor))


def test_another_tower_or_preprocessing_is_another_cache(frozen, processor, folder, tmp_path):
    from hicom_hf.assembly.random_model import tiny_processor

    squashing = tiny_processor()
    squashing.video_processor.do_pad = False
    other = tiny_model(seed=1)
    other.model.vision_tower.requires_grad_(False)
    caches = [
        FeatureCache(tmp_path, frozen, reader(processor)),
        FeatureCache(tmp_path, frozen, reader(processor, 4)),
        FeatureCache(tmp_path, frozen, reader(squashing)),
        FeatureCache(tmp_path, other, reader(processor)),
        FeatureCache(tmp_path, frozen, reader(processor), dtype=torch.bfloat16),
    ]
    assert len({cache.folder for cache in caches}) == 5
    assert FeatureCache(tmp_path, frozen, reader(processor)).folder == caches[0].folder
    with pytest.raises(ValueError, match="other weights than that which the cache was made for"):
        caches[0].fill(other, [])


def test_ablations_of_the_compressor_share_a_cache(frozen, processor, tmp_path):
    ablation = tiny_model(local_injection="coarse")
    ablation.model.vision_tower.load_state_dict(frozen.model.vision_tower.state_dict())
    ablation.model.vision_tower.requires_grad_(False)
    folders = {
        FeatureCache(tmp_path, model, MediaReader(processor.video_processor)).folder for model in (frozen, ablation)
    }
    assert len(folders) == 1


def test_features_may_be_stored_smaller(frozen, processor, folder, records, tmp_path):
    media = media_of(records, processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor), dtype=torch.bfloat16)
    cache.fill(frozen, media, report=lambda line: None)
    assert cache.get(media[0])["features"].dtype == torch.bfloat16
    assert cache.num_bytes(media) == 17 * FRAME_BYTES // 2


def test_data_set_and_cache_must_take_the_same_frames(frozen, processor, folder, records, tmp_path):
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    with pytest.raises(ValueError, match=r"the feature cache samples frames by .* they must agree"):
        HiComDataset(records, encoder_of(processor, 4, feature_cache=cache), folder)


def test_the_size_with_fps_needs_a_bound(frozen, processor, tmp_path):
    media = [Medium("video", "a.mp4")]
    with pytest.raises(ValueError, match="not known with fps and without max_frames"):
        FeatureCache(tmp_path, frozen, MediaReader(processor.video_processor, FrameSampling(fps=1.0))).num_bytes(media)
    bounded = MediaReader(processor.video_processor, FrameSampling(fps=1.0, max_frames=16))
    assert FeatureCache(tmp_path, frozen, bounded).num_bytes(media) == 16 * FRAME_BYTES


# Numbers of frames of their own ----------------------------------------------------------------------------------------


def mixed_records():
    """One video with three numbers of frames, a short one, and an image."""
    return [
        record("<video>Who?", video="twelve.mp4", num_frames=2),
        record("<video>Who?", video="twelve.mp4", num_frames=12),
        record("<video>Who?", video="twelve.mp4"),
        record("<image><video>Is it him?", video="three.mp4", image="red.png", num_frames=5),
    ]


def test_results_with_mixed_numbers_of_frames_equal_those_without_a_cache(frozen, processor, folder, tmp_path):
    plain = HiComDataset(mixed_records(), encoder_of(processor), folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    cache.fill(frozen, plain.media(), report=lambda line: None)
    cached = HiComDataset(mixed_records(), encoder_of(processor, feature_cache=cache), folder)
    collator = HiComDataCollator(processor)
    expected, batch = (collator([dataset[index] for index in range(4)]) for dataset in (plain, cached))
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["video_features"]["num_frames"].tolist() == expected["video_num_frames"].tolist() == [2, 12, 8, 3]
    with torch.no_grad():
        expected, found = frozen(**expected), frozen(**batch)
    # float32: the tower adds up in another order for other numbers of frames at a time
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=0)


def test_one_video_with_two_numbers_of_frames_has_two_entries_that_are_bit_identical_to_uncached_ones(
    frozen, processor, folder, tmp_path
):
    media = media_of(mixed_records()[:2], processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    cache.fill(frozen, media, report=lambda line: None)
    assert len(cache) == len(media) == 2
    for medium, number in zip(media, (2, 12), strict=True):
        pixels = processor.video_processor([medium.source], num_frames=number)
        expected = frozen.encode_videos(pixels["pixel_values_videos"], pixels["video_num_frames"])
        found = cache.get(medium)
        assert found["num_frames"].tolist() == [number]
        assert all(torch.equal(found[name], expected[name]) for name in ("features", "aligned_features"))
    first, second = (cache.get(medium)["features"] for medium in media)
    assert not torch.equal(first, second[:2])
    again = FeatureCache(tmp_path, frozen, reader(processor))
    assert [len(again.get(medium)["features"]) for medium in media] == [2, 12]  # as the next run finds them


def test_the_size_counts_the_frames_that_records_ask_for(frozen, processor, folder, tmp_path):
    media = media_of(mixed_records(), processor, folder)
    cache = FeatureCache(tmp_path / "a", frozen, reader(processor))
    assert cache.num_bytes(media) == (2 + 12 + 8 + 5 + 1) * FRAME_BYTES
    with_fps = FeatureCache(tmp_path / "b", frozen, MediaReader(processor.video_processor, FrameSampling(fps=1.0)))
    own = [medium for medium in media if medium.num_frames is not None or medium.kind == "image"]
    assert with_fps.num_bytes(own) == (2 + 12 + 5 + 1) * FRAME_BYTES
    with pytest.raises(ValueError, match="not known with fps and without max_frames"):
        with_fps.num_bytes(media)
    with_fps.fill(frozen, own, report=lambda line: None)
    assert [len(with_fps.get(medium)["features"]) for medium in own] == [2, 12, 1, 3]


def test_a_video_without_its_own_number_of_frames_keeps_the_key_of_older_caches():
    identity = ["video", 1.5, None, None, ["url", "https://host/a.mp4"]]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    medium = Medium("video", "https://host/a.mp4", start=1.5)
    assert medium_key(medium) == key
    assert len({key, *(medium_key(medium._replace(num_frames=number)) for number in (1, 2))}) == 3


# Interruptions ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_cache_is_taken_up_where_it_was(frozen, processor, folder, records, tmp_path, monkeypatch):
    media = media_of(records, processor, folder)
    calls = []

    def interrupted(self, medium):
        calls.append(medium)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return _pixels(self, medium)

    monkeypatch.setattr(MediaReader, "pixels", interrupted)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    with pytest.raises(KeyboardInterrupt):
        cache.fill(frozen, media, report=lambda line: None)
    again = FeatureCache(tmp_path, frozen, reader(processor))
    again.fill(frozen, media, report=lambda line: None)
    assert calls == [*media, media[2]]


def test_a_file_that_a_killed_process_left_is_never_read_and_goes(frozen, processor, folder, records, tmp_path):
    media = media_of(records, processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    cache.fill(frozen, media[:1], report=lambda line: None)
    gone = subprocess.Popen(["true"])
    gone.wait()
    host = files._host()
    left = cache.folder / f"features-1.safetensors.unfinished-{host}-{gone.pid}-a"
    running = cache.folder / f"features-2.safetensors.unfinished-{host}-{os.getpid()}-a"
    elsewhere = cache.folder / "features-3.safetensors.unfinished-elsewhere-1-a"
    for path in (left, running, elsewhere):
        path.mkdir()
        (path / path.name.partition(".unfinished")[0]).write_bytes(b"half")
    cache.fill(frozen, media, report=lambda line: None)
    assert [path.exists() for path in (left, running, elsewhere)] == [False, True, True]
    assert len(cache) == 3


def test_a_disk_that_fills_up_leaves_no_half_shard(frozen, processor, folder, records, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    with pytest.raises(OSError, match="No space left"):
        cache.fill(frozen, media_of(records, processor, folder), shard_size=1, report=lambda line: None)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["about.json"]


def test_no_medium_is_encoded_by_two_processes(frozen, processor, folder, records, tmp_path, monkeypatch):
    media, read = media_of(records, processor, folder), {0: [], 1: []}
    for rank in read:  # each sees the empty folder, as processes do that start together
        monkeypatch.setattr(
            MediaReader,
            "pixels",
            lambda self, medium, rank=rank: (read[rank].append(medium), _pixels(self, medium))[1],
        )
        cache = FeatureCache(tmp_path / str(rank), frozen, reader(processor))
        cache.fill(frozen, media, rank=rank, world_size=2, report=lambda line: None)
    assert len(media) == 3 and read == {0: [media[0], media[2]], 1: [media[1]]}


def test_processes_encode_their_shares_and_read_each_others(frozen, processor, folder, records, tmp_path):
    media = media_of(records, processor, folder)
    caches = [FeatureCache(tmp_path, frozen, reader(processor)) for _ in range(2)]
    for rank, cache in enumerate(caches):
        cache.fill(frozen, media[:2] if rank else media, rank=rank, world_size=2, report=lambda line: None)
    found = [cache.get(media[index]) for cache in caches for index in (0, 2)]
    assert torch.equal(found[0]["features"], found[2]["features"])


# Bad and changed files -------------------------------------------------------------------------------------------------


def test_a_video_that_cannot_be_read_stops_or_is_skipped_and_never_served(frozen, processor, folder, tmp_path, caplog):
    records = [record("<video>Who?", video=name) for name in ("broken.mp4", "three.mp4")]
    media = media_of(records, processor, folder)
    cache = FeatureCache(tmp_path, frozen, reader(processor))
    with pytest.raises(SampleError, match=r"broken.mp4: unreadable media"):
        cache.fill(frozen, media, report=lambda line: None)
    (skipped,) = cache.fill(frozen, media, on_bad_sample="skip", report=lambda line: None)
    assert "broken.mp4" in skipped.source
    assert "broken.mp4" in caplog.text
    with pytest.raises(SampleError, match=r"broken.mp4: unreadable media: it has no features in the cache"):
        cache.get(media[0])
    dataset = HiComDataset(records, encoder_of(processor, feature_cache=cache), folder, on_bad_sample="skip")
    assert isinstance(dataset[0], SkippedSample)
    assert dataset[1]["video_features"]["num_frames"].tolist() == [3]
    with pytest.raises(SampleError, match=r"nowhere.mp4: missing media"):
        cache.get(Medium("video", "nowhere.mp4"))


def test_a_replaced_file_and_another_range_have_other_keys(folder, tmp_path):
    path = shutil.copy(folder / "three.mp4", tmp_path / "a.mp4")
    before = medium_key(Medium("video", str(path)))
    assert before == medium_key(Medium("video", str(path)))
    assert before != medium_key(Medium("video", str(path), end=1.0))
    os.utime(path, ns=(0, 0))
    assert before != medium_key(Medium("video", str(path)))


def test_contents_in_memory_are_known_by_what_they_are(tmp_path):
    image = Image.new("RGB", (4, 3), "red")
    assert medium_key(Medium("image", image)) == medium_key(Medium("image", image.copy()))
    assert medium_key(Medium("image", image)) != medium_key(Medium("image", Image.new("RGB", (3, 4), "red")))
    sources = [b"a", b"b", np.zeros((2, 3)), np.zeros((3, 2)), [image], "https://host/a.mp4", str(tmp_path)]
    assert len({medium_key(Medium("video", source)) for source in sources}) == len(sources)
    with pytest.raises(ValueError, match="cannot distinguish one object from another"):
        medium_key(Medium("video", object()))
