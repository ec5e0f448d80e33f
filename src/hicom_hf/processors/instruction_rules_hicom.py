"""The general rules for the instruction: what of a prompt is the question.

In this order: frame lists and markup go, the options are cut off with everything behind them, a label "Question:" shows
where the question begins, subtitles go, and of what is left the sentences that only say how to answer.
"""

import re

from .answer_options_hicom import split_options
from .answer_orders_hicom import is_order, sentences, without_orders

VISUAL = "\ufffc"  # stands for a placeholder of visual input; Unicode's "object replacement character"

NUMBERED = r"(?:frame|image|picture)[ \t#_-]*\d+"
# "Frame 3 (2.0s): <image>" as a whole line, and "Frame 3:" or "<2.0 seconds>" before a placeholder.
FRAME_LINE = re.compile(
    rf"(?im)^[ \t]*(?:<?image|frame|picture|video|clip)[ \t#_-]*\d*[ \t]*(?:[\[(<][^\n\])>]*[\])>])?"
    rf"[ \t]*[:：>-]*[ \t]*{VISUAL}+[ \t]*$"
)
FRAME_MARK = re.compile(
    rf"(?i)(?:<?{NUMBERED}[ \t]*(?:\([^)\n]*\))?[ \t]*[:：>]"
    rf"|[<\[(][ \t]*\d+(?:\.\d+)?[ \t]*(?:s|sec|seconds?)?[ \t]*[>\])])[ \t]*(?={VISUAL})"
)
BRACKETED_FACTS = re.compile(r"(?i)^\s*\[(?:video|clip|frames?|image)\b[^\]\n]*\]\s*")
# "### Question", "**Options**", "[Subtitles]" on a line of their own
HEADING = re.compile(
    r"(?m)^[ \t]*(?:(?:#{1,6}[ \t]*|\*\*)(?P<marked>[A-Za-z][\w ]{0,30}?)[ \t]*:?(?:\*\*)?[ \t]*:?"
    r"|[\[<](?P<bracketed>(?i:question|options?|choices|subtitles?|transcript|answer))[\]>]:?)[ \t]*$"
)
TAGGED_QUESTION = re.compile(r"(?is)<question>(.*?)</question>")
ROLE = re.compile(r"(?i)^\s*(?:user|human|instruction|task|prompt)\s*[:：]\s*(?=\S)")
# What opens a chat that is written as one text, as of Vicuna and DeepSeek-R1, up to what the user says.
CHAT_HEAD = re.compile(
    r"(?is)^\s*an? (?:chat|conversation|dialogue) between\b.{0,1500}?\b(?:user|human)\s*[:：]\s*(?=\S)"
)

# A label stands at the start of a line or behind a sentence.
LABEL_START = r"(?:^|(?<=[\n.?!:,;>)。？！]))[ \t]*(?:#{1,6}[ \t]*|\*\*)?"
COLON = r"[ \t]*(?:\*\*)?[ \t]*[:：](?:\*\*)?"
QUESTION_LABEL = re.compile(
    LABEL_START
    + r"(?:(?i:(?:the |here is the |my |user |new |current )?(?:questions?|(?<=user )query))(?: is)?(?:[ \t]*\d+)?|Q\d*"
    r"|问题|質問|질문"
    r"|(?i:pregunta|frage|pergunta|domanda|вопрос))" + COLON + r"[ \t]*"
)
# Where the question that a label opened ends: another label at the start of a line.
OTHER_LABEL = re.compile(
    r"(?im)^[ \t]*(?:\*\*)?(?:visual information|question type|answer|response|assistant|a|solution|reasoning|rationale"
    r"|explanation|output|thought|hint|note|format|output format|subtitles?|transcript|video|context|category|task|duration"
    r"|答案|答え|정답|respuesta|antwort|réponse|resposta|risposta|ответ)" + COLON
)
# The beginning of an answer that the model is to continue, at the end of a prompt.
ANSWER_LABEL = re.compile(
    LABEL_START
    + r"(?:(?i:(?:so |thus |therefore,? )?(?:the |my |your )?(?:best |correct |right |final |short |most \w+ )?"
    r"(?:answer|option|choice|response|assistant|output|solution|gpt|ai)(?: is| letter)?)|A|答案|答え|정답"
    r"|(?i:respuesta|antwort|réponse|resposta|risposta|ответ))"
    r"[ \t]*(?:\([^()\n]*\))?" + COLON + r"[ \t]*[(\[<]?[ \t]*\Z"
)
SUBTITLES = re.compile(
    r"(?:^|(?<=[\n.?!]))[ \t]*(?:\*\*)?(?i:(?:here are |these are |below are |the following are )?(?:the |this |these )?"
    r"(?:video'?s?|clip'?s?|audio|speech|asr|movie'?s?)? ?"
    r"(?:subtitles?|transcripts?|transcriptions?|captions|asr|speech|narration|dialogues?)"
    r"(?: (?:of|in|for|from) (?:the|this) (?:video|clip|audio|movie|frames?))?"
    r"(?: (?:are|is|says?|reads?))?(?: (?:listed|given|provided|shown))?(?: (?:as follows|below|here))?)" + COLON
)
# One subtitle of an SRT or VTT file: number, times, text up to an empty line.
CUE = re.compile(
    r"(?m)^(?:WEBVTT\b.*\n\s*)?(?:\d+[ \t]*\n)?[ \t]*\[?[\d:.,]+[ \t]*-->[ \t]*[\d:.,]+\]?.*\n(?:[^\n]*\S[^\n]*(?:\n|\Z))*"
)


def question_of(text: str) -> str:
    """What of a prompt is the question: the words that condition the compression.

    Args:
        text: what a user or a benchmark wrote, with `VISUAL` in place of placeholders.

    Returns:
        The question, or the task ("Describe the video."), without what surrounds it; empty if nothing is left. A text that
        holds none of the known forms stays as it is, but for blanks at its ends and runs of blanks.

    Example:
        >>> question_of("Select the best answer.\\nWho is it?\\nA. Ann\\nB. Bob\\nAnswer with the option's letter.")
        'Who is it?'
    """
    text = CUE.sub("", _without_visuals(text.replace("\r\n", "\n")))
    tagged = TAGGED_QUESTION.findall(text) if "</question>" in text.lower() else []
    if tagged:
        text = tagged[-1]
    text = HEADING.sub(lambda found: f"{found['marked'] or found['bracketed']}:", text).strip()
    text = ROLE.sub("", CHAT_HEAD.sub("", _without_answer_label(text)))
    before, behind = split_options(text)
    question = _cleaned(before)
    if behind and not _asks(question):
        # The options come first, or the text before them is not a question.
        later = _cleaned(_without_answer_label(behind))
        question = later if later and (not question or _asks(later)) else question
    return question


def _asks(text: str) -> bool:
    return "?" in text or "？" in text


def _without_visuals(text: str) -> str:
    """Delete placeholders, the marks of frames, and the lines between the placeholders of interleaved frames."""
    text = FRAME_MARK.sub("", FRAME_LINE.sub(VISUAL, text))
    lines = text.split("\n")
    alone = [place for place, line in enumerate(lines) if line.strip() and not line.replace(VISUAL, "").strip()]
    if len(alone) >= 2 and any(line.strip(f"{VISUAL} \t") for line in lines[alone[-1] + 1 :]):
        lines = [*lines[: alone[0]], *lines[alone[-1] + 1 :]]
    text = re.sub(rf"[ \t]*{VISUAL}[{VISUAL} \t]*(?=[?.!,;:])", "", "\n".join(lines)).replace(VISUAL, " ")
    text = re.sub(r" +(?=\n|\Z)", "", re.sub(r"[ \t]{2,}", " ", text))
    return BRACKETED_FACTS.sub("", text.strip())


def _without_answer_label(text: str) -> str:
    return ANSWER_LABEL.sub("", text.rstrip()).rstrip()


def _cleaned(text: str) -> str:
    """The question in a text that holds no options (any more)."""
    text = text.strip()
    labels = [found for found in QUESTION_LABEL.finditer(text) if text[found.end() :].strip()]
    if labels:
        text = text[labels[-1].end() :]
        other = OTHER_LABEL.search(text.lstrip())
        text = text.lstrip()[: other.start()] if other and other.start() > 0 else text
    elif (header := SUBTITLES.search(text)) is not None:
        text = _behind_subtitles(text, header)
    return _without_answer_label(without_orders(_without_answer_label(text))).strip()


def _behind_subtitles(text: str, header: re.Match[str]) -> str:
    """What follows the subtitles: the text behind the order to answer, or else the last paragraph or line."""
    before, text = text[: header.start()], text[header.end() :].rstrip()
    spans = list(sentences(text))
    while spans and is_order(text[slice(*spans[-1])]):
        text = text[: spans.pop()[0]].rstrip()
    orders = [end for start, end in spans if is_order(text[start:end])]
    if orders:
        return text[orders[-1] :]
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(paragraphs) > 1:
        return paragraphs[-1]
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1:
        return lines[-1]
    return before if before.strip() else text
