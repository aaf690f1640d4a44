"""A run of 100,000 rollouts in the viewer: seconds from the command to the first list, and of a filter's answer.

The command is run as a user runs it, in a process of its own, with nothing kept from before. Its first list is asked
for at once, while the facts that filters go by are still being made; filters are timed when they are.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np

from benchmarks.common import Goal, Row, note
from benchmarks.models import Bench
from chainofstep.chain import Chain, Step, render
from chainofstep.records import Example, Rollout, StepScores, to_row

FIRST_LIST, FILTERED = 2.0, 0.2  # seconds
SET = "search/pool"
FILTERS: tuple[dict[str, Any], ...] = (
    {"answer": "wrong", "scorer": "prm"},
    {"disagree": 1, "scorer": "prm", "sort": "disagree"},
    {"low": 0.1, "high": 0.2, "scorer": "prm", "sort": "score"},
    {"text": "row 17", "shortest": 3},
    {"family": "kind-3", "answer": "right", "longest": 4},
)


@dataclass(frozen=True)
class Sizes:
    questions: int = 6250
    rollouts: int = 16

    @property
    def total(self) -> int:
        return self.questions * self.rollouts


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Seconds to the first list of a run that was never opened, of each filter, and of a run opened before."""
    run = bench.pictures / "viewed"
    write_run(run, sizes)
    first, again, filtered = [], [], []
    for repeat in range(bench.repeats):
        shutil.rmtree(run / ".view", ignore_errors=True)
        with _viewer(run) as (address, started):
            _ask(address, "items", limit=50)
            first.append(time.perf_counter() - started)
            filtered.append(_slowest_filter(address))
        with _viewer(run) as (address, started):
            _ask(address, "items", limit=50)
            again.append(time.perf_counter() - started)
        note(f"  {repeat + 1}/{bench.repeats} {first[-1]:.2f} s, again {again[-1]:.2f} s, filter {filtered[-1]:.3f} s")
    name = f"viewing: {sizes.total:,} rollouts"
    return [
        _row(f"{name}, first list", first, FIRST_LIST),
        _row(f"{name}, first list when opened again", again, FIRST_LIST),
        _row(f"{name}, slowest of {len(FILTERS)} filters", filtered, FILTERED),
    ]


def _row(measure: str, seconds: list[float], limit: float) -> Row:
    middle = sorted(seconds)[len(seconds) // 2]
    ratios = [value / limit for value in seconds]
    return Row(
        measure, f"{middle:.3f} s", f"{limit:g} s", ratios, Goal(1.0, at_most=True), repeats={"seconds": seconds}
    )


@contextmanager
def _viewer(run: Path) -> Iterator[tuple[str, float]]:
    """(address, when it was started) of a viewer in a process of its own, once the page has its list of runs."""
    program = (
        "import sys, pathlib; from chainofstep.cli.view import view_command; "
        "view_command([pathlib.Path(sys.argv[1])], 0, '127.0.0.1', None, 200, False)"
    )
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            _ask(address, "runs")
            yield address, started
        finally:
            process.terminate()


def _ask(address: str, name: str, **asked: Any) -> dict[str, Any]:
    with urlopen(f"{address}api/{name}?{urlencode({'run': 'viewed', 'set': SET} | asked)}") as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def _slowest_filter(address: str) -> float:
    """Seconds of the slowest filter, once all facts are there."""
    while _ask(address, "items", limit=1)["ready"] < 1:
        time.sleep(0.2)
    seconds = []
    for asked in FILTERS:
        start = time.perf_counter()
        found = _ask(address, "items", limit=50, **asked)
        seconds.append(time.perf_counter() - start)
        assert found["items"], f"no question fits {asked}"
    return max(seconds)


# A made-up run


def write_run(run: Path, sizes: Sizes) -> None:
    """Questions, rollouts, PRM and checker scores, with the markers of their stages."""
    generator = np.random.default_rng(0)
    files = {name: run / f"{name}.jsonl" for name in ("problems/test", f"{SET}/rollouts")}
    files |= {kind: run / f"search/{kind}/scores.jsonl" for kind in ("prm", "checker")}
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("prm", "checker"):
        marker = run / f"stages/search/{kind}/score.json"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"inputs": {"pools": SET, "scorer": {"kind": kind, "model": ""}}}))
    opened = {name: path.open("w", encoding="utf-8") for name, path in files.items()}
    for number in range(sizes.questions):
        for name, row in _rows(number, sizes.rollouts, generator):
            opened[name].write(json.dumps(row) + "\n")
    for file in opened.values():
        file.close()


def _rows(number: int, rollouts: int, generator: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """One question's row of each file."""
    name = f"question-{number}"
    question = f"What is the sum of row {number % 40} of the table that the picture shows?"
    source = f"made/kind-{number % 16}"
    yield "problems/test", to_row(Example(name, question, (f"problems/{name}.png",), "1", "number", source=source))
    pool, guesses, truths = [], [], []
    for index in range(rollouts):
        digits = [int(digit) for digit in generator.integers(0, 4, size=generator.integers(1, 6))]
        steps = tuple(Step(f"Read row {digit}", f"Row {digit} reads 4, 4, 2.", "It does.") for digit in digits)
        text = render(Chain(steps, str(digits[-1] % 2)))
        pool.append(to_row(Rollout(name, text, tuple(range(20 * len(steps))), "answer", number, index)))
        truth = [float(digit > 0) for digit in digits]
        guesses.append(to_row(StepScores(tuple(map(float, generator.random(len(steps)))), float(generator.random()))))
        truths.append(to_row(StepScores(tuple(truth), float(digits[-1] % 2))))
    yield f"{SET}/rollouts", {"id": name, "rollouts": pool}
    yield "prm", {"id": name, "scores": guesses}
    yield "checker", {"id": name, "scores": truths}
