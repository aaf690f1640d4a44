"""Jobs of one or more prompts, written in the order they came in: what a killed command goes on from.

Replies come in any order, and each is in the cache before anything else happens to it. A job is handed on when all of
its replies are there and all jobs before it were, so a log of jobs is the same bytes whichever reply came first.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from chainofstep.llm.client import ask
from chainofstep.llm.records import Endpoint, Failure, Outcome, Prompt, Spending

Answers = list[Outcome]


@dataclass(frozen=True)
class Job:
    """The prompts whose replies make one row; a job without prompts has its row in its place all the same."""

    id: str
    prompts: tuple[Prompt, ...]


@dataclass
class _Open:
    """A job whose replies are not all there."""

    job: Job
    answers: dict[int, Outcome] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.job.prompts)

    @property
    def passing(self) -> str | None:
        """Why the job is to be asked again another time; None where it is answered for good."""
        failures = (answer for answer in self.answers.values() if isinstance(answer, Failure) and answer.passing)
        return next((failure.reason for failure in failures), None)


@dataclass(frozen=True)
class Asked:
    """What asking cost, and the jobs that no answer came for, by reason: they are not written, only asked again."""

    spending: Spending
    unanswered: Counter[str]


def ask_in_order(
    endpoint: Endpoint,
    jobs: Iterable[Job],
    write: Callable[[Job, Answers], None],
    cache: Path,
    tick: Callable[[int], None] = lambda done: None,
) -> Asked:
    """Ask for all jobs and `write` each in order, with its answers in the order of its prompts.

    A job with a failure that may pass (a server that was down) is left out and counted.
    """
    waiting: dict[int, _Open] = {}  # by number, in order
    order: deque[int] = deque()
    unanswered: Counter[str] = Counter()
    finished = 0

    def prompts() -> Iterator[Prompt]:
        for number, job in enumerate(jobs):
            waiting[number] = _Open(job)
            order.append(number)
            for place, prompt in enumerate(job.prompts):
                yield replace(prompt, id=f"{number}/{place}")

    def hand_on() -> None:
        nonlocal finished
        while order and waiting[order[0]].complete:
            opened = waiting.pop(order.popleft())
            if reason := opened.passing:
                unanswered[reason] += 1
            else:
                write(opened.job, [opened.answers[place] for place in range(len(opened.job.prompts))])
            finished += 1
            tick(finished)

    def done(prompt: Prompt, answer: Outcome) -> None:
        number, place = map(int, prompt.id.split("/"))
        waiting[number].answers[place] = answer
        hand_on()

    spending = ask(endpoint, prompts(), done, cache)
    hand_on()  # jobs without prompts at the end
    return Asked(spending, unanswered)
