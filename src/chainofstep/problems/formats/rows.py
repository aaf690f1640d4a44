"""The project's own rows: a StepRow with all that it has, less what is empty."""

from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from chainofstep.problems.formats.base import Format, Row, shown
from chainofstep.records import Example, StepRow, from_row, to_row

_EMPTY: tuple[Any, ...] = (None, "", (), {})
_REQUIRED = ("id", "question", "images", "answer", "answer_kind")


def read_row(row: Row, row_id: str) -> StepRow:
    """A row with an example, and perhaps text, labels and rejected text. An example without an id gets `row_id`."""
    example = row.get("example")
    if isinstance(example, dict) and "id" not in example:
        row = {**row, "example": {"id": row_id, **example}}
    if unknown := row.keys() - {"example", "text", "labels", "rejected"}:
        raise ValueError(f"wrong field: {min(unknown)}: expected example, text, labels and rejected alone")
    try:
        return from_row(StepRow, row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        kind = "missing field" if first["type"] == "missing" else "wrong field"
        raise ValueError(f"{kind}: {place}: {first['msg']}, found {shown(first['input'])}") from error


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
    lambda row: isinstance(row.get("example"), dict),
    several=True,
)
