"""Rows of a JSONL file by id, for reading alone: what is broken is passed over and said, never an error."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

#: What is raised by JSON that is none, or nested deeper than Python reads.
BROKEN = (ValueError, RecursionError)
NO_ROW: Mapping[str, Any] = {}
MOST_PROBLEMS = 10  # of a file that are told one by one


def open_regular(path: Path) -> BinaryIO:
    """The file, to be read; an `OSError` for what is no regular file: a pipe would be waited for."""

    def opened(name: str, flags: int) -> int:
        file = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "no regular file", name)
        return file

    return open(path, "rb", opener=opened)


class Rows:
    """Ids and places of a file's rows, in order. A file that is not there has none.

    `counts` says how often `counted` occurs in each row, `noted` which texts a pattern found in any of them.
    """

    def __init__(
        self, path: Path | None, key: str = "id", counted: bytes = b"", noted: re.Pattern[bytes] | None = None
    ):
        self.path, self.key = path, key
        self.ids: list[str] = []
        self.offsets: list[int] = []
        self.counts: list[int] = []
        self.noted: dict[bytes, None] = {}
        self.problems: list[str] = []
        try:
            if path is not None and path.exists():
                self._scan(path, counted, noted)
        except OSError as error:
            self.problems.append(f"{path} cannot be read: {error.strerror}")
        self.places = dict(zip(self.ids, range(len(self.ids)), strict=True))
        if len(self.places) < len(self.ids):
            self.places = {name: place for place, name in reversed(list(enumerate(self.ids)))}  # the first of equal ids
            if key == "id":
                self.problems.append(
                    f"{path}: {len(self.ids) - len(self.places)} rows with an id that was there before"
                )

    def _scan(self, path: Path, counted: bytes, noted: re.Pattern[bytes] | None) -> None:
        first = re.compile(rb'\{"%b": ("(?:[^"\\]|\\.)*")' % self.key.encode())
        offset, broken = 0, list[str]()
        with open_regular(path) as file:
            for number, line in enumerate(file, start=1):
                name = self._id(first, line)
                if name is not None:
                    self.ids.append(name)
                    self.offsets.append(offset)
                    if counted:
                        self.counts.append(line.count(counted))
                    if noted and (found := noted.search(line)):
                        self.noted.setdefault(found[1])
                elif not line.isspace():
                    cut = "" if line.endswith(b"\n") else ": it is cut off"
                    broken.append(f"{path}:{number}: no row with {self.key!r}, left out{cut}")
                offset += len(line)
        more = len(broken) - MOST_PROBLEMS
        self.problems += broken[:MOST_PROBLEMS] + ([f"{path}: {more} more lines are no rows"] if more > 0 else [])

    def _id(self, first: re.Pattern[bytes], line: bytes) -> str | None:
        """The row's id; None for a line that is no row, or the beginning of one."""
        found = first.match(line) if line.endswith(b"\n") else None
        try:
            if found and b"\\" not in found[1]:
                return found[1][1:-1].decode()
            return str(json.loads(found[1]) if found else json.loads(line)[self.key])
        except (*BROKEN, KeyError, TypeError):
            return None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def row(self, name: str) -> Mapping[str, Any]:
        """The row of an id; an empty one where there is none that can be read."""
        place = self.places.get(name)
        return NO_ROW if place is None else next(self.at([place]))

    def at(self, places: "range | list[int]") -> Iterator[Mapping[str, Any]]:
        """The rows at these places; an empty one for each that cannot be read."""
        try:
            assert self.path is not None
            with open_regular(self.path) as file:
                yield from (self._read(file, self.offsets[place]) for place in places)
        except OSError:  # gone since
            yield from (NO_ROW for _ in places)

    def named(self, names: list[str]) -> Iterator[Mapping[str, Any]]:
        """The rows of these ids; an empty one for each that has none."""
        there = [name for name in dict.fromkeys(names) if name in self.places]
        found = dict(zip(there, self.at([self.places[name] for name in there]), strict=True)) if there else {}
        return (found.get(name, NO_ROW) for name in names)

    def _read(self, file: BinaryIO, offset: int) -> Mapping[str, Any]:
        file.seek(offset)
        try:
            row = json.loads(file.readline())
        except BROKEN:
            return NO_ROW
        return row if isinstance(row, dict) else NO_ROW


def first_row(path: Path, tried: int = 5) -> Mapping[str, Any]:
    """The first row that can be read among a file's first lines."""
    try:
        with open_regular(path) as file:
            for _ in range(tried):
                try:
                    row = json.loads(file.readline())
                except BROKEN:
                    continue
                if isinstance(row, dict):
                    return row
    except OSError:
        pass
    return NO_ROW
