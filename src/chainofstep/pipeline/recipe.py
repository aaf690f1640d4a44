"""What decides a run: one frozen dataclass of the settings of every stage."""

from dataclasses import dataclass, field
from typing import Literal

from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.training.dpo import DpoConfig
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
class Recipe:
    """A whole run. `base` says where the policy's base and the PRM's backbone come from."""

    name: str
    seed: int = 0
    base: Literal["shipped", "scratch"] = "shipped"
    threads: int = 2
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
    pool_sizes: tuple[int, ...] = (1, 4, 8, 16)  # N of self-consistency, best-of-n, weighted vote and pass@N
    beams: tuple[int, ...] = (4, 16)  # N of step-level beam search at width 1
    wide_beam: int = 4  # width of one more beam search at the largest N; 1 for none


def beams(recipe: Recipe) -> list[tuple[int, int]]:
    """(N, width) of every beam search of the recipe."""
    wide = [(max(recipe.beams), recipe.wide_beam)] if recipe.wide_beam > 1 else []
    return [*((n, 1) for n in recipe.beams), *wide]
