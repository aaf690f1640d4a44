"""Errors in the shape that OpenAI's clients read, each one line, without a path of this machine."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from chainofstep.records import SamplingErrors

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_MOST_SHOWN = 500  # characters of a message
#: An absolute path of two parts or more; addresses (after a colon or slash) are none.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"(),:;]+/)+[^\s'\"(),:;]*")
#: What pydantic says of an outright unknown field, and of a discriminated one.
_UNKNOWN = "extra_forbidden"


@dataclass
class Refusal(Exception):
    """A request that gets an error: its HTTP status, one line, the field at fault, a name for programs."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None  # seconds

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON of the reply."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def body(self) -> bytes:
        return as_json(self.fields)


def as_json(value: Any) -> bytes:
    """UTF-8, also where a text holds half of a surrogate pair."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def refusal_of(error: BaseException) -> Refusal:
    """What the client is told: the line of a ValueError, and of anything else only that it happened."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, SamplingErrors):
        return Refusal(422, shown(error.failures[min(error.failures)]), code="not_sampled")
    if isinstance(error, ValueError):
        return Refusal(422, shown(str(error)), code="invalid_value")
    log.error("a request failed", exc_info=error)
    return Refusal(500, "the server failed on this request; its log says why", code="internal_error")


def shown(text: str) -> str:
    """One line without paths."""
    line = _PATH.sub("a file of the server", " ".join(text.split()))
    return line if len(line) <= _MOST_SHOWN else line[:_MOST_SHOWN] + "..."


def of_fields(errors: Sequence[Any]) -> Refusal:
    """pydantic's complaints as one line that names the first field that does not fit."""
    first = _telling(errors)
    place = _place(first.get("loc", ()))
    if first.get("type") == _UNKNOWN:
        return Refusal(422, shown(f"{place} is not supported; leave it out"), place, "unsupported_field")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refusal(422, shown(f"{place or 'the body'}: {first.get('msg', 'does not fit')}{more}"), place, "wrong_field")


def _telling(errors: Sequence[Any]) -> Any:
    """Of a field that may be several things each has a complaint: the deepest knows most."""
    top = _place(errors[0].get("loc", ())).partition(".")[0]
    return max(
        (error for error in errors if _place(error.get("loc", ())).partition(".")[0] == top),
        key=lambda error: len(error.get("loc", ())),
    )


def _place(parts: Sequence[Any]) -> str:
    """`messages.0.content`: without FastAPI's `body` and the names of pydantic's branches."""
    named = [str(part)[:100] for part in parts if part != "body"]
    plain = [part for part in named if not re.search(r"[\[\]()]|^(?:str|TextPart|ImagePart|GivenChain)$", part)]
    return ".".join(plain)


def install(app: "FastAPI") -> None:
    """All errors of an app's routes in this shape."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException

    def answer(refusal: Refusal) -> Response:
        return Response(refusal.body, refusal.status, refusal.headers, "application/json")

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return answer(of_fields(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # a body that is no JSON: a wrong field like all others
            return answer(Refusal(422, "the body is no JSON object; send one in UTF-8", code="invalid_json"))
        phrase = HTTPStatus(error.status_code).phrase.lower()
        refusal = Refusal(error.status_code, f"{phrase}: {shown(request.method)} {request.url.path[:200]}")
        found = answer(refusal)
        if error.headers:
            found.headers.update(error.headers)
        return found
