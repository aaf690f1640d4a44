"""`ask`: prompts taken as they are needed, each answered from the cache or by the endpoint, every reply kept."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from chainofstep.llm.cache import Cache
from chainofstep.llm.connection import Connection
from chainofstep.llm.records import Endpoint, Failure, Outcome, Prompt, Reply, Spending
from chainofstep.llm.request import UnreadablePicture, request_key

Done = Callable[[Prompt, Outcome], None]

#: Prompts answered from the cache take no time off requests in flight for longer than this.
_SECONDS_IN_ONE_GO = 0.005


def ask(endpoint: Endpoint, prompts: Iterable[Prompt], done: Done, cache: Path) -> Spending:
    """Have every prompt answered; `done` is called once for each, in this thread, in the order of completion.

    `prompts` is read as it is needed, never more than twice `endpoint.concurrency` ahead of `done`. A reply is in the
    cache before `done` is told, and nothing that is in the cache is asked for again, also not by a later call, by other
    limits or from a server that has moved. Prompts that differ in nothing but their ids are asked once.
    `EndpointDown` if no prompt will be answered; what `done` or `prompts` raise stops the job and comes out.
    Not to be called from a running event loop.
    """
    spending, started = Spending(), time.perf_counter()
    with Cache(cache) as kept, asyncio.Runner() as runner:
        runner.run(_run(endpoint, prompts, done, kept, spending))
    spending.seconds = time.perf_counter() - started
    return spending


async def _run(endpoint: Endpoint, prompts: Iterable[Prompt], done: Done, cache: Cache, spending: Spending) -> None:
    async with Connection(endpoint, spending) as connection:
        await _Run(connection, done, cache).run(prompts)


class _Run:
    def __init__(self, connection: Connection, done: Done, cache: Cache) -> None:
        self.connection, self.done, self.cache = connection, done, cache
        self.endpoint, self.spending = connection.endpoint, connection.spending
        self.asked: dict[bytes, asyncio.Task[tuple[Prompt, Outcome]]] = {}  # requests under way
        self.running: set[asyncio.Task[tuple[Prompt, Outcome]]] = set()  # tasks whose outcome `done` does not know
        self.finished: asyncio.Queue[asyncio.Task[tuple[Prompt, Outcome]]] = asyncio.Queue()

    async def run(self, prompts: Iterable[Prompt]) -> None:
        coming, more = iter(prompts), True
        breath = time.perf_counter()
        try:
            while more or self.running:
                if more and len(self.running) < 2 * self.endpoint.concurrency:
                    prompt = next(coming, None)
                    more = prompt is not None
                    if prompt is not None:
                        self._take(prompt)
                else:
                    self._hand_over(await self.finished.get())
                if time.perf_counter() - breath > _SECONDS_IN_ONE_GO:
                    await asyncio.sleep(0)
                    breath = time.perf_counter()
                while not self.finished.empty():
                    self._hand_over(self.finished.get_nowait())
        finally:
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)

    def _take(self, prompt: Prompt) -> None:
        """Answer a prompt at once if that needs no request; otherwise begin."""
        try:
            keys = self._keys(prompt)
        except UnreadablePicture as error:
            return self._tell(prompt, Failure(str(error), passing=False))
        for key in keys.values():
            kept = self.cache.get(key)
            if kept is not None:
                self.connection.working = True
                return self._tell(prompt, kept)
        key = keys[self.connection.structured and prompt.schema is not None]
        first = self.asked.get(key)
        task = asyncio.create_task(self._ask(prompt, key, keys) if first is None else self._wait(prompt, first))
        if first is None:
            self.asked[key] = task
        self.running.add(task)
        task.add_done_callback(self.finished.put_nowait)

    def _keys(self, prompt: Prompt) -> dict[bool, bytes]:
        """The keys under which a reply may be kept: with the schema first, and without where it may be refused."""
        ways = {"auto": (True, False), "on": (True,), "off": (False,)}[self.endpoint.structured]
        if prompt.schema is None:
            ways = (False,)
        return {structured: request_key(self.endpoint, prompt, structured) for structured in ways}

    async def _ask(self, prompt: Prompt, key: bytes, keys: dict[bool, bytes]) -> tuple[Prompt, Outcome]:
        try:
            outcome = await self.connection.answer(prompt)
            if isinstance(outcome, Reply):  # the server may have refused the schema that `key` is with
                self.cache.put(keys[outcome.structured], outcome)
        finally:
            del self.asked[key]
        return prompt, outcome

    async def _wait(self, prompt: Prompt, first: asyncio.Task[tuple[Prompt, Outcome]]) -> tuple[Prompt, Outcome]:
        """The outcome of the same prompt, which is being asked already."""
        _, outcome = await asyncio.shield(first)
        return prompt, replace(outcome, cached=True) if isinstance(outcome, Reply) else outcome

    def _hand_over(self, task: asyncio.Task[tuple[Prompt, Outcome]]) -> None:
        prompt, outcome = task.result()
        self.running.discard(task)
        self._tell(prompt, outcome)

    def _tell(self, prompt: Prompt, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self.spending.failed += 1
        else:
            self.spending.cached += outcome.cached
            wanted = prompt.schema is not None and self.endpoint.structured == "auto"
            self.spending.unstructured += wanted and not outcome.structured
        self.done(prompt, outcome)
