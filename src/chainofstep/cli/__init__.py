"""`cos`: every command calls one function of `chainofstep.verbs` and prints what it returns."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from chainofstep.cli.ask import ask_command
from chainofstep.cli.common import (
    Commands,
    Concurrency,
    Examples,
    GpusEach,
    Judges,
    KeyVariable,
    MaxTokens,
    N,
    OutFile,
    OutFolder,
    Policy,
    Price,
    Ray,
    RequestsPerMinute,
    Rollouts,
    Scores,
    Seed,
    Settings,
    Temperature,
    TokensPerMinute,
    TopP,
    Workers,
    command,
    left_out,
    spread_of,
)
from chainofstep.cli.data import data_app
from chainofstep.cli.evaluate import eval_command
from chainofstep.cli.measure import compare_command, eval_prm_command
from chainofstep.cli.recipes import plan_command, recipes_command
from chainofstep.cli.serve import serve_command
from chainofstep.cli.train import convert_command, push_command, train_app
from chainofstep.cli.view import view_command

app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Chain-of-step reasoning for vision-language models: step data, training, step scores, search."""


@command(app, "run", "cos run mini --out runs/mini --seed 0 --set dpo.beta=0.2")
def run_command(
    recipe: Annotated[str, typer.Argument(help="A recipe or experiment of `cos recipes`, or mini-base (pretrain).")],
    out: OutFolder,
    seed: Seed = 0,
    settings: Settings = [],  # noqa: B006  # typer reads it, nothing changes it
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Pretrain the base models too.")] = False,
    seeds: Annotated[str, typer.Option(help="Experiments: 0-4 or 0,2,5.", show_default="the one of --seed")] = "",
    jobs: Annotated[int, typer.Option(help="Experiments: seeds at a time.")] = 1,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Experiments: the document to write.", show_default="DIR/results.md"),
    ] = None,
) -> None:
    """Run a recipe or an experiment in one folder, up to its report. The same command goes on with it."""
    from chainofstep import verbs
    from chainofstep.verbs.run import MINI_BASE

    if recipe == MINI_BASE:
        typer.echo(f"wrote {verbs.make_mini_base(out, seed, settings)}")
    elif recipe in verbs.experiment_titles():
        typer.echo(f"wrote {verbs.run_experiments(recipe, out, seeds or str(seed), settings, jobs, results)}")
    elif seeds or jobs != 1 or results:
        raise ValueError(f"--seeds, --jobs and --results are for experiments, and {recipe!r} is none; leave them out")
    else:
        _summary(verbs.run_recipe(recipe, out, seed, settings, from_scratch))


@command(app, "report", "cos report runs/mini")
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)],
) -> None:
    """Write a run's report.html again, from its results.json."""
    from chainofstep import verbs

    _summary(verbs.report(run))


def _summary(page: Path) -> None:
    from chainofstep.report import print_summary
    from chainofstep.store import read_json

    print_summary(read_json(page.parent / "results.json"), Console(), page)
    typer.echo(f"Every chain, step by step: cos view {page.parent}")


@command(app, "problems", "cos problems data/test --kind line_sum --kind count_colour --count 40")
def problems_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    kind: Annotated[list[str], typer.Option("--kind", help="Repeatable; all trained kinds in turn without it.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="train or test: other problems, other handwriting.")] = "test",
    count: Annotated[int, typer.Option(help="How many.")] = 20,
    start: Annotated[int, typer.Option(help="Number of the first; a number is always the same problem.")] = 0,
) -> None:
    """Write generated problems: pictures, and examples.jsonl for the other commands."""
    from chainofstep import verbs

    typer.echo(f"wrote {count} examples to {verbs.problems(out, kind, split, count, start)}")


# Recipes and training

command(app, "recipes", "cos recipes qwen3_vl_8b_80gb")(recipes_command)
command(app, "plan", "cos plan internvl2_5_8b --gpus 8x80GB")(plan_command)
app.add_typer(train_app, name="train")
command(app, "convert", "cos convert downloads/CoS --out models/cos --tokenizer models/internvl2_5-tokenizer")(
    convert_command
)
command(app, "push", "cos push runs/mini/models/sft alice/steps-mini")(push_command)


# Data


@command(app, "sample", "cos sample models/sft data/examples.jsonl --out rollouts.jsonl -n 16 --seed 0")
def sample_command(
    model: Policy,
    examples: Examples,
    out: OutFile,
    n: N = 16,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    workers: Workers = None,
    ray: Ray = "",
    gpus_each: GpusEach = 1.0,
) -> None:
    """Sample chains for each example. The same command goes on with a file that was not finished."""
    from chainofstep import verbs
    from chainofstep.search import SearchConfig

    config = SearchConfig(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    kinds = verbs.sample(model, examples, out, config, spread_of(workers, ray, gpus_each))
    sampled = kinds.pop("sampled", 0)
    typer.echo(f"{sampled} examples with {n} rollouts each in {out}")
    left_out("not sampled", kinds)
    if not sampled:
        raise typer.Exit(1)


@command(
    app, "annotate", "cos annotate examples.jsonl rollouts.jsonl --scorer prm --model models/prm --out scores.jsonl"
)
def annotate_command(
    examples: Examples,
    rollouts: Rollouts,
    out: OutFile,
    scorer: Annotated[str, typer.Option(help="checker, monte-carlo, judge, prm or outcome.", show_default=False)],
    model: Annotated[str, typer.Option(help="The PRM, or Monte-Carlo's policy; MODEL@URL is a server.")] = "",
    n: Annotated[int, typer.Option("-n", help="Monte-Carlo: continuations of each step.")] = 16,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    hard_threshold: Annotated[
        float | None,
        typer.Option(help="Monte-Carlo: label a step 1 above this share of right continuations; else the share."),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Monte-Carlo: stop once a label is settled; seek the first wrong step.")
    ] = False,
    judge: Judges = [],  # noqa: B006
    votes: Annotated[int, typer.Option(help="Judge: verdicts of each judge on each rollout.")] = 1,
    neutral: Annotated[str, typer.Option(help="Judge: by_answer (the paper's rule) or half.")] = "by_answer",
    key_variable: KeyVariable = "",
    concurrency: Concurrency = 64,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    price: Price = None,
    workers: Workers = None,
    ray: Ray = "",
    gpus_each: GpusEach = 1.0,
) -> None:
    """Score each step of each rollout. The same command goes on with a file that was not finished."""
    from chainofstep import verbs
    from chainofstep.search import SearchConfig

    if scorer == "judge":
        shared = verbs.EndpointSettings(key_variable, concurrency, requests_per_minute, tokens_per_minute, prices=price)
        kinds = verbs.judge(examples, rollouts, out, verbs.judge_endpoints(judge, shared, votes), votes, neutral)
        _scored(kinds, out)
        return
    config = SearchConfig(n=n, max_tokens=max_tokens, seed=seed)
    spread = spread_of(workers, ray, gpus_each)
    kinds = verbs.annotate(examples, rollouts, out, scorer, model, config, hard_threshold, adaptive, spread)
    _scored(kinds, out)


def _scored(kinds: dict[str, int], out: Path) -> None:
    typer.echo(f"{kinds.pop('scored', 0)} rollouts scored in {out}")
    left_out("not scored", kinds)


@command(app, "pairs", "cos pairs examples.jsonl rollouts.jsonl scores.jsonl --out pairs.jsonl --threshold 0.3")
def pairs_command(
    examples: Examples,
    rollouts: Rollouts,
    scores: Scores,
    out: OutFile,
    threshold: Annotated[float, typer.Option(help="The margin of path scores that a pair must exceed.")] = 0.3,
    per_question: Annotated[int, typer.Option(help="Pairs of a question at most.")] = 1,
) -> None:
    """Choose preference pairs by path score. Questions without a pair go to a file of rejects beside the pairs."""
    from chainofstep import verbs
    from chainofstep.scoring.pairs import PairRule

    found = verbs.pairs(examples, rollouts, scores, out, PairRule(threshold, per_question))
    typer.echo(f"{found.pairs} pairs from {found.questions} questions in {out}")
    left_out("no pair", found.refused)
    typer.echo(f"rejects: {found.rejects}")


# Search


command(
    app,
    "eval",
    "cos eval chartqa --model models/sft --method greedy --method best_of_n --prm models/prm --out eval/sft",
)(eval_command)
command(app, "eval-prm", "cos eval-prm models/prm visualprocessbench:data/vpb --out eval/prm")(eval_prm_command)
command(app, "compare", "cos compare runs/mini runs/mini-beta --out compare.html")(compare_command)


command(app, "ask", 'cos ask picture.png "What is the sum of row 2?" --compare greedy,beam -n 16 --run runs/mini')(
    ask_command
)


# Use

command(app, "serve", "cos serve runs/mini/models/dpo-3 --prm runs/mini/models/prm --port 8000")(serve_command)
command(app, "view", "cos view runs/mini")(view_command)

app.add_typer(data_app, name="data")


# Documentation


def reference() -> str:
    """`docs/cli.md`: every command with its arguments, options and example, read from the commands themselves."""
    root = typer.main.get_command(app)
    parts = ["# Commands", "", "Written from the commands by `chainofstep.cli.reference`.", ""]
    parts += [root.help or "", "", *_options_of(root)]
    return "\n".join([*parts, *_commands_of(root, "cos")]).rstrip() + "\n"


def _commands_of(group: Any, path: str) -> list[str]:
    lines: list[str] = []
    for name, child in group.commands.items():
        whole = f"{path} {name}"
        if hasattr(child, "commands"):
            lines += _commands_of(child, whole)
            continue
        arguments = [_spelled(p).strip("`") for p in child.params if not p.opts[0].startswith("-")]
        lines += [f"## {whole}", "", child.help, "", f"`{' '.join([whole, *arguments, '[OPTIONS]'])}`", ""]
        lines += [*_options_of(child), "```", child.epilog.removeprefix("Example: "), "```", ""]
    return lines


def _options_of(child: Any) -> list[str]:
    """A table of what can be given."""
    rows = [f"| {_spelled(p)} | {p.help or ''} | {_default(p)} |" for p in child.params if p.name != "help"]
    return ["| | | default |", "|---|---|---|", *rows, ""]


def _spelled(parameter: Any) -> str:
    if parameter.opts[0].startswith("-"):
        return f"`{parameter.opts[0]}`"
    return f"`{parameter.metavar or parameter.name.upper()}`"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    return "" if shown is None or shown is False or shown in ("", (), []) else f"`{shown}`"


def main() -> None:
    """The entry point of `cos`."""
    app(prog_name="cos")
