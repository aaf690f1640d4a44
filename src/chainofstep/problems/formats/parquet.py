"""Step rows as parquet with the features of `datasets`, so that `load_dataset("parquet", ...)` opens the pictures.

One row group for each table that is written; nothing but the row group being made is held in memory.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from chainofstep.chain import parse_prefix, render
from chainofstep.problems.formats.base import Row
from chainofstep.problems.formats.chunks import BATCH, Rows, in_batches
from chainofstep.records import StepRow, to_row
from chainofstep.store import write_bytes

if TYPE_CHECKING:
    import pyarrow

COLUMNS = "id question images answer answer_kind choices source text rejected step_labels answer_label chain meta"


def schema() -> "pyarrow.Schema":
    """The columns' types with the metadata that `datasets` reads its features from."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    kinds = {
        "images": List(Image()),
        "choices": List(text),
        "step_labels": List(Value("float64")),
        "answer_label": Value("float64"),
    }
    found: pyarrow.Schema = Features({name: kinds.get(name, text) for name in COLUMNS.split()}).arrow_schema
    return found


def record(row: StepRow, embed: Path | None = None) -> Row:
    """The row's columns. With the folder that picture paths count from, the pictures are put in.

    `ValueError` if one cannot be read.
    """
    example, labels = row.example, row.labels
    return {
        "id": example.id,
        "question": example.question,
        "images": [{"bytes": _bytes(embed, path), "path": path} for path in example.images],
        "answer": example.answer,
        "answer_kind": example.answer_kind,
        "choices": list(example.choices),
        "source": example.source,
        "text": row.text,
        "rejected": row.rejected,
        "step_labels": None if labels is None else list(labels.steps),
        "answer_label": None if labels is None else labels.answer,
        "chain": None if example.chain is None else render(example.chain),
        "meta": json.dumps(example.meta, ensure_ascii=False, allow_nan=False),
    }


def _bytes(folder: Path | None, path: str) -> bytes | None:
    if folder is None:
        return None
    try:
        return (folder / path).read_bytes()
    except OSError as error:
        raise ValueError(f"no picture: {path} ({error.strerror})") from error


def pack(records: Sequence[Row], kinds: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """Records as one arrow batch."""
    import pyarrow

    columns = [pyarrow.array([entry[field.name] for entry in records], field.type) for field in kinds]
    return pyarrow.RecordBatch.from_arrays(columns, schema=kinds)


def read_chunks(path: Path) -> Iterator[Rows]:
    """A parquet file's rows, numbered from 1: step rows as rows of the format `rows`, other columns as they are."""
    return in_batches(path, enumerate(_rows(path), start=1))


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            own = set(COLUMNS.split()) <= set(file.schema_arrow.names)
            for batch in file.iter_batches(BATCH):
                found = batch.to_pylist()
                yield from (_row(columns, path) for columns in found) if own else found
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: no parquet file ({error}): check the path, or make it again") from error


def _picture(image: dict[str, Any], file: Path) -> str:
    """The path of a picture. One that is in the file and not beside it is written to FILE.pictures, by its content."""
    named, content = image["path"] or "", image["bytes"]
    if content is None or (named and not PurePath(named).is_absolute() and (file.parent / named).is_file()):
        return named
    digest = hashlib.sha256(content).hexdigest()
    path = Path(f"{file.stem}.pictures") / digest[:2] / f"{digest[:40]}{PurePath(named).suffix or '.png'}"
    if not (file.parent / path).exists():
        write_bytes(file.parent / path, content)
    return path.as_posix()


def _row(columns: dict[str, Any], file: Path) -> Row:
    example = {name: columns[name] for name in ("id", "question", "answer", "answer_kind", "choices", "source")}
    example["images"] = [_picture(image, file) for image in columns["images"]]
    example["meta"] = json.loads(columns["meta"])
    if columns["chain"] is not None:
        example["chain"] = to_row(parse_prefix(columns["chain"]).chain)
    labels = None
    if columns["step_labels"] is not None:
        labels = {"steps": columns["step_labels"], "answer": columns["answer_label"]}
    return {"example": example, "text": columns["text"], "labels": labels, "rejected": columns["rejected"]}
