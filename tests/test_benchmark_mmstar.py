"""MMStar by its own script's rule: hand-worked cases, hostile answers, both published layouts."""

from random import Random
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.benchmarks.mmstar import MMSTAR, judge_mmstar, read_mmstar
from chainofstep.chain import Chain, Step, render
from chainofstep.evaluate import by_group
from chainofstep.records import Example, ScoreFailure

QUESTION = "Which is red?\nOptions: A: the cat, or dog, B: the hat, C: the mat, D: none"
KINDS = {"category": "math", "l2_category": "geometry"}
ITEM = Example("mmstar/1", QUESTION, ("a.png",), "B", "choice", source="mmstar", meta=KINDS)

#: What was said (of gold B), the letter that is read, the outcome.
CASES = [
    # The first letter, whatever follows.
    ("B", "B", "right"),
    ("b", "B", "right"),
    ("A", "A", "wrong"),
    ("B.", "B", "right"),
    ("B: the hat", "B", "right"),
    ("B) the hat", "B", "right"),
    ("B\nthe hat", "B", "right"),
    ("B or C", "B", "right"),
    ("BC", "B", "right"),
    ("Because it is.", "B", "right"),
    ("Answer: B", "A", "wrong"),
    ("Certainly B", "C", "wrong"),
    ("Definitely (B)", "D", "wrong"),
    ("a hat", "A", "wrong"),
    # After an opening parenthesis.
    ("(B)", "B", "right"),
    ("(b) the hat", "B", "right"),
    ("(B", "B", "right"),
    ("(A)", "A", "wrong"),
    ("( B)", None, "unparseable"),
    ("((B))", None, "unparseable"),
    ("(", None, "unparseable"),
    # After the word option.
    ("Option B", "B", "right"),
    ("option b.", "B", "right"),
    ("option C", "C", "wrong"),
    ("Option\nB", "B", "right"),
    ("option (B)", None, "unparseable"),
    ("Options: B", None, "unparseable"),
    ("option ", None, "unparseable"),
    # After the one sentence.
    ("The answer is B", "B", "right"),
    ("THE ANSWER IS B.", "B", "right"),
    ("The answer\nis b", "B", "right"),
    ("The answer is because", "B", "right"),
    ("The answer is A", "A", "wrong"),
    ("The answer is (B)", None, "unparseable"),
    ("The answer is: B", None, "unparseable"),
    ("The answer is", None, "unparseable"),
    ("The correct answer is B", None, "unparseable"),
    # No other form, letter or script.
    ("E", None, "unparseable"),
    ("**B**", None, "unparseable"),
    ("the hat", None, "unparseable"),
    ("2", None, "unparseable"),
    ("Ｂ", None, "unparseable"),
    ("В", None, "unparseable"),  # Cyrillic
    ("nan", None, "unparseable"),
    ("", None, "unparseable"),
]


@pytest.mark.parametrize(("said", "letter", "expected"), CASES)
def test_a_case_worked_by_hand(said, letter, expected):
    verdict = judge_mmstar(ITEM, said, Random(0))
    assert (verdict.outcome, verdict.answer, verdict.credit) == (expected, letter, expected == "right")


def test_of_a_chain_only_its_answer_is_judged():
    written = render(Chain((Step("Read", "The hat is red.", "It is."),), "(B)"))
    texts = [written, written.replace("(B)<", "(A)<"), written[:-5], "  B\n", "<|im_start|>", None,
             ScoreFailure("no prediction")]  # fmt: skip
    outcomes = [verdict.outcome for verdict in MMSTAR.judge([ITEM] * len(texts), texts)]
    assert outcomes == ["right", "wrong", "unparseable", "right", "unparseable", "unparseable", "failed"]


@given(st.text(max_size=40) | st.builds(str.__add__, st.sampled_from(["option ", "The answer is ", "("]), st.text()))
def test_any_answer_has_exactly_one_outcome(said):
    (verdict,) = MMSTAR.judge([ITEM], [said])
    assert verdict.outcome in ("right", "wrong", "unparseable")
    assert (verdict.answer is None) == (verdict.outcome == "unparseable")
    assert verdict.credit == (verdict.outcome == "right") == (verdict.answer == "B")


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.text(max_size=9))
def test_a_letter_first_is_right_where_it_is_the_gold_one(gold, said, rest):
    example = Example("mmstar/1", QUESTION, ("a.png",), gold, "choice", meta=KINDS)
    assert judge_mmstar(example, f"{said}. {rest}", Random(0)).outcome == ("right" if said == gold else "wrong")


@pytest.mark.parametrize("part", ["(", "9", " ", "option ", "the answer is ", "\n", "İ", "<|"])
def test_long_answers_take_time_in_proportion(part):
    def seconds(length):
        text = "x" + (part * length)[:length]
        start = perf_counter()
        MMSTAR.judge([ITEM] * 3, [text] * 3)
        return perf_counter() - start

    short = min(seconds(50_000) for _ in range(3))
    assert min(seconds(100_000) for _ in range(3)) < 5 * short + 0.05


# Layouts

HUB = {"row_number": "val-0", "index": 0, "question": QUESTION, "image": "a.png", "answer": "B", **KINDS,
       "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"}}  # fmt: skip
VLMEVALKIT = {"row_number": "t-0", "index": "0", "question": "Which is red?", "A": "the cat, or dog", "B": "the hat",
              "C": "the mat", "D": "none", "image": "a.png", "answer": "B", **KINDS, "bench": "MMBench"}  # fmt: skip


@pytest.mark.parametrize(("row", "more"), [(HUB, {"meta_info": HUB["meta_info"]}), (VLMEVALKIT, {"bench": "MMBench"})])
def test_a_row_of_each_published_layout(row, more):
    assert read_mmstar(row) == Example(
        "mmstar/0", QUESTION, ("a.png",), "B", "choice", source="mmstar", meta=KINDS | more
    )


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"answer": "E"}, "unreadable answer"), ({"answer": ""}, "unreadable answer"),
     ({"answer": "AB"}, "unreadable answer"), ({"question": ""}, "empty question"),
     ({"category": None}, "missing field"), ({"image": ""}, "no picture")],
)  # fmt: skip
def test_a_row_that_cannot_be_used_says_why(change, kind):
    with pytest.raises(ValueError, match=f"^{kind}: "):
        read_mmstar({**HUB, **change})


def test_the_prompts_leave_the_options_where_they_are():
    asked = {name: MMSTAR.asked(ITEM, name).question for name in ("none", "paper", "official")}
    assert asked == {
        "none": QUESTION,
        "paper": f"{QUESTION}\nThink step-by-step first and then answer with the option's letter from the given "
        "choices directly.",
        "official": f"{QUESTION}\nAnswer with the option's letter from the given choices directly",
    }


def test_scores_by_category_and_sub_category():
    kinds = [("math", "geometry"), ("math", "geometry"), ("math", "statistical reasoning"),
             ("logical reasoning", "diagram reasoning")]  # fmt: skip
    examples = [
        Example(f"mmstar/{number}", QUESTION, ("a.png",), "B", "choice", meta={"category": one, "l2_category": two})
        for number, (one, two) in enumerate(kinds)
    ]
    outcomes = [verdict.outcome for verdict in MMSTAR.judge(examples, ["B", "A", "(b)", "no"])]
    by_category = by_group(examples, outcomes, lambda example: MMSTAR.groups(example)["category"])
    assert {name: (tally.right, tally.total) for name, tally in by_category.items()} == {
        "math": (2, 3), "logical reasoning": (0, 1)
    }  # fmt: skip
    by_detail = by_group(examples, outcomes, lambda example: MMSTAR.groups(example)["l2_category"])
    assert (by_detail["geometry"].right, by_detail["geometry"].total) == (1, 2)
