"""Science: labelled diagrams of levers, circuits and food webs, each with a rule to apply."""

from typing import Any

import numpy as np
from PIL import Image

from chainofstep.problems.tasks.canvas import COLOURS, Canvas, Place
from chainofstep.problems.tasks.problem import (
    Facts,
    Kind,
    Move,
    Setup,
    Solution,
    Split,
    add_up,
    compared,
    read_one,
)

LEVER_RULE = "Rule: the larger moment sinks"
SERIES_RULE = "Rule: resistors in series add"
LAMP_RULE = "Rule: a lamp needs a closed loop"
FOOD_RULE = "Rule: a species falls without its food"
EATER_RULE = "Rule: a species rises without its eater"
SPECIES = ("A", "B", "C", "D", "E")


def draw_lever(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    canvas = Canvas()
    canvas.line((0, 4), (6, 4), width=3)
    canvas.pen.polygon([(48, 66), (58, 92), (38, 92)], fill=(170, 170, 176), outline=(40, 40, 48))
    for side, arm, weight in drawing["weights"]:
        column = 3 - arm if side == "left" else 2 + arm
        canvas.box((column, 3), (1, 1), fill=COLOURS["yellow"])
        canvas.text((column, 3), str(weight), size=13)
    return canvas.noisy(generator, 4.0)


def _lever(generator: np.random.Generator) -> tuple[Facts, dict[str, Any]]:
    arms = [int(arm) for arm in generator.integers(1, 4, size=2)]
    weights = [int(weight) for weight in generator.integers(1, 10, size=2)]
    seen = {
        "left weight": str(weights[0]),
        "left arm": str(arms[0]),
        "right weight": str(weights[1]),
        "right arm": str(arms[1]),
    }
    return seen, {"weights": [["left", arms[0], weights[0]], ["right", arms[1], weights[1]]]}


def _lever_domain(subject: str) -> tuple[str, ...]:
    return ("1", "2", "3") if subject.endswith("arm") else tuple(str(value) for value in range(1, 10))


def _moments(facts: Facts) -> tuple[list[Move], int, int]:
    moves, moments = [], []
    for side in ("left", "right"):
        weight, arm = int(facts[f"{side} weight"]), int(facts[f"{side} arm"])
        read = (f"The {side} weight is {weight}", f"The {side} arm is {arm}")
        moves.append(Move(f"Read the {side} side", read, (f"{weight} for the {side} weight",)))
        moves.append(
            Move("Find the moment", (f"{weight} * {arm} = {weight * arm}",), (f"The {side} moment is {weight * arm}",))
        )
        moments.append(weight * arm)
    return moves, moments[0], moments[1]


def lever_tip(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _lever(generator)

    def solve(facts: Facts) -> Solution:
        moves, left, right = _moments(facts)
        side = "left" if left > right else "right" if right > left else "neither"
        end = Move("Apply the rule", (LEVER_RULE, compared(left, right)), (f"The sinking side is {side}",))
        return Solution((*moves, end), side)

    question = "Which side of the lever sinks, left, right or neither?"
    return Setup(question, "word", seen, {}, _lever_domain, drawing, solve, needed=tuple(seen))


def lever_difference(generator: np.random.Generator, split: Split) -> Setup:
    seen, drawing = _lever(generator)

    def solve(facts: Facts) -> Solution:
        moves, left, right = _moments(facts)
        high, low = max(left, right), min(left, right)
        end = Move("Subtract", (f"{high} - {low} = {high - low}",), (f"The difference is {high - low}",))
        return Solution((*moves, end), str(high - low))

    question = "By how much do the moments of the lever differ?"
    return Setup(question, "number", seen, {}, _lever_domain, drawing, solve, needed=tuple(seen))


RESISTORS: tuple[Place, ...] = ((1, 0), (4, 0), (5, 3))
LAMP_RESISTORS: tuple[Place, ...] = ((5, 1), (5, 3.5))
SWITCHES: tuple[Place, ...] = ((0.75, 0), (2.5, 0), (4.25, 0))


def draw_circuit(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    """A loop with a battery on the left; resistors are boxes with a value, switches are closed or open."""
    canvas = Canvas()
    canvas.box((0.5, 0.5), (5, 5))
    canvas.box((0, 2.5), (1, 1), fill=(225, 225, 230))
    canvas.text((0, 2.5), "V", size=12)
    places = LAMP_RESISTORS if "switches" in drawing else RESISTORS
    for (column, row), value in zip(places, drawing["resistors"], strict=False):
        canvas.box((column, row), (1, 1), fill=(232, 214, 190))
        canvas.text((column, row), str(value), size=13)
    for (column, row), state in zip(SWITCHES, drawing.get("switches", ()), strict=False):
        _draw_switch(canvas, column, row, closed=state == "closed")
    if "switches" in drawing:
        canvas.pen.ellipse((40, 80, 55, 95), fill=COLOURS["yellow"], outline=(40, 40, 48))
    return canvas.noisy(generator, 4.0)


def _draw_switch(canvas: Canvas, column: float, row: float, closed: bool) -> None:
    canvas.box((column, row), (1, 1), fill=(250, 249, 245), outline=(250, 249, 245))
    end = (column + 1, row + 0.5) if closed else (column + 0.85, row + 0.05)
    canvas.line((column, row + 0.5), end, width=3, colour=COLOURS["green"])


def circuit_resistance(generator: np.random.Generator, split: Split) -> Setup:
    values = [int(value) for value in generator.integers(1, 10, size=int(generator.integers(2, 4)))]
    names = [f"resistor {number}" for number in range(1, len(values) + 1)]
    seen = {name: str(value) for name, value in zip(names, values, strict=True)}

    def solve(facts: Facts) -> Solution:
        moves = [_read_part(name, facts) for name in names]
        equations, total = add_up([int(facts[name]) for name in names])
        end = Move("Apply the rule", (SERIES_RULE, *equations), (f"The resistance is {total}",))
        return Solution((*moves, end), str(total))

    question = "What is the resistance of the whole circuit?"
    domain = tuple(str(value) for value in range(1, 10))
    return Setup(question, "number", seen, {}, lambda _: domain, {"resistors": values}, solve, needed=tuple(names))


def _read_part(name: str, facts: Facts) -> Move:
    return Move(f"Read {name}", (f"{name.capitalize()} is {facts[name]}",), (f"{facts[name]} for {name}",))


def circuit_lamp(generator: np.random.Generator, split: Split) -> Setup:
    """Half the lamps are on. The resistors beside the switches do not matter to whether a lamp is lit."""
    lit, draws = generator.random() < 0.5, generator.random(3)
    states = ["closed" if lit or draw < 0.5 else "open" for draw in draws]
    values = [int(value) for value in generator.integers(1, 10, size=2)]
    switches = ("switch 1", "switch 2", "switch 3")
    seen = dict(zip(switches, states, strict=True))
    seen |= {f"resistor {number}": str(value) for number, value in enumerate(values, 1)}

    def solve(facts: Facts) -> Solution:
        moves = [_read_part(name, facts) for name in switches]
        lit = all(facts[name] == "closed" for name in switches)
        end = Move("Apply the rule", (LAMP_RULE,), (f"The lamp is {'on' if lit else 'off'}",))
        return Solution((*moves, end), "yes" if lit else "no")

    def domain(subject: str) -> tuple[str, ...]:
        return ("closed", "open") if subject in switches else tuple(str(value) for value in range(1, 10))

    drawing = {"switches": states, "resistors": values}
    return Setup("Is the lamp on?", "word", seen, {}, domain, drawing, solve, needed=switches)


CORNERS = ((20, 20), (76, 20), (76, 76), (20, 76))  # centres of four species, clockwise


def draw_web(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    """Four species in a ring, an arrow from the eaten to the eater between neighbours."""
    canvas = Canvas()
    for (x, y), species in zip(CORNERS, drawing["species"], strict=True):
        canvas.pen.ellipse((x - 12, y - 12, x + 12, y + 12), fill=(214, 232, 214), outline=(40, 40, 48))
        canvas.text((x / 16 - 0.5, y / 16 - 0.5), species, size=15)
    for place, eaten in enumerate(drawing["eaten"]):
        ends = (CORNERS[place], CORNERS[(place + 1) % 4])
        _draw_arrow(canvas, *(ends if eaten else ends[::-1]))
    return canvas.noisy(generator, 4.0)


def _draw_arrow(canvas: Canvas, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Between two corners of the ring, in the middle 26 pixels of their side."""
    (x, y), (dx, dy) = start, (np.sign(end[0] - start[0]), np.sign(end[1] - start[1]))
    tail, tip, neck = ((x + far * dx, y + far * dy) for far in (15, 41, 33))
    canvas.pen.line((*tail, *neck), fill=(40, 40, 48), width=3)
    canvas.pen.polygon(
        [tip, (neck[0] + 7 * dy, neck[1] + 7 * dx), (neck[0] - 7 * dy, neck[1] - 7 * dx)], fill=(40, 40, 48)
    )


def food_web(generator: np.random.Generator, split: Split) -> Setup:
    """One species of a ring vanishes, and a neighbour that it feeds or eats is asked about."""
    species = [str(letter) for letter in generator.choice(SPECIES, size=4, replace=False)]
    eaten = [bool(draw) for draw in generator.integers(0, 2, size=4)]  # each by the next one in the ring
    if len(set(eaten)) == 1:  # no web: each would eat the next, all the way round
        eaten[0] = not eaten[0]
    asked, turned = int(generator.integers(4)), bool(generator.integers(0, 2))
    seen = {}
    for place in range(4):
        first, second = species[place], species[(place + 1) % 4]
        backward = place == asked and turned
        names = (second, first) if backward else (first, second)
        seen[f"link of {names[0]} to {names[1]}"] = "food" if eaten[place] == backward else "eater"
    link = list(seen)[asked]
    left, gone = link.split()[2], link.split()[4]

    def solve(facts: Facts) -> Solution:
        food = facts[link] == "food"
        rule, change = (FOOD_RULE, "falling") if food else (EATER_RULE, "rising")
        end = Move("Apply the rule", (rule,), (f"The trend of {left} is {change}",))
        return Solution((read_one(link, facts), end), change)

    question = f"If {gone} vanishes, is {left} rising or falling?"
    drawing = {"species": species, "eaten": eaten}
    return Setup(question, "word", seen, {}, lambda _: ("food", "eater"), drawing, solve, needed=(link,))


KINDS = (
    Kind("lever_tip", "science", 3, lever_tip, draw_lever),
    Kind("circuit_resistance", "science", 2, circuit_resistance, draw_circuit),
    Kind("circuit_lamp", "science", 2, circuit_lamp, draw_circuit),
    Kind("food_web", "science", 1, food_web, draw_web),
    Kind("lever_difference", "science", 3, lever_difference, draw_lever, held_out=True),
)
