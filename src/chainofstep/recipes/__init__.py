"""Recipes by name: functions from a seed to a `Recipe`."""

from collections.abc import Callable

from chainofstep.pipeline.recipe import Recipe
from chainofstep.recipes.mini import mini, smoke

RECIPES: dict[str, Callable[[int], Recipe]] = {"mini": mini, "smoke": smoke}
