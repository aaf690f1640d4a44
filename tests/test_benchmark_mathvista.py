"""MathVista by its own rule: cases worked by hand from the official description."""

import json
import math
from random import Random

import pytest

pytest.importorskip("rapidfuzz")
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.benchmarks.benchmark import Verdict
from chainofstep.benchmarks.load import load
from chainofstep.benchmarks.mathvista import MATHVISTA, nearest, quick_extraction, read_mathvista
from chainofstep.chain import Chain, Step, render
from chainofstep.records import ScoreFailure
from test_benchmark_m3cot import growth

METADATA = {
    "category": "math-targeted-vqa", "context": "bar chart", "grade": "daily life", "img_height": 4, "img_width": 5,
    "language": "english", "skills": ["statistical reasoning", "arithmetic reasoning"], "source": "DVQA",
    "split": "testmini", "task": "figure question answering",
}  # fmt: skip
HOSTILE = (
    "1",
    "(",
    "(A",
    "(AB",
    'The answer is "',
    '".',
    "- ",
    "e1",
    "[0, ",
    "nan",
    "٣",
    "answer: ",
    "(A) ",
    "\n",
    "A ",
)


def row_of(answer_type, answer, choices=(), **others):
    row = {
        "pid": "7", "question": "How many bars?", "image": "images/7.jpg", "choices": list(choices) or None,
        "unit": None, "precision": None, "answer": answer, "answer_type": answer_type, "metadata": METADATA,
        "question_type": "multi_choice" if choices else "free_form",
    }  # fmt: skip
    return row | others


def example_of(answer_type, answer, choices=(), **others):
    return read_mathvista(row_of(answer_type, answer, choices, **others))


def judged(example, text):
    return MATHVISTA.judge([example], [text])[0]


INTEGER = example_of("integer", "14")
TENTH = example_of("float", "1.5", precision=1.0)
CENT = example_of("float", "0.33", precision=2.0)
LIST = example_of("list", "[0, 2]")
COLOURS = example_of("text", "red", ("green", "red", "blue"))
WHETHER = example_of("text", "Yes", ("Yes", "No"))
NEGATED = example_of("text", "No", ("No", "Yes"))
#: pid 781 has its gold text twice, 587 and 740 another text: every letter of the gold text is right.
TWICE = example_of("text", "5", ("3", "5", "8", "5"))
#: Letters as texts: a letter says where an option stands, not what it is.
LETTERS_AS_TEXTS = example_of("text", "C", ("C", "A", "B"))


@pytest.mark.parametrize(
    ("example", "text", "outcome", "credit", "answer"),
    [
        (INTEGER, "14", "right", True, "14"),
        (INTEGER, " 14\n", "right", True, "14"),
        (INTEGER, "14.0", "right", True, "14"),
        (INTEGER, "14.9", "right", True, "14"),  # int() cuts
        (INTEGER, "-14", "wrong", False, "-14"),
        (INTEGER, "+14", "right", True, "14"),
        (INTEGER, "1.4e1", "right", True, "14"),
        (INTEGER, "15", "wrong", False, "15"),
        (INTEGER, "1,400", "unparseable", False, None),  # a comma fails float()
        (INTEGER, "14%", "unparseable", False, None),
        (INTEGER, "$14", "unparseable", False, None),
        (INTEGER, "14 bars", "unparseable", False, None),  # officially a language model is asked
        (INTEGER, "There are 14 bars.", "unparseable", False, None),
        (INTEGER, 'The answer is "14".', "right", True, "14"),
        (INTEGER, 'First this.\nSo The answer is "14". Done.', "right", True, "14"),
        (INTEGER, 'The answer is "1". The answer is "14".', "unparseable", False, None),  # `.*` takes all between
        (INTEGER, 'The answer is "14"', "unparseable", False, None),  # without the period
        (INTEGER, 'the answer is "14".', "unparseable", False, None),
        (INTEGER, "١٤", "right", True, "14"),  # int() reads the digits of other scripts
        (INTEGER, "14", "right", True, "14"),
        (INTEGER, "1_4", "right", True, "14"),  # as int() does
        (INTEGER, "nan", "unparseable", False, None),
        (INTEGER, "inf", "unparseable", False, None),
        (INTEGER, "1e999", "unparseable", False, None),
        (INTEGER, "9" * 5000, "unparseable", False, None),  # beyond what int() and float() hold
        (INTEGER, "", "unparseable", False, None),
        (INTEGER, "<|answer_start|>14<|answer_end|>", "right", True, "14"),
        (INTEGER, "<|answer_start|>14", "unparseable", False, None),
        (INTEGER, "14<|im_end|>", "unparseable", False, None),
        (TENTH, "1.5", "right", True, "1.5"),
        (TENTH, "1.50", "right", True, "1.5"),
        (TENTH, "1.54", "right", True, "1.5"),
        (TENTH, "1.56", "wrong", False, "1.6"),
        (TENTH, "1.45", "wrong", False, "1.4"),  # 1.45 is a little less in binary
        (TENTH, "2", "wrong", False, "2.0"),
        (TENTH, "nan", "wrong", False, "nan"),
        (TENTH, "-inf", "wrong", False, "-inf"),
        (TENTH, "3/2", "unparseable", False, None),
        (TENTH, "1.5 cm", "unparseable", False, None),
        (TENTH, "", "unparseable", False, None),
        (CENT, "0.333", "right", True, "0.33"),
        (CENT, ".33", "right", True, "0.33"),
        (CENT, "33%", "unparseable", False, None),
        (LIST, "[0, 2]", "right", True, "[0, 2]"),
        (LIST, "[0,2]", "wrong", False, "[0,2]"),  # spelling counts
        (LIST, "0, 2", "wrong", False, "0, 2"),
        (LIST, 'The answer is "[0, 2]".', "right", True, "[0, 2]"),
        (LIST, "", "unparseable", False, None),
        (COLOURS, "B", "right", True, "red"),
        (COLOURS, "(B)", "right", True, "red"),
        (COLOURS, "(b) it is", "right", True, "red"),
        (COLOURS, "(A) or (B)", "wrong", False, "green"),  # the first marked letter counts
        (COLOURS, "(B) or (A)", "right", True, "red"),
        (COLOURS, "red", "right", True, "red"),
        (COLOURS, "blue", "wrong", False, "blue"),
        (COLOURS, "Red", "right", True, "red"),  # nearest, and it does name it
        (COLOURS, "The answer is red.", "right", True, "red"),  # 15 edits to red, 16 to green
        (COLOURS, "It is red", "unparseable", True, "red"),  # officially a language model is asked
        (COLOURS, "rod", "unparseable", True, "red"),  # nearest, but it names no option
        (COLOURS, "greenish red", "unparseable", False, "green"),
        (COLOURS, "", "unparseable", True, "red"),  # the shortest option is nearest to nothing
        (COLOURS, "(F)", "unparseable", True, "red"),  # no option: nearest to "F"
        (COLOURS, 'The answer is "B".', "right", True, "red"),
        (COLOURS, "<|answer_start|>(B)<|answer_end|>", "right", True, "red"),
        (COLOURS, "B<|im_end|>", "unparseable", False, "green"),  # 9 edits to green and to red
        (WHETHER, "yes", "right", True, "Yes"),
        (WHETHER, "no", "wrong", False, "No"),
        (WHETHER, "b", "wrong", False, "No"),
        (NEGATED, "b", "unparseable", True, "No"),  # B is Yes, but No is nearer: two edits and not three
        (NEGATED, "B", "wrong", False, "Yes"),
        (TWICE, "B", "right", True, "5"),
        (TWICE, "D", "right", True, "5"),
        (TWICE, "5", "right", True, "5"),
        (TWICE, "A", "wrong", False, "3"),
        (LETTERS_AS_TEXTS, "A", "right", True, "C"),
        (LETTERS_AS_TEXTS, "C", "wrong", False, "B"),  # an option's text, yet taken for a letter
    ],
)  # fmt: skip
def test_cases_by_hand(example, text, outcome, credit, answer):
    verdict = judged(example, text)
    assert (verdict.outcome, verdict.credit, verdict.answer) == (outcome, credit, answer)


def test_what_is_no_text_is_counted_too():
    failure = ScoreFailure("server down")
    assert judged(INTEGER, failure) == Verdict("failed", note="server down")
    assert judged(INTEGER, None) == Verdict("unparseable", note="no chain")


def test_a_chain_is_judged_by_its_answer_alone():
    steps = (Step("Count", "There are 14 of them.", "Seen."),)
    assert judged(INTEGER, render(Chain(steps, "14"))).outcome == "right"
    assert judged(INTEGER, render(Chain(steps, "3"))).outcome == "wrong"
    assert judged(INTEGER, render(Chain(steps))).outcome == "unparseable"


def test_the_nearest_option_is_the_first_of_those_at_the_same_distance():
    assert nearest("kitten", ("sitting", "mitten", "bitten")) == "mitten"
    assert nearest("", ("ab", "a", "b")) == "a"


@pytest.mark.parametrize(
    ("example", "reply", "extracted"),
    [
        (INTEGER, "14", "14"),
        (INTEGER, "14.0", None),  # no int: officially GPT is asked, though it would be read later
        (TENTH, "1", "1.0"),
        (COLOURS, "red", "red"),
        (COLOURS, "B", None),
        (COLOURS, "", ""),
        (LIST, "[0, 2]", None),
    ],
)
def test_what_needs_no_language_model(example, reply, extracted):
    assert quick_extraction(example, reply) == extracted


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (row_of("integer", ""), "no gold answer"),
        (row_of("integer", None), "no gold answer"),
        (row_of("number", "1"), "unknown answer_type: 'number'"),
        (row_of("float", "1.5"), "field precision is None"),
        (row_of("float", "1.5", precision=math.nan), "field precision is nan"),
        (row_of("text", "a", question_type="multi_choice"), "missing choices"),
        (row_of("text", "grey", ("green", "red")), "gold answer is no option: 'grey'"),
        (row_of("text", "B", ("green", "red")), "gold answer is no option"),
        (row_of("integer", "1", question_type="open"), "unknown question_type: 'open'"),
        (row_of("integer", "1", pid=" "), "empty field: pid"),
        (row_of("integer", "1", question=""), "empty field: question"),
        (row_of("integer", "1", metadata="none"), "field metadata is str"),
        (row_of("integer", "1", image=None), "no picture"),
        ({"index": 1, "question": "How many?"}, "missing field: answer_type"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, problem):
    with pytest.raises(ValueError, match=problem):
        read_mathvista(row)


def test_a_row_as_published():
    example = read_mathvista(row_of("text", "red", ("green", "red"), unit="cm", query="Hint: as published"))
    assert (example.id, example.question, example.answer) == ("mathvista/7", "How many bars?", "red")
    assert (example.choices, example.answer_kind, example.images) == (("green", "red"), "choice", ("images/7.jpg",))
    assert MATHVISTA.groups(example) == {
        "question_type": "multi_choice", "answer_type": "text", "language": "english", "source": "DVQA",
        "category": "math-targeted-vqa", "task": "figure question answering", "context": "bar chart",
        "grade": "daily life", "skills": ("statistical reasoning", "arithmetic reasoning"),
    }  # fmt: skip
    assert MATHVISTA.asked(example, "official").question == "Hint: as published"


def test_the_published_file_is_read_with_its_hidden_answers_counted(tmp_path):
    rows = {"7": row_of("integer", "14"), "8": row_of("text", "red", ("green", "red"), pid="8")}
    rows["9"] = row_of("integer", "", pid="9")
    (tmp_path / "testmini.json").write_text(json.dumps(rows), "utf-8")
    loaded = load(MATHVISTA, tmp_path, check="none")
    assert [example.id for example in loaded.examples] == ["mathvista/7", "mathvista/8"]
    assert [reject.reason.split(":")[0] for reject in loaded.rejects] == ["no gold answer"]
    assert loaded.problems[0].startswith("mathvista testmini: 3 rows, 1,000 published")


def test_prompts():
    example = example_of("text", "red", ("green", "red"), unit="cm")
    assert MATHVISTA.asked(example, "official").question == (
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: How many bars? (Unit: cm)\nChoices:\n(A) green\n(B) red"
    )
    assert MATHVISTA.asked(example, "paper").question == (
        "How many bars? (Unit: cm)\nChoices:\n(A) green\n(B) red\n"
        "Think step-by-step first and then answer the question with a single number or an option letter."
    )
    assert MATHVISTA.asked(example, "none") is example
    hints = [MATHVISTA.asked(one, "official").question for one in (INTEGER, TENTH, CENT, LIST)]
    wanted = ("integer answer", "one decimal place", "two decimal places", "Python list")
    assert all(words in hint for words, hint in zip(wanted, hints, strict=True))


@given(st.text(), st.sampled_from([INTEGER, TENTH, CENT, LIST, COLOURS, WHETHER, TWICE, LETTERS_AS_TEXTS]))
def test_any_text_has_one_outcome_and_only_right_or_guessed_ones_credit(text, example):
    verdict = judged(example, text)
    assert verdict.outcome in ("right", "wrong", "unparseable")
    assert verdict.credit == (verdict.answer == example.answer)
    assert verdict.credit or verdict.outcome != "right"
    assert verdict.note == "nearest option" or verdict.outcome != "unparseable" or not verdict.credit


@given(st.integers(-(10**12), 10**12))
def test_a_whole_number_is_right_however_it_is_written(number):
    example = example_of("integer", str(number))
    assert [judged(example, text).outcome for text in (f"{number}", f" {number}.0 ", f'The answer is "{number}".')] == [
        "right"
    ] * 3


@pytest.mark.parametrize("example", [INTEGER, TENTH, LIST, COLOURS])
@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_text(example, piece):
    assert growth(lambda text: MATHVISTA.rule(example, text, Random(0)), piece) < 8
