"""What a process reward model's scores are worth, by each benchmark's own measure.

A score above the threshold calls a step right, one at or below it calls it wrong. A chain that could not be scored
stays in every figure, as one that was judged wrongly throughout: each of its steps counts as called the opposite of
its label, its first wrong step as missed, its planted error as not caught, and a flawless chain as refused. Only the
area under the curve, which needs a score, leaves it out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chainofstep.benchmarks.prm_sets import FLAWLESS, SUBSETS, PrmItem, PrmSet
from chainofstep.evaluate import auc, wilson
from chainofstep.records import Scored, ScoreFailure, StepScorer, StepScores
from chainofstep.statistics import bootstrap_counts

THRESHOLD = 0.5
ALL, MEAN = "all", "mean"
FIRST_WRONG, ACCEPTED = "first wrong step found", "flawless items accepted"


@dataclass(frozen=True)
class Figure:
    """One figure of a group of items. Without anything to count it has no value."""

    group: str  # "all", "mean" or "mean of 3 of 4 subsets", a data source, a subset, a planted error
    name: str
    value: float | None
    low: float | None  # 95% interval: Wilson for shares of items, bootstrap over items for all others
    high: float | None
    total: int  # how many are counted
    unit: str  # of what: items, steps, chains


@dataclass(frozen=True)
class PrmResult:
    """A benchmark's figures, and what became of its items and steps."""

    benchmark: str
    threshold: float
    items: int
    failed: int  # could not be scored; in every figure
    rejected: int  # rows that could not be read: in no figure, as nothing is known of their steps
    left_out: int  # steps that are neutral, or that nobody judged
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def measure(found: PrmSet, scored: Sequence[Scored], threshold: float = THRESHOLD) -> PrmResult:
    """A benchmark's figures from the scores of its items, in their order."""
    check_threshold(threshold)
    for item, scores in zip(found.items, scored, strict=True):
        if isinstance(scores, StepScores) and len(scores.steps) != len(item.labels):
            raise ValueError(f"{item.example.id}: {len(scores.steps)} scores for {len(item.labels)} steps; score again")
    return PrmResult(
        found.benchmark,
        threshold,
        len(found.items),
        sum(isinstance(scores, ScoreFailure) for scores in scored),
        len(found.rejects),
        sum(label is None for item in found.items for label in item.labels),
        tuple(MEASURES[found.benchmark](found.items, scored, threshold)),
        found.notes,
    )


def check_threshold(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold {threshold} is no score to exceed; give one from 0 to below 1")


def score_items(items: Sequence[PrmItem], scorer: StepScorer) -> list[Scored]:
    """A result for each item; those that have a problem of their own are not asked about."""
    asked = [(item.example, item.chain) for item in items if not item.problem]
    results = iter(scorer.score(asked) if asked else [])
    return [ScoreFailure(item.problem) if item.problem else next(results) for item in items]


# Counts and figures


def _called(item: PrmItem, scores: Scored, threshold: float) -> list[tuple[bool, bool]]:
    """(label, what it is called) of each step with a label."""
    if isinstance(scores, ScoreFailure):
        return [(label, not label) for label in item.labels if label is not None]
    pairs = zip(item.labels, scores.steps, strict=True)
    return [(label, score > threshold) for label, score in pairs if label is not None]


def _confusion(items: Sequence[PrmItem], scored: Sequence[Scored], threshold: float) -> np.ndarray:
    """A row an item: right steps called right, right called wrong, wrong called wrong, wrong called right."""
    kinds = ((True, True), (True, False), (False, False), (False, True))
    called = [_called(item, scores, threshold) for item, scores in zip(items, scored, strict=True)]
    return np.array([[pairs.count(kind) for kind in kinds] for pairs in called], dtype=int)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where nothing is counted."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def f1_right(sums: np.ndarray) -> np.ndarray:
    """F1 of finding right steps, from sums of shape (draws, 4); 0 where there are none and none are called so."""
    return _ratio(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 3])


def f1_wrong(sums: np.ndarray) -> np.ndarray:
    """F1 of finding wrong steps."""
    return _ratio(2 * sums[:, 2], 2 * sums[:, 2] + sums[:, 1] + sums[:, 3])


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """The mean of the two, each from the steps of all items together."""
    return (f1_right(sums) + f1_wrong(sums)) / 2


def _accuracy(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[:, 0] + sums[:, 2], sums.sum(axis=1))


def _drawn(group: str, name: str, counts: np.ndarray, of: Callable[[np.ndarray], np.ndarray], total: int) -> Figure:
    """A figure of steps with its bootstrap interval."""
    if not total:
        return Figure(group, name, None, None, None, 0, "steps")
    return Figure(group, name, *bootstrap_counts(counts, of, seed=0), total, "steps")


def _share(group: str, name: str, hits: Iterable[bool], unit: str) -> Figure:
    """A share of items with Wilson's interval."""
    outcomes = list(hits)
    if not outcomes:
        return Figure(group, name, None, None, None, 0, unit)
    right, total = sum(outcomes), len(outcomes)
    return Figure(group, name, right / total, *wilson(right, total), total, unit)


def _area(items: Sequence[PrmItem], scored: Sequence[Scored]) -> Figure:
    """The area under the curve over the steps that have a score and a label."""
    pairs = [
        (score, label)
        for item, scores in zip(items, scored, strict=True)
        if isinstance(scores, StepScores)
        for score, label in zip(scores.steps, item.labels, strict=True)
        if label is not None
    ]
    area = auc([score for score, _ in pairs], [label for _, label in pairs])
    return Figure(ALL, "step AUC", area, None, None, len(pairs), "steps")


# The three measures


def visualprocessbench(items: Sequence[PrmItem], scored: Sequence[Scored], threshold: float) -> list[Figure]:
    """Macro-F1 over the correct and the incorrect steps, of all and of each data source.

    As the paper has it (section 3.3): F1 of correct steps and F1 of incorrect steps, each over the steps of all items
    together, and the mean of the two. Neutral steps are in neither.
    """
    counts = _confusion(items, scored, threshold)
    groups = {ALL: np.ones(len(items), dtype=bool)}
    groups |= {name: np.array([item.group == name for item in items]) for name in _groups(items)}
    figures = []
    for group, chosen in groups.items():
        own, total = counts[chosen], int(counts[chosen].sum())
        figures.append(_drawn(group, "macro-F1", own, macro_f1, total))
        if group == ALL:
            figures += [_drawn(ALL, "F1, correct steps", own, f1_right, total)]
            figures += [_drawn(ALL, "F1, incorrect steps", own, f1_wrong, total), _area(items, scored)]
    return figures


def _groups(items: Sequence[PrmItem]) -> list[str]:
    return sorted({item.group for item in items} - {""})


def processbench(items: Sequence[PrmItem], scored: Sequence[Scored], threshold: float) -> list[Figure]:
    """F1 of each subset and their mean.

    The first step that is called wrong is the prediction, and no step if none is; it must be the labelled one. F1 is
    the harmonic mean of the accuracy on items with a wrong step and on items without (the repository's scripts). A
    subset that has none of either has no F1, and is not in the mean.
    """
    counts = np.zeros((len(items), 4), dtype=int)
    for place, (item, scores) in enumerate(zip(items, scored, strict=True)):
        flawless = False not in item.labels
        counts[place, 2 * flawless] = 1
        counts[place, 2 * flawless + 1] = _first_wrong(item, scores, threshold)
    known, others = set(_groups(items)), [name for name in _groups(items) if name not in SUBSETS]
    published = list(SUBSETS) if known & set(SUBSETS) else []
    subsets = {name: np.array([item.group == name for item in items]) for name in [*published, *others]}
    figures = [figure for name in subsets if name in known for figure in _subset(name, counts[subsets[name]])]
    return [_mean(counts, subsets), *figures]


def _first_wrong(item: PrmItem, scores: Scored, threshold: float) -> bool:
    """Whether the first step called wrong is the first wrong one."""
    if isinstance(scores, ScoreFailure):
        return False
    called = [score > threshold for score in scores.steps]
    first = called.index(False) if False in called else -1
    return first == (item.labels.index(False) if False in item.labels else -1)


def _subset(name: str, counts: np.ndarray) -> list[Figure]:
    """A subset's F1 and the two accuracies that it is made of."""
    value, low, high = bootstrap_counts(counts, harmonic, seed=0) if _has_f1(counts) else (None, None, None)
    shares = [
        _share(name, title, (bool(hit) for hit in counts[counts[:, column] > 0, column + 1]), "items")
        for column, title in ((0, FIRST_WRONG), (2, ACCEPTED))
    ]
    return [Figure(name, "F1", value, low, high, len(counts), "items"), *shares]


def _has_f1(counts: np.ndarray) -> bool:
    """Whether there are items with a wrong step and items without."""
    return bool(counts[:, 0].any() and counts[:, 2].any())


def _mean(counts: np.ndarray, subsets: Mapping[str, np.ndarray]) -> Figure:
    """The mean F1 of the subsets that have one; its name says so where not all do."""
    used = [chosen for chosen in subsets.values() if _has_f1(counts[chosen])]
    group = MEAN if len(used) == len(subsets) else f"mean of {len(used)} of {len(subsets)} subsets"
    if not used:
        return Figure(group, "F1", None, None, None, 0, "items")
    taken = np.any(used, axis=0)
    columns = np.concatenate([counts * chosen[:, None] for chosen in used], axis=1)[taken]
    value = bootstrap_counts(columns, lambda sums: _mean_f1(sums, len(used)), seed=0)
    return Figure(group, "F1", *value, int(taken.sum()), "items")


def harmonic(sums: np.ndarray) -> np.ndarray:
    """F1 from sums of shape (draws, 4): items with a wrong step, those hit, items without, those hit."""
    wrong, right = _ratio(sums[:, 1], sums[:, 0]), _ratio(sums[:, 3], sums[:, 2])
    return _ratio(2 * wrong * right, wrong + right)


def _mean_f1(sums: np.ndarray, subsets: int) -> np.ndarray:
    own = sums.reshape(len(sums), subsets, 4)
    return np.asarray(np.mean([harmonic(own[:, place]) for place in range(subsets)], axis=0))


def planted(items: Sequence[PrmItem], scored: Sequence[Scored], threshold: float) -> list[Figure]:
    """Agreement with the exact checker, and the planted errors that are caught, by kind.

    An error is caught where a step, or an answer, that is wrong is called wrong; a flawless chain is refused where
    anything in it is called wrong.
    """
    counts = _confusion(items, scored, threshold)
    total = int(counts.sum())
    pairs = list(zip(items, scored, strict=True))
    answers = [_answer_hit(item, scores, threshold) for item, scores in pairs]
    caught = {name: [_caught(i, s, threshold) for i, s in pairs if i.group == name] for name in _groups(items)}
    refused = caught.pop(FLAWLESS, [])
    return [
        _drawn(ALL, "step accuracy", counts, _accuracy, total),
        _share(ALL, "answer accuracy", answers, "answers"),
        _drawn(ALL, "macro-F1", counts, macro_f1, total),
        _area(items, scored),
        _share(ALL, "errors caught", [hit for hits in caught.values() for hit in hits], "chains"),
        _share(FLAWLESS, "refused", refused, "chains"),
        *(_share(name, "caught", hits, "chains") for name, hits in caught.items()),
    ]


def _answer_hit(item: PrmItem, scores: Scored, threshold: float) -> bool:
    return isinstance(scores, StepScores) and scores.answer is not None and (scores.answer > threshold) == item.answer


def _caught(item: PrmItem, scores: Scored, threshold: float) -> bool:
    """Whether anything wrong is called wrong; in a flawless chain, whether anything is."""
    flawless = item.group == FLAWLESS
    if not isinstance(scores, StepScores):
        return flawless
    known = [*zip(item.labels, scores.steps, strict=True), (item.answer, scores.answer)]
    return any(score is not None and score <= threshold for label, score in known if flawless or label is False)


MEASURES: dict[str, Callable[[Sequence[PrmItem], Sequence[Scored], float], list[Figure]]] = {
    "visualprocessbench": visualprocessbench,
    "processbench": processbench,
    "planted": planted,
}
