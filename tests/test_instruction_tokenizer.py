"""The fast form of SigLIP's text tokenizer gives the ids of the slow one."""

import json
import random
import subprocess
import sys
import textwrap
import unicodedata

import pytest
from shared_data import GOLDEN_DIR

from hicom_hf.assembly import instruction_tokenizer
from hicom_hf.assembly.instruction_tokenizer import (
    SELF_CHECK_TEXTS,
    WHITE_SPACE,
    TokenizerDifference,
    fast_instruction_tokenizer,
    slow_instruction_tokenizer,
    tokenizer_differences,
)

sentencepiece = pytest.importorskip("sentencepiece", reason="the slow tokenizer takes sentencepiece (extra: convert)")
pytest.importorskip("google.protobuf", reason="reading a SentencePiece model takes protobuf (extra: convert)")

# The settings of the published SigLIP tokenizer, as far as they matter here.
TOKENIZER_CONFIG = {
    "tokenizer_class": "SiglipTokenizer",
    "do_lower_case": True,
    "eos_token": "</s>",
    "pad_token": "</s>",
    "unk_token": "<unk>",
    "model_max_length": 64,
    "model_input_names": ["input_ids"],
    "sp_model_kwargs": {},
}
EOS, UNK = 1, 2  # ids, as in SigLIP's vocabulary

# What the small vocabularies are trained on, so that common words are pieces and others fall into several.
TRAINING_WORDS = """
what is the man doing in this video who throws ball how many people are there describe scene briefly colour of car
before after left right kitchen cooking running quickly untranslatable naïve crème brûlée façade señor über straße
ångström ελληνικά λόγος τέλος привет мир видео мужчина 猫 が 好き 视频 里 有 什么 비디오 사람 שלום مرحبا हिन्दी 7 42 1984
"""
WORDS = TRAINING_WORDS.split()
# Hard for one step of the clean-up or another.
VISIBLE_FRAGMENTS = """
? ! ... , 's " - _ (a) <b> {} \\n ~ ’ “quoted” – … 、 。 ▁ ▁▁ </s> <unk> <pad> </S> ＜／ｓ＞ ＜ｕｎｋ＞
İ I ı ΟΔΟΣ Σ ΑΣ'Σ ß ẞ ǅ Ω Å ﬁ ① ½ ™ ℃ ㍿ ﷺ ¨ ´ ＦＵＬＬ １２３ ﾊﾟ ｶﾞ 각 👨‍👩‍👧 🇫🇷 ❤️ 👍🏽 😀 𝔘𝔫𝔦 𐐀 क्षि ที่
"""
FRAGMENTS = (
    *VISIBLE_FRAGMENTS.split(),
    *(" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"),
    *("\u200b", "\u200d", "\u200e", "\u2060", "\ufeff", "\xad", "\x00", "\x01", "\x7f", "\x9f", "\ufffd"),
    *("\u1100\u1161\u11a8", "e\u0301", "q\u0301\u0323", "ａ\u0301", "x\u0345", "\u1ea1\u0302", "a\u0308"),
    *("\ufdd0", "\ufdd1", "\ufff1"),
)


def is_mark(character):
    return any(unicodedata.combining(part) for part in unicodedata.normalize("NFKC", character))


def random_texts(number, seed):
    """Strings of words, hard fragments and single random characters, from empty to far longer than 64 tokens."""
    generator = random.Random(seed)
    # Letters of all common scripts, and emoji. No loose marks: those have tests of their own.
    ranges = [(0x20, 0x24F), (0x370, 0x52F), (0x5D0, 0x6FF), (0x900, 0xDFF), (0x1E00, 0x33FF), (0x4E00, 0xD7A3)]
    ranges += [(0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x1F300, 0x1F9FF)]
    texts = []
    for _ in range(number):
        parts = []
        for _ in range(generator.choice([0, 1, 2, 4, 8, 16, 100])):
            kind = generator.random()
            if kind < 0.55:
                word = generator.choice(WORDS)
                parts.append(generator.choice([word, word.upper(), word.capitalize()]))
            elif kind < 0.9:
                parts.append(generator.choice(FRAGMENTS))
            else:
                character = chr(generator.randint(*generator.choice(ranges)))
                parts.append("" if is_mark(character) else character)
            parts.append(generator.choice(["", " "]))
        texts.append("".join(parts))
    return texts


def train(folder, normalization, **options):
    """Train a small SentencePiece model with SigLIP's ids for </s> and <unk>, and put its settings beside it."""
    generator = random.Random(0)
    corpus = [" ".join(generator.choices(WORDS, k=8)) for _ in range(2000)] + [".,;:!?'()<>/ "] * 20
    settings = {
        "model_type": "unigram",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "normalization_rule_name": normalization,
        "pad_id": 0,
        "eos_id": EOS,
        "unk_id": UNK,
        "bos_id": -1,
        "num_threads": 1,
        "minloglevel": 2,
    }
    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=str(folder / "spiece"), **{**settings, **options}
    )
    (folder / "spiece.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return folder


SOURCES = {
    "identity": {"normalization": "identity"},
    "nmt_nfkc": {"normalization": "nmt_nfkc"},
    "nfkc": {"normalization": "nfkc"},
    "nmt_nfkc_cf": {"normalization": "nmt_nfkc_cf"},
}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: train(root / name, **options) for name, options in SOURCES.items()}


@pytest.fixture(params=SOURCES)
def source(request, sources):
    return sources[request.param]


def golden_sources():
    return sorted(path.parent for path in GOLDEN_DIR.glob("e2e/*/siglip_tower/spiece.model"))


def skip_without_golden():
    if not golden_sources():
        pytest.skip(f"reference data not there: {GOLDEN_DIR}/e2e/*/siglip_tower (set HICOM_GOLDEN_DIR)")


@pytest.mark.parametrize("number", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_ids_are_equal_on_varied_strings(source, number):
    slow, fast = slow_instruction_tokenizer(source), fast_instruction_tokenizer(source)
    assert tokenizer_differences(slow, fast, random_texts(number, seed=0)) == []


def test_ids_are_equal_on_the_texts_of_the_self_check(source):
    slow, fast = slow_instruction_tokenizer(source), fast_instruction_tokenizer(source)
    assert tokenizer_differences(slow, fast, SELF_CHECK_TEXTS) == []


@pytest.mark.parametrize("number", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_ids_are_equal_with_the_tokenizers_of_the_golden_checkpoints(number):
    skip_without_golden()
    for golden in golden_sources():
        slow, fast = slow_instruction_tokenizer(golden), fast_instruction_tokenizer(golden)
        assert tokenizer_differences(slow, fast, random_texts(number, seed=1)) == []


def test_ids_are_equal_with_byte_fallback_apart_from_marks_and_private_characters(tmp_path):
    folder = train(tmp_path / "bytes", "nmt_nfkc", byte_fallback=True, vocab_size=600)
    slow, fast = slow_instruction_tokenizer(folder), fast_instruction_tokenizer(folder)
    left_out = {"\ufdd1", "\ufff1"}
    texts = ["".join(c for c in text if c not in left_out and not is_mark(c)) for text in random_texts(500, seed=4)]
    assert tokenizer_differences(slow, fast, texts) == []


@pytest.mark.parametrize(
    ("name", "step"),
    [("nmt_nfkc", 256), *(pytest.param(name, 32, marks=pytest.mark.slow) for name in ("identity", "nmt_nfkc"))],
)
def test_every_so_manyth_character_of_unicode_is_handled_alike(sources, name, step):
    slow, fast = slow_instruction_tokenizer(sources[name]), fast_instruction_tokenizer(sources[name])
    characters = [chr(code) for code in range(0, 0x20000, step) if not 0xD800 <= code < 0xE000]
    assert tokenizer_differences(slow, fast, [f"is{character}it {character} in" for character in characters]) == []


def test_the_golden_instructions_get_the_ids_that_the_official_program_used():
    skip_without_golden()
    from safetensors.torch import load_file

    checked = 0
    for golden in golden_sources():
        fast = fast_instruction_tokenizer(golden)
        for case in json.loads((golden.parent / "cases.json").read_text())["cases"]:
            guides = [sample["guide_text"] for sample in case["samples"]]
            expected = load_file(golden.parent / case["file"])["guided_input_ids"]
            ours = fast(guides, padding="max_length", max_length=64, truncation=True, return_tensors="pt").input_ids
            assert ours.tolist() == expected.tolist(), case["name"]
            checked += 1
    assert checked > 0


def test_a_batch_is_cut_and_padded_to_64_like_the_slow_one(source):
    slow, fast = slow_instruction_tokenizer(source), fast_instruction_tokenizer(source)
    texts = ["", "?!", "What is it?", "who " * 100, "who " * 62 + "is", "who " * 63, "who " * 64, "Who? </s>"]
    options = {"padding": "max_length", "max_length": 64, "truncation": True, "return_tensors": "pt"}
    with pytest.warns(UserWarning, match="This sequence already has </s>"):
        expected = slow(texts, **options)
    ours = fast(texts, **options)
    assert list(ours) == list(expected) == ["input_ids"]
    assert ours.input_ids.shape == (len(texts), 64)
    assert ours.input_ids.tolist() == expected.input_ids.tolist()
    assert ours.input_ids[0].tolist() == [EOS] * 64
    assert ours.input_ids[:, -1].tolist() == [EOS] * len(texts)


def test_settings_are_those_of_the_source(sources):
    fast = fast_instruction_tokenizer(sources["identity"])
    assert (fast.eos_token_id, fast.pad_token_id, fast.unk_token_id) == (EOS, EOS, UNK)
    assert (fast.model_max_length, fast.padding_side, fast.model_input_names) == (64, "right", ["input_ids"])
    assert len(fast) == len(slow_instruction_tokenizer(sources["identity"]))


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("What IS it?!", "what is it"),
        ("what\t\n is\u3000it  ", "what is it"),
        ("What's 3-D?", "whats 3d"),
        ("ΛΌΓΟΣ", "λόγος"),
        ("▁what", " what"),
        ("what </s> is", "what</s>is"),
        ("what</s>", "what"),
    ],
)
def test_clean_up_by_hand(sources, text, same_as):
    fast = fast_instruction_tokenizer(sources["identity"])
    assert fast(text).input_ids == fast(same_as).input_ids


def test_a_leading_space_makes_a_difference_as_in_the_slow_one(sources):
    fast = fast_instruction_tokenizer(sources["identity"])
    assert fast(" what").input_ids != fast("what").input_ids
    assert tokenizer_differences(slow_instruction_tokenizer(sources["identity"]), fast, [" what", "  what"]) == []


def test_typed_special_tokens_keep_their_ids(sources):
    fast = fast_instruction_tokenizer(sources["identity"])
    assert fast("</s></s>?").input_ids == [EOS, EOS]
    assert fast("<unk>").input_ids == [UNK, EOS]
    assert EOS not in fast("</S>").input_ids[:-1]


def test_without_lower_casing_capitals_stay(sources, tmp_path):
    (tmp_path / "spiece.model").write_bytes((sources["nmt_nfkc"] / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**TOKENIZER_CONFIG, "do_lower_case": False}))
    slow, fast = slow_instruction_tokenizer(tmp_path), fast_instruction_tokenizer(tmp_path)
    assert fast("WHO").input_ids != fast("who").input_ids
    assert tokenizer_differences(slow, fast, random_texts(200, seed=2)) == []


def test_white_space_is_what_python_calls_white_space():
    import re

    characters = "".join(map(chr, range(0x110000)))
    assert re.findall(f"[{WHITE_SPACE}]", characters) == list(filter(str.isspace, characters))


# The three kinds of difference that are left; the head of the module explains them.


def test_repetitions_may_only_differ_in_the_order_of_the_same_pieces(source):
    slow, fast = slow_instruction_tokenizer(source), fast_instruction_tokenizer(source)
    words = [syllable * number for syllable in ("0", "f", "ha", "is", "no") for number in range(2, 20)]
    for difference in tokenizer_differences(slow, fast, words):
        assert sorted(difference.slow_ids) == sorted(difference.fast_ids)


def test_marks_outside_of_the_table_are_the_known_difference_of_normalising_models(sources):
    texts = ["ﬁ\u0301", "i\u0308\u0301", "ï\u0301"]
    known = ["ﬁ\u0301", "ï\u0301"]
    for name in ("identity", "nmt_nfkc"):
        slow, fast = slow_instruction_tokenizer(sources[name]), fast_instruction_tokenizer(sources[name])
        found = [difference.text for difference in tokenizer_differences(slow, fast, texts)]
        assert found == ([] if name == "identity" else known)


def test_differences_are_reported_with_both_ids(sources):
    slow, other = slow_instruction_tokenizer(sources["identity"]), fast_instruction_tokenizer(sources["nmt_nfkc"])
    texts = iter(["", "ＷＨＯ"])
    assert tokenizer_differences(slow, other, texts) == [
        TokenizerDifference("ＷＨＯ", slow("ＷＨＯ").input_ids, other("ＷＨＯ").input_ids)
    ]


def test_the_saved_folder_loads_without_sentencepiece_and_gives_the_same_ids(sources, tmp_path):
    fast = fast_instruction_tokenizer(sources["nmt_nfkc"])
    fast.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    texts = [*SELF_CHECK_TEXTS, *random_texts(100, seed=3)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    program = """
        import json, pathlib, sys
        sys.modules["sentencepiece"] = sys.modules["google.protobuf"] = None
        from transformers import AutoTokenizer
        folder = pathlib.Path(sys.argv[1])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = json.loads((folder / "texts.json").read_text())
        batch = tokenizer(texts, padding="max_length", truncation=True)
        print(json.dumps([list(batch), batch["input_ids"]]))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = fast(texts, padding="max_length", truncation=True).input_ids
    assert json.loads(done.stdout) == [["input_ids"], expected]


def test_converting_the_converted_folder_changes_nothing(sources, tmp_path):
    fast = fast_instruction_tokenizer(sources["nmt_nfkc"])
    for folder in ("once", "twice"):
        fast.save_pretrained(tmp_path / folder)
        fast = fast_instruction_tokenizer(tmp_path / folder)
    once, twice = (tmp_path / folder / "tokenizer.json" for folder in ("once", "twice"))
    assert once.read_bytes() == twice.read_bytes()
    first = fast_instruction_tokenizer(sources["nmt_nfkc"])
    assert fast("What </s> IS it?!").input_ids == first("What </s> IS it?!").input_ids


def test_a_folder_without_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}.*neither spiece.model nor tokenizer.json is there"):
        fast_instruction_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}.*spiece.model is missing"):
        slow_instruction_tokenizer(tmp_path)


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_without_sentencepiece_the_error_names_the_extra(sources, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"takes sentencepiece and protobuf: `pip install hicom_hf\[convert\]`"):
        fast_instruction_tokenizer(sources["identity"])


@pytest.mark.parametrize(
    ("options", "settings", "reason"),
    [
        ({"model_type": "bpe"}, {}, "it is not a Unigram model"),
        ({"remove_extra_whitespaces": False}, {}, "it treats spaces in another way than SigLIP's"),
        ({"user_defined_symbols": ["ball"]}, {}, "it has user-defined or unused pieces"),
        ({}, {"extra_special_tokens": ["<new>"]}, "it has added tokens outside its vocabulary"),
        ({}, {"sp_model_kwargs": {"enable_sampling": True}}, "its sp_model_kwargs change how texts are segmented"),
    ],
)
def test_what_tokenizers_cannot_express_is_refused(tmp_path, options, settings, reason):
    folder = train(tmp_path / "odd", "identity", **options)
    (folder / "tokenizer_config.json").write_text(json.dumps({**TOKENIZER_CONFIG, **settings}))
    with pytest.raises(ValueError, match=rf"odd.*cannot be written as a tokenizer.json: {reason}\. Keep the slow one"):
        fast_instruction_tokenizer(folder)


def test_all_reasons_are_given_together(tmp_path, monkeypatch):
    monkeypatch.setattr(instruction_tokenizer, "MARKS", "\ufdd1")
    folder = train(tmp_path / "odd", "identity", model_type="bpe")
    with pytest.raises(ValueError, match="not a Unigram model; it has more than 1 special tokens"):
        fast_instruction_tokenizer(folder)
