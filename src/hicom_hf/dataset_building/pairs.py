"""Instruction-answer pairs out of what the captioner wrote."""

from typing import Any

from ..evaluation.client import parse_json

TEXT = {"type": "string"}
PAIR = {
    "type": "object",
    "properties": {"instruction": TEXT, "answer": TEXT},
    "required": ["instruction", "answer"],
    "additionalProperties": False,
}


def pairs_schema(num_pairs: int) -> dict[str, Any]:
    """JSON schema of an answer with pairs."""
    pairs = {"type": "array", "items": PAIR, "minItems": num_pairs, "maxItems": num_pairs}
    return {"type": "object", "properties": {"pairs": pairs}, "required": ["pairs"], "additionalProperties": False}


def parse_pairs(text: str, num_pairs: int) -> list[dict[str, str]]:
    """At most `num_pairs` pairs of an answer.

    Raises:
        ValueError: there is no JSON in it, or no pair.

    Example:
        >>> parse_pairs('{"pairs": [{"instruction": "Describe the cat.", "answer": "A black cat."}]}', 3)
        [{'instruction': 'Describe the cat.', 'answer': 'A black cat.'}]
    """
    values = parse_json(text)
    entries = values.get("pairs")
    if not isinstance(entries, list):
        raise ValueError(f'the answer has no list "pairs": {text[:200]!r}')
    found = []
    for entry in entries[:num_pairs]:
        pair = [entry.get(key) for key in ("instruction", "answer")] if isinstance(entry, dict) else []
        texts = [value.strip() for value in pair if isinstance(value, str) and value.strip()]
        if len(texts) == 2:
            found.append({"instruction": texts[0], "answer": texts[1]})
    if not found:
        raise ValueError(f"no pair of the answer has an instruction and an answer: {text[:200]!r}")
    return found
