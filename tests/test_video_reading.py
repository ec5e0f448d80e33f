"""Reading the chosen frames of any source, and clear errors for sources that cannot be read."""

import functools
import gc
import http.server
import io
import json
import socketserver
import threading
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import VIDEOS_DIR, needs_videos
from video_files import (
    MIRRORED,
    TURNS,
    numbered_frames,
    numbers_of,
    write_audio,
    write_corrupted_video,
    write_frame_folder,
    write_gif,
    write_rotated_video,
    write_truncated_video,
    write_video,
)

from hicom_hf.processors import pyav_hicom, video_decoding_hicom
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.media_access_hicom import MediaAccess
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.processors.video_sources_hicom import VideoReadError, load_image

ALL = FrameSampling(num_frames="all")


def decode_in_order(path, stream_index=0):
    """All frames of a stream, decoded from the beginning without seeking."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=stream_index)])


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "ts", "flv", "avi"])
def test_all_frames_of_each_container_come_in_order_with_their_times(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = write_video(tmp_path / f"video.{suffix}", 12, codec=codec)
    frames, record = read_video(path, ALL)
    assert numbers_of(frames) == list(range(12))
    assert record.indices == list(range(12))
    assert record.times == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    assert (record.num_source_frames, record.height, record.width, record.rotation) == (12, 48, 64, 0)
    assert record.frame_rate == pytest.approx(10, abs=0.1)
    assert record.duration == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    "x264",
    ["keyint=40:bframes=3", "open-gop=1:bframes=5:keyint=25:min-keyint=10", "intra-refresh=1:keyint=20"],
)
def test_seeking_gives_the_same_pixels_as_decoding_from_the_beginning(tmp_path, suffix, x264):
    rows, columns = np.mgrid[:48, :64]
    moving = np.stack([(rows * 3 + columns * 2 + 5 * index) % 256 for index in range(120)]).astype(np.uint8)
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": x264 + ":log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in moving:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        container.mux(stream.encode(None))
    expected = decode_in_order(path)
    for sampling in (FrameSampling(num_frames=3), FrameSampling(num_frames=1, start=3.9), FrameSampling(fps=5.0)):
        frames, record = read_video(path, sampling)
        assert np.array_equal(frames, expected[record.indices])


def test_a_distant_frame_is_reached_by_a_seek_and_a_near_one_is_not(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 120, keyframe_interval=30)
    fed = []
    frames_from = video_decoding_hicom.StreamReader._frames_from

    def counted(self, targets):
        for frame in frames_from(self, targets):
            fed.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_decoding_hicom.StreamReader, "_frames_from", counted)
    frames, record = read_video(path, FrameSampling(num_frames=2, start=9.1, end=9.3))
    assert numbers_of(frames) == [91 % 12, 92 % 12]
    assert record.indices == [91, 92]
    assert 2 <= len(fed) <= 9  # the encoder puts a keyframe at the jump from white to black, at 84


def test_variable_frame_rate_goes_by_presentation_times(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 1.3, 2.3, 3.3, 3.4, 3.5, 5.0]
    for suffix in ("mp4", "mkv"):
        path = write_video(tmp_path / f"variable.{suffix}", times=times)
        frames, record = read_video(path, FrameSampling(fps=1))
        assert numbers_of(frames) == [3, 4, 5, 8, 9]
        assert record.times == pytest.approx([0.3, 1.3, 2.3, 3.5, 5.0])
        assert (record.requested_frames, record.fewer_than_requested) == (6, True)


def test_frames_are_read_by_their_numbers(tmp_path):
    path = write_video(tmp_path / "video.mp4", 12)
    frames, record = read_video(path, FrameSampling(indices=[1, 4, 11]))
    assert numbers_of(frames) == [1, 4, 11]
    assert (record.indices, record.requested_frames, record.fewer_than_requested) == ([1, 4, 11], 3, False)
    with pytest.raises(VideoReadError, match="indices ask for frame 12, but the video has 12 frames"):
        read_video(path, FrameSampling(indices=[12]))
    array, _ = read_video(numbered_frames(12), FrameSampling(indices=[0, 2]))
    assert numbers_of(array) == [0, 2]


def test_frames_before_the_break_of_a_file_are_read_by_their_numbers(tmp_path):
    path = write_truncated_video(tmp_path / "broken.mp4")
    frames, _ = read_video(path, FrameSampling(indices=[0, 2]))
    assert len(frames) == 2
    with pytest.raises(VideoReadError, match="the file breaks after"):
        read_video(path, FrameSampling(indices=[0, 59]))


def test_the_record_says_when_fewer_frames_were_there_and_is_plain_json(tmp_path):
    path = write_video(tmp_path / "short.mp4", 3)
    frames, record = read_video(path, FrameSampling(num_frames=5))
    assert numbers_of(frames) == [0, 1, 2]
    assert (record.requested_frames, record.fewer_than_requested) == (5, True)
    frames, record = read_video(path, FrameSampling(num_frames=5, short_video="repeat"))
    assert numbers_of(frames) == record.indices == [0, 1, 1, 1, 2]
    assert record.fewer_than_requested
    frames, record = read_video(path, FrameSampling(num_frames=3))
    assert not record.fewer_than_requested
    assert json.loads(json.dumps(record.to_dict()))["source"] == str(path)


@pytest.mark.parametrize(
    ("matrix", "rotation", "red_corner"),
    [
        (TURNS[0], 0, ("top", "left")),
        (TURNS[90], 90, ("top", "right")),
        (TURNS[180], 180, ("bottom", "right")),
        (TURNS[270], 270, ("bottom", "left")),
        (MIRRORED, 0, ("top", "right")),
    ],
)
def test_the_picture_comes_out_as_the_display_matrix_asks(tmp_path, matrix, rotation, red_corner):
    stored = np.zeros((2, 48, 64, 3), dtype=np.uint8)
    stored[:, :24, :32] = [255, 0, 0]
    frames, record = read_video(write_rotated_video(tmp_path / "turned.mp4", stored, matrix), ALL)
    height, width = (64, 48) if rotation in (90, 270) else (48, 64)
    assert frames.shape == (2, height, width, 3)
    assert (record.rotation, record.height, record.width) == (rotation, height, width)
    rows = {"top": height // 4, "bottom": 3 * height // 4}
    columns = {"left": width // 4, "right": 3 * width // 4}
    red = {(row, column) for row in rows for column in columns if frames[0, rows[row], columns[column], 0] > 128}
    assert red == {red_corner}


def test_a_turn_by_no_right_angle_is_reported(tmp_path):
    path = write_rotated_video(tmp_path / "tilted.mp4", numbered_frames(4), (0.866, 0.5, -0.5, 0.866))
    frames, record = read_video(path, ALL)
    assert frames.shape == (4, 48, 64, 3)
    assert record.warnings == ["the display matrix is not a right angle; it was turned by 0 degrees"]


def test_frames_of_another_size_are_scaled_to_the_first_and_that_is_reported(tmp_path):
    parts = [write_video(tmp_path / f"{width}.ts", 6, width=width, height=width // 2) for width in (64, 32)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, record = read_video(tmp_path / "joined.ts", ALL)
    assert frames.shape == (12, 32, 64, 3) and numbers_of(frames) == 2 * list(range(6))
    assert "the picture size changes within the stream; frames were scaled to 64x32" in record.warnings


def test_the_same_frames_come_from_path_text_bytes_and_file_objects(tmp_path):
    path = write_video(tmp_path / "video.mp4", 12)
    sampling = FrameSampling(num_frames=3)
    expected, _ = read_video(path, sampling)
    content = path.read_bytes()

    class Pipe(io.RawIOBase):
        """Readable, but not seekable."""

        def __init__(self):
            self.inner = io.BytesIO(content)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.inner.readinto(buffer)

    with path.open("rb") as file:
        file.seek(100)
        sources = {str(path): str(path), "<bytes>": content, str(file.name): file, "<file object>": Pipe()}
        for name, source in sources.items():
            frames, record = read_video(source, sampling)
            assert np.array_equal(frames, expected)
            assert record.source == name
        assert not file.closed


@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path` on this machine; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            if self.path == "/cut.mp4":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 100)
            else:
                super().do_GET()

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def test_a_url_is_downloaded(tmp_path, server):
    write_video(tmp_path / "video.mp4", 12)
    frames, record = read_video(f"{server}/video.mp4", FrameSampling(num_frames=4))
    assert numbers_of(frames) == record.indices
    assert record.source == f"{server}/video.mp4"


def test_a_url_may_hold_spaces_and_letters_of_any_script(tmp_path, server):
    write_video(tmp_path / "mein Käse 猫.mp4", 5)
    for name in ("mein Käse 猫.mp4", "mein%20K%C3%A4se%20%E7%8C%AB.mp4"):
        frames, _ = read_video(f"{server}/{name}", FrameSampling())
        assert numbers_of(frames) == [0, 1, 2, 3, 4]


def test_a_failed_download_names_the_url(tmp_path, server):
    with pytest.raises(VideoReadError, match=f"{server}/nothing.mp4: the server answered 404"):
        read_video(f"{server}/nothing.mp4", ALL)
    with pytest.raises(VideoReadError, match=r"cut.mp4: the download stopped after 100 of 1000 bytes"):
        read_video(f"{server}/cut.mp4", ALL)
    with pytest.raises(VideoReadError, match=r"http://127.0.0.1:1/x.mp4: the download failed"):
        read_video("http://127.0.0.1:1/x.mp4", ALL)
    write_video(tmp_path / "large.mp4", 2)
    with pytest.raises(
        VideoReadError, match=r"large.mp4: the file has more than 10 bytes, the limit of this download"
    ):
        read_video(f"{server}/large.mp4", ALL, media_access=MediaAccess(max_bytes=10))


def test_a_gif_is_read_with_the_durations_of_its_frames(tmp_path):
    path = write_gif(tmp_path / "animation.gif", [100, 200, 300, 50])
    frames, record = read_video(path, ALL)
    assert numbers_of(frames) == [0, 1, 2, 3]
    assert record.times == pytest.approx([0.0, 0.1, 0.3, 0.6])
    assert record.duration == pytest.approx(0.65)
    frames, record = read_video(path, FrameSampling(num_frames="all", start=0.3))
    assert record.indices == [2, 3]


def test_a_gif_without_durations_shows_each_frame_for_a_tenth_of_a_second(tmp_path):
    _, record = read_video(write_gif(tmp_path / "animation.gif", [0, 0, 0]), ALL)
    assert record.times == pytest.approx([0.0, 0.1, 0.2])


def test_a_still_image_is_a_video_of_one_frame_without_a_duration(tmp_path):
    Image.fromarray(numbered_frames(4)[3]).save(tmp_path / "still.png")
    frames, record = read_video(tmp_path / "still.png", FrameSampling(num_frames=4))
    assert numbers_of(frames) == [3]
    assert (record.times, record.duration, record.frame_rate) == ([0.0], None, None)


def test_a_folder_gives_its_images_in_natural_order(tmp_path):
    folder = write_frame_folder(tmp_path / "frames", 12)
    frames, record = read_video(folder, ALL)
    assert numbers_of(frames) == list(range(12))  # 10.png after 9.png
    assert (record.times, record.duration, record.num_source_frames) == ([], None, 12)


def test_frames_in_memory_are_taken_as_arrays_tensors_and_lists(tmp_path):
    array = numbered_frames(6)
    sources = [
        array,
        torch.from_numpy(array),
        torch.from_numpy(array).permute(0, 3, 1, 2),
        list(array),
        [Image.fromarray(pixels) for pixels in array],
        [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in array],
    ]
    for source in sources:
        frames, record = read_video(source, FrameSampling(num_frames=3))
        assert np.array_equal(frames, array[[1, 3, 4]])
        assert record.indices == [1, 3, 4]
    paths = [str(path) for path in sorted(write_frame_folder(tmp_path / "frames", 3).glob("*.png"))]
    assert numbers_of(read_video(paths, ALL)[0]) == [0, 1, 2]


def test_frames_without_a_clock_need_a_frame_rate_for_seconds(tmp_path):
    array = numbered_frames(10)
    for sampling in (FrameSampling(fps=1), FrameSampling(start=1), FrameSampling(end=1)):
        with pytest.raises(VideoReadError, match="<array>: fps, start and end need times"):
            read_video(array, sampling)
    frames, record = read_video(array, FrameSampling(fps=1), frame_rate=4)
    assert numbers_of(frames) == [2, 6]
    assert (record.times, record.duration) == ([0.5, 1.5], 2.5)
    with pytest.raises(VideoReadError, match="frame_rate=4 is for frames without a clock"):
        read_video(write_video(tmp_path / "video.mp4", 2), ALL, frame_rate=4)
    with pytest.raises(ValueError, match="frame_rate must be above 0 frames per second and finite, got 0"):
        read_video(array, ALL, frame_rate=0)


def test_a_transform_sees_each_upright_frame_once(tmp_path):
    seen = []

    def smaller(frame):
        seen.append(frame.shape)
        return frame[::2, ::2]

    path = write_video(tmp_path / "video.mp4", 6)
    frames, record = read_video(path, FrameSampling(num_frames=8, short_video="repeat"), transform=smaller)
    assert frames.shape == (8, 24, 32, 3)
    assert seen == [(48, 64, 3)] * 6
    assert (record.height, record.width) == (48, 64)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_truncated_file_is_an_error_that_says_how_much_can_be_read(tmp_path, suffix):
    path = write_truncated_video(tmp_path / f"cut.{suffix}")
    with pytest.raises(VideoReadError, match=r'cut.*breaks after \d\d.* frames .*on_decode_error="keep" goes on'):
        read_video(path, FrameSampling(num_frames=8))
    chosen = []
    frames, record = read_video(path, ALL, on_decode_error="keep", on_chosen=chosen.append)
    assert 20 < len(frames) < 60 and chosen == [len(frames)]
    assert any(f"breaks after {len(frames)}" in warning for warning in record.warnings)


def test_a_range_before_the_break_of_a_truncated_file_is_read_without_complaint(tmp_path):
    path = write_truncated_video(tmp_path / "cut.mp4")
    frames, record = read_video(path, FrameSampling(num_frames=4, end=2.0))
    assert (len(frames), record.warnings) == (4, [])


def test_a_file_broken_in_the_middle_gives_the_rest_on_request(tmp_path):
    path = write_corrupted_video(tmp_path / "broken.mp4", num_frames=24, broken_frame=8)
    with pytest.raises(VideoReadError, match=r"broken.mp4: the file breaks after \d of 24 frames \(decoding fails"):
        read_video(path, ALL)
    frames, record = read_video(path, ALL, on_decode_error="keep")
    assert record.indices[-1] == 23
    assert 8 not in record.indices
    assert len(frames) == len(record.indices) < 24
    assert f"{len(frames)} of 24 chosen frames were read" in record.warnings[-1]
    with pytest.raises(VideoReadError, match="none of the chosen frames can be read"):
        read_video(path, FrameSampling(num_frames=1, start=0.8, end=0.85), on_decode_error="keep")


def test_unreadable_files_are_named_with_what_is_wrong(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXTINF:5,\n{write_video(tmp_path / 'other.mp4', 2)}\n#EXT-X-ENDLIST\n"
    )
    write_audio(tmp_path / "sound.m4a")
    cases = {
        tmp_path / "missing.mp4": "missing.mp4: there is no such file or folder",
        tmp_path / "empty.mp4": "empty.mp4: the file is empty",
        tmp_path / "text.mp4": "text.mp4: this is not a video file that FFmpeg can read",
        tmp_path / "folder": "folder: the folder holds no images",
        tmp_path / "sound.m4a": "sound.m4a: the file has no video stream .its streams: audio",
        tmp_path / "list.m3u8": "list.m3u8: this is not a video file that FFmpeg can read",
        "a\0b": "the file cannot be opened",
    }
    for source, message in cases.items():
        with pytest.raises(VideoReadError, match=message):
            read_video(source, ALL)
        if isinstance(source, type(tmp_path)) and source.is_file():
            with pytest.raises(VideoReadError, match=message.split(": ", 1)[1]):
                read_video(source.read_bytes(), ALL)


def test_unusable_objects_are_refused():
    with pytest.raises(TypeError, match="<int>: a video is a path, a URL"):
        read_video(5, ALL)
    with pytest.raises(VideoReadError, match="<file object>: the file object gives text, not bytes"):
        read_video(io.StringIO("text"), ALL)
    closed = io.BytesIO(b"content")
    closed.close()
    with pytest.raises(VideoReadError, match="<file object>: the file object cannot be read"):
        read_video(closed, ALL)
    with pytest.raises(ValueError, match='on_decode_error must be "raise" or "keep", got \'skip\''):
        read_video(numbered_frames(2), ALL, on_decode_error="skip")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4, 3), dtype=np.float32), "<array>: frames must be uint8 from 0 to 255, got float32"),
        (torch.zeros(2, 3, 4, 4), "<tensor>: frames must be uint8 from 0 to 255, got torch.float32"),
        (np.zeros((2, 4, 4), dtype=np.uint8), r"expected shape \(T, height, width, 3\) or .*, got \(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 4), dtype=np.uint8), r"expected shape .*, got \(2, 4, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), r"shape \(0, 4, 4, 3\) holds no pixels"),
        ([], "<frames>: the list of frames is empty"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], r"<frames>\[1\]: this frame is 6x4 .*is 4x4"),
        ([Image.new("I", (4, 4))], r"<frames>\[0\]: pixels of mode I have more than 8 bits"),
        ([b"no image"], r"<frames>\[0\]: this is not an image that Pillow can read"),
    ],
)
def test_frames_of_a_wrong_kind_are_refused(frames, message):
    with pytest.raises(VideoReadError, match=message):
        read_video(frames, ALL)


def test_an_incomplete_image_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    with pytest.raises(VideoReadError, match="the image cannot be decoded"):
        read_video([buffer.getvalue()[:2000]], ALL)


def test_ranges_are_checked_against_the_video(tmp_path):
    path = write_video(tmp_path / "video.mp4", 12)
    with pytest.raises(VideoReadError, match=r"video.mp4: start=5 s lies after the end of the video, which lasts 1.2"):
        read_video(path, FrameSampling(start=5))
    frames, record = read_video(path, FrameSampling(num_frames="all", start=1.0, end=9.0))
    assert numbers_of(frames) == [10, 11]
    assert record.warnings == ["end=9 s is after the end of the video, 1.200 s"]


def test_one_frame_is_a_video(tmp_path):
    frames, record = read_video(write_video(tmp_path / "one.mp4", 1), FrameSampling(fps=1))
    assert numbers_of(frames) == [0]
    assert record.times == [0.0]


@needs_videos
@pytest.mark.parametrize(
    ("name", "stream_index", "num_frames", "size"),
    [
        ("nasa_13013.mp4", 3, 390, (270, 480)),
        ("flipping_a_pancake.mkv", 0, 310, (240, 426)),
        ("av1_video.mkv", 0, 125, (360, 640)),
        ("h265_video.mp4", 0, 10, (128, 128)),
        ("unordered.mov", 0, 4, (50, 50)),
        ("video_0.mov", 0, 3, (320, 568)),
    ],
)
def test_real_videos_give_the_frames_that_decoding_in_order_gives(name, stream_index, num_frames, size):
    frames, record = read_video(VIDEOS_DIR / name, FrameSampling(num_frames=5))
    assert (record.stream_index, record.num_source_frames) == (stream_index, num_frames)
    assert (record.height, record.width) == size
    with av.open(str(VIDEOS_DIR / name)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams[stream_index])]
    assert np.array_equal(frames, np.stack([decoded[index] for index in record.indices]))


@needs_videos
def test_a_real_phone_video_held_upright_comes_out_upright():
    frames, record = read_video(VIDEOS_DIR / "video_90.mov", ALL)
    assert frames.shape == (3, 568, 320, 3)
    assert record.rotation == 90
    assert np.array_equal(frames, np.rot90(decode_in_order(VIDEOS_DIR / "video_90.mov"), -1, axes=(1, 2)))


@needs_videos
def test_a_real_broken_file_says_how_many_frames_were_read():
    path = VIDEOS_DIR / "corrupted.mp4"
    with pytest.raises(VideoReadError, match=r"corrupted.mp4: the file breaks after 28 of 50 frames .*keep"):
        read_video(path, FrameSampling(num_frames=8))
    frames, record = read_video(path, ALL, on_decode_error="keep")
    assert (len(frames), record.indices[-1]) == (28, 27)
    assert len(read_video(path, FrameSampling(num_frames=4, end=2.0))[0]) == 4


def _collect_and_read(path, result):
    gc.collect()
    frames, _ = read_video(path, FrameSampling(num_frames=2))
    result.put(len(frames))


@pytest.mark.parametrize("read_before", ["video.mp4", "broken.avi", "alpha.webm"])
def test_a_forked_process_reads_videos_after_its_parent_did(tmp_path, read_before):
    # Loader processes are forked. A frame, decoder or error that kept threads would hang whoever collects it there.
    path = write_video(tmp_path / "video.mp4")
    write_corrupted_video(tmp_path / "broken.avi", num_frames=24, broken_frame=8)
    (tmp_path / "alpha.webm").write_bytes((Path(__file__).parent / "media" / "alpha_vp9.webm").read_bytes())
    context = get_context("fork")
    gc.disable()
    try:
        read_video(tmp_path / read_before, FrameSampling(num_frames=4), on_decode_error="keep")
        result = context.Queue()
        process = context.Process(target=_collect_and_read, args=(path, result), daemon=True)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert result.get() == 2
    finally:
        gc.enable()
        process.kill()


def test_a_text_file_is_no_video(tmp_path):
    # FFmpeg's "tty" format draws any text as a film.
    path = tmp_path / "notes.txt"
    path.write_text("a line of a private file\n" * 200)
    with pytest.raises(VideoReadError, match="not a video file"):
        read_video(path, ALL)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nvideo.mp4\n", "ffconcat version 1.0\nfile video.mp4\n"])
def test_a_playlist_is_no_video(tmp_path, text):
    write_video(tmp_path / "video.mp4", 3)
    path = tmp_path / "list.mp4"
    path.write_text(text)
    with pytest.raises(VideoReadError, match="not a video file"):
        read_video(path, ALL)


def test_every_format_that_may_be_read_is_known_to_ffmpeg():
    known = {name for long in av.formats_available for name in av.ContainerFormat(long).name.split(",")}
    listed = pyav_hicom.OPEN_OPTIONS["format_whitelist"].split(",")
    assert set(listed) <= {*known, *av.formats_available}


def test_an_image_that_is_postscript_starts_no_ghostscript(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(VideoReadError, match="not an image"):
        load_image(path)
