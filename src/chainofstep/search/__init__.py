"""Spending more samples on a question: every method has one signature and counts what it spent.

`method(examples, sampler, scorer, config) -> one SearchResult per example`; `METHODS` names them. All but `greedy` and
`step_beam` choose from a pool of rollouts sampled once, and `pool_results` chooses from a pool that exists already, so
that all of them, at every N, can share one pool (the first N rollouts of it).
"""

from chainofstep.search.beam import Settled, step_beam
from chainofstep.search.pool import BY_SCORE, POOL_METHODS, greedy, pool_method, pool_results
from chainofstep.search.results import (
    UNFINISHED,
    UNSCORED,
    Candidate,
    Cost,
    Method,
    SearchConfig,
    SearchResult,
    sample_pools,
    whole_chains,
)

METHODS: dict[str, Method] = {
    "greedy": greedy,
    "self_consistency": pool_method("self_consistency"),
    "best_of_n": pool_method("best_of_n"),
    "weighted_vote": pool_method("weighted_vote"),
    "step_beam": step_beam,
    "pass_at_n": pool_method("pass_at_n"),
}
#: Methods that need no gold answer, in the order in which they are offered.
ANSWERING = tuple(name for name in METHODS if name != "pass_at_n")
#: Methods that need step scores.
NEED_SCORES = BY_SCORE | {"step_beam"}

__all__ = [
    "ANSWERING",
    "BY_SCORE",
    "METHODS",
    "NEED_SCORES",
    "POOL_METHODS",
    "UNFINISHED",
    "UNSCORED",
    "Candidate",
    "Cost",
    "Method",
    "SearchConfig",
    "SearchResult",
    "Settled",
    "greedy",
    "pool_results",
    "sample_pools",
    "step_beam",
    "whole_chains",
]
