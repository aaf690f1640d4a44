"""Planning what the engine samples: which prefixes are computed, and which rows hang on each.

A trunk is a longest prefix. A prefix that is the beginning of another one of the same pictures needs no computation
of its own: its rows see only the beginning of that trunk. So all step prefixes of a chain cost one prefill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chainofstep.models.encode import Prompt, encode_prompt, encode_text, picture_key
from chainofstep.models.sampling import ControlTokens, Settings, control_tokens
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Request

PromptKey = tuple[str, tuple[str, ...]]  # question and pictures


@dataclass(frozen=True)
class Row:
    """One sample to make. The last token of its prefix is not in the trunk: feeding it is its first decode step."""

    request: int  # which of the call's requests
    index: int  # which of the request's samples
    seed: int
    last: int  # the last token of its prefix
    seen: int  # how many of its trunk's tokens come before that one
    max_tokens: int


@dataclass(frozen=True)
class Trunk:
    """Token ids to compute once, for all of its rows."""

    ids: tuple[int, ...]
    prompt: PromptKey
    settings: Settings
    rows: tuple[Row, ...]

    @property
    def cost(self) -> int:
        """Key-value positions that it and its rows may come to hold."""
        return len(self.ids) + sum(row.max_tokens + 1 for row in self.rows)


@dataclass(frozen=True)
class Plan:
    """All trunks of a call, the encoded prompts they begin with, and the tokenizer's control tokens."""

    trunks: list[Trunk]
    prompts: dict[PromptKey, Prompt]
    control: ControlTokens


def prompt_key(example: Example) -> PromptKey:
    return example.question, picture_key(example)


def plan(vlm: VLM, requests: Sequence[Request], token_budget: int) -> Plan:
    """Check and encode all requests. ValueError names the first bad one; nothing has been sampled then."""
    prompts: dict[PromptKey, Prompt] = {}
    rows: dict[tuple[PromptKey, Settings], dict[tuple[int, ...], list[Row]]] = {}
    control = control_tokens(vlm)
    for number, request in enumerate(requests):
        try:
            key, settings, ids = _encoded(vlm, request, prompts, control)
        except ValueError as error:
            raise ValueError(f"request {number} (example {request.example.id!r}): {error}") from error
        wanted = (Row(number, i, request.seed, ids[-1], len(ids) - 1, request.max_tokens) for i in range(request.n))
        rows.setdefault((key, settings), {}).setdefault(ids, []).extend(wanted)
    trunks = [trunk for (key, settings), prefixes in rows.items() for trunk in _trunks(key, settings, prefixes)]
    whole = [piece for trunk in trunks for piece in _pieces(trunk, token_budget)]
    # Like lies by like: trunks side by side are padded to one length and to one number of rows.
    whole.sort(key=lambda trunk: (trunk.settings, -len(trunk.rows), -len(trunk.ids)))
    return Plan(whole, prompts, control)


def _encoded(
    vlm: VLM, request: Request, prompts: dict[PromptKey, Prompt], control: ControlTokens
) -> tuple[PromptKey, Settings, tuple[int, ...]]:
    _check_numbers(request)
    settings = Settings(request.temperature, request.top_p, request.top_k, request.stop)
    control.endings(request.stop)
    key = prompt_key(request.example)
    if key not in prompts:
        prompts[key] = encode_prompt(vlm, request.example)
    ids = (*prompts[key].ids.tolist(), *_prefix_ids(vlm, request.prefix, control))
    if ids[-1] == vlm.model.config.image_token_id:
        raise ValueError("the prompt ends with a picture; use a chat template that opens the assistant's turn")
    limit = vlm.model.config.get_text_config().max_position_embeddings
    if len(ids) + request.max_tokens > limit:
        raise ValueError(
            f"{len(ids)} prefix tokens and max_tokens={request.max_tokens} exceed the model's context of {limit};"
            " shorten the prefix or ask for fewer tokens"
        )
    return key, settings, ids


def _check_numbers(request: Request) -> None:
    """ValueError for numbers that mean nothing."""
    if request.n <= 0:
        raise ValueError(f"n={request.n}: ask for at least one sample")
    if request.max_tokens <= 0:
        raise ValueError(f"max_tokens={request.max_tokens}: ask for at least one token")
    if not 0 <= request.temperature < float("inf"):
        raise ValueError(f"temperature={request.temperature}: give 0 (greedy) or more")
    if not 0 < request.top_p <= 1:
        raise ValueError(f"top_p={request.top_p}: give a number above 0, up to 1")
    if request.top_k < 0:
        raise ValueError(f"top_k={request.top_k}: give 0 (no limit) or more")


def _prefix_ids(vlm: VLM, prefix: str, control: ControlTokens) -> list[int]:
    """Ids of the assistant's text so far; ValueError for control tokens that are unknown or cannot stand there."""
    for token in control.unknown:
        if token in prefix:
            raise ValueError(f"the prefix holds {token!r}, unknown to the tokenizer: add the step tokens first")
    ids = encode_text(vlm, prefix)
    for token_id in sorted(set(ids).intersection(control.forbidden)):
        name = vlm.tokenizer.convert_ids_to_tokens(token_id)
        raise ValueError(f"the prefix holds the control token {name!r}, which no answer contains; take it out")
    return ids


def _trunks(key: PromptKey, settings: Settings, prefixes: dict[tuple[int, ...], list[Row]]) -> list[Trunk]:
    """One trunk for each prefix that is not the beginning of another."""
    groups: list[tuple[tuple[int, ...], list[Row]]] = []
    # Sorted, a prefix stands right before those that begin with it; from the end, the longest comes first.
    for ids in sorted(prefixes, reverse=True):
        if groups and groups[-1][0][: len(ids)] == ids:
            groups[-1][1].extend(prefixes[ids])
        else:
            groups.append((ids, list(prefixes[ids])))
    return [Trunk(ids[:-1], key, settings, tuple(rows)) for ids, rows in groups]


def _pieces(trunk: Trunk, token_budget: int) -> list[Trunk]:
    """The trunk, or several with the same ids where its rows would not fit the budget together."""
    most = max(row.max_tokens + 1 for row in trunk.rows)
    count = max(1, (token_budget - len(trunk.ids)) // most)
    starts = range(0, len(trunk.rows), count)
    return [Trunk(trunk.ids, trunk.prompt, trunk.settings, trunk.rows[start : start + count]) for start in starts]


def next_cohort(pending: list[Trunk], free: int) -> list[Trunk]:
    """Take from the front of `pending` what fits into `free` positions and is alike; perhaps nothing."""
    taken: list[Trunk] = []
    for trunk in pending:
        free -= trunk.cost if not taken else trunk.cost + len(taken[0].ids) - len(trunk.ids)
        alike = not taken or (trunk.settings == taken[0].settings and 2 * len(trunk.rows) >= len(taken[0].rows))
        if free < 0 or not alike:
            break
        taken.append(trunk)
    del pending[: len(taken)]
    return taken
