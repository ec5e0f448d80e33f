"""Tokenizers of whole words for the shapes world: one for the LLM, one for SigLIP's text tower."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hicom_hf.assembly.from_parts import CHATML_END, CHATML_START, IMAGE_TOKEN, VIDEO_TOKEN
from hicom_hf.shapes import VOCABULARY

END_OF_TEXT, UNKNOWN, END_OF_SENTENCE = "<|endoftext|>", "<unk>", "</s>"
ROLES = ("user", "assistant", "system")
LLM_TOKENS = (END_OF_TEXT, CHATML_START, CHATML_END, IMAGE_TOKEN, VIDEO_TOKEN, UNKNOWN, *ROLES, *VOCABULARY)
INSTRUCTION_TOKENS = (UNKNOWN, END_OF_SENTENCE, *(word for word in VOCABULARY if word.isalpha()))

# ChatML as the LLM learns it: no system prompt unless there is one, and no line breaks, which are no words.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def llm_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, in lower case, and per punctuation mark; with Qwen2.5's special tokens.

    Example:
        >>> llm_tokenizer().tokenize("Where is the red circle?")
        ['where', 'is', 'the', 'red', 'circle', '?']
    """
    tokenizer = _word_tokenizer(LLM_TOKENS, pre_tokenizers.Split(Regex("[^a-z]"), "isolated"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)  # words apart, punctuation behind its word
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token=CHATML_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[CHATML_START, IMAGE_TOKEN, VIDEO_TOKEN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        padding_side="left",
    )


def instruction_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """As SigLIP's: lower case, no punctuation, `</s>` at the end and as padding; a word is one token.

    Args:
        length: positions of the text tower.
    """
    tokenizer = _word_tokenizer(INSTRUCTION_TOKENS, pre_tokenizers.Split(Regex("[^a-z]"), "removed"))
    end = (END_OF_SENTENCE, INSTRUCTION_TOKENS.index(END_OF_SENTENCE))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_SENTENCE}", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        eos_token=END_OF_SENTENCE,
        pad_token=END_OF_SENTENCE,
        model_max_length=length,
        padding_side="right",
        model_input_names=["input_ids"],
    )


def _word_tokenizer(tokens: tuple[str, ...], split) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    return tokenizer
