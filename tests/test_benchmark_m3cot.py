"""M3CoT by its own rule: cases worked by hand from the official description, and its real items."""

import json
import time
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.answers import LETTERS
from chainofstep.benchmarks.benchmark import Verdict
from chainofstep.benchmarks.load import load
from chainofstep.benchmarks.m3cot import M3COT, read_m3cot
from chainofstep.chain import Chain, Step, render
from chainofstep.records import ScoreFailure
from test_pictures import DATA, needs_data

HUB = {
    "id": "physics-1", "category": "physics", "image_id": "1", "question": "What can the magnet do?",
    "choices": ["pull iron", "push wood", "sing"], "context": "A magnet is shown.", "answer": "B",
    "rationale": "It is.", "split": "test", "image": "images/physics-1.png", "domain": "science",
    "topic": "natural-science",
}  # fmt: skip
HOSTILE = ("(", "(A", "(A)", "[Answer]", "[Rationale]", "[Context]", "A ", "pull ", "pull iro", "1", "\n", ".", "İ")


def example_of(*choices, answer="B"):
    return read_m3cot(HUB | {"choices": list(choices), "answer": answer})


def judged(example, text):
    return M3COT.judge([example], [text])[0]


COLOURS = example_of("red", "blue", "dark blue", "green")
GENES = example_of("TT", "tt", "Tt", answer="A")  # without case one and the same
NAMES = example_of("a cat", "a dog")


@pytest.mark.parametrize(
    ("example", "text", "outcome", "answer"),
    [
        (COLOURS, "B", "right", "B"),
        (COLOURS, "(B)", "right", "B"),
        (COLOURS, "(b)", "right", "B"),
        (COLOURS, "The answer is (B).", "right", "B"),
        (COLOURS, "(A), no, (B)", "right", "B"),  # the last one counts
        (COLOURS, "(B), not (A)", "wrong", "A"),
        (COLOURS, "(B) red", "right", "B"),  # before any text
        (COLOURS, "By f(x) it is B", "wrong", "X"),  # officially X is read, though it is no option
        (COLOURS, "(AB)", "unparseable", None),
        (COLOURS, "( B )", "right", "B"),
        (COLOURS, "blue", "right", "B"),
        (COLOURS, "It is BLUE.", "right", "B"),
        (COLOURS, "dark blue", "wrong", "C"),  # of the options within it the last, here C
        (COLOURS, "blue, and certainly not green", "wrong", "D"),
        (COLOURS, "green, and certainly not blue", "wrong", "D"),
        (COLOURS, "bored", "wrong", "A"),  # red stands within the word
        (COLOURS, "C or B", "wrong", "C"),  # the last option, not the last place
        (COLOURS, "B.", "right", "B"),
        (COLOURS, "B) it is", "unparseable", None),
        (COLOURS, "B:", "unparseable", None),
        (COLOURS, "Answer: B", "right", "B"),
        (COLOURS, "B\nA", "right", "B"),
        (COLOURS, "b", "right", "B"),
        (COLOURS, "i think b!", "right", "B"),
        (COLOURS, "it is a thing", "wrong", "A"),  # the article, read as a letter
        (COLOURS, "a B", "right", "B"),  # capitals first
        (COLOURS, "A b", "wrong", "A"),
        (COLOURS, "E", "unparseable", None),  # there is no fifth option
        (COLOURS, "(E)", "wrong", "E"),
        (COLOURS, "", "unparseable", None),
        (COLOURS, "yellow", "unparseable", None),
        (COLOURS, "[Answer] (B)", "right", "B"),
        (COLOURS, "(A) [Answer] B", "right", "B"),
        (COLOURS, "[Answer] (A) [Answer] (B)", "right", "B"),
        (COLOURS, "[Answer] (B) [Rationale] not (A)", "right", "B"),
        (COLOURS, "[Answer] (B) [Context] (A)", "right", "B"),
        (COLOURS, "(B) [Rationale] (A)", "wrong", "A"),  # without [Answer] nothing is cut off
        (COLOURS, "(B) [Answer]", "unparseable", None),
        (COLOURS, "В", "unparseable", None),  # Cyrillic
        (COLOURS, "2", "unparseable", None),
        (COLOURS, "nan", "unparseable", None),
        (COLOURS, "<|answer_start|>B<|answer_end|>", "right", "B"),
        (COLOURS, "<|answer_start|>(B)", "unparseable", None),
        (COLOURS, "(B)<|im_end|>", "right", "B"),
        (GENES, "TT", "wrong", "C"),  # the gold text itself: case is ignored, the last option counts
        (GENES, "(A) TT", "right", "A"),
        (NAMES, "a cat", "wrong", "A"),
        (NAMES, "dog", "unparseable", None),  # only whole option texts
    ],
)
def test_cases_by_hand(example, text, outcome, answer):
    note = "no closed answer" if text == "<|answer_start|>(B)" else ""
    assert judged(example, text) == Verdict(outcome, answer, outcome == "right", note)


def test_what_is_no_text_is_counted_too():
    assert judged(COLOURS, ScoreFailure("server down")) == Verdict("failed", note="server down")
    assert judged(COLOURS, None) == Verdict("unparseable", note="no chain")


def test_a_chain_is_judged_by_its_answer_alone():
    steps = (Step("Look", "It is not (A).", "Seen."),)
    assert judged(COLOURS, render(Chain(steps, "B"))).outcome == "right"
    assert judged(COLOURS, render(Chain(steps))).outcome == "unparseable"


def test_the_hubs_layout():
    example = read_m3cot(HUB)
    assert (example.id, example.question, example.answer) == ("m3cot/physics-1", "What can the magnet do?", "B")
    assert (example.choices, example.images) == (("pull iron", "push wood", "sing"), ("images/physics-1.png",))
    assert M3COT.groups(example) == {"domain": "science", "topic": "natural-science"}
    assert M3COT.asked(example, "official").question == (
        "[Context]\nA magnet is shown.\n[Question]\nWhat can the magnet do?\n"
        "[Choices]\n(A) pull iron\n(B) push wood\n(C) sing\n\nLet's think step-by-step!"
    )
    assert M3COT.asked(example, "paper").question == (
        "A magnet is shown.\nWhat can the magnet do?\nA. pull iron\nB. push wood\nC. sing\n"
        "Think step-by-step first and then answer with the option's letter from the given choices directly."
    )


def test_a_question_that_repeats_its_choices_is_asked_bare_and_officially_as_published():
    published = "<QUESTION>\nWhat can it do?\n\n<CHOICE>\n(A) pull iron\n\n<CONTEXT>\nA magnet."
    example = read_m3cot(HUB | {"question": published, "context": ""})
    assert example.question == "What can it do?"
    assert M3COT.asked(example, "official").question.startswith(f"[Question]\n{published}\n[Choices]\n(A) pull iron\n")
    assert M3COT.asked(example, "paper").question.startswith("What can it do?\nA. pull iron\n")


def test_an_index_is_a_gold_answer_too():
    assert read_m3cot(HUB | {"answer": "1"}).answer == "B"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answer": "D"}, "choice number 3 of 3"),
        ({"answer": "push wood"}, "is 'push wood', not a whole number"),
        ({"answer": None}, "missing field: answer"),
        ({"choices": []}, "missing choices"),
        ({"question": " "}, "empty question"),
        ({"prompt": "What is it?"}, "no line \\[Question\\]"),
        ({"id": None}, "no id"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(change, problem):
    with pytest.raises(ValueError, match=problem):
        read_m3cot(HUB | change)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return load(M3COT, DATA / "m3cot", pictures=tmp_path_factory.mktemp("pictures"), check="none")


@needs_data
def test_real_items_answered_with_the_gold_letter_are_right_and_with_another_wrong(real):
    assert len(real.examples) == 150 and not real.rejects
    golds = [f"({example.answer})" for example in real.examples]
    others = ["(B)" if example.answer == "A" else "(A)" for example in real.examples]
    assert {verdict.outcome for verdict in M3COT.judge(real.examples, golds)} == {"right"}
    assert {verdict.outcome for verdict in M3COT.judge(real.examples, others)} == {"wrong"}


@needs_data
def test_bare_gold_letters_are_read_in_all_real_items_and_gold_texts_in_all_but_five(real):
    letters = M3COT.judge(real.examples, [example.answer for example in real.examples])
    assert Counter(verdict.outcome for verdict in letters) == {"right": 150}
    texts = [example.choices[LETTERS.index(example.answer)] for example in real.examples]
    wrong = [
        example.id
        for example, verdict in zip(real.examples, M3COT.judge(real.examples, texts), strict=True)
        if verdict.outcome == "wrong"
    ]
    assert len(wrong) == 5 and "m3cot/biology-1456" in wrong  # `TT` beside `Tt`; `1` beside `1/3`


@needs_data
def test_real_items_are_asked_officially_in_their_published_words(real):
    lines = (DATA / "m3cot" / "items.jsonl").read_text("utf-8").strip().split("\n")
    rows = map(json.loads, lines)
    published = {f"m3cot/{row['id']}": row["prompt"] for row in rows}
    for example in real.examples:
        assert M3COT.asked(example, "official").question == f"{published[example.id]}\n\nLet's think step-by-step!"
        assert not any(mark in example.question for mark in ("<QUESTION>", "<CHOICE>", "<CONTEXT>", "[Choices]"))


@needs_data
def test_real_items_have_their_breakdowns(real):
    topics = Counter(M3COT.groups(example)["topic"] for example in real.examples)
    assert topics["social-science"] == 64 and len(topics) == 8
    assert Counter(M3COT.groups(example)["domain"] for example in real.examples) == {
        "science": 128, "commonsense": 12, "mathematics": 10,
    }  # fmt: skip


@given(st.text(), st.sampled_from([COLOURS, GENES, NAMES]))
def test_any_text_has_one_outcome(text, example):
    verdict = judged(example, text)
    assert verdict.outcome == ("unparseable" if verdict.answer is None else "right" if verdict.credit else "wrong")
    assert verdict.credit == (verdict.answer == example.answer)


@given(st.text(alphabet=st.characters(exclude_characters="()[]<|")), st.sampled_from("ABCD"))
def test_a_marked_letter_is_read_after_any_text(before, letter):
    assert judged(COLOURS, f"{before} ({letter})").answer == letter


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_text(piece):
    assert growth(lambda text: M3COT.rule(COLOURS, text, Random(0)), piece) < 8


def growth(judge, piece):
    """How many times longer 100,000 characters take than 25,000: 4 for a linear rule, 16 for a square one.

    What takes under 10 milliseconds is not told from the machine's noise; a square rule takes more.
    """
    ratios = []
    for _ in range(3):
        short, long = (seconds(judge, (piece * size)[:size]) for size in (25_000, 100_000))
        ratios.append(long / max(short, 0.01))
    return min(ratios)


def seconds(judge, text):
    started = time.perf_counter()
    judge(text)
    return time.perf_counter() - started


def test_a_square_rule_would_be_seen():
    assert growth(lambda text: [text.count("b", start) for start in range(0, len(text), 10)], "a") > 8
