"""The project's own rows: a StepRow with all that it has, less what is empty."""

from dataclasses import fields, replace
from typing import Any

from pydantic import ValidationError

from chainofstep.chain import STEP_END, render
from chainofstep.problems.formats.base import Format, Row, number_field, shown
from chainofstep.records import Example, StepRow, from_row, to_row

_EMPTY: tuple[Any, ...] = (None, "", (), {})
_NAMED = {"question", "images", "answer", "answer_kind"}
_REQUIRED = ("id", "question", "images", "answer", "answer_kind")


def read_row(row: Row, row_id: str) -> StepRow:
    """A row with an example, and perhaps text, labels and rejected text; or an example alone, whose text is its chain.

    An example without an id gets `row_id`.
    """
    if is_example(row):
        found = read_row({"example": row}, row_id)
        return found if found.example.chain is None else replace(found, text=render(found.example.chain))
    example = row.get("example")
    if isinstance(example, dict) and "id" not in example:
        row = {**row, "example": {"id": row_id, **example}}
    if unknown := row.keys() - {"example", "text", "labels", "rejected"}:
        raise ValueError(f"wrong field: {min(unknown)}: expected example, text, labels and rejected alone")
    try:
        read = from_row(StepRow, row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        kind = "missing field" if first["type"] == "missing" else "wrong field"
        raise ValueError(f"{kind}: {place}: {first['msg']}, found {shown(first['input'])}") from error
    if read.labels is not None:
        _check_labels(row["labels"], read)
    return read


def is_example(row: Row) -> bool:
    """Whether a row is an example by itself, as `examples.jsonl` holds them."""
    return "example" not in row and row.keys() >= _NAMED


def _check_labels(labels: Row, row: StepRow) -> None:
    """Numbers in [0, 1], at least one, and none without a step."""
    for place, label in enumerate(labels["steps"]):
        number_field(label, f"labels.steps[{place}]")
    if labels.get("answer") is not None:
        number_field(labels["answer"], "labels.answer")
    count, steps = len(labels["steps"]), (row.text or "").count(STEP_END)
    if not 0 < count <= steps:
        raise ValueError(f"labels do not fit: {count} for {steps} steps")


def write_row(row: StepRow) -> Row:
    example = row.example
    written: Row = {"example": example_row(example)}
    if row.text is not None:
        written["text"] = row.text
    if row.labels is not None:
        written["labels"] = {"steps": list(row.labels.steps), "answer": row.labels.answer}
    if row.rejected is not None:
        written["rejected"] = row.rejected
    return written


def example_row(example: Example) -> Row:
    """An Example's fields, those with nothing in them left out where they may be."""
    values = {entry.name: getattr(example, entry.name) for entry in fields(Example)}
    row = {name: value for name, value in values.items() if name in _REQUIRED or value not in _EMPTY}
    row |= {name: list(value) for name, value in row.items() if isinstance(value, tuple)}
    return row | ({"chain": to_row(example.chain)} if example.chain is not None else {})


ROWS = Format(
    "rows",
    "this project's own: {example, text?, labels?, rejected?}",
    frozenset({"chain", "labels", "pair"}),
    read_row,
    write_row,
    lambda row: isinstance(row.get("example"), dict) or is_example(row),
    several=True,
)
