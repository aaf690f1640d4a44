"""Format filters: which chains are fit to train on (paper A2), each with a name, a count and a switch.

The paper says only that "a large amount of data not meeting the formatting standard" was removed; these are the rules
of its generation prompt, read as filters. A row is tried against them in the order below and counts for the first one
that removes it. `filters` of `FilterConfig` says which are on.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any

from chainofstep.answers import is_right
from chainofstep.chain import ALL_TOKENS, Chain, Step
from chainofstep.problems.formats.base import chain_of
from chainofstep.problems.skeleton import Draft
from chainofstep.records import Example, Reject, StepRow


@dataclass(frozen=True)
class FilterConfig:
    """Which filters are on, and their bounds. Lengths are in characters."""

    without: tuple[str, ...] = ()  # names of filters that are off
    minimum_steps: int = 5  # the paper's prompt asks for 5 to 10
    maximum_steps: int = 10
    maximum_name: int = 200
    minimum_thought: int = 10
    maximum_field: int = 4000
    maximum_chain: int = 20_000
    repeated_words: float = 0.8  # steps that share this much of their word triples say the same

    def __post_init__(self) -> None:
        if unknown := [name for name in self.without if name not in FILTERS]:
            raise ValueError(f"no filter {unknown[0]!r}; there are {', '.join(FILTERS)}")
        if "parses" in self.without:
            raise ValueError("filter parses cannot be off: without a chain there is nothing to write")


#: Why a chain is refused, or None.
Check = Callable[[Example, Draft, FilterConfig], str | None]

# A step number that a name begins with, as chains made elsewhere have it.
_NUMBERED = re.compile(r"^\s*step\s+(\d+)\b", re.IGNORECASE)
_LEAK = re.compile(
    r"\b(?:reference|provided|given|supplied|stated|known)\s+(?:correct\s+|final\s+)?(?:answer|solution|explanation)\b"
    r"|\bground[- ]truth\b|\banswer key\b|\banswer (?:that )?(?:was|is) (?:given|provided)\b",
    re.IGNORECASE,
)
_LEAK_WORDS = ("answer", "solution", "explanation", "truth")
_STATES_ANSWER = re.compile(
    r"\b(?:answer|correct (?:option|choice))\b(?:\s+to\s+(?:the|this)\s+(?:question|problem))?"
    r"\s*(?:is|:|=|must be|should be|would be|will be)\s*(?!to\b|not\b|found\b|asked\b)\S",
    re.IGNORECASE,
)
_CONTROL = re.compile("|".join(re.escape(token) for token in ALL_TOKENS))
_WORD = re.compile(r"\w+")


def _fields(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    for number, step in enumerate(draft.steps, start=1):
        for name in ("name", "thought", "reflection"):
            if not getattr(step, name).strip():
                return f"step {number} has no {name}"
    return None


def _numbering(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    numbers = draft.numbers
    if numbers and numbers[0] != 1:
        return f"the first step is number {numbers[0]}"
    wrong = next(((before, after) for before, after in pairwise(numbers) if after != before + 1), None)
    return f"step {wrong[1]} follows step {wrong[0]}" if wrong else None


def _step_count(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    count = len(draft.steps)
    fits = config.minimum_steps <= count <= config.maximum_steps
    return None if fits else f"{count} steps, wanted {config.minimum_steps} to {config.maximum_steps}"


def _answer(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    return None if draft.answer and draft.answer.strip() else "no answer"


def _right_answer(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    if is_right(example, draft.answer):
        return None
    return f"answer {(draft.answer or '')[:60]!r}, reference {example.answer[:60]!r}"


def _leak(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    # The pattern looks at every word; most chains have none of those it needs.
    whole = "\n".join(text for _, text in _texts(draft.steps)).lower()
    return _first_match(_LEAK, draft.steps, "speaks of") if any(word in whole for word in _LEAK_WORDS) else None


def _early_answer(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    if len(draft.steps) < 2:
        return None
    return _first_match(_STATES_ANSWER, draft.steps[:1], "says")


def _control_tokens(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    texts = (*_texts(draft.steps), (len(draft.steps), draft.answer or ""))
    found = next(((number, match) for number, text in texts if (match := _CONTROL.search(text))), None)
    return f"{found[1].group()} stands as text in step {found[0]}" if found else None


def _length(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    for number, step in enumerate(draft.steps, start=1):
        if len(step.name) > config.maximum_name:
            return f"the name of step {number} has {len(step.name)} characters, at most {config.maximum_name}"
        if len(step.thought) < config.minimum_thought:
            return f"the thought of step {number} has {len(step.thought)} characters, at least {config.minimum_thought}"
        longest = max(len(step.thought), len(step.reflection))
        if longest > config.maximum_field:
            return f"a field of step {number} has {longest} characters, at most {config.maximum_field}"
    whole = sum(len(text) for _, text in _texts(draft.steps)) + len(draft.answer or "")
    return f"{whole} characters, at most {config.maximum_chain}" if whole > config.maximum_chain else None


def _repeats(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    triples = [_triples(step) for step in draft.steps]
    for (first, one), (second, other) in combinations(enumerate(triples, start=1), 2):
        shared = len(one & other)
        if shared and shared >= config.repeated_words * len(one | other):
            return f"steps {first} and {second} say nearly the same"
    return None


def _triples(step: Step) -> frozenset[tuple[str, ...]]:
    """The runs of three words in a step's thought; a shorter thought is one run."""
    words = _WORD.findall(step.thought.casefold())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset({tuple(words)})


def _texts(steps: Iterable[Step]) -> Iterable[tuple[int, str]]:
    for number, step in enumerate(steps, start=1):
        yield from ((number, text) for text in (step.name, step.thought, step.reflection))


def _first_match(pattern: re.Pattern[str], steps: Iterable[Step], verb: str) -> str | None:
    found = next(((number, match) for number, text in _texts(steps) if (match := pattern.search(text))), None)
    return f"step {found[0]} {verb} {found[1].group()!r}" if found else None


#: In the order they are tried: what can be read, its shape, its answer, what it says.
FILTERS: dict[str, Check | None] = {
    "parses": None,  # decided by reading; not a check of a draft
    "fields": _fields,
    "numbering": _numbering,
    "step_count": _step_count,
    "answer": _answer,
    "right_answer": _right_answer,
    "control_tokens": _control_tokens,
    "leak": _leak,
    "early_answer": _early_answer,
    "length": _length,
    "repeats": _repeats,
}

#: What each filter wants, for help and reports.
MEANINGS: dict[str, str] = {
    "parses": "the text is a chain, or a reply in the skeleton",
    "fields": "name, thought and reflection of every step say something",
    "numbering": "steps that carry numbers count 1, 2, 3, ...",
    "step_count": "5 to 10 steps, if not set otherwise",
    "answer": "there is an answer",
    "right_answer": "the answer equals the reference by the answer rules",
    "control_tokens": "no step token or PRM token stands in a field as text",
    "leak": "no step speaks of a reference answer",
    "early_answer": "the first step does not state the answer",
    "length": "names, thoughts and the whole chain are neither empty talk nor endless",
    "repeats": "no two steps say nearly the same",
}


def refusal(example: Example, draft: Draft, config: FilterConfig) -> str | None:
    """`FILTER: why` of the first filter that removes the draft; None if it may stay."""
    for name, check in FILTERS.items():
        if check is None or name in config.without:
            continue
        if reason := check(example, draft, config):
            return f"{name}: {reason}"
    return None


@dataclass(frozen=True)
class RowFilter:
    """The filters for rows of any format, as a function of a row: why it is refused, or None. Picklable.

    Rows with step labels or a rejected text may have wrong answers: that is what they are for.
    """

    config: FilterConfig = field(default_factory=FilterConfig)

    def __call__(self, row: StepRow) -> str | None:
        try:
            chain = row.chain or chain_of(row)  # most rows hold whole chains, and theirs is read once
        except ValueError as error:
            return f"parses: {str(error).removeprefix('no chain: ')}"
        config = self.config
        if row.labels is not None or row.rejected is not None:
            config = replace(config, without=(*config.without, "right_answer"))
        try:
            return refusal(row.example, draft_of(chain), config)
        except ValueError as error:  # a gold answer that cannot be read
            return f"right_answer: {error}"


def draft_of(chain: Chain) -> Draft:
    """A chain as a draft; numbers are taken from the names where all of them begin with one."""
    found = [_NUMBERED.match(step.name) for step in chain.steps]
    numbers = tuple(int(match[1]) for match in found if match)
    return Draft(chain.steps, numbers if len(numbers) == len(chain.steps) else (), chain.answer)


@dataclass
class FilterReport:
    """What the filters did: rows read and kept, and for each reason how many rows and a few of them."""

    read: int = 0
    kept: int = 0
    removed: dict[str, int] = field(default_factory=dict)  # filter, or other kind of reject -> rows
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    shown: int = 3  # examples of each

    def keep(self) -> None:
        self.read += 1
        self.kept += 1

    def remove(self, reject: Reject) -> None:
        kind = reject.reason.partition(":")[0]
        self.read += 1
        self.removed[kind] = self.removed.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < self.shown:
            text = reject.row.get("text", reject.row) if isinstance(reject.row, dict) else reject.row
            shown.append({"place": reject.place, "reason": reject.reason, "text": str(text)[:600]})
