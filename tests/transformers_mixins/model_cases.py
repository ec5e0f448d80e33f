"""transformers' own tests of models, on HICom's classes; `test_transformers_mixins.py` runs them."""

import unittest

import torch
from transformers.models.auto import modeling_auto
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, torch_device
from transformers_tests.test_pipeline_mixin import PipelineTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from hicom_hf import HiComConfig, HiComForConditionalGeneration, HiComModel

# As it would be if HICom were a part of the library.
modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["hicom"] = "HiComForConditionalGeneration"
modeling_auto.MODEL_MAPPING_NAMES["hicom"] = "HiComModel"

NUM_GLOBAL_TOKENS = 3
NUM_VISUAL_TOKENS = 4 + NUM_GLOBAL_TOKENS  # 4 x 4 patches in groups of 3 x 3, of one frame or of three
FIRST_PLAIN_TOKEN = 10  # ids below are special ones
INSTRUCTION_LENGTH = 8


class HiComModelTester:
    """Makes the configuration and the inputs that the mixins ask for."""

    image_token_id, video_token_id = 5, 6
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 4, 99
    pad_token_id, is_training, image_size, num_channels = 0, True, 16, 3
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    text_config = {
        **{"model_type": "qwen2", "vocab_size": 99, "num_key_value_heads": 2, "max_position_embeddings": 580},
        **{"hidden_act": "gelu", "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 4, **tower},
    }
    vision_config = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4, **tower}
    instruction_config = {
        **{"model_type": "siglip_text_model", "vocab_size": 50, "projection_size": 32, "pad_token_id": 1},
        **{"max_position_embeddings": INSTRUCTION_LENGTH, "bos_token_id": None, "eos_token_id": 1, **tower},
    }

    def __init__(self, is_video: bool, batch_size: int):
        self.is_video, self.batch_size = is_video, batch_size
        self.num_frames = 3 if is_video else 1
        self.seq_length = 7 + NUM_VISUAL_TOKENS

    def get_config(self):
        return HiComConfig(
            text_config=dict(self.text_config),
            vision_config=dict(self.vision_config),
            instruction_config=dict(self.instruction_config),
            compressor_config={"num_global_tokens": NUM_GLOBAL_TOKENS},
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
        )

    def prepare_config_and_inputs_for_common(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], 99 - FIRST_PLAIN_TOKEN) + FIRST_PLAIN_TOKEN
        input_ids[:, :NUM_VISUAL_TOKENS] = self.video_token_id if self.is_video else self.image_token_id
        pixels = floats_tensor([self.batch_size * self.num_frames, 3, self.image_size, self.image_size])
        instruction = ids_tensor([self.batch_size, INSTRUCTION_LENGTH], 48) + 2
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.is_video:
            inputs["pixel_values_videos"] = pixels
            inputs["video_num_frames"] = torch.full((self.batch_size,), self.num_frames, device=torch_device)
            inputs["video_instruction_ids"] = instruction
        else:
            inputs |= {"pixel_values": pixels, "image_instruction_ids": instruction}
        return self.get_config(), inputs


class HiComTests(ModelTesterMixin, GenerationTesterMixin, PipelineTesterMixin, TrainingTesterMixin):
    all_model_classes = (HiComModel, HiComForConditionalGeneration)
    pipeline_model_mapping = {
        "image-text-to-text": HiComForConditionalGeneration,
        "any-to-any": HiComForConditionalGeneration,
        "feature-extraction": HiComModel,
    }
    _is_composite = True
    additional_model_inputs = [
        *("pixel_values", "image_instruction_ids"),
        *("pixel_values_videos", "video_num_frames", "video_instruction_ids"),
    ]
    is_video = False
    batch_size = 7  # to which the comparisons of eager attention with SDPA pad a batch, with rows without placeholders

    def setUp(self):
        self.model_tester = HiComModelTester(self.is_video, self.batch_size)
        self.config_tester = ConfigTester(
            self,
            config_class=HiComConfig,
            has_text_modality=False,
            common_properties=["image_token_id", "video_token_id", "vision_batch_size"],
        )

    def test_config(self):
        self.config_tester.run_common_tests()


class HiComImageTest(HiComTests, unittest.TestCase):
    pass


class HiComVideoTest(HiComTests, unittest.TestCase):
    is_video = True
    pipeline_model_mapping = {}

    def prepare_config_and_inputs_for_generate(self, batch_size=2):  # frames are packed, as Qwen2-VL's are
        config, inputs = super().prepare_config_and_inputs_for_generate(batch_size)
        _, full = self.model_tester.prepare_config_and_inputs_for_common()
        inputs["pixel_values_videos"] = full["pixel_values_videos"][: batch_size * self.model_tester.num_frames]
        return config, inputs

    def _video_features_prepare_config_and_inputs(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return config, {name: value for name, value in inputs.items() if "video" in name}
