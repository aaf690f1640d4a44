"""What clients are told: refusals in words that they can act on, and texts that no model is to see."""

import json
import struct
import time
import zlib

import httpx2 as httpx
import pytest

from chainofstep.chain import render
from chainofstep.records import SamplingErrors
from chainofstep.serve.asking import CHARACTERS_A_TOKEN, UNKNOWN_CONTEXT
from chainofstep.serve.errors import refusal_of
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import NAME, ScriptedModels, Serving, ask, data_url, png

JSON = {"content-type": "application/json"}
CHAIN = make_chain("a", answer="12")
ROW = {"steps": [{"name": "Look", "thought": "a", "reflection": "It does."}], "answer": "12"}
SCRIPT = {"model": NAME, "messages": ask()}
QUESTION = {"question": "How many?"}
HALF = "a\ud800b"


def scripted():
    return ScriptedModels(lambda request: [render(CHAIN)], ScriptedScorer({"a": 0.9}, {"12": 0.97}))


@pytest.fixture(scope="module")
def server():
    with Serving(scripted(), ServeSettings(most_pixels=1_000_000)) as serving:
        yield serving


def error_of(server, body, path="/v1/chat/completions", headers=JSON, status=422):
    content = body if isinstance(body, bytes) else json.dumps(body).encode("ascii")
    reply = httpx.post(f"{server.url}{path}", content=content, headers=headers, timeout=20)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


# Halves of characters


def said(content):
    return [{"role": "user", "content": content}]


HALVES = [
    ("messages.0.user.content.0.text.text", {"messages": ask(HALF)}),
    ("messages.0.user.content", {"messages": said(HALF)}),
    ("messages.0.user.name", {"messages": [{"role": "user", "content": "q", "name": HALF}]}),
    ("messages.1.assistant.content", {"messages": [*ask(), {"role": "assistant", "content": HALF}]}),
    ("stop", {"stop": HALF}),
    ("stop.1", {"stop": ["ok", HALF]}),
    ("model", {"model": HALF}),
    ("metadata", {"metadata": {"a": HALF}}),
    ("metadata", {"metadata": {HALF: "a"}}),
    ("user", {"user": "\udc00"}),
    ("chains", {"chains": [HALF]}),
    ("chains.0.answer", {"chains": [ROW | {"answer": HALF}]}),
    ("chains.0.steps.0.thought", {"chains": [{"steps": [ROW["steps"][0] | {"thought": HALF}]}]}),
    ("question", {"chains": [ROW], "question": HALF}),
    ("images.0", {"chains": [ROW], "images": [HALF]}),
    ("messages.0.user.content.0.image_url.image_url.url", {"messages": ask("q", HALF)}),
]


@pytest.mark.parametrize(("field", "change"), HALVES)
def test_half_a_character_is_refused_by_its_field(server, field, change):
    scores = "chains" in change
    error = error_of(
        server, (QUESTION if scores else SCRIPT) | change, "/v1/score" if scores else "/v1/chat/completions"
    )
    assert error["param"] == field and "half of a surrogate pair" in error["message"], error


def test_whole_characters_of_two_halves_are_taken(server):
    body = json.dumps(SCRIPT | {"messages": ask("How many \U0001f600?")}).encode("ascii")
    assert b"\\ud83d\\ude00" in body
    assert httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=JSON).status_code == 200


# Texts that are too long


def test_a_text_too_long_for_any_tokenizer_is_refused_before_the_models_see_it(server):
    most = CHARACTERS_A_TOKEN * 1024  # the scripted models' context
    assert most == 16_384
    before = len(server.models.callers)
    began = time.monotonic()
    error = error_of(server, SCRIPT | {"messages": ask("x" * 14_000_000)})
    assert time.monotonic() - began < 5
    assert error["param"] == "messages" and "14,000,000" in error["message"] and "16,384" in error["message"]
    assert error["message"].startswith("the question has")
    together = [*ask("x" * 8_385), {"role": "assistant", "content": "y" * 8_000}]
    assert (
        "question with the assistant's text has 16,385" in error_of(server, SCRIPT | {"messages": together})["message"]
    )
    assert len(server.models.callers) == before
    fits = SCRIPT | {"messages": ask("x" * most)}
    assert server.client.post("/v1/chat/completions", json=fits).status_code == 200


def test_so_is_each_question_and_chain_to_score(server):
    long = "x" * 16_385
    wrong = {
        "question": {"question": long, "chains": [ROW]},
        "messages": {"messages": ask(long), "chains": [ROW]},
        "chains.1": QUESTION | {"chains": [ROW, long]},
        "chains.0": QUESTION | {"chains": [{"steps": [ROW["steps"][0] | {"thought": "x" * 9_000}] * 2}]},
    }
    for field, body in wrong.items():
        error = error_of(server, body, "/v1/score")
        assert error["param"] == field and "16,384" in error["message"], error


def test_where_the_context_is_unknown_there_is_a_bound_too():
    models = scripted()
    models.context = None
    with Serving(models) as server:
        length = CHARACTERS_A_TOKEN * UNKNOWN_CONTEXT + 1
        assert f"{length:,}" in error_of(server, SCRIPT | {"messages": ask("x" * length)})["message"]


# Words


def test_a_body_that_is_no_json_is_told_where(server):
    broken = json.dumps(SCRIPT).encode()
    place = broken.index(b'"messages"')
    error = error_of(server, broken[:place] + b"!" + broken[place:])
    message = f"the body is no JSON: Expecting property name enclosed in double quotes at character {place}"
    assert (error["message"], error["param"], error["code"]) == (message, None, "invalid_json")
    assert error_of(server, b"[]")["param"] is None


@pytest.mark.parametrize(
    ("headers", "said"), [({"content-type": "text/plain"}, "'text/plain'"), ({}, "no Content-Type")]
)
def test_a_body_of_another_kind_is_told_which_header_to_send(server, headers, said):
    error = error_of(server, SCRIPT, headers=headers)
    assert said in error["message"] and "Content-Type: application/json" in error["message"]


def test_stops_are_refused_in_plain_words(server):
    for stop in ("", ["a", ""]):
        error = error_of(server, SCRIPT | {"stop": stop})
        assert error["message"].startswith("stop: an empty text stops nothing; give") and error["param"] == "stop"
    error = error_of(server, SCRIPT | {"stop": ["a"] * 9})
    assert (error["message"], error["param"]) == ("stop: 9 texts; give at most 8", "stop")
    assert error_of(server, SCRIPT | {"stop": "x" * 257})["param"] == "stop"


def bomb(side):
    """A PNG whose header promises a square of so many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1_001, 8_001, 100_000])
def test_a_picture_too_large_is_told_the_servers_limit(server, side):
    error = error_of(server, SCRIPT | {"messages": ask("q", data_url(png()), data_url(bomb(side)))}, status=413)
    assert error["message"].startswith("picture 2: it has ") and "at most 1,000,000 in all" in error["message"]
    assert "bomb" not in error["message"] and "178956970" not in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"none", "picture 2: it is none of PNG, JPEG"),
        (png()[:40], "picture 2: it is broken or not complete"),
        (png(form="JPEG")[:300], "picture 2: it is broken or not complete"),
    ],
)
def test_a_picture_that_cannot_be_read_is_told_by_its_number(server, content, words):
    error = error_of(server, SCRIPT | {"messages": ask("q", data_url(png()), data_url(content))})
    assert error["message"].startswith(words) and "send " in error["message"], error


def test_the_engines_words_become_a_clients():
    reason = (
        "4000 prefix tokens and max_tokens=256 exceed the model's context of 1024; shorten the prefix or ask for less"
    )
    for error in (
        SamplingErrors([None], {0: reason}, ["question"]),
        ValueError(f"request 0 (example 'question'): {reason}"),
    ):
        message = refusal_of(error).message
        assert message.startswith("the question with its pictures and the assistant's text has 4000 tokens")
        assert (
            "max_tokens=256" in message and "1024" in message and "prefix" not in message and "request 0" not in message
        )
    assert refusal_of(ValueError("request 0 (example 'question'): no such thing")).message == "no such thing"
