"""Overlapping squares of frames of any shape: geometry and choice against loops, the session end to end."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from PIL import Image

from hicom_hf import FrameTiles
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.assets import example_videos
from hicom_hf.cli.choices import describe_tiles
from hicom_hf.cli.main import main
from hicom_hf.inference import AttentionMaps, HiComSession, attention_maps, shown_frames, whole_frames
from hicom_hf.inference.attention_maps import over_whole_frames
from hicom_hf.inference.open_videos import DetailedVideo
from hicom_hf.processors.answering_hicom import read_frames
from hicom_hf.processors.frame_tiles_hicom import (
    OVERVIEW,
    ChosenTile,
    Square,
    TilesRecord,
    cell_members,
    cut_square,
    patch_centres,
    seen_centrally,
    zoom_levels,
)
from hicom_hf.processors.tiled_video_hicom import (
    _moved,
    choose_by_scores,
    choose_patches,
    cut_tiles,
    encode_tiled_video,
    height,
    read_tiles,
)
from hicom_hf.processors.video_sources_hicom import VideoReadError
from hicom_hf.shapes import Scene, questions, render
from hicom_hf.shapes.writing import write_video as write_film

SHAPES = [(144, 256), (256, 144), (100, 100), (90, 97), (144, 180), (37, 400)]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"zooms": ()}, ValueError, "zooms must be numbers of at least 1, each once, got ()"),
        ({"zooms": (1, 0)}, ValueError, "zooms must be numbers of at least 1"),
        ({"zooms": (2, 2)}, ValueError, "each once"),
        ({"zooms": 2}, TypeError, "zooms must be a tuple of whole numbers"),
        ({"zooms": None}, TypeError, "zooms must be a tuple of whole numbers"),
        ({"overlap": "0.2"}, TypeError, "overlap must be a number, got '0.2'"),
        ({"zooms": (1.5,)}, TypeError, "zooms must be whole numbers, got 1.5"),
        ({"zooms": (True,)}, TypeError, "zooms must be whole numbers, got True"),
        ({"overlap": 0.95}, ValueError, "overlap must be from 0 to 0.9"),
    ],
)
def test_a_wrong_request_is_refused(values, error, message):
    with pytest.raises(error) as caught:
        FrameTiles(**values)
    assert message in str(caught.value)


def test_squares_of_known_frames():
    assert zoom_levels(FrameTiles(), 144, 256) == {1: [Square(0, 0, 144), Square(0, 112, 144)]}
    assert zoom_levels(FrameTiles(overlap=0.5), 256, 144) == {1: [(0, 0, 144), (56, 0, 144), (112, 0, 144)]}
    assert zoom_levels(FrameTiles((1, 2), overlap=0.0), 100, 100) == {
        1: [(0, 0, 100)],
        2: [(0, 0, 50), (0, 50, 50), (50, 0, 50), (50, 50, 50)],
    }
    assert {square.side for square in zoom_levels(FrameTiles((2,)), 143, 256)[2]} == {72}
    assert zoom_levels(FrameTiles(overview=True), 100, 100) == {1: [(0, 0, 100)]}
    assert list(zoom_levels(FrameTiles(overview=True), 100, 151)) == [OVERVIEW, 1]
    assert zoom_levels(FrameTiles(overview=True), 100, 151)[OVERVIEW] == [(-25, 0, 151)]


@pytest.mark.parametrize(("size", "zoom", "overlap"), list(product(SHAPES, [1, 2, 3], [0.0, 0.2, 0.5])))
def test_squares_cover_the_frame_and_overlap(size, zoom, overlap):
    if size == (37, 400) and (zoom > 1 or overlap == 0.5):
        return
    [squares] = zoom_levels(FrameTiles((zoom,), overlap), *size).values()
    side = round(min(size) / zoom)
    for axis, length in enumerate(size):
        starts = sorted({square[axis] for square in squares})
        assert starts[0] == 0 and starts[-1] + side == max(length, side)
        for one, other in pairwise(starts):
            assert one + side - other >= overlap * side - 1  # rounded to pixels


def test_too_many_squares_are_refused():
    with pytest.raises(ValueError, match=r"zooms \(8,\) make 121 squares of a frame of 100x100"):
        zoom_levels(FrameTiles((8,)), 100, 100)


@pytest.mark.parametrize(("size", "zoom"), list(product(SHAPES[:5], [1, 2])))
def test_each_place_is_seen_by_the_square_whose_centre_is_nearest(size, zoom):
    [squares] = zoom_levels(FrameTiles((zoom,)), *size).values()
    kept = seen_centrally(squares, 6)
    for number, square in enumerate(squares):
        for row, column in product(range(6), range(6)):
            y, x = (square[axis] + (place + 0.5) * square.side / 6 for axis, place in enumerate((row, column)))
            away = [
                max(abs(y - other.top - other.side / 2), abs(x - other.left - other.side / 2)) for other in squares
            ]
            nearest = min(range(len(squares)), key=lambda other: (round(away[other], 6), other))
            assert kept[number, row, column] == (nearest == number)


@pytest.mark.parametrize(("size", "zoom"), list(product(SHAPES, [1, 2])))
def test_a_cell_has_the_patches_whose_centre_lies_in_it_or_the_nearest_one(size, zoom):
    if size == (37, 400) and zoom == 2:
        return
    [squares] = zoom_levels(FrameTiles((zoom,)), *size).values()
    centres = patch_centres(squares, *size, 6)[seen_centrally(squares, 6)]
    table = cell_members(centres, (6, 6))
    used = set()
    for row, column in product(range(6), range(6)):
        found = [number for number in table[row * 6 + column] if number >= 0]
        inside = [
            number
            for number, (y, x) in enumerate(centres.tolist())
            if math.floor(y * 6 + 1e-9) == row and math.floor(x * 6 + 1e-9) == column
        ]
        if not inside:
            away = np.abs(centres - ((row + 0.5) / 6, (column + 0.5) / 6)).max(axis=1)
            inside = [int(away.argmin())]
        assert found == inside
        used.update(found)
    assert used == set(range(len(centres)))  # no patch is left out


def test_a_centre_on_a_border_lies_in_the_cell_behind_it_however_it_was_rounded():
    border = np.nextafter(0.5, 0)
    centres = np.array([[0.25, 0.5], [border, 0.5], [0.75, 0.5]])
    assert cell_members(centres, (2, 1)).tolist() == [[0, -1], [1, 2]]


def test_a_cell_without_a_centre_takes_the_nearest_patch():
    assert cell_members(np.array([[0.2, 0.1], [0.8, 0.7]]), (2, 2)).tolist() == [[0], [1], [1], [1]]


def test_a_square_frame_is_its_own_grid():
    [squares] = zoom_levels(FrameTiles(), 56, 56).values()
    assert seen_centrally(squares, 4).all()
    assert cell_members(patch_centres(squares, 56, 56, 4).reshape(-1, 2), (4, 4)).tolist() == [[k] for k in range(16)]


def test_an_overview_is_the_frame_and_a_square_a_part_of_it():
    frame = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    assert cut_square(frame, Square(-1, 0, 9)) is frame
    assert np.array_equal(cut_square(frame, Square(0, 3, 6)), frame[:6, 3:9])


def test_the_effect_of_places_is_interpolated_between_patches():
    effect = torch.randn(3, 4, 5)
    centres = torch.rand(2, 3, 4, 2, dtype=torch.float64)
    moved = _moved(effect, centres)
    for square, row, column in product(range(2), range(3), range(4)):
        y, x = (centres[square, row, column] * torch.tensor([3.0, 4.0]) - 0.5).tolist()
        y, x = min(max(y, 0.0), 2.0), min(max(x, 0.0), 3.0)
        top, left = min(int(y), 1), min(int(x), 2)
        down, right = y - top, x - left
        there = (
            (1 - down) * (1 - right) * effect[top, left]
            + (1 - down) * right * effect[top, left + 1]
            + down * (1 - right) * effect[top + 1, left]
            + down * right * effect[top + 1, left + 1]
        )
        torch.testing.assert_close(moved[square, row, column], there - effect[row, column], atol=1e-5, rtol=0)


def test_each_cell_takes_its_best_patch_and_of_equal_ones_the_first():
    scores = torch.tensor([[3.0, 1.0, 5.0, 5.0, 9.0], [0.0, 2.0, -1.0, 7.0, 1.0]])
    members = torch.tensor([[0, 1, -1], [2, 3, -1], [0, 2, 4]])
    assert choose_patches(scores, members).tolist() == [[0, 2, 4], [1, 3, 4]]


def test_the_height_of_a_level_is_that_of_its_best_frame():
    assert height(torch.tensor([[1.0, 2.0, 9.0], [5.0, 5.0, 6.0]])) == 7.0


# Sessions ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=0)


def frames_of(seed, size, num_frames=4):
    return render(Scene.from_seed(seed, split="test"), num_frames=num_frames, size=size)[0]


def test_a_square_video_has_the_bits_that_it_has_without_tiles(session):
    frames = frames_of(1, 56)
    plain, tiled = session.open(frames, num_frames=4), session.open(frames, num_frames=4, tiles=FrameTiles())
    assert torch.equal(tiled.encoded.features["features"], plain.encoded.features["features"])
    assert torch.equal(tiled.encoded.features["aligned_features"], plain.encoded.features["aligned_features"])
    text = "Where is the red circle?"
    one, other = plain.ask(text, max_new_tokens=6), tiled.ask(text, max_new_tokens=6)
    assert one.answer == other.answer and one.num_prompt_tokens == other.num_prompt_tokens
    assert one.tiles is None and other.tiles.zooms == (1,) and other.tiles.tiles[0].box == (0.0, 0.0, 1.0, 1.0)


def test_an_overview_alone_has_the_bits_of_the_padded_frame(session):
    frames = frames_of(1, (56, 100))
    plain = session.open(frames, num_frames=4)
    video = session.open(frames, num_frames=4, tiles=FrameTiles(overview=True))
    level = video.tiled.levels[0]
    assert level.zoom == OVERVIEW
    assert torch.equal(level.features, plain.encoded.features["features"].flatten(1, 2))
    rows = level.inside.view(session.model.config.grid).any(dim=1)
    assert 0 < rows.sum() < len(rows)
    ids = session.processor.encode_instructions([session.processor.extract_instruction("Where is it?")])
    scores = session.model.frame_scorer(ids).patch_scores(level.aligned_features[:, :, None])[0, ..., 0]
    found = video.choose("Where is it?").heights[0]
    assert found == pytest.approx(height(scores[:, level.inside]), abs=1e-5)  # without the margins
    assert found != pytest.approx(height(scores), abs=1e-3)


def test_the_choice_is_that_of_a_loop_over_the_cells(session):
    video = session.open(frames_of(2, (56, 100)), num_frames=4, tiles=FrameTiles((1, 2)))
    text = "What colour is the circle?"
    [(record, chosen)] = video._choose_all([text])
    levels = {level.zoom: level for level in video.tiled.levels}
    level = levels[record.zoom]
    assert record.heights[record.zooms.index(record.zoom)] == max(record.heights)
    ids = session.processor.encode_instructions([session.processor.extract_instruction(text)])
    scorer = session.model.frame_scorer(ids)
    rows, columns = session.model.config.grid
    seen = set()
    for frame, row, column in product(range(4), range(rows), range(columns)):
        numbers = [number for number in level.members[row * columns + column].tolist() if number >= 0]
        scores = [scorer.patch_scores(level.aligned_features[frame, n][None, None, None]).item() for n in numbers]
        best = numbers[max(range(len(numbers)), key=lambda place: (scores[place], -place))]
        assert torch.equal(chosen.features["features"][frame, row, column], level.features[frame, best])
        assert torch.equal(
            chosen.features["aligned_features"][frame, row, column], level.aligned_features[frame, best]
        )
        seen.add(int(level.square_of[best]))
    assert len(record.tiles) == len(seen)
    assert sum(tile.patches for tile in record.tiles) == pytest.approx(1.0)
    assert [tile.score for tile in record.tiles] == sorted((tile.score for tile in record.tiles), reverse=True)


def test_features_are_those_of_the_squares_with_the_places_of_the_whole_frame(session):
    frames, tiles = frames_of(7, (56, 100), num_frames=2), FrameTiles()
    level = session.open(frames, num_frames=2, tiles=tiles).tiled.levels[0]
    prepare, side = session.processor.video_processor, session.model.config.grid[0]
    pictures = np.stack([[prepare.square_frame(cut_square(frame, one)) for one in level.squares] for frame in frames])
    plain = np.empty_like(pictures[:1, 0])
    plain[:] = np.rint(pictures.mean(axis=(0, 1, 2, 3)))  # a picture of the mean colour
    effect, squares = (
        session.model.encode_frames(prepare.normalised(torch.from_numpy(some).movedim(-1, 1)))[0]
        for some in (plain, pictures.reshape(-1, *pictures.shape[2:]))
    )
    centres = torch.from_numpy(patch_centres(level.squares, 56, 100, side))
    expected = squares.unflatten(0, (2, -1)) + _moved(effect[0], centres)
    kept = torch.from_numpy(seen_centrally(level.squares, side))
    torch.testing.assert_close(level.features, expected[:, kept], atol=1e-5, rtol=0)  # float32, other chunks
    assert (_moved(effect[0], centres)[kept].abs().amax() > 1e-3).item()


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_features_do_not_depend_on_the_chunk(session, chunk_size):
    frames, tiles = frames_of(3, (56, 100)), FrameTiles()
    whole = encode_tiled_video(session.model, session.processor, frames, tiles, num_frames=4).levels[0]
    before = session.model.config.vision_batch_size
    session.model.config.vision_batch_size = chunk_size
    try:
        parts = encode_tiled_video(session.model, session.processor, frames, tiles, num_frames=4).levels[0]
    finally:
        session.model.config.vision_batch_size = before
    torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=0)  # float32, other chunks
    assert torch.equal(parts.square_of, whole.square_of)


def test_the_budget_is_that_of_a_video_without_tiles_and_questions_together_are_questions_alone(session):
    frames, texts = frames_of(4, (100, 56)), ["Where is the red circle?", "What shape is it?"]
    plain, video = session.open(frames, num_frames=4), session.open(frames, num_frames=4, tiles=FrameTiles((1, 2)))
    together = video.ask_all(texts, max_new_tokens=4)
    for text, answer in zip(texts, together, strict=True):
        alone = video.ask(text, max_new_tokens=4)
        assert (alone.answer, alone.tiles) == (answer.answer, answer.tiles)
        assert answer.num_prompt_tokens == plain.ask(text, max_new_tokens=1).num_prompt_tokens
    assert video.ask("And now?", instruction=texts[0], max_new_tokens=2).tiles == together[0].tiles
    assert video.attention(texts[0]).local_map.shape == (4, *session.model.config.grid)


def test_an_image_is_a_video_of_one_frame(session):
    picture = frames_of(5, (56, 100))[:1]
    video = session.open(picture, tiles=FrameTiles())
    for image in ([picture[0]], Image.fromarray(picture[0])):
        features = session.open(image, tiles=FrameTiles()).tiled.levels[0].features
        assert torch.equal(video.tiled.levels[0].features, features)
    assert video.encoded.num_visual_tokens == session.model.config.num_visual_tokens(1)


@pytest.mark.parametrize(
    "compressor", [{"local_injection": "coarse"}, {"local_branch": "average_pool", "local_injection": "none"}]
)
def test_other_compressors_choose_by_siglips_text(compressor):
    session = HiComSession(tiny_model(**compressor), tiny_processor(), cache_bytes=0)
    video = session.open(frames_of(6, (56, 100)), num_frames=4, tiles=FrameTiles())
    record = video.ask("Where is it?", max_new_tokens=2).tiles
    ids = session.processor.encode_instructions([session.processor.extract_instruction("Where is it?")])
    pooled = torch.nn.functional.normalize(session.model.model.instruction_encoder(ids)[0][0], dim=-1)
    scores = video.tiled.levels[0].aligned_features @ pooled
    assert record.tiles[0].score == pytest.approx(scores.max().item(), abs=1e-5)


def test_the_command_says_which_square_is_best(capsys):
    video = str(example_videos()[0])
    arguments = ["ask", video, "Where is the red circle?", "--max-new-tokens", "4", "--device", "cpu"]
    assert main([*arguments, "--tiles", "0,1,2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [answer] = report["answers"]
    assert answer["tiles"]["zooms"] == [1, 2] and "selection" not in answer  # it is square: no overview
    assert len(answer["tiles"]["tiles"][0]["box"]) == 4
    tile = ChosenTile((0.0, 0.4375, 1.0, 1.0), 0.5, 3.0, 2)
    said = "zoom 1, 1 square; best in rows 0 to 100 %, columns 44 to 100 % of frame 3"
    assert describe_tiles(TilesRecord(1, (1,), (3.0,), (tile,))) == said
    for zooms, message in (
        ("0", "must be zooms from 1 on"),
        ("1,1", "each once"),
        ("-1", "must be zooms from 1 on"),
        ("a", "must be a whole number"),
    ):
        assert main([*arguments, f"--tiles={zooms}"]) == 2
        assert message in capsys.readouterr().err
    assert main([*arguments, "--tiles", "1", "--select", "question", "--frames", "4", "--json"]) == 0
    [answer] = json.loads(capsys.readouterr().out)["answers"]
    assert len(answer["selection"]["frames"]) == 4 and answer["tiles"]["zoom"] == 1


def test_a_video_whose_shape_makes_too_many_squares_is_named(session):
    with pytest.raises(VideoReadError, match=r"^<array>: zooms \(8,\) make 100 squares of a frame of 56x56"):
        session.open(frames_of(1, 56), tiles=FrameTiles((8,)))


def test_an_overview_of_a_model_that_does_not_pad_is_refused(session, monkeypatch):
    monkeypatch.setattr(session.processor.video_processor, "do_pad", False)
    frames = frames_of(1, (56, 100))
    with pytest.raises(ValueError, match=r"the overview is a padded frame, but .* has do_pad=False"):
        session.open(frames, tiles=FrameTiles(overview=True))
    read = read_frames(session.processor, frames, num_frames=2)
    shown = shown_frames(session.processor, read)
    assert whole_frames(session.processor, shown, read.sampling) is shown


def test_an_unknown_argument_is_refused(session):
    with pytest.raises(TypeError, match="takes no 'padding'"):
        session.open(frames_of(1, 56), tiles=FrameTiles(), padding=True)


def test_tiles_are_encoded_once_for_all_sessions_of_a_folder(session, tmp_path, monkeypatch):
    path, tiles = write_film(tmp_path / "wide.mp4", frames_of(8, (56, 100)), fps=5), FrameTiles((1, 2), overview=True)

    def opened(video=path, tiles=tiles, num_frames=2):
        own = HiComSession(session.model, session.processor, cache_dir=tmp_path / "cache")
        return own, own.open(video, tiles=tiles, num_frames=num_frames)

    own, first = opened()
    expected = own.open(path, num_frames=2)  # padded: has another key
    with monkeypatch.context() as patched:
        patched.setattr("hicom_hf.inference.session.read_tiles", None)
        assert own.open(path, tiles=tiles, num_frames=2).tiled is first.tiled
        other, found = opened()
        for tiles_asked, num_frames in ((FrameTiles(), 2), (replace(tiles, overlap=0.5), 2), (tiles, 3)):
            with pytest.raises(TypeError, match="not callable"):
                opened(tiles=tiles_asked, num_frames=num_frames)
    assert other.cache.num_bytes == first.tiled.num_bytes and (other.cache.hits, other.cache.misses) == (1, 0)
    assert torch.equal(
        other.open(path, num_frames=2).encoded.features["features"], expected.encoded.features["features"]
    )
    assert found.tiled.sampling == first.tiled.sampling and found.tiled.num_frames == 2
    for one, level in zip(found.tiled.levels, first.tiled.levels, strict=True):
        assert (one.zoom, one.squares) == (level.zoom, level.squares)
        for name in ("features", "aligned_features", "square_of", "members", "inside"):
            assert torch.equal(getattr(one, name), getattr(level, name))
    text = "Where is it?"
    answers = [video.ask(text, max_new_tokens=3) for video in (first, found)]
    assert answers[0].answer == answers[1].answer and answers[0].tiles == answers[1].tiles


def test_maps_are_spread_over_the_whole_frame_at_every_zoom(session):
    frames, question = frames_of(5, (56, 100)), "Where is it?"
    padded = session.open(frames, num_frames=4).attention(question)
    video = session.open(frames, num_frames=4, tiles=FrameTiles(overview=True))
    for number, level in enumerate(video.tiled.levels):
        alone = DetailedVideo(session, replace(video.tiled, levels=[level]))
        maps = alone.attention(question)
        if level.zoom == OVERVIEW:
            expected = over_whole_frames(padded, 56, 100)
            np.testing.assert_allclose(maps.local_map, expected.local_map, rtol=1e-5)
        else:
            [(_, seen)] = alone._choose_all([question])
            own = attention_maps(session.model, session.processor, seen, question)
            assert np.array_equal(maps.global_map, own.global_map)
        assert maps.local_map.shape == maps.global_map.shape == (4, *session.model.config.grid), number


def test_margins_are_taken_off_maps_and_frames(session):
    values = np.arange(16.0).reshape(1, 4, 4)
    wide = over_whole_frames(AttentionMaps("", values, None), 50, 100)
    assert wide.local_map.tolist() == [values[0, [1, 1, 2, 2]].tolist()] and wide.global_map is None
    tall = over_whole_frames(AttentionMaps("", None, values), 100, 50)
    assert tall.global_map.tolist() == [values[0][:, [1, 1, 2, 2]].tolist()]
    frames = np.full((2, 60, 100, 3), 250, np.uint8)
    read = read_frames(session.processor, frames, num_frames=2)
    shown = whole_frames(session.processor, shown_frames(session.processor, read), read.sampling)
    side = session.processor.video_processor.size["height"]
    assert shown.shape == (2, round(side * 0.8) - round(side * 0.2), side, 3)
    assert np.median(shown) == 250 and (shown[:, 1:-1] > 240).all()


def test_squares_of_all_frames_are_bounded(session):
    frames = frames_of(9, (56, 100))
    assert read_tiles(session.processor, frames, FrameTiles(), max_squares=8, num_frames=4).pictures.shape[:2] == (
        4,
        2,
    )
    for most in (7, 3):
        with pytest.raises(VideoReadError, match=rf"^<array>: its frames make more than the {most} squares"):
            read_tiles(session.processor, frames, FrameTiles(), max_squares=most, num_frames=4)


@pytest.mark.parametrize(("times", "seen"), [(2, 8), (3, 9)])
def test_a_reader_may_begin_once_more_within_the_bound(session, times, seen):
    frames, cut_frames = frames_of(9, (56, 100)), []

    def read(cut):
        for _ in range(times):  # the last time is the one that counts
            pictures = []
            for frame in frames:
                cut_frames.append(frame)
                pictures.append(cut(frame))
        return np.stack(pictures), None

    within = (
        nullcontext() if times == 2 else pytest.raises(VideoReadError, match="it: its frames make more than the 8")
    )
    with within:
        cut_tiles(read, session.processor.video_processor, FrameTiles(), "it", max_squares=8)
    assert len(cut_frames) == seen  # of two squares each


def test_of_zooms_that_stand_out_alike_the_first_is_chosen(session):
    tiled = session.open(frames_of(2, (56, 100)), num_frames=2, tiles=FrameTiles()).tiled
    ids = session.processor.encode_instructions(["the circle"])
    for zooms in ((1, 2), (2, 1)):
        twice = replace(tiled, levels=[replace(tiled.levels[0], zoom=zoom) for zoom in zooms])
        record, _ = choose_by_scores(session.model, twice, session.model.frame_scorer(ids))
        assert record.zoom == zooms[0] and record.heights[0] == record.heights[1]


@pytest.mark.parametrize("size", [(56, 100), (100, 56)])
def test_the_box_of_an_overview_ends_with_the_frame(session, size):
    tiled = session.open(frames_of(2, size), num_frames=2, tiles=FrameTiles(overview=True)).tiled
    ids = session.processor.encode_instructions(["the circle"])
    alone = replace(tiled, levels=tiled.levels[:1])
    [tile] = choose_by_scores(session.model, alone, session.model.frame_scorer(ids))[0].tiles
    assert tile.box == (0.0, 0.0, 1.0, 1.0)


# hicom-tiny -------------------------------------------------------------------------------------------------------------


def right_answers(session, scenes, size, shrink=1, tiles=None):
    """Right answers and questions over scenes, by whether their objects' places were asked."""
    right, asked = {True: 0, False: 0}, {True: 0, False: 0}
    for seed in scenes:
        scene = Scene.from_seed(seed, clutter="mixed", split="test")
        small = replace(scene, objects=tuple(replace(one, scale=one.scale / shrink) for one in scene.objects))
        video = session.open(render(small, 16, size)[0][1::2], num_frames="all", tiles=tiles)
        for question in questions(scene):
            answer = video.ask(question.text, max_new_tokens=12).answer
            right[question.kind == "where"] += answer.strip().lower() == question.answer.lower()
            asked[question.kind == "where"] += 1
    return right, asked


def test_the_square_with_the_object_is_reported_and_its_place_known():
    session = HiComSession.load(dtype="float32", device="cpu")
    scene = Scene.from_seed(1_000_000_000, clutter="sparse", split="test")
    video = session.open(render(scene, 16, (144, 256))[0][1::2], num_frames="all", tiles=FrameTiles())
    asked = [question for question in questions(scene) if question.kind == "where"]
    assert asked
    for question in asked:
        answer = video.ask(question.text, max_new_tokens=12)
        top, left, bottom, right = answer.tiles.tiles[0].box
        x, y = question.referents[0].position(question.referents[0].start)
        assert answer.answer == question.answer
        assert top <= y <= bottom and left <= x <= right


def test_small_objects_mostly_choose_the_high_zoom_and_large_ones_the_low():
    session = HiComSession.load(dtype="float32", device="cpu")
    chosen = {1: [], 2: []}
    scene = Scene.from_seed(1_000_000_001, clutter="sparse", split="test")
    for zoom in chosen:
        shown = replace(scene, objects=tuple(replace(one, scale=one.scale / zoom) for one in scene.objects))
        video = session.open(render(shown, 8, 288)[0], num_frames="all", tiles=FrameTiles((1, 2)))
        asked = [one.text for one in questions(scene) if one.kind in ("colour", "shape", "texture", "where")]
        chosen[zoom] += [video.choose(text).zoom for text in asked]
    assert chosen[1].count(1) >= 0.75 * len(chosen[1])
    assert chosen[2].count(2) >= 0.9 * len(chosen[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "shrink", "tiles"),
    [((144, 256), 1, FrameTiles()), ((256, 144), 1, FrameTiles()), (288, 2, FrameTiles((2,)))],
)
def test_hicom_tiny_reads_wide_and_large_pictures(size, shrink, tiles):
    session = HiComSession.load(dtype="float32", device="cpu")
    scenes = range(1_000_000_100, 1_000_000_110)
    right, asked = right_answers(session, scenes, size, shrink, tiles)
    assert right[True] >= 0.95 * asked[True]
    assert sum(right.values()) >= 0.95 * sum(asked.values())
    padded, _ = right_answers(session, scenes, size, shrink)
    assert sum(padded.values()) <= sum(right.values()) - 0.1 * sum(asked.values())
