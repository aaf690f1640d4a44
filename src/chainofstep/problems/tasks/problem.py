"""What a generated problem is made of: a kind of question, a scene of facts, and how the facts give the answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from chainofstep.records import AnswerKind

Facts = dict[str, str]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Move:
    """One step of a solution, as sentences: what it reads or works out, and how it ties that back."""

    name: str
    thought: tuple[str, ...]
    reflection: tuple[str, ...]


@dataclass(frozen=True)
class Solution:
    """The steps and the answer that follow from a set of facts, right or misread."""

    moves: tuple[Move, ...]
    answer: str


@dataclass(frozen=True)
class Setup:
    """A drawn scene and a question about it.

    `seen` are the facts that the picture shows, each subject with its value; `groups` the ordered subjects that
    one reading covers; `domain` the values a subject could have had (what a misreading may say); `drawing` is what
    the family's `draw` needs; `solve` turns facts into a solution, so that misread facts give the chain of someone
    who misread.
    """

    question: str
    answer_kind: AnswerKind
    seen: Facts
    groups: Mapping[str, Sequence[str]]
    domain: Callable[[str], Sequence[str]]
    drawing: dict[str, Any]
    solve: Callable[[Facts], Solution]
    choices: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()  # the seen subjects that the question needs


@dataclass(frozen=True)
class Kind:
    """One kind of question: `set_up` draws a scene, `draw` paints it (uint8 RGB, 96 x 96 pixels)."""

    name: str
    family: str
    level: int  # 1 to 3
    set_up: Callable[[np.random.Generator, Split], Setup]
    draw: Callable[[dict[str, Any], np.random.Generator], Image.Image]
    held_out: bool = False  # never trained on


def read_group(group: str, subjects: Sequence[str], facts: Facts) -> Move:
    """The step that reads a group of subjects, such as a row."""
    values = ", ".join(facts[subject] for subject in subjects)
    return Move(f"Read {group}", (f"{group.capitalize()} reads {values}",), (f"{values} in {group}",))


def read_one(subject: str, facts: Facts) -> Move:
    """The step that reads one subject."""
    value = facts[subject]
    return Move(f"Read the {subject}", (f"The {subject} is {value}",), (f"{value} for the {subject}",))


def add_up(values: Sequence[int]) -> tuple[tuple[str, ...], int]:
    """Running sums as equations, and the total."""
    total, equations = values[0], []
    for value in values[1:]:
        equations.append(f"{total} + {value} = {total + value}")
        total += value
    return tuple(equations), total


RELATIONS = ("more than", "less than", "as much as")


def compared(left: int, right: int) -> str:
    relation = "more than" if left > right else "less than" if left < right else "as much as"
    return f"{left} is {relation} {right}"
