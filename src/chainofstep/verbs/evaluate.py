"""A benchmark's items answered by several methods, in one folder that is gone on with and regraded from its texts.

OUT/eval.json                    what it is made from, and the methods that are finished
OUT/greedy/rollouts.jsonl        {"id", "rollouts"}
OUT/pool/rollouts.jsonl          one pool of samples for all methods that choose from one
OUT/pool/scores.jsonl            its PRM scores
OUT/beam-16-1/results.jsonl      a SearchResult an item
OUT/verdicts/greedy.jsonl        {"id", "outcome", "answer", "credit", "note", "question"}
OUT/results.json, results.md     figures and tables
OUT/extraction.sqlite            replies of an extractor, and extraction_prompt.txt: what it is asked
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainofstep.benchmarks.scores import Run
from chainofstep.llm import Endpoint, EndpointDown
from chainofstep.pipeline import workers
from chainofstep.pipeline.rows import CHUNK, forget_failures, has_failed, write_chunks
from chainofstep.pipeline.spread import HERE, Spread
from chainofstep.records import Example, Rollout, SamplingErrors, from_row
from chainofstep.row_index import RowIndex
from chainofstep.scoring.path_score import NO_CHAIN
from chainofstep.search import (
    BY_SCORE,
    METHODS,
    NEED_SCORES,
    POOL_METHODS,
    UNFINISHED,
    Cost,
    SearchConfig,
    SearchResult,
)
from chainofstep.settings import difference, resolved
from chainofstep.store import Log, read_json, write_json
from chainofstep.verbs.files import choose, fingerprint, locked
from chainofstep.verbs.grading import GREEDY, POOL, SCORES, beam_log, grade
from chainofstep.verbs.items import fingerprint_of, read_items
from chainofstep.verbs.reading import check_extractor, graded

if TYPE_CHECKING:
    from concurrent.futures import Executor

ROWS_AT_ONCE = 512  # samples in one call of the sampler: towards its end fewer and fewer are in flight
SETTINGS = "eval.json"
HASH_DIGITS = 64


def evaluate(
    benchmark: str,
    model: str,
    out: Path,
    methods: Sequence[str] = ("greedy",),
    sizes: Sequence[int] = (16,),
    config: SearchConfig = SearchConfig(),  # noqa: B008  # frozen
    prm: str | None = None,
    prompt: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    spread: Spread = HERE,
    extractor: Endpoint | None = None,
) -> dict[str, Any]:
    """Answer a benchmark's items by each method at each N of `sizes`, grade them, and give what `results.json` holds.

    `config` says how to sample; its `n` does not matter. What is stored is not made again, and a finished folder is
    regraded without its model being loaded; items that failed are tried again. Another method may be added later. The
    model of `extractor` reads the replies that the benchmark's rules cannot, where it has a way.
    """
    runs = runs_of(methods, sizes, config.width)
    check_sampling(config)
    prm = needed_prm([run.method for run in runs], prm)
    items = read_items(benchmark, split, limit)
    check_extractor(items.benchmark, extractor)
    how = items.prompt(prompt)
    asked = items.asked(how)
    made_from: dict[str, Any] = {"benchmark": items.benchmark.name, "split": items.split, "limit": limit, "prompt": how}
    made_from |= {"model": fingerprint(model), "sampling": _sampling(config), "asked": fingerprint_of(asked)}
    made_from |= {"prm": fingerprint(prm)} if prm else {}
    pool = max((run.n for run in runs if run.method in POOL_METHODS), default=None)
    made_from |= {"pool": pool} if pool else {}
    _claimed(out, made_from)  # before the lock, which would leave a file in a folder that is another's
    with locked(out):
        settings = _claimed(out, made_from)
        write_json(out / SETTINGS, settings)
        with spread.start() as team:
            maker = _Maker(asked, model, prm, config, out, team)
            for stage in maker.stages(runs, settings["pool"] if pool else None):
                stage()
        known = _finished(out, runs)
        facts = {"model": model, "prm": prm, "prompt": how, "sampling": _sampling(config)}
        return graded(out, items, lambda read: grade(out, read, known), facts, extractor)


def runs_of(methods: Sequence[str], sizes: Sequence[int], width: int) -> list[Run]:
    """Each method at each N, once; ValueError for a method that is none, or sizes that do not fit it."""
    names = [choose(full_name(method), METHODS, "method") for method in methods]
    if not names or not sizes or min(sizes) < 1:
        raise ValueError(f"methods {list(methods)} at N {list(sizes)}: give at least one method, and N from 1")
    if "step_beam" in names and (width < 1 or any(n % width for n in sizes)):
        raise ValueError(f"n is {', '.join(map(str, sizes))} and width {width}; choose a width that divides n")
    runs = [
        Run(name, n if name != "greedy" else 1, width if name == "step_beam" else 1) for name in names for n in sizes
    ]
    return list(dict.fromkeys(runs))


def check_sampling(config: SearchConfig) -> None:
    """`ValueError` for a setting of sampling that means nothing, with its value."""
    for name, fits, wanted in (
        ("max_tokens", config.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= config.temperature < inf, "0 or more"),
        ("top_p", 0 < config.top_p <= 1, "a number above 0, up to 1"),
    ):
        if not fits:
            raise ValueError(f"{name} is {getattr(config, name)}; give {wanted}")


def full_name(method: str) -> str:
    """A search method's name; "beam" is short for "step_beam"."""
    return "step_beam" if method == "beam" else method


def needed_prm(methods: Sequence[str], prm: str | None) -> str | None:
    """The PRM where a method goes by score."""
    needing = [method for method in methods if method in NEED_SCORES]
    if needing and prm is None:
        raise ValueError(f"{needing[0]} goes by step scores; give a process reward model's folder with --prm")
    return prm if needing else None


def _sampling(config: SearchConfig) -> dict[str, Any]:
    """What all methods share: neither `n` nor `width`."""
    return {name: value for name, value in resolved(config).items() if name not in ("n", "width")}


def settings_in(out: Path) -> dict[str, Any] | None:
    """What an evaluation's folder was made from, None for a new one; `ValueError` for one that holds something else."""
    if (out / SETTINGS).is_file():
        saved: dict[str, Any] = read_json(out / SETTINGS)
        return saved
    if out.is_file() or (out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir())):
        raise ValueError(f"{out} has files but no {SETTINGS}, so it is no evaluation's: choose another --out")
    return None


def check_same(out: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """`ValueError` names the first setting that both have and in which they differ, and both its values."""
    both = {name: value for name, value in wanted.items() if name in saved}
    if changed := difference({name: saved[name] for name in both}, both):
        raise ValueError(
            f"{out} was made with {changed}={_value(saved, changed)}, not {_value(wanted, changed)}: "
            "choose another --out, or delete the folder"
        )


def _value(values: Any, path: str) -> str:
    """The value at a dotted path; a hash by its first digits."""
    for name in path.split("."):
        values = values.get(name)
    return repr(values[:12] if isinstance(values, str) and len(values) == HASH_DIGITS else values)


def _claimed(out: Path, made_from: dict[str, Any]) -> dict[str, Any]:
    """The folder's settings with these, once it is certain that it is this evaluation's."""
    saved = settings_in(out)
    if saved is None:
        return made_from | {"runs": []}
    if "source" in saved:
        raise ValueError(f"{out} holds what was graded from {saved['source']}: choose another --out")
    pool, wanted = saved.get("pool", 0), made_from.get("pool", 0)
    if 0 < pool < wanted:
        raise ValueError(f"{out} has a pool of {pool} samples, too few for N = {wanted}: choose another --out")
    check_same(out, saved, {name: value for name, value in made_from.items() if name != "pool"})
    return made_from | saved


def _finished(out: Path, runs: Sequence[Run]) -> list[Run]:
    """All runs of the folder that are finished, now that these are."""
    saved = read_json(out / SETTINGS)
    known = list(dict.fromkeys([*(Run(**run) for run in saved["runs"]), *runs]))
    write_json(out / SETTINGS, saved | {"runs": [asdict(run) for run in known]})
    return known


# Making


class _Maker:
    """The stages of an evaluation, each going on with the rows that are there."""

    def __init__(
        self,
        asked: Sequence[Example],
        model: str,
        prm: str | None,
        config: SearchConfig,
        out: Path,
        team: "Executor | None",
    ):
        self.asked, self.model, self.prm, self.config, self.out = asked, model, prm, config, out
        self.team = team

    def stages(self, runs: Sequence[Run], pool: int | None) -> Iterator[Callable[[], None]]:
        if any(run.method == "greedy" for run in runs):
            yield self.greedy
        if pool is not None:
            yield lambda: self.pool(pool)
        if any(run.method in BY_SCORE for run in runs):
            yield self.scores
        for run in runs:
            if run.method == "step_beam":
                yield lambda run=run: self.beam(run)  # type: ignore[misc]

    def greedy(self) -> None:
        """A base model has no step tokens, and may do without."""
        config = replace(self.config, n=1, temperature=0.0, top_p=1.0)
        self._sampled(GREEDY, "greedy", config, steps=False)

    def pool(self, n: int) -> None:
        self._sampled(POOL, f"pool of {n}", replace(self.config, n=n), steps=True)

    def _sampled(self, name: str, title: str, config: SearchConfig, steps: bool) -> None:
        log = self._log(name)
        arguments = (self.model, config, steps)
        at_once = max(CHUNK, ROWS_AT_ONCE // config.n)
        write_chunks(log, title, self.asked, workers.sample_chunk, lambda _: arguments, self.team, at_once)

    def scores(self) -> None:
        """Of the items that have a pool; those without one are tried again by the next command."""
        assert self.prm is not None
        pools, scorer = RowIndex(self.out / POOL), workers.Scorer("prm", self.prm)
        sampled = [row["id"] for row in pools.rows(list(pools.offsets)) if not row.get("failure")]

        def arguments(chunk: Sequence[Example]) -> tuple[Any, ...]:
            rows = pools.rows([example.id for example in chunk])
            return [[from_row(Rollout, rollout) for rollout in row["rollouts"]] for row in rows], scorer

        chosen = set(sampled)
        examples = [example for example in self.asked if example.id in chosen]
        write_chunks(self._log(SCORES, _unscored), "scores", examples, workers.score_chunk, arguments, self.team)

    def beam(self, run: Run) -> None:
        arguments = (self.model, replace(self.config, n=run.n, width=run.width), self.prm)
        write_chunks(self._log(beam_log(run)), run.name, self.asked, beam_chunk, lambda _: arguments, self.team)

    def _log(self, name: str, has_failed: Callable[[dict[str, Any]], bool] = has_failed) -> Log:
        log = Log(self.out / name)
        forget_failures(log, has_failed)
        return log


def _unscored(row: dict[str, Any]) -> bool:
    """Whether the scorer failed on every chain of a pool. Samples that are no chains were not shown to it."""
    reasons = [entry.get("reason", "") for entry in row["scores"]]
    return all(reasons) and not all(reason.startswith(NO_CHAIN) for reason in reasons)


def beam_chunk(examples: Sequence[Example], model: str, config: SearchConfig, prm: str) -> list[dict[str, Any]]:
    """The fields of a SearchResult for each example; what a model cannot be asked has failed.

    A search that only found no whole chain has not: it has no answer, and would have none again.
    """

    def search(asked: Sequence[Example]) -> list[SearchResult]:
        return METHODS["step_beam"](asked, workers.sampler(model), workers.prm(prm), config)

    found = {result.example_id: result for result in answered(examples, search)}
    results = [found[example.id] for example in examples]
    return [asdict(replace(one, failure="") if one.failure == UNFINISHED else one) for one in results]


def answered(
    examples: Sequence[Example], answers: Callable[[Sequence[Example]], list[SearchResult]]
) -> list[SearchResult]:
    """A result for each example; those that the sampler could not meet have failed, and the others begin again."""
    try:
        return answers(examples) if examples else []
    except EndpointDown:  # no fault of the examples: they can be asked again
        raise
    except SamplingErrors as error:
        reasons = {error.ids[number]: reason for number, reason in error.failures.items()}
    failed = [
        SearchResult(example.id, None, "", None, None, Cost(), failure=reasons[example.id])
        for example in examples
        if example.id in reasons
    ]
    return failed + answered([example for example in examples if example.id not in reasons], answers)
