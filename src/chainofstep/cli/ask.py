"""`cos ask`: one question about one picture, its steps printed as they are made."""

import asyncio
import errno
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.rule import Rule

from chainofstep.cli.common import METHOD_NAMES, MaxTokens, N, Seed, Temperature, TopP, Width
from chainofstep.progress import Tick, progress

if TYPE_CHECKING:
    from chainofstep.answering import Event, Watch
    from chainofstep.search import SearchResult
    from chainofstep.verbs.printed import PrintedAnswer

    Answers = dict[str, Callable[[Watch], SearchResult]]

MOST_BYTES, SECONDS = 2**26, 60.0  # of a picture that is fetched or read from standard input
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

Picture = Annotated[
    str, typer.Argument(metavar="PICTURE", help="A file, an http(s) URL, or - for standard input.", show_default=False)
]


def ask_command(
    picture: Picture,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    method: Annotated[str, typer.Option(help=f"{METHOD_NAMES} (or beam).")] = "greedy",
    compare: Annotated[
        str, typer.Option(metavar="METHOD,METHOD", help="Several methods, one after the other.", show_default=False)
    ] = "",
    run: Annotated[Path, typer.Option(metavar="RUN", help="The run whose models answer.")] = Path("runs/mini"),
    model: Annotated[str | None, typer.Option(help="Another policy.", show_default="RUN's last")] = None,
    prm: Annotated[str | None, typer.Option(help="Another PRM.", show_default="RUN's")] = None,
    n: N = 16,
    width: Width = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole SearchResult as a line of JSON.")] = False,
) -> None:
    """Answer a question about a picture: the steps as they are made, each with its PRM score, and what it cost."""
    from chainofstep import verbs
    from chainofstep.search import SearchConfig

    config = SearchConfig(n, width, temperature, top_p, max_tokens, seed=seed)
    methods = [name.strip() for name in compare.split(",")] if compare else [method]
    models = verbs.run_models(run, model, prm)
    with _file(picture) as file, verbs.asking(file, question, methods, config, *models) as answers, _room():
        results = _as_json(answers) if as_json else _printed(answers, n)
    if any(result.answer is None for result in results):
        raise typer.Exit(1)


def _as_json(answers: "Answers") -> "list[SearchResult]":
    """A line for each method."""
    from chainofstep.answering import ignore
    from chainofstep.records import to_row

    results = []
    for name, answer in answers.items():
        results.append(answer(ignore))
        typer.echo(json.dumps({"method": name} | to_row(results[-1]), ensure_ascii=False))
    return results


def _printed(answers: "Answers", n: int) -> "list[SearchResult]":
    """Steps as they come; several methods under their names, with a table at the end."""
    from chainofstep.verbs.printed import PrintedAnswer, comparison_table

    console, results, seconds = Console(), {}, {}
    for name, answer in answers.items():
        if len(answers) > 1:
            console.print(Rule(name, align="left"))
        printed, started = PrintedAnswer(console), time.perf_counter()
        with progress(f"sampling {n} chains", n) as tick:
            results[name] = answer(partial(_tell, printed, tick))
        seconds[name] = time.perf_counter() - started
        printed.end(results[name], seconds[name])
    if len(answers) > 1:
        console.print(comparison_table(results, seconds))
    return list(results.values())


def _tell(printed: "PrintedAnswer", tick: Tick, event: "Event") -> None:
    from chainofstep.answering import Progress

    if isinstance(event, Progress):
        tick(event.samples)
    else:
        printed.tell(event)


@contextmanager
def _room() -> Iterator[None]:
    """For what is printed: where it goes may be full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError("no space left where the output goes: free some, or send it elsewhere") from error


@contextmanager
def _file(picture: str) -> Iterator[Path]:
    """The picture as a file; what comes from elsewhere is one for as long as it is needed."""
    if picture != "-" and not _ADDRESS.match(picture):
        yield Path(picture)
        return
    content = _read() if picture == "-" else _fetched(picture)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"picture.{_format(content, 'standard input' if picture == '-' else picture)}"
        file.write_bytes(content)
        yield file


def _read() -> bytes:
    """Standard input."""
    if sys.stdin is None:
        raise ValueError("standard input is closed: send the picture to it, or give a file")
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"the picture on standard input is over {MOST_BYTES:,} bytes: scale it down")
    return content


def _format(content: bytes, where: str) -> str:
    from chainofstep.problems.pictures import PictureError, picture_format

    try:
        return picture_format(content).lower()
    except PictureError as error:
        raise ValueError(str(error).replace("embedded picture", where)) from error


def _fetched(url: str) -> bytes:
    """Who types an address may reach whatever this machine can reach."""
    from chainofstep.serve.fetch import Fetcher

    fetcher = Fetcher(MOST_BYTES, SECONDS, allowed=lambda address: True, ports=None)
    try:
        return asyncio.run(fetcher.fetch(url))
    except ValueError as error:
        raise ValueError(f"{url}: {error}: save the picture and give the file") from error
    finally:
        fetcher.close()
