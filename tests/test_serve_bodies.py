"""Bodies that come slowly, in part or with two lengths; whose host is addressed; HEAD."""

import json
import socket
import threading
import time
from contextlib import ExitStack

import httpx2 as httpx
import pytest

from chainofstep.chain import render
from chainofstep.serve.guard import host_of, is_loopback, known_hosts
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import NAME, ScriptedModels, Serving, ask, until

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": NAME, "messages": ask()}).encode()
LENGTH = len(BODY)


def scripted():
    chains = [render(make_chain("a", answer="12"))]
    return ScriptedModels(lambda request: chains, ScriptedScorer({"a": 0.9}, {"12": 0.97}))


def post(server, **options):
    return server.client.post(CHAT, **({"json": {"model": NAME, "messages": ask()}} | options))


def begun(server, sent=b"{", length=LENGTH, more=""):
    """A connection whose request is not whole."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + sent)
    return connection


def refusals(server, reason):
    lines = server.client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(f'chainofstep_refused_total{{reason="{reason}"}}')]
    return float(found[0].split()[-1]) if found else 0.0


# Bodies that are not whole


def test_unfinished_bodies_take_no_place_of_others():
    with Serving(scripted(), ServeSettings(queue=2)) as server, ExitStack() as held:
        slow = [held.enter_context(begun(server)) for _ in range(7)]
        time.sleep(0.1)
        assert server.server.queue.in_progress == 0
        assert [post(server).status_code for _ in range(3)] == [200] * 3
        slow[0].sendall(BODY[1:])
        assert slow[0].recv(4096).startswith(b"HTTP/1.1 200 ")


def test_unfinished_bodies_are_bounded_in_number():
    with Serving(scripted(), ServeSettings(queue=2, body_seconds=0.5)) as server, ExitStack() as held:
        for _ in range(8):
            held.enter_context(begun(server))
        time.sleep(0.1)
        full = post(server)
        assert full.status_code == 429 and "8 bodies are still being sent" in full.json()["error"]["message"]
        assert until(lambda: post(server).status_code == 200), "they were given up"
        assert refusals(server, "slow") == 8


def test_what_is_announced_and_not_sent_holds_no_memory_of_others():
    settings = ServeSettings(most_body=1_000_000, most_bodies=1_000_000)
    with Serving(scripted(), settings) as server, ExitStack() as held:
        for _ in range(20):
            held.enter_context(begun(server, length=1_000_000))
        time.sleep(0.1)
        assert post(server, json={"model": NAME, "messages": ask(), "user": "x" * 500_000}).status_code == 200


def test_a_large_body_has_time_as_long_as_it_comes_on(monkeypatch):
    monkeypatch.setattr("chainofstep.serve.guard.PROGRESS", 10)
    with Serving(scripted(), ServeSettings(body_seconds=0.4)) as server:
        with begun(server, b"") as connection:
            for start in range(0, len(BODY), 30):
                time.sleep(0.15)
                connection.sendall(BODY[start : start + 30])
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 "), "after longer than 0.4 seconds"
        with begun(server, b"{") as connection:
            time.sleep(0.3)
            connection.sendall(BODY[1:4])  # less than the progress that is asked for
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_place_that_was_free_may_be_taken_when_the_body_is_whole():
    models = scripted()
    models.gate.clear()
    with Serving(models, ServeSettings(queue=1)) as server, begun(server) as late:
        running = threading.Thread(target=post, args=(server,))
        running.start()
        assert until(lambda: server.server.queue.in_progress == 1)
        late.sendall(BODY[1:])
        assert late.recv(4096).startswith(b"HTTP/1.1 429 ")
        with begun(server, more="Expect: 100-continue\r\n") as later:  # not asked for its body
            assert later.recv(4096).startswith(b"HTTP/1.1 429 ")
        models.gate.set()
        running.join()


def test_a_key_is_asked_for_before_a_body_is_read():
    settings, more = ServeSettings(keys=("key",)), "Expect: 100-continue\r\n"
    with Serving(scripted(), settings) as server, begun(server, b"", more=more) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


# Lengths, hosts, HEAD


def test_a_body_of_two_lengths_is_refused_and_ends_the_connection():
    with Serving(scripted()) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as both:
        head = "POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        both.sendall(f"{head}0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        reply = b""
        while piece := both.recv(4096):
            reply += piece
        assert reply.startswith(b"HTTP/1.1 400 ") and b"connection: close" in reply
        assert reply.count(b"HTTP/1.1") == 1 and b"Content-Length and Transfer-Encoding" in reply
        assert refusals(server, "framing") == 1


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/metrics", "/static/play.js"])
def test_head_is_get_without_the_body(path):
    with Serving(scripted()) as server:
        whole, head = server.client.get(path), server.client.head(path)
        assert (head.status_code, head.content) == (200, b"") and whole.content
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert server.client.head(CHAT).status_code == 405


OWN = ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LOCALHOST"]
FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example",
    "[::1]x.evil",
    "[::1]:80.evil",
    "[::1",
    "localhost:evil",
    "a@localhost",
]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models"])
def test_a_server_of_its_own_machine_answers_to_that_machines_names_alone(path):
    with Serving(scripted(), ServeSettings(own_host="127.0.0.1")) as server:
        for host in OWN:
            assert httpx.get(f"{server.url}{path}", headers={"host": host}).status_code == 200, host
        for host in FOREIGN:
            reply = httpx.get(f"{server.url}{path}", headers={"host": host})
            assert (reply.status_code, reply.json()["error"]["code"]) == (421, "foreign_host"), host
        assert refusals(server, "host") == len(FOREIGN)
    with Serving(scripted()) as anywhere:
        assert httpx.get(f"{anywhere.url}{path}", headers={"host": "steps.example"}).status_code == 200


def test_hosts_are_read_whole():
    assert [host_of(host) for host in OWN[:4]] == ["localhost", "localhost", "127.0.0.1", "::1"]
    assert [known_hosts("127.0.0.1")(host_of(host)) for host in FOREIGN] == [False] * len(FOREIGN)
    assert [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1")] == [True] * 3
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.evil", ""))
