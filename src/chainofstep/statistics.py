"""How sure a comparison is: an exact test of two methods on the same questions, and means over several seeds.

Intervals are percentile bootstraps. Items that are alike (the same outcomes in every run) are drawn as one group by
their number, which has the same distribution as drawing them one by one and takes no more time for 100,000 of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class McNemar:
    """Questions that only one of two methods got right, and how likely a split as uneven is by chance."""

    first_only: int
    second_only: int
    p: float  # two-sided; 1.0 where both are right and wrong on the same questions


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """The exact McNemar test: whether the questions on which two methods differ fall to either as a coin would fall.

    `ValueError` unless both have the same questions, at least one.
    """
    a, b = (np.asarray(outcomes, dtype=bool) for outcomes in (first, second))
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired samples have {len(a)} and {len(b)} items; pass the same questions to both")
    first_only, second_only = int((a & ~b).sum()), int((~a & b).sum())
    return McNemar(first_only, second_only, _coin(first_only, second_only))


def _coin(heads: int, tails: int) -> float:
    """The two-sided binomial p-value of a fair coin, in logarithms so that no count is too large."""
    fewer, tosses = min(heads, tails), heads + tails
    places = np.arange(1, fewer + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((tosses - places + 1) / places))]) - tosses * log(2)
    largest = float(logs.max())
    return float(min(1.0, 2 * np.exp(largest) * np.exp(logs - largest).sum()))


def seed_mean(values: Sequence[Sequence[float]], seed: int, draws: int = 2000) -> Interval:
    """The share of right answers over several runs of the same items: (mean, low, high), a 95% interval.

    `values` holds one run (one seed) a row, its items in the same order in every run. A draw takes runs with
    replacement, then items with replacement, and those items from all its runs: an item that is hard for one run is
    hard for the others, so items drawn anew for every run would make the interval too narrow. With three or five
    runs the spread between them is itself little known.
    """
    return _over_runs(_runs(values), seed, draws)


def seed_difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], seed: int, draws: int = 2000
) -> Interval:
    """How much more often `first` is right than `second`, as `seed_mean`: run by run, item by item."""
    a, b = _runs(first), _runs(second)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} runs and items; pass the same runs and items to both")
    return _over_runs(a - b, seed, draws)


def _runs(values: Sequence[Sequence[float]]) -> np.ndarray:
    lengths = sorted({len(run) for run in values})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"runs of {', '.join(map(str, lengths)) or 'no'} items; pass the same items for every run")
    return np.asarray(values, dtype=float)


def _over_runs(values: np.ndarray, seed: int, draws: int) -> Interval:
    """`values` of shape (runs, items)."""
    generator = np.random.default_rng(seed)
    runs, items = values.shape
    kinds, numbers = np.unique(values, axis=1, return_counts=True)
    drawn_runs = generator.multinomial(runs, np.full(runs, 1 / runs), size=draws)
    drawn_items = generator.multinomial(items, numbers / items, size=draws)
    means = ((drawn_runs @ kinds) * drawn_items).sum(axis=1) / (runs * items)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def bootstrap_counts(
    counts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int, draws: int = 2000
) -> Interval:
    """A statistic of summed counts, such as F1, with a 95% interval over items: (value, low, high).

    `counts` holds an item a row. `statistic` takes sums of shape (draws, columns) and gives (draws,).
    """
    if not len(counts):
        raise ValueError("no item to draw from; pass the counts of at least one")
    kinds, numbers = np.unique(counts, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(counts), numbers / len(counts), size=draws)
    low, high = np.quantile(statistic(drawn @ kinds), [0.025, 0.975])
    return float(statistic(counts.sum(axis=0, keepdims=True))[0]), float(low), float(high)
