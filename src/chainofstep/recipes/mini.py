"""The whole loop on a small VLM and generated problems, on a laptop without a GPU."""

from dataclasses import replace

from chainofstep.pipeline.recipe import Labels, Problems, Recipe, Rounds
from chainofstep.scoring.pairs import PairRule


def mini(seed: int) -> Recipe:
    """Minutes on two CPU cores; the defaults of every dataclass below `Recipe` are its settings."""
    return Recipe("mini", seed)


def smoke(seed: int) -> Recipe:
    """Every stage of `mini` in about two minutes. Its figures say that the stages work, nothing about the method."""
    recipe = mini(seed)
    looking = replace(recipe.pretraining.looking, updates=200, captions_first=100, warmup=20)
    explaining = replace(recipe.pretraining.explaining, updates=100, warmup=20)
    checking = replace(recipe.pretraining.checking, updates=100, warmup=20)
    return replace(
        recipe,
        name="smoke",
        problems=Problems(sft=1600, labels=32, dpo=64, test=64, held_out=16),
        pretraining=replace(recipe.pretraining, looking=looking, explaining=explaining, checking=checking),
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
