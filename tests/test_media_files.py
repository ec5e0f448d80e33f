"""Files as cameras, recorders and damage make them: each gives the right frames, a warning, or an error that names it."""

from pathlib import Path

import av
import numpy as np
import pytest

from hicom_hf.processors import pyav_hicom
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import VideoReadError, read_video

MEDIA = Path(__file__).parent / "media"
EIGHT = FrameSampling(num_frames=8)
ALL = FrameSampling(num_frames="all")


def test_a_pyav_without_metadata_errors_reads_as_well(monkeypatch):
    expected, _ = read_video(MEDIA / "wide_pixels.mp4", EIGHT)
    original = av.open

    def without(file, mode=None, format=None, options=None, container_options=None, buffer_size=32768):
        return original(file, mode, format=format, options=options, buffer_size=buffer_size)

    monkeypatch.setattr(pyav_hicom.av, "open", without)
    frames, _ = read_video(MEDIA / "wide_pixels.mp4", EIGHT)
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize("name", ["exif.avi", "exif.avif"])
def test_pictures_with_exif_are_read(name):
    frames, record = read_video(MEDIA / name, EIGHT)
    assert frames.shape[1:] == (120, 160, 3)
    assert frames.mean() == pytest.approx(92, abs=1)
    assert record.warnings == []


def test_the_display_matrix_is_found_beside_exif():
    with av.open(str(MEDIA / "exif.avi")) as container:
        matrix = pyav_hicom.display_matrix(next(container.decode(video=0)))
    assert matrix is None or matrix.tolist()[0] == [pyav_hicom.FIXED_POINT_ONE, 0, 0]


def test_tiles_are_joined_or_refused():
    frames, record = read_video(MEDIA / "tiles.avif", EIGHT)
    assert frames.shape == (1, 768, 1024, 3)
    assert record.warnings == []


@pytest.mark.parametrize("name", ["two_sizes.tif", "broken_fragment.mp4", "broken.gif"])
def test_what_cannot_be_read_is_an_error_that_names_the_file(name):
    with pytest.raises(VideoReadError, match=name):
        read_video(MEDIA / name, EIGHT)
