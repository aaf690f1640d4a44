"""World knowledge and scenes: coloured shapes on a 3 x 3 board, counting, relations, and facts about shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from chainofstep.problems.tasks.canvas import COLOURS, Canvas
from chainofstep.problems.tasks.digits import CELLS, LINES
from chainofstep.problems.tasks.problem import Facts, Kind, Move, Setup, Solution, Split, add_up, read_group
from chainofstep.records import AnswerKind

SHAPES = ("circle", "square", "triangle", "star")
THINGS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
ROWS = ("row 1", "row 2", "row 3")
#: The fact base: what is known of shapes and colours beyond the picture.
SIDES = {"circle": 0, "square": 4, "triangle": 3, "star": 10}
WARM = {"red": "warm", "yellow": "warm", "blue": "cool", "green": "cool"}
STEPS = {"right of": (0, 1), "left of": (0, -1), "above": (-1, 0), "below": (1, 0)}


def draw(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas = Canvas()
    for edge in (1.5, 3.5):
        canvas.line((edge, 0), (edge, 5.5), colour=(190, 190, 196))
        canvas.line((0, edge), (5.5, edge), colour=(190, 190, 196))
    for place, thing in enumerate(drawing["things"]):
        colour, shape = thing.split()
        canvas.shape((2 * (place % 3), 2 * (place // 3)), shape, colour)
    return canvas.noisy(generator, 4.0)


def _board(generator: np.random.Generator) -> tuple[Facts, dict[str, Any]]:
    things = [str(thing) for thing in generator.choice(THINGS, size=9)]
    return dict(zip(CELLS, things, strict=True)), {"things": things}


def _setup(
    question: str,
    kind: AnswerKind,
    seen: Facts,
    drawing: dict[str, Any],
    solve: Callable[[Facts], Solution],
    needed: Sequence[str],
) -> Setup:
    return Setup(question, kind, seen, LINES, lambda _: THINGS, drawing, solve, needed=tuple(needed))


def _count(word: str, facts: Facts) -> Solution:
    moves, counts = [], []
    for row in ROWS:
        moves.append(read_group(row, LINES[row], facts))
        counts.append(sum(word in facts[cell].split() for cell in LINES[row]))
    for row, count in zip(ROWS, counts, strict=True):
        moves[ROWS.index(row)] = _with_count(moves[ROWS.index(row)], row, word, count)
    equations, total = add_up(counts)
    end = Move("Add the counts", equations, (f"The {word} count is {total}",))
    return Solution((*moves, end), str(total))


def _with_count(move: Move, row: str, word: str, count: int) -> Move:
    return Move(move.name, move.thought, (f"The {word} count of {row} is {count}",))


def count_colour(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _board(generator)
    colour = str(generator.choice(list(COLOURS)))
    question = f"How many {colour} shapes are there?"
    return _setup(question, "number", seen, drawing, lambda facts: _count(colour, facts), CELLS)


def count_shape(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _board(generator)
    shape = str(generator.choice(SHAPES))
    question = f"How many shapes are a {shape}?"
    return _setup(question, "number", seen, drawing, lambda facts: _count(shape, facts), CELLS)


def relation(generator: np.random.Generator, split: Split) -> Setup:
    """The shape beside a thing that stands once on the board."""
    things = [str(thing) for thing in generator.choice(THINGS, size=9, replace=False)]
    seen = dict(zip(CELLS, things, strict=True))
    word = str(generator.choice(list(STEPS)))
    down, across = STEPS[word]
    rows = [row for row in (1, 2, 3) if 1 <= row + down <= 3]
    columns = [column for column in (1, 2, 3) if 1 <= column + across <= 3]
    row, column = int(generator.choice(rows)), int(generator.choice(columns))
    anchor, target = f"row {row} column {column}", f"row {row + down} column {column + across}"

    def solve(facts: Facts) -> Solution:
        thing = facts[target]
        find = Move(f"Find the {seen[anchor]}", (f"{anchor.capitalize()} is a {seen[anchor]}",), ())
        find = Move(find.name, find.thought, (f"{seen[anchor]} for {anchor}",))
        look = Move(f"Look {word}", (f"{target.capitalize()} is a {thing}",), (f"{thing} for {target}",))
        return Solution((find, look), thing)

    question = f"What stands {word} the {seen[anchor]}?"
    return _setup(question, "word", seen, {"things": things}, solve, (target,))


def shape_sides(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _board(generator)
    row = str(generator.choice(ROWS))

    def solve(facts: Facts) -> Solution:
        shapes = [facts[cell].split()[1] for cell in LINES[row]]
        rules = tuple(f"Rule: a {shape} has {SIDES[shape]} sides" for shape in dict.fromkeys(shapes))
        sides = ", ".join(str(SIDES[shape]) for shape in shapes)
        recall = Move("Recall the sides", rules, (f"The sides of {row} are {sides}",))
        equations, total = add_up([SIDES[shape] for shape in shapes])
        end = Move("Add the sides", equations, (f"The total is {total}",))
        return Solution((read_group(row, LINES[row], facts), recall, end), str(total))

    question = f"How many sides do the shapes of {row} have in all?"
    return _setup(question, "number", seen, drawing, solve, LINES[row])


def warm_or_cool(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _board(generator)
    cell = str(generator.choice(CELLS))

    def solve(facts: Facts) -> Solution:
        colour = facts[cell].split()[0]
        look = Move(f"Read {cell}", (f"{cell.capitalize()} is a {facts[cell]}",), (f"{facts[cell]} for {cell}",))
        rule = Move("Recall the colour", (f"Rule: {colour} is {WARM[colour]}",), (f"The shade is {WARM[colour]}",))
        return Solution((look, rule), "A" if WARM[colour] == "warm" else "B")

    question = f"Is the shape at {cell} warm or cool?"
    setup = _setup(question, "choice", seen, drawing, solve, (cell,))
    return Setup(**{**vars(setup), "choices": ("warm", "cool")})


KINDS = (
    Kind("count_colour", "scene", 3, count_colour, draw),
    Kind("relation", "scene", 1, relation, draw),
    Kind("shape_sides", "scene", 3, shape_sides, draw),
    Kind("warm_or_cool", "scene", 1, warm_or_cool, draw),
    Kind("count_shape", "scene", 3, count_shape, draw, held_out=True),
)
