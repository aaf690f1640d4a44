"""Answering one question by search methods, and the models that do it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chainofstep.records import Example, SamplingErrors
from chainofstep.search import ANSWERING, SearchConfig, SearchResult
from chainofstep.verbs.evaluate import check_sampling, full_name, needed_prm
from chainofstep.verbs.files import choose, existing, model_path

if TYPE_CHECKING:
    from chainofstep.answering import Models, Watch


def run_models(run: Path, model: str | None = None, prm: str | None = None) -> tuple[str, str | None]:
    """The models that answer: those given, or else the run's policy (of its last round of DPO, or SFT) and its PRM."""
    rounds = {int(folder.name[4:]): folder for folder in run.glob("models/dpo-*") if folder.name[4:].isdecimal()}
    policy = rounds[max(rounds)] if rounds else run / "models" / "sft"
    if model is None and not policy.is_dir():
        raise ValueError(f"{run} has no models/sft; `cos run mini --out {run}` makes it, or give --model")
    judge = run / "models" / "prm"
    return model or str(policy), prm or (str(judge) if judge.is_dir() else None)


@contextmanager
def asking(
    picture: Path, question: str, methods: Sequence[str], config: SearchConfig, model: str, prm: str | None = None
) -> "Iterator[dict[str, Callable[[Watch], SearchResult]]]":
    """The methods by name, each a function that answers the question while someone watches.

    With a PRM the chosen chain always has its scores. ValueError for a method, picture or model that cannot be had,
    an empty question and numbers that mean nothing, before any model is loaded.
    """
    names = _names(methods)
    _check_numbers(config, names)
    needed_prm(names, prm)
    if not question.strip():
        raise ValueError(f"the question is {question!r}: ask something about the picture")
    example = Example("question", question, (str(existing(picture)),), "", "word")
    from chainofstep.answering import open_models

    with open_models(model_path(model), model_path(prm) if prm else None) as models:
        yield {name: partial(_answer, models, example, name, config) for name in names}


def _names(methods: Sequence[str]) -> list[str]:
    """The methods' whole names, each once."""
    if not all(methods):
        raise ValueError(f"a method's name is empty in {','.join(methods)!r}: there are {', '.join(ANSWERING)}")
    names = [choose(full_name(method), ANSWERING, "method") for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"method {twice} is named twice in {','.join(methods)!r}: name each once")
    return names


def _check_numbers(config: SearchConfig, names: Sequence[str]) -> None:
    check_sampling(config)
    for name, number in (("n", config.n), ("width", config.width)):
        if number < 1:
            raise ValueError(f"{name} is {number}; give at least 1")
    if "step_beam" in names and config.n % config.width:
        raise ValueError(f"n is {config.n} and width {config.width}; choose a width that divides n")


def _answer(models: "Models", example: Example, method: str, config: SearchConfig, watch: "Watch") -> SearchResult:
    """`answer`; what cannot be sampled is told without the number of the request, for there is only one question."""
    from chainofstep.answering import answer

    try:
        return answer(models.caller(), example, method, config, watch)
    except SamplingErrors as error:
        raise ValueError(error.failures[min(error.failures)]) from error
