"""`cos eval --extractor`: an evaluation of MathVista whose replies a stand-in server reads; figures by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("rapidfuzz")

from chainofstep import verbs
from chainofstep.benchmarks.mathvista_extract import EXTRACTION_PROMPT
from chainofstep.llm import Endpoint
from chainofstep.llm.faults import Fault, Faults
from chainofstep.llm.stand_in import MODEL, StandIn
from chainofstep.pipeline import workers
from chainofstep.records import to_row
from chainofstep.store import read_json, write_json
from chainofstep.verbs.files import write_lines
from conftest import ScriptedSampler, make_chain, make_rollout
from test_benchmark_extract import reader
from test_benchmark_mathvista import row_of
from test_cli import cos, error, problem_file, rows
from test_pictures import chart

__all__ = ["problem_file"]  # a fixture
#: Of each item what is said; gold answers are 14.
SAID = ["14", "There are 14 bars.", "I see 13.", "I cannot tell.", "The picture is broken.", "13"]
ITEMS = len(SAID)


@pytest.fixture
def spec(tmp_path):
    items = [row_of("integer", "14", pid=str(number), question=f"How many? {number}") for number in range(ITEMS)]
    write_lines(tmp_path / "mathvista" / "items.jsonl", items)
    return f"mathvista:{tmp_path / 'mathvista'}"


@pytest.fixture
def said(tmp_path):
    return write_lines(tmp_path / "p.jsonl", [{"id": number, "text": text} for number, text in enumerate(SAID)])


def by_model(server, *words):
    return ("eval", *words, "--extractor", f"{MODEL}@{server.base_url}", "--concurrency", 1)


def evaluation(folder):
    """A finished folder of `cos eval`: greedy texts, and a pool of three chains an item."""
    pools = [("14", "15", "15"), ("15", "15 bars", "14 bars"), ("15", "14", "14 bars"), *[("15",) * 3] * 3]
    chains = [[make_chain("I count.", answer=answer) for answer in pool] for pool in pools]
    for name, texts in (("greedy", [[text] for text in SAID]), ("pool", chains)):
        logged = [
            {"id": f"mathvista/{place}", "rollouts": [to_row(make_rollout(one, i)) for i, one in enumerate(each)]}
            for place, each in enumerate(texts)
        ]
        write_lines(folder / name / "rollouts.jsonl", logged)
    runs = [{"method": method, "n": n, "width": 1} for method, n in RUNS]
    made = {"benchmark": "mathvista", "split": "testmini", "limit": None, "prompt": "paper", "sampling": {}}
    write_json(folder / "eval.json", made | {"runs": runs})
    return folder


RUNS = (("greedy", 1), ("self_consistency", 3), ("pass_at_n", 1), ("pass_at_n", 3))


def test_predictions_are_read_by_rules_then_by_the_model(spec, said, tmp_path):
    with StandIn(reader) as server:
        shown = cos(*by_model(server, spec, "--regrade", said))
        assert server.counts.requests == 4
        assert cos(*by_model(server, spec, "--regrade", said)) == shown and server.counts.requests == 4
    out = tmp_path / "p.graded"
    results, verdicts = read_json(out / "results.json"), rows(out / "verdicts" / "predictions.jsonl")
    assert [verdict["outcome"] for verdict in verdicts] == [
        "right", "right", "unparseable", "unparseable", "failed", "wrong"
    ]  # fmt: skip
    assert [verdict["note"].split(":")[0] for verdict in verdicts] == [
        "read by rules", *[f"read by {MODEL}"] * 3, f"not read by {MODEL}", "read by rules"
    ]  # fmt: skip
    assert results["readings"] == [
        {"method": "predictions", "n": 1, "width": 1, "rules": 2, "model": 3, "failed": 1, "nothing": 0}
        | {"total": 6, "fallback_share": 4 / 6}
    ]
    assert results["extractor"] == MODEL and results["extractor_settings"]["temperature"] == 0.0
    assert (out / results["extraction_prompt"]["file"]).read_text() == EXTRACTION_PROMPT + "\n"
    for text in (shown, (out / "results.md").read_text().replace("\\_", "_")):
        assert "Who read the replies" in text and "66.7%" in text and results["extraction_prompt"]["hash"] in text
        assert "failed items: 1 (not read by stand-in: its reply is empty)\n" in text + "\n"


def test_without_an_extractor_the_rules_are_named(spec, said, tmp_path):
    assert "Extractor: rules alone." in cos("eval", spec, "--regrade", said)
    results = read_json(tmp_path / "p.graded" / "results.json")
    assert results["extractor"] == "rules" and "readings" not in results
    assert not (tmp_path / "p.graded" / "extraction.sqlite").exists()


def test_every_method_of_a_folder_is_read(spec, tmp_path):
    folder = evaluation(tmp_path / "eval")
    right = {("greedy", 1): 1, ("self_consistency", 3): 1, ("pass_at_n", 1): 1, ("pass_at_n", 3): 2}
    assert rightly(cos("eval", spec, "--regrade", folder), folder) == right
    with StandIn(reader) as server:
        shown = cos(*by_model(server, spec, "--regrade", folder))
        # Greedy texts 1 to 4; of the pools "15 bars" and "14 bars" of item 1: of item 2 the rules call "14" right.
        assert server.counts.requests == 6
        assert rightly(shown, folder) == right | {("greedy", 1): 2, ("pass_at_n", 3): 3}
        assert "nothing to ask, 6 more are here already" in run_for_stderr(by_model(server, spec, "--regrade", folder))
    readings = {(row["method"], row["n"]): row for row in read_json(folder / "results.json")["readings"]}
    assert [readings["pass_at_n", 3][who] for who in ("rules", "model", "failed", "nothing")] == [5, 1, 0, 0]
    assert all(row["total"] == ITEMS for row in readings.values())


def test_an_evaluation_is_read_when_it_is_made(tmp_path, monkeypatch):
    chart(tmp_path / "a.png")
    items = [row_of("integer", "14", pid=str(number), image="a.png") for number in range(ITEMS)]
    write_lines(tmp_path / "items.jsonl", items)
    policy = ScriptedSampler(lambda request: [SAID[int(request.example.id.partition("/")[2])]])
    monkeypatch.setattr(workers, "sampler", lambda name, steps=True: policy)
    made = ("mathvista:" + str(tmp_path), "some/policy", tmp_path / "out")
    with StandIn(reader) as server:
        found = verbs.evaluate(*made, extractor=Endpoint(server.base_url, MODEL, temperature=0.0))
    assert found["rows"][0]["right"] == 2 and found["readings"][0]["model"] == 3
    assert verbs.evaluate(*made)["extractor"] == "rules"


def rightly(shown, folder):
    assert "Pass@N (ceiling)" in shown
    return {
        (row["method"], row["n"]): row["right"]
        for row in read_json(folder / "results.json")["rows"]
        if not row["breakdown"]
    }


def run_for_stderr(words):
    from typer.testing import CliRunner

    from chainofstep.cli import app

    return CliRunner().invoke(app, [str(word) for word in words]).stderr


def test_a_killed_command_pays_nothing_twice(spec, said, tmp_path):
    """Killed while the third reply is on its way: that one alone may be asked again."""
    with StandIn(reader, latency=0.3) as server:
        words = [str(word) for word in by_model(server, spec, "--regrade", said)]
        killed = subprocess.Popen(
            [sys.executable, "-m", "chainofstep", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while server.counts.answered < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "p.graded" / "results.json").exists()
        before = server.counts.requests
        server.behaviour.latency = 0.0
        cos(*words)
        assert 2 <= before <= 3 and server.counts.requests <= 5 and len(server.counts.bodies) == 4
    assert read_json(tmp_path / "p.graded" / "results.json")["rows"][0]["right"] == 2


def test_what_was_not_read_is_asked_again(spec, said, tmp_path):
    with StandIn(reader, faults=Faults(refused=Fault(first=1))) as server:
        assert "the same command asks about 1 of them again" in cos(*by_model(server, spec, "--regrade", said))
        requests = server.counts.requests
        cos(*by_model(server, spec, "--regrade", said))
        assert server.counts.requests == requests + 1
    assert read_json(tmp_path / "p.graded" / "results.json")["rows"][0]["right"] == 2


def test_the_key_is_that_of_the_variable_named(spec, said, monkeypatch):
    monkeypatch.setenv("READER_KEY", "secret")
    with StandIn(reader, key="secret") as server:
        words = by_model(server, spec, "--regrade", said)
        assert "Who read the replies" in cos(*words, "--key-variable", "READER_KEY", "--price", 1, 2)
        assert "secret" not in json.dumps(read_json(Path(said).with_suffix(".graded") / "results.json"))


def test_other_benchmarks_have_no_extractor(problem_file, said, tmp_path):
    extractor = ("--extractor", "gpt-4o")
    refused = "is graded by rules alone; leave --extractor out, only mathvista has one"
    for words in (("--regrade", said), ("--model", "a/b", "--out", tmp_path / "out")):
        assert refused in error("eval", problem_file, *words, *extractor)
    assert "no stand-in reads replies" in error("eval", problem_file, "--regrade", said, "--extractor", "stand-in")
    assert not (tmp_path / "out").exists() and not (tmp_path / "p.graded").exists()
