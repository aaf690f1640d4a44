"""The four chart and document sets of paper A2: ChartQA, TabMWP, DocVQA, InfoVQA."""

from chainofstep.problems.sources.source import Row, Source, example, kept, pictures, text, texts
from chainofstep.records import Example

KIND = "chart & document"


def read_chartqa(row: Row) -> Example:
    """Three layouts: the authors' (imgname, query, label), the hub's (label a list), lmms-lab's (question, answer)."""
    given = "label" if "label" in row else "answer"
    answers = texts(row, given) if isinstance(row.get(given), list) else (text(row, given),)
    return example(
        "chartqa",
        row,
        question=text(row, "query" if "query" in row else "question"),
        images=pictures(row, f"png/{row['imgname']}" if row.get("imgname") else ""),
        answer=answers[0] if answers else "",
        meta=kept(row, "type", "human_or_machine"),
    )


def read_tabmwp(row: Row) -> Example:
    question, unit = text(row, "question"), text(row, "unit", "")
    return example(
        "tabmwp",
        row,
        question=f"{question} (Unit: {unit})" if unit else question,
        images=pictures(row, f"tables/{row.get('id')}.png"),
        answer=text(row, "answer"),
        choices=texts(row, "choices"),
        meta=kept(row, "solution", "unit", "table_title", "table", "ques_type", "ans_type", "grade"),
    )


def read_docvqa(row: Row) -> Example:
    answers = texts(row, "answers")
    return example(
        "docvqa",
        row,
        identity=("questionId",),
        question=text(row, "question"),
        images=pictures(row),
        answer=answers[0] if answers else "",
        meta=kept(row, "answers", "question_types", "docId"),
    )


def read_infovqa(row: Row) -> Example:
    answers = texts(row, "answers")
    return example(
        "infovqa",
        row,
        identity=("questionId",),
        question=text(row, "question"),
        images=pictures(row, f"images/{row['image_local_name']}" if row.get("image_local_name") else ""),
        answer=answers[0] if answers else "",
        meta=kept(row, "answers", "answer_type", "operation/reasoning"),
    )


SOURCES = (
    Source(
        "chartqa",
        "ChartQA",
        KIND,
        hub="HuggingFaceM4/ChartQA",
        splits=("train", "val", "test"),
        train_split="train",
        licence="GPL-3.0",
        overlaps=("ChartQA", "MathVista", "MMStar"),
        evaluation_splits=("val", "test"),
        read=read_chartqa,
        files=("{split}/{split}_*.json", "{split}_*.json", "data/{split}-*.parquet"),
        note="Local pictures lie in png/ beside the question files, as in github.com/vis-nlp/ChartQA.",
    ),
    Source(
        "tabmwp",
        "TabMWP",
        KIND,
        hub="",
        splits=("train", "dev", "test"),
        train_split="train",
        licence="CC BY-NC-SA 4.0",
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=("dev", "test"),
        read=read_tabmwp,
        files=("problems_{split}.json",),
        note="github.com/lupantech/PromptPG, data/tabmwp. Fractions such as 1/8 are words: no number is read in them.",
    ),
    Source(
        "docvqa",
        "DocVQA",
        KIND,
        hub="HuggingFaceM4/DocumentVQA",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="not stated",
        overlaps=("MathVista", "MMStar"),
        evaluation_splits=("validation", "test"),
        read=read_docvqa,
        files=("{split}_v1.0*.json", "data/{split}-*.parquet"),
        note="The first accepted answer is gold. The test split has no answers, so its rows are rejected.",
    ),
    Source(
        "infovqa",
        "InfoVQA",
        KIND,
        hub="lmms-lab/DocVQA",
        hub_config="InfographicVQA",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="Apache-2.0",  # of the hub's copy
        overlaps=(),
        evaluation_splits=("validation", "test"),
        read=read_infovqa,
        files=("*VQA_{split}_v1.0*.json", "InfographicVQA/{split}*.parquet"),
        note="The hub's copy has no training split: give local files (rrc.cvc.uab.es, task 3), pictures in images/. "
        "The first accepted answer is gold.",
    ),
)
