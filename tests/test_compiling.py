"""When the step of decoding is compiled by itself: on a GPU, once it pays. A pretended device stands in for the GPU."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, GenerationConfig

from hicom_hf import example_videos
from hicom_hf.hub import loading
from hicom_hf.inference.session import HiComSession
from hicom_hf.modeling import compiling_hicom
from hicom_hf.modeling.cache_hicom import CACHE
from hicom_hf.modeling.compiling_hicom import STEPS_THAT_PAY, CompileWhenItPays, compiled_step, reason_not_to_compile
from hicom_hf.serving.replicas import EngineSettings

needs_compile = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"),
    reason="transformers' own code does not compile under a torch this old",
)


def pretended(attention="sdpa", **fields):
    """What the rule sees of a model."""
    config = SimpleNamespace(text_config=SimpleNamespace(_attn_implementation=attention))
    known = {"device": torch.device("cuda"), "dtype": torch.bfloat16, "config": config, "compile_settings": None}
    return SimpleNamespace(**known | fields)


def is_compiled(model):
    return model.compile_settings is not None


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@needs_compile
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"dtype": torch.float16, "hf_device_map": {"": 0}}, None),
        ({"device": torch.device("cpu")}, "is on cpu"),
        ({"device": torch.device("mps")}, "is on mps"),
        ({"dtype": torch.float32}, "float32"),
        ({"hf_quantizer": object()}, "quantized"),
        ({"attention": "flash_attention_2"}, "attention is flash_attention_2"),
        ({"hf_device_map": {"a": 0, "b": 1}}, "several devices"),
    ],
)
def test_where_compiling_pays(fields, reason):
    found = reason_not_to_compile(pretended(**fields))
    assert (found is None) if reason is None else (reason in found)


def test_no_torch_whose_compiler_does_not_suit(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    assert "does not compile under torch" in reason_not_to_compile(pretended())


@needs_compile
def test_it_pays_once_as_much_time_was_lost_as_compiling_takes():
    assert STEPS_THAT_PAY == 4286  # 60 s / 14 ms
    model, rule = pretended(), CompileWhenItPays()
    model.compile_rule = rule
    rule.count(model, STEPS_THAT_PAY - 1)
    assert not is_compiled(model) and model.compile_rule is rule
    rule.count(model, 1)
    assert is_compiled(model) and model.compile_rule is None


@needs_compile
@pytest.mark.parametrize("from_embeddings", [False, True])
@torch.no_grad()
def test_a_model_counts_the_steps_of_its_answers_and_answers_the_same_afterwards(
    model, monkeypatch, from_embeddings, fresh_compiler
):
    monkeypatch.setattr(compiling_hicom, "DEVICES", ("cpu",))
    monkeypatch.setattr(compiling_hicom, "DTYPES", (torch.float32,))
    monkeypatch.setattr(model, "compile_settings", None, raising=False)
    monkeypatch.setattr(model, "compile_rule", CompileWhenItPays(steps=12), raising=False)
    prompt = {"input_ids": torch.full((2, 9), 5)}
    if from_embeddings:
        prompt = {"inputs_embeds": model.get_input_embeddings()(prompt["input_ids"])}

    def answer():
        return model.generate(**prompt, max_new_tokens=6, do_sample=False, eos_token_id=-1)

    first = answer()
    assert model.compile_rule.num_steps == 6 and not is_compiled(model)
    assert torch.equal(answer(), first)
    assert model.compile_rule is None and is_compiled(model)
    for_a_test(model)
    assert torch.equal(answer(), first)
    assert counters["stats"]["unique_graphs"] == 1


def for_a_test(model):
    """With the compiler that takes seconds: inductor takes minutes, and what is compiled is the same."""
    model.compile_settings.backend = "eager"


@pytest.fixture(scope="module")
def compiled_session():
    session = HiComSession.load("hicom-tiny", device="cpu", compile="on")
    for_a_test(session.model)
    return session


@needs_compile
@pytest.mark.slow
@torch.no_grad()
def test_batches_of_all_sizes_are_compiled_twice_and_longer_answers_once_more(compiled_session, fresh_compiler):
    video, question = compiled_session.open(example_videos()[0]), "Which way does the cyan moon move?"
    caches = compiled_session.model.answer_caches
    caches.clear()

    def ask(rows, num_words):
        answers = video.ask_all([question] * rows, max_new_tokens=num_words)
        assert [answer.answer for answer in answers] == ["left"] * rows

    for rows, num_words in [(1, 4), (1, 4), (1, 9), (1, 5), (1, 12), (2, 4), (5, 4), (3, 20), (8, 4), (1, 4)]:
        ask(rows, num_words)
    # one row; any number of rows. All lengths are rounded up to one.
    assert counters["stats"]["unique_graphs"] == 2 and len(caches) == 5
    for rows, num_words in [(1, 300), (2, 300), (1, 700), (4, 700), (1, 4)]:
        ask(rows, num_words)
    assert counters["stats"]["unique_graphs"] == 4 and counters["graph_break"] == {}


def test_compiled_answers_come_from_one_thread_whoever_asks(compiled_session, monkeypatch):
    model, question, threads = compiled_session.model, "Which way does the cyan moon move?", set()
    hook = model.lm_head.register_forward_pre_hook(lambda *_: threads.add(threading.current_thread().name))
    video = compiled_session.open(example_videos()[0])
    try:
        assert list(video.stream(question, max_new_tokens=1)) == ["left"]
        assert video.ask(question, max_new_tokens=1).answer == "left"
        assert threads == {"hicom-compiled_0"}
        monkeypatch.setattr(model, "compile_settings", None)
        video.ask(question, max_new_tokens=1)
        assert threads == {"hicom-compiled_0", threading.current_thread().name}
    finally:
        hook.remove()


def test_what_a_cache_of_fixed_size_cannot_serve_is_not_compiled():
    settings, own = CompileConfig(), GenerationConfig()
    assert compiled_step(settings, own, {"max_new_tokens": 3}) == {
        "cache_implementation": "static",
        "compile_config": settings,
    }
    assert compiled_step(None, own, {}) == {}
    cache = DynamicCache()
    for name, value in {"past_key_values": cache, "assistant_model": object(), "use_cache": False}.items():
        assert compiled_step(settings, own, {name: value}) == {}
    for fields in ({"prompt_lookup_num_tokens": 3}, {"cache_implementation": "dynamic"}, {"use_cache": False}):
        given = GenerationConfig(**fields)
        assert compiled_step(settings, given, {}) == compiled_step(settings, own, {"generation_config": given}) == {}


def test_a_model_that_compiles_drafts_and_takes_a_cache_as_before_and_saves_no_word_of_it(compiled_session, tmp_path):
    model, prompt = compiled_session.model, {"input_ids": torch.full((1, 9), 5), "max_new_tokens": 4}
    drafted = model.generate(**prompt, do_sample=False, prompt_lookup_num_tokens=3)
    given = model.generate(**prompt, do_sample=False, **{CACHE: DynamicCache(config=model.config.text_config)})
    by_position = model.generate(prompt["input_ids"], GenerationConfig(use_cache=False, max_new_tokens=4))
    assert torch.equal(drafted, given) and torch.equal(by_position, given)
    model.generation_config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert not {"cache_implementation", "compile_config"} & set(saved)


@needs_compile
def test_a_session_has_the_rule_where_it_may_pay_and_a_server_compiles_at_once(monkeypatch):
    assert HiComSession.load().model.compile_rule is None  # on a CPU
    monkeypatch.setattr(loading, "reason_not_to_compile", lambda model: None)
    assert isinstance(HiComSession.load().model.compile_rule, CompileWhenItPays)
    assert HiComSession.load(compile="off").model.compile_rule is None
    monkeypatch.setattr(compiling_hicom, "reason_not_to_compile", lambda model: None)
    with EngineSettings().open() as engine:
        assert is_compiled(engine.session.model)
        assert engine.gauges()["answer_cache_bytes"] == 0


@pytest.mark.parametrize("value", ["yes", None, 3])
def test_no_other_value_is_taken(value):
    with pytest.raises(ValueError, match="compile must be one of auto, on, off, got"):
        HiComSession.load(compile=value)
