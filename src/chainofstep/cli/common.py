"""What all commands share: arguments that occur in several, and errors as one line."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

if TYPE_CHECKING:
    from chainofstep.pipeline.spread import Spread

BAD_INPUT, STOPPED = 2, 130  # exit codes; typer's own for a wrong option is 2 too
ALONE = 10  # seconds after which another process of a launch would have ended this one

# The same arguments and options, wherever they occur.
Examples = Annotated[Path, typer.Argument(metavar="EXAMPLES.jsonl", help="One example a row.", show_default=False)]
Rollouts = Annotated[Path, typer.Argument(metavar="ROLLOUTS.jsonl", help="From `cos sample`.", show_default=False)]
Scores = Annotated[Path, typer.Argument(metavar="SCORES.jsonl", help="From `cos annotate`.", show_default=False)]
Model = Annotated[str, typer.Argument(help="A model's folder or hub id.", show_default=False)]
Policy = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, hub id, or MODEL@URL,URL of servers.", show_default=False),
]
OutFile = Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="The file to write.", show_default=False)]
OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.", show_default=False)]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.", show_default=False)
]
N = Annotated[int, typer.Option("-n", help="Samples of a question; of a level, in beam search.")]
Width = Annotated[int, typer.Option("--width", help="Beam search alone: chains kept a level; divides n.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling.")]
MaxTokens = Annotated[int, typer.Option(help="Sampled tokens of one chain.")]
Seed = Annotated[int, typer.Option(help="Decides every sample.")]
Judges = Annotated[
    list[str], typer.Option("--judge", metavar="MODEL@URL", help="An LLM that labels steps; several vote.")
]
KeyVariable = Annotated[
    str,
    typer.Option(
        help="Environment variable with the endpoints' key.", show_default="OPENAI_API_KEY for OpenAI's own, else none"
    ),
]
Concurrency = Annotated[int, typer.Option(help="Requests in flight at an endpoint.")]
RequestsPerMinute = Annotated[int | None, typer.Option(help="Of an endpoint, at most.", show_default=False)]
TokensPerMinute = Annotated[int | None, typer.Option(help="Of an endpoint, at most.", show_default=False)]
Price = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Dollars per million prompt and completion tokens.", show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes here or, with --ray, workers there.", show_default="1; on Ray all there is room for"),
]
Ray = Annotated[str, typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster: auto, ray://HOST:10001, or local.")]
GpusEach = Annotated[float, typer.Option("--gpus-each", help="GPUs of a worker on Ray, where the cluster has some.")]
WITHOUT_ARGUMENTS = {"sources", "recipes"}
NOTHING_KEPT = {"ask", "serve", "view"}  # commands that begin anew each time
METHOD_NAMES = "greedy, self_consistency, best_of_n, weighted_vote, step_beam"


class Commands(TyperGroup):
    """Bad input is one line on stderr and exit code 2; Ctrl-C is one line and 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if _process() == "0":  # all of a launch are stopped together
                again = ": give the same command again, it goes on from what is finished"
                _complain("stopped" + ("" if ctx.invoked_subcommand in NOTHING_KEPT else again))
            raise typer.Exit(STOPPED) from None
        except (ValueError, OSError, ModuleNotFoundError) as error:
            foreign = isinstance(error, BrokenPipeError) or (error.__class__ is ModuleNotFoundError and _is_ours(error))
            if ctx.params["debug"] or foreign:
                raise
            _complain_once(f"error: {one_line(error)}", isinstance(error, ValueError))
            raise typer.Exit(BAD_INPUT) from None


def _is_ours(error: Any) -> bool:
    return (error.name or "").startswith("chainofstep")


def _process() -> str:
    """The number of this process among those of a launch."""
    return os.environ.get("RANK", "0")


def _complain(line: str) -> None:
    typer.echo(line, err=True)


def _complain_once(line: str, shared: bool) -> None:
    """The line, from the first of the processes of a launch where all of them have the same trouble.

    The launcher ends all once one has ended, so the others give the first one time to say it. Who is still there then
    is alone with its trouble.
    """
    number = _process()
    if shared and number != "0":
        time.sleep(ALONE)
    _complain(line if number == "0" else f"process {number}: {line}")


def one_line(error: Exception) -> str:
    """An error as one line: for pydantic's the first field that does not fit, for others all of the text."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"not a {error.title}: {place}: {first['msg']}; correct it"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error.name} is not installed, and this command needs it: pip install 'chain-of-step[{extra_of(error)}]'"
        )
    return " ".join(str(error).split())


def extra_of(error: ModuleNotFoundError) -> str:
    """The extra of this package that brings what is missing."""
    name = (error.name or "").partition(".")[0]
    extras = {
        "serve": ("fastapi", "uvicorn", "h11", "prometheus_client"),
        "ray": ("ray",),
        "data": ("openai", "datasets", "pyarrow", "imagehash", "rapidfuzz", "openpyxl"),
    }
    return next((extra for extra, names in extras.items() if name in names), "mini")


def command(group: typer.Typer, name: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose help ends with one example; called without arguments it shows its help, if it needs any."""
    alone = name in WITHOUT_ARGUMENTS
    return group.command(name, epilog=f"Example: {example}", no_args_is_help=not alone)


def spread_of(workers: int | None, ray: str, gpus: float) -> "Spread":
    """Where the rows of a command are made."""
    from chainofstep.pipeline.spread import Spread

    return Spread((0 if ray else 1) if workers is None else workers, ray, gpus)


def left_out(title: str, reasons: dict[str, int]) -> None:
    """A line for each reason that rows were left out for."""
    for reason, count in sorted(reasons.items()):
        if count:
            typer.echo(f"{title}: {count} ({reason})")
