"""Damage that FFmpeg only writes into its log is a warning; sound files have none."""

import io
import warnings

import av
import numpy as np
import pytest
from video_files import numbered_frames, write_video

from hicom_hf.processors.damage_hicom import ASF_DATA, ASF_PROPERTIES, container_damage, has_right_checksums
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.video_reading_hicom import read_video

FOUR = FrameSampling(num_frames=4)


def warnings_of(path, **options):
    return read_video(path, FOUR, **options)[1].warnings


def noise(num_frames):
    return np.random.default_rng(0).integers(0, 255, (num_frames, 48, 64, 3), dtype=np.uint8)


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


@pytest.mark.parametrize("element", ["42f2", "63c0", "67c8", "b7"])
def test_elements_deep_in_matroska_that_exceed_those_around_them_are_reported(tmp_path, element):
    # In the head, Targets and SimpleTag of a tag, and of the index; FFmpeg only logs that they do not fit.
    path = write_video(tmp_path / "video.webm", 24, codec="libvpx", options={"cluster_time_limit": "200"})
    content, name = bytearray(path.read_bytes()), bytes.fromhex(element)
    place = content.index(name, content.index(b"\x1c\x53\xbb\x6b") if element == "b7" else 0)
    content[place + len(name)] |= 0x78  # its size
    assert "damaged at byte" in container_damage(io.BytesIO(content), ["matroska", "webm"])
    assert container_damage(io.BytesIO(path.read_bytes()), ["matroska", "webm"]) is None


def test_tags_of_flv_whose_sizes_do_not_agree_are_reported(tmp_path):
    path = write_video(tmp_path / "video.flv", 24, codec="flv")
    assert warnings_of(path) == []
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    assert any(
        "damaged at byte" in one for one in warnings_of(with_zeros(path, place - 8, 16), on_decode_error="keep")
    )


def test_a_second_flv_file_behind_the_first_is_reported_as_ffmpeg_stops_there(tmp_path):
    path = write_video(tmp_path / "video.flv", 24, codec="flv")
    size = path.stat().st_size
    joined = tmp_path / "joined.flv"
    joined.write_bytes(path.read_bytes() * 2)
    [warning] = warnings_of(joined)
    assert f"damaged at byte {size}" in warning


@pytest.mark.parametrize("kind", ["flip", "remove", "noise"])
def test_packets_of_asf_without_their_mark_are_reported(tmp_path, kind):
    path = write_video(tmp_path / "video.asf", num_frames=48, frames=noise(48), codec="wmv2")
    assert warnings_of(path) == []
    content = path.read_bytes()
    size = int.from_bytes(content[content.index(ASF_PROPERTIES) + 92 :][:4], "little")
    second = content.index(ASF_DATA) + 50 + size
    changed = {
        "flip": content[:second] + b"\x02" + content[second + 1 :],
        "remove": content[: second - 100] + content[second - 90 :],
        "noise": content[:second] + bytes(range(100, 120)) + content[second + 20 :],
    }[kind]
    path.write_bytes(changed)
    assert any(f"damaged at byte {second};" in one for one in warnings_of(path, on_decode_error="keep"))


@pytest.mark.parametrize(("mark", "what"), [(b"Lavf", "Info"), (b"und", "Tracks")])
def test_a_changed_byte_in_the_header_of_matroska_is_reported(tmp_path, mark, what):
    path = write_video(tmp_path / "video.mkv", 24)
    content = bytearray(path.read_bytes())
    names = {"Info": b"\x15\x49\xa9\x66", "Tracks": b"\x16\x54\xae\x6b"}
    master = content.index(names[what], content.index(names[what]) + 1)  # the first one is its entry in the SeekHead
    place = content.index(mark, master)
    content[place] ^= 1  # a letter of the program, of the language
    path.write_bytes(content)
    assert f"the file is damaged at byte {master}; some frames may be missing or look wrong" in warnings_of(path)


def test_an_element_of_the_header_that_does_not_fit_is_reported(tmp_path):
    path = write_video(tmp_path / "video.mkv", 24)
    content = bytearray(path.read_bytes())
    tracks = content.index(b"\x16\x54\xae\x6b", content.index(b"\x16\x54\xae\x6b") + 1)
    entry = content.index(b"\xae", tracks + 4)
    content[entry + 1 : entry + 9] = b"\x01\0\0\0\0\x01\0\0"  # longer than what holds it
    with open(path, "wb") as file:
        file.write(content)
    with open(path, "rb") as file:
        assert container_damage(file, ["matroska"]) is not None


def test_a_file_that_is_cut_is_not_damaged_inside(tmp_path):
    for name, codec in (("video.mkv", "libx264"), ("video.flv", "flv"), ("video.asf", "wmv2")):
        content = write_video(tmp_path / name, 24, codec=codec).read_bytes()
        for size in range(0, len(content), 211):
            path = tmp_path / f"cut_{name}"
            path.write_bytes(content[:size])
            with open(path, "rb") as file:
                file.seek(3)
                assert container_damage(file, [{"mkv": "matroska"}.get(name[-3:], name[-3:])]) is None
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
    assert all(map(has_right_checksums, packets))
    assert warnings_of(path) == []
    changed = bytearray(packets[3])
    changed[len(changed) // 2] ^= 1
    assert has_right_checksums(bytes(changed)) is False
    path.write_bytes(path.read_bytes().replace(packets[3], changed))
    assert any("a checksum is wrong" in one for one in warnings_of(path))


def test_a_packet_of_ffv1_that_lost_its_checksum_is_reported(tmp_path):
    # Of a packet of one slice, FFmpeg does not look at the size; it logs that the checksum is wrong, and shows the picture.
    path = ffv1(tmp_path / "video.mkv", level="3", slicecrc="1", slices="1")
    packet = packets_of(path)[3]
    path.write_bytes(path.read_bytes().replace(packet, packet[:-8] + bytes(8)))
    found = warnings_of(path, on_decode_error="keep")
    assert any("a checksum is wrong" in one for one in found), found


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0"}])
def test_ffv1_without_checksums_has_none_that_are_wrong(tmp_path, options):
    path = ffv1(tmp_path / "video.mkv", **options)
    assert {has_right_checksums(packet) for packet in packets_of(path)} == {None}
    with warnings.catch_warnings():
        assert warnings_of(path) == []
