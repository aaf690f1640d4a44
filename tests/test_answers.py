"""Reading and matching of answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep import answers
from chainofstep.answers import LETTERS, answer_key, is_right, normalize
from chainofstep.records import Example

ROWS = ("row 1", "row 2", "both the same")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", "12"),
        ("12.0", "12"),
        (" 12 ", "12"),
        ("012", "12"),
        ("1,200", "1200"),
        ("1,234,567.50", "1234567.5"),
        ("The answer is 12.", "12"),
        ("So the final answer is: **12**", "12"),
        ("-3", "-3"),
        ("\u22123", "-3"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("$5", "5"),
        ("50%", "50"),
        ("12 cm", "12"),
        ("12cm", "12"),
        ("1.5e3", "1500"),
        ("12, or 12.0", "12"),  # one value, said twice
    ],
)
def test_numbers_are_compared_by_value(text, value):
    assert normalize(text, "number") == value


@pytest.mark.parametrize(
    "text", ["", "twelve", "3 + 9 = 12", "3-4", "3/4", "12 or 13", "1.2.3", "4x4", "1e999", "row2", "1,20"]
)
def test_text_without_exactly_one_number_is_unreadable(text):
    assert normalize(text, "number") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Circle", "circle"),
        (" the  red\ncircle. ", "red circle"),
        ("A hawk", "hawk"),
        ("The answer is an owl.", "owl"),
        ('"Owl"', "owl"),
        ("Answer: owl!", "owl"),
        ("a", "a"),  # an article alone is the word
        ("hawk and the mouse", "hawk and the mouse"),  # an article inside says something
        ("answer island", "answer island"),  # no lead-in
    ],
)
def test_words_are_compared_without_case_articles_and_final_period(text, word):
    assert normalize(text, "word") == word


def test_an_empty_word_is_unreadable():
    assert normalize(" . ", "word") is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("b", "B"),
        ("(A)", "A"),
        ("A.", "A"),
        ("A)", "A"),
        ("(A) row 1", "A"),
        ("(b) Row 2.", "B"),
        ("B: row 2", "B"),
        ("The answer is A.", "A"),
        ("The correct option is (C).", "C"),
        ("option B", "B"),
        ("row 2", "B"),
        ("The answer is Row 2.", "B"),
        ("BOTH the same", "C"),
        ("(A) since its sum is larger", "A"),
    ],
)
def test_an_option_is_named_by_letter_or_by_exact_text(text, letter):
    assert normalize(text, "choice", ROWS) == letter


@pytest.mark.parametrize(
    "text", ["", "D", "(D)", "row", "row 3", "A or B", "(A) row 2", "(A) or (B)", "A. B", "a row", "row 1 row 2"]
)
def test_no_option_or_two_are_unreadable(text):
    assert normalize(text, "choice", ROWS) is None


def test_a_letter_goes_before_an_option_text_that_is_a_letter():
    assert normalize("A", "choice", ("B", "A")) == "A"
    assert normalize("C", "choice", ("C", "A")) == "A"  # no option C, so it is the text of option A


def by_recursion(text, choices):
    """What a choice means, a letter in front at a time."""
    text = answers._bare(text)
    named = answers._letters_of(text, choices)
    alone = answers._LETTER_ALONE.fullmatch(text)
    if alone and (letter := answers._option(alone, choices)):
        return letter
    if named:
        return named[0] if len(named) == 1 else None
    first = answers._LETTER_FIRST.fullmatch(text)
    letter = answers._option(first, choices) if first else None
    if letter is None:
        return None
    rest = first.group(3)
    others = {inside.upper() for inside in answers._LETTER_INSIDE.findall(rest)} | {by_recursion(rest, choices)}
    return letter if others <= {letter, None} or letter in answers._letters_of(rest, choices) else None


PIECES = (
    "A. ",
    "B. ",
    "(A) ",
    "(b) ",
    "C: ",
    "D. ",
    "A",
    "row 1",
    "row 2",
    " (B)",
    "option ",
    "the answer is ",
    "so",
    ". ",
)


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.sampled_from([ROWS, (), ("A. B", "B. row 1")]))
def test_letters_before_letters_mean_what_they_mean_one_at_a_time(text, choices):
    assert normalize(text, "choice", choices) == by_recursion(text, choices)


@pytest.mark.parametrize(("end", "letter"), [("", "A"), ("row 1", "A"), ("row 2", "A"), ("(B)", None)])
def test_a_text_of_very_many_letters_is_read(end, letter):
    assert normalize("A. " * 20_000 + end, "choice", ROWS) == letter
    assert normalize("A. B. " * 1000 + "B. " + end, "choice", ROWS) in (None, "A")


def test_equal_option_texts_are_told_apart_by_letter_alone():
    assert normalize("two", "choice", ("two", "two")) is None
    assert normalize("(B) two", "choice", ("two", "two")) == "B"


def test_an_option_text_that_begins_like_a_letter_is_the_text():
    assert normalize("B. subtilis", "choice", ("B. subtilis", "E. coli")) == "A"


def example(gold, kind, choices=()):
    return Example("q-1", "?", (), gold, kind, choices)


def test_right_is_equal_after_reading_both_sides():
    assert is_right(example("1200", "number"), "The answer is 1,200.0")
    assert not is_right(example("1200", "number"), "1201")
    assert is_right(example("Owl", "word"), "an owl")
    assert is_right(example("B", "choice", ROWS), "row 2")
    assert not is_right(example("B", "choice", ROWS), "(B) row 1")


def test_no_answer_and_unreadable_answers_are_wrong():
    assert not is_right(example("12", "number"), None)
    assert not is_right(example("12", "number"), "twelve")


@pytest.mark.parametrize("case", [("twelve", "number", ()), ("D", "choice", ROWS), ("", "word", ())])
def test_a_gold_answer_that_cannot_be_read_is_an_error(case):
    with pytest.raises(ValueError, match="example q-1: its gold answer"):
        is_right(example(*case), None)


def test_votes_for_one_value_share_a_key_and_unreadable_ones_meet_no_readable_one():
    number = example("12", "number")
    assert answer_key(number, "12.0") == answer_key(number, "The answer is 12.") == "12"
    assert answer_key(number, "No  idea") == answer_key(number, "no idea") != answer_key(number, "none")
    assert answer_key(example("owl", "word"), "") != answer_key(example("owl", "word"), "unreadable")


@given(st.integers(-(10**40), 10**40))
def test_every_spelling_of_an_integer_is_read_exactly(value):
    for text in (str(value), f"{value:,}", f"{value}.00", f"The answer is {value:,}."):
        assert normalize(text, "number") == str(value)


@given(st.integers(0, 25), st.lists(st.text("xyz ", min_size=2, max_size=6).map(str.strip), min_size=1, max_size=26))
def test_a_letter_is_read_exactly_where_it_is_an_option(place, texts):
    letter = LETTERS[place]
    expected = letter if place < len(texts) else None
    for text in (f"({letter})", f"{letter}.", f"the answer is {letter.lower()}"):
        named = normalize(text, "choice", texts)
        assert named == expected or (expected is None and texts.count(letter.lower()) == 1)


@given(st.text("the an answer is: option (A).12,-b", max_size=25), st.sampled_from(["number", "word", "choice"]))
def test_reading_what_was_read_changes_nothing(text, kind):
    once = normalize(text, kind)
    assert once is None or normalize(once, kind) == once


def test_an_answer_that_loops_over_letters_is_unreadable():
    looping = "A. B. " * 16_000 + "A. row 1"
    assert normalize(looping, "choice", ("row 1", "row 2")) is None
    assert normalize("A. row 1", "choice", ("row 1", "row 2")) == "A"
