"""Several servers of one model as one: which of them is asked, what happens when one dies, and who did what.

Requests about the same question and pictures go to the same server, which has their prefix in its cache: each server's
rank for a prompt is a hash of both (rendezvous hashing), so a server that comes or goes moves only its own share. One
that has much more to do than the others passes requests on to the next in rank (bounded loads, Mirrokni et al. 2016).
"""

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from chainofstep.llm.records import Endpoint, EndpointDown
from chainofstep.llm.reply import Trouble
from chainofstep.llm.wire import Wire
from chainofstep.models.endpoint.dialects import Dialect
from chainofstep.models.endpoint.tokens import Tokens

FEW = 16  # samples in flight that a server may have whatever the others do
MUCH = 1.25  # times the mean of all: more than that is much busier
HEALTH_SECONDS = 5.0  # in which /health must answer
LOOK_AGAIN = 2.0  # seconds between two looks at a server that is down
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 30.0
NOT_THERE = "HTTP 501"  # a route that a server does not have, however often it is asked
MOST_FAILURES = 20  # requests in a row that no attempt answered, after which the servers and not they are at fault
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Server:
    """One server, and what it did so far. Plain values: what belongs to one call is in `Session`."""

    endpoint: Endpoint
    checked: bool = False  # it holds the model, and goes on with texts as it should
    up: bool = True
    why: str = ""  # it is down
    dialect: Dialect | None = None  # known once it is checked
    tokens: Tokens | None = None
    requests: int = 0  # answered
    samples: int = 0  # in them
    failures: int = 0  # attempts that brought no answer
    moved: int = 0  # attempts whose request went to another server, because this one was down

    @property
    def url(self) -> str:
        return self.endpoint.base_url

    @property
    def root(self) -> str:
        """Where the routes stand that are not OpenAI's."""
        return self.url.rstrip("/").removesuffix("/v1")


@dataclass
class Open:
    """A server during one call."""

    server: Server
    wire: Wire
    samples: int = 0  # in flight
    requests: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self, path: str, fields: dict[str, Any] | None = None, seconds: float = 10.0) -> Any:
        """The JSON of a route below the root; `Unanswered` says in one line why there is none.

        A server that is well is asked `attempts` times, as for samples.
        """
        whole, wire, attempts = self.server.root + path, self.wire, 0
        while True:
            found = await (wire.post(whole, json.dumps(fields).encode()) if fields else wire.get(whole, seconds))
            if isinstance(found, bytes):
                return json.loads(found)
            attempts += 1
            passing = found.kind == "again" and not found.reason.startswith(NOT_THERE)
            if not passing or attempts >= self.server.endpoint.attempts or await self.unwell():
                raise Unanswered(self.server, found)
            await back_off(attempts, found)

    async def unwell(self) -> Trouble | None:
        """Why the server is down, by /health; None if it is well."""
        found = await self.wire.get(self.server.root + "/health", HEALTH_SECONDS)
        return found if isinstance(found, Trouble) and found.kind == "again" else None


class Unanswered(ValueError):
    """A server gave no answer to a question about itself."""

    def __init__(self, server: Server, trouble: Trouble) -> None:
        super().__init__(f"{server.url}: {trouble.reason}: see what the server says of itself")
        self.trouble = trouble


Check = Callable[[Open], Awaitable[None]]


async def back_off(attempts: int, found: Trouble) -> None:
    """Wait before the next attempt: what the server asks for, and up to twice as long as the last time."""
    longest = min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2 ** (attempts - 1))
    await asyncio.sleep(min(found.wait, LONGEST_BACK_OFF) + random.uniform(0, longest))


async def together(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; where one raises, the others are cancelled, and it comes out."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ranked(urls: Sequence[str], key: bytes) -> list[str]:
    """The servers in the order in which they are asked for a prompt."""
    return sorted(urls, key=lambda url: hashlib.blake2b(key, key=_short(url)).digest())


def _short(url: str) -> bytes:
    return hashlib.blake2b(url.encode(), digest_size=32).digest()


class Session:
    """The servers during one call, for one event loop; `async with` checks those that were not checked, and closes.

    `check` raises ValueError for a server that holds the wrong thing, which ends the call: a user can mend it.
    """

    def __init__(self, servers: Sequence[Server], check: Check) -> None:
        self.check = check
        self.open = {server.url: Open(server, Wire(server.endpoint)) for server in servers}
        self.slots = asyncio.Semaphore(sum(server.endpoint.concurrency for server in servers))
        self.changed = asyncio.Condition()
        self.failures = 0  # requests in a row
        self.watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Session":
        try:
            new = [each for each in self.open.values() if not (each.server.checked and each.server.up)]
            await together(self._begin(each) for each in new)
            self._some_up()
        except BaseException:
            await self._close()
            raise
        self.watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self.watcher is not None
        self.watcher.cancel()
        await asyncio.gather(self.watcher, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(each.wire.close() for each in self.open.values()))

    def anyone(self) -> Server:
        """A server that is up, to say what all of them say."""
        return self._some_up()[0].server

    def _some_up(self) -> list[Open]:
        up = [each for each in self.open.values() if each.server.up]
        if not up:
            whys = "; ".join(f"{url} ({each.server.why})" for url, each in self.open.items())
            raise EndpointDown(f"no server answers: {whys}: start one, then give the same command again")
        return up

    # Health

    async def _begin(self, each: Open) -> None:
        """Check a server, or find that it is down."""
        server = each.server
        try:
            await self.check(each)
            server.checked, server.up, server.why = True, True, ""
        except Unanswered as error:
            if error.trouble.kind != "again":
                raise
            self._is_down(server, error.trouble.reason)

    def _is_down(self, server: Server, why: str) -> None:
        server.up, server.checked, server.why = False, False, why
        log.warning("%s is down: %s", server.url, why)

    async def _is_well(self, each: Open) -> bool:
        """Whether a server that failed is well all the same; one look for all that wait for it."""
        async with each.looking:
            if each.server.up and (found := await each.unwell()):
                self._is_down(each.server, found.reason)
            return each.server.up

    async def _watch(self) -> None:
        """Look at servers that are down, and take them back when they are well and hold what they should."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            for each in self.open.values():
                if not each.server.up:
                    await self._take_back(each)

    async def _take_back(self, each: Open) -> None:
        if await each.unwell():
            return
        try:
            await self.check(each)
        except ValueError as error:  # another model may have been started in its place
            each.server.why = str(error)
            return
        each.server.checked = each.server.up = True
        log.warning("%s is back", each.server.url)
        async with self.changed:
            self.changed.notify_all()

    # Requests

    async def post(self, key: bytes, samples: int, path: str, body: Callable[[Server], bytes]) -> Any:
        """The JSON of an answer, from whichever server is to be asked for `key`; ValueError says why there is none.

        A server that turns out to be down costs the request nothing: it goes to another. What a server that is well
        does not answer is tried again, `attempts` times. `body` is made when there is room to send it.
        """
        async with self.slots:
            found = await self._attempts(key, samples, path, body)
        if isinstance(found, Trouble):
            self.failures += found.kind == "again"
            if self.failures >= MOST_FAILURES:
                raise EndpointDown(
                    f"{MOST_FAILURES} requests in a row failed, the last with {found.reason}: see that the servers are "
                    "well, then give the same command again"
                )
            raise ValueError(found.reason)
        self.failures = 0
        try:
            return json.loads(found)
        except ValueError as error:
            raise ValueError("the server's answer is no JSON") from error

    async def _attempts(self, key: bytes, samples: int, path: str, body: Callable[[Server], bytes]) -> bytes | Trouble:
        attempts = 0
        while True:
            each = await self._place(key, samples)
            try:
                found = await each.wire.post(each.server.root + path, body(each.server))
            finally:
                await self._leave(each, samples)
            if isinstance(found, bytes):
                each.server.requests += 1
                each.server.samples += samples
                return found
            each.server.failures += 1
            if found.kind == "down":
                raise EndpointDown(f"{each.server.url}: {found.reason}: mend the address or name the key's variable")
            if found.kind == "missing":  # it was there when it was checked: something else is served there now
                self._is_down(each.server, found.reason)
            elif found.kind != "again":
                return found
            attempts += 1
            if not await self._is_well(each) and attempts <= len(self.open) + each.server.endpoint.attempts:
                each.server.moved += 1
                continue
            if attempts >= each.server.endpoint.attempts:
                return found
            await back_off(attempts, found)

    async def _place(self, key: bytes, samples: int) -> Open:
        """The server that takes this request, once there is room."""
        async with self.changed:
            while True:
                up = self._some_up()
                room = [each for each in up if each.requests < each.server.endpoint.concurrency]
                if room:
                    break
                await self.changed.wait()
            chosen = choose(room, key, samples)
            chosen.samples += samples
            chosen.requests += 1
            return chosen

    async def _leave(self, each: Open, samples: int) -> None:
        async with self.changed:
            each.samples -= samples
            each.requests -= 1
            self.changed.notify()


def choose(servers: Sequence[Open], key: bytes, samples: int) -> Open:
    """The first in rank that is not much busier than the others."""
    by_url = {each.server.url: each for each in servers}
    mean = (sum(each.samples for each in servers) + samples) / len(servers)
    bound = max(FEW, MUCH * mean)
    order = [by_url[url] for url in ranked(list(by_url), key)]
    return next((each for each in order if each.samples + samples <= bound), min(order, key=lambda each: each.samples))
