"""A stored beam search, level by level: what each candidate added, and in words why it was kept or dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

from chainofstep.chain import Step
from chainofstep.records import Example, from_row
from chainofstep.search import Candidate, SearchResult
from chainofstep.view.texts import Reading, read_text, right, row_of_step


def beam_row(name: str, row: Mapping[str, Any], example: Example | None, width: int | None) -> dict[str, Any] | None:
    """A row of results as the page takes it; None for one that is no search result."""
    try:
        result = from_row(SearchResult, {key: value for key, value in row.items() if key != "id"})
    except ValueError:
        return None
    cost = {key: getattr(result.cost, key) for key in ("sampled_tokens", "scored_chains", "scored_steps")}
    width = width or max((sum(candidate.kept for candidate in level) for level in result.trace), default=1)
    return {
        "id": name,
        "answer": result.answer,
        "right": right(example, result.answer),
        "failure": result.failure,
        "cost": cost,
        "levels": levels(result, width),
    }


def levels(result: SearchResult, width: int) -> list[list[dict[str, Any]]]:
    """The candidates of each level with what they added to the chain that they went on from."""
    rows = []
    parents: list[tuple[Step, ...]] = [()]
    for level in result.trace:
        readings = [read_text(candidate.text) for candidate in level]
        ranked = [candidate for candidate in level if candidate.value is not None]
        rows.append(
            [
                _row(candidate, reading, parents)
                | {"why": _chosen(candidate, result) or why(candidate, reading, ranked, width)}
                for candidate, reading in zip(level, readings, strict=True)
            ]
        )
        both = zip(level, readings, strict=True)
        parents = [reading.steps for candidate, reading in both if candidate.kept and reading.answer is None]
    return rows


def _row(candidate: Candidate, reading: Reading, parents: Sequence[tuple[Step, ...]]) -> dict[str, Any]:
    before = max((len(parent) for parent in parents if reading.steps[: len(parent)] == parent), default=0)
    return {
        "added": [row_of_step(step) for step in reading.steps[before:]],
        "depth": len(reading.steps),
        "answer": reading.answer,
        "count": candidate.count,
        "value": candidate.value,
        "kept": candidate.kept,
        "problem": candidate.problem,
    }


def _chosen(candidate: Candidate, result: SearchResult) -> str:
    """For what a search falls back on: a whole chain that it had dropped."""
    if candidate.kept or result.answer is None or candidate.text != result.text:
        return ""
    return "dropped, and taken in the end: no kept chain reached an answer"


def why(candidate: Candidate, reading: Reading, ranked: Sequence[Candidate], width: int) -> str:
    """In words why a candidate of a level was kept or dropped. `ranked` are those of the level with a value."""
    if candidate.value is None:
        return f"dropped: {candidate.problem or 'it has no value'}"
    kept = [other for other in ranked if other.kept]
    if candidate.kept:
        return f"kept: {_rank(candidate, ranked, kept)} by {_by(reading, width)}"
    if not kept:
        return f"dropped: {candidate.value:.2f}, and nothing of this level was kept"
    last = min(kept, key=lambda other: (other.value or 0.0, other.count))
    if candidate.value < (last.value or 0.0):
        low, high = _apart(candidate.value, last.value or 0.0)
        return f"dropped: {low} is below the kept {high}"
    if candidate.count < last.count:
        return f"dropped: {candidate.value:.2f} as the kept one, which was sampled more often ({last.count} times)"
    return f"dropped: {candidate.value:.2f} as the kept one, which came first"


def _rank(candidate: Candidate, ranked: Sequence[Candidate], kept: Sequence[Candidate]) -> str:
    if len(ranked) == 1:
        return "the only candidate,"
    place = next(number for number, other in enumerate(ranked, start=1) if other is candidate)
    return f"best of {len(ranked)}" if place == 1 else f"number {place} of {len(ranked)}"


def _by(reading: Reading, width: int) -> str:
    """What it was ranked by."""
    if width > 1:
        return "the mean of its scores so far"
    return "its last step's score" if reading.answer is None else "its answer's score"


def _apart(low: float, high: float) -> tuple[str, str]:
    """Two different numbers with as many digits as tell them apart."""
    for digits in range(2, 7):
        texts = f"{low:.{digits}f}", f"{high:.{digits}f}"
        if texts[0] != texts[1]:
            return texts
    return repr(low), repr(high)
