"""Rows of published files: .jsonl, .json in its several shapes, .parquet. No bad row stops the others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from chainofstep.records import Reject

#: (place "FILE:LINE" or "FILE:KEY", row), or why there is none.
Found = tuple[str, dict[str, Any]] | Reject


def rows_of(path: Path) -> Iterator[Found]:
    """The rows of a file, read by its suffix; `ValueError` for another suffix."""
    if path.suffix == ".jsonl":
        yield from _lines(path)
    elif path.suffix == ".json":
        yield from _document(path)
    elif path.suffix == ".parquet":
        yield from _table(path)
    else:
        raise ValueError(f"{path}: no data file: give .jsonl, .json or .parquet")


def _lines(path: Path) -> Iterator[Found]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(f"{path}:{number}", _parsed(f"{path}:{number}", line))


def _document(path: Path) -> Iterator[Found]:
    """Several shapes: a list of rows, lists of rows by name, rows by id, one row.

    Rows by id get it as `id`; rows of one of several lists get its name as `group`.
    """
    value = _parsed(str(path), path.read_bytes())
    if not isinstance(value, dict):
        if isinstance(value, list):
            yield from (_row(f"{path}:{number}", row) for number, row in enumerate(value))
        else:
            yield value if isinstance(value, Reject) else _row(str(path), value)
        return
    lists = {
        key: rows for key, rows in value.items() if isinstance(rows, list) and any(isinstance(r, dict) for r in rows)
    }
    if lists:
        for key, rows in lists.items():
            name = {"group": key} if len(lists) > 1 else {}
            yield from (_row(f"{path}:{key}[{number}]", row, name) for number, row in enumerate(rows))
    elif any(isinstance(row, dict) and len(row) > 1 for row in value.values()):
        yield from (_row(f"{path}:{key}", row, {"id": key}) for key, row in value.items())
    else:
        yield _row(str(path), value)


def _table(path: Path) -> Iterator[Found]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):  # pictures are embedded: few rows at a time
                for row in batch.to_pylist():
                    yield f"{path}:{number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        yield Reject(f"{path}:{number}", f"not parquet: {' '.join(str(error).split())[:200]}")


def _row(place: str, value: Any, more: dict[str, str] | None = None) -> Found:
    if isinstance(value, Reject):
        return value
    if not isinstance(value, dict):
        return Reject(place, f"wrong type: the row is {type(value).__name__}, not an object", value)
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell it, no file can hold it
        return Reject(place, "not UTF-8: half of a surrogate pair", json.dumps(value))
    return place, {**(more or {}), **value}


def _parsed(place: str, content: bytes) -> Any:
    """The JSON value, or a `Reject`."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        return json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        shown = content[:200].decode("utf-8", errors="replace").strip()
        return Reject(place, f"not UTF-8: byte {error.start} is {content[error.start]:#04x}", shown)
    except (ValueError, RecursionError) as error:
        return Reject(place, f"not JSON: {error}", content[:200].decode("utf-8", errors="replace").strip())


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
