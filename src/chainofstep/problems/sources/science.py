"""The four science sets of paper A2: ArxivQA, M3CoT, ScienceQA, AI2D."""

import re

from chainofstep.answers import LETTERS
from chainofstep.problems.sources.source import (
    Row,
    Source,
    example,
    kept,
    letter_at,
    pictures,
    required,
    text,
    texts,
    whole_number,
)
from chainofstep.records import Example

KIND = "science"

_OPTION_MARK = re.compile(r"\s*[(\[]?([A-Z])[.):\]]+\s*")
_PROMPT = re.compile(
    r"(?:\[Context\]\n(?P<context>.*?)\n)?\[Question\]\n(?P<question>.*?)(?:\n\[Choices\]\n.*)?", re.DOTALL
)
_BLOCKS = re.compile(r"<QUESTION>\n?(?P<question>.*?)(?:\n*<CHOICE>.*)?", re.DOTALL)


def read_arxivqa(row: Row) -> Example:
    """Options carry their letters ("A. red", "B) blue"), labels come as a letter, a marked letter or an option."""
    choices = tuple(map(_unmarked, texts(row, "options"), LETTERS))
    label = text(row, "label")
    marked = _OPTION_MARK.match(label)
    return example(
        "arxivqa",
        row,
        question=text(row, "question"),
        images=pictures(row),
        answer=marked.group(1) if marked else label,
        choices=required(choices),
        meta={"solution": row["rationale"]} if row.get("rationale") else {},
    )


def _unmarked(option: str, letter: str) -> str:
    """An option without its own letter: of "A. baumannii" as the second option nothing goes."""
    mark = _OPTION_MARK.match(option)
    return option[mark.end() :] if mark and mark.group(1) == letter else option


def read_m3cot(row: Row) -> Example:
    """The hub's fields, or one `prompt` of [Context], [Question] and [Choices]; both may hold context and choices
    a second time, under <QUESTION>, <CHOICE>, <CONTEXT>."""
    context, question = text(row, "context", ""), text(row, "prompt" if "prompt" in row else "question")
    prompt = _PROMPT.fullmatch(question)
    if prompt:
        context, question = prompt["context"] or "", prompt["question"]
    blocks = _BLOCKS.fullmatch(question.strip())
    question = blocks["question"] if blocks else question
    return example(
        "m3cot",
        row,
        question=f"{context.strip()}\n{question.strip()}" if question.strip() else "",
        images=pictures(row, f"images/{row.get('id')}.png"),
        answer=text(row, "answer"),
        choices=required(texts(row, "choices")),
        meta=({"solution": row["rationale"]} if row.get("rationale") else {})
        | kept(row, "domain", "topic", "category"),
    )


def read_scienceqa(row: Row) -> Example:
    choices = required(texts(row, "choices"))
    image = row.get("image")
    if isinstance(image, str) and "/" not in image and row.get("split"):
        row = {**row, "image": f"images/{row['split']}/{row.get('id')}/{image}"}
    return example(
        "scienceqa",
        row,
        question=f"{text(row, 'hint', '').strip()}\n{text(row, 'question')}",
        images=pictures(row),
        answer=letter_at(whole_number(row, "answer"), choices),
        choices=choices,
        meta=kept(row, "solution", "lecture", "subject", "topic", "category", "skill", "grade", "task"),
    )


def read_ai2d(row: Row) -> Example:
    choices = required(texts(row, "options"))
    return example(
        "ai2d",
        row,
        question=text(row, "question"),
        images=pictures(row),
        answer=letter_at(whole_number(row, "answer"), choices),
        choices=choices,
    )


SOURCES = (
    Source(
        "arxivqa",
        "ArxivQA",
        KIND,
        hub="MMInstruction/ArxivQA",
        splits=("train",),
        train_split="train",
        licence="CC BY-SA 4.0",
        overlaps=(),
        evaluation_splits=(),
        read=read_arxivqa,
        files=("arxivqa.jsonl",),
        note="The pictures are an archive of their own (images.tgz): give local files. Written by a model, so some "
        "labels name no option and are rejected.",
    ),
    Source(
        "m3cot",
        "M3CoT",
        KIND,
        hub="LightChen2333/M3CoT",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="CC BY-SA 4.0",
        overlaps=("M3CoT",),
        evaluation_splits=("validation", "test"),
        read=read_m3cot,
    ),
    Source(
        "scienceqa",
        "ScienceQA",
        KIND,
        hub="derek-thomas/ScienceQA",
        splits=("train", "validation", "test"),
        train_split="train",
        licence="CC BY-SA 4.0",
        overlaps=("MathVista", "MMStar", "M3CoT"),  # M3CoT: from memory, part of its science items
        evaluation_splits=("validation", "test"),
        read=read_scienceqa,
        files=("problems.json", "data/{split}-*.parquet"),
        note="Half of the questions have no picture and are rejected. Local pictures: images/SPLIT/ID/image.png.",
    ),
    Source(
        "ai2d",
        "AI2D",
        KIND,
        hub="lmms-lab/ai2d",
        splits=("train", "test"),
        train_split="train",
        licence="not stated",
        overlaps=("AI2D", "MathVista", "MMStar"),
        evaluation_splits=("test",),
        read=read_ai2d,
        note="The hub's copy holds the test split alone. Training diagrams come with the original release, whose "
        "files are to be brought to the same fields: question, options, answer (an index), image.",
    ),
)
