"""The index of a video: from the tables of its header in place of its packets; decoding beside conversion."""

import io
import struct
import threading

import av
import numpy as np
import pytest
from video_files import write_truncated_video, write_video

from hicom_hf.processors import video_decoding_hicom, video_index_hicom
from hicom_hf.processors.decoding_ahead_hicom import ahead
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.media_bounds_hicom import MediaBounds
from hicom_hf.processors.picture_settings_hicom import DEFAULT_SETTINGS
from hicom_hf.processors.pyav_hicom import open_container
from hicom_hf.processors.source_names_hicom import VideoReadError
from hicom_hf.processors.video_index_hicom import index_blocks, index_packets, index_tables, index_video
from hicom_hf.processors.video_reading_hicom import read_video

UNEVEN = [0.0, 0.1, 0.2, 0.35, 0.36, 0.9, 1.0, 1.1, 1.9, 2.0, 2.5, 2.6, 2.61, 3.0, 4.0, 4.1]


def indices(content, bounds=None, ways=(index_tables, index_packets)):
    """The index from the tables (or None) and that from the packets, or by other ways."""
    found = []
    for way in ways:
        file = io.BytesIO(content)
        with open_container(file, {}) as container:
            rest = (container, container.streams.video[0], "video", bounds or MediaBounds())
            found.append(way(*rest) if way is index_packets else way(file, *rest))
    return found


BY_BLOCKS = (index_blocks, index_packets)


def noise(num_frames, width=64, height=48):
    return np.random.default_rng(0).integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mp4", "mpeg4"), ("a.mov", "mjpeg")]
)
def test_the_tables_of_a_header_say_what_the_packets_say(tmp_path, name, codec):
    path = write_video(tmp_path / name, times=UNEVEN, frames=noise(len(UNEVEN)), codec=codec)
    from_tables, from_packets = indices(path.read_bytes())
    assert from_tables is not None and from_tables == from_packets


REORDERED = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=10:log-level=none"}
FRAGMENTED = ("frag_keyframe+empty_moov", "frag_keyframe", "empty_moov+frag_every_frame", "cmaf")


def encoded(path, num_frames=24, codec="libx264", codec_options=None, has_sound=False, width=64, **options):
    """A video of noise, by default with frames that are stored in another order; the bytes of the file."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options or REORDERED)
        stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        sound = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000) if has_sound else None
        for number, pixels in enumerate(noise(num_frames, width)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((2, 1920), np.float32), format="fltp", layout="stereo")
                silence.rate, silence.pts = 48000, number * 1920
                container.mux(sound.encode(silence))
        for one in [stream, *([sound] if sound else [])]:
            container.mux(one.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_the_tables_tell_the_times_of_frames_that_are_stored_in_another_order(tmp_path, suffix):
    from_tables, from_packets = indices(encoded(tmp_path / f"a.{suffix}"))
    assert from_tables is not None and from_tables == from_packets
    assert list(from_tables.places) != sorted(from_tables.places)


@pytest.mark.parametrize("has_sound", [False, True])
@pytest.mark.parametrize("flags", FRAGMENTED)
def test_the_tables_of_fragments_say_what_the_packets_say(tmp_path, flags, has_sound):
    content = encoded(tmp_path / "a.mp4", has_sound=has_sound, movflags=flags)
    from_tables, from_packets = indices(content)
    assert from_tables is not None and from_tables == from_packets and len(from_tables.pts) == 24
    assert list(from_tables.places) != sorted(from_tables.places)


def test_fragments_that_are_cut_or_indexed_elsewhere_are_walked_through(tmp_path):
    content = encoded(tmp_path / "a.mp4", movflags="frag_keyframe+empty_moov")
    for part in (content[: len(content) * 2 // 3], content[: content.rindex(b"mfra")], content[:-1]):
        from_tables, from_packets = indices(part)
        assert from_tables in (None, from_packets)
    assert indices(content[: len(content) * 2 // 3])[0] is None
    # FFmpeg reads the fragments of such a file one by one, as they are needed.
    assert indices(encoded(tmp_path / "b.mp4", 60, movflags="dash+global_sidx"))[0] is None


@pytest.mark.parametrize("field", [b"tfhd", b"trun", b"tfdt", b"trex", b"traf", b"moof"])
def test_a_fragment_that_lies_is_found_out_or_believed_by_the_packets_too(tmp_path, field):
    content = encoded(tmp_path / "a.mp4", movflags="frag_keyframe+empty_moov")
    for number in (*range(-4, 24, 3), 26):
        damaged = bytearray(content)
        damaged[content.index(field) + number] ^= 4
        try:
            from_tables, from_packets = indices(bytes(damaged))
        except av.FFmpegError:  # of opening
            continue
        if from_tables is not None:
            for name in ("pts", "packets", "places", "last_duration", "break_reason"):
                assert getattr(from_tables, name) == getattr(from_packets, name)


def test_no_packet_is_walked_through_where_the_tables_tell(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr("hicom_hf.processors.video_index_hicom.index_packets", None)
    assert read_video(path, FrameSampling(num_frames="all"))[1].num_source_frames == 12


@pytest.mark.parametrize("has_sound", [False, True])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", REORDERED),
        ("a.webm", "libvpx-vp9", {"g": "10", "deadline": "realtime"}),
        ("a.webm", "libvpx", {"g": "10", "deadline": "realtime"}),
    ],
)
def test_the_blocks_of_matroska_say_what_the_packets_say(tmp_path, name, codec, options, has_sound):
    content = encoded(tmp_path / name, 24, codec, options, has_sound, cluster_time_limit="300")
    from_blocks, from_packets = indices(content, ways=BY_BLOCKS)
    assert from_blocks is not None and from_blocks == from_packets
    assert len(from_blocks.pts) == 24 and len(from_blocks.keyframes) >= 2 and from_blocks.last_duration == 40


def test_a_real_file_of_matroska_is_indexed_by_its_blocks(tmp_path):
    times = [0.0, 0.1, 0.2, 0.35, 0.36, 0.9, 1.0, 1.1]  # frames that last unequally
    from_blocks, from_packets = indices(write_video(tmp_path / "a.mkv", times=times).read_bytes(), ways=BY_BLOCKS)
    assert from_blocks is not None and from_blocks == from_packets


def test_matroska_that_is_cut_live_or_without_known_tracks_is_walked_through(tmp_path):
    content = encoded(tmp_path / "a.mkv")
    first_block = content.index(b"\xe7\x81\x00\xa3") + 3  # behind the time of the first cluster
    other_track = bytearray(content)
    other_track[first_block + 3] = 0x82
    laced = bytearray(content)
    laced[first_block + 6] |= 2
    for unusual in (
        content[: len(content) * 2 // 3],
        content[:-1],
        content + content,
        bytes(other_track),
        bytes(laced),
    ):
        assert indices(unusual, ways=BY_BLOCKS)[0] is None
    assert indices(encoded(tmp_path / "b.mkv", live="1"), ways=BY_BLOCKS)[0] is None
    assert indices(content, MediaBounds(max_packets=24), BY_BLOCKS)[0] is not None
    with pytest.raises(VideoReadError, match="max_packets"):
        indices(content, MediaBounds(max_packets=23), (index_video,))


@pytest.mark.parametrize("has_sound", [False, True])
def test_blocks_that_lie_are_found_out_or_believed_by_the_packets_too(tmp_path, has_sound):
    content, num_used = encoded(tmp_path / "a.mkv", has_sound=has_sound, cluster_time_limit="300"), 0
    rng = np.random.default_rng(0)
    heads = [
        place for place in range(len(content) - 8) if content[place] == 0xA3 and content[place + 3] in (0x81, 0x82)
    ]
    for place in (*rng.choice(heads, 60), *rng.integers(300, len(content), 40)):
        damaged = bytearray(content)
        damaged[place + rng.integers(0, 8) if place + 8 < len(content) else place] ^= 1 << rng.integers(8)
        try:
            from_blocks, from_packets = indices(bytes(damaged), ways=BY_BLOCKS)
        except av.FFmpegError:  # of opening
            continue
        if from_blocks is not None:
            num_used += 1
            for name in ("pts", "packets", "places", "last_duration", "break_reason"):
                assert getattr(from_blocks, name) == getattr(from_packets, name)
    assert num_used > 20


@pytest.mark.parametrize(("name", "check"), [("a.mp4", "_confirmed"), ("a.mkv", "_last_packets")])
def test_packets_are_walked_from_the_first_one_where_the_header_was_not_believed(tmp_path, monkeypatch, name, check):
    content, compare = encoded(tmp_path / name), getattr(video_index_hicom, check)
    expected = indices(content, ways=(index_packets,))
    monkeypatch.setattr(video_index_hicom, check, lambda *arguments: compare(*arguments) is None or None)
    assert indices(content, ways=(index_video,)) == expected and len(expected[0].pts) == 24


def test_a_part_of_a_long_matroska_file_is_read_without_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("hicom_hf.processors.pyav_hicom.IO_BUFFER_SIZE", 2**13)
    content = encoded(
        tmp_path / "a.mkv", 400, codec_options={"x264-params": "keyint=10:qp=0:log-level=none"}, width=256
    )
    file = CountedFile(content)
    frames, record = read_video(file, FrameSampling(num_frames=4, start=1.0, end=1.4))
    assert len(frames) == 4 and record.num_source_frames == 400
    assert file.num_read < len(content) / 4


def test_containers_without_tables_are_walked_through(tmp_path):
    from_tables, from_packets = indices(write_video(tmp_path / "a.flv").read_bytes())
    assert from_tables is None and len(from_packets.pts) == 12


def test_a_cut_file_is_walked_through(tmp_path):
    from_tables, from_packets = indices(write_truncated_video(tmp_path / "a.mp4").read_bytes())
    assert from_tables is None and from_packets.break_reason


@pytest.mark.parametrize(("table", "place"), [(b"ctts", 12), (b"stts", 8), (b"stss", 8), (b"tkhd", 12)])
@pytest.mark.parametrize("number", [0, 1, 3, 2**31 - 1])
def test_a_table_that_lies_is_found_out_or_believed_by_the_packets_too(tmp_path, table, place, number):
    content = bytearray(write_video(tmp_path / "a.mp4", times=UNEVEN).read_bytes())
    start = content.index(table) + 4 + place
    content[start : start + 4] = struct.pack(">I", number)
    from_tables, from_packets = indices(bytes(content))
    assert from_tables in (None, from_packets)


def test_the_number_of_packets_is_bounded(tmp_path):
    content = write_video(tmp_path / "a.mp4").read_bytes()
    with pytest.raises(VideoReadError, match="max_packets"):
        indices(content, MediaBounds(max_packets=11))


class CountedFile(io.BytesIO):
    """A file in memory that notes how many of its bytes were read."""

    num_read = 0

    def read(self, size=-1):
        content = super().read(size)
        self.num_read += len(content)
        return content


@pytest.mark.parametrize("flags", ["faststart", "empty_moov"])
@pytest.mark.parametrize("sampling", [{"start": 1.0, "end": 2.0, "num_frames": 4}, {"num_frames": 2}])
def test_a_part_of_a_long_file_is_read_without_the_rest(tmp_path, monkeypatch, sampling, flags):
    # As small beside this file as 2**18 bytes are beside a film.
    monkeypatch.setattr("hicom_hf.processors.pyav_hicom.IO_BUFFER_SIZE", 2**13)
    options = {"movflags": flags} | ({} if flags == "faststart" else {"frag_duration": "20000000"})
    path = write_video(tmp_path / "a.mov", 250, frames=noise(250), codec="mjpeg", options=options)
    file = CountedFile(path.read_bytes())
    frames, _ = read_video(file, FrameSampling(**sampling))
    assert len(frames) == sampling["num_frames"]
    assert file.num_read < len(file.getvalue()) / 4


def test_frames_are_decoded_in_one_thread_and_transformed_in_the_callers(tmp_path, monkeypatch):
    threads = {"decode": set(), "transform": set()}
    frames_from = video_decoding_hicom.StreamReader._frames_from

    def noted(self, targets):
        threads["decode"].add(threading.current_thread())
        yield from frames_from(self, targets)

    def transform(frame):
        threads["transform"].add(threading.current_thread())
        return frame

    monkeypatch.setattr(video_decoding_hicom.StreamReader, "_frames_from", noted)
    read_video(write_video(tmp_path / "a.mp4"), FrameSampling(num_frames=4), transform=transform)
    assert threads["transform"] == {threading.current_thread()}
    assert len(threads["decode"]) == 1 and not threads["decode"] & threads["transform"]
    assert not any(thread.is_alive() for thread in threads["decode"])


def test_a_transform_that_fails_leaves_no_thread(tmp_path):
    path, num_threads = write_video(tmp_path / "a.mp4"), threading.active_count()
    with pytest.raises(ZeroDivisionError):
        read_video(path, FrameSampling(num_frames=4), transform=lambda frame: 1 // 0)
    assert threading.active_count() == num_threads


def test_items_come_in_order_and_not_more_than_asked_for_are_made_ahead():
    made, taken = [], []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for number in ahead(items(), 2):
        taken.append(number)
        assert len(made) <= number + 4
    assert taken == list(range(20))


def test_an_error_of_the_thread_is_raised_where_the_items_are_taken():
    def items():
        yield 1
        raise VideoReadError("broken")

    results = ahead(items(), 1)
    assert next(results) == 1
    with pytest.raises(VideoReadError, match="broken"):
        next(results)


def test_closing_ends_the_thread_and_the_generator():
    is_closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            is_closed.set()

    num_threads, results = threading.active_count(), ahead(items(), 1)
    next(results)
    results.close()
    assert is_closed.is_set() and threading.active_count() == num_threads


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("request_", [{"num_frames": "all"}, {"num_frames": 4, "start": 0.7}], ids=str)
def test_a_file_with_tables_is_opened_once(tmp_path, monkeypatch, request_, flags):
    path, opened = tmp_path / "a.mp4", []
    encoded(path, 40, codec_options={"x264-params": "keyint=5"}, movflags=flags)

    def noted(*arguments):
        opened.append(open_container(*arguments))
        return opened[-1]

    expected = read_video(path.read_bytes(), FrameSampling(**request_))[0]
    monkeypatch.setattr(video_decoding_hicom, "open_container", noted)
    frames, _ = read_video(path, FrameSampling(**request_))
    assert len(opened) == 1 and np.array_equal(frames, expected)


def test_a_file_that_is_not_read_after_all_is_closed(tmp_path, monkeypatch):
    path, closed = write_video(tmp_path / "a.mp4"), []
    close = video_decoding_hicom.StreamReader.close
    monkeypatch.setattr(video_decoding_hicom.StreamReader, "close", lambda self: closed.append(close(self)))
    with pytest.raises(VideoReadError, match="after the end"):
        read_video(path, FrameSampling(start=100.0))
    assert closed == [None]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_frame_of_an_index_takes_32_bytes(tmp_path, name):
    path = write_video(tmp_path / name, 40, frames=noise(40))
    with path.open("rb") as file:
        reader = video_decoding_hicom.StreamReader(file, "video", MediaBounds(), DEFAULT_SETTINGS)
        reader.close()
    index = reader._index
    arrays = {id(numbers): numbers for numbers in (index.pts, index.packets, index.places, reader.times)}.values()
    assert sum(numbers.itemsize * len(numbers) for numbers in arrays) <= 32 * 40


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video"), ("a.mkv", "libx264"), ("a.flv", "libx264")]
)
def test_a_seek_lands_at_the_keyframe_before_the_frame(tmp_path, monkeypatch, name, codec):
    path, options = tmp_path / name, {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=20:log-level=none"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=25, options=options if codec == "libx264" else {"g": "20", "bf": "2"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in noise(150):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    every, _ = read_video(path, FrameSampling(num_frames="all"))
    decode, num_decoded = video_decoding_hicom.StreamDecoder.decode, []
    monkeypatch.setattr(
        video_decoding_hicom.StreamDecoder,
        "decode",
        lambda self, packet: num_decoded.append(1) or decode(self, packet),
    )
    frames, record = read_video(path, FrameSampling(num_frames=1, start=5.0))
    assert len(num_decoded) < 60 and not record.warnings
    assert np.array_equal(frames, every[record.indices])
