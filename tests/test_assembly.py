"""`hicom init`: SigLIP's towers and a decoder arrive unchanged, the compressor is new, nothing is half-written."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTokenizer,
)
from video_files import numbered_frames

from hicom_hf import HiComForConditionalGeneration
from hicom_hf.assembly.from_parts import assemble, load_instruction_tokenizer, save_new_folder
from hicom_hf.assembly.random_model import (
    TINY_INSTRUCTION,
    TINY_TEXT,
    TINY_VISION,
    tiny_instruction_tokenizer,
    tiny_tokenizer,
)
from hicom_hf.cli.main import main
from hicom_hf.hub import files
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.hub.new_folder import new_folder

TINY_DECODER = {name: value for name, value in TINY_TEXT.items() if name != "model_type"}
SMALL_COMPRESSOR = {"num_global_tokens": 8}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A random SigLIP's folder, both towers and the tokenizer."""
    folder = tmp_path_factory.mktemp("siglip")
    instruction = {**TINY_INSTRUCTION, "vocab_size": 258, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    SiglipModel(SiglipConfig(vision_config=dict(TINY_VISION), text_config=instruction)).save_pretrained(folder)
    tiny_instruction_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A random Qwen2 with more embeddings than tokens, as the published ones have; its tokenizer has the placeholders."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        **TINY_DECODER, vocab_size=300, eos_token_id=tokenizer.eos_token_id, pad_token_id=256, bos_token_id=None
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A random Llama with tied embeddings: no placeholders, no padding token, no chat template."""
    folder = tmp_path_factory.mktemp("llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "</s>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(**TINY_DECODER, vocab_size=257, tie_word_embeddings=True, bos_token_id=None, eos_token_id=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def changed_weights(folder, change):
    """Rewrite a folder's weight file."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_tensor_of_the_parts_arrives_unchanged(siglip, qwen, tmp_path):
    model, processor = assemble(siglip, qwen, SMALL_COMPRESSOR)
    save_new_folder(model, processor, tmp_path / "new")
    ours = load_model(tmp_path / "new", "cpu").state_dict()

    expected = {}
    for name, tensor in load_file(siglip / "model.safetensors").items():
        part, _, rest = name.partition(".")
        tower = {"vision_model": "model.vision_tower.", "text_model": "model.instruction_encoder."}.get(part)
        if tower:
            expected[tower + rest] = tensor
    for name, tensor in load_file(qwen / "model.safetensors").items():
        expected[name.replace("model.", "model.language_model.", 1)] = tensor
    assert {name for name in ours if ".compressor." not in name} == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def test_the_compressor_is_new_depends_on_the_seed_alone_and_is_named_untrained(siglip, qwen):
    state = torch.random.get_rng_state()
    first, again, other = (assemble(siglip, qwen, SMALL_COMPRESSOR, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.config.untrained_parts == ["compressor"]
    weights = [model.model.compressor.global_branch.queries for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("injection", ["direct", "fine"])
def test_the_compressor_starts_as_in_a_model_built_from_its_config(siglip, qwen, injection):
    model, _ = assemble(siglip, qwen, {**SMALL_COMPRESSOR, "local_injection": injection})
    ours = model.model.compressor.state_dict()
    reference = HiComForConditionalGeneration(model.config).model.compressor.state_dict()
    assert set(ours) == set(reference)
    for name, tensor in reference.items():
        if len(tensor.unique()) <= 3:  # zeros, ones, identities and their negatives
            assert torch.equal(ours[name], tensor), name
        else:  # drawn: two draws of the same distribution have about the same spread
            assert torch.isclose(ours[name].std(), tensor.std(), rtol=0.3), name


def test_a_prompt_without_video_gets_the_decoders_own_logits(siglip, qwen, llama):
    ids = torch.tensor([[5, 80, 17, 200]])
    for source in (qwen, llama):
        model, _ = assemble(siglip, source, SMALL_COMPRESSOR)
        decoder = AutoModelForCausalLM.from_pretrained(source).eval()
        with torch.no_grad():
            expected = decoder(input_ids=ids).logits
            assert torch.equal(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)


def test_what_a_decoder_lacks_is_added(siglip, llama, tmp_path):
    model, processor = assemble(siglip, llama, SMALL_COMPRESSOR)
    tokenizer = processor.tokenizer
    added = ["<|image_pad|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(added) == [257, 258, 259, 260]
    assert (model.config.image_token_id, model.config.video_token_id) == (257, 258)
    assert model.config.text_config.vocab_size == 261
    assert tokenizer.pad_token == "</s>"
    # ChatML is new to it, so its end of turn ends an answer, too.
    assert model.generation_config.eos_token_id == [256, 260]

    # An added token's row is the mean of the others, in the head, too, which is tied here.
    embeddings = model.get_input_embeddings().weight
    assert model.lm_head.weight is embeddings
    assert torch.allclose(embeddings[257:], embeddings[:257].mean(0).expand(4, -1), atol=1e-7)

    save_new_folder(model, processor, tmp_path / "new")
    loaded = load_model(tmp_path / "new", "cpu")
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert loaded.generation_config.eos_token_id == [256, 260]


def test_what_a_decoder_has_is_kept(siglip, qwen):
    model, processor = assemble(siglip, qwen, SMALL_COMPRESSOR)
    assert model.get_input_embeddings().num_embeddings == 300
    assert (processor.image_token_id, processor.video_token_id) == (259, 260)
    assert model.generation_config.eos_token_id == 258
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}]
    assert processor.apply_chat_template(chat, tokenize=False) == "[user]<|video_pad|>\nWhy?"


@pytest.mark.parametrize("decoder", ["qwen", "llama"])
def test_the_new_model_answers_about_a_video(siglip, decoder, request, tmp_path):
    model, processor = assemble(siglip, request.getfixturevalue(decoder), SMALL_COMPRESSOR)
    save_new_folder(model, processor, tmp_path / "new")
    model, processor = load_model(tmp_path / "new", "cpu"), load_processor(tmp_path / "new")
    inputs = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "video", "video": numbered_frames(9)}, {"type": "text", "text": "Why?"}],
            }
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == model.config.num_visual_tokens(9)
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[1] == (
        inputs["input_ids"].shape[1] + 3
    )


def test_an_llm_with_embeddings_of_another_name_is_joined(siglip, qwen, tmp_path):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=AutoConfig.from_pretrained(qwen).vocab_size)
    shutil.copytree(qwen, tmp_path / "gpt2", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    model, _ = assemble(siglip, tmp_path / "gpt2", SMALL_COMPRESSOR)
    assert model.lm_head.weight is model.model.language_model.wte.weight


def test_dtype_and_compressor_are_as_asked(siglip, qwen):
    config = {"formulation": "release", "ratio": [2, 7, 7], "global_injection": "direct", "num_global_tokens": 2}
    model, processor = assemble(siglip, qwen, config, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.compressor_config.global_injection == "direct"
    assert processor.num_visual_tokens(8) == model.config.num_visual_tokens(8) == 4 + 2


def test_no_path_of_this_machine_is_written_into_the_folder(siglip, qwen, tmp_path):
    model, processor = assemble(siglip, qwen, SMALL_COMPRESSOR)
    save_new_folder(model, processor, tmp_path / "new")
    for path in (tmp_path / "new").rglob("*"):
        if path.suffix in (".json", ".md", ".jinja"):
            assert str(siglip.parent) not in path.read_text(), path.name
            assert ".unfinished-" not in path.read_text(), path.name


def test_the_normalisation_of_this_siglip_is_taken_over(siglip, qwen):
    path = siglip / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 9}}))
    try:
        _, processor = assemble(siglip, qwen, SMALL_COMPRESSOR)
    finally:
        path.unlink()
    assert list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(processor.video_processor.image_std) == [0.4, 0.5, 0.6]
    assert dict(processor.video_processor.size) == {"height": 56, "width": 56}


def test_the_instruction_tokenizer_gives_the_ids_of_siglips(siglip):
    ours, theirs = load_instruction_tokenizer(siglip), tiny_instruction_tokenizer()
    assert ours("What is it?")["input_ids"] == theirs("What is it?")["input_ids"]


def test_siglips_sentencepiece_tokenizer_becomes_a_fast_one_with_its_ids(siglip, qwen, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    source = shutil.copytree(siglip, tmp_path / "siglip")
    for path in source.glob("*token*"):
        path.unlink()
    words = ["what", "is", "the", "red", "circle", "doing", "where", "does", "it", "go", "who", "are", "they", "video"]
    generator = random.Random(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(generator.choices(words, k=6)) for _ in range(500)),
        model_prefix=str(source / "spiece"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "pad_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))

    model, processor = assemble(source, qwen, SMALL_COMPRESSOR)
    save_new_folder(model, processor, tmp_path / "new")
    assert not list((tmp_path / "new").rglob("spiece.model"))
    slow = SiglipTokenizer.from_pretrained(source)
    for question in ("What is the RED circle doing?", "where?", ""):
        ids = load_processor(tmp_path / "new").encode_instructions([question])[0].tolist()
        expected = slow(question, padding="max_length", truncation=True, max_length=64)["input_ids"]
        assert ids == (expected if question else [1] * 64)


def test_a_tokenizer_that_cannot_be_made_fast_stays_slow_and_says_so(monkeypatch, tmp_path):
    def refuse(folder):
        raise ValueError("it treats spaces in another way")

    messages = []
    monkeypatch.setattr("hicom_hf.assembly.from_parts.fast_instruction_tokenizer", refuse)
    monkeypatch.setattr(
        "hicom_hf.assembly.from_parts.slow_instruction_tokenizer", lambda folder: f"slow one of {folder.name}"
    )
    monkeypatch.setattr("hicom_hf.assembly.from_parts.logger.warning", messages.append)
    (tmp_path / "siglip").mkdir()
    assert load_instruction_tokenizer(tmp_path / "siglip") == "slow one of siglip"
    assert "keeping the slow instruction tokenizer" in messages[0] and "spaces in another way" in messages[0]


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_siglip_with_a_missing_or_an_unknown_tensor_is_refused(siglip, qwen, tmp_path):
    shutil.copytree(siglip, tmp_path / "missing")
    changed_weights(tmp_path / "missing", lambda weights: weights.pop("text_model.head.bias"))
    with pytest.raises(ValueError, match=r"missing: 1 tensors are missing: head\.bias"):
        assemble(tmp_path / "missing", qwen, SMALL_COMPRESSOR)

    shutil.copytree(siglip, tmp_path / "unknown")
    changed_weights(tmp_path / "unknown", lambda weights: weights.update({"vision_model.extra": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"unknown: 1 tensors are not known: vision_model\.extra"):
        assemble(tmp_path / "unknown", qwen, SMALL_COMPRESSOR)


def test_a_decoder_with_a_missing_tensor_is_refused(siglip, qwen, tmp_path):
    shutil.copytree(qwen, tmp_path / "short")
    changed_weights(tmp_path / "short", lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"short: 1 tensors are missing: model\.norm\.weight"):
        assemble(siglip, tmp_path / "short", SMALL_COMPRESSOR)


def test_towers_and_decoders_that_are_something_else_are_refused(siglip, qwen):
    with pytest.raises(
        ValueError, match=r"a SigLIP with both towers is needed \(model_type 'siglip'\), this is 'qwen2'"
    ):
        assemble(qwen, qwen)
    with pytest.raises(FileNotFoundError, match="nowhere/: there is no such folder"):
        assemble("nowhere/", qwen)
    with pytest.raises(FileNotFoundError, match="nowhere/: there is no such folder"):
        assemble(siglip, "nowhere/")
    with pytest.raises(OSError, match=r"^no-such-siglip: there is no such folder, and no such Hub repo could be read"):
        assemble("no-such-siglip", qwen)
    with pytest.raises(OSError, match=r"^no-such-llm: there is no such folder, and no such Hub repo could be read"):
        assemble(siglip, "no-such-llm")
    with pytest.raises(ValueError, match="compressor_config has no field 'ratios'"):
        assemble(siglip, qwen, {"ratios": [4, 3, 3]})


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk full"), new_folder(tmp_path / "new") as folder:
        (folder / "config.json").write_text("{}")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_to_be_overwritten(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / "config.json").write_text("old")
    with pytest.raises(OSError, match="disk full"), new_folder(old, overwrite=True):
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (old / "config.json").read_text() == "old"


def test_overwriting_replaces_the_whole_folder(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    (old / "config.json").write_text("old")
    (old / "stale.bin").write_text("old")
    with new_folder(old, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_text() for path in old.iterdir()} == {"config.json": "new"}


def test_only_empty_folders_and_with_overwrite_model_folders_are_written_to(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="there is a file of this name"), new_folder(tmp_path / "file"):
        pass
    with pytest.raises(FileExistsError, match="this folder is not empty"), new_folder(tmp_path / "home"):
        pass
    with (
        pytest.raises(FileExistsError, match="this is no model folder"),
        new_folder(tmp_path / "home", overwrite=True),
    ):
        pass
    with new_folder(tmp_path / "empty") as folder:
        (folder / "config.json").touch()
    assert os.listdir(tmp_path / "empty") == ["config.json"]


# From the command line -----------------------------------------------------------------------------------------------


def test_init_makes_a_folder_from_two_folders(siglip, qwen, tmp_path, capsys):
    destination = tmp_path / "deep" / "new"
    arguments = ["init", str(destination), "--siglip", str(siglip), "--llm", str(qwen), "--ratio", "8", "7", "7"]
    assert main([*arguments, "--num-global-tokens", "0", "--formulation", "release"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{destination}\n"
    assert "random, untrained weights (compressor)" in captured.err
    config = load_model(destination, "cpu").config.compressor_config
    assert (config.ratio, config.num_global_tokens, config.global_injection) == ([8, 7, 7], 0, "none")
    assert config.formulation == "release"


def test_init_makes_a_tiny_folder_with_the_compressor_that_was_asked_for(tmp_path, capsys):
    assert main(["init", "--tiny", str(tmp_path / "a"), "--local-branch", "average_pool", "--seed", "3"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a'}\n"
    config = load_model(tmp_path / "a", "cpu").config
    assert (config.compressor_config.local_branch, config.compressor_config.local_injection) == (
        "average_pool",
        "none",
    )
    assert len(config.untrained_parts) == 4

    assert main(["init", "--tiny", str(tmp_path / "b"), "--local-branch", "none", "--dtype", "bfloat16"]) == 0
    model = load_model(tmp_path / "b", "cpu")
    assert model.config.compressor_config.local_branch is None
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["new"], 2, "--siglip and --llm is missing"),
        (["new", "--siglip", "a"], 2, "--llm is missing"),
        (["new", "--tiny", "--llm", "a"], 2, "argument --tiny: makes all parts itself, so it does not go with --llm"),
        (["new", "--tiny", "--ratio", "4", "0", "3"], 2, "argument --ratio: must be at least 1, got 0"),
        (["new", "--tiny", "--formulation", "ours"], 2, "argument --formulation: invalid choice: 'ours'"),
        (
            ["new", "--tiny", "--global-injection", "direct"],
            1,
            "global_injection='direct' makes all global tokens equal",
        ),
        (
            ["new", "--tiny", "--local-branch", "none", "--num-global-tokens", "0"],
            1,
            "a compressor needs a local branch",
        ),
        (["new", "--siglip", "nowhere/", "--llm", "nowhere/"], 1, "nowhere/: there is no such folder"),
        (["full", "--tiny"], 1, "full: this folder is not empty; choose another one, or overwrite it (--overwrite)"),
    ],
)
def test_init_names_what_is_wrong_and_writes_nothing(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert main(["init", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and "Traceback" not in captured.err
    assert os.listdir(tmp_path) == ["full"]


def test_a_folder_whose_replacement_was_killed_between_two_renames_is_back_in_its_place(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])  # a process that is gone, for its number
    killed.wait()
    workplace = tmp_path / f"old.unfinished-{files._host()}-{killed.pid}-a"
    replaced = workplace / "old.replaced"
    replaced.mkdir(parents=True)
    (replaced / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not empty"), new_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old" / "config.json").read_text() == "{}" and not workplace.exists()
