"""Labelling on a Ray cluster of this machine: two workers against one, each with a core, by the same code.

Clusters are started, models loaded and one round labelled before the clock starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Goal, Row, cost_row, seconds_of, take_in_turn
from benchmarks.models import Bench, trained_policy
from chainofstep.pipeline.rows import CHUNK, write_chunks
from chainofstep.pipeline.workers import Scorer, sample_chunk, score_chunk
from chainofstep.records import Example, Rollout, from_row
from chainofstep.search import SearchConfig
from chainofstep.store import Log

WORKERS = 2


@dataclass(frozen=True)
class Sizes:
    questions: int = 6 * CHUNK
    rollouts: int = 16
    max_tokens: int = 320


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Labelled chains a second, two workers against one."""
    import ray

    from chainofstep.pipeline.ray_workers import RayWorkers

    policy = str(bench.policy_folder or trained_policy())
    examples = bench.examples(sizes.questions)
    pools = _pools(policy, examples, sizes)
    # Room for both sets of workers; the one that is not measured is idle.
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    teams = {f"{count} workers": RayWorkers(count, "auto") for count in (1, WORKERS)}
    try:
        contenders = {
            name: _labelling(team, bench.pictures, policy, examples, pools, sizes) for name, team in teams.items()
        }
        for work in contenders.values():
            work(-1)
        runs = take_in_turn(contenders, bench.repeats)
    finally:
        for team in teams.values():
            team.shutdown(cancel_futures=True)
        ray.shutdown()
    one, two = (seconds_of(runs[name]) for name in teams)
    chains = sum(any(rollout.chain for rollout in pool) for pool in pools.values())

    def speed(seconds: float) -> str:
        return f"{chains / seconds:.1f} chains/s"

    return [cost_row(f"labels on Ray: {WORKERS} workers over 1", two, one, Goal(1.7), speed)]


def _pools(policy: str, examples: list[Example], sizes: Sizes) -> dict[str, list[Rollout]]:
    rows = sample_chunk(examples, policy, SearchConfig(n=1, max_tokens=sizes.max_tokens))
    return {e.id: [from_row(Rollout, r) for r in row["rollouts"]] for e, row in zip(examples, rows, strict=True)}


def _labelling(
    team: Any,
    folder: Path,
    policy: str,
    examples: list[Example],
    pools: dict[str, list[Rollout]],
    sizes: Sizes,
) -> Callable[[int], int]:
    """Label everything once; how many rows there are then."""

    def work(repeat: int) -> int:
        sampling = SearchConfig(n=sizes.rollouts, max_tokens=sizes.max_tokens, seed=repeat + 1)
        scorer, log = Scorer("monte-carlo", policy, sampling), Log(folder / f"{team.workers}-{repeat}.jsonl")
        write_chunks(log, "labels", examples, score_chunk, lambda chunk: ([pools[e.id] for e in chunk], scorer), team)
        return sum(1 for _ in log.rows())

    return work
