"""What the measures share: contenders taken in turn, medians of repeats, and the table.

A measure runs its contenders one after another, again and again, so that a machine that is busy for a while hurts all
of them alike. Its ratio is the median of the repeats' own ratios, each from two times taken right after one another.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import transformers
from rich.console import Console
from rich.table import Table

Value = TypeVar("Value")


@dataclass(frozen=True)
class Goal:
    """Where a ratio has to lie."""

    limit: float
    at_most: bool = False
    unit: str = "x"

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}{self.unit}"


@dataclass(frozen=True)
class Row:
    """A line of the table. `ratios` holds one number for each repeat; none if `against` says why it does not run."""

    measure: str
    ours: str
    against: str
    ratios: Sequence[float]
    goal: Goal
    note: str = ""
    repeats: Mapping[str, Sequence[float]] = field(default_factory=dict)  # what the ratios were made of

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None else self.goal.met(self.ratio)


@dataclass(frozen=True)
class Timed(Generic[Value]):
    """What a contender gave, and how long it took."""

    seconds: float
    value: Value


def note(text: str) -> None:
    """A line of progress, which leaves stdout to the table."""
    print(text, file=sys.stderr, flush=True)


def take_in_turn(contenders: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[Timed[Any]]]:
    """Each contender is called with the number of the repeat, from 0, which it may take for a seed."""
    runs: dict[str, list[Timed[Any]]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, work in contenders.items():
            start = time.perf_counter()
            value = work(repeat)
            runs[name].append(Timed(time.perf_counter() - start, value))
            note(f"  {repeat + 1}/{repeats} {name}: {runs[name][-1].seconds:.2f} s")
    return runs


def seconds_of(runs: Sequence[Timed[Any]]) -> list[float]:
    return [run.seconds for run in runs]


def cost_row(
    measure: str,
    ours: Sequence[float],
    against: Sequence[float],
    goal: Goal,
    text: Callable[[float], str] = "{:.2f} s".format,
    remark: str = "",
) -> Row:
    """What both cost in each repeat: how many times less ours did or, if the goal is a most, how many times more."""
    pairs = zip(ours, against, strict=True)
    ratios = [mine / other if goal.at_most else other / mine for mine, other in pairs]
    texts = [text(statistics.median(costs)) for costs in (ours, against)]
    return Row(measure, texts[0], texts[1], ratios, goal, remark, {"ours": ours, "against": against})


def rates(tokens: Sequence[int], seconds: Sequence[float]) -> str:
    """Tokens a second, the median of the repeats."""
    return f"{statistics.median(made / took for made, took in zip(tokens, seconds, strict=True)):,.0f} tokens/s"


def failed_row(measure: str, error: Exception, goal: Goal) -> Row:
    """A row for a contender that this machine or these versions cannot run."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Row(measure, "", f"does not run here: {type(error).__name__}: {reason}", [], goal)


def machine() -> dict[str, str]:
    """Where the numbers come from."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "load when begun": f"{os.getloadavg()[0]:.2f}",
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def show(rows: Sequence[Row], about: Mapping[str, str], console: Console) -> None:
    """The table, what was measured where it needs saying, and the machine."""
    table = Table("measure", "ours", "against", "ratio", "goal", "met?", show_lines=True)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}{row.goal.unit}"
        met = "" if row.met is None else "yes" if row.met else "no"
        table.add_row(row.measure, row.ours, row.against, ratio, str(row.goal), met)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.measure}: {row.note}")
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))


def write(rows: Sequence[Row], about: Mapping[str, str], path: Path) -> None:
    """All numbers, those of single repeats included, as JSON."""
    listed = [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows]
    path.write_text(json.dumps({"machine": dict(about), "rows": listed}, indent=1) + "\n", "utf-8")
