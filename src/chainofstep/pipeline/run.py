"""A run: its folder, its examples and models, and how one stage follows another."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from rich.console import Console

from chainofstep.pipeline.memory import MemoryWatch
from chainofstep.pipeline.recipe import Recipe
from chainofstep.pipeline.rows import read_pools, read_scores, write_chunks
from chainofstep.pipeline.spread import Spread
from chainofstep.pipeline.workers import Scorer, beam_chunk, model, sample_chunk, score_chunk
from chainofstep.records import Example, Rollout, Scored
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.search import SearchConfig
from chainofstep.settings import resolved
from chainofstep.store import RunFolder, read_records

SHIPPED = Path(str(files("chainofstep") / "recipes" / "mini_base"))


def on_gpu() -> bool:
    """Whether models of this machine lie on a GPU, whose memory a training needs to itself."""
    return torch.cuda.is_available()


class Run:
    """One recipe in one folder; use it as a context manager. Paths and stage names are relative to the folder."""

    def __init__(self, recipe: Recipe, out: str | Path, leads: bool = True):
        """`leads` is False in the further processes of a training: they write no rows."""
        self.recipe, self.folder, self.leads = recipe, RunFolder(out), leads
        if leads:
            self.folder.claim({name: value for name, value in resolved(recipe).items() if name != "launch"})
        self.console = Console(stderr=True)
        self.workers: Executor | None = None
        self.closing, self.team = ExitStack(), ExitStack()
        self._examples: dict[str, list[Example]] = {}
        self.used: list[str] = []  # stages asked for in this process, finished before or not

    def __enter__(self) -> "Run":
        with ExitStack() as opening:  # closes what was opened if what comes after fails
            lock = self.folder.lock()
            opening.callback(lock.release)
            opening.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.recipe.threads)
            self._gather()
            self.closing = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.team.__exit__(kind, error, trace)
        self.closing.close()

    def _gather(self) -> None:
        """Start the workers of sampling and scoring."""
        launch = self.recipe.launch
        spread = Spread(launch.workers or (0 if launch.ray else self.recipe.threads), launch.ray)
        self.workers = self.team.enter_context(spread.start())

    @contextmanager
    def _room(self) -> Iterator[None]:
        """On a GPU, let go of the models that workers and this process hold, until a training is done with it."""
        if not on_gpu():
            yield
            return
        self.team.close()
        self.workers = None
        model.cache_clear()
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            self._gather()

    def stage(self, name: str, work: Callable[[], Sequence[Path]], **inputs: Any) -> None:
        """Run a stage unless it is finished. `inputs` are the settings that decide it."""
        self.used.append(name)
        known = self.folder.stage(name)
        watch = MemoryWatch()

        def watched(_: Path) -> Sequence[Path]:
            with watch:
                return work()

        finished = self.folder.run_stage(name, inputs, watched, lambda: watch.peak_mb)
        if known is None or known.seconds is None:
            self.console.print(f"[green]done[/green] {name} [dim]{finished.seconds:.1f} s[/dim]")

    @property
    def checked(self) -> bool:
        """Whether the truth of every step is known: of generated problems alone."""
        return not self.recipe.data

    def train(self, name: str, here: Callable[[], Sequence[Path]] | None = None, **inputs: Any) -> None:
        """Run a training stage, in this process or, as the recipe says, in several that it launches.

        `here` is a training that a launch does not know by its name: this process does it.
        """
        from chainofstep.pipeline.launched import launch
        from chainofstep.pipeline.trainings import training

        def work() -> Sequence[Path]:
            with self._room():
                if here or (self.recipe.launch.processes == 1 and not self.recipe.launch.command):
                    return (here or training(self, name))()
                launch(self.recipe.launch, self.folder.path, name)
            return [self.path("models", name.removesuffix("/train"))]

        self.stage(name, work, **inputs)

    def base(self, kind: Literal["policy", "prm"]) -> str:
        """Where the policy, or the PRM, starts from."""
        if self.recipe.policy:
            start = self.recipe.policy if kind == "policy" else self.recipe.backbone or self.recipe.policy
            return self.model_folder("sft") if kind == "prm" and start == "sft" else start
        return str(self.path("models", "mini_base", kind) if self.recipe.base == "scratch" else SHIPPED / kind)

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    def examples(self, name: str) -> list[Example]:
        """The examples of a set that the problems stage wrote; none where the user's data have no held-out set."""
        if name not in self._examples:
            path = self.path("problems", f"{name}.jsonl")
            rows = read_records(path, Example) if path.exists() or name != "held-out" else ()
            self._examples[name] = [
                replace(row, images=tuple(str(self.path(image)) for image in row.images)) for row in rows
            ]
        return self._examples[name]

    def model_folder(self, name: str) -> str:
        return str(self.path("models", name))

    def sampling(self, stage: str, **changes: Any) -> SearchConfig:
        """The recipe's sampling settings with this stage's own seed."""
        return replace(self.recipe.sampling, seed=derive_seed(self.recipe.seed, stage), **changes)

    @property
    def prm(self) -> str:
        """Where the trained PRM scores: from its folder, or on the servers that hold it."""
        return self.recipe.launch.scorer or self.model_folder("prm")

    # Sampling, scoring and beam search: spread over the workers, resumable

    def sample(
        self, stage: str, model: str, examples: Sequence[Example], config: SearchConfig, steps: bool = True
    ) -> None:
        """`stage/rollouts.jsonl`: a pool of rollouts for each example, by the model in this folder.

        `steps` is False for a model that has not learnt any.
        """

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/rollouts")
            write_chunks(log, stage, examples, sample_chunk, lambda _: (model, config, steps), self.workers)
            return [log.path]

        self.stage(f"{stage}/sample", work, model=model, sampling=asdict(config), count=len(examples))

    def pools(self, stage: str, examples: Sequence[Example]) -> list[list[Rollout]]:
        return read_pools(self.folder.log(f"{stage}/rollouts"), examples)

    def score(self, stage: str, pools: str, examples: Sequence[Example], scorer: Scorer) -> None:
        """`stage/scores.jsonl`: scores of the pools that stage `pools` wrote."""

        own = scorer.kind == "prm" and scorer.model == self.model_folder("prm")
        placed = replace(scorer, model=self.prm) if own else scorer  # the run's PRM may be on servers

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/scores")
            found = {e.id: pool for e, pool in zip(examples, self.pools(pools, examples), strict=True)}
            write_chunks(
                log, stage, examples, score_chunk, lambda chunk: ([found[e.id] for e in chunk], placed), self.workers
            )
            return [log.path]

        self.stage(f"{stage}/score", work, pools=pools, count=len(examples), scorer=asdict(scorer))

    def scores(self, stage: str, examples: Sequence[Example]) -> list[list[Scored]]:
        return read_scores(self.folder.log(f"{stage}/scores"), examples)

    def beam_search(self, stage: str, model: str, examples: Sequence[Example], config: SearchConfig) -> None:
        """`stage/results.jsonl`: one result of step-level beam search for each example."""

        def work() -> Sequence[Path]:
            log = self.folder.log(f"{stage}/results")
            write_chunks(log, stage, examples, beam_chunk, lambda _: (model, self.prm, config), self.workers)
            return [log.path]

        self.stage(stage, work, model=model, config=asdict(config), count=len(examples))
