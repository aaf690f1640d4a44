"""POST /v1/score: the PRM's scores of chains that someone else made."""

from functools import partial
from typing import TYPE_CHECKING

from chainofstep.chain import Chain, ChainError, Step, parse_prefix
from chainofstep.records import Example, Scored
from chainofstep.scoring.path_score import STEP_WEIGHT
from chainofstep.serve.asking import QUESTION, check_length, question_of
from chainofstep.serve.chat import Desk
from chainofstep.serve.errors import Refusal
from chainofstep.serve.jobs import CLIENT_GONE, Gone, Job, finished
from chainofstep.serve.replies import Row, score_row
from chainofstep.serve.schema import GivenChain, ScoreRequest

if TYPE_CHECKING:
    from fastapi import Request


async def score(desk: Desk, body: ScoreRequest, request: "Request") -> Row:
    """A row of scores for each chain, in order; what cannot be read or scored says why and hinders no other."""
    prm = _prm(desk, body)
    if len(body.chains) > desk.settings.most_samples:
        most = desk.settings.most_samples
        raise Refusal(422, f"{len(body.chains)} chains; send at most {most} at a time", "chains")
    question, urls = _question(body)
    check_length("the question", question, desk.models.context, "question" if body.messages is None else "messages")
    for index, given in enumerate(body.chains):
        check_length(f"chain {index}", _text(given), desk.models.context, f"chains.{index}")
    read = [_chain(given) for given in body.chains]
    chains = [chain for chain in read if isinstance(chain, Chain)]
    async with desk.pictures.used(urls, "images" if body.images else "messages") as paths:
        example = Example(QUESTION, question, paths, "", "word")
        caller = desk.models.caller()
        job: Job[list[Scored]] = Job(desk.crew, caller, partial(caller.score, [(example, chain) for chain in chains]))
        try:
            scored = await finished(job, request.receive)
        except Gone:
            desk.metrics.cancelled.inc()
            raise CLIENT_GONE from None
    scores = iter(scored)
    found: list[tuple[Scored | None, str]] = [
        (next(scores), "") if isinstance(chain, Chain) else (None, chain) for chain in read
    ]
    rows = [score_row(index, scored, problem, STEP_WEIGHT) for index, (scored, problem) in enumerate(found)]
    distinct = set(chains)
    counted = {"scored_chains": len(distinct), "scored_steps": sum(len(chain.steps) for chain in distinct)}
    return {"object": "list", "model": prm, "data": rows, "usage": counted}


def _prm(desk: Desk, body: ScoreRequest) -> str:
    prm = desk.models.prm_name
    if prm is None:
        raise Refusal(404, "this server has no PRM; start it with --prm", "model", "no_prm")
    if body.model is not None and body.model not in (prm, desk.models.name):
        message = f"no model {body.model[:100]!r}; this server's PRM is {prm}"
        raise Refusal(404, message, "model", "model_not_found")
    return prm


def _question(body: ScoreRequest) -> tuple[str, tuple[str, ...]]:
    """The question and the URLs of its pictures, given in one of two ways."""
    if (body.question is None) == (body.messages is None):
        raise Refusal(422, "give either a question with its images, or messages with one user message", "question")
    if body.messages is not None:
        if body.images:
            raise Refusal(422, "images go with a question; those of messages are parts of the message", "images")
        return question_of(body.messages[0])
    assert body.question is not None
    if not body.question.strip():
        raise Refusal(422, "the question is empty", "question")
    return body.question, tuple(body.images)


def _text(given: str | GivenChain) -> str:
    """All text of a chain."""
    if isinstance(given, str):
        return given
    return "".join([*(text for s in given.steps for text in (s.name, s.thought, s.reflection)), given.answer or ""])


def _chain(given: str | GivenChain) -> Chain | str:
    """The chain, or its closed steps where a text is cut; or why there is none."""
    if isinstance(given, GivenChain):
        chain = Chain(tuple(Step(s.name, s.thought, s.reflection) for s in given.steps), given.answer)
    else:
        try:
            chain = parse_prefix(given).chain
        except ChainError as error:
            return f"no chain: {error}"
    return chain if chain.steps or chain.answer is not None else "nothing to score: no step closed, and no answer"
