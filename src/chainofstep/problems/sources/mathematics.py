"""The five mathematics sets of paper A2: GeoQA+, MathVision, SceMQA, MathVerse, CLEVR-Math."""

import re

from chainofstep.problems.sources.source import (
    Row,
    Source,
    example,
    kept,
    letter_at,
    pictures,
    required,
    split_choices,
    text,
    texts,
    whole_number,
)
from chainofstep.records import Example

KIND = "mathematics"

_ANSWER = re.compile(r"\\answer\{([^{}]*)\}")
_LETTER_FIRST = re.compile(r"\(?([A-H])(?:[.):：-]+|(?=\s)|$)\s*")
#: Line breaks of other kinds: one question has a backspace where an option begins.
_BREAK = re.compile(r"\r\n?|[\x00-\x08\x0b-\x1f]")
_PICTURE_LINK = re.compile(r"^\s*https?://\S+\.(?:jpg|jpeg|png|gif)\s*$", re.MULTILINE | re.IGNORECASE)
_VALUE_HINT = re.compile(r"\s*\(Final Answer is a value\)", re.IGNORECASE)


def read_geoqa_plus(row: Row) -> Example:
    choices = texts(row, "choices")
    return example(
        "geoqa_plus",
        row,
        question=text(row, "subject"),
        images=pictures(row, f"image/{row.get('id')}.png"),
        answer=letter_at(whole_number(row, "label"), choices),
        choices=choices,
        meta=_solution(text(row, "answer", "")) | kept(row, "formal_point", "manual_program"),
    )


def read_mathvision(row: Row) -> Example:
    return example(
        "mathvision",
        row,
        question=text(row, "question"),
        images=pictures(row),
        answer=text(row, "answer"),
        choices=texts(row, "options"),
        meta=kept(row, "solution", "subject", "level"),
    )


def read_scemqa(row: Row) -> Example:
    """Choices stand in the question; the answer's field holds a letter or `\\answer{...}`, then the explanation."""
    question, choices = split_choices(_PICTURE_LINK.sub("", _BREAK.sub("\n", text(row, "Question"))))
    given = text(row, "Answer (final answer highlighted)").strip()
    answers = [answer.strip() for answer in _ANSWER.findall(given)]
    letter = _LETTER_FIRST.match(given)
    if answers:
        answer, explanation = answers[0], _ANSWER.sub("", given)
    elif letter:
        answer, explanation = letter.group(1), given[letter.end() :]
        required(choices)
    else:
        raise ValueError(f"unreadable answer: {given[:100]!r} begins with no letter")
    return example(
        "scemqa",
        row,
        question=_VALUE_HINT.sub("", question),
        images=pictures(row, text(row, "ImagePath", "")),
        answer=answer,
        choices=choices,
        meta=_solution(explanation)
        | ({"answers": answers} if len(answers) > 1 else {})
        | kept(row, "subject", "group"),
    )


def read_mathverse(row: Row) -> Example:
    """One of six versions of a problem; in the version "Vision Only" the question stands in the picture alone."""
    question, choices = split_choices(text(row, "question"))
    facts = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    return example(
        "mathverse",
        row,
        identity=("sample_index",),
        question=question,
        images=pictures(row),
        answer=text(row, "answer"),
        choices=required(choices) if row.get("question_type") == "multi-choice" else choices,
        meta=kept(row, "problem_index", "problem_version") | kept(facts or {}, "subject", "subfield", "source"),
    )


def read_clevr_math(row: Row) -> Example:
    """The published JSON, or the hub's columns (`template`, `label`), whose `id` names the picture, not the row."""
    folder = row.get("split")
    return example(
        "clevr_math",
        row,
        identity=(),
        question=text(row, "question"),
        images=pictures(row, f"images/{folder}/{row['image_filename']}" if row.get("image_filename") else ""),
        answer=text(row, "answer" if "answer" in row else "label"),
        meta=kept(row, "template", "template_filename"),
    )


def _solution(words: str) -> dict[str, str]:
    return {"solution": words.strip()} if words.strip() else {}


SOURCES = (
    Source(
        "geoqa_plus",
        "GeoQA+",
        KIND,
        hub="",
        splits=("all",),
        train_split="all",
        licence="not stated",
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=(),
        read=read_geoqa_plus,
        files=("json/*.json",),
        note="github.com/SCNU203/GeoQA-Plus, one JSON file a problem; field names from code that reads them. In "
        "Chinese. The splits are pickles, which run code when opened, so they are not read.",
    ),
    Source(
        "mathvision",
        "MathVision",
        KIND,
        hub="MathLLMs/MathVision",
        splits=("test", "testmini"),
        train_split="test",
        licence="MIT",
        overlaps=(),
        evaluation_splits=(),
        read=read_mathvision,
        note="Itself a benchmark without a training split: do not report results on it after training. `testmini` is "
        "part of `test`.",
    ),
    Source(
        "scemqa",
        "SceMQA",
        KIND,
        hub="",
        splits=("all",),
        train_split="all",
        licence="Apache-2.0",
        overlaps=(),
        evaluation_splits=(),
        read=read_scemqa,
        files=("*/*.json",),
        note="github.com/SceMQA/SceMQA. Itself a benchmark without splits: do not report results on it after "
        "training. Of several accepted answers the first is gold.",
    ),
    Source(
        "mathverse",
        "MathVerse",
        KIND,
        hub="AI4Math/MathVerse",
        hub_config="testmini",
        splits=("testmini",),
        train_split="testmini",
        licence="MIT",
        # From memory: part of its problems come from GeoQA+, Geometry3K and GEOS, as MathVista's do.
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=(),
        read=read_mathverse,
        files=("testmini.json", "testmini.parquet"),
        note="Itself a benchmark without a training split: do not report results on it after training. Rows of the "
        "version Vision Only ask nothing in words and are rejected.",
    ),
    Source(
        "clevr_math",
        "CLEVR-Math",
        KIND,
        hub="dali-does/clevr-math",
        hub_config="general",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="CC BY 4.0",
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=("validation", "test"),
        read=read_clevr_math,
        files=("*clevr-math-{split}.json", "data/{split}-*.parquet"),
        note="Layout from the hub's loading script, which new versions of `datasets` do not run: give local files, "
        "with the pictures of CLEVR_v1.0 in images/.",
    ),
)
