"""Reward classes for ms-swift, to be registered in the file that `--external_plugins` names:

from swift.rewards import orms, prms          # swift.plugin before 4.0
from chainofstep.plugins.ms_swift import step_prm, step_reward

orms["chain_of_step"] = step_reward("MODEL@http://gpu9:8000/v1")
prms["chain_of_step"] = step_prm("MODEL@http://gpu9:8000/v1")
"""

from collections.abc import Mapping, Sequence
from typing import Any

from chainofstep.plugins.rewarding import example_of, is_stripped, scorer_of
from chainofstep.problems.formats.base import unmarked
from chainofstep.problems.formats.chats import MS_SWIFT
from chainofstep.records import Example
from chainofstep.scoring.path_score import STEP_WEIGHT
from chainofstep.scoring.rewards import Replies, Reward, rewards_of

REMEDY = "let ms-swift decode with special tokens, or use chainofstep.plugins.tokenizer.keep_step_tokens"


def step_reward(prm: str = "", step_weight: float = STEP_WEIGHT, pictures: str = "") -> type:
    """An ORM for GRPO: path scores of the PRM in a folder or at MODEL@URL; "" rewards right answers alone.

    `pictures` is the folder that relative picture paths count from.
    """

    class StepReward:
        """ms-swift calls it with the replies and, by name, the columns of their rows."""

        def __init__(self, args: Any = None, tokenizer: Any = None, **kwargs: Any):
            self.args, self.replies = args, None if tokenizer is None else Replies(tokenizer)

        def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
            """A reward for each reply; None, which ms-swift leaves out, where the scorer failed or tokens are gone."""
            rows = [_row(columns, place, len(completions)) for place in range(len(completions))]
            examples = [_example(row, _needed(row, "solution"), pictures) for row in rows]
            texts = [_text(reply, self.replies) for reply in completions]
            return [
                _kept(text, reward).score
                for text, reward in zip(texts, rewards_of(examples, texts, scorer_of(prm), step_weight), strict=True)
            ]

    return StepReward


def step_prm(prm: str, step_weight: float = STEP_WEIGHT, pictures: str = "") -> type:
    """A PRM for `swift sample`: path scores of replies, by the PRM in a folder or at MODEL@URL."""

    class StepPrm:
        def __call__(self, infer_requests: Sequence[Any], ground_truths: Sequence[str], **kwargs: Any) -> list[float]:
            """A score for each request, whose last message is the reply; ValueError where the scorer failed."""
            rows = [_fields(request) for request in infer_requests]
            examples = [_example(row, gold, pictures) for row, gold in zip(rows, ground_truths, strict=True)]
            texts = [str(row["messages"][-1]["content"]) for row in rows]
            rewards = rewards_of(examples, texts, scorer_of(prm), step_weight)
            return [_scored(_kept(text, reward)) for text, reward in zip(texts, rewards, strict=True)]

    return StepPrm


def _kept(text: str, reward: Reward) -> Reward:
    """The reward, but none for a text whose step tokens are gone."""
    if reward.steps is None and is_stripped(text, REMEDY):
        return Reward(None, None, failure=f"no step token in the reply: {REMEDY}")
    return reward


def _scored(reward: Reward) -> float:
    if reward.score is None:
        raise ValueError(f"a reply could not be scored ({reward.failure}); swift sample cannot leave one out")
    return reward.score


def _row(columns: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """One row of columns; what is no list of that many rows (the trainer's state) is no column."""
    return {
        name: values[place] for name, values in columns.items() if isinstance(values, list) and len(values) == count
    }


def _fields(request: Any) -> dict[str, Any]:
    """A request as a dict: ms-swift sends both those and objects."""
    found = request if isinstance(request, Mapping) else vars(request)
    return {name: value for name, value in found.items() if value is not None}


def _needed(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise ValueError(f"the rows have no column {name!r}: write them by cos data export --format ms-swift-prompts")
    return str(row[name])


def _example(row: Mapping[str, Any], answer: str, pictures: str) -> Example:
    asked = [turn for turn in row.get("messages") or [] if turn["role"] == "user"]
    if not asked or not isinstance(asked[-1]["content"], str):
        raise ValueError("a row's messages have no question of text; give ms-swift rows with one turn of the user")
    images = row.get("images") or []
    if asked[-1]["content"].count(MS_SWIFT.mark) > len(images):
        raise ValueError("a question has more picture marks than pictures came with it; the PRM would not see them")
    question = unmarked(asked[-1]["content"], images, MS_SWIFT.mark)
    return example_of(row, question, images, answer, pictures)


def _text(reply: Any, replies: Replies | None) -> str:
    """A reply's text; ms-swift hands on text, or token ids where it keeps those."""
    ids: Any = reply["token_ids"] if isinstance(reply, Mapping) else reply
    if isinstance(ids, str):
        return ids
    if replies is None:
        raise ValueError("a reply came as token ids without a tokenizer; let ms-swift hand on text")
    return replies.text(ids)
