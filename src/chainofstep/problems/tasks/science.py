"""Science: labelled diagrams of levers, circuits and food webs, each with a rule to apply."""

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


RESISTORS = ((1, 0), (4, 0), (5, 3))


def draw_circuit(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    """A loop with a battery on the left; resistors are boxes with a value, switches are closed or open."""
    canvas = Canvas()
    canvas.box((0.5, 0.5), (5, 5))
    canvas.box((0, 2.5), (1, 1), fill=(225, 225, 230))
    canvas.text((0, 2.5), "V", size=12)
    for (column, row), value in zip(RESISTORS, drawing.get("resistors", ()), strict=False):
        canvas.box((column, row), (1, 1), fill=(232, 214, 190))
        canvas.text((column, row), str(value), size=13)
    for (column, row), state in zip(((1, 0), (4, 0)), drawing.get("switches", ()), strict=False):
        _draw_switch(canvas, column, row, closed=state == "closed")
    if "switches" in drawing:
        canvas.pen.ellipse((40, 80, 55, 95), fill=COLOURS["yellow"], outline=(40, 40, 48))
    return canvas.noisy(generator, 4.0)


def _draw_switch(canvas: Canvas, column: int, row: int, closed: bool) -> None:
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
    states = ["closed" if generator.random() < 0.65 else "open" for _ in range(2)]
    names = ("switch 1", "switch 2")
    seen = dict(zip(names, states, strict=True))

    def solve(facts: Facts) -> Solution:
        moves = [_read_part(name, facts) for name in names]
        lit = all(facts[name] == "closed" for name in names)
        end = Move("Apply the rule", (LAMP_RULE,), (f"The lamp is {'on' if lit else 'off'}",))
        return Solution((*moves, end), "yes" if lit else "no")

    domain = ("closed", "open")
    drawing = {"switches": states}
    return Setup("Is the lamp on?", "word", seen, {}, lambda _: domain, drawing, solve, needed=names)


def draw_web(drawing: dict[str, Any], generator: np.random.Generator) -> Image.Image:
    """Three species in a row, an arrow from the eaten to the eater between each two."""
    canvas = Canvas()
    for place, species in enumerate(drawing["species"]):
        canvas.pen.ellipse((32 * place, 32, 32 * place + 15, 47), fill=(214, 232, 214), outline=(40, 40, 48))
        canvas.text((2 * place, 2), species, size=12)
    for place, forward in enumerate(drawing["forward"]):
        left, right, y = 32 * place + 17, 32 * place + 30, 40
        canvas.pen.line((left, y, right, y), fill=(40, 40, 48), width=2)
        tip, back = (right, right - 5) if forward else (left, left + 5)
        canvas.pen.polygon([(tip, y), (back, y - 5), (back, y + 5)], fill=(40, 40, 48))
    return canvas.noisy(generator, 4.0)


def food_web(generator: np.random.Generator, split: Split) -> Setup:
    """The middle species eats one neighbour or is eaten by it; that neighbour vanishes."""
    species = [str(letter) for letter in generator.choice(SPECIES, size=3, replace=False)]
    forward = [bool(generator.integers(0, 2)) for _ in range(2)]
    side = int(generator.integers(0, 2))
    middle, gone = species[1], species[0 if side == 0 else 2]
    eats = forward[0] if side == 0 else not forward[1]  # whether the middle species eats the one that vanishes
    link = f"link of {middle} to {gone}"
    seen = {link: "food" if eats else "eater"}

    def solve(facts: Facts) -> Solution:
        food = facts[link] == "food"
        rule, change = (FOOD_RULE, "falling") if food else (EATER_RULE, "rising")
        end = Move("Apply the rule", (rule,), (f"The trend of {middle} is {change}",))
        return Solution((read_one(link, facts), end), change)

    question = f"If {gone} vanishes, is {middle} rising or falling?"
    drawing = {"species": species, "forward": forward}
    return Setup(question, "word", seen, {}, lambda _: ("food", "eater"), drawing, solve, needed=(link,))


KINDS = (
    Kind("lever_tip", "science", 3, lever_tip, draw_lever),
    Kind("circuit_resistance", "science", 2, circuit_resistance, draw_circuit),
    Kind("circuit_lamp", "science", 2, circuit_lamp, draw_circuit),
    Kind("food_web", "science", 1, food_web, draw_web),
    Kind("lever_difference", "science", 3, lever_difference, draw_lever, held_out=True),
)
