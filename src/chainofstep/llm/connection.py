"""One endpoint, as it is talked to: attempts, what is tried again and when, and when it is given up.

`wire` does the HTTP.
"""

import asyncio
import json
import os
import random
from dataclasses import replace
from types import TracebackType

from chainofstep.llm.estimate import estimated_prompt_tokens
from chainofstep.llm.pace import Gate
from chainofstep.llm.records import Endpoint, EndpointDown, Failure, Outcome, Prompt, Reply, Spending
from chainofstep.llm.reply import Trouble, Usage, read_reply
from chainofstep.llm.request import UnreadablePicture, request_body
from chainofstep.llm.wire import NO_CONNECTION, Wire

FIRST_BACK_OFF = 0.5  # seconds; doubles with every attempt
LONGEST_BACK_OFF = 60.0
LONGEST_WAIT = 600.0  # a server that asks for more is out of quota rather than busy
MOST_FAILURES = 20  # in a row, after which the endpoint and not the prompts is at fault


class Connection:
    """Asks one endpoint. For one event loop; `async with` closes its connections."""

    def __init__(self, endpoint: Endpoint, spending: Spending) -> None:
        self.endpoint, self.spending = endpoint, spending
        self.structured = endpoint.structured != "off"  # until the server refuses a schema
        self.working = False  # a reply, of now or of an earlier run, says that the settings are right
        self._wire = Wire(endpoint)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._gate = Gate(endpoint)
        self._failures = 0  # prompts in a row

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._wire.close()

    async def answer(self, prompt: Prompt) -> Outcome:
        """The reply, or why there is none after all attempts; `EndpointDown` where no other prompt will fare better."""
        attempts = 0
        while True:
            found = await self._attempt(prompt)
            if isinstance(found, Reply):
                self.working, self._failures = True, 0
                return found
            if found.kind == "schema" and self.endpoint.structured == "auto":
                self.structured = False
                continue
            attempts += 1
            delay = found.wait + random.uniform(0, min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2 ** (attempts - 1)))
            if found.busy:  # for the others as well
                self._gate.pause(found.wait or delay)
            if found.kind != "again" or found.wait > LONGEST_WAIT or attempts == self.endpoint.attempts:
                return await self._give_up(found, attempts)
            self.spending.retries += 1
            await asyncio.sleep(delay)

    async def _attempt(self, prompt: Prompt) -> Reply | Trouble:
        """Send the prompt once, when there is a slot and a turn for it. Waiting after a failure takes no slot."""
        async with self._slots:
            expected = estimated_prompt_tokens(prompt)
            set_aside = await self._gate.enter(expected)
            structured = self.structured and prompt.schema is not None
            try:
                body = request_body(self.endpoint, prompt, structured)
            except UnreadablePicture as error:
                return Trouble("refused", str(error))
            self.spending.requests += 1
            found, usage = await self._send(body, structured)
            if isinstance(found, Reply):
                found = replace(found, prompt_tokens=found.prompt_tokens or expected)
                usage = Usage(found.prompt_tokens, found.completion_tokens)
                self._gate.learn(found.completion_tokens)
            self.spending.prompt_tokens += usage.prompt_tokens
            self.spending.completion_tokens += usage.completion_tokens
            self._gate.settle(set_aside, (usage.prompt_tokens or expected) + usage.completion_tokens)
            return found

    async def _send(self, body: bytes, structured: bool) -> tuple[Reply | Trouble, Usage]:
        found = await self._wire.post("/chat/completions", body, structured)
        if isinstance(found, bytes):
            return read_reply(found, structured, self.endpoint.max_tokens)
        if found.reason.startswith(NO_CONNECTION) and not self._wire.heard:
            what = found.reason.removeprefix(NO_CONNECTION)
            raise EndpointDown(
                f"cannot connect to {self.endpoint.base_url} ({what}): start the server or mend base_url"
            )
        return found, Usage()

    async def _give_up(self, found: Trouble, attempts: int) -> Failure:
        """The prompt's failure, unless it shows that the endpoint is at fault."""
        if found.kind == "schema":
            reason = self._wire.without_key(found.reason)
            raise EndpointDown(f"{self.endpoint.base_url}: {reason}: set structured to auto or off")
        if found.kind == "missing":
            raise EndpointDown(self._wire.without_key(await self._what_is_missing(found.reason)))
        if found.kind == "down":
            raise EndpointDown(self._wire.without_key(self._why_down(found.reason)))
        if found.wait > LONGEST_WAIT:
            raise EndpointDown(
                f"{self.endpoint.base_url} asks to wait {found.wait:.0f} s ({self._wire.without_key(found.reason)}): "
                "give the same command again later, it goes on from here"
            )
        passing = found.kind == "again"
        times = f" ({attempts} attempts)" if passing else ""
        failure = Failure(self._wire.without_key(found.reason) + times, passing)
        # Where nothing was ever answered, prompts that are all refused have something in common: the settings.
        self._failures += passing or not self.working
        if self._failures >= MOST_FAILURES:
            raise EndpointDown(
                f"{self.endpoint.base_url}: {MOST_FAILURES} prompts in a row failed, the last with {failure.reason}: "
                "see that the server is well and its limits are those of the settings, then give the same command again"
            )
        return failure

    def _why_down(self, reason: str) -> str:
        variable = self.endpoint.key_variable
        if reason.startswith(("HTTP 401", "HTTP 403")):
            if not variable:
                return (
                    f"{self.endpoint.base_url}: {reason}: it wants a key, name the environment variable that holds it"
                )
            state = "is not accepted" if os.environ.get(variable) else "is not set"
            return f"{self.endpoint.base_url}: {reason}: the key in the environment variable {variable} {state}"
        return f"{self.endpoint.base_url}: {reason}: see to the account's credit, then give the same command again"

    async def _what_is_missing(self, reason: str) -> str:
        """Whether it is the model or the address, by asking for the list of models."""
        found = await self._wire.get("/models")
        try:
            offered = [str(model["id"]) for model in json.loads(found if isinstance(found, bytes) else b"")["data"]]
        except (ValueError, LookupError, TypeError):
            return f"{self.endpoint.base_url}: {reason}: mend base_url, which usually ends in /v1"
        if self.endpoint.model in offered:
            return f"{self.endpoint.base_url}: {reason}: mend base_url or model"
        names = ", ".join(offered[:10]) + (f" and {len(offered) - 10} more" if len(offered) > 10 else "")
        return f"{self.endpoint.base_url} has no model {self.endpoint.model!r}: set model to one it offers: {names}"
