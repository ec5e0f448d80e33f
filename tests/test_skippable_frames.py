"""Frames that are neither asked for nor used for prediction are not decoded, and the others are the same."""

import av
import numpy as np
import pytest
from test_video_reading import decode_in_order

from hicom_hf.processors import pyav_hicom
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.skippable_frames_hicom import SkippableFrames
from hicom_hf.processors.video_reading_hicom import read_video

NUM_FRAMES, SIDE = 40, 64
TRAIL_N, PARAMETERS, SUPPLEMENT = 0, 33, 39  # types of HEVC's NAL units


def write_hevc(path, parameters):
    """Moving stripes, so that frames are predicted from each other."""
    ramp = np.arange(SIDE * 3 // 2)[:, None] + np.arange(SIDE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.options = {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:pools=none:frame-threads=1:{parameters}",
        }
        for number in range(NUM_FRAMES):
            planes = ((ramp * 4 + 9 * number) % 256).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
@pytest.mark.parametrize("parameters", ["bframes=3:b-adapt=0", "bframes=3:b-adapt=0:temporal-layers=2"])
def test_the_frames_asked_for_are_the_same_without_those_that_predict_none(tmp_path, monkeypatch, suffix, parameters):
    path, indices = write_hevc(tmp_path / f"film.{suffix}", parameters), (5, 18, 39)
    decode, given = pyav_hicom.StreamDecoder.decode, []
    monkeypatch.setattr(pyav_hicom.StreamDecoder, "decode", lambda *args: given.append(decode(*args)) or given[-1])
    frames, record = read_video(path, FrameSampling(indices=indices))
    assert np.array_equal(frames, decode_in_order(path)[list(indices)])
    assert record.warnings == []
    assert sum(map(len, given)) < 0.8 * NUM_FRAMES


def unit(kind, sub_layer, third=0, layer=0):
    """The first bytes of a NAL unit: type (6 bits after a zero), layer (6), sub-layer plus 1 (3), and one byte more."""
    return bytes([kind << 1 | layer >> 5, (layer & 31) << 3 | sub_layer + 1, third])


def parameters(num_sub_layers, layer=0):
    return unit(PARAMETERS, 0, num_sub_layers - 1 << 1, layer)


def stored(*units):
    return b"".join(len(one).to_bytes(4) + one for one in units)


def record_of(*units):
    arrays = b"".join(bytes([one[0] >> 1, 0, 1]) + len(one).to_bytes(2) + one for one in units)
    return bytes([1, *[0] * 20, 3, len(units)]) + arrays


def test_only_the_highest_sub_layer_of_hevc_is_skipped():
    frames = SkippableFrames("hevc", record_of(parameters(2), parameters(7, layer=1)))
    supplement = unit(SUPPLEMENT, 0)
    assert not frames.can_skip(av.Packet(stored(supplement, unit(TRAIL_N, 0))))
    assert frames.can_skip(av.Packet(stored(supplement, unit(TRAIL_N, 1))))
    assert not frames.can_skip(av.Packet(stored(parameters(3), unit(TRAIL_N, 1))))  # other parameters
    assert not frames.can_skip(av.Packet(stored(unit(TRAIL_N, 1))))  # which hold from then on
    assert not frames.can_skip(av.Packet(stored(supplement)))  # no picture


def test_parameters_and_pictures_are_found_between_start_codes():
    code = b"\0\0\0\1"
    frames = SkippableFrames("hevc", code + unit(32, 0) + bytes(20) + code + parameters(1))
    assert frames.can_skip(av.Packet(code + unit(SUPPLEMENT, 0) + code + unit(TRAIL_N, 0)))
    assert not frames.can_skip(av.Packet(code + parameters(2) + code + unit(TRAIL_N, 0)))


@pytest.mark.parametrize("extradata", [None, b"", b"\1", record_of(unit(32, 0)), bytes(40), b"\1" + b"\xff" * 40])
def test_nothing_is_skipped_where_hevc_states_no_sub_layers(extradata):
    frames = SkippableFrames("hevc", extradata)
    assert not frames.are_known
    assert not frames.can_skip(av.Packet(stored(unit(TRAIL_N, 0))))


def test_other_codecs_are_known_by_name():
    packet = av.Packet(b"\1\2\3")
    assert SkippableFrames("h264", None).can_skip(packet)
    assert not SkippableFrames("vp9", None).can_skip(packet)
