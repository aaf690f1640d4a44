"""Recipes by name: functions from a seed to a `Recipe`."""

from collections.abc import Callable

from chainofstep.pipeline.recipe import Recipe
from chainofstep.recipes import paper
from chainofstep.recipes.mini import mini, smoke, suite

RECIPES: dict[str, Callable[[int], Recipe]] = {
    "mini": mini,
    "smoke": smoke,
    "paper": suite,
    "internvl2_5_8b": paper.internvl2_5_8b,
    "internvl2_5_8b_script": paper.internvl2_5_8b_script,
    "internvl2_5_8b_grpo": paper.internvl2_5_8b_grpo,
    "prm_38b": paper.prm_38b,
    "llava_next_8b": paper.llava_next_8b,
    "qwen3_vl_2b_24gb": paper.qwen3_vl_2b_24gb,
    "qwen3_vl_8b_80gb": paper.qwen3_vl_8b_80gb,
    "qwen2_5_vl_72b": paper.qwen2_5_vl_72b,
}
