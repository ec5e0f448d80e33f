"""SigLIP's text tokenizer as one `tokenizer.json`, so that nobody who loads a checkpoint needs SentencePiece.

`SiglipTokenizer` (slow) cleans a text up in Python (lower case, no punctuation, single spaces), lets SentencePiece
normalise and segment it, and appends `</s>`. The fast tokenizer does the same steps as a chain of `tokenizers`
normalizers in front of a Unigram model with the same pieces and scores. The ids are the same, except in three cases:

* Ties. SentencePiece adds scores up in float32, `tokenizers` in float64. Two segmentations of the same score, which
  only repetitions have ("000000" as 0|00|0|00 or 0|0|00|00), are decided by rounding, so the order may differ.
* Combining marks, if SentencePiece normalises (NFKC). It composes the sequences that its table lists; here every letter
  is composed with the marks behind it, which are sorted. A mark behind a character that stands for several letters
  (the ligature "ﬁ") or behind a deleted one, a second mark on "ï", or marks in an unusual order may come out otherwise,
  as may scripts that are newer than the Unicode version of `tokenizers`.
* Characters that no text should hold. If SentencePiece normalises: the name of a special token in full-width letters is
  plain text for both, but a piece of the vocabulary that spans its last two characters is not found here. If it falls
  back to bytes: the private characters, typed by a user, give the bytes of another one.
"""

import re
import string
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from tokenizers.normalizers import NFC, Lowercase, Precompiled, Prepend, Replace
from tokenizers.normalizers import Sequence as Chain
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from transformers import SiglipTokenizer

WORD_START = "▁"  # how SentencePiece writes a space, U+2581

# What Python calls white space (`str.isspace`, and `\s` in `re`), as the inside of a character class.
# For `\s`, the regular expressions of `tokenizers` leave out U+001C to U+001F.
WHITE_SPACE = "\t\n\v\f\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# Python lower-cases a sigma that ends a word to a final sigma, `tokenizers` every sigma alike. `\K` begins the match.
FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\KΣ(?!\p{Case_Ignorable}*\p{Cased})"

# While the chain runs, one character marks each special token that a user typed, and another keeps characters apart.
# They are noncharacters of Unicode, and an unassigned character that no grapheme cluster includes: no vocabulary has
# them. If a text has one, the stand-in takes its place, which is equally unknown.
STAND_IN = "\ufdd0"
MARKS = "".join(map(chr, range(0xFDD1, 0xFDF0)))
SEPARATOR = "\ufff1"

# Enumerations of SentencePiece's model file.
UNIGRAM_MODEL = 1
NORMAL_PIECE, UNKNOWN_PIECE, CONTROL_PIECE, USER_DEFINED_PIECE, UNUSED_PIECE = range(1, 6)

# For a comparison before a tokenizer is written: every step of the clean-up, and no ties.
SELF_CHECK_TEXTS = (
    "",
    "?!",
    "What is the man doing?",
    " What is it? ",
    "How many people are in the picture? Answer briefly.",
    "Don't say \"nothing\": it's a T-shirt (size_3), isn't it...",
    "Where?\n\tHere,\r\n\x0b there\x1c and\xa0\u3000everywhere. ",
    "WHO THROWS THE BALL? İSTANBUL, ΟΔΟΣ ΣΟΦΟΣ, STRASSE, STRAẞE",
    "Qué hace la mujer? Où est l'été? naïve façade, Ångström",
    "cafe\u0301, n\u0303andu\u0301, \u1100\u1161\u11a8, q\u0323\u0301",
    "Что делает мужчина? 视频里有什么？ この動画は何ですか。 이 비디오는? ما هذا؟ מה זה? यह क्या है?",
    "ＦＵＬＬ ｗｉｄｔｈ １２３ ﬁ ½ ™ ① ﾊﾟ …“”–’",
    "👨‍👩‍👧 🇫🇷 ❤️ 👍🏽",
    "zero\u200bwidth\u200d \ufeffmarks\u2060 and\x01 control\x7f characters\x00",
    "▁typed▁ word▁▁starts",
    "a </s> typed</s>in <unk>a text, <pad>, </S>",
    "it ends</s>",
    "one two three four five six seven eight nine ten " * 12,
)


class TokenizerDifference(NamedTuple):
    """A text to which two tokenizers give different ids."""

    text: str
    slow_ids: list[int]
    fast_ids: list[int]


def slow_instruction_tokenizer(source: str | Path) -> "SiglipTokenizer":
    """Load SigLIP's own tokenizer from a folder with `spiece.model` and `tokenizer_config.json`.

    Raises:
        FileNotFoundError: `source` holds no `spiece.model`.
        ImportError: sentencepiece or protobuf is not installed.
    """
    if not (Path(source) / "spiece.model").is_file():
        raise FileNotFoundError(f"`source` {str(source)!r} holds no SigLIP text tokenizer: spiece.model is missing.")
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Reading a SentencePiece model takes sentencepiece and protobuf: `pip install hicom_hf[convert]`."
        ) from error
    from transformers import SiglipTokenizer

    return SiglipTokenizer.from_pretrained(str(source))


def fast_instruction_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """Make the fast form of SigLIP's text tokenizer, which saves to and loads from `tokenizer.json` alone.

    Args:
        source: A SigLIP folder with `spiece.model` and `tokenizer_config.json`. Without `spiece.model`, its
            `tokenizer.json` is loaded as it is.

    Returns:
        The tokenizer; it gives `input_ids` and no attention mask, because SigLIP attends to the padding. Texts are cut
        and padded on the source's terms (64 ids, `</s>` last, the source's padding token) on
        `tokenizer(texts, padding="max_length", truncation=True)`.

    Raises:
        FileNotFoundError: `source` holds neither file.
        ImportError: sentencepiece or protobuf is not installed, and `spiece.model` is to be read.
        ValueError: The SentencePiece model uses something that `tokenizers` cannot express.

    Source: transformers, `SiglipTokenizer`; SentencePiece, `normalizer.cc` and `unigram_model.cc`.
    Differs: transformers has no fast SigLIP tokenizer; the header of this file lists where the ids may differ.

    Example:
        tokenizer = fast_instruction_tokenizer("siglip-so400m-patch14-384")
        tokenizer("What is it?", padding="max_length", truncation=True).input_ids
    """
    folder = Path(source)
    if not (folder / "spiece.model").is_file():
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
        raise FileNotFoundError(
            f"`source` {str(source)!r} holds no SigLIP text tokenizer: neither spiece.model nor tokenizer.json is there."
        )
    slow = slow_instruction_tokenizer(folder)
    from transformers.convert_slow_tokenizer import import_protobuf

    protobuf: Any = import_protobuf()
    model = protobuf.ModelProto.FromString((folder / "spiece.model").read_bytes())
    _check_expressible(model, slow, folder)
    return PreTrainedTokenizerFast(
        tokenizer_object=_build_tokenizer(model, slow),
        eos_token=slow.eos_token,
        unk_token=slow.unk_token,
        pad_token=slow.pad_token,
        model_max_length=slow.model_max_length,
        padding_side=slow.padding_side,
        truncation_side=slow.truncation_side,
        model_input_names=["input_ids"],
        split_special_tokens=True,  # the chain finds them itself
    )


def tokenizer_differences(
    slow: PreTrainedTokenizerBase, fast: PreTrainedTokenizerBase, texts: Iterable[str]
) -> list[TokenizerDifference]:
    """Compare two tokenizers on texts, at full length as well as cut and padded as the model takes them.

    Args:
        slow: The reference, see `slow_instruction_tokenizer`.
        fast: What is to replace it, see `fast_instruction_tokenizer`.
        texts: What to compare on; an iterator is read once.

    Returns:
        The texts with different ids, in order; empty if the tokenizers agree.
    """
    differences = []
    as_model_input = {"padding": "max_length", "max_length": slow.model_max_length, "truncation": True}
    with warnings.catch_warnings():
        # The slow one announces that it does not append a second </s> to a text that ends in one; nor does the fast.
        warnings.filterwarnings("ignore", message="This sequence already has", category=UserWarning)
        for text in texts:
            for options in ({}, as_model_input):
                slow_ids = slow(text, verbose=False, **options)["input_ids"]
                fast_ids = fast(text, verbose=False, **options)["input_ids"]
                if slow_ids != fast_ids:
                    differences.append(TokenizerDifference(text, slow_ids, fast_ids))
                    break
    return differences


def _special_tokens(slow: "SiglipTokenizer") -> list[str]:
    """Return what is cut out of a text before anything else, longest first, since the longest match wins."""
    return sorted({*slow.all_special_tokens, *slow.get_added_vocab()}, key=lambda token: (-len(token), token))


def _check_expressible(model: Any, slow: "SiglipTokenizer", folder: Path) -> None:
    """Raise ValueError, with all reasons, if the chain of this file would not do what the model file asks for."""
    special_tokens = _special_tokens(slow)
    vocabulary = {piece.piece for piece in model.pieces}
    piece_types = {piece.type for piece in model.pieces}
    spaces_are_usual = (
        model.normalizer_spec.remove_extra_whitespaces
        and model.normalizer_spec.escape_whitespaces
        and not model.trainer_spec.treat_whitespace_as_suffix
    )
    reasons = {
        "it is not a Unigram model": model.trainer_spec.model_type != UNIGRAM_MODEL,
        "it treats spaces in another way than SigLIP's": not spaces_are_usual,
        "it has user-defined or unused pieces": not piece_types.isdisjoint({USER_DEFINED_PIECE, UNUSED_PIECE}),
        "it has added tokens outside its vocabulary": not vocabulary.issuperset(special_tokens),
        f"it has more than {len(MARKS)} special tokens": len(special_tokens) > len(MARKS),
        "its sp_model_kwargs change how texts are segmented": bool(slow.sp_model_kwargs),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(
            f"The text tokenizer in `source` {str(folder)!r} cannot be written as a tokenizer.json: "
            f"{'; '.join(found)}. Keep the slow one."
        )


def _build_tokenizer(model: Any, slow: "SiglipTokenizer") -> Tokenizer:
    tokens = _special_tokens(slow)
    mark_of = dict(zip(tokens, MARKS, strict=False))
    tokenizer = Tokenizer(
        Unigram(
            [(piece.piece, piece.score) for piece in model.pieces],
            unk_id=model.trainer_spec.unk_id,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    )
    tokenizer.normalizer = Chain(
        [
            *_mark_special_tokens(mark_of),
            *_canonicalize(_any_of(mark_of.values()), slow.do_lower_case),
            *_normalize_like_sentencepiece(model, _any_of(mark_of.values())),
            *_restore_special_tokens(model, mark_of, cast(str, slow.eos_token), cast(str, slow.unk_token)),
        ]
    )
    # Spaces stay inside: SentencePiece segments the text as a whole.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(map(re.escape, tokens))), behavior="isolated"),
            pre_tokenizers.Split(SEPARATOR, behavior="removed"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {slow.eos_token}",
        pair=f"$A {slow.eos_token} $B {slow.eos_token}",
        special_tokens=[(slow.eos_token, slow.eos_token_id)],
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _any_of(characters: Iterable[str]) -> str:
    return f"[{re.escape(''.join(characters))}]"


def _mark_special_tokens(mark_of: dict[str, str]) -> Sequence[Any]:
    return [
        Replace(Regex(f"[{MARKS}{SEPARATOR}]"), STAND_IN),
        *(Replace(token, mark) for token, mark in mark_of.items()),
    ]


def _canonicalize(any_mark: str, lower_case: bool) -> Sequence[Any]:
    """`SiglipTokenizer.tokenize` and `canonicalize_text`, for every part of the text between special tokens."""
    return [
        Replace(WORD_START, " "),
        *([Replace(Regex(FINAL_SIGMA), "ς"), Lowercase()] if lower_case else []),
        Replace(Regex(_any_of(string.punctuation)), ""),
        Replace(Regex(f"[{WHITE_SPACE}]+"), " "),
        # Strip each part. The first one keeps a leading space: it is stripped with a word start in front of it.
        Replace(Regex(rf" (?={any_mark}|\z)"), ""),
        Replace(Regex(f"(?<={any_mark}) "), ""),
        Prepend(WORD_START),
    ]


def _normalize_like_sentencepiece(model: Any, any_mark: str) -> Sequence[Any]:
    mapping = []
    if model.normalizer_spec.precompiled_charsmap:
        # `Precompiled` looks a whole grapheme cluster up and may drop its marks, so it is given single characters. What
        # SentencePiece maps as a sequence are compositions, which NFC makes afterwards.
        mapping = [
            Replace(Regex("(?<=.)(?=.)"), SEPARATOR),
            Precompiled(model.normalizer_spec.precompiled_charsmap),
            Replace(SEPARATOR, ""),
            NFC(),
        ]
    return [
        *mapping,
        Replace(Regex(" +"), " "),
        Replace(" ", WORD_START),
        Replace(Regex(rf"{WORD_START}+(?={any_mark}|\z)"), ""),
    ]


def _restore_special_tokens(model: Any, mark_of: dict[str, str], eos_token: str, unk_token: str) -> Sequence[Any]:
    steps = []
    # The slow tokenizer puts the text "<unk>" in front of each part and removes its pieces afterwards. If ">" is unknown
    # to the vocabulary, unknown characters that follow it join its piece and are removed, too.
    alphabet = {character for piece in model.pieces if piece.type == NORMAL_PIECE for character in piece.piece}
    if unk_token[-1] not in alphabet and not model.trainer_spec.byte_fallback:
        known = re.escape("".join(sorted(alphabet.union(mark_of.values()))))
        steps.append(Replace(Regex(f"(?<={_any_of(mark_of.values())})[^{known}]+"), ""))

    steps.append(Replace(Regex(rf"{mark_of[eos_token]}\z"), ""))  # a text that ends in </s> gets no second one

    # The Unigram model of `tokenizers` finds control pieces in a text, SentencePiece does not. Here is one only if the
    # normalisation made it of other characters, such as full-width ones.
    controls = [piece.piece for piece in model.pieces if piece.type in (CONTROL_PIECE, UNKNOWN_PIECE)]
    steps += [Replace(piece, f"{piece[:-1]}{SEPARATOR}{piece[-1]}") for piece in controls]
    return [*steps, *(Replace(mark, token) for token, mark in mark_of.items())]
