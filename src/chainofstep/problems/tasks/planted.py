"""Wrong chains on purpose: each planter makes one kind of error in a problem's gold chain.

They test the checker (every planted error must fail) and teach a PRM what errors look like.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chainofstep.chain import Chain
from chainofstep.problems.tasks.build import Problem, chain_of
from chainofstep.problems.tasks.claims import Equation, Fact, plain, read_sentence
from chainofstep.problems.tasks.problem import Move, Solution

Planter = Callable[[Problem, np.random.Generator], Chain | None]
Sentences = tuple[str, ...]


def other_option(options: Sequence[str], value: str, generator: np.random.Generator) -> str:
    return str(generator.choice([option for option in options if option != value]))


def misreading(problem: Problem, generator: np.random.Generator) -> Chain:
    """A fact of the picture is misread, and everything after follows from the misreading."""
    facts = dict(problem.setup.seen)
    subject = str(generator.choice(problem.setup.needed))
    facts[subject] = other_option(problem.setup.domain(subject), facts[subject], generator)
    return chain_of(problem.solution(facts))


def right_answer_by_wrong_steps(problem: Problem, generator: np.random.Generator) -> Chain:
    """A misread chain that states the right answer all the same."""
    return replace(misreading(problem, generator), answer=problem.solution().answer)


def wrong_answer(problem: Problem, generator: np.random.Generator) -> Chain | None:
    """Flawless steps and an answer that they do not give."""
    solution = problem.solution()
    return replace(chain_of(solution), answer=other_answer(problem, solution.answer, generator))


def other_answer(problem: Problem, answer: str, generator: np.random.Generator) -> str:
    if problem.setup.choices:
        return other_option("ABCDEFGH"[: len(problem.setup.choices)], answer, generator)
    if answer.isdigit():
        return near_number(answer, generator)
    facts = dict(problem.setup.seen)
    for _ in range(200):
        for subject in problem.setup.needed:
            facts[subject] = str(generator.choice(problem.setup.domain(subject)))
        if (other := problem.solution(facts).answer) != answer:
            return other
    raise ValueError(f"{problem.id}: no other answer than {answer!r} is possible")


def near_number(number: str, generator: np.random.Generator) -> str:
    """A wrong number, mostly close by as real slips are."""
    value, distance = int(number), int(generator.integers(1, 4))
    return str(value + distance if value < distance or generator.random() < 0.5 else value - distance)


def _spots(solution: Solution, problem: Problem, wanted: type, part: str) -> list[tuple[int, int]]:
    """(move, sentence) places of a part whose claim is of the wanted type and ends in its value."""
    places = []
    for index, move in enumerate(solution.moves):
        for line, sentence in enumerate(getattr(move, part)):
            claims = read_sentence(sentence, problem.setup.groups)
            if claims and isinstance(claims[0], wanted):
                places.append((index, line))
    return places


def _swap(solution: Solution, index: int, part: str, line: int, sentence: str) -> Solution:
    lines = list(getattr(solution.moves[index], part))
    lines[line] = sentence
    moves = list(solution.moves)
    changes: dict[str, Any] = {part: tuple(lines)}
    moves[index] = replace(moves[index], **changes)
    return replace(solution, moves=tuple(moves))


def wrong_arithmetic(problem: Problem, generator: np.random.Generator) -> Chain | None:
    """An equation's result is wrong; the rest of the chain stays."""
    solution = problem.solution()
    places = _spots(solution, problem, Equation, "thought")
    if not places:
        return None
    index, line = places[int(generator.integers(len(places)))]
    left, result = solution.moves[index].thought[line].split(" = ")
    return chain_of(_swap(solution, index, "thought", line, f"{left} = {near_number(result, generator)}"))


def contradiction(problem: Problem, generator: np.random.Generator) -> Chain | None:
    """A reflection states another value than the thought it reflects on."""
    solution = problem.solution()
    places = _spots(solution, problem, Fact, "reflection")
    index, line = places[int(generator.integers(len(places)))]
    sentence = _contradict(solution.moves[index].reflection[line], problem, generator)
    return None if sentence is None else chain_of(_swap(solution, index, "reflection", line, sentence))


def _contradict(sentence: str, problem: Problem, generator: np.random.Generator) -> str | None:
    claims = [claim for claim in read_sentence(sentence, problem.setup.groups) or [] if isinstance(claim, Fact)]
    claim = claims[int(generator.integers(len(claims)))]
    if claim.subject in {plain(subject) for subject in problem.setup.seen}:
        values = [fact.value for fact in claims]
        values[claims.index(claim)] = other_option(problem.setup.domain(claim.subject), claim.value, generator)
        tail = " in " if " in " in sentence and " for " not in sentence else " for "
        return ", ".join(values) + tail + sentence.split(tail, 1)[1]
    if claim.value.isdigit():
        return sentence[: -len(claim.value)] + near_number(claim.value, generator)
    return None


def repetition(problem: Problem, generator: np.random.Generator) -> Chain:
    """An earlier step is said again."""
    moves = list(problem.solution().moves)
    index = int(generator.integers(len(moves)))
    moves.insert(int(generator.integers(index + 1, len(moves) + 1)), moves[index])
    return chain_of(Solution(tuple(moves), problem.solution().answer))


def irrelevance(problem: Problem, generator: np.random.Generator) -> Chain | None:
    """A true reading that the question does not need."""
    spare = [subject for subject in problem.setup.seen if subject not in problem.setup.needed]
    spoken = " ".join(sentence for move in problem.solution().moves for sentence in move.thought).lower()
    spare = [subject for subject in spare if f"{subject} is" not in spoken]
    if not spare:
        return None
    subject = str(generator.choice(spare))
    value = problem.setup.seen[subject]
    move = Move(f"Read {subject}", (f"{subject.capitalize()} is {value}",), (f"{value} for {subject}",))
    moves = list(problem.solution().moves)
    moves.insert(int(generator.integers(0, len(moves))), move)
    return chain_of(Solution(tuple(moves), problem.solution().answer))


PLANTERS: dict[str, Planter] = {
    "misreading": misreading,
    "wrong arithmetic": wrong_arithmetic,
    "contradiction": contradiction,
    "right answer by wrong steps": right_answer_by_wrong_steps,
    "repetition": repetition,
    "irrelevance": irrelevance,
    "wrong answer": wrong_answer,
}
