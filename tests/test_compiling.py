"""When the step of decoding is compiled by itself: on a GPU, once it pays. A pretended device stands in for the GPU."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from hicom_hf.hub import loading
from hicom_hf.inference.session import HiComSession
from hicom_hf.modeling import compiling_hicom
from hicom_hf.modeling.compiling_hicom import STEPS_THAT_PAY, CompileWhenItPays, reason_not_to_compile
from hicom_hf.serving.replicas import EngineSettings

needs_compile = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"),
    reason="transformers' own code does not compile under a torch this old",
)


def pretended(**fields):
    """What the rule sees of a model."""
    known = {"device": torch.device("cuda"), "dtype": torch.bfloat16, "generation_config": GenerationConfig()}
    return SimpleNamespace(**known | fields)


def is_compiled(model):
    return model.generation_config.compile_config is not None


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
    assert model.generation_config.cache_implementation == "static"


@needs_compile
@pytest.mark.parametrize("from_embeddings", [False, True])
@torch.no_grad()
def test_a_model_counts_the_steps_of_its_answers_and_answers_the_same_afterwards(model, monkeypatch, from_embeddings):
    monkeypatch.setattr(compiling_hicom, "DEVICES", ("cpu",))
    monkeypatch.setattr(compiling_hicom, "DTYPES", (torch.float32,))
    monkeypatch.setattr(model, "generation_config", GenerationConfig.from_dict(model.generation_config.to_dict()))
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
    model.generation_config.compile_config.backend = "eager"  # inductor takes minutes; what is compiled is the same
    torch._dynamo.reset()
    assert torch.equal(answer(), first)
    torch._dynamo.reset()


@needs_compile
def test_a_session_has_the_rule_where_it_may_pay_and_a_server_compiles_at_once(monkeypatch):
    assert HiComSession.load().model.compile_rule is None  # on a CPU
    monkeypatch.setattr(loading, "reason_not_to_compile", lambda model: None)
    assert isinstance(HiComSession.load().model.compile_rule, CompileWhenItPays)
    assert HiComSession.load(compile="off").model.compile_rule is None
    monkeypatch.setattr(compiling_hicom, "reason_not_to_compile", lambda model: None)
    with EngineSettings().open() as engine:
        assert is_compiled(engine.session.model)


@pytest.mark.parametrize("value", ["yes", None, 3])
def test_no_other_value_is_taken(value):
    with pytest.raises(ValueError, match="compile must be one of auto, on, off, got"):
        HiComSession.load(compile=value)
