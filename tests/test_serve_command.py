"""`cos serve`: its options, what it says of wrong models, and how it ends."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from chainofstep.cli import app
from chainofstep.cli.serve import _warn, serve_command
from chainofstep.serve.settings import ServeSettings
from serving import ask, data_url, png, until

CHAT = "/v1/chat/completions"


@contextmanager
def started(model, *options):
    """The process, and the address that it printed."""
    program = "import sys, typer; from chainofstep.cli.serve import serve_command; typer.run(serve_command)"
    command = [sys.executable, "-c", program, str(model), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=environment) as process:
        try:
            for line in process.stdout:
                if found := re.search(r"(http://127\.0\.0\.1:\d+)/v1", line):
                    break
            yield process, found[1]
        finally:
            process.kill()


def upgrade(port):
    """The status of a request for another protocol."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    connection.request("GET", "/health", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_command_serves_a_model_and_ends_with_0_after_what_runs(model):
    with started(model, "--prm", str(model), "--name", "mine", "--grace", "20") as (process, url):
        port, replies = int(url.rpartition(":")[2]), []
        assert upgrade(port) == 200
        assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 421
        body = {"model": "mine", "messages": ask("How many?", data_url(png((96, 96)))), "n": 8, "max_tokens": 300}
        body |= {"temperature": 1.0, "seed": 1}
        running = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{url}{CHAT}", json=body, timeout=30).status_code)
        )
        with begun(port) as late, idle(port) as kept:
            running.start()
            assert until(lambda: httpx.get(f"{url}/health").json()["in_progress"] == 1)
            process.send_signal(signal.SIGTERM)
            assert until(lambda: refuses(port)), "what is new"
            assert kept.recv(4096) == b"", "what is idle"
            late.sendall(b"}")
            assert late.recv(4096).startswith(b"HTTP/1.1 503 "), "what was on its way"
            running.join()
        assert process.wait(20) == 0 and replies == [200]
        assert "stopped" in process.stdout.read() and process.stderr.read() == ""


def begun(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    connection.sendall(head.encode() + b"{")
    return connection


def idle(port):
    """A connection that is kept after its request."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 204 ")
    return connection


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_port_in_use_is_one_line_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        started_at = time.monotonic()
        with pytest.raises(ValueError, match="choose another --port"):
            serve_command("no/such/model", port=taken.getsockname()[1])
    assert time.monotonic() - started_at < 2


# Options


def test_the_help_says_what_the_key_variable_is_for():
    text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    [line] = [line for line in text.splitlines() if "--key-variable" in line]
    assert "keys that clients must bring" in line and "COS_API_KEY" in text and "OPENAI" not in text


@pytest.mark.parametrize("value", [None, "", " , "])
@pytest.mark.parametrize("name", ["MY_KEYS", "COS_API_KEY"])
def test_a_variable_that_is_named_and_holds_no_key_is_refused(monkeypatch, name, value):
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"--key-variable names {name}, and no key is in it"):
        serve_command("no/such/model", port=0, key_variable=name)


@pytest.mark.parametrize("grace", [-1.0, float("nan"), float("inf")])
def test_a_grace_that_is_no_time_is_refused(grace):
    with pytest.raises(ValueError, match=f"--grace is {grace}: give seconds"):
        serve_command("no/such/model", port=0, grace=grace)


@pytest.mark.parametrize("option", ["--queue", "--most-mb", "--most-samples"])
def test_numbers_that_let_nothing_in_are_refused(option):
    done = CliRunner().invoke(app, ["serve", "no/such/model", option, "0"])
    assert done.exit_code == 2 and option in done.output


@pytest.mark.parametrize(("host", "keys", "warned"), [("0.0.0.0", (), True), ("0.0.0.0", ("k",), False)])
def test_a_server_that_is_open_to_others_is_warned_of(capsys, host, keys, warned):
    _warn(host, ServeSettings(keys=keys), "COS_API_KEY")
    assert ("anyone who reaches 0.0.0.0" in capsys.readouterr().err) == warned


# Models


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A model that writes chains and has no tokens of verdicts."""
    from chainofstep.chain import REASONING_TOKENS
    from chainofstep.models.tiny import Shape, build_tiny
    from chainofstep.models.vlm import add_step_tokens, save_vlm

    vlm = build_tiny(Shape(32, 1, 64, 2, 4, 2, 64), seed=3)
    add_step_tokens(vlm, REASONING_TOKENS)
    return save_vlm(vlm, tmp_path_factory.mktemp("models") / "sft")


def test_a_prm_that_is_none_is_told_so(writer):
    with pytest.raises(ValueError) as caught:
        serve_command(str(writer), prm=str(writer), port=0)
    remedy = "give the folder of a model trained by cos train prm"
    assert str(caught.value) == f"{writer} is no PRM: it has no token 'ки'; {remedy}"


def test_more_tokens_than_the_models_context_are_refused(writer):
    with pytest.raises(ValueError, match=r"--max-tokens is 1024, and the context of sft is 1024 tokens"):
        serve_command(str(writer), port=0, max_tokens=1024)


@pytest.mark.parametrize("prm_as_policy", [True, False])
def test_a_prm_as_a_policy_is_warned_of(model, writer, capsys, prm_as_policy):
    with pytest.raises(ValueError, match="--max-tokens"):  # so that it goes no further
        serve_command(str(model if prm_as_policy else writer), port=0, max_tokens=5000)
    assert (f"warning: {model} is a PRM" in capsys.readouterr().err) == prm_as_policy
