"""A session: one model, open videos, their features once; answers alone, together, in pieces, cancelled."""

import threading

import numpy as np
import pytest
import torch
from video_files import write_video

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos
from hicom_hf.hub import save_hub_folder
from hicom_hf.inference import HiComSession
from hicom_hf.inference.video_cache import VideoCache, num_bytes, video_key
from hicom_hf.processors.frame_sampling_hicom import FrameSampling

QUESTIONS = ["What colour is the ring?", "Where is the circle?", "How many objects are there in the whole video?"]


@pytest.fixture(scope="module")
def trained():
    """hicom-tiny; its features are removed from memory after the module."""
    return HiComSession.load(dtype="float32", device="cpu")


@pytest.fixture
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=10**9)


@pytest.fixture
def path(tmp_path):
    return write_video(tmp_path / "video.mp4", 12)


class Counted:
    """Counts the calls of `encode_videos`."""

    def __init__(self, session, monkeypatch):
        self.calls, encode = 0, session.model.encode_videos

        def counted(*args, **kwargs):
            self.calls += 1
            return encode(*args, **kwargs)

        monkeypatch.setattr(session.model, "encode_videos", counted)


def test_the_packaged_model_answers_about_a_packaged_video(trained):
    video = trained.open(example_videos()[0])
    answer = video.ask("What colour is the ring?", max_new_tokens=8)
    assert answer.answer and answer.finished and not answer.cancelled
    assert answer.instruction == "What colour is the ring?"
    assert trained.note is not None and "shapes" in trained.note


def test_questions_together_have_the_answers_that_they_have_alone(trained):
    video = trained.open(example_videos()[1])
    together = video.ask_all(QUESTIONS, max_new_tokens=8)
    alone = [video.ask(question, max_new_tokens=8) for question in QUESTIONS]
    for one, other in zip(together, alone, strict=True):
        assert (one.answer, one.num_prompt_tokens, one.num_new_tokens) == (
            other.answer,
            other.num_prompt_tokens,
            other.num_new_tokens,
        )


def test_a_video_is_encoded_once_however_often_it_is_opened(session, path, monkeypatch):
    counted = Counted(session, monkeypatch)
    first = session.open(path, num_frames=4)
    again = session.open(str(path), num_frames=4)
    session.open(path.read_bytes(), num_frames=4)
    assert counted.calls == 1 and again.encoded is first.encoded
    session.open(path, num_frames=6)
    assert counted.calls == 2
    assert (session.cache.hits, session.cache.misses) == (2, 2)


def test_another_content_under_the_same_name_is_another_video(session, path):
    before = session.open(path, num_frames=4)
    write_video(path, 8)
    assert session.open(path, num_frames=4).encoded.sampling.num_source_frames == 8
    assert before.encoded.sampling.num_source_frames == 12


def test_frames_in_memory_are_not_cached(session, monkeypatch):
    counted = Counted(session, monkeypatch)
    frames = np.zeros((3, 20, 20, 3), dtype=np.uint8)
    for _ in range(2):
        session.open(frames)
    assert counted.calls == 2 and session.cache.num_bytes == 0


def test_the_cache_forgets_what_was_not_used_for_longest(session, tmp_path):
    paths = [write_video(tmp_path / f"{number}.mp4", 12, frame_rate=number) for number in (5, 6, 7)]
    size = num_bytes(session.open(paths[0], num_frames=4).encoded)
    session.cache = VideoCache(2 * size, None, session.model)
    videos = [session.open(path, num_frames=4) for path in paths[:2]]
    assert session.open(paths[0], num_frames=4).encoded is videos[0].encoded  # now the second is the oldest
    session.open(paths[2], num_frames=4)
    assert session.cache.num_bytes == 2 * size
    assert session.open(paths[0], num_frames=4).encoded is videos[0].encoded
    assert session.open(paths[1], num_frames=4).encoded is not videos[1].encoded


def test_a_video_larger_than_the_cache_is_answered_all_the_same(path):
    session = HiComSession(tiny_model(), tiny_processor(), cache_bytes=10)
    assert session.open(path, num_frames=4).ask("Why?", max_new_tokens=2).num_new_tokens > 0
    assert session.cache.num_bytes == 0
    with pytest.raises(ValueError, match="cache_bytes must be 0 or above"):
        HiComSession(tiny_model(), tiny_processor(), cache_bytes=-1)


def test_what_the_compressor_keeps_of_a_video_counts_in_the_bound(tmp_path):
    paths = [write_video(tmp_path / f"{number}.mp4", 4 + number) for number in range(3)]

    def asked_twice(cache_bytes):
        session = HiComSession(tiny_model(), tiny_processor(), cache_bytes=cache_bytes)
        totals = []
        for path in (*paths, paths[0]):
            video = session.open(path, num_frames=4)
            for _ in range(3):
                video.ask("Where?", max_new_tokens=1)
                totals.append(session.cache.num_bytes)
        return session, num_bytes(video.encoded), totals

    session, size, totals = asked_twice(10**9)
    parts = session.model.model.kept_video.num_bytes
    assert size < parts < 2 * size
    # From the second question on, twice the features of the last video; those of the others stay.
    assert totals == [count * size + kept for count in (1, 2, 3, 3) for kept in (0, parts, parts)]
    session.cache.clear()
    assert session.cache.num_bytes == session.model.model.kept_video.num_bytes == 0
    *_, totals = asked_twice(4 * size)  # room for the parts is made by dropping another video's features
    assert totals[6:9] == [3 * size, 2 * size + parts, 2 * size + parts] and max(totals) <= 4 * size
    *_, totals = asked_twice(2 * size)  # no room for parts beside the features of the same video
    assert totals == [count * size for count in (1, 1, 1, *[2] * 9)]
    session, *_, totals = asked_twice(0)
    assert set(totals) == {0} and session.model.model.kept_video.num_bytes == 0


def test_features_on_disk_serve_another_session_of_the_same_model(path, tmp_path, monkeypatch):
    model, processor = tiny_model(), tiny_processor()
    first = HiComSession(model, processor, cache_dir=tmp_path / "cache").open(path, num_frames=4)
    later = HiComSession(model, processor, cache_dir=tmp_path / "cache")
    counted = Counted(later, monkeypatch)
    found = later.open(path, num_frames=4)
    assert counted.calls == 0
    assert found.encoded.sampling == first.encoded.sampling
    for name, value in first.encoded.features.items():
        assert torch.equal(found.encoded.features[name], value)
    assert found.ask("Why?", max_new_tokens=3).answer == first.ask("Why?", max_new_tokens=3).answer


def test_features_of_another_vision_tower_are_not_taken_from_disk(path, tmp_path, monkeypatch):
    HiComSession(tiny_model(), tiny_processor(), cache_dir=tmp_path / "cache").open(path, num_frames=4)
    other = tiny_model()
    with torch.no_grad():
        other.model.vision_tower.post_layernorm.bias += 1
    session = HiComSession(other, tiny_processor(), cache_dir=tmp_path / "cache")
    counted = Counted(session, monkeypatch)
    session.open(path, num_frames=4)
    assert counted.calls == 1 and len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_a_damaged_file_of_features_is_named(path, tmp_path):
    model, processor = tiny_model(), tiny_processor()
    HiComSession(model, processor, cache_dir=tmp_path / "cache").open(path, num_frames=4)
    [file] = (tmp_path / "cache").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{file.name}: this file of features is damaged .* delete it"):
        HiComSession(model, processor, cache_dir=tmp_path / "cache").open(path, num_frames=4)


def test_the_key_holds_content_and_request(path):
    sampling = FrameSampling(num_frames=4)
    keys = {video_key(path, request) for request in ({}, {"num_frames": 4}, {"num_frames": 5}, {"sampling": sampling})}
    assert len(keys) == 4 and None not in keys
    assert video_key(path, {"fps": None}) == video_key(path, {})
    assert video_key("http://example.org/video.mp4", {}) is None and video_key(path.parent, {}) is None


def test_a_stream_gives_the_answer_in_pieces(trained):
    video = trained.open(example_videos()[0])
    stream = video.stream(QUESTIONS[0], max_new_tokens=8)
    pieces = list(stream)
    assert "".join(pieces).strip() == stream.answer.answer == video.ask(QUESTIONS[0], max_new_tokens=8).answer


def test_leaving_a_stream_ends_the_answer_at_the_next_token(session, path):
    video = session.open(path, num_frames=4)
    session.model.generation_config.eos_token_id = None  # it would go on for long
    stream = video.stream("Why?", max_new_tokens=400)
    for _ in stream:
        break
    stream.cancel()
    assert stream.answer.cancelled and stream.answer.num_new_tokens < 400


def test_an_error_in_a_stream_is_raised_where_the_pieces_are_taken(session, path):
    video = session.open(path, num_frames=4)
    with pytest.raises(ValueError, match="temperature must be 0 or above"):
        list(video.stream("Why?", temperature=-1))
    with pytest.raises(ValueError, match=r"at least 0\.0001, got 1e-300"):
        list(video.stream("Why?", temperature=1e-300))
    with pytest.raises(ValueError, match="the question is empty"):
        video.stream(" ")


def test_a_cancelled_row_leaves_the_others_unchanged(session, path):
    video = session.open(path, num_frames=4)
    session.model.generation_config.eos_token_id = None
    alone = video.ask("And the end?", max_new_tokens=12)
    cancel = [threading.Event(), threading.Event()]
    cancel[0].set()
    first, second = video.ask_all(["What happens?", "And the end?"], max_new_tokens=12, cancel=cancel)
    assert first.cancelled and first.num_new_tokens == 1 and not first.finished
    assert not second.cancelled and (second.answer, second.num_new_tokens) == (alone.answer, 12)


def test_cancelling_takes_one_event_per_question(session, path):
    video = session.open(path, num_frames=4)
    with pytest.raises(ValueError, match="one event per question, got 1 for 2 questions"):
        video.ask_all(["a", "b"], cancel=[threading.Event()])


def test_an_instruction_may_be_given(session, path):
    video = session.open(path, num_frames=4)
    assert video.ask("Why?", instruction="the red ring", max_new_tokens=1).instruction == "the red ring"


def test_threads_share_a_session(session, path):
    video = session.open(path, num_frames=4)
    expected = {question: video.ask(question, max_new_tokens=4).answer for question in QUESTIONS}
    answers = {}

    def ask(question):
        answers[question] = session.open(path, num_frames=4).ask(question, max_new_tokens=4).answer

    threads = [threading.Thread(target=ask, args=(question,)) for question in QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected


def test_attention_is_there_on_request(session, path):
    maps = session.open(path, num_frames=4).attention("Where?")
    assert maps.instruction == "Where?" and maps.local_map.shape[0] == 4


def test_a_session_loads_a_folder_by_its_path(tmp_path, path):
    save_hub_folder(tiny_model(), tiny_processor(), tmp_path / "model")
    session = HiComSession.load(tmp_path / "model", device="cpu")
    assert session.open(path, num_frames=4).ask_all([]) == []
