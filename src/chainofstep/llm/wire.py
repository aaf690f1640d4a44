"""One server, as bytes go to it and come back. The official SDK does the HTTP.

Bodies are sent and read as bytes, past the models of the SDK, which would take a third of the CPU time and check
nothing. Its own retries are off, for they know nothing of the other requests in flight.
"""

import asyncio
import os
from dataclasses import replace
from typing import Any

from chainofstep.llm.records import Endpoint, EndpointDown
from chainofstep.llm.reply import Trouble, read_refusal, shortened

NO_KEY = "none"  # sent to servers that want none: the SDK and some servers take no empty one
SPARE = 4  # connections beyond those of requests, so that a look at a busy server's health need not wait for one
NO_CONNECTION = "no connection: "  # how the reason begins where nobody listens


class Wire:
    """The connections to one endpoint, for one event loop; `close` ends them.

    `path` is below the endpoint's base_url, or a whole address.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.heard = False  # the server has said anything at all
        self._key = _key(endpoint)
        self._http = self._connect()

    def _connect(self) -> Any:
        import httpx2
        import openai

        most = self.endpoint.concurrency + SPARE
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.endpoint.base_url,
            max_retries=0,
            timeout=None,  # `_send` times the attempt as a whole
            http_client=openai.DefaultAsyncHttpx2Client(
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most), timeout=None
            ),
        )

    async def close(self) -> None:
        await self._http.close()

    async def post(self, path: str, body: bytes, structured: bool = False) -> bytes | Trouble:
        """The body of a 2xx, or what came instead. `structured`: the request has a schema, which may be refused."""
        options = {"headers": {"Content-Type": "application/json"}}
        sending = {"content": body, "options": options}
        return await self._send("post", path, sending, self.endpoint.timeout_seconds, structured)

    async def get(self, path: str, seconds: float = 10.0) -> bytes | Trouble:
        """The body of a 2xx, or what came instead, within `seconds`."""
        return await self._send("get", path, {}, seconds, False)

    async def _send(
        self, method: str, path: str, sending: dict[str, Any], seconds: float, structured: bool
    ) -> bytes | Trouble:
        import httpx2
        import openai

        try:
            async with asyncio.timeout(seconds):
                response = await getattr(self._http, method)(path, cast_to=httpx2.Response, **sending)
        except openai.APIStatusError as error:
            self.heard = True
            refused = error.response
            trouble = read_refusal(refused.status_code, refused.headers, refused.content, structured)
            return replace(trouble, reason=self.without_key(trouble.reason))
        except TimeoutError:
            return Trouble("again", f"time-out: no whole reply within {seconds:g} s")
        except openai.APIConnectionError as error:
            return _broken(error.__cause__ or error)
        self.heard = True
        content: bytes = response.content
        return content

    def without_key(self, text: str) -> str:
        """Servers repeat the key in their complaints about it."""
        return text.replace(self._key, "***") if self._key != NO_KEY else text


def _broken(cause: BaseException) -> Trouble:
    """A connection that could not be made, or did not last for the whole reply."""
    import httpx2

    what = shortened(str(cause)) or type(cause).__name__
    if isinstance(cause, httpx2.ConnectError):
        return Trouble("again", NO_CONNECTION + what)
    return Trouble("again", f"cut reply: {what}")


def _key(endpoint: Endpoint) -> str:
    key = os.environ.get(endpoint.key_variable, "").strip() or NO_KEY
    if not (key.isascii() and key.isprintable()):
        raise EndpointDown(
            f"the environment variable {endpoint.key_variable} holds characters that no key has: copy the key anew"
        )
    return key
