"""Choosing from one pool of samples for a benchmark: every method at every N from the first N of it.

The methods are those of `search`, and choose among the chains that parse; pass@N looks at the benchmark's own verdict
on every chain, for the gold answer of a benchmark need not be one that `answers` reads.
"""

from collections.abc import Sequence
from random import Random

from chainofstep.benchmarks.benchmark import GUESS_SEED, Benchmark, said
from chainofstep.records import Example, Rollout, Scored, ScoreFailure
from chainofstep.search import Cost, SearchResult, pool_results

Text = str | ScoreFailure | None  # what is graded: a text, why there is none, or None where nothing parsed


def choose(
    benchmark: Benchmark,
    examples: Sequence[Example],
    pools: Sequence[Sequence[Rollout]],
    scores: Sequence[Sequence[Scored]] | None,
    method: str,
    n: int,
) -> list[SearchResult]:
    """A result for each example by a pool method, from the first `n` rollouts of its pool."""
    if method == "pass_at_n":
        return [_passed(benchmark, example, pool[:n]) for example, pool in zip(examples, pools, strict=True)]
    return pool_results(examples, pools, scores, method, n)


def _passed(benchmark: Benchmark, example: Example, pool: Sequence[Rollout]) -> SearchResult:
    """The first right chain, else the first chain."""
    cost = Cost(sum(len(rollout.token_ids) for rollout in pool))
    answers: dict[str | None, Rollout] = {}
    for rollout in pool:
        if rollout.chain is not None:
            answers.setdefault(rollout.chain.answer, rollout)
    best = next((one for one in answers.values() if is_right(benchmark, example, one.text)), None)
    best = best or next(iter(answers.values()), None)
    if best is None or best.chain is None:
        return SearchResult(example.id, None, pool[0].text, None, None, cost)
    return SearchResult(example.id, best.chain.answer, best.text, best.chain, None, cost)


def is_right(benchmark: Benchmark, example: Example, text: str) -> bool:
    """Whether the benchmark's rule calls a text right; official guesses do not count."""
    return benchmark.rule(example, said(text) or "", Random(GUESS_SEED)).outcome == "right"


def chosen_text(result: SearchResult) -> Text:
    """What a result is graded by."""
    if result.failure:
        return ScoreFailure(result.failure)
    return None if result.answer is None else result.text
