"""The viewer's server: what it answers, and what it refuses whoever asks."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from chainofstep.chain import render
from chainofstep.cli.view import listening, view_command
from chainofstep.records import to_row
from chainofstep.serve.guard import host_of, known_hosts
from chainofstep.serve.view import view_app
from conftest import make_chain
from view_case import PICTURE, Q1, TEN, pool_rows, write_rows, write_run

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

HERE = "http://127.0.0.1:8001"
HOSTILE = "</script><script>alert(1)</script>\ud800\u2028\x00"
OUT = (
    "../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "search/pool/../pool",
    "\x00",
    "q-1/",
    "x" * 600,
    "",
)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@contextmanager
def viewer(*runs, host="127.0.0.1", folders=()):
    with TestClient(view_app(runs, host, folders), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(run):
    with viewer(run) as opened:
        yield opened


def items(client, **filters):
    """The list, once the facts are there."""
    asked = {"run": "run", "set": "search/pool"} | filters
    for _ in range(200):
        reply = client.get("/api/items", params=asked)
        if reply.status_code != 200 or reply.json()["ready"] == 1:
            return reply
        time.sleep(0.02)
    raise AssertionError("the facts never came")


def send(client, headers=None, **changes):
    body = {"run": "run", "set": "search/pool", "id": "q-1", "index": 0, "step": 0, "label": 0} | changes
    return client.post("/api/labels", json=body, headers={"Origin": HERE} | (headers or {}))


def refused(reply, status):
    """One line that says why, and nothing of the machine."""
    assert reply.status_code == status, reply.text
    said = reply.json()
    assert list(said) == ["error"] and "\n" not in said["error"] and "Traceback" not in said["error"]
    return said["error"]


# Answers


def test_the_runs_are_listed_with_what_they_hold(client):
    (run,) = client.get("/api/runs").json()["runs"]
    pool = run["sets"][0]
    assert (run["name"], run["problems"]) == ("run", [])
    assert (pool["id"], pool["questions"], pool["rollouts"]) == ("search/pool", 2, 6)
    assert (pool["scorers"], pool["families"]) == (["prm", "checker"], ["line_sum", "lever_tip"])
    assert run["searches"] == [{"id": "search/beam-4-1", "questions": 1}]
    assert run["pairs"] == [{"id": "dpo-1/pairs", "questions": 1}]
    items(client)
    assert client.get("/api/runs").json()["runs"][0]["sets"][0]["ready"] == 1


def test_a_list_has_what_its_rows_show(client):
    found = items(client, scorer="prm", answer="wrong").json()
    assert {name: found[name] for name in ("questions", "rollouts", "ready")} == {
        "questions": 1,
        "rollouts": 1,
        "ready": 1,
    }
    (row,) = found["items"]
    picture = row.pop("picture")
    assert row == {
        "id": "q-1", "family": "line_sum", "question": Q1.question, "answer": "10",
        "rollouts": 4, "right": 2, "fitting": [2], "lowest": pytest.approx(0.6),
    }  # fmt: skip
    assert client.get(picture).headers["content-type"] == "image/png"
    assert [row["id"] for row in items(client, offset=1, limit=1).json()["items"]] == ["q-2"]
    assert items(client, shortest="", longest="", family="", text="", scorer="").json()["questions"] == 2


def test_the_other_questions_are_answered(client):
    asked = {"run": "run", "set": "search/pool", "id": "q-1"}
    assert len(client.get("/api/item", params=asked).json()["nodes"]) == 5
    assert client.get("/api/pairs", params={"run": "run", "pairs": "dpo-1/pairs"}).json()["questions"] == 1
    assert client.get("/api/calibration", params={**asked, "scorer": "prm"}).json()["steps"] == 7


def test_a_correction_is_kept_and_seen_at_once(client, run):
    assert send(client, index=2, step=1, label=1).json() == {"labels": [1.0, 1.0, 0.0]}
    assert client.get("/api/runs").json()["runs"][0]["sets"][0]["scorers"] == ["prm", "checker", "hand"]
    found = client.get("/api/item", params={"run": "run", "set": "search/pool", "id": "q-1"}).json()
    assert found["nodes"][3]["scores"]["hand"] == 1.0
    assert send(client, index=2, step=1, label=None).json() == {"labels": [1.0, 0.0, 0.0]}
    assert client.get("/api/runs").json()["runs"][0]["sets"][0]["scorers"] == ["prm", "checker"]
    assert (run / "hand/scores.jsonl").read_text() == ""


def test_rows_that_come_while_it_runs_are_shown(client, run):
    write_rows(run / "more/rollouts.jsonl", pool_rows())
    assert "more" in [one["id"] for one in client.get("/api/runs").json()["runs"][0]["sets"]]
    assert items(client, set="more").json()["questions"] == 2


def test_two_runs_of_one_name_are_two(run, tmp_path):
    other = write_run(tmp_path / "other/run")
    with viewer(run, other) as client:
        names = [one["name"] for one in client.get("/api/runs").json()["runs"]]
        assert len(set(names)) == 2 and names[1] == "other/run"
        assert items(client, run="other/run").json()["questions"] == 2


def test_a_question_may_have_a_long_id(run):
    name = "q-" + "x" * 60_000  # this client sends hardly more
    write_rows(run / "search/pool/rollouts.jsonl", pool_rows({name: [render(TEN)]}))
    asked = {"run": "run", "set": "search/pool"}
    with viewer(run) as client:
        assert [row["id"] for row in items(client).json()["items"]] == [name]
        assert client.get("/api/item", params=asked | {"id": name}).json()["id"] == name
        assert send(client, id=name).json() == {"labels": [0.0, None, None]}


def test_pictures_outside_the_run_are_not_served(run, tmp_path):
    (run / PICTURE).rename(tmp_path / "own.png")
    asked = {"run": "run", "set": "search/pool", "id": "q-1"}
    for image in (str(tmp_path / "own.png"), "../../own.png"):
        write_rows(run / "problems/test.jsonl", [to_row(replace(Q1, images=(image,)))])
        with viewer(run) as client:
            error = refused(client.get("/api/picture", params=asked), 404)
            assert error == "picture 'own.png' is outside the run: give --pictures FOLDER"
        with viewer(run, folders=[tmp_path]) as client:
            assert client.get("/api/picture", params=asked).headers["content-type"] == "image/png"


# Hostile texts and requests


def test_hostile_texts_are_json_that_is_text(run):
    text = render(make_chain("a", answer="1")).replace("It does.", HOSTILE)
    write_rows(run / "search/pool/rollouts.jsonl", pool_rows({"q-1": [text]}))
    write_rows(run / "problems/test.jsonl", [to_row(Q1) | {"question": HOSTILE, "source": HOSTILE}])
    with viewer(run) as client:
        reply = client.get("/api/item", params={"run": "run", "set": "search/pool", "id": "q-1"})
        assert reply.headers["content-type"] == "application/json"
        assert (reply.json()["question"], reply.json()["rollouts"][0]["text"]) == (HOSTILE, text)
        assert items(client).json()["items"][0]["question"] == HOSTILE
        assert client.get("/api/runs").status_code == 200


@pytest.mark.parametrize("value", OUT)
@pytest.mark.parametrize("name", ["run", "set", "id"])
def test_names_are_looked_up_and_no_paths(client, name, value):
    asked = {"run": "run", "set": "search/pool", "id": "q-1", "number": "0"} | {name: value}
    for route in ("item", "picture"):
        assert "root:" not in refused(client.get(f"/api/{route}", params=asked), 404)
    if name != "id":
        refused(client.get("/api/items", params=asked), 404)
        refused(client.get("/api/calibration", params=asked), 404)
    refused(send(client, **{name: value}), 404)


def test_names_of_pairs_and_scorers_are_looked_up(client):
    for value in OUT[:4]:
        refused(client.get("/api/pairs", params={"run": "run", "pairs": value}), 404)
        refused(client.get("/api/calibration", params={"run": "run", "set": "search/pool", "scorer": value}), 404)
        refused(items(client, scorer=value), 400)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset", "-1"), ("offset", "1e3"), ("offset", "9" * 30), ("limit", "501"), ("limit", "x"), ("low", "nan"),
        ("low", "-0.1"), ("high", "inf"), ("high", "1.5"), ("answer", "maybe"), ("sort", "id;"), ("disagree", "2"),
        ("shortest", "one"), ("longest", "²"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(client, name, value):
    assert refused(items(client, **{name: value}), 400).startswith(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"index": True}, {"index": "0"}, {"index": 1.0}, {"index": None}, {"step": [0]}, {"step": -1}, {"label": True},
        {"label": "1"}, {"label": 2}, {"label": []}, {"id": 7}, {"run": None}, {"set": {}},
    ],
)  # fmt: skip
def test_wrong_labels_are_refused_and_leave_nothing(client, run, changes):
    refused(send(client, **changes), 400)
    assert not (run / "hand").exists()


def test_a_label_that_cannot_be_kept_is_refused(client, run):
    (run / "hand").write_text("a file where the folder would be")
    refused(send(client), 403)


def test_paths_lead_to_the_listed_files_alone(client):
    for path in (
        "/static/../view.py",
        "/static/%2e%2e/view.py",
        "/static/play.html",
        "/view.py",
        "/static/",
        "/docs",
        "/openapi.json",
    ):
        refused(client.get(path), 404)


# Other sites


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "localhost.evil:8001", ""]
)
def test_a_host_that_is_not_this_viewers_is_refused(client, host):
    for path in ("/", "/api/runs", "/static/view.js"):
        refused(client.get(path, headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:8001", "127.0.0.1", "[::1]:8001", "LOCALHOST:9"])
def test_this_machine_is_answered(client, host):
    assert client.get("/api/runs", headers={"Host": host}).status_code == 200


def test_a_viewer_for_other_machines_answers_to_its_addresses_alone():
    anywhere = known_hosts("0.0.0.0")
    assert anywhere("192.168.0.7") and anywhere("fe80::1") and anywhere(socket.gethostname().lower())
    assert not anywhere("evil.example") and not known_hosts("127.0.0.1")("192.168.0.7")
    assert known_hosts("10.0.0.5")("10.0.0.5")
    assert (host_of("[::1]:80"), host_of("A.b:1"), host_of("")) == ("::1", "a.b", "")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "", "file://127.0.0.1:8001"])
def test_labels_are_taken_from_the_viewers_own_page_alone(client, run, origin):
    refused(send(client, {"Origin": origin}), 403)
    assert not (run / "hand").exists()


def test_labels_come_as_json_of_bounded_size(client, run):
    def post(content, kind="application/json"):
        return client.post("/api/labels", content=content, headers={"Origin": HERE, "Content-Type": kind})

    refused(post(b"run=run", "application/x-www-form-urlencoded"), 415)
    refused(post(json.dumps({"run": "run"}), "text/plain"), 415)
    refused(post(b"{"), 400)
    refused(post(b"[" * 60_000), 400)
    refused(post(b" " * 1_100_000), 413)
    refused(post(b"[]"), 400)
    refused(client.get("/api/labels"), 405)
    refused(client.post("/api/runs", headers={"Origin": HERE}), 405)
    assert not (run / "hand").exists()


def test_the_page_may_run_no_script_but_its_own(client):
    for path in ("/", "/static/view.js", "/api/runs", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "script-src" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers


def test_all_that_the_page_names_is_served(client):
    import re

    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    waiting = re.findall(r'(?:href|src)="(static/[^"]+)"', page.text)
    seen = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            reply = client.get(f"/{path}")
            assert reply.status_code == 200, path
            waiting += [f"static/{name}" for name in re.findall(r'from "\./([^"]+)"', reply.text)]
    assert {"static/view.js", "static/view.css", "static/common.js"} <= seen


# The command


def test_the_command_says_its_address_and_answers_there(run, capsys):
    import uvicorn

    servers = []
    begin = uvicorn.Server.run

    def kept(server, *args, **named):
        servers.append(server)
        return begin(server, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.Server, "run", kept)
        thread = threading.Thread(target=view_command, args=([run], 0, "127.0.0.1", None, 200, False))
        thread.start()
        while not servers or not servers[0].started:
            time.sleep(0.01)
        address = capsys.readouterr().out.split()[0]
        with urlopen(f"{address}api/runs") as reply:
            assert json.load(reply)["runs"][0]["name"] == "run"
        for length, status in ((90_000, 404), (100_000, 400)):  # an id may be long, a query not any longer
            with pytest.raises(HTTPError, match=str(status)) as refusal:
                urlopen(f"{address}api/item?run=run&set=search/pool&id={'x' * length}")
            refusal.value.close()
        servers[0].should_exit = True
        thread.join()


def test_a_port_in_use_is_one_line_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use: give another with --port"):
            listening("127.0.0.1", port)
    with pytest.raises(ValueError, match="give an address of this machine"):
        listening("192.0.2.1", 0)


def test_the_command_writes_a_page(run, tmp_path, capsys):
    view_command([run], 0, "127.0.0.1", tmp_path / "page.html", 2, False)
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}, 2 questions\n"
    assert render(TEN).split("\n")[0].replace("<", "\\u003c") in (tmp_path / "page.html").read_text("utf-8")
