"""What a recipe needs before it is run: memory of each GPU, tokens, operations, hours, disk."""

from chainofstep.planning.plans import Plan, StagePlan, plan, plan_recipe
from chainofstep.planning.printed import print_plan

__all__ = ["Plan", "StagePlan", "plan", "plan_recipe", "print_plan"]
