"""What several seeds found together: a value with its interval for every cell, a verdict for every claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from chainofstep.experiments.experiment import Cell, Cells, Claim, Experiment, Place, read_cells
from chainofstep.statistics import seed_difference, seed_mean
from chainofstep.store import RunFolder

Verdict = Literal["holds", "undecided", "reversed"]
FEWEST_SEEDS = 3  # that must agree on a difference of numbers, which have no interval of their own


@dataclass(frozen=True)
class Value:
    """A cell over all seeds. With `of_questions` the ends are a 95% interval over seeds and questions, otherwise the
    smallest and largest value of a seed.
    """

    mean: float
    low: float
    high: float
    of_questions: bool


@dataclass(frozen=True)
class Answer:
    """What became of a claim: the difference, and in how many seeds it has the claimed sign."""

    claim: Claim
    difference: Value
    agreeing: int
    verdict: Verdict


@dataclass(frozen=True)
class Finding:
    """One experiment over all seeds that finished it."""

    experiment: Experiment
    seeds: tuple[int, ...]
    values: dict[Place, Value]
    answers: tuple[Answer, ...]
    unanswered: tuple[Claim, ...]  # a seed lacks one of their cells
    seconds: float  # a seed, of the stages that no experiment before it had asked for

    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.values))

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for _, column in self.values))


def findings(folders: Mapping[int, Path], experiments: Sequence[Experiment]) -> list[Finding]:
    """What the experiments found in the folders of some seeds; one that no seed finished is left out."""
    asked: dict[int, set[str]] = {seed: set() for seed in folders}
    found = []
    for experiment in experiments:
        cells: dict[int, Cells] = {}
        seconds = []
        for seed, folder in folders.items():
            path = folder / "experiments" / f"{experiment.name}.json"
            if path.exists():
                cells[seed], stages = read_cells(path)
                seconds.append(_seconds(folder, set(stages) - asked[seed]))
                asked[seed] |= set(stages)
        if cells:
            found.append(_finding(experiment, cells, fmean(seconds)))
    return found


def _seconds(folder: Path, stages: set[str]) -> float:
    markers = (RunFolder(folder).stage(name) for name in stages)
    return sum(marker.seconds or 0.0 for marker in markers if marker is not None)


def _finding(experiment: Experiment, cells: Mapping[int, Cells], seconds: float) -> Finding:
    runs = list(cells.values())
    places = [place for place in runs[0] if all(place in run for run in runs)]
    values = {place: _value([run[place] for run in runs]) for place in places}
    measured = [c for c in experiment.claims if {c.better, c.worse, *(c.since or ())} <= set(places)]
    unanswered = tuple(claim for claim in experiment.claims if claim not in measured)
    answers = tuple(_answer(claim, runs) for claim in measured)
    return Finding(experiment, tuple(cells), values, answers, unanswered, seconds)


def _value(cells: Sequence[Cell]) -> Value:
    questions = [cell for cell in cells if isinstance(cell, list)]
    if questions:
        return Value(*seed_mean(questions, seed=0), True)
    numbers = [float(cell) for cell in cells if not isinstance(cell, list)]
    return Value(fmean(numbers), min(numbers), max(numbers), False)


def _answer(claim: Claim, runs: Sequence[Cells]) -> Answer:
    better = [_gain(run, claim.better, claim.since and claim.since[0]) for run in runs]
    worse = [_gain(run, claim.worse, claim.since and claim.since[1]) for run in runs]
    each = [float(np.mean(a) - np.mean(b)) for a, b in zip(better, worse, strict=True)]
    if len({np.size(cell) for cell in (*better, *worse)}) == 1 and np.size(better[0]) > 1:
        difference = Value(*seed_difference(better, worse, seed=0), True)
    else:
        difference = Value(fmean(each), min(each), max(each), False)
    verdict: Verdict = "holds" if difference.low > 0 else "reversed" if difference.high < 0 else "undecided"
    if not difference.of_questions and len(runs) < FEWEST_SEEDS:
        verdict = "undecided"
    return Answer(claim, difference, sum(value > 0 for value in each), verdict)


def _gain(run: Cells, place: Place, since: Place | None) -> list[float]:
    """A cell by question, less what it was at its start; a number is one question."""
    now = np.atleast_1d(np.asarray(run[place], dtype=float))
    if since is not None:
        now = now - np.atleast_1d(np.asarray(run[since], dtype=float))
    return [float(value) for value in now]
