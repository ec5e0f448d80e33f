"""The official release's rules for the instruction: fixed phrases of its own training set.

`instruction_rules="official"` selects them, for comparisons with the official program. They leave the options and the
wording of most benchmarks in the instruction; `instruction_rules_hicom.py` holds the rules that are used by default.

Source: official release, the guide extraction of its training set.
"""

# The phrases of the release, in the order of its rules.

# Rule 2, deleted wherever it stands: the request that goes with short-answer questions.
SHORT_ANSWER_REQUEST = "Answer the question using a single word or phrase."

# Rule 3: either one, anywhere, means that the options "A. ", "B. ", ... follow the question.
LETTER_REQUESTS = (
    "Please provide your answer by stating the letter followed by the full option.",
    "Please respond with only the letter of the correct answer.",
)
LETTER_OPTIONS = "\nA. "

# Rule 4: "Question: ..." and, below it, the options "(A) ...", "(B) ...".
QUESTION_PREFIX = "Question: "
BRACKET_OPTIONS = "Options:\n(A)"

# Rule 5: ten wordings of the request to choose an action category, each followed by " Options:" and a newline.
CATEGORY_REQUESTS = (
    "Choose the corresponding category that captures this action from the offered options.",
    "Pick the most suitable category that represents the interaction from the provided options.",
    "Select the most accurate category from the available choices.",
    "Identify the most accurate action category from the provided options.",
    "Choose the appropriate action category from the listed choices.",
    "Determine the action category that aligns best with these features from the selection provided.",
    "Select the category that best characterizes this interaction from the given choices.",
    "Pick the relevant category from the list of options.",
    "Select the fitting category that describes their interaction from the available options.",
    "Determine the best-matching action category from the choices given.",
)
# Rule 5: everything from a trigger on is cut. Only the first of them that occurs is applied, in this order.
CUT_TRIGGERS = (
    "Select one or more correct answers from following:\n",
    *(f"{request} Options:\n" for request in CATEGORY_REQUESTS),
    f"\nOptions:{LETTER_OPTIONS}",
)


def _before(text: str, mark: str) -> str:
    return text.partition(mark)[0]


def official_instruction(text: str) -> str:
    """Cut a text without placeholders down to what the release conditions on.

    Args:
        text: what the user wrote, without placeholders.

    Returns:
        The instruction, possibly empty. Inner whitespace is kept, and so is whitespace at a cut: the instruction's
        tokenizer cleans it up, except for one leading space, which it sees just as in the release.

    Source: official release, section "Guide extraction" of its training set.
    Differs: the release strips every leading character of the set {Q, u, e, s, t, i, o, n, :, space} where it means
        the prefix "Question: ", so that "Question: nothing moves" becomes "hing moves"; only the prefix goes here.

    Example:
        >>> official_instruction("What is it?\\nOptions:\\nA. cat\\nB. dog")
        'What is it?'
    """
    text = text.strip().replace(SHORT_ANSWER_REQUEST, "")

    if any(request in text for request in LETTER_REQUESTS):
        return _before(text, LETTER_OPTIONS)
    if text.startswith(QUESTION_PREFIX):
        return _before(text.removeprefix(QUESTION_PREFIX), f"\n{BRACKET_OPTIONS}")

    for trigger in CUT_TRIGGERS:
        if trigger in text:
            text = _before(text, trigger)
            break
    if BRACKET_OPTIONS in text:
        text = _before(text, BRACKET_OPTIONS).rpartition(QUESTION_PREFIX)[2]
    return text
