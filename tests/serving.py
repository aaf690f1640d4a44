"""A server on loopback for tests of `cos serve`: of a real small model, or of one that says what a script holds."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx2 as httpx
from PIL import Image

from chainofstep.chain import Chain
from chainofstep.models.calls import Cancelled, Sampling
from chainofstep.records import Example, Request, SamplingErrors, Scored
from chainofstep.serve.app import app
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedSampler, ScriptedScorer

NAME, PRM_NAME = "policy", "judge"


class Serving:
    """The server in a thread of this process; gone when the block is left. `url` has no path."""

    def __init__(self, models: Any, settings: ServeSettings | None = None, fetcher: Any = None) -> None:
        self.models, self.settings, self.fetcher = models, settings or ServeSettings(), fetcher

    def __enter__(self) -> "Serving":
        import uvicorn

        self.server = app(self.models, self.settings, self.fetcher)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.server.app, log_level="critical", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.client = httpx.Client(base_url=self.url, timeout=20)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()
        self.server.close()


class ScriptedModels:
    """Models that say what a script holds, and wait where a test wants it.

    Sampling waits for `gate`, which is open unless a test clears it. `step_size` characters come at a time.
    """

    context, live, waiting, running, sampled_tokens, scored_chains = 1024, None, 0, 0, 0, 0

    def __init__(self, script: Any, scorer: ScriptedScorer | None = None, step_size: int = 40) -> None:
        self.sampler, self.scorer, self.step_size = ScriptedSampler(script), scorer, step_size
        self.name, self.prm_name = NAME, PRM_NAME if scorer else None
        self.gate = threading.Event()
        self.gate.set()
        self.begun, self.cancelled = threading.Event(), threading.Event()
        self.callers: list[ScriptedCaller] = []

    def caller(self) -> "ScriptedCaller":
        self.callers.append(ScriptedCaller(self))
        return self.callers[-1]

    def control_tokens(self, of_prm: bool = False) -> dict[str, int]:
        return {}

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return [chr(number) for number in ids]


class ScriptedCaller:
    def __init__(self, models: ScriptedModels) -> None:
        self.models, self.scores, self.cancelled = models, models.scorer is not None, False

    def sample(self, requests: Sequence[Request]) -> Any:
        call = self.begin(requests)
        for _ in call.updates():
            pass
        return call.result()

    def begin(self, requests: Sequence[Request], watched: bool = False) -> Sampling:
        call = Sampling(requests, watched)
        threading.Thread(target=self._run, args=(call,), daemon=True).start()
        return call

    def _run(self, call: Sampling) -> None:
        self.models.begun.set()
        while not self.models.gate.wait(0.01):
            if self.cancelled:
                return call.end(Cancelled())
        if wrong := [number for number, request in enumerate(call.requests) if "too long" in request.example.question]:
            error = SamplingErrors([None], {wrong[0]: "the context of 1024 is too short, see /etc/secret/file"}, ["q"])
            return call.end(error)
        try:
            found = self.models.sampler.sample([replace(request, max_tokens=10**9) for request in call.requests])
        except Exception as error:
            return call.end(error)
        if call.watched:
            self._tell(call, found)
        call.finished = {(n, r.index): r for n, rollouts in enumerate(found) for r in rollouts}
        call.end(Cancelled() if self.cancelled else None)

    def _tell(self, call: Sampling, found: Any) -> None:
        """Texts piece by piece, each piece seen before the next one is made."""
        longest = max(len(rollout.text) for rollouts in found for rollout in rollouts)
        for end in range(self.models.step_size, longest, self.models.step_size):
            if self.cancelled:
                return
            call.tell(
                {
                    (n, rollout.index): rollout.text[len(call.requests[n].prefix) :][:end]
                    for n, rollouts in enumerate(found)
                    for rollout in rollouts
                }
            )
            while call.update is not None:
                time.sleep(0.001)

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        if self.cancelled:
            raise Cancelled
        assert self.models.scorer is not None
        return self.models.scorer.score(items) if items else []

    def cancel(self) -> None:
        self.cancelled = True
        self.models.cancelled.set()


class Answering:
    """A server on loopback that sends what a script holds for each connection, in turn."""

    def __init__(self, *answers: bytes | list[bytes], context: Any = None) -> None:
        self.answers, self.context = answers, context
        self.requests: list[str] = []

    def __enter__(self) -> "Answering":
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self) -> None:
        for answer in self.answers:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(connection, server_side=True) if self.context else connection as stream:
                    self.requests.append(stream.recv(65536).decode())
                    for piece in answer if isinstance(answer, list) else [answer]:
                        stream.sendall(piece)
                        time.sleep(0.02 if isinstance(answer, list) else 0)
            except OSError:
                connection.close()

    def __exit__(self, *error: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


def http_answer(content: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{more}\r\n".encode() + content


def png(size: tuple[int, int] = (12, 12), colour: str = "red", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def ask(question: str = "How many?", *urls: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
