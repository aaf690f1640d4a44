"""What a small VLM is taught before the method begins: to look, to reckon, and (a PRM's backbone) to check.

A lesson is a conversation about one picture. Only problems of the train split and trained kinds are used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chainofstep.chain import Chain
from chainofstep.problems.tasks.build import TRAINED, Problem, chain_of, make_problem, step_text, with_choices
from chainofstep.problems.tasks.checker import Checker, check_steps
from chainofstep.problems.tasks.claims import Fact, read_sentence, sentences
from chainofstep.problems.tasks.planted import PLANTERS
from chainofstep.problems.tasks.problem import compared
from chainofstep.problems.tasks.slips import misread, slipped

Turn = tuple[str, str]
_BARE = ("row ", "column ", "day ", "resistor ", "switch ")


def about(subject: str) -> str:
    """How a sentence names a subject: "row 2", "the red bar"."""
    bare = subject.startswith(_BARE) or " in " in subject
    return subject if bare else f"the {subject}"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def reading(problem: Problem, generator: np.random.Generator) -> str:
    """A true sentence that reads a random group or subject of the picture."""
    setup = problem.setup
    if setup.groups and generator.random() < 0.75:
        group = str(generator.choice(list(setup.groups)))
        name = about(group) if "diagonal" in group else group
        return f"{capital(name)} reads {', '.join(setup.seen[subject] for subject in setup.groups[group])}."
    subject = str(generator.choice(list(setup.seen)))
    article = "a " if problem.kind.family == "scene" else ""
    return f"{capital(about(subject))} is {article}{setup.seen[subject]}."


def caption(problem: Problem) -> str:
    """All that the picture shows, in the order of its cells, bars or parts."""
    seen, groups = problem.setup.seen, problem.setup.groups
    if "row 1" in groups:
        rows = (f"Row {r} reads {', '.join(seen[cell] for cell in groups[f'row {r}'])}." for r in (1, 2, 3))
        return " ".join(rows)
    return " ".join(f"{capital(about(subject))} is {value}." for subject, value in seen.items())


def reckoning(generator: np.random.Generator) -> str:
    """A true equation or comparison in the range of the problems."""
    operator = str(generator.choice(["+", "+", "-", "*", "<"]))
    if operator == "*":
        left, right = int(generator.integers(1, 10)), int(generator.integers(1, 4))
        return f"{left} * {right} = {left * right}."
    left, right = int(generator.integers(0, 28)), int(generator.integers(0, 11))
    if operator == "+":
        return f"{left} + {right} = {left + right}."
    left, right = (int(value) for value in generator.integers(0, 28, size=2))
    if operator == "<":
        return f"{compared(left, right)}."
    return f"{max(left, right)} - {min(left, right)} = {abs(left - right)}."


def head(sentence: str) -> str:
    """The beginning of a sentence that leaves its value open: the user says it, the model completes it."""
    for verb in (" reads ", " = ", " is ", " are ", " has "):
        if verb in sentence:
            return sentence[: sentence.index(verb) + len(verb) - 1]
    return sentence.split()[0]


def _opens(sentence: str) -> bool:
    """Whether a sentence's beginning says what is asked: a subject or an equation, not a bare value."""
    return " = " in sentence or (sentence[0].isupper() and head(sentence) != sentence.split()[0])


def looking_turns(problem: Problem, generator: np.random.Generator, count: int) -> list[Turn]:
    """Turns about one picture: a caption (every other lesson), readings, sentences of the solution, reckoning, and
    the question answered directly. A count of 0 is the caption alone: looking is learnt from captions first."""
    if count == 0 or generator.random() < 0.5:
        described = [("Describe the picture.", caption(problem))]
        return described + (_turns(problem, generator, count - 2) if count > 2 else [])
    return _turns(problem, generator, count)


def _turns(problem: Problem, generator: np.random.Generator, count: int) -> list[Turn]:
    """The turns that are no caption."""
    moves = problem.solution().moves
    spoken = [f"{line}." for move in moves for line in (*move.thought, *move.reflection) if _opens(line)]
    turns: list[Turn] = []
    for _ in range(count):
        draw = generator.random()
        if draw < 0.15:
            turns.append((with_choices(problem.setup.question, problem.setup.choices), problem.solution().answer))
            continue
        if draw < 0.60:
            sentence = reading(problem, generator)
        elif draw < 0.85:
            sentence = str(generator.choice(spoken))
        else:
            sentence = reckoning(generator)
        turns.append((head(sentence), sentence))
    return turns


def explaining_turns(problem: Problem, generator: np.random.Generator, count: int) -> list[Turn]:
    """The question explained in prose, as a pretrained model does before it knows of steps, or answered directly (two
    lessons in five); and other turns."""
    solution, question = problem.solution(), with_choices(problem.setup.question, problem.setup.choices)
    said = [step_text((*move.thought, *move.reflection)) for move in solution.moves]
    if generator.random() < 0.4:
        return [(question, solution.answer), *_turns(problem, generator, count - 1)]
    explained = (f"Explain. {question}", f"{' '.join(said)} The answer is {solution.answer}.")
    return [explained, *_turns(problem, generator, count - 1)]


@dataclass(frozen=True)
class CheckedChain:
    """A chain with the checker's word on each step, the answer, and each claim by where it ends in the step's text.

    `claims[s]` lists (part, end, holds): part "thought" or "reflection", end the character after the claim. `gold` is
    a chain that is right throughout; where the two line up, it says what should stand instead.
    """

    chain: Chain
    gold: Chain
    steps: tuple[bool, ...]
    answer: bool
    claims: tuple[tuple[tuple[str, int, bool], ...], ...]


def checked(problem: Problem, chain: Chain) -> CheckedChain:
    example = problem.example()
    checker = Checker(example)
    claims = tuple(
        (*_claim_ends(checker, "thought", step.thought), *_claim_ends(checker, "reflection", step.reflection))
        for step in chain.steps
    )
    gold = chain_of(problem.solution())
    # A prefix is held against the gold chain's beginning, a whole chain, which may be hasty, against its end.
    count = len(chain.steps)
    gold = gold.prefix(count) if chain.answer is None else Chain(gold.steps[-count:], gold.answer)
    return CheckedChain(chain, gold, tuple(check_steps(example, chain)), chain.answer == example.answer, claims)


def _claim_ends(checker: Checker, part: str, text: str) -> Iterator[tuple[str, int, bool]]:
    """Where each claim of a text ends, and whether it holds. Readings of a group have one end per value."""
    start = 0
    for sentence in sentences(text):
        start = text.index(sentence, start)
        found = read_sentence(sentence, checker.groups) or []
        holds = [not checker.problem(claim) for claim in found]
        commas = [place for place, letter in enumerate(sentence) if letter == ","]
        if len(found) > 1 and isinstance(found[0], Fact) and len(commas) == len(found) - 1:
            last = len(sentence) if " reads " in sentence else sentence.index(" in ", commas[-1])
            yield from ((part, start + end, good) for end, good in zip([*commas, last], holds, strict=True))
        else:
            yield part, start + len(sentence), all(holds) and bool(found)
        start += len(sentence)


#: How often each error is planted first. A PRM that passes wrong sums and answers is fooled the more, the more chains
#: it chooses from; misreadings have lessons of their own.
PLANTED_SHARES = {
    "wrong arithmetic": 0.3,
    "wrong answer": 0.25,
    "contradiction": 0.15,
    "repetition": 0.1,
    "irrelevance": 0.1,
    "misreading": 0.05,
    "right answer by wrong steps": 0.05,
}


def checking_lesson(problem: Problem, generator: np.random.Generator) -> CheckedChain:
    """A chain to check, in the shares in which they teach most.

    - 0.15: the first one or two steps of a chain whose needed facts are each misread with chance 0.35, so that right
      and wrong readings are about as frequent; in whole chains wrong ones are too rare to learn looking from;
    - 0.15: a whole chain misread with chance 0.12 a fact, as a policy misreads, its answer wrong with it;
    - 0.35: a whole chain in which sums, comparisons, counts and rules go wrong with chance 0.2 each: one error a chain
      teaches reckoning too slowly, and a PRM that cannot reckon is fooled by whatever a policy samples;
    - 0.25: one planted error; 0.1: the gold chain.

    Of all but the first, a quarter are hasty.
    """
    if generator.random() < 0.15:
        steps = chain_of(problem.solution(misread(problem, 0.35, generator))).steps
        return checked(problem, Chain(steps[: int(generator.integers(1, 3))]))
    return checked(problem, uneven(_whole(problem, generator), 0.25, generator))


def _whole(problem: Problem, generator: np.random.Generator) -> Chain:
    way = str(generator.choice(["misread", "slipped", "planted", "gold"], p=[0.17, 0.41, 0.3, 0.12]))
    if way == "misread":
        return chain_of(problem.solution(misread(problem, 0.12, generator)))
    if way == "slipped":
        return slipped(problem, 0.03, 0.2, generator)
    if way == "planted":
        names, shares = list(PLANTED_SHARES), list(PLANTED_SHARES.values())
        for name in generator.choice(names, size=len(names), replace=False, p=shares):
            if (chain := PLANTERS[str(name)](problem, generator)) is not None:
                return chain
    return chain_of(problem.solution())


def hasty(chain: Chain) -> Chain:
    """The chain's last step alone: all before it is taken as seen or done in the head."""
    return Chain(chain.steps[-1:], chain.answer)


def uneven(chain: Chain, share: float, generator: np.random.Generator) -> Chain:
    """The chain as an uneven teacher gives it: hasty in this share of cases."""
    return hasty(chain) if generator.random() < share else chain


#: The kinds as a PRM's backbone meets them: oftener those that take longest to learn to check.
TO_CHECK = (
    *TRAINED,
    *("food_web", "count_colour", "table_larger", "lever_tip", "sum_compare", "sum_difference", "line_extreme"),
    *("food_web", "count_colour", "relation"),
)


def lesson_problems(start: int, kinds: Sequence[str] = TRAINED) -> Iterator[Problem]:
    """An endless walk through the train split from a seed, the kinds taken in turn."""
    seed = start
    while True:
        yield make_problem(kinds[seed % len(kinds)], "train", seed)
        seed += 1
