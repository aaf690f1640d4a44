"""verl's custom reward function: right answers, or path scores of a process reward model.

    custom_reward_function.path=.../chainofstep/plugins/verl.py
    +custom_reward_function.reward_kwargs.prm=MODEL@http://gpu9:8000/v1

verl decodes replies without special tokens, and the step tokens are special: train with a tokenizer that
`plugins.tokenizer.keep_step_tokens` wrote. It has no place for a reply that could not be scored; such a one counts
as its answer does, and in `unscored`.
"""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any

from chainofstep.answers import is_right
from chainofstep.plugins.rewarding import example_of, is_stripped, scorer_of
from chainofstep.records import Example
from chainofstep.scoring.path_score import STEP_WEIGHT
from chainofstep.scoring.rewards import rewards_of

REMEDY = "give verl a tokenizer made by chainofstep.plugins.tokenizer.keep_step_tokens (docs/sharing.md)"
log = logging.getLogger(__name__)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    prm: str = "",
    step_weight: float = STEP_WEIGHT,
    pictures: str = "",
    **others: Any,
) -> dict[str, float]:
    """The reward `score` of one reply, and what verl logs beside it: `acc`, `steps`, `unparseable`, `unscored`.

    `extra_info` is what `cos data export --format verl` wrote: question, pictures, kind of answer. `prm` is a folder
    or MODEL@URL; without it right answers are worth 1. `pictures` is the folder that picture paths count from.
    """
    example = _example(extra_info or {}, str(ground_truth), pictures)
    reward = rewards_of([example], [solution_str], scorer_of(prm), step_weight)[0]
    right = _rightness(example, reward.answer)
    if reward.steps is None:
        is_stripped(solution_str, REMEDY)
    if reward.score is None:
        log.warning("%s: not scored, counted as its answer: %s", example.id, reward.failure)
    return {
        "score": (0.0 if math.isnan(right) else right) if reward.score is None else reward.score,
        "acc": right,
        "steps": float(reward.steps or 0),
        "unparseable": float(reward.steps is None),
        "unscored": float(reward.score is None),
    }


async def compute_score_async(*args: Any, **kwargs: Any) -> dict[str, float]:
    """The same for verl's reward managers that await: replies are scored side by side in threads."""
    return await asyncio.to_thread(compute_score, *args, **kwargs)


def _example(extra: Mapping[str, Any], answer: str, pictures: str) -> Example:
    for key in ("question", "images"):
        if extra.get(key) is None:
            raise ValueError(f"extra_info has no {key!r}: write the rows by cos data export --format verl")
    return example_of(extra, str(extra["question"]), list(extra["images"]), answer, pictures)


def _rightness(example: Example, answer: str | None) -> float:
    """1 or 0; NaN where no gold answer is known."""
    return float(is_right(example, answer)) if example.answer else math.nan
