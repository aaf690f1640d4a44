"""What each `cos` command does, as a function to import.

Problems, pairs and reports need no weights, so what needs torch is imported where it is used: a light
install can do the rest, and `cos` answers fast.
"""

from chainofstep.verbs.answer import Evaluation, ask, evaluate, run_models
from chainofstep.verbs.data import Paired, annotate, pairs, sample
from chainofstep.verbs.run import make_mini_base, problems, report, run_recipe
from chainofstep.verbs.train import Trained, train_dpo, train_prm, train_sft

__all__ = [
    "Evaluation",
    "Paired",
    "Trained",
    "annotate",
    "ask",
    "evaluate",
    "make_mini_base",
    "pairs",
    "problems",
    "report",
    "run_models",
    "run_recipe",
    "sample",
    "train_dpo",
    "train_prm",
    "train_sft",
]
