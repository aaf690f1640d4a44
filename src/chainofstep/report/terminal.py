"""The end of a run on the terminal: the headline table, the verdicts, and where the report is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainofstep.report.schema import Results, check_results
from chainofstep.report.wording import VERDICTS, count, evidence, interval, percent, stage_label

COLORS = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


def print_summary(results: Mapping[str, Any], console: Console, report: Path) -> None:
    """Print accuracy by stage on unseen questions, a line for each claim, and the path of the report."""
    checked = check_results(results)
    console.print(_headline(checked))
    for claim in checked.claims:
        line = Text.assemble((VERDICTS[claim.verdict], COLORS[claim.verdict]), f": {claim.name}. {evidence(claim)}.")
        console.print(line)
    console.print(Text(f"\nReport: {report}"))


def _headline(results: Results) -> Table | Text:
    rows = [row for row in results.accuracy if (row.split, row.family) == ("unseen", "all")]
    if not rows:
        return Text("No accuracy in these results.")
    shown = Table(title="Accuracy on unseen questions", title_justify="left")
    shown.add_column("Stage")
    for title in ("Accuracy", "95% interval", "Right"):
        shown.add_column(title, justify="right")
    for row in rows:
        right = f"{count(row.right)} / {count(row.total)}"
        cells = (stage_label(row.stage), percent(row.accuracy), interval(row.low, row.high), right)
        shown.add_row(*map(Text, cells))
    return shown
