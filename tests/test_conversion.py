"""Official folders to ours: the files, the weights, the behaviour, and the kinds of sources."""

import json

import pytest
import torch
from huggingface_hub import constants
from official_checkpoints import (
    COARSE,
    DIRECT,
    TOWER,
    base_llm,
    checkpoint,
    convert,
    load,
    projector_run,
    weights,
    whole_siglip,
    write_config,
)
from safetensors.torch import save_file
from test_hub import files_in, hub_cache
from training_runs import recipe

from hicom_hf import HiComProcessor
from hicom_hf.cli.main import main
from hicom_hf.conversion.names import our_name
from hicom_hf.training.stages import load_stage


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return convert(DIRECT / "checkpoint", tmp_path_factory.mktemp("converted") / "hicom")


@pytest.fixture(scope="module")
def loaded(direct):
    return load(direct.folder)


# What is written -----------------------------------------------------------------------------------------------------


def test_the_folder_is_the_one_that_save_pretrained_writes(direct, loaded, tmp_path):
    model, processor = loaded
    again = tmp_path / "hicom"
    model.save_pretrained(again)
    processor.save_pretrained(again)
    assert files_in(direct.folder) == files_in(again)
    for name in ("model.safetensors", "config.json", "generation_config.json", "chat_template.jinja", "README.md"):
        assert (direct.folder / name).read_bytes() == (again / name).read_bytes(), name


def test_every_official_tensor_arrives_bit_by_bit(direct):
    official, ours = weights(), direct.tensors
    assert {our_name(name) for name in official} == set(ours)
    for name, tensor in official.items():
        assert torch.equal(ours[our_name(name)], tensor)
    assert direct.conversion.num_parameters == sum(tensor.numel() for tensor in official.values())


def test_shards_are_those_of_save_pretrained(loaded, tmp_path):
    converted = convert(DIRECT / "checkpoint", tmp_path / "hicom", max_shard_size="300KB")
    loaded[0].save_pretrained(tmp_path / "again", max_shard_size="300KB")
    assert len(converted.conversion.weight_files) > 3
    for name in (*converted.conversion.weight_files, "model.safetensors.index.json"):
        mine, theirs = (tmp_path / folder / name for folder in ("hicom", "again"))
        if name.endswith("json"):
            assert json.loads(mine.read_text()) == json.loads(theirs.read_text())
        else:
            assert mine.read_bytes() == theirs.read_bytes()


def test_no_path_of_this_machine_is_written(direct):
    for name in files_in(direct.folder):
        if name.endswith((".json", ".md", ".jinja")):
            assert str(DIRECT.parents[2]) not in (direct.folder / name).read_text()
            assert str(direct.folder.parent) not in (direct.folder / name).read_text()


@pytest.mark.parametrize("dtype", [torch.bfloat16, "fp32"])
def test_weights_are_cast_as_asked(direct, tmp_path, dtype):
    converted = convert(DIRECT / "checkpoint", tmp_path / "hicom", dtype=dtype)
    target = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    for name, tensor in converted.tensors.items():
        assert torch.equal(tensor, direct.tensors[name].to(target))
    assert load(tmp_path / "hicom")[0].dtype == target


def test_what_was_built_and_what_may_surprise_is_reported(direct):
    report = direct.conversion.to_dict()
    assert report["built"][1] == "global branch: 32 tokens, direct injection (from use_guide)"
    notes = "\n".join(report["notes"])
    for part in (
        "_coarse in",
        "tokens are all equal",
        "no <|image_pad|> and no <|video_pad|>; added",
        "first 32 sampled frames",
    ):
        assert part in notes


# Behaviour that comes along ------------------------------------------------------------------------------------------


def test_frames_are_prepared_as_in_the_release(loaded):
    processor = loaded[1].video_processor
    assert (processor.do_pad, processor.pad_value, processor.short_video, processor.num_frames) == (
        True,
        127,
        "repeat",
        8,
    )
    assert dict(processor.size) == {"height": 84, "width": 84}
    video = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 40, 60, 3).numpy() * 100
    prepared = processor(video)
    assert prepared["video_num_frames"].tolist() == [8]  # 3 frames, repeated
    grey = (127 / 255 - 0.5) / 0.5
    torch.testing.assert_close(prepared["pixel_values_videos"][0, :, 0, 0], torch.full((3,), grey))
    middles = prepared["pixel_values_videos"][:, 0, 42, 42]
    assert middles.unique(return_counts=True)[1].tolist() == [2, 4, 2]


def test_more_than_32_frames_survive(loaded):
    frames = torch.zeros(64, 28, 28, 3, dtype=torch.uint8).numpy()
    assert loaded[1].video_processor(frames, num_frames=64)["video_num_frames"].tolist() == [64]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"image_aspect_ratio": "square"}, {"do_pad": False}),
        ({"image_aspect_ratio": None}, {"do_pad": False}),
        ({"num_frames": 32}, {"num_frames": 32, "fps": None}),
        ({"num_frames": None}, {"fps": 1.0}),
    ],
)
def test_options_of_the_preprocessing_are_read(tmp_path, options, expected):
    convert(checkpoint(tmp_path / "official", **options), tmp_path / "hicom")
    processor = HiComProcessor.from_pretrained(tmp_path / "hicom").video_processor
    assert {name: getattr(processor, name) for name in expected} == expected


def test_the_prompt_has_the_layout_of_the_release(loaded):
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who?"}]}]
    assert loaded[1].apply_chat_template(chat, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|video_pad|>\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_last_question_is_the_instruction_in_64_positions(loaded):
    video = torch.zeros(8, 28, 28, 3, dtype=torch.uint8).numpy()
    chat = [
        {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a ball"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "who throws the ball?\nOptions:\nA. a man\nB. a child"}],
        },
    ]
    inputs = loaded[1].apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(inputs["video_instruction_ids"], loaded[1].encode_instructions(["who throws the ball?"]))
    assert inputs["video_instruction_ids"].shape == (1, 64)


def test_generation_is_greedy_and_stops_where_the_checkpoint_says(loaded):
    settings = loaded[0].generation_config
    assert (settings.do_sample, settings.eos_token_id, settings.pad_token_id) == (False, 502, 500)


def test_the_instruction_tokenizer_needs_no_sentencepiece(direct):
    assert {name for name in files_in(direct.folder) if name.startswith("instruction_tokenizer/")} == {
        "instruction_tokenizer/tokenizer.json",
        "instruction_tokenizer/tokenizer_config.json",
    }


# Other kinds of sources ----------------------------------------------------------------------------------------------


def test_bin_shards_give_the_same_folder(direct, tmp_path):
    source = checkpoint(tmp_path / "official")
    (source / "model.safetensors").unlink()
    items = list(weights().items())
    weight_map = {}
    for number, part in enumerate((items[::2], items[1::2])):
        file = f"pytorch_model-{number + 1:05}-of-00002.bin"
        torch.save(
            dict(part), source / file, _use_new_zipfile_serialization=bool(number)
        )  # both formats of torch.save
        weight_map |= {name: file for name, _ in part}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    converted = convert(source, tmp_path / "hicom")
    assert converted.conversion.weight_files == ("model.safetensors",)
    assert (tmp_path / "hicom/model.safetensors").read_bytes() == (direct.folder / "model.safetensors").read_bytes()


def test_a_projector_of_stage_1_becomes_a_folder_that_training_can_start_from(tmp_path):
    source, projector = projector_run(tmp_path / "stage1")
    llm, llm_tensors = base_llm(tmp_path / "qwen")
    siglip, siglip_tensors = whole_siglip(tmp_path / "siglip")
    converted = convert(source, tmp_path / "hicom", vision_tower=siglip, language_model=llm)
    assert converted.conversion.kind == "projector"
    official = {**projector, **llm_tensors, **siglip_tensors}
    expected = {our_name(name): tensor for name, tensor in official.items() if our_name(name) is not None}
    assert set(converted.tensors) == set(expected)
    assert all(torch.equal(converted.tensors[name], tensor) for name, tensor in expected.items())

    model, processor = load(tmp_path / "hicom")
    assert (processor.video_processor.do_pad, processor.video_processor.num_frames) == (False, 1)
    model = model.float()
    image = {"type": "image", "image": torch.zeros(28, 28, 3, dtype=torch.uint8).numpy()}
    chat = [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.model.compressor.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize(
    "options, new_injection, expected",
    [
        ({}, {"local_injection": "direct", "global_injection": "coarse"}, ("direct", "coarse")),
        ({"mm_projector_type": "local43_global32_coarse", "use_guide": "direct"}, None, ("direct", "direct")),
    ],
    ids=["stage 1", "stage 2"],
)
def test_the_next_stage_of_training_starts_from_a_converted_projector(tmp_path, options, new_injection, expected):
    source, _ = projector_run(tmp_path / "projector", **options)
    llm, siglip = base_llm(tmp_path / "qwen")[0], whole_siglip(tmp_path / "siglip")[0]
    converted = convert(source, tmp_path / "hicom", vision_tower=siglip, language_model=llm)
    stage = "conditional_pretraining" if new_injection else "instruction_tuning"
    start = recipe(stage, tmp_path / "hicom", tmp_path / "data.json", tmp_path / "out", new_injection=new_injection)
    model = load_stage(start)
    compressor = model.config.compressor_config
    assert (compressor.local_injection, compressor.global_injection) == expected
    weights_now = model.state_dict()
    assert all(torch.equal(weights_now[name], tensor.float()) for name, tensor in converted.tensors.items())


def test_a_projector_finds_its_models_where_its_config_names_them(tmp_path):
    source, _ = projector_run(tmp_path / "stage1")
    write_config(
        source,
        mm_projector_type="local43_global32",
        use_guide=None,
        _name_or_path="../qwen",
        mm_vision_tower="../siglip",
    )
    base_llm(tmp_path / "qwen")
    whole_siglip(tmp_path / "siglip")
    assert convert(source, tmp_path / "hicom", vision_tower=None).conversion.kind == "projector"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft calls it
def test_a_lora_run_is_merged_as_peft_merges_it(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import Qwen2ForCausalLM

    llm, _ = base_llm(tmp_path / "qwen")
    siglip, _ = whole_siglip(tmp_path / "siglip")
    source = tmp_path / "lora"
    base = Qwen2ForCausalLM.from_pretrained(llm, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        alpha_pattern={r"layers\.1\.mlp\.down_proj": 20},
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = peft.get_peft_model(base, config)
    model.save_pretrained(source)
    write_config(source)
    projector = {f"base_model.model.{name}": tensor for name, tensor in weights().items() if ".mm_projector." in name}
    torch.save(projector, source / "non_lora_trainables.bin")

    converted = convert(source, tmp_path / "hicom", vision_tower=siglip, language_model=llm, dtype="fp32")
    assert converted.conversion.kind == "LoRA"
    merged = model.merge_and_unload().state_dict()
    original = Qwen2ForCausalLM.from_pretrained(llm, dtype=torch.float32).state_dict()
    changed = [name for name in merged if not torch.equal(merged[name], original[name])]
    assert len(changed) == 4
    for name, tensor in merged.items():
        torch.testing.assert_close(converted.tensors[our_name(name)], tensor, atol=1e-6, rtol=0)  # float32, one sum


def test_a_lora_run_that_is_not_whole_is_an_error(tmp_path):
    pytest.importorskip("peft")
    llm, _ = base_llm(tmp_path / "qwen")
    source = tmp_path / "lora"
    source.mkdir()
    write_config(source)
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    with pytest.raises(FileNotFoundError, match=r"has an adapter but no non_lora_trainables\.bin"):
        convert(source, tmp_path / "hicom", language_model=llm)
    projector = {name: tensor for name, tensor in weights().items() if ".mm_projector." in name}
    torch.save(projector, source / "non_lora_trainables.bin")
    with pytest.raises(FileNotFoundError, match=r"has an adapter_config\.json but none of adapter_model"):
        convert(source, tmp_path / "hicom", language_model=llm)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    half = {name.format(0, "A"): torch.zeros(2, 64)}
    other = {name.format(7, "A"): torch.zeros(2, 64), name.format(7, "B"): torch.zeros(64, 2)}
    odd = {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 512)}
    for tensors, message in (
        (half, "only one of lora_A and lora_B for model.layers.0.self_attn.q_proj"),
        (other, "the base has no layers model.layers.7.self_attn.q_proj"),
        ({}, "the base has no layers for this empty adapter"),
        (odd, "only adapters of linear layers are merged"),
    ):
        save_file(tensors, source / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            convert(source, tmp_path / "hicom", vision_tower=whole_siglip_once(tmp_path), language_model=llm)
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="a LoRA adapter is needed, this is 'IA3'"):
        convert(source, tmp_path / "hicom", language_model=llm)


def whole_siglip_once(tmp_path):
    folder = tmp_path / "siglip"
    return folder if folder.exists() else whole_siglip(folder)[0]


def test_a_repo_id_is_read_from_the_hub(direct, tmp_path, monkeypatch):
    hub_cache(DIRECT / "checkpoint", tmp_path / "home", "user/official")
    hub_cache(TOWER, tmp_path / "home", "user/siglip")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    convert("user/official", tmp_path / "hicom", vision_tower="user/siglip")
    assert (tmp_path / "hicom/model.safetensors").read_bytes() == (direct.folder / "model.safetensors").read_bytes()
    with pytest.raises(
        OSError, match="the source 'user/absent' is no folder here, and no such Hub repo could be read"
    ):
        convert("user/absent", tmp_path / "hicom2")


def test_tied_embeddings_stay_tied(tmp_path):
    tensors = weights()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    source = checkpoint(tmp_path / "official", tensors=tensors, tie_word_embeddings=True)
    converted = convert(source, tmp_path / "hicom")
    assert "lm_head.weight" not in converted.tensors
    assert any("ties its embeddings" in note for note in converted.conversion.notes)
    model, _ = load(tmp_path / "hicom")
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    del tensors["lm_head.weight"]
    without_head = convert(
        checkpoint(tmp_path / "tied", tensors=tensors, tie_word_embeddings=True), tmp_path / "hicom2"
    )
    assert set(without_head.tensors) == set(converted.tensors)


def test_embeddings_grow_by_mean_rows_where_the_placeholders_do_not_fit(tmp_path):
    tensors = weights()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = tensors[name][:503].clone()
    source = checkpoint(tmp_path / "official", tensors=tensors, vocab_size=503)
    converted = convert(source, tmp_path / "hicom")
    assert any("grew from 503 to 505 rows" in note for note in converted.conversion.notes)
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        grown = converted.tensors[name]
        official = tensors[name.replace("language_model.", "")]
        assert torch.equal(grown[:503], official)
        mean = official.double().mean(0).half().expand(2, -1)
        torch.testing.assert_close(grown[503:], mean, atol=1e-4, rtol=0)  # half, one rounding
    assert load(tmp_path / "hicom")[0].get_input_embeddings().num_embeddings == 505


def test_towers_that_a_checkpoint_does_not_hold_come_from_the_siglip(tmp_path):
    siglip, siglip_tensors = whole_siglip(tmp_path / "siglip")
    tensors = {name: tensor for name, tensor in weights().items() if ".guide_encoder." not in name}
    converted = convert(checkpoint(tmp_path / "official", tensors=tensors), tmp_path / "hicom", vision_tower=siglip)
    assert "The checkpoint holds no text tower; it is taken from siglip." in converted.conversion.notes
    ours = converted.tensors
    assert torch.equal(ours["model.instruction_encoder.head.weight"], siglip_tensors["text_model.head.weight"])
    official = tensors["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"]
    assert torch.equal(ours["model.vision_tower.post_layernorm.weight"], official)


def test_a_checkpoint_without_instruction_needs_no_text_tower(tmp_path):
    tensors = {name: tensor for name, tensor in weights().items() if ".guide_encoder." not in name}
    source = checkpoint(tmp_path / "official", tensors=tensors, mm_projector_type="local43_global32", use_guide=None)
    converted = convert(source, tmp_path / "hicom")
    assert any("zeros are written for it" in note for note in converted.conversion.notes)
    unused = {name for name in converted.tensors if name.startswith("model.instruction_encoder.")}
    assert unused and not any(converted.tensors[name].any() for name in unused)
    assert set(converted.tensors) - unused == {our_name(name) for name in tensors}
    assert not load(tmp_path / "hicom")[0].config.compressor_config.uses_instruction


# From the command line -----------------------------------------------------------------------------------------------


def test_the_command_converts_and_says_what_it_built(tmp_path, capsys):
    arguments = [
        "convert",
        str(COARSE / "checkpoint"),
        str(tmp_path / "hicom"),
        "--vision-tower",
        str(COARSE / "siglip_tower"),
    ]
    assert main([*arguments, "--dtype", "bf16", "--max-shard-size", "1MB"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'hicom'}\n"
    assert "global branch: 32 tokens, coarse injection (guidecoarse in the string)" in captured.err
    assert "writing model-00001-of-" in captured.err
    assert json.loads((tmp_path / "hicom/config.json").read_text())["dtype"] == "bfloat16"


def test_the_command_reports_as_json(tmp_path, capsys):
    arguments = [
        "convert",
        str(DIRECT / "checkpoint"),
        str(tmp_path / "hicom"),
        "--vision-tower",
        str(TOWER),
        "--json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["dtype"], report["weight_files"]) == ("whole", "float16", ["model.safetensors"])


def test_the_command_fails_in_one_line(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "hicom")]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("hicom: error: ") and captured.err.count("\n") == 1
    assert main(["convert", str(DIRECT / "checkpoint")]) == 2
