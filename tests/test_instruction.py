"""The words of a chat or prompt that condition the compression, against the release's table and by hand."""

import json

import pytest
from shared_data import GOLDEN_DIR

from hicom_hf.processors.instruction_hicom import extract_instruction, last_user_text, user_text_of_prompt
from hicom_hf.processors.official_instruction_hicom import CATEGORY_REQUESTS

# Rows of the golden table (by id) where the release strips a set of characters instead of the prefix "Question: ",
# and eats into the question. Ours is the question.
DEFECT_ROWS = {
    28: "on the table, what is shown?",  # release: "he table, what is shown?"
    30: "is it?",  # release: "?"
    32: "tense situation",  # release: "ation"
    88: "eat it?",  # release: "at it?"
}

SHORT_ANSWER = "Answer the question using a single word or phrase."
FULL_OPTION = "Please provide your answer by stating the letter followed by the full option."
ONLY_LETTER = "Please respond with only the letter of the correct answer."

# Rows of the golden table, copied so that the rules are held on any machine: prompt -> instruction.
COPIED_ROWS = {
    "<video>\nWhat is the man doing?": "What is the man doing?",
    "<video>\n": "",
    "Describe the clip.\n<video>": "Describe the clip.",
    "<image>\n<image>\nWhat differs between the two pictures?": "What differs between the two pictures?",
    f"<image>\nIs there a dog? {SHORT_ANSWER}": "Is there a dog? ",
    f"{SHORT_ANSWER} What is it?": " What is it?",
    f"<video>\nQuestion: What is he doing?\nA. run\nB. sit\n{FULL_OPTION}": "Question: What is he doing?",
    f"<video>\nWhere are they?\nOptions:\nA. home\nB. park\n{FULL_OPTION}": "Where are they?\nOptions:",
    f"<video>\n{ONLY_LETTER}": ONLY_LETTER,
    "<video>\nQuestion: What does the person do?\nOptions:\n(A) walk\n(B) run\n": "What does the person do?",
    "Question:no space": "Question:no space",
    "Question: ": "Question:",
    "Question: \nWhat next?\nOptions:\n(A) y": "\nWhat next?",
    "<video>\nA kitchen. Question: What is on the stove?\nOptions:\n(A) pot\n(B) pan": "What is on the stove?\n",
    "<video>\nWhat is it?\nOptions:\nA. cat\nB. dog\nC. cow": "What is it?",
    "<video>\nWhat is it?\nOptions:\nB. cat": "What is it?\nOptions:\nB. cat",
    "Select one or more correct answers from following:\nA. one\nB. two": "",
    "<video>\nPeople meet. Pick the relevant category from the list of options. Options:\nhug, wave": "People meet. ",
    "<video>\nFirst?\nOptions:\n(A) one\n(B) two\nOptions:\nA. x": "First?\n",
    "<VIDEO>\nUpper case tag": "<VIDEO>\nUpper case tag",
    "<video>\n\tTabbed question?\t": "Tabbed question?",
}


def user(content):
    return {"role": "user", "content": content}


def text(words):
    return {"type": "text", "text": words}


VIDEO = {"type": "video", "path": "cat.mp4"}


def official(prompt, **arguments):
    return extract_instruction(prompt, rules="official", **arguments)


@pytest.mark.parametrize(("prompt", "instruction"), COPIED_ROWS.items())
def test_a_copied_row_gives_the_instruction_of_the_release(prompt, instruction):
    assert official(prompt) == instruction


def test_every_row_of_the_golden_table_agrees_apart_from_the_listed_defects():
    path = GOLDEN_DIR / "tables" / "instruction_extraction.json"
    if not path.is_file():
        pytest.skip(f"reference data not there: {path} (set HICOM_GOLDEN_DIR)")
    rows = {row["id"]: row for row in json.loads(path.read_text(encoding="utf-8"))["entries"]}
    ours = {number: official(row["prompt"]) for number, row in rows.items()}
    theirs = {number: row["guided"] for number, row in rows.items()}
    assert {number: ours[number] for number in rows if ours[number] != theirs[number]} == DEFECT_ROWS


@pytest.mark.parametrize(
    ("prompt", "instruction"),
    [
        ("Question: nothing moves", "nothing moves"),
        ("Question: Question: is it on?", "Question: is it on?"),
        ("<video>\nQuestion: on the table, what is shown?\nOptions:\n(A) cup\n(B) pen", DEFECT_ROWS[28]),
        ("Question: is it?\nOptions:\n(A) y\n(B) n", DEFECT_ROWS[30]),
    ],
)
def test_the_question_prefix_is_removed_once_and_as_a_whole(prompt, instruction):
    assert official(prompt) == instruction


@pytest.mark.parametrize("placeholder", ["<image>", "<video>", "<|image_pad|>", "<|video_pad|>"])
def test_each_placeholder_is_deleted_and_the_rest_stripped(placeholder):
    assert official(f" {placeholder}\nWho is{placeholder} it? \n") == "Who is it?"


def test_placeholders_of_another_model_can_be_given():
    assert official("[VID] Who?", placeholders=["[VID]"]) == "Who?"


def test_the_short_answer_request_is_deleted_without_stripping_afterwards():
    assert official(f"What time is it? {SHORT_ANSWER} {SHORT_ANSWER}") == "What time is it?  "


@pytest.mark.parametrize("request_text", [FULL_OPTION, ONLY_LETTER])
def test_a_letter_request_keeps_what_precedes_the_first_option(request_text):
    assert official(f"Where?\nA. home\nB. park\nA. again\n{request_text}") == "Where?"
    assert official(f"{request_text}\nWhere?\nA. home") == f"{request_text}\nWhere?"


def test_a_letter_request_comes_before_the_question_prefix():
    assert official(f"Question: Which?\nA. x\n{ONLY_LETTER}") == "Question: Which?"


@pytest.mark.parametrize("request_text", CATEGORY_REQUESTS)
def test_each_category_request_cuts_itself_and_what_follows(request_text):
    assert official(f"Two people. {request_text} Options:\nhug, wave") == "Two people. "
    assert official(f"Two people. {request_text} hug, wave") == f"Two people. {request_text} hug, wave"


def test_only_the_first_trigger_in_the_order_of_the_table_cuts():
    listed_first = "Select one or more correct answers from following:\nA. one"
    assert official(f"What?\nOptions:\nA. x\n{listed_first}") == "What?\nOptions:\nA. x\n"


def test_bracket_options_without_a_prefix_keep_what_follows_the_last_question():
    assert official("Hm. Question: a? Question: b?\nOptions:\n(A) x") == "b?\n"
    assert official("Options:\n(A) yes\n(B) no") == ""


def test_an_instruction_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match=r"`text` must be a string, got NoneType"):
        extract_instruction(None)


def test_rules_that_nobody_knows_are_refused_by_name():
    with pytest.raises(ValueError, match="instruction_rules must be one of general, official, got 'own'"):
        extract_instruction("Who?", rules="own")


def test_an_escaped_tag_is_a_word():
    for rules in ("general", "official"):
        assert extract_instruction("<video>\nWhat is \\<video> in HTML?", rules=rules) == "What is <video> in HTML?"


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([user("Who?")], "Who?"),
        ([user([VIDEO, text("Who?")])], "Who?"),
        ([user([text("Look."), VIDEO, text("Who?")])], "Look.\nWho?"),
        ([user([VIDEO])], ""),
        ([user([])], ""),
        (
            [{"role": "system", "content": "Be brief."}, user("First?"), {"role": "assistant", "content": "A cat."}],
            "First?",
        ),
        ([user([VIDEO, text("First?")]), {"role": "assistant", "content": "A cat."}, user("And then?")], "And then?"),
    ],
)
def test_the_text_of_the_last_user_turn(conversation, words):
    assert last_user_text(conversation) == words


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ("Who?", TypeError, r"`conversation` must be a list of turns \(dictionaries\), got str"),
        (["Who?"], TypeError, r"Turn 0 of `conversation` must be a dictionary, got str\.$"),
        ([[user("Who?")]], TypeError, r"must be a dictionary, got list\. Pass the chats of a batch one by one"),
        ([], ValueError, r"no user turn to take the instruction from; its roles are \[\]"),
        ([{"role": "assistant", "content": "A."}], ValueError, r"its roles are \['assistant'\]. Pass `instruction=`"),
        ([{"content": "Who?"}], ValueError, r"Turn 0 of `conversation` has no 'role'; its keys are \['content'\]"),
        ([{"role": "user"}], ValueError, r"Turn 0 of `conversation` has no 'content'"),
        ([user(None)], TypeError, r"The content of turn 0 .* must be a string or a list of parts, got NoneType"),
        ([user(["Who?"])], TypeError, r"Part 0 of turn 0 of `conversation` must be a dictionary, got str"),
        ([user([{"text": "Who?"}])], ValueError, r"Part 0 of turn 0 .* has no 'type'; its keys are \['text'\]"),
        ([user([VIDEO, {"type": "text"}])], ValueError, r"Part 1 of turn 0 .* is of type 'text' but has no 'text'"),
        ([user([text(3)])], TypeError, r"The text of part 0 of turn 0 must be a string, got int"),
    ],
)
def test_a_malformed_chat_is_refused_by_name(conversation, error, message):
    with pytest.raises(error, match=message):
        last_user_text(conversation)


CHATML_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
CHATML_TOKENS_AND_TAG = [*CHATML_TOKENS, "<video>"]
SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ANSWER_HEADER = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("prompt", "instruction"),
    [
        (f"{SYSTEM_TURN}<|im_start|>user\n<video>\nWho throws?<|im_end|>\n{ANSWER_HEADER}", "Who throws?"),
        (f"<|im_start|>user\n<|video_pad|>\nWho?\nOptions:\nA. he<|im_end|>\n{ANSWER_HEADER}", "Who?"),
        ("<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Who?<|im_end|>\n", "Who?"),
        ("<|im_start|>user\n<video>\nWho?<|im_end|>\n<|im_start|>assistant\nHe.<|im_end|>\n", "Who?"),
        (
            "<|im_start|>user\n<video>\nWho?<|im_end|>\n<|im_start|>assistant\nHe.<|im_end|>\n"
            "<|im_start|>user\nWhere\nto?<|im_end|>\n",
            "Where\nto?",
        ),
        ("<|im_start|>user\n<video>\nWho?", "Who?"),
        ("<video>\nWho throws?", "Who throws?"),
        ("<|video_pad|> Question: nothing moves", "nothing moves"),
        ("", ""),
    ],
)
def test_a_prompt_gives_the_instruction_of_its_last_user_turn(prompt, instruction):
    assert extract_instruction(user_text_of_prompt(prompt, CHATML_TOKENS), CHATML_TOKENS_AND_TAG) == instruction


def test_a_prompt_of_another_template_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"holds '<\|eot_id\|>'.*Call `apply_chat_template`.*or pass `instruction=`"):
        user_text_of_prompt("user: <video> Who?<|eot_id|>", ["<|eot_id|>", "<video>"])


def test_a_chatml_prompt_without_a_user_turn_is_refused():
    with pytest.raises(ValueError, match=r"has no user turn to take the instruction from\. Pass `instruction=`"):
        user_text_of_prompt(SYSTEM_TURN + ANSWER_HEADER, CHATML_TOKENS)


def test_a_prompt_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match=r"`prompt` must be a string, got list"):
        user_text_of_prompt(["Who?"], CHATML_TOKENS)
