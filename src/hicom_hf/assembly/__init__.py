"""New models: from a SigLIP and an LLM, or with random weights; and the instruction tokenizer that both need."""

from .from_parts import assemble
from .instruction_tokenizer import fast_instruction_tokenizer, tokenizer_differences

__all__ = ["assemble", "fast_instruction_tokenizer", "tokenizer_differences"]
