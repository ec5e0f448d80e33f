"""Which texts of a captioner are no description: refusals, by how they begin, and texts of a word or none.

`Differs:` the paper reports no such check of its captions. Phrases within a text say nothing here: a description may quote them.
"""

import re

# All of a text's beginning, in lower case and with straight apostrophes. A text that begins with a quotation mark quotes.
_VERB = (
    r"(?:help|assist|provide|describe|caption|fulfil|fulfill|comply|process|view|see|watch|access|open|analy[sz]e|answer"
    r"|identify|discuss|continue|engage|generate|create|give|support|complete|determine|offer|share|write|respond"
    r"|summari[sz]e|do (?:that|this))"
)
_NOT = (
    r"(?:can ?not|can't|could not|couldn't|won't|will not|(?:must|have to|need to) decline"
    r"|(?:am|are|'m|'re) (?:not able|unable|not allowed|not permitted))"
)
_MEDIA = r"(?:visual )?(?:video|clip|image|picture|frame|photo|media|content|visual)s?"
_REFUSES = (
    r"(?:i'm|i am|we're|we are) (?:so |very |really |truly |deeply )?sorry\b",
    r"(?:so )?sorry\b[,.!:]? (?:but |that )?(?:i|we|as an ai)\b",
    r"(?:i|we) (?:sincerely )?apologi[sz]e\b",
    r"(?:my )?apologies\b[,.!:]? (?:but|for|i|we)\b",
    rf"(?:(?:unfortunately|regrettably)\b,? )?(?:i'm afraid |i am afraid )?i ?{_NOT}\b",
    rf"(?:(?:unfortunately|regrettably)\b,? )?we ?{_NOT}(?: to)? (?!see|watch|view|identify){_VERB}\b",
    rf"(?:i|we) (?:don't|do not) (?:have (?:access|the ability)|feel comfortable|see any|see the {_MEDIA})\b",
    r"(?:i'm|i am|as) (?:just |only )?an? (?:ai|artificial intelligence|language model|large language model|text-based)\b",
    rf"(?:unable|not able) to {_VERB} (?:with )?(?:what|(?:th(?:is|at|ese|e)|your|any|an?) (?:{_MEDIA}|request|description))\b",
    r"(?:unable|not able) to (?:comply|assist|help)(?: with (?:this|that))?[.!]?$",
    rf"(?:there (?:is|are|was|were) )?no {_MEDIA} (?:(?:is|are|was|were|has been|have been) )?"
    r"(?:provided|attached|given|supplied|included|uploaded|shared)\b",
    rf"(?:please|(?:could|can) you(?: please)?) (?:provide|upload|attach|share|send) (?:me |us )?(?:with )?"
    rf"(?:the|a|an|your) {_MEDIA}\b",
    r"(?:非常|很|十分)?抱歉|对不起[,，]? ?(?:我|但)",
)
_REFUSAL = re.compile("|".join(f"(?:{phrase})" for phrase in _REFUSES))
_LABEL = re.compile(r"^(?:[\s*_#>-]|(?:caption|description|answer|assistant)\s*:)+")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "`": "'"})
# Letters that a single word hardly has. Without spaces, Chinese and Japanese sentences are longer.
LONGEST_WORD = 20

REFUSED, TOO_SHORT, EMPTY, TRUNCATED, BROKEN = (
    "refused by the captioner",
    "a caption of one word",
    "empty",
    "truncated",
    "not in the form that was asked for",
)


class NoUseError(ValueError):
    """An answer cannot be used.

    Attributes:
        reason: one of the module's constants, for counting.
    """

    def __init__(self, reason: str, words: str):
        super().__init__(words)
        self.reason = reason


def is_refusal(text: str) -> bool:
    """Whether a text begins as refusals do.

    Example:
        >>> is_refusal("I'm sorry, but I can't help with that.")
        True
        >>> is_refusal('A man says "I cannot help with that" and shuts the door.')
        False
    """
    start = _LABEL.sub("", text.translate(_APOSTROPHES).lower())
    return _REFUSAL.match(" ".join(start.split())) is not None


def checked_caption(text: str) -> str:
    """A caption without the space around it.

    Raises:
        NoUseError: it is empty, a refusal, or one word.
    """
    caption = text.strip()
    if not any(sign.isalnum() for sign in caption):
        raise NoUseError(EMPTY, "the caption is empty")
    if is_refusal(caption):
        raise NoUseError(REFUSED, f"the captioner refuses: {caption[:200]!r}")
    if len(caption.split()) == 1 and len(caption) <= LONGEST_WORD:
        raise NoUseError(TOO_SHORT, f"the caption is one word: {caption!r}")
    return caption
