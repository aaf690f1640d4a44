"""Asking an endpoint: what is sent, what is kept, what is not asked twice, what it costs. The server is a real one."""

import json
import logging
import sqlite3
import time
import urllib.request
from dataclasses import replace
from itertools import count, pairwise

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.llm import (
    Endpoint,
    EndpointDown,
    Estimate,
    Failure,
    Prompt,
    Reply,
    Spending,
    ask,
    estimate,
    estimated_prompt_tokens,
)
from chainofstep.llm.cache import Cache
from chainofstep.llm.request import request_key
from chainofstep.llm.stand_in import MODEL, StandIn
from chainofstep.store import DiskFull

PNG = b"\x89PNG\r\n\x1a\n"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
KEY = "sk-0123456789-not-to-be-seen"


def echo(asked):
    return f"You said: {asked.text}"


def endpoint_of(server, **settings):
    return Endpoint(server.base_url, MODEL, **settings)


def prompts_of(number):
    return [Prompt(str(i), f"question {i}") for i in range(number)]


def answers_of(endpoint, prompts, cache):
    """What `done` was told, in its order, and the spending."""
    told = []
    spending = ask(endpoint, prompts, lambda prompt, outcome: told.append((prompt.id, outcome)), cache)
    return told, spending


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "replies.sqlite"


@pytest.fixture(scope="module")
def server():
    with StandIn(echo) as server:
        yield server


def test_a_reply_and_what_it_cost(server, cache):
    told, spending = answers_of(endpoint_of(server), [Prompt("a", "12345678", system="Be kind.")], cache)
    assert told == [("a", Reply("You said: 12345678", 4, 5, "stop", MODEL, structured=False))]
    assert (spending.requests, spending.prompt_tokens, spending.completion_tokens) == (1, 4, 5)
    assert (spending.cached, spending.failed, spending.retries, spending.unstructured) == (0, 0, 0, 0)
    assert 0 < spending.seconds < 30


def test_prices_make_dollars():
    endpoint = Endpoint("http://host/v1", "m", dollars_per_million_prompt_tokens=2.0)
    spending = Spending(prompt_tokens=500_000, completion_tokens=100_000)
    assert spending.dollars(endpoint) is None
    assert spending.dollars(replace(endpoint, dollars_per_million_completion_tokens=10.0)) == 2.0


def test_what_is_sent(cache, tmp_path):
    seen = []
    for name, content in (("a.png", b"\xff\xd8\xff\xe0 jpeg"), ("b.bin", b"RIFF....WEBPVP8 ")):
        (tmp_path / name).write_bytes(content)
    images = (str(tmp_path / "a.png"), str(tmp_path / "b.bin"))
    with StandIn(lambda asked: seen.append(asked) or "ok") as server:
        endpoint = endpoint_of(server, temperature=0.5, top_p=0.9, seed=7, max_tokens=99)
        answers_of(endpoint, [Prompt("a", "ü?", "sys", images, SCHEMA, sample=3)], cache)
    asked = seen[0]
    assert (asked.system, asked.text, asked.images, asked.schema) == ("sys", "ü?", 2, SCHEMA)
    assert asked.headers["authorization"] == "Bearer none"
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 10, "max_tokens": 99}
    assert {name: asked.body[name] for name in sampling} == sampling
    pictures = [part["image_url"]["url"] for part in asked.body["messages"][1]["content"][:2]]
    assert pictures == [
        "data:image/jpeg;base64,/9j/4CBqcGVn",  # by its bytes, whatever its name is
        "data:image/webp;base64,UklGRi4uLi5XRUJQVlA4IA==",
    ]


def test_newer_models_want_another_name_for_the_limit(cache):
    seen = []
    with StandIn(lambda asked: seen.append(asked.body) or "ok") as server:
        endpoint = endpoint_of(server, max_tokens=9, max_tokens_field="max_completion_tokens")
        answers_of(endpoint, prompts_of(1), cache)
    assert seen[0]["max_completion_tokens"] == 9 and "max_tokens" not in seen[0]


def test_pictures_that_cannot_be_read_fail_alone(server, cache, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "good.png").write_bytes(PNG + b"...")
    prompts = [Prompt(n, "?", images=(str(tmp_path / n),)) for n in ("missing.png", "text.png", "good.png")]
    told, spending = answers_of(endpoint_of(server), prompts, cache)
    failed = {id: outcome for id, outcome in told if isinstance(outcome, Failure)}
    assert failed["missing.png"].reason.startswith(f"unreadable picture: {tmp_path}/missing.png: No such file")
    assert failed["text.png"].reason.startswith(f"unreadable picture: {tmp_path}/text.png: neither PNG")
    assert not any(failure.passing for failure in failed.values())
    assert len(told) == 3 and (spending.failed, spending.requests) == (2, 1)


def test_all_slots_are_used_and_no_more(cache):
    with StandIn(echo, latency=0.2) as server:
        told, _ = answers_of(endpoint_of(server, concurrency=7), prompts_of(40), cache)
        assert server.counts.most_in_flight == 7
    assert sorted(int(id) for id, _ in told) == list(range(40))
    assert all(outcome.text == f"You said: question {id}" for id, outcome in told)


def test_done_is_told_in_the_order_of_completion(cache):
    with StandIn(echo, latency=0.1) as server:
        # One slot: the order of asking. The cached ones come before what is still in flight.
        told, _ = answers_of(endpoint_of(server, concurrency=1), prompts_of(3), cache)
        assert [id for id, _ in told] == ["0", "1", "2"]
        again = [Prompt("new", "something else"), *prompts_of(3)]
        told, _ = answers_of(endpoint_of(server), again, cache)
        assert [id for id, _ in told] == ["0", "1", "2", "new"]


def test_prompts_are_read_as_they_are_needed(server, cache):
    read, told, ahead = count(), count(), []
    done = []

    def prompts():
        for number in range(100):
            ahead.append(next(read) - len(done))
            yield Prompt(str(number), f"question {number}")

    ask(endpoint_of(server, concurrency=5), prompts(), lambda *outcome: done.append(next(told)), cache)
    assert len(done) == 100 and max(ahead) <= 10


def test_endless_prompts_end_when_done_raises(server, cache):
    def done(prompt, outcome):
        if prompt.id == "30":
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ask(endpoint_of(server), (Prompt(str(i), f"question {i}") for i in count()), done, cache)


@pytest.mark.parametrize(
    ("limits", "prompt", "seconds"),
    [
        ({"requests_per_minute": 600}, Prompt("", "x"), 0.1),
        # 25 tokens there and 27 back, 3,120 a minute: one a second; the first is expected to take 25 + 27
        ({"tokens_per_minute": 3120, "max_tokens": 27}, Prompt("", "x" * 100), 1.0),
    ],
)
def test_requests_keep_to_the_limits(cache, limits, prompt, seconds):
    with StandIn(lambda asked: asked.text + "12345678") as server:
        prompts = [replace(prompt, sample=i) for i in range(4 if seconds == 1.0 else 12)]
        answers_of(endpoint_of(server, **limits), prompts, cache)
        arrivals = server.counts.arrivals
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert 0.9 * seconds * len(gaps) < arrivals[-1] - arrivals[0] < 2 * seconds * len(gaps)
    assert min(gaps) > 0.3 * seconds  # evenly, as far as a busy machine lets them


def test_true_tokens_move_the_next_turn(cache):
    """100 tokens are expected where 1,000 come back: 1,000 tokens are 0.5 s of the limit."""
    with StandIn(lambda asked: "x" * 4000) as server:
        endpoint = endpoint_of(server, concurrency=1, tokens_per_minute=120_000, max_tokens=100)
        answers_of(endpoint, prompts_of(3), cache)
        gaps = [later - earlier for earlier, later in pairwise(server.counts.arrivals)]
    assert min(gaps) > 0.45


def test_nothing_is_asked_twice(cache):
    with StandIn(echo) as server:
        first, _ = answers_of(endpoint_of(server), prompts_of(20), cache)
        again, spending = answers_of(endpoint_of(server, concurrency=2), prompts_of(20), cache)
        assert server.counts.requests == 20
    assert dict(again) == {id: replace(reply, cached=True) for id, reply in first}
    assert (spending.requests, spending.cached, spending.completion_tokens) == (0, 20, 0)


def test_a_server_that_moved_is_not_paid_again(cache):
    with StandIn(echo) as server:
        answers_of(endpoint_of(server), prompts_of(5), cache)
    moved = Endpoint("http://127.0.0.1:9/v1", MODEL, requests_per_minute=1, attempts=1, key_variable="OTHER_KEY")
    _, spending = answers_of(moved, prompts_of(5), cache)  # nobody listens there
    assert (spending.requests, spending.cached) == (0, 5)


def test_the_same_prompt_is_asked_once_in_a_run(cache):
    with StandIn(echo, latency=0.1) as server:
        prompts = [Prompt(str(i), "the same", sample=i // 5) for i in range(10)]
        told, spending = answers_of(endpoint_of(server), prompts, cache)
        assert server.counts.requests == 2
    assert sorted(int(id) for id, _ in told) == list(range(10))
    assert (spending.requests, spending.cached, sum(reply.cached for _, reply in told)) == (2, 8, 8)


@given(st.text(), st.text(), st.integers(0, 9))
def test_the_key_is_that_of_all_that_decides_the_reply(text, system, sample):
    endpoint, prompt = Endpoint("http://host/v1", "m"), Prompt("a", text, system, sample=sample)
    key = request_key(endpoint, prompt, False)
    same = replace(endpoint, base_url="https://elsewhere", concurrency=1, timeout_seconds=1.0)
    assert request_key(same, replace(prompt, id="b"), False) == key
    others = {request_key(replace(endpoint, **{name: value}), prompt, False) for name, value in CHANGES.items()}
    others |= {request_key(endpoint, replace(prompt, text=text + "x"), False)}
    others |= {request_key(endpoint, replace(prompt, system=text + "y", text=system), False)}
    others |= {request_key(endpoint, replace(prompt, sample=sample + 1), False)}
    assert len(others | {key}) == len(CHANGES) + 4


CHANGES = {"model": "n", "temperature": 0.5, "top_p": 0.5, "max_tokens": 5, "seed": 1}


def test_a_picture_counts_by_its_bytes(tmp_path):
    endpoint, keys = Endpoint("http://host/v1", "m"), []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(PNG + content)
        keys.append(request_key(endpoint, Prompt("", "?", images=(str(tmp_path / name),)), False))
    assert keys[0] == keys[1] != keys[2]


def test_a_server_without_schemas_is_asked_without(cache):
    prompts = [Prompt(str(i), f"JSON {i}", schema=SCHEMA, text_without_schema=f"plain {i}") for i in range(9)]
    with StandIn(echo, takes_schema=False) as server:
        told, spending = answers_of(endpoint_of(server, concurrency=1), prompts, cache)
        assert server.counts.requests == 10  # the first twice
        assert dict(told)["4"].text == "You said: plain 4"
        assert spending.unstructured == 9 and not any(reply.structured for _, reply in told)
        _, spending = answers_of(endpoint_of(server), prompts, cache)
        assert (spending.requests, spending.unstructured) == (0, 9)


def test_schemas_can_be_forced_and_left_out(cache):
    prompts = [Prompt("a", "JSON", schema=SCHEMA, text_without_schema="plain")]
    with StandIn(echo, takes_schema=False) as server:
        with pytest.raises(EndpointDown, match="set structured to auto or off"):
            answers_of(endpoint_of(server, structured="on"), prompts, cache)
        told, spending = answers_of(endpoint_of(server, structured="off"), prompts, cache)
        assert told[0][1].text == "You said: plain" and spending.unstructured == 0
    with StandIn(echo) as server:
        told, spending = answers_of(endpoint_of(server, structured="on"), prompts, cache)
        assert told[0][1].text == "You said: JSON" and told[0][1].structured


def test_two_jobs_share_a_cache(server, cache):
    with Cache(cache) as mine, Cache(cache) as others:
        reply = Reply("mine\0 and \N{SNOWMAN}", 1, 2, "length", "m", structured=True)
        mine.put(bytes(32), reply)
        others.put(bytes(32), replace(reply, text="later"))
        assert mine.get(bytes(32)) == others.get(bytes(32)) == replace(reply, cached=True)
        assert mine.get(b"1" * 32) is None


def test_a_full_disk_is_named(cache):
    with Cache(cache) as kept:
        kept._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(DiskFull, match="no disk space left to write"):
            kept.put(bytes(32), Reply("x" * 100_000, 1, 1, "stop", "m", structured=False))


def test_a_large_cache_opens_at_once(cache):
    with Cache(cache):
        pass
    database = sqlite3.connect(cache)
    rows = ((i.to_bytes(32), "x" * 200, 1, 1, "stop", "m", 0) for i in range(1, 300_001))
    database.executemany("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    begun = time.perf_counter()
    with Cache(cache) as kept:
        assert all(kept.get(i.to_bytes(32)) for i in range(1, 300_000, 299))
    assert time.perf_counter() - begun < 1.0


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "text").write_text("no database\n" * 1000)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE replies (question TEXT)")
    other.close()
    for name in ("text", "other", "."):
        with pytest.raises(ValueError, match=r"cannot be used as a cache of replies") as caught, Cache(tmp_path / name):
            pass
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_cache_is_named_and_nothing_is_asked(server, cache):
    answers_of(endpoint_of(server), prompts_of(200), cache)
    content = bytearray(cache.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    cache.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be used as a cache of replies"):
        answers_of(endpoint_of(server), prompts_of(200), cache)


def test_the_key_is_nowhere_to_be_read(cache, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("STAND_IN_KEY", KEY)
    with StandIn(echo, key=KEY) as server:
        endpoint = endpoint_of(server, key_variable="STAND_IN_KEY")
        told, _ = answers_of(endpoint, prompts_of(3), cache)
        assert [type(outcome) for _, outcome in told] == [Reply] * 3
    with StandIn(echo, key="another") as server, pytest.raises(EndpointDown) as caught:  # it says the wrong key back
        answers_of(replace(endpoint, base_url=server.base_url), [Prompt("new", "new")], cache)
    said = [str(caught.value), repr(endpoint), repr(told), caplog.text]
    said += [path.read_bytes().decode("latin-1") for path in cache.parent.iterdir()]
    assert not any(KEY in text for text in said)
    assert "wrong key: Bearer ***" in said[0] and "STAND_IN_KEY is not accepted" in said[0]


def test_a_key_that_no_header_can_hold(cache, monkeypatch):
    monkeypatch.setenv("STAND_IN_KEY", "sk-“quoted”")
    with pytest.raises(EndpointDown, match="STAND_IN_KEY holds characters"):
        answers_of(Endpoint("http://host/v1", "m", "STAND_IN_KEY"), [], cache)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"base_url": "localhost:8000"}, "'localhost:8000' is no web address"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds 0.0"),
        ({"requests_per_minute": 0}, "requests_per_minute 0 lets no request through"),
    ],
)
def test_settings_that_cannot_work(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Endpoint(**{"base_url": "http://host/v1", "model": "m"} | settings)


def test_an_estimate_by_hand():
    """1,000 prompts like two of 100 + 40 and 300 + 80 tokens: 200,000 and 60,000 tokens."""
    prices = {"dollars_per_million_prompt_tokens": 1.0, "dollars_per_million_completion_tokens": 10.0}
    endpoint = Endpoint("http://host/v1", "m", concurrency=10, **prices)
    sampled = [(100, 40), (300, 80)]
    expected = Estimate(1000, 200_000, 60_000, pytest.approx(0.8), pytest.approx(60_000 / 40 / 10))
    assert estimate(endpoint, 1000, sampled) == expected
    assert estimate(replace(endpoint, requests_per_minute=100), 1000, sampled).seconds == 600
    assert estimate(replace(endpoint, tokens_per_minute=13_000), 1000, sampled).seconds == 1200
    with pytest.raises(ValueError, match="nothing to estimate from"):
        estimate(endpoint, 1000, [])


def test_a_prompt_is_guessed_from_its_length_and_pictures():
    assert estimated_prompt_tokens(Prompt("", "x" * 9, "y" * 4, ("a.png", "b.png"))) == 3 + 1 + 2000


def test_the_stand_in_says_that_it_is_one(server):
    with urllib.request.urlopen(server.base_url + "/models") as answer:
        assert json.load(answer)["data"][0] == {
            "id": "stand-in",
            "object": "model",
            "created": 0,
            "owned_by": "chainofstep stand-in",
        }
