"""The suite: experiments in one folder a seed, several seeds at once, and one document of all of them."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from chainofstep.experiments import EXPERIMENTS
from chainofstep.experiments.experiment import carry_out
from chainofstep.pipeline.run import Run
from chainofstep.recipes import RECIPES
from chainofstep.settings import apply_overrides

SUITE = "paper"


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def run_seed(out: Path, seed: int, names: Sequence[str], overrides: Sequence[str], workers: int) -> None:
    """The experiments of one seed, in the order of the list; those that are finished are not run again."""
    recipe = apply_overrides(RECIPES[SUITE](seed), overrides)
    if not recipe.launch.workers:
        recipe = replace(recipe, launch=replace(recipe.launch, workers=workers))
    with Run(recipe, seed_folder(out, seed)) as run:
        for name in names:
            carry_out(run, EXPERIMENTS[name])


def run_suite(
    out: Path, seeds: Sequence[int], names: Sequence[str] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> None:
    """Run experiments for some seeds, `jobs` seeds at a time. The same command goes on with what is not finished."""
    wanted = [name for name in EXPERIMENTS if name in names or not names]
    workers = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        for seed in seeds:
            run_seed(out, seed, wanted, overrides, workers)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        started = [pool.submit(run_seed, out, seed, wanted, overrides, workers) for seed in seeds]
        for one in started:
            one.result()
