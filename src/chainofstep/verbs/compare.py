"""`cos compare`: what differs between runs, or evaluations, and how much better one is on the same questions.

Every outcome is graded again from the stored texts of a run, or read from the stored verdicts of an evaluation; no
model is loaded.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from chainofstep.benchmarks.scores import Run
from chainofstep.evaluate import Outcome, grade, grade_results
from chainofstep.pipeline.rows import read_scored
from chainofstep.records import Example, Rollout, Scored, ScoreFailure
from chainofstep.report.compare_page import COST_HEAD, compare_page, cost_rows, no_difference, p_value, points
from chainofstep.report.comparison import (
    ComparedRun,
    Measured,
    Spent,
    differing_settings,
    labels_of,
    pairings,
    shared_questions,
    unknown_settings,
)
from chainofstep.report.tables import flat
from chainofstep.report.wording import count, counted, interval, listed, percent, run_label, stage_label
from chainofstep.search import BY_SCORE, POOL_METHODS, Cost, SearchResult, pool_results
from chainofstep.store import read_json, read_records, read_rows, write_text
from chainofstep.verbs.items import question_hash

STAGE_ORDER = ("sft", "dpo", "grpo", "outcome")
Rows = dict[str, dict[str, Any]]
Answer = str | ScoreFailure | None
NAMED = 5  # questions or settings that a line names


def compare(folders: Sequence[Path], page: Path | None = None) -> list[ComparedRun]:
    """The runs of these folders as they are compared; the first is what the others are compared to.

    A folder is a run's (`cos run`) or an evaluation's (`cos eval`). With `page` an HTML page of it is written.
    `ValueError` for fewer than two folders, one given twice, or one that is neither.
    """
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} folder to compare; give two or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("the same folder is given twice; give each run once")
    names = _names(folders)
    runs = [read_compared(folder, name) for folder, name in zip(folders, names, strict=True)]
    if page is not None:
        write_text(page, compare_page(runs))
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def read_compared(folder: Path, name: str) -> ComparedRun:
    """A run or an evaluation from its folder."""
    if (folder / "recipe.json").is_file():
        return _run(folder, name)
    if (folder / "verdicts").is_dir() and (folder / "results.json").is_file():
        return _evaluation(folder, name)
    raise ValueError(f"{folder} is neither a run's folder (recipe.json) nor an evaluation's (verdicts); check the path")


# A run: graded again from its texts


def _run(folder: Path, name: str) -> ComparedRun:
    recipe = read_json(folder / "recipe.json")
    test = _examples(folder, "test")
    notes: list[str] = []
    measured = [*_stages(folder, test, notes), *_methods(folder, test, recipe, notes)]
    questions = {example.id: _asked(example) for example in test}
    results = folder / "results.json"
    spent = _spent(read_json(results)) if results.is_file() else Spent()
    if not results.is_file():
        notes.append(f"{name} has no results.json: it is not finished, and its cost is not known")
    settings = {key: str(value) for key, value in flat(recipe).items()}
    return ComparedRun(name, settings, questions, tuple(measured), spent, tuple(notes))


def _examples(folder: Path, name: str) -> list[Example]:
    path = folder / "problems" / f"{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} has no problems/{name}.jsonl: the run has not begun; give a run with results")
    return list(read_records(path, Example))


def _asked(example: Example) -> tuple[str, ...]:
    """The hash of the question that verdicts have too, then what they do not have."""
    return question_hash(example), json.dumps([example.answer, example.choices])


def _stages(folder: Path, test: Sequence[Example], notes: list[str]) -> Iterator[Measured]:
    """The base's answers and every policy's greedy ones."""
    for path in [folder / "base" / "rollouts.jsonl", *sorted(folder.glob("greedy/*/rollouts.jsonl"), key=_order)]:
        rows = _rows(path, test, notes, folder)
        if rows is not None:
            stage = path.parent.name
            answers = [_answer(rows[example.id], raw=stage == "base") for example in test]
            yield Measured(stage, stage_label(stage), _by_id(test, grade(test, answers)))


def _order(path: Path) -> tuple[int, int, str]:
    kind, _, number = path.parent.name.partition("-")
    place = STAGE_ORDER.index(kind) if kind in STAGE_ORDER else len(STAGE_ORDER)
    return place, int(number) if number.isdecimal() else 0, path.parent.name


def _by_id(test: Sequence[Example], outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    return {example.id: outcome for example, outcome in zip(test, outcomes, strict=True)}


def _measured(run: Run, test: Sequence[Example], outcomes: Sequence[Outcome]) -> Measured:
    return Measured(run.name, run_label(run.method, run.n, run.width), _by_id(test, outcomes))


def _rows(path: Path, test: Sequence[Example], notes: list[str], folder: Path) -> Rows | None:
    """The rows of a log by id; None, and a note, where it is not there or does not have every question."""
    if not path.is_file():
        return None
    rows = {str(row.get("id")): row for _, row in read_rows(path)}
    missing = sum(example.id not in rows for example in test)
    if missing:
        place = f"{folder.name}/{path.relative_to(folder)}"
        notes.append(
            f"{place} is not finished: it lacks {count(missing)} of {counted(len(test), 'question')} and is left out"
        )
        return None
    return rows


def _answer(row: Mapping[str, Any], raw: bool) -> Answer:
    """The answer of the row's one rollout; a base that knows no steps is taken at its word."""
    if not row["rollouts"]:
        return ScoreFailure(row.get("failure") or "no sample")
    text = row["rollouts"][0]["text"]
    if raw:
        return str(text).strip()
    chain = _rollout(row["id"], 0, row["rollouts"][0]).chain
    return chain.answer if chain is not None else None


def _rollout(name: str, index: int, row: Mapping[str, Any]) -> Rollout:
    """A rollout with what choosing needs of it."""
    return Rollout(name, row["text"], (), row["ending"], row["seed"], index)


def _methods(folder: Path, test: Sequence[Example], recipe: Any, notes: list[str]) -> Iterator[Measured]:
    """Search: what every method chooses from the pool at every N, and the beam searches."""
    pool_rows = _rows(folder / "search" / "pool" / "rollouts.jsonl", test, notes, folder)
    if pool_rows is not None:
        score_rows = _rows(folder / "search" / "prm" / "scores.jsonl", test, notes, folder)
        pools = [[_rollout(e.id, i, row) for i, row in enumerate(pool_rows[e.id]["rollouts"])] for e in test]
        scores = [_scores(score_rows[e.id]) for e in test] if score_rows is not None else None
        yield from _chosen(test, pools, scores, sorted(recipe.get("pool_sizes", ())))
    for path in sorted(folder.glob("search/beam-*-*/results.jsonl"), key=_beam):
        rows = _rows(path, test, notes, folder)
        if rows is not None:
            n, width = _beam(path)
            outcomes = grade(test, [_result(rows[example.id]) for example in test])
            yield _measured(Run("step_beam", n, width), test, outcomes)


def _scores(row: Mapping[str, Any]) -> list[Scored]:
    return [read_scored(entry) for entry in row["scores"]]


def _chosen(
    test: Sequence[Example],
    pools: Sequence[Sequence[Rollout]],
    scores: Sequence[Sequence[Scored]] | None,
    sizes: Sequence[int],
) -> Iterator[Measured]:
    """Of one sample all methods make the same, so that is one row."""
    for method in POOL_METHODS:
        for n in sizes if scores is not None or method not in BY_SCORE else ():
            if n == 1 and method != "self_consistency":
                continue
            outcomes = grade_results(test, _from_pools(test, pools, scores, method, n))
            yield _measured(Run(method, n), test, outcomes)


def _from_pools(
    test: Sequence[Example],
    pools: Sequence[Sequence[Rollout]],
    scores: Sequence[Sequence[Scored]] | None,
    method: str,
    n: int,
) -> list[SearchResult]:
    """A result for each question; one that could not be sampled has failed."""
    there = [place for place, pool in enumerate(pools) if pool]
    own = [scores[place] for place in there] if scores is not None else None
    found = pool_results([test[place] for place in there], [pools[place] for place in there], own, method, n)
    results = dict(zip(there, found, strict=True))
    failed = SearchResult("", None, "", None, None, Cost(), failure="no sample")
    return [results.get(place, failed) for place in range(len(test))]


def _result(row: Mapping[str, Any]) -> Answer:
    return ScoreFailure(row["failure"]) if row.get("failure") else row["answer"]


def _beam(path: Path) -> tuple[int, int]:
    _, n, width = path.parent.name.split("-")
    return int(n), int(width)


def _spent(results: Mapping[str, Any]) -> Spent:
    seconds, peaks, tokens = (results.get(key) or {} for key in ("wall_seconds", "peak_memory_mb", "tokens"))
    return Spent(
        sum(seconds.values()) if seconds else None,
        sum(tokens.values()) if tokens else None,
        max(peaks.values(), default=None),
        seconds,
    )


# An evaluation: its verdicts


def _evaluation(folder: Path, name: str) -> ComparedRun:
    results = read_json(folder / "results.json")
    if "rows" not in results:
        raise ValueError(f"{folder}/results.json holds no figures of an evaluation: grade it again")
    made_from = read_json(folder / "eval.json") if (folder / "eval.json").is_file() else None
    whole = [row for row in results["rows"] if not row["breakdown"]]
    unread = {reject["place"] for reject in results.get("rejected", ())}
    measured: dict[str, Measured] = {}
    questions: dict[str, tuple[str, ...]] = {}
    for run in sorted((Run(row["method"], row["n"], row["width"]) for row in whole), key=_scored_alike):
        found = _verdicts(folder, run, unread, questions)
        measured.setdefault(found.key, found)
    notes = [f"{name}: {problem}" for problem in results.get("problems", ())]
    if not all(questions.values()):
        notes.append(f"{name} does not say what was asked: its questions are known by their ids alone")
    spent = Spent(tokens=_tokens(whole))
    settings = _eval_settings(results, made_from or {})
    return ComparedRun(name, settings, questions, tuple(measured.values()), spent, tuple(notes), made_from is not None)


def _eval_settings(results: Mapping[str, Any], made_from: Mapping[str, Any]) -> dict[str, str]:
    """What the results say of themselves, and what `eval.json` says they are made from."""
    named = ("benchmark", "split", "model", "prm", "prompt", "sampling", "extractor")
    facts = {key: results[key] for key in named if results.get(key)}
    facts |= {"predictions": file} if (file := results.get("predictions", {}).get("file")) else {}
    weights = {f"{key} weights": made_from[key] for key in ("model", "prm") if made_from.get(key)}
    known = {key: value for key, value in made_from.items() if key not in ("model", "prm", "runs")}
    return {key: _short(value) for key, value in flat(facts | known | weights).items()}


def _scored_alike(run: Run) -> bool:
    """Of one sample all methods make the same, and those that need no scores cannot lack them: they come first."""
    return run.n == 1 and run.method in BY_SCORE


def _verdicts(folder: Path, run: Run, unread: Collection[str], questions: dict[str, tuple[str, ...]]) -> Measured:
    """A run's outcomes; what its rows say of their questions goes to `questions`. `unread` rows have no id."""
    path = folder / "verdicts" / f"{run.name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} has no verdicts/{run.name}.jsonl, though results.json names it: grade it again")
    outcomes: dict[str, Outcome] = {}
    lost = 0
    for _, verdict in read_rows(path):
        if (name := str(verdict["id"])) in unread:
            lost += 1
        else:
            outcomes[name] = verdict["outcome"]
            questions[name] = (verdict["question"],) if verdict.get("question") else ()
    return Measured(_key(run), run_label(run.method, run.n, run.width), outcomes, lost)


def _key(run: Run) -> str:
    """What is paired: predictions with greedy answers, one answer a question both; of one sample all methods."""
    if run.method == "predictions":
        return "greedy"
    return "self_consistency-1" if run.n == 1 and run.method in POOL_METHODS else run.name


def _tokens(whole: Sequence[Mapping[str, Any]]) -> int | None:
    """Sampled tokens of all methods; those that choose from the pool share it."""
    known = [row for row in whole if "sampled_tokens" in row]
    pooled = max((row["sampled_tokens"] for row in known if row["method"] in POOL_METHODS), default=0)
    others = sum(row["sampled_tokens"] for row in known if row["method"] not in POOL_METHODS)
    return pooled + others if known else None


def _short(value: Any) -> str:
    """A hash by its first characters, anything else as it is."""
    text = str(value)
    return text[:12] if len(text) == 64 and all(character in "0123456789abcdef" for character in text) else text


# Printed


def settings_table(runs: Sequence[ComparedRun]) -> Table:
    """The settings that differ."""
    differing = differing_settings(runs)
    title = "Settings that differ"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, min_width=len(title))
    for heading in ("Setting", *(run.name for run in runs)):
        table.add_column(Text(heading))
    for name, values in differing.items():
        table.add_row(Text(name), *map(Text, values))
    table.caption = None if differing else "none"
    return table


def compare_table(runs: Sequence[ComparedRun]) -> Table:
    """Accuracy of every stage and method, and for each further run the paired difference to the first."""
    first, others = runs[0], runs[1:]
    table = Table(title="Accuracy", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Stage or method", no_wrap=True)
    for run in runs:
        table.add_column(Text(run.name), justify="right")
    for run in others:
        table.add_column(Text(f"{run.name} − {first.name}"), justify="right")
        table.add_column("p", justify="right", no_wrap=True)
    paired = [{pairing.key: pairing for pairing in pairings(first, run)} for run in others]
    for key, label in labels_of(runs).items():
        cells = [_accuracy(run.by_key.get(key)) for run in runs]
        for found in paired:
            if (pairing := found.get(key)) is None:
                cells += ["–"] * 2
            elif pairing.same:
                cells += [no_difference(pairing), "–"]
            else:
                value, low, high = pairing.difference
                cells += [f"{points(value)} ({points(low)} to {points(high)})", p_value(pairing.test.p)]
        table.add_row(*map(Text, (label, *cells)))
    table.caption = (
        "Intervals are 95%. Differences in points, on the questions that both runs have; p by the exact McNemar test. "
        "They speak for other questions, not for other seeds."
    )
    table.caption_justify = "left"
    return table


def _accuracy(measured: Measured | None) -> str:
    if measured is None or not measured.total:
        return "–"
    value, low, high = measured.share
    return f"{percent(value)} ({interval(low, high)})"


def cost_table(runs: Sequence[ComparedRun]) -> Table:
    table = Table(title="Cost", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(COST_HEAD):
        table.add_column(heading, justify="right" if place else "left")
    for row in cost_rows(runs):
        table.add_row(*map(Text, row))
    return table


def question_lines(runs: Sequence[ComparedRun]) -> list[str]:
    """How many questions each run shares with the first, which it does not; what is not known, or was left out."""
    lines = []
    for run in runs[1:]:
        shared = shared_questions(runs[0], run)
        lines.append(f"{runs[0].name} and {run.name}: {counted(shared.both, 'question')} in both")
        for title, ids in (
            (f"only in {runs[0].name}", shared.first_only),
            (f"only in {run.name}", shared.second_only),
            ("with the same id but another question", shared.other),
        ):
            if ids:
                lines.append(f"  {count(len(ids))} {title}: {listed(ids, NAMED)}")
    if unknown := unknown_settings(runs):
        lines.append(f"settings that are not known of every run: {listed(unknown, NAMED)}")
    return [*lines, *(note for run in runs for note in run.notes)]
