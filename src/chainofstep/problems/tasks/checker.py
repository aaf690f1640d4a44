"""The exact checker: whether each step of a chain is true and useful.

A step is right if every sentence of its thought and reflection is in the problem's language and true of the
picture, and at least one of its claims is new and bears on the question. It is wrong if anything in it is false,
cannot be read, or if it only repeats or strays. Truth is that of the scene, never of what an earlier step said:
a sum of misread digits is false even if the addition is right.

What bears on the question is what the gold chain speaks of: its facts, its rules, and any equation or comparison
among the numbers of those facts and of equations that came before. So steps may come in any order, in smaller or
larger portions, and in any wording of the language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chainofstep.chain import Chain, Step
from chainofstep.problems.tasks.claims import (
    Claim,
    Comparison,
    Equation,
    Fact,
    Rule,
    plain,
    read_sentence,
    sentences,
)
from chainofstep.records import Example


@dataclass(frozen=True)
class Verdict:
    """Whether a step is right; `reason` says why not ("" when right)."""

    right: bool
    reason: str = ""


class Checker:
    """Checks the chains of one generated Example against its scene (`Example.meta`) and gold chain."""

    def __init__(self, example: Example):
        if example.chain is None or "seen" not in example.meta:
            raise ValueError(f"{example.id}: only generated problems can be checked exactly; it has no scene")
        groups: dict[str, Sequence[str]] = example.meta["groups"]
        self.groups = {plain(group): [plain(subject) for subject in subjects] for group, subjects in groups.items()}
        self.truth = {plain(subject): plain(value) for subject, value in example.meta["seen"].items()}
        gold = [claim for step in example.chain.steps for claim in self._readable(step)]
        self.truth |= {claim.subject: claim.value for claim in gold if isinstance(claim, Fact)}
        self.relevant = {claim.subject for claim in gold if isinstance(claim, Fact)}
        self.rules = {claim for claim in gold if isinstance(claim, Rule)}
        self.numbers = set(self._numbers(gold))

    def _readable(self, step: Step) -> list[Claim]:
        claims = self.claims(step)
        if isinstance(claims, str):
            raise ValueError(f"the gold chain has an unreadable sentence: {claims!r}")
        return claims

    def _numbers(self, gold: Iterable[Claim]) -> Iterable[int]:
        for claim in gold:
            if isinstance(claim, Fact):
                yield from (int(part) for part in claim.value.split(", ") if part.isdigit())
            elif isinstance(claim, Equation | Comparison):
                yield from (claim.left, claim.right)

    def claims(self, step: Step) -> list[Claim] | str:
        """What a step claims, or its first sentence that is outside the language."""
        claims: list[Claim] = []
        for part in (step.thought, step.reflection):
            for sentence in sentences(part):
                read = read_sentence(sentence, self.groups)
                if read is None:
                    return sentence
                claims += read
        return claims

    def problem(self, claim: Claim) -> str:
        """Why a claim is false; "" if it is true."""
        if isinstance(claim, Fact):
            truth = self.truth.get(claim.subject)
            if truth is None:
                return f"nothing is known of {claim.subject!r}"
            return "" if truth == claim.value else f"{claim.subject} is {truth}, not {claim.value}"
        if isinstance(claim, Rule):
            return "" if claim in self.rules else f"no such rule here: {claim.text!r}"
        return "" if claim.holds else f"{claim} does not hold"

    def _bears(self, claim: Claim, results: set[int]) -> bool:
        if isinstance(claim, Fact):
            return claim.subject in self.relevant
        if isinstance(claim, Rule):
            return True
        return {claim.left, claim.right} <= self.numbers | results

    def check(self, chain: Chain) -> list[Verdict]:
        """One verdict for each step."""
        known: set[Claim] = set()
        results: set[int] = set()
        return [self._check_step(step, known, results) for step in chain.steps]

    def _check_step(self, step: Step, known: set[Claim], results: set[int]) -> Verdict:
        claims = self.claims(step)
        if isinstance(claims, str):
            return Verdict(False, f"cannot be read: {claims!r}")
        if not sentences(step.thought) or not sentences(step.reflection):
            return Verdict(False, "the thought or the reflection is empty")
        said: set[Claim] = set()
        for claim in claims:
            if problem := self.problem(claim):
                return Verdict(False, problem)
            if not self._bears(claim, results):
                continue
            said.add(claim)
            if isinstance(claim, Equation):
                results.add(claim.result)
        if said <= known:
            return Verdict(False, "nothing new that bears on the question")
        known |= said  # a wrong step established nothing, so to say its true part rightly is new
        return Verdict(True)


def check_steps(example: Example, chain: Chain) -> list[bool]:
    """Whether each step is right, by the exact checker."""
    return [verdict.right for verdict in Checker(example).check(chain)]
