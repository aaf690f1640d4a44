"""From verdicts to figures: every item counts, each share has its 95% interval (Wilson's), breakdowns are the official.

    {"method": "best_of_n", "n": 16, "width": 1, "breakdown": "type", "group": "human",
     "right": 610, "wrong": 500, "unparseable": 100, "failed": 40, "total": 1250, "accuracy": 0.488,
     "low": 0.460, "high": 0.516, "credited": 610, "official": 0.488, ...}

The row of all items has breakdown "" and group "all", and what they cost. `official` is the score by the benchmark's
own script, which may credit an item that was not right.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chainofstep.benchmarks.benchmark import Benchmark, Verdict
from chainofstep.evaluate import tally, wilson
from chainofstep.records import Example
from chainofstep.search import Cost

ALL = "all"
Row = dict[str, Any]
Groups = dict[str, dict[str, list[int]]]  # places of the items, by breakdown and group


@dataclass(frozen=True, order=True)
class Run:
    """A method and how much it samples."""

    method: str
    n: int = 1
    width: int = 1

    @property
    def name(self) -> str:
        """`greedy`, `best_of_n-16`, `step_beam-16-2`: the name of its files."""
        if self.method in ("greedy", "predictions"):
            return self.method
        return f"{self.method}-{self.n}" + (f"-{self.width}" if self.method == "step_beam" else "")


def groups_of(benchmark: Benchmark, examples: Sequence[Example]) -> Groups:
    """The items of each group of each official breakdown; one item may be in several, as with skills."""
    found: Groups = {}
    for place, example in enumerate(examples):
        for breakdown, names in benchmark.groups(example).items():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(breakdown, {}).setdefault(name, []).append(place)
    return found


def score(run: Run, verdicts: Sequence[Verdict], rejected: int, groups: Groups, cost: Cost | None) -> list[Row]:
    """A row for all items, then one for each group. `rejected` items could not be read: they failed, in no group."""
    lost = [Verdict("failed")] * rejected
    whole = _row(run, "", ALL, [*verdicts, *lost]) | (asdict(cost) if cost else {})
    return [whole] + [
        _row(run, breakdown, group, [verdicts[place] for place in places])
        for breakdown, by_name in groups.items()
        for group, places in sorted(by_name.items())
    ]


def _row(run: Run, breakdown: str, group: str, verdicts: Sequence[Verdict]) -> Row:
    counts = tally([verdict.outcome for verdict in verdicts])
    credited = sum(verdict.credit for verdict in verdicts)
    low, high = wilson(counts.right, counts.total)
    return {
        **{"method": run.method, "n": run.n, "width": run.width, "breakdown": breakdown, "group": group},
        **asdict(counts),
        **{"total": counts.total, "accuracy": counts.accuracy, "low": low, "high": high},
        **{"credited": credited, "official": credited / counts.total},
    }
