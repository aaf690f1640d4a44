"""Overlap with evaluation sets: copies are found however encoded, strangers are not, and the report adds up."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chainofstep.problems.overlap import Overlap, OverlapIndex, Overlaps, normalized_question
from chainofstep.problems.pictures import PictureError, open_picture
from chainofstep.problems.sources import SOURCES, load
from chainofstep.records import Example
from test_pictures import chart, needs_data


def remove_overlaps(examples, index, rule="both"):
    """The examples that the rule leaves in, and the report, as a build makes them."""
    report = Overlaps(rule, index.threshold)
    return [example for example in examples if report.removes(example, index.matches(example)) is None], report


pytest.importorskip("imagehash")
DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = ("chartqa", "m3cot", "mathvision", "scemqa", "tabmwp")


def ask(number, question, *paths, source="own"):
    return Example(f"{source}/{number}", question, tuple(map(str, paths)), "4", "number", source=source)


@pytest.fixture
def charts(tmp_path):
    """Two charts of an evaluation set, and copies of the first: re-encoded, and of half the size."""
    first, second = chart(tmp_path / "first.png"), chart(tmp_path / "second.png", heights=(9, 2, 8, 4))
    picture = open_picture(first)
    picture.save(tmp_path / "copy.jpg", quality=75)
    picture.resize((120, 90), Image.Resampling.LANCZOS).save(tmp_path / "half.png")
    chart(tmp_path / "stranger.png", heights=(1, 1, 9, 1))
    return tmp_path, first, second


@pytest.fixture
def index(charts):
    _, first, second = charts
    index = OverlapIndex()
    index.add(ask(1, "How many bars are there?", first), "ChartQA")
    index.add(ask(2, "Which bar is the tallest?", second), "MathVista")
    return index


# Questions


@pytest.mark.parametrize(
    "text",
    [
        "How many bars are there",
        "  how  many BARS\nare there?? ",
        "<image1>\nHow many bars are there?",
        "<image 1> How many bars are there? <image>",
        "How many bars are there? (A) two (B) three",
        "How many bars are there?\nA. two\nB. three",
        "How many bars are there? \nOptions: A: two, B: three",
        "Hint: Please give the letter at the end.\nQuestion: How many bars are there?\nChoices:\n(A) two\n(B) three",
        "How many bars are there? (Unit: bars)",
        "Ｈow many bars are there？",
    ],
)
def test_a_question_is_the_same_however_it_is_dressed(text):
    assert normalized_question(text) == "how many bars are there"


def test_questions_that_differ_stay_different():
    questions = [
        "What is x + 1?",
        "What is x > 1?",
        "What is x + 2?",
        "图中有多少个角",
        "图中有多少条边",
        "Option A is where?",
    ]
    assert len({normalized_question(text) for text in questions} - {""}) == len(questions)


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text):
    once = normalized_question(text)
    assert normalized_question(once) == once == " ".join(once.split())


# Matches


def test_an_identical_example_is_matched_by_picture_and_question(charts, index):
    _, first, _ = charts
    assert index.match(ask(9, "how many bars are there", first)) == Overlap(
        "ChartQA", "own/1", "picture and question", 0
    )


@pytest.mark.parametrize("copy", ["copy.jpg", "half.png"])
def test_copies_are_found(charts, index, copy):
    found = index.match(ask(9, "How many bars are there?", charts[0] / copy))
    assert found is not None and (found.example_id, found.matched) == ("own/1", "picture and question")
    assert found.distance is not None and 0 <= found.distance <= index.threshold


def test_what_matches_alone_is_said(charts, index):
    folder, first, _ = charts
    assert index.match(ask(9, "What is the title?", first)) == Overlap("ChartQA", "own/1", "picture", 0)
    asked = ask(9, "Which bar is the tallest?", folder / "stranger.png")
    assert index.match(asked) == Overlap("MathVista", "own/2", "question", None)
    assert index.match(ask(9, "What is the title?", folder / "stranger.png")) is None
    crossed = index.matches(ask(9, "Which bar is the tallest?", first))
    assert [(found.example_id, found.matched) for found in crossed] == [("own/1", "picture"), ("own/2", "question")]


def test_any_of_several_pictures_matches_and_no_picture_matches_by_question(charts, index):
    folder, first, _ = charts
    several = ask(9, "How many bars are there?", folder / "stranger.png", first)
    assert index.match(several) == Overlap("ChartQA", "own/1", "picture and question", 0)
    assert index.match(ask(9, "How many bars are there?")) == Overlap("ChartQA", "own/1", "question", None)


def test_an_empty_question_matches_none(charts, index):
    index.add(ask(3, "???"), "MMMU")
    assert index.match(ask(9, "!!!", charts[0] / "stranger.png")) is None


def test_one_picture_asked_about_twice_is_matched_to_its_own_question(charts, index):
    _, first, _ = charts
    index.add(ask(3, "What is the sum?", first), "MathVista")
    found = index.match(ask(9, "What is the sum?", first))
    assert found == Overlap("MathVista", "own/3", "picture and question", 0)


def test_a_picture_is_hashed_once_by_path_and_content(charts, index, monkeypatch):
    folder, first, second = charts
    (folder / "same bytes.png").write_bytes(first.read_bytes())
    monkeypatch.setattr("chainofstep.problems.overlap.perceptual_hash", lambda path: 1 / 0)
    assert index.match(ask(9, "?", folder / "same bytes.png", second)) is not None


def test_a_missing_picture_is_named(index, tmp_path):
    for use in (index.match, lambda asked: index.add(asked, "MMMU")):
        with pytest.raises(PictureError, match=r"^missing picture: .*none.png"):
            use(ask(9, "How many bars are there?", tmp_path / "none.png"))


# Removal


@pytest.mark.parametrize(
    ("rule", "left"),
    [("both", ["picture", "question", "neither"]), ("picture", ["question", "neither"]),
     ("question", ["picture", "neither"]), ("either", ["neither"])],
)  # fmt: skip
def test_each_rule_removes_what_it_says(charts, index, rule, left):
    folder, first, _ = charts
    examples = [
        ask("both", "How many bars are there?", folder / "copy.jpg"),
        ask("picture", "What is the title?", first),
        ask("question", "How many bars are there?", folder / "stranger.png"),
        ask("neither", "What is the title?", folder / "stranger.png"),
    ]
    kept, report = remove_overlaps(iter(examples), index, rule)
    assert [example.id for example in kept] == [f"own/{name}" for name in left]
    assert (report.looked_up, report.removed) == (4, 4 - len(left))
    assert [(row.matched, row.count) for row in report.counts] == [
        ("picture and question", 1), ("picture", 1), ("question", 1)
    ]  # fmt: skip
    assert sum(row.count for row in report.counts if row.removed) == report.removed


def test_the_report_counts_by_source_and_set_and_is_plain_data(charts, index):
    _, first, second = charts
    examples = [ask(number, "How many bars are there?", first, source="tabmwp") for number in range(8)]
    examples.append(ask(1, "Which bar is the tallest?", second, source="chartqa"))
    _, report = remove_overlaps(examples, index)
    row, other = json.loads(json.dumps(asdict(report)))["counts"]
    assert (row["source"], row["set_name"], row["count"], row["removed"]) == ("tabmwp", "ChartQA", 8, True)
    assert (other["source"], other["set_name"], other["count"]) == ("chartqa", "MathVista", 1)
    assert row["examples"][0] == {"id": "tabmwp/0", "evaluation_id": "own/1", "distance": 0}
    assert len(row["examples"]) == 5


# The real sets


@needs_data
def test_each_real_set_is_found_in_itself_and_none_in_another(tmp_path):
    sets = {name: list(load(SOURCES[name], DATA / name, check="none")) for name in SETS}
    for name, examples in sets.items():
        others = OverlapIndex()
        for other in sets:
            for example in sets[other][:25] if other != name else []:
                others.add(example, other)
        assert [others.match(example) for example in examples[:25]] == [None] * 25
        own = OverlapIndex()
        for example in examples[:25]:
            own.add(replace(example, id=f"evaluation/{example.id}"), name)
        kept, report = remove_overlaps(examples[:25], own)
        assert kept == [] and report.removed == 25
