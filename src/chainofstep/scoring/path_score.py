"""One number for a chain (paper A5), and the scores of a pool of rollouts.

This is the only place where step scores are summed up: pairs, rewards and search all call `path_score`.
"""

from collections.abc import Sequence

from chainofstep.chain import Chain
from chainofstep.records import Example, Rollout, Scored, ScoreFailure, StepScorer, StepScores

STEP_WEIGHT = 0.2
NO_CHAIN = "unparseable"  # how the reason begins where a scorer was not asked


def path_score(scores: StepScores, step_weight: float = STEP_WEIGHT) -> float:
    """`step_weight` x mean of the step scores + the rest x the answer's score, in [0, 1] (paper A5: 0.2 and 0.8).

    What is absent has no weight: a chain without steps has its answer's score, a prefix the mean of its steps.
    """
    if not 0 <= step_weight <= 1:
        raise ValueError(f"step_weight is {step_weight}; choose a weight between 0 and 1")
    if not scores.steps:
        if scores.answer is None:
            raise ValueError("scores of neither steps nor an answer make no path score; score a chain with a step")
        return scores.answer
    steps = sum(scores.steps) / len(scores.steps)
    return steps if scores.answer is None else step_weight * steps + (1 - step_weight) * scores.answer


def score_pools(
    examples: Sequence[Example], pools: Sequence[Sequence[Rollout]], scorer: StepScorer
) -> list[list[Scored]]:
    """A result for every rollout of every example's pool, from one call of the scorer.

    Equal chains of one example are scored once. A rollout that is no chain gets a `ScoreFailure` that says why.
    """
    wanted: dict[tuple[str, Chain], tuple[Example, Chain]] = {}
    for example, pool in zip(examples, pools, strict=True):
        for rollout in pool:
            if rollout.chain is not None:
                wanted.setdefault((example.id, rollout.chain), (example, rollout.chain))
    scored = dict(zip(wanted, scorer.score(list(wanted.values())) if wanted else [], strict=True))
    return [
        [scored[example.id, r.chain] if r.chain is not None else ScoreFailure(f"{NO_CHAIN}: {r.parsed}") for r in pool]
        for example, pool in zip(examples, pools, strict=True)
    ]
