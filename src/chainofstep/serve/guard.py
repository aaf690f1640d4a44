"""What stands before the routes: security headers, keys, a bound on requests, bodies of bounded size.

Each is an ASGI application around another, outermost first: a request without a key takes no place in the queue, and
one that finds no place has no byte of its body read.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from chainofstep.serve.errors import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Refused = Callable[[str], None]  # counts a refusal by its reason

#: Routes that ask the models for something.
WORK = frozenset({"/v1/chat/completions", "/v1/score"})
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
RETRY_AFTER = 2  # seconds after which a place may be free
#: What a refused client is still sending is read and dropped up to here: one that writes does not read its answer.
_DRAINED, _DRAIN_SECONDS = 64_000_000, 2.0


class SecurityHeaders:
    """Headers that keep a browser from doing more than the page needs; nothing of /v1 is kept in a cache."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        private = ((b"cache-control", b"no-store"),) if scope["path"].startswith("/v1/") else ()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", [])}
                more = [pair for pair in (*HEADERS, *private) if pair[0] not in present]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        await self.app(scope, receive, with_headers)


class KeyGuard:
    """Only who brings one of the keys (`Authorization: Bearer KEY`) comes past, except to the open paths."""

    def __init__(self, app: Application, keys: Sequence[str], opened: Collection[str], refused: Refused) -> None:
        self.app, self.opened, self.refused = app, frozenset(opened), refused
        self.keys = [key.encode("ascii") for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or scope["path"] in self.opened or self._fits(scope):
            return await self.app(scope, receive, send)
        self.refused("key")
        message = "no valid API key: send the header Authorization: Bearer KEY"
        await refuse(scope, receive, send, Refusal(401, message, code="invalid_api_key"))

    def _fits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # All are compared, so that the time tells nothing of which.
        equal = [hmac.compare_digest(key.strip(), known) for known in self.keys]
        return scheme.lower() == b"bearer" and any(equal)


class Queue:
    """At most so many requests for the models at a time; the rest get 429 before their body is read."""

    def __init__(self, app: Application, most: int, refused: Refused) -> None:
        self.app, self.most, self.refused = app, most, refused
        self.in_progress = 0
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in WORK:
            return await self.app(scope, receive, send)
        if self.stopping:
            self.refused("stopping")
            return await refuse(scope, receive, send, STOPPING)
        if self.in_progress >= self.most:
            self.refused("queue")
            return await refuse(scope, receive, send, _full(f"{self.most} requests are in progress"))
        self.in_progress += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_progress -= 1


STOPPING = Refusal(503, "the server is stopping; try another one", code="stopping", retry_after=RETRY_AFTER)


def _full(why: str) -> Refusal:
    return Refusal(429, f"the server is full: {why}; try again later", code="queue_full", retry_after=RETRY_AFTER)


class BodyLimit:
    """Bodies are read whole before a route sees them: none over `most` bytes, none slower than `seconds`.

    All that are in progress together hold at most `most_together` bytes; a body counts until its request is answered.
    """

    def __init__(self, app: Application, most: int, most_together: int, seconds: float, refused: Refused) -> None:
        self.app, self.most, self.seconds, self.refused = app, most, seconds, refused
        self.most_together = max(most, most_together)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        body = _Body(self)
        try:
            async with asyncio.timeout(self.seconds):
                await body.read(scope, receive)
        except TimeoutError:
            self.refused("slow")
            late = Refusal(408, f"the body was not there after {self.seconds:g} seconds", code="slow_body")
            await answer(send, late)
        except Refusal as refusal:
            self.refused("size" if refusal.status == 413 else "queue")
            await refuse(scope, receive, send, refusal)
        except ConnectionResetError:
            pass
        else:
            await self.app(scope, body.replay(receive), send)
        finally:
            self.held -= body.size


class _Body:
    """One request's body, counted while it is read."""

    def __init__(self, limit: BodyLimit) -> None:
        self.limit, self.size = limit, 0
        self.content: bytes | None = None

    def grow(self, size: int) -> None:
        """Count up to `size` bytes; `Refusal` where that is too much."""
        limit = self.limit
        if size > limit.most:
            text = f"the body is over {limit.most:,} bytes; send less, or smaller pictures"
            raise Refusal(413, text, code="body_too_large")
        more = max(0, size - self.size)
        if limit.held + more > limit.most_together:
            raise _full("requests in progress hold all the memory that bodies may")
        limit.held += more
        self.size += more

    async def read(self, scope: Scope, receive: Receive) -> None:
        """All of the body; `ConnectionResetError` where the client goes before."""
        told = [value for name, value in scope["headers"] if name == b"content-length"]
        self.grow(int(told[0][:20]) if told and told[0].isdigit() else 0)
        pieces, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            self.grow(size)
            pieces.append(piece)
        self.content = b"".join(pieces)

    def replay(self, receive: Receive) -> Receive:
        """The body as one message, then whatever comes after it."""

        async def replayed() -> Message:
            content, self.content = self.content, None
            if content is not None:
                return {"type": "http.request", "body": content, "more_body": False}
            return await receive()

        return replayed


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer a request whose body was not read."""
    if not any(name == b"expect" for name, _ in scope["headers"]):
        await _drain(receive)
    await answer(send, refusal)


async def answer(send: Send, refusal: Refusal) -> None:
    body = refusal.body
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _drain(receive: Receive) -> None:
    """Read and drop what the client still sends, within bounds."""
    left = _DRAINED
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
