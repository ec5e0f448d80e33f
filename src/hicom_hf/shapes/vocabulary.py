"""Every word of the world's questions and answers, for a tokenizer of whole words."""

import re

from .descriptions import CAPTION_REQUESTS, DESCRIPTION_REQUESTS, WHOLE_REQUEST
from .questions import ANSWERS, LETTER_REQUEST, LETTERS, TEMPLATES
from .words import COLOURS, SHAPES, TEXTURES

WORDS = re.compile(r"[a-z]+|[^a-z\s]")
PLACEHOLDERS = re.compile(r"\{\w+\}")
# Words of the sentences of descriptions.py and of the placeholders.
TOLD = f"a an at the , . first last then that moves and object objects {WHOLE_REQUEST}"


def split_words(text: str) -> list[str]:
    """Words in lower case, and every punctuation mark by itself; letters of options are words, too.

    Example:
        >>> split_words("Where is the red circle?")
        ['where', 'is', 'the', 'red', 'circle', '?']
    """
    return WORDS.findall(text.lower())


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer has the expected words and nothing else; case, spaces and punctuation do not matter.

    Example:
        >>> is_right("Bottom left.", "bottom left"), is_right("bottom", "bottom left")
        (True, False)
    """
    told, right = ([word for word in split_words(text) if word.isalnum()] for text in (answer, expected))
    return told == right


def _all_words() -> tuple[str, ...]:
    texts = [TOLD, LETTER_REQUEST, *LETTERS, *COLOURS, *SHAPES, *SHAPES.values(), *TEXTURES]
    texts += [template for group in TEMPLATES.values() for template in group]
    texts += [answer for group in ANSWERS.values() if group for answer in group]
    texts += [*CAPTION_REQUESTS, *DESCRIPTION_REQUESTS]
    return tuple(sorted({word for text in texts for word in split_words(PLACEHOLDERS.sub(" ", text))}))


VOCABULARY = _all_words()
