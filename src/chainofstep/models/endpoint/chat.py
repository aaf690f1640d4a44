"""Requests to a server as JSON, and what comes back as rollouts.

The prompt is the same as in this process (`models.encode`): pictures, the question with control-token look-alikes
defused, then the assistant's text so far, which the server goes on with.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from chainofstep.chain import ANSWER_END, STEP_END
from chainofstep.llm.request import data_url, picture_hash
from chainofstep.models.endpoint.dialects import Body, Dialect
from chainofstep.models.endpoint.tokens import Tokens
from chainofstep.records import Ending, Example, Request, Rollout

NEVER = -100.0  # the lowest bias that servers take
PICTURES_KEPT = 64  # data URLs that are not made again
#: Servers take what a request leaves out from the model's generation_config.json, which may repeat less than it likes.
NEUTRAL = {"repetition_penalty": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def prompt_key(example: Example) -> bytes:
    """What requests with the same beginning share: the question and the pictures."""
    return "\x1f".join((example.question, *map(os.path.abspath, example.images))).encode("utf-8")


def chat(model: str, dialect: Dialect, tokens: Tokens, example: Example, text: str) -> Body:
    """The fields of a chat that stands at the end of the assistant's `text`; "" where nothing is said yet.

    `UnreadablePicture` (a ValueError) for a picture that cannot be sent.
    """
    parts = [picture_part(path, dialect) for path in example.images]
    question = example.question if dialect.own else tokens.question(example.question)
    parts.append({"type": "text", "text": question})
    messages: list[Body] = [{"role": "user", "content": parts}]
    if not text:
        return {"model": model, "messages": messages}
    return {"model": model, "messages": [*messages, {"role": "assistant", "content": text}], **dialect.go_on}


def picture_part(path: str, dialect: Dialect) -> Body:
    """A picture as a part of a message."""
    digest = picture_hash(path)
    part: Body = {"type": "image_url", "image_url": {"url": _kept_url(path, digest)}}
    return part | {"uuid": digest} if dialect.picture_ids else part


@lru_cache(maxsize=PICTURES_KEPT)
def _kept_url(path: str, digest: str) -> str:
    """`digest` tells a file that was replaced."""
    return data_url(path)


def sampling(request: Request, dialect: Dialect, tokens: Tokens, place: int, count: int, logprobs: bool) -> Body:
    """The fields that say how samples `place` .. `place + count - 1` of a request are drawn."""
    if dialect.own:
        return {
            "n": count,
            "seed": request.seed,
            "first": request.first + place,
            **{name: getattr(request, name) for name in ("temperature", "top_p", "top_k", "max_tokens")},
            "stop": [STEP_END] if request.stop == "step" else [],
            "logprobs": logprobs,
            **dialect.verbatim,
        }
    return {
        "n": count,
        "seed": sample_seed(request.seed, request.first + place),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or dialect.no_top_k,
        "max_tokens": request.max_tokens,
        "stop_token_ids": tokens.endings(request.stop),
        "logit_bias": {str(number): NEVER for number in tokens.forbidden},
        "logprobs": logprobs,
        **NEUTRAL,
        **dialect.verbatim,
    }


def sample_seed(seed: int, index: int) -> int:
    """What a server is given for a sample: a number of 48 bits that depends on the seed, plus the sample's index.

    vLLM gives sample i of one request seed + i, so a request of many samples and as many requests of one agree.
    """
    return int.from_bytes(hashlib.sha256(f"chainofstep {seed}".encode()).digest()[:6]) + index


def read_rollout(choice: Mapping[str, Any], request: Request, index: int, tokens: Tokens) -> Rollout:
    """One choice of a completion; ValueError says why it is no sample."""
    ids, finish = choice.get("token_ids"), choice.get("finish_reason")
    text = str((choice.get("message") or {}).get("content") or "")
    if finish not in ("stop", "length"):
        raise ValueError(f"it ended with finish_reason {finish!r}, which is neither stop nor length")
    if not ids:
        raise ValueError("the server returns no token ids: it must know return_token_ids (vLLM 0.33, SGLang)")
    for number in ids:
        if number in tokens.forbidden:
            raise ValueError(f"the server sampled the control token {tokens.forbidden[number]!r}, which was ruled out")
    _check_text(text, ids, tokens)
    ending, name = _ending(ids[-1], finish, request, tokens), tokens.names.get(ids[-1], "")
    if name in tokens.ends:  # the end of a turn is no part of the text
        text = text.removesuffix(name)
    logprobs = _logprobs(choice, len(ids))
    return Rollout(request.example.id, request.prefix + text, tuple(ids), ending, request.seed, index, logprobs)


def _ending(last: int, finish: str, request: Request, tokens: Tokens) -> Ending:
    if last == tokens.ids[ANSWER_END] or tokens.names.get(last) in tokens.ends:
        return "answer"
    if request.stop == "step" and last == tokens.ids[STEP_END]:
        return "step"
    if finish == "stop":
        raise ValueError(f"the server stopped at token {last}, whose text is not known: name the tokenizer's folder")
    return "length"


def _check_text(text: str, ids: Sequence[int], tokens: Tokens) -> None:
    """ValueError if control tokens were sampled that the text does not show; the end of a turn is no part of it."""
    for name in {tokens.names[number] for number in ids if number in tokens.names} - tokens.ends:
        if text.count(name) < ids.count(tokens.ids[name]):
            raise ValueError(f"the server leaves {name!r} out of the text though it was sampled")


def _logprobs(choice: Mapping[str, Any], count: int) -> tuple[float, ...] | None:
    content = (choice.get("logprobs") or {}).get("content")
    if content is None:
        return None
    if len(content) != count:
        raise ValueError(f"{len(content)} log-probabilities for {count} tokens")
    return tuple(float(token["logprob"]) for token in content)
