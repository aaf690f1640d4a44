"""Workers in other processes and on Ray: the same rows as one process makes, whatever dies on the way."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from chainofstep import verbs
from chainofstep.chain import render
from chainofstep.pipeline.ray_workers import RayWorkers
from chainofstep.pipeline.rows import CHUNK, write_chunks
from chainofstep.pipeline.run import SHIPPED
from chainofstep.pipeline.spread import Spread
from chainofstep.records import Example, Rollout, to_row
from chainofstep.search import SearchConfig
from chainofstep.store import Log
from chainofstep.verbs.files import read_examples, write_lines

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
CHUNKS = 6
EXAMPLES = [Example(f"e{n}", "?", (), "1", "number") for n in range(CHUNKS * CHUNK - 3)]


def ids(log):
    return [row["id"] for row in log.rows()]


def count_chunk(examples, folder, victim):
    """Rows of a chunk, and a file for each time it was made; the process dies the first time that it is `victim`'s."""
    mark = f"{folder}/{examples[0].id}"
    with open(f"{mark}-{time.time_ns()}", "w"):
        pass
    if examples[0].id == victim and not os.path.exists(f"{mark}.died"):
        with open(f"{mark}.died", "w"):
            pass
        os._exit(1)
    return [{"length": len(example.question)} for example in examples]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine with room for more than the two workers that the tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where workers find this module
        ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        workers = RayWorkers(2, "auto")
        yield workers
        workers.shutdown(cancel_futures=True)
        ray.shutdown()


def test_rows_come_back_in_order_and_once(tmp_path, cluster):
    log = Log(tmp_path / "rows.jsonl")
    write_chunks(log, "count", EXAMPLES, count_chunk, lambda _: (str(tmp_path), None), cluster)
    assert ids(log) == [example.id for example in EXAMPLES]
    assert len(list(tmp_path.glob("e*"))) == CHUNKS  # no chunk was made twice


def test_the_rows_of_a_worker_that_died_are_made_again(tmp_path, cluster, caplog):
    log, victim = Log(tmp_path / "rows.jsonl"), EXAMPLES[2 * CHUNK].id
    write_chunks(log, "count", EXAMPLES, count_chunk, lambda _: (str(tmp_path), victim), cluster)
    assert ids(log) == [example.id for example in EXAMPLES]
    made = Counter(path.name.partition("-")[0] for path in tmp_path.glob("e*-*"))
    assert made[victim] == 2 and sum(made.values()) == CHUNKS + 1
    assert "its rows are done again" in caplog.text


def test_rows_that_kill_every_worker_are_named(cluster):
    with pytest.raises(ValueError, match="3 workers died on the same rows"):
        cluster.submit(os._exit, 1).result(timeout=120)
    assert cluster.submit(max, 1, 2).result(timeout=120) == 2  # the others go on


def test_a_tasks_own_error_comes_out_as_it_is(cluster):
    with pytest.raises(ValueError, match="invalid literal for int"):
        cluster.submit(int, "no number").result(timeout=120)


def test_more_workers_than_the_cluster_holds_are_refused(cluster):
    with pytest.raises(ValueError, match=r"999 workers on a Ray cluster with room for \d+; ask for fewer"):
        RayWorkers(999, "local")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "ray://nowhere.invalid:10001", "[::1]:99999"])
def test_no_cluster_at_an_address_is_one_line(address):
    refused = pytest.raises(ValueError, match=r"no Ray cluster at .* \(.+\); start one, or use --ray local")
    started = time.monotonic()
    with refused as caught, Spread(1, address).start():
        pass
    assert "\n" not in str(caught.value) and time.monotonic() - started < 20


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(ValueError, match="give at least one worker"), Spread(-1, "local").start():
        pass


def test_a_killed_process_without_ray_is_one_line(tmp_path):
    log = Log(tmp_path / "rows.jsonl")
    refused = pytest.raises(ValueError, match=r"a worker process was killed .* --ray local")
    with Spread(2).start() as workers, refused:
        write_chunks(log, "count", EXAMPLES, count_chunk, lambda _: (str(tmp_path), EXAMPLES[0].id), workers)


def test_chunks_are_handed_out_as_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("chainofstep.pipeline.rows.AHEAD", 2)
    waiting = []

    class Slow:
        def submit(self, make, chunk, *arguments):
            future = Future()
            future.set_result(make(chunk, *arguments))
            waiting.append(len(list(log.rows())) if log.path.exists() else 0)
            return future

    log = Log(tmp_path / "rows.jsonl")
    write_chunks(log, "count", EXAMPLES, count_chunk, lambda _: (str(tmp_path), None), Slow())
    assert waiting == [0, 0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK]  # rows written when each was handed out
    assert ids(log) == [example.id for example in EXAMPLES]


# The verbs


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Questions, and their gold chains as rollouts."""
    folder = tmp_path_factory.mktemp("asked")
    problems = verbs.problems(folder / "data", count=96)
    rows = []
    for example in read_examples(problems):
        rollouts = [Rollout(example.id, render(example.chain), (), "answer", seed) for seed in range(2)]
        rows.append({"id": example.id, "rollouts": [to_row(rollout) for rollout in rollouts]})
    return problems, write_lines(folder / "rollouts.jsonl", rows)


def annotate(asked, out, spread):
    return verbs.annotate(*asked, out, "prm", str(SHIPPED / "prm"), spread=spread)


def workers_of_ray():
    return {p.pid for p in psutil.Process().children(recursive=True) if "ray::_Worker" in " ".join(p.cmdline())}


def kill_a_worker(out, others, killed):
    """Kill a worker, none of the others, as soon as rows are written."""
    while not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    killed.append(min(workers_of_ray() - others))
    os.kill(killed[0], signal.SIGKILL)


def test_annotation_on_ray_survives_a_killed_worker(tmp_path, asked, cluster, monkeypatch, caplog):
    monkeypatch.setattr("chainofstep.pipeline.rows.CHUNK", 8)
    plain, spread, killed = tmp_path / "plain.jsonl", tmp_path / "spread.jsonl", []
    annotate(asked, plain, Spread())
    killer = threading.Thread(target=kill_a_worker, args=(spread, workers_of_ray(), killed), daemon=True)
    killer.start()
    kinds = annotate(asked, spread, Spread(2, "local"))
    killer.join()
    assert killed and not psutil.pid_exists(killed[0])
    assert "a worker died; it is replaced" in caplog.text
    assert spread.read_bytes() == plain.read_bytes()
    assert kinds == {"scored": 192}


def test_sampling_by_two_processes_is_that_of_one(tmp_path, asked):
    config = SearchConfig(n=2, max_tokens=16)
    for name, spread in (("one", Spread()), ("two", Spread(2))):
        verbs.sample(str(SHIPPED / "prm"), asked[0], tmp_path / f"{name}.jsonl", config, spread)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
