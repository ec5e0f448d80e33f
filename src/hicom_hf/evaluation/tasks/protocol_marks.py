"""How the scripts of a protocol mark the same answers: explains differences from published numbers, never the headline.

Source: the authors' scripts (the `*_dump` functions of hicom/eval/video) and lmms-eval 0.7.3 (`mcq_extract`, and `utils.py` of
mvbench and egoschema).
"""

import re

from ..parsing import LETTERS, THOUGHT
from ..questions import Question
from .choices import letter_mark
from .task import Mark

OFFICIAL_DEFAULT = 2  # "C"
DIGITS = dict(
    zip("1234567890", ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"], strict=True)
)
# lmms-eval: words that announce a letter; the priority of each form in which a letter may stand.
PHRASES = (
    *(
        "the answer is",
        "answer is",
        "the correct answer is",
        "correct answer is",
        "the best answer is",
        "best answer is",
    ),
    *("the correct option is", "correct option is", "the best option is", "best option is"),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "my answer is", "my choice is"),
    *("i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
AFTER_LETTER = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}
START, END, PHRASE, FALLBACK = 10, 9, 7, 0
MVBENCH_MARKS = ';/[]"{}()=+\\_-><@`,?!'
MVBENCH_PERIODS = 32  # that are removed: the value of `re.UNICODE`, which is handed over as the count


def official_mark(question: Question, answer: str) -> Mark:
    """MVBench and MLVU: the first capital letter anywhere, the first option whose text is in the answer, or else C.

    A letter with a comma behind it is none ("B, ..." is C), because the comma is taken along and not taken off.
    """
    return _official(question, answer, ", (),", question.options)


def official_videomme_mark(question: Question, answer: str) -> Mark:
    """VideoMME: the same, with the last character of each option cut off and single digits also as words."""
    return _official(question, answer, "", tuple(option[:-1] for option in question.options))


def official_egoschema_mark(question: Question, answer: str) -> Mark:
    """EgoSchema: the first capital letter anywhere, or else C."""
    return _official(question, answer, " ()", ())


def _official(question: Question, answer: str, around: str, texts: tuple[str, ...]) -> Mark:
    """`around` are the characters that are taken along with a letter."""
    text = answer.replace("answer", "").replace("Answer", "")
    letters = LETTERS[: len(question.options)]
    taken = f"[{re.escape(around)}]*" if around else ""
    found = re.search(f"{taken}[{letters}]{taken}", text)
    if found:
        alone = found[0].strip().strip("()")
        place = letters.index(alone) if len(alone) == 1 else OFFICIAL_DEFAULT
    else:
        names = [{text.lower(), DIGITS.get(text, text).lower()} for text in texts]
        named = [number for number, some in enumerate(names) if any(name in text.lower() for name in some)]
        place = named[0] if named else OFFICIAL_DEFAULT
    return letter_mark(question, LETTERS[place])


def lmms_mark(question: Question, answer: str) -> Mark:
    """VideoMME and MLVU: `mcq_extract`, which prefers a letter at the start, at the end, and then behind announcing words."""
    text = THOUGHT.sub("", answer).strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text, letters = f" {text} ", LETTERS[:4]
    found = [
        (priority, text.rfind(form.format(letter)), letter)
        for form, priority in AFTER_LETTER.items()
        for letter in letters
        if form.format(letter) in text
    ]
    for phrase in PHRASES:
        start = text.lower().find(phrase)
        if start >= 0:
            places = ((text.find(letter, start + len(phrase)), letter) for letter in letters)
            found += [(PHRASE, place, letter) for place, letter in places if place >= 0]
    alone = text.strip()
    for letter in letters:
        if alone.startswith(letter) and not alone[1:2].isalpha():
            found.append((START, 0, letter))
        if alone.endswith(letter) and not alone[-2:-1].isalpha():
            found.append((END, len(text), letter))
    if not found:
        found = [(FALLBACK, text.rfind(letter), letter) for letter in letters if letter in text]
    return letter_mark(question, max(found, key=lambda one: one[:2])[2] if found else None)


def lmms_mvbench_mark(question: Question, answer: str) -> Mark:
    """MVBench: the first letter from A to E that is a word, of either case; an empty answer is left out of the score."""
    if not answer:
        return Mark(None, None)
    numbered = re.match(r"([A-E])\.\s*(.+)$", answer.strip(), re.IGNORECASE)
    if numbered:
        return letter_mark(question, numbered[1].upper())
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number = re.search(r"\d,\d", text)
    plain = text
    for mark in MVBENCH_MARKS:
        is_at_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if is_at_space or has_number else " ")
    plain = re.sub(r"\.(?!\d)", "", plain, count=MVBENCH_PERIODS)
    for mark in "'\")(":
        plain = plain.strip(mark)
    letter = re.search(r"\b([A-E])\b", plain, re.IGNORECASE)
    return letter_mark(question, letter[1].upper() if letter else None)


def lmms_egoschema_mark(question: Question, answer: str) -> Mark:
    """EgoSchema's subset: the first letter in one of three forms, or the text of an option in a long answer.

    lmms-eval draws an option where it finds none; here such an answer has the value that the draw has in the mean.
    """
    text, letters = THOUGHT.sub("", answer), LETTERS[: len(question.options)]
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    forms = [form.format(letter) for form in ("({})", "{} ", "{}.") for letter in letters]
    found = [(text.rfind(form), form.strip("(). ")) for form in forms if form in text]
    if not found and len(text.split()) > 5:
        options = {letter: f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=True)}
        places = ((text.lower().rfind(option.lower()), letter) for letter, option in options.items())
        found = [(place, letter) for place, letter in places if place >= 0]
    if not found:
        return Mark(None, None if question.gold is None else 1 / len(letters))
    return letter_mark(question, min(found, key=lambda one: one[0])[1])
