"""Stored predictions: the project's own rows, sample logs of lmms-eval, prediction files of VLMEvalKit.

    {"id": "chartqa/7", "text": "..."}                 .jsonl; the id with or without what stands before the slash
    {"doc_id": 7, "resps": [["..."]], "input": "..."}  .jsonl of lmms-eval --log_samples; `filtered_resps` where the two
                                                       are equal; doc_id is the row number in the published file
    index, prediction, question                        .tsv, .csv, .json or .xlsx of VLMEvalKit

No row stops the others: what cannot be read is a `Reject`. What a matched row says of its question is compared with the
question of the item, for row numbers alone would let a file of another split pass.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainofstep.records import Example, Reject, ScoreFailure

#: What VLMEvalKit writes where a model gave no answer.
NO_ANSWER = "Failed to obtain answer via API."
LONGEST_FIELD = 10**8  # characters of a table's field; the csv module stops at 131,072
_ID_FIELDS = ("id", "pid", "question_id", "index")  # of a published row that lmms-eval keeps as `doc`
#: White space and marks; and the place of a picture, which some write without its number.
_NO_WORD = re.compile(r"(?:<image ?\d*>|\W)+")
SHOWN_QUESTION = 60  # characters of a question by which two are told apart

Row = Mapping[str, Any]
Answer = str | ScoreFailure


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted for one item."""

    names: tuple[str, ...]  # what may be the item's id
    number: int | None  # or its row in the published file, from 0
    text: Answer
    place: str  # "FILE:LINE"
    question: str = ""  # where the row tells it

    @property
    def name(self) -> str:
        """What the file calls its item."""
        return self.names[0] if self.names else str(self.number)


@dataclass(frozen=True)
class Matched:
    """Predictions by item, and what did not match one to one: places, or ids of items."""

    texts: list[Answer]  # of each example; a failure where there is none
    missing: list[str]  # items without a prediction
    doubled: list[str]  # further predictions of an item: the first counts
    unknown: list[str]  # predictions of no item
    strangers: list[str]  # predictions whose question is another than the item's


def read_predictions(path: Path) -> Iterator[Prediction | Reject]:
    """The predictions of a file, in order; ValueError for a suffix that none of the formats has."""
    readers = {".jsonl": _lines, ".json": _document, ".tsv": _table, ".csv": _table, ".xlsx": _sheet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: no file of predictions; give one of {', '.join(readers)}")
    if not path.is_file():
        raise ValueError(f"{path} is no file; check the path")
    for place, row in readers[path.suffix](path):
        yield row if isinstance(row, Reject) else _prediction(place, row)


def _prediction(place: str, row: Any) -> Prediction | Reject:
    try:
        return _read(place, row)
    except ValueError as error:
        return Reject(place, str(error))


def _read(place: str, row: Any) -> Prediction:
    if not isinstance(row, dict):
        raise ValueError(f"wrong type: the row is {type(row).__name__}, not an object")
    if "doc_id" in row:
        doc: Any = row["doc"] if isinstance(row.get("doc"), dict) else {}
        names = tuple(name for field in _ID_FIELDS if (name := _name(doc.get(field))))
        found = row.get("resps") or row.get("filtered_resps")
        question = "\n".join(str(told) for told in (row.get("input"), doc.get("question")) if told)
        return Prediction(names, _number(row["doc_id"]), _text(_first(found)), place, question)
    if "prediction" in row and "index" in row:
        name = _name(row["index"])
        return Prediction((name,), _number(name), _text(row["prediction"]), place, str(row.get("question") or ""))
    if "text" in row and "id" in row:
        name = _name(row["id"])
        return Prediction((name,), _number(name), _text(row["text"]), place)
    wanted = "id and text, doc_id and resps, or index and prediction"
    raise ValueError(f"missing field: found {', '.join(map(str, row))[:200]}; a prediction has {wanted}")


def _name(value: Any) -> str:
    """An id as text; tables may write 7 as 7.0."""
    if value is None or isinstance(value, bool | list | dict):
        return ""
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _number(value: Any) -> int | None:
    name = _name(value)
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else None


def _first(value: Any) -> Any:
    """The first reply: lmms-eval writes it as text, in a list, or in a list of lists."""
    while isinstance(value, list) and value:
        value = value[0]
    return value


def _text(value: Any) -> Answer:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"wrong type: the prediction is {type(value).__name__}, not text")
    text = str(value)
    if text == NO_ANSWER:
        return ScoreFailure("the model gave no answer")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("not UTF-8: half of a surrogate pair, or bytes of another encoding") from None
    return text


# Files


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{path}:{number}"
                yield place, _parsed(place, line)


def _document(path: Path) -> Iterator[tuple[str, Any]]:
    """A list of rows, `logs` with one, or columns by name with a value for each row."""
    value = _parsed(str(path), path.read_bytes())
    rows = value.get("logs", value) if isinstance(value, dict) else value
    if isinstance(rows, dict) and isinstance(rows.get("prediction"), dict):
        columns = {name: column for name, column in rows.items() if isinstance(column, dict)}
        rows = [{name: column.get(key) for name, column in columns.items()} for key in rows["prediction"]]
    if isinstance(rows, Reject):
        yield str(path), rows
    elif isinstance(rows, list):
        yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, start=1))
    else:
        yield str(path), Reject(str(path), "wrong type: neither a list of predictions nor columns of them")


def _parsed(place: str, content: bytes) -> Any:
    try:
        return json.loads(content.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError as error:
        return Reject(place, f"not UTF-8: byte {error.start} is {content[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return Reject(place, f"not JSON: {error}")


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # strict: else a quote that is never closed takes the rest of the file for one cell, and nothing is said.
            table = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            read = 1
            try:
                for row in table:
                    read = table.line_num
                    yield f"{path}:{read}", _whole(f"{path}:{read}", row)
            except csv.Error as error:
                yield "", Reject(f"{path}:{read + 1}", f"not a table from here on: {error}")
    finally:
        csv.field_size_limit(before)


def _whole(place: str, row: dict[Any, Any]) -> Any:
    """The row, if it has as many fields as the table has columns."""
    ragged = None in row or None in row.values()
    return Reject(place, "wrong number of fields: it differs from the header's") if ragged else row


def _sheet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise ValueError(f"{path}: .xlsx is read by openpyxl: pip install openpyxl, or save it as .tsv") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            cells = list(book.worksheets[0].iter_rows(values_only=True))
        finally:
            book.close()
    except Exception as error:  # it may be any: a damaged archive, a missing part of it, broken XML
        raise ValueError(f"{path} cannot be read as .xlsx ({type(error).__name__}: {error}): save it again") from None
    for number, values in enumerate(cells[1:], start=2):
        row = dict(zip(cells[0], values, strict=False))
        if row.get("prediction") is None and "prediction" in row:
            row["prediction"] = ""  # an empty cell
        yield f"{path}:{number}", row


# Matching


def match(examples: Sequence[Example], predictions: Iterable[Prediction]) -> Matched:
    """Each example's prediction: by its id, with or without the part before the slash, else by its row number.

    That is its place in the published file, `meta["row"]` of a benchmark's items, its place in `examples` of others.
    """
    by_name = {example.id.partition("/")[2] or example.id: place for place, example in enumerate(examples)}
    by_name |= {example.id: place for place, example in enumerate(examples)}
    by_number = {example.meta.get("row", place): place for place, example in enumerate(examples)}
    found: dict[int, Answer] = {}
    doubled, unknown, strangers = [], [], []
    for one in predictions:
        places = [by_name[name] for name in one.names if name in by_name]
        if one.number is not None and one.number in by_number:
            places.append(by_number[one.number])
        if not places:
            unknown.append(one.place)
            continue
        asked = [place for place in places if not one.question or _same_question(examples[place], one.question)]
        place = (asked or places)[0]
        if not asked:
            strangers.append(one.place)
        if place in found:
            doubled.append(one.place)
        else:
            found[place] = one.text
    missing = [example.id for place, example in enumerate(examples) if place not in found]
    texts = [found.get(place, ScoreFailure("no prediction")) for place in range(len(examples))]
    return Matched(texts, missing, doubled, unknown, strangers)


def _same_question(example: Example, told: str) -> bool:
    """Whether the question begins alike in what a row tells, which may hold options and instructions too."""
    question = _NO_WORD.sub("", example.question.casefold())[:SHOWN_QUESTION]
    return question in _NO_WORD.sub("", told.casefold())
