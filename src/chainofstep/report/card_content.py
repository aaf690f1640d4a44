"""What a data card is made from, and the blocks of plain text that its page and its Markdown both show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chainofstep.problems.stats import Stats
from chainofstep.records import StepRow
from chainofstep.report.card_plots import Bars


@dataclass(frozen=True)
class SourceFacts:
    """A source of the set's rows, and what its users have to know of it."""

    name: str  # as in `Example.source`
    title: str
    kind: str
    licence: str
    rows: int
    overlaps: tuple[str, ...]  # evaluation sets with items of this source
    note: str


#: Two sets of labels, the steps both scored, the share of these with the same label, and Cohen's kappa.
Agreed = tuple[str, str, int, float | None, float | None]


@dataclass(frozen=True)
class Card:
    """What a card is made from. Paths of pictures lie in the folder that `card_html` is given."""

    name: str  # "ShareGPT-Step rows of seven sources"
    purpose: str  # "SFT chains", "PRM labels"
    stats: Stats
    sources: tuple[SourceFacts, ...] = ()
    made_by: tuple[tuple[str, Mapping[str, str]], ...] = ()  # ("Teacher", {"model": ..., "temperature": ...})
    filters: Mapping[str, Any] | None = None  # a `FilterReport` as a row
    overlap: Mapping[str, Any] | None = None  # an `Overlaps` as a row
    agreement: tuple[Agreed, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


# Blocks


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Title:
    """Heads the blocks that follow it within a section."""

    text: str


@dataclass(frozen=True)
class Quote:
    """A text that others wrote, and a line about it."""

    line: str
    text: str


@dataclass(frozen=True)
class Table:
    """Cells by row. The columns at `words` and the first hold words, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()  # of each row in [0, 1], where they can be drawn


@dataclass(frozen=True)
class Figure:
    """A plot where there can be one, and its numbers."""

    bars: Bars
    table: Table


@dataclass(frozen=True)
class Fold:
    """Blocks that are looked up rather than read."""

    title: str
    blocks: tuple["Block", ...]


@dataclass(frozen=True)
class Samples:
    rows: tuple[StepRow, ...]


Block = Text | Title | Quote | Table | Figure | Fold | Samples
Blocks = Sequence[Block]
