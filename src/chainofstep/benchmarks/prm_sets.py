"""Benchmarks of process reward models: chains whose steps are known to be right or wrong.

- `visualprocessbench` (OpenGVLab/VisualProcessBench, arXiv 2503.10291): 2,866 solutions of questions about pictures,
  26,950 steps rated by people as correct, incorrect or neutral.
- `processbench` (Qwen/ProcessBench, arXiv 2412.06559): 3,400 solutions of text-only problems in four subsets, each
  with its first wrong step.
- `planted`: this package's generated problems, each with its gold chain and with a chain in which an error was
  planted, labelled by the exact checker.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chainofstep.chain import Chain
from chainofstep.problems.formats import FORMATS, chain_of
from chainofstep.problems.sources.files import rows_of
from chainofstep.problems.tasks.build import Problem, problems, write_problems
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.problems.tasks.planted import PLANTERS
from chainofstep.records import Example, Reject, StepRow, StepScores
from chainofstep.scoring.oracle import OracleScorer

FLAWLESS = "flawless"
PROBLEMS = 504  # of the planted set: each gives a flawless chain and one with an error
VISUAL_ITEMS = 2866
#: Published items of ProcessBench's subsets: those with a wrong step, and those without.
SUBSETS = {"gsm8k": (207, 193), "math": (594, 406), "olympiadbench": (661, 339), "omnimath": (759, 241)}


@dataclass(frozen=True)
class PrmItem:
    """A chain to score, and what is known of it."""

    example: Example  # `example.id` is the item's
    chain: Chain
    labels: tuple[bool | None, ...]  # one a step; None for a neutral step, or one that nobody judged
    answer: bool | None = None  # whether the answer is right, where that is known
    group: str = ""  # data source, subset, or the error that was planted
    problem: str = ""  # why it cannot be scored: it counts as failed


@dataclass(frozen=True)
class PrmSet:
    """A benchmark's items, the rows that could not be read, and what to know of this copy of it."""

    benchmark: str
    items: tuple[PrmItem, ...]
    rejects: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()


def load_prm_benchmark(name: str, where: Path | None = None, limit: int | None = None) -> PrmSet:
    """A benchmark's first `limit` items (of ProcessBench: of each subset), all without a limit.

    `where` is a file or folder of the published layout; ProcessBench is read from the hub without it. For `planted` it
    is the folder that the pictures are written to. `ValueError` for another name, or where no item can be read.
    """
    if name not in READERS:
        raise ValueError(f"no PRM benchmark {name!r}; there are {', '.join(READERS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} leaves no item; give 1 or more")
    found = READERS[name](where, limit)
    if not found.items:
        why = f"; the first row that cannot be read: {found.rejects[0].reason}" if found.rejects else ""
        raise ValueError(f"{name}: no item in {where}{why}")
    return replace(found, notes=(*found.notes, *([f"the first {limit:,} alone"] if limit is not None else [])))


class _Reading:
    """Rows on their way to items: ids seen, rejects kept."""

    def __init__(self, format_name: str, make: Callable[[StepRow, str], PrmItem]):
        self.format, self.make = FORMATS[format_name], make
        self.ids: set[str] = set()
        self.rejects: list[Reject] = []

    def items(
        self, rows: Iterable[tuple[str, dict[str, Any]] | Reject], stem: str, limit: int | None
    ) -> Iterator[PrmItem]:
        """The items of the first `limit` rows. A row without an id of its own has `stem` and its number, from 0."""
        for number, row in enumerate(rows):
            if number == limit:
                return
            if isinstance(row, Reject):
                self.rejects.append(row)
                continue
            try:
                item = self.make(self.format.read(row[1], f"{stem}-{number}"), stem)
                if item.example.id in self.ids:
                    raise ValueError(f"duplicate id: {item.example.id}")
            except ValueError as error:
                self.rejects.append(Reject(row[0], str(error), row[1]))
                continue
            self.ids.add(item.example.id)
            yield item


def _verdicts(row: StepRow) -> tuple[Chain, tuple[bool | None, ...]]:
    """The row's chain and a verdict for each of its steps."""
    chain = chain_of(row)
    rated = row.labels.steps if row.labels is not None else ()
    known = tuple(None if label == 0.5 else label > 0.5 for label in rated)
    return chain, (*known, *[None] * (len(chain.steps) - len(known)))


# VisualProcessBench: test.jsonl, and the pictures that it names, in one folder


def _visual(where: Path | None, limit: int | None) -> PrmSet:
    path = where / "test.jsonl" if where is not None and where.is_dir() else where
    if path is None or not path.is_file():
        raise ValueError(
            f"visualprocessbench: {path or 'no path'} is no file; give visualprocessbench:FOLDER with test.jsonl and "
            "the unpacked images.zip of OpenGVLab/VisualProcessBench"
        )
    folder = path.parent

    def make(row: StepRow, stem: str) -> PrmItem:
        chain, labels = _verdicts(row)
        images = tuple(str(folder / image) for image in row.example.images)
        missing = [image for image in images if not Path(image).is_file()]
        problem = f"picture not found: {missing[0]}" if missing else ""
        return PrmItem(replace(row.example, images=images), chain, labels, group=row.example.source, problem=problem)

    reading = _Reading("visualprocessbench", make)
    items = tuple(reading.items(rows_of(path), path.stem, limit))
    notes = _counted("visualprocessbench", len(items) + len(reading.rejects), VISUAL_ITEMS) if limit is None else ()
    return PrmSet("visualprocessbench", items, tuple(reading.rejects), notes)


def _counted(name: str, found: int, published: int) -> tuple[str, ...]:
    """A note where a copy holds another number of items than was published."""
    here = f"{found:,} item" + "s" * (found != 1)
    return () if found == published else (f"{name} has {here} here, {published:,} as published",)


# ProcessBench: a file for each subset, or a split of the hub's


def _text(where: Path | None, limit: int | None) -> PrmSet:
    def make(row: StepRow, stem: str) -> PrmItem:
        chain, labels = _verdicts(row)
        return PrmItem(row.example, chain, labels, group=_subset(row.example.id, stem))

    reading = _Reading("processbench", make)
    parts = _published() if where is None else _local(where)
    items = tuple(item for stem, rows in parts for item in reading.items(rows, stem, limit))
    notes: tuple[str, ...] = ()
    for name, counts in SUBSETS.items() if limit is None else ():
        notes += _counted(name, sum(item.group == name for item in items), sum(counts))
    return PrmSet("processbench", items, tuple(reading.rejects), notes)


def _subset(item_id: str, stem: str) -> str:
    """The subset that an id names (`gsm8k-0`), or else the file."""
    name = item_id.rpartition("-")[0]
    return name if name in SUBSETS else stem


def _local(where: Path) -> Iterator[tuple[str, Iterable[tuple[str, dict[str, Any]] | Reject]]]:
    if where.is_file():
        yield where.stem, rows_of(where)
        return
    patterns = ("{}.json", "{}.jsonl", "data/{}-*.parquet", "{}*.parquet")
    found = {name: next((f for p in patterns if (f := sorted(where.glob(p.format(name))))), []) for name in SUBSETS}
    if not any(found.values()):
        raise ValueError(f"processbench: {where} has none of {', '.join(f'{name}.json' for name in SUBSETS)}")
    yield from ((name, rows_of(path)) for name, paths in found.items() for path in paths)


def _published() -> Iterator[tuple[str, Iterable[tuple[str, dict[str, Any]]]]]:
    from datasets import load_dataset

    for name in SUBSETS:
        try:
            rows = load_dataset("Qwen/ProcessBench", split=name)
        except (OSError, RuntimeError, ValueError) as error:
            problem = " ".join(str(error).split())[:300]
            raise ValueError(f"Qwen/ProcessBench cannot be opened ({problem}): give processbench:FOLDER") from error
        yield name, ((f"Qwen/ProcessBench/{name}:{number}", dict(row)) for number, row in enumerate(rows))


# The exact-checker set: generated problems, planted errors


def _planted(where: Path | None, limit: int | None) -> PrmSet:
    if where is None:
        raise ValueError("planted: no folder for its pictures; give planted:FOLDER")
    seeds = range(limit or PROBLEMS)
    examples = write_problems("test", seeds, where)
    items: list[PrmItem] = []
    for number, (problem, example) in enumerate(zip(problems("test", seeds), examples, strict=True)):
        assert example.chain is not None
        error, chain = _with_error(problem, np.random.default_rng([0, number]))
        items += [checked(example, example.chain, FLAWLESS), checked(example, chain, error)]
    return PrmSet("planted", tuple(items))


def _with_error(problem: Problem, generator: np.random.Generator) -> tuple[str, Chain]:
    """The problem's gold chain with an error of a kind that it can hold, and that kind."""
    for name in map(str, generator.permutation(list(PLANTERS))):
        if (chain := PLANTERS[name](problem, generator)) is not None:
            return name, chain
    raise AssertionError("a wrong answer can be planted in every problem")


def checked(example: Example, chain: Chain, group: str) -> PrmItem:
    """An item of a generated problem, labelled by the exact checker. Its id ends on the group."""
    scores = OracleScorer(check_steps).score([(example, chain)])[0]
    assert isinstance(scores, StepScores) and scores.answer is not None
    labels = tuple(score > 0.5 for score in scores.steps)
    return PrmItem(replace(example, id=f"{example.id}/{group}"), chain, labels, scores.answer > 0.5, group)


READERS: dict[str, Callable[[Path | None, int | None], PrmSet]] = {
    "visualprocessbench": _visual,
    "processbench": _text,
    "planted": _planted,
}
