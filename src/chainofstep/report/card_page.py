"""A data card as one HTML page: it opens offline, runs no script, and everything from data is escaped."""

from itertools import zip_longest
from pathlib import Path

from chainofstep.answers import LETTERS
from chainofstep.chain import ChainError, Step, parse_prefix
from chainofstep.problems.stats import LabelKind
from chainofstep.records import StepRow, StepScores
from chainofstep.report import tables
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
from chainofstep.report.card_sections import sections_of, warnings_of
from chainofstep.report.card_text import inert, label_word
from chainofstep.report.frame import POLICY, document, figure, figures, fold, header, section
from chainofstep.report.markup import Child, Html, element
from chainofstep.report.steps import answer_line, step_item, thumbnail, unread
from chainofstep.report.wording import count


def card_html(card: Card, folder: Path) -> str:
    """The whole document. `folder` is where relative paths of pictures begin."""
    sections = sections_of(card)
    stats = card.stats
    facts = [card.purpose, f"{count(stats.rows)} rows", f"{count(stats.pictures)} pictures"]
    warnings = [element("p", element("strong", "Warning: "), text) for text in warnings_of(card)]
    shown = [section(title, _blocks(blocks, folder, stats.label_kind)) for title, blocks in sections.items()]
    page = document(
        f"{card.name}: data card",
        POLICY,
        element("div", warnings, role="note", class_="warnings") if warnings else None,
        header("Step data", card.name, facts, sections),
        element("main", shown),
    )
    return inert(page)


def _blocks(blocks: Blocks, folder: Path, kind: LabelKind) -> Child:
    """Blocks one below the other; the figures of a section beside one another."""
    drawn = [_figure(block) for block in blocks if isinstance(block, Figure)]
    others = [_block(block, folder, kind) for block in blocks if not isinstance(block, Figure)]
    return [others, figures(*drawn) if drawn else None]


def _block(block: Block, folder: Path, kind: LabelKind) -> Child:
    match block:
        case Text(text):
            return element("p", text)
        case Title(text):
            return element("h3", text)
        case Quote(line, text):
            return [element("p", line, class_="note"), element("pre", text) if text.strip() else None]
        case Table():
            return _table(block)
        case Fold(title, blocks):
            return fold(title, _blocks(blocks, folder, kind))
        case Samples(rows):
            return element("div", [_sample(row, folder, kind) for row in rows], class_="cards")
        case _:
            raise AssertionError(f"no block {block!r}")


def _table(block: Table) -> Html | None:
    if not block.shares:
        shown = tables.table(block.head, block.rows, text=block.words)
        return element("div", shown, class_="narrow") if shown and len(block.head) == 2 and not block.words else shown
    rows = [(*row, tables.share_bar(share)) for row, share in zip(block.rows, block.shares, strict=True)]
    last = len(block.head)
    return tables.table((*block.head, "0 – 100%"), rows, text=(*block.words, last), wide=last)


def _figure(block: Figure) -> Html:
    """The plot with its numbers folded below it."""
    drawn = figure(block.bars.plot(), block.bars.name, f"{block.bars.caption}.")
    return element("div", drawn, fold("The numbers", _table(block.table)))


# Samples


def _sample(row: StepRow, folder: Path, kind: LabelKind) -> Html:
    example = row.example
    choices = [element("p", f"{letter}. {text}") for letter, text in zip(LETTERS, example.choices, strict=False)]
    facts = element(
        "div",
        [thumbnail(folder, image, f"Picture of {example.id}") for image in example.images],
        element("p", example.question, class_="question"),
        choices,
        element("p", "Gold answer: ", element("strong", example.answer)),
        element("p", f"{example.source} · {example.id}", class_="aside source"),
        class_="problem",
    )
    texts = [("Chain" if row.rejected is None else "Chosen", row.text, row.labels), ("Rejected", row.rejected, None)]
    shown = [_text(title, text, labels, kind) for title, text, labels in texts if text is not None]
    return element("article", facts, element("div", shown, class_="chains"), class_="card")


def _text(title: str, text: str, labels: StepScores | None, kind: LabelKind) -> Html:
    """A text's steps with their labels, and what of it is no step."""
    try:
        prefix = parse_prefix(text)
    except ChainError as error:
        return element("section", element("h4", title), unread(str(error), text), class_="chain")
    scores = labels.steps if labels else ()
    steps = [
        step_item(step, score, _marks(score, kind))
        for step, score in zip_longest(prefix.chain.steps, scores)
        if isinstance(step, Step)
    ]
    answer = labels.answer if labels else None
    return element(
        "section",
        element("h4", title),
        element("ol", steps, class_="steps") if steps else None,
        None if prefix.finished else unread("the text ends before its answer", prefix.rest),
        answer_line(prefix.chain.answer, answer, _marks(answer, kind)),
        class_="chain",
    )


def _marks(label: float | None, kind: LabelKind) -> Html | None:
    if label is None:
        return None
    return element("span", element("span", label_word(label, kind), class_="score", title="Label"), class_="marks")
