"""Stored texts graded again, without a model: an evaluation's folder, or a file of predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chainofstep.benchmarks.predictions import Matched, Prediction, match, read_predictions
from chainofstep.benchmarks.scores import Run
from chainofstep.llm import Endpoint
from chainofstep.records import Reject
from chainofstep.store import read_json
from chainofstep.verbs.evaluate import SETTINGS
from chainofstep.verbs.grading import Answered, grade
from chainofstep.verbs.items import read_items
from chainofstep.verbs.reading import check_extractor, graded

NAMED = 3  # of each kind of trouble


def regrade(
    benchmark: str,
    stored: Path,
    out: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    extractor: Endpoint | None = None,
) -> dict[str, Any]:
    """What `results.json` then holds: a folder of `evaluate` or a file of predictions scored on a benchmark's items.

    Written to `out`; without it to the folder, or beside the file into a folder of its name.
    A model as `extractor` reads what the benchmark's rules cannot.
    """
    if stored.is_dir():
        return _folder(benchmark, stored, out or stored, split, limit, extractor)
    items = read_items(benchmark, split, limit, pictures=False)
    check_extractor(items.benchmark, extractor)
    predictions, bad = _read(stored)
    if not predictions:
        why = bad[0].reason if bad else "it is empty"
        raise ValueError(f"{stored} holds no prediction ({len(bad)} bad rows): {why}")
    matched = match(items.examples, predictions)
    trouble = _counts(matched, bad)
    facts = {
        "predictions": {"file": stored.name, "read": len(predictions)}
        | {kind: len(places) for kind, places in trouble.items()},
        "problems": [line for kind, places in trouble.items() if (line := _named(kind, places))],
    }
    answered = {Run("predictions"): Answered(list(matched.texts), None)}
    return graded(out or stored.with_suffix(".graded"), items, lambda _: (answered, 0), facts, extractor)


def _folder(
    benchmark: str, folder: Path, out: Path, split: str | None, limit: int | None, extractor: Endpoint | None
) -> dict[str, Any]:
    """`split` and `limit` are the folder's own, unless others are asked for."""
    if not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} has no {SETTINGS}; give a folder that `cos eval` wrote, or a file of predictions")
    made = read_json(folder / SETTINGS)
    runs = [Run(**run) for run in made["runs"]]
    if not runs:
        raise ValueError(f"{folder}: no method is finished; give the command that wrote it again")
    items = read_items(benchmark, split or made["split"] or None, limit or made["limit"], pictures=False)
    if items.benchmark.name != made["benchmark"]:
        raise ValueError(f"{folder} holds answers to {made['benchmark']}, not to {items.benchmark.name}")
    check_extractor(items.benchmark, extractor)
    facts = {name: made[name] for name in ("prompt", "sampling")}
    return graded(out, items, lambda read: grade(folder, read, runs), facts, extractor)


def _read(path: Path) -> tuple[list[Prediction], list[Reject]]:
    good: list[Prediction] = []
    bad: list[Reject] = []
    for found in read_predictions(path):
        if isinstance(found, Reject):
            bad.append(found)
        else:
            good.append(found)
    return good, bad


def _counts(matched: Matched, bad: Sequence[Reject]) -> dict[str, list[str]]:
    return {
        "missing": matched.missing,
        "doubled": matched.doubled,
        "unknown": matched.unknown,
        "other question": matched.strangers,
        "bad": [f"{reject.place}: {reject.reason}" for reject in bad],
    }


#: What became of each kind of trouble.
OUTCOMES = {
    "missing": "items without a prediction: failed",
    "doubled": "further predictions of an item: the first counts",
    "unknown": "predictions of no item: left out",
    "other question": "predictions name another question than the item of their row: is this file of this split?",
    "bad": "rows are no predictions: left out",
}


def _named(kind: str, places: Sequence[str]) -> str:
    """One line: how many, and the first of them."""
    if not places:
        return ""
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"{len(places)} {OUTCOMES[kind]} ({'; '.join(places[:NAMED])}{more})"
