"""Which option an answer names: strictly, never a guess."""

import pytest

from hicom_hf.evaluation.parsing import parse_choice

OPTIONS = ("Red", "A blue car", "Green", "Black")
NAMED = {
    "B": "B",
    "B.": "B",
    "(B)": "B",
    "**B**": "B",
    "b": "B",
    "B. A blue car": "B",
    "B) a blue car.": "B",
    "The answer is B": "B",
    "The correct answer is: (b).": "B",
    "Because the car is blue, B": "B",
    "Definitely B.": "B",
    "a blue car": "B",
    "A blue car.": "B",
    "Option C": "C",
    "ANSWER: D": "D",
    "The best option is (D) because A is wrong": "D",
    "<think>A or B?</think> D": "D",
    "It is not A but B": "B",
    "A. Because B and C are not seen": "A",
    "D is right": "D",
    "black": "D",
}
UNNAMED = (
    "",
    " ",
    "A red car",
    "A car",
    "Both cars are red",
    "I cannot tell from the video.",
    "A or B",
    "It is not A.",
    "<think>It may be A or B",
    "E",
    "Definitely.",
    "Blue",
    "the A-team",
)


@pytest.mark.parametrize("answer", NAMED)
def test_a_letter_of_its_own_or_the_text_of_an_option_is_an_answer(answer):
    assert parse_choice(answer, OPTIONS) == NAMED[answer]


@pytest.mark.parametrize("answer", UNNAMED)
def test_nothing_else_is_an_answer(answer):
    assert parse_choice(answer, OPTIONS) is None


def test_the_article_is_the_letter_only_where_it_opens_the_text_of_an_option():
    assert parse_choice("A blue car", ["A red car", "A blue car"]) == "B"
    assert parse_choice("A blue car", ["Red", "Blue"]) is None


def test_two_options_with_one_text_are_no_answer():
    assert parse_choice("red", ["red", "Red.", "blue"]) is None


def test_letters_beyond_the_options_are_none():
    assert parse_choice("D", ["yes", "no"]) is None
    assert parse_choice("E", ["a", "b", "c", "d", "e"]) == "E"
