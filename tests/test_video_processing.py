"""From sources to pixels: padding, resizing, normalising, packing, and the processor's own settings."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import GOLDEN_DIR, VIDEOS_DIR, needs_golden, needs_videos
from video_files import numbered_frames, write_frame_folder, write_truncated_video, write_video

from hicom_hf.processors.square_frames_hicom import joined, pad_to_square, resize_frame
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.processors.video_reading_hicom import VideoReadError

SMALL = {"height": 16, "width": 16}
PILLOW_12_SHA256 = "d0b428053339afaac781dc35ca420f50bddde5fe41f26f7ba6dedcd3c933b601"


@pytest.fixture
def processor():
    return HiComVideoProcessor(size=SMALL, num_frames=4)


def normalised(grey: int) -> float:
    return (grey / 255 - 0.5) / 0.5


@needs_golden
def test_pixels_equal_the_official_ones_exactly():
    from safetensors.numpy import load_file

    cases = json.loads((GOLDEN_DIR / "preprocess" / "frames.json").read_text())["frames"]
    tensors = load_file(GOLDEN_DIR / "preprocess" / "frames.safetensors")
    padded = HiComVideoProcessor(size={"height": 56, "width": 56}, resample="exact")
    squashed = HiComVideoProcessor(size={"height": 56, "width": 56}, do_pad=False, resample="exact")
    full = HiComVideoProcessor(resample="exact")
    num_compared = 0
    for case in cases:
        frame = tensors[case["input"]]
        if not case["degenerate_pad"]:  # sides of 1 and 3 pixels, which the release takes for channels
            assert np.array_equal(pad_to_square(frame, 127), tensors.get(case.get("squared"), frame))
            assert np.array_equal(padded.preprocess_images(frame)["pixel_values"][0], tensors[case["pad56"]])
            resized = np.ascontiguousarray(full.square_frame(frame).transpose(2, 0, 1))
            assert hashlib.sha256(resized.tobytes()).hexdigest() == case["pad384"]["sha256_uint8_chw"]
            pixels = full.preprocess_images(frame)["pixel_values"][0].numpy()
            for crop in case["pad384"]["crops"].values():
                rows, columns = slice(crop["y0"], crop["y0"] + 16), slice(crop["x0"], crop["x0"] + 16)
                assert np.array_equal(pixels[:, rows, columns], tensors[crop["tensor"]])
            num_compared += 1
        if not case["degenerate_nopad"]:
            assert np.array_equal(squashed.preprocess_images(frame)["pixel_values"][0], tensors[case["nopad56"]])
    assert num_compared == 5


@needs_golden
def test_the_default_pixels_are_within_one_grey_level_of_the_official_ones():
    from safetensors.numpy import load_file

    cases = json.loads((GOLDEN_DIR / "preprocess" / "frames.json").read_text())["frames"]
    tensors = load_file(GOLDEN_DIR / "preprocess" / "frames.safetensors")
    grey_level = 2 / 255 + 1e-6  # of pixels from -1 to 1, in float32
    for case in cases:
        for do_pad, name in ((True, "pad56"), (False, "nopad56")):
            if not case["degenerate_pad" if do_pad else "degenerate_nopad"]:
                processor = HiComVideoProcessor(size={"height": 56, "width": 56}, do_pad=do_pad)
                pixels = processor.preprocess_images(tensors[case["input"]])["pixel_values"][0].numpy()
                assert np.abs(pixels - tensors[case[name]]).max() <= grey_level


def waves(height: int, width: int) -> np.ndarray:
    """A picture with coarse and fine detail, hard edges and a different pattern in each channel."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([np.sin(rows / 3 + columns / (7 + channel)) for channel in range(3)], axis=-1)
    picture[height // 3 : height // 2, width // 4 : width // 2] = 1
    return ((picture + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("shape", [(320, 180), (180, 320), (240, 240), (128, 112), (900, 120)])
def test_frames_of_torch_are_within_one_grey_level_of_exact_ones(shape):
    frame = waves(*shape)
    for size in ((96, 96), (64, 112)):
        exact = resize_frame(frame, *size, "exact").astype(int)
        assert np.abs(resize_frame(frame, *size) - exact).max() <= 1
        bilinear = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
        assert np.abs(resize_frame(frame, *size, 2) - bilinear.astype(int)).max() <= 1


def test_frames_that_torch_enlarges_are_within_two_grey_levels_of_exact_ones():
    difference = np.abs(
        resize_frame(waves(40, 30), 64, 112) - resize_frame(waves(40, 30), 64, 112, "exact").astype(int)
    )
    assert difference.max() <= 2
    assert (difference == 2).mean() < 1e-3


def test_exact_frames_are_those_of_pillow_12_whatever_pillow_is_installed():
    noise = np.random.default_rng(0).integers(0, 256, (300, 70, 3), dtype=np.uint8)
    # SHA-256 of what Pillow 12.3 gives for `Image.resize((56, 56), 3)`: the horizontal pass before the vertical one.
    assert hashlib.sha256(resize_frame(noise, 56, 56, "exact").tobytes()).hexdigest() == PILLOW_12_SHA256
    wrong_order = Image.fromarray(noise).resize((70, 56), 3).resize((56, 56), 3)
    assert not np.array_equal(resize_frame(noise, 56, 56, "exact"), wrong_order)
    assert np.array_equal(
        resize_frame(noise, 56, 56, 1), Image.fromarray(noise).resize((56, 300), 1).resize((56, 56), 1)
    )


@pytest.mark.slow
def test_resized_bytes_depend_on_neither_threads_nor_vector_instructions():
    script = """
import hashlib, sys
import numpy as np
import torch
from hicom_hf.processors.square_frames_hicom import resize_frame
torch.set_num_threads(int(sys.argv[1]))
random = np.random.default_rng(0)
frames = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((300, 70), (70, 300), (120, 120), (30, 20))]
print(hashlib.sha256(b"".join(resize_frame(f, 96, 96, m).tobytes() for f in frames for m in (2, 3, "exact"))).hexdigest())
"""
    digests = set()
    for threads, capability in (("1", "default"), ("2", "default"), ("1", "avx2"), ("2", "avx2")):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", script, threads]
        digests.add(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert len(digests) == 1


def test_a_frame_of_the_right_size_keeps_its_pixels_and_a_read_only_frame_needs_no_warning():
    frame = waves(64, 48)
    frame.setflags(write=False)
    assert np.array_equal(resize_frame(frame, 64, 48), frame)
    assert resize_frame(frame, 32, 32).shape == (32, 32, 3)


def test_normalised_pixels_follow_the_formula_in_the_official_order(processor):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    odd = HiComVideoProcessor(size=SMALL, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    for one in (processor, odd):
        mean, std = np.float32(one.image_mean), np.float32(one.image_std)
        expected = ((values * one.rescale_factor).astype(np.float32) - mean) / std
        assert np.array_equal(one.preprocess_images(values)["pixel_values"][0].numpy(), expected.transpose(2, 0, 1))


def test_a_frame_is_padded_to_a_square_with_grey_and_half_a_pixel_up_or_left():
    frame = np.full((2, 5, 3), 200, dtype=np.uint8)
    square = pad_to_square(frame, 127)
    assert square[:, 0, 0].tolist() == [127, 200, 200, 127, 127]
    assert pad_to_square(frame.transpose(1, 0, 2), 9)[0, :, 0].tolist() == [9, 200, 200, 9, 9]
    assert np.array_equal(pad_to_square(square, 0), square)


def test_padding_can_be_replaced_by_squashing():
    frame = np.full((8, 16, 3), 255, dtype=np.uint8)
    padded = HiComVideoProcessor(size=SMALL)(frame[None])["pixel_values_videos"]
    squashed = HiComVideoProcessor(size=SMALL, do_pad=False)(frame[None])["pixel_values_videos"]
    assert padded[0, 0, 0, 0] == pytest.approx(normalised(127))
    assert (squashed == 1).all()


def test_frames_of_several_videos_are_packed_one_after_another(processor, tmp_path):
    path = write_video(tmp_path / "video.mp4", 12)
    features = processor([path, numbered_frames(3), write_frame_folder(tmp_path / "frames", 2)])
    pixels = features["pixel_values_videos"]
    assert features["video_num_frames"].tolist() == [4, 3, 2]
    assert (features["video_num_frames"].dtype, pixels.dtype) == (torch.int64, torch.float32)
    assert pixels.shape == (9, 3, 16, 16)
    middles = pixels[:, 0, 8, 8].tolist()
    assert middles[4:] == pytest.approx([normalised(grey) for grey in (10, 30, 50, 10, 30)], abs=1e-6)
    single = processor(path)["pixel_values_videos"]
    assert torch.equal(single, pixels[:4])


def test_the_pixels_of_a_single_video_are_not_copied(processor, monkeypatch):
    made, normalised = [], HiComVideoProcessor.normalised
    monkeypatch.setattr(HiComVideoProcessor, "normalised", lambda *args: made.append(normalised(*args)) or made[-1])
    pixels = processor(numbered_frames(3), num_frames=2)["pixel_values_videos"]
    assert pixels.data_ptr() == made[0].data_ptr()


def test_what_counts_as_one_video_and_what_as_several(processor, tmp_path):
    array = numbered_frames(3)
    images = [Image.fromarray(frame) for frame in array]
    path = str(write_video(tmp_path / "video.mp4", 3))
    paths = [str(file) for file in sorted(write_frame_folder(tmp_path / "frames", 2).glob("*.png"))]
    cases = [
        (path, [3]),
        ([path, path], [3, 3]),
        (array, [3]),
        (list(array), [3]),
        (images, [3]),
        ([images, images[:2]], [3, 2]),
        ([array, array[:1]], [3, 1]),
        (np.stack([array, array]), [3, 3]),
        ([path, images, torch.from_numpy(array)], [3, 3, 3]),
        ([paths], [2]),
        (paths, [2]),  # paths of images are frames of one video, as in the chats of Qwen
        ([[paths[0]], [paths[1]]], [1, 1]),
    ]
    for videos, expected in cases:
        assert processor(videos)["video_num_frames"].tolist() == expected


def test_a_call_overrides_the_processor(processor, tmp_path):
    path = write_video(tmp_path / "video.mp4", 30)

    def indices(**arguments):
        return processor(path, return_metadata=True, **arguments)["video_metadata"][0].indices

    assert indices() == [4, 11, 18, 25]
    assert indices(num_frames=2) == [7, 22]
    assert indices(fps=1) == [5, 15, 25]
    assert indices(fps=1, max_frames=2) == [15, 25]
    assert indices(start=1.0, end=1.2) == [10, 11]
    assert indices(do_sample_frames=False) == list(range(30))
    assert indices(do_sample_frames=False, max_frames=2) == [7, 22]
    assert indices(start=2.9, short_video="repeat") == [29, 29, 29, 29]
    by_rate = HiComVideoProcessor(size=SMALL, fps=1.0)
    assert by_rate(path)["video_num_frames"].tolist() == [3]
    assert by_rate(path, num_frames=5)["video_num_frames"].tolist() == [5]
    every = HiComVideoProcessor(size=SMALL, do_sample_frames=False)
    assert every(path)["video_num_frames"].tolist() == [30]
    assert every(path, num_frames=5)["video_num_frames"].tolist() == [5]
    bounded = HiComVideoProcessor(size=SMALL, max_frames=3)
    assert bounded(path)["video_num_frames"].tolist() == [3]


def test_frames_in_memory_take_a_frame_rate(processor):
    features = processor(numbered_frames(10), fps=1, frame_rate=5, return_metadata=True)
    assert features["video_metadata"][0].times == [0.4, 1.4]


def test_a_broken_file_is_an_error_unless_the_rest_is_to_be_kept(processor, tmp_path):
    path = write_truncated_video(tmp_path / "cut.mp4")
    with pytest.raises(VideoReadError, match=r"cut\.mp4: the file breaks after"):
        processor(path)
    features = processor(path, on_decode_error="keep", return_metadata=True)
    assert features["video_num_frames"].tolist() == [4]
    assert "breaks after" in features["video_metadata"][0].warnings[0]
    assert HiComVideoProcessor(size=SMALL, on_decode_error="keep")(path)["pixel_values_videos"].shape[0] == 32


def test_images_are_single_frames_of_any_size(processor, tmp_path):
    Image.new("RGB", (10, 20), (255, 255, 255)).save(tmp_path / "white.png")
    array = np.zeros((8, 8, 3), dtype=np.uint8)
    images = [tmp_path / "white.png", Image.new("L", (4, 4), 255), array, torch.zeros(3, 5, 9, dtype=torch.uint8)]
    pixels = processor.preprocess_images(images)["pixel_values"]
    assert pixels.shape == (4, 3, 16, 16)
    assert pixels[:, 0, 8, 8].tolist() == [1, 1, -1, -1]
    assert processor.preprocess_images(array)["pixel_values"].shape == (1, 3, 16, 16)
    assert processor.preprocess_images(np.stack([array, array]))["pixel_values"].shape == (2, 3, 16, 16)
    video = processor(array[None])["pixel_values_videos"]
    assert torch.equal(processor.preprocess_images(array)["pixel_values"], video)


def test_results_come_as_numpy_on_request(processor):
    features = processor(numbered_frames(2), return_tensors="np")
    assert isinstance(features["pixel_values_videos"], np.ndarray)
    assert features["video_num_frames"].tolist() == [2]
    assert isinstance(processor.preprocess_images(numbered_frames(1), "np")["pixel_values"], np.ndarray)


def test_senseless_calls_are_refused(processor):
    frames = numbered_frames(2)
    with pytest.raises(TypeError, match=r"unknown arguments \['frame_count'\]; a call takes sampling, num_frames"):
        processor(frames, frame_count=3)
    with pytest.raises(ValueError, match="videos is an empty list"):
        processor([])
    with pytest.raises(ValueError, match="images is an empty list"):
        processor.preprocess_images([])
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        processor(frames, num_frames=0)
    with pytest.raises(ValueError, match="both say how many frames to take"):
        processor(frames, num_frames=2, fps=1.0)
    with pytest.raises(ValueError, match="do_sample_frames=False takes every frame and contradicts num_frames=2"):
        processor(frames, num_frames=2, do_sample_frames=False)
    with pytest.raises(ValueError, match="return_tensors must be"):
        processor(frames, return_tensors="tf")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": 3}, TypeError, r"unknown arguments \['frames'\]"),
        (
            {"start": 3.0},
            TypeError,
            r"unknown arguments \['start'\]; start, end, indices, frame_rate, media_access, media_bounds belong to one video",
        ),
        ({"do_normalize": False}, ValueError, "do_normalize=False is not supported"),
        (
            {"resample": "bicubic"},
            ValueError,
            "resample must be \"exact\" or one of Pillow's numbers 0 to 5, got 'bicubic'",
        ),
        ({"pad_value": 256}, ValueError, "pad_value must be from 0 to 255, got 256"),
        ({"num_frames": 0}, ValueError, "num_frames must be at least 1, got 0"),
        ({"short_video": "loop"}, ValueError, "short_video must be"),
        ({"on_decode_error": "skip"}, ValueError, "on_decode_error must be"),
        ({"size": {"shortest_edge": 384}}, ValueError, "size must give height and width"),
    ],
)
def test_senseless_settings_are_refused_at_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        HiComVideoProcessor(**arguments)


def test_settings_survive_saving_and_can_be_overridden_when_loading(tmp_path):
    processor = HiComVideoProcessor(
        size=SMALL,
        num_frames=5,
        short_video="repeat",
        do_pad=False,
        max_frames=9,
        on_decode_error="keep",
        resample="exact",
    )
    processor.save_pretrained(tmp_path)
    assert HiComVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    changed = HiComVideoProcessor.from_pretrained(tmp_path, num_frames=8, short_video="once")
    assert (changed.num_frames, changed.short_video, changed.do_pad) == (8, "once", False)
    assert (changed.resample, HiComVideoProcessor.from_pretrained(tmp_path, resample=2).resample) == ("exact", 2)
    frames = numbered_frames(3)
    again = HiComVideoProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(frames)["pixel_values_videos"], processor(frames)["pixel_values_videos"])
    assert HiComVideoProcessor.from_pretrained(tmp_path, fps=2.0).fps == 2.0


@pytest.mark.slow
def test_the_saved_folder_loads_as_remote_code_without_the_package(tmp_path):
    script = f"""
import sys
sys.modules["hicom_hf"] = None
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
import numpy as np
processor = AutoVideoProcessor.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
pixels = processor(np.zeros((2, 8, 8, 3), dtype=np.uint8))["pixel_values_videos"]
print(type(processor).__module__, tuple(pixels.shape), "torchvision" in sys.modules)
"""

    class Registered(HiComVideoProcessor):
        pass

    Registered.__name__ = Registered.__qualname__ = "HiComVideoProcessor"
    Registered.__module__ = HiComVideoProcessor.__module__
    Registered.register_for_auto_class("AutoVideoProcessor")  # on a copy: registration stays on the class
    Registered(size=SMALL).save_pretrained(tmp_path / "saved")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    module, shape = result.stdout.split(" ", 1)
    assert module.startswith("transformers_modules.")
    assert shape.strip() == "(2, 3, 16, 16) False"


@needs_videos
def test_each_readable_real_video_becomes_pixels(processor):
    names = ["nasa_13013.mp4", "flipping_a_pancake.mkv", "video_0.mov", "video_90.mov", "unordered.mov"]
    names += ["av1_video.mkv", "h265_video.mp4"]
    features = processor([VIDEOS_DIR / name for name in names])
    assert features["video_num_frames"].tolist() == [4, 4, 3, 3, 4, 4, 4]
    assert features["pixel_values_videos"].abs().max() <= 1


def test_a_single_tensor_is_copied_only_where_its_memory_begins_between_two_steps():
    memory = torch.arange(64.0)
    assert joined([memory]).data_ptr() == memory.data_ptr()
    shifted = memory[1:]  # 4 bytes further, where kernels may round differently
    copied = joined([shifted])
    assert torch.equal(copied, shifted) and copied.data_ptr() % 64 == 0
