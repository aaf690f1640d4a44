"""AI2D by lmms-eval's rule: hand-worked cases, hostile answers, both published layouts."""

from random import Random
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.benchmarks.ai2d import AI2D, AI2D_NO_MASK, judge_ai2d, read_ai2d, read_ai2d_no_mask
from chainofstep.chain import Chain, Step, render
from chainofstep.records import Example, ScoreFailure

OPTIONS = ("leaf", "root", "a snake", "nothing")
ITEM = Example("ai2d/1", "Which part is E?", ("a.png",), "B", "choice", OPTIONS)

#: What was said (of gold B), the letter that is read, the outcome.
CASES = [
    # The letter alone, in either case, with any ASCII punctuation around it.
    ("B", "B", "right"),
    ("b", "B", "right"),
    ("A", "A", "wrong"),
    ("d", "D", "wrong"),
    ("(B)", "B", "right"),
    ("(b", "B", "right"),
    ("B)", "B", "right"),
    ("[B]", "B", "right"),
    ("B:", "B", "right"),
    ("**B**", "B", "right"),
    ('"B"', "B", "right"),
    ("B!?", "B", "right"),
    ("(C)", "C", "wrong"),
    # A capital and a period at the start; what follows is not looked at.
    ("B.", "B", "right"),
    ("B. root", "B", "right"),
    ("B. leaf", "B", "right"),
    ("B.root", "B", "right"),
    ("B. or A.", "B", "right"),
    ("A. root", "A", "wrong"),
    ("B.\nBecause it is below.", "B", "right"),
    # A small letter and a period only without anything behind it.
    ("b.", "B", "right"),
    ("b. root", None, "unparseable"),
    # Everything else is no letter.
    ("(B) root", None, "unparseable"),
    ("B) root", None, "unparseable"),
    ("B root", None, "unparseable"),
    ("B: root", None, "unparseable"),
    ("option B", None, "unparseable"),
    ("Answer: B", None, "unparseable"),
    ("The answer is B.", None, "unparseable"),
    ("root", None, "unparseable"),
    ("A, B", None, "unparseable"),
    ("BB", None, "unparseable"),
    ("( B )", None, "unparseable"),
    # Letters that are no option; other scripts' letters and punctuation.
    ("E", None, "unparseable"),
    ("E.", None, "unparseable"),
    ("1", None, "unparseable"),
    ("Ｂ", None, "unparseable"),
    ("В", None, "unparseable"),  # Cyrillic
    ("B。", None, "unparseable"),
    ("nan", None, "unparseable"),
    ("...", None, "unparseable"),
    ("", None, "unparseable"),
]


@pytest.mark.parametrize(("said", "letter", "expected"), CASES)
def test_a_case_worked_by_hand(said, letter, expected):
    verdict = judge_ai2d(ITEM, said, Random(0))
    assert (verdict.outcome, verdict.answer, verdict.credit) == (expected, letter, expected == "right")


def test_of_a_chain_only_its_answer_is_judged():
    written = render(Chain((Step("Read", "E is a root.", "It is."),), "B"))
    texts = [written, written.replace("B<", "A<"), written[:-5], "  B\n", "<|answer_start|>b<|answer_end|>", None,
             ScoreFailure("no prediction")]  # fmt: skip
    outcomes = [verdict.outcome for verdict in AI2D.judge([ITEM] * len(texts), texts)]
    assert outcomes == ["right", "wrong", "unparseable", "right", "right", "unparseable", "failed"]


@given(st.text(max_size=40) | st.text("ABCDEabcde().: \n", max_size=9))
def test_any_answer_has_exactly_one_outcome(said):
    (verdict,) = AI2D.judge([ITEM], [said])
    assert verdict.outcome in ("right", "wrong", "unparseable")
    assert (verdict.answer is None) == (verdict.outcome == "unparseable")
    assert verdict.credit == (verdict.outcome == "right") == (verdict.answer == "B")


@pytest.mark.parametrize("part", ["(", "9", " ", "A.", "B", "\n", "A ", "।", "<|", "\t("])
def test_long_answers_take_time_in_proportion(part):
    def seconds(length):
        text = "x" + (part * length)[:length]
        start = perf_counter()
        AI2D.judge([ITEM] * 3, [text] * 3)
        return perf_counter() - start

    short = min(seconds(50_000) for _ in range(3))
    assert min(seconds(100_000) for _ in range(3)) < 5 * short + 0.05


# Layouts

HUB = {"row_number": "test-0", "question": " Which part is E? ", "options": list(OPTIONS), "answer": "1",
       "image": "a.png"}  # fmt: skip
VLMEVALKIT = {"row_number": "t-0", "index": "9", "question": "Which part is E?", "A": "leaf", "B": "root",
              "C": "a snake", "D": "nothing", "answer": "B", "category": "parts", "image": "a.png"}  # fmt: skip


@pytest.mark.parametrize(("row", "number"), [(HUB, "test-0"), (VLMEVALKIT, "9")])
def test_a_row_of_each_published_layout(row, number):
    expected = Example(f"ai2d/{number}", "Which part is E?", ("a.png",), "B", "choice", OPTIONS, "ai2d")
    assert read_ai2d(row) == expected
    unmasked = read_ai2d_no_mask(row)
    assert (unmasked.id, unmasked.source) == (f"ai2d-no-mask/{number}", "ai2d-no-mask")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({**HUB, "answer": "4"}, "unreadable answer"),
        ({**HUB, "answer": "-1"}, "unreadable answer"),
        ({**HUB, "answer": "root"}, "wrong type"),
        ({**HUB, "answer": ""}, "wrong type"),
        ({**HUB, "answer": None}, "missing field"),
        ({**HUB, "options": []}, "missing choices"),
        ({**HUB, "options": "leaf, root"}, "wrong type"),
        ({**VLMEVALKIT, "answer": "E"}, "unreadable answer"),
        ({**VLMEVALKIT, "B": ""}, "missing choices"),
        ({**HUB, "image": None}, "no picture"),
        ({**HUB, "question": ""}, "empty question"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row, kind):
    with pytest.raises(ValueError, match=f"^{kind}: ") as refused:
        read_ai2d(row)
    assert "\n" not in str(refused.value)


def test_fewer_options_than_four():
    two = read_ai2d({**VLMEVALKIT, "C": "", "D": ""})
    assert two.choices == ("leaf", "root")
    assert judge_ai2d(two, "C", Random(0)).outcome == "unparseable"


def test_the_prompts():
    block = "Which part is E?\nA. leaf\nB. root\nC. a snake\nD. nothing"
    asked = {name: AI2D.asked(ITEM, name).question for name in ("none", "paper", "official")}
    assert asked == {
        "none": "Which part is E?",
        "paper": f"{block} \nThink step-by-step first and then answer with the option's letter from the given choices "
        "directly.",
        "official": f"{block}\nAnswer with the option's letter from the given choices directly.",
    }


def test_the_set_without_masks_is_another_benchmark_under_the_same_rule():
    assert AI2D.hub == "lmms-lab/ai2d" and AI2D_NO_MASK.hub == "lmms-lab/ai2d-no-mask"
    assert AI2D_NO_MASK.rule is AI2D.rule and AI2D_NO_MASK.rows == AI2D.rows == {"test": 3088}
    assert "not the paper's" in AI2D_NO_MASK.note and "AI2D_TEST.tsv" not in AI2D_NO_MASK.files
