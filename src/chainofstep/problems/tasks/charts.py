"""Charts and documents: bar, line and pie charts and tables, drawn, with a question that reads and reckons."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from chainofstep.problems.tasks.canvas import COLOURS, Canvas
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
    read_one,
)

VALUES = tuple(str(value) for value in range(1, 11))
DAYS = tuple(f"day {day}" for day in range(1, 6))
ITEMS = ("pens", "cups", "hats")
TABLE = {item: (f"{item} in May", f"{item} in June") for item in ITEMS}


def draw_bars(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas = Canvas()
    for value in (5, 10):
        canvas.line((0.5, 5.5 - value / 2), (5.8, 5.5 - value / 2), colour=(200, 200, 200))
    for place, (colour, value) in enumerate(drawing["bars"]):
        canvas.box((1 + place + 0.12, 5.5 - value / 2), (0.76, value / 2), fill=COLOURS[colour])
    canvas.line((0.5, 5.5), (5.8, 5.5))
    return canvas.noisy(generator, 4.0)


def _bars(generator: np.random.Generator) -> tuple[Facts, dict[str, Any]]:
    colours = [str(colour) for colour in generator.permutation(list(COLOURS))]
    values = [int(value) for value in generator.integers(1, 11, size=4)]
    facts = {f"{colour} bar": str(value) for colour, value in zip(colours, values, strict=True)}
    return facts, {"bars": list(zip(colours, values, strict=True))}


def _difference(high: int, low: int) -> Move:
    return Move("Subtract", (f"{high} - {low} = {high - low}",), (f"The difference is {high - low}",))


def _total(values: Sequence[int]) -> tuple[Move, int]:
    equations, total = add_up(values)
    return Move("Add the values", equations, (f"The total is {total}",)), total


def _values(_: str) -> Sequence[str]:
    return VALUES


def bar_difference(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _bars(generator)
    pair = [str(bar) for bar in generator.choice(list(seen), size=2, replace=False)]

    def solve(facts: Facts) -> Solution:
        first, second = (int(facts[bar]) for bar in pair)
        moves = [read_one(bar, facts) for bar in pair]
        end = _difference(max(first, second), min(first, second))
        return Solution((*moves, end), str(abs(first - second)))

    question = f"By how much do the {pair[0]} and the {pair[1]} differ?"
    return Setup(question, "number", seen, {}, _values, drawing, solve, needed=tuple(pair))


def bar_total(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _bars(generator)
    bars = [str(bar) for bar in generator.choice(list(seen), size=3, replace=False)]

    def solve(facts: Facts) -> Solution:
        move, total = _total([int(facts[bar]) for bar in bars])
        return Solution((*(read_one(bar, facts) for bar in bars), move), str(total))

    question = f"What is the total of the {bars[0]}, the {bars[1]} and the {bars[2]}?"
    return Setup(question, "number", seen, {}, _values, drawing, solve, needed=tuple(bars))


def draw_line(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas = Canvas()
    for value in (5, 10):
        canvas.line((0.5, 5.6 - value / 2), (5.9, 5.6 - value / 2), colour=(200, 200, 200))
    points = [(0.5 + day, 5.6 - value / 2) for day, value in enumerate(drawing["values"], start=1)]
    for start, end in pairwise(points):
        canvas.line(start, end, width=2, colour=COLOURS["blue"])
    for x, y in points:
        canvas.box((x - 0.2, y - 0.2), (0.4, 0.4), fill=COLOURS["red"])
    canvas.line((0.5, 5.7), (5.9, 5.7))
    return canvas.noisy(generator, 4.0)


def line_total(generator: np.random.Generator, split: Split) -> Setup:
    values = [int(value) for value in generator.integers(1, 11, size=5)]
    seen = {day: str(value) for day, value in zip(DAYS, values, strict=True)}
    pair = sorted(str(day) for day in generator.choice(DAYS, size=2, replace=False))

    def solve(facts: Facts) -> Solution:
        move, total = _total([int(facts[day]) for day in pair])
        return Solution((*(_read_day(day, facts) for day in pair), move), str(total))

    question = f"What is the total of {pair[0]} and {pair[1]}?"
    return Setup(question, "number", seen, {}, _values, {"values": values}, solve, needed=tuple(pair))


def _read_day(day: str, facts: Facts) -> Move:
    return Move(f"Read {day}", (f"{day.capitalize()} is {facts[day]}",), (f"{facts[day]} for {day}",))


def draw_pie(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas, angle = Canvas(), -90.0
    for colour, eighths in drawing["slices"]:
        canvas.pen.pieslice((8, 8, 88, 88), angle, angle + 45 * eighths, fill=COLOURS[colour], outline=(40, 40, 48))
        angle += 45 * eighths
    return canvas.noisy(generator, 4.0)


def pie_share(generator: np.random.Generator, split: Split) -> Setup:
    colours = [str(colour) for colour in generator.permutation(list(COLOURS))]
    cuts = sorted(int(cut) for cut in generator.choice(np.arange(1, 8), size=3, replace=False))
    eighths = [end - start for start, end in zip([0, *cuts], [*cuts, 8], strict=True)]
    seen = {f"{colour} slice": str(share) for colour, share in zip(colours, eighths, strict=True)}
    pair = [str(slice_) for slice_ in generator.choice(list(seen), size=2, replace=False)]

    def solve(facts: Facts) -> Solution:
        move, total = _total([int(facts[slice_]) for slice_ in pair])
        return Solution((*(read_one(slice_, facts) for slice_ in pair), move), str(total))

    question = f"How many eighths do the {pair[0]} and the {pair[1]} cover?"
    drawing = {"slices": list(zip(colours, eighths, strict=True))}
    return Setup(question, "number", seen, {}, lambda _: VALUES[:5], drawing, solve, needed=tuple(pair))


def draw_table(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas = Canvas()
    for row, initial in enumerate("PCH"):
        canvas.text((0, 2 * row + 1), initial, size=13)
    for column, initial in enumerate("MJ"):
        canvas.text((2 + 2 * column, 0), initial, size=13)
    for place, value in enumerate(drawing["values"]):
        canvas.text((2 + 2 * (place % 2), 1 + 2 * (place // 2)), str(value), size=13)
    for edge in (0.95, 2.5, 4.5):
        canvas.line((0, edge), (6, edge), colour=(150, 150, 150))
    canvas.line((1.4, 0), (1.4, 6), colour=(150, 150, 150))
    return canvas.noisy(generator, 4.0)


def table_larger(generator: np.random.Generator, split: Split) -> Setup:
    """Two items are compared; one time in five all three, which takes seven steps."""
    values = [int(value) for value in generator.integers(1, 10, size=6)]
    subjects = [subject for item in ITEMS for subject in TABLE[item]]
    seen = {subject: str(value) for subject, value in zip(subjects, values, strict=True)}
    count = 3 if generator.random() < 0.2 else 2
    items = [str(item) for item in generator.choice(ITEMS, size=count, replace=False)]
    listed = f"{', '.join(items[:-1])} or {items[-1]}"
    needed = tuple(subject for item in items for subject in TABLE[item])

    def solve(facts: Facts) -> Solution:
        return _largest_total(items, facts)

    question = f"Which sold more in all, {listed}?"
    return Setup(question, "word", seen, TABLE, lambda _: VALUES[:9], {"values": values}, solve, needed=needed)


def _largest_total(items: Sequence[str], facts: Facts) -> Solution:
    moves, totals = [], []
    for item in items:
        equations, total = add_up([int(facts[subject]) for subject in TABLE[item]])
        moves.append(read_group(item, TABLE[item], facts))
        moves.append(Move("Add the months", equations, (f"The total of {item} is {total}",)))
        totals.append(total)
    best = max(totals)
    winner = items[totals.index(best)] if totals.count(best) == 1 else "neither"
    rest = [total for place, total in enumerate(totals) if place != totals.index(best)]
    thought = tuple(compared(best, total) for total in rest)
    return Solution((*moves, Move("Compare the totals", thought, (f"The larger total is {winner}",))), winner)


KINDS = (
    Kind("bar_difference", "chart", 2, bar_difference, draw_bars),
    Kind("line_total", "chart", 2, line_total, draw_line),
    Kind("pie_share", "chart", 2, pie_share, draw_pie),
    Kind("table_larger", "chart", 3, table_larger, draw_table),
    Kind("bar_total", "chart", 2, bar_total, draw_bars, held_out=True),
)
