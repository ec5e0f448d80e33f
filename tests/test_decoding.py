"""A step of decoding: one graph, no reading from the device, whatever the model writes."""

import pytest
import torch
import torch._dynamo.testing
from transformers import DynamicCache, StaticCache

from hicom_hf.modeling.cache_hicom import CACHE, starts_a_prompt

NUM_FRAMES = 4
needs_compile = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"),
    reason="transformers' own code does not compile under a torch this old",
)


@pytest.fixture(scope="module")
def inputs(processor):
    frames = torch.randint(
        0, 256, (NUM_FRAMES, 40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    content = [{"type": "video", "video": frames.numpy()}, {"type": "text", "text": "What moves?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.fixture
def prefilled(model, inputs):
    """A static cache that holds the prompt, and the arguments of the next step."""
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + 8)
    with torch.no_grad():
        model(**inputs, **{CACHE: cache}, use_cache=True)
    return {
        "input_ids": torch.tensor([[7]]),
        "position_ids": torch.tensor([[length]]),
        CACHE: cache,
        "use_cache": True,
    }


def greedy(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=-1, **options)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@needs_compile
@torch.no_grad()
def test_a_step_with_a_static_cache_is_one_graph_with_the_same_logits(model, inputs, prefilled, fresh_compiler):
    ids = torch.cat([inputs["input_ids"], prefilled["input_ids"]], dim=1)
    expected = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -1]
    compiled = torch.compile(model.forward, fullgraph=True, backend="eager")  # a second graph is an error
    torch.testing.assert_close(compiled(**prefilled).logits[:, -1], expected, atol=2e-5, rtol=0)  # float32


def test_generate_may_compile_its_steps_in_one_graph(model, inputs):
    assert model._can_compile_fullgraph
    assert torch.equal(greedy(model, inputs, cache_implementation="static"), greedy(model, inputs))


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_a_model_that_writes_its_own_placeholder_continues(model, inputs, options):
    def write_placeholder(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([model.config.video_token_id]), 0.0)

    length = inputs["input_ids"].shape[1]
    output = greedy(model, inputs, logits_processor=[write_placeholder], **options)
    assert output[0, length:].tolist() == [model.config.video_token_id] * 6


@torch.no_grad()
def test_both_names_of_the_cache_are_taken_and_not_at_once(model, inputs):
    step = {"input_ids": torch.tensor([[7]])}
    by_name = {}
    for name in ("cache", "past_key_values"):
        cache = model(**inputs, use_cache=True)[CACHE]
        by_name[name] = model(**step, **{name: cache}).logits
    assert torch.equal(by_name["cache"], by_name["past_key_values"])
    with pytest.raises(ValueError, match="pass the cache once"):
        model(**step, cache=cache, past_key_values=cache)


def test_what_starts_a_prompt(model, prefilled):
    config = model.config.text_config
    assert starts_a_prompt(None, 1)
    assert starts_a_prompt(DynamicCache(config=config), 1)
    assert starts_a_prompt(StaticCache(config=config, max_cache_len=4), 3)
    assert not starts_a_prompt(prefilled[CACHE], 1)


@torch.no_grad()
def test_placeholders_without_pixels_are_refused_with_every_cache(model, inputs):
    config = model.config.text_config
    for cache in (None, DynamicCache(config=config), StaticCache(config=config, max_cache_len=200)):
        with pytest.raises(ValueError, match="but the 0 videos"):
            model(input_ids=inputs["input_ids"], **{CACHE: cache})


@needs_compile
@pytest.mark.parametrize("from_features", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_question_about_one_video_is_one_graph(model, inputs, from_features, fresh_compiler):
    question = {**inputs, "use_cache": False}  # with the frame count as a tensor, as the processor gives it
    if from_features:
        question["video_features"] = model.encode_videos(question.pop("pixel_values_videos"), [NUM_FRAMES])
    logits = torch.compile(model.forward, fullgraph=True, backend="eager")(**question).logits
    torch.testing.assert_close(logits, model(**inputs).logits, atol=2e-5, rtol=0)  # float32


@needs_compile
@pytest.mark.slow
@torch.no_grad()
def test_a_question_about_two_videos_is_one_graph_with_counts_as_a_list(model, processor, fresh_compiler):
    frames = torch.randint(
        0, 256, (5, 40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).numpy()
    content = [
        {"type": "video", "video": frames[:2]},
        {"type": "video", "video": frames},
        {"type": "text", "text": "What?"},
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    question = {**inputs, "video_num_frames": inputs["video_num_frames"].tolist(), "use_cache": False}
    explained = torch._dynamo.explain(model)(**question)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_compressor_is_not_compiled_again_for_each_clip_length(model, fresh_compiler):
    compressor, counter = model.model.compressor, torch._dynamo.testing.CompileCounter()
    compiled, generator = torch.compile(compressor, backend=counter), torch.Generator().manual_seed(0)
    for num_frames in (8, 16, 5, 9, 32, 33, 64, 4, 12, 100):
        video = torch.randn(1, num_frames, 7, 7, 64, generator=generator)
        arguments = (video, video.flip(0), (torch.randn(1, 64), torch.randn(1, 64, 64)))
        assert torch.equal(compiled(*arguments)[0], compressor(*arguments)[0])
    assert counter.frame_count <= 4  # one length; any; one that 4 does not divide; one group
