"""All benchmarks, or those named, side by side in one run: `python -m benchmarks labels beam --json numbers.json`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers.utils import logging

from benchmarks import (
    batching,
    beam,
    corpus,
    endpoint,
    evaluation,
    labels,
    resume,
    rollouts,
    scoring,
    serving,
    spread,
    viewing,
)
from benchmarks.common import Row, machine, note, show, write
from benchmarks.models import Bench

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "rollouts": rollouts.measure,
    "batching": batching.measure,
    "labels": labels.measure,
    "beam": beam.measure,
    "scoring": scoring.measure,
    "endpoint": endpoint.measure,
    "corpus": corpus.measure,
    "evaluation": evaluation.measure,
    "serving": serving.measure,
    "viewing": viewing.measure,
    "resume": resume.measure,
    "spread": spread.measure,
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(MEASURES)}; all by default.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each contender runs.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of this one process.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Write every repeat's numbers to this file.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A trained policy; by default one is trained, once.")] = None,
    prm: Annotated[Path | None, typer.Option(help="A trained PRM; by default the shipped backbone.")] = None,
) -> None:
    """Measure sampling, labelling, searching and scoring against the plain ways of doing them."""
    unknown = [name for name in names or [] if name not in MEASURES]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}; choose from {', '.join(MEASURES)}")
    torch.set_num_threads(threads)
    logging.set_verbosity_error()  # the paged cache reports its sizes with every call
    rows, about = [], machine()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(repeats, Path(folder), policy)
        if prm is not None:
            bench.prm_folder = prm
        for name in names or MEASURES:
            note(f"{name}:")
            rows += MEASURES[name](bench)
    show(rows, about, Console())
    if json is not None:
        write(rows, about, json)


if __name__ == "__main__":
    typer.run(main)
