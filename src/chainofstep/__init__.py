"""Chain-of-step reasoning for vision-language models: step data, training, step scores, search."""

from chainofstep.chain import Chain, Step, StepStream, parse, parse_prefix, render
from chainofstep.records import (
    Example,
    Pair,
    Reject,
    Request,
    Rollout,
    Sampler,
    SamplingErrors,
    ScoreFailure,
    StepRow,
    StepScorer,
    StepScores,
)

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "Example",
    "Pair",
    "Reject",
    "Request",
    "Rollout",
    "Sampler",
    "SamplingErrors",
    "ScoreFailure",
    "Step",
    "StepRow",
    "StepScorer",
    "StepScores",
    "StepStream",
    "__version__",
    "parse",
    "parse_prefix",
    "render",
]
