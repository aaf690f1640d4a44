"""Drills: steps that need no picture, right or wrong, for a PRM's backbone to check.

In a chain, sums, comparisons, counts and conclusions are few among readings, and a model that can see learns them last.
Here they are dense.
"""

from collections.abc import Callable

import numpy as np

from chainofstep.chain import Chain, Step
from chainofstep.problems.tasks.canvas import COLOURS
from chainofstep.problems.tasks.charts import ITEMS
from chainofstep.problems.tasks.digits import LINES, named
from chainofstep.problems.tasks.lessons import CheckedChain, reckoning
from chainofstep.problems.tasks.planted import near_number
from chainofstep.problems.tasks.problem import RELATIONS, compared
from chainofstep.problems.tasks.scenes import THINGS

Claims = tuple[tuple[str, int, bool], ...]
Drilled = tuple[Step, Step, Claims]  # a step as said, as it should be, and the claims of what is said
WRONG = 0.3  # how often a claim goes wrong
NAMED = {"+": ("Add the values", "total"), "-": ("Subtract", "difference"), "*": ("Find the moment", "moment")}


def drill(generator: np.random.Generator, steps: int = 6) -> CheckedChain:
    """Steps of every form in random order, about half of them wrong somewhere."""
    made = [FORMS[int(generator.integers(len(FORMS)))](generator) for _ in range(steps)]
    said, gold, claims = zip(*made, strict=True)
    right = tuple(all(holds for _, _, holds in of_step) for of_step in claims)
    return CheckedChain(Chain(said), Chain(gold), right, False, claims)


def _step(name: str, said: tuple[list[str], str], gold: tuple[list[str], str], given: int = 0) -> Drilled:
    """A step of the sentences of a thought, and a reflection; each is right if it is as it should be. The first
    `given` sentences are no claims: what is given is true."""
    claims, end = [], -1
    for place, (sentence, right) in enumerate(zip(said[0], gold[0], strict=True)):
        end += 1 + len(sentence)
        if place >= given:
            claims.append(("thought", end, sentence == right))
    claims.append(("reflection", len(said[1]), said[1] == gold[1]))
    return Step(name, " ".join(said[0]), said[1]), Step(name, " ".join(gold[0]), gold[1]), tuple(claims)


def _other(options: tuple[str, ...], right: str, generator: np.random.Generator) -> str:
    """The right option, or sometimes another."""
    wrong = [option for option in options if option != right]
    return str(generator.choice(wrong)) if generator.random() < WRONG else right


def _relation(left: int, right: int, generator: np.random.Generator) -> tuple[str, str]:
    """A comparison as said, and as it should be."""
    truth = compared(left, right)
    every = tuple(f"{left} is {relation} {right}" for relation in RELATIONS)
    return f"{_other(every, truth, generator)}.", f"{truth}."


def _equations(generator: np.random.Generator) -> Drilled:
    """ "9 - 4 = 5. 3 + 8 = 11." and "The total is 11." """
    said: list[str] = []
    gold: list[str] = []
    while len(gold) < 2:
        sentence = reckoning(generator)
        if " = " in sentence:
            left, result = sentence[:-1].split(" = ")
            wrong = generator.random() < WRONG
            said.append(f"{left} = {near_number(result, generator) if wrong else result}.")
            gold.append(sentence)
    name, noun = NAMED[left.split()[1]]
    stated = said[-1][:-1].split(" = ")[1] if generator.random() > 0.1 else near_number(result, generator)
    return _step(name, (said, f"The {noun} is {stated}."), (gold, f"The {noun} is {result}."))


def _two(generator: np.random.Generator) -> tuple[int, int]:
    """Two totals of the problems' range, equal more often than chance would have it."""
    left, right = (int(value) for value in generator.integers(0, 28, size=2))
    return left, left if generator.random() < 0.1 else right


def _winner(generator: np.random.Generator) -> Drilled:
    """Two given numbers are compared, and the one that wins is named."""
    name, given, noun, names, tie = (
        ("Compare the totals", "The total of {}", "larger total", ITEMS, "neither"),
        ("Compare the sums", "The sum of {}", "larger sum", tuple(map(named, LINES)), "both the same"),
        ("Apply the rule", "The {} moment", "sinking side", ("left", "right"), "neither"),
    )[int(generator.integers(3))]
    first, second = (str(name) for name in generator.choice(names, size=2, replace=False))
    left, right = _two(generator)
    told = [f"{given.format(first)} is {left}.", f"{given.format(second)} is {right}."]
    winner = first if left > right else second if right > left else tie
    relation, truth = _relation(left, right, generator)
    stated = _other((first, second, tie), winner, generator)
    said, gold = ([*told, relation], f"The {noun} is {stated}."), ([*told, truth], f"The {noun} is {winner}.")
    return _step(name, said, gold, given=2)


def _extreme(generator: np.random.Generator) -> Drilled:
    """Of three given digits the largest or smallest is found."""
    word, line = ("largest", "smallest")[int(generator.integers(2))], named(str(generator.choice(list(LINES))))
    digits = [int(digit) for digit in generator.integers(0, 10, size=3)]
    best = max(digits) if word == "largest" else min(digits)
    picked = int(_other(tuple(map(str, sorted(set(digits)))), str(best), generator)) if len(set(digits)) > 1 else best
    told = f"{line.capitalize()} reads {', '.join(map(str, digits))}."
    said, gold = [told], [told]
    for place in sorted(range(3), key=lambda place: digits[place] != picked)[1:]:
        spoken, _ = _relation(picked, digits[place], generator)
        said.append(spoken)
        gold.append(f"{compared(picked, digits[place])}.")
    stated = f"The {word} of {line} is {picked}."
    return _step(f"Find the {word}", (said, stated), (gold, f"The {word} of {line} is {best}."), given=1)


def _count(generator: np.random.Generator) -> Drilled:
    """Of three given things those of a colour are counted."""
    row, colour = int(generator.integers(1, 4)), str(generator.choice(list(COLOURS)))
    things = [str(thing) for thing in generator.choice(THINGS, size=3)]
    count = str(sum(colour in thing for thing in things))
    stated = _other(("0", "1", "2", "3"), count, generator)
    told = [f"Row {row} reads {', '.join(things)}."]
    sentence = f"The {colour} count of row {row} is "
    return _step(f"Read row {row}", (told, f"{sentence}{stated}."), (told, f"{sentence}{count}."), given=1)


FORMS: tuple[Callable[[np.random.Generator], Drilled], ...] = (_equations, _winner, _winner, _extreme, _count)
