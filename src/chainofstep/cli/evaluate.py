"""`cos eval`: benchmark x method x model, and stored texts graded again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from chainofstep.cli.common import (
    METHOD_NAMES,
    Concurrency,
    GpusEach,
    KeyVariable,
    MaxTokens,
    Price,
    Ray,
    RequestsPerMinute,
    Seed,
    Temperature,
    TokensPerMinute,
    TopP,
    Width,
    Workers,
    spread_of,
)

Benchmark = Annotated[
    str,
    typer.Argument(
        metavar="BENCHMARK[:PATH]",
        help="mathvista, mmstar, mmmu, m3cot, ai2d, ai2d-no-mask or chartqa, from the hub or the folder PATH;"
        " or a file EXAMPLES.jsonl.",
        show_default=False,
    ),
]
Methods = Annotated[
    list[str],
    typer.Option(help=f"{METHOD_NAMES} (or beam), or pass_at_n, the ceiling; repeatable.", show_default="greedy"),
]
Sizes = Annotated[
    list[int],
    typer.Option("-n", help="Samples of a question; of a level, in beam search; repeatable.", show_default="16"),
]
Asked = Annotated[
    str, typer.Option(metavar="MODEL", help="A folder, hub id, or MODEL@URL,URL of servers.", show_default=False)
]
Stored = Annotated[
    Path | None,
    typer.Option(
        metavar="STORED",
        help="Grade this instead of asking a model: a folder of this command, or a file of predictions"
        " (own rows, lmms-eval, VLMEvalKit).",
        show_default=False,
    ),
]
Extractor = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL@URL",
        help="Reads replies that the rules cannot, where that is the official way: of mathvista.",
        show_default="rules alone",
    ),
]


#: Of asking a model: what is stored was asked before. With the option's name.
ASKING = {
    **{"method": "--method", "n": "-n", "prm": "--prm", "prompt": "--prompt", "width": "--width", "seed": "--seed"},
    **{"temperature": "--temperature", "top_p": "--top-p", "max_tokens": "--max-tokens"},
    **{"workers": "--workers", "ray": "--ray", "gpus_each": "--gpus-each"},
}


def eval_command(
    context: typer.Context,
    benchmark: Benchmark,
    model: Asked = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to write.")] = None,
    method: Methods = ["greedy"],  # noqa: B006  # typer reads it, nothing changes it
    n: Sizes = [16],  # noqa: B006
    prm: Annotated[str | None, typer.Option(help="The PRM of methods that go by score.", show_default=False)] = None,
    regrade: Stored = None,
    prompt: Annotated[
        str | None, typer.Option(help="paper, official or none.", show_default="paper, where there is one")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Another split.", show_default="the reported one")] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many items only.", show_default=False)] = None,
    width: Width = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    workers: Workers = None,
    ray: Ray = "",
    gpus_each: GpusEach = 1.0,
    extractor: Extractor = None,
    key_variable: KeyVariable = "",
    concurrency: Concurrency = 64,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    price: Price = None,
) -> None:
    """Score a model on a benchmark by its official rule: methods and N side by side, with 95% intervals.

    The same command goes on where it was stopped. Every item counts.
    """
    from chainofstep import verbs
    from chainofstep.verbs.printed import print_evaluation

    if bool(model) == bool(regrade):
        raise ValueError("give either --model, to ask one, or --regrade, to grade what is stored")
    if regrade is not None and (given := _given(context)):
        raise ValueError(f"{given[0]} is for asking a model, and --regrade asks none: leave it out")
    shared = verbs.EndpointSettings(key_variable, concurrency, requests_per_minute, tokens_per_minute, prices=price)
    reader = verbs.extractor(extractor, shared) if extractor else None
    if regrade is not None:
        results = verbs.regrade(benchmark, regrade, out, split, limit, reader)
        folder = out or (regrade if regrade.is_dir() else regrade.with_suffix(".graded"))
    else:
        from chainofstep.search import SearchConfig

        if out is None:
            raise ValueError("give the folder to write with --out")
        folder, config = out, SearchConfig(16, width, temperature, top_p, max_tokens, seed=seed)
        spread = spread_of(workers, ray, gpus_each)
        results = verbs.evaluate(benchmark, model, out, method, n, config, prm, prompt, split, limit, spread, reader)
    console = Console()
    print_evaluation(results, console)
    console.print(Text(f"written to {folder}"), soft_wrap=True)


def _given(context: typer.Context) -> list[str]:
    """The options of asking a model that stand on the command line."""
    return [
        option
        for name, option in ASKING.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
