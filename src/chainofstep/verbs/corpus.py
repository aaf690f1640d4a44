"""Files of step data: in and out, checked, counted, split and mixed. Every row read is written or rejected."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from chainofstep.pipeline.corpus_files import source_facts, token_counter, versions
from chainofstep.problems.filters import FilterConfig, FilterReport, RowFilter
from chainofstep.problems.formats import FORMATS, Format
from chainofstep.problems.formats.convert import Converted, convert
from chainofstep.problems.formats.files import StepWriter, format_of, read_steps
from chainofstep.problems.pictures import PictureError, check_picture, inside, own_picture
from chainofstep.problems.stats import Stats
from chainofstep.progress import progress
from chainofstep.records import Reject, StepRow, to_row
from chainofstep.report.card import Card, write_card
from chainofstep.store import read_records, write_json
from chainofstep.verbs.files import choose, write_lines

PictureCheck = Literal["none", "header", "decode"]
GroupBy = Literal["picture", "question", "id"]
WORKERS = max(1, min(8, os.cpu_count() or 1))


def named_format(name: str | None) -> Format | None:
    """The format of this name; None for none: it is recognised."""
    return None if name is None else FORMATS[choose(name, FORMATS, "format")]


@dataclass(frozen=True)
class RowCheck:
    """Why a row is refused, or None: the format filters, and pictures that are where they say and can be read."""

    filters: RowFilter | None
    root: Path
    pictures: PictureCheck

    def __call__(self, row: StepRow) -> str | None:
        if self.filters is not None and (reason := self.filters(row)):
            return reason
        if self.pictures == "none":
            return None
        return next((reason for image in row.example.images if (reason := self._refused(image))), None)

    def _refused(self, image: str) -> str | None:
        return _picture_refused(str(self.root), image, self.pictures == "decode")


@lru_cache(maxsize=1 << 16)  # sets ask several questions about one picture
def _picture_refused(root: str, image: str, decode: bool) -> str | None:
    if "://" in image:
        return f"picture at a web address: {image}; download it and name the file"
    try:
        check_picture(inside(Path(root), image), decode)
    except PictureError as error:
        return str(error)
    return None


def import_rows(
    source: Path,
    out: Path,
    format_name: str | None = None,
    pictures: Path | None = None,
    check: PictureCheck = "decode",
    workers: int = WORKERS,
) -> Converted:
    """Rows of another project's file as this project's: .jsonl, .parquet, or a folder that `cos train` reads.

    Pictures are looked up in the folder `pictures` (the file's own without one) and must stay inside it.
    """
    root = pictures or (source if source.is_dir() else source.parent)
    keep = None if check == "none" else RowCheck(None, root, check)
    return _convert(source, named_format(format_name), out, FORMATS["rows"], keep, workers, root)


def export_rows(
    source: Path,
    out: Path,
    format_name: str,
    hard_threshold: float | None = None,
    embed: bool = False,
    workers: int = WORKERS,
) -> Converted:
    """This project's rows in another project's format. `hard_threshold` makes soft labels hard: right above it.

    `embed` puts the pictures into a parquet file.
    """
    known = named_format(format_name)
    assert known is not None
    root = source if source.is_dir() else source.parent
    return _convert(source, None, out, known, None, workers, root, embed, hard_threshold)


@dataclass(frozen=True)
class Checked:
    """What a check found, and what each filter removed, with a few rows of each."""

    converted: Converted
    report: FilterReport


def check_rows(
    source: Path,
    out: Path,
    format_name: str | None = None,
    filters: FilterConfig = FilterConfig(),  # noqa: B008  # frozen
    pictures: Path | None = None,
    check: PictureCheck = "decode",
    workers: int = WORKERS,
) -> Checked:
    """The rows that pass the format filters, in `out`; the others beside it with their reasons, and a report."""
    root = pictures or (source if source.is_dir() else source.parent)
    known = named_format(format_name) or format_of(source)
    written = known if out.suffix == ".jsonl" else FORMATS["rows"]
    keep = RowCheck(RowFilter(filters), root, check)
    converted = _convert(source, known, out, written, keep, workers, root)
    report = FilterReport(read=converted.written, kept=converted.written)
    for reject in read_records(converted.rejects_path, Reject):
        report.remove(reject)
    write_json(out.with_suffix(".filters.json"), to_row(report))
    return Checked(converted, report)


def _convert(
    source: Path,
    format: Format | None,
    out: Path,
    out_format: Format,
    keep: Callable[[StepRow], str | None] | None,
    workers: int,
    root: Path,
    embed: bool = False,
    hard_threshold: float | None = None,
) -> Converted:
    with progress(out.name, 100) as tick:

        def show(share: float, read: int) -> None:
            tick(round(100 * share), f"{read:,} rows")

        return convert(source, format, out, out_format, keep, workers, show, root, embed, hard_threshold)


# Counting


def stats(source: Path, format_name: str | None = None, tokenizer: str = "") -> tuple[Stats, Counter[str]]:
    """What a file holds, and how many rows could not be read, by kind of reason."""
    found, rejects = Stats(count_tokens=token_counter(tokenizer)), Counter[str]()
    with progress(source.name, None) as tick:
        for number, row in enumerate(read_steps(source, named_format(format_name)), start=1):
            if isinstance(row, Reject):
                rejects[row.reason.partition(":")[0]] += 1
            else:
                found.add(row)
            if number % 1000 == 0:
                tick(number)
    return found, rejects


def card(source: Path, name: str, format_name: str | None = None, tokenizer: str = "") -> tuple[Path, Path]:
    """A data card beside the file, in Markdown and in HTML."""
    found, rejects = stats(source, format_name, tokenizer)
    unread = f"{rejects.total():,} rows of the file could not be read and are not counted here."
    warnings = (unread,) if rejects else ()
    folder = source if source.is_dir() else source.parent
    made = Card(name, "step data", found, source_facts(found), warnings=warnings, versions=versions())
    return write_card(made, source.with_suffix(""), folder)


# Splitting and mixing


@dataclass(frozen=True)
class Written:
    """Rows in each file, and where the rows that could not be used are."""

    rows: Mapping[Path, int]
    rejects: int
    rejects_path: Path


def split(
    source: Path, out: Path, share: float, by: GroupBy = "picture", seed: int = 0, format_name: str | None = None
) -> Written:
    """`train.jsonl` and `test.jsonl` in the folder `out`, about `share` of the groups in the latter.

    Rows with the same picture (question, id) go to the same file. Where a group goes depends on it and the seed
    alone, so it stays there when rows are added.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} of the test set; give one between 0 and 1")
    known = named_format(format_name) or format_of(source)
    root = source if source.is_dir() else source.parent
    files = {name: out / f"{name}.jsonl" for name in ("train", "test")}
    _spare([source], [*files.values(), out / "rejects.jsonl"])

    def place(row: StepRow) -> Path:
        return files["test" if _share_of(seed, _group(row, by)) < share else "train"]

    return _write(read_steps(source, known), list(files.values()), known, out / "rejects.jsonl", root, place)


def _group(row: StepRow, by: GroupBy) -> str:
    example = row.example
    if by == "id":
        return example.id
    return example.images[0] if by == "picture" and example.images else example.question


def _share_of(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on seed and group alone."""
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def mix(sources: Sequence[tuple[Path, float]], out: Path, seed: int = 0) -> Written:
    """Files one after the other, each as often as its weight says: 2 is every row twice, 0.5 every other row or so.

    The second copy of a row has `~2` after its id; an id that an earlier file had is led by its own file's name.
    Trainers shuffle, so rows are not.
    """
    _spare([path for path, _ in sources], [out, out.with_suffix(".rejects.jsonl")])
    if bad := next(((path, weight) for path, weight in sources if not 0 < weight < math.inf), None):
        raise ValueError(f"weight {bad[1]} of {bad[0]}; give one above 0, or leave the file out")
    known, root = FORMATS["rows"], out.parent
    return _write(_mixed(sources, seed, root), [out], known, out.with_suffix(".rejects.jsonl"), root, lambda _: out)


def _spare(sources: Sequence[Path], files: Sequence[Path]) -> None:
    """`ValueError` if a file that is read would be replaced."""
    if replaced := {path.resolve() for path in sources} & {path.resolve() for path in files}:
        raise ValueError(f"{min(replaced)} is read and would be replaced; choose another --out")


def _mixed(sources: Sequence[tuple[Path, float]], seed: int, root: Path) -> Iterator[StepRow | Reject]:
    earlier: set[str] = set()
    for path, weight in sources:
        own: set[str] = set()
        for row in read_steps(path):
            if isinstance(row, Reject):
                yield row
                continue
            name = row.example.id if row.example.id not in earlier else f"{path.stem}/{row.example.id}"
            own.add(name)
            images = tuple(own_picture(image, path.parent, root) for image in row.example.images)
            whole, rest = divmod(weight, 1)
            copies = int(whole) + (_share_of(seed, f"{path.stem}/{row.example.id}") < rest)
            for copy in range(1, copies + 1):
                copied = name if copy == 1 else f"{name}~{copy}"
                yield replace(row, example=replace(row.example, id=copied, images=images))
        earlier |= own


def _write(
    rows: Iterator[StepRow | Reject],
    files: Sequence[Path],
    known: Format,
    rejects_path: Path,
    root: Path,
    place: Callable[[StepRow], Path],
) -> Written:
    counts, rejects = dict.fromkeys(files, 0), []
    with ExitStack() as stack, progress(rejects_path.parent.name or "rows", None) as tick:
        writers = {path: stack.enter_context(StepWriter(path, known, root)) for path in files}
        for number, row in enumerate(rows, start=1):
            if isinstance(row, Reject):
                rejects.append(to_row(row))
            else:
                path = place(row)
                writers[path].write(row)
                counts[path] += 1
            if number % 1000 == 0:
                tick(number)
    write_lines(rejects_path, rejects)
    return Written(counts, len(rejects), rejects_path)
