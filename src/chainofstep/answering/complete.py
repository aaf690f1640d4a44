"""Sampling texts while someone watches, and scoring their steps as they close."""

from collections.abc import Sequence
from dataclasses import dataclass

from chainofstep.answering.events import Progress, Teller, TextMade, Watch, ignore
from chainofstep.answering.models import Caller
from chainofstep.chain import Chain, ChainError, parse_prefix
from chainofstep.records import Example, Request, Rollout, Scored, StepScores


@dataclass(frozen=True)
class Completion:
    """A sampled text, and the scores of its chain, or of the steps that closed where it is cut."""

    rollout: Rollout
    scores: Scored | None  # None without a PRM, and for a text without a step


def complete(
    caller: Caller, request: Request, watch: Watch = ignore, scored: bool = True, texts: bool = False
) -> list[Completion]:
    """The request's samples; blocks until all are there.

    `watch` is told steps as they close, and with `texts` the raw text as well. As `Engine.sample` for what is wrong.
    """
    scored = scored and caller.scores
    if watch is ignore:
        return _scored(caller, request, caller.sample([request])[0], scored)
    call = caller.begin([request], watched=True)
    tellers = [Teller(watch, choice) for choice in range(request.n)]
    for update in call.updates():
        watch(Progress(update.finished, request.n))
        for (_, index), text in update.texts.items():
            choice = index - request.first
            if texts:
                watch(TextMade(choice, text.rstrip("\ufffd")))  # half a character, so far
            _tell_steps(caller, request.example, tellers[choice], request.prefix + text, scored)
    completions = _scored(caller, request, call.result()[0], scored)
    for choice, completion in enumerate(completions):
        if texts:
            watch(TextMade(choice, completion.rollout.text[len(request.prefix) :]))
        tellers[choice].chain(_closed(completion.rollout.text), completion.scores)
    return completions


def _tell_steps(caller: Caller, example: Example, teller: Teller, text: str, scored: bool) -> None:
    chain = _closed(text)
    if chain is None or len(chain.steps) <= len(teller.told):
        return
    found = caller.score([(example, Chain(chain.steps))])[0] if scored else None
    scores = found.steps if isinstance(found, StepScores) else [None] * len(chain.steps)
    teller.steps(chain.steps, scores)


def _closed(text: str) -> Chain | None:
    """The steps of a text that closed, and its answer if it did; None where it is no chain or has nothing closed."""
    try:
        chain = parse_prefix(text).chain
    except ChainError:
        return None
    return chain if chain.steps or chain.answer is not None else None


def _scored(caller: Caller, request: Request, rollouts: Sequence[Rollout], scored: bool) -> list[Completion]:
    """The rollouts with the scores of their chains, all scored in one call."""
    chains = [_closed(rollout.text) if scored else None for rollout in rollouts]
    found = iter(caller.score([(request.example, chain) for chain in chains if chain is not None]) if scored else ())
    return [Completion(r, None if c is None else next(found)) for r, c in zip(rollouts, chains, strict=True)]
