"""The server of `cos view`: a page, the JSON that it asks for, and labels by hand.

It is for one person at their own machine. Ids and names of sets are looked up among what the run folders hold and
never joined to a path; pictures leave as newly encoded pixels; other sites' pages can neither ask it nor post to it.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chainofstep.problems.pictures import PictureError
from chainofstep.serve.guard import OwnHost, SecurityHeaders, known_hosts
from chainofstep.view.calibration import calibration_of
from chainofstep.view.facts import FIRST
from chainofstep.view.hand import Hand, correct
from chainofstep.view.items import item_of, pairs_page
from chainofstep.view.lists import ANSWERS, SORTS, Filter, list_page
from chainofstep.view.opened import NotThere, Shelf
from chainofstep.view.overview import runs_page
from chainofstep.view.pictures import OutsideRun, encoded
from chainofstep.view.texts import example_of

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MOST_LISTED, MOST_QUERY, MOST_BODY = 500, 100_000, 1_000_000
PATIENCE = 1.5  # seconds that a list waits for the first facts of a set
ICON = "/favicon.ico"  # every browser asks for one


class Refused(ValueError):
    """A request that is not answered, with its status."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def view_app(runs: Sequence[Path], host: str = "127.0.0.1", folders: Sequence[Path] = ()) -> "FastAPI":
    """The viewer of these run folders, to be bound to `host`. `ValueError` for a folder without anything to show.

    Pictures that rows name outside their run are shown from `folders` alone.
    """
    from fastapi import FastAPI

    shelf = Shelf(runs, folders)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        shelf.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    viewer = _Viewer(shelf)
    for name in ("runs", "items", "item", "pairs", "calibration", "picture"):
        app.add_api_route(f"/api/{name}", _reading(getattr(viewer, name)), methods=["GET"])
    app.add_api_route("/api/labels", _writing(viewer.label), methods=["POST"])
    _add_pages(app)
    _add_errors(app)
    app.add_middleware(OwnHost, known=known_hosts(host), refusal=_foreign_host)
    app.add_middleware(SecurityHeaders)
    return app


# What is asked


class _Asked:
    """The parameters of a request. `ValueError` names the one that is wrong."""

    def __init__(self, values: Mapping[str, str]):
        self.values = values

    def text(self, name: str) -> str:
        return self.values.get(name, "")

    def choice(self, name: str, options: Iterable[str]) -> Any:
        options = list(options)
        value = self.text(name) or options[0]
        if value not in options:
            raise ValueError(f"{name} is {value[:50]!r}: give one of {', '.join(options)}")
        return value

    def whole(self, name: str, default: int | None, most: int = 10**9) -> Any:
        value = self.text(name)
        if not value:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 12 and int(value) <= most):
            raise ValueError(f"{name} is {value[:50]!r}: give a whole number from 0 to {most}")
        return int(value)

    def share(self, name: str, default: float) -> float:
        value = self.text(name)
        try:
            number = float(value or default)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise ValueError(f"{name} is {value[:50]!r}: give a number from 0 to 1")
        return number


class _Viewer:
    """The answers, as JSON values."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf

    def runs(self, asked: _Asked) -> dict[str, Any]:
        self.shelf.refresh()
        return runs_page(self.shelf)

    def items(self, asked: _Asked) -> dict[str, Any]:
        run, one = self.shelf.run(asked.text("run")), self.shelf.set(asked.text("run"), asked.text("set"))
        hand = Hand(run.path)
        scorer = asked.text("scorer")
        if scorer not in ("", "hand", *one.scores):
            raise ValueError(f"scorer is {scorer[:50]!r}: give one of {', '.join((*one.scores, 'hand'))}")
        wanted = Filter(
            family=asked.text("family"),
            answer=asked.choice("answer", ANSWERS),
            scorer=scorer,
            disagree=asked.choice("disagree", ("0", "1")) == "1",
            low=asked.share("low", 0.0),
            high=asked.share("high", 1.0),
            shortest=asked.whole("shortest", None),
            longest=asked.whole("longest", None),
            text=asked.text("text").strip(),
            sort=asked.choice("sort", SORTS),
        )
        offset, limit = asked.whole("offset", 0), asked.whole("limit", 50, MOST_LISTED)
        self.shelf.want(one)
        one.facts.wait(FIRST, PATIENCE)
        return list_page(run, one, wanted, offset, limit, hand.lowest(one.files.id))

    def item(self, asked: _Asked) -> dict[str, Any]:
        run, one = self.shelf.run(asked.text("run")), self.shelf.set(asked.text("run"), asked.text("set"))
        return item_of(run, one, asked.text("id"), Hand(run.path))

    def pairs(self, asked: _Asked) -> dict[str, Any]:
        offset, limit = asked.whole("offset", 0), asked.whole("limit", 50, MOST_LISTED)
        return pairs_page(self.shelf.run(asked.text("run")), asked.text("pairs"), offset, limit)

    def calibration(self, asked: _Asked) -> dict[str, Any]:
        one = self.shelf.set(asked.text("run"), asked.text("set"))
        return calibration_of(one, asked.text("scorer") or "prm")

    def picture(self, asked: _Asked) -> tuple[bytes, str]:
        run, one = self.shelf.run(asked.text("run")), self.shelf.set(asked.text("run"), asked.text("set"))
        name, number = asked.text("id"), asked.whole("number", 0)
        example = example_of(one.examples.row(name)) if name in one.rows else None
        if example is None or number >= len(example.images):
            raise NotThere(f"question {name[:100]!r} has no picture {number}: choose one of /api/item")
        shown = f"picture {Path(example.images[number]).name[:100]!r}"
        try:
            path = run.picture(one, example.images[number])
        except OutsideRun as error:
            raise NotThere(f"{shown} is {error}") from None
        if path is None:
            raise NotThere(f"{shown} is not there: put it in the run folder")
        return encoded(path)

    def label(self, body: Any) -> dict[str, Any]:
        names = ("run", "set", "id")
        if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in names):
            raise ValueError("a label needs run, set and id as texts: give them in a JSON object")
        index, step = body.get("index"), body.get("step")
        if type(index) is not int or type(step) is not int:
            raise ValueError(f"index and step are {str([index, step])[:50]}: give whole numbers")
        label = body.get("label", "")
        if label is not None and type(label) not in (int, float):
            raise ValueError(f"label is {str(label)[:50]!r}: give 1, 0.5, 0, or null to take it back")
        run, one = self.shelf.run(body["run"]), self.shelf.set(body["run"], body["set"])
        return {"labels": correct(run, one, body["id"], index, step, label)}


# Routes


def _reading(answer: Callable[[_Asked], Any]) -> Callable[..., Any]:
    from fastapi import Request
    from fastapi.responses import Response

    def route(request: Request) -> Response:
        if len(request.url.query) > MOST_QUERY:
            raise ValueError(f"the query has {len(request.url.query)} characters: give at most {MOST_QUERY}")
        found = answer(_Asked(request.query_params))
        if isinstance(found, tuple):
            return Response(found[0], media_type=found[1], headers={"Cache-Control": "private, max-age=600"})
        return _json(found)

    return route


def _writing(answer: Callable[[Any], Any]) -> Callable[..., Any]:
    from fastapi import Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import Response

    async def route(request: Request) -> Response:
        body = await _body(request)
        return _json(await run_in_threadpool(answer, body))

    return route


async def _body(request: "Request") -> Any:
    """The JSON of a request that this page's own script sent."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body is no JSON: send it with Content-Type: application/json")
    origin = request.headers.get("origin", "")
    if urlsplit(origin).netloc != request.headers["host"] or urlsplit(origin).scheme not in ("http", "https"):
        raise Refused(403, f"Origin is {origin[:100]!r}, which is not this viewer's: use its own page")
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_BODY:
            raise Refused(413, f"the body has more than {MOST_BODY} bytes: send one label at a time")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON: send an object with run, set, id, index, step, label") from None


def _json(value: Any, status: int = 200) -> "Response":
    """In ASCII: texts of models may hold halves of characters, which no encoding has."""
    from fastapi.responses import Response

    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(content, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _add_pages(app: "FastAPI") -> None:
    """The page at `/`, and its styles and modules: files of this package by a list that is fixed here."""
    from fastapi.responses import Response

    static = Path(str(files("chainofstep") / "serve" / "static"))
    parts = sorted([*static.glob("view*.*"), *static.glob("common.*")])
    served = {"/": static / "view.html"} | {f"/static/{path.name}": path for path in parts if path.suffix in TYPES}

    def page(path: Path) -> Response:
        return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})

    for address, path in served.items():
        app.add_api_route(address, _fixed(partial(page, path)), methods=["GET"])
    app.add_api_route(ICON, _fixed(lambda: Response(status_code=204)), methods=["GET"])


def _fixed(answer: Callable[[], Any]) -> Callable[..., Any]:
    """A route without parameters: a partial's would be taken for some."""
    from fastapi.responses import Response

    def route() -> Response:
        found: Response = answer()
        return found

    return route


def _add_errors(app: "FastAPI") -> None:
    """Every refusal is {"error": one line}."""
    from starlette.exceptions import HTTPException

    def refuse(status: int | None) -> Callable[..., Any]:
        def answer(request: Any, error: Any) -> Any:
            if isinstance(error, HTTPException):
                return _json({"error": f"{error.detail}: see the page at /"}, error.status_code)
            code = error.status if isinstance(error, Refused) else status
            return _json({"error": " ".join(str(error).split())}, code or 400)

        return answer

    for kind, status in ((HTTPException, None), (NotThere, 404), (PictureError, 404), (ValueError, 400)):
        app.add_exception_handler(kind, refuse(status))
    app.add_exception_handler(OSError, refuse(403))


def _foreign_host(host: str) -> "Response":
    return _json({"error": f"Host is {host!r}, which is not this viewer's: use the address that it printed"}, 421)
