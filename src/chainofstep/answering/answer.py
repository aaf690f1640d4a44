"""One question by a search method, with the steps told as soon as they are decided."""

from dataclasses import replace

from chainofstep.answering.complete import complete
from chainofstep.answering.events import Progress, Teller, Watch, ignore
from chainofstep.answering.models import Caller
from chainofstep.records import Example, Scored
from chainofstep.scoring.path_score import score_pools
from chainofstep.search import (
    ANSWERING,
    BY_SCORE,
    NEED_SCORES,
    Cost,
    SearchConfig,
    SearchResult,
    pool_results,
    step_beam,
    whole_chains,
)


def answer(
    caller: Caller, example: Example, method: str, config: SearchConfig, watch: Watch = ignore, scored: bool = True
) -> SearchResult:
    """What `METHODS[method]` comes to; blocks until it is there.

    With a PRM and `scored`, the chain has its scores whatever the method. Greedy tells each step as it closes, beam
    search when all kept chains have it, the others when they have chosen. ValueError for a method that is not known,
    or needs a PRM that is not there; else as `Engine.sample`.
    """
    if method not in ANSWERING:
        raise ValueError(f"no method {method!r}: choose one of {', '.join(ANSWERING)}")
    if not caller.scores and method in NEED_SCORES:
        raise ValueError(f"{method} goes by step scores, and there is no PRM: give one, or choose self_consistency")
    teller = Teller(watch)
    if method == "greedy":
        result = _greedy(caller, example, config, watch, scored)
    elif method == "step_beam":
        result = step_beam(
            [example],
            caller,
            caller,
            config,
            lambda _, settled: teller.steps([step for step, _ in settled], [score for _, score in settled]),
        )[0]
    else:
        result = _from_pool(caller, example, method, config, watch)
    if scored and caller.scores and result.chain is not None and result.scores is None:
        result = _with_scores(result, caller.score([(example, result.chain)])[0])
    if method != "greedy":
        teller.chain(result.chain, result.scores)
    return result


def _greedy(caller: Caller, example: Example, config: SearchConfig, watch: Watch, scored: bool) -> SearchResult:
    request = whole_chains(example, replace(config, n=1, temperature=0.0, top_p=1.0))
    [completion] = complete(caller, request, watch, scored)
    result = pool_results([example], [[completion.rollout]], None, "self_consistency", 1)[0]
    return result if completion.scores is None else _with_scores(result, completion.scores)


def _with_scores(result: SearchResult, scores: Scored) -> SearchResult:
    """What a method that does not go by score came to, with the scores of its chain and what they cost."""
    if result.chain is None:
        return result
    return replace(result, scores=scores, cost=result.cost + Cost(0, 1, len(result.chain.steps)))


def _from_pool(caller: Caller, example: Example, method: str, config: SearchConfig, watch: Watch) -> SearchResult:
    call = caller.begin([whole_chains(example, config)])
    for update in call.updates():
        watch(Progress(update.finished, config.n))
    pools = call.result()
    scores = score_pools([example], pools, caller) if method in BY_SCORE else None
    return pool_results([example], pools, scores, method, config.n, config.step_weight)[0]
