"""`cos eval` as a user runs it, on generated problems with a small random model."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from chainofstep.chain import render
from chainofstep.records import to_row
from chainofstep.store import read_json
from chainofstep.verbs.files import read_examples, write_lines
from test_cli import cos, error, problem_file, rows

__all__ = ["problem_file"]  # a fixture
DATA = Path(__file__).parents[2] / "shared" / "data"
METHODS = ("greedy", "self_consistency", "best_of_n", "weighted_vote", "pass_at_n", "beam")
LITTLE = ("-n", 2, "--max-tokens", 6, "--limit", 3)


def outcomes(folder, name):
    return [row["outcome"] for row in rows(folder / "verdicts" / f"{name}.jsonl")]


def test_evaluation_ends_every_item_in_an_outcome(model, problem_file, tmp_path):
    unseen = [replace(e, images=("gone.png",)) if e.id.endswith("-3") else e for e in read_examples(problem_file)]
    examples, out = write_lines(tmp_path / "examples.jsonl", map(to_row, unseen)), tmp_path / "results"
    words = ("eval", examples, "--model", model, "--max-tokens", 6, "-n", 1, "-n", 2, "--out", out)
    shown = cos(*words, "--method", "self_consistency", "--method", "pass_at_n", "--method", "beam", "--prm", model)
    for name in ("self_consistency-1", "self_consistency-2", "pass_at_n-2"):
        assert outcomes(out, name) == ["unparseable", "unparseable", "unparseable", "failed"]
    assert outcomes(out, "step_beam-2-1") == ["unparseable", "unparseable", "unparseable", "failed"]
    assert "gone.png does not exist" in rows(out / "verdicts" / "pass_at_n-2.jsonl")[3]["note"]
    table = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines() if "%" in line and "95%" not in line]
    assert table[:2] == [
        ["One sample", "1", "0.0%", "0.0 to 49.0", "0", "0", "3", "1", "4.5"],
        ["Self-consistency", "2", "0.0%", "0.0 to 49.0", "0", "0", "3", "1", "9.0"],
    ]
    assert ["Pass@N (ceiling)", "2", "scene", "0.0%", "0.0 to 65.8", "0", "2"] in table
    assert "give a process reward model's folder with --prm" in error(*words, "--method", "best_of_n")


def test_evaluation_regrades_what_is_stored(model, problem_file, tmp_path):
    out, examples = tmp_path / "results", read_examples(problem_file)
    words = ("eval", problem_file, "--model", model, "--max-tokens", 6, "--out", out)
    cos(*words)
    log = out / "greedy" / "rollouts.jsonl"
    for row, example in zip(stored := rows(log), examples, strict=True):
        row["rollouts"][0]["text"] = render(example.chain)
    write_lines(log, stored)
    assert "100.0%" in cos(*words)
    assert "100.0%" in cos("eval", problem_file, "--regrade", out)
    predictions = write_lines(tmp_path / "p.jsonl", [{"id": e.id, "text": e.answer} for e in examples[1:]])
    shown = cos("eval", problem_file, "--regrade", predictions)
    assert "75.0%" in shown and f"1 item without a prediction: failed ({examples[0].id})" in shown


def test_a_base_model_is_evaluated_without_steps(problem_file, tmp_path):
    pytest.importorskip("torch")
    from chainofstep.models.tiny import Shape, build_tiny
    from chainofstep.models.vlm import save_vlm

    base = save_vlm(build_tiny(Shape(32, 1, 64, 2, 4, 2, 64), seed=3), tmp_path / "base")
    words = ("eval", problem_file, "--model", base, "--max-tokens", 6, "--out", tmp_path / "out")
    assert "Greedy" in cos(*words)
    assert "run SFT" in error(*words, "--method", "self_consistency")


def test_evaluation_refuses_what_it_cannot_do(problem_file, tmp_path):
    words = ("eval", problem_file, "--out", tmp_path / "out")
    assert "either --model" in error(*words) and "either --model" in error(*words, "--model", "a/b", "--regrade", "x")
    assert "with --out" in error("eval", problem_file, "--model", "a/b")
    assert "the nearest is greedy" in error(*words, "--model", "a/b", "--method", "greedi")
    assert "width that divides n" in error(*words, "--model", "a/b", "--method", "beam", "--width", 3, "--prm", "a/b")
    assert "the nearest is chartqa" in error("eval", "chartq", "--model", "a/b", "--out", tmp_path / "out")
    assert "no prompt of examples 'paper'" in error(*words, "--model", "a/b", "--prompt", "paper")
    assert "limit is 0" in error(*words, "--model", "a/b", "--limit", 0)
    assert "is no file" in error("eval", problem_file, "--regrade", tmp_path / "none.jsonl")
    for option in (("--method", "greedy"), ("-n", 16), ("--prm", "a/b"), ("--prompt", "none"), ("--max-tokens", 256)):
        refused = f"{option[0]} is for asking a model, and --regrade asks none: leave it out"
        assert refused in error("eval", problem_file, "--regrade", tmp_path / "p.jsonl", *option)
    assert "max_tokens is 0; give at least 1" in error(*words, "--model", "a/b", "--max-tokens", 0)
    assert "N from 1" in error(*words, "--model", "a/b", "-n", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["chartqa", "m3cot"])
def test_real_items_are_evaluated_and_regraded(model, tmp_path, name):
    if not (DATA / name).is_dir():
        pytest.skip("the sample of the real benchmark is not here")
    out, spec = tmp_path / "out", f"{name}:{DATA / name}"
    methods = [word for method in METHODS for word in ("--method", method)]
    shown = cos("eval", spec, "--model", model, "--prm", model, *methods, *LITTLE, "--out", out)
    assert shown.count("0.0%") >= len(METHODS) and "the first 3 of" in shown
    figures = read_json(out / "results.json")["rows"]
    assert all(row["unparseable"] + row["wrong"] + row["failed"] == row["total"] for row in figures)
    again = cos("eval", spec, "--regrade", out)
    assert [line for line in again.splitlines() if "%" in line] == [line for line in shown.splitlines() if "%" in line]


def test_a_server_is_evaluated(problem_file, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    from vlm_server import VlmServer, spread_vlm

    out = tmp_path / "out"
    words = ("eval", problem_file, "--method", "greedy", "--method", "self_consistency", *LITTLE, "--out", out)
    with VlmServer(spread_vlm(3, 5.0)) as server:
        assert "Self-consistency" in cos(*words, "--model", server.spec)
        address = server.spec
    assert "Self-consistency" in cos(*words, "--model", address)  # all is there: nobody is asked
    assert "no server answers" in error(*words[:-1], tmp_path / "new", "--model", address)


def test_splits_are_for_benchmarks(problem_file, tmp_path):
    assert "has no splits" in error(
        "eval", problem_file, "--model", "a/b", "--split", "test", "--out", tmp_path / "out"
    )
