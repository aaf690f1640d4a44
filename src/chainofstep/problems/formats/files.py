"""Files of step data: JSON lines, arrays, parquet and the project's own folders, read and written row by row."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from chainofstep.problems.formats import FORMATS, detect, folders, parquet
from chainofstep.problems.formats.base import Format, Row, json_line
from chainofstep.problems.formats.chunks import BATCH, Chunk, array_chunks, line_chunks
from chainofstep.problems.pictures import own_picture
from chainofstep.records import Reject, StepRow

if TYPE_CHECKING:
    import pyarrow

LOOKED_AT = 20  # rows by which a file's format is recognised
ROW_GROUP = 1 << 25  # bytes of a parquet file's row group


# Reading


def chunks_of(path: Path) -> Iterator[Chunk]:
    """A source's rows: .jsonl, .json (an array, or lines), .parquet, or a folder of the project's own."""
    if path.is_dir():
        return folders.read_chunks(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; check the path")
    if path.suffix == ".parquet":
        return parquet.read_chunks(path)
    with path.open("rb") as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    return array_chunks(path) if start.startswith(b"[") else line_chunks(path)


def format_of(path: Path) -> Format:
    """The format that a file's first rows are; `ValueError` if they do not say."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for _, row in (found for chunk in chunks_of(path) for found in chunk.items()):
        if isinstance(row, Reject):
            rejects.append(row)
            del rejects[1:]  # the first says enough
        else:
            rows.append(row)
        if len(rows) == LOOKED_AT:
            break
    if not rows:
        why = f"its first line is a reject ({rejects[0].reason})" if rejects else "it is empty"
        raise ValueError(f"{path} has no row that can be read: {why}")
    if (known := detect(rows)) is None:
        keys = f"its first row has {', '.join(rows[0])}"
        raise ValueError(f"{path}: {keys}, which is no format known; name one of {', '.join(FORMATS)}")
    return known


class Seen:
    """The rows so far, by 8 bytes each, and the number of each one's line."""

    def __init__(self) -> None:
        self.lines: dict[int, int] = {}

    def repeated(self, key: int | None, number: int) -> int | None:
        """The line of an earlier row with this key; None for the first, which is remembered."""
        if key is None:
            return None
        if key in self.lines:
            return self.lines[key]
        self.lines[key] = number
        return None


def key_of(row: StepRow, format: Format) -> int | None:
    """What may occur once: an id or, where a question has several rows, the id with the texts.

    None in the project's own rows: a sampler may give the same text twice.
    """
    if format.name == "rows":
        return None
    digest = blake2b(row.example.id.encode("utf-8"), digest_size=8)
    if format.several:
        digest.update(f"\0{row.text}\0{row.rejected}".encode())
    return int.from_bytes(digest.digest(), "little")


def repetition(row_id: str, format: Format, first: int) -> str:
    """The reason for which a row is rejected whose like stands on line `first`."""
    same = f"duplicate row: {row_id} with the same text" if format.several else f"duplicate id: {row_id}"
    return f"{same}; first on line {first}"


def step_of(chunk: Chunk, number: int, row: Row | Reject, format: Format) -> StepRow | Reject:
    """What a line says in a format, or why it says nothing."""
    if isinstance(row, Reject):
        return row
    try:
        return format.read(row, f"{chunk.path.stem}-{number}")
    except (ValueError, RecursionError) as error:
        return Reject(f"{chunk.path}:{number}", str(error), row)


def read_steps(path: Path, format: Format | None = None) -> Iterator[StepRow | Reject]:
    """The rows of a file or of the project's own folder, in order; a row that cannot be used is a Reject.

    The format is recognised if it is not given (`ValueError` if it cannot be).
    """
    known = format or format_of(path)
    seen = Seen()
    for chunk in chunks_of(path):
        for number, row in chunk.items():
            found = step_of(chunk, number, row, known)
            if isinstance(found, StepRow) and (first := seen.repeated(key_of(found, known), number)) is not None:
                found = Reject(f"{chunk.path}:{number}", repetition(found.example.id, known, first), row)
            yield found


# Writing


class Sink(Protocol):
    """A file being written, which appears whole when it is closed."""

    def put(self, entry: Any) -> None:
        """Add one prepared row."""

    def put_all(self, packed: Any, left_out: set[int]) -> dict[int, str]:
        """Add a chunk's packed rows but those left out; which others it could not take, and why."""
        ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """Where rows go and how they are written there; can be sent to another process.

    `pictures` is the folder that relative picture paths count from: they are written so that they open from the new
    file's folder, and pictures outside it are linked there. `embed` puts the pictures into a parquet file.
    """

    path: Path
    format: Format
    pictures: Path | None = None
    embed: bool = False

    def check(self) -> None:
        """`ValueError` for a file that cannot be written."""
        if self.kind == "lines" and self.path.suffix != ".jsonl":
            raise ValueError(f"{self.path}: no kind of file to write; end it on .jsonl or .parquet, or name a folder")
        if self.kind != "lines" and self.format.name != "rows":
            raise ValueError(f"{self.path} can only hold rows, not {self.format.name}; end it on .jsonl")
        if self.embed and self.kind != "parquet":
            raise ValueError(f"{self.path} cannot hold pictures; end it on .parquet")

    @property
    def kind(self) -> str:
        return {".parquet": "parquet", "": "folder"}.get(self.path.suffix, "lines")

    def prepare(self, row: StepRow) -> Any:
        """The row as the file takes it; `ValueError` if the format cannot hold it."""
        moved = row if self.pictures is None else self._moved(row, self.pictures)
        if self.kind == "lines":
            return (json_line(self.format.write(moved)) + "\n").encode("utf-8")
        if self.kind == "folder":
            return moved
        folder = Path() if self.pictures is None else self.path.parent
        return parquet.record(moved, folder if self.embed else None)

    def _moved(self, row: StepRow, pictures: Path) -> StepRow:
        folder = self.path if self.kind == "folder" else self.path.parent
        being_made = folders.temporary(self.path) if self.kind == "folder" else None
        images = tuple(own_picture(image, pictures, folder, being_made) for image in row.example.images)
        return replace(row, example=replace(row.example, images=images))

    def open(self) -> Sink:
        self.check()
        kinds: dict[str, Callable[[Path], Sink]] = {"lines": LinesSink, "parquet": ParquetSink, "folder": FolderSink}
        return kinds[self.kind](self.path)


class LinesSink:
    """A file of lines."""

    def __init__(self, path: Path):
        self.path, self.temporary = path, _temporary(path)
        self.file = self.temporary.open("wb")

    def put(self, entry: bytes) -> None:
        self.file.write(entry)

    def put_all(self, packed: Sequence[bytes], left_out: set[int]) -> dict[int, str]:
        self.file.writelines(line for place, line in enumerate(packed) if place not in left_out)
        return {}

    def close(self) -> None:
        self.file.close()
        _appear(self.temporary, self.path)

    def discard(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


class ParquetSink:
    """A parquet file: batches are gathered to row groups."""

    def __init__(self, path: Path):
        from pyarrow.parquet import ParquetWriter

        self.path, self.temporary, self.schema = path, _temporary(path), parquet.schema()
        self.file = ParquetWriter(self.temporary, self.schema)
        self.records: list[Row] = []
        self.batches: list[pyarrow.RecordBatch] = []
        self.size = 0

    def put(self, entry: Row) -> None:
        self.records.append(entry)
        self.size += sum(len(image["bytes"] or b"") for image in entry["images"])
        if len(self.records) == BATCH or self.size > ROW_GROUP:
            self._batch()

    def _batch(self) -> None:
        batch, self.records = parquet.pack(self.records, self.schema), []
        self.put_all(batch, set())

    def put_all(self, packed: "pyarrow.RecordBatch", left_out: set[int]) -> dict[int, str]:
        if left_out:
            import pyarrow

            packed = packed.filter(pyarrow.array([place not in left_out for place in range(packed.num_rows)]))
        self.batches.append(packed)
        if sum(batch.nbytes for batch in self.batches) > ROW_GROUP:
            self._row_group()
        return {}

    def _row_group(self) -> None:
        import pyarrow

        table = pyarrow.Table.from_batches(self.batches, self.schema)
        self.file.write_table(table, row_group_size=max(1, table.num_rows))
        self.batches, self.size = [], 0

    def close(self) -> None:
        self._batch()
        self._row_group()
        self.file.close()
        _appear(self.temporary, self.path)

    def discard(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


class FolderSink(folders.FolderFiles):
    """A project's own folder."""

    def put_all(self, packed: Sequence[StepRow], left_out: set[int]) -> dict[int, str]:
        refused = {}
        for place, row in enumerate(packed):
            if place not in left_out:
                try:
                    self.put(row)
                except ValueError as error:
                    refused[place] = str(error)
        return refused


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.tmp")


def _appear(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


class StepWriter:
    """A file of step data, or a folder of the project's own, that appears whole at the end of its `with` block.

    On an exception nothing is left. `ValueError` for a file that cannot hold the format.
    """

    def __init__(self, path: Path, format: Format, pictures: Path | None = None, embed: bool = False):
        self.target = Target(path, format, pictures, embed)
        self.sink = self.target.open()

    def write(self, row: StepRow) -> None:
        """`ValueError` for a row that the format cannot hold; the others are written all the same."""
        self.sink.put(self.target.prepare(row))

    def __enter__(self) -> "StepWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.sink.close()
        else:
            self.sink.discard()
