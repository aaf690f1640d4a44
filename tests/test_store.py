"""The run folder: whole files, logs that survive a kill, rejects, stages that run once, and what is said when not."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainofstep.store import (
    DiskFull,
    Log,
    RunFolder,
    done_ids,
    read_json,
    read_records,
    read_rows,
    write_bytes,
    write_json,
    write_text,
)

RECIPE = {"name": "mini", "seed": 0, "dpo": {"beta": 0.1, "rounds": 3}, "samples": (1, 4)}
ROWS = [
    {"id": "a", "text": "Row 1 reads 3."},
    {"id": "b", "text": "two\nlines, ки and \u2028", "score": 0.25},
    {"id": "c", "text": "", "more": {"list": [1, None, "}"]}},
]

full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


def log_bytes(tmp_path, rows=ROWS):
    log = Log(tmp_path / "whole.jsonl")
    for row in rows:
        log.append(row)
    return log.path.read_bytes()


# Files


def test_a_file_is_replaced_whole_and_leaves_no_temporary_behind(tmp_path):
    path = tmp_path / "folder" / "results.json"
    write_json(path, {"accuracy": 0.5, "tag": "ки"})
    assert path.read_text(encoding="utf-8") == '{\n  "accuracy": 0.5,\n  "tag": "ки"\n}\n'
    reader = path.open(encoding="utf-8")
    assert write_text(path, "short") == path
    with reader:  # who has the old file open still reads all of it
        assert reader.read() == '{\n  "accuracy": 0.5,\n  "tag": "ки"\n}\n'
    assert path.read_bytes() == b"short"
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "results.json", {"old": 1})
    with pytest.raises(ValueError):
        write_json(path, {"new": float("nan")})
    assert read_json(path) == {"old": 1}


def test_a_corrupt_json_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{\n"a": 1,\n"b" 2}')
    with pytest.raises(ValueError, match=r"results\.json:3: not JSON \(Expecting ':' delimiter\)"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"results\.json: not UTF-8 at byte 7"):
        read_json(path)


@full_disk
def test_a_full_disk_is_one_line_that_names_the_path(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    log = Log(tmp_path / "rows.jsonl")
    with pytest.raises(DiskFull) as caught:
        log.append({"id": "a"})
    assert str(caught.value) == (
        f"no disk space left to write {tmp_path}/rows.jsonl: free some and give the same command again, "
        "it goes on from here"
    )


@full_disk
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = write_bytes(tmp_path / "weights.bin", b"old")
    (tmp_path / ".weights.bin.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"weights\.bin: free some"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


# Logs


def test_a_row_that_fits_in_part_is_taken_back(tmp_path):
    log = Log(tmp_path / "rows.jsonl")
    log.append({"id": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.append({"id": 2, "text": "more than the ten bytes that are left"})
        assert log.path.read_text() == '{"id": 1}\n'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_row_is_a_line_and_comes_back(tmp_path):
    assert log_bytes(tmp_path, ROWS[:1]) == b'{"id": "a", "text": "Row 1 reads 3."}\n'
    log = Log(tmp_path / "whole.jsonl")
    for row in ROWS[1:]:
        log.append(row)
    assert list(log.rows()) == ROWS
    assert [number for number, _ in read_rows(log.path)] == [1, 2, 3]
    assert done_ids(log, "id") == {"a", "b", "c"}


def test_a_log_that_was_never_written_is_empty(tmp_path):
    log = Log(tmp_path / "none.jsonl")
    assert list(log.rows()) == [] and done_ids(log, "id") == set()
    assert not log.path.exists()


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\nbroken\n')
    rows = read_rows(path)
    assert next(rows) == (1, {"id": 1})
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: not a JSON object, found 'broken'"):
        next(rows)


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "{'id': 1}", '{"id":', "3"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": 1}}\n\n{line}\n{{"id": 2}}\n')
    with pytest.raises(ValueError) as caught:
        list(read_rows(path))
    assert str(caught.value) == f"{path}:3: not a JSON object, found {line!r}: mend or delete the line"


def test_a_reader_says_that_a_last_line_is_cut_off_and_changes_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id"')
    with pytest.raises(ValueError, match=r":2: not a JSON object, cut off: the run was stopped while writing it"):
        list(read_rows(path))
    assert path.read_text() == '{"id": 1}\n{"id"'


def test_opening_a_log_drops_a_torn_last_line_and_says_so(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "te')
    log = Log(path)
    assert log.dropped == 13
    assert caplog.messages == [f"{path}: dropped a last line cut off after 13 bytes"]
    assert path.read_text() == '{"id": 1}\n'
    assert Log(path).dropped == 0


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 << 16])
def test_a_torn_line_longer_than_a_block_is_found(tmp_path, size):
    path = tmp_path / "rows.jsonl"
    whole = b'{"id": 1}\n{"id": 2}\n'
    path.write_bytes(whole + b"x" * size)
    assert Log(path).dropped == size
    assert path.read_bytes() == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_cut_anywhere_and_resumed_a_log_ends_in_the_same_bytes(tmp_path, data):
    path = tmp_path / "rows.jsonl"
    whole = b"".join((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in ROWS)
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    log = Log(path)
    done = done_ids(log, "id")
    for row in ROWS:
        if row["id"] not in done:
            log.append(row)
    assert path.read_bytes() == whole == log_bytes_once(tmp_path)


def log_bytes_once(tmp_path):
    path = tmp_path / "whole.jsonl"
    return path.read_bytes() if path.exists() else log_bytes(tmp_path)


def test_done_ids_names_a_row_without_the_key(tmp_path):
    log = Log(tmp_path / "rows.jsonl")
    log.append({"id": 1, "text": "x"})
    log.append({"text": "x", "score": 1})
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: no field 'id', only text, score: "):
        done_ids(log, "id")


def test_a_value_json_does_not_have_is_refused_before_anything_is_written(tmp_path):
    log = Log(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError):
        log.append({"score": float("inf")})
    assert not log.path.exists()


@dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[str, ...] = ()


def test_records_come_back_and_a_wrong_field_is_named(tmp_path):
    log = Log(tmp_path / "points.jsonl")
    log.append({"x": 1, "tags": ["a", "b"]})
    assert list(log.records(Point)) == [Point(1, ("a", "b"))]
    log.append({"x": "left"})
    with pytest.raises(ValueError, match=r"points\.jsonl:2: not a valid Point: x: Input should be a valid") as caught:
        list(read_records(log.path, Point))
    assert "\n" not in str(caught.value)


WORKER = """
import sys, time
from chainofstep.store import Log, done_ids
log = Log(__import__("pathlib").Path(sys.argv[1]))
done = done_ids(log, "id")
for number in range(int(sys.argv[2])):
    if number not in done:
        log.append({"id": number, "text": f"step {number} " * 2000})
        time.sleep(float(sys.argv[3]))
"""


def run_worker(path, rows, pause):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(rows), str(pause)])


def wait_for_size(path, size, process):
    deadline = time.monotonic() + 30
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None and time.monotonic() < deadline, "the worker ended or wrote nothing"
        time.sleep(0.001)


def test_a_killed_and_resumed_worker_writes_the_bytes_of_one_that_was_not(tmp_path):
    assert run_worker(tmp_path / "whole.jsonl", 30, 0).wait() == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()

    path = tmp_path / "killed.jsonl"
    for part in (1, 2):
        process = run_worker(path, 30, 0.05)
        wait_for_size(path, len(whole) * part // 3, process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len(path.read_bytes()) < len(whole)
    with path.open("ab") as file:  # a kill in the middle of a write, which no timing hits for sure
        file.write(b'{"id": 29, "text": "st')
    assert run_worker(path, 30, 0).wait() == 0
    assert path.read_bytes() == whole


# The folder


def test_a_folder_belongs_to_its_recipe(tmp_path):
    folder = RunFolder(tmp_path / "mini")
    folder.claim(RECIPE)
    assert folder.recipe() == {**RECIPE, "samples": [1, 4]}
    before = (tmp_path / "mini" / "recipe.json").read_bytes()
    RunFolder(tmp_path / "mini").claim(RECIPE)
    assert (tmp_path / "mini" / "recipe.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "seed=0, not 1"),
        ({"dpo": {"beta": 0.2, "rounds": 1}}, "dpo.beta=0.1, not 0.2"),
        ({"samples": (1, 8)}, "samples=[1, 4], not [1, 8]"),
        ({"name": "large", "seed": 2}, "name='mini', not 'large'"),
        ({"search": "beam"}, "search=nothing, not 'beam'"),
    ],
)
def test_another_recipe_is_refused_with_the_first_differing_field(tmp_path, change, difference):
    RunFolder(tmp_path).claim(RECIPE)
    with pytest.raises(ValueError) as caught:
        RunFolder(tmp_path).claim({**RECIPE, **change})
    assert str(caught.value) == f"{tmp_path} was made with {difference}: choose another --out, or delete the folder"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has files but no recipe\.json, so it is no run's: choose another --out"):
        RunFolder(tmp_path).claim(RECIPE)
    with pytest.raises(ValueError, match=r"holiday\.txt is a file: choose another --out"):
        RunFolder(tmp_path / "holiday.txt").claim(RECIPE)
    with pytest.raises(ValueError, match=r"has no recipe\.json, so it is no run folder"):
        RunFolder(tmp_path).recipe()


def test_a_kill_while_claiming_does_not_block_the_folder(tmp_path):
    (tmp_path / ".recipe.json.tmp").write_text('{"na')
    RunFolder(tmp_path).claim(RECIPE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.json"]


def test_rejects_keep_the_row_and_the_reason(tmp_path):
    folder = RunFolder(tmp_path)
    folder.reject("sample", "math-1", "picture missing: 3.png", {"question": "?"})
    assert (tmp_path / "sample" / "rejects.jsonl").read_text() == (
        '{"id": "math-1", "reason": "picture missing: 3.png", "row": {"question": "?"}}\n'
    )
    assert done_ids(folder.rejects("sample"), "id") == {"math-1"}


class Work:
    """A stage's work: writes one log row and one model file, and counts its calls."""

    def __init__(self, folder, weights=b"weights", fail=False):
        self.folder, self.weights, self.fail, self.calls = folder, weights, fail, 0

    def __call__(self, path):
        self.calls += 1
        log = self.folder.log("sft/losses")
        if not done_ids(log, "id"):
            log.append({"id": 1, "loss": 0.5})
        if self.fail:
            raise KeyboardInterrupt
        write_bytes(path / "model" / "weights.bin", self.weights)
        return [path / "model", log.path]


def test_a_finished_stage_is_not_run_again(tmp_path):
    folder = RunFolder(tmp_path)
    work = Work(folder)
    stage = folder.run_stage("sft", {"data": "abc", "epochs": 2}, work)
    assert work.calls == 1
    assert stage.seconds is not None and 0 <= stage.seconds < 10
    assert stage.outputs == {
        "sft/model/weights.bin": hashlib.sha256(b"weights").hexdigest(),
        "sft/losses.jsonl": hashlib.sha256(b'{"id": 1, "loss": 0.5}\n').hexdigest(),
    }
    assert stage.inputs_hash == hashlib.sha256(b'{"data": "abc", "epochs": 2}').hexdigest()
    assert RunFolder(tmp_path).run_stage("sft", {"epochs": 2, "data": "abc"}, work) == stage
    assert work.calls == 1
    assert RunFolder(tmp_path).stage("sft") == stage
    assert folder.stage("dpo-1") is None


def test_a_stopped_stage_goes_on_with_its_logs(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        folder.run_stage("sft", {"data": "abc"}, Work(folder, fail=True))
    stopped = folder.stage("sft")
    assert stopped is not None and stopped.seconds is None and stopped.attempts == 1
    stage = folder.run_stage("sft", {"data": "abc"}, Work(folder))
    assert stage.attempts == 2 and stage.seconds is not None
    assert list(folder.log("sft/losses").rows()) == [{"id": 1, "loss": 0.5}]


def test_a_stage_of_other_inputs_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run_stage("sft", {"data": "abc", "epochs": 2}, Work(folder))
    with pytest.raises(ValueError) as caught:
        folder.run_stage("sft", {"data": "abd", "epochs": 3}, Work(folder))
    assert str(caught.value) == (
        f"stage sft in {tmp_path} was made from data='abc', not 'abd': "
        f"to make it again, delete {tmp_path}/sft and {tmp_path}/stages/sft.json"
    )


def test_an_output_that_changed_or_is_gone_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run_stage("sft", {}, Work(folder))
    weights = tmp_path / "sft" / "model" / "weights.bin"
    weights.write_bytes(b"weightz")
    with pytest.raises(ValueError, match=r"weights\.bin is not what stage sft wrote: to make it again, delete "):
        folder.run_stage("sft", {}, Work(folder))
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights\.bin, made by stage sft, is gone: to make it again, delete "):
        folder.run_stage("sft", {}, Work(folder))


def test_a_corrupt_marker_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run_stage("sft", {}, Work(folder))
    write_json(tmp_path / "stages" / "sft.json", {"name": "sft", "inputs": {}})
    with pytest.raises(ValueError, match=r"stages/sft\.json: not a valid Stage: inputs_hash: "):
        folder.stage("sft")
