"""ChartQA by pix2struct's rule: hand-worked cases, hostile answers, the real items."""

import json
from collections import Counter
from random import Random
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.benchmarks.chartqa import CHARTQA, judge_chartqa, read_chartqa
from chainofstep.benchmarks.load import load
from chainofstep.chain import Chain, Step, render
from chainofstep.records import Example, ScoreFailure
from test_pictures import DATA, needs_data


def of(gold, **meta):
    return Example("chartqa/1", "How many?", ("a.png",), gold, "word", meta=meta)


def outcome(gold, said):
    return judge_chartqa(of(gold), said, Random(0)).outcome


#: gold, what was said, the outcome.
CASES = [
    # Within 5% of the gold answer: 95 to 105 of 100.
    ("100", "105", "right"),
    ("100", "105.01", "wrong"),
    ("100", "95", "right"),
    ("100", "94.99", "wrong"),
    ("-100", "-96", "right"),
    ("-100", "96", "wrong"),
    # The gold answer is the denominator: 5.2 is 5.2 / 100 from 100 and would be 4.9% of 105.2.
    ("100", "105.2", "wrong"),
    ("105.2", "100", "right"),
    # Another spelling of a number is the number.
    ("14", "14.0", "right"),
    ("14", "1.4e1", "right"),
    ("1000", "1_000", "right"),
    ("14", "+14", "right"),
    (".5", "0.5", "right"),
    # Years: 5% of 2013 is 100.65.
    ("2013", "2113", "right"),
    ("2013", "2114", "wrong"),
    ("2013", "1913", "right"),
    ("2013", "1912", "wrong"),
    # A percent sign divides by a hundred, on either side.
    ("0.03", "3%", "right"),
    ("0.03", "3", "wrong"),
    ("62", "62%", "wrong"),
    ("62%", "0.62", "right"),
    ("62%", "62%", "right"),
    ("0.03", "3%%", "right"),
    ("62", "62 %", "wrong"),
    ("yes", "%", "wrong"),
    # Commas, currencies and units do not parse, so the texts are compared.
    ("1200", "1,200", "wrong"),
    ("1,200", "1,200", "right"),
    ("5", "$5", "wrong"),
    ("14", "14 items", "wrong"),
    ("14", "fourteen", "wrong"),
    # Zero has no 5%.
    ("0", "0", "right"),
    ("0", "0.0", "wrong"),
    ("0", "0.0001", "wrong"),
    ("0.0", "0", "wrong"),
    ("10", "0", "wrong"),
    # Words: equal in lower case, nothing else.
    ("Yes", "yes", "right"),
    ("Yes", "Yes.", "wrong"),
    ("light blue", "Light Blue", "right"),
    ("light blue", "light  blue", "wrong"),
    ("light blue", "blue", "wrong"),
    # Lists are words.
    ("[2011, 2012]", "[2011, 2012]", "right"),
    ("[2011, 2012]", "[2012, 2011]", "wrong"),
    ("[2011, 2012]", "2011, 2012", "wrong"),
    ("[Yes, No]", "[yes, no]", "right"),
    # Numbers that are near nothing.
    ("14", "nan", "wrong"),
    ("14", "inf", "wrong"),
    ("14", "-Infinity", "wrong"),
    ("14", "1e400", "wrong"),
    ("nan", "nan", "wrong"),
    ("inf", "inf", "wrong"),
    ("5e-324", "1e308", "wrong"),
    # Python's float reads other scripts' digits.
    ("14", "١٤", "right"),
    ("14", "１４", "right"),
    ("14", "१५", "wrong"),
    ("14", "十四", "wrong"),
    ("14", "", "unparseable"),
]


@pytest.mark.parametrize(("gold", "said", "expected"), CASES)
def test_a_case_worked_by_hand(gold, said, expected):
    assert outcome(gold, said) == expected


def test_any_of_several_gold_answers_will_do():
    example = of("red", answers=["red", "100"])
    assert [judge_chartqa(example, said, Random(0)).outcome for said in ("Red", "104", "blue")] == [
        "right", "right", "wrong"
    ]  # fmt: skip


def test_of_a_chain_only_its_answer_is_judged():
    chain = Chain((Step("Read", "The bar shows 14.", "It does."),), "14")
    written = render(chain)
    texts = [written, written.replace("14<", "99<"), written[:-5], "14", "<|answer_start|>14<|answer_end|>",
             " 14\n", "<|im_end|>", None, "", ScoreFailure("endpoint down")]  # fmt: skip
    verdicts = CHARTQA.judge([of("14")] * len(texts), texts)
    assert [verdict.outcome for verdict in verdicts] == [
        "right", "wrong", "unparseable", "right", "right", "right", "wrong", "unparseable", "unparseable", "failed"
    ]  # fmt: skip
    assert [verdict.answer for verdict in verdicts[:4]] == ["14", "99", None, "14"]
    assert verdicts[2].note and verdicts[-1].note == "endpoint down"


answers = st.text(max_size=30) | st.floats().map(str) | st.integers().map(str) | st.floats().map(lambda x: f"{x}%")


@given(answers.filter(str.strip), answers)
def test_any_answer_has_exactly_one_outcome(gold, said):
    (verdict,) = CHARTQA.judge([of(gold)], [said])
    assert verdict.outcome in ("right", "wrong", "unparseable")
    assert verdict.credit == (verdict.outcome == "right")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool))
def test_the_gold_answer_is_right_unless_it_is_no_finite_number(gold):
    number = gold.casefold().lstrip("+-")
    assert outcome(gold, gold) == ("wrong" if number.rstrip("%") in ("nan", "inf", "infinity") else "right")


@pytest.mark.parametrize("part", ["9", "1 ", "%", "(", "0.", "1_", " ", "e", "१", "<|", "0"])
@pytest.mark.parametrize("end", ["", "%", "x"])
def test_long_answers_take_time_in_proportion(part, end):
    def seconds(length):
        text, example = (part * length)[:length] + end, of("14")
        start = perf_counter()
        CHARTQA.judge([example] * 3, [text] * 3)
        return perf_counter() - start

    short = min(seconds(50_000) for _ in range(3))
    assert min(seconds(100_000) for _ in range(3)) < 5 * short + 0.05


# Layouts

AUTHORS = {"row_number": "test_human-3", "imgname": "x.png", "query": "How many?", "label": "14"}
HUB = {"row_number": "test-0", "image": "x.png", "query": "How many?", "label": ["14"], "human_or_machine": 1}
LMMS = {"row_number": "test-0", "image": "x.png", "question": "How many?", "answer": "14", "type": "human_test"}
VLMEVALKIT = {"row_number": "t-0", "index": "7", "image": "x.png", "question": "How many?", "answer": "14",
              "split": "test_augmented"}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "identity", "image", "kind"),
    [
        (AUTHORS, "chartqa/test_human-3", "png/x.png", "human"),
        (HUB, "chartqa/test-0", "x.png", "augmented"),
        (LMMS, "chartqa/test-0", "x.png", "human"),
        (VLMEVALKIT, "chartqa/7", "x.png", "augmented"),
        ({**LMMS, "type": None}, "chartqa/test-0", "x.png", "not said"),
    ],
)
def test_a_row_of_each_published_layout(row, identity, image, kind):
    assert read_chartqa(row) == Example(
        identity, "How many?", (image,), "14", "number", source="chartqa", meta={"type": kind}
    )


def test_gold_answers_stay_as_published():
    assert read_chartqa({**AUTHORS, "label": "0.030"}).answer == "0.030"
    assert read_chartqa({**AUTHORS, "label": "[A, B]"}).answer == "[A, B]"
    assert read_chartqa({**HUB, "label": ["14", "15"]}).meta["answers"] == ["14", "15"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"label": ""}, "no gold answer"), ({"label": []}, "no gold answer"), ({"label": None}, "missing field"),
     ({"query": " "}, "empty question"), ({"imgname": ""}, "no picture")],
)  # fmt: skip
def test_a_row_that_cannot_be_used_says_why(change, kind):
    with pytest.raises(ValueError, match=f"^{kind}: "):
        read_chartqa({**AUTHORS, **change})


def test_the_prompts():
    asked = {name: CHARTQA.asked(of("14"), name).question for name in ("none", "paper", "official")}
    assert asked == {
        "none": "How many?",
        "paper": "How many? \nThink step-by-step first and then answer the question with a single number, word, "
        "or phrase.",
        "official": "How many?\nAnswer the question using a single word or phrase.",
    }  # fmt: skip


def test_rows_are_found_in_a_folder_as_in_a_file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"query": "How many?", "label": "14", "imgname": "x.png"}) + "\n", "utf-8")
    folder, file = (load(CHARTQA, where, check="none") for where in (tmp_path, path))
    assert folder == file and [example.id for example in folder.examples] == ["chartqa/test-0"]


# The real items


@needs_data
def test_the_real_items_answered_by_their_gold_and_wrongly():
    loaded = load(CHARTQA, DATA / "chartqa")
    published = [json.loads(line) for line in (DATA / "chartqa/items.jsonl").read_text("utf-8").splitlines()]
    assert [example.answer for example in loaded.examples] == [row["answer"] for row in published]
    assert [example.question for example in loaded.examples] == [row["question"].strip() for row in published]
    assert Counter(CHARTQA.groups(example)["type"] for example in loaded.examples) == {"human": 125, "augmented": 125}
    chains = [render(Chain((Step("Read", "It.", "So."),), example.answer)) for example in loaded.examples]
    assert {verdict.outcome for verdict in CHARTQA.judge(loaded.examples, chains)} == {"right"}
    wrong = CHARTQA.judge(loaded.examples, ["no such thing"] * 250)
    assert {(verdict.outcome, verdict.credit) for verdict in wrong} == {("wrong", False)}
    assert {verdict.outcome for verdict in CHARTQA.judge(loaded.examples, [""] * 250)} == {"unparseable"}
