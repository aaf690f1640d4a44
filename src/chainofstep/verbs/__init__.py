"""What each `cos` command does, as a function to import.

Problems, pairs and reports need no weights, so what needs torch is imported where it is used: a light
install can do the rest, and `cos` answers fast.
"""

from chainofstep.verbs.answer import asking, run_models
from chainofstep.verbs.build import EndpointSettings, build, build_config, judge_endpoints
from chainofstep.verbs.compare import compare
from chainofstep.verbs.corpus import card, check_rows, export_rows, import_rows, mix, split, stats
from chainofstep.verbs.data import Paired, annotate, pairs, sample
from chainofstep.verbs.evaluate import evaluate
from chainofstep.verbs.experiments import experiment_titles, run_experiments
from chainofstep.verbs.judge import judge, merge_scores
from chainofstep.verbs.prm_eval import eval_prm
from chainofstep.verbs.reading import extractor
from chainofstep.verbs.regrade import regrade
from chainofstep.verbs.run import make_mini_base, problems, recipe_lines, recipes, report, run_recipe
from chainofstep.verbs.train import Trained, convert, push, train_dpo, train_grpo, train_prm, train_sft

__all__ = [
    "EndpointSettings",
    "Paired",
    "Trained",
    "annotate",
    "asking",
    "build",
    "build_config",
    "card",
    "check_rows",
    "compare",
    "convert",
    "eval_prm",
    "evaluate",
    "experiment_titles",
    "export_rows",
    "extractor",
    "import_rows",
    "judge",
    "judge_endpoints",
    "make_mini_base",
    "merge_scores",
    "mix",
    "pairs",
    "problems",
    "push",
    "recipe_lines",
    "recipes",
    "regrade",
    "report",
    "run_experiments",
    "run_models",
    "run_recipe",
    "sample",
    "split",
    "stats",
    "train_dpo",
    "train_grpo",
    "train_prm",
    "train_sft",
]
