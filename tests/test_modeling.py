"""The whole model: a batch equals its singles, a cached run equals an uncached one, features equal pixels."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, SiglipVisionModel, TextIteratorStreamer, TextStreamer

from hicom_hf import HiComForConditionalGeneration
from hicom_hf.assembly.random_model import tiny_config, tiny_model, tiny_processor

# float32; sums in another order when rows are computed together. Logits of the tiny model are about 1.
TOLERANCE = {"atol": 2e-5, "rtol": 0}


def frames(count, seed):
    """A small video, uint8 (T, 40, 56, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 40, 56, 3), generator=generator, dtype=torch.uint8)


def chat(question, *visuals):
    """A chat with one user turn; a visual is ("video", frames) or ("image", frame)."""
    content = [{"type": kind, kind: value.numpy()} for kind, value in visuals]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


CHATS = [
    chat("What moves?", ("video", frames(9, 0))),
    chat("Which of the two is longer, and what is in the picture?", *(("video", frames(n, n)) for n in (4, 6))),
    chat("Hello."),
    chat("Is it red?", ("image", frames(1, 7)[0])),
    chat("All?", ("image", frames(1, 8)[0]), ("video", frames(9, 9)), ("image", frames(1, 10)[0])),
]


@pytest.fixture(scope="module")
def prepare(processor):
    def prepare(chats, **kwargs):
        return processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
        )

    return prepare


@pytest.fixture(scope="module")
def batch(prepare):
    return prepare(CHATS)


@pytest.fixture(scope="module")
def singles(prepare):
    return [prepare([one]) for one in CHATS]


def new_tokens(output, inputs):
    return output[:, inputs["input_ids"].shape[1] :]


def greedy(model, inputs, **kwargs):
    return new_tokens(model.generate(**inputs, max_new_tokens=6, do_sample=False, **kwargs), inputs)


@torch.no_grad()
def test_logits_of_a_mixed_batch_equal_those_of_its_rows(model, batch, singles):
    logits = model(**batch).logits
    for row, single in enumerate(singles):
        length = single["input_ids"].shape[1]
        torch.testing.assert_close(logits[row, -length:], model(**single).logits[0], **TOLERANCE)


@torch.no_grad()
def test_logits_depend_on_pixels_and_on_the_instruction(model, singles):
    inputs = singles[0]
    logits = model(**inputs).logits[:, -1]
    other_pixels = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"].flip(0)}
    other_question = {**inputs, "video_instruction_ids": inputs["video_instruction_ids"].roll(1, dims=1)}
    assert (model(**other_pixels).logits[:, -1] - logits).abs().max() > 1e-3
    assert (model(**other_question).logits[:, -1] - logits).abs().max() > 1e-3


def test_greedy_generation_of_a_batch_equals_its_singles(model, batch, singles):
    together = greedy(model, batch)
    for row, single in enumerate(singles):
        assert torch.equal(together[row], greedy(model, single)[0])


def test_all_that_the_processor_can_return_is_taken(model, prepare, batch):
    with_types = prepare(CHATS, return_mm_token_type_ids=True)
    assert "mm_token_type_ids" in with_types
    with torch.no_grad():
        assert torch.equal(model(**with_types).logits, model(**batch).logits)
    assert torch.equal(greedy(model, with_types), greedy(model, batch))
    assert torch.equal(greedy(model, with_types, num_beams=2), greedy(model, batch, num_beams=2))


def test_right_padding_generates_the_same(model, prepare, batch):
    right = prepare(CHATS, padding_side="right")
    assert not torch.equal(right["input_ids"], batch["input_ids"])
    assert torch.equal(greedy(model, right), greedy(model, batch))


def test_right_padded_logits_equal_left_padded_ones(model, prepare, batch):
    right = prepare(CHATS, padding_side="right")
    with torch.no_grad():
        left_logits, right_logits = model(**batch).logits, model(**right).logits
    for row in range(len(CHATS)):
        torch.testing.assert_close(
            right_logits[row, right["attention_mask"][row].bool()],
            left_logits[row, batch["attention_mask"][row].bool()],
            **TOLERANCE,
        )


def test_beams_of_a_batch_equal_its_singles(model, batch, singles):
    together = greedy(model, batch, num_beams=3, num_return_sequences=2).unflatten(0, (-1, 2))
    for row, single in enumerate(singles):
        alone = greedy(model, single, num_beams=3, num_return_sequences=2)
        assert torch.equal(together[row][:, : alone.shape[1]], alone)


def test_several_return_sequences_see_their_own_video(model, batch):
    # top_k=1 makes sampling deterministic: every copy of a row must equal the greedy answer.
    sampled = model.generate(**batch, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=3)
    expected = greedy(model, batch).repeat_interleave(3, dim=0)
    assert torch.equal(new_tokens(sampled, batch), expected)


def test_sampling_is_reproducible_by_seed(model, batch):
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(model.generate(**batch, max_new_tokens=6, do_sample=True, temperature=1.5))
    assert torch.equal(*outputs)
    torch.manual_seed(4)
    other = model.generate(**batch, max_new_tokens=6, do_sample=True, temperature=1.5)
    assert not torch.equal(outputs[0], other)


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 16}]
)
def test_caches_do_not_change_the_answer(model, batch, options):
    assert torch.equal(greedy(model, batch, **options), greedy(model, batch))


def test_cached_logits_equal_a_full_forward(model, singles):
    inputs = singles[1]
    run = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=-1
    )
    ids = run.sequences[:, :-1]
    with torch.no_grad():
        full = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -4:]
    torch.testing.assert_close(torch.stack(run.logits, dim=1), full, **TOLERANCE)


def test_streaming_gives_the_same_text(model, processor, singles):
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    expected = processor.tokenizer.decode(greedy(model, singles[0])[0])
    model.generate(**singles[0], max_new_tokens=6, do_sample=False, streamer=streamer)
    assert "".join(streamer) == expected
    assert issubclass(TextIteratorStreamer, TextStreamer)


def test_a_text_only_llm_may_draft_and_a_hicom_model_may_not(model, singles):
    torch.manual_seed(0)
    drafter = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    drafted = greedy(model, singles[0], assistant_model=drafter)
    assert torch.equal(drafted, greedy(model, singles[0]))
    with pytest.raises(ValueError, match="assistant_model cannot be a HICom model"):
        greedy(model, singles[0], assistant_model=tiny_model(seed=1))


def test_generation_from_embeddings_equals_generation_from_ids(model, singles):
    inputs = dict(singles[0])
    ids = inputs.pop("input_ids")
    embeds = model.get_input_embeddings()(ids)
    output = model.generate(**inputs, inputs_embeds=embeds, max_new_tokens=6, do_sample=False)
    assert torch.equal(output, greedy(model, singles[0]))


# Encode once, ask many -------------------------------------------------------------------------------------------------


def test_features_give_the_same_logits_as_pixels_bit_for_bit(model, batch, tmp_path):
    features = model.encode_videos(batch["pixel_values_videos"], batch["video_num_frames"])
    save_file(dict(features), tmp_path / "features.safetensors")
    without_pixels = {k: v for k, v in batch.items() if k not in ("pixel_values_videos", "video_num_frames")}
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(model(**without_pixels, video_features=features).logits, expected)
        loaded = load_file(tmp_path / "features.safetensors")
        assert torch.equal(model(**without_pixels, video_features=loaded).logits, expected)


def test_generation_from_features_equals_generation_from_pixels(model, batch):
    videos = model.encode_videos(batch["pixel_values_videos"], batch["video_num_frames"])
    images = model.encode_videos(batch["pixel_values"], torch.ones(len(batch["pixel_values"]), dtype=torch.long))
    rest = {k: v for k, v in batch.items() if k not in ("pixel_values", "pixel_values_videos", "video_num_frames")}
    for options in ({}, {"num_beams": 2}, {"use_cache": False}):
        from_features = greedy(model, rest, video_features=videos, image_features=images, **options)
        assert torch.equal(from_features, greedy(model, batch, **options))


@torch.no_grad()
def test_video_features_have_the_hidden_state_of_siglip(model, singles):
    inputs = {name: singles[0][name] for name in ("pixel_values_videos", "video_num_frames", "video_instruction_ids")}
    features = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])["features"]
    output = model.model.get_video_features(**inputs, return_dict=True)
    assert torch.equal(output.last_hidden_state, features.flatten(1, 2))
    assert output.last_hidden_state.shape == (9, 49, 64)


@torch.no_grad()
def test_what_siglips_layers_gave_is_returned_if_it_is_asked_for(singles):
    model = tiny_model(local_injection="none").model  # needs no last layer; it is run for who asks
    model.set_attn_implementation("eager")
    model.config.vision_batch_size = 4  # of nine frames
    inputs = {name: singles[0][name] for name in ("pixel_values_videos", "video_num_frames", "video_instruction_ids")}
    pixels = inputs["pixel_values_videos"]
    tower = SiglipVisionModel.forward(model.vision_tower, pixels, output_hidden_states=True, output_attentions=True)
    plain = model.get_video_features(**inputs)
    output = model.get_video_features(**inputs, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None and plain.attentions is None
    for name in ("hidden_states", "attentions"):
        assert len(output[name]) == len(tower[name])
        torch.testing.assert_close(output[name], tower[name], **TOLERANCE)
    torch.testing.assert_close(output.hidden_states[-2], output.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(output.pooler_output, plain.pooler_output, **TOLERANCE)
    model.config.output_hidden_states = True  # the default of a call
    images = model.get_image_features(pixels[:1], inputs["video_instruction_ids"])
    assert len(images.hidden_states) == len(output.hidden_states)
    with pytest.raises(ValueError, match="need pixel values"):
        features = model.encode_videos(pixels, [9])
        model.get_video_features(video_features=features, output_attentions=True)


def test_a_follow_up_question_does_not_run_siglip_vision(model, processor, singles):
    features = model.encode_videos(singles[0]["pixel_values_videos"], singles[0]["video_num_frames"])
    question = chat("And now?", ("video", frames(9, 0)))
    expected = processor.apply_chat_template(question, tokenize=True, return_dict=True, return_tensors="pt")
    content = [{"type": "video"}, {"type": "text", "text": "And now?"}]
    follow_up = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        video_num_frames=features["num_frames"].tolist(),
    )
    assert torch.equal(follow_up["input_ids"], expected["input_ids"])
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        answer = greedy(model, follow_up, video_features=features)
        assert not calls
        assert torch.equal(answer, greedy(model, expected))
        assert calls
    finally:
        hook.remove()


def test_features_that_are_not_needed_are_not_computed(processor):
    unconditional = tiny_model(local_injection="none", global_injection="coarse")
    pixels = processor.video_processor([frames(4, 0).numpy()])["pixel_values_videos"]
    features = unconditional.encode_videos(pixels, torch.tensor([4]))
    assert set(features) == {"features", "num_frames"}
    assert features["features"].shape == (4, 7, 7, 64)


@pytest.mark.parametrize("chunk", [1, 4, 7])
@torch.no_grad()
def test_frames_are_encoded_in_bounded_chunks(model, singles, chunk, monkeypatch):
    inputs, sizes = singles[0], []
    whole = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])
    monkeypatch.setattr(model.config, "vision_batch_size", chunk)
    hook = model.model.vision_tower.embeddings.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    try:
        chunked = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])
    finally:
        hook.remove()
    assert max(sizes) == chunk and sum(sizes) == 9
    for name in ("features", "aligned_features"):
        torch.testing.assert_close(chunked[name], whole[name], **TOLERANCE)


# Attention -------------------------------------------------------------------------------------------------------------


# Flex attention compiles (a minute), and both transformers and torch use what torch calls deprecated to do so.
FLEX_MARKS = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.parametrize("implementation", ["eager", "sdpa", pytest.param("flex_attention", marks=FLEX_MARKS)])
@torch.no_grad()
def test_attention_implementations_agree_and_show_the_same_compressor_attention(batch, implementation):
    reference = tiny_model()
    expected = reference(**batch, output_compressor_attentions=True)
    other = tiny_model()
    other.set_attn_implementation(implementation)
    assert other.model.compressor.config._attn_implementation == implementation
    assert other.model.vision_tower.config._attn_implementation == implementation
    output = other(**batch, output_compressor_attentions=True)
    seen = batch["attention_mask"].bool()  # what padding computes is nobody's business
    torch.testing.assert_close(output.logits[seen], expected.logits[seen], **TOLERANCE)
    torch.testing.assert_close(other(**batch).logits[seen], expected.logits[seen], **TOLERANCE)
    assert len(output.video_compressor_attentions) == 4 and len(output.image_compressor_attentions) == 3
    for seen, wanted in zip(output.video_compressor_attentions, expected.video_compressor_attentions, strict=True):
        torch.testing.assert_close(seen.local_weights, wanted.local_weights, **TOLERANCE)
        torch.testing.assert_close(seen.global_weights, wanted.global_weights, **TOLERANCE)
    first = output.video_compressor_attentions[0]
    assert first.local_weights.shape == (1, 27, 36)  # 9 frames of 7x7 patches: 3 x 3 x 3 groups of 4 x 3 x 3
    assert first.local_positions.shape == (27, 36, 3)
    assert first.global_weights.shape == (1, 1, 8, 9, 7, 7)


def test_attn_implementation_given_at_loading_reaches_every_part(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = HiComForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    parts = (loaded.model.vision_tower, loaded.model.instruction_encoder, loaded.model.language_model)
    for part in (*parts, loaded.model.compressor):
        assert part.config._attn_implementation == "eager"


# Saving, loading, types ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saving_in_shards_and_loading_changes_nothing(model, batch, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    loaded = HiComForConditionalGeneration.from_pretrained(tmp_path)
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    # Memory that is aligned otherwise lets the CPU's kernels sum in another order.
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, **TOLERANCE)


@torch.no_grad()
def test_bfloat16_runs_and_is_close(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    half = HiComForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    last, reference = half(**batch).logits[:, -1].float(), model(**batch).logits[:, -1]
    assert (last - reference).norm() / reference.norm() < 0.1  # bf16 keeps about 3 digits, through 7 layers


@torch.no_grad()
def test_each_part_may_be_loaded_in_a_type_of_its_own(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    parts = {"text_config": "bfloat16", "": torch.float32}
    mixed = HiComForConditionalGeneration.from_pretrained(tmp_path, dtype=parts)
    types = {name: parameter.dtype for name, parameter in mixed.named_parameters()}
    assert {dtype for name, dtype in types.items() if "language_model" in name or "lm_head" in name} == {
        torch.bfloat16
    }
    assert {dtype for name, dtype in types.items() if "language_model" not in name and "lm_head" not in name} == {
        torch.float32
    }
    assert (mixed.config.text_config.dtype, mixed.config.vision_config.dtype) == (torch.bfloat16, torch.float32)
    tower = mixed.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    assert torch.equal(tower, model.model.vision_tower.encoder.layers[0].mlp.fc1.weight)  # never was bfloat16
    last, reference = mixed(**batch).logits[:, -1].float(), model(**batch).logits[:, -1]
    assert (last - reference).norm() / reference.norm() < 0.1  # bf16 keeps about 3 digits
    for wrong, message in (
        ({"llm": "bfloat16"}, "no part 'llm'; parts are text_config"),
        ({"": "int8"}, "floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            HiComForConditionalGeneration.from_pretrained(tmp_path, dtype=wrong)
    with pytest.raises(ValueError, match="not for quantized models"):
        HiComForConditionalGeneration.from_pretrained(
            tmp_path, dtype=parts, quantization_config={"load_in_8bit": True}
        )


@torch.no_grad()
def test_features_reach_the_compressor_in_autocasts_type(model, singles):
    # In float32 they would take twice the memory, and training would sum them otherwise than an answer does.
    given, types = {k: v for k, v in singles[0].items() if "video" in k}, []
    hook = model.model.compressor.register_forward_pre_hook(
        lambda _, args: types.extend(part.dtype for part in args[:2])
    )
    try:
        model.model.get_video_features(**given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.model.get_video_features(**given)
    finally:
        hook.remove()
    assert types == [torch.float32] * 2 + [torch.bfloat16] * 2


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")  # bitsandbytes 0.46 computes in float16, and says so
@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
@torch.no_grad()
def test_8_bit_loading_leaves_siglip_and_the_compressor_alone(model, batch, tmp_path, library):
    pytest.importorskip(library)
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if library == "bitsandbytes":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(quant_type=Int8WeightOnlyConfig())
    model.save_pretrained(tmp_path)
    quantized = HiComForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config)
    changed = set()
    for name, module in quantized.named_modules():
        weight = module.weight.data if isinstance(module, torch.nn.Linear) else torch.empty(0)
        if weight.dtype == torch.int8 or type(weight) is not torch.Tensor:
            changed.add(name)
    assert changed and all(name.startswith("model.language_model.layers.") for name in changed)
    assert len(changed) == 2 * 7  # two layers of seven projections
    last, reference = quantized(**batch).logits[:, -1], model(**batch).logits[:, -1]
    assert 0 < (last - reference).norm() / reference.norm() < 0.2  # 8 bits keep about two digits


@torch.no_grad()
def test_device_map_auto_with_disk_offload_gives_the_same_logits(model, batch, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path / "model")
    offloaded = HiComForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": "350KB"},
        offload_folder=tmp_path / "offload",
    )
    assert "disk" in offloaded.hf_device_map.values()
    torch.testing.assert_close(offloaded(**batch).logits, model(**batch).logits, **TOLERANCE)
    assert torch.equal(greedy(offloaded, batch), greedy(model, batch))


def test_gradient_checkpointing_gives_the_same_gradients(batch):
    gradients = []
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.model.vision_tower.encoder.layers[0].gradient_checkpointing
        model(**batch, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys() and len(plain) > 50
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_tokens(model, batch):
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -3:] = batch["input_ids"][:, -3:]
    with torch.no_grad():
        output = model(**batch, labels=labels)
    logprobs = output.logits[:, -4:-1].log_softmax(-1)
    expected = -logprobs.gather(-1, labels[:, -3:, None]).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"local_branch": None, "local_injection": "none", "global_injection": "fine"},
        {"num_global_tokens": 0, "global_injection": "none", "ratio": (2, 7, 4)},
        {
            "local_branch": "average_pool",
            "local_injection": "none",
            "num_global_tokens": 0,
            "global_injection": "none",
        },
        {"formulation": "release", "global_injection": "direct"},
        {"formulation": "release", "local_injection": "fine", "global_injection": "fine"},
    ],
)
def test_every_kind_of_compressor_generates(fields):
    model = tiny_model(**fields)
    processor = tiny_processor(model.config)
    inputs = processor.apply_chat_template(
        CHATS, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    single = processor.apply_chat_template(
        CHATS[1], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(greedy(model, inputs)[1], greedy(model, single)[0])


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gpt2", "mistral"])
def test_any_decoder_serves_as_the_llm(model_type):
    fields = tiny_config().to_dict()
    text = {
        key: fields["text_config"][key]
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    }
    heads = {} if model_type.startswith("gpt") else {"num_key_value_heads": 2}
    fields["text_config"] = {**text, **heads, "num_attention_heads": 4, "model_type": model_type, "bos_token_id": None}
    keys = (
        "vision_config",
        "instruction_config",
        "text_config",
        "compressor_config",
        "image_token_id",
        "video_token_id",
    )
    from hicom_hf import HiComConfig

    model = HiComForConditionalGeneration(HiComConfig(**{key: fields[key] for key in keys})).eval()
    inputs = tiny_processor(model.config).apply_chat_template(
        CHATS[:2], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0).shape[0] == 2


# Errors ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_wrong_inputs_are_named(model, singles):
    inputs = singles[0]

    def run(**change):
        fields = {key: value for key, value in {**inputs, **change}.items() if value is not None}
        return model(**fields)

    with pytest.raises(ValueError, match="35 video placeholder tokens"):
        run(pixel_values_videos=inputs["pixel_values_videos"][:4], video_num_frames=torch.tensor([4]))
    with pytest.raises(ValueError, match="add up to the 9 frames"):
        run(video_num_frames=torch.tensor([5, 3]))
    with pytest.raises(ValueError, match="must be positive"):
        run(video_num_frames=torch.tensor([9, 0]))
    with pytest.raises(ValueError, match="needs video_num_frames"):
        run(video_num_frames=None)
    with pytest.raises(ValueError, match="pass video_instruction_ids"):
        run(video_instruction_ids=None)
    with pytest.raises(ValueError, match=r"35 video placeholder tokens .* the 2 videos given make 70"):
        run(video_instruction_ids=inputs["video_instruction_ids"].repeat(2, 1))  # two questions about one video
    with pytest.raises(ValueError, match="got 1 instructions for 2 videos"):
        run(video_num_frames=torch.tensor([5, 4]))
    with pytest.raises(ValueError, match=r"shape \(frames, 3, 56, 56\)"):
        run(pixel_values_videos=torch.zeros(9, 3, 64, 64))
    with pytest.raises(ValueError, match=r"placeholder tokens .* but the 0 videos"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="padded to all 64 positions, of which SigLIP pools the last; got 20"):
        run(video_instruction_ids=inputs["video_instruction_ids"][:, :20])
    features = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])
    with pytest.raises(ValueError, match=r"video_num_frames \[8\] are not those of the features, \[9\]"):
        run(pixel_values_videos=None, video_num_frames=torch.tensor([8]), video_features=features)
    with pytest.raises(ValueError, match="either pixel values or features"):
        run(video_features=features)
    incomplete = {name: value for name, value in features.items() if name != "aligned_features"}
    with pytest.raises(ValueError, match="no aligned_features"):
        run(pixel_values_videos=None, video_num_frames=None, video_features=incomplete)
