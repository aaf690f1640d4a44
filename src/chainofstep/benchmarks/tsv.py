"""VLMEvalKit's benchmark files: tab-separated, pictures in base64 or named by the index of a row that has them."""

import base64
import binascii
import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chainofstep.problems.sources.files import Found
from chainofstep.records import Reject

#: VLMEvalKit's own limit: a shorter cell is the index of another row.
LONGEST_INDEX = 64
_MOST_CHARACTERS = 1 << 28  # of a cell; Python's own limit is 131,072, less than most pictures
_LISTED = re.compile(r"'([^']*)'")


def rows_of_tsv(path: Path, write: Callable[[bytes], str]) -> Iterator[Found]:
    """The rows of a file, each picture written by `write` and named by its path in `image`.

    Pictures are written while the file is read; the rows, without them, are held until its end, for a row may name a
    later one's picture.
    """
    rows: list[tuple[str, dict[str, Any]] | Reject] = []
    images: dict[str, list[str] | ValueError] = {}
    for found in _plain_rows(path):
        if not isinstance(found, Reject) and len(cell := str(found[1].get("image", ""))) > LONGEST_INDEX:
            row = found[1]
            images[_key(row)] = row["image"] = _written(cell, write)
        rows.append(found)
    for found in rows:
        yield found if isinstance(found, Reject) else _with_images(*found, images)


def _key(row: dict[str, Any]) -> str:
    return str(row.get("index", ""))


def _plain_rows(path: Path) -> Iterator[Found]:
    number = 0
    before = csv.field_size_limit(_MOST_CHARACTERS)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # strict: else a quote that is never closed takes the rest of the file for one cell, and nothing is said.
            for number, row in enumerate(csv.DictReader(file, dialect="excel-tab", strict=True), start=1):
                yield _checked(f"{path}:{number}", row)
    except csv.Error as error:
        yield Reject(f"{path}:{number + 1}", f"not tab-separated: {error}")
    finally:
        csv.field_size_limit(before)


def _checked(place: str, row: dict[Any, Any]) -> Found:
    if None in row or None in row.values():
        cells = sum(value is not None for value in row.values()) + len(row.get(None) or [])
        return Reject(place, f"wrong number of cells: {cells} under {len(row) - (None in row)} columns")
    try:
        "".join(row.values()).encode("utf-8")
    except UnicodeEncodeError:
        return Reject(place, "not UTF-8: a cell has bytes that are no text")
    return place, {str(name): value for name, value in row.items()}


def _written(cell: str, write: Callable[[bytes], str]) -> list[str] | ValueError:
    """The paths of the pictures in a cell, one or a list of them, or why there are none."""
    try:
        parts = _LISTED.findall(cell) if cell.startswith("[") else [cell]
        return [write(base64.b64decode(part, validate=True)) for part in parts]
    except binascii.Error as error:
        return ValueError(f"unreadable picture: not base64 ({error})")
    except ValueError as error:
        return error


def _with_images(place: str, row: dict[str, Any], images: dict[str, list[str] | ValueError]) -> Found:
    given = row.get("image", "")
    found = images.get(str(given)) if isinstance(given, str) and given else given
    if isinstance(found, ValueError):
        return Reject(place, str(found), {**row, "image": None})
    if found is None:
        return Reject(place, f"missing picture: no row {given} has one", row)
    if not found:
        return Reject(place, "no picture: the row has none", row)
    return place, {**row, "image": found if len(found) > 1 else found[0]}
