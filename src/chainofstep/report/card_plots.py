"""How often each length and label occurs in a set, as columns to tabulate and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chainofstep.problems.stats import TOKENS_BUCKET, WORDS_BUCKET, Stats
from chainofstep.report.drawing import Plot, Series

MOST_BUCKETS = 16
MOST_TICKS = 8
COLORS = ("series-1", "series-2")


@dataclass(frozen=True)
class Bars:
    """A value for each label in each named column; of counts, the plot shows shares."""

    name: str  # an id on the page
    caption: str
    what: str  # what the labels are
    labels: tuple[str, ...]
    columns: tuple[tuple[str, tuple[float, ...]], ...]
    counts: bool = True
    y_label: str = "Share"

    def plot(self) -> Plot:
        places = [float(place) for place in range(len(self.labels))]
        several = len(self.columns) > 1
        series = tuple(
            _filled(name if several else "", color, places, _shares(column) if self.counts else column)
            for (name, column), color in zip(self.columns, COLORS, strict=False)
        )
        stride = -(-len(self.labels) // MOST_TICKS)
        ticks = tuple((place, self.labels[int(place)].split()[0]) for place in places[::stride])
        return Plot(series, self.what, self.y_label, ticks, shares=self.counts)


def _filled(name: str, color: str, places: Sequence[float], values: Sequence[float]) -> Series:
    """A line with the ground below it coloured."""
    return Series(name, color, places, values, low=[0.0] * len(places), high=values)


def _shares(column: Sequence[float]) -> list[float]:
    total = sum(column) or 1
    return [number / total for number in column]


def length_bars(stats: Stats) -> list[Bars]:
    """Steps per chain, words and tokens per text, as far as they were counted."""
    steps = {"Chosen": stats.steps, "Rejected": stats.rejected_steps} if stats.pairs else {"Chains": stats.steps}
    found = [("steps", "Steps per chain", "Steps", 1, steps)]
    found.append(("words", "Words per text, without tags", "Words", WORDS_BUCKET, {"Texts": stats.words}))
    found.append(("tokens", "Tokens per text", "Tokens", TOKENS_BUCKET, {"Texts": stats.tokens or {}}))
    return [_histogram(*one) for one in found if any(one[-1].values())]


def _histogram(name: str, caption: str, what: str, width: int, columns: Mapping[str, Mapping[int, int]]) -> Bars:
    """At most `MOST_BUCKETS` buckets, wider ones where need be, and one for the last hundredth if it lies far out."""
    everything = [(value, number) for counts in columns.values() for value, number in counts.items()]
    first, last = min(value for value, _ in everything), _quantile(everything, 0.99)
    while last // width - first // width >= MOST_BUCKETS:
        width *= 2
    starts = range(first - first % width, last + 1, width)
    end = starts[-1] + width
    labels = [str(start) if width == 1 else f"{start} to {start + width - 1}" for start in starts]
    grouped = [(column, _grouped(counts, starts, width)) for column, counts in columns.items()]
    if any(value >= end for value, _ in everything):
        labels.append(f"{end} or more")
        grouped = [
            (column, (*counts, sum(number for value, number in columns[column].items() if value >= end)))
            for column, counts in grouped
        ]
    return Bars(name, caption, what, tuple(labels), tuple(grouped))


def _grouped(counts: Mapping[int, int], starts: range, width: int) -> tuple[float, ...]:
    return tuple(sum(number for value, number in counts.items() if start <= value < start + width) for start in starts)


def _quantile(counts: Sequence[tuple[int, int]], share: float) -> int:
    """The least value that this share of all does not exceed."""
    wanted, seen = share * sum(number for _, number in counts), 0
    for value, number in sorted(counts):
        seen += number
        if seen >= wanted:
            return value
    raise AssertionError("a share is at most 1")


def position_bars(stats: Stats) -> Bars:
    """The mean label of first, second, ... steps."""
    means = list(stats.mean_labels().items())[:MOST_BUCKETS]
    labels, values = tuple(str(place) for place, _ in means), tuple(mean for _, mean in means)
    caption = "Mean label of first, second, ... steps"
    return Bars("positions", caption, "Number of the step", labels, (("Mean label", values),), False, "Mean label")


def label_bars(stats: Stats) -> Bars:
    """Step labels by tenths."""
    labels = tuple(f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}" for tenth in range(10))
    counts = tuple(float(stats.label_tenths.get(tenth, 0)) for tenth in range(10))
    return Bars("labels-by-value", "Step labels by their value", "Label", labels, (("Steps", counts),))
