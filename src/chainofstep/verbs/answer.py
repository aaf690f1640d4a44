"""Answering questions by a search method: many, graded, or one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainofstep.evaluate import Tally, by_group, grade_results, tally
from chainofstep.llm import EndpointDown
from chainofstep.models.endpoint import is_endpoint
from chainofstep.pipeline.rows import forget_failures, write_chunks
from chainofstep.pipeline.spread import HERE, Spread
from chainofstep.records import Example, SamplingErrors, from_row
from chainofstep.search import BY_SCORE, METHODS, Cost, SearchConfig, SearchResult
from chainofstep.settings import resolved
from chainofstep.store import file_hash
from chainofstep.verbs.files import choose, claim, existing, fingerprint, model_path, read_examples

if TYPE_CHECKING:
    from chainofstep.models.vlm import VLM

NEEDS_PRM = BY_SCORE | {"step_beam"}


@dataclass(frozen=True)
class Evaluation:
    """How a method did: a tally for "all" and for each family of examples, and what all of it cost."""

    tallies: dict[str, Tally]
    cost: Cost


def evaluate(
    model: str,
    examples: Path,
    out: Path,
    method: str,
    config: SearchConfig,
    prm: str | None = None,
    spread: Spread = HERE,
) -> Evaluation:
    """Answer each example by a search method and grade it. One row an example: its id, outcome and SearchResult.

    Outcomes are counted from the stored texts, so a finished file is regraded without its model being loaded; examples
    that failed are tried again.
    """
    method = full_name(method)
    prm = _needed_prm(choose(method, METHODS, "method"), prm)
    read = read_examples(examples)
    made_from: dict[str, Any] = {"examples": file_hash(examples), "model": fingerprint(model), "method": method}
    made_from |= {"prm": prm and fingerprint(prm), "search": resolved(config)}
    log = claim(out, made_from)
    forget_failures(log)
    with spread.start() as workers:
        write_chunks(log, method, read, evaluate_chunk, lambda _: (model, method, config, prm), workers)
    rows = {row.pop("id"): row for row in log.rows()}
    for row in rows.values():
        del row["outcome"]
    results = [from_row(SearchResult, rows[example.id]) for example in read]
    outcomes = grade_results(read, results)
    return Evaluation({"all": tally(outcomes)} | by_group(read, outcomes), sum((r.cost for r in results), start=Cost()))


def full_name(method: str) -> str:
    """A search method's name; "beam" is short for "step_beam"."""
    return "step_beam" if method == "beam" else method


def _needed_prm(method: str, prm: str | None) -> str | None:
    """The PRM where the method goes by score."""
    if method not in NEEDS_PRM:
        return None
    if prm is None:
        raise ValueError(f"{method} goes by step scores; give a process reward model's folder with --prm")
    return prm


def evaluate_chunk(
    examples: Sequence[Example], model: str, method: str, config: SearchConfig, prm: str | None
) -> list[dict[str, Any]]:
    """One row {"outcome", and the fields of a SearchResult} for each example; what cannot be encoded has failed."""
    from chainofstep.pipeline.workers import prm as scorer_of
    from chainofstep.pipeline.workers import sampler

    problem = _problems(model, examples, config.max_tokens)
    fine = [example for example in examples if not problem[example.id]]
    scorer = scorer_of(prm) if prm else None

    def answers(asked: Sequence[Example]) -> list[SearchResult]:
        return METHODS[method](asked, sampler(model), scorer, config)

    found = {result.example_id: result for result in _answered(fine, answers)}
    results = [found.get(example.id) or _failed(example.id, problem[example.id]) for example in examples]
    outcomes = grade_results(examples, results)
    return [{"outcome": outcome} | asdict(result) for outcome, result in zip(outcomes, results, strict=True)]


def _answered(
    examples: Sequence[Example], answers: Callable[[Sequence[Example]], list[SearchResult]]
) -> list[SearchResult]:
    """A result for each example; those that the sampler could not meet have failed, and the others go on without."""
    try:
        return answers(examples) if examples else []
    except EndpointDown:  # no fault of the examples: they can be asked again
        raise
    except SamplingErrors as error:
        reasons = {error.ids[number]: reason for number, reason in error.failures.items()}
    failed = [_failed(example.id, reasons[example.id]) for example in examples if example.id in reasons]
    return failed + _answered([example for example in examples if example.id not in reasons], answers)


def _failed(example_id: str, reason: str) -> SearchResult:
    return SearchResult(example_id, None, "", None, None, Cost(), failure=reason)


def _problems(model: str, examples: Sequence[Example], max_tokens: int) -> dict[str, str]:
    """By example, why the model cannot be asked it; "" if it can, or if only its endpoint will know."""
    if is_endpoint(model):
        return dict.fromkeys((example.id for example in examples), "")
    from chainofstep.pipeline.workers import model as loaded

    return {example.id: _encoding_problem(loaded(model), example, max_tokens) for example in examples}


def _encoding_problem(vlm: "VLM", example: Example, max_tokens: int) -> str:
    """Why the model cannot be asked this; "" if it can."""
    from chainofstep.models.encode import encode_prompt

    try:
        tokens = len(encode_prompt(vlm, example).ids)
    except ValueError as error:
        return str(error)
    limit = vlm.model.config.get_text_config().max_position_embeddings
    return "" if tokens + max_tokens <= limit else f"{tokens} tokens and {max_tokens} more exceed a context of {limit}"


def run_models(run: Path, model: str | None = None, prm: str | None = None) -> tuple[str, str | None]:
    """The models that answer: those given, or else the run's policy (of its last round of DPO, or SFT) and its PRM."""
    rounds = {int(folder.name[4:]): folder for folder in run.glob("models/dpo-*") if folder.name[4:].isdecimal()}
    policy = rounds[max(rounds)] if rounds else run / "models" / "sft"
    if model is None and not policy.is_dir():
        raise ValueError(f"{run} has no models/sft; `cos run mini --out {run}` makes it, or give --model")
    judge = run / "models" / "prm"
    return model or str(policy), prm or (str(judge) if judge.is_dir() else None)


def ask(
    picture: Path, question: str, method: str, config: SearchConfig, model: str, prm: str | None = None
) -> SearchResult:
    """Answer a question about a picture by a search method; with a PRM, the chosen chain always has its scores."""
    method = full_name(method)
    answering = [name for name in METHODS if name != "pass_at_n"]  # that one looks at the gold answer
    _needed_prm(choose(method, answering, "method"), prm)
    example = Example("question", question, (str(existing(picture)),), "", "word")
    from chainofstep.pipeline.workers import prm as scorer_of
    from chainofstep.pipeline.workers import sampler

    scorer = scorer_of(model_path(prm)) if prm else None
    result = METHODS[method]([example], sampler(model_path(model)), scorer, config)[0]
    if scorer is None or result.chain is None or result.scores is not None:
        return result
    return replace(result, scores=scorer.score([(example, result.chain)])[0])
