"""`cos recipes` and `cos plan`: what recipes there are, what decides them, and what they need."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chainofstep.cli.common import Seed, Settings

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="`cos recipes` lists them.", show_default=False)]


def recipes_command(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="Print all settings of this one.")] = "",
    seed: Seed = 0,
    settings: Settings = [],  # noqa: B006  # typer reads it, nothing changes it
) -> None:
    """List the recipes and experiments, or print a recipe as the lines that `--set` takes."""
    from chainofstep import verbs

    if recipe:
        for line in verbs.recipe_lines(recipe, seed, settings):
            typer.echo(line)
    else:
        from chainofstep.verbs.printed import recipe_list

        Console().print(recipe_list(verbs.recipes(), verbs.experiment_titles()), end="")


def plan_command(
    recipe: RecipeName,
    gpus: Annotated[str, typer.Option(help="COUNTxMEMORY: 1x24GB, 8x80GB, 2x8x80GB (machines).", show_default=False)],
    seed: Seed = 0,
    settings: Settings = [],  # noqa: B006
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Speeds measured by `python -m benchmarks.gpu`.", show_default=False),
    ] = None,
) -> None:
    """Print the memory per GPU, tokens, GPU hours and disk of each stage of a recipe, before anything starts."""
    from chainofstep.planning import plan_recipe, print_plan

    plan = plan_recipe(recipe, gpus, seed, settings, measured)
    print_plan(plan, Console())
    if not plan.fits:
        raise typer.Exit(1)
