"""The data of the method, and the two protocols that everything else is written against.

All records are frozen dataclasses of plain values; `to_row` and `from_row` turn them into JSON rows and back.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, Protocol, TypeVar

from pydantic import TypeAdapter

from chainofstep.chain import Chain, ChainError, parse

AnswerKind = Literal["number", "word", "choice"]
#: Why sampling stopped: the answer closed, a step closed (only where asked for), or the token limit was reached.
Ending = Literal["answer", "step", "length"]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Example:
    """A question about pictures, with its gold answer.

    Example("line_sum-7", "What is the sum of row 2?", ("line_sum-7.png",), "12", "number", source="math/line_sum")
    """

    id: str
    question: str
    images: tuple[str, ...]  # paths of picture files
    answer: str  # gold; an option letter where there are choices
    answer_kind: AnswerKind
    choices: tuple[str, ...] = ()  # option texts in letter order: A, B, ...
    source: str = ""  # data set or family/kind
    chain: Chain | None = None  # a gold chain, where one is known
    meta: dict[str, Any] = field(default_factory=dict)  # what only the source understands (a generated scene, a split)


@dataclass(frozen=True)
class Request:
    """Ask a sampler for `n` continuations of one prefix: pictures, question and the text so far."""

    example: Example
    n: int = 1
    prefix: str = ""  # assistant text so far; `render(chain_prefix)` to go on from a step
    seed: int = 0  # sample i of the request depends on (seed, i) alone
    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    stop: Literal["answer", "step"] = "answer"
    first: int = 0  # index of the first sample: samples first .. first + n - 1, so that more can be asked for later


@dataclass(frozen=True)
class Rollout:
    """One sampled text. `text` is all of the assistant's text, `prefix` included."""

    example_id: str
    text: str
    token_ids: tuple[int, ...]  # the sampled tokens alone, without the prefix
    ending: Ending
    seed: int
    index: int = 0  # which of the seed's samples: the request's `first` + its place among the n
    logprobs: tuple[float, ...] | None = None  # of `token_ids`, under the untempered model

    @cached_property
    def parsed(self) -> Chain | ChainError:
        try:
            return parse(self.text)
        except ChainError as error:
            return error

    @property
    def chain(self) -> Chain | None:
        return self.parsed if isinstance(self.parsed, Chain) else None


class SamplingErrors(ValueError):
    """Requests of a call that could not be met; all others were.

    `failures` says why by request number; `results` holds the rollouts of each request, None where it failed.
    """

    def __init__(self, results: list[list[Rollout] | None], failures: dict[int, str], ids: Sequence[str]):
        number = min(failures)
        others = f"; {len(failures) - 1} more requests failed" if len(failures) > 1 else ""
        super().__init__(f"request {number} (example {ids[number]!r}): {failures[number]}{others}")
        self.results, self.failures, self.ids = results, failures, tuple(ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.results, self.failures, self.ids)


@dataclass(frozen=True)
class StepScores:
    """A score in [0, 1] for each step of a chain and one for its answer (None for a prefix)."""

    steps: tuple[float, ...]
    answer: float | None = None


@dataclass(frozen=True)
class ScoreFailure:
    """A scorer could not score this chain. Never a 0.0: it is counted apart."""

    reason: str


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected text for one example, with their path scores and the rule that chose them."""

    example_id: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    rule: str


Scored = StepScores | ScoreFailure


@dataclass(frozen=True)
class StepRow:
    """A row of step data, as files of every format hold it: an example, a text written for it, what is known of it.

    Only what the row's format has is there: labels in PRM data, a rejected text in DPO data. Neutral steps of
    ternary labels (Good / Neutral / Bad) are 0.5. Fields that only the format understands stand in
    `example.meta[FORMAT]`, so that they can be written again.
    """

    example: Example
    text: str | None = None  # the assistant's text: a rendered chain, or what a model made of one
    labels: StepScores | None = None  # of the text's steps and answer
    rejected: str | None = None  # the worse text, where `text` is the better one

    @cached_property
    def parsed(self) -> Chain | ChainError:
        try:
            return parse(self.text or "")
        except ChainError as error:
            return error

    @property
    def chain(self) -> Chain | None:
        return self.parsed if isinstance(self.parsed, Chain) else None


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used: where it was read, why, and what it held (as text, where it is no JSON)."""

    place: str  # "FILE:LINE"
    reason: str  # one line; before the first colon what kind of trouble it is, by which rejects are counted
    row: Any = None


class Sampler(Protocol):
    """Anything that continues text: the in-process engine, an endpoint, a script in a test."""

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """For each request its `n` rollouts, in order; `SamplingErrors` if some requests cannot be met."""
        ...


class StepScorer(Protocol):
    """Anything that scores steps: the exact checker, Monte-Carlo, an LLM judge, a PRM."""

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """One result per (example, chain), in order; a chain without an answer is a prefix."""
        ...


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_row(record: Any) -> dict[str, Any]:
    """A JSON-ready dict of a record."""
    return asdict(record)


def from_row(kind: type[Record], row: dict[str, Any]) -> Record:
    """A record from a JSON row; pydantic's `ValidationError` (a ValueError) names the key that is wrong."""
    hashable: Any = kind  # mypy does not take a type[Record] for one
    return _adapter(hashable).validate_python(row)
