"""What a job will take, before it is begun: guesses, and named as such."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chainofstep.llm.records import Endpoint, Prompt, dollars

#: Guesses. English text has about four characters a token; models cut a picture of some 800 x 800 pixels into
#: 600 to 1,200 tokens; servers write 20 to 100 tokens a second for each of many requests in flight.
CHARACTERS_A_TOKEN = 4
TOKENS_A_PICTURE = 1000
COMPLETION_TOKENS_A_SECOND = 40


@dataclass(frozen=True)
class Estimate:
    """What a job is likely to take, in all."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None  # None where the endpoint names no prices
    seconds: float


def estimated_tokens(text: str) -> int:
    """A guess of the tokens of a text, from its length."""
    return math.ceil(len(text) / CHARACTERS_A_TOKEN)


def estimated_prompt_tokens(prompt: Prompt) -> int:
    """A guess of the tokens of texts and pictures; the schema, which servers count differently, is left out."""
    return estimated_tokens(prompt.system) + estimated_tokens(prompt.text) + TOKENS_A_PICTURE * len(prompt.images)


def estimate(endpoint: Endpoint, prompts_count: int, sampled: Sequence[tuple[int, int]]) -> Estimate:
    """What `prompts_count` prompts take if they are like the `sampled` (prompt tokens, completion tokens).

    Seconds are those of whatever is slowest: the limit of requests, the limit of tokens, or the model itself at
    `COMPLETION_TOKENS_A_SECOND` in each of the endpoint's parallel requests. Retries are not in it.
    """
    if not sampled:
        raise ValueError("nothing to estimate from: give the tokens of at least one prompt and its reply")
    prompt, completion = (prompts_count * sum(each) / len(sampled) for each in zip(*sampled, strict=True))
    writing = completion / COMPLETION_TOKENS_A_SECOND / min(endpoint.concurrency, max(1, prompts_count))
    by_requests = 60 * prompts_count / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
    by_tokens = 60 * (prompt + completion) / endpoint.tokens_per_minute if endpoint.tokens_per_minute else 0.0
    return Estimate(
        prompts_count,
        round(prompt),
        round(completion),
        dollars(endpoint, prompt, completion),
        max(writing, by_requests, by_tokens),
    )
