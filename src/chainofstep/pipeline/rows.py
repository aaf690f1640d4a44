"""A run's rows: rollouts and scores, one row an example, written in chunks so that a killed stage goes on.

A chunk is a fixed slice of the examples, sampled or scored in one call, so a resumed stage makes the same rows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from chainofstep.progress import progress
from chainofstep.records import Example, Rollout, Scored, ScoreFailure, StepScores, from_row, to_row
from chainofstep.store import Log, done_ids

CHUNK = 128


def write_chunks(
    log: Log, title: str, examples: Sequence[Example], make: Callable[[Sequence[Example]], Iterable[dict[str, Any]]]
) -> None:
    """Append `make(chunk)`'s rows, each with the example's id, for every chunk that is not there yet."""
    done = done_ids(log, "id")
    with progress(title, len(examples)) as tick:
        for start in range(0, len(examples), CHUNK):
            chunk = examples[start : start + CHUNK]
            if not all(example.id in done for example in chunk):
                for example, row in zip(chunk, make(chunk), strict=True):
                    if example.id not in done:
                        log.append({"id": example.id, **row})
            tick(start + len(chunk))


def read_pools(log: Log, examples: Sequence[Example]) -> list[list[Rollout]]:
    """Each example's rollouts, in the order of `examples`."""
    wanted = {example.id for example in examples}
    pools = {
        row["id"]: [from_row(Rollout, rollout) for rollout in row["rollouts"]]
        for row in log.rows()
        if row["id"] in wanted
    }
    return [pools[example.id] for example in examples]


def read_scores(log: Log, examples: Sequence[Example]) -> list[list[Scored]]:
    """Each example's scores, in the order of `examples` and of its rollouts."""
    scores = {row["id"]: [_scored(entry) for entry in row["scores"]] for row in log.rows()}
    return [scores[example.id] for example in examples]


def _scored(entry: dict[str, Any]) -> Scored:
    return from_row(ScoreFailure, entry) if "reason" in entry else from_row(StepScores, entry)


def pool_row(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    return {"rollouts": [to_row(rollout) for rollout in rollouts]}


def scores_row(scores: Sequence[Scored]) -> dict[str, Any]:
    return {"scores": [to_row(scored) for scored in scores]}
