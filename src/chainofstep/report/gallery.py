"""The gallery: pictures and chains, each step coloured by its PRM score and marked with the checker's truth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from chainofstep.chain import ChainError, Step, parse_prefix
from chainofstep.evaluate import family
from chainofstep.report.markup import Html, element
from chainofstep.report.schema import GalleryRow
from chainofstep.report.steps import answer_line, picture, step_item, unread
from chainofstep.report.wording import decimal, method_name
from chainofstep.store import read_records

#: A score above it says "right", as in the PRM's accuracy.
THRESHOLD = 0.5


@dataclass(frozen=True)
class ShownChain:
    """A gallery row with its text read: `rest` is what could not be read, `problem` why."""

    row: GalleryRow
    steps: tuple[Step, ...]
    rest: str = ""
    problem: str = ""

    @property
    def disagrees(self) -> bool:
        """Whether the PRM takes a wrong step or answer for right, or a right one for wrong."""
        scores = self.row.scores
        if scores is None:
            return False
        answer = scores.answer is not None and differs(scores.answer, self.row.answer_right)
        return answer or any(map(differs, scores.steps, self.row.truth or ()))


def differs(score: float, true: bool) -> bool:
    return (score > THRESHOLD) != true


def read_gallery(path: Path) -> list[ShownChain]:
    """The rows of `gallery.jsonl`; `ValueError` names the row whose scores or truths do not fit its steps."""
    return [_shown(row, f"{path}: row {number}") for number, row in enumerate(read_records(path, GalleryRow), start=1)]


def _shown(row: GalleryRow, place: str) -> ShownChain:
    try:
        prefix = parse_prefix(row.text)
    except ChainError as error:
        return ShownChain(row, (), row.text, str(error))
    steps = prefix.chain.steps
    counts = {
        "scores": len(row.scores.steps) if row.scores else None,
        "truths": None if row.truth is None else len(row.truth),
    }
    for what, found in counts.items():
        if found not in (None, len(steps)):
            raise ValueError(f"{place}: {found} {what} for {len(steps)} steps; write one for each step")
    return ShownChain(row, steps, prefix.rest, "" if prefix.finished else "the text ends before its answer")


def gallery(chains: Sequence[ShownChain], folder: Path) -> Html:
    """A filter bar, what the colours mean, and a card for each example with its chains."""
    examples: dict[str, list[ShownChain]] = {}
    for chain in chains:
        examples.setdefault(chain.row.example.id, []).append(chain)
    families = list(dict.fromkeys(family(chain.row.example) for chain in chains))
    cards = [_card(own, folder) for own in examples.values()]
    known = any(chain.row.truth is not None for chain in chains)
    return element(
        "div", _filter_bar(families), _legend(known), element("div", cards, class_="cards"), id="gallery-view"
    )


def _filter_bar(families: Sequence[str]) -> Html:
    """Hidden until the script runs: without it everything is shown."""
    kinds = (("all", "All chains"), ("wrong", "Wrong answers"), ("disagrees", "PRM disagrees with truth"))
    return element(
        "div",
        _buttons("kind", "Chains to show", kinds),
        _buttons("family", "Families to show", [("all", "All families"), *((name, name) for name in families)]),
        element("p", id="gallery-count", role="status", class_="aside"),
        class_="filters",
        hidden=True,
    )


def _buttons(group: str, label: str, choices: Iterable[tuple[str, str]]) -> Html:
    buttons = [
        element("button", text, type="button", data_group=group, data_value=value, aria_pressed=pressed)
        for value, text, pressed in ((value, text, str(value == "all").lower()) for value, text in choices)
    ]
    return element("div", buttons, role="group", aria_label=label)


def _legend(known: bool) -> Html:
    """What colours mean and, where the truth of steps is known, its marks."""
    scale = element("span", class_="scale", aria_hidden="true")
    truths = ["The exact checker's truth: ", _truth(True), " right, ", _truth(False), " wrong."]
    return element("p", "PRM score: 0 ", scale, " 1. ", truths if known else None, class_="legend aside")


def _card(chains: Sequence[ShownChain], folder: Path) -> Html:
    example = chains[0].row.example
    facts = element(
        "div",
        picture(folder / chains[0].row.picture, f"Picture of {example.id}"),
        element("p", example.question, class_="question"),
        element("p", "Gold answer: ", element("strong", example.answer)),
        element("p", f"{example.source} · {example.id}", class_="aside source"),
        class_="problem",
    )
    shown = element("div", [_chain(chain) for chain in chains], class_="chains")
    return element("article", facts, shown, class_="card", data_family=family(example))


def _chain(chain: ShownChain) -> Html:
    row = chain.row
    kinds = [kind for kind, holds in (("wrong", not row.answer_right), ("disagrees", chain.disagrees)) if holds]
    truths = row.truth or ()
    scores, answer_score = (row.scores.steps, row.scores.answer) if row.scores else ((), None)
    steps = [
        step_item(step, score, _marks(score, true))
        for step, score, true in zip_longest(chain.steps, scores, truths)
        if isinstance(step, Step)
    ]
    return element(
        "section",
        element("h4", method_name(row.method), element("span", row.note, class_="aside") if row.note else None),
        element("ol", steps, class_="steps") if steps else None,
        unread(chain.problem, chain.rest) if chain.problem else None,
        answer_line(row.answer, answer_score, _marks(answer_score, row.answer_right)),
        class_="chain",
        data_kinds=" ".join(kinds),
    )


def _marks(score: float | None, true: bool | None) -> Html:
    """Score and truth, and a flag where they disagree."""
    flagged = score is not None and true is not None and differs(score, true)
    return element(
        "span",
        element("span", "disagree", class_="flag") if flagged else None,
        element("span", decimal(score), class_="score", title="PRM score") if score is not None else None,
        _truth(true) if true is not None else None,
        class_="marks",
    )


def _truth(true: bool) -> Html:
    word = "right" if true else "wrong"
    return element("span", "✓" if true else "✗", class_=f"truth {word}", role="img", aria_label=word)
