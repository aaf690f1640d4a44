"""Rows of a JSONL file by id, one at a time: what is in a file of 300,000 rows is known in a second or two."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Logs of this project begin each row with its id, so that the rest of the line need not be read.
_ID_FIRST = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


class RowIndex:
    """The ids of a file's rows, in order, and where each row stands. A file that is not there has none.

    `ValueError` names the line of a row without an id, or with one that was there before.
    """

    def __init__(self, path: Path):
        self.path = path
        self.offsets: Mapping[str, int] = {}
        if path.is_file():
            found = path.stat()
            self.offsets = _offsets(path, found.st_size, found.st_mtime_ns)

    def __len__(self) -> int:
        return len(self.offsets)

    def __contains__(self, name: str) -> bool:
        return name in self.offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self.offsets)

    def rows(self, names: Iterator[str] | list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of these ids, in their order (all without them). `ValueError` for an id without a row."""
        with self.path.open("rb") as file:
            for name in self.offsets if names is None else names:
                if name not in self.offsets:
                    raise ValueError(f"{self.path} has no row {name!r}; give the command that wrote it again")
                file.seek(self.offsets[name])
                yield json.loads(file.readline())


@lru_cache(maxsize=4)  # several stages ask for the same files; size and time tell one that has grown
def _offsets(path: Path, size: int, changed: int) -> Mapping[str, int]:
    offsets: dict[str, int] = {}
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                name = _id(path, line, number)
                if name in offsets:
                    raise ValueError(f"{path}:{number}: the id {name!r} occurs twice; give each row its own")
                offsets[name] = offset
            offset += len(line)
    return offsets


def _id(path: Path, line: bytes, number: int) -> str:
    first = _ID_FIRST.match(line)
    try:
        name = json.loads(first[1] if first else line)
        return str(name if first else name["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}:{number}: no row with an id; mend or delete the line") from error
