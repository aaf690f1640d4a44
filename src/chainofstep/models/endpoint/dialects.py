"""What vLLM, SGLang and `cos serve` call things: the one place that knows in which of them a server differs.

Of the first two read in their sources (autumn 2026): vLLM's `entrypoints/openai/chat_completion/protocol.py` and
`v1/engine/parallel_sampling.py`, SGLang's `srt/entrypoints/openai/protocol.py` and `serving_chat.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """How one kind of server is asked to go on from a text, and where it puts what it says."""

    name: str
    #: Go on with the last message, the assistant's, instead of beginning a new one.
    go_on: Mapping[str, Any]
    #: Return all that was sampled, as it was: control tokens, the token that ended it, ids.
    verbatim: Mapping[str, Any]
    no_top_k: int  # what says that top_k is off
    #: Sample i of a request with `n` and a seed is what a request of its own with seed + i gives. Where it is not, each
    #: sample is a request of its own.
    samples_by_seed: bool
    picture_ids: bool  # pictures may carry a `uuid`, by which the server knows them again without hashing them
    #: Log-probabilities of ids that are named, whatever their rank.
    named_logprobs: bool
    tokenizes_lists: bool  # /tokenize takes several texts; where it does not, it can say what text each token is
    pools: bool = False  # serves /pooling and /classify for chats with pictures
    own: bool = False  # `cos serve`: takes questions and seeds as they are, and scores whole chains by /v1/score


VLLM = Dialect(
    "vllm",
    go_on={"continue_final_message": True, "add_generation_prompt": False},  # both true is refused
    verbatim={
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
    },
    no_top_k=0,
    samples_by_seed=True,
    picture_ids=True,
    named_logprobs=True,
    tokenizes_lists=False,
    pools=True,
)
SGLANG = Dialect(
    "sglang",
    go_on={"continue_final_message": True},
    verbatim={
        "no_stop_trim": True,
        "skip_special_tokens": False,
        "chat_template_kwargs": {"spaces_between_special_tokens": False},  # it is read from there
        "return_token_ids": True,
        "return_prompt_token_ids": True,
        "separate_reasoning": False,
    },
    no_top_k=-1,
    samples_by_seed=False,
    picture_ids=False,
    named_logprobs=False,
    tokenizes_lists=True,
)
OWN = Dialect(
    "chainofstep",
    go_on={"continue_final_message": True},
    verbatim={"skip_special_tokens": False, "return_token_ids": True, "scores": False},
    no_top_k=0,
    samples_by_seed=True,
    picture_ids=False,
    named_logprobs=False,
    tokenizes_lists=False,
    own=True,
)
DIALECTS = {dialect.name: dialect for dialect in (VLLM, SGLANG, OWN)}


def named(name: str) -> Dialect:
    """The dialect of this name; ValueError for another."""
    if name not in DIALECTS:
        raise ValueError(f"no dialect {name!r}: give one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def dialect_of(model: Mapping[str, Any]) -> Dialect | None:
    """The dialect of a server by an entry of its /v1/models, which names the kind of server as the owner."""
    return DIALECTS.get(str(model.get("owned_by", "")).lower())


def prompt_ids(completion: Mapping[str, Any]) -> list[int] | None:
    """The ids of the prompt, from the body of a chat completion; None where the server does not give them."""
    choices = completion.get("choices") or [{}]
    found = completion.get("prompt_token_ids") or choices[0].get("prompt_token_ids")
    return list(found) if found else None


def names_asked(dialect: Dialect, names: Sequence[str]) -> Body:
    """What /tokenize is asked for the ids of those names that are single tokens."""
    if dialect.tokenizes_lists:
        return {"prompt": list(names), "add_special_tokens": False}
    return {"prompt": "\n".join(names), "add_special_tokens": False, "return_token_strs": True}


def ids_told(dialect: Dialect, names: Sequence[str], answer: Mapping[str, Any]) -> dict[str, int]:
    """The ids of those names that are single tokens, from the answer to `names_asked`."""
    if dialect.tokenizes_lists:
        return {name: ids[0] for name, ids in zip(names, answer["tokens"], strict=True) if len(ids) == 1}
    told = dict(zip(answer.get("token_strs") or [], answer["tokens"], strict=False))
    return {name: told[name] for name in names if name in told}
