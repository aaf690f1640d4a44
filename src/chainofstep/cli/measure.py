"""`cos eval-prm` and `cos compare`: how good a PRM is, and how runs differ."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from chainofstep.cli.common import GpusEach, OutFolder, Ray, Workers, spread_of


def eval_prm_command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A PRM: folder, hub id, MODEL@URL,URL, or checker.", show_default=False),
    ],
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK[:PATH]", help="visualprocessbench, processbench or planted.", show_default=False
        ),
    ],
    out: OutFolder,
    threshold: Annotated[float, typer.Option(help="A step that scores above it is called right.")] = 0.5,
    limit: Annotated[int | None, typer.Option(help="Only the first items (of a subset).", show_default="all")] = None,
    workers: Workers = None,
    ray: Ray = "",
    gpus_each: GpusEach = 1.0,
) -> None:
    """Measure a PRM on a benchmark of step labels. Scores are kept: another threshold needs no model."""
    from chainofstep.verbs.prm_eval import eval_prm, prm_table

    result = eval_prm(model, benchmark, out, threshold, limit, spread_of(workers, ray, gpus_each))
    console = Console()
    console.print(prm_table(result))
    console.print(Text(f"scores and figures: {out}"), soft_wrap=True)


def compare_command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Folders of `cos run` or `cos eval`; the first is the yardstick."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Write a page of it too.", show_default=False)
    ] = None,
) -> None:
    """Compare runs without their models: settings that differ, accuracy, paired differences, cost."""
    from chainofstep.verbs.compare import compare, compare_table, cost_table, question_lines, settings_table

    runs = compare(folders, out)
    console = Console()
    for table in (settings_table(runs), compare_table(runs), cost_table(runs)):
        console.print(table)
    for line in question_lines(runs):
        console.print(Text(line), soft_wrap=True)
    if out is not None:
        console.print(Text(f"page: {out}"), soft_wrap=True)
