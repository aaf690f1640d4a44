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
#: Of a text with half of a surrogate pair, which JSON can spell; where its length is bounded pydantic sees it itself.
HALF, _HALF_SEEN = "a text holds half of a surrogate pair; send whole characters", "string_unicode"
#: How the engine names a request of a call; here each call has one.
_NUMBERED = re.compile(r"^request \d+ \(example '[^']*'\): ")
#: What the engine says where all that it goes on from is too long. What it calls a prefix is mostly a question here.
_TOO_LONG = re.compile(r"^(\d+) prefix tokens and max_tokens=(\d+) exceed the model's context of (\d+);.*", re.DOTALL)
_QUESTION_TOO_LONG = (
    r"the question with its pictures and the assistant's text has \1 tokens, and with max_tokens=\2 they exceed the "
    r"model's context of \3; shorten the question or ask for fewer tokens"
)


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
        if self.status == 400:  # where the next request begins is not known
            found["connection"] = "close"
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
    """One line without paths, in the words of a client."""
    line = _PATH.sub("a file of the server", " ".join(text.split()))
    line = _TOO_LONG.sub(_QUESTION_TOO_LONG, _NUMBERED.sub("", line))
    return line if len(line) <= _MOST_SHOWN else line[:_MOST_SHOWN] + "..."


def of_fields(errors: Sequence[Any]) -> Refusal:
    """pydantic's complaints as one line that names the first field that does not fit."""
    first = _telling(errors)
    if first.get("type") == "json_invalid":
        reason, number = first["ctx"]["error"], first["loc"][-1]
        return Refusal(422, shown(f"the body is no JSON: {reason} at character {number}"), code="invalid_json")
    place = _place(first.get("loc", ()))
    if first.get("type") == _UNKNOWN:
        return Refusal(422, shown(f"{place} is not supported; leave it out"), place, "unsupported_field")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    reason = HALF if first.get("type") == _HALF_SEEN else first.get("msg", "does not fit")
    message = f"{place or 'the body'}: {reason}{more}"
    return Refusal(422, shown(message), place or None, "wrong_field")


def _kind_of(header: str) -> Refusal | None:
    """The refusal of a body that is sent as something else than JSON."""
    kind = header.partition(";")[0].strip().lower()
    if kind.startswith("application/") and kind.endswith(("/json", "+json")):
        return None
    given = f"Content-Type is {header[:100]!r}" if header else "there is no Content-Type"
    return Refusal(422, f"{given}; send JSON with the header Content-Type: application/json", code="content_type")


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
    plain = [
        part
        for part in named
        if not re.search(r"[\[\]()]|^(?:str|constrained-str|TextPart|ImagePart|GivenChain)$", part)
    ]
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
        return answer(_kind_of(request.headers.get("content-type", "")) or of_fields(error.errors()))

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
