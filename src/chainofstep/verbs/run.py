"""Recipes, reports and generated problems."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from chainofstep.problems.tasks.build import KINDS, TRAINED, write_problems
from chainofstep.problems.tasks.problem import Split
from chainofstep.records import to_row
from chainofstep.settings import apply_overrides, written
from chainofstep.verbs.files import choose, write_lines

if TYPE_CHECKING:
    from chainofstep.pipeline.recipe import Recipe

MINI_BASE = "mini-base"


def run_recipe(name: str, out: Path, seed: int = 0, overrides: Sequence[str] = (), from_scratch: bool = False) -> Path:
    """Run a recipe in the folder `out`, or go on with it; the path of its report. `from_scratch` also pretrains."""
    from chainofstep.pipeline.run import Run
    from chainofstep.pipeline.stages import run_recipe as run_stages
    from chainofstep.recipes import RECIPES

    recipe = apply_overrides(RECIPES[choose(name, [*RECIPES, MINI_BASE], "recipe")](seed), overrides)
    with Run(replace(recipe, base="scratch") if from_scratch else recipe, out) as run:
        return run_stages(run)


def recipes() -> dict[str, tuple["Recipe", str]]:
    """Every recipe by its name, and what it is for in a line."""
    from chainofstep.recipes import RECIPES

    return {name: (recipe(0), (recipe.__doc__ or "").partition("\n")[0]) for name, recipe in RECIPES.items()}


def recipe_lines(name: str, seed: int = 0, overrides: Sequence[str] = ()) -> list[str]:
    """All settings of a recipe as KEY=VALUE, as `--set` takes them."""
    from chainofstep.recipes import RECIPES

    recipe = apply_overrides(RECIPES[choose(name, RECIPES, "recipe")](seed), overrides)
    return [f"{key}={value}" for key, value in written(recipe)]


def make_mini_base(out: Path, seed: int = 0, overrides: Sequence[str] = ()) -> Path:
    """Pretrain the mini recipe's base policy and PRM backbone; the folder with both."""
    from chainofstep.training.mini_base import BaseConfig, make_base

    return make_base(apply_overrides(BaseConfig(), overrides), seed, out)


def report(run: Path) -> Path:
    """Write a run's `report.html` from its `results.json`."""
    from chainofstep.report import write_report

    return write_report(run)


def problems(out: Path, kinds: Sequence[str] = (), split: str = "test", count: int = 20, start: int = 0) -> Path:
    """Generated problems in the folder `out`: pictures and `examples.jsonl`. Without `kinds`, all trained ones in turn.

    `start` numbers the first problem; the same number, kind and split give the same problem.
    """
    if count < 1 or start < 0:
        raise ValueError(f"count is {count} and start {start}; make at least one problem, from number 0 on")
    chosen_split = cast(Split, choose(split, get_args(Split), "split"))
    chosen = [choose(kind, KINDS, "kind") for kind in kinds] or TRAINED
    examples = write_problems(chosen_split, range(start, start + count), out / "pictures", chosen)
    inside = [replace(e, images=tuple(str(Path(image).relative_to(out)) for image in e.images)) for e in examples]
    return write_lines(out / "examples.jsonl", map(to_row, inside))
