"""What `cos eval`, `cos ask` and others print."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainofstep.problems.stats import Stats
from chainofstep.records import ScoreFailure, StepScores
from chainofstep.report.evaluation import INTERVAL, Sheet, caption, sheets
from chainofstep.report.wording import percent
from chainofstep.scoring.merge import Agreement
from chainofstep.scoring.path_score import path_score
from chainofstep.search import Cost, SearchResult

if TYPE_CHECKING:
    from chainofstep.answering import Event
    from chainofstep.pipeline.recipe import Recipe

BETWEEN, EDGES = 2, 2  # cells between two columns of a table, and at its ends


def print_evaluation(results: Mapping[str, Any], console: Console) -> None:
    """The tables of an evaluation, and what must be known to read them."""
    for sheet in sheets(results):
        title: Text | None = Text(sheet.title)
        for columns in _parts(sheet, console.width):
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            for number in columns:
                table.add_column(
                    Text(sheet.headings[number]), justify="right" if number else "left", no_wrap=number >= sheet.labels
                )
            for row in sheet.rows:
                table.add_row(*(Text(row[number]) for number in columns))
            console.print(table)
            title = None
    for line in caption(results):
        console.print(Text(line), soft_wrap=True)


def _parts(sheet: Sheet, width: int) -> list[list[int]]:
    """A table's columns; where a terminal has no room for all, in parts, each with the columns that label the rows.

    The first part then ends with the interval, so that the counts stay together.
    """
    cells = [sheet.headings, *sheet.rows]
    widths = [max(cell_len(row[number]) for row in cells) + BETWEEN for number in range(len(sheet.headings))]
    room = width - EDGES + BETWEEN
    if sum(widths) <= room:
        return [list(range(len(widths)))]
    labels = list(range(sheet.labels))
    parts = [list(labels)]
    for number in range(sheet.labels, len(widths)):
        fits = sum(widths[column] for column in [*parts[-1], number]) <= room
        if parts[-1] != labels and (not fits or sheet.headings[number - 1] == INTERVAL):
            parts.append(list(labels))
        parts[-1].append(number)
    return parts


def spent(cost: Cost) -> str:
    scored = f"{cost.scored_chains:,} chains scored ({cost.scored_steps:,} steps)"
    return f"cost: {cost.sampled_tokens:,} sampled tokens, {scored}"


class PrintedAnswer:
    """An answer as it is made: each step with its score in colour before it, then the answer, then the cost."""

    def __init__(self, console: Console):
        self.console = console
        self.printed = 0  # steps

    def tell(self, event: "Event") -> None:
        """Print what is new; samples that are only counted are not."""
        from chainofstep.answering import AnswerMade, StepMade

        if isinstance(event, StepMade):
            if event.number < self.printed:
                self.console.print(Text(f"another chain won; from step {event.number + 1} on it is", style="dim"))
            self.printed = event.number + 1
            head = (f"{event.number + 1}. {event.step.name}", "bold")
            self.console.print(Text.assemble(_score(event.score), head, f"\n      {event.step.thought}"))
            self.console.print(Text(f"      {event.step.reflection}", style="dim"))
        elif isinstance(event, AnswerMade):
            self.console.print(Text.assemble(_score(event.score), ("Answer: ", "bold"), event.answer))

    def end(self, result: SearchResult, seconds: float) -> None:
        """Print why there is no answer or no score, and what it cost."""
        if result.answer is None:
            self.console.print(
                Text(f"no answer: {result.failure or 'no sample could be read as a chain'}", style="red")
            )
        if isinstance(result.scores, ScoreFailure):
            self.console.print(Text(f"not scored: {result.scores.reason}"))
        self.console.print(Text(f"{spent(result.cost)}, {seconds:.1f} s", style="dim"))


def comparison_table(results: Mapping[str, SearchResult], seconds: Mapping[str, float]) -> Table:
    """Methods on one question side by side."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("method", "answer", "path score", "steps", "sampled tokens", "seconds"):
        table.add_column(Text(heading), justify="left" if heading in ("method", "answer") else "right")
    for name, result in results.items():
        scores, chain = result.scores, result.chain
        value = f"{path_score(scores):.2f}" if isinstance(scores, StepScores) else ""
        steps = "" if chain is None else str(len(chain.steps))
        tokens = f"{result.cost.sampled_tokens:,}"
        table.add_row(*map(Text, (name, result.answer or "none", value, steps, tokens, f"{seconds[name]:.1f}")))
    return table


def _score(score: float | None) -> tuple[str, str]:
    """Text and colour of a score: red where the PRM rather calls it wrong, yellow where it is not sure."""
    if score is None:
        return "      ", ""
    return f"{score:.2f}  ", "red" if score < 0.5 else "yellow" if score < 0.8 else "green"


def print_stats(stats: Stats, console: Console) -> None:
    """What a set holds."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    texts = f"{stats.unparseable:,} unparseable, {stats.prefixes:,} without an answer"
    labels = f"{stats.label_kind}: {stats.right:,} right, {stats.neutral:,} neutral, {stats.wrong:,} wrong"
    rows: list[tuple[str, int, str]] = [
        ("rows", stats.rows, ", ".join(f"{name or 'no source'} {rows:,}" for name, rows in stats.by_source.items())),
        ("questions", stats.questions, ", ".join(f"{kind} {rows:,}" for kind, rows in stats.by_answer_kind.items())),
        ("pictures", stats.pictures, ""),
        ("chains", stats.chains, texts),
        ("step labels", stats.labels, f"{labels}, {stats.soft:,} soft" if stats.labels else ""),
        ("pairs", stats.pairs, ""),
        ("of evaluation splits", stats.evaluation_rows, ""),
    ]
    for what, count, more in rows:
        table.add_row(*map(Text, (what, f"{count:,}", more)))
    console.print(table)
    _histogram("steps of a chain", stats.steps, console)
    _histogram("words of a text, from", stats.words, console)
    _histogram("tokens of a text, from", stats.tokens or {}, console)


def _histogram(title: str, counts: Mapping[int, int], console: Console) -> None:
    """Counts by number, as bars."""
    if not counts:
        return
    console.print(Text(title, style="bold"))
    most = max(counts.values())
    for value, count in sorted(counts.items()):
        console.print(Text(f"{value:>6} {'█' * max(1, round(40 * count / most))} {count:,}"))


def agreement_table(files: tuple[Path, Path], agreement: Agreement) -> Table:
    """Steps that two files of labels call right or wrong, and how far they agree."""
    kappa = "none" if agreement.kappa is None else f"{agreement.kappa:.3f}"
    observed = "none" if agreement.observed is None else percent(agreement.observed)
    title = f"{agreement.steps:,} steps, {observed} alike, Cohen's kappa {kappa}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    first, second = (str(path) for path in files)
    for heading in ("", f"right in {second}", f"wrong in {second}"):
        table.add_column(Text(heading), justify="right" if heading else "left")
    table.add_row(Text(f"right in {first}"), f"{agreement.both:,}", f"{agreement.first_only:,}")
    table.add_row(Text(f"wrong in {first}"), f"{agreement.second_only:,}", f"{agreement.neither:,}")
    table.caption = (
        f"{agreement.unmatched:,} rollouts that one of them could not score" if agreement.unmatched else None
    )
    return table


def recipe_list(recipes: Mapping[str, tuple["Recipe", str]], experiments: Mapping[str, str]) -> Text:
    """Recipes by name: what each is for, and the models it starts from. Then the experiments' titles."""
    text = Text()
    for name, (recipe, purpose) in recipes.items():
        policy = recipe.policy or "the shipped small model"
        judge = "" if recipe.backbone in ("", recipe.policy) else f", PRM from {recipe.backbone}"
        text.append(f"{name}\n", style="bold")
        text.append(f"  {purpose}\n").append(f"  {policy}{judge}\n", style="dim")
    text.append("\nExperiments on the small models, for several seeds (cos run paper --seeds 0-2)\n")
    for name, title in experiments.items():
        text.append(f"{name:<10}", style="bold").append(f" {title}\n")
    return text
