"""The key-value cache of the LLM, under the name that the installed transformers gives it.

transformers 5.24 renamed `past_key_values` to `cache`, as an argument of `forward` and as a field of outputs.
"""

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def one_cache(cache, past_key_values):
    """The cache that `forward` was given, under either name.

    Raises:
        ValueError: if it was given under both.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("pass the cache once: `cache` and `past_key_values` are two names of the same argument")
    return past_key_values if cache is None else cache


def starts_a_prompt(cache, num_new_tokens: int) -> bool:
    """Whether a call of `forward` reads a prompt, and does not continue one. Never reads from the device.

    A static cache counts its tokens on the device. There, a call with more than one token counts as a prompt.
    """
    if cache is None:
        return True
    length = cache.get_seq_length()
    return length == 0 if isinstance(length, int) else num_new_tokens > 1


def is_packed(position_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Whether rows hold several samples one after another, whose positions (B, length) restart: a bool on their device.

    None where positions cannot show it.
    """
    if position_ids is None or position_ids.ndim != 2 or position_ids.shape[1] < 2:
        return None
    return (position_ids[:, 1:] <= position_ids[:, :-1]).any()


def check_packed_without_cache(use_cache: bool | None, cache: object) -> None:
    """
    Raises:
        ValueError: packed rows are to be read with a cache, which does not know where a sample begins.
    """
    if use_cache or cache is not None:
        raise ValueError(
            "position_ids restart within a row, so the row holds several packed samples, which a cache cannot keep apart; "
            "pass use_cache=False and no cache"
        )
