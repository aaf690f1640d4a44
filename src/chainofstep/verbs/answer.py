"""Answering one question by a search method, and the models that do it."""

from dataclasses import replace
from pathlib import Path

from chainofstep.records import Example
from chainofstep.search import METHODS, SearchConfig, SearchResult
from chainofstep.verbs.evaluate import full_name, needed_prm
from chainofstep.verbs.files import choose, existing, model_path


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
    needed_prm([choose(method, answering, "method")], prm)
    example = Example("question", question, (str(existing(picture)),), "", "word")
    from chainofstep.pipeline.workers import prm as scorer_of
    from chainofstep.pipeline.workers import sampler

    scorer = scorer_of(model_path(prm)) if prm else None
    result = METHODS[method]([example], sampler(model_path(model)), scorer, config)[0]
    if scorer is None or result.chain is None or result.scores is not None:
        return result
    return replace(result, scores=scorer.score([(example, result.chain)])[0])
