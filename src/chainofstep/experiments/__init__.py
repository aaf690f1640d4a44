"""The paper's experiments, and what it left open, on the small models and generated problems."""

from chainofstep.experiments import catalogue, open_questions
from chainofstep.experiments.experiment import Experiment

#: By name, the paper's tables and figures first.
EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in (*catalogue.EXPERIMENTS, *open_questions.EXPERIMENTS)}
