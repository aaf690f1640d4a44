"""A corpus of step data converted to parquet: seconds and memory, for as many rows as the paper's.

About 1 GB of the authors' SFT rows is written to a temporary folder, parsed, tried against all format filters and
written as parquet; `python -m benchmarks.corpus --rows 30000` does it for fewer.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from chainofstep.chain import Chain, Step, render
from chainofstep.problems.filters import RowFilter
from chainofstep.problems.formats import FORMATS
from chainofstep.problems.formats.convert import Converted, convert
from chainofstep.records import Example, StepRow

if TYPE_CHECKING:
    from benchmarks.common import Row
    from benchmarks.models import Bench

FULL = 300_000  # rows of ShareGPT-Step-300K
SECONDS, MEGABYTES = 90.0, 1024.0  # goals for all of them on two cores, for all processes together
WORDS = ["the", "row", "of", "values", "shows", "that", "three", "plus", "four", "is", "seven", "as", "read", "here"]


def text(chance: random.Random, length: int) -> str:
    return " ".join(chance.choices(WORDS, k=length * 2 // 9))


def write_corpus(path: Path, rows: int) -> None:
    """Rows of 5 to 8 steps, 3.3 KB each; every tenth row has too few."""
    chance, write = random.Random(0), FORMATS["sharegpt-step"].write
    chains = []
    for number in range(1000):
        count = chance.randint(5, 8) if number % 10 else 3
        steps = (Step(text(chance, 25), text(chance, 180), text(chance, 70)) for _ in range(count))
        chains.append(render(Chain(tuple(steps), str(number))))
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            example = Example(f"q{number}", f"What is the sum of row {number}?", (f"images/{number}.png",), "", "word")
            row = write(StepRow(example, chains[number % 1000]))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


class Memory:
    """The most memory that this process and its children held together, watched while it is entered."""

    def __enter__(self) -> "Memory":
        self.megabytes, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self.done.wait(0.2):
            held = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    held += process.memory_full_info().pss  # a page that two processes share is counted once
                except psutil.Error:
                    continue
            self.megabytes = max(self.megabytes, held / 2**20)


def run(
    rows: Annotated[int, typer.Option(min=1, help="Rows to convert.")] = FULL,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and write.")] = 2,
) -> None:
    """Make the rows, convert them, print seconds and megabytes as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.jsonl", Path(folder) / "rows.parquet"
        write_corpus(source, rows)
        with Memory() as memory:
            start = time.perf_counter()
            done: Converted = convert(source, None, out, FORMATS["rows"], RowFilter(), workers)
            seconds = time.perf_counter() - start
        assert done.read == rows and done.written == rows - done.rejects["step_count"]
        sizes = {"source_mb": source.stat().st_size / 1e6, "parquet_mb": out.stat().st_size / 1e6}
    print(json.dumps({"rows": rows, "seconds": seconds, "megabytes": memory.megabytes, **sizes}))


def measure(bench: "Bench", rows: int = FULL) -> "list[Row]":
    """All of the corpus, in a process of its own, as torch would count in its memory."""
    from benchmarks.common import Goal, Row, note

    found = []
    for repeat in range(bench.repeats):
        command = [sys.executable, "-m", "benchmarks.corpus", "--rows", str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        note(f"  {repeat + 1}/{bench.repeats} {rows:,} rows: {found[-1]['seconds']:.2f} s")
    seconds = [one["seconds"] for one in found]
    megabytes = [one["megabytes"] for one in found]
    return [
        Row(
            f"corpus: {rows:,} rows checked, filtered and written as parquet",
            f"{sorted(seconds)[len(seconds) // 2]:.0f} s",
            f"{SECONDS:.0f} s",
            [value / SECONDS for value in seconds],
            Goal(1.0, at_most=True),
            "two processes parse, filter and write rows of 3.6 KB",
            {"seconds": seconds},
        ),
        Row(
            "corpus: memory of all processes",
            f"{max(megabytes):.0f} MB",
            f"{MEGABYTES:.0f} MB",
            [value / MEGABYTES for value in megabytes],
            Goal(1.0, at_most=True),
            repeats={"megabytes": megabytes},
        ),
    ]


if __name__ == "__main__":
    typer.run(run)
