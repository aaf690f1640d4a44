"""Answering one question by search methods, and the models that do it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chainofstep.records import Example
from chainofstep.search import METHODS, SearchConfig, SearchResult
from chainofstep.verbs.evaluate import full_name, needed_prm
from chainofstep.verbs.files import choose, existing, model_path

if TYPE_CHECKING:
    from chainofstep.answering import Watch

#: Methods that need no gold answer.
ANSWERING = tuple(name for name in METHODS if name != "pass_at_n")


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

    With a PRM the chosen chain always has its scores. ValueError for a method, picture or model that cannot be had.
    """
    names = [choose(full_name(method), ANSWERING, "method") for method in methods]
    needed_prm(names, prm)
    example = Example("question", question, (str(existing(picture)),), "", "word")
    from chainofstep.answering import answer, open_models

    with open_models(model_path(model), model_path(prm) if prm else None) as models:
        yield {name: partial(answer, models.caller(), example, name, config) for name in names}
