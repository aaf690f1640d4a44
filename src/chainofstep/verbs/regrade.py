"""Stored texts graded again, without a model: an evaluation's folder, or a file of predictions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chainofstep.benchmarks.predictions import Matched, Prediction, match, read_predictions
from chainofstep.benchmarks.scores import Run
from chainofstep.llm import Endpoint
from chainofstep.records import Reject
from chainofstep.report.wording import counted, listed
from chainofstep.store import read_json, write_json
from chainofstep.verbs.evaluate import SETTINGS, check_same, settings_in
from chainofstep.verbs.files import locked
from chainofstep.verbs.grading import Answered, grade, stored_ids, stored_questions
from chainofstep.verbs.items import Items, benchmark_of, question_hash, read_items
from chainofstep.verbs.reading import Grade, check_extractor, graded

NAMED = 3  # of each kind of trouble
#: What a folder's results say of how its texts were made, and its settings do not, or only as a hash.
MADE = ("model", "prm", "prompt", "sampling")


def regrade(
    benchmark: str,
    stored: Path,
    out: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    extractor: Endpoint | None = None,
) -> dict[str, Any]:
    """What `results.json` then holds: a folder of `evaluate` or a file of predictions scored on a benchmark's items.

    Written to `out`; without it to the folder, or beside the file into a folder of its name. `ValueError`, before
    anything is written, for texts of which none answers an item, or most answer another question than theirs.
    A model as `extractor` reads what the benchmark's rules cannot.
    """
    if stored.is_dir():
        return _folder(benchmark, stored, out or stored, split, limit, extractor)
    items = read_items(benchmark, split, limit, pictures=False)
    check_extractor(items.benchmark, extractor)
    predictions, bad = _read(stored)
    if not predictions:
        why = f"{counted(len(bad), 'bad row')}: {bad[0].place}: {bad[0].reason}" if bad else "it is empty"
        raise ValueError(f"{stored} holds no prediction: {why}")
    matched = match(items.examples, predictions)
    known = len(predictions) - len(matched.unknown)
    _check_fit(stored, items, [one.name for one in predictions], known, len(matched.strangers))
    trouble = _counts(matched, bad)
    facts = {
        "predictions": {"file": stored.name, "read": len(predictions)}
        | {kind: len(places) for kind, places in trouble.items()},
        "problems": [line for kind, places in trouble.items() if (line := _named(kind, places))],
    }
    answered = {Run("predictions"): Answered(list(matched.texts), None)}
    made = _made(benchmark, stored, items, limit)
    return _written(out or stored.with_suffix(".graded"), made, items, lambda _: (answered, 0), facts, extractor)


def _folder(
    benchmark: str, folder: Path, out: Path, split: str | None, limit: int | None, extractor: Endpoint | None
) -> dict[str, Any]:
    """`split` and `limit` are the folder's own, unless others are asked for."""
    made, runs = _evaluation(folder)
    name = benchmark_of(benchmark)[0].name
    if name != made["benchmark"]:
        raise ValueError(f"{folder} holds answers to {made['benchmark']}, not to {name}")
    here = out.resolve() == folder.resolve()
    asked = {name: value for name, value in (("split", split), ("limit", limit)) if value is not None}
    if here:
        check_same(folder, made, asked)
    items = read_items(benchmark, split or made["split"] or None, limit or made["limit"], pictures=False)
    check_extractor(items.benchmark, extractor)
    answered, others = stored_questions(folder, runs), []
    for example in items.examples:
        if answered.get(example.id, question_hash(example)) != question_hash(example):
            others.append(example.id)
    stored = stored_ids(folder, runs)
    _check_fit(folder, items, sorted(stored), len(stored & {example.id for example in items.examples}), len(others))
    results = read_json(folder / "results.json") if (folder / "results.json").is_file() else {}
    facts = {name: results.get(name, made.get(name)) for name in MADE if name in results or name in made}
    facts |= {"other question": len(others), "problems": [line] if (line := _named("stored question", others)) else []}
    items = replace(items, answered=answered)
    kept = {name: value for name, value in made.items() if name not in ("runs", "pool")}
    copied = None if here else kept | _made(benchmark, folder, items, limit or made["limit"])
    return _written(out, copied, items, lambda read: grade(folder, read, runs), facts, extractor)


def _evaluation(folder: Path) -> tuple[dict[str, Any], list[Run]]:
    """What an evaluation's folder was made from, and its runs."""
    if not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} has no {SETTINGS}; give a folder that `cos eval` wrote, or a file of predictions")
    made = read_json(folder / SETTINGS)
    if "source" in made:
        raise ValueError(f"{folder} holds no texts, only what was graded from {made['source']}; give that")
    if not (runs := [Run(**run) for run in made["runs"]]):
        raise ValueError(f"{folder}: no method is finished; give the command that wrote it again")
    return made, runs


def _made(benchmark: str, stored: Path, items: Items, limit: int | None) -> dict[str, Any]:
    """What a folder of verdicts alone is made from."""
    path = benchmark_of(benchmark)[1]
    about = {"benchmark": items.benchmark.name, "split": items.split, "limit": limit}
    return about | {"path": str(path or ""), "source": str(stored.resolve())}


def _written(
    out: Path,
    made: Mapping[str, Any] | None,
    items: Items,
    grade: Grade,
    facts: dict[str, Any],
    extractor: Endpoint | None,
) -> dict[str, Any]:
    """The results, in a folder that is made's alone; without `made` it is an evaluation's own."""
    if made is not None:
        _check_free(out, made)  # before the lock, which would leave a file in a folder that is another's
    with locked(out):
        if made is not None:
            _check_free(out, made)
            write_json(out / SETTINGS, made)
        return graded(out, items, grade, facts, extractor)


def _check_free(out: Path, made: Mapping[str, Any]) -> None:
    """`ValueError` for a folder of anything else than of these texts graded on this benchmark before."""
    saved = settings_in(out)
    if saved is not None and "source" not in saved:
        raise ValueError(f"{out} is the folder of another evaluation: choose another --out")
    check_same(out, saved or {}, {name: made[name] for name in ("benchmark", "source")})


def _check_fit(stored: Path, items: Items, names: Sequence[str], known: int, others: int) -> None:
    """`ValueError` where nothing, or hardly anything, answers these items."""
    if known and 2 * others <= known:
        return
    ids = [example.id for example in items.examples]
    reason = f"{known} of them are of these items" + f", {others} of those to another question" * (others > 0)
    raise ValueError(
        f"{stored} is not of {items.benchmark.title}{f', {items.split}' * bool(items.split)}: it answers "
        f"{counted(len(names), 'item')} ({listed(names, NAMED)}), {reason}; "
        f"here are {counted(len(ids), 'item')} ({listed(ids, NAMED)}): check benchmark, path and --split"
    )


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


#: What became of each kind of trouble: of one, and of several.
OUTCOMES = {
    "missing": ("item without a prediction: failed", "items without a prediction: failed"),
    "doubled": (
        "further prediction of an item: the first counts",
        "further predictions of an item: the first counts",
    ),
    "unknown": ("prediction of no item: left out", "predictions of no item: left out"),
    "other question": (
        "prediction names another question than the item of its row: is this file of this split?",
        "predictions name another question than the item of their row: is this file of this split?",
    ),
    "stored question": (
        "stored answer is to another question than its item's: is this another version of the set?",
        "stored answers are to another question than their item's: is this another version of the set?",
    ),
    "bad": ("row is no prediction: left out", "rows are no predictions: left out"),
}


def _named(kind: str, places: Collection[str]) -> str:
    """One line: how many, and the first of them."""
    if not places:
        return ""
    shown = "; ".join([*places][:NAMED]) + (f" and {len(places) - NAMED:,} more" if len(places) > NAMED else "")
    return f"{len(places):,} {OUTCOMES[kind][len(places) > 1]} ({shown})"
