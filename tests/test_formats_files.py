"""Files of step data: bad lines, arrays, parquet, the project's folders, and conversions by several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from chainofstep.chain import Chain, Step, render
from chainofstep.problems.formats import FORMATS, chunks
from chainofstep.problems.formats.convert import convert
from chainofstep.problems.formats.files import StepWriter, read_steps
from chainofstep.records import Example, Pair, Reject, StepRow, StepScores
from chainofstep.store import read_records
from chainofstep.verbs.files import read_examples, read_pools, read_scores
from format_rows import ALL, DPO, PRM, PROCESSBENCH, SFT, TEXT, turns

pytest.importorskip("pyarrow")
pytest.importorskip("datasets")
SHAREGPT, ROWS = FORMATS["sharegpt-step"], FORMATS["rows"]


def line(row):
    return json.dumps(row, ensure_ascii=False)


def sft(number, steps=5):
    chain = Chain(tuple(Step("Read", f"It shows {place}.", "Row 2.") for place in range(steps)), str(number))
    return {"id": f"q{number}", "image": "a.png", "conversations": turns("<image>\nSum?", render(chain))}


def written(path, rows):
    path.write_text("".join(line(row) + "\n" for row in rows), "utf-8")
    return path


def at_least_five_steps(row):
    chain = row.chain
    if chain is None:
        return "no chain: the text does not parse"
    return None if len(chain.steps) >= 5 else f"too few steps: {len(chain.steps)}"


def folder_names(folder):
    return sorted(path.name for path in folder.iterdir())


# Reading


def test_lines_are_read_in_any_format_that_shows(tmp_path):
    for name, row, text, labels in ALL:
        path = written(tmp_path / "rows.json", [row])
        (found,) = read_steps(path)
        assert (found.text, found.labels) == (text, labels), name


BAD_LINES = [
    (b'{"id": ', "not JSON: Expecting value"),
    (b"[1]", "not an object: list"),
    (b'{"id": "\xff"}', "not UTF-8: byte 8 of the line"),
    (b'\xef\xbb\xbf{"id": "x"}', "byte order mark: "),
    (b'{"id": "\0"}', "NUL byte: at byte 8 of the line"),
    (b'{"id": "\\ud800"}', "not UTF-8: half of a surrogate pair"),
    (b'{"id": NaN}', "not JSON: NaN is no JSON number"),
    (b'{"id": ' + b"[" * 100_000 + b"}", "not JSON: "),
    (b'{"id": "x", "conversations": 3}', "wrong field: conversations: expected a list, found 3"),
    (b'{"id": "x"}', "missing field: conversations; the row has id"),
]


def test_bad_lines_are_rejects_with_their_place_and_reading_goes_on(tmp_path):
    path, good = tmp_path / "rows.jsonl", line(SFT).encode()
    path.write_bytes(good + b"\n\n" + b"".join(bad + b"\n" for bad, _ in BAD_LINES) + good.replace(b"q1", b"q2"))
    first, *rejects, last = read_steps(path, SHAREGPT)
    assert (first.example.id, last.example.id) == ("q1", "q2")
    for number, (reject, (_, reason)) in enumerate(zip(rejects, BAD_LINES, strict=True), start=3):
        assert reject.place == f"{path}:{number}"
        assert reject.reason.startswith(reason)
        assert len(str(reject.row)) < 300


def test_a_torn_last_line_is_a_reject(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(line(SFT) + "\n" + line(SFT)[:100], "utf-8")
    _, torn = read_steps(path, SHAREGPT)
    assert (torn.place, torn.reason.partition(":")[0]) == (f"{path}:2", "not JSON")


def test_a_line_of_100_mb_is_a_reject_that_is_not_held(tmp_path):
    import resource

    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(line(SFT).encode() + b'\n{"id": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n' + line(sft(2)).encode() + b"\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, long, last = read_steps(path, SHAREGPT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
    assert long.reason == "line too long: 100000011 bytes" and len(long.row) < 300
    assert (first.example.id, last.example.id, long.place) == ("q1", "q2", f"{path}:2")


@pytest.mark.parametrize("block", [1, 7, 200, 5000])
def test_lines_are_the_same_in_blocks_of_any_size(tmp_path, block):
    path = written(tmp_path / "rows.jsonl", [sft(number) for number in range(5)])
    path.write_bytes(path.read_bytes() + b"\n\n{")
    found = [item for chunk in chunks.line_chunks(path, block) for item in chunk.items()]
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 8]
    assert [row["id"] for _, row in found[:5]] == ["q0", "q1", "q2", "q3", "q4"]


def test_the_second_row_of_an_id_is_a_reject(tmp_path):
    path = written(tmp_path / "rows.jsonl", [SFT, sft(2), SFT])
    *_, last = read_steps(path)
    assert (last.reason, last.row) == ("duplicate id: q1; first on line 1", SFT)


def test_a_question_may_have_several_pairs_but_none_twice(tmp_path):
    row = {"id": "q", **DPO}
    *_, last = found = list(read_steps(written(tmp_path / "p.jsonl", [row, {**row, "rejected": "worse"}, row])))
    assert [isinstance(entry, Reject) for entry in found] == [False, False, True]
    assert last.reason == "duplicate row: q with the same text; first on line 1"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [1 << 22, 300])
def test_an_array_is_read_entry_by_entry(tmp_path, indent, block, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", block)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([sft(1), 3, sft(2)], indent=indent), "utf-8")
    first, number, last = read_steps(path, SHAREGPT)
    assert (first.example.id, last.example.id) == ("q1", "q2")
    assert (number.place, number.reason) == (f"{path}:2", "not an object: int")


@pytest.mark.parametrize("tail,reason", [('{"id": ', "not JSON: "), ("12", "cut off")])
def test_an_array_that_is_cut_off_ends_in_a_reject(tmp_path, tail, reason):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([sft(1)])[:-1] + ", " + tail, "utf-8")
    first, last = read_steps(path, SHAREGPT)
    assert first.example.id == "q1" and last.reason.startswith(reason)


def test_an_unknown_file_says_what_it_has(tmp_path):
    path = written(tmp_path / "rows.jsonl", [{"prompt": "?"}])
    with pytest.raises(ValueError, match="its first row has prompt, which is no format known; name one of rows"):
        list(read_steps(path))
    with pytest.raises(ValueError, match="is no file; check the path"):
        list(read_steps(tmp_path / "missing.jsonl"))


# Writing


def rows_of_every_kind():
    example = Example("é", "Sum?", ("a.png", "b.png"), "8", "number", ("7", "8"), "tests", meta={"n": [1, {"a": None}]})
    chain = Chain((Step("", "Add.", ""),), "8")
    yield StepRow(example, TEXT, StepScores((1.0, 0.25), 0.0), "worse")
    yield StepRow(Example("bare", "Sum?", (), "", "word", chain=chain))
    yield StepRow(Example("prefix", "Sum?", (), "", "word"), TEXT, StepScores((1.0,)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_own_rows_come_back_whole(tmp_path, name):
    with StepWriter(tmp_path / name, ROWS) as writer:
        for row in rows_of_every_kind():
            writer.write(row)
        assert not (tmp_path / name).exists()
    assert list(read_steps(tmp_path / name)) == list(rows_of_every_kind())
    assert folder_names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows"])
def test_an_exception_leaves_nothing(tmp_path, name):
    with pytest.raises(KeyError), StepWriter(tmp_path / name, ROWS) as writer:
        writer.write(next(rows_of_every_kind()))
        raise KeyError
    assert folder_names(tmp_path) == []


def test_a_row_that_cannot_be_written_leaves_the_others(tmp_path):
    with StepWriter(tmp_path / "pairs.jsonl", FORMATS["dpo"]) as writer:
        writer.write(FORMATS["dpo"].read(DPO, "x"))
        with pytest.raises(ValueError, match="no rejected text"):
            writer.write(SHAREGPT.read(SFT, "x"))
    assert (tmp_path / "pairs.jsonl").read_text("utf-8") == line(DPO) + "\n"


@pytest.mark.parametrize(
    "name,format,reason",
    [("a.csv", ROWS, "no kind of file"), ("a.parquet", SHAREGPT, "can only hold rows"), ("a", SHAREGPT, "can only")],
)
def test_files_that_cannot_hold_a_format_are_refused(tmp_path, name, format, reason):
    with pytest.raises(ValueError, match=reason):
        StepWriter(tmp_path / name, format)


def test_datasets_opens_the_pictures(tmp_path):
    from datasets import Image as Picture
    from datasets import load_dataset

    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    row = StepRow(Example("q", "Sum?", ("a.png",), "8", "number"), TEXT, StepScores((1.0, 0.5)))
    with StepWriter(tmp_path / "rows.parquet", ROWS, pictures=tmp_path, embed=True) as writer:
        writer.write(row)
        with pytest.raises(ValueError, match=r"no picture: .*b\.png"):
            writer.write(StepRow(Example("r", "?", ("b.png",), "8", "number"), TEXT))
    (tmp_path / "a.png").unlink()
    files = {"train": str(tmp_path / "rows.parquet")}
    found = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["images"].feature == Picture()
    (loaded,) = found
    assert (loaded["text"], loaded["step_labels"], loaded["answer_label"]) == (TEXT, [1.0, 0.5], None)
    assert loaded["images"][0].size == (3, 2) and loaded["images"][0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["new/rows.jsonl", "new"])
def test_pictures_come_along_to_the_new_file(tmp_path, name):
    """Linked below the file's folder, so no path leads out of it."""
    (tmp_path / "old" / "images").mkdir(parents=True)
    (tmp_path / "old" / "images" / "a.png").write_bytes(b"one")
    row = StepRow(Example("q", "?", ("images/a.png", "gone.png", "/b.png", "http://c/d.png"), "", "word"), TEXT)
    with StepWriter(tmp_path / name, ROWS, pictures=tmp_path / "old") as writer:
        writer.write(row)
    (found,) = read_steps(tmp_path / name)
    assert found.example.images == ("images/a.png", "gone.png", "/b.png", "http://c/d.png")
    assert (tmp_path / "new" / "images" / "a.png").read_bytes() == b"one"


def test_another_picture_of_the_same_name_is_kept_apart(tmp_path):
    for folder, content in (("old", b"one"), ("new/images", b"two")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(content)
    with StepWriter(tmp_path / "new" / "rows.jsonl", ROWS, pictures=tmp_path / "old") as writer:
        writer.write(StepRow(Example("q", "?", ("a.png",), "", "word"), TEXT))
    ((image,),) = (row.example.images for row in read_steps(tmp_path / "new" / "rows.jsonl"))
    assert (tmp_path / "new" / image).read_bytes() == b"one"
    assert (tmp_path / "new" / "images" / "a.png").read_bytes() == b"two"


def test_no_file_outside_the_pictures_folder_comes_along(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    row = StepRow(Example("q", "?", ("../secret",), "", "word"), TEXT)
    writing = StepWriter(tmp_path / "new" / "rows.jsonl", ROWS, pictures=tmp_path / "old")
    with writing as writer, pytest.raises(ValueError, match="unsafe picture path"):
        writer.write(row)
    assert not (tmp_path / "new" / "images").exists()


def test_embedded_pictures_are_read_without_the_files(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.png").write_bytes(b"picture")
    with StepWriter(tmp_path / "rows.parquet", ROWS, pictures=tmp_path, embed=True) as writer:
        writer.write(StepRow(Example("q", "?", ("a.png",), "", "word"), TEXT))
    (found,) = read_steps(tmp_path / "rows.parquet")
    assert found.example.images == ("a.png",)
    (tmp_path / "a.png").unlink()
    (found,) = read_steps(tmp_path / "rows.parquet")
    assert (tmp_path / found.example.images[0]).read_bytes() == b"picture"


# The project's own folders


def test_prm_data_is_what_training_reads(tmp_path):
    example = Example("q", "Sum?", (), "7", "number")
    rows = [StepRow(example, TEXT, StepScores((1.0, 0.0), 0.0)), StepRow(example, TEXT, StepScores((0.5,)))]
    rows.append(FORMATS["processbench"].read(PROCESSBENCH, "x"))
    with StepWriter(tmp_path / "data", ROWS) as writer:
        for row in rows:
            writer.write(row)
    examples = read_examples(tmp_path / "data" / "examples.jsonl")
    pools = read_pools(tmp_path / "data" / "rollouts.jsonl", examples)
    scores = read_scores(tmp_path / "data" / "scores.jsonl", examples, pools)
    assert [example.id for example in examples] == ["q", "gsm8k-0"]
    assert scores == [[StepScores((1.0, 0.0), 0.0), StepScores((0.5,))], [StepScores((1.0, 0.0))]]
    assert pools[0][0].chain is not None and pools[0][0].text == TEXT
    assert pools[0][1].text == TEXT[: TEXT.index("<|reasoning_step_end|>") + len("<|reasoning_step_end|>")] + "\n"
    again = list(read_steps(tmp_path / "data"))
    assert [(row.example.id, row.labels) for row in again] == [
        ("q", StepScores((1.0, 0.0), 0.0)),
        ("q", StepScores((0.5,))),
        ("gsm8k-0", StepScores((1.0, 0.0))),
    ]


def test_pairs_and_gold_chains_have_folders_too(tmp_path):
    pair, gold = FORMATS["dpo"].read(DPO, "x"), SHAREGPT.read(SFT, "x")
    for name, row in (("pairs", pair), ("sft", gold)):
        with StepWriter(tmp_path / name, ROWS) as writer:
            writer.write(row)
    assert list(read_records(tmp_path / "pairs" / "pairs.jsonl", Pair)) == [
        Pair("x", TEXT, "no chain", 1.0, 0.0, "imported")
    ]
    (found,) = read_steps(tmp_path / "pairs")
    assert (found.text, found.rejected) == (pair.text, pair.rejected)
    assert read_examples(tmp_path / "sft" / "examples.jsonl")[0].chain == gold.chain
    assert [row.text for row in read_steps(tmp_path / "sft")] == [TEXT]


def test_a_folder_refuses_what_does_not_go_together(tmp_path):
    first, other = SHAREGPT.read(SFT, "x"), FORMATS["prm-train"].read(PRM, "x")
    with StepWriter(tmp_path / "data", ROWS) as writer:
        writer.write(first)
        with pytest.raises(ValueError, match="duplicate id: q1"):
            writer.write(first)
        with pytest.raises(ValueError, match="no chain: the folder holds"):
            writer.write(other)
    with pytest.raises(ValueError, match="exists; choose another folder"):
        StepWriter(tmp_path / "data", ROWS)


def test_what_a_folder_lacks_is_a_reject(tmp_path):
    written(
        tmp_path / "examples.jsonl", [{"id": "q", "question": "?", "images": [], "answer": "", "answer_kind": "word"}]
    )
    written(tmp_path / "rollouts.jsonl", [{"id": "q", "rollouts": [{"text": TEXT}] * 2}, {"id": "r", "rollouts": []}])
    written(tmp_path / "scores.jsonl", [{"id": "q", "scores": [{"steps": [1, 1]}, {"reason": "no chain"}]}])
    row, *rejects = read_steps(tmp_path)
    assert row.labels == StepScores((1.0, 1.0))
    assert [reject.reason.partition(":")[0] for reject in rejects] == ["no step labels", "no example"]
    assert rejects[1].place == f"{tmp_path / 'rollouts.jsonl'}:2"


# Conversions


def mixed(path):
    """40 rows, of which 10 are too short, one is no chain, two repeat an id and two are no rows."""
    rows = [sft(number, steps=5 if number % 4 else 2) for number in range(40)]
    rows[5]["conversations"][1]["value"] = "Hm."
    lines = [line(row) for row in rows]
    path.write_text("\n".join([*lines[:20], "{", lines[3], "[]", *lines[20:], lines[1]]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("name,format", [("out.jsonl", SHAREGPT), ("out.parquet", ROWS), ("out", ROWS)])
def test_conversions_count_every_row(tmp_path, name, format):
    shares = []
    done = convert(
        mixed(tmp_path / "in.jsonl"), SHAREGPT, tmp_path / name, format, at_least_five_steps,
        on_progress=lambda share, read: shares.append((share, read)),
    )  # fmt: skip
    kinds = {"too few steps": 10, "no chain": 1, "duplicate id": 2, "not JSON": 1, "not an object": 1}
    assert (done.read, done.written, done.rejects) == (44, 29, Counter(kinds))
    assert shares[-1] == (1.0, 44)
    rejects = [json.loads(text) for text in done.rejects_path.read_text("utf-8").splitlines()]
    assert Counter(reject["reason"].partition(":")[0] for reject in rejects) == Counter(kinds)
    places = [int(reject["place"].rpartition(":")[2]) for reject in rejects]
    assert places == sorted(places) and {21, 22, 23, 44} <= set(places)
    assert sum(isinstance(row, StepRow) for row in read_steps(tmp_path / name)) == 29
    assert folder_names(tmp_path) == sorted(["in.jsonl", name, "out.rejects.jsonl"])


@pytest.mark.parametrize("name,format", [("out.jsonl", SHAREGPT), ("out.parquet", ROWS)])
def test_two_workers_write_the_same_bytes_as_one(tmp_path, name, format, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", 4000)
    monkeypatch.setattr(chunks.line_chunks, "__defaults__", (4000,))
    source = mixed(tmp_path / "in.jsonl")
    results = []
    for workers in (1, 2):
        out = tmp_path / str(workers) / name
        out.parent.mkdir()
        done = convert(source, None, out, format, at_least_five_steps, workers)
        results.append((out.read_bytes(), done.rejects_path.read_bytes(), done.written, done.rejects))
    assert results[0] == results[1]


def test_arrays_and_parquet_and_folders_are_converted(tmp_path):
    (tmp_path / "in.json").write_text(json.dumps([sft(1), sft(2)]), "utf-8")
    sources = [tmp_path / "in.json", tmp_path / "rows.parquet", tmp_path / "folder", tmp_path / "out.jsonl"]
    for source, out in pairwise(sources):
        done = convert(source, None, out, SHAREGPT if out.suffix == ".jsonl" else ROWS)
        assert (done.read, done.written) == (2, 2)
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "".join(line(sft(number)) + "\n" for number in (1, 2))


def test_a_threshold_is_applied_on_the_way(tmp_path):
    source = written(tmp_path / "in.jsonl", [row for name, row, *_ in ALL if name == "visualprm400k"])
    assert convert(source, None, tmp_path / "out.jsonl", FORMATS["prm-train"]).rejects == {"soft labels": 1}
    done = convert(source, None, tmp_path / "out.jsonl", FORMATS["prm-train"], hard_threshold=0.8)
    (row,) = read_steps(tmp_path / "out.jsonl")
    assert done.written == 1 and row.labels == StepScores((0.0, 1.0))


def test_a_conversion_does_not_replace_what_it_reads(tmp_path):
    source = written(tmp_path / "in.jsonl", [SFT])
    with pytest.raises(ValueError, match="which is read; choose another file"):
        convert(source, None, source, SHAREGPT)


PROGRAM = """
import sys
from pathlib import Path
from chainofstep.problems.formats import FORMATS
from chainofstep.problems.formats.convert import convert
if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    tell = lambda share, read: print(read, flush=True)
    done = convert(source, None, out, FORMATS["rows"], workers=2, on_progress=tell)
    print("done", done.read, done.written)
"""


def test_a_killed_conversion_leaves_no_half_file_and_can_be_given_again(tmp_path):
    source, out, program = tmp_path / "in.jsonl", tmp_path / "out.parquet", tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    text = "".join(line(sft(number, 7)) + "\n" for number in range(8_000))
    source.write_text(text, "utf-8")
    command = [sys.executable, str(program), str(source), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and 0 < int(process.stdout.readline()) < 8_000
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [path for path in folder_names(tmp_path) if not path.startswith(".")] == ["in.jsonl", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines()[-1] == "done 8000 8000"
    assert folder_names(tmp_path) == ["in.jsonl", "out.parquet", "out.rejects.jsonl", "program.py"]
    deadline = time.monotonic() + 10
    while alive := [number for number in workers if _runs(number)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def test_the_benchmark_of_a_whole_corpus_runs():
    root = Path(__file__).parents[1]
    if not (root / "benchmarks").exists():
        pytest.skip("this copy of the project has no benchmarks")
    command = [sys.executable, "-m", "benchmarks.corpus", "--rows", "50", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stdout)["rows"] == 50


def _runs(number):
    return os.path.exists(f"/proc/{number}") and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]


def test_a_file_of_examples_is_the_projects_own(tmp_path):
    example = {"id": "q", "question": "How many?", "images": [], "answer": "2", "answer_kind": "number"}
    step = {"name": "Count", "thought": "One, two.", "reflection": "Two."}
    rows = [example, {**example, "id": "r", "chain": {"steps": [step], "answer": "2"}}]
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bare, taught = read_steps(path)
    assert (bare.example.id, bare.text) == ("q", None)
    assert taught.chain == taught.example.chain and taught.chain.answer == "2"
