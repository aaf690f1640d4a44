"""Rollouts as a tree: what they begin with in common is one way, with the scores of all that pass a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chainofstep.chain import Step
from chainofstep.records import Scored, StepScores
from chainofstep.view.texts import Reading, mean, row_of_step

#: Scores of one text that differ by less were computed in other batches.
SAME = 1e-3


@dataclass
class Node:
    """A step, or an answer, after the steps on the way to it."""

    number: int
    parent: int | None
    step: Step | None
    answer: str | None
    rollouts: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)


def build_tree(
    readings: Sequence[Reading], scores: Mapping[str, Sequence[Scored | None]]
) -> tuple[list[Node], list[list[int]]]:
    """The nodes in the order of their first rollouts, and for each rollout the numbers of the steps on its way.

    `scores[scorer][i]` belongs to `readings[i]`. Scores that do not fit a text's steps are left out.
    """
    nodes: list[Node] = []
    known: dict[tuple[int | None, Step | None, str | None], Node] = {}
    ways: list[list[int]] = []

    def enter(parent: int | None, step: Step | None, answer: str | None, index: int) -> Node:
        node = known.get((parent, step, answer))
        if node is None:
            node = known[parent, step, answer] = Node(len(nodes), parent, step, answer)
            nodes.append(node)
        node.rollouts.append(index)
        return node

    for index, reading in enumerate(readings):
        own = {name: scored[index] for name, scored in scores.items()}
        parent: int | None = None
        way = []
        for place, step in enumerate(reading.steps):
            node = enter(parent, step, None, index)
            _note(node, own, len(reading.steps), place)
            way.append(parent := node.number)
        if reading.answer is not None:
            _note(enter(parent, None, reading.answer, index), own, len(reading.steps), None)
        ways.append(way)
    return nodes, ways


def _note(node: Node, own: Mapping[str, Scored | None], steps: int, place: int | None) -> None:
    """Add a rollout's scores of a step, or of the answer without a place, to the node."""
    for name, scored in own.items():
        if isinstance(scored, StepScores) and len(scored.steps) == steps:
            value = scored.answer if place is None else scored.steps[place]
            if value is not None:
                node.scores.setdefault(name, []).append(value)


def node_row(node: Node, right: bool | None) -> dict[str, Any]:
    """As the page takes it; `spread` names scorers whose scores differ among the node's rollouts."""
    spread = {name: [min(values), max(values)] for name, values in node.scores.items()}
    row: dict[str, Any] = {
        "number": node.number,
        "parent": node.parent,
        "step": None if node.step is None else row_of_step(node.step),
        "answer": node.answer,
        "rollouts": node.rollouts,
        "scores": {name: mean(values) for name, values in node.scores.items()},
        "spread": {name: ends for name, ends in spread.items() if ends[1] - ends[0] > SAME},
    }
    return row if node.step is not None else row | {"right": right}
