"""From an evaluation's stored texts to its verdicts, figures and tables, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chainofstep.benchmarks.benchmark import Verdict
from chainofstep.benchmarks.pools import Text, choose, chosen_text
from chainofstep.benchmarks.scores import Run, groups_of, score
from chainofstep.pipeline.rows import read_scored
from chainofstep.records import Example, Rollout, Scored, ScoreFailure, from_row
from chainofstep.report.evaluation import markdown
from chainofstep.report.wording import counted
from chainofstep.row_index import RowIndex
from chainofstep.search import BY_SCORE, POOL_METHODS, Cost, SearchResult
from chainofstep.store import read_rows, write_json, write_text
from chainofstep.verbs.files import write_lines
from chainofstep.verbs.items import Items, question_hash

GREEDY, POOL, SCORES = "greedy/rollouts.jsonl", "pool/rollouts.jsonl", "pool/scores.jsonl"
POOLS_AT_ONCE = 64  # items whose pools are in memory
MISSING = ScoreFailure("no prediction")


def beam_log(run: Run) -> str:
    return f"beam-{run.n}-{run.width}/results.jsonl"


@dataclass
class Answered:
    """What a method came to: a text for each item, and what all of it cost."""

    texts: list[Text] = field(default_factory=list)
    cost: Cost | None = field(default_factory=Cost)

    def add(self, text: Text, cost: Cost = Cost()) -> None:  # noqa: B008  # frozen
        self.texts.append(text)
        self.cost = self.cost + cost if self.cost else cost


def grade(folder: Path, items: Items, runs: Sequence[Run]) -> tuple[dict[Run, Answered], int]:
    """What each run answered to each item by the folder's logs, and how many logged items are none of these."""
    found = {run: Answered() for run in runs}
    unknown = stored_ids(folder, runs) - {example.id for example in items.examples}
    pooled = [run for run in runs if run.method in POOL_METHODS]
    for run in runs:
        if run.method == "greedy":
            _greedy(RowIndex(folder / GREEDY), items.examples, found[run])
        elif run.method == "step_beam":
            _beam(RowIndex(folder / beam_log(run)), items.examples, found[run])
    if pooled:
        _pooled(folder, items, pooled, found)
    return found, len(unknown)


def stored_ids(folder: Path, runs: Sequence[Run]) -> set[str]:
    """The items that the folder's logs have a row of."""
    return {name for log in {_log_of(run) for run in runs} for name in RowIndex(folder / log)}


def stored_questions(folder: Path, runs: Sequence[Run]) -> dict[str, str]:
    """The hash of each question that the folder's texts answer, by item, where the verdicts tell it."""
    paths = [path for run in runs if (path := _verdicts_of(folder, run)).is_file()]
    rows = [row for path in paths for _, row in read_rows(path)]
    return {row["id"]: row["question"] for row in rows if row.get("question")}


def _verdicts_of(folder: Path, run: Run) -> Path:
    return folder / "verdicts" / f"{run.name}.jsonl"


def _log_of(run: Run) -> str:
    return GREEDY if run.method == "greedy" else beam_log(run) if run.method == "step_beam" else POOL


def _rows(index: RowIndex, examples: Sequence[Example]) -> list[dict[str, Any] | None]:
    """Each example's row, where there is one."""
    there = {example.id: None for example in examples if example.id in index}
    found = dict(zip(there, index.rows(list(there)) if there else (), strict=True))
    return [found.get(example.id) for example in examples]


def _pool(row: dict[str, Any] | None) -> list[Rollout] | ScoreFailure:
    if row is None:
        return MISSING
    if row.get("failure"):
        return ScoreFailure(row["failure"])
    return [from_row(Rollout, rollout) for rollout in row["rollouts"]]


def _greedy(index: RowIndex, examples: Sequence[Example], found: Answered) -> None:
    for start in range(0, len(examples), POOLS_AT_ONCE):
        for row in _rows(index, examples[start : start + POOLS_AT_ONCE]):
            pool = _pool(row)
            if isinstance(pool, ScoreFailure):
                found.add(pool)
            else:
                found.add(pool[0].text, Cost(len(pool[0].token_ids)))


def _beam(index: RowIndex, examples: Sequence[Example], found: Answered) -> None:
    for start in range(0, len(examples), POOLS_AT_ONCE):
        for row in _rows(index, examples[start : start + POOLS_AT_ONCE]):
            if row is None:
                found.add(MISSING)
            else:
                result = from_row(SearchResult, {name: value for name, value in row.items() if name != "id"})
                found.add(chosen_text(result), result.cost)


def _pooled(folder: Path, items: Items, runs: Sequence[Run], found: Mapping[Run, Answered]) -> None:
    pools, scores = RowIndex(folder / POOL), RowIndex(folder / SCORES)
    scored = any(run.method in BY_SCORE for run in runs)
    for start in range(0, len(items.examples), POOLS_AT_ONCE):
        examples = items.examples[start : start + POOLS_AT_ONCE]
        rows = [_pool(row) for row in _rows(pools, examples)]
        marks = [_scores(row) for row in _rows(scores, examples)] if scored else [None] * len(rows)
        for run in runs:
            for example, pool, mark in zip(examples, rows, marks, strict=True):
                if isinstance(pool, ScoreFailure):
                    found[run].add(pool)
                elif run.method in BY_SCORE and (mark is None or len(mark) != len(pool)):
                    found[run].add(ScoreFailure("its samples have no scores"))
                else:
                    marked = None if mark is None else [mark]
                    one = choose(items.benchmark, [example], [pool], marked, run.method, run.n)[0]
                    found[run].add(chosen_text(one), one.cost)


def _scores(row: dict[str, Any] | None) -> list[Scored] | None:
    return None if row is None else [read_scored(entry) for entry in row["scores"]]


# Results


def write_results(
    out: Path, items: Items, answered: Mapping[Run, Answered], unknown: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Judge the texts; write the verdicts, `results.json` and `results.md`; give what `results.json` holds."""
    groups = groups_of(items.benchmark, items.examples)
    problems = list(items.problems)
    if unknown:
        verb = "is" if unknown == 1 else "are"
        problems.append(f"{counted(unknown, 'stored item')} {verb} not among these items of the benchmark: left out")
    rows: list[dict[str, Any]] = []
    for run, found in answered.items():
        verdicts = items.benchmark.judge(items.examples, found.texts)
        _write_verdicts(_verdicts_of(out, run), items, verdicts)
        rows += score(run, verdicts, len(items.rejects), groups, found.cost)
    results = {
        **{"benchmark": items.benchmark.name, "title": items.benchmark.title, "split": items.split},
        **{"hub": items.benchmark.hub, "note": items.benchmark.note, "items": len(items)},
        **facts,
        "problems": problems + list(facts.get("problems", ())),
        "rejected": [{"place": reject.place, "reason": reject.reason} for reject in items.rejects],
        "rows": rows,
    }
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))
    return results


def _write_verdicts(path: Path, items: Items, verdicts: Sequence[Verdict]) -> None:
    rows = [
        {"id": example.id} | vars(verdict) | {"question": items.answered.get(example.id) or question_hash(example)}
        for example, verdict in zip(items.examples, verdicts, strict=True)
    ]
    lost = [
        {"id": reject.place} | vars(Verdict("failed", note=f"the item cannot be read: {reject.reason}"))
        for reject in items.rejects
    ]
    write_lines(path, rows + lost)
