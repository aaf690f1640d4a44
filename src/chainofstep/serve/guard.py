"""What stands before the routes: security headers, the host that is addressed, keys, bodies, a bound on requests.

Each is an ASGI application around another, outermost first: of a request without a key no byte of the body is read, nor
of one that would find no place in the queue; and a place is taken when the body is whole.
"""

import asyncio
import hmac
import ipaddress
import re
import socket
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
#: A body that brings so many bytes is given as much time again.
PROGRESS = 1_000_000
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


class HeadIsGet:
    """HEAD is answered as GET is; the server that runs this leaves the body out."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)


class OneLength:
    """Refuses a request that tells the length of its body in two ways: a proxy before may have believed the other."""

    def __init__(self, app: Application, refused: Refused) -> None:
        self.app, self.refused = app, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope.get("headers", [])}
        if scope["type"] != "http" or not names >= {b"content-length", b"transfer-encoding"}:
            return await self.app(scope, receive, send)
        self.refused("framing")
        message = "the request has both Content-Length and Transfer-Encoding; send one of them"
        await refuse(scope, receive, send, Refusal(400, message, code="two_lengths"))


class OwnHost:
    """Answers only what is addressed to this machine: a page elsewhere whose name leads here is refused.

    `refusal` makes the answer to a request with another Host, of which it is told.
    """

    def __init__(self, app: Application, known: Callable[[str], bool], refusal: Callable[[str], Application]) -> None:
        self.app, self.known, self.refusal = app, known, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or not self.known(host_of(hosts[0])):
                return await self.refusal(", ".join(hosts)[:100])(scope, receive, send)
        await self.app(scope, receive, send)


def host_of(header: str) -> str:
    """The name in a Host header, without its port; "" for what is none."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?", header)
    return "" if found is None else (found[1] or found[2] or "").lower()


def known_hosts(bound: str) -> Callable[[str], bool]:
    """Which names a server bound to this host answers to.

    Bound to all of the machine's addresses it answers to any address in numbers, which no other site's name is, and
    to the machine's name.
    """
    bound = bound.strip("[]").lower()
    names = {*LOOPBACK, bound}
    if bound not in ("0.0.0.0", "::"):
        return names.__contains__
    names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return lambda name: name in names or _address(name) is not None


def is_loopback(host: str) -> bool:
    """Whether a server bound to this host is reached from its own machine alone."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def foreign_host(refused: Refused) -> Callable[[str], Application]:
    """The answers of a server without keys to requests with another Host."""

    def refusal(host: str) -> Application:
        message = (
            f"Host is {host!r}, and without keys this server answers to this machine's names alone: ask localhost or "
            "127.0.0.1, or start it with keys"
        )

        async def answered(scope: Scope, receive: Receive, send: Send) -> None:
            refused("host")
            await refuse(scope, receive, send, Refusal(421, message, code="foreign_host"))

        return answered

    return refusal


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
    """At most so many requests for the models at a time; the rest get 429."""

    def __init__(self, app: Application, most: int, refused: Refused) -> None:
        self.app, self.most, self.refused = app, most, refused
        self.in_progress = 0
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_work(scope):
            return await self.app(scope, receive, send)
        if (refusal := self.refusal(scope)) is not None:
            return await refuse(scope, receive, send, refusal)
        self.in_progress += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_progress -= 1

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why the request gets no place now, which is counted; None where it would get one."""
        if not _is_work(scope) or not (self.stopping or self.in_progress >= self.most):
            return None
        self.refused("stopping" if self.stopping else "queue")
        return STOPPING if self.stopping else _full(f"{self.most} requests are in progress")


def _is_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in WORK


STOPPING = Refusal(503, "the server is stopping; try another one", code="stopping", retry_after=RETRY_AFTER)


def _full(why: str) -> Refusal:
    return Refusal(429, f"the server is full: {why}; try again later", code="queue_full", retry_after=RETRY_AFTER)


class BodyLimit:
    """Bodies are read whole before they come to the queue: none over `most` bytes, `unfinished` at a time.

    `seconds` is the time in which a body must be there, and given again with each `PROGRESS` bytes. All bodies together
    hold at most `most_together` bytes; one counts until its request is answered.
    """

    def __init__(
        self, queue: Queue, most: int, most_together: int, unfinished: int, seconds: float, refused: Refused
    ) -> None:
        self.queue, self.most, self.seconds, self.refused = queue, most, seconds, refused
        self.most_together, self.most_unfinished = max(most, most_together), unfinished
        self.held = self.unfinished = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            return await self.queue(scope, receive, send)
        if (full := self.queue.refusal(scope)) is not None:
            return await refuse(scope, receive, send, full)
        if self.unfinished >= self.most_unfinished:
            self.refused("queue")
            return await refuse(scope, receive, send, _full(f"{self.unfinished} bodies are still being sent"))
        body = _Body(self)
        try:
            await self._read(body, scope, receive)
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
            await self.queue(scope, body.replay(receive), send)
        finally:
            self.held -= body.size

    async def _read(self, body: "_Body", scope: Scope, receive: Receive) -> None:
        """As `_Body.read`; TimeoutError where it takes too long."""
        self.unfinished += 1
        try:
            async with asyncio.timeout(self.seconds) as deadline:
                await body.read(scope, receive, deadline)
        finally:
            self.unfinished -= 1


class _Body:
    """One request's body, counted while it is read."""

    def __init__(self, limit: BodyLimit) -> None:
        self.limit, self.size = limit, 0
        self.content: bytes | None = None

    def check(self, size: int) -> None:
        """`Refusal` for a body of more bytes than one may have."""
        if size > self.limit.most:
            text = f"the body is over {self.limit.most:,} bytes; send less, or smaller pictures"
            raise Refusal(413, text, code="body_too_large")

    def grow(self, more: int) -> None:
        """Count bytes that came: what is only announced takes no memory from others. `Refusal` for too many."""
        limit = self.limit
        self.check(self.size + more)
        if limit.held + more > limit.most_together:
            raise _full("requests in progress hold all the memory that bodies may")
        limit.held += more
        self.size += more

    async def read(self, scope: Scope, receive: Receive, deadline: asyncio.Timeout) -> None:
        """All of the body; `ConnectionResetError` where the client goes before."""
        told = [value for name, value in scope["headers"] if name == b"content-length"]
        self.check(int(told[0][:20]) if told and told[0].isdigit() else 0)
        loop, pieces, more = asyncio.get_running_loop(), [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            piece, more = message.get("body", b""), message.get("more_body", False)
            before = self.size
            self.grow(len(piece))
            pieces.append(piece)
            if self.size // PROGRESS > before // PROGRESS:
                deadline.reschedule(loop.time() + self.limit.seconds)
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
