"""The exact checker as a step scorer: on generated problems the truth of every step is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chainofstep.answers import is_right
from chainofstep.chain import Chain
from chainofstep.records import Example, Scored, StepScores


@dataclass(frozen=True)
class OracleScorer:
    """A StepScorer: 1.0 for each step that `check` passes and for a right answer, otherwise 0.0."""

    check: Callable[[Example, Chain], Sequence[bool]]  # one bool per step of the chain

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        return [self._score(example, chain) for example, chain in items]

    def _score(self, example: Example, chain: Chain) -> StepScores:
        passed = self.check(example, chain)
        assert len(passed) == len(chain.steps), f"{len(passed)} verdicts for {len(chain.steps)} steps"
        answer = None if chain.answer is None else float(is_right(example, chain.answer))
        return StepScores(tuple(float(verdict) for verdict in passed), answer)
