"""Blocking calls of the models in threads of their own, and what they tell on the way."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from chainofstep.answering import Caller, Cancelled, Event, Progress, TextMade
from chainofstep.serve.errors import Refusal
from chainofstep.serve.guard import STOPPING, Receive

Result = TypeVar("Result")


class Gone(Exception):
    """The client closed its connection before it had its answer."""


class Channel:
    """Events on their way from a thread to the event loop.

    The thread never waits. A reader that is slow misses texts and progress that are out of date, so what waits here is
    one text a choice and the steps, which the tokens of the request bound.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.ready = loop, asyncio.Event()
        self._lock = threading.Lock()
        self._told: list[Event] = []
        self._texts: dict[int, TextMade] = {}
        self._progress: Progress | None = None
        self._woken = False

    def put(self, event: Event) -> None:
        """From any thread."""
        with self._lock:
            if isinstance(event, TextMade):
                self._texts[event.choice] = event
            elif isinstance(event, Progress):
                self._progress = event
            else:
                self._told.append(event)
            wakes, self._woken = not self._woken, True
        if wakes:
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self.loop.call_soon_threadsafe(self.ready.set)

    def take(self) -> list[Event]:
        """All that waits, in the loop's thread."""
        with self._lock:
            found = [*([self._progress] if self._progress else []), *self._texts.values(), *self._told]
            self._told, self._texts, self._progress, self._woken = [], {}, None, False
            self.ready.clear()
        return found


class Crew:
    """The threads that wait for the models, and for whom they wait."""

    def __init__(self, most: int) -> None:
        self.pool = ThreadPoolExecutor(most, "request")
        self.callers: set[Caller] = set()

    def cancel(self) -> None:
        """From any thread: end all calls, whose clients are told that the server stops."""
        for caller in self.callers.copy():
            caller.cancel()

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


class Job(Generic[Result]):
    """A blocking call that runs. Leaving the block before its end cancels what it waits for."""

    def __init__(self, crew: "Crew", caller: Caller, work: Callable[[], Result]) -> None:
        self.crew, self.caller = crew, caller
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().run_in_executor(crew.pool, work)
        self.future.add_done_callback(_seen)

    def __enter__(self) -> "Job[Result]":
        self.crew.callers.add(self.caller)
        return self

    def __exit__(self, *error: object) -> None:
        self.crew.callers.discard(self.caller)
        if not self.future.done():
            self.caller.cancel()

    def result(self) -> Result:
        """Of a call that is done; a `Refusal` where the models were closed."""
        try:
            return self.future.result()
        except Cancelled:
            raise STOPPING from None


def _seen(future: "asyncio.Future[Any]") -> None:
    """An exception that nobody waits for is no news."""
    if not future.cancelled():
        future.exception()


async def left(receive: Receive) -> None:
    """Wait until the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def finished(job: Job[Result], receive: Receive) -> Result:
    """The call's result; `Gone` where the client goes first."""
    gone = asyncio.ensure_future(left(receive))
    either: set[asyncio.Future[Any]] = {job.future, gone}
    try:
        with job:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not job.future.done():
                raise Gone
            return job.result()
    finally:
        gone.cancel()


#: What a route answers whose client is gone: nobody reads it, but it is counted.
CLIENT_GONE = Refusal(499, "the client is gone", code="client_gone")
