"""The forms in which people hand over a video or an image, and what messages say of them."""

import base64
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import numbered_frames, write_frame_folder, write_video

from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.source_names_hicom import MAX_NAME_LENGTH, source_name
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.processors.video_sources_hicom import VideoReadError, load_image

ALL = FrameSampling(num_frames="all")


def test_every_form_of_one_video_gives_its_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a film.mp4", 6)
    content = path.read_bytes()
    expected, _ = read_video(path, ALL)
    encoded = base64.b64encode(content).decode()
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = {
        f"data:video/mp4;base64,{encoded}": "<data:video/mp4>",
        f"DATA:;base64,{encoded.rstrip('=')}": "<data URL>",
        f"data:video/mp4,{quote(content)}": "<data:video/mp4>",
        f"file://{quote(str(path))}": f"file://{quote(str(path))}",
        f"file://localhost{quote(str(path))}": f"file://localhost{quote(str(path))}",
        "~/a film.mp4": "~/a film.mp4",
    }
    for source, name in sources.items():
        frames, record = read_video(source, ALL)
        assert np.array_equal(frames, expected)
        assert record.source == name
    for source in ({"bytes": content, "path": None}, {"bytes": None, "path": str(path)}):
        assert np.array_equal(read_video(source, ALL)[0], expected)


def test_every_form_of_one_image_gives_its_pixels(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 77, np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    encoded = base64.urlsafe_b64encode(content).decode()
    for source in (
        f"data:image/png;base64,{encoded}",
        f"file://{tmp_path}/a.png",
        {"bytes": content, "path": "x.png"},
    ):
        assert (load_image(source) == 77).all()


@pytest.mark.parametrize("scheme", ["s3", "hf", "rtsp", "ftp", "gopher"])
def test_an_address_that_is_not_read_is_refused_by_its_scheme(scheme):
    with pytest.raises(VideoReadError, match=f"{scheme}://host/x: {scheme} addresses are not read here, only http"):
        read_video(f"{scheme}://me:secret@host/x", ALL)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data:video/mp4;base64", "<data:video/mp4>: a data URL has a comma before its content"),
        ("data:video/mp4;base64,@@@@", "<data:video/mp4>: the content of the data URL is not base64"),
        ("data:video/mp4;base64,", "<data:video/mp4>: the file is empty"),
        ("file://elsewhere/a.mp4", "a file URL names a file of this machine"),
        ({"bytes": b"", "path": "a.mp4"}, "a.mp4: the file is empty"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(source, message):
    with pytest.raises(VideoReadError, match=message):
        read_video(source, ALL)


def test_a_chat_lists_the_frames_of_its_video(tmp_path, processor):
    folder = write_frame_folder(tmp_path / "frames", 4)
    paths = [str(path) for path in sorted(folder.glob("*.png"))]
    question = {"type": "text", "text": "What is it?"}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    for videos, expected in (([paths], [4]), ([paths[:2], paths], [2, 4]), ([paths[0], paths[1]], [1, 1])):
        content = [*({"type": "video", "video": video} for video in videos), question]
        chat = [{"role": "user", "content": content}]
        assert processor.apply_chat_template(chat, **options)["video_num_frames"].tolist() == expected
    prompt = f"{processor.video_token} What is it?"
    assert processor(text=prompt, videos=paths)["video_num_frames"].tolist() == [4]


def test_a_name_is_short_clean_and_without_secrets():
    assert source_name("a\x1b]0;owned\x07.mp4") == r"a\x1b]0;owned\x07.mp4"
    assert source_name("caf\udce9.mp4") == r"caf\udce9.mp4"
    assert source_name("https://me:se/cret@host/a@b.mp4").count("secret") == 0
    assert source_name("https://me:secret@host/a@b.mp4") == "https://host/a@b.mp4"
    assert len(source_name("x" * 10**6)) == MAX_NAME_LENGTH + 3
    assert source_name("data:video/mp4;base64," + "A" * 10**6) == "<data:video/mp4>"
    with pytest.raises(VideoReadError) as caught:
        read_video("data:video/mp4;base64," + base64.b64encode(b"no film" * 1000).decode(), ALL)
    assert len(str(caught.value)) < 300


class TorchcodecDecoder:
    """The part of `torchcodec.decoders.VideoDecoder` that is used."""

    def __init__(self, frames, broken=()):
        self.frames, self.broken = torch.from_numpy(frames).movedim(-1, 1), broken
        self.metadata = SimpleNamespace(average_fps=10.0)

    def __len__(self):
        return len(self.frames)

    def get_frame_at(self, index):
        if index in self.broken:
            raise RuntimeError("Could not push packet to decoder")
        return SimpleNamespace(data=self.frames[index], pts_seconds=index / 10)


class DecordReader:
    """The part of `decord.VideoReader` that is used."""

    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)

    def get_avg_fps(self):
        return 10.0

    def get_batch(self, indices):
        raise AssertionError("frames are read one by one")

    def __getitem__(self, index):
        return SimpleNamespace(asnumpy=lambda: self.frames[index])


@pytest.mark.parametrize("decoder", [TorchcodecDecoder, DecordReader])
def test_decoder_objects_of_other_libraries_are_videos(decoder, processor):
    frames = numbered_frames(12)
    result, record = read_video(decoder(frames), FrameSampling(num_frames=3, start=0.6))
    assert np.array_equal(result, frames[record.indices])
    assert (record.indices, record.source) == ([7, 9, 10], f"<{decoder.__name__}>")
    assert record.times == pytest.approx([0.7, 0.9, 1.0])
    encoded = processor(videos=[decoder(frames)], text=processor.video_token, num_frames=2)
    assert encoded["video_num_frames"].tolist() == [2]
    with pytest.raises(VideoReadError, match="has its own times"):
        read_video(decoder(frames), FrameSampling(), frame_rate=5.0)
    with pytest.raises(VideoReadError, match=r"has 0 frames at 10.0 frames per second"):
        read_video(decoder(frames[:0]), FrameSampling())


def test_a_decoder_object_that_fails_is_a_video_that_breaks():
    broken, everything = TorchcodecDecoder(numbered_frames(6), broken=(3,)), FrameSampling(num_frames="all")
    with pytest.raises(VideoReadError, match=r"<TorchcodecDecoder>: .*its decoder fails: Could not push packet"):
        read_video(broken, everything)
    _, record = read_video(TorchcodecDecoder(numbered_frames(6), broken=(3,)), everything, on_decode_error="keep")
    assert record.indices == [0, 1, 2, 4, 5]
