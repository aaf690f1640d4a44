"""What a recipe will need on given GPUs, before anything is downloaded or started."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chainofstep.pipeline.recipe import Recipe
from chainofstep.planning import work
from chainofstep.planning.gpus import Gpus, read_gpus
from chainofstep.planning.memory import Memory, Sharing
from chainofstep.planning.sizes import Sizes
from chainofstep.planning.stages import Planned, Stage, planned, serving_memory, stage_memory, stages
from chainofstep.recipes import RECIPES
from chainofstep.settings import apply_overrides
from chainofstep.training.common import TrainConfig

MOST_GPUS = 1024  # that advice goes up to
Change = tuple[str, TrainConfig, int, Sharing]  # its text, and what would be with it


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
    """The plan of a recipe."""
    shared, speeds = planned(recipe), speeds or work.Speeds()
    sharing: Sharing = recipe.launch.sharding if gpus.count > 1 else "ddp"
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
    )


def _advice(shared: Planned, stage: Stage, gpus: Gpus, sharing: Sharing) -> str:
    if stage.config is None:
        for cut in _doubled(2):
            if serving_memory(shared, stage, cut).total <= gpus.usable_bytes:
                verb = "sample" if stage.kind == "decoding" else "score"
                return f"serve it cut over {cut} GPUs (tensor parallel), and {verb} from its URL"
        return "fits no number of such GPUs"
    found = []
    for changes in (_settings(stage, gpus, sharing), _more_gpus(stage, gpus, sharing)):
        for text, config, count, way in changes:
            if stage_memory(shared, replace(stage, config=config), count, way).total <= gpus.usable_bytes:
                found.append(text)
                break
    return ", or ".join(found) or "fits no number of such GPUs; shorten its rows (max_tokens)"


def _settings(stage: Stage, gpus: Gpus, sharing: Sharing) -> Iterator[Change]:
    """Changes in the order of how little they change: first what costs time alone, then what changes the training."""
    config, key = stage.config, stage.name.partition("/")[0].replace("outcome", "dpo")
    assert config is not None
    steps: list[tuple[str, Callable[[TrainConfig], TrainConfig]]] = [
        (f"{key}.machine.gradient_checkpointing=true", _recomputed),
        (f"{key}.forward_rows=1", lambda config: replace(config, forward_rows=1)),
    ]
    texts: list[str] = []
    for text, change in steps:
        if change(config) != config:
            config, texts = change(config), [*texts, f"--set {text}"]
            yield " ".join(texts), config, gpus.count, sharing
    if sharing == "ddp" and gpus.count > 1:
        sharing, texts = "fsdp2", [*texts, "--set launch.sharding=fsdp2"]
        yield " ".join(texts), config, gpus.count, sharing
    for bits in (False, True):
        lora = replace(config.lora, rank=config.lora.rank or 64, four_bit=bits)
        if lora != config.lora:
            adapters = f"--set {key}.lora.rank={lora.rank}" + (f" --set {key}.lora.four_bit=true" if bits else "")
            yield " ".join([*texts, adapters]), replace(config, lora=lora), gpus.count, sharing


def _more_gpus(stage: Stage, gpus: Gpus, sharing: Sharing) -> Iterator[Change]:
    assert stage.config is not None
    way, how = (sharing, "") if sharing != "ddp" else ("fsdp2", " with --set launch.sharding=fsdp2")
    for count in _doubled(2 * gpus.count):
        yield f"{count} such GPUs{how}", stage.config, count, way


def _recomputed(config: TrainConfig) -> TrainConfig:
    return replace(config, machine=replace(config.machine, gradient_checkpointing=True))


def _doubled(first: int) -> Iterator[int]:
    while first <= MOST_GPUS:
        yield first
        first *= 2
