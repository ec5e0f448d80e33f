"""HICom in ms-swift 4: supervised tuning with videos and images, whole or with LoRA. See docs/training.md for what was run.

    swift sft --external_plugins examples/plugins/ms_swift.py --model FOLDER --model_type hicom --dataset train.jsonl

A row has one question and one answer, since the question conditions the compression: {"messages": [...], "videos": ["a.mp4"]}.
HICOM_NUM_FRAMES in the environment is the number of frames of a video. The texts around a turn are those of Qwen2.5; for another
LLM, register another TemplateMeta.
"""

import os

import torch
from swift.model import ModelGroup, ModelLoader, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.template import Template, register_template
from swift.template.templates.qwen import Qwen2_5TemplateMeta

from hicom_hf import FrameSampling, HiComConfig, HiComForConditionalGeneration, HiComProcessor
from hicom_hf.data import ItemEncoder
from hicom_hf.data.record_media import Medium

NAME = "hicom"


class HiComLoader(ModelLoader):
    """Configuration, processor and model from a folder of ours."""

    def get_config(self, model_dir):
        return HiComConfig.from_pretrained(model_dir)

    def get_processor(self, model_dir, config):
        return HiComProcessor.from_pretrained(model_dir)

    def get_model(self, model_dir, config, processor, model_kwargs):
        self.auto_model_cls = self.auto_model_cls or HiComForConditionalGeneration
        return super().get_model(model_dir, config, processor, model_kwargs)


class HiComTemplate(Template):
    """Swift's text, with the visual tokens, the pixels and the instruction of HICom."""

    def replace_tag(self, media_type, index, inputs):
        return [{"image": self.processor.image_token, "video": self.processor.video_token}[media_type]]

    def _encode(self, inputs):
        questions = [message["content"] for message in inputs.messages if message["role"] == "user"]
        media = [("image", inputs.images or []), ("video", inputs.videos or [])]
        if any(sources for _, sources in media) and len(questions) > 1:
            raise ValueError(
                "each answer has its own instruction: split dialogues about videos into rows of one answer"
            )
        encoded = super()._encode(inputs)
        sampling = FrameSampling(num_frames=int(os.environ.get("HICOM_NUM_FRAMES", "32")))
        encoder = ItemEncoder(self.processor, sampling)
        for kind, sources in media:
            if not sources:
                continue
            visuals = [encoder.read(Medium(kind, source)) for source in sources]
            counts = [self.processor.num_visual_tokens(frames) for frames, _ in visuals]
            self._expand(encoded, getattr(self.processor, f"{kind}_token_id"), counts)
            encoded["pixel_values_videos" if kind == "video" else "pixel_values"] = torch.cat([p for _, p in visuals])
            instruction = self.processor.extract_instruction(questions[-1])
            encoded[f"{kind}_instruction_ids"] = self.processor.encode_instructions([instruction] * len(visuals))
            if kind == "video":
                encoded["video_num_frames"] = torch.tensor([frames for frames, _ in visuals])
        return encoded

    def _expand(self, encoded, token, counts):
        """A run of placeholders in the place of each."""
        places = [place for place, found in enumerate(encoded["input_ids"]) if found == token]
        if len(places) != len(counts):
            raise ValueError(f"{len(places)} placeholders for {len(counts)} videos or images")
        encoded["input_ids"], encoded["labels"], encoded["loss_scale"] = self._extend_tokens(
            encoded["input_ids"],
            encoded["labels"],
            encoded["loss_scale"],
            places,
            lambda number: [token] * counts[number],
        )

    def _data_collator_mm_data(self, batch):
        result = super()._data_collator_mm_data(batch)  # pixels
        for name in ("image_instruction_ids", "video_instruction_ids", "video_num_frames"):
            parts = [row[name] for row in batch if row.get(name) is not None]
            if parts:
                result[name] = torch.cat(parts)
        return result


register_model_arch(
    MultiModelKeys(
        NAME,
        language_model=["model.language_model", "lm_head"],
        aligner=["model.compressor"],
        vision_tower=["model.vision_tower", "model.instruction_encoder"],
    )
)
register_template(Qwen2_5TemplateMeta(NAME, template_cls=HiComTemplate))
register_model(
    ModelMeta(
        NAME,
        [ModelGroup([])],
        HiComLoader,
        template=NAME,
        model_arch=NAME,
        architectures=["HiComForConditionalGeneration"],
        is_multimodal=True,
    )
)
