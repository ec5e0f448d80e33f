"""What a type checker must know of the public names; read by pyright only, which compares the types, and never run."""

from typing import assert_type

import torch
from transformers import PreTrainedConfig

from hicom_hf import HiComConfig, HiComForConditionalGeneration, HiComProcessor, HiComSession
from hicom_hf.training import HiComDataset, HiComTrainer

model = HiComForConditionalGeneration.from_pretrained("hicom-7b")
assert_type(model, HiComForConditionalGeneration)
assert_type(model.config.compressor_config.num_global_tokens, int)
assert_type(model.config.compressor_config.ratio, list[int] | tuple[int, ...])
assert_type(model.config.num_visual_tokens(32), int)
assert_type(HiComConfig(text_config={"model_type": "qwen2"}).text_config, PreTrainedConfig)
features = model.encode_videos(torch.zeros(8, 3, 384, 384), [8])
assert_type(features.features, torch.Tensor)
assert_type(features.num_frames, torch.Tensor)
assert_type(HiComSession.load("hicom-tiny"), HiComSession)
trainer: type[HiComTrainer] = HiComTrainer
dataset: type[HiComDataset] = HiComDataset
processor: type[HiComProcessor] = HiComProcessor
