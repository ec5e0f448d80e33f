"""Which frames a request chooses."""

import json
from dataclasses import replace

import pytest
from shared_data import GOLDEN_DIR, needs_golden

from hicom_hf.processors.frame_sampling_hicom import FrameSampling, num_requested, select_frames, uniform_indices

TEN_SECONDS = [index / 10 for index in range(100)]  # 10 frames per second
# Four frames in the first 0.4 s, then one per second.
VARIABLE_RATE = [0.0, 0.1, 0.2, 0.3, 1.3, 2.3, 3.3, 4.3]


@needs_golden
def test_uniform_indices_equal_the_official_table():
    rows = json.loads((GOLDEN_DIR / "tables" / "frame_sampling.json").read_text())["uniform"]
    assert len(rows) > 100
    for row in rows:
        assert uniform_indices(row["duration"], row["num_frames"]) == row["indices"], row


def test_uniform_indices_are_the_rounded_middles_of_equal_parts():
    assert uniform_indices(100, 4) == [12, 37, 62, 87]
    assert uniform_indices(1, 3) == [0, 0, 0]
    assert uniform_indices(3, 3) == [0, 1, 2]
    assert uniform_indices(2, 4) == [0, 0, 1, 1]


def test_what_was_asked_for_is_counted_without_listing_it():
    assert num_requested(TEN_SECONDS, FrameSampling(num_frames=10**15)) == 10**15
    assert num_requested(TEN_SECONDS, FrameSampling(num_frames=10**15, max_frames=7)) == 7
    assert num_requested(TEN_SECONDS, FrameSampling(fps=20, max_frames=150)) == 150
    assert num_requested(TEN_SECONDS, FrameSampling(fps=20)) == 200
    assert num_requested(TEN_SECONDS, FrameSampling(num_frames="all")) is None


def test_uniform_indices_stay_exact_where_floats_would_round():
    num_frames = 2**53 + 1
    assert uniform_indices(num_frames, 1) == [2**52]


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0)])
def test_uniform_indices_need_at_least_one_frame_on_each_side(arguments):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        uniform_indices(*arguments)


def test_a_request_without_numbers_means_32_frames():
    assert FrameSampling().num_frames == 32
    assert FrameSampling(num_frames=None).num_frames == 32
    assert FrameSampling(fps=1).num_frames is None
    assert len(select_frames(TEN_SECONDS, FrameSampling())) == 32


def test_a_shorter_video_gives_each_frame_once_or_repeats_them_as_the_release_does():
    times = [0.0, 0.1, 0.2]
    assert select_frames(times, FrameSampling(num_frames=5)) == [0, 1, 2]
    assert select_frames(times, FrameSampling(num_frames=5, short_video="repeat")) == [0, 1, 1, 1, 2]
    assert select_frames(times, FrameSampling(num_frames=5, short_video="repeat")) == uniform_indices(3, 5)


def test_every_frame_is_chosen_on_request_and_thinned_evenly_by_max_frames():
    times = TEN_SECONDS[:8]
    assert select_frames(times, FrameSampling(num_frames="all")) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert select_frames(times, FrameSampling(num_frames="all", max_frames=4)) == [1, 3, 4, 6]


def test_min_frames_bounds_fps_from_below_as_far_as_there_are_frames():
    assert select_frames(TEN_SECONDS, FrameSampling(fps=1, min_frames=4)) == select_frames(
        TEN_SECONDS, FrameSampling(fps=1)
    )
    wanted = FrameSampling(fps=1, min_frames=20)
    assert select_frames(TEN_SECONDS, wanted) == select_frames(TEN_SECONDS, FrameSampling(num_frames=20))
    assert num_requested(TEN_SECONDS, wanted) == 20
    more = FrameSampling(fps=1, min_frames=1000)
    assert select_frames(TEN_SECONDS, more) == list(range(100)) and num_requested(TEN_SECONDS, more) == 100
    assert select_frames(VARIABLE_RATE, FrameSampling(fps=1, min_frames=3, start=0.0, end=0.4)) == [1, 2, 3]
    assert len(select_frames(TEN_SECONDS, FrameSampling(fps=1, min_frames=20, max_frames=16))) == 16


def test_min_frames_never_takes_frames_away_that_fps_repeats():
    often = FrameSampling(fps=20, short_video="repeat")  # 200 frames of 100 different ones
    assert select_frames(TEN_SECONDS, replace(often, min_frames=150)) == select_frames(TEN_SECONDS, often)
    more = select_frames(TEN_SECONDS, replace(often, min_frames=250))
    assert more == uniform_indices(100, 250)


def test_max_frames_bounds_num_frames():
    assert select_frames(TEN_SECONDS, FrameSampling(num_frames=8, max_frames=4)) == [12, 37, 62, 87]
    assert select_frames(TEN_SECONDS, FrameSampling(num_frames=4, max_frames=8)) == [12, 37, 62, 87]


def test_fps_takes_the_frame_in_the_middle_of_each_interval():
    assert select_frames(TEN_SECONDS, FrameSampling(fps=1)) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert select_frames(TEN_SECONDS, FrameSampling(fps=0.25)) == [20, 60]
    assert select_frames(TEN_SECONDS, FrameSampling(fps=1, max_frames=2)) == [25, 75]


def test_fps_goes_by_real_times_where_the_rate_varies():
    # Middles at 0.5, 1.5, 2.5, 3.5, 4.5 s show the frames that began at 0.3, 1.3, 2.3, 3.3 and 4.3 s.
    assert select_frames(VARIABLE_RATE, FrameSampling(fps=1)) == [3, 4, 5, 6, 7]


def test_the_same_rate_as_the_video_gives_every_frame_also_with_times_rounded_to_milliseconds():
    thirds = [round(index / 30, 3) for index in range(90)]
    assert select_frames(thirds, FrameSampling(fps=30)) == list(range(90))
    assert select_frames(thirds, FrameSampling(fps=15)) == list(range(1, 90, 2))


def test_a_clock_that_rounds_to_milliseconds_does_not_add_an_interval():
    times = [index / 10 for index in range(25)]
    times[-1] = 2.4004  # the video then ends at 2.5004 s
    assert len(select_frames(times, FrameSampling(fps=1))) == 2


def test_a_higher_rate_than_the_video_repeats_frames_only_on_request():
    times = [0.0, 1.0]
    assert select_frames(times, FrameSampling(fps=2)) == [0, 1]
    assert select_frames(times, FrameSampling(fps=2, short_video="repeat")) == [0, 0, 1, 1]


def test_a_video_shorter_than_half_an_interval_gives_its_middle_frame():
    assert select_frames([0.0, 0.1, 0.2], FrameSampling(fps=0.5)) == [1]
    assert select_frames([0.0], FrameSampling(fps=1)) == [0]


def test_a_range_takes_the_frames_that_begin_in_it():
    assert select_frames(TEN_SECONDS, FrameSampling(num_frames="all", start=2.0, end=2.5)) == [20, 21, 22, 23, 24]
    assert select_frames(TEN_SECONDS, FrameSampling(num_frames=2, start=9.0)) == [92, 97]
    assert select_frames(TEN_SECONDS, FrameSampling(fps=1, start=2.0, end=5.0)) == [25, 35, 45]
    assert select_frames(TEN_SECONDS, FrameSampling(num_frames="all", start=9.8, end=99)) == [98, 99]


def test_a_range_between_two_frames_takes_the_one_on_screen():
    assert select_frames(VARIABLE_RATE, FrameSampling(start=1.5, end=2.0)) == [4]
    assert select_frames(TEN_SECONDS, FrameSampling(start=9.95)) == [99]


def test_a_start_after_the_end_of_the_video_is_refused():
    with pytest.raises(ValueError, match=r"start=10 s lies after the end of the video, which lasts 10.000 s"):
        select_frames(TEN_SECONDS, FrameSampling(start=10))


def test_senseless_times_do_not_ask_for_millions_of_frames():
    with pytest.raises(ValueError, match=r"fps=2 over 600\d* s asks for more than 1000000 frames"):
        select_frames([0.0, 3_000_000.0], FrameSampling(fps=2))
    with pytest.raises(ValueError, match=r"fps=1e\+308 over"):
        select_frames(TEN_SECONDS, FrameSampling(fps=1e308))


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="there are no frames to choose from"):
        select_frames([], FrameSampling())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_frames": 0}, ValueError, "num_frames must be at least 1, got 0"),
        ({"num_frames": -3}, ValueError, "num_frames must be at least 1, got -3"),
        ({"num_frames": 2.5}, TypeError, "num_frames must be a whole number, got 2.5"),
        ({"num_frames": True}, TypeError, "num_frames must be a whole number, got True"),
        ({"num_frames": "every"}, TypeError, "num_frames must be a whole number, got 'every'"),
        ({"max_frames": 0}, ValueError, "max_frames must be at least 1, got 0"),
        ({"fps": 1, "min_frames": 0}, ValueError, "min_frames must be at least 1, got 0"),
        ({"num_frames": 8, "min_frames": 16}, ValueError, "min_frames=16 is for fps; num_frames is a fixed number"),
        ({"indices": (0,), "min_frames": 16}, ValueError, "indices and min_frames both say which frames are taken"),
        ({"fps": 0}, ValueError, "fps must be above 0 frames per second, got 0"),
        ({"fps": float("nan")}, ValueError, "fps must be a finite number, got nan"),
        ({"fps": "1"}, TypeError, "fps must be a number, got '1'"),
        ({"start": -1}, ValueError, "start must be at least 0 seconds, got -1"),
        ({"end": float("inf")}, ValueError, "end must be a finite number, got inf"),
        ({"start": 3, "end": 3}, ValueError, "zero-length range: end=3 must be after start=3"),
        ({"start": 3, "end": 2}, ValueError, "zero-length range: end=2 must be after start=3"),
        ({"end": 0}, ValueError, "zero-length range: end=0 must be after start=0"),
        ({"num_frames": 8, "fps": 1}, ValueError, "num_frames=8 and fps=1 both say how many frames to take"),
        ({"short_video": "loop"}, ValueError, 'short_video must be "once" or "repeat", got \'loop\''),
    ],
)
def test_a_senseless_request_is_refused_at_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        FrameSampling(**arguments)


# Frames by their numbers --------------------------------------------------------------------------------------------------


def test_frames_are_taken_by_their_numbers():
    sampling = FrameSampling(indices=[0, 3, 4])
    times = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert select_frames(times, sampling) == [0, 3, 4]
    assert num_requested(times, sampling) == 3
    assert not sampling.needs_clock
    assert sampling.as_keywords() == {"indices": (0, 3, 4), "short_video": "once"}
    with pytest.raises(ValueError, match="indices ask for frame 4, but the video has 4 frames, numbered from 0"):
        select_frames(times[:4], sampling)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"indices": []}, ValueError, "at least one frame"),
        ({"indices": [0.5]}, TypeError, "indices must be whole numbers, got 0.5"),
        ({"indices": [True]}, TypeError, "indices must be whole numbers, got True"),
        ({"indices": [-1, 2]}, ValueError, "at least 0 and ascend"),
        ({"indices": [2, 2]}, ValueError, "at least 0 and ascend, each once"),
        ({"indices": [1], "fps": 1.0, "end": 2.0}, ValueError, "indices and fps, end both say"),
        ({"indices": [1], "short_video": "repeat"}, ValueError, "indices and short_video both say"),
    ],
)
def test_numbers_of_frames_that_make_no_sense_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        FrameSampling(**values)
