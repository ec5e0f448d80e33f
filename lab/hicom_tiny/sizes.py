"""Sizes of hicom-tiny's parts. D = C = 128; 8 frames of 12 x 12 patches become 32 local and 8 global tokens."""

from typing import Any

from .word_tokenizers import INSTRUCTION_TOKENS, LLM_TOKENS

NUM_FRAMES = 8
IMAGE_SIZE, PATCH_SIZE = 144, 12  # pixels
INSTRUCTION_LENGTH = 24  # positions of the text tower; the longest description asks in 20 words

VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
INSTRUCTION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_size": 128,
    "max_position_embeddings": INSTRUCTION_LENGTH,
    "vocab_size": len(INSTRUCTION_TOKENS),
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LANGUAGE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "vocab_size": len(LLM_TOKENS),
    "bos_token_id": None,
    "eos_token_id": LLM_TOKENS.index("<|im_end|>"),
    "pad_token_id": LLM_TOKENS.index("<|endoftext|>"),
}
COMPRESSOR: dict[str, Any] = {"num_global_tokens": 8}
