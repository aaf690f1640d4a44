"""A server that speaks the OpenAI protocol and holds no model: replies come from a function, failures from a list.

In a test, `with StandIn(script) as server: ...server.base_url...`; for trying things out without a model

    python -m chainofstep.llm.stand_in --port 8000 --reply-file reply.txt

It says that it is a stand-in in its model's name, in /v1/models and in every reply.
"""

import asyncio
import contextlib
import importlib
import json
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chainofstep.llm.estimate import TOKENS_A_PICTURE, estimated_tokens
from chainofstep.llm.faults import FAULT_NAMES, NO_FAULTS, Fault, Faults

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

MODEL = "stand-in"
_SECONDS_A_BYTE = 0.05  # of a drip


@dataclass(frozen=True)
class StandInRequest:
    """What was asked, as a script sees it."""

    system: str
    text: str
    images: int
    schema: Mapping[str, Any] | None
    body: Mapping[str, Any]
    headers: Mapping[str, str]


Script = Callable[[StandInRequest], str]


@dataclass
class Counts:
    """What the server has seen of requests for completions."""

    requests: int = 0
    answered: int = 0  # whole replies sent, right or wrong
    in_flight: int = 0
    most_in_flight: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    arrivals: list[float] = field(default_factory=list)  # time.monotonic()
    bodies: Counter[bytes] = field(default_factory=Counter)


@dataclass
class Behaviour:
    """How the server answers; a test may change it while the server runs."""

    script: Script
    latency: float = 0.0  # seconds before every answer
    faults: Faults = NO_FAULTS
    key: str | None = None  # that requests must bring
    takes_schema: bool = True  # otherwise 400 for a request with a response_format
    model: str = MODEL


class StandIn:
    """The server in a thread of this process, on a free port unless one is named; gone when the block is left."""

    def __init__(
        self,
        script: Script,
        latency: float = 0.0,
        faults: Faults = NO_FAULTS,
        *,
        key: str | None = None,
        takes_schema: bool = True,
        model: str = MODEL,
        port: int = 0,
    ) -> None:
        self.behaviour = Behaviour(script, latency, faults, key, takes_schema, model)
        self.counts = Counts()
        self._wanted_port = port

    def __enter__(self) -> "StandIn":
        import uvicorn

        self._socket = socket.create_server(("127.0.0.1", self._wanted_port), backlog=2048)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self.behaviour, self.counts),
                log_level="critical",
                access_log=False,
                lifespan="off",
                timeout_keep_alive=600,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="stand-in", daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True  # hanging requests are not waited for
        self._thread.join()
        self._socket.close()


def application(behaviour: Behaviour, counts: Counts) -> "FastAPI":
    """The routes: completions, models, and /counts, which no model has."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    server = FastAPI()

    @server.post("/v1/chat/completions")
    async def completions(request: Request) -> Any:
        content = await request.body()
        counts.requests += 1
        counts.arrivals.append(time.monotonic())
        counts.in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)
        try:
            return await _answer(behaviour, counts, request, content)
        finally:
            counts.in_flight -= 1

    @server.get("/v1/models")
    async def models(request: Request) -> Any:
        if not _is_allowed(behaviour, request):
            return _error(401, "invalid_api_key", "wrong key")
        listed = {"id": behaviour.model, "object": "model", "created": 0, "owned_by": "chainofstep stand-in"}
        return {"object": "list", "data": [listed]}

    @server.get("/counts")
    async def seen() -> Any:
        shown = {name: value for name, value in asdict(counts).items() if name not in ("arrivals", "bodies")}
        return JSONResponse(shown)

    return server


async def _answer(behaviour: Behaviour, counts: Counts, request: "Request", content: bytes) -> "Response":
    if not _is_allowed(behaviour, request):
        return _error(401, "invalid_api_key", f"wrong key: {request.headers.get('authorization', 'none')}")
    fault = behaviour.faults.strike(counts.requests, content, counts.bodies[content])
    counts.bodies[content] += 1
    counts.faults.update([fault] if fault else [])
    if await _left(request, None if fault == "hang" else behaviour.latency):
        return _error(499, "left", "the client has left")
    body = json.loads(content)
    if body.get("model") != behaviour.model:
        return _error(404, "model_not_found", f"no model {body.get('model')!r}")
    if "response_format" in body and not behaviour.takes_schema:
        return _error(400, "invalid_request_error", "response_format of type json_schema is not supported")
    if fault in _REFUSALS:
        return _REFUSALS[fault](behaviour)
    counts.answered += fault not in ("cut", "drip")
    return _reply(behaviour, _read(body, request.headers), fault)


def _is_allowed(behaviour: Behaviour, request: "Request") -> bool:
    given = request.headers.get("authorization", "").encode("latin-1")
    return behaviour.key is None or secrets.compare_digest(given, f"Bearer {behaviour.key}".encode())


async def _left(request: "Request", seconds: float | None) -> bool:
    """Wait; whether the client closed the connection meanwhile. None waits for that alone."""
    if seconds == 0.0:
        return False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return True
    return False


def _read(body: Mapping[str, Any], headers: Mapping[str, str]) -> StandInRequest:
    parts: dict[str, list[Any]] = {"system": [], "user": [], "assistant": []}
    for message in body["messages"]:
        content = message["content"]
        parts[message["role"]] += [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = {
        role: "\n".join(part["text"] for part in listed if part["type"] == "text") for role, listed in parts.items()
    }
    images = sum(part["type"] == "image_url" for part in parts["user"])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    return StandInRequest(said["system"], said["user"], images, schema, body, headers)


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "type": code, "code": code}}, status, dict(headers or {}))


def _not_json(behaviour: Behaviour) -> "Response":
    from fastapi.responses import HTMLResponse

    return HTMLResponse("<html><body>502 Bad Gateway</body></html>")


def _error_object(behaviour: Behaviour) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": "upstream error", "code": 502}})


def _busy(behaviour: Behaviour) -> "Response":
    return _error(429, "rate_limit_exceeded", "too many requests", {"Retry-After": behaviour.faults.retry_after})


#: Faults in place of a completion; the others are faults of one.
_REFUSALS: dict[str | None, Callable[[Behaviour], "Response"]] = {
    "busy": _busy,
    "refused": lambda behaviour: _error(400, "invalid_request_error", "the prompt is too long"),
    "server_error": lambda behaviour: _error(500, "server_error", "the engine died"),
    "not_json": _not_json,
    "error_object": _error_object,
}


def _reply(behaviour: Behaviour, asked: StandInRequest, fault: str | None) -> "Response":
    from fastapi.responses import Response

    text = behaviour.script(asked)
    said = {"error_text": "Error: the upstream model is overloaded.", "empty": "", "half": text[: len(text) // 2]}
    content = json.dumps(_completion(behaviour, asked, said.get(fault or "", text), fault == "half")).encode()
    if fault in ("cut", "drip"):
        return _broken_response(content, fault)
    return Response(content, media_type="application/json")


def _completion(behaviour: Behaviour, asked: StandInRequest, text: str, cut: bool) -> dict[str, Any]:
    """The body of a reply; tokens are counted by the same guess as everywhere where no tokenizer is."""
    prompt_tokens = estimated_tokens(asked.system) + estimated_tokens(asked.text) + TOKENS_A_PICTURE * asked.images
    completion_tokens = estimated_tokens(text)
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {
        "id": "stand-in",
        "object": "chat.completion",
        "created": 0,
        "model": behaviour.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}],
        "usage": {**usage, "total_tokens": prompt_tokens + completion_tokens},
    }


def _broken_response(content: bytes, fault: str) -> "Response":
    from fastapi.responses import Response

    class Broken(Response):
        """Promises the whole body and sends a part of it: uvicorn closes the connection when the rest does not come."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sent = content[: len(content) // 2]
            for piece in [sent] if fault == "cut" else [bytes([byte]) for byte in sent]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(_SECONDS_A_BYTE if fault == "drip" else 0)

    return Broken(content, media_type="application/json")


def _script(reply_file: Path | None, script: str | None) -> Script:
    """The function named MODULE:FUNCTION; otherwise the same text for everyone, or the question said back."""
    if script is not None:
        module, _, name = script.partition(":")
        found: Script = getattr(importlib.import_module(module), name)
        return found
    if reply_file is not None:
        text = reply_file.read_text("utf-8")
        return lambda asked: text
    return lambda asked: f"No model reads this. It said: {asked.text}"


def _faults(named: list[str]) -> Faults:
    """Faults(busy=Fault(rate=0.1)) from ["busy=0.1"]."""
    faults: dict[str, Any] = {}
    for one in named:
        name, _, rate = one.partition("=")
        if name not in FAULT_NAMES:
            raise typer.BadParameter(f"no fault {name!r}; choose from {', '.join(FAULT_NAMES)}")
        faults[name] = Fault(rate=float(rate or 1))
    return Faults(**faults)


def main(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    reply_file: Annotated[Path | None, typer.Option(help="The text of every reply.")] = None,
    script: Annotated[str | None, typer.Option(help="MODULE:FUNCTION from a StandInRequest to the text.")] = None,
    latency: Annotated[float, typer.Option(help="Seconds before every reply.")] = 0.0,
    fault: Annotated[list[str] | None, typer.Option(help="NAME=RATE, such as busy=0.1; several if repeated.")] = None,
    refuse_schema: Annotated[bool, typer.Option(help="Answer 400 to a request with a response_format.")] = False,
) -> None:
    """Serve the OpenAI protocol without a model; the address is printed on the first line. Ctrl-C ends it."""
    behave = _script(reply_file, script)
    with StandIn(behave, latency, _faults(fault or []), takes_schema=not refuse_schema, port=port) as server:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` has its programs ignore it
        print(server.base_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    typer.run(main)
