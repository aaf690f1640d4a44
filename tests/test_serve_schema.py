"""The OpenAPI document of `cos serve` is true: schemathesis makes requests of it and checks the replies by it."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

import schemathesis
from schemathesis import GenerationMode
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from chainofstep.chain import render
from chainofstep.serve.reply_schema import ChatChunk, ChatReply
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedSampler, ScriptedScorer, make_chain
from serving import NAME, ScriptedModels, Serving, ask, data_url, png

CHAINS = [make_chain("a", "b", answer="12"), make_chain("c", answer="7")]


class AnyScorer(ScriptedScorer):
    """Scores chains that nobody wrote down."""

    def _score(self, chain: Any) -> Any:
        self.steps = dict.fromkeys((step.thought for step in chain.steps), 0.5)
        self.answers = {chain.answer: 0.5}
        return super()._score(chain)


def scripted() -> ScriptedModels:
    models = ScriptedModels({}, AnyScorer({}))
    models.sampler = ScriptedSampler(lambda request: [render(chain).removeprefix(request.prefix) for chain in CHAINS])
    return models


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving(scripted()) as serving:
        yield serving


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with no other fields in any object than those that it names."""
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return document


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document of requests that can mostly be met: a free choice of models and messages hardly ever can."""
    schemas = document["components"]["schemas"]
    chat, score = schemas["ChatRequest"]["properties"], schemas["ScoreRequest"]["properties"]
    chat |= {"model": {"enum": [NAME, f"{NAME}:greedy"]}, "messages": {"const": ask("How many?", data_url(png()))}}
    chat |= {name: {"type": "null"} for name in ("top_k", "continue_final_message", "max_completion_tokens")}
    chat |= {"n": {"enum": [None, 1, 2]}, "stop": {"enum": [None, "12", "zzz"]}, "max_tokens": {"enum": [None, 64]}}
    score |= {"question": {"const": "How many?"}, "messages": {"type": "null"}, "model": {"type": "null"}}
    score["images"] = {"const": [data_url(png())]}
    schemas["ScoreRequest"]["required"] += ["question"]
    return document


@pytest.fixture(scope="module")
def documents(server: Serving) -> dict[str, Any]:
    """What is tried, by what it is."""
    project = ProjectConfig(base_url=server.url, generation=GenerationConfig(deterministic=True, database="none"))

    def opened(change: Any = lambda document: document) -> Any:
        config = SchemathesisConfig(projects=ProjectsConfig(default=project))
        given = change(closed(server.client.get("/openapi.json").json()))
        return schemathesis.openapi.from_dict(given, config=config)

    return {"fits": opened(), "can be met": opened(narrowed), "does not fit": opened()}


POSTS = ["POST /v1/chat/completions", "POST /v1/score"]
GETS = ["GET /v1/models", "GET /v1/models/{name}", "GET /health", "GET /metrics"]
CASES = [*((route, what) for route in POSTS for what in ("fits", "can be met", "does not fit"))]


@pytest.mark.parametrize(("route", "what"), [*CASES, *((route, "fits") for route in GETS)])
def test_replies_are_as_the_document_says(documents: dict[str, Any], route: str, what: str) -> None:
    """No reply is a fault or other than described, and what does not fit is refused."""
    verb, path = route.split()
    mode = GenerationMode.NEGATIVE if what == "does not fit" else GenerationMode.POSITIVE
    statuses: Counter[int] = Counter()

    @settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(documents[what][path][verb].as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        # Of what fits, the models or other fields may not allow all.
        reply = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        statuses[reply.status_code] += 1

    holds()
    assert set(statuses) <= {200, 404, 422}, statuses
    assert what != "does not fit" or statuses[200] == 0, statuses
    assert what != "can be met" or statuses[200] >= 20, statuses


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2, "logprobs": True, "return_token_ids": True},
        {"skip_special_tokens": False, "stop": "12"},
        {"search": {"method": "best_of_n", "n": 4}},
        {"search": {"method": "greedy"}, "scores": False},
    ],
)
def test_whole_and_streamed_replies_have_the_described_fields_and_no_others(
    server: Serving, more: dict[str, Any]
) -> None:
    body = {"model": NAME, "messages": ask(), "stream_options": {"include_usage": True}} | more
    whole = server.client.post("/v1/chat/completions", json=body).json()
    assert ChatReply.model_validate(whole).model_dump(exclude_unset=True) == whole
    lines = server.client.post("/v1/chat/completions", json=body | {"stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert len(chunks) > 3
    for chunk in chunks:
        assert ChatChunk.model_validate(chunk).model_dump(exclude_unset=True) == chunk


def test_the_document_says_where_a_key_is_needed(server: Serving) -> None:
    with Serving(scripted(), ServeSettings(keys=("key",))) as locked_server:
        headers = {"authorization": "Bearer key"}
        locked = httpx.get(f"{locked_server.url}/openapi.json", headers=headers).json()
    free = server.client.get("/openapi.json").json()
    routes = [(path, route) for path, verbs in locked["paths"].items() for route in verbs.values()]
    assert {path for path, route in routes if "security" not in route} == {"/health"}
    assert all("401" in route["responses"] for path, route in routes if path != "/health")
    assert locked["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "securitySchemes" not in free["components"] and "security" not in free["paths"]["/v1/models"]["get"]
    assert "ChatChunk" in free["components"]["schemas"] and "ValidationError" not in free["components"]["schemas"]
