"""Fetching a picture from an address that a stranger named, without reaching anything that is not public.

The name is looked up once; every address that it has must be public, and the connection goes to the very address that
was checked, so a name that changes between check and use gains nothing. Redirects are checked anew. No proxy, cookie
or password is used. TLS certificates are verified against the name.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from urllib.parse import SplitResult, quote, urljoin, urlsplit

MOST_REDIRECTS = 3
MOST_URL = 2048  # characters
RESOLVERS = 4  # names looked up at a time
PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAFE = "!#$%&'()*+,/:;=?@[]~"  # of a path and query, besides letters and digits
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
#: IANA's special-purpose addresses and what clouds answer at, written out because Python's versions differ in them.
_DENIED = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # this host, private
        *("169.254.0.0/16", "168.63.129.16/32"),  # link-local with the clouds' metadata; Azure's host
        *("100.64.0.0/10", "198.18.0.0/15"),  # of carriers, for measurements
        *("192.0.0.0/24", "192.88.99.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"),  # protocols
        *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),  # documentation
        *("224.0.0.0/4", "240.0.0.0/4"),  # multicast, reserved and broadcast
        *("fc00::/7", "fe80::/10", "ff00::/8"),  # private, link-local, multicast
        *("2001::/23", "2620:4f:8000::/48"),  # protocols, Teredo and ORCHID among them
        *("2001:db8::/32", "3fff::/20"),  # documentation
    )
]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether it is global unicast; an IPv6 address that stands for an IPv4 address is as public as that one."""
    if any(address in network for network in _DENIED):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _UNICAST and address.is_global


class Fetcher:
    """Gets a file of at most `most` bytes within `seconds`, redirects included.

    `allowed` and `ports` are what a test changes: which addresses may be reached, and which ports (None: any).
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        allowed: Callable[[Address], bool] = is_public,
        ports: frozenset[int] | None = frozenset(PORTS.values()),
    ) -> None:
        self.most, self.seconds, self.allowed, self.ports = most, seconds, allowed, ports
        self._resolvers = ThreadPoolExecutor(RESOLVERS, "resolve")  # a name may hang, and nobody else waits for it

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def fetch(self, url: str) -> bytes:
        """The body of a 200; ValueError says in one line why there is none, and nothing of where it is."""
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    found = await self._get(_split(url))
                    if isinstance(found, bytes):
                        return found
                    url = urljoin(url, found)
        except TimeoutError:
            raise ValueError(f"it did not come within {self.seconds:g} seconds") from None
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, UnicodeError):
            raise ValueError("it could not be fetched") from None
        raise ValueError(f"more than {MOST_REDIRECTS} redirects")

    async def _get(self, url: SplitResult) -> bytes | str:
        """The body, or where a redirect leads."""
        host, port = _host(url), _port(url)
        if self.ports is not None and port not in self.ports:
            raise ValueError(f"port {port} is not allowed")
        reader, writer = await self._connected(await self._addresses(host, port), port, host, url.scheme == "https")
        try:
            writer.write(_request(url, host, port))
            return await self._answer(reader)
        finally:
            writer.transport.abort()

    async def _addresses(self, host: str, port: int) -> list[str]:
        """The addresses of the host, all of which are allowed."""
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._resolvers, lookup)
        texts = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if not texts or not all(self.allowed(ipaddress.ip_address(text)) for text in texts):
            raise ValueError("the address is not public")
        return texts

    async def _connected(
        self, addresses: list[str], port: int, host: str, encrypted: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first of the addresses that takes one."""
        context, name = (self.context, host) if encrypted else (None, None)
        for address in addresses[:-1]:
            with suppress(OSError):
                return await asyncio.open_connection(address, port, ssl=context, server_hostname=name)
        return await asyncio.open_connection(addresses[-1], port, ssl=context, server_hostname=name)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes | str:
        import h11

        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))  # what is sent is written above
        connection.send(h11.EndOfMessage())
        pieces, size = [], 0
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                raise ValueError("its server speaks no HTTP") from None
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                if (place := _redirect(event)) is not None:
                    return place
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > self.most:
                    raise ValueError(f"it is over {self.most:,} bytes")
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(pieces)
            elif not isinstance(event, h11.InformationalResponse):
                raise ValueError("its server hung up")


def _redirect(response: object) -> str | None:
    """Where it leads; None for a 200, ValueError for anything else."""
    status, headers = response.status_code, dict(response.headers)  # type: ignore[attr-defined]
    if status == 200:
        return None
    place: bytes | None = headers.get(b"location")
    if status in _REDIRECTS and place is not None:
        return place.decode("latin-1")
    raise ValueError(f"its server answered {status}")


def _split(url: str) -> SplitResult:
    """The parts of an address that may be fetched; ValueError for any other."""
    if len(url) > MOST_URL or any(character <= " " or character == "\x7f" for character in url) or "\\" in url:
        raise ValueError(f"no address: give one of at most {MOST_URL} characters, without spaces")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("no address") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("only http and https addresses are fetched")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a name or password in it is not fetched")
    return parts


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    if "%" in host:
        raise ValueError("no address")
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _port(url: SplitResult) -> int:
    return PORTS[url.scheme] if url.port is None else url.port


def _request(url: SplitResult, host: str, port: int) -> bytes:
    target = quote(url.path or "/", safe=_SAFE) + (f"?{quote(url.query, safe=_SAFE)}" if url.query else "")
    named = f"[{host}]" if ":" in host else host
    shown = named if port == PORTS[url.scheme] else f"{named}:{port}"
    lines = [f"GET {target} HTTP/1.1", f"Host: {shown}", "Accept: image/*", "Accept-Encoding: identity"]
    return "\r\n".join([*lines, "User-Agent: chainofstep", "Connection: close", "", ""]).encode("ascii")
