"""A file of rows in chunks: what one process reads at once, and what another can be asked to read.

A chunk gives (number, row or Reject) for each line or entry, in order. Lines that are no rows are rejects; empty
lines are none at all. A chunk of lines names a range of the file and can be sent to another process for nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from chainofstep.problems.formats.base import Row
from chainofstep.records import Reject

BLOCK = 1 << 22  # bytes of a file that are read at once
LONGEST_LINE = 1 << 25  # bytes; a longer line is no row of step data, and is not held in memory
BATCH = 1000  # rows of an array, a parquet file or a folder
_BOM = b"\xef\xbb\xbf"

Found = tuple[int, Row | Reject]


class Chunk(Protocol):
    @property
    def path(self) -> Path: ...

    def items(self) -> Iterator[Found]: ...


@dataclass(frozen=True)
class Lines:
    """Whole lines of a JSONL file, by their place in bytes."""

    path: Path
    start: int
    size: int
    first: int  # number of the first line, from 1

    def items(self) -> Iterator[Found]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            if self.size > LONGEST_LINE:
                yield self.first, _reject(self.path, self.first, f"line too long: {self.size} bytes", file.read(80))
                return
            block = file.read(self.size)
        for number, line in enumerate(block.split(b"\n"), self.first):
            if line.strip():
                yield number, read_line(self.path, number, line)


@dataclass(frozen=True)
class Rows:
    """Rows that were read already: entries of an array, of a parquet file, of a project's folder."""

    path: Path
    found: tuple[Found, ...]

    def items(self) -> Iterator[Found]:
        yield from self.found


def read_line(path: Path, number: int, line: bytes) -> Row | Reject:
    """The object on a line, or what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_number)
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        return _reject(path, number, f"not UTF-8: byte {error.start} of the line", line)
    except UnicodeEncodeError:
        return _reject(path, number, "not UTF-8: half of a surrogate pair", line)
    except RecursionError:
        return _reject(path, number, "not JSON: nested too deeply", line)
    except ValueError as error:
        return _reject(path, number, _why(line, error), line)
    if not isinstance(row, dict):
        return Reject(f"{path}:{number}", f"not an object: {type(row).__name__}", row)
    return row


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _why(line: bytes, error: ValueError) -> str:
    if line.startswith(_BOM):
        return "byte order mark: the line begins with one; save the file as UTF-8 without it"
    if b"\0" in line:
        return f"NUL byte: at byte {line.index(0)} of the line"
    return f"not JSON: {getattr(error, 'msg', error)}"


def _reject(path: Path, number: int, reason: str, line: bytes) -> Reject:
    text = line[:2000].decode("utf-8", errors="replace")
    return Reject(f"{path}:{number}", reason, text if len(text) <= 200 else f"{text[:200]}...")


def line_chunks(path: Path, block: int = BLOCK) -> Iterator[Lines]:
    """The lines of a JSONL file, about `block` bytes of them at a time; a line longer than that stands alone."""
    start, number = 0, 1
    with path.open("rb") as file:
        while data := file.read(block):
            whole = data.rfind(b"\n") + 1
            if len(data) < block:  # the end of the file
                size, lines = len(data), data.count(b"\n") + 1
            elif whole:
                size, lines = whole, data.count(b"\n")
            else:
                size, lines = len(data) + _rest_of_line(file), 1
            yield Lines(path, start, size, number)
            start, number = start + size, number + lines
            file.seek(start)


def _rest_of_line(file: BinaryIO) -> int:
    """Bytes up to and with the next newline, read in pieces and not kept."""
    size = 0
    while piece := file.readline(BLOCK):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def array_chunks(path: Path) -> Iterator[Rows]:
    """The entries of a JSON array, numbered from 1. What follows text that is no JSON cannot be read."""
    return in_batches(path, enumerate(_entries(path), start=1))


def in_batches(path: Path, found: Iterable[tuple[int, Any]]) -> Iterator[Rows]:
    """Values in chunks of `BATCH`, those that are no objects as rejects."""
    numbered = iter(found)
    while batch := tuple(islice(numbered, BATCH)):
        yield Rows(path, tuple((number, _entry(path, number, value)) for number, value in batch))


def _entry(path: Path, number: int, value: Any) -> Row | Reject:
    if isinstance(value, Reject):
        return Reject(f"{path}:{number}", value.reason, value.row)
    if not isinstance(value, dict):
        return Reject(f"{path}:{number}", f"not an object: {type(value).__name__}", value)
    return value


def _entries(path: Path) -> Iterator[Any]:
    """The values of an array, as its text is read; a Reject for text that is no JSON, which is the last."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    with path.open("r", encoding="utf-8-sig", errors="surrogateescape") as file:
        text, position, failed = file.read(BLOCK).lstrip()[1:], 0, "cut off"
        while True:
            position = _AFTER.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", position):
                return
            try:
                value, end = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                end, failed = len(text), f"not JSON: {getattr(error, 'msg', error)}; the rest of the file is not read"
            if end < len(text):  # else the value may go on in what is not read yet
                yield _without_halves(value)
                position = end
                continue
            more = file.read(max(BLOCK, len(text)))
            if not more or len(text) - position > LONGEST_LINE:
                yield Reject("", failed, text[position : position + 200].encode("utf-8", "replace").decode("utf-8"))
                return
            text, position = text[position:] + more, 0


_AFTER = re.compile(r"[\s,]*")


def _without_halves(value: Any) -> Any:
    """The value, or a Reject if bytes that are no UTF-8, or halves of surrogate pairs, are in it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Reject("", "not UTF-8: bytes inside the entry", text[:200].encode("utf-8", "replace").decode("utf-8"))
    return value
