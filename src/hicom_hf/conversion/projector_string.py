"""The official option string, `mm_projector_type`: read once, strictly, and put into words.

The official program scans the string for what it knows and ignores the rest, so a typing error builds another model without
a word. Here every part of the string must be understood. What the official program ignores but people have written (a bare
`_coarse`) is accepted with a note that says what is really built.
"""

import re
from dataclasses import dataclass

from ..modeling.configuration_hicom import HiComCompressorConfig

KINDS = ("direct", "coarse", "fine", "off")
UNGUIDED = (None, "", "null", "off")  # values of `use_guide` that give no instruction to any branch
ADAPTED = {"q": "query adapters (adaptq)", "g": "instruction adapters (adaptg)"}  # unreleased, refused by name
SYNTAX = (
    "expected local + digits (frames, then rows and columns of a group) and / or global + digits (number of tokens), each "
    "followed by any of _guidedirect, _guidecoarse, _guidefine, _guideoff; the local part also by _adaptk, _adaptv, _adaptkv"
)


class UnreleasedOptionError(ValueError):
    """An official option that no released script uses and that hicom_hf does not build."""


@dataclass(frozen=True)
class ProjectorPlan:
    """What an option string builds.

    Attributes:
        config: the compressor in our terms.
        words: what is built, one line per branch.
        notes: where the string says something else than it builds, and other surprises.
    """

    config: HiComCompressorConfig
    words: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One branch's part of the string: its digits, its injection (None: from `use_guide`), adapters, words without effect."""

    digits: str
    injection: str | None
    adapters: str
    inert: tuple[str, ...]


def parse_projector_string(text: str, use_guide: str | None) -> ProjectorPlan:
    """Read `mm_projector_type` and `use_guide` of an official config.

    Args:
        text: such as "local43_global32_coarse"; the order of the two parts does not matter.
        use_guide: "direct", "coarse", "fine" or none of them; what a branch without its own `guide...` takes.

    Returns:
        The compressor's config under `formulation="release"`, and what it is in words.

    Raises:
        ValueError: for a part that is not understood; `UnreleasedOptionError` for an unreleased experiment, by name.

    Source: official release, projector builder.

    Example:
        >>> parse_projector_string("local43_global32_coarse", "direct").config.global_injection
        'direct'
    """
    if use_guide not in (*UNGUIDED, "direct", "coarse", "fine"):
        raise ValueError(
            f"use_guide is {use_guide!r} in the official config; expected null, 'off', 'direct', 'coarse' or 'fine'"
        )
    local, global_ = _split(text)
    inherited = "off" if use_guide in UNGUIDED else use_guide
    fields, words = {"formulation": "release", "local_branch": None}, []
    fields.update(local_injection="none", num_global_tokens=0, global_injection="none")
    if local is not None:
        found = re.fullmatch(r"(\d)(\d{1,2})", local.digits)
        if not found or "0" in (found[1], str(int(found[2]))):
            raise ValueError(
                f"mm_projector_type {text!r}: local{local.digits} must be followed by one digit for frames and one or two "
                "for rows and columns, none of them zero, as in local43"
            )
        frames, side = int(found[1]), int(found[2])
        kind = local.injection or inherited
        fields.update(local_branch="attention", ratio=(frames, side, side), local_injection=_ours(kind))
        fields.update(key_adapter="k" in local.adapters, value_adapter="v" in local.adapters)
        words.append(
            f"local branch: groups of {frames} x {side} x {side} patches, {_in_words(kind, local, inherited)}"
        )
        if local.adapters:
            gated = " and ".join(name for letter, name in (("k", "keys"), ("v", "values")) if letter in local.adapters)
            words[-1] += f", gated adapters on the {gated}"
    if global_ is not None:
        kind = global_.injection or inherited
        fields.update(num_global_tokens=int(global_.digits), global_injection=_ours(kind))
        words.append(f"global branch: {int(global_.digits)} tokens, {_in_words(kind, global_, inherited)}")
    notes = _notes(text, fields, use_guide, [part for part in (local, global_) if part is not None])
    return ProjectorPlan(HiComCompressorConfig(**fields), tuple(words), tuple(notes))


def _split(text: str) -> tuple[_Part | None, _Part | None]:
    """The local and the global part of the string."""
    if not isinstance(text, str) or not re.search("local|global", text):
        raise ValueError(f"mm_projector_type is {text!r}, which is no HICom compressor; {SYNTAX}")
    head, *pieces = re.split("(local|global)", text)
    if head.strip("_"):
        raise ValueError(f"mm_projector_type {text!r}: {head!r} is not understood; {SYNTAX}")
    parts = {}
    for name, rest in zip(pieces[::2], pieces[1::2], strict=True):
        if name in parts:
            raise ValueError(f"mm_projector_type {text!r} has two {name} parts; {SYNTAX}")
        parts[name] = _parse_part(text, name, rest)
    return parts.get("local"), parts.get("global")


def _parse_part(text: str, name: str, rest: str) -> _Part:
    """One part behind its `local` or `global`: digits, then words between underscores."""
    digits = re.split(r"\D", rest, maxsplit=1)[0]
    if not digits.strip("0"):
        raise ValueError(f"mm_projector_type {text!r}: {name} needs a number behind it; {SYNTAX}")
    injections, adapters, inert = [], "", []
    for word in filter(None, rest[len(digits) :].split("_")):
        if word.startswith("guide") and word[5:] in KINDS:
            injections.append(word[5:])
        elif (found := re.fullmatch("adapt([qkvg]+)", word)) is not None:
            adapters += found[1]
        elif word in KINDS:
            inert.append(word)
        else:
            raise ValueError(f"mm_projector_type {text!r}: {word!r} in the {name} part is not understood; {SYNTAX}")
    if len(injections) > 1 or len(set(adapters)) != len(adapters):
        raise ValueError(f"mm_projector_type {text!r} says the same thing twice in its {name} part")
    for letter in "qg":
        if letter in adapters:
            raise UnreleasedOptionError(
                f"mm_projector_type {text!r} asks for {ADAPTED[letter]}, an unreleased experiment that hicom_hf does not "
                "build; if the checkpoint holds no such tensors, remove the letter from the string in its config.json"
            )
    if name == "global" and adapters:
        raise ValueError(
            f"mm_projector_type {text!r}: adapt{adapters} stands in the global part, where the official program ignores it; "
            f"move it behind local... or remove it"
        )
    return _Part(digits, injections[0] if injections else None, adapters, tuple(inert))


def _ours(kind: str) -> str:
    return "none" if kind == "off" else kind


def _in_words(kind: str, part: _Part, inherited: str) -> str:
    source = f"guide{kind} in the string" if part.injection else "from use_guide"
    return f"no instruction ({source})" if kind == "off" else f"{kind} injection ({source})"


def _notes(text: str, fields: dict, use_guide: str | None, parts: list[_Part]) -> list[str]:
    """What a reader of the string may not expect."""
    notes = []
    for word in (word for part in parts for word in part.inert):
        notes.append(
            f"_{word} in {text!r} has no effect: the official program looks for 'guide{word}'. The branch takes "
            f"use_guide={use_guide!r} instead."
        )
    if fields["global_injection"] == "direct":
        notes.append(
            f"The global branch is direct: its {fields['num_global_tokens']} queries are all the pooled instruction, so its "
            "tokens are all equal, and its learned queries are not used."
        )
    kinds = {fields["local_injection"], fields["global_injection"]} - {"none"}
    if "fine" in kinds and len(kinds) > 1:
        notes.append(
            "Fine injection in one branch with another kind in the other cannot run in the official program, which hands one "
            "kind of instruction to both branches; here each branch is built as it is on its own."
        )
    if kinds and use_guide in UNGUIDED:
        notes.append(
            f"use_guide is {use_guide!r}, so the official program hands no instruction to the branches that ask for one; "
            "here they get it."
        )
    return notes
