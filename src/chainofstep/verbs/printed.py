"""What `cos eval` and `cos ask` print."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainofstep.evaluate import wilson
from chainofstep.records import ScoreFailure, StepScores
from chainofstep.report.wording import interval, percent
from chainofstep.search import Cost, SearchResult
from chainofstep.verbs.answer import Evaluation


def accuracies(title: str, found: Evaluation) -> Table:
    """A table of outcomes by family, with 95% intervals."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Family")
    for heading in ("Accuracy", "95% interval", "Right", "Wrong", "Unparseable", "Failed", "All"):
        table.add_column(heading, justify="right")
    for family, counts in found.tallies.items():
        outcomes = (counts.right, counts.wrong, counts.unparseable, counts.failed, counts.total)
        shares = (percent(counts.accuracy), interval(*wilson(counts.right, counts.total)))
        table.add_row(*map(Text, (family, *shares, *map(str, outcomes))))
    return table


def spent(cost: Cost) -> str:
    scored = f"{cost.scored_chains:,} chains scored ({cost.scored_steps:,} steps)"
    return f"cost: {cost.sampled_tokens:,} sampled tokens, {scored}"


def print_answer(result: SearchResult, console: Console) -> None:
    """The chain with a coloured score before each step, the answer, the cost."""
    scores = result.scores if isinstance(result.scores, StepScores) else StepScores(())
    for number, step in enumerate(result.chain.steps if result.chain else ()):
        score = scores.steps[number] if scores.steps else None
        console.print(Text.assemble(_score(score), (f"{number + 1}. {step.name}", "bold"), f"\n      {step.thought}"))
        console.print(Text(f"      {step.reflection}", style="dim"))
    if result.answer is None:
        console.print(Text(f"no answer: {result.failure or 'no sample could be read as a chain'}", style="red"))
    else:
        console.print(Text.assemble(_score(scores.answer), ("Answer: ", "bold"), result.answer))
    if isinstance(result.scores, ScoreFailure):
        console.print(Text(f"not scored: {result.scores.reason}"))
    console.print(Text(spent(result.cost), style="dim"))


def _score(score: float | None) -> tuple[str, str]:
    """Text and colour of a score: red where the PRM rather calls it wrong, yellow where it is not sure."""
    if score is None:
        return "      ", ""
    return f"{score:.2f}  ", "red" if score < 0.5 else "yellow" if score < 0.8 else "green"
