"""Measuring a process reward model on a benchmark of step labels: scores are stored, figures are made of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from chainofstep.benchmarks.prm_scores import THRESHOLD, Figure, PrmResult, check_threshold, measure, score_items
from chainofstep.benchmarks.prm_sets import READERS, PrmItem, PrmSet, load_prm_benchmark
from chainofstep.chain import render
from chainofstep.pipeline.rows import forget_failures, read_scored, write_chunks
from chainofstep.pipeline.spread import HERE, Spread
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.records import Example, Scored, ScoreFailure, StepScorer, to_row
from chainofstep.report.wording import counted, decimal, interval, percent
from chainofstep.scoring.oracle import OracleScorer
from chainofstep.store import Log, read_json, write_json
from chainofstep.verbs.files import choose, claim, fingerprint, locked, write_lines

CHECKER = "checker"  # in place of a model: the exact checker, on generated problems
PLANTED = "planted"  # its pictures are written before it can be read
SCORES, MADE, PICTURES = "scores.jsonl", "scores.made.json", "pictures"


def eval_prm(
    model: str,
    benchmark: str,
    out: Path,
    threshold: float = THRESHOLD,
    limit: int | None = None,
    spread: Spread = HERE,
) -> PrmResult:
    """A PRM's figures on `NAME` or `NAME:PATH`, from the scores that the folder `out` holds.

    `model` is a folder, a hub id, MODEL@URL, or `checker` for the planted set. `out/scores.jsonl` has a row an item;
    scores that are there are not made again, so a finished folder is measured at another threshold without a model.
    Items that failed are tried again. `out/results.json` has the figures, `out/rejects.jsonl` the rows left out.
    `ValueError`, before anything is written, for a folder of something else, or one that another command has.
    """
    name, _, path = benchmark.partition(":")
    choose(name, READERS, "PRM benchmark")
    if model == CHECKER and name != PLANTED:
        raise ValueError(f"the exact checker knows generated problems alone, not {name}; give planted, or a model")
    check_threshold(threshold)
    judge = CHECKER if model == CHECKER else fingerprint(model)
    _check_folder(out)
    where = Path(path) if path else out / PICTURES if name == PLANTED else None
    found = load_prm_benchmark(name, where, limit) if name != PLANTED else None
    with locked(out):
        found = found or load_prm_benchmark(name, where, limit)
        rows = {row["id"]: row for row in _scores(model, judge, found, out, spread).rows()}
        result = measure(found, [read_scored(rows[item.example.id]["scored"]) for item in found.items], threshold)
        write_lines(out / "rejects.jsonl", map(to_row, found.rejects))
        write_json(out / "results.json", {"model": model, **asdict(result)})
    return result


def _check_folder(out: Path) -> None:
    """`ValueError` unless `out` is empty or this command's. One that was stopped early has no more than pictures."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another --out")
    made = read_json(out / MADE) if (out / MADE).is_file() else {}
    own = {"benchmark", "chains"} <= made.keys() and not (out / "eval.json").exists()
    there = [entry.name for entry in out.iterdir()] if out.is_dir() else []
    foreign = [name for name in there if name != PICTURES and not name.startswith(".")]
    if foreign and not own:
        raise ValueError(f"{out} has files ({min(foreign)}) and they are no scores of a PRM: choose another --out")


def _scores(model: str, judge: str, found: PrmSet, out: Path, spread: Spread) -> Log:
    """The scores of all items: those that are there, and those that are missing. `judge` stands for the weights."""
    items = {item.example.id: item for item in found.items}
    made_from = {"benchmark": found.benchmark, "items": len(items), "chains": _hash(found.items), "model": judge}
    log = claim(out / SCORES, made_from)
    forget_failures(log)
    with spread.start() as workers:
        write_chunks(
            log,
            f"{found.benchmark} by {model}",
            [item.example for item in found.items],
            score_chunk,
            lambda chunk: ([items[example.id] for example in chunk], model),
            workers,
        )
    return log


def _hash(items: Sequence[PrmItem]) -> str:
    """What is scored: SHA-256 over ids, questions and chains."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.example.id, item.example.question, render(item.chain)]).encode("ascii"))
    return digest.hexdigest()


def score_chunk(_: Sequence[Example], items: Sequence[PrmItem], model: str) -> list[dict[str, Any]]:
    """One row {"scored"} for each item, with "failure" where it could not be scored."""
    return [_row(scored) for scored in score_items(items, _scorer(model))]


def _row(scored: Scored) -> dict[str, Any]:
    return {"scored": to_row(scored)} | ({"failure": scored.reason} if isinstance(scored, ScoreFailure) else {})


def _scorer(model: str) -> StepScorer:
    if model == CHECKER:
        return OracleScorer(check_steps)
    from chainofstep.pipeline.workers import prm

    return prm(model)


# Printed


def prm_table(result: PrmResult) -> Table:
    """The figures with their intervals, a row each."""
    table = Table(title=_title(result), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("Items", "Figure"):
        table.add_column(heading)
    for heading in ("Value", "95% interval", "Counted"):
        table.add_column(heading, justify="right")
    for figure in result.figures:
        total = counted(figure.total, figure.unit.removesuffix("s"))
        cells = (figure.group, figure.name, _value(figure), _interval(figure), total)
        table.add_row(*map(Text, cells))
    table.caption = _caption(result)
    table.caption_justify = "left"
    return table


def _title(result: PrmResult) -> str:
    return f"{result.benchmark}: {counted(result.items, 'item')}, right above {result.threshold:g}"


def _value(figure: Figure) -> str:
    return decimal(figure.value, 3) if figure.name.endswith("AUC") else percent(figure.value)


def _interval(figure: Figure) -> str:
    return "–" if figure.low is None or figure.high is None else interval(figure.low, figure.high)


def _caption(result: PrmResult) -> str:
    """What became of items and steps: nothing is left out unsaid."""
    parts = [
        f"{counted(result.failed, 'item')} could not be scored: counted as judged wrongly",
        f"{counted(result.rejected, 'row')} could not be read: in no figure",
        f"{counted(result.left_out, 'step')} neutral or not judged",
    ]
    return "; ".join([*parts, *result.notes])
