"""What decides a run: one frozen dataclass of the settings of every stage."""

from dataclasses import dataclass, field
from typing import Literal

from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.training.dpo import DpoConfig
from chainofstep.training.grpo import GrpoConfig
from chainofstep.training.mini_base import BaseConfig
from chainofstep.training.prm import PrmConfig
from chainofstep.training.sft import SftConfig


@dataclass(frozen=True)
class Problems:
    """How many problems each stage gets. Train problems of different stages are different problems."""

    sft: int = 8000
    hasty: float = 0.0  # share of the SFT chains that leap to the last step, as uneven teachers do
    labels: int = 400  # questions of the PRM's training set
    dpo: int = 500  # questions of each round
    test: int = 1008  # unseen: other problems, other handwriting; the trained kinds in turn
    held_out: int = 200  # kinds that no stage trains on


@dataclass(frozen=True)
class Labels:
    """Monte-Carlo step labels (paper A3)."""

    chains: int = 2  # labelled chains per question
    rollouts: int = 16
    soft: bool = False
    hard_threshold: float = 0.0  # a hard label is 1 where more than this share comes right (0: Math-Shepherd's any)
    adaptive: bool = False  # stop a step's rollouts once its label is settled, and search for the first wrong step
    unseen_chains: int = 64  # labelled chains of test questions, to compare the PRM with labels it was not trained on


@dataclass(frozen=True)
class Rounds:
    """Iterative DPO (paper A6). The reference is the SFT model in every round."""

    rounds: int = 3
    outcome_rounds: int = 3  # the same with the outcome as reward, for comparison (paper Table 2, Fig. 6)
    weights: Literal["restart", "continue"] = "continue"  # a round starts from the SFT model, or from the last round's


@dataclass(frozen=True)
class Launch:
    """Where the work of a run is done: on more processes or machines the same rows are made, so it may change between
    attempts at one run.
    """

    processes: int = 1  # of a training, those of all machines together; 1: the run's own
    sharding: Literal["ddp", "fsdp2", "zero3"] = "ddp"  # how they share a model: an accelerate config of this package
    command: str = ""  # what starts them, instead of `accelerate launch` on this machine
    workers: int = 0  # of sampling and scoring; 0: as many as `threads`
    ray: str = ""  # address of the Ray cluster where they are; "": processes of this machine
    scorer: str = ""  # MODEL@URL of servers that hold the run's PRM, where it is too large for one GPU


@dataclass(frozen=True)
class Recipe:
    """A whole run. `base` says where the policy's base and the PRM's backbone come from."""

    name: str
    seed: int = 0
    base: Literal["shipped", "scratch"] = "shipped"
    policy: str = ""  # a model's folder or hub id to start from, instead of `base`
    backbone: str = ""  # and the PRM's; "": the policy's; "sft": the policy after SFT
    data: str = ""  # folder of sft, labels, dpo, test.jsonl (docs/recipes.md); "": generated problems
    threads: int = 2
    launch: Launch = field(default_factory=Launch)
    problems: Problems = field(default_factory=Problems)
    pretraining: BaseConfig = field(default_factory=BaseConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    sampling: SearchConfig = field(default_factory=SearchConfig)  # of pools: labels, pairs, search
    labels: Labels = field(default_factory=Labels)
    prm: PrmConfig = field(default_factory=PrmConfig)
    pairs: PairRule = field(default_factory=PairRule)
    outcome_pairs: PairRule = field(default_factory=PairRule)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    rounds: Rounds = field(default_factory=Rounds)
    grpo: GrpoConfig | None = None  # GRPO from the SFT model on the PRM's scores, besides or instead of DPO (paper A7)
    pool_sizes: tuple[int, ...] = (1, 4, 8, 16)  # N of self-consistency, best-of-n, weighted vote and pass@N
    base_tokens: int = 24  # of the base's answers without steps, at most
    beams: tuple[int, ...] = (4, 16)  # N of step-level beam search at width 1
    wide_beam: int = 4  # width of one more beam search at the largest N; 1 for none


def policies(recipe: Recipe) -> list[str]:
    """The names of all trained policies, in the order in which they are trained."""
    names = ["sft", *(f"dpo-{n}" for n in range(1, recipe.rounds.rounds + 1))]
    names += ["grpo"] if recipe.grpo else []
    return names + [f"outcome-{n}" for n in range(1, recipe.rounds.outcome_rounds + 1)]


def best_policy(recipe: Recipe) -> str:
    """The policy of the last round of DPO; without DPO that of GRPO, or the SFT model."""
    rounds = recipe.rounds.rounds
    return f"dpo-{rounds}" if rounds else "grpo" if recipe.grpo else "sft"


def beams(recipe: Recipe) -> list[tuple[int, int]]:
    """(N, width) of every beam search of the recipe."""
    wide = [(max(recipe.beams), recipe.wide_beam)] if recipe.wide_beam > 1 else []
    return [*((n, 1) for n in recipe.beams), *wide]
