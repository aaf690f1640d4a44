"""The sections of a data card: each takes the card and gives blocks, none where there is nothing to say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chainofstep.problems.filters import MEANINGS
from chainofstep.records import StepRow, from_row
from chainofstep.report.card_content import (
    Block,
    Blocks,
    Card,
    Figure,
    Fold,
    Quote,
    Samples,
    Table,
    Text,
    Title,
)
from chainofstep.report.card_plots import Bars, label_bars, length_bars, position_bars
from chainofstep.report.wording import count, decimal, percent

#: Identifiers of the Hugging Face hub, from the least to the most that a licence asks.
LICENCES = ("mit", "apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
UNSTATED = "not stated"
#: For which a row is removed, by the rule of `problems.overlap`.
RULES_IN_WORDS = {
    "both": "picture and question are those of one item",
    "picture": "a picture is that of an item",
    "question": "the question is that of an item",
    "either": "a picture or the question is that of an item",
}
LABEL_KINDS = {
    "none": "none",
    "hard": "right or wrong",
    "ternary": "right, neutral or wrong",
    "soft": "any value from 0 to 1",
}


def warnings_of(card: Card) -> tuple[str, ...]:
    """The card's own, and one where rows of an evaluation split are in the set."""
    found = card.stats.evaluation_rows
    if not found:
        return card.warnings
    are = "row is" if found == 1 else "rows are"
    return (*card.warnings, f"{count(found)} {are} of an evaluation split: do not train on this set.")


def sections_of(card: Card) -> dict[str, Blocks]:
    """The blocks of every section that has some, in order."""
    found = {title: make(card) for title, make in SECTIONS.items()}
    return {title: blocks for title, blocks in found.items() if blocks}


# The sections


def _contents(card: Card) -> Blocks:
    stats = card.stats
    facts = {
        "Rows": stats.rows,
        "Questions": stats.questions,
        "Pictures": stats.pictures,
        "Texts that are whole chains": stats.chains,
        "Texts that are steps without an answer": stats.prefixes,
        "Texts that are no chain": stats.unparseable,
        "Pairs of a better and a worse text": stats.pairs,
        "Step labels": stats.labels,
        "Rows of an evaluation split": stats.evaluation_rows,
    }
    always = ("Rows", "Questions", "Pictures")
    cells = tuple((name, count(number)) for name, number in facts.items() if number or name in always)
    return [Table(("What", "Count"), cells), *_parts("Answers", stats.by_answer_kind, "Kind of answer")]


def _parts(title: str, counts: Mapping[str, int], what: str) -> Blocks:
    """Counts with their shares, the most first."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    cells = tuple((name or "not named", count(rows), percent(rows / total)) for name, rows in ranked)
    shares = tuple(rows / total for _, rows in ranked)
    return [Title(title), Table((what, "Rows", "Share"), cells, shares=shares)] if cells else []


def _sources(card: Card) -> Blocks:
    named = {name for source in card.sources for name in (source.name, source.title)}
    others = {name: rows for name, rows in card.stats.by_source.items() if name not in named}
    total = card.stats.rows or 1
    cells = tuple(
        (
            source.title,
            source.kind,
            source.licence,
            ", ".join(source.overlaps) or "–",
            count(source.rows),
            percent(source.rows / total),
        )
        for source in card.sources
    )
    head = ("Source", "Kind", "Licence", "In evaluation sets", "Rows", "Share")
    notes = tuple((source.title, source.note) for source in card.sources if source.note)
    blocks: list[Block] = []
    if cells:
        blocks += [
            Text("“In evaluation sets” names benchmarks that hold items of the source, whatever was removed here."),
            Table(head, cells, words=(1, 2, 3)),
        ]
    if notes:
        blocks.append(Fold("Notes on the sources", (Table(("Source", "Note"), notes, words=(1,)),)))
    return [*blocks, *_parts("Other sources" if cells else "Rows by source", others, "Source")]


def _makers(card: Card) -> Blocks:
    if not card.made_by:
        return [Text("Nothing is recorded of who wrote and judged these rows.")]
    settings = dict.fromkeys(name for _, values in card.made_by for name in values)
    cells = tuple((name, *(str(values.get(name, "–")) for _, values in card.made_by)) for name in settings)
    makers = tuple(maker for maker, _ in card.made_by)
    return [Table(("Setting", *makers), cells, words=tuple(range(1, len(makers) + 1)))]


def _filters(card: Card) -> Blocks:
    report = card.filters
    if report is None:
        return [Text("Nothing is recorded of filters.")]
    read, removed = int(report.get("read", 0)), dict(report.get("removed", {}))
    kept = int(report.get("kept", 0))
    order = [*(name for name in MEANINGS if name in removed), *(name for name in removed if name not in MEANINGS)]
    cells = tuple(
        (name, MEANINGS.get(name, "–"), count(removed[name]), percent(removed[name] / read if read else None))
        for name in order
    )
    shares = tuple(removed[name] / read if read else 0.0 for name in order)
    blocks: list[Block] = [
        Text(f"{count(read)} rows were read and {count(kept)} kept ({percent(kept / read if read else None)})."),
        Text("A row counts for the first filter that removes it."),
    ]
    if cells:
        blocks.append(Table(("Filter", "What it wants", "Removed", "Share of read"), cells, words=(1,), shares=shares))
    shown = dict(report.get("examples", {}))
    return blocks + [_removed(name, shown[name]) for name in order if shown.get(name)]


def _removed(name: str, examples: Sequence[Mapping[str, Any]]) -> Fold:
    quotes = (Quote(f"{row.get('place', '')}: {row.get('reason', '')}", str(row.get("text", ""))) for row in examples)
    return Fold(f"What {name} removed, for example", tuple(quotes))


def _overlap(card: Card) -> Blocks:
    report = card.overlap
    if report is None:
        return [Text("Whether these rows are in evaluation sets was not looked up.")]
    looked_up, removed = int(report.get("looked_up", 0)), int(report.get("removed", 0))
    matches = report.get("counts", ())
    cells = tuple(
        (
            str(row["source"]) or "not named",
            str(row["set_name"]),
            str(row["matched"]),
            "removed" if row["removed"] else "left in",
            count(row["count"]),
        )
        for row in matches
    )
    blocks: list[Block] = [
        Text(f"{count(looked_up)} rows were looked up in evaluation sets, and {count(removed)} of them removed."),
        *([Text(f"A row is removed where {RULES_IN_WORDS[report['rule']]}.")] if "rule" in report else []),
    ]
    if not cells:
        return [*blocks, Text("Nothing was found in them.")]
    blocks.append(Table(("Source", "Evaluation set", "The same", "Outcome", "Found"), cells, words=(1, 2, 3)))
    pairs = tuple(
        (str(one["id"]), str(row["set_name"]), str(one["evaluation_id"]))
        for row in matches
        for one in row.get("examples", ())
    )
    table = Table(("Row", "Evaluation set", "Its item"), pairs, words=(1, 2))
    return [*blocks, Fold("Examples of what was found", (table,))] if pairs else blocks


def _lengths(card: Card) -> Blocks:
    return [_figure(bars) for bars in length_bars(card.stats)]


def _figure(bars: Bars) -> Figure:
    totals = [sum(column) or 1 for _, column in bars.columns]
    cells = tuple(
        (label, *(cell for number, total in zip(row, totals, strict=True) for cell in _with_share(number, total)))
        for label, *row in zip(bars.labels, *(column for _, column in bars.columns), strict=True)
    )
    heads = tuple(text for name, _ in bars.columns for text in (name, "Share"))
    return Figure(bars, Table((bars.what, *heads), cells))


def _with_share(number: float, total: float) -> tuple[str, str]:
    return count(number), percent(number / total)


def _labels(card: Card) -> Blocks:
    stats = card.stats
    steps, answers = stats.labels, stats.answers_right + stats.answers_wrong
    if not steps and not answers:
        return []
    exact = stats.label_kind == "soft"
    kinds = (
        ("Steps at 1" if exact else "Steps right", stats.right, steps),
        ("Steps neutral", stats.neutral, steps),
        ("Steps between", stats.soft, steps),
        ("Steps at 0" if exact else "Steps wrong", stats.wrong, steps),
        ("Answers right", stats.answers_right, answers),
        ("Answers wrong", stats.answers_wrong, answers),
    )
    counts = [kind for kind in kinds if kind[1]]
    cells = tuple((name, *_with_share(number, total)) for name, number, total in counts)
    table = Table(("Labels", "Count", "Share"), cells, shares=tuple(number / total for _, number, total in counts))
    blocks: list[Block] = [Text(f"Labels of steps: {LABEL_KINDS[stats.label_kind]}."), table]
    if stats.labels:
        places = position_bars(stats)
        rows = tuple(
            (label, count(stats.label_counts[int(label)]), decimal(mean))
            for label, mean in zip(places.labels, places.columns[0][1], strict=True)
        )
        blocks.append(Figure(places, Table((places.what, "Labels", "Mean label"), rows)))
    return blocks + ([_figure(label_bars(stats))] if stats.label_kind == "soft" else [])


def _agreement(card: Card) -> Blocks:
    cells = tuple(
        (first, second, count(steps), percent(same), decimal(kappa))
        for first, second, steps, same, kappa in card.agreement
    )
    if not cells:
        return []
    return [
        Text("Kappa is the agreement beyond what chance alone would reach: 1 is always, 0 no more than chance."),
        Table(("Labels of", "And of", "Steps", "The same", "Kappa"), cells, words=(1,)),
    ]


def hub_licence(licence: str) -> str:
    """The Hugging Face hub's identifier; "unknown" for a licence that is not stated, "other" for one not ranked here.

    >>> hub_licence("CC BY-SA 4.0")
    'cc-by-sa-4.0'
    """
    name = licence.strip().casefold().replace(" ", "-")
    return name if name in LICENCES else "unknown" if name in ("", UNSTATED.replace(" ", "-")) else "other"


def _licence(card: Card) -> Blocks:
    if not card.sources:
        return [Text("No licence is recorded. Each source keeps its own: ask its owner before passing rows on.")]
    by_licence: dict[str, list[str]] = {}
    for source in card.sources:
        by_licence.setdefault(source.licence or UNSTATED, []).append(source.title)
    sentences = ["Each source keeps its own licence, for its questions and pictures and for what is made of them."]
    ranked = [licence for licence in by_licence if hub_licence(licence) in LICENCES]
    if ranked:
        strictest = max(ranked, key=lambda licence: LICENCES.index(hub_licence(licence)))
        sentences.append(
            f"The strictest of those known here is {strictest} ({', '.join(by_licence[strictest])}): "
            "who uses the whole set has to keep to it."
        )
    for licence, titles in by_licence.items():
        if hub_licence(licence) == "unknown":
            sentences.append(f"No licence is stated for {', '.join(titles)}: ask the owner before passing rows on.")
        elif hub_licence(licence) == "other":
            sentences.append(f"Read the licence of {', '.join(titles)} ({licence}), which is not ranked here.")
    return [Text(" ".join(sentences))]


def _samples(card: Card) -> Blocks:
    rows = tuple(from_row(StepRow, row) for row in card.stats.samples)
    return [Samples(rows)] if rows else [Text("The set has no rows.")]


def _versions(card: Card) -> Blocks:
    cells = tuple(card.versions.items())
    return [Table(("Package", "Version"), cells, words=(1,))] if cells else []


SECTIONS: dict[str, Callable[[Card], Blocks]] = {
    "Contents": _contents,
    "Sources": _sources,
    "How it was made": _makers,
    "Filters": _filters,
    "Overlap": _overlap,
    "Length": _lengths,
    "Labels": _labels,
    "Agreement": _agreement,
    "Licence": _licence,
    "Samples": _samples,
    "Versions": _versions,
}
