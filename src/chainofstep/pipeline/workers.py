"""Sampling and scoring of one chunk of examples, as plain functions that any process can run, and a pool of processes.

Small models gain little from a second thread and nearly all from a second process; what a chunk gives does not
depend on where it runs. A worker keeps the models it has loaded.
"""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal

from chainofstep.models.endpoint import endpoint_prm, endpoint_sampler, is_endpoint
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.records import Example, Rollout, Sampler, SamplingErrors, StepScorer, to_row
from chainofstep.scoring.adaptive import Adaptive
from chainofstep.scoring.monte_carlo import MonteCarloScorer
from chainofstep.scoring.oracle import OracleScorer
from chainofstep.scoring.pairs import OutcomeScorer
from chainofstep.scoring.path_score import score_pools
from chainofstep.search import METHODS, SearchConfig, sample_pools

if TYPE_CHECKING:
    from chainofstep.models.vlm import VLM

Row = dict[str, Any]
PRM_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class Scorer:
    """Which step scorer a chunk is scored with, in plain values.

    `model` is the PRM's, or Monte-Carlo's policy: a folder, a hub id, or an endpoint as MODEL@URL.
    """

    kind: Literal["checker", "outcome", "prm", "monte-carlo"]
    model: str = ""
    sampling: SearchConfig = field(default_factory=SearchConfig)  # Monte-Carlo's; `n` continuations of each step
    hard_threshold: float | None = None
    adaptive: bool = False

    def build(self) -> StepScorer:
        if self.kind == "checker":
            return OracleScorer(check_steps)
        if self.kind == "outcome":
            return OutcomeScorer()
        if self.kind == "prm":
            return prm(self.model)
        sampling = self.sampling
        return MonteCarloScorer(
            sampler(self.model),
            sampling.n,
            sampling.temperature,
            sampling.top_p,
            sampling.max_tokens,
            self.hard_threshold,
            sampling.seed,
            adaptive=Adaptive() if self.adaptive else None,
        )


@lru_cache(maxsize=3)
def model(folder: str) -> "VLM":
    from chainofstep.models.vlm import load_vlm

    return load_vlm(folder)


def sampler(name: str, steps: bool = True) -> Sampler:
    """The sampler of a model: its endpoint, or the engine over its weights. ValueError for one that cannot write steps,
    unless it need not.
    """
    if is_endpoint(name):
        return endpoint_sampler(name)
    from chainofstep.models.checks import check_policy
    from chainofstep.models.engine import Engine

    if steps:
        check_policy(model(name))
    return Engine(model(name))


def prm(name: str) -> StepScorer:
    """The scorer of a process reward model: its endpoint, or its weights."""
    if is_endpoint(name):
        return endpoint_prm(name)
    from chainofstep.models.checks import check_prm
    from chainofstep.models.prm import PRM

    check_prm(model(name))
    return PRM(model(name), token_budget=PRM_TOKENS_AT_ONCE)


def sample_chunk(examples: Sequence[Example], folder: str, config: SearchConfig, steps: bool = True) -> list[Row]:
    """One row {"rollouts"} for each example; none of them, and the "failure", where it could not be sampled."""
    try:
        pools: Sequence[list[Rollout] | None] = sample_pools(examples, sampler(folder, steps), config)
        failures: dict[int, str] = {}
    except SamplingErrors as error:
        pools, failures = error.results, error.failures
    return [
        {"rollouts": [to_row(rollout) for rollout in pool or ()]}
        | ({} if pool is not None else {"failure": failures[n]})
        for n, pool in enumerate(pools)
    ]


def score_chunk(examples: Sequence[Example], pools: Sequence[Sequence[Rollout]], scorer: Scorer) -> list[Row]:
    """One row {"scores"} for each example; Monte-Carlo adds what the chunk spent to its first row."""
    built = scorer.build()
    rows: list[Row] = [{"scores": [to_row(scored) for scored in pool]} for pool in score_pools(examples, pools, built)]
    if isinstance(built, MonteCarloScorer):
        rows[0]["spent"] = asdict(built.stats)
    return rows


def beam_chunk(examples: Sequence[Example], folder: str, judge: str, config: SearchConfig) -> list[Row]:
    """One row with the fields of a SearchResult for each example."""
    return [asdict(result) for result in METHODS["step_beam"](examples, sampler(folder), prm(judge), config)]


def _start_worker(parent: int) -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process when the run is killed, which leaves it no other way to know."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def start_workers(count: int) -> ProcessPoolExecutor:
    """`count` processes of one thread each."""
    return ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (os.getpid(),))
