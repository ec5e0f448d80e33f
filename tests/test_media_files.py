"""Files as cameras, recorders and damage make them: each gives the right frames, a warning, or an error that names it."""

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from video_files import numbers_of, write_corrupted_video, write_video

from hicom_hf.processors import pyav_hicom, video_decoding_hicom
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.media_bounds_hicom import MediaBounds
from hicom_hf.processors.picture_settings_hicom import PictureSettings
from hicom_hf.processors.video_index_hicom import continuous_times
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.processors.video_reading_hicom import VideoReadError, read_video
from hicom_hf.processors.video_sources_hicom import load_image

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


def test_the_display_matrix_is_found_beside_exif(tmp_path):
    upright, turned = (b"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + number for number in (b"\x01", b"\x06"))
    content = (MEDIA / "exif.avi").read_bytes()
    assert content.count(upright) == 10  # the orientation in the EXIF of each picture
    (tmp_path / "turned.avi").write_bytes(content.replace(upright, turned))
    expected, record = read_video(MEDIA / "exif.avi", EIGHT)
    assert record.rotation == 0
    frames, record = read_video(tmp_path / "turned.avi", EIGHT)
    assert record.rotation == 90
    assert np.array_equal(frames, np.rot90(expected, -1, axes=(1, 2)))


def test_tiles_are_joined_or_refused():
    frames, record = read_video(MEDIA / "tiles.avif", EIGHT)
    assert frames.shape == (1, 768, 1024, 3)
    assert record.warnings == []


@pytest.mark.parametrize("name", ["two_sizes.tif", "broken_fragment.mp4", "broken.gif"])
def test_what_cannot_be_read_is_an_error_that_names_the_file(name):
    with pytest.raises(VideoReadError, match=name):
        read_video(MEDIA / name, EIGHT)


@pytest.mark.parametrize("name", ["joined.ts", "joined.mpg", "clock_jump.ts"])
def test_joined_parts_are_shown_one_behind_the_other(name):
    frames, record = read_video(MEDIA / name, ALL)
    assert record.times == pytest.approx([index / 25 for index in range(100)], abs=1e-3)
    red, blue = frames[:50].mean(axis=(0, 1, 2)), frames[50:].mean(axis=(0, 1, 2))
    assert red[0] > 200 > 50 > red[2]
    assert blue[2] > 200 > 50 > blue[0]
    assert record.duration == pytest.approx(4)
    assert record.warnings == ["the file's clock restarts or jumps; its parts are put one behind the other"]


def test_frames_that_all_share_one_time_are_all_there():
    _, record = read_video(MEDIA / "one_time.mov", ALL)
    assert record.num_source_frames == len(record.indices) == 100
    assert "the file states no frame times" in record.warnings[0]


def test_times_are_kept_where_most_of_them_are_regular():
    assert continuous_times([0, 1, 2, 4], 10) == [0, 1, 2, 4]
    assert continuous_times([*range(12), 3, 4], 10) == list(range(14))
    assert continuous_times([*range(12), 500, 502], 10) == [*range(13), 14]
    assert continuous_times([0, 2, 1, 3], 10) is None


def write_false_keyframes(path, every):
    """A moving MPEG-4 video whose container marks every n-th packet as a keyframe; only the first is one."""
    rows, columns = np.mgrid[:48, :64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "600", "sc_threshold": "1000000000"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        number = 0
        for index in range(121):
            pixels = ((rows * 3 + columns * 2 + 5 * index) % 256).astype(np.uint8)
            frame = None if index == 120 else av.VideoFrame.from_ndarray(pixels, format="gray")
            for packet in stream.encode(frame):
                packet.is_keyframe = number % every == 0
                number += 1
                container.mux(packet)
    return path


@pytest.mark.parametrize("every", [1, 20])
def test_false_keyframe_marks_are_noticed(tmp_path, every):
    path = write_false_keyframes(tmp_path / "false.mp4", every)
    expected, _ = read_video(path, ALL)
    frames, record = read_video(path, FrameSampling(num_frames=4))
    assert np.array_equal(frames, expected[record.indices])
    assert record.warnings == ["the file marks frames as keyframes that are not; it was decoded from its beginning"]


def test_a_seek_that_lands_behind_its_keyframe_is_repeated_for_an_earlier_one(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 120, keyframe_interval=20)
    expected, _ = read_video(path, ALL)
    original, calls = video_decoding_hicom.demux, []

    def late(container, *streams):
        calls.append(len(calls))
        packets = original(container, *streams)
        if len(calls) == 1:
            next(packets)
            return (packet for packet in packets if packet.is_keyframe)
        return packets

    monkeypatch.setattr(video_decoding_hicom, "demux", late)
    frames, record = read_video(path, FrameSampling(num_frames=1, start=5.0, end=5.1))
    assert np.array_equal(frames, expected[record.indices])
    assert len(calls) > 2
    assert record.warnings == []


def test_damage_that_the_decoder_conceals_is_reported():
    frames, record = read_video(MEDIA / "flipped_bit.mp4", EIGHT)
    assert len(frames) == 8
    assert record.warnings == [
        "the data are damaged (Invalid data found when processing input); some frames may look wrong"
    ]


@pytest.mark.parametrize(
    ("name", "bounds", "what"),
    [
        ("large.gif", MediaBounds(), "the picture is too large"),
        (
            "alpha.png",
            MediaBounds(max_pixels=100),
            "the number of pixels is 19200, more than MediaBounds.max_pixels=100",
        ),
        ("wide_pixels.mp4", MediaBounds(max_pixels=100), "max_pixels=100"),
        ("alpha.gif", MediaBounds(max_pictures=9), "the number of pictures is 10"),
        ("alpha.gif", MediaBounds(max_animation_pixels=10**5), "the number of pixels of all pictures is 192000"),
        ("many_packets.mov", MediaBounds(max_packets=999_999), "is 1000000, more than MediaBounds.max_packets=999999"),
        ("joined.ts", MediaBounds(max_packets=9), "the number of packets is 10, more"),
        ("alpha.gif", MediaBounds(max_result_bytes=9), "the number of bytes of all frames is"),
    ],
)
def test_what_costs_too_much_is_refused_by_the_name_of_the_bound(name, bounds, what):
    with pytest.raises(VideoReadError, match=f"{name}: .*{what}"):
        read_video(MEDIA / name, EIGHT, bounds=bounds)


def test_repeated_frames_are_bounded_before_memory_is_taken():
    many = FrameSampling(num_frames=1_000_000, short_video="repeat")
    with pytest.raises(VideoReadError, match=r"alpha.mov: the number of bytes of all frames is 57600000000"):
        read_video(MEDIA / "alpha.mov", many)


def test_a_bound_is_a_whole_number_above_0():
    with pytest.raises(ValueError, match="max_pixels must be a whole number above 0, got 0"):
        MediaBounds(max_pixels=0)


def test_hdr_is_reported():
    _, record = read_video(MEDIA / "pq.mp4", EIGHT)
    assert record.warnings == ["the video is HDR (PQ); it is shown without tone mapping"]


def test_pixels_become_square():
    frames, _ = read_video(MEDIA / "wide_pixels.mp4", EIGHT)
    assert frames.shape[1:3] == (576, 1024)
    frames, record = read_video(MEDIA / "wide_pixels.mp4", EIGHT, settings=PictureSettings(square_pixels=False))
    assert frames.shape[1:3] == (576, 720)
    assert not record.settings.square_pixels


@pytest.mark.parametrize("name", ["alpha.mov", "alpha.png", "alpha.gif", "alpha_vp9.webm"])
def test_what_is_transparent_is_white(name):
    frames, _ = read_video(MEDIA / name, EIGHT)
    assert frames[:, :4, :4].min() > 250
    frames, _ = read_video(MEDIA / name, EIGHT, settings=PictureSettings(alpha_on_white=False))
    assert frames[:, :4, :4].min() < 100


def test_a_seek_in_a_video_with_alpha_gives_the_same_frames():
    expected, _ = read_video(MEDIA / "alpha_vp9.webm", ALL)
    frames, record = read_video(MEDIA / "alpha_vp9.webm", FrameSampling(num_frames=2, start=1.0))
    assert np.array_equal(frames, expected[record.indices])


@pytest.mark.parametrize("open_it", [Path, Image.open])
def test_a_transparent_image_is_white_where_the_settings_say_so(open_it):
    assert load_image(open_it(MEDIA / "alpha.png"))[:4, :4].min() == 255
    hidden = load_image(open_it(MEDIA / "alpha.png"), settings=PictureSettings(alpha_on_white=False))
    assert hidden[:4, :4].min() < 100
    video, _ = read_video(MEDIA / "alpha.png", EIGHT)
    assert np.array_equal(load_image(open_it(MEDIA / "alpha.png")), video[0])


def test_images_of_a_processor_follow_its_own_settings():
    for alpha_on_white in (True, False):
        processor = HiComVideoProcessor(size={"height": 16, "width": 16}, alpha_on_white=alpha_on_white)
        image = processor.preprocess_images(MEDIA / "alpha.png")["pixel_values"][0]
        video = processor(MEDIA / "alpha.png")["pixel_values_videos"][0]
        assert torch.equal(image, video)


def test_bounds_are_an_argument_of_the_processor():
    processor, small = HiComVideoProcessor(size={"height": 16, "width": 16}), MediaBounds(max_pixels=100)
    for call in (processor, processor.preprocess_images):
        with pytest.raises(VideoReadError, match=r"alpha.png: the number of pixels is 19200, more than"):
            call(MEDIA / "alpha.png", media_bounds=small)
    with pytest.raises(VideoReadError, match=r"more than MediaBounds.max_pixels=100"):
        processor([[MEDIA / "alpha.png", MEDIA / "alpha.png"]], media_bounds=small)


def test_repeated_pictures_of_theora_are_shown():
    frames, record = read_video(MEDIA / "still.ogv", ALL)
    assert (len(frames), record.num_source_frames, record.warnings) == (49, 49, [])
    assert record.times == pytest.approx([index / 25 for index in range(49)])
    assert np.ptp(frames, axis=0).max() <= 2
    later, record = read_video(MEDIA / "still.ogv", FrameSampling(num_frames=3, start=1.2))
    assert np.array_equal(later, frames[record.indices])


def test_keep_goes_on_after_a_bad_packet_of_a_stream_without_times(tmp_path):
    path = write_corrupted_video(tmp_path / "broken.avi", num_frames=24, broken_frame=8)
    with pytest.raises(VideoReadError, match=r"broken.avi: the file breaks after \d of \d\d frames \(decoding fails"):
        read_video(path, ALL)
    frames, record = read_video(path, ALL, on_decode_error="keep")
    assert len(frames) == len(record.indices) > 15
    assert "the file breaks after" in record.warnings[-1]
    before, record = read_video(path, FrameSampling(num_frames=2, end=0.3))  # ends before the damage
    assert np.array_equal(before, frames[record.indices])


def test_delays_of_10_milliseconds_count_as_100():
    assert read_video(MEDIA / "short_delays.gif", EIGHT)[1].duration == pytest.approx(1.0)
    settings = PictureSettings(browser_delays=False)
    assert read_video(MEDIA / "short_delays.gif", EIGHT, settings=settings)[1].duration == pytest.approx(0.1)


def test_a_decoder_that_gives_fewer_frames_the_second_time_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.avi", 24)
    original = video_decoding_hicom.StreamDecoder.decode

    def forgetful(self, packet):
        is_counting = self.codec.options.get("err_detect") is None
        return original(self, packet) if is_counting else []

    monkeypatch.setattr(video_decoding_hicom.StreamDecoder, "decode", forgetful)
    frames, record = read_video(path, EIGHT)
    assert len(frames) == 8
    assert "the decoder gives fewer frames than before" in record.warnings[-1]


def test_bounds_and_access_are_of_their_own_types():
    with pytest.raises(TypeError, match="bounds are a MediaBounds and media_access a MediaAccess, got 1"):
        read_video(MEDIA / "alpha.mov", EIGHT, bounds=1)


def _warnings_of(name):
    return read_video(MEDIA / name, EIGHT)[1].warnings


def test_damage_is_found_by_threads_and_forked_processes_and_only_where_it_is():
    names = ["flipped_bit.mp4", "wide_pixels.mp4"] * 12
    expected = [_warnings_of(name) for name in names[:2]] * 12
    assert [bool(warnings) for warnings in expected[:2]] == [True, False]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(_warnings_of, names)) == expected
    with get_context("fork").Pool(2) as processes:
        assert processes.map(_warnings_of, names[:8]) == expected[:8]


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv", "mp4", "ts"])
def test_a_video_whose_times_begin_late_is_whole(tmp_path, suffix):
    times = [100 + index / 10 for index in range(12)]
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    frames, record = read_video(write_video(tmp_path / f"late.{suffix}", times=times, codec=codec), ALL)
    assert numbers_of(frames) == list(range(12))
    assert record.times == pytest.approx([index / 10 for index in range(12)], abs=2e-3) and record.warnings == []


def test_motion_jpeg_shows_all_of_its_pictures(tmp_path):
    frames, _ = read_video(write_video(tmp_path / "a.mjpeg", codec="mjpeg"), ALL)
    assert numbers_of(frames) == list(range(12))


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "ico"])
def test_a_picture_is_a_video_of_one_frame_in_every_format(tmp_path, suffix):
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / f"a.{suffix}")
    frames, _ = read_video(tmp_path / f"a.{suffix}", ALL)
    assert frames.shape[0] == 1 and frames[0, 5, 5].tolist() == [200, 30, 30]
    assert load_image(tmp_path / f"a.{suffix}")[5, 5].tolist() == [200, 30, 30]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_brightness(tmp_path, suffix):
    Image.fromarray(np.array([[0, 25700], [257, 65535]], np.uint16)).save(tmp_path / f"a.{suffix}")
    for grey in (load_image(tmp_path / f"a.{suffix}"), read_video(tmp_path / f"a.{suffix}", ALL)[0][0]):
        assert grey[..., 0].tolist() == [[0, 100], [1, 255]]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta"), "on the device meta, which holds no values"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8).to_sparse(), "torch.sparse_coo"),
    ],
)
def test_tensors_without_dense_values_are_refused(frames, message):
    with pytest.raises(VideoReadError, match=message):
        read_video(frames, ALL)


@pytest.mark.parametrize("size", [(63, 48), (67, 48), (128, 48), (63, 46), (67, 51), (64, 48)])
@pytest.mark.parametrize("source", ["yuv420p", "yuvj422p", "yuv444p", "yuv410p", "nv12", "rgb24", "gray"])
def test_pixels_are_those_of_ffmpeg_whatever_they_were_made_of(size, source):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=source)
    pixels = pyav_hicom.converted(frame, VideoReformatter(), "rgb24", *size)
    assert pixels.shape == (size[1], size[0], 3)
    expected = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], threads=1)
    assert np.array_equal(pixels, expected)
