"""Counting what is right, how sure that is, and how far two step scorers agree.

Nothing leaves a denominator: an answer that could not be read, or a question on which a method failed, is not right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np

from chainofstep.answers import is_right, normalize
from chainofstep.records import Example, Scored, ScoreFailure
from chainofstep.search import SearchResult

Outcome = Literal["right", "wrong", "unparseable", "failed"]


@dataclass(frozen=True)
class Tally:
    """Counts of outcomes."""

    right: int = 0
    wrong: int = 0
    unparseable: int = 0  # no chain, or an answer that cannot be read as its kind
    failed: int = 0  # the scorer or the search gave up

    @property
    def total(self) -> int:
        return self.right + self.wrong + self.unparseable + self.failed

    @property
    def accuracy(self) -> float:
        """Right ones over all; 0.0 for no question at all."""
        return self.right / self.total if self.total else 0.0


def grade(examples: Sequence[Example], answers: Sequence[str | ScoreFailure | None]) -> list[Outcome]:
    """The outcome of each answer; None stands for "nothing parsed", a `ScoreFailure` for a method that failed."""
    return [_outcome(example, answer) for example, answer in zip(examples, answers, strict=True)]


def _outcome(example: Example, answer: str | ScoreFailure | None) -> Outcome:
    if isinstance(answer, ScoreFailure):
        return "failed"
    if is_right(example, answer):
        return "right"
    readable = answer is not None and normalize(answer, example.answer_kind, example.choices) is not None
    return "wrong" if readable else "unparseable"


def grade_results(examples: Sequence[Example], results: Sequence[SearchResult]) -> list[Outcome]:
    """The outcome of each search result, in the order of `examples`."""
    return grade(examples, [ScoreFailure(result.failure) if result.failure else result.answer for result in results])


def tally(outcomes: Sequence[Outcome]) -> Tally:
    return Tally(*(outcomes.count(kind) for kind in ("right", "wrong", "unparseable", "failed")))


def family(example: Example) -> str:
    """The part of the source before the slash: `math` of `math/line_sum`."""
    return example.source.split("/")[0]


def by_group(
    examples: Sequence[Example], outcomes: Sequence[Outcome], group: Callable[[Example], str] = family
) -> dict[str, Tally]:
    """A tally per group, in alphabetical order."""
    grouped: dict[str, list[Outcome]] = {}
    for example, outcome in zip(examples, outcomes, strict=True):
        grouped.setdefault(group(example), []).append(outcome)
    return {name: tally(grouped[name]) for name in sorted(grouped)}


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share: (low, high)."""
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"{right} right of {total} has no interval; count at least one item")
    z = 1.959964
    share, spread = right / total, z * z / total
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def paired_bootstrap(a: Sequence[bool], b: Sequence[bool], seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """How much more often `a` is right than `b` on the same questions: (difference, low, high), a 95% interval.

    Questions are drawn with replacement, each with both its outcomes. A draw needs to know only how many of its
    questions were gained, lost and alike, so these three numbers are drawn.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"paired samples have {len(a)} and {len(b)} items; pass the same questions to both")
    differences = np.asarray(a, dtype=int) - np.asarray(b, dtype=int)
    total = len(differences)
    shares = [(differences == kind).sum() / total for kind in (1, -1, 0)]
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / total, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """The chance that a right item scores above a wrong one, ties counted half; None where one kind is missing."""
    values, right = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    if values.shape != right.shape:
        raise ValueError(f"{len(values)} scores for {len(right)} labels; pass one label per score")
    positives, negatives = int(right.sum()), int((~right).sum())
    if positives == 0 or negatives == 0:
        return None
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share their mean rank, counted from 1
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Agreement:
    """How far predicted scores agree with true labels, over all items with a label."""

    right: int
    total: int
    positives: int  # items whose label is "right"
    auc: float | None  # over the items with a score; None where one kind is missing

    @property
    def accuracy(self) -> float:
        return self.right / self.total if self.total else 0.0

    @property
    def majority_rate(self) -> float:
        """The accuracy of always saying the more frequent label."""
        return max(self.positives, self.total - self.positives) / self.total if self.total else 0.0


@dataclass(frozen=True)
class StepAgreement:
    """Two step scorers compared, tags of steps and answers apart (paper Table 3)."""

    steps: Agreement
    answers: Agreement
    chains: int  # compared, those that the predicting scorer failed on included
    failures: int  # chains that it failed on: each of their items counts as not right
    unlabelled: int  # chains without true labels: not compared


_Item = tuple[float | None, bool]  # predicted score (None: the scorer failed), true label


def step_agreement(
    predicted: Sequence[Scored], truth: Sequence[Scored], threshold: float = 0.5, truth_threshold: float = 0.5
) -> StepAgreement:
    """Compare scores with true labels, chain by chain. A score, or a soft label, above its threshold says "right"."""
    steps: list[_Item] = []
    answers: list[_Item] = []
    failures = unlabelled = 0
    for place, (guess, label) in enumerate(zip(predicted, truth, strict=True)):
        if isinstance(label, ScoreFailure):
            unlabelled += 1
            continue
        failures += isinstance(guess, ScoreFailure)
        own = None if isinstance(guess, ScoreFailure) else guess
        if own and (len(own.steps) != len(label.steps) or (own.answer is None) != (label.answer is None)):
            raise ValueError(f"chain {place}: {own} does not match {label}; score the same chains with both scorers")
        steps += _items(own.steps if own else None, label.steps, truth_threshold)
        if label.answer is not None:
            answers += _items((own.answer,) if own else None, (label.answer,), truth_threshold)
    compared = len(truth) - unlabelled
    return StepAgreement(_agreement(steps, threshold), _agreement(answers, threshold), compared, failures, unlabelled)


def _items(guesses: Sequence[float | None] | None, labels: Sequence[float], truth_threshold: float) -> list[_Item]:
    guesses = guesses if guesses is not None else [None] * len(labels)
    return [(guess, label > truth_threshold) for guess, label in zip(guesses, labels, strict=True)]


def _agreement(items: Sequence[_Item], threshold: float) -> Agreement:
    scored = [(score, label) for score, label in items if score is not None]
    right = sum((score > threshold) == label for score, label in scored)
    area = auc([score for score, _ in scored], [label for _, label in scored])
    return Agreement(right, len(items), sum(label for _, label in items), area)


@dataclass(frozen=True)
class Bin:
    """Items whose score lies in [low, high); the last bin has its upper end too."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None for an empty bin
    share_right: float | None


def calibration(scores: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[Bin]:
    """How often items of about one score are right: `bins` bins of equal width over [0, 1]."""
    values, right = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if values.shape != right.shape:
        raise ValueError(f"{len(values)} scores for {len(right)} labels; pass one label per score")
    place = np.clip((values * bins).astype(int), 0, bins - 1)
    return [_bin(index, bins, values[place == index], right[place == index]) for index in range(bins)]


def _bin(index: int, bins: int, values: np.ndarray, right: np.ndarray) -> Bin:
    low, high = index / bins, (index + 1) / bins
    if not len(values):
        return Bin(low, high, 0, None, None)
    return Bin(low, high, len(values), float(values.mean()), float(right.mean()))
