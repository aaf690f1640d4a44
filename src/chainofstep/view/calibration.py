"""How far scores of a set's steps can be trusted: the share of right ones among those of about one score."""

from collections.abc import Iterator
from typing import Any

from chainofstep.evaluate import Bin, calibration
from chainofstep.records import Scored, StepScores
from chainofstep.view.facts import THRESHOLD
from chainofstep.view.opened import NotThere, OpenSet
from chainofstep.view.rows import Rows
from chainofstep.view.runs import TRUTHS
from chainofstep.view.texts import scores_of

AT_ONCE = 256  # questions


def calibration_of(one: OpenSet, scorer: str) -> dict[str, Any]:
    """The bins of a scorer's step scores, as the page takes them; none where no truth of the steps is known."""
    if scorer not in one.scores:
        names = ", ".join(one.scores) or "none"
        raise NotThere(f"set {one.files.id} has no scores of {scorer[:100]!r}; it has {names}")
    truth = one.files.first([kind for kind in TRUTHS if kind != scorer])
    if truth is None:
        return {"truth": None, "steps": 0, "accuracy": None, "bins": []}
    scores: list[float] = []
    labels: list[bool] = []
    for guess, known in _both(one, one.scores[scorer], one.scores[truth.name]):
        if isinstance(guess, StepScores) and isinstance(known, StepScores) and len(guess.steps) == len(known.steps):
            scores += guess.steps
            labels += [label > THRESHOLD for label in known.steps]
    right = sum((score > THRESHOLD) == label for score, label in zip(scores, labels, strict=True))
    bins = [_row(one_bin) for one_bin in calibration(scores, labels)] if scores else []
    accuracy = right / len(scores) if scores else None
    return {"truth": truth.name, "steps": len(scores), "accuracy": accuracy, "bins": bins}


def _both(one: OpenSet, guesses: Rows, truths: Rows) -> Iterator[tuple[Scored, Scored]]:
    """Both scores of each rollout that has them."""
    for start in range(0, len(one.rows), AT_ONCE):
        names = one.rows.ids[start : start + AT_ONCE]
        for guess, truth in zip(guesses.named(names), truths.named(names), strict=True):
            listed = guess.get("scores")
            count = len(listed) if isinstance(listed, list) else 0
            yield from zip(scores_of(guess, count), scores_of(truth, count), strict=False)


def _row(one: Bin) -> dict[str, Any]:
    return {"low": one.low, "high": one.high, "steps": one.count, "score": one.mean_score, "right": one.share_right}
