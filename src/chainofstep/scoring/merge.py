"""Two or more sets of step labels beside each other: how far they agree, and one set made of them.

A label is right above `threshold` (0.5), so a Neutral of 0.5 counts as not right. Agreement is counted over steps that
both sets scored; Cohen's kappa is the agreement beyond what two raters with these shares of "right" would reach by
chance. The answer's label comes from the answer rules in every set, so it is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chainofstep.records import Scored, ScoreFailure, StepScores

Rule = Literal["agree", "weight"]
THRESHOLD = 0.5


@dataclass(frozen=True)
class Agreement:
    """A 2 x 2 table of steps: both right, only the first, only the second, neither; and chains only one could score."""

    both: int = 0
    first_only: int = 0
    second_only: int = 0
    neither: int = 0
    unmatched: int = 0  # chains that one or both failed to score

    @property
    def steps(self) -> int:
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def observed(self) -> float | None:
        """The share of steps with the same label."""
        return (self.both + self.neither) / self.steps if self.steps else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None without steps, or where both sets give every step the same single label."""
        if not self.steps:
            return None
        first = (self.both + self.first_only) / self.steps
        second = (self.both + self.second_only) / self.steps
        chance = first * second + (1 - first) * (1 - second)
        observed = (self.both + self.neither) / self.steps
        return None if chance == 1 else (observed - chance) / (1 - chance)

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.both + other.both,
            self.first_only + other.first_only,
            self.second_only + other.second_only,
            self.neither + other.neither,
            self.unmatched + other.unmatched,
        )


def agreement_of(first: Scored, second: Scored, threshold: float = THRESHOLD) -> Agreement:
    """The table of one chain; `ValueError` for scores of chains of different length."""
    if isinstance(first, ScoreFailure) or isinstance(second, ScoreFailure):
        return Agreement(unmatched=1)
    _check_lengths((first, second))
    pairs = [(one > threshold, other > threshold) for one, other in zip(first.steps, second.steps, strict=True)]
    return Agreement(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def merge(
    sources: Sequence[Scored], rule: Rule, weights: Sequence[float] | None = None, threshold: float = THRESHOLD
) -> Scored:
    """One chain's labels from several sets.

    `agree` keeps a chain whose steps all sets label alike, with their mean scores; any other is a `ScoreFailure` that
    names the first step they differ at. `weight` takes the weighted mean of the sets that scored it (equal weights
    unless given), and fails only where none did.
    """
    shared = weights or [1.0] * len(sources)
    kept = [(s, share) for s, share in zip(sources, shared, strict=True) if isinstance(s, StepScores)]
    scores, shares = [scored for scored, _ in kept], [share for _, share in kept]
    failed = next((scored for scored in sources if isinstance(scored, ScoreFailure)), None)
    if not scores or (rule == "agree" and failed):
        assert failed is not None, "nothing to merge"
        return failed
    _check_lengths(scores)
    if rule == "agree":
        for number, labels in enumerate(zip(*(scored.steps for scored in scores), strict=True), start=1):
            if len({label > threshold for label in labels}) > 1:
                return ScoreFailure(f"labels disagree: at step {number}")
    answers = [scored.answer for scored in scores]
    steps = tuple(_mean(labels, shares) for labels in zip(*(scored.steps for scored in scores), strict=True))
    known = [answer for answer in answers if answer is not None]
    return StepScores(steps, _mean(known, shares) if len(known) == len(answers) else None)


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    total = sum(value * share for value, share in zip(values, shares, strict=True))
    return min(1.0, max(0.0, total / sum(shares)))


def _check_lengths(scores: Sequence[StepScores]) -> None:
    lengths = {len(scored.steps) for scored in scores}
    if len(lengths) > 1:
        raise ValueError(f"scores of {' and '.join(map(str, sorted(lengths)))} steps; annotate the same rollouts")
