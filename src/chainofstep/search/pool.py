"""Choosing from a pool.

Rollouts that are no chain never vote and are never picked, but their tokens are in the cost; with no chain at all there
is no answer. A chain that the scorer failed on has no score: methods that go by score leave it out, and a question
whose every chain failed has failed. Ties go to the first.

- self_consistency: the answer most rollouts give (grouped by `answer_key`).
- best_of_n: the text with the best path score among distinct texts; equal scores go to the more frequent one.
- weighted_vote: the answer with the largest sum of path scores over its rollouts, by its best-scored chain.
- pass_at_n: a right chain if there is one. It looks at the gold answer: a ceiling, not a method.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chainofstep.answers import answer_key, is_right
from chainofstep.chain import Chain
from chainofstep.records import Example, Rollout, Sampler, Scored, ScoreFailure, StepScorer, StepScores
from chainofstep.scoring.path_score import STEP_WEIGHT, path_score, score_pools
from chainofstep.search.results import UNSCORED, Candidate, Cost, Method, SearchConfig, SearchResult, sample_pools


def greedy(
    examples: Sequence[Example], sampler: Sampler, scorer: StepScorer | None, config: SearchConfig
) -> list[SearchResult]:
    """The one chain at temperature 0. The scorer is not used."""
    pools = sample_pools(examples, sampler, replace(config, n=1, temperature=0.0, top_p=1.0))
    return pool_results(examples, pools, None, "self_consistency", 1)


@dataclass(frozen=True)
class _Entry:
    """A distinct chain of a pool."""

    chain: Chain
    text: str
    key: str  # what its answer votes for
    count: int
    scored: Scored | None
    value: float | None  # its path score, where it has scores


_Rank = tuple[float, float]  # the higher the better, the second for ties; the first entry wins what is left


def _best_of_n(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    return [None if entry.value is None else (entry.value, entry.count) for entry in entries]


def _self_consistency(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    votes: Counter[str] = Counter()
    for entry in entries:
        votes[entry.key] += entry.count
    return [(votes[entry.key], 0.0) for entry in entries]


def _weighted_vote(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    weights: dict[str, float] = {}
    for entry in entries:
        weights[entry.key] = weights.get(entry.key, 0.0) + (entry.value or 0.0) * entry.count
    return [None if entry.value is None else (weights[entry.key], entry.value) for entry in entries]


def _pass_at_n(example: Example, entries: Sequence[_Entry]) -> list[_Rank | None]:
    return [(float(is_right(example, entry.chain.answer)), 0.0) for entry in entries]


POOL_METHODS: dict[str, Callable[[Example, Sequence[_Entry]], list[_Rank | None]]] = {
    "self_consistency": _self_consistency,
    "best_of_n": _best_of_n,
    "weighted_vote": _weighted_vote,
    "pass_at_n": _pass_at_n,
}
BY_SCORE = frozenset({"best_of_n", "weighted_vote"})  # the pool methods that need scores


def pool_results(
    examples: Sequence[Example],
    pools: Sequence[Sequence[Rollout]],
    scores: Sequence[Sequence[Scored]] | None,
    method: str,
    n: int,
    step_weight: float = STEP_WEIGHT,
) -> list[SearchResult]:
    """Choose by `method` (a key of `POOL_METHODS`) from the first `n` rollouts of each example's pool.

    `scores[i][j]` belongs to `pools[i][j]` (see `score_pools`); methods that do not go by score ignore them.
    """
    if method not in POOL_METHODS:
        raise ValueError(f"no pool method {method!r}; choose one of {', '.join(POOL_METHODS)}")
    if method in BY_SCORE and scores is None:
        raise ValueError(f"{method} goes by score, and there are no scores; pass them")
    results = []
    for place, (example, pool) in enumerate(zip(examples, pools, strict=True)):
        if not 1 <= n <= len(pool):
            raise ValueError(f"example {example.id}: n is {n}, its pool has {len(pool)} rollouts; lower n")
        used = scores[place] if method in BY_SCORE and scores is not None else None
        results.append(_pick(example, pool[:n], _entries(example, pool[:n], used, step_weight), method))
    return results


def _entries(
    example: Example, pool: Sequence[Rollout], scored: Sequence[Scored] | None, step_weight: float
) -> list[_Entry]:
    """The distinct chains of a pool in order of first appearance."""
    counts = Counter(rollout.chain for rollout in pool)
    entries: dict[Chain, _Entry] = {}
    for index, rollout in enumerate(pool):
        chain = rollout.chain
        if chain is None or chain.answer is None or chain in entries:
            continue
        own = None if scored is None else scored[index]
        value = path_score(own, step_weight) if isinstance(own, StepScores) else None
        key = answer_key(example, chain.answer)
        entries[chain] = _Entry(chain, rollout.text, key, counts[chain], own, value)
    return list(entries.values())


def _pick(example: Example, pool: Sequence[Rollout], entries: Sequence[_Entry], method: str) -> SearchResult:
    ranks = POOL_METHODS[method](example, entries)
    ranked = [(rank, entry) for rank, entry in zip(ranks, entries, strict=True) if rank is not None]
    best = max(ranked, key=lambda pair: pair[0])[1] if ranked else None
    cost = Cost(sum(len(rollout.token_ids) for rollout in pool))
    if method in BY_SCORE:
        cost += Cost(0, len(entries), sum(len(entry.chain.steps) for entry in entries))
    trace = (_pool_trace(pool, entries, ranks, best),)
    if best is None:
        why = UNSCORED if entries else ""
        return SearchResult(example.id, None, pool[0].text, None, None, cost, trace, why)
    return SearchResult(example.id, best.chain.answer, best.text, best.chain, best.scored, cost, trace)


def _pool_trace(
    pool: Sequence[Rollout], entries: Sequence[_Entry], ranks: Sequence[_Rank | None], best: _Entry | None
) -> tuple[Candidate, ...]:
    seen = []
    for entry, rank in zip(entries, ranks, strict=True):
        problem = entry.scored.reason if isinstance(entry.scored, ScoreFailure) else ""
        seen.append(Candidate(entry.text, entry.count, rank[0] if rank else None, entry is best, problem))
    broken = [Candidate(rollout.text, 1, problem=str(rollout.parsed)) for rollout in pool if rollout.chain is None]
    return (*seen, *broken)


def pool_method(name: str) -> Method:
    """The method that samples a pool, scores it where it must, and chooses by the pool method `name`."""

    def method(
        examples: Sequence[Example], sampler: Sampler, scorer: StepScorer | None, config: SearchConfig
    ) -> list[SearchResult]:
        if name not in BY_SCORE:
            return pool_results(examples, sample_pools(examples, sampler, config), None, name, config.n)
        if scorer is None:
            raise ValueError(f"{name} goes by score, and there is no scorer; pass one")
        pools = sample_pools(examples, sampler, config)
        return pool_results(examples, pools, score_pools(examples, pools, scorer), name, config.n, config.step_weight)

    method.__name__ = name
    return method
