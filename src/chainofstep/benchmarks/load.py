"""A benchmark's items from local files of a published layout, or from the hub.

loaded = load(CHARTQA, Path("ChartQA Dataset"))
print(len(loaded.examples), len(loaded.rejects), *loaded.problems, sep="\\n")
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainofstep.benchmarks.benchmark import Benchmark
from chainofstep.benchmarks.tsv import rows_of_tsv
from chainofstep.problems.sources import Check, Rows, Source, hub_rows, published_files, spellings
from chainofstep.problems.sources.files import rows_of
from chainofstep.records import Example, Reject

_NAMED = 10  # ids that a problem spells out
_DOUBLED = "duplicate id: "
#: (place, row, the row's number, folders its pictures may lie in), or why there is no row.
_Given = tuple[str, Mapping[str, Any], str, Sequence[Path]] | Reject


@dataclass(frozen=True)
class Loaded:
    """Items in published order; each has its place in it, from 0, as `meta["row"]`."""

    examples: list[Example]
    rejects: list[Reject]  # rows that cannot be read: each is a failed item of every score
    problems: list[str]  # one line each: what makes a score of these items another than the benchmark's


def load(
    benchmark: Benchmark,
    where: Path | None = None,
    split: str | None = None,
    pictures: Path | None = None,
    check: Check = "header",
    limit: int | None = None,
) -> Loaded:
    """The items of a split (default: the reported one) from a file or folder; from the hub where `where` is None.

    Files are those of the hub's repository, the authors' or VLMEvalKit's (.tsv), or `items.jsonl`. Embedded pictures
    are written to `pictures` (default: `pictures` beside the files, or NAME/pictures). `check="none"` is for scoring
    stored text: no picture is looked at or written. `limit` takes the first so many items, those that cannot be read
    among them. `ValueError` if there are no such files or rows, or they are another version's.
    """
    split = _known_split(benchmark, split or benchmark.split)
    folder = Path(benchmark.name) if where is None else where if where.is_dir() else where.parent
    kind = _TextRows if check == "none" else Rows
    rows = kind(_source(benchmark), split, pictures or folder / "pictures", check)
    given = _from_hub(benchmark, split) if where is None else _from_files(rows, where, split)
    found = list(_read(benchmark, rows, given))
    if not found:
        if where is not None and where.is_file() and where.stat().st_size == 0:
            raise ValueError(f"{where} is empty: give a file of {benchmark.title}")
        place = where or benchmark.hub
        raise ValueError(f"no rows of {benchmark.name}'s split {split} in {place}: give files with rows, or --split")
    return _loaded(benchmark, split, found, limit)


class _TextRows(Rows):
    """Rows of which only the text is wanted."""

    def write(self, content: bytes) -> str:
        path = str(self.pictures / "not-written")
        self.written.add(path)
        return path


def _known_split(benchmark: Benchmark, split: str) -> str:
    """The split's published name."""
    for known in benchmark.rows:
        if split in spellings(known, tuple(benchmark.rows)):
            return known
    raise ValueError(f"{benchmark.name} has no split {split!r}: choose {' or '.join(benchmark.rows)}")


def _source(benchmark: Benchmark) -> Source:
    """The benchmark as a set that rows are read from."""
    return Source(
        benchmark.name,
        benchmark.title,
        "benchmark",
        benchmark.hub,
        tuple(benchmark.rows),
        train_split="",
        licence=benchmark.licence,
        overlaps=(),
        evaluation_splits=tuple(benchmark.rows),
        read=benchmark.read,
        files=benchmark.files,
    )


def _from_files(rows: Rows, where: Path, split: str) -> Iterator[_Given]:
    if not where.exists():
        raise ValueError(f"no file or folder {where}: give the files of {rows.source.title}")
    root = where if where.is_dir() else where.parent
    counted = 0  # rows of several .parquet files are numbered through, as on the hub
    for path in published_files(rows.source, root, split) if where.is_dir() else [where]:
        opened = rows_of_tsv(path, rows.write) if path.suffix == ".tsv" else rows_of(path)
        for number, found in enumerate(opened):
            name = f"{split}-{counted}" if path.suffix == ".parquet" else f"{path.stem}-{number}"
            yield found if isinstance(found, Reject) else (*found, name, (path.parent, root))
            counted += 1


def _from_hub(benchmark: Benchmark, split: str) -> Iterator[_Given]:
    """The rows of the split, of one configuration after the other."""
    if not benchmark.hub:
        raise ValueError(f"{benchmark.title} is not on the hub: give local files")
    for config in benchmark.hub_config.split(",") if benchmark.hub_config else [""]:
        place = f"{benchmark.hub}/{config.strip()}".rstrip("/")
        for number, row in enumerate(hub_rows(benchmark.hub, config.strip() or None, split)):
            name = f"{config.strip()}-{split}-{number}".lstrip("-")
            yield f"{place}/{split}:{number}", row, name, ()


def _read(benchmark: Benchmark, rows: Rows, given: Iterator[_Given]) -> Iterator[Example | Reject]:
    """Examples with their `meta["row"]`, and rejects; `ValueError` at the first row of a file of another version."""
    checked: set[str] = set()
    number = 0
    for one in given:
        if not isinstance(one, Reject) and (file := one[0].rsplit(":", 1)[0]) not in checked:
            checked.add(file)
            _check_columns(benchmark, file, one[1])
        for found in [one] if isinstance(one, Reject) else rows.read(*one):
            yield found if isinstance(found, Reject) else replace(found, meta={**found.meta, "row": number})
            number += 1


def _check_columns(benchmark: Benchmark, file: str, row: Mapping[str, Any]) -> None:
    """Each of the benchmark's columns must be there; `a|b` is one that has two names."""
    missing = [names for names in benchmark.columns if not any(name in row for name in names.split("|"))]
    if missing:
        wanted = ", ".join(names.replace("|", " or ") for names in missing)
        raise ValueError(
            f"{file}: no column {wanted}, found only {', '.join(map(str, row))}: another version or another set than "
            f"{benchmark.title}, give that of {benchmark.hub}"
        )


def _loaded(benchmark: Benchmark, split: str, found: list[Example | Reject], limit: int | None) -> Loaded:
    doubled = [one for one in found if isinstance(one, Reject) and one.reason.startswith(_DOUBLED)]
    items = [one for one in found if isinstance(one, Example) or not one.reason.startswith(_DOUBLED)]
    taken = items[:limit]
    examples = [one for one in taken if isinstance(one, Example)]
    rejects = [one for one in taken if isinstance(one, Reject)]
    name = f"{benchmark.name} {split}"
    problems = [*_of_number(name, len(items), benchmark.rows[split]), *of_limit(len(taken), len(items))]
    problems += _of_rejects(name, rejects)
    if doubled:
        ids = [one.reason.removeprefix(_DOUBLED) for one in doubled]
        shown = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
        problems.append(f"{name}: {_rows(len(ids))} with an id that came before, the first counts: {shown}")
    return Loaded(examples, rejects, problems)


def _rows(number: int) -> str:
    return f"{number:,} row" + "s" * (number != 1)


def _of_number(name: str, number: int, published: int) -> Iterator[str]:
    if number < published:
        yield f"{name}: {_rows(number)}, {published:,} published: a sample, its score is not the benchmark's"
    elif number > published:
        yield f"{name}: {_rows(number)}, only {published:,} published: its score is not the benchmark's"


def of_limit(taken: int, there: int) -> Iterator[str]:
    """A line where not all items that are there were taken."""
    if taken < there:
        yield f"the first {taken:,} of {there:,} items: a sample, its score is not the benchmark's"


def _of_rejects(name: str, rejects: list[Reject]) -> Iterator[str]:
    if rejects:
        kinds = Counter(reject.reason.split(":")[0] for reject in rejects)
        shown = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        first = f"{rejects[0].place}: {rejects[0].reason}"
        count = "count" if len(rejects) > 1 else "counts"
        yield f"{name}: {_rows(len(rejects))} cannot be read and {count} as failed: {shown}; the first is {first[:300]}"
