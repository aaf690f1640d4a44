"""Chains with slips: sums, comparisons, counts and rules that go wrong, and what is then worked out from them.

A planter (`planted.py`) makes one error in a gold chain; here each claim may go wrong, as in the chains of a policy.
"""

import numpy as np

from chainofstep.chain import Chain
from chainofstep.problems.tasks.build import Problem, chain_of
from chainofstep.problems.tasks.claims import Comparison, Equation, Fact, plain, read_sentence
from chainofstep.problems.tasks.planted import near_number, other_answer, other_option
from chainofstep.problems.tasks.problem import RELATIONS, Facts, Move, Solution, compared


def misread(problem: Problem, chance: float, generator: np.random.Generator) -> Facts:
    """The problem's facts, each one that the question needs replaced by another value with this chance."""
    facts = dict(problem.setup.seen)
    for subject in problem.setup.needed:
        if generator.random() < chance:
            facts[subject] = other_option(problem.setup.domain(subject), facts[subject], generator)
    return facts


class Slips:
    """A solution in which each thing worked out goes wrong with a chance, and what follows is worked out from it.

    Readings stay as they are. A number that came out wrong stands in the later equations, comparisons and facts that
    use it, and in the answer, as it does in the chain of somebody who slipped.
    """

    def __init__(self, problem: Problem, chance: float, generator: np.random.Generator):
        self.problem, self.chance, self.generator = problem, chance, generator
        self.seen = {plain(subject) for subject in problem.setup.seen}
        self.changed: dict[int, int] = {}  # results that came out otherwise than they should

    def chain(self, solution: Solution) -> Chain:
        moves = []
        for index, move in enumerate(solution.moves):
            said = {}
            for part in ("thought", "reflection"):
                lines = enumerate(getattr(move, part))
                said[part] = tuple(self._said(line, (index, part, place)) for place, line in lines)
            moves.append(Move(move.name, said["thought"], said["reflection"]))
        return chain_of(Solution(tuple(moves), self._answer(solution.answer, moves[-1])))

    def _slips(self) -> bool:
        return bool(self.generator.random() < self.chance)

    def _number(self, value: int) -> int:
        return self.changed.get(value, value)

    def _said(self, sentence: str, place: tuple[int, str, int]) -> str:
        claims = read_sentence(sentence, self.problem.setup.groups) or []
        if isinstance(claims[0], Equation):
            return self._equation(claims[0])
        if isinstance(claims[0], Comparison):
            return self._comparison(claims[0])
        if isinstance(claims[0], Fact) and plain(claims[0].subject) in self.seen:
            return sentence
        if isinstance(claims[0], Fact) and claims[0].value.isdigit():
            value = self._number(int(claims[0].value))
            said = near_number(str(value), self.generator) if self._slips() else str(value)
            return sentence[: -len(claims[0].value)] + said
        return self._other_sentence(sentence, place) if self._slips() else sentence

    def _equation(self, equation: Equation) -> str:
        left, right = self._number(equation.left), self._number(equation.right)
        if equation.operator == "-":
            left, right = max(left, right), min(left, right)
        result = {"+": left + right, "-": left - right, "*": left * right}[equation.operator]
        if self._slips():
            result = int(near_number(str(result), self.generator))
        if result != equation.result:
            self.changed[equation.result] = result
        return f"{left} {equation.operator} {right} = {result}"

    def _comparison(self, comparison: Comparison) -> str:
        left, right = self._number(comparison.left), self._number(comparison.right)
        if not self._slips():
            return compared(left, right)
        if self.generator.random() < 0.5:
            left = int(near_number(str(left), self.generator))
        return f"{left} is {self.generator.choice(RELATIONS)} {right}"

    def _other_sentence(self, sentence: str, place: tuple[int, str, int]) -> str:
        """What would stand there if the picture were another one; the same sentence where nothing else could."""
        index, part, line = place
        for _ in range(20):
            moves = self.problem.solution(misread(self.problem, 0.7, self.generator)).moves
            if index < len(moves) and line < len(getattr(moves[index], part)):
                other: str = getattr(moves[index], part)[line]
                if other != sentence and other.split()[:2] == sentence.split()[:2]:
                    return other
        return sentence

    def _answer(self, answer: str, last: Move) -> str:
        """The answer that the last step gives, where it is said there; sometimes another one."""
        if self._slips():
            return other_answer(self.problem, answer, self.generator)
        claims = read_sentence(last.reflection[-1], self.problem.setup.groups) or []
        if not isinstance(claims[0], Fact):
            return answer
        value, choices = claims[0].value, self.problem.setup.choices
        if value in choices:
            return "ABCDEFGH"[choices.index(value)]
        return answer if choices or answer in ("yes", "no") else value


def slipped(problem: Problem, misreads: float, chance: float, generator: np.random.Generator) -> Chain:
    """A chain with misreadings and slips, each with its chance."""
    return Slips(problem, chance, generator).chain(problem.solution(misread(problem, misreads, generator)))
