"""What an experiment is: a question, what it measures in one run, and what the paper found.

A run has one seed. What it measures are cells of a table, each by its row and column: the questions that were answered
rightly, in the order of the test set, or one number. Cells of several runs make one table with intervals
(`found.py`), so an experiment itself never speaks of seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainofstep.pipeline.run import Run
from chainofstep.store import read_json, write_json

#: Right or not by test question, or a number: a share, unless its column is one of `Experiment.numbers`.
Cell = list[bool] | float
Place = tuple[str, str]  # row, column
Cells = dict[Place, Cell]


@dataclass(frozen=True)
class Claim:
    """That one cell is above another; with `since`, that it gained more over its own start than the other did."""

    text: str
    paper: str  # what the paper reports, in words; "" where it reports nothing
    better: Place
    worse: Place
    since: tuple[Place, Place] | None = None  # the starts of `better` and of `worse`


@dataclass(frozen=True)
class PaperTable:
    """The paper's own figures, in its columns, for rows of the experiment's names."""

    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Which columns are drawn as lines over the rows, whose names are numbers or end on one."""

    x_label: str
    y_label: str
    columns: tuple[str, ...]
    log: bool = False


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper, or one question that it left open."""

    name: str  # "table1"
    title: str
    about: str  # a paragraph: what is asked, and how it is done here
    measure: Callable[[Run], Cells]  # runs the stages that it needs, and counts
    head: str  # of the first column, that names the rows
    claims: tuple[Claim, ...] = ()
    paper: PaperTable | None = None
    curve: Curve | None = None
    numbers: tuple[str, ...] = ()  # columns that are no shares


def carry_out(run: Run, experiment: Experiment) -> None:
    """Run what an experiment needs and write its cells to `experiments/NAME.json`, with the stages that it took."""
    run.used.clear()
    cells = [_row(*place, cell) for place, cell in experiment.measure(run).items()]
    found = {"cells": cells, "stages": list(dict.fromkeys(run.used))}
    write_json(run.path("experiments", f"{experiment.name}.json"), found)


def _row(row: str, column: str, cell: Cell) -> dict[str, Any]:
    if isinstance(cell, list):
        return {"row": row, "column": column, "right": "".join(str(int(right)) for right in cell)}
    return {"row": row, "column": column, "value": cell}


def read_cells(path: Path) -> tuple[Cells, list[str]]:
    """The cells that one run measured, and the stages that it took."""
    found = read_json(path)
    cells: Cells = {
        (row["row"], row["column"]): [digit == "1" for digit in row["right"]] if "right" in row else float(row["value"])
        for row in found["cells"]
    }
    return cells, found["stages"]
