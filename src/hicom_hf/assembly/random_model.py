"""A tiny random HICom with all its parts, made without any download: for tests, and for trying out the path.

Its weights are random, so its answers mean nothing.
"""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from ..modeling.configuration_hicom import HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.parts_hicom import PARTS
from ..processors.chat_template_hicom import multimodal_chat_template
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_processing_hicom import HiComVideoProcessor

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
LLM_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN, VIDEO_TOKEN)
INSTRUCTION_SPECIAL_TOKENS = ("<unk>", "</s>")

TINY_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 8,
}
TINY_INSTRUCTION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_size": 64,
    "max_position_embeddings": 64,
}
TINY_TEXT = {
    "model_type": "qwen2",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
TINY_COMPRESSOR = {"num_global_tokens": 8}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level LLM tokenizer: one token per byte, and Qwen2.5's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, *LLM_SPECIAL_TOKENS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", IMAGE_TOKEN, VIDEO_TOKEN],
        model_max_length=4096,
        padding_side="left",
    )


def tiny_instruction_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level stand-in for SigLIP's text tokenizer: lower case, no punctuation, `</s>` at the end and as padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*INSTRUCTION_SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), ""), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=64,
        padding_side="right",
        model_input_names=["input_ids"],
    )


def tiny_config(**compressor) -> HiComConfig:
    """The tiny model's config.

    Args:
        **compressor: fields of the compressor's config, over the tiny model's own.
    """
    tokenizer, instruction_tokenizer = tiny_tokenizer(), tiny_instruction_tokenizer()
    padding = {"bos_token_id": None, "eos_token_id": instruction_tokenizer.eos_token_id, "pad_token_id": 1}
    return HiComConfig(
        vision_config=dict(TINY_VISION),
        instruction_config={**TINY_INSTRUCTION, "vocab_size": len(instruction_tokenizer), **padding},
        text_config={
            **TINY_TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        compressor_config={**TINY_COMPRESSOR, **compressor},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        untrained_parts=list(PARTS),
    )


def tiny_processor(config: HiComConfig | None = None) -> HiComProcessor:
    """The processor that fits a tiny config."""
    config = config or tiny_config()
    side, compressor = config.vision_config.image_size, config.compressor_config
    return HiComProcessor(
        tokenizer=tiny_tokenizer(),
        instruction_tokenizer=tiny_instruction_tokenizer(),
        video_processor=HiComVideoProcessor(size={"height": side, "width": side}),
        chat_template=multimodal_chat_template(None, IMAGE_TOKEN, VIDEO_TOKEN),
        ratio=None if compressor.local_branch is None else compressor.ratio,
        grid=config.grid,
        num_global_tokens=compressor.num_global_tokens,
        instruction_length=config.instruction_config.max_position_embeddings,
        instruction_vocab_size=config.instruction_config.vocab_size,
    )


def tiny_model(seed: int = 0, **compressor) -> HiComForConditionalGeneration:
    """A tiny random model in evaluation mode.

    Args:
        seed: of the weights; the global random state is left as it was.
        **compressor: fields of the compressor's config.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HiComForConditionalGeneration(tiny_config(**compressor))
        # Usual initialisation is so small that the LLM's output hardly depends on what it sees. Keep signals at their size.
        for weight in (parameter for parameter in model.parameters() if parameter.ndim > 1):
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    return model.eval()
