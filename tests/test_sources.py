"""The seventeen training sets: a row of each published layout as its exact Example, and the five real samples."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.answers import LETTERS, guess_kind, is_right, normalize
from chainofstep.problems.sources import SOURCES, load
from chainofstep.problems.sources.source import split_choices
from chainofstep.records import Example
from test_pictures import needs_data

DATA = Path(__file__).parents[2] / "shared" / "data"
EVALUATION_SETS = {"MathVista", "MMStar", "MMMU", "M3CoT", "AI2D", "ChartQA"}

#: For each set: a row as published, and (id, question, picture, answer, kind, choices, meta) of its Example.
LAYOUTS = {
    "geoqa_plus": (
        {"id": 7, "subject": "如图,∠C的度数是()", "choices": ["40°", "60°", "120°", "140°"], "label": 3,
         "answer": "解:∠C=140°", "formal_point": ["平行线"], "numbers": ["80"]},
        ("geoqa_plus/7", "如图,∠C的度数是() (A) 40° (B) 60° (C) 120° (D) 140°", "image/7.png", "D", "choice",
         ("40°", "60°", "120°", "140°"), {"solution": "解:∠C=140°", "formal_point": ["平行线"]}),
    ),
    "mathvision": (
        {"id": "4", "question": "Which piece is missing?\n<image1>\n<image2>", "options": ["A", "B"], "answer": "B",
         "image": "images/4.jpg", "solution": None, "level": 1, "subject": "counting"},
        ("mathvision/4", "Which piece is missing? (A) A (B) B", "images/4.jpg", "B", "choice", ("A", "B"),
         {"subject": "counting", "level": 1}),
    ),
    "scemqa": (
        {"row_number": "multiple_choice-0", "Question": "Which group?\nI. one\nII. two\n\n(A)  I only \n(B) II\n only",
         "Answer (final answer highlighted)": "B: The second.", "ImagePath": "Math/1", "group": "Math"},
        ("scemqa/multiple_choice-0", "Which group?\nI. one\nII. two (A) I only (B) II\n only", "Math/1", "B", "choice",
         ("I only", "II\n only"), {"solution": "The second.", "group": "Math"}),
    ),
    "mathverse": (
        {"sample_index": "1", "problem_index": "9", "problem_version": "Text Lite", "question_type": "multi-choice",
         "question": "Find angle CED ()\nChoices:\nA:40°\nB:60°\nC:120°", "image": "images/1.png", "answer": "C",
         "metadata": {"subject": "Plane Geometry", "subfield": "Angle", "source": "GeoQA", "split": "testmini"}},
        ("mathverse/1", "Find angle CED () (A) 40° (B) 60° (C) 120°", "images/1.png", "C", "choice",
         ("40°", "60°", "120°"), {"problem_index": "9", "problem_version": "Text Lite", "subject": "Plane Geometry",
                                  "subfield": "Angle", "source": "GeoQA"}),
    ),
    "clevr_math": (
        {"row_number": "clevr-math-train-3", "question": "Subtract all red cubes. How many objects are left?",
         "answer": 5, "image_filename": "CLEVR_train_000007.png", "split": "train", "template_filename": "sub.json"},
        ("clevr_math/clevr-math-train-3", "Subtract all red cubes. How many objects are left?",
         "images/train/CLEVR_train_000007.png", "5", "number", (), {"template_filename": "sub.json"}),
    ),
    "chartqa": (
        {"row_number": "train_human-0", "imgname": "41699051005347.png", "query": "How many food?", "label": "14"},
        ("chartqa/train_human-0", "How many food?", "png/41699051005347.png", "14", "number", (), {}),
    ),
    "tabmwp": (
        {"id": "3", "question": "Who is oldest?", "choices": ["Rose", "Dalton"], "answer": "Dalton", "unit": None,
         "table_title": "Ages", "table": "Rose | 14\nDalton | 18", "solution": "18 is most.", "grade": 2,
         "ques_type": "multi_choice", "ans_type": "extractive_text", "row_num": 3, "table_for_pd": {}},
        ("tabmwp/3", "Who is oldest? (A) Rose (B) Dalton", "tables/3.png", "B", "choice", ("Rose", "Dalton"),
         {"table_title": "Ages", "table": "Rose | 14\nDalton | 18", "solution": "18 is most.", "grade": 2,
          "ques_type": "multi_choice", "ans_type": "extractive_text"}),
    ),
    "docvqa": (
        {"questionId": 337, "question": "What is the date?", "question_types": ["form"], "docId": 279, "image":
         "documents/xnbl0037_1.png", "ucsf_document_id": "xnbl0037", "answers": ["1/8/93", "1-8-93"]},
        ("docvqa/337", "What is the date?", "documents/xnbl0037_1.png", "1/8/93", "word", (),
         {"answers": ["1/8/93", "1-8-93"], "question_types": ["form"], "docId": 279}),
    ),
    "infovqa": (
        {"questionId": 65718, "question": "What share?", "image_local_name": "20471.jpeg", "image_url": "https://x",
         "ocr_output_file": "20471.json", "answers": ["40%", "40"]},
        ("infovqa/65718", "What share?", "images/20471.jpeg", "40%", "number", (), {"answers": ["40%", "40"]}),
    ),
    "arxivqa": (
        {"id": "physics-1", "image": "images/1501.1_0.jpg", "options": ["A) red", "B) A. baumannii", "C) green"],
         "question": "Which curve?", "label": "B) A. baumannii", "rationale": "It is lowest."},
        ("arxivqa/physics-1", "Which curve? (A) red (B) A. baumannii (C) green", "images/1501.1_0.jpg", "B", "choice",
         ("red", "A. baumannii", "green"), {"solution": "It is lowest."}),
    ),
    "m3cot": (
        {"id": "physics-1", "category": "physics", "image_id": "1", "context": "Two magnets.", "choices": ["yes", "no"],
         "question": "<QUESTION>\nDo they attract?\n\n<CHOICE>\n(A) yes\n(B) no\n\n<CONTEXT>\nTwo magnets.",
         "answer": "A", "rationale": "Poles differ.", "domain": "science", "topic": "natural-science"},
        ("m3cot/physics-1", "Two magnets.\nDo they attract? (A) yes (B) no", "images/physics-1.png", "A", "choice",
         ("yes", "no"), {"solution": "Poles differ.", "domain": "science", "topic": "natural-science",
                         "category": "physics"}),
    ),
    "scienceqa": (
        {"id": "12", "question": "Which is solid?", "choices": ["air", "stone"], "answer": 1, "hint": "Look.",
         "image": "image.png", "task": "closed choice", "grade": "grade4", "subject": "natural science",
         "topic": "physics", "category": "Matter", "skill": "States", "lecture": "Solids keep form.",
         "solution": "A stone does.", "split": "train"},
        ("scienceqa/12", "Look.\nWhich is solid? (A) air (B) stone", "images/train/12/image.png", "B", "choice",
         ("air", "stone"), {"solution": "A stone does.", "lecture": "Solids keep form.", "subject": "natural science",
                            "topic": "physics", "category": "Matter", "skill": "States", "grade": "grade4",
                            "task": "closed choice"}),
    ),
    "ai2d": (
        {"row_number": "test-0", "question": "What eats the hawk?", "options": ["snake", "nothing"], "answer": "1",
         "image": "0.png"},
        ("ai2d/test-0", "What eats the hawk? (A) snake (B) nothing", "0.png", "B", "choice", ("snake", "nothing"), {}),
    ),
    "aokvqa": (
        {"split": "val", "image_id": 461751, "question_id": "22jb", "question": "What is in his mouth?",
         "choices": ["toothpick", "cigarette"], "correct_choice_idx": 1, "direct_answers": ["cigarette"],
         "difficult_direct_answer": False, "rationales": ["He is smoking.", "It is lit."]},
        ("aokvqa/22jb", "What is in his mouth? (A) toothpick (B) cigarette", "val2017/000000461751.jpg", "B", "choice",
         ("toothpick", "cigarette"), {"solution": "He is smoking.", "rationales": ["He is smoking.", "It is lit."],
                                      "direct_answers": ["cigarette"]}),
    ),
    "fvqa": (
        {"question_id": "270", "question": "Which object is in a jazz club?", "answer": "trumpet",
         "kb_source": "conceptnet", "img_file": "ILSVRC2012_test_00050748.JPEG", "ans_source": "image",
         "visual_concept": "obj", "fact": ["c/e/1"], "fact_surface": "You find [[a trumpet]] in [[a jazz club]]"},
        ("fvqa/270", "Which object is in a jazz club?", "images/ILSVRC2012_test_00050748.JPEG", "trumpet", "word", (),
         {"solution": "You find a trumpet in a jazz club", "ans_source": "image", "kb_source": "conceptnet",
          "visual_concept": "obj"}),
    ),
    "textvqa": (
        {"question_id": 34602, "image_id": "0054c91397f2fe05", "question": "Which brand?", "set_name": "train",
         "answers": ["canon", "Nikon", "nikon", "Nikon"], "image_classes": ["Camera"], "ocr_tokens": ["Nikon"]},
        ("textvqa/34602", "Which brand?", "train_images/0054c91397f2fe05.jpg", "Nikon", "word", (),
         {"answers": ["canon", "Nikon", "nikon", "Nikon"], "image_classes": ["Camera"]}),
    ),
    "seed_bench": (
        {"question_id": "101669", "question": "How many towels?", "answer": "A", "choice_a": "One", "choice_b": "Two",
         "choice_c": "Three", "choice_d": "Four", "data_id": "1454426_2591111986", "data_type": "image",
         "question_type_id": 5},
        ("seed_bench/101669", "How many towels? (A) One (B) Two (C) Three (D) Four",
         "SEED-Bench-image/1454426_2591111986", "A", "choice", ("One", "Two", "Three", "Four"),
         {"question_type_id": 5}),
    ),
}  # fmt: skip


# Layouts


@pytest.mark.parametrize("name", SOURCES)
def test_a_row_of_the_published_layout_is_exactly_this_example(name):
    row, (identity, asked, picture, answer, kind, choices, meta) = LAYOUTS[name]
    found = SOURCES[name].read(row)
    assert found == Example(identity, asked, (picture,), answer, kind, choices, name, meta=meta)
    assert is_right(found, found.answer) and json.dumps(found.meta)


def test_the_seventeen_of_the_paper_are_there_by_kind():
    assert Counter(source.kind for source in SOURCES.values()) == {
        "mathematics": 5, "chart & document": 4, "science": 4, "world knowledge": 4
    }  # fmt: skip
    for source in SOURCES.values():
        assert source.train_split in source.splits and set(source.evaluation_splits) < set(source.splits)
        assert source.train_split not in source.evaluation_splits
        assert set(source.overlaps) <= EVALUATION_SETS and source.licence and source.title
    assert {name for name, source in SOURCES.items() if source.title in source.overlaps} == {"chartqa", "m3cot", "ai2d"}


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        ("mathvision", {"question": " <image1> "}, "empty question"),
        ("mathvision", {"answer": "C"}, "unreadable answer"),
        ("mathvision", {"options": "AB"}, "wrong type"),
        ("mathvision", {"image": None}, "no picture"),
        ("mathvision", {"id": None}, "missing field"),
        ("mathvision", {"options": list("ABCDEFGHI")}, "too many choices"),
        ("mathverse", {"question": "Vision only"}, "missing choices"),
        ("scemqa", {"Answer (final answer highlighted)": "It is B"}, "unreadable answer"),
        ("scemqa", {"Question": "Which?"}, "missing choices"),
        ("tabmwp", {"answer": "Nobody"}, "unreadable answer"),
        ("tabmwp", {"question": ["a", "b"]}, "wrong type"),
        ("tabmwp", {"answer": True}, "wrong type"),
        ("docvqa", {"answers": []}, "no gold answer"),
        ("textvqa", {"answers": [""] * 10}, "no gold answer"),
        ("scienceqa", {"image": None}, "no picture"),
        ("scienceqa", {"answer": 2}, "unreadable answer"),
        ("scienceqa", {"answer": "B"}, "wrong type"),
        ("ai2d", {"answer": "-1"}, "unreadable answer"),
        ("arxivqa", {"options": []}, "missing choices"),
        ("arxivqa", {"label": "E"}, "unreadable answer"),
        ("seed_bench", {"data_type": "video"}, "no picture"),
        ("seed_bench", {"choice_d": None}, "missing field"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(name, changes, kind):
    with pytest.raises(ValueError, match=f"^{kind}: ") as refused:
        SOURCES[name].read({**LAYOUTS[name][0], **changes})
    assert "\n" not in str(refused.value)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_any_row_is_an_example_or_a_value_error(name, data):
    row = dict(LAYOUTS[name][0])
    for field in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[field] = data.draw(plain | st.lists(plain, max_size=4) | st.dictionaries(st.text(max_size=3), plain))
    try:
        found = SOURCES[name].read(row)
    except ValueError as error:
        assert ": " in str(error)
    else:
        assert is_right(found, found.answer) and found.question and found.images


def test_chartqas_other_two_layouts():
    hub = SOURCES["chartqa"].read({"row_number": "train-0", "image": "a.png", "query": "Which?", "label": ["Yes"],
                                   "human_or_machine": 1})  # fmt: skip
    assert (hub.answer, hub.answer_kind, hub.meta) == ("Yes", "word", {"human_or_machine": 1})
    copy = SOURCES["chartqa"].read(
        {"id": "1", "image": "a.png", "question": "Sum?", "answer": "8.5", "type": "human_test"}
    )
    assert (copy.answer, copy.answer_kind, copy.meta) == ("8.5", "number", {"type": "human_test"})


def test_scemqas_free_responses_hold_the_answer_in_a_command():
    row = {"row_number": "0", "Question": "How many throws?  (Final Answer is a value)", "ImagePath": "Math/5",
           "Answer (final answer highlighted)": "\\answer{3.397} \\answer{3} The mean."}  # fmt: skip
    found = SOURCES["scemqa"].read(row)
    assert (found.question, found.answer, found.answer_kind) == ("How many throws?", "3.397", "number")
    assert found.meta == {"solution": "The mean.", "answers": ["3.397", "3"]}


def test_a_unit_is_asked_for_and_a_fraction_is_a_word():
    row = LAYOUTS["tabmwp"][0] | {"choices": None, "answer": "1/8", "unit": "$"}
    found = SOURCES["tabmwp"].read(row)
    assert (found.question, found.answer, found.answer_kind) == ("Who is oldest? (Unit: $)", "1/8", "word")


def test_choices_are_split_from_a_question_only_where_they_are_listed():
    assert split_choices("At A. the line\nbends. B. too") == ("At A. the line\nbends. B. too", ())
    assert split_choices("Angle?\nChoices:\nA. 1\nB. 2\nC. 3") == ("Angle?", ("1", "2", "3"))
    alphabet = "\n".join(f"{letter}. x" for letter in LETTERS + "A")
    assert split_choices(f"Which?\n{alphabet}") == ("Which?", ("x",) * 25 + ("x\nA. x",))
    assert split_choices("Half-cells\nA: Cu\nB: Zn\n\nWhich?\nA. both\nB. none") == (
        "Half-cells\nA: Cu\nB: Zn\n\nWhich?", ("both", "none")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("66", "number"), ("1,200", "number"), ("-3.5", "number"), ("$1,200.50", "number"), ("8%", "number"),
     ("90°", "number"), (".5", "number"), ("1/8", "word"), ("12 years", "word"), ("3-4", "word"), ("2nd", "word"),
     ("[2011, 2012]", "word"), ("November 2007", "word"), ("Yes", "word"), ("12:45", "word"), ("", "word")],
)  # fmt: skip
def test_kinds_are_guessed_from_the_whole_answer(answer, kind):
    assert guess_kind(answer) == kind
    assert guess_kind(answer, ("66", "Yes")) == "choice"


@given(st.text(max_size=12))
def test_what_is_guessed_to_be_a_number_can_be_read_as_one(answer):
    assert guess_kind(answer) != "number" or normalize(answer, "number") is not None


# Real sets


@needs_data
@pytest.mark.parametrize(
    ("name", "kinds", "evaluated"),
    [
        ("chartqa", {"number": 186, "word": 64}, 250),
        ("m3cot", {"choice": 150}, 0),
        ("mathvision", {"choice": 84, "number": 66}, 0),
        ("scemqa", {"choice": 160}, 0),
        ("tabmwp", {"number": 137, "choice": 58, "word": 5}, 200),
    ],
)
def test_every_row_of_the_real_samples_is_an_example(name, kinds, evaluated):
    examples = list(load(SOURCES[name], DATA / name))
    assert Counter(example.answer_kind for example in examples) == kinds
    assert all(is_right(example, example.answer) for example in examples)
    assert sum("evaluation_split" in example.meta for example in examples) == evaluated
    for example in examples:
        assert len(example.images) == 1 and Path(example.images[0]).is_file()
        assert not any(mark in example.question for mark in ("<image", "<QUESTION>", "[Choices]", "[Context]"))
        assert example.question == example.question.strip()
        assert all(example.question.count(f"({letter}) ") for letter in "ABCDE"[: len(example.choices)])


@needs_data
def test_a_split_that_is_said_marks_rows_that_name_none():
    tested = list(load(SOURCES["m3cot"], DATA / "m3cot", "test", check="none"))
    assert [example.meta["split"] for example in tested] == ["test"] * 150
    assert all(example.meta["evaluation_split"] for example in tested)
    assert list(load(SOURCES["tabmwp"], DATA / "tabmwp", "train", check="none")) == []
    assert len(list(load(SOURCES["tabmwp"], DATA / "tabmwp", "validation", check="none"))) == 200
