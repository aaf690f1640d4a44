"""Mathematics: arithmetic over rows, columns and diagonals of a 3 x 3 grid of real handwritten digits.

The handwriting is scikit-learn's `load_digits` (1,797 digits); its last third, other writers, is for tests only.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from chainofstep.problems.tasks.canvas import Canvas
from chainofstep.problems.tasks.problem import (
    Facts,
    Kind,
    Move,
    Setup,
    Solution,
    Split,
    add_up,
    compared,
    read_group,
)
from chainofstep.records import AnswerKind

CELLS = [f"row {r} column {c}" for r in (1, 2, 3) for c in (1, 2, 3)]
LINES: dict[str, tuple[str, ...]] = (
    {f"row {r}": tuple(f"row {r} column {c}" for c in (1, 2, 3)) for r in (1, 2, 3)}
    | {f"column {c}": tuple(f"row {r} column {c}" for r in (1, 2, 3)) for c in (1, 2, 3)}
    | {
        "main diagonal": ("row 1 column 1", "row 2 column 2", "row 3 column 3"),
        "other diagonal": ("row 1 column 3", "row 2 column 2", "row 3 column 1"),
    }
)
DIGITS = tuple(str(digit) for digit in range(10))


@cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def handwriting(split: Split, digit: int) -> np.ndarray:
    """The indices of this digit's images in a split: the first 1,200 are for training, the rest for tests."""
    _, target = _handwriting()
    chosen = np.flatnonzero(target == digit)
    return chosen[chosen < 1200] if split == "train" else chosen[chosen >= 1200]


def draw(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    images, _ = _handwriting()
    canvas = Canvas()
    for edge in (1.5, 3.5):
        canvas.line((edge, 0), (edge, 5.5))
        canvas.line((0, edge), (5.5, edge))
    for place, index in enumerate(drawing["images"]):
        shift = generator.integers(-1, 2, size=2)
        canvas.digit((2 * (place % 3), 2 * (place // 3)), images[index], (int(shift[0]), int(shift[1])))
    return canvas.noisy(generator, 6.0)


def named(line: str) -> str:
    return f"the {line}" if "diagonal" in line else line


def _grid(generator: np.random.Generator, split: Split) -> tuple[Facts, dict[str, Any]]:
    digits = [int(d) for d in generator.integers(0, 10, size=9)]
    images = [int(generator.choice(handwriting(split, digit))) for digit in digits]
    return {cell: str(digit) for cell, digit in zip(CELLS, digits, strict=True)}, {"images": images}


def _setup(
    question: str,
    solve: Callable[[Facts], Solution],
    seen: Facts,
    drawing: dict[str, Any],
    lines: Sequence[str],
    choices: tuple[str, ...] = (),
) -> Setup:
    needed = tuple(dict.fromkeys(cell for line in lines for cell in LINES[line]))
    kind: AnswerKind = "choice" if choices else "number"
    return Setup(question, kind, seen, LINES, lambda _: DIGITS, drawing, solve, choices, needed)


def read_line(line: str, facts: Facts) -> Move:
    return read_group(named(line), LINES[line], facts)


def sum_line(line: str, facts: Facts) -> tuple[Move, int]:
    equations, total = add_up([int(facts[cell]) for cell in LINES[line]])
    return Move("Add the digits", equations, (f"The sum of {named(line)} is {total}",)), total


def _pick(generator: np.random.Generator, count: int) -> list[str]:
    return [str(line) for line in generator.choice(list(LINES), size=count, replace=False)]


def line_sum(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _grid(generator, split)
    (line,) = _pick(generator, 1)

    def solve(facts: Facts) -> Solution:
        move, total = sum_line(line, facts)
        return Solution((read_line(line, facts), move), str(total))

    return _setup(f"What is the sum of {named(line)}?", solve, seen, drawing, [line])


def _extreme(line: str, word: str, facts: Facts) -> tuple[Move, int]:
    values = [int(facts[cell]) for cell in LINES[line]]
    best = max(values) if word == "largest" else min(values)
    others = list(values)
    others.remove(best)
    thought = tuple(compared(best, other) for other in others)
    return Move(f"Find the {word}", thought, (f"The {word} of {named(line)} is {best}",)), best


def line_extreme(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _grid(generator, split)
    (line,) = _pick(generator, 1)
    word = str(generator.choice(["largest", "smallest"]))

    def solve(facts: Facts) -> Solution:
        move, best = _extreme(line, word, facts)
        return Solution((read_line(line, facts), move), str(best))

    return _setup(f"What is the {word} digit of {named(line)}?", solve, seen, drawing, [line])


def _two_sums(lines: Sequence[str], facts: Facts) -> tuple[list[Move], int, int]:
    (add_first, first), (add_second, second) = (sum_line(line, facts) for line in lines)
    moves = [read_line(lines[0], facts), add_first, read_line(lines[1], facts), add_second]
    return moves, first, second


def sum_compare(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _grid(generator, split)
    lines = _pick(generator, 2)
    choices = (named(lines[0]), named(lines[1]), "both the same")

    def solve(facts: Facts) -> Solution:
        moves, first, second = _two_sums(lines, facts)
        winner = 0 if first > second else 1 if second > first else 2
        end = Move("Compare the sums", (compared(first, second),), (f"The larger sum is {choices[winner]}",))
        return Solution((*moves, end), "ABC"[winner])

    return _setup("Which has the larger sum?", solve, seen, drawing, lines, choices)


def sum_difference(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _grid(generator, split)
    lines = _pick(generator, 2)

    def solve(facts: Facts) -> Solution:
        moves, first, second = _two_sums(lines, facts)
        high, low = max(first, second), min(first, second)
        end = Move("Subtract", (f"{high} - {low} = {high - low}",), (f"The difference is {high - low}",))
        return Solution((*moves, end), str(high - low))

    question = f"By how much do the sums of {named(lines[0])} and {named(lines[1])} differ?"
    return _setup(question, solve, seen, drawing, lines)


def line_range(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _grid(generator, split)
    (line,) = _pick(generator, 1)

    def solve(facts: Facts) -> Solution:
        (find_high, high), (find_low, low) = (_extreme(line, word, facts) for word in ("largest", "smallest"))
        end = Move("Subtract", (f"{high} - {low} = {high - low}",), (f"The difference is {high - low}",))
        return Solution((read_line(line, facts), find_high, find_low, end), str(high - low))

    question = f"By how much do the largest and smallest digits of {named(line)} differ?"
    return _setup(question, solve, seen, drawing, [line])


KINDS = (
    Kind("line_sum", "math", 1, line_sum, draw),
    Kind("line_extreme", "math", 1, line_extreme, draw),
    Kind("sum_compare", "math", 3, sum_compare, draw),
    Kind("sum_difference", "math", 3, sum_difference, draw),
    Kind("line_range", "math", 2, line_range, draw, held_out=True),
)
