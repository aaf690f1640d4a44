"""What whoever watches an answer being made is told.

Steps of a choice come in order. A step with a number that came before takes its place, and those after it are gone:
that happens where a search ends with another chain than it was building.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainofstep.chain import Chain, Step
from chainofstep.records import Scored, StepScores


@dataclass(frozen=True)
class TextMade:
    """All raw text of a sample so far, without its prefix."""

    choice: int
    text: str


@dataclass(frozen=True)
class StepMade:
    """A step that closed. `score` is None where there is no PRM, or it could not score the step."""

    choice: int
    number: int
    step: Step
    score: float | None


@dataclass(frozen=True)
class AnswerMade:
    """The answer, after all steps."""

    choice: int
    answer: str
    score: float | None


@dataclass(frozen=True)
class Progress:
    """Samples finished, of so many."""

    samples: int
    of: int


Event = TextMade | StepMade | AnswerMade | Progress
Watch = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watch nothing."""


class Teller:
    """Tells what is new of one choice's chain, once."""

    def __init__(self, watch: Watch, choice: int = 0):
        self.watch, self.choice = watch, choice
        self.told: list[Step] = []

    def steps(self, steps: Sequence[Step], scores: Sequence[float | None]) -> None:
        """Tell the steps that were not told before, from the first that differs on."""
        alike = 0
        while alike < min(len(steps), len(self.told)) and steps[alike] == self.told[alike]:
            alike += 1
        for number in range(alike, len(steps)):
            self.watch(StepMade(self.choice, number, steps[number], scores[number]))
        if alike < len(steps):
            self.told = list(steps)

    def chain(self, chain: Chain | None, scored: Scored | None) -> None:
        """Tell what is new of a finished chain, its answer last."""
        if chain is None:
            return
        scores = scored if isinstance(scored, StepScores) else None
        self.steps(chain.steps, scores.steps if scores else [None] * len(chain.steps))
        if chain.answer is not None:
            self.watch(AnswerMade(self.choice, chain.answer, scores.answer if scores else None))
