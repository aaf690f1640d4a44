"""The OpenAPI document: what each route may answer, so that clients can be generated from it."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chainofstep.serve.reply_schema import ChatChunk, ErrorReply

if TYPE_CHECKING:
    from fastapi import FastAPI

Responses = dict[int | str, dict[str, Any]]
_REFERENCE = "#/components/schemas/{model}"
_OPEN = ("/health",)  # needs no key
_ERRORS = {
    401: "no valid key",
    404: "no such model",
    408: "the body came too slowly",
    413: "the body or a picture is too large",
    422: "a field is wrong; the message names it",
    429: "full; see Retry-After",
    500: "the server failed",
    503: "stopping",
}
WORK_ERRORS = tuple(_ERRORS)
STREAMED: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "For `stream: true`: events whose data is a ChatChunk, the last one's `[DONE]`; an error "
            "after the first event is an ErrorReply.",
        }
    }
}


def answers(model: type[BaseModel], *errors: int, more: dict[str, Any] | None = None) -> Responses:
    """A route's `responses`: what it gives for 200, `more` content types of it, and the errors that it may have."""
    found: Responses = {200: {"model": model, **({"content": more} if more else {})}}
    return found | {status: {"model": ErrorReply, "description": _ERRORS[status]} for status in errors}


def describe(api: "FastAPI", locked: bool) -> None:
    """Let `api` describe itself so; `locked`: clients need a key. Call it when all routes are there."""
    made = api.openapi()
    _, chunks = models_json_schema([(ChatChunk, "serialization")], ref_template=_REFERENCE)
    made["components"]["schemas"] = chunks["$defs"] | made["components"]["schemas"]
    for path, verbs in made["paths"].items():
        for verb, route in verbs.items():
            if verb == "get" and "422" in route["responses"]:  # FastAPI's for a parameter; any text is one
                del route["responses"]["422"]
            if locked and path not in _OPEN:
                route["security"] = [{"key": []}]
                route["responses"].setdefault("401", made["paths"]["/v1/score"]["post"]["responses"]["401"])
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
    if locked:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
