"""Line plots in one house style: as SVG whose colours follow the page's light or dark theme, and as PNG.

Figures are drawn in the light palette. In SVG every colour of that palette becomes a CSS variable of the same name, and
text stays text in the page's own typeface.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from chainofstep.report.markup import Html

LIGHT = {
    "ink": "#1c2024",
    "muted": "#656d76",
    "line": "#dfe2e6",
    "series-1": "#1f5fc4",
    "series-2": "#c2540a",
    "series-3": "#0b8068",
    "series-4": "#8a3fb0",
    "series-5": "#96700c",
    "series-6": "#b3316b",
}
DARK = {
    "ink": "#e6e9ed",
    "muted": "#98a1ac",
    "line": "#30363d",
    "series-1": "#7db0ff",
    "series-2": "#f79d5c",
    "series-3": "#4fcfae",
    "series-4": "#cf9bf0",
    "series-5": "#dfbb55",
    "series-6": "#f58ab8",
}
SIZE_INCHES = (5.2, 3.2)  # small, so that the text is still large enough on a phone
LABEL_LENGTH = 24
LETTER_WIDTH = 0.0147  # of a label, as a share of the figure's width
LEGEND_COLUMNS = 3
LABEL_GAP = 0.075  # between direct labels, as a share of the plot's height
#: Any: the key type is one literal of all of matplotlib's settings.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from data: a dollar sign is a dollar sign
    "font.size": 10,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Series:
    """A labelled line with its 95% band; `x`, `y`, `low`, `high` have one value per point."""

    label: str
    color: str  # a key of the palettes
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    sizes: Sequence[float] = ()  # areas of the points in square points; none: the usual dots


@dataclass(frozen=True)
class Plot:
    """What a line plot shows. `x_ticks` are (position, label); logarithmic in x where `log` is set."""

    series: tuple[Series, ...]
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...] = ()
    log: bool = False
    shares: bool = True  # y values are shares, printed as per cents
    diagonal: bool = False  # the line y = x
    marks: tuple[tuple[float, str], ...] = ()  # vertical lines at x, with a word


@dataclass(frozen=True)
class Dots:
    """Shares by row, from top to bottom: a dot with its interval for each series, whose `x` are places of rows."""

    rows: tuple[str, ...]
    series: tuple[Series, ...]


def dots_to_png(dots: Dots) -> bytes:
    """The dots as a PNG file on white, 936 pixels wide, as high as it needs."""
    target = BytesIO()
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        _dot_figure(dots).savefig(target, format="png", dpi=180, metadata={"Software": None})
    return target.getvalue()


def _dot_figure(dots: Dots) -> Figure:
    rows = [fill(row, LABEL_LENGTH) for row in dots.rows]
    lanes = max(0.16 * len(dots.series) if len(dots.series) > 1 else 0.0, 0.16 * max(row.count("\n") for row in rows))
    legend = 0.2 * -(-len(dots.series) // LEGEND_COLUMNS) if len(dots.series) > 1 else 0.0
    height = 0.75 + legend + len(rows) * (0.24 + lanes)
    figure = Figure(figsize=(SIZE_INCHES[0], height))
    axes = figure.subplots()
    longest = max(len(line) for row in rows for line in row.split("\n"))
    left = 0.04 + LETTER_WIDTH * longest
    figure.subplots_adjust(left=left, right=0.95, bottom=0.42 / height, top=1 - (0.2 + legend) / height)
    for number, series in enumerate(dots.series):
        _draw_dots(axes, series, (number - (len(dots.series) - 1) / 2) * 0.7 / len(dots.series))
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 2):g}%"))
    if legend:
        figure.legend(
            loc="upper left", ncols=LEGEND_COLUMNS, frameon=False, fontsize=8, labelcolor="linecolor",
            handletextpad=0.2, columnspacing=1, borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _draw_dots(axes: Axes, series: Series, shift: float) -> None:
    """One series, its dots a little above or below the middle of their rows."""
    places, color = [x + shift for x in series.x], LIGHT[series.color]
    axes.hlines(places, series.low, series.high, color=color, alpha=0.45, linewidth=3)
    axes.plot(series.y, places, "o", color=color, label=series.label)


def to_svg(plot: Plot, name: str) -> Html:
    """The plot as an `<svg>` element for a page; `name` keeps its ids apart from those of other plots."""
    target = StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _figure(plot).savefig(target, format="svg", transparent=True, metadata=metadata)
    return _inline(target.getvalue(), name)


def to_png(plot: Plot) -> bytes:
    """The plot as a PNG file on white, 936 pixels wide."""
    target = BytesIO()
    with rc_context(STYLE):
        _figure(plot).savefig(target, format="png", dpi=180, metadata={"Software": None})
    return target.getvalue()


def _inline(document: str, name: str) -> Html:
    """An SVG document as an element of a page: no prologue, no namespaces, no fixed size, themed colours."""
    svg = document[document.index("<svg") :]
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[\d. ]+"', head)
    assert view is not None, head
    rest = re.sub(r"<metadata>.*?</metadata>|<style type=.*?</style>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", rest).replace("xlink:href", "href")
    rest = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", r"font-size: \2", rest)
    for color, value in LIGHT.items():
        rest = rest.replace(value, f"var(--{color})")
    return Html(f'<svg {view.group()} class="plot" aria-hidden="true">{rest.strip()}')


def _figure(plot: Plot) -> Figure:
    figure = Figure(figsize=SIZE_INCHES)
    axes = figure.subplots()
    longest = max(len(_short(series.label)) for series in plot.series)
    figure.subplots_adjust(left=0.125, right=0.95 - LETTER_WIDTH * longest, bottom=0.16, top=0.9)
    if plot.log:
        axes.set_xscale("log", base=2)
    opacity = 0.14 if len(plot.series) <= 4 else 0.06  # many bands on one another hide the lines
    for series in plot.series:
        _draw(axes, series, opacity)
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    _label_axes(axes, plot)
    for x, word in plot.marks:
        axes.axvline(x, color=LIGHT["muted"], linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            word, (x, 0.02), xycoords=axes.get_xaxis_transform(), xytext=(4, 0), textcoords="offset points",
            color=LIGHT["muted"], fontsize=9,
        )  # fmt: skip
    _label_series(axes, plot.series)
    return figure


def _draw(axes: Axes, series: Series, opacity: float) -> None:
    """A line with its band; a single point also gets a level across the plot, to compare others with."""
    color = LIGHT[series.color]
    if series.low:
        axes.fill_between(series.x, series.low, series.high, color=color, alpha=opacity, linewidth=0)
    if len(series.x) == 1:
        axes.axhline(series.y[0], color=color, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    style = (0, (4, 2)) if series.dashed else "-"
    axes.plot(series.x, series.y, color=color, linestyle=style, marker=None if series.sizes else "o")
    if series.sizes:
        axes.scatter(series.x, series.y, s=series.sizes, color=color, zorder=3)


def _label_axes(axes: Axes, plot: Plot) -> None:
    axes.set_xlabel(plot.x_label)
    axes.annotate(
        plot.y_label,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-38, 8),
        textcoords="offset points",
        color=LIGHT["muted"],
    )
    axes.tick_params(length=0)
    if plot.shares:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 2):g}%"))
    if plot.x_ticks:
        positions, labels = zip(*plot.x_ticks, strict=True)
        axes.set_xticks(positions, [_short(label) for label in labels])
        axes.xaxis.set_minor_locator(NullLocator())


def _short(label: str) -> str:
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def _label_series(axes: Axes, shown: Sequence[Series]) -> None:
    """Names at the right edge, each near the end of its line, in the line's colour: no legend to look up."""
    low, high = axes.get_ylim()
    heights = spread([(series.y[-1] - low) / (high - low) for series in shown], LABEL_GAP)
    for series, height in zip(shown, heights, strict=True):
        axes.text(1.03, height, _short(series.label), transform=axes.transAxes, color=LIGHT[series.color], va="center")


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved apart until neighbours are `gap` apart, in the same order, within [0, 1] if they fit."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    ranked = [heights[index] for index in order]
    raised = _raised(ranked, gap)
    lowered = [1 - height for height in reversed(_raised([1 - height for height in reversed(ranked)], gap))]
    moved = [0.0] * len(heights)
    for index, upper, lower in zip(order, raised, lowered, strict=True):
        moved[index] = (upper + lower) / 2  # the middle of two ways to keep the gap keeps it too
    return moved


def _raised(ranked: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved apart upwards, and back down from 1 where they would go beyond it."""
    placed: list[float] = []
    for height in ranked:
        placed.append(max(height, placed[-1] + gap if placed else 0.0))
    ceiling = max(1.0, gap * (len(placed) - 1))
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], ceiling)
        ceiling = placed[place] - gap
    return placed
