"""A question chooses frames, and then parts of them: one rule in session, pipeline, evaluation, server and commands."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicom_hf import FrameTiles, VideoTextToTextPipeline
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.cli import eval as eval_command
from hicom_hf.cli.main import build_parser, main
from hicom_hf.evaluation.evaluating import evaluate
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.tasks import Task
from hicom_hf.evaluation.tasks.shapes import mark
from hicom_hf.inference import ChoosingVideo, HiComSession, ask_each
from hicom_hf.inference.demo_film import WIDE, make_film
from hicom_hf.inference.video_cache import video_key
from hicom_hf.processors.candidate_frames_hicom import reading_of_chosen
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.tiled_video_hicom import read_tiles
from hicom_hf.processors.video_sources_hicom import VideoReadError
from hicom_hf.serving.engine import Engine
from hicom_hf.serving.requests import Limits, Request, Settings, VideoSource
from hicom_hf.shapes import Scene, render
from hicom_hf.shapes.writing import write_video

QUESTION, OTHER = "Where is the red circle?", "What colour is the square?"
SELECTION = FrameSelection(num_frames=4, max_p_value=1.0)
FEATURES = ("features", "aligned_features")
TILES, PADDED = FrameTiles(), FrameTiles(score_candidates=False)


@pytest.fixture(scope="module")
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=0)


@pytest.fixture(scope="module")
def frames():
    return render(Scene.from_seed(10, split="test"), num_frames=24, size=(56, 100))[0]


@pytest.fixture(scope="module")
def film(frames, tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("films") / "wide.mp4", frames, fps=4))


@pytest.fixture(scope="module", params=[TILES, PADDED], ids=["squares", "padded"])
def tiles(request):
    """How candidates are scored; the chosen frames are seen as the same squares."""
    return request.param


@pytest.fixture(scope="module")
def expected(session, film, tiles):
    """The session's answers, which the others are compared with."""
    return session.open(film, selection=SELECTION, tiles=tiles, num_frames=12).ask_all(
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


def test_frames_may_be_chosen_as_without_tiles_and_seen_as_tiles(session, film):
    choosing = session.open(film, selection=SELECTION, num_frames=12)
    both = session.open(film, selection=SELECTION, tiles=PADDED, num_frames=12)
    answer = both.ask(QUESTION, max_new_tokens=6)
    assert (
        answer.selection == choosing.ask(QUESTION, max_new_tokens=6).selection and answer.selection.used == "question"
    )
    numbers = tuple(both.candidates.sampling.indices[frame] for frame in answer.selection.frames)
    assert (
        any(one % 2 for one in numbers) or numbers != answer.selection.frames
    )  # numbers of the video, not of candidates
    alone = session.open(film, tiles=PADDED, sampling=FrameSampling(indices=numbers))
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
    assert reading_of_chosen(record, asked) == {
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


def test_candidates_are_scored_by_their_best_patch_in_any_square(session, film):
    video = session.open(film, selection=SELECTION, tiles=TILES, num_frames=12)
    read = read_tiles(session.processor, film, PADDED, num_frames=12)
    assert video.candidates.sampling.indices == read.sampling.indices and len(video.candidates) == 12
    scorer = session.model.frame_scorer(session.processor.encode_instructions(["the red circle"]))
    prepare, expected = session.processor.video_processor, []
    for squares in read.pictures:
        _, aligned = session.model.encode_frames(prepare.normalised(torch.from_numpy(squares).movedim(-1, 1)))
        expected.append(scorer.int8_frame_scores(*session.model.frame_keys(aligned)).max().item())
    [found] = video.candidates.scores(session.model, [scorer])
    assert found.tolist() == pytest.approx(expected, rel=0.01)  # encoded in other chunks, then rounded to 8 bits
    padded = session.open(film, selection=SELECTION, num_frames=12).candidates.scores(session.model, [scorer])[0]
    assert not torch.allclose(padded, found, rtol=0.01)


def test_of_scored_squares_only_keys_are_kept_and_chosen_frames_are_read_again(session, film, tmp_path, monkeypatch):
    def opened():
        own = HiComSession(session.model, session.processor, cache_dir=tmp_path, cache_bytes=0)
        return own.open(film, selection=SELECTION, tiles=TILES, num_frames=12)

    video = opened()
    assert not video.candidates.has_features and video.candidates.features.num_bytes == 0
    padded = session.open(film, selection=SELECTION, tiles=PADDED, num_frames=12)
    assert padded.candidates.has_features and video.candidates.keys.num_bytes == 2 * padded.candidates.keys.num_bytes
    answer, record = video.ask(QUESTION, max_new_tokens=6), video.choose(QUESTION)
    numbers = FrameSampling(indices=tuple(video.candidates.sampling.indices[frame] for frame in record.frames))
    seen = session.open(film, tiles=PADDED, sampling=numbers).ask(QUESTION, max_new_tokens=6)
    assert (answer.answer, answer.tiles, answer.selection) == (seen.answer, seen.tiles, record)
    assert video.encoded.seconds > video.candidates.seconds > 0
    assert video.encoded.num_frames == 4 and video.encoded.num_visual_tokens == padded.encoded.num_visual_tokens
    monkeypatch.setattr("hicom_hf.inference.session.encode_candidates", None)  # they are there
    assert opened().ask(QUESTION, max_new_tokens=6).selection == record


@pytest.mark.parametrize("vision_batch_size", [1, 3, 64])
def test_scores_and_shots_do_not_depend_on_the_chunk(session, film, monkeypatch, vision_batch_size):
    expected = session.open(film, selection=SELECTION, tiles=TILES, num_frames=12)
    monkeypatch.setattr(session.model.config, "vision_batch_size", vision_batch_size)
    monkeypatch.setattr("hicom_hf.processors.candidate_frames_hicom.PATCHES_PER_READ", 200)
    video = session.open(film, selection=SELECTION, tiles=TILES, num_frames=12)
    assert video.candidates.changes == pytest.approx(expected.candidates.changes, abs=1e-4)
    assert video.choose(QUESTION).frames == expected.choose(QUESTION).frames


def test_square_frames_are_scored_as_they_are_without_tiles_at_the_same_cost(session, monkeypatch):
    calls, encode = [], type(session.model).encode_frames
    monkeypatch.setattr(
        type(session.model), "encode_frames", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels)
    )
    frames = render(Scene.from_seed(10, split="test"), num_frames=12, size=56)[0]
    padded, scored = (
        session.open(frames, selection=SELECTION, tiles=one, num_frames="all") for one in (PADDED, TILES)
    )
    assert sum(calls) == 2 * len(frames)
    assert padded.choose(QUESTION) == scored.choose(QUESTION)
    assert padded.candidates.changes == scored.candidates.changes
    assert scored.candidates.has_features and scored.candidates.num_bytes == padded.candidates.num_bytes
    assert all(torch.equal(padded.encoded.features[name], scored.encoded.features[name]) for name in FEATURES)


def test_squares_come_in_chunks_of_whole_frames(session, film):
    found = []
    for size in (1, 5, 64):
        shapes, sizes = [], []
        session.processor.video_processor.read_in_chunks(
            film,
            lambda pixels, shapes=shapes: shapes.append(pixels.shape),
            size,
            num_frames=7,
            tiles=PADDED,
            check_size=lambda *counts, shapes=shapes, sizes=sizes: sizes.append((counts, len(shapes))),
        )
        assert sizes == [((7, 2), 0)]  # frames, squares of each; before the first chunk
        found.append([shape[0] for shape in shapes])
        assert {shape[1:3] for shape in shapes} == {(2, 3)}  # two squares of three colours
    assert found == [[1] * 7, [2, 2, 2, 1], [7]]


def test_a_source_in_memory_is_read_twice(session, film, expected, tiles):
    for source in (Path(film).read_bytes(), io.BytesIO(Path(film).read_bytes())):
        opened = session.open(source, selection=SELECTION, tiles=tiles, num_frames=12)
        answers = opened.ask_all([QUESTION, OTHER], max_new_tokens=6)
        for answer, known in zip(answers, expected, strict=True):
            assert (answer.answer, answer.selection, answer.tiles) == (known.answer, known.selection, known.tiles)


def test_frames_that_are_not_scored_are_not_encoded_as_squares(session, film):
    even = FrameSelection("uniform", num_frames=4)
    video = session.open(film, selection=even, tiles=TILES, num_frames=12)
    assert video.candidates.has_features and video.choose(QUESTION).used == "uniform"
    assert video.ask(QUESTION, max_new_tokens=2).tiles is not None


def test_without_a_selection_it_makes_no_difference_how_candidates_would_be_scored(session, film, tmp_path):
    own = HiComSession(session.model, session.processor, cache_dir=tmp_path)
    answers = [own.open(film, tiles=one, num_frames=4).ask(QUESTION, max_new_tokens=2) for one in (TILES, PADDED)]
    assert answers[0].tiles == answers[1].tiles and (own.cache.hits, own.cache.misses) == (1, 1)
    assert len(list(tmp_path.iterdir())) == 1
    key = video_key(film, {"num_frames": 4, "tiles": PADDED})  # as before there was a choice
    assert list(tmp_path.glob(f"{key}-*"))
    with engine_of(own) as engine:
        found = [engine.submit(request(film, selection=None, tiles=one)).future.result() for one in (TILES, PADDED)]
        assert found[0].num_cached_tokens == 0 and found[1].num_cached_tokens == found[1].num_visual_tokens


@pytest.mark.slow
def test_squares_find_more_of_a_small_scene_than_padded_frames(tmp_path):
    session = HiComSession.load(dtype="float32", device="cpu")
    film = make_film(tmp_path, 7, WIDE)
    text, scene = film.questions[0].text, range(film.first, film.first + 16)
    found = []
    for tiles in (PADDED, TILES):
        opened = session.open(film.path, fps=4.0, selection=FrameSelection(num_frames=8), tiles=tiles)
        found.append(sum(frame in scene for frame in opened.choose(text).frames))
    assert found[0] <= 6 and found[1] == 8


# The interfaces ---------------------------------------------------------------------------------------------------------


def test_the_pipeline_gives_what_a_session_gives(film, tiles, expected, pipe):
    fields = {"zooms": [1], "score_candidates": tiles.score_candidates}
    options = {"num_frames": 12, "selection": {"num_frames": 4, "max_p_value": 1.0}, "tiles": fields}
    together = pipe(film, text=[QUESTION, OTHER], **options)
    assert pipe(film, text=QUESTION, **options) == together[0]
    assert pipe(film, text=OTHER, num_frames=12, selection=SELECTION, tiles=tiles) == together[1]
    for [record], answer in zip(together, expected, strict=True):
        assert record["generated_text"] == answer.answer
        assert (record["selection"], record["tiles"]) == ([answer.selection.to_dict()], [answer.tiles.to_dict()])
        assert record["video_metadata"][0]["times"] == pytest.approx(answer.selection.times)


def test_several_questions_to_the_pipeline_encode_candidates_once(session, film, pipe, monkeypatch):
    calls, encode = [], type(session.model).encode_frames
    monkeypatch.setattr(
        type(session.model), "encode_frames", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels)
    )
    for tiles, squares in (({"zooms": [1]}, 2), ({"zooms": [1], "score_candidates": False}, 1)):
        calls.clear()
        pipe(film, text=[QUESTION, OTHER], num_frames=12, selection=SELECTION, tiles=tiles)
        # Candidates; per question two squares of four frames, and a plain picture.
        assert sum(calls) == 12 * squares + 2 * (4 * 2 + 1)


def test_a_chat_of_the_pipeline_may_hold_several_videos_and_images(film, frames, pipe):
    def content(*parts):
        return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]

    picture, part = (
        {"type": "image", "image": Image.fromarray(frames[0])},
        {"type": "video", "path": film, "num_frames": 6},
    )
    options = {"selection": SELECTION, "tiles": PADDED}
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


def test_an_engine_gives_what_a_session_gives(session, film, tiles, expected):
    own = HiComSession(session.model, session.processor)
    with engine_of(own, keep_pictures=True) as engine:
        tickets = [engine.submit(request(film, question, tiles=tiles)) for question in (QUESTION, OTHER)]
        results = [ticket.future.result() for ticket in tickets]
        for result, answer in zip(results, expected, strict=True):
            assert result.texts == [answer.answer]
            assert (result.selections, result.tiles) == ([answer.selection], [answer.tiles])
            assert result.videos[0].sampling.times == pytest.approx(answer.selection.times)
            assert result.videos[0].sampling.source == "the video"
            if not tiles.score_candidates:
                assert result.candidates[0].pictures(answer.selection.frames).shape[0] == 4
        again = engine.submit(request(film, tiles=tiles)).future.result()
        assert again.texts == results[0].texts and again.num_cached_tokens == again.num_visual_tokens
        [encoded] = {id(result.candidates[0]) for result in (*results, again)}
        padded = engine.submit(request(film, tiles=None)).future.result()
        assert (id(padded.candidates[0]) == encoded) == (not tiles.score_candidates)
        assert padded.selections == results[0].selections or tiles.score_candidates


def test_what_an_engine_refuses_names_the_reason(session, film):
    with engine_of(session, limits=Limits(max_squares=7)) as engine:
        with pytest.raises(VideoReadError, match=r"^the video: its frames make more than the 7 squares"):
            engine.submit(request(film)).future.result()
        engine.can_choose = False
        with pytest.raises(ValueError, match="select: this server cannot let questions choose"):
            engine.submit(request(film)).future.result()


def test_squares_of_candidates_are_bounded_in_an_engine_before_one_is_encoded(session, film, monkeypatch):
    encode_frames, encoded = session.model.encode_frames, []

    def encode(pixel_values):
        encoded.append(len(pixel_values))
        return encode_frames(pixel_values)

    monkeypatch.setattr(session.model, "encode_frames", encode)
    with engine_of(session, limits=Limits(max_candidates=12)) as engine:
        assert engine.submit(request(film, tiles=TILES)).future.result().tiles != [None]
        assert encoded[0] == 24  # squares of the candidates
        encoded.clear()
        many, remedy = FrameTiles((1, 2)), 'or choose padded frames \\("score_tiles": false\\)'
        with pytest.raises(
            VideoReadError, match=f"^the video: its candidates make more than the 24 squares.*{remedy}"
        ):
            engine.submit(request(film, tiles=many)).future.result()
        assert not encoded
        padded = replace(many, score_candidates=False)
        assert engine.submit(request(film, tiles=padded)).future.result().tiles != [None]


@pytest.mark.slow
def test_squares_of_candidates_are_read_in_a_process_as_they_are_here(session, film):
    found = []
    for number in (0, 1):
        limits = Limits(max_candidates=12)
        with Engine(session, access=MediaAccess.open(), limits=limits, num_workers=number) as engine:
            found.append(engine.submit(request(film, tiles=TILES)).future.result())
            with pytest.raises(VideoReadError, match=r"^the video: its candidates make more than the 24 squares"):
                engine.submit(request(film, tiles=FrameTiles((1, 2)))).future.result()
    assert found[0].selections == found[1].selections and found[0].texts == found[1].texts


def question_about(film, number, prompt):
    return Question(f"q{number}", str(film), prompt, prompt, "left")


def task_of(questions):
    return Task("own", "a task of a test", "here", lambda folder, protocol: questions, mark, {"ours": 6}, ("ours",))


def test_the_evaluation_gives_what_a_session_gives(session, film, tiles, expected, tmp_path):
    asked = [question_about(film, number, text) for number, text in enumerate((QUESTION, OTHER))]
    asking = Asking({"num_frames": 12}, selection=SELECTION, tiles=tiles)
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
    again = Asking({"num_frames": 12}, selection=SELECTION, tiles=PADDED)
    for name, asking, reason in (("again", again, "it is gone"), ("high", high, "180 squares of a frame")):
        [summary] = evaluate([task_of(asked)], session, tmp_path / name, asking=asking)
        assert reason in summary["failed_videos"][film] and summary["score"]["mean"] == 0


def test_the_other_questions_of_a_batch_are_answered_where_frames_of_one_cannot_be_read_again(
    session, film, expected, tmp_path, monkeypatch
):
    chosen, failing = ChoosingVideo.chosen, [False, True, False]

    def chosen_or_broken(video, record):
        if failing.pop(0):
            raise VideoReadError("wide.mp4: it is gone")
        return chosen(video, record)

    monkeypatch.setattr(ChoosingVideo, "chosen", chosen_or_broken)
    asked = [question_about(film, number, text) for number, text in enumerate((QUESTION, QUESTION, OTHER))]
    asking = Asking({"num_frames": 12}, selection=SELECTION, tiles=TILES)
    evaluate([task_of(asked)], session, tmp_path, asking=asking)
    lines = read_answers(tmp_path / "own")
    assert [lines[f"q{number}"]["failure"] for number in range(3)] == [None, "wide.mp4: it is gone", None]
    alone = session.open(film, selection=SELECTION, tiles=TILES, num_frames=12)
    for name, text in (("q0", QUESTION), ("q2", OTHER)):
        failing.append(False)
        answer = alone.ask(text, instruction=text, max_new_tokens=6)
        assert lines[name]["answer"] == answer.answer
        assert lines[name]["selection"]["indices"] == list(answer.selection.indices)
        assert lines[name]["tiles"]["best"]["box"] == pytest.approx(answer.tiles.tiles[0].box, abs=0.001)


def test_questions_about_a_video_each_are_answered_in_one_batch(session, film, monkeypatch):
    how = ({}, {"selection": SELECTION}, {"tiles": TILES}, {"selection": SELECTION, "tiles": TILES})
    videos = [session.open(film, num_frames=12, **one) for one in how]
    texts = [QUESTION, OTHER, QUESTION, OTHER]
    alone = [video.ask(text, max_new_tokens=6) for video, text in zip(videos, texts, strict=True)]
    batches, generate = [], session.generate
    monkeypatch.setattr(session, "generate", lambda answer: batches.append(generate(answer)) or batches[-1])
    for one, answer in zip(alone, ask_each(videos, texts, max_new_tokens=6), strict=True):
        assert answer.answer == one.answer and (answer.selection, answer.tiles) == (one.selection, one.tiles)
    assert len(batches) == 1 and ask_each([], []) == []
    with pytest.raises(ValueError, match="each question needs a video, got 4 videos for 1 questions"):
        ask_each(videos, [QUESTION])
    other = HiComSession(session.model, session.processor, cache_bytes=0)
    with pytest.raises(ValueError, match="videos of several sessions cannot be asked together"):
        ask_each([videos[0], other.open(film, num_frames=4)], [QUESTION, OTHER])


def test_the_command_asks_with_both(monkeypatch):
    arguments = ["eval", "shapes", "--output", "out", "--tiles", "0,1", "--select", "question", "--frames", "4"]
    args = build_parser().parse_args(arguments)
    eval_command._check_frames(args)
    asking = eval_command._asking(args)
    assert asking.selection == FrameSelection("question", 4) and asking.tiles == FrameTiles(overview=True)
    for option, scored in (("--score-tiles", True), ("--no-score-tiles", False)):
        args = build_parser().parse_args([*arguments, option])
        assert eval_command._asking(args).tiles == FrameTiles(overview=True, score_candidates=scored)


def test_the_command_says_how_frames_of_wide_films_are_chosen(film, capsys):
    arguments = ["ask", film, QUESTION, "--num-frames", "8", "--select", "question", "--frames", "4", "--tiles", "1"]
    said = []
    for more in ([], ["--no-score-tiles"]):
        assert main([*arguments, *more, "--max-new-tokens", "2", "--device", "cpu"]) == 0
        said.append(capsys.readouterr().err)
    found = [re.findall(r"8 candidates of 24 frames, (each as 2 squares|\d+ MB)", one) for one in said]
    assert found[0] == ["each as 2 squares"] and found[1][0].endswith(" MB")


@pytest.mark.parametrize("arguments", [["--tiles", "1"], ["--select", "question", "--frames", "4"]])
@pytest.mark.parametrize("command", [["ask", "film.mp4", "Who?"], ["eval", "shapes", "--output", "out"], ["demo"]])
def test_how_frames_are_scored_goes_with_both(command, arguments, capsys):
    for option in ("--score-tiles", "--no-score-tiles"):
        assert main([*command, *arguments, option]) == 2
        assert f"argument {option}: goes with --select and --tiles" in capsys.readouterr().err
