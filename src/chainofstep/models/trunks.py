"""Planning what the engine samples: which texts are computed, and which rows hang on each.

A trunk is a longest text after a question. A text that is the beginning of another one of the same question needs no
computation of its own: its rows see only the beginning of that trunk. So all step prefixes of a chain cost one pass.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from chainofstep.models.batch import PromptCache
from chainofstep.models.encode import PromptKey, encode_text, prompt_key
from chainofstep.models.packing import Ids, common
from chainofstep.models.sampling import ControlTokens, Settings
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Request

SMALL = 8  # small is one part in so many
LIKELY = 128  # tokens for which a row has room when it is admitted


@dataclass(frozen=True)
class Row:
    """One sample to make. The last token of its prefix is not computed with it: feeding it is its first decode step."""

    request: int  # which of the call's requests
    index: int  # which sample of its seed's stream
    seed: int
    last: int  # the last token of its prefix
    asked: int  # how many tokens of its question come before that one
    seen: int  # how many of its trunk's tokens come before that one
    max_tokens: int

    @property
    def cost(self) -> int:
        """Key-value positions that it may come to hold."""
        return self.max_tokens + 1

    @property
    def likely(self) -> int:
        """Positions to reserve for it: few rows are as long as they may be, and one that needs more can wait."""
        return min(self.max_tokens, LIKELY) + 1


@dataclass(frozen=True)
class Trunk:
    """Ids of text after a question (none: the question itself) to compute once, for all of its rows."""

    key: PromptKey
    ids: Ids
    settings: Settings
    rows: tuple[Row, ...]

    @property
    def likely(self) -> int:
        """Key-value positions to reserve for it and its rows, without its question's."""
        return len(self.ids) + sum(row.likely for row in self.rows)


@dataclass
class Plan:
    """All trunks of a call, its prompts by key, its tokenizer's control tokens, and why requests cannot be met."""

    trunks: list[Trunk]
    prompts: dict[PromptKey, Ids]
    examples: dict[PromptKey, Example]
    control: ControlTokens
    failures: dict[int, str] = field(default_factory=dict)


def plan(vlm: VLM, requests: Sequence[Request], prompts: PromptCache, control: ControlTokens, first: int = 0) -> Plan:
    """Check and encode all requests, numbered from `first`; one that cannot be met is in `failures` and has no rows."""
    planned = Plan([], {}, {}, control)
    rows: dict[tuple[PromptKey, Settings], dict[Ids, list[Row]]] = {}
    for number, request in enumerate(requests, start=first):
        try:
            key, settings, ids = _encoded(vlm, request, planned, prompts)
        except (ValueError, TypeError) as error:  # a tokenizer's TypeError: text that is no text, half a surrogate
            planned.failures[number] = str(error)
            continue
        asked = len(planned.prompts[key]) - (not ids)
        last = ids[-1] if ids else planned.prompts[key][-1]
        sample = Row(number, 0, request.seed, last, asked, max(0, len(ids) - 1), request.max_tokens)
        wanted = (replace(sample, index=request.first + i) for i in range(request.n))
        rows.setdefault((key, settings), {}).setdefault(ids[:-1], []).extend(wanted)
    planned.trunks = [trunk for (key, settings), texts in rows.items() for trunk in _trunks(key, settings, texts)]
    # Like lies by like: what is side by side is padded to one length and to one number of rows.
    asked_of = Counter(trunk.key for trunk in planned.trunks for _ in trunk.rows)
    order = {key: i for i, key in enumerate(planned.prompts)}
    planned.trunks.sort(
        key=lambda t: (t.settings, bool(t.ids), -asked_of[t.key], order[t.key], -len(t.rows), -len(t.ids))
    )
    return planned


def _encoded(vlm: VLM, request: Request, planned: Plan, prompts: PromptCache) -> tuple[PromptKey, Settings, Ids]:
    """The question's key, how tokens are chosen, and the ids of the text after the question."""
    _check_numbers(request)
    settings = Settings(request.temperature, request.top_p, request.top_k, request.stop)
    planned.control.endings(request.stop)
    key = prompt_key(request.example)
    if key not in planned.prompts:
        planned.prompts[key] = tuple(prompts.prompt_ids(request.example).tolist())
        planned.examples[key] = request.example
    prompt, ids = planned.prompts[key], _prefix_ids(vlm, request.prefix, planned.control)
    if not prompt or prompt[-1] == vlm.model.config.image_token_id:
        raise ValueError("the prompt ends with a picture; use a chat template that opens the assistant's turn")
    limit = vlm.model.config.get_text_config().max_position_embeddings
    length = len(prompt) + len(ids)
    if length + request.max_tokens > limit:
        raise ValueError(
            f"{length} prefix tokens and max_tokens={request.max_tokens} exceed the model's context of {limit};"
            " shorten the prefix or ask for fewer tokens"
        )
    return key, settings, tuple(ids)


def _check_numbers(request: Request) -> None:
    """ValueError for numbers that mean nothing."""
    if request.n <= 0:
        raise ValueError(f"n={request.n}: ask for at least one sample")
    if request.first < 0:
        raise ValueError(f"first={request.first}: samples are counted from 0")
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


def _trunks(key: PromptKey, settings: Settings, texts: dict[Ids, list[Row]]) -> list[Trunk]:
    """One trunk for each text that is not the beginning of another; a bare question is a trunk of its own."""
    groups: list[tuple[Ids, list[Row]]] = []
    # Sorted, a text stands right before those that begin with it; from the end, the longest comes first.
    for ids in sorted(texts, reverse=True):
        if ids and groups and common(groups[-1][0], ids) == len(ids):
            groups[-1][1].extend(texts[ids])
        else:
            groups.append((ids, list(texts[ids])))
    return [Trunk(key, ids, settings, tuple(rows)) for ids, rows in groups]


def pieces(trunk: Trunk, question: int, budget: int, most_rows: int) -> list[Trunk]:
    """The trunk, or several with the same ids where its rows are too many for the budget, its question included."""
    most = max(row.cost for row in trunk.rows)
    count = max(1, min(most_rows, (budget - question - len(trunk.ids)) // most))
    starts = range(0, len(trunk.rows), count)
    return [replace(trunk, rows=trunk.rows[start : start + count]) for start in starts]


def next_cohort(pending: list[Trunk], lengths: dict[PromptKey, int], free: int, most_rows: int) -> list[Trunk]:
    """Take from the front of `pending` what fits into `free` positions and `most_rows`, and is alike; perhaps nothing.

    `lengths` holds the lengths of questions; those of a cohort are padded to the longest.
    """
    taken: list[Trunk] = []
    questions: set[PromptKey] = set()
    longest = 0
    for trunk in pending:
        longest = max(longest, lengths[trunk.key])
        free -= trunk.likely + (0 if trunk.key in questions else longest)
        most_rows -= len(trunk.rows)
        questions.add(trunk.key)
        alike = not taken or (trunk.settings, bool(trunk.ids)) == (taken[0].settings, bool(taken[0].ids))
        if free < 0 or most_rows < 0 or not alike:
            break
        taken.append(trunk)
    del pending[: len(taken)]
    return taken


def is_small(trunks: Sequence[Trunk], lengths: Mapping[PromptKey, int]) -> bool:
    """Whether a copy of its question for every place that rows go on from is little beside what the rows may hold.

    One level instead of two then saves time; it needs texts, for without them there is one level already.
    """
    longest = max(lengths[trunk.key] for trunk in trunks)
    places = sum(len({row.seen for row in trunk.rows}) for trunk in trunks)
    rows = sum(row.cost for trunk in trunks for row in trunk.rows)
    return bool(trunks[0].ids) and SMALL * places * longest <= rows
