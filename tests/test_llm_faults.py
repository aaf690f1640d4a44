"""Endpoints that fail in every way, against the real client: what is tried again, what is not, what stops a job."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from chainofstep.llm import Endpoint, EndpointDown, Failure, Prompt, Reply, ask, connection
from chainofstep.llm.faults import FAULT_NAMES, Fault, Faults
from chainofstep.llm.reply import Trouble, Usage, read_refusal, read_reply, retry_after
from chainofstep.llm.stand_in import MODEL, StandIn

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_BACK_OFF", 0.02)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "replies.sqlite"


def echo(asked):
    return f"You said: {asked.text}"


def prompts_of(number):
    return [Prompt(str(i), f"question {i}") for i in range(number)]


def endpoint_of(server, **settings):
    return Endpoint(server.base_url, MODEL, **settings)


def answers_of(endpoint, prompts, cache):
    """The outcome of each prompt, each told once, and the spending."""
    told = []
    spending = ask(endpoint, prompts, lambda prompt, outcome: told.append((prompt.id, outcome)), cache)
    assert max(Counter(id for id, _ in told).values()) == 1
    return dict(told), spending


RETRIED = ["hang", "busy", "server_error", "cut", "not_json", "error_object", "empty", "drip"]


def timeout_of(fault):
    """Short only where it is waited for."""
    return 0.5 if fault in ("hang", "drip") else 30.0


@pytest.mark.parametrize("fault", RETRIED)
def test_a_fault_that_passes_is_tried_again(fault, cache):
    with StandIn(echo, faults=Faults(**{fault: Fault(first=3)})) as server:
        told, spending = answers_of(endpoint_of(server, timeout_seconds=timeout_of(fault)), prompts_of(2), cache)
        assert server.counts.faults == {fault: 3} and server.counts.requests == 5
    assert [told[id].text for id in "01"] == ["You said: question 0", "You said: question 1"]
    assert (spending.requests, spending.retries, spending.failed) == (5, 3, 0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hang", "time-out: no whole reply within 0.5 s (2 attempts)"),
        ("drip", "time-out: no whole reply within 0.5 s (2 attempts)"),
        ("busy", "HTTP 429: too many requests (2 attempts)"),
        ("server_error", "HTTP 500: the engine died (2 attempts)"),
        ("cut", "cut reply: peer closed connection without sending complete message body"),
        ("not_json", "not JSON: '<html><body>502 Bad Gateway</body></html>' (2 attempts)"),
        ("error_object", "error with HTTP 200: upstream error (2 attempts)"),
        ("empty", "empty content: finish_reason 'stop' (2 attempts)"),
    ],
)
def test_a_fault_that_stays_fails_the_prompt_and_is_not_kept(fault, reason, cache):
    with StandIn(echo, faults=Faults(**{fault: Fault(rate=1.0)})) as server:
        told, spending = answers_of(
            endpoint_of(server, attempts=2, timeout_seconds=timeout_of(fault)), prompts_of(1), cache
        )
        assert server.counts.requests == 2
    assert told["0"].reason.startswith(reason) and told["0"].passing
    assert (spending.failed, spending.retries) == (1, 1)
    with StandIn(echo) as server:
        told, spending = answers_of(endpoint_of(server), prompts_of(1), cache)
        assert isinstance(told["0"], Reply) and spending.requests == 1


def test_half_a_text_and_an_error_for_a_text_are_replies_that_were_paid(cache):
    faults = Faults(error_text=Fault(first=1), half=Fault(every=2))
    with StandIn(lambda asked: "12345678", faults=faults) as server:
        told, _ = answers_of(endpoint_of(server, concurrency=1), prompts_of(2), cache)
        again, spending = answers_of(endpoint_of(server), prompts_of(2), cache)
    assert [(told[id].text, told[id].finish_reason) for id in "01"] == [
        ("Error: the upstream model is overloaded.", "stop"),
        ("1234", "length"),
    ]
    assert spending.cached == 2 and [again[id].text for id in "01"] == [told[id].text for id in "01"]


def test_a_refused_prompt_is_asked_once_and_fails_alone(cache):
    with StandIn(echo, faults=Faults(refused=Fault(every=2))) as server:
        told, spending = answers_of(endpoint_of(server, concurrency=1), prompts_of(40), cache)
    failed = [outcome for outcome in told.values() if isinstance(outcome, Failure)]
    assert failed == [Failure("HTTP 400: the prompt is too long", passing=False)] * 20
    assert (spending.requests, spending.failed, spending.retries) == (40, 20, 0)


@pytest.mark.parametrize("seed", range(3))
def test_all_prompts_are_answered_once_under_mixed_faults(seed, cache):
    mixed = {name: Fault(rate=0.05) for name in (*RETRIED, "half")}
    with StandIn(echo, latency=0.01, faults=Faults(**mixed, seed=seed)) as server:
        endpoint = endpoint_of(server, concurrency=16, timeout_seconds=1.5, attempts=12)
        told, spending = answers_of(endpoint, prompts_of(120), cache)
        assert server.counts.most_in_flight <= 16
        assert sum(server.counts.faults[name] for name in RETRIED) == spending.retries > 20
        assert spending.requests == server.counts.requests == 120 + spending.retries
    assert told.keys() == {str(i) for i in range(120)}
    whole = {id: reply.text for id, reply in told.items() if reply.finish_reason == "stop"}
    assert whole == {id: f"You said: question {id}" for id in whole} and len(whole) > 90


def test_faults_strike_by_number_or_by_body():
    faults = Faults(busy=Fault(every=3), cut=Fault(first=1))
    assert [faults.strike(n, b"", 0) for n in range(1, 7)] == ["cut", None, "busy", None, None, "busy"]
    faults = Faults(hang=Fault(rate=0.25), empty=Fault(rate=0.25), seed=1)
    struck = [faults.strike(1, str(i).encode(), 0) for i in range(1000)]
    assert all(200 < struck.count(name) < 300 for name in ("hang", "empty"))
    assert struck == [faults.strike(2, str(i).encode(), 0) for i in range(1000)]  # in another order
    assert struck != [faults.strike(1, str(i).encode(), 1) for i in range(1000)]  # when they are sent again
    assert {"hang", "empty", "refused"} <= set(FAULT_NAMES)


def test_nobody_is_asked_before_retry_after_has_passed(cache):
    """The first four are in flight together when one of them is told to wait a second."""
    faults = Faults(busy=Fault(first=1), retry_after="1")
    with StandIn(echo, latency=0.4, faults=faults) as server:
        told, _ = answers_of(endpoint_of(server, concurrency=4), prompts_of(12), cache)
        arrivals = server.counts.arrivals
    told_to_wait = arrivals[0] + 0.4
    late = [arrival - told_to_wait for arrival in arrivals if arrival > told_to_wait + 0.05]
    assert len(late) >= 9 and min(late) > 0.95
    assert all(isinstance(outcome, Reply) for outcome in told.values())


def test_a_prompt_that_waits_leaves_its_slot_to_others(cache, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_BACK_OFF", 1.0)
    monkeypatch.setattr(connection.random, "uniform", lambda low, high: high)
    order = []
    with StandIn(echo, faults=Faults(server_error=Fault(first=1))) as server:
        ask(endpoint_of(server, concurrency=1), prompts_of(2), lambda prompt, _: order.append(prompt.id), cache)
    assert order == ["1", "0"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date_without_the_servers_clock():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < (retry_after({"retry-after": date}) or 0) <= 90


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "bad temperature", "refused"),
        (413, "too large", "refused"),
        (422, "max_tokens", "refused"),
        (400, "response_format is unknown", "schema"),
        (400, "content_filter", "refused"),
        (408, "", "again"),
        (409, "", "again"),
        (429, "", "again"),
        (429, '{"error": {"code": "insufficient_quota"}}', "down"),
        (503, "", "again"),
        (402, "", "down"),
        (403, "country", "down"),
        (403, "input was flagged", "refused"),
        (405, "", "missing"),
    ],
)
def test_a_status_says_what_to_do(status, text, kind):
    trouble = read_refusal(status, {}, text.encode(), structured=True)
    assert trouble.kind == kind and "\n" not in trouble.reason


def test_a_schema_that_was_not_sent_is_not_refused():
    assert read_refusal(400, {}, b"response_format", structured=False).kind == "refused"


BODY = '{"choices": [{"message": {"content": %s}, "finish_reason": "%s"}], "usage": {"completion_tokens": 9}}'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (BODY % ('"text"', "stop"), Reply("text", 0, 9, "stop", "", False)),
        (BODY % ('[{"type": "text", "text": "te"}, {"text": "xt"}]', "stop"), Reply("text", 0, 9, "stop", "", False)),
        (BODY % (r'"half a pair \ud83d"', "stop"), Reply("half a pair ?", 0, 9, "stop", "", False)),
        (BODY % ("null", "content_filter"), Trouble("refused", "content refusal: content_filter")),
        (
            BODY % ("null", "length"),
            Trouble("refused", "empty content: nothing was said within max_tokens=5, raise it"),
        ),
        (BODY % ("7", "stop"), Trouble("again", "empty content: finish_reason 'stop'")),
    ],
)
def test_a_body_is_read(content, found):
    assert read_reply(content.encode(), False, 5) == (found, Usage(0, 9))


@pytest.mark.parametrize(
    "content", ["", "[]", "7", '{"choices": []}', '{"choices": [null]}', '{"choices": {}}', "\x00"]
)
def test_a_body_that_is_no_completion_is_asked_for_again(content):
    found, _ = read_reply(content.encode(), False, 5)
    assert isinstance(found, Trouble) and found.kind == "again"


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_key_stops_the_job(cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with StandIn(echo, key="right") as server:
        with pytest.raises(EndpointDown) as caught:
            answers_of(endpoint_of(server, concurrency=2), prompts_of(50), cache)
        assert server.counts.requests <= 4
    assert "the key in the environment variable OPENAI_API_KEY is not set" in one_line(caught)


def test_a_wrong_model_stops_the_job_and_lists_what_there_is(cache):
    with StandIn(echo, model="right") as server, pytest.raises(EndpointDown) as caught:
        answers_of(endpoint_of(server), prompts_of(5), cache)
    assert one_line(caught).endswith("has no model 'stand-in': set model to one it offers: right")


def test_a_wrong_address_stops_the_job(cache):
    with StandIn(echo) as server, pytest.raises(EndpointDown) as caught:
        answers_of(Endpoint(server.base_url.removesuffix("/v1"), MODEL), prompts_of(5), cache)
    assert "HTTP 404: Not Found: mend base_url, which usually ends in /v1" in one_line(caught)


def test_a_refused_connection_stops_the_job_at_once(cache):
    with pytest.raises(EndpointDown) as caught:
        answers_of(Endpoint(NOBODY, MODEL), prompts_of(5), cache)
    assert f"cannot connect to {NOBODY}" in one_line(caught)


def test_a_server_that_goes_away_is_waited_for(cache):
    """Refused connections after a reply are tried again; only a row of failed prompts stops the job."""
    told = []
    with StandIn(echo) as server:
        endpoint = endpoint_of(server, concurrency=4, attempts=2)

        def done(prompt, outcome):
            told.append(outcome)
            if len(told) == 1:
                server.__exit__(None, None, None)

        with pytest.raises(EndpointDown) as caught:
            ask(endpoint, prompts_of(100), done, cache)
    assert "20 prompts in a row failed, the last with no connection" in one_line(caught)
    failures = [outcome for outcome in told if isinstance(outcome, Failure)]
    assert len(failures) == 19 and all(failure.passing for failure in failures)


def test_failures_that_are_not_in_a_row_stop_nothing(cache):
    with StandIn(echo, faults=Faults(server_error=Fault(every=2))) as server:
        told, spending = answers_of(endpoint_of(server, concurrency=1, attempts=1), prompts_of(60), cache)
    assert (spending.failed, len(told)) == (30, 60)


def test_where_every_prompt_is_refused_the_settings_are_at_fault(cache):
    with StandIn(echo, faults=Faults(refused=Fault(rate=1.0))) as server, pytest.raises(EndpointDown) as caught:
        answers_of(endpoint_of(server, concurrency=1), prompts_of(60), cache)
    assert "20 prompts in a row failed, the last with HTTP 400: the prompt is too long" in one_line(caught)


def test_where_others_were_answered_the_prompts_are(cache):
    with StandIn(echo) as server:
        answers_of(endpoint_of(server), prompts_of(1), cache)
        server.behaviour.faults = Faults(refused=Fault(rate=1.0))
        told, spending = answers_of(endpoint_of(server, concurrency=1), prompts_of(41), cache)
    assert (spending.cached, spending.failed, len(told)) == (1, 40, 41)


def test_a_server_that_asks_for_an_hour_is_left(cache):
    faults = Faults(busy=Fault(first=1), retry_after="3600")
    with StandIn(echo, faults=faults) as server, pytest.raises(EndpointDown, match="asks to wait 3600 s"):
        answers_of(endpoint_of(server), prompts_of(1), cache)


JOB = """
import sys
from pathlib import Path
from chainofstep.llm import Endpoint, Prompt, ask
def done(prompt, outcome):
    print(prompt.id, flush=True)
endpoint = Endpoint(sys.argv[1], "stand-in", concurrency=8)
ask(endpoint, (Prompt(str(i), f"question {i}") for i in range(200)), done, Path(sys.argv[2]))
"""


def started_job(server, cache, wait_for=30):
    """A job in a process of its own that has told of some prompts."""
    command = [sys.executable, "-W", "error", "-c", JOB, server.base_url, str(cache)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    return job, [job.stdout.readline().strip() for _ in range(wait_for)]


def test_a_killed_job_goes_on_from_what_was_answered(cache):
    with StandIn(echo, latency=0.05) as server:
        job, told = started_job(server, cache)
        job.kill()
        told += job.communicate()[0].split()
        asked = server.counts.requests
        assert 30 <= asked < 200
        outcomes, spending = answers_of(endpoint_of(server), prompts_of(200), cache)
        assert server.counts.requests <= 200 + 8
    assert all(outcomes[id].cached for id in told) and len(outcomes) == 200
    assert spending.requests <= 200 - len(told) and spending.cached + spending.requests == 200


def test_an_interrupted_job_ends_soon_and_keeps_what_it_has(cache):
    with StandIn(echo, latency=0.05) as server:
        job, told = started_job(server, cache)
        server.behaviour.latency = 60.0
        time.sleep(0.2)  # all that is in flight now would take a minute
        job.send_signal(signal.SIGINT)
        rest, errors = job.communicate(timeout=10)
    assert errors.strip().endswith("KeyboardInterrupt") and "Warning" not in errors and "never" not in errors
    told += rest.split()
    _, spending = answers_of(Endpoint(NOBODY, MODEL), [Prompt(i, f"question {i}") for i in told], cache)
    assert spending.cached == len(told) and spending.requests == 0


def test_what_done_raises_comes_out_and_leaves_nothing_behind(cache):
    with StandIn(echo, latency=0.05) as server:
        before = set(threading.enumerate())
        with pytest.raises(LookupError, match="no room"):
            ask(endpoint_of(server), prompts_of(200), lambda *_: (_ for _ in ()).throw(LookupError("no room")), cache)
        assert set(threading.enumerate()) == before
        assert server.counts.requests <= 128


def test_what_the_prompts_raise_comes_out(cache):
    def prompts():
        yield from prompts_of(3)
        raise OSError("the disk is gone")

    with StandIn(echo) as server, pytest.raises(OSError, match="the disk is gone"):
        answers_of(endpoint_of(server), prompts(), cache)


def test_the_stand_in_runs_as_a_program(cache, tmp_path):
    (tmp_path / "reply.txt").write_text("as written", "utf-8")
    options = ["--reply-file", str(tmp_path / "reply.txt"), "--fault", "server_error=0.3", "--refuse-schema"]
    command = [sys.executable, "-W", "error", "-m", "chainofstep.llm.stand_in", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        endpoint = Endpoint(server.stdout.readline().strip(), MODEL, attempts=20)
        prompts = [Prompt(str(i), f"{i}", schema={"type": "object"}) for i in range(30)]
        told, spending = answers_of(endpoint, prompts, cache)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=10) == 0
    assert {outcome.text for outcome in told.values()} == {"as written"}
    assert spending.retries > 0 and spending.unstructured == 30
