"""The plot of an experiment: lines over numbers, or a dot with its interval for every row."""

import re
from collections.abc import Sequence

from chainofstep.experiments.experiment import Curve
from chainofstep.experiments.found import Finding, Value
from chainofstep.report.drawing import Dots, Plot, Series, dots_to_png, to_png

COLORS = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def picture(finding: Finding) -> bytes:
    """A PNG file."""
    curve = finding.experiment.curve
    return to_png(_lines(finding, curve)) if curve else dots_to_png(_dots(finding))


def _lines(finding: Finding, curve: Curve) -> Plot:
    series = [_line(finding, column, color) for column, color in zip(curve.columns, COLORS, strict=False)]
    rows = [row for row in finding.rows() if any((row, column) in finding.values for column in curve.columns)]
    ticks = tuple((_place(row), f"{_place(row):g}") for row in rows)
    shares = not set(curve.columns) & set(finding.experiment.numbers)
    return Plot(tuple(series), curve.x_label, curve.y_label, ticks, log=curve.log, shares=shares)


def _line(finding: Finding, column: str, color: str) -> Series:
    shown = [(_place(row), value) for row in finding.rows() if (value := finding.values.get((row, column)))]
    x, y, low, high = _columns(shown)
    return Series(column, color, x, y, low, high)


def _columns(shown: Sequence[tuple[float, Value]]) -> tuple[list[float], ...]:
    return (
        [place for place, _ in shown],
        [value.mean for _, value in shown],
        [value.low for _, value in shown],
        [value.high for _, value in shown],
    )


def _place(row: str) -> float:
    """Where a row stands on the axis: the number in its name."""
    found = _NUMBER.search(row)
    assert found is not None, row
    return float(found.group())


def _dots(finding: Finding) -> Dots:
    """Shares of every row; columns of numbers are in the table alone."""
    columns = [column for column in finding.columns() if column not in finding.experiment.numbers][: len(COLORS)]
    rows, series = finding.rows(), []
    for column, color in zip(columns, COLORS, strict=False):
        shown = [(float(place), v) for place, row in enumerate(rows) if (v := finding.values.get((row, column)))]
        x, y, low, high = _columns(shown)
        series.append(Series(column, color, x, y, low, high))
    return Dots(tuple(rows), tuple(series))
