"""Asking endpoints for a whole set: jobs from examples, replies kept as text, and what is read from them.

A log of replies has one row an example, {"id", "replies"}, in the examples' order. Nothing is decided while asking:
filters, votes and mapping rules read the log and can be run again for nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chainofstep.chain import render
from chainofstep.llm import Endpoint, Failure, Outcome, Prompt, Reply, Spending
from chainofstep.llm.in_order import Answers, Job, ask_in_order
from chainofstep.problems.skeleton import Draft
from chainofstep.problems.teacher import Task, read_reply, steps_prompt
from chainofstep.progress import progress
from chainofstep.records import Example, Rollout, Scored, ScoreFailure, from_row, to_row
from chainofstep.row_index import RowIndex
from chainofstep.scoring.judge import Neutral, judge_prompt, judgement
from chainofstep.store import Log

_ANSWER: TypeAdapter[Outcome] = TypeAdapter(Outcome)


@dataclass(frozen=True)
class Asking:
    """An endpoint, the file of replies already paid for, and the name shown while asking."""

    endpoint: Endpoint
    cache: Path
    title: str


def ask_log(
    asking: Asking, log: Log, ids: Sequence[str], prompts_of: Callable[[Sequence[str]], Iterator[tuple[Prompt, ...]]]
) -> Spending:
    """Append a row of replies for each of `ids` that has none. `prompts_of` gives the prompts of some ids, in order.

    `ValueError` if some were not answered: the log holds all others.
    """
    done = RowIndex(log.path)
    missing = [name for name in ids if name not in done]
    rows = _Rows(log, asking, heard=len(done) > 0)
    jobs = (Job(*job) for job in zip(missing, prompts_of(missing), strict=True))
    with progress(asking.title, len(ids)) as tick:
        tick(len(done))

        def show(count: int) -> None:
            tick(len(done) + count, spent_words(rows.paid, asking.endpoint))

        asked = ask_in_order(asking.endpoint, jobs, rows.write, asking.cache, show)
    rows.check()
    if asked.unanswered:
        reason, _ = asked.unanswered.most_common(1)[0]
        raise ValueError(
            f"{asking.title}: {asked.unanswered.total()} of {len(ids)} were not answered ({reason}); "
            "give the same command again, it asks for these alone"
        )
    return asked.spending


class _Rows:
    """Rows of replies on their way to the log. Failures wait until a reply says that not the settings are at fault."""

    def __init__(self, log: Log, asking: Asking, heard: bool):
        self.log, self.asking, self.heard = log, asking, heard
        self.paid = Spending()  # replies alone: what retries cost is known at the end
        self.held: list[dict[str, Any]] = []

    def write(self, job: Job, answers: Answers) -> None:
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        for reply in replies:
            if not reply.cached:
                self.paid.prompt_tokens += reply.prompt_tokens
                self.paid.completion_tokens += reply.completion_tokens
        self.held.append({"id": job.id, "replies": [_row_of(answer) for answer in answers]})
        self.heard = self.heard or bool(replies) or not job.prompts
        if self.heard:
            for row in self.held:
                self.log.append(row)
            self.held.clear()

    def check(self) -> None:
        """`ValueError` if nobody said anything."""
        if self.held:
            raise ValueError(
                f"{self.asking.title}: none of {len(self.held)} was answered "
                f"({self.held[0]['replies'][0]['reason']}); mend the endpoint's settings, and give the command again"
            )


def ask_for_steps(asking: Asking, log: Log, examples: "Examples", task: Task, samples: int = 1) -> Spending:
    """Replies with steps for every example: one from its reference answer, or `samples` without it."""

    def prompts_of(names: Sequence[str]) -> Iterator[tuple[Prompt, ...]]:
        for example in examples.read(names):
            yield tuple(steps_prompt(example, task, sample) for sample in range(samples))

    return ask_log(asking, log, list(examples), prompts_of)


def ask_for_verdicts(asking: Asking, log: Log, examples: "Examples", rollouts: "Pools", votes: int) -> Spending:
    """`votes` verdicts on each rollout that is a chain with steps, rollout by rollout."""

    def prompts_of(names: Sequence[str]) -> Iterator[tuple[Prompt, ...]]:
        for example, pool in zip(examples.read(names), rollouts.read(names), strict=True):
            yield tuple(
                judge_prompt(example, rollout.chain, f"{example.id}#{number}", sample)
                for number, rollout in enumerate(pool)
                if rollout.chain and rollout.chain.steps
                for sample in range(votes)
            )

    return ask_log(asking, log, list(examples), prompts_of)


def spent_words(spending: Spending, endpoint: Endpoint) -> str:
    """What was paid for, in a few words."""
    tokens = spending.prompt_tokens + spending.completion_tokens
    dollars = spending.dollars(endpoint)
    return f"{tokens:,} tokens" + ("" if dollars is None else f", ${dollars:,.2f}")


#: What of an endpoint decides its texts; its address, limits and prices may change while a set is made.
TEXT_SETTINGS = ("model", "temperature", "top_p", "max_tokens", "seed", "structured")


def text_settings(endpoint: Endpoint) -> dict[str, Any]:
    """These settings, by name."""
    return {name: getattr(endpoint, name) for name in TEXT_SETTINGS}


# What the logs hold


def _row_of(answer: Outcome) -> dict[str, Any]:
    """Where an answer came from is no part of it: a log is the same whether it was paid for today or before."""
    return to_row(replace(answer, cached=False) if isinstance(answer, Reply) else answer)


def read_answers(log: Path, names: Sequence[str]) -> Iterator[Answers]:
    """The replies of these examples, in this order."""
    for row in RowIndex(log).rows(list(names)):
        yield [_ANSWER.validate_python(answer) for answer in row["replies"]]


def draft_or_reason(answer: Outcome) -> Draft | str:
    """The draft in a reply, or why there is none: `reply: ...` or `parses: ...`."""
    if isinstance(answer, Failure):
        return f"reply: {answer.reason}"
    try:
        return read_reply(answer)
    except ValueError as error:
        return f"parses: {error}"


def rollouts_of(example: Example, answers: Answers) -> list[Rollout]:
    """Replies as rollouts; one that cannot be read stays as it was written, and is no chain."""
    return [_rollout(example, index, answer) for index, answer in enumerate(answers)]


def _rollout(example: Example, index: int, answer: Outcome) -> Rollout:
    draft = draft_or_reason(answer)
    if isinstance(draft, Draft) and draft.answer is not None:
        return Rollout(example.id, render(draft.chain), (), "answer", 0, index)
    text = answer.text if isinstance(answer, Reply) else ""
    return Rollout(example.id, text, (), "length", 0, index)


def judged_scores(
    example: Example, pool: Sequence[Rollout], judges: Sequence[Answers], votes: int, neutral: Neutral
) -> list[Scored]:
    """The vote of all judges on each rollout. One that is no chain with steps was not judged, and fails."""
    scored: list[Scored] = []
    place = 0
    for rollout in pool:
        if rollout.chain is None or not rollout.chain.steps:
            scored.append(ScoreFailure(f"parses: {rollout.parsed if rollout.chain is None else 'no steps'}"))
            continue
        replies = [answer for answers in judges for answer in answers[place : place + votes]]
        scored.append(judgement(rollout.chain, replies).scored(example, rollout.chain, neutral))
        place += votes
    return scored


class Examples:
    """The examples of a file by id, read one at a time, with pictures as paths that open."""

    def __init__(self, path: Path, locate: Callable[[str], str] = str):
        self.index, self.locate = RowIndex(path), locate

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, names: Sequence[str]) -> Iterator[Example]:
        for row in self.index.rows(list(names)):
            yield _example(row, self.locate)


class Pools:
    """The rollouts of a file by example id, read one at a time."""

    def __init__(self, path: Path):
        self.index = RowIndex(path)

    def read(self, names: Sequence[str]) -> Iterator[list[Rollout]]:
        for row in self.index.rows(list(names)):
            yield [from_row(Rollout, rollout) for rollout in row["rollouts"]]


def _example(row: dict[str, Any], locate: Callable[[str], str]) -> Example:
    return from_row(Example, row | {"images": [locate(image) for image in row["images"]]})
