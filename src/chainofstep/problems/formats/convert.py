"""A source of step data read, filtered and written in another format, by several processes, in order.

Processes read and write chunks of the source; this one gathers what they made in the source's order, so the result is
the same for any number of them. A row that does not pass is written down with its reason: read = written + rejected.
"""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from chainofstep.problems.formats import parquet
from chainofstep.problems.formats.base import Format, Row, harden, json_line, shown
from chainofstep.problems.formats.chunks import Chunk, Lines
from chainofstep.problems.formats.files import (
    LinesSink,
    ParquetSink,
    Seen,
    Sink,
    Target,
    chunks_of,
    format_of,
    key_of,
    repetition,
    step_of,
)
from chainofstep.records import Reject, StepRow

AHEAD = 2  # chunks in flight for each process: what bounds memory
Keep = Callable[[StepRow], str | None]


@dataclass(frozen=True)
class Converted:
    """What became of a source's rows."""

    read: int
    written: int
    rejects: Counter[str]  # kind of reason -> rows
    rejects_path: Path


@dataclass(frozen=True)
class Work:
    """What is done with every row; can be sent to another process."""

    format: Format
    target: Target
    keep: Keep | None
    hard_threshold: float | None
    schema: Any = None  # of a parquet file: workers need not import `datasets` for it

    def prepare(self, row: StepRow) -> Any:
        """The row as it is written; `ValueError` with the reason if it does not pass."""
        if self.keep is not None and (reason := self.keep(row)) is not None:
            raise ValueError(reason)
        answer = None if row.labels is None else row.labels.answer
        holds = self.target.format.holds
        if answer is not None and answer <= 0.5 and "chain" in holds and "labels" not in holds:
            # Without its labels it would pass for a chain to learn from.
            raise ValueError(f"wrong answer: its label is {answer:g}, which this format cannot say")
        return self.target.prepare(row if self.hard_threshold is None else harden(row, self.hard_threshold))


class Prepared(NamedTuple):
    """A row that was prepared: its place in the chunk, the number of its line, what may occur once, its id."""

    place: int
    number: int
    key: int | None
    id: str


@dataclass
class Part:
    """What became of one chunk's rows."""

    packed: Any
    rows: list[Prepared] = field(default_factory=list)
    rejects: list[tuple[int, Reject]] = field(default_factory=list)


def rejects_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.rejects.jsonl")


def convert(
    source: Path,
    format: Format | None,
    out: Path,
    out_format: Format,
    keep: Keep | None = None,
    workers: int = 1,
    on_progress: Callable[[float, int], None] = lambda share, read: None,
    pictures: Path | None = None,
    embed: bool = False,
    hard_threshold: float | None = None,
) -> Converted:
    """Write a source's rows to `out` and those that do not pass beside it, as {"place", "reason", "row"}.

    `keep` gives the reason why a row is not wanted, or None; with more than one worker it must be a function of a
    module. Nothing is written unless all of it is. `on_progress` is told the share of the source that is done, if
    that is known, and the rows read. See `Target` for `pictures` and `embed`, `harden` for `hard_threshold`.
    """
    rejected = rejects_path(out)
    if source.resolve() in (out.resolve(), rejected.resolve()):
        raise ValueError(f"{out} would replace {source}, which is read; choose another file")
    target = Target(out, out_format, pictures, embed)
    sink = target.open()
    schema = sink.schema if isinstance(sink, ParquetSink) else None
    rejects = LinesSink(rejected)
    try:
        work = Work(format or format_of(source), target, keep, hard_threshold, schema)
        result = _gather(source, work, workers, sink, rejects, on_progress)
        rejects.close()
        sink.close()
    except BaseException:
        sink.discard()
        rejects.discard()
        raise
    return result


def _gather(
    source: Path,
    work: Work,
    workers: int,
    sink: Sink,
    rejects: LinesSink,
    on_progress: Callable[[float, int], None],
) -> Converted:
    seen, kinds = Seen(), Counter[str]()
    read = written = 0
    for chunk, part in _parts(work, chunks_of(source), workers):
        refused = {
            place: repetition(row.id, work.format, first)
            for place, row in enumerate(part.rows)
            if (first := seen.repeated(row.key, row.number)) is not None
        }
        refused |= sink.put_all(part.packed, set(refused)) if part.rows else {}
        found = sorted(part.rejects + _refused(chunk, part, refused), key=lambda numbered: numbered[0])
        for _, reject in found:
            rejects.put(_line(reject))
            kinds[reject.reason.partition(":")[0]] += 1
        read += len(part.rows) + len(part.rejects)
        written += len(part.rows) - len(refused)
        assert read == written + sum(kinds.values()), (read, written, kinds)
        on_progress(_share(chunk, source), read)
    return Converted(read, written, kinds, rejects_path(work.target.path))


def _refused(chunk: Chunk, part: Part, reasons: dict[int, str]) -> list[tuple[int, Reject]]:
    """Rejects for prepared rows, which are read once more for it."""
    if not reasons:
        return []
    found = list(chunk.items())
    rows = [(part.rows[place], reason) for place, reason in reasons.items()]
    return [(row.number, Reject(f"{chunk.path}:{row.number}", reason, found[row.place][1])) for row, reason in rows]


def _line(reject: Reject) -> bytes:
    row: Row = {"place": reject.place, "reason": reject.reason, "row": reject.row}
    try:
        line = json_line(row)
    except (TypeError, ValueError):  # values of a parquet file that JSON does not have
        line = json_line({**row, "row": shown(reject.row)})
    return (line + "\n").encode("utf-8")


def _share(chunk: Chunk, source: Path) -> float:
    return (chunk.start + chunk.size) / max(1, source.stat().st_size) if isinstance(chunk, Lines) else 0.0


def _parts(work: Work, chunks: Iterable[Chunk], workers: int) -> Iterator[tuple[Chunk, Part]]:
    """Each chunk with what became of it, in order; with several workers a few chunks ahead."""
    if workers < 2:
        yield from ((chunk, convert_chunk(work, chunk)) for chunk in chunks)
        return
    flight: deque[tuple[Chunk, Future[Part]]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _leave_with_parent, (os.getpid(),))
    try:
        for chunk in chunks:
            flight.append((chunk, pool.submit(convert_chunk, work, chunk)))
            if len(flight) > AHEAD * workers:
                first, future = flight.popleft()
                yield first, future.result()
        while flight:
            first, future = flight.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def convert_chunk(work: Work, chunk: Chunk) -> Part:
    """Read, filter and write one chunk's rows."""
    entries, part = [], Part(None)
    for place, (number, row) in enumerate(chunk.items()):
        found = step_of(chunk, number, row, work.format)
        if isinstance(found, StepRow):
            try:
                entries.append(work.prepare(found))
                part.rows.append(Prepared(place, number, key_of(found, work.format), found.example.id))
                continue
            except (ValueError, RecursionError) as error:
                found = Reject(f"{chunk.path}:{number}", str(error), row)
        part.rejects.append((number, found))
    part.packed = entries if work.schema is None else parquet.pack(entries, work.schema)
    return part


def _leave_with_parent(parent: int) -> None:
    """End this process when the one that asked for it is killed, which leaves it no other way to know."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
