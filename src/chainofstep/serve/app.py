"""The server: its routes, what stands before them, and the page."""

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainofstep.answering import Models
from chainofstep.serve import errors
from chainofstep.serve.asking import methods_of
from chainofstep.serve.chat import Desk, chat
from chainofstep.serve.described import STREAMED, WORK_ERRORS, answers, describe
from chainofstep.serve.documentation import page_of
from chainofstep.serve.errors import Refusal, refusal_of
from chainofstep.serve.fetch import Fetcher
from chainofstep.serve.guard import (
    Application,
    BodyLimit,
    HeadIsGet,
    KeyGuard,
    OneLength,
    OwnHost,
    Queue,
    SecurityHeaders,
    foreign_host,
    known_hosts,
)
from chainofstep.serve.jobs import Crew
from chainofstep.serve.metrics import Counted, Metrics
from chainofstep.serve.pictures import Pictures
from chainofstep.serve.replies import Row
from chainofstep.serve.reply_schema import ChatReply, HealthReply, ModelReply, ModelsReply, ScoreReply
from chainofstep.serve.schema import ChatRequest, ScoreRequest
from chainofstep.serve.score import score
from chainofstep.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_ICON = "/favicon.ico"
_ROUTES = ("/v1/chat/completions", "/v1/score", "/v1/models", "/health", "/metrics", "/docs", "/openapi.json", "/")


def _page_files() -> dict[str, Path]:
    """The files of the playground and of /docs by the path of their address: a list that no request can add to."""
    found = [
        path for path in STATIC.iterdir() if path.name.startswith(("play", "common", "docs")) and path.suffix in _TYPES
    ]
    return {f"/static/{path.name}": path for path in found} | {"/": STATIC / "play.html"}


@dataclass
class Server:
    """An application and what its owner calls in the end: `stop`, so that nothing new begins, then `close`."""

    app: Application
    api: "FastAPI"
    queue: Queue
    pictures: Pictures
    crew: Crew
    timer: threading.Timer | None = None

    def stop(self, grace: float) -> None:
        """New requests get 503 from now on, those in progress after so many seconds."""
        self.queue.stopping = True
        self.timer = threading.Timer(grace, self.crew.cancel)
        self.timer.daemon = True
        self.timer.start()

    def close(self) -> None:
        """Nothing is kept: threads end with their calls, pictures are removed."""
        if self.timer is not None:
            self.timer.cancel()
        self.crew.close()
        self.pictures.close()


def app(models: Models, settings: ServeSettings, fetcher: Fetcher | None = None) -> Server:
    """The server of these models, which must be open as long as it runs. `fetcher` is for tests."""
    from fastapi import FastAPI

    pictures = Pictures(settings, fetcher)
    crew = Crew(settings.queue)

    api = FastAPI(title="chain-of-step", docs_url=None, redoc_url=None, description=_ABOUT)
    errors.install(api)
    queue: Queue
    metrics = Metrics(models, lambda: queue.in_progress)
    queue = Queue(api, settings.queue, metrics.refuse)
    _work_routes(api, Desk(models, settings, pictures, metrics, crew))
    _other_routes(api, models, settings, metrics, queue)
    files = _page_files() if settings.page else {}
    _page_routes(api, files)
    describe(api, bool(settings.keys))
    guarded = _guarded(queue, settings, {"/health", _ICON, *files}, metrics)
    return Server(Counted(SecurityHeaders(guarded), metrics, frozenset(_ROUTES)), api, queue, pictures, crew)


def _guarded(queue: Queue, settings: ServeSettings, opened: Collection[str], metrics: Metrics) -> Application:
    """The queue behind all that a request must pass before a place is asked for."""
    refused, unfinished = metrics.refuse, settings.unfinished * settings.queue
    limits = (settings.most_body, settings.most_bodies, unfinished, settings.body_seconds)
    guarded: Application = KeyGuard(BodyLimit(queue, *limits, refused), settings.keys, opened, refused)
    if settings.own_host:
        guarded = OwnHost(guarded, known_hosts(settings.own_host), foreign_host(refused))
    return OneLength(HeadIsGet(guarded), refused)


_ABOUT = "OpenAI's chat completions, with steps, their scores and search; and the scores alone."


def _work_routes(api: "FastAPI", desk: Desk) -> None:
    from fastapi import Request
    from fastapi.responses import Response

    async def answered(work: Any) -> Any:
        try:
            found = await work
        except Exception as error:
            raise refusal_of(error) from None
        return found if isinstance(found, Response) else Response(errors.as_json(found), media_type="application/json")

    @api.post("/v1/chat/completions", responses=answers(ChatReply, *WORK_ERRORS, more=STREAMED))
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        """Sample chains, or search for the best one."""
        return await answered(chat(desk, body, request))

    @api.post("/v1/score", responses=answers(ScoreReply, *WORK_ERRORS))
    async def scores(body: ScoreRequest, request: Request) -> Any:
        """Score the steps of chains."""
        return await answered(score(desk, body, request))


def _other_routes(api: "FastAPI", models: Models, settings: ServeSettings, metrics: Metrics, queue: Queue) -> None:
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

    entries = model_rows(models, settings)

    @api.get("/v1/models", responses=answers(ModelsReply))
    async def listed() -> Any:
        """The model, and the model with each search method."""
        return {"object": "list", "data": entries}

    @api.get("/v1/models/{name:path}", responses=answers(ModelReply, 404))
    async def one_model(name: str) -> Any:
        """One of them."""
        for entry in entries:
            if entry["id"] == name:
                return entry
        raise Refusal(404, f"no model {name[:100]!r}; see /v1/models", "model", "model_not_found")

    @api.get("/health", responses=answers(HealthReply) | {503: {"model": HealthReply, "description": "stopping"}})
    async def health() -> Any:
        """Whether requests are taken."""
        status = "stopping" if queue.stopping else "ok"
        told = {"status": status, "model": models.name, "prm": models.prm_name, "in_progress": queue.in_progress}
        return JSONResponse(told, 503 if queue.stopping else 200)

    @api.get("/metrics", response_class=PlainTextResponse)
    async def counted() -> Response:
        """Counters, as Prometheus reads them."""
        content, kind = metrics.text()
        return Response(content, media_type=kind)

    @api.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(page_of(api.openapi()))


def model_rows(models: Models, settings: ServeSettings) -> list[Row]:
    """What GET /v1/models lists: the model first, then each of its methods."""
    methods = list(methods_of(models.prm_name))
    facts = {"object": "model", "created": 0, "owned_by": "chainofstep", "methods": methods, "prm": models.prm_name}
    facts |= {"n": settings.n, "max_tokens": settings.max_tokens, "context": models.context}
    rows = [{"id": name, **facts} for name in (models.name, *(f"{models.name}:{method}" for method in methods))]
    rows[0]["tokens"] = models.control_tokens()
    if models.prm_name not in (None, models.name):  # other programs of this package score by it: NAME@URL
        judge = {**facts, "id": models.prm_name, "methods": [], "tokens": models.control_tokens(of_prm=True)}
        rows.append(judge)
    return rows


def _page_routes(api: "FastAPI", files: dict[str, Path]) -> None:
    from fastapi.responses import FileResponse, Response

    def serve(address: str, path: Path) -> None:
        @api.get(address, include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(path, media_type=_TYPES[path.suffix], headers={"cache-control": "no-cache"})

    @api.get(_ICON, include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)  # there is none; browsers ask all the same

    for address, path in files.items():
        if os.path.exists(path):
            serve(address, path)
