"""What a recipe's stages would refuse, said before anything starts, and the settings that a number of GPUs needs."""

from dataclasses import replace
from math import gcd

from chainofstep.pipeline.recipe import Recipe
from chainofstep.planning.gpus import Gpus
from chainofstep.planning.memory import Sharing
from chainofstep.planning.shape import ModelShape
from chainofstep.planning.stages import Planned
from chainofstep.training.common import TrainConfig, check
from chainofstep.training.grpo import GrpoConfig
from chainofstep.training.prm import PrmConfig


def trainings(recipe: Recipe) -> dict[str, TrainConfig]:
    """The settings of the trainings that the recipe has, by their names in it."""
    found: dict[str, TrainConfig] = {"sft": recipe.sft, "prm": recipe.prm}
    if recipe.rounds.rounds or recipe.rounds.outcome_rounds:
        found["dpo"] = recipe.dpo
    return found | ({"grpo": recipe.grpo} if recipe.grpo else {})


def check_recipe(plan: Planned, sharing: Sharing) -> None:
    """ValueError in one line for sizes that are none, and for what a training refuses.

    Packages that the settings need are not asked for: a plan is made on another machine than the run.
    """
    _check_sizes(plan.recipe)
    for name, config in trainings(plan.recipe).items():
        model = plan.backbone if isinstance(config, PrmConfig) else plan.policy
        try:
            check(_bare(config), rows=1)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        _check_rows(plan, name, config)
        if not isinstance(config, GrpoConfig) and refuses_shards(model, config, sharing):
            raise ValueError(
                f"{name}: {model.name} has one matrix for embedding and head, whose trained rows cannot be sharded;"
                f" set launch.sharding=ddp, or {name}.lora.rank=0"
            )


def _check_sizes(recipe: Recipe) -> None:
    sampling, labels, grpo = recipe.sampling, recipe.labels, recipe.grpo
    sizes = {
        "sampling.n": sampling.n,
        "sampling.max_tokens": sampling.max_tokens,
        "labels.chains": labels.chains,
        "labels.rollouts": labels.rollouts,
        "pairs.per_question": recipe.pairs.per_question,
        "launch.processes": recipe.launch.processes,
        "beams": min(recipe.beams, default=1),
        **{f"problems.{name}": getattr(recipe.problems, name) for name in ("sft", "labels", "dpo", "test")},
    }
    if grpo is not None:
        sizes |= {
            f"grpo.{name}": getattr(grpo, name) for name in ("samples", "updates", "max_completion", "iterations")
        }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: give 1 or more")
    for name in ("rounds", "outcome_rounds"):
        if getattr(recipe.rounds, name) < 0:
            raise ValueError(f"rounds.{name}={getattr(recipe.rounds, name)}: give 0 or more")


def _check_rows(plan: Planned, name: str, config: TrainConfig) -> None:
    """That rows of the planned lengths are not left out as too long."""
    lengths = plan.sizes.lengths
    needed = lengths.prompt + (config.max_completion if isinstance(config, GrpoConfig) else lengths.chain)
    if config.max_tokens and config.max_tokens < needed:
        raise ValueError(
            f"{name}.max_tokens={config.max_tokens} leaves out rows of the planned {needed} tokens; give {needed} or"
            " more"
        )


def _bare(config: TrainConfig) -> TrainConfig:
    machine = replace(config.machine, attention="sdpa", liger=False, report_to=())
    return replace(config, batch_size=update_rows(config), machine=machine)


def update_rows(config: TrainConfig) -> int:
    """Rows of an update; of GRPO, rollouts."""
    return config.rollouts if isinstance(config, GrpoConfig) else config.batch_size


def divides(config: TrainConfig, count: int) -> bool:
    """Whether so many processes can share an update, as training asks for it."""
    return update_rows(config) % (config.forward_rows * count) == 0


def refuses_shards(model: ModelShape, config: TrainConfig, sharing: Sharing) -> bool:
    """Whether adapters cannot be trained there: with a tied head, the step tokens' rows are in one sharded matrix."""
    return bool(
        sharing != "ddp" and config.lora.rank and "decoder" in config.trained and "head" not in model.parameters
    )


def needed_settings(recipe: Recipe, gpus: Gpus) -> list[str]:
    """Settings with which a run uses all of these GPUs, and its trainings take so many processes."""
    launch, count, found = recipe.launch, gpus.count, []
    if launch.processes != count:
        found.append(f"launch.processes={count}")
    if gpus.nodes > 1 and not launch.command:
        found.append("launch.command=COMMAND")  # which starts the processes of all machines (docs/cluster.md)
    if count > 1 and not launch.ray:
        found.append("launch.ray=auto")  # which gives each worker of sampling and scoring a GPU of its own
    if count == 1 and not launch.ray and launch.workers != 1:
        found.append("launch.workers=1")
    return found + [setting for name, config in trainings(recipe).items() for setting in _shared(name, config, count)]


def _shared(name: str, config: TrainConfig, count: int) -> list[str]:
    """Fewer rows a pass where that is enough to share an update, else the next larger batch that can be shared."""
    if divides(config, count):
        return []
    rows = update_rows(config)
    if rows % count == 0:
        return [f"{name}.forward_rows={gcd(rows // count, config.forward_rows)}"]
    part = config.forward_rows * count
    step = part // gcd(part, config.samples) if isinstance(config, GrpoConfig) else part
    return [f"{name}.batch_size={-(-config.batch_size // step) * step}"]
