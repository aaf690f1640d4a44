"""A run: its folder, its examples, its models and samplers, and how one stage follows another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import VLM, load_vlm
from chainofstep.pipeline.recipe import Recipe
from chainofstep.pipeline.rows import pool_row, read_pools, read_scores, scores_row, write_chunks
from chainofstep.records import Example, Rollout, Scored, StepScorer
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import score_pools
from chainofstep.search import SearchConfig, sample_pools
from chainofstep.settings import resolved
from chainofstep.store import RunFolder, read_records

SHIPPED = files("chainofstep") / "recipes" / "mini_base"


class Run:
    """One recipe in one folder. Paths and stage names are relative to it."""

    def __init__(self, recipe: Recipe, out: str | Path):
        self.recipe, self.folder = recipe, RunFolder(out)
        self.folder.claim(resolved(recipe))
        self.console = Console(stderr=True)
        torch.set_num_threads(recipe.threads)
        self._examples: dict[str, list[Example]] = {}

    def stage(self, name: str, work: Callable[[], Sequence[Path]], **inputs: Any) -> None:
        """Run a stage unless it is finished. `inputs` are the settings that decide it."""
        known = self.folder.stage(name)
        if known is None or known.seconds is None:
            self.console.print(f"[bold]{name}[/bold]")
        finished = self.folder.run_stage(name, inputs, lambda _: work())
        if known is None or known.seconds is None:
            self.console.print(f"  {name}: {finished.seconds:.0f} s")

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    def examples(self, name: str) -> list[Example]:
        """The examples of a set that the problems stage wrote."""
        if name not in self._examples:
            rows = read_records(self.path("problems", f"{name}.jsonl"), Example)
            self._examples[name] = [
                replace(row, images=tuple(str(self.path(image)) for image in row.images)) for row in rows
            ]
        return self._examples[name]

    def model(self, name: str) -> VLM:
        return load_vlm(self.path("models", name))

    def sampling(self, stage: str) -> SearchConfig:
        """The recipe's sampling settings with this stage's own seed."""
        return replace(self.recipe.sampling, seed=derive_seed(self.recipe.seed, stage))

    # Sampling and scoring, resumable

    def sample(self, stage: str, model: str, examples: Sequence[Example], config: SearchConfig) -> None:
        """Stage `stage`: pools of rollouts of `examples`, in `stage/rollouts.jsonl`."""

        def work() -> Sequence[Path]:
            engine, log = Engine(self.model(model)), self.folder.log(f"{stage}/rollouts")
            write_chunks(log, stage, examples, lambda chunk: map(pool_row, sample_pools(chunk, engine, config)))
            return [log.path]

        self.stage(f"{stage}/sample", work, model=model, sampling=resolved(config), count=len(examples))

    def pools(self, stage: str, examples: Sequence[Example]) -> list[list[Rollout]]:
        return read_pools(self.folder.log(f"{stage}/rollouts"), examples)

    def score(
        self, stage: str, pools: str, examples: Sequence[Example], scorer: Callable[[], StepScorer], first: int = 0
    ) -> None:
        """Stage `stage`: scores of the pools that stage `pools` wrote (the `first` rollouts of each; 0: all)."""

        def work() -> Sequence[Path]:
            made, log = scorer(), self.folder.log(f"{stage}/scores")
            rollouts = {e.id: p[: first or None] for e, p in zip(examples, self.pools(pools, examples), strict=True)}
            write_chunks(
                log,
                stage,
                examples,
                lambda chunk: map(scores_row, score_pools(chunk, [rollouts[e.id] for e in chunk], made)),
            )
            return [log.path]

        self.stage(f"{stage}/score", work, pools=pools, count=len(examples), first=first)

    def scores(self, stage: str, examples: Sequence[Example]) -> list[list[Scored]]:
        return read_scores(self.folder.log(f"{stage}/scores"), examples)

    def prm(self) -> PRM:
        return PRM(self.model("prm"), token_budget=4096)
