"""Which option an answer names. The strict parser never guesses."""

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
# The words that announce a letter: "answer is", "Answer:", "option", "best choice would be"
CUE = r"\b(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*[:\-]?\s*[(\[*\"']*"
VERB_AFTER_LETTER = re.compile(r"\s+(?:is|was|because|since|as|and|or)\b")  # "A is right", but not "A car"
DENIAL = re.compile(r"(?:\bnot|n't|\bnor|\bneither|\bexcept|\bthan)\s+(?:option\s+)?[(\[]?\Z", re.IGNORECASE)


def parse_choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer names, or None if it names none, or several.

    Accepted are a letter that stands alone ("B", "(B)", "B. red", "Definitely B.", "the answer is b"), and the whole text of
    one option. A letter inside a word is none; "A" in front of a word is the article. Where several letters stand in an
    answer, the one behind "answer", "option" or "choice" counts, or else the one that opens the answer with a mark ("B. ...").

    Args:
        answer: the model's words.
        options: texts of the options A, B, ...

    Example:
        >>> parse_choice("Definitely B.", ["red", "blue"]), parse_choice("A blue car", ["red", "blue"])
        ('B', None)
        >>> parse_choice("A blue car", ["A red car", "A blue car"])
        'B'
    """
    text = THOUGHT.sub("", answer).strip()
    letters = LETTERS[: len(options)]
    alone = re.fullmatch(rf"[\s(\[*\"']*([{letters}{letters.lower()}])[\s)\]*\"'.:,]*", text)
    if alone:
        return alone[1].upper()
    texts = [_plain(option) for option in options]
    if texts.count(_plain(text)) == 1:
        return letters[texts.index(_plain(text))]
    standing = {match[1] for match in _standing_letters(text, letters)}
    announced = {match[1].upper() for match in re.finditer(rf"(?i:{CUE})([{letters}])(?![\w'])", text)} & standing
    announced |= {match[1].upper() for match in re.finditer(rf"(?i:{CUE})([{letters.lower()}])[)\]*\"'.]*\Z", text)}
    opening = re.match(rf"[(\[*\"']*([{letters}])[.):\]]", text)
    for found in (standing | announced, announced, {opening[1]} if opening else set()):
        if len(found) == 1:
            return found.pop()
    return None


def same_words(answer: str, expected: str) -> bool:
    """Whether two answers are equal but for case, spaces, and stops at the ends.

    Example:
        >>> same_words(" Red. ", "red"), same_words("dark red", "red")
        (True, False)
    """
    return _plain(THOUGHT.sub("", answer)) == _plain(expected)


def _plain(text: str) -> str:
    """Words alone, so that case, spaces and the stop at the end do not matter."""
    return " ".join(text.split()).strip(" .").casefold()


def _standing_letters(text: str, letters: str) -> list[re.Match]:
    """Capital letters that are words of their own and name an option."""
    found = []
    for match in re.finditer(rf"(?<![\w'’\-])([{letters}])(?![\w'’\-])", text):
        behind = text[match.end() :]
        is_article = match[1] in "AI" and re.match(r"\s+\w", behind) and not VERB_AFTER_LETTER.match(behind)
        if not is_article and not DENIAL.search(text[: match.start()]):
            found.append(match)
    return found
