"""The whole loop on a small VLM and generated problems, on a laptop without a GPU."""

from dataclasses import replace

from chainofstep.pipeline.recipe import Labels, Problems, Recipe, Rounds
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.training.dpo import DpoConfig
from chainofstep.training.grpo import GrpoConfig
from chainofstep.training.prm import PrmConfig
from chainofstep.training.sft import SftConfig


def mini(seed: int) -> Recipe:
    """Minutes on two CPU cores. Where it leaves the paper, the reason stands beside the setting."""
    return Recipe(
        "mini",
        seed,
        # Nearly a third of what SFT teaches is hasty: rewards need a choice between ways to go about a question.
        problems=Problems(sft=8000, hasty=0.3, labels=200, dpo=256, test=1008, held_out=200),
        # Small models learn from many small updates: 1,000 of 8 rows, at a rate that a large model would not survive.
        sft=SftConfig(learning_rate=1.5e-3, batch_size=8, forward_rows=8),
        sampling=SearchConfig(n=16, temperature=1.0, top_p=0.95, max_tokens=320),  # paper, App. C
        labels=Labels(chains=2, rollouts=16, unseen_chains=64),
        # The backbone has learnt to check, and is right about more steps than Monte-Carlo labels are: the labels fit it
        # to this policy, and more of them would teach it their errors (docs/performance.md).
        prm=PrmConfig(learning_rate=3e-5, epochs=2, batch_size=8, forward_rows=8),
        # The paper's rate would not move so small a model; twice this one gains more at first, then too many steps.
        pairs=PairRule(per_question=2),
        outcome_pairs=PairRule(per_question=2),
        dpo=DpoConfig(learning_rate=5e-5, epochs=1, batch_size=32, forward_rows=8, chosen_nll_weight=1.0),
        beams=(16,),
        wide_beam=1,  # a wider beam costs as much again: --set wide_beam=4
    )


def suite(seed: int) -> Recipe:
    """The settings of the paper's experiments: `mini` with GRPO and six rounds of DPO, on fewer questions."""
    recipe = mini(seed)
    return replace(
        recipe,
        name="paper",
        threads=1,  # seeds run side by side; a small model gains little from a second thread
        problems=Problems(sft=5000, hasty=0.3, labels=200, dpo=160, test=504, held_out=0),
        rounds=Rounds(rounds=6, outcome_rounds=6),
        # As many questions as three rounds of DPO see, five samples each (A7). At the rounds' rate of 5e-5 the reward
        # did not move on questions of no seed of the suite; at 2e-4 it rose.
        grpo=GrpoConfig(learning_rate=2e-4, batch_size=16, samples=5, updates=30, forward_rows=16, max_completion=320),
    )


def smoke(seed: int) -> Recipe:
    """Every stage of `mini` in about two minutes. Its figures say that the stages work, nothing about the method."""
    recipe = mini(seed)
    looking = replace(recipe.pretraining.looking, updates=200, schedule=0, captions_first=100, warmup=20)
    explaining = replace(recipe.pretraining.explaining, updates=100, schedule=0, warmup=20)
    longer = replace(recipe.pretraining.looking_longer, updates=100, warmup=20)
    checking = replace(recipe.pretraining.checking, updates=100, warmup=20)
    return replace(
        recipe,
        name="smoke",
        problems=Problems(sft=1600, labels=32, dpo=64, test=64, held_out=16),
        pretraining=replace(
            recipe.pretraining,
            looking=looking,
            explaining=explaining,
            looking_longer=longer,
            policy_leaves=100,
            checking=checking,
            fine_tuned_on=400,
            mistaken_questions=16,
        ),
        sft=replace(recipe.sft, learning_rate=2e-3, batch_size=8, forward_rows=8),
        sampling=replace(recipe.sampling, n=4, max_tokens=192),
        labels=Labels(chains=1, rollouts=4, unseen_chains=16),
        prm=replace(recipe.prm, batch_size=16, epochs=1),
        # So few questions give few pairs: any difference in score will do.
        pairs=PairRule(threshold=0.0),
        outcome_pairs=PairRule(threshold=0.0),
        dpo=replace(recipe.dpo, batch_size=16),
        rounds=Rounds(rounds=1, outcome_rounds=1),
        pool_sizes=(1, 4),
        beams=(4,),
        wide_beam=2,
    )
