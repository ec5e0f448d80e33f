"""The engine: many threads ask one model; answers as alone, batches, overload, cancellation, errors, memory."""

import base64
import gc
import os
import time
from concurrent.futures import wait

import numpy as np
import pytest
import torch
from video_files import write_video

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos
from hicom_hf.inference import HiComSession
from hicom_hf.processors.answering_hicom import EncodedVideo
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.frame_tiles_hicom import FrameTiles
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.video_sources_hicom import VideoReadError
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.media import Media
from hicom_hf.serving.requests import (
    EngineBusy,
    EngineClosed,
    Limits,
    Request,
    RequestCancelled,
    RequestTooSlow,
    Settings,
    StoppedText,
    VideoSource,
)
from hicom_hf.shapes import Scene, render
from hicom_hf.shapes.writing import write_video as write_film

QUESTIONS = ["What colour is the ring?", "Where is the circle?", "How many objects are there?", "What moves left?"]
SHORT = Settings(max_new_tokens=8)


@pytest.fixture(scope="module")
def trained():
    return HiComSession.load(dtype="float32", device="cpu")


@pytest.fixture
def session():
    """A random model that never ends an answer by itself."""
    session = HiComSession(tiny_model(), tiny_processor(), cache_bytes=10**9)
    session.model.generation_config.eos_token_id = None
    return session


@pytest.fixture
def path(tmp_path):
    return write_video(tmp_path / "video.mp4", 12)


def open_engine(session, **options):
    return Engine(session, **{"access": MediaAccess.open(), "num_workers": 0, **options})


def turn(question, num_videos=1, role="user"):
    return {"role": role, "content": [*[{"type": "video"}] * num_videos, {"type": "text", "text": question}]}


def asked(question, *videos, settings=SHORT, **options):
    sources = [VideoSource(str(video), {"num_frames": 4}) for video in videos]
    return Request([turn(question, len(videos))], sources, settings=settings, **options)


def held(engine):
    """The model, held so that requests gather; release it to go on."""
    engine.session.lock.acquire()
    return engine.session.lock


def until(condition):
    """Waits for it; the time limit of a test ends what never happens."""
    while not condition():
        time.sleep(0.01)


def test_answers_in_batches_are_those_asked_alone(trained):
    videos = example_videos()
    with open_engine(trained) as engine:
        tickets = [engine.submit(asked(question, video)) for question in QUESTIONS for video in videos]
        results = [ticket.future.result() for ticket in tickets]
        assert engine.statistics.batches < len(tickets)
    places = [(question, video) for question in QUESTIONS for video in videos]
    for (question, video), result in zip(places, results, strict=True):
        alone = trained.open(video, num_frames=4).ask(question, max_new_tokens=8)
        assert (result.texts[0], result.answers[0].num_new_tokens) == (alone.answer, alone.num_new_tokens)
        assert result.answers[0].num_prompt_tokens == alone.num_prompt_tokens and result.stopped == [alone.finished]


def test_a_video_is_encoded_once_for_questions_now_and_later(session, path):
    with open_engine(session) as engine:
        lock = held(engine)
        tickets = [engine.submit(asked(question, path)) for question in QUESTIONS]
        lock.release()
        results = [ticket.future.result() for ticket in tickets]
        later = engine.submit(asked(QUESTIONS[0], path)).future.result()
        assert engine.statistics.videos_encoded == 1 and engine.statistics.videos_cached == len(QUESTIONS)
    assert sorted(result.num_cached_tokens > 0 for result in results) == [False, True, True, True]
    assert later.num_cached_tokens == later.num_visual_tokens > 0


def test_follow_ups_on_one_video_come_before_other_videos_in_a_batch(session, path, tmp_path):
    other = write_video(tmp_path / "other.mp4", 9)
    with open_engine(session, limits=Limits(max_batch=3)) as engine:
        lock = held(engine)
        first = engine.submit(asked("first", path))
        until(lambda: not engine._waiting and first.slots)  # the model's thread has it
        for question, video in (("a", path), ("b", other), ("c", path), ("d", other), ("e", path)):
            engine.submit(asked(question, video))
            until(lambda question=question: any(one.question == question for one in engine._waiting))
        with engine._changed:
            assert [one.question for one in engine._next_batch()] == ["a", "c", "e"]
            batch = engine._next_batch()
            assert [one.question for one in batch] == ["b", "d"]
        for ticket in list(batch):
            engine._fail(ticket, RequestCancelled("the test took it"))
        with engine._changed:
            engine._num_inside -= 3  # the first batch that the test took
        lock.release()
        assert len(first.future.result().texts) == 1


def test_other_settings_a_seed_and_several_answers_are_batches_of_their_own(session, path):
    seeded = Settings(max_new_tokens=8, temperature=1.0, seed=3)
    with open_engine(session) as engine:
        lock = held(engine)
        requests = [
            asked("a", path),
            asked("b", path, settings=Settings(max_new_tokens=5)),
            asked("c", path, settings=seeded),
            asked("d", path, settings=seeded),
            asked("e", path, settings=Settings(max_new_tokens=8, temperature=1.0, num_answers=3)),
        ]
        tickets = [engine.submit(request) for request in requests]
        until(lambda: sum(bool(ticket.slots) for ticket in tickets) == 5)
        lock.release()
        results = [ticket.future.result() for ticket in tickets]
        assert engine.statistics.batches == 5 and engine.statistics.rows == 7
        again = engine.submit(requests[2]).future.result()
    assert results[1].answers[0].num_new_tokens == 5
    assert again.texts == results[2].texts
    assert len(set(results[4].texts)) > 1


def test_a_chat_of_several_turns_and_videos_is_one_request(trained):
    first, second, _ = example_videos()
    turns = [turn("What is this?", 1), turn("shapes", 0, "assistant"), turn("What colour is the ring?", 1)]
    request = Request(turns, [VideoSource(str(first)), VideoSource(str(second))], settings=SHORT)
    with open_engine(trained) as engine:
        alone = engine.submit(request).future.result()
        mixed = [request, asked(QUESTIONS[0], first), request]
        together = [ticket.future.result() for ticket in [engine.submit(one) for one in mixed]]
    assert alone.texts == together[0].texts == together[2].texts
    assert len(alone.videos) == 2 and alone.answers[0].instruction == "What colour is the ring?"


def test_a_chat_without_a_video_is_answered(trained):
    with open_engine(trained) as engine:
        result = engine.submit(Request([turn("What colour?", 0)], settings=SHORT)).future.result()
    assert result.num_visual_tokens == 0 and result.answers[0].num_new_tokens > 0


def test_more_requests_than_the_queue_holds_are_refused(session, path):
    with open_engine(session, limits=Limits(max_queue=3)) as engine:
        lock = held(engine)
        tickets = [engine.submit(asked(question, path)) for question in QUESTIONS[:3]]
        with pytest.raises(EngineBusy, match="3 requests are waiting, the limit; come again in") as caught:
            engine.submit(asked("one more", path))
        assert caught.value.retry_after >= 1 and engine.statistics.refused == 1
        lock.release()
        assert all(ticket.future.result().texts for ticket in tickets)
        assert engine.submit(asked("one more", path)).future.result().texts


def test_a_cancelled_answer_ends_at_the_next_token_and_the_others_go_on(session, path):
    long = Settings(max_new_tokens=300)
    with open_engine(session) as engine:
        lock = held(engine)
        left = engine.submit(asked("a", path, settings=long), lambda number, text: left.cancel())
        stays = engine.submit(asked("b", path, settings=long))
        until(lambda: left.slots and stays.slots)
        lock.release()
        assert left.future.result().answers[0].num_new_tokens < 300
        assert stays.future.result().answers[0].num_new_tokens == 300
        assert engine.statistics.cancelled == 1


def test_a_waiting_request_that_is_cancelled_leaves_the_queue_at_once(session, path):
    with open_engine(session) as engine:
        lock = held(engine)
        first = engine.submit(asked("a", path))
        until(lambda: first.slots and not engine._waiting)
        second = engine.submit(asked("b", path))
        until(lambda: engine._waiting)
        second.cancel()
        with pytest.raises(RequestCancelled, match="the client has left"):
            second.future.result()
        assert engine.num_inside == 1
        lock.release()
        assert first.future.result().texts


def test_an_error_fails_its_own_request_only(session, path, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    with open_engine(session, limits=Limits(max_new_tokens=10**6)) as engine:
        bad = engine.submit(asked("a", tmp_path / "text.mp4"))
        good = engine.submit(asked("b", path))
        with pytest.raises(VideoReadError, match=r"^the video: ") as caught:
            bad.future.result()
        assert str(tmp_path) not in str(caught.value)
        assert good.future.result().texts
        long = Settings(max_new_tokens=10**6)
        with pytest.raises(ValueError, match="with max_new_tokens=1000000 it exceeds"):
            engine.submit(asked("c", path, settings=long)).future.result()
        assert engine.num_inside == 0 and engine.statistics.failed == 2


def test_a_row_that_fails_a_batch_fails_alone(session, path):
    with open_engine(session) as engine:
        lock = held(engine)
        first = engine.submit(asked("a", path))
        until(lambda: first.slots and not engine._waiting)
        good, bad = engine.submit(asked("b", path)), engine.submit(asked("word " * 5000, path, instruction="word"))
        until(lambda: len(engine._waiting) == 2)
        lock.release()
        assert good.future.result().texts
        with pytest.raises(ValueError, match="that the LLM can read"):
            bad.future.result()


def test_requests_beyond_the_limits_are_refused_by_name(session, path):
    limits = Limits(max_new_tokens=10, max_frames=4, max_videos=2, max_answers=2)
    with open_engine(session, limits=limits) as engine:
        for request, message in (
            (asked("a", path, settings=Settings(max_new_tokens=11)), "max_tokens is 11, more than the 10"),
            (asked("a", path, settings=Settings(max_new_tokens=1, num_answers=3)), "n is 3, more than the 2"),
            (asked("a", path, path, path), "number of videos and images is 3, more than the 2"),
            (Request([turn("a")], [VideoSource(path, {"num_frames": 5})], settings=SHORT), "num_frames is 5"),
            (asked("a", path, stop=("",)), "stop holds an empty text"),
            (asked(" ", path), "the question is empty"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.submit(request)
        bounded = Request([turn("a")], [VideoSource(str(path), {"fps": 1000.0})], settings=SHORT)
        assert engine.submit(bounded).future.result().videos[0].num_frames == 4
    with pytest.raises(ValueError, match="max_queue must be above 0"):
        Limits(max_queue=0)


def test_an_answer_that_takes_too_long_is_an_error(session, path):
    with open_engine(session, limits=Limits(max_seconds=0.3)) as engine:
        lock = held(engine)
        ticket = engine.submit(asked("a", path, settings=Settings(max_new_tokens=400)))
        time.sleep(0.4)
        lock.release()
        with pytest.raises(RequestTooSlow, match=r"took longer than 0\.3 s"):
            ticket.future.result()


def test_closing_answers_what_is_inside_and_takes_no_more(session, path):
    engine = open_engine(session)
    tickets = [engine.submit(asked(question, path)) for question in QUESTIONS]
    engine.close()
    assert all(ticket.future.done() for ticket in tickets) and all(ticket.future.result().texts for ticket in tickets)
    with pytest.raises(EngineClosed, match="shutting down"):
        engine.submit(asked("a", path))
    assert not engine.is_alive


def test_a_stop_text_ends_the_answer(session, path):
    with open_engine(session) as engine:
        pieces = []
        whole = engine.submit(asked("a", path, settings=Settings(max_new_tokens=200))).future.result()
        stop = whole.texts[0][20:22]
        request = asked("a", path, settings=Settings(max_new_tokens=200), stop=(stop,))
        cut = engine.submit(request, lambda number, text: pieces.append(text)).future.result()
    assert cut.texts[0] == whole.texts[0].partition(stop)[0].strip() == "".join(pieces)
    assert cut.stopped == [True] and whole.stopped == [False]
    assert cut.answers[0].num_new_tokens < 200


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["  a ", "b", "  "], "a b"),
        (("END",), ["one E", "N", "OUGH"], "one ENOUGH"),
        (("END", "D"), ["one EN", "D"], "one"),
        (("\n\n",), ["a\n", "\nb"], "a"),
    ],
)
def test_text_in_pieces_is_the_text_before_the_stop(stops, pieces, expected):
    text = StoppedText(stops)
    assert "".join([*map(text.add, pieces), text.end()]) == expected
    assert StoppedText(stops).cut("".join(pieces)) == expected


def test_data_urls_and_files_share_features(session, path):
    url = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    with open_engine(session) as engine:
        by_path = engine.submit(asked("a", path)).future.result()
        by_url = engine.submit(asked("a", url)).future.result()
        assert by_url.num_cached_tokens > 0 and by_url.texts == by_path.texts
        assert engine.media.num_bytes == 2 * path.stat().st_size
        assert not os.listdir(engine.media._folder.name)


def test_by_default_neither_local_files_nor_private_servers_are_read(session, path):
    with Engine(session, num_workers=0) as engine:
        for source, message in (
            (path, "the video: local files are not allowed here"),
            (f"file://{path}", "the video: local files are not allowed here"),
            ("http://127.0.0.1:1/secret-name.mp4", "127.0.0.1, which is not a public address"),
        ):
            with pytest.raises(VideoReadError, match=message) as caught:
                engine.submit(asked("a", source)).future.result()
            assert "secret-name" not in str(caught.value) and path.name not in str(caught.value)


def test_messages_about_local_files_repeat_no_path(session, tmp_path):
    (tmp_path / "empty secret.mp4").touch()
    missing, long = tmp_path / "not secret.mp4", tmp_path / f"{'secret' * 60}.mp4"
    with open_engine(session) as engine:
        for source, message in (
            (missing, "the video: there is no such file or folder"),
            (missing.as_uri(), "the video: there is no such file or folder"),
            (tmp_path / ".." / tmp_path.name / missing.name, "the video: there is no such file or folder"),
            ((tmp_path / "empty secret.mp4").as_uri(), "the video: the file is empty"),
            (long.as_uri(), r"the video: the file cannot be opened \(File name too long\)"),
        ):
            with pytest.raises(VideoReadError, match=message) as caught:
                engine.submit(asked("a", source)).future.result()
            assert "secret" not in str(caught.value) and tmp_path.name not in str(caught.value)


def test_a_folder_is_refused(session, tmp_path):
    with open_engine(session) as engine, pytest.raises(VideoReadError, match="the video: this is a folder"):
        engine.submit(asked("a", tmp_path)).future.result()


@pytest.mark.slow
def test_a_process_reads_videos_and_its_end_fails_one_request_only(session, path, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    with open_engine(session, num_workers=1) as engine:
        engine.media.warm()
        expected = session.open(path, num_frames=4).ask("a", max_new_tokens=8).answer
        session.cache.clear()
        assert engine.submit(asked("a", path)).future.result().texts == [expected]
        with pytest.raises(VideoReadError, match=r"^the video: "):
            engine.submit(asked("a", tmp_path / "text.mp4")).future.result()
        [process] = engine.media._pool._processes.values()
        process.kill()
        process.join()
        session.cache.clear()
        with pytest.raises(VideoReadError, match="the process that read it ended"):
            engine.submit(asked("a", path)).future.result()
        assert engine.submit(asked("a", path)).future.result().texts == [expected]


@pytest.mark.slow
def test_a_video_that_takes_too_long_to_read_is_refused(session, path):
    with open_engine(session, num_workers=1, limits=Limits(max_read_seconds=1e-4)) as engine:
        ticket = engine.submit(asked("a", path))
        with pytest.raises(VideoReadError, match=r"longer than 0\.0001 s to read"):
            ticket.future.result()


def test_nothing_is_kept_of_requests_that_ended(session, path):
    session.cache.max_bytes = 0
    before = {id(one) for one in gc.get_objects() if type(one) is EncodedVideo}
    with open_engine(session) as engine:
        tickets = [engine.submit(asked(question, path)) for question in QUESTIONS]
        wait([ticket.future for ticket in tickets])
        assert all(ticket.slots == [] for ticket in tickets)
        assert not engine._reading and not engine._waiting and engine.num_inside == 0
        del tickets
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is EncodedVideo and id(one) not in before]


def choosing(question, video, settings=SHORT, num_frames=4, **sampling):
    source = VideoSource(str(video), sampling, FrameSelection(num_frames=num_frames, max_p_value=1.0))
    return Request([turn(question)], [source], settings=settings)


def test_a_question_chooses_its_frames_as_it_does_in_a_session(session, tmp_path):
    film = write_video(tmp_path / "film.mp4", 40)
    selection = FrameSelection(num_frames=4, max_p_value=1.0)
    alone = session.open(film, selection=selection, fps=5)
    with open_engine(session, keep_pictures=True) as engine:
        lock = held(engine)
        tickets = [engine.submit(choosing(question, film, fps=5.0)) for question in QUESTIONS[:2]]
        tickets.append(engine.submit(asked(QUESTIONS[2], film)))
        lock.release()
        results = [ticket.future.result() for ticket in tickets]
        assert engine.statistics.videos_encoded == 2  # the candidates, and the four frames of the third question
        for question, result in zip(QUESTIONS[:2], results, strict=False):
            answer = alone.ask(question, max_new_tokens=8)
            [record] = result.selections
            assert record == answer.selection and record.num_candidates == 20
            assert result.texts == [answer.answer] and result.videos[0].sampling.times == list(record.times)
            pictures = result.candidates[0].pictures(record.frames)
            assert pictures.shape == (4, *pictures.shape[1:3], 3) and pictures.dtype == np.uint8
        assert results[2].selections == [None]
        later = engine.submit(choosing(QUESTIONS[3], film, fps=5.0)).future.result()
        assert later.num_cached_tokens == later.num_visual_tokens > 0
        assert engine.candidates.num_bytes == later.candidates[0].num_bytes > 0


@pytest.fixture
def wide(tmp_path):
    frames = render(Scene.from_seed(3, split="test"), num_frames=8, size=(56, 100))[0]
    return write_film(tmp_path / "wide.mp4", frames, fps=4)


def tiled(question, video, tiles, num_frames=4, **options):
    return Request([turn(question)], [VideoSource(str(video), {"num_frames": num_frames}, None, tiles)], **options)


def test_a_question_chooses_among_tiles_as_it_does_in_a_session(session, wide):
    tiles = FrameTiles((1, 2), overview=True)
    alone = session.open(wide, tiles=tiles, num_frames=4)
    session.cache.clear()
    with open_engine(session) as engine:
        lock = held(engine)
        requests = [tiled(question, wide, tiles, settings=SHORT) for question in QUESTIONS[:2]]
        requests.append(tiled("Now?", wide, tiles, settings=SHORT, instruction=QUESTIONS[0]))
        tickets = [engine.submit(request) for request in (*requests, asked(QUESTIONS[2], wide))]
        lock.release()
        results = [ticket.future.result() for ticket in tickets]
        assert engine.statistics.videos_encoded == 2  # the tiles, and the padded frames of the last question
        assert results[3].tiles == [None]
        assert results[3].texts == [session.open(wide, num_frames=4).ask(QUESTIONS[2], max_new_tokens=8).answer]
        for question, result in zip(QUESTIONS[:2], results, strict=False):
            answer = alone.ask(question, max_new_tokens=8)
            assert result.texts == [answer.answer] and result.tiles == [answer.tiles]
            assert result.selections == [None] and result.num_visual_tokens == alone.encoded.num_visual_tokens
        assert results[2].tiles == results[0].tiles and results[2].answers[0].instruction == QUESTIONS[0]
        again = engine.submit(requests[1]).future.result()
        assert again.num_cached_tokens == again.num_visual_tokens > 0 and again.texts == results[1].texts


def test_tiles_are_bounded(session, wide):
    with open_engine(session, limits=Limits(max_squares=7)) as engine:
        with pytest.raises(VideoReadError, match=r"^the video: its frames make more than the 7 squares"):
            engine.submit(tiled("Why?", wide, FrameTiles())).future.result()
        assert engine.submit(tiled("Why?", wide, FrameTiles(), 3, settings=SHORT)).future.result().tiles != [None]
        with pytest.raises(ValueError, match="the question is empty"):
            engine.submit(tiled(" ", wide, FrameTiles(), 3)).future.result()
        engine.can_choose = False
        with pytest.raises(ValueError, match="tiles: this server cannot"):
            engine.submit(tiled("Why?", wide, FrameTiles(), 3)).future.result()


@pytest.mark.slow
def test_tiles_are_read_in_a_process_as_they_are_here(session, wide):
    here, there = (Media(session.processor, MediaAccess.open(), number, 30.0) for number in (0, 1))
    one, other = (media.read_tiles(wide, FrameTiles(), 99, {"num_frames": 3}) for media in (here, there))
    assert np.array_equal(one.pictures, other.pictures)
    assert (one.levels, one.sampling) == (other.levels, other.sampling)
    for media in (here, there):
        media.close()


def test_candidates_go_beyond_their_bytes_and_are_bounded_in_number(session, tmp_path):
    film, other = write_video(tmp_path / "film.mp4", 40), write_video(tmp_path / "other.mp4", 24)
    with open_engine(session, candidate_bytes=1, limits=Limits(max_candidates=10, max_frames=4)) as engine:
        result = engine.submit(choosing("a", film, fps=5.0)).future.result()
        assert result.selections[0].num_candidates == 10 and engine.candidates.num_bytes == 0
        assert engine.submit(choosing("a", other)).future.result().num_cached_tokens == 0
        for request, message in (
            (choosing("a", film, num_frames=5), "frames is 5, more than the 4"),
            (
                Request([turn("a")], [VideoSource(str(film), {"num_frames": 11}, FrameSelection(num_frames=2))]),
                "is 11",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                engine.submit(request)
        tokens = Request(
            [turn("a")], [VideoSource(str(film), {}, FrameSelection(max_video_tokens=10**6))], settings=SHORT
        )
        assert engine.submit(tokens).future.result().videos[0].num_frames <= 4


def test_a_client_that_leaves_while_candidates_are_read_ends_the_reading(session, tmp_path):
    film = write_video(tmp_path / "film.mp4", 40)
    session.model.config.vision_batch_size = 2
    with open_engine(session) as engine:
        lock = held(engine)
        first = engine.submit(choosing("a", film, fps=10.0))
        until(lambda: engine._reading)
        second = engine.submit(choosing("b", film, fps=10.0))
        first.cancel()
        lock.release()
        with pytest.raises(RequestCancelled):
            first.future.result()
        assert second.future.result().selections[0].num_candidates == 40


@pytest.mark.slow
def test_a_process_of_its_own_reads_candidates(session, path, tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    with open_engine(session, num_workers=1) as engine:
        expected = session.open(path, fps=5, selection=FrameSelection(num_frames=4)).ask("a", max_new_tokens=8)
        source = VideoSource(str(path), {"fps": 5.0}, FrameSelection(num_frames=4))
        result = engine.submit(Request([turn("a")], [source], settings=SHORT)).future.result()
        assert result.texts == [expected.answer] and result.selections == [expected.selection]
        with pytest.raises(VideoReadError, match=r"^the video: "):
            engine.submit(choosing("a", tmp_path / "text.mp4")).future.result()


def test_statistics_are_written_for_prometheus(session, path):
    with open_engine(session) as engine:
        engine.submit(asked("a", path)).future.result()
        text = engine.statistics.prometheus({"queue": 3.0})
    assert 'hicom_requests_total{outcome="answered"} 1' in text and "hicom_queue 3.0" in text
    assert "hicom_first_token_seconds_count 1" in text and 'le="+Inf"} 1' in text
    assert "hicom_new_tokens_total 8" in text


def test_the_engine_uses_features_of_the_sessions_cache(session, path):
    video = session.open(path, num_frames=4)
    with open_engine(session) as engine:
        result = engine.submit(asked("a", path)).future.result()
    assert result.num_cached_tokens > 0
    assert torch.equal(result.videos[0].features["features"], video.encoded.features["features"])
