"""A number for a sampled text: the reward of reinforcement learning (paper A7), whoever trains.

A chain is worth its path score. A text that is no chain is worth 0 and counted; where the scorer failed there is no
reward at all, which is not 0.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainofstep.chain import ALL_TOKENS, REASONING_TOKENS
from chainofstep.records import Example, Rollout, ScoreFailure, StepScorer
from chainofstep.scoring.path_score import STEP_WEIGHT, path_score, score_pools

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reward:
    """What a text is worth, and what is counted of it."""

    score: float | None  # in [0, 1]; None: the scorer failed
    steps: int | None  # None: the text is no chain
    answer: str | None = None
    failure: str = ""  # why the scorer failed


def rewards_of(
    examples: Sequence[Example], texts: Sequence[str], scorer: StepScorer, step_weight: float = STEP_WEIGHT
) -> list[Reward]:
    """The reward of each text for the example at its place; equal chains of one example are scored once."""
    pools = [[Rollout(e.id, text, (), "answer", seed=0)] for e, text in zip(examples, texts, strict=True)]
    found = []
    for pool, scores in zip(pools, score_pools(examples, pools, scorer), strict=True):
        chain, scored = pool[0].chain, scores[0]
        if chain is None:
            found.append(Reward(0.0, None))
        elif isinstance(scored, ScoreFailure):
            found.append(Reward(None, len(chain.steps), chain.answer, scored.reason))
        else:
            found.append(Reward(path_score(scored, step_weight), len(chain.steps), chain.answer))
    return found


class Replies:
    """Texts of a tokenizer's completions with their step tokens, up to the end of the turn.

    Trainers decode without special tokens, and the step tokens are special. What ends a turn differs by family: any
    other special token does here, as none belongs into a chain.
    """

    def __init__(self, tokenizer: Any):
        added = tokenizer.added_tokens_decoder.items()
        ends = {place for place, token in added if token.special and token.content not in ALL_TOKENS}
        self.tokenizer, self.ends = tokenizer, ends | {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def text(self, ids: Sequence[int]) -> str:
        """The text of one completion."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(ids[:end]), **options))


def has_no_step_token(text: str) -> bool:
    """Whether a text holds none of the step tokens: nearly always because a decoder has left them out."""
    return not any(token in text for token in REASONING_TOKENS)


class StepReward:
    """A reward function for TRL's GRPOTrainer and RLOOTrainer: `reward_funcs=StepReward(examples, tokenizer, scorer)`.

    The data set's column `id` names the example. Logs the share of texts that are no chain, the mean number of steps,
    and the share that the scorer failed on, which TRL leaves out of the group's mean.
    """

    __name__ = "step_reward"  # what TRL calls it in its logs

    def __init__(
        self, examples: Sequence[Example], tokenizer: Any, scorer: StepScorer, step_weight: float = STEP_WEIGHT
    ):
        self.examples = {example.id: example for example in examples}
        if len(self.examples) != len(examples):
            raise ValueError(f"{len(examples)} examples have {len(self.examples)} ids; give each an id of its own")
        self.replies, self.scorer, self.step_weight = Replies(tokenizer), scorer, step_weight

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        id: Sequence[str],
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward for each completion, None where the scorer failed; read from `completion_ids` alone."""
        texts = [self.replies.text(ids) for ids in completion_ids]
        rewards = rewards_of([self.examples[name] for name in id], texts, self.scorer, self.step_weight)
        for reward in rewards:  # each by itself: TRL takes the mean over all processes' values
            log_metric("unparseable", float(reward.steps is None))
            log_metric("unscored", float(reward.score is None))
            if reward.steps is not None:
                log_metric("steps", reward.steps)
        if all(reward.steps is None for reward in rewards):
            log.warning(
                "none of %d replies is a chain, such as %r: nothing is learnt from them", len(texts), texts[0][:80]
            )
        failures = [reward.failure for reward in rewards if reward.score is None]
        if failures:
            log.warning(
                "%d of %d chains have no reward, the first because: %s", len(failures), len(rewards), failures[0]
            )
        return [reward.score for reward in rewards]
