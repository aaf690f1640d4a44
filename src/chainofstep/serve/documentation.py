"""/docs: the routes and their fields on one page, from the OpenAPI description, without any script."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from chainofstep.report.markup import Html, element, join

Schema = Mapping[str, Any]


def page_of(openapi: Schema) -> str:
    """The page as HTML."""
    schemas = openapi.get("components", {}).get("schemas", {})
    routes = [_route(path, verb, route) for path, verbs in openapi["paths"].items() for verb, route in verbs.items()]
    parts = [
        element("h1", openapi["info"]["title"]),
        element("p", openapi["info"].get("description")),
        element("p", "As JSON: ", element("a", "openapi.json", href="openapi.json")),
        *routes,
        *(_fields(name, schema) for name, schema in schemas.items()),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{openapi['info']['title']}: API"),
        *(Html(f'<link rel="stylesheet" href="static/{name}.css">') for name in ("common", "docs")),
    ]
    page = element("html", element("head", *head), element("body", element("main", *parts)), lang="en")
    return f"<!doctype html>\n{page}"


def _route(path: str, verb: str, route: Schema) -> Html:
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    taken = _type(content["schema"]) if content else None
    responses = {status: found["description"] for status, found in route["responses"].items() if status != "200"}
    rows = [element("tr", element("td", status), element("td", text)) for status, text in responses.items()]
    return join(
        element("h2", f"{verb.upper()} {path}"),
        element("p", route.get("description") or route.get("summary")),
        element("p", "Body: ", taken) if taken else None,
        element("table", *rows),
    )


def _fields(name: str, schema: Schema) -> Html:
    """A table of an object's fields."""
    required = schema.get("required", [])
    rows = [
        element("tr", element("td", element("code", field)), element("td", _type(found)), element("td", note))
        for field, found in schema.get("properties", {}).items()
        for note in [", ".join(_notes(found, field in required))]
    ]
    return join(element("h2", name, id=name), element("p", schema.get("description")), element("table", *rows))


def _notes(schema: Schema, required: bool) -> Iterator[str]:
    if required:
        yield "required"
    elif schema.get("default") is not None:
        yield f"default {json.dumps(schema['default'])}"
    if "description" in schema:
        yield str(schema["description"])


def _type(schema: Schema) -> Html:
    """What a field may hold, with links to other objects."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return element("a", name, href=f"#{name}")
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        parts = [_type(option) for option in options]
        return join(*(part if n == 0 else join(" or ", part) for n, part in enumerate(parts)))
    if "enum" in schema:
        return join(" | ".join(map(str, schema["enum"])))
    if "const" in schema:
        return join(str(schema["const"]))
    if schema.get("type") == "array":
        return join("list of ", _type(schema.get("items", {})))
    return join(schema.get("type", "anything"), _range(schema))


def _range(schema: Schema) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return "".join(f" {word} {schema[key]:g}" for key, word in words.items() if key in schema)
