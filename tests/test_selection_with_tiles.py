"""A question chooses frames, and then parts of them: one rule in session, pipeline, evaluation, server and commands."""

import numpy as np
import pytest
from PIL import Image

from hicom_hf import FrameTiles, VideoTextToTextPipeline
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.cli import eval as eval_command
from hicom_hf.cli.main import build_parser
from hicom_hf.evaluation.evaluating import evaluate
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.tasks import Task
from hicom_hf.evaluation.tasks.shapes import mark
from hicom_hf.inference import HiComSession
from hicom_hf.processors.candidate_frames_hicom import reading_of_chosen
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.video_sources_hicom import VideoReadError
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Limits, Request, Settings, VideoSource
from hicom_hf.shapes import Scene, render
from hicom_hf.shapes.writing import write_video

QUESTION, OTHER = "Where is the red circle?", "What colour is the square?"
SELECTION = FrameSelection(num_frames=4, max_p_value=1.0)
TILES = FrameTiles()


@pytest.fixture(scope="module")
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=0)


@pytest.fixture(scope="module")
def frames():
    return render(Scene.from_seed(10, split="test"), num_frames=24, size=(56, 100))[0]


@pytest.fixture(scope="module")
def film(frames, tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("films") / "wide.mp4", frames, fps=4))


@pytest.fixture(scope="module")
def expected(session, film):
    """The session's answers, which the others are compared with."""
    return session.open(film, selection=SELECTION, tiles=TILES, num_frames=12).ask_all(
        [QUESTION, OTHER], max_new_tokens=6
    )


@pytest.fixture(scope="module")
def pipe(session):
    return VideoTextToTextPipeline(session.model, processor=session.processor, max_new_tokens=6, return_metadata=True)


def engine_of(session, **options):
    return Engine(session, access=MediaAccess.open(), num_workers=0, **options)


def request(film, question=QUESTION, selection=SELECTION, tiles=TILES):
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    source = VideoSource(film, {"num_frames": 12}, selection, tiles)
    return Request([turn], [source], settings=Settings(max_new_tokens=6))


# The rule ---------------------------------------------------------------------------------------------------------------


def test_frames_are_chosen_as_without_tiles_and_seen_as_tiles(session, film):
    choosing = session.open(film, selection=SELECTION, num_frames=12)
    both = session.open(film, selection=SELECTION, tiles=TILES, num_frames=12)
    answer = both.ask(QUESTION, max_new_tokens=6)
    assert (
        answer.selection == choosing.ask(QUESTION, max_new_tokens=6).selection and answer.selection.used == "question"
    )
    numbers = tuple(both.candidates.sampling.indices[frame] for frame in answer.selection.frames)
    assert (
        any(one % 2 for one in numbers) or numbers != answer.selection.frames
    )  # numbers of the video, not of candidates
    alone = session.open(film, tiles=TILES, sampling=FrameSampling(indices=numbers))
    seen = alone.ask(QUESTION, max_new_tokens=6)
    assert (answer.answer, answer.tiles) == (seen.answer, seen.tiles)
    assert alone.tiled.sampling.times == pytest.approx(answer.selection.times)
    assert np.array_equal(both.attention(QUESTION).global_map, alone.attention(QUESTION).global_map)
    own = both.ask("And now?", instruction=QUESTION, max_new_tokens=2)
    assert (own.selection, own.tiles) == (answer.selection, answer.tiles)


def test_how_a_video_is_read_is_kept_and_which_frames_is_replaced(session, film):
    video = session.open(film, selection=SELECTION, num_frames=12)
    access = MediaAccess.open()
    asked = {"num_frames": 12, "start": 1.0, "on_decode_error": "keep", "frame_rate": None, "media_access": access}
    record = video.choose(QUESTION)
    numbers = tuple(video.candidates.sampling.indices[frame] for frame in record.frames)
    assert reading_of_chosen(video.candidates, record, asked) == {
        "sampling": FrameSampling(indices=numbers),
        "on_decode_error": "keep",
        "media_access": access,
    }


def test_what_no_question_could_be_shown_is_refused_when_the_video_is_opened(session, film, monkeypatch):
    with pytest.raises(VideoReadError, match=r"wide.mp4: zooms \(8,\) make 180 squares of a frame of 100x56"):
        session.open(film, selection=SELECTION, tiles=FrameTiles((8,)), num_frames=12)
    monkeypatch.setattr(session.processor.video_processor, "do_pad", False)
    monkeypatch.setattr("hicom_hf.inference.session.encode_candidates", None)  # before hours of video are encoded
    with pytest.raises(ValueError, match="the overview is a padded frame"):
        session.open(film, selection=SELECTION, tiles=FrameTiles(overview=True), num_frames=12)


# The interfaces ---------------------------------------------------------------------------------------------------------


def test_the_pipeline_gives_what_a_session_gives(session, film, expected, pipe):
    options = {"num_frames": 12, "selection": {"num_frames": 4, "max_p_value": 1.0}, "tiles": {"zooms": [1]}}
    together = pipe(film, text=[QUESTION, OTHER], **options)
    assert [
        pipe(film, text=QUESTION, **options),
        pipe(film, text=OTHER, selection=SELECTION, tiles=TILES, num_frames=12),
    ] == together
    for [record], answer in zip(together, expected, strict=True):
        assert record["generated_text"] == answer.answer
        assert (record["selection"], record["tiles"]) == ([answer.selection.to_dict()], [answer.tiles.to_dict()])
        assert record["video_metadata"][0]["times"] == pytest.approx(answer.selection.times)


def test_several_questions_to_the_pipeline_encode_candidates_once(session, film, pipe, monkeypatch):
    calls, encode = [], type(session.model).encode_frames
    monkeypatch.setattr(
        type(session.model), "encode_frames", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels)
    )
    pipe(film, text=[QUESTION, OTHER], num_frames=12, selection=SELECTION, tiles=TILES)
    assert sum(calls) == 12 + 2 * (
        4 * 2 + 1
    )  # candidates; per question two squares of four frames, and a plain picture


def test_a_chat_of_the_pipeline_may_hold_several_videos_and_images(film, frames, pipe):
    def content(*parts):
        return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]

    picture, part = (
        {"type": "image", "image": Image.fromarray(frames[0])},
        {"type": "video", "path": film, "num_frames": 6},
    )
    options = {"selection": SELECTION, "tiles": TILES}
    [record] = pipe(content({"type": "video", "video": frames}, picture, part), num_frames=12, **options)
    assert [len(one["indices"]) for one in record["video_metadata"]] == [4, 1, 4]
    assert [one["num_candidates"] for one in record["selection"]] == [12, 6] and len(record["tiles"]) == 3
    [alone] = pipe(content(part), num_frames=12, **options)
    assert alone["selection"] == record["selection"][1:] and alone["tiles"] == record["tiles"][2:]
    [padded] = pipe(content(part), num_frames=12, selection=SELECTION)
    assert padded["selection"] == alone["selection"] and "tiles" not in padded
    with pytest.raises(ValueError, match="a selection and tiles need the video itself"):
        pipe(content({"type": "video"}), **options)
    guarded = {"media_access": MediaAccess.guarded(), "num_frames": 12}
    for choice in ({"selection": SELECTION}, options):
        with pytest.raises(VideoReadError, match="local files are not allowed here"):
            pipe(content({"type": "image", "path": film}, {"type": "video", "video": frames}), **guarded, **choice)


def test_an_engine_gives_what_a_session_gives_and_reads_beside_the_model(session, film, expected, monkeypatch):
    own = HiComSession(session.model, session.processor)
    with engine_of(own, keep_pictures=True) as engine:
        tickets = [engine.submit(request(film, question)) for question in (QUESTION, OTHER)]
        results = [ticket.future.result() for ticket in tickets]
        for result, answer in zip(results, expected, strict=True):
            assert result.texts == [answer.answer]
            assert (result.selections, result.tiles) == ([answer.selection], [answer.tiles])
            assert result.videos[0].sampling.times == pytest.approx(answer.selection.times)
            assert result.videos[0].sampling.source == "the video"
            assert result.candidates[0].pictures(answer.selection.frames).shape[0] == 4
        again = engine.submit(request(film)).future.result()
        assert again.texts == results[0].texts and again.num_cached_tokens == again.num_visual_tokens
        [encoded] = {id(result.candidates[0]) for result in (*results, again)}
        padded = engine.submit(request(film, tiles=None)).future.result()
        assert (
            id(padded.candidates[0]) == encoded and padded.selections == results[0].selections
        )  # no tiles in their key


def test_what_an_engine_refuses_names_the_reason(session, film):
    with engine_of(session, limits=Limits(max_squares=7)) as engine:
        with pytest.raises(VideoReadError, match=r"^the video: its frames make more than the 7 squares"):
            engine.submit(request(film)).future.result()
        engine.can_choose = False
        with pytest.raises(ValueError, match="select: this server cannot let questions choose"):
            engine.submit(request(film)).future.result()


def question_about(film, number, prompt):
    return Question(f"q{number}", str(film), prompt, prompt, "left")


def task_of(questions):
    return Task("own", "a task of a test", "here", lambda folder, protocol: questions, mark, {"ours": 6}, ("ours",))


def test_the_evaluation_gives_what_a_session_gives(session, film, expected, tmp_path):
    asked = [question_about(film, number, text) for number, text in enumerate((QUESTION, OTHER))]
    asking = Asking({"num_frames": 12}, selection=SELECTION, tiles=TILES)
    [summary] = evaluate([task_of(asked)], session, tmp_path, asking=asking)
    lines = read_answers(tmp_path / "own")
    for name, answer in zip(("q0", "q1"), expected, strict=True):
        line = lines[name]
        assert line["answer"] == answer.answer and line["selection"]["reason"] == answer.selection.reason
        assert line["times"] == pytest.approx(answer.selection.times, abs=0.001)
        assert line["tiles"]["best"]["box"] == pytest.approx(answer.tiles.tiles[0].box, abs=0.001)
    assert summary["settings"]["tiles"]["zooms"] == [1] and summary["settings"]["selection"]["num_frames"] == 4


def test_a_video_of_the_evaluation_that_cannot_be_read_again_counts_as_wrong(session, film, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise VideoReadError("wide.mp4: it is gone")

    monkeypatch.setattr("hicom_hf.inference.session.read_tiles", broken)
    asked, high = (
        [question_about(film, 0, QUESTION)],
        Asking({"num_frames": 12}, selection=SELECTION, tiles=FrameTiles((8,))),
    )
    again = Asking({"num_frames": 12}, selection=SELECTION, tiles=TILES)
    for name, asking, reason in (("again", again, "it is gone"), ("high", high, "180 squares of a frame")):
        [summary] = evaluate([task_of(asked)], session, tmp_path / name, asking=asking)
        assert reason in summary["failed_videos"][film] and summary["score"]["mean"] == 0


def test_the_command_asks_with_both(monkeypatch):
    arguments = ["eval", "shapes", "--output", "out", "--tiles", "0,1", "--select", "question", "--frames", "4"]
    args = build_parser().parse_args(arguments)
    eval_command._check_frames(args)
    asking = eval_command._asking(args)
    assert asking.selection == FrameSelection("question", 4) and asking.tiles == FrameTiles(overview=True)
