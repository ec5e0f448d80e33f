"""transformers' own tests of processors, on HICom's classes; `test_transformers_mixins.py` runs them."""

import unittest

from transformers import AutoTokenizer
from transformers_tests.test_processing_common import ProcessorTesterMixin
from transformers_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs

from hicom_hf import HiComProcessor, HiComVideoProcessor
from hicom_hf.assembly.random_model import (
    tiny_config,
    tiny_instruction_tokenizer,
    tiny_processor,
    tiny_tokenizer,
)

MAX_FRAMES = 32  # the processor's default


class HiComProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = HiComProcessor
    videos_input_name = "pixel_values_videos"
    images_input_name = "pixel_values"

    @classmethod
    def _setup_from_components(cls):
        return tiny_processor(tiny_config())

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_tokenizer()

    @classmethod
    def _setup_instruction_tokenizer(cls):
        return tiny_instruction_tokenizer()

    @classmethod
    def _setup_video_processor(cls):
        return HiComVideoProcessor(size={"height": 56, "width": 56})

    def get_component(self, attribute, use_tiny_ckpt=True, **kwargs):
        if attribute == "tokenizer":  # in the root of the folder; the others have subfolders
            return AutoTokenizer.from_pretrained(self.tmpdirname, **kwargs)
        return super().get_component(attribute, use_tiny_ckpt, **kwargs)

    @staticmethod
    def prepare_processor_dict():
        processor = tiny_processor(tiny_config())
        names = ("chat_template", "grid", "num_global_tokens", "instruction_length", "instruction_vocab_size")
        return {name: getattr(processor, name) for name in names}


class HiComVideoProcessorTester:
    batch_size, num_frames, num_channels = 5, 8, 3
    min_resolution, max_resolution = 30, 80
    size = {"height": 20, "width": 20}
    do_resize = True
    image_mean = image_std = [0.5, 0.5, 0.5]

    def prepare_video_processor_dict(self):
        return {
            **{"do_resize": True, "size": self.size, "do_normalize": True, "do_convert_rgb": True},
            **{"image_mean": self.image_mean, "image_std": self.image_std},
        }

    def expected_output_video_shape(self, videos):
        return [sum(min(MAX_FRAMES, len(video)) for video in videos), 3, 20, 20]  # packed on the first axis

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=self.min_resolution,
            max_resolution=self.max_resolution,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )


class HiComVideoProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = HiComVideoProcessor
    input_name = "pixel_values_videos"

    def setUp(self):
        super().setUp()
        self.video_processor_tester = HiComVideoProcessorTester()

    @property
    def video_processor_dict(self):
        return self.video_processor_tester.prepare_video_processor_dict()

    def assert_expected_videos_shape(self, encoded_videos, expected_output_video_shape, num_videos):
        self.assertEqual(list(encoded_videos.shape), list(expected_output_video_shape))
