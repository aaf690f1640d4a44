"""Step-level beam search with a PRM, against plain sampling of as many tokens and one scoring of the chain it kept."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common import Goal, Row, Timed, cost_row, seconds_of, take_in_turn
from benchmarks.models import Bench
from chainofstep.chain import Chain
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import VLM
from chainofstep.pipeline.workers import PRM_TOKENS_AT_ONCE
from chainofstep.records import Example
from chainofstep.search import METHODS, SearchConfig, sample_pools

QUESTIONS = 32


@dataclass(frozen=True)
class Searched:
    """Sampled tokens, and the chains that a search kept."""

    tokens: int
    kept: tuple[tuple[Example, Chain], ...] = ()


def measure(bench: Bench, questions: int = QUESTIONS, config: SearchConfig | None = None) -> list[Row]:
    config = config or SearchConfig(n=16, max_tokens=320)
    return compare(bench.policy, bench.prm, bench.examples(questions), bench.repeats, config)


def compare(policy: VLM, prm: VLM, examples: Sequence[Example], repeats: int, config: SearchConfig) -> list[Row]:
    """One row. Whole chains end by themselves, so plain sampling is scaled to the tokens of the search."""
    last: list[Searched] = []

    def beam(repeat: int) -> Searched:
        scorer = PRM(prm, token_budget=PRM_TOKENS_AT_ONCE)
        results = METHODS["step_beam"](examples, Engine(policy), scorer, _seeded(config, repeat))
        kept = [(e, result.chain) for e, result in zip(examples, results, strict=True) if result.chain is not None]
        last.append(Searched(sum(result.cost.sampled_tokens for result in results), tuple(kept)))
        return last[-1]

    def plain(repeat: int) -> Searched:
        engine = Engine(policy)
        sample_pools(examples, engine, _seeded(config, repeat))
        return Searched(engine.sampled_tokens)

    def scoring(_: int) -> int:
        return len(PRM(prm, token_budget=PRM_TOKENS_AT_ONCE).score(last[-1].kept))

    runs = take_in_turn({"beam search": beam, "plain sampling": plain, "scoring": scoring}, repeats)
    return [_row(runs["beam search"], runs["plain sampling"], runs["scoring"], len(examples), config.n)]


def _seeded(config: SearchConfig, seed: int) -> SearchConfig:
    return SearchConfig(n=config.n, max_tokens=config.max_tokens, seed=seed)


def _row(
    beam: Sequence[Timed[Searched]],
    plain: Sequence[Timed[Searched]],
    scoring: Sequence[Timed[int]],
    questions: int,
    n: int,
) -> Row:
    scaled = [
        whole.seconds * search.value.tokens / whole.value.tokens + scored.seconds
        for search, whole, scored in zip(beam, plain, scoring, strict=True)
    ]
    tokens = [f"{statistics.median(run.value.tokens for run in runs):,.0f} tokens" for runs in (beam, plain)]
    remark = (
        f"{questions} questions; {tokens[0]}; plain sampling of {n} whole chains made {tokens[1]}, and its time is "
        "scaled to the search's tokens; one PRM pass over the kept chain of each question is added to it"
    )
    goal = Goal(1.3, at_most=True)
    return cost_row(f"step beam search at {n}, plain sampling", seconds_of(beam), scaled, goal, remark=remark)
