"""What stands before the routes: keys, sizes, queues, headers; and what is counted."""

import http.client
import re
import socket
import threading

import httpx2 as httpx
import pytest

from chainofstep.chain import render
from chainofstep.serve.errors import of_fields, shown
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import NAME, PRM_NAME, ScriptedModels, Serving, ask, until

SCORER = ScriptedScorer({"a": 0.9}, {"12": 0.97})
CHAT = "/v1/chat/completions"


def scripted():
    return ScriptedModels(lambda request: [render(make_chain("a", answer="12"))], SCORER)


def post(server, path=CHAT, **options):
    return server.client.post(path, **({"json": {"model": NAME, "messages": ask()}} | options))


@pytest.fixture(scope="module")
def server():
    with Serving(scripted()) as serving:
        yield serving


@pytest.fixture(scope="module")
def locked():
    with Serving(scripted(), ServeSettings(keys=("first", "second"))) as serving:
        yield serving


# Keys


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer firs", "Bearer first2", "Basic first", "first"])
@pytest.mark.parametrize("path", [CHAT, "/v1/score", "/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere"])
def test_without_a_key_every_route_is_closed(locked, given, path):
    headers = {"authorization": given.encode()} if given else {}
    verb = "POST" if path in (CHAT, "/v1/score") else "GET"
    reply = httpx.request(verb, f"{locked.url}{path}", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")


def test_any_key_opens_and_health_and_page_are_open(locked):
    for key in ("first", "second"):
        assert post(locked, headers={"authorization": f"Bearer {key}"}).status_code == 200
    for path in ("/health", "/", "/static/play.html", "/favicon.ico"):
        assert httpx.get(f"{locked.url}{path}").is_success
    twice = [("authorization", "Bearer wrong"), ("authorization", "Bearer first")]
    assert httpx.get(f"{locked.url}/v1/models", headers=twice).status_code == 401
    latin = {"authorization": "Bearer fürst".encode("latin-1")}
    assert httpx.get(f"{locked.url}/v1/models", headers=latin).status_code == 401


def test_keys_are_in_no_printed_settings():
    assert "hidden" not in repr(ServeSettings(keys=("hidden",)))
    with pytest.raises(ValueError, match="a key has a character"):
        ServeSettings(keys=("ключ",))


# Sizes and slowness


def test_a_body_too_large_is_refused_by_its_length_and_by_its_pieces():
    with Serving(scripted(), ServeSettings(most_body=1_000_000)) as server:
        large = b'{"model": "' + b"x" * 3_000_000 + b'"}'
        pieces = (large[start : start + 65536] for start in range(0, len(large), 65536))
        for content in (large, pieces):
            reply = post(server, json=None, content=content, headers={"content-type": "application/json"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
        assert post(server).status_code == 200


def test_a_length_that_lies_reads_no_more_than_the_limit():
    with Serving(scripted(), ServeSettings(most_body=1000)) as server:
        for length in ("99999999999999999999999", "2000"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.putrequest("POST", CHAT)
            connection.putheader("Content-Length", length)
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            assert connection.getresponse().status in (400, 413)
            connection.close()


def test_a_body_that_drips_is_cut_off():
    with Serving(scripted(), ServeSettings(body_seconds=0.3, queue=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            slow.sendall(head.encode() + b"{")
            slow.settimeout(10)
            assert b" 408 " in slow.recv(4096)
        assert post(server).status_code == 200


def test_bodies_together_are_bounded():
    models = scripted()
    models.gate.clear()
    settings = ServeSettings(most_body=100_000, most_bodies=150_000)
    with Serving(models, settings) as server:
        padded = {"model": NAME, "messages": ask(), "user": "x" * 90_000}
        first = threading.Thread(target=post, args=(server,), kwargs={"json": padded})
        first.start()
        assert models.begun.wait(5)
        second = post(server, json=padded)
        assert (second.status_code, second.json()["error"]["code"]) == (429, "queue_full")
        models.gate.set()
        first.join()
        assert post(server, json=padded).status_code == 200


# The queue


def test_a_full_queue_answers_429_without_reading_the_body():
    models = scripted()
    models.gate.clear()
    with Serving(models, ServeSettings(queue=2)) as server:
        waiting = [threading.Thread(target=post, args=(server,)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        assert until(lambda: server.server.queue.in_progress == 2)
        full = post(server)
        assert (full.status_code, full.headers["retry-after"]) == (429, "2")
        assert httpx.get(f"{server.url}/health").json()["in_progress"] == 2
        models.gate.set()
        for thread in waiting:
            thread.join()
        assert post(server).status_code == 200
        assert 'chainofstep_refused_total{reason="queue"} 1.0' in httpx.get(f"{server.url}/metrics").text


def test_a_stopping_server_takes_nothing_new_and_ends_what_runs():
    models = scripted()
    models.gate.clear()
    with Serving(models) as server:
        found = []
        running = threading.Thread(target=lambda: found.append(post(server).status_code))
        running.start()
        assert models.begun.wait(5)
        server.server.stop(grace=30)
        assert post(server).status_code == 503 and httpx.get(f"{server.url}/health").status_code == 503
        models.gate.set()
        running.join()
    assert found == [200]


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_longer_than_the_grace_is_told_so(stream):
    models = scripted()
    models.gate.clear()
    with Serving(models) as server:
        found = []
        body = {"model": NAME, "messages": ask(), "stream": stream}
        running = threading.Thread(target=lambda: found.append(post(server, json=body)))
        running.start()
        assert models.begun.wait(5)
        server.server.stop(grace=0.1)
        running.join()
    assert found[0].status_code == 503 and found[0].json()["error"]["code"] == "stopping"


# Headers, routes, counters


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nowhere", "/docs", CHAT])
def test_every_reply_has_the_headers_of_a_careful_server(server, path):
    headers = httpx.get(f"{server.url}{path}").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert ("access-control-allow-origin" not in headers and "server" not in headers) or headers["server"] == "uvicorn"


def test_no_path_of_the_machine_can_be_read(server):
    for path in ("/static/..%2fapp.py", "/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/app.py"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()
    assert httpx.get(f"{server.url}/static/view.html").status_code == 404


def test_pages_name_only_files_that_are_served(server):
    page = httpx.get(f"{server.url}/").text
    named = re.findall(r'(?:href|src)="(static/[^"]+)"', page)
    assert named and "<script>" not in page
    for address in named:
        assert httpx.get(f"{server.url}/{address}").status_code == 200, address


def test_models_are_listed_with_their_methods(server):
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    methods = ["greedy", "self_consistency", "best_of_n", "weighted_vote", "step_beam"]
    assert [entry["id"] for entry in listed] == [NAME, *(f"{NAME}:{method}" for method in methods), PRM_NAME]
    assert listed[0]["methods"] == methods and listed[0]["prm"] == PRM_NAME and listed[0]["n"] == 16
    assert httpx.get(f"{server.url}/v1/models/{NAME}:greedy").json() == listed[1]
    missing = httpx.get(f"{server.url}/v1/models/other")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_without_a_prm_only_methods_without_scores_are_offered():
    with Serving(ScriptedModels({"": ["x"]})) as server:
        entry = httpx.get(f"{server.url}/v1/models").json()["data"][0]
        assert (entry["methods"], entry["prm"]) == (["greedy", "self_consistency"], None)
        refused = post(server, json={"model": f"{NAME}:best_of_n", "messages": ask()})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_prm")


def test_routes_and_statuses_are_counted_and_unknown_paths_make_no_new_series(server):
    for path in ("/v1/models", "/a", "/b"):
        httpx.get(f"{server.url}{path}")
    reply = httpx.get(f"{server.url}/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert 'chainofstep_requests_total{route="/v1/models",status="200"}' in reply.text
    assert 'route="other",status="404"' in reply.text and 'route="/a"' not in reply.text
    for name in ("sampled_tokens_total", "scored_chains_total", "samples_waiting", "samples_running"):
        assert f"chainofstep_{name} " in reply.text


def test_the_description_of_the_routes_is_a_page_without_scripts(server):
    page = httpx.get(f"{server.url}/docs").text
    assert "POST /v1/chat/completions" in page and "skip_special_tokens" in page and "<script" not in page
    assert "/v1/score" in httpx.get(f"{server.url}/openapi.json").json()["paths"]


def test_wrong_verbs_get_an_error_of_the_same_shape(server):
    reply = httpx.get(f"{server.url}{CHAT}")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST") and reply.json()["error"]["message"]


def test_messages_lose_paths_and_keep_addresses_and_fractions():
    text = shown("picture /tmp/cos-serve-x/ab12 cannot be read\n(see https://a.example/b/c, 1/2, models/sft)")
    assert text == "picture a file of the server cannot be read (see https://a.example/b/c, 1/2, models/sft)"


def test_complaints_name_the_deepest_place_of_the_first_field():
    complaints = [
        {"type": "string_type", "loc": ("body", "messages", 0, "user", "content", "str"), "msg": "not a string"},
        {"type": "missing", "loc": ("body", "messages", 0, "user", "content", "list[union]", 1, "text"), "msg": "gone"},
    ]
    assert of_fields(complaints).param == "messages.0.user.content.1.text"
