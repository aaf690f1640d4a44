"""What is asked of an endpoint, what comes back, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit


class EndpointDown(ValueError):
    """The endpoint cannot be used, so the job stopped: in one line what is wrong and what to do next.

    Whatever was answered before is in the cache; the same call goes on from there.
    """


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint, and how it is asked.

    Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-VL-8B-Instruct", concurrency=128)
    """

    base_url: str  # usually ends in /v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key; unset or "": "none" is sent
    concurrency: int = 64  # requests in flight
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and completions
    timeout_seconds: float = 300.0  # of one attempt, from sending to the last byte
    attempts: int = 6
    max_tokens: int = 4096  # of a completion
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None  # sample i of a prompt is sent seed + i
    structured: Literal["auto", "on", "off"] = "auto"  # a prompt's schema: auto stops sending it once it is refused
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    dollars_per_million_prompt_tokens: float | None = None
    dollars_per_million_completion_tokens: float | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"base_url {self.base_url!r} is no web address: write one such as http://localhost:8000/v1"
            )
        try:
            urlsplit(self.base_url).port  # noqa: B018  # it is read for its error
        except ValueError as error:
            raise ValueError(f"base_url {self.base_url!r}: {error}") from None
        for name in ("concurrency", "attempts", "max_tokens", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} of an endpoint is not above 0: set it to 1 or more")
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} {limit} lets no request through: set it to 1 or more, or to none")


@dataclass(frozen=True)
class Prompt:
    """One question to a model: pictures first, then the text."""

    id: str
    text: str
    system: str = ""
    images: tuple[str, ...] = ()  # paths of picture files
    schema: Mapping[str, Any] | None = None  # JSON schema of the reply
    text_without_schema: str = ""  # said instead of `text` where no schema is sent; empty: `text`
    sample: int = 0  # which of several replies to the same prompt


@dataclass(frozen=True)
class Reply:
    """What the model said. Token counts are the server's, or a guess from the characters where it gives none."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # "stop", or "length" where the text was cut at `max_tokens`
    model: str  # as the server calls it
    structured: bool  # whether it was asked for by schema
    cached: bool = False  # came without a request: from the cache, or from the same prompt earlier in the run


@dataclass(frozen=True)
class Failure:
    """No reply. `passing`: the same prompt may succeed another time; otherwise the prompt itself is at fault."""

    reason: str  # one line; before the first colon what kind of trouble it is
    passing: bool


Outcome = Reply | Failure


@dataclass
class Spending:
    """What a call of `ask` came to. Tokens are those of replies that were paid for in this call."""

    requests: int = 0  # sent, retries included
    cached: int = 0  # prompts answered without a request
    failed: int = 0  # prompts
    retries: int = 0
    unstructured: int = 0  # prompts with a schema that were answered without one, for the server takes none
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def dollars(self, endpoint: Endpoint) -> float | None:
        """By the endpoint's prices; None where it names none."""
        return dollars(endpoint, self.prompt_tokens, self.completion_tokens)


def dollars(endpoint: Endpoint, prompt_tokens: float, completion_tokens: float) -> float | None:
    """What so many tokens cost; None where the endpoint does not name both prices."""
    prices = endpoint.dollars_per_million_prompt_tokens, endpoint.dollars_per_million_completion_tokens
    if prices[0] is None or prices[1] is None:
        return None
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
