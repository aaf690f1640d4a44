"""A data card as Markdown, with the front matter that the Hugging Face hub reads."""

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from chainofstep.answers import LETTERS
from chainofstep.chain import ChainError, Step, parse_prefix
from chainofstep.problems.stats import LabelKind
from chainofstep.records import StepRow, StepScores
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
from chainofstep.report.card_sections import hub_licence, sections_of, warnings_of
from chainofstep.report.card_text import in_markdown, inert, label_word, one_line
from chainofstep.report.wording import count

#: The hub's size categories, each up to this many rows.
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
QUOTED = 300  # characters of a text that others wrote


def card_markdown(card: Card) -> str:
    """The whole text. Pictures are named by their paths: Markdown cannot hold them."""
    stats = card.stats
    head = [f"# {in_markdown(card.name)}"]
    head += [f"> **Warning:** {in_markdown(text)}" for text in warnings_of(card)]
    head.append(f"{in_markdown(card.purpose)} · {count(stats.rows)} rows · {count(stats.pictures)} pictures")
    parts = [
        part
        for title, blocks in sections_of(card).items()
        for part in (f"## {title}", *_blocks(blocks, stats.label_kind))
    ]
    return inert(_front_matter(card) + "\n" + "\n\n".join([*head, *parts]) + "\n")


def _front_matter(card: Card) -> str:
    """YAML whose every value is a quoted JSON string, so that no text in it can be read as anything else."""
    task = "visual-question-answering" if card.stats.pictures else "question-answering"
    size = next((name for limit, name in SIZES if card.stats.rows < limit), "n>10M")
    fields: dict[str, list[str]] = {
        "license": list(dict.fromkeys(hub_licence(source.licence) for source in card.sources)) or ["unknown"],
        "task_categories": [task],
        "size_categories": [size],
        "tags": ["chain-of-step", "step-by-step reasoning"],
    }
    lines = [f"pretty_name: {_quoted(card.name)}"]
    for key, values in fields.items():
        lines += [f"{key}:", *(f"- {_quoted(value)}" for value in values)]
    return "\n".join(["---", *lines, "---", ""])


def _quoted(text: str) -> str:
    return json.dumps(one_line(text), ensure_ascii=False)


def _blocks(blocks: Blocks, kind: LabelKind) -> list[str]:
    return [part for block in blocks for part in _block(block, kind)]


def _block(block: Block, kind: LabelKind) -> list[str]:
    match block:
        case Text(text):
            return [in_markdown(text)]
        case Title(text):
            return [f"### {in_markdown(text)}"]
        case Quote(line, text):
            cut = one_line(text)
            cut = cut if len(cut) <= QUOTED else f"{cut[: QUOTED - 1]}…"
            return [f"- {in_markdown(line)}" + (f"\n\n  > {in_markdown(cut)}" if cut else "")]
        case Table():
            return [_table(block)]
        case Figure(bars, table):
            return [f"### {in_markdown(bars.caption)}", _table(table)]
        case Fold(title, inner):
            return [f"### {in_markdown(title)}", *_blocks(inner, kind)]
        case Samples(rows):
            return [part for number, row in enumerate(rows, start=1) for part in _sample(number, row, kind)]
        case _:
            raise AssertionError(f"no block {block!r}")


def _table(block: Table) -> str:
    sides = ["---" if index in (0, *block.words) else "---:" for index in range(len(block.head))]
    return "\n".join([_line(block.head), f"| {' | '.join(sides)} |", *map(_line, block.rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(in_markdown, cells))} |"


# Samples


def _sample(number: int, row: StepRow, kind: LabelKind) -> list[str]:
    example = row.example
    choices = [f"- {letter}: {in_markdown(text)}" for letter, text in zip(LETTERS, example.choices, strict=False)]
    pictures = ", ".join(map(in_markdown, example.images)) or "none"
    facts = {"Source": example.source, "Id": example.id, "Gold answer": example.answer}
    parts = [
        f"### Sample {number}",
        f"**{in_markdown(example.question) or 'No question'}**",
        "\n".join(choices),
        "\n".join([f"- Pictures: {pictures}", *(f"- {name}: {in_markdown(text)}" for name, text in facts.items())]),
        *_text("Chain" if row.rejected is None else "Chosen", row.text, row.labels, kind),
        *_text("Rejected", row.rejected, None, kind),
    ]
    return [part for part in parts if part]


def _text(title: str, text: str | None, labels: StepScores | None, kind: LabelKind) -> list[str]:
    """A text's steps as a numbered list, each with its label."""
    if text is None:
        return []
    try:
        prefix = parse_prefix(text)
    except ChainError as error:
        return [f"{title}: not a whole chain ({in_markdown(str(error))}).", f"> {in_markdown(text) or 'empty'}"]
    scores: Sequence[float] = labels.steps if labels else ()
    steps = [
        _step(number, step, score, kind)
        for number, (step, score) in enumerate(zip_longest(prefix.chain.steps, scores), start=1)
        if isinstance(step, Step)
    ]
    answer = "none" if prefix.chain.answer is None else in_markdown(prefix.chain.answer)
    return [f"{title}:", "\n".join(steps), f"Answer: **{answer}**{_label(labels.answer if labels else None, kind)}"]


def _step(number: int, step: Step, score: float | None, kind: LabelKind) -> str:
    name, thought, reflection = map(in_markdown, (step.name, step.thought, step.reflection))
    return f"{number}. **{name}**{_label(score, kind)}: {thought} *{reflection}*"


def _label(label: float | None, kind: LabelKind) -> str:
    return "" if label is None else f" ({label_word(label, kind)})"
