"""What a recipe will need on given GPUs, before anything is downloaded or started."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chainofstep.pipeline.recipe import Recipe
from chainofstep.planning import work
from chainofstep.planning.checks import check_recipe, divides, refuses_shards
from chainofstep.planning.gpus import Gpus, read_gpus
from chainofstep.planning.memory import Memory, Sharing
from chainofstep.planning.sizes import Sizes
from chainofstep.planning.stages import Planned, Stage, cache_bytes, planned, serving_memory, stage_memory, stages
from chainofstep.recipes import RECIPES
from chainofstep.settings import apply_overrides
from chainofstep.training.common import TrainConfig
from chainofstep.training.grpo import GrpoConfig

MOST_GPUS = 1024  # that advice goes up to
SERVED = "launch.scorer=MODEL@URL"
Change = tuple[str, Stage, int, Sharing]  # its text, and what would be with it


@dataclass(frozen=True)
class StagePlan:
    """A stage on the given GPUs. `advice` is empty where it fits, else the smallest change with which it would."""

    name: str
    memory: Memory
    fits: bool
    advice: str
    times: int
    tokens: float
    flops: float
    hours: float
    disk: float
    scratch: float
    longest_cache: int  # bytes, of a sampler whose rows are all as long as they may be


@dataclass(frozen=True)
class Plan:
    """All stages, with what was assumed for them."""

    recipe: Recipe
    gpus: Gpus
    sizes: Sizes
    speeds: work.Speeds
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        return sum(stage.times * stage.hours for stage in self.stages)

    @property
    def disk(self) -> float:
        """What stays, and the most that a stage holds while it runs."""
        kept = sum(stage.times * stage.disk for stage in self.stages)
        return kept + max(stage.scratch for stage in self.stages)

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)


def plan_recipe(
    name: str, gpus: str, seed: int = 0, overrides: Sequence[str] = (), measured: Path | None = None
) -> Plan:
    """The plan of a named recipe with `--set` overrides; `measured` as `benchmarks.gpu` writes it. ValueError."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; choose from {', '.join(RECIPES)}")
    recipe = apply_overrides(RECIPES[name](seed), overrides)
    return plan(recipe, read_gpus(gpus), work.Speeds() if measured is None else work.read_speeds(measured))


def plan(recipe: Recipe, gpus: Gpus, speeds: work.Speeds | None = None) -> Plan:
    """The plan of a recipe; ValueError for settings that its stages would refuse."""
    shared, speeds = planned(recipe), speeds or work.Speeds()
    sharing: Sharing = recipe.launch.sharding if gpus.count > 1 else "ddp"
    check_recipe(shared, sharing)
    found = tuple(_stage_plan(shared, stage, gpus, sharing, speeds) for stage in stages(shared))
    return Plan(recipe, gpus, shared.sizes, speeds, found)


def _stage_plan(shared: Planned, stage: Stage, gpus: Gpus, sharing: Sharing, speeds: work.Speeds) -> StagePlan:
    memory = stage_memory(shared, stage, gpus.count, sharing)
    fits = memory.total <= gpus.usable_bytes
    return StagePlan(
        stage.name,
        memory,
        fits,
        "" if fits else _advice(shared, stage, gpus, sharing),
        stage.times,
        stage.tokens,
        stage.flops,
        work.hours(stage.flops, gpus, getattr(speeds, stage.kind)),
        stage.disk,
        stage.scratch,
        cache_bytes(shared, stage, shared.recipe.sampling.max_tokens) if stage.kind == "decoding" else 0,
    )


def _advice(shared: Planned, stage: Stage, gpus: Gpus, sharing: Sharing) -> str:
    if stage.config is None:
        return _serving_advice(shared, stage, gpus)
    found = []
    for changes in (_settings(stage, gpus, sharing), _more_gpus(stage, gpus, sharing)):
        for text, changed, count, way in changes:
            assert changed.config is not None
            refused = refuses_shards(changed.model, changed.config, way)
            if not refused and stage_memory(shared, changed, count, way).total <= gpus.usable_bytes:
                found.append(text)
                break
    return ", or ".join(found) or "fits no number of such GPUs; shorten its rows (max_tokens)"


def _serving_advice(shared: Planned, stage: Stage, gpus: Gpus) -> str:
    """For what samples or scores: the PRM on a server, the model cut over several GPUs, or both."""
    alone, first = replace(stage, beside=None), f"--set {SERVED}, and " if stage.beside else ""
    if stage.beside and serving_memory(shared, alone, 1).total <= gpus.usable_bytes:
        return f"--set {SERVED}"
    for cut in _doubled(2):
        if serving_memory(shared, alone, cut).total <= gpus.usable_bytes:
            use = "sample from its URL" if stage.kind == "decoding" else f"--set {SERVED}"
            return f"{first}serve it cut over {cut} GPUs (tensor parallel), and {use}"
    return "fits no number of such GPUs"


def _settings(stage: Stage, gpus: Gpus, sharing: Sharing) -> Iterator[Change]:
    """Changes in the order of how little they change: first what costs time alone, then what changes the training."""
    key = stage.name.partition("/")[0].replace("outcome", "dpo")
    steps: list[tuple[str, Callable[[Stage], Stage]]] = [
        (SERVED, lambda stage: replace(stage, beside=None)),
        (f"{key}.machine.gradient_checkpointing=true", _recomputed),
        (f"{key}.forward_rows=1", lambda stage: replace(stage, config=replace(_config(stage), forward_rows=1))),
    ]
    texts: list[str] = []
    for text, change in steps:
        if change(stage) != stage:
            stage, texts = change(stage), [*texts, f"--set {text}"]
            yield " ".join(texts), stage, gpus.count, sharing
    if _may_shard(stage, gpus.count, sharing):
        shared = "--set launch.sharding=fsdp2"
        yield " ".join([*texts, shared]), stage, gpus.count, "fsdp2"
        if not refuses_shards(stage.model, _adapters(stage, False)[1], "fsdp2"):
            sharing, texts = "fsdp2", [*texts, shared]
    for bits in (False, True):
        adapters, config = _adapters(stage, bits)
        if config != stage.config:
            yield " ".join([*texts, adapters]), replace(stage, config=config), gpus.count, sharing


def _adapters(stage: Stage, four_bit: bool) -> tuple[str, TrainConfig]:
    """The settings with adapters, and their text."""
    config, key = _config(stage), stage.name.partition("/")[0].replace("outcome", "dpo")
    lora = replace(config.lora, rank=config.lora.rank or 64, four_bit=four_bit)
    text = f"--set {key}.lora.rank={lora.rank}" + (f" --set {key}.lora.four_bit=true" if four_bit else "")
    return text, replace(config, lora=lora)


def _more_gpus(stage: Stage, gpus: Gpus, sharing: Sharing) -> Iterator[Change]:
    """As many more as can share an update; none for GRPO, which shares no weights."""
    if isinstance(stage.config, GrpoConfig):
        return
    way, how = (sharing, "") if sharing != "ddp" else ("fsdp2", " with --set launch.sharding=fsdp2")
    for count in _doubled(2 * gpus.count):
        if divides(_config(stage), count):
            yield f"{count} such GPUs{how}", stage, count, way


def _may_shard(stage: Stage, count: int, sharing: Sharing) -> bool:
    return sharing == "ddp" and count > 1 and not isinstance(stage.config, GrpoConfig)


def _config(stage: Stage) -> TrainConfig:
    assert stage.config is not None
    return stage.config


def _recomputed(stage: Stage) -> Stage:
    config = _config(stage)
    return replace(stage, config=replace(config, machine=replace(config.machine, gradient_checkpointing=True)))


def _doubled(first: int) -> Iterator[int]:
    while first <= MOST_GPUS:
        yield first
        first *= 2
