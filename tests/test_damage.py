"""Damage that FFmpeg only writes into its log is a warning; sound files have none."""

import warnings

import av
import numpy as np
import pytest
from video_files import numbered_frames, write_video

from hicom_hf.processors.damage_hicom import container_damage, has_wrong_checksum
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video

FOUR = FrameSampling(num_frames=4)


def warnings_of(path, **options):
    return read_video(path, FOUR, **options)[1].warnings


def with_zeros(path, begin, count):
    content = bytearray(path.read_bytes())
    content[begin : begin + count] = bytes(count)
    damaged = path.with_name(f"damaged_{path.name}")
    damaged.write_bytes(content)
    return damaged


@pytest.mark.parametrize(
    ("suffix", "options"), [("mkv", {}), ("webm", {"live": "1"}), ("webm", {"cluster_time_limit": "200"})]
)
def test_elements_of_matroska_that_do_not_fit_are_reported(tmp_path, suffix, options):
    codec = "libx264" if suffix == "mkv" else "libvpx"
    path = write_video(tmp_path / f"video.{suffix}", 24, codec=codec, options=options)
    assert warnings_of(path) == []
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    damaged = with_zeros(path, place - 60, 120)
    [warning] = [one for one in warnings_of(damaged, on_decode_error="keep") if "damaged at byte" in one]
    assert place - 300 < int(warning.partition("at byte ")[2].partition(";")[0]) < place + 60


def test_tags_of_flv_whose_sizes_do_not_agree_are_reported(tmp_path):
    path = write_video(tmp_path / "video.flv", 24, codec="flv")
    assert warnings_of(path) == []
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    assert any(
        "damaged at byte" in one for one in warnings_of(with_zeros(path, place - 8, 16), on_decode_error="keep")
    )


def test_a_file_that_is_cut_is_not_damaged_inside(tmp_path):
    for name, codec in (("video.mkv", "libx264"), ("video.flv", "flv")):
        content = write_video(tmp_path / name, 24, codec=codec).read_bytes()
        for size in range(0, len(content), 211):
            path = tmp_path / f"cut_{name}"
            path.write_bytes(content[:size])
            with open(path, "rb") as file:
                file.seek(3)
                assert container_damage(file, ["matroska"] if name.endswith("mkv") else ["flv"]) is None
                assert file.tell() == 3


def ffv1(path, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in numbered_frames(6, 64, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def packets_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("options", [{"level": "3", "slicecrc": "1"}, {"level": "3", "slicecrc": "1", "slices": "4"}])
def test_a_wrong_checksum_of_ffv1_is_reported(tmp_path, options):
    path = ffv1(tmp_path / "video.mkv", **options)
    packets = packets_of(path)
    assert not any(map(has_wrong_checksum, packets))
    assert warnings_of(path) == []
    changed = bytearray(packets[3])
    changed[len(changed) // 2] ^= 1
    assert has_wrong_checksum(bytes(changed))
    path.write_bytes(path.read_bytes().replace(packets[3], changed))
    assert any("a checksum is wrong" in one for one in warnings_of(path))


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0"}])
def test_ffv1_without_checksums_has_none_that_are_wrong(tmp_path, options):
    path = ffv1(tmp_path / "video.mkv", **options)
    assert not any(map(has_wrong_checksum, packets_of(path)))
    with warnings.catch_warnings():
        assert warnings_of(path) == []
