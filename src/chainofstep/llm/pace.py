"""When the next request may be sent: limits a minute, and pauses that the server asks for."""

import asyncio

from chainofstep.llm.records import Endpoint


class Gate:
    """Every request of a job passes here, one after another.

    Requests are spaced evenly, so no minute, and no second either, holds more than its share: servers count over
    windows of their own. Tokens are spaced by what a request is expected to take, put right once its reply is there.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._seconds_a_request = 60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
        self._seconds_a_token = 60 / endpoint.tokens_per_minute if endpoint.tokens_per_minute else 0.0
        self._most = endpoint.max_tokens
        self._replies, self._completion_tokens = 0, 0
        self._turn = asyncio.Lock()  # first come, first served
        self._requests_from = self._tokens_from = self._paused_until = 0.0  # times of the event loop

    async def enter(self, prompt_tokens: int) -> int:
        """Wait for a turn; the tokens that were set aside, which `settle` wants to be told."""
        now = asyncio.get_running_loop().time
        async with self._turn:
            while (wait := max(self._requests_from, self._tokens_from, self._paused_until) - now()) > 0:
                await asyncio.sleep(min(wait, 0.25))  # a reply may come in meanwhile and change the time
            tokens = prompt_tokens + self._expected_completion()
            self._requests_from = max(self._requests_from, now()) + self._seconds_a_request
            self._tokens_from = max(self._tokens_from, now()) + tokens * self._seconds_a_token
        return tokens

    def settle(self, set_aside: int, taken: int) -> None:
        """Say how many tokens a request really took."""
        self._tokens_from += (taken - set_aside) * self._seconds_a_token

    def learn(self, completion_tokens: int) -> None:
        """Expect completions of about this length."""
        self._replies += 1
        self._completion_tokens += completion_tokens

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so long from now."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)

    def _expected_completion(self) -> int:
        """The mean of the replies so far; before the first, as much as is allowed."""
        return round(self._completion_tokens / self._replies) if self._replies else self._most
