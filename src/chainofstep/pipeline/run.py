"""A run: its folder, its examples and models, and how one stage follows another."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console

from chainofstep.models.vlm import VLM, load_vlm
from chainofstep.pipeline.memory import MemoryWatch
from chainofstep.pipeline.recipe import Recipe
from chainofstep.pipeline.rows import read_pools, read_scores, write_chunks
from chainofstep.pipeline.workers import Scorer, beam_chunk, sample_chunk, score_chunk, start_workers
from chainofstep.records import Example, Rollout, Scored
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.search import SearchConfig
from chainofstep.settings import resolved
from chainofstep.store import RunFolder, read_records

SHIPPED = Path(str(files("chainofstep") / "recipes" / "mini_base"))


class Run:
    """One recipe in one folder; use it as a context manager. Paths and stage names are relative to the folder."""

    def __init__(self, recipe: Recipe, out: str | Path):
        self.recipe, self.folder = recipe, RunFolder(out)
        self.folder.claim(resolved(recipe))
        self.console = Console(stderr=True)
        self.workers: Executor | None = None
        self._examples: dict[str, list[Example]] = {}

    def __enter__(self) -> "Run":
        self.lock = self.folder.lock()
        torch.set_num_threads(self.recipe.threads)
        if self.recipe.threads > 1:
            self.workers = start_workers(self.recipe.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.workers is not None:
            self.workers.shutdown(wait=error is None, cancel_futures=True)
        self.lock.release()

    def stage(self, name: str, work: Callable[[], Sequence[Path]], **inputs: Any) -> None:
        """Run a stage unless it is finished. `inputs` are the settings that decide it."""
        known = self.folder.stage(name)
        watch = MemoryWatch()

        def watched(_: Path) -> Sequence[Path]:
            with watch:
                return work()

        finished = self.folder.run_stage(name, inputs, watched, lambda: watch.peak_mb)
        if known is None or known.seconds is None:
            self.console.print(f"[green]done[/green] {name} [dim]{finished.seconds:.1f} s[/dim]")

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

    def model_folder(self, name: str) -> str:
        return str(self.path("models", name))

    def model(self, name: str) -> VLM:
        return load_vlm(self.model_folder(name))

    def sampling(self, stage: str, **changes: Any) -> SearchConfig:
        """The recipe's sampling settings with this stage's own seed."""
        return replace(self.recipe.sampling, seed=derive_seed(self.recipe.seed, stage), **changes)

    # Sampling, scoring and beam search: spread over the workers, resumable

    def sample(self, stage: str, model: str, examples: Sequence[Example], config: SearchConfig) -> None:
        """`stage/rollouts.jsonl`: a pool of rollouts for each example, by the model in this folder."""

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/rollouts")
            write_chunks(log, stage, examples, sample_chunk, lambda _: (model, config), self.workers)
            return [log.path]

        self.stage(f"{stage}/sample", work, model=model, sampling=asdict(config), count=len(examples))

    def pools(self, stage: str, examples: Sequence[Example]) -> list[list[Rollout]]:
        return read_pools(self.folder.log(f"{stage}/rollouts"), examples)

    def score(self, stage: str, pools: str, examples: Sequence[Example], scorer: Scorer) -> None:
        """`stage/scores.jsonl`: scores of the pools that stage `pools` wrote."""

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/scores")
            found = {e.id: pool for e, pool in zip(examples, self.pools(pools, examples), strict=True)}
            write_chunks(
                log, stage, examples, score_chunk, lambda chunk: ([found[e.id] for e in chunk], scorer), self.workers
            )
            return [log.path]

        self.stage(f"{stage}/score", work, pools=pools, count=len(examples), scorer=asdict(scorer))

    def scores(self, stage: str, examples: Sequence[Example]) -> list[list[Scored]]:
        return read_scores(self.folder.log(f"{stage}/scores"), examples)

    def beam_search(self, stage: str, model: str, examples: Sequence[Example], config: SearchConfig) -> None:
        """`stage/results.jsonl`: one result of step-level beam search for each example."""

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/results")
            prm = self.model_folder("prm")
            write_chunks(log, stage, examples, beam_chunk, lambda _: (model, prm, config), self.workers)
            return [log.path]

        self.stage(stage, work, model=model, config=asdict(config), count=len(examples))
