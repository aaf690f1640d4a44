"""Replies in OpenAI's shape, from what the models came to."""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chainofstep.answering import Completion
from chainofstep.chain import REASONING_TOKENS, Chain, ChainError, Step, parse, parse_prefix, unescape
from chainofstep.records import Rollout, Scored, ScoreFailure, StepScores
from chainofstep.scoring.path_score import path_score
from chainofstep.search import Cost, SearchResult
from chainofstep.serve.asking import Asked

_TOKENS = re.compile("|".join(re.escape(token) for token in REASONING_TOKENS))
Row = dict[str, Any]
Tokens = Callable[[Sequence[int]], list[str]]  # the text of each token


@dataclass(frozen=True)
class Said:
    """One choice: its text without the prefix, cut where it was asked to be, and the chain that all of it makes."""

    text: str
    chain: Chain  # its closed part
    begun: int  # steps of the chain that the prefix held already
    problem: str  # why it is no whole chain; "" for one
    scored: Scored | None
    finish: str  # "stop" or "length"
    rollout: Rollout | None = None
    cut: bool = False  # at a text that was to stop it

    @property
    def steps(self) -> list[Row]:
        return [step_row(step, score) for step, score in zip(self.chain.steps, self._step_scores, strict=True)]

    @property
    def new_steps(self) -> tuple[Step, ...]:
        return self.chain.steps[self.begun :]

    @property
    def _scores(self) -> StepScores | None:
        return self.scored if isinstance(self.scored, StepScores) else None

    @property
    def _step_scores(self) -> Sequence[float | None]:
        count = len(self.chain.steps)
        return self._scores.steps[:count] if self._scores else [None] * count

    @property
    def answer_score(self) -> float | None:
        return self._scores.answer if self._scores and self.chain.answer is not None else None

    @property
    def row(self) -> Row:
        """The chain as JSON."""
        unscored = self.scored.reason if isinstance(self.scored, ScoreFailure) else ""
        return {
            "steps": self.steps,
            "answer": self.chain.answer,
            "score": self.answer_score,
            "problem": self.problem,
            "unscored": unscored,
        }

    def content(self, raw: bool) -> str:
        """The raw text; or the answer; or, of what is no chain, the text without step tokens."""
        if raw:
            return self.text
        return plain(self.text) if self.chain.answer is None else self.chain.answer

    def message(self, raw: bool) -> Row:
        reasoning = None if raw else "".join(step_text(step, n == 0) for n, step in enumerate(self.new_steps))
        content = {"content": self.content(raw), "reasoning_content": reasoning or None}
        return {"role": "assistant", **content, "refusal": None, "chain": self.row}


def step_row(step: Step, score: float | None) -> Row:
    return {"name": step.name, "thought": step.thought, "reflection": step.reflection, "score": score}


def step_text(step: Step, first: bool) -> str:
    """A step as plain text; those of a chain, one after the other, are its reasoning."""
    lines = [line for line in (step.name, step.thought, step.reflection) if line.strip()]
    return ("" if first else "\n\n") + "\n".join(lines)


def plain(text: str) -> str:
    return unescape(_TOKENS.sub("", text)).strip()


# What was said


def said_of(completion: Completion, asked: Asked) -> Said:
    """One plain sample. Scores of a step do not depend on what comes after it, so those of a cut text stay."""
    rollout, begun = completion.rollout, closed_steps(asked.prefix)
    text = rollout.text[len(asked.prefix) :]
    end = cut_at(text, asked.cuts)
    chain, problem = _closed(asked.prefix + text[:end])
    cut = end < len(text)
    finish = "length" if rollout.ending == "length" and not cut else "stop"
    return Said(text[:end], chain, begun, problem, completion.scores, finish, rollout, cut)


def said_of_search(result: SearchResult) -> Said:
    """What a search came to."""
    if result.chain is not None:
        return Said(result.text, result.chain, 0, "", result.scores, "stop")
    chain, problem = _closed(result.text)
    return Said(result.text, replace(chain, answer=None), 0, result.failure or problem, result.scores, "length")


def closed_steps(text: str) -> int:
    return len(_closed(text)[0].steps)


def cut_at(text: str, cuts: Sequence[str]) -> int:
    """Where the first of these texts begins; the end where there is none."""
    return min((place for cut in cuts if (place := text.find(cut)) >= 0), default=len(text))


def _closed(text: str) -> tuple[Chain, str]:
    """The closed part of a text, and why it is no whole chain."""
    try:
        return parse(text), ""
    except ChainError as error:
        problem = str(error)
    try:
        return parse_prefix(text).chain, problem
    except ChainError:
        return Chain(()), problem


# Whole replies


def envelope(model: str, kind: str) -> Row:
    """What every reply, or every chunk of one, begins with."""
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt_tokens: int, completion_tokens: int) -> Row:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def cost_of(said: Sequence[Said]) -> Cost:
    """Of plain samples; equal chains are scored once."""
    scored = {each.chain for each in said if each.scored is not None}
    tokens = sum(len(each.rollout.token_ids) for each in said if each.rollout is not None)
    return Cost(tokens, len(scored), sum(len(chain.steps) for chain in scored))


def cost_row(cost: Cost, seconds: float) -> Row:
    counted = {"sampled_tokens": cost.sampled_tokens, "scored_chains": cost.scored_chains}
    return counted | {"scored_steps": cost.scored_steps, "seconds": round(seconds, 4)}


def search_row(asked: Asked, result: SearchResult) -> Row:
    """What a search looked at, level by level."""
    levels = [
        [{"text": c.text, "count": c.count, "value": c.value, "kept": c.kept, "problem": c.problem} for c in candidates]
        for candidates in result.trace
    ]
    config = asked.config
    n = 1 if asked.method == "greedy" else config.n
    head = {"method": asked.method, "n": n, "width": config.width, "failure": result.failure}
    return head | {"candidates": levels}


def choice_row(index: int, said: Said, asked: Asked, tokens: Tokens) -> Row:
    logprobs, more = last_fields(said, asked, tokens)
    finish = {"finish_reason": said.finish, "logprobs": logprobs}
    return {"index": index, "message": said.message(asked.raw), **finish, **more}


def last_fields(said: Said, asked: Asked, tokens: Tokens) -> tuple[Row | None, Row]:
    """The log-probabilities and the token ids of a choice, where they are asked for."""
    more: Row = {"token_ids": _kept_ids(said, tokens)} if asked.token_ids else {}
    return (_logprobs(said, tokens) if asked.logprobs else None), more


def _kept_ids(said: Said, tokens: Tokens) -> list[int]:
    """The sampled tokens of a choice, up to where its text was cut."""
    assert said.rollout is not None
    ids, length = list(said.rollout.token_ids), 0
    if not said.cut:
        return ids
    for count, text in enumerate(tokens(ids)):
        if length >= len(said.text):
            return ids[:count]
        length += len(text)
    return ids


def _logprobs(said: Said, tokens: Tokens) -> Row | None:
    """In OpenAI's shape; None where the models do not give them."""
    rollout = said.rollout
    if rollout is None or rollout.logprobs is None:
        return None
    ids = _kept_ids(said, tokens)
    rows = [
        {"token": text, "logprob": logprob, "bytes": _bytes(text), "top_logprobs": []}
        for text, logprob in zip(tokens(ids), rollout.logprobs, strict=False)
    ]
    return {"content": rows, "refusal": None}


def _bytes(text: str) -> list[int] | None:
    """None where a token is a part of a character alone."""
    return None if "\ufffd" in text else list(text.encode("utf-8"))


def score_row(index: int, scored: Scored | None, problem: str, step_weight: float) -> Row:
    """One chain's scores, or why it has none."""
    if isinstance(scored, StepScores):
        path = path_score(scored, step_weight) if scored.steps or scored.answer is not None else None
        row = {"index": index, "steps": list(scored.steps), "answer": scored.answer, "path": path}
        return row | {"error": None}
    reason = scored.reason if isinstance(scored, ScoreFailure) else problem
    return {"index": index, "steps": [], "answer": None, "path": None, "error": reason}
