"""A run's rows: rollouts and scores, one row an example, written in chunks so that a killed stage goes on.

A chunk is a fixed slice of the examples, sampled or scored in one call, so a resumed stage makes the same rows.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from chainofstep.progress import progress
from chainofstep.records import Example, Rollout, Scored, ScoreFailure, StepScores, from_row
from chainofstep.search import SearchResult
from chainofstep.store import Log, done_ids

CHUNK = 64
AHEAD = 256  # chunks: enough for as many workers, and few enough for memory
Row = dict[str, Any]


def write_chunks(
    log: Log,
    title: str,
    examples: Sequence[Example],
    make: Callable[..., list[Row]],
    arguments: Callable[[Sequence[Example]], tuple[Any, ...]],
    workers: Executor | None = None,
    size: int | None = None,
) -> None:
    """Append the rows of `make(chunk, *arguments(chunk))`, each with its example's id, for each chunk not there yet.

    A chunk has `size` examples, `CHUNK` without it. With `workers` the chunks are made in other processes; they are
    written in order all the same.
    """
    done = done_ids(log, "id")
    size = size or CHUNK
    chunks = [examples[start : start + size] for start in range(0, len(examples), size)]
    missing = [chunk for chunk in chunks if not all(example.id in done for example in chunk)]
    finished = len(examples) - sum(map(len, missing))
    with progress(title, len(examples)) as tick:
        tick(finished)
        for chunk, rows in zip(missing, _made(missing, make, arguments, workers), strict=True):
            for example, row in zip(chunk, rows, strict=True):
                if example.id not in done:
                    log.append({"id": example.id, **row})
            finished += len(chunk)
            tick(finished)


def _made(
    chunks: Sequence[Sequence[Example]],
    make: Callable[..., list[Row]],
    arguments: Callable[[Sequence[Example]], tuple[Any, ...]],
    workers: Executor | None,
) -> Iterator[list[Row]]:
    """The rows of each chunk, in order, at most `AHEAD` chunks handed out that are not yet written."""
    if workers is None:
        yield from (make(chunk, *arguments(chunk)) for chunk in chunks)
        return
    waiting: deque[Future[list[Row]]] = deque()
    for chunk in chunks:
        waiting.append(workers.submit(make, chunk, *arguments(chunk)))
        if len(waiting) == AHEAD:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _result(future: "Future[list[Row]]") -> list[Row]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed (out of memory?); give the same command again, it goes on from the rows that "
            "are written, with fewer workers or with --ray local, which replaces them"
        ) from None


def has_failed(row: Row) -> bool:
    """Whether a row only says why it could not be made."""
    return bool(row.get("failure"))


def forget_failures(log: Log, has_failed: Callable[[Row], bool] = has_failed) -> int:
    """Take rows that only say why they could not be made out of a log, so that they are tried again; how many."""
    failed = sum(map(has_failed, log.rows()))
    if failed:
        whole = log.path.with_name(f".{log.path.name}.tmp")
        with whole.open("w", encoding="utf-8") as file:
            for row in log.rows():
                if not has_failed(row):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(whole, log.path)
    return failed


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
    scores = {row["id"]: [read_scored(entry) for entry in row["scores"]] for row in log.rows()}
    return [scores[example.id] for example in examples]


def read_results(log: Log, examples: Sequence[Example]) -> list[SearchResult]:
    """Each example's search result, in the order of `examples`."""
    rows = {row.pop("id"): row for row in log.rows()}
    return [from_row(SearchResult, rows[example.id]) for example in examples]


def read_scored(entry: Row) -> Scored:
    """Scores, or why there are none, from a row's entry."""
    return from_row(ScoreFailure, entry) if "reason" in entry else from_row(StepScores, entry)
