"""When the step of decoding is compiled: once that pays.

Compiling costs a minute and saves milliseconds of each step, so a single answer is faster without it. How many steps will
follow is not known beforehand. The rule (that of the ski-rental problem): compile when the steps so far have lost as much time
as compiling takes. The time lost is then at most twice what it would be if the number of steps were known.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.torch_version import TorchVersion
from transformers import CompileConfig, GenerationConfig
from transformers.utils import logging

from .answer_caches_hicom import AnswerCache, AnswerCaches
from .cache_hicom import CACHE

logger = logging.get_logger(__name__)

# Both for 7B in bfloat16, and not measured on a GPU. A step takes 19 ms there (one H100); reading all weights once takes 4.5 ms.
COMPILE_SECONDS = 60.0
SAVED_SECONDS_PER_STEP = 0.014
STEPS_THAT_PAY = round(COMPILE_SECONDS / SAVED_SECONDS_PER_STEP)
FIRST_COMPILING = "2.7"  # torch; under 2.6.0, transformers' own code does not compile
DEVICES = ("cuda",)
# Answers in float32 are promised to be those of every batch and machine; a compiler adds in another order.
DTYPES = (torch.bfloat16, torch.float16)
# Arguments of `generate` that name a cache or how to compile, or that a cache of fixed size cannot serve.
OTHER_CACHES = (
    "cache_implementation",
    "past_key_values",
    "cache",
    "compile_config",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
)


def this_torch_compiles() -> bool:
    """Whether transformers' own code compiles under the torch that is there."""
    return TorchVersion(torch.__version__) >= FIRST_COMPILING


def compile_decoding(model: Any) -> None:
    """Let `generate` compile the step of decoding, over a cache whose size does not change; on CPUs as well.

    The model's own `generation_config` is not changed: it is saved with the model, and a folder says nothing of this machine.
    """
    settings = CompileConfig()
    settings._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue] transformers annotates it as None
    model.compile_settings = settings
    model.answer_caches = AnswerCaches()


@contextmanager
def compiled_answer(model: Any, prompt: torch.Tensor | None, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a call of `generate` needs besides its arguments for a compiled step, with a cache that later answers use again.

    Args:
        model: of `compile_decoding` or not.
        prompt: (B, length) token ids, or (B, length, C) embeddings.
        arguments: of the call.
    """
    step = compiled_step(model.compile_settings, model.generation_config, arguments)
    size = answer_size(model.generation_config, prompt, arguments) if step else None
    config = model.config.get_text_config(decoder=True)
    if size is None or model.answer_caches is None or not AnswerCache.suits(config):
        yield step
        return
    with model.answer_caches.cache(config, *size) as cache:
        yield {"compile_config": step["compile_config"], CACHE: cache}


def answer_size(
    own: GenerationConfig, prompt: torch.Tensor | None, arguments: dict[str, Any]
) -> tuple[int, int] | None:
    """Rows of the cache and tokens of prompt and answer. None where a kept cache cannot serve: the caller gets the cache, beams
    exchange its rows, a prompt comes in chunks, or it is not known how long an answer gets."""
    value = _values(own, arguments)
    beams, new_tokens = value("num_beams") or 1, value("max_new_tokens")
    both = arguments.get("input_ids") is not None and arguments.get("inputs_embeds") is not None
    kinds = beams > 1, value("return_dict_in_generate"), value("prefill_chunk_size"), value("custom_generate"), both
    if prompt is None or new_tokens is None or any(kinds):
        return None
    length = max(prompt.shape[1] + new_tokens, value("max_cache_len") or 0)
    return len(prompt) * (value("num_return_sequences") or 1), length


def compiled_step(settings: CompileConfig | None, own: GenerationConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a call of `generate` needs besides its arguments for a compiled step.

    Args:
        settings: of `compile_decoding`; None if it was not called.
        own: the model's.
        arguments: of the call.

    Returns:
        Nothing where the call names a cache or how to compile, or does what a cache of fixed size cannot: drafting, which takes
        tokens back, and answering without a cache.
    """
    value = _values(own, arguments)
    if settings is None or value("use_cache") is False or any(value(name) is not None for name in OTHER_CACHES):
        return {}
    return {"cache_implementation": "static", "compile_config": settings}


def _values(own: GenerationConfig, arguments: dict[str, Any]) -> Callable[[str], Any]:
    """What holds in a call of `generate`, by name: arguments before the given config before the model's own."""
    given = arguments.get("generation_config") or own

    def value(name: str) -> Any:
        if name in arguments:
            return arguments[name]
        found = getattr(given, name, None)
        return getattr(own, name, None) if found is None else found

    return value


def reason_not_to_compile(model: Any) -> str | None:
    """Why compiling the step of decoding would not pay, however many answers follow; None if it would.

    Args:
        model: with its weights where they will stay.
    """
    if model.device.type not in DEVICES:
        return f"the model is on {model.device.type}; compiled steps pay on {', '.join(DEVICES)}"
    if model.dtype not in DTYPES:
        return f"the weights are {model.dtype}, whose answers are promised to be the same in every batch"
    if getattr(model, "hf_quantizer", None) is not None:
        return "the LLM is quantized; its kernels decide what a step costs"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "the layers lie on several devices, between which a graph ends"
    if "flash" in (attention := str(model.config.text_config._attn_implementation)):
        return f"the LLM's attention is {attention}, at which a graph ends in every layer"
    if not this_torch_compiles():
        return f"transformers' code does not compile under torch {torch.__version__}"
    return None


class CompileWhenItPays:
    """Counts a model's uncompiled steps of decoding, and compiles after `steps` of them.

    A step writes one token of each row of a batch, so a batch of 8 answers takes the steps of its longest.

    Args:
        steps: 0 compiles with the next answer: for a server, where many are sure to follow and none should wait later.
    """

    def __init__(self, steps: int = STEPS_THAT_PAY):
        self.steps = steps
        self.num_steps = 0

    def count(self, model: Any, num_steps: int) -> None:
        """Adds the steps of an answer; `model.compile_rule` is None from the moment on at which it compiles."""
        self.num_steps += num_steps
        if self.num_steps < self.steps:
            return
        model.compile_rule = None
        reason = reason_not_to_compile(model)
        if reason is None:
            logger.info("the next answer takes up to a minute more: the step of decoding is compiled")
            compile_decoding(model)
