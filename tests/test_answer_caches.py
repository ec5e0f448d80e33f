"""Caches of fixed size that are kept from one compiled answer to the next. The step itself is not compiled here."""

import copy

import pytest
import torch
from transformers import GenerationConfig

from hicom_hf import example_videos
from hicom_hf.inference.session import HiComSession
from hicom_hf.modeling import answer_caches_hicom
from hicom_hf.modeling.answer_caches_hicom import AnswerCaches, rounded_length
from hicom_hf.modeling.cache_hicom import CACHE
from hicom_hf.modeling.compiling_hicom import answer_size, compile_decoding

SETTINGS = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}


@pytest.fixture
def keeping(model, monkeypatch):
    """A model that keeps caches of 32 tokens or more, and is not compiled."""
    monkeypatch.setattr(answer_caches_hicom, "SHORTEST", 32)
    for name in ("compile_settings", "answer_caches"):
        monkeypatch.setattr(model, name, None, raising=False)
    compile_decoding(model)
    monkeypatch.setattr(model.generation_config, "disable_compile", True)
    return model


def answer(model, rows=1, length=9, words=6, start=5, **options):
    prompt = (torch.arange(rows * length).reshape(rows, length) * 7 + start) % 90 + 20
    return model.generate(input_ids=prompt, max_new_tokens=words, **SETTINGS | options)


def answer_of_a_new_cache(model, *arguments, **options):
    caches, model.answer_caches = model.answer_caches, None
    try:
        return answer(model, *arguments, **options)
    finally:
        model.answer_caches = caches


def kept(model):
    """Addresses of what is kept, by rows and length."""
    return {
        size: [
            tensor.data_ptr()
            for layer in cache.layers
            for tensor in (layer.keys, layer.values, layer.cumulative_length)
        ]
        for size, cache in model.answer_caches._kept.items()
    }


@pytest.mark.parametrize(
    ("length", "longest", "expected"),
    [(1, None, 256), (256, 4096, 256), (257, 4096, 512), (3000, 4096, 4096), (3000, 3500, 3500), (3600, 3500, 3600)],
)
def test_lengths_are_rounded_up_to_what_the_model_has_positions_for(length, longest, expected):
    assert rounded_length(length, longest) == expected


def test_an_answer_sees_nothing_of_the_one_before(keeping):
    expected = [
        answer_of_a_new_cache(keeping, words=words, start=start) for words, start in ((20, 1), (3, 2), (20, 3))
    ]
    assert torch.equal(answer(keeping, words=20, start=1), expected[0])
    (cache,) = keeping.answer_caches._kept.values()
    for layer in cache.layers:  # what an answer that overflowed leaves
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    assert torch.equal(answer(keeping, words=3, start=2), expected[1])
    assert torch.equal(answer(keeping, words=20, start=3), expected[2])
    one_token = answer_of_a_new_cache(keeping, length=1)  # which is no step
    assert torch.equal(answer(keeping, length=1), one_token)


def test_tensors_of_one_size_keep_their_addresses_from_answer_to_answer(keeping):
    answer(keeping)
    first = kept(keeping)
    assert list(first) == [(1, 32)]
    answer(keeping, rows=3, length=30)
    answer(keeping, length=12, words=20)
    held = [torch.empty(4096) for _ in range(20)]  # what lies between answers
    answer(keeping, rows=3, length=40, words=2)
    del held
    answer(keeping, start=8)
    after = kept(keeping)
    assert list(after) == [(3, 64), (1, 32)] and after[1, 32] == first[1, 32]
    assert not set(after[1, 32]) & set(after[3, 64])
    marks = {
        tensor._dynamo_static_input_type
        for tensor in keeping.answer_caches._kept[1, 32].layers[0].__dict__.values()
        if isinstance(tensor, torch.Tensor)
    }
    assert marks == {"unguarded"}  # what CUDA graphs take as being where it was


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_that_are_padded_are_answered_as_alone(keeping, side):
    prompts = [torch.arange(20, 31), torch.arange(40, 45)]
    caches, keeping.answer_caches = keeping.answer_caches, None
    alone = [
        keeping.generate(input_ids=prompt[None], max_new_tokens=5, **SETTINGS)[0, -5:].tolist() for prompt in prompts
    ]
    keeping.answer_caches = caches
    ids, mask = torch.zeros(2, 11, dtype=torch.long), torch.zeros(2, 11, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if side == "right" else slice(11 - len(prompt), 11)
        ids[row, place], mask[row, place] = prompt, 1
    answer(keeping, rows=2, words=20)
    together = keeping.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, **SETTINGS)
    assert [row[-5:].tolist() for row in together] == alone and len(kept(keeping)) == 1


class Within:
    """A stopping criterion that does something while an answer is written, once."""

    def __init__(self, action):
        self.action, self.steps = action, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        if self.steps == 3:
            self.action()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def fail_with(error):
    def fail():
        raise error

    return Within(fail)


def test_an_answer_that_breaks_off_leaves_its_cache_to_the_next(keeping):
    expected = answer(keeping)
    first = kept(keeping)
    with pytest.raises(KeyboardInterrupt):
        answer(keeping, words=20, start=3, stopping_criteria=[fail_with(KeyboardInterrupt())])
    assert kept(keeping) == first
    assert torch.equal(answer(keeping), expected) and kept(keeping) == first


def test_where_memory_was_missing_nothing_is_kept(keeping):
    answer(keeping, rows=2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        answer(keeping, stopping_criteria=[fail_with(torch.cuda.OutOfMemoryError())])
    assert len(keeping.answer_caches) == 0


def test_answers_that_are_written_at_once_share_no_cache(keeping):
    expected, inner = answer_of_a_new_cache(keeping, start=1), []
    answer(keeping)  # one cache is there for both
    outer = answer(keeping, start=1, stopping_criteria=[Within(lambda: inner.append(answer(keeping, start=4)))])
    assert torch.equal(outer, expected)
    assert torch.equal(inner[0], answer_of_a_new_cache(keeping, start=4)) and len(keeping.answer_caches) == 1


def test_a_cache_that_the_caller_gets_and_one_whose_rows_beams_exchange_are_not_kept(keeping):
    given = answer(keeping, return_dict_in_generate=True)[CACHE].layers[0]
    before = given.keys.clone()
    answer(keeping, num_beams=2)
    assert len(keeping.answer_caches) == 0
    answer(keeping, start=30)
    assert torch.equal(given.keys, before) and len(keeping.answer_caches) == 1


def test_layers_that_attend_to_a_window_have_transformers_own_cache(keeping, monkeypatch):
    monkeypatch.setattr(keeping.config.text_config, "layer_types", ["sliding_attention", "full_attention"])
    monkeypatch.setattr(keeping.config.text_config, "sliding_window", 4)
    assert answer(keeping).shape == (1, 15) and len(keeping.answer_caches) == 0


def test_the_size_is_that_of_prompt_and_answer():
    own, prompt = GenerationConfig(max_new_tokens=7), torch.zeros(2, 9)
    assert answer_size(own, prompt, {}) == (2, 16)
    assert answer_size(
        own, prompt, {"generation_config": GenerationConfig(do_sample=True, num_return_sequences=3)}
    ) == (6, 16)
    assert answer_size(own, prompt, {"generation_config": GenerationConfig(max_new_tokens=2, max_cache_len=50)}) == (
        2,
        50,
    )
    both = {"input_ids": prompt, "inputs_embeds": prompt}
    for arguments in ({"max_new_tokens": None}, {"num_beams": 2}, {"prefill_chunk_size": 4}, both):
        assert answer_size(own, prompt, arguments) is None
    assert answer_size(own, None, {}) is None


def test_caches_are_bounded_in_bytes_and_the_one_not_used_for_longest_goes_first(keeping):
    answer(keeping)
    size = keeping.answer_caches.num_bytes
    text = keeping.config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert size == text.num_hidden_layers * 2 * 32 * text.num_key_value_heads * head * 4
    keeping.answer_caches = AnswerCaches(3 * size)
    for rows in (1, 2, 1, 3, 4):
        answer(keeping, rows=rows)
        assert keeping.answer_caches.num_bytes <= 3 * size
    assert not kept(keeping)  # four rows alone are more
    for rows in (1, 2, 1):
        answer(keeping, rows=rows)
    assert list(kept(keeping)) == [(2, 32), (1, 32)]


def test_a_copy_of_a_model_keeps_caches_of_its_own(keeping):
    answer(keeping)
    copied = copy.deepcopy(keeping.answer_caches)
    assert len(copied) == 0 and copied.max_bytes == keeping.answer_caches.max_bytes


def test_inference_mode_and_none_share_a_cache(keeping):
    expected = answer_of_a_new_cache(keeping)
    with torch.inference_mode():
        assert torch.equal(answer(keeping), expected)
    first = kept(keeping)
    assert torch.equal(answer(keeping), expected)
    with torch.inference_mode():
        assert torch.equal(answer(keeping), expected)
    assert kept(keeping) == first


def test_weights_of_another_precision_get_tensors_of_their_own(keeping):
    expected = answer(keeping)
    other = copy.deepcopy(keeping).to(torch.bfloat16)
    other.answer_caches = keeping.answer_caches
    answer(other)
    (cache,) = keeping.answer_caches._kept.values()
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert torch.equal(answer(keeping), expected)


def test_a_stream_that_is_left_in_the_middle_leaves_nothing_to_the_next_question(monkeypatch):
    session = HiComSession.load("hicom-tiny", device="cpu", compile="on")
    monkeypatch.setattr(session.model.generation_config, "disable_compile", True)
    video, question = session.open(example_videos()[0]), "Which way does the cyan moon move?"
    for _ in video.stream("What do you see? Describe it.", max_new_tokens=30):
        break
    assert "".join(video.stream(question, max_new_tokens=4)) == video.ask(question, max_new_tokens=4).answer == "left"
    assert [one.answer for one in video.ask_all([question] * 2, max_new_tokens=4)] == ["left"] * 2
    assert sorted(session.model.answer_caches._kept) == [(1, 256), (2, 256)]
