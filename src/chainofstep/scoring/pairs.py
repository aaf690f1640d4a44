"""Preference pairs from scored rollouts (paper A6), and the outcome reward that they are compared with.

The paper takes 16 rollouts of a question and pairs them "depending on the scores" with a margin above t; which of the
16, and t, are not stated (A10). The rule here:

1. Rollouts with the same text are one candidate, placed where the first of them stood.
2. Candidates are ranked by path score. Equal scores keep rollout order on both sides, so with outcome scores the
   first right rollout meets the first wrong one.
3. The best is paired with the worst, the second best with the second worst, and so on, up to `per_question` pairs.
   Each pair needs a margin strictly above `threshold`; margins only shrink, so the first that fails ends it. No text
   is in two pairs.
4. A chain that the scorer failed on is left out. A rollout that is no chain is left out too, unless
   `unparseable_rejected`: it then ranks below every scored one and may be rejected, never chosen. It has no score:
   the pair says `UNSCORED`, which lies below the scale, and its chosen text must itself score above `threshold`.

A question without a pair is a reject with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chainofstep.answers import is_right
from chainofstep.chain import Chain
from chainofstep.records import Example, Pair, Rollout, Scored, ScoreFailure, StepScores
from chainofstep.scoring.path_score import STEP_WEIGHT, path_score

#: The `rejected_score` of a text that is no chain. Not a score: scores lie in [0, 1].
UNSCORED = -1.0

#: The reasons for which a question has no pair.
FEW_PARSED = "no two parsed rollouts"
ONE_TEXT = "no two distinct texts"
ALL_FAILED = "all failed"
FEW_SCORED = "fewer than two scored texts"
SMALL_MARGIN = "margin not above t"


@dataclass(frozen=True)
class PairRule:
    """Which rollouts of a question become pairs.

    The default `threshold` is above what the steps alone can differ by at the default weight (0.2), so by default
    the answers' scores must differ too.
    """

    threshold: float = 0.3  # t: a pair's score margin must exceed it
    per_question: int = 1
    unparseable_rejected: bool = False
    step_weight: float = STEP_WEIGHT


@dataclass(frozen=True)
class _Candidate:
    text: str
    score: float  # `UNSCORED` for a text that is no chain
    problem: str = ""


def choose_pairs(
    example: Example, rollouts: Sequence[Rollout], scores: Sequence[Scored], rule: PairRule
) -> tuple[list[Pair], list[tuple[str, str]]]:
    """The pairs of one question, and (example id, reason) where there is none. `scores[i]` belongs to `rollouts[i]`.

    The score of a rollout that is no chain is not looked at.
    """
    _check(rule)
    ranked, broken = _candidates(rollouts, scores, rule.step_weight)
    best = sorted(ranked, key=lambda candidate: -candidate.score)
    worst = sorted(ranked, key=lambda candidate: candidate.score)
    if rule.unparseable_rejected:
        worst = broken + worst
    pairs: list[Pair] = []
    for chosen, rejected in zip(best[: rule.per_question], worst, strict=False):
        margin = chosen.score if rejected.problem else chosen.score - rejected.score
        if margin <= rule.threshold:
            break
        pairs.append(_pair(example, len(pairs) + 1, chosen, rejected, rule))
    if pairs:
        return pairs, []
    return [], [(example.id, _why_none(rollouts, len(ranked), len(worst)))]


def _check(rule: PairRule) -> None:
    if rule.threshold < 0:
        raise ValueError(f"pair threshold is {rule.threshold}; choose 0 or more, so that no pair is upside down")
    if rule.per_question < 1:
        raise ValueError(f"per_question is {rule.per_question}; choose 1 or more")


def _candidates(
    rollouts: Sequence[Rollout], scores: Sequence[Scored], step_weight: float
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Distinct texts in rollout order: those with a score, and those that are no chain."""
    ranked, broken, seen = [], [], set()
    for rollout, scored in zip(rollouts, scores, strict=True):
        if rollout.text in seen:
            continue
        seen.add(rollout.text)
        if rollout.chain is None:
            broken.append(_Candidate(rollout.text, UNSCORED, str(rollout.parsed)))
        elif isinstance(scored, StepScores):
            ranked.append(_Candidate(rollout.text, path_score(scored, step_weight)))
    return ranked, broken


def _pair(example: Example, place: int, chosen: _Candidate, rejected: _Candidate, rule: PairRule) -> Pair:
    against = f"unparseable ({rejected.problem})" if rejected.problem else f"worst {place}"
    reason = f"best {place} against {against}, t={rule.threshold:g}, step weight {rule.step_weight:g}"
    return Pair(example.id, chosen.text, rejected.text, chosen.score, rejected.score, reason)


def _why_none(rollouts: Sequence[Rollout], scored: int, opponents: int) -> str:
    parsed = [rollout.text for rollout in rollouts if rollout.chain is not None]
    if parsed and not scored:
        return ALL_FAILED
    if scored and opponents >= 2:  # a scored text is its own opponent, so a second one makes a pair thinkable
        return SMALL_MARGIN
    if len(parsed) < 2:
        return FEW_PARSED
    return ONE_TEXT if len(set(parsed)) < 2 else FEW_SCORED


@dataclass(frozen=True)
class OutcomeScorer:
    """A StepScorer that knows the gold answer alone: 1.0 for the answer and every step of a right chain, else 0.0.

    The path score then equals the outcome at every step weight: the outcome-reward baseline (paper Table 2).
    """

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """A prefix has no outcome yet: a `ScoreFailure`."""
        return [self._score(example, chain) for example, chain in items]

    def _score(self, example: Example, chain: Chain) -> Scored:
        if chain.answer is None:
            return ScoreFailure("a chain without an answer has no outcome")
        outcome = float(is_right(example, chain.answer))
        return StepScores((outcome,) * len(chain.steps), outcome)
