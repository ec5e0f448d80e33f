"""Sentences of a prompt that say how to answer, or what is shown, and ask nothing: "Answer with the option's letter."."""

import re
from bisect import bisect_right
from collections.abc import Iterator

ABBREVIATIONS = ("e.g", "i.e", "etc", "vs", "mr", "mrs", "ms", "dr", "st", "prof", "fig", "approx", "sec")
SENTENCE_END = re.compile(r"[.!?。？！…]+[\"'”’)\]*]*(?=\s|\Z|[A-Z\\][a-z])|[。？！]")
# Full stops inside of these end no sentence.
ENCLOSED = re.compile(r"\([^()\n]{0,200}\)|\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”|`[^`\n]{0,200}`|\$[^$\n]{1,40}\$")
COLON = re.compile(r"[:：](?!\s*['\"“‘<{\[$\\(])\s*")  # what is quoted behind a colon belongs to the order
BLANKS = re.compile(r"\s*")
LINE_BREAKS = re.compile(r"[ \t]*\n\s*")
# What stands behind "in the following JSON format:": a pattern of the answer, not a part of the question.
FORMAT_BLOCK = re.compile(
    r"(?i)(?P<order>\b(?:format|json|schema|template)\b[^\n:]{0,80}:)\s*(?:```[^`]{0,1000}```|\{[^{}]{0,1000}\})"
)
EXAMPLE = re.compile(r"(?i)\W*(?:for example|for instance|e\.g\.|example)\W")
LONGEST_ORDER = 1000  # characters; also bounds the time that a hostile text takes


def _any(words: str) -> str:
    """A pattern of any of some words; `_` stands for a blank within one."""
    return "(?:" + "|".join(word.replace("_", " ") for word in words.split()) + ")"


def _patterns(*patterns: str) -> re.Pattern:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags=re.IGNORECASE)


# What may come before the verb of an order.
FILLER = _patterns(
    r"\W+",
    _any(
        "please kindly now then finally lastly firstly? next just and so also only directly simply carefully strictly always"
        " otherwise therefore"
    )
    + r"\b\s*",
    _any("hint note important reminder instructions? remember format output_format task notice") + r"\s*[:,]\s*",
    _any("note_that remember_to make_sure_to make_sure_that be_sure_to be_sure_that try_to try_your_best_to")
    + r"\b\s*",
    _any("you the_assistant the_model")
    + " "
    + _any("must should need_to have_to are_to can may will are_asked_to are_required_to")
    + r"\b\s*",
    r"your (?:task|job|goal) is to\b\s*",
    r"(?:based|relying) (?:only |solely )?(?:up)?on [^,:?]{1,120}[,:]\s*",
    r"(?:given (?:the|this|these)|according to) [^,:?]{1,80},\s*",
    r"(?:after|by|using|with|from|for|in|at) [^,:?]{1,60},\s*",
)

# What an answer is called, what is chosen from, how long an answer is, and what is watched.
ANSWER = _any(
    r"answers? response reply letter options? choices? reasoning thinking thoughts? explanations? tags? \\?boxed rationale"
    " solution index caption_number"
)
CHOICE = _any("answers? options? choices? candidates? letter alternatives? response category")
FORM = (
    "(?:"
    + _any("single one short few complete full brief")
    + r" )*"
    + _any("words? sentences? phrases? letters? numbers? digits? paragraph")
)
MATERIAL = _any(
    "video clip frames? images? footage film movie visual_data visual_content visual_input input content question subtitles?"
    " observations?"
)
CHOOSE = _any("select choose pick identify determine")
WRITE = _any(
    "mark indicate give provide output return state write put present print include enclose place submit use produce report wrap"
    " express display justify specify say tell_me"
)
NOT_DO = _any(
    r"explain\w* explanations? generat\w+ outputs? includ\w+ provid\w+ giv\w+ add\w* use rely writ\w+ say\w* repeat\w* reason\w*"
    r" guess\w* answers? mention\w* punctuation anything_else hallucinat\w+ make_up invent\w*"
)
LOOK = _any(
    r"watch view look_(?:\w+ly_)?at see read examine analy[sz]e study review observe consider refer_to pay_attention_to"
    " listen_to use"
)
THEN = _any(
    "answer pay_attention select choose pick respond provide give reply reason think learn solve determine infer"
)

# Orders about the answer, at the start of a sentence behind its fillers.
ABOUT_THE_ANSWER = _patterns(
    r"answer\b(?! (?:machine|key|sheet)\b)",
    r"(?:respond|reply)\b(?! to (?!.*\b(?:questions?|following|prompt|query)\b))",
    rf"(?:{CHOOSE}|{WRITE})\b[^?]*?\b(?:the |your |an? |only |just |<)*(?:\w+[ -]){{0,4}}?{ANSWER}\b",
    rf"{CHOOSE}\b.*\b(?:from|among|of|out of)\b[^.?]*\b(?:following|given|provided|offered|available|listed|{CHOICE})\b",
    rf"(?:{CHOOSE}|find|decide on)\b.*\b(?:best|correct|right|most)\b.*\b{CHOICE}\b",
    rf"(?:give|provide|output|return|write|use|limit|say)\b.*\b(?:yes or no|{FORM})\W*$",
    r"(?:provide|give|return|output) the (?:numerical value|number|transcri\w+|text)\b",
    rf"(?:do not|don't|never|avoid|refrain from|without)\b.*\b{NOT_DO}\b",
    r"(?:let'?s |let us )?think (?:step|about (?:this|the) question|carefully|deeply|before|it through|out loud|first)\b",
    r"(?:let'?s|let us) (?:think|solve|answer|reason|work)\b",
    r"(?:explain|justify) (?:why|how) (?:you|this (?:answer|option))\b",
    r"(?:explain|show|justify|describe|detail|display|generate) (?:your|the) (?:\w+ )?"
    r"(?:(?:thinking|thought|reasoning) process|(?<=your )(?:reasoning|thinking|thoughts?|answer|work|steps|choice))\b",
    r"(?:reason|work|solve|proceed) (?:it |this |the (?:problem|question) )?(?:out )?step[- ]by[- ]step\b",
    r"(?:your|the|each|all|final|an) (?:\w+ )?(?:answers?|responses?|outputs?|reply) "
    + _any("should must is has have needs? shall can may will")
    + r"\b",
    r"(?:keep|make) (?:your|the|it)\b.*\b(?:answer|response|reply|short|brief|concise)\b",
    r"be (?:brief|concise|short|precise|specific|as \w+ as possible)\b",
    r"(?:ignore|disregard|engage in|it'?s encouraged|it is encouraged|feel free|apply what you)\b",
    r"(?:begin|start|end|finish|conclude|finalize) (?:by|with|your)\b.*\b"
    + _any(r"explain\w* stat\w+ answer reason\w* response words? giv\w+ letter")
    + r"\b",
    r"(?:even )?if "
    + _any("you the there none multiple no it subtitles nothing unsure not")
    + r"\b.*\b"
    + _any("answers? guess respond reply choose select say output write allowed")
    + r"\b",
    r"(?:there is |there's )?(?:only |exactly )?(?:one|a single) (?:correct )?(?:option|answer|choice) "
    r"(?:is|can be|exists|only)\b",
    r"(?:in|with|using) (?:at most|no more than|less than|fewer than|a|an|one|few|the)\b.*\b(?:words?|sentences?|phrases?)\W*$",
    r"(?:yes|no|true|false)\s*(?:or|/|,)\s*(?:yes|no|true|false)\W*$",
    r"the (?:last|first|final) (?:line|sentence|part|word) of (?:your|the) (?:answer|response|reply|output)\b",
    rf"{WRITE} (?:it |them |the \w+ )?(?:as|like) [\[{{(\"'<]",
    r"(?:the |your )?(?:\w+ )?format (?:should|must|has to|is|of your)\b",
    r"(?:the )?\W?\w+\W? (?:is|should be) the (?:\w+ )?letter\b",
    rf"{WRITE}\b.*\b(?:in|using|with|following) (?:the |this |a |json )?(?:following |given |required )?format\b",
    r"[A-H](?:\W+(?:or |and )?[A-H]\b)+\W*$",
    r"no (?:explanations?|reasoning|other text|additional)\b",
    r"which (?:of|one of|one among) the (?:following|above|given|options below) (?:\w+ )?(?:is|are) (?:the )?"
    r"(?:correct|right|best|true)\W*$",
    r"(?:请|直接).*(?:回答|选项|选择|字母)",
    # Spanish, Portuguese, Italian
    r"(?:por favor,? |per favore,? )?(?:responde|responda|conteste?|contesta|rispondi|elige|elija|escolh[ae]|seleccion[ae]"
    r"|selecion[ae]|scegli)\b.*\b(?:letra|opción|opção|alternativa|palabra|palavra|frase|respuesta|resposta|lettera|opzione"
    r"|parola|risposta|sí o no|sim ou não)\b",
    r"(?:bitte )?(?:antworte\w*|beantworte\w*|wähle\w*)\b.*\b(?:buchstaben?|option|wort|satz|antwort|frage|ja oder nein)\b",
    r"(?:veuillez )?(?:répond\w*|choisi\w*|sélectionne\w*)\b.*\b(?:lettre|option|réponse|mot|phrase|choix|oui ou non)\b",
    r"(?:пожалуйста,? )?(?:ответьте|ответь|выбери\w*)\b(?:.*\b(?:букв|вариант|ответ)| (?:\w+ )?(?:одним )?слов)",
    r".*(?:選択肢から|選択肢の|(?:記号|文字|単語|一言|語句)(?:だけ|のみ|で)).*(?:答え|選ん|選び|回答)",
    r".*(?:정답|보기 중|선택지|알파벳만|한 단어로 (?:대?답)).*(?:답하|고르|골라|선택)",
)
# Orders to look, and sentences about what is shown or who is spoken to.
ABOUT_THE_MATERIAL = _patterns(
    rf"(?:thoroughly |closely )?{LOOK}\b[^?:]*\b{MATERIAL}\b[^?:]*?(?:(?:\b(?:and|then)|,) (?:then )?(?:\w+ly )?{THEN}\b"
    r"|\b(?:to|in order to) (?:answer|respond|select|choose)\b"
    r"|\b(?:carefully|closely|attentively|thoroughly|below|above|provided|first)\W*$)",
    rf"{LOOK} (?:the |this |these |each |all |following |given |provided |attached |input |entire |whole |sampled |\d+ )*"
    rf"{MATERIAL}\W*$",
    rf"(?:watch|view|look at|see|read|examine|analy[sz]e|observe)\b[^?:]*\b{MATERIAL}\b[^?:]*\b(?:and|then) tell me\W*$",
    rf"{LOOK}\b[^?:]*\b{MATERIAL}\b[^?:]*\band (?:work|find|figure) out the answer\W*$",
    rf"(?:watch|look|view|observe|learn|read)\b(?: and \w+)? the {MATERIAL}(?: content)?\W*$",
    # "be provided with ..." is what is left of "You will be provided with ..." behind its filler.
    _any("you_are you're you_will_be you_have_been you_will i_will i'll i_have i_am we be")
    + r" (?:\w+ )?(?:"
    + _any(r"given provided shown giv\w+ provid\w+ show\w* receiv\w+")
    + r"|an? (?:[\w-]+ ){0,5}(?:assistant|expert|ai|model|system|question about|question for))\b",
    r"i have (?:a|some|one) questions?\b",
    r"(?:here|these|those|this|below|the following|the above|above) (?:is|are) (?:\w+ ){0,6}"
    r"(?:questions?|frames?|images?|subtitles?)\b",
    r"(?:here|this|below) is (?:\w+ ){0,3}(?:video|clip|film|footage|movie)\W*$",
    r"you (?:are watching|are seeing|see|will see|will watch) "
    r"(?:an? |the |this |some |several |\d+ |short |long |egocentric |\([^)]*\) )*(?:video|clip|frames|images)\b",
    rf"(?:the|this) {MATERIAL} "
    + _any(r"lasts? is_sampled are_sampled is_uniformly has_a_duration is_\d was_sampled are_uniformly is_divided")
    + r"\b",
    rf"(?:the|this) {MATERIAL} (?:contains|consists of|has) (?:\d+|two|three|four|several|multiple)"
    r" (?:segments|clips|parts)(?: separated\b|\W*$)",
    r"(?:these|the|all) (?:sampled |video )?(?:frames|images) (?:are|were)\b.*"
    r"\b(?:located|sampled|extracted|order|provided|at)\b",
    r"\d+ frames (?:are|were)\b",
    r"(?:the |these |this )?(?:provided|attached|given) (?:images?|frames?|video|clip|grid)\b",
    r"(?:the |total )?(?:video|clip) (?:length|duration|fps|info\w*|resolution)\s*[:=]\s*\S",
    r"this (?:video |clip )?contains a (?:long|short)\b",
    r"the (?:image|video|frame|subtitles?|question)s? (?:for|of) (?:this|the) question\b",
    r"the following (?:\w+[ -]){0,3}question",
    r"(?:the )?subtitles? indicate\b",
)


def without_orders(text: str) -> str:
    """Delete the sentences that only say how to answer or what is shown; the line breaks between the others stay.

    Of a text in which nothing else is left, the sentences that end in a question mark stay: "Which of these is correct?".

    Example:
        >>> without_orders("Answer the question. Who is it? Be brief.")
        'Who is it? '
    """
    text = FORMAT_BLOCK.sub(r"\g<order> ", text)
    found = [text[start:end] for start, end in sentences(text)]
    kept, was_order = [], False
    for sentence in found:  # an example behind an order belongs to it
        was_order = is_order(sentence) or (was_order and EXAMPLE.match(sentence) is not None and not _asks(sentence))
        if not was_order:
            kept.append(sentence)
    return "".join(kept or [sentence for sentence in found if _asks(sentence)])


def is_order(sentence: str) -> bool:
    """Whether a sentence only says how to answer, or what is shown."""
    bare = sentence.strip()
    if not bare or len(bare) > LONGEST_ORDER:
        return False
    while filler := FILLER.match(bare):
        bare = bare[filler.end() :]
    if _asks(sentence) and not bare.lower().startswith("which"):
        return False
    return bool(ABOUT_THE_ANSWER.match(bare) or ABOUT_THE_MATERIAL.match(bare))


def _asks(sentence: str) -> bool:
    return sentence.rstrip(" \n\t\"')*").endswith(("?", "？"))


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences of a text, each with the blanks behind it; together they are the whole text.

    A line ends a sentence unless the next one starts with a small letter. A colon ends one if what stands before it is an
    order: "Answer the following question: who is it?".
    """
    closed = [found.span() for found in ENCLOSED.finditer(text)]
    start = 0
    for end in [*_ends(text, closed), len(text)]:
        if end <= start:
            continue
        colon = COLON.search(text, start, end)
        while colon and colon.end() < end:
            if not _inside(colon.start(), closed) and is_order(text[start : colon.end()]):
                yield start, colon.end()
                start = colon.end()
            colon = COLON.search(text, colon.end(), end)
        yield start, end
        start = end


def _ends(text: str, closed: list[tuple[int, int]]) -> list[int]:
    ends = set()
    for found in SENTENCE_END.finditer(text):
        word = re.split(r"[^\w.]", text[max(0, found.start() - 20) : found.start()])[-1].lower().rstrip(".")
        is_short = found[0] == "." and (word in ABBREVIATIONS or (len(word) == 1 and word.isalpha()))
        if not is_short and not _inside(found.start(), closed):
            blanks = BLANKS.match(text, found.end())
            ends.add(found.end() if blanks is None else blanks.end())
    for found in LINE_BREAKS.finditer(text):
        following, before = text[found.end() : found.end() + 1], text[max(0, found.start() - 1) : found.start()]
        goes_on = following.islower() and before.isalpha() and not is_order(_line(text, found.end()))
        if not goes_on:
            ends.add(found.end())
    return sorted(ends)


def _line(text: str, position: int) -> str:
    end = text.find("\n", position)
    return text[position : len(text) if end < 0 else end]


def _inside(position: int, spans: list[tuple[int, int]]) -> bool:
    """Whether a position lies within one of some spans, which are in order and do not overlap."""
    place = bisect_right(spans, (position, 0)) - 1
    return place >= 0 and spans[place][0] < position < spans[place][1] - 1
