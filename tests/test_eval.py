"""Evaluations of real benchmark items by every method, with scripted models: figures by hand, resuming, regrading."""

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from chainofstep import verbs
from chainofstep.answers import LETTERS
from chainofstep.benchmarks.benchmark import Verdict
from chainofstep.benchmarks.scores import Run, score
from chainofstep.chain import render
from chainofstep.pipeline import workers
from chainofstep.pipeline.spread import Spread
from chainofstep.records import SamplingErrors, ScoreFailure, StepScores
from chainofstep.search import Cost, SearchConfig
from chainofstep.store import RunFolder, read_json, read_rows
from chainofstep.verbs.files import write_lines
from chainofstep.verbs.items import read_items
from conftest import ScriptedSampler, make_chain

DATA = Path(__file__).parents[2] / "shared" / "data"
METHODS = ("greedy", "self_consistency", "best_of_n", "weighted_vote", "pass_at_n", "beam")
#: Of the script's samples every fourth is right, beginning with sample `-place % 4`; the others give one wrong answer.
EXPECTED = {
    ("greedy", 1): 1 / 4,
    ("self_consistency", 2): 1 / 4,  # a tie goes to the first
    ("self_consistency", 4): 0.0,
    ("best_of_n", 2): 1 / 2,
    ("best_of_n", 4): 1.0,
    ("weighted_vote", 2): 1 / 2,
    ("weighted_vote", 4): 1.0,  # 0.82 for the right answer, three times 0.18 for the wrong one
    ("pass_at_n", 2): 1 / 2,
    ("pass_at_n", 4): 1.0,
    ("step_beam", 2): 1 / 2,
    ("step_beam", 4): 1.0,
}


class Policy(ScriptedSampler):
    """Writes one step and an answer; fails on the examples in `fails`, and stops the command after `calls` calls."""

    def __init__(self, items, calls=10**9):
        self.places = {example.id: (place, example) for place, example in enumerate(items.examples)}
        self.left, self.fails = calls, ()
        super().__init__(self.texts)

    def texts(self, request):
        place, example = self.places[request.example.id]
        answers = [example.answer if (place + index) % 4 == 0 else wrong(example) for index in range(request.n)]
        return [render(make_chain("It is there.", answer=answer))[len(request.prefix) :] for answer in answers]

    def sample(self, requests):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        rollouts = super().sample(requests)
        failed = {n: "too long" for n, request in enumerate(requests) if request.example.id in self.fails}
        if failed:
            results = [None if n in failed else pool for n, pool in enumerate(rollouts)]
            raise SamplingErrors(results, failed, [request.example.id for request in requests])
        return rollouts


def wrong(example):
    return next(letter for letter in LETTERS if letter != example.answer) if example.choices else "no such thing"


class Judge:
    """Knows the gold answers; fails on the examples in `fails`."""

    def __init__(self, fails=()):
        self.fails = fails

    def score(self, items):
        return [
            ScoreFailure("cannot score")
            if example.id in self.fails
            else StepScores((0.5,) * len(chain.steps), self.answer(example, chain))
            for example, chain in items
        ]

    def answer(self, example, chain):
        return None if chain.answer is None else 0.9 if chain.answer == example.answer else 0.1


@pytest.fixture(params=["chartqa", "m3cot"])
def spec(request):
    if not (DATA / request.param).is_dir():
        pytest.skip("the sample of the real benchmark is not here")
    return f"{request.param}:{DATA / request.param}"


@pytest.fixture
def script(monkeypatch, spec):
    """Put a policy and a judge in the place of models; gives the policy."""

    def put(limit=40, calls=10**9, judge=None):
        policy = Policy(read_items(spec, limit=limit), calls)
        monkeypatch.setattr(workers, "sampler", lambda name, steps=True: policy)
        monkeypatch.setattr(workers, "prm", lambda name: judge or Judge())
        return policy

    return put


def run(spec, out, methods=METHODS, sizes=(2, 4), limit=40, **more):
    config = SearchConfig(temperature=more.pop("temperature", 1.0), max_tokens=10_000)
    prm = more.pop("prm", "some/prm")
    return verbs.evaluate(spec, "some/policy", out, methods, sizes, config, prm, limit=limit, **more)


def whole(results):
    return {(row["method"], row["n"]): row for row in results["rows"] if row["group"] == "all"}


def stored(folder):
    """The rows of every log of a folder, in any order, and its figures."""
    logs = {path.relative_to(folder): path for path in folder.rglob("*.jsonl")}
    rows = {name: sorted(json.dumps(row) for _, row in read_rows(path)) for name, path in logs.items()}
    return rows, read_json(folder / "results.json")


def test_every_method_at_every_n(spec, script, tmp_path):
    policy = script()
    results = run(spec, tmp_path / "out")
    assert {key: row["accuracy"] for key, row in whole(results).items()} == EXPECTED
    for row in whole(results).values():
        assert row["right"] + row["wrong"] == row["total"] == 40 and row["low"] <= row["accuracy"] <= row["high"]
    asked = [request for call in policy.calls for request in call if request.stop == "answer"]
    assert sorted({request.n for request in asked}) == [1, 4]  # one pool serves both sizes
    assert "Think step-by-step" in asked[0].example.question
    pool, greedy = whole(results)["best_of_n", 4], whole(results)["greedy", 1]
    assert pool["sampled_tokens"] > 3 * greedy["sampled_tokens"] and pool["scored_chains"] == 80
    assert read_json(tmp_path / "out" / "results.json") == results
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| Best-of-N by PRM | 4 | 100.0% | 91.2 to 100.0 | 40 | 0 | 0 | 0 |" in table
    assert "the first 40 of" in table and "sampled anew for each N" in table


def test_groups_add_up_to_all(spec, script, tmp_path):
    script()
    results = run(spec, tmp_path / "out", ["greedy"])
    for breakdown in {row["breakdown"] for row in results["rows"]} - {""}:
        parts = [row for row in results["rows"] if row["breakdown"] == breakdown]
        assert sum(row["total"] for row in parts) == 40 and sum(row["right"] for row in parts) == 10


def test_a_finished_folder_needs_no_model(spec, script, tmp_path):
    script()
    first = run(spec, tmp_path / "out")
    script(calls=0)
    assert run(spec, tmp_path / "out") == first


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_stopped_command_goes_on_to_the_same_rows(spec, script, tmp_path, calls, monkeypatch):
    module = sys.modules["chainofstep.verbs.evaluate"]  # the package's own name is the function
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 16)
    script()
    run(spec, tmp_path / "whole")
    script(calls=calls)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "out")
    script()
    run(spec, tmp_path / "out")
    assert stored(tmp_path / "out") == stored(tmp_path / "whole")


def test_items_that_fail_are_counted_and_tried_again(spec, script, tmp_path):
    policy = script()
    failing = list(policy.places)[:4]
    policy.fails = failing
    results = run(spec, tmp_path / "out")
    assert {row["failed"] for row in whole(results).values()} == {4}
    assert {row["total"] for row in whole(results).values()} == {40}
    verdicts = [row for _, row in read_rows(tmp_path / "out" / "verdicts" / "best_of_n-4.jsonl")]
    assert [row["note"] for row in verdicts if row["outcome"] == "failed"] == ["too long"] * 4
    script()
    again = run(spec, tmp_path / "out")
    assert {key: row["accuracy"] for key, row in whole(again).items()} == EXPECTED


def test_what_the_scorer_fails_on_has_failed_only_where_scores_decide(spec, script, tmp_path):
    failing = {example.id for example in read_items(spec, limit=3).examples}
    script(judge=Judge(failing))
    found = whole(run(spec, tmp_path / "out"))
    assert {key[0] for key, row in found.items() if row["failed"] == 3} == {"best_of_n", "weighted_vote", "step_beam"}
    assert found["self_consistency", 2]["failed"] == 0


def test_a_method_can_be_added_later_and_other_settings_cannot(spec, script, tmp_path):
    script()
    run(spec, tmp_path / "out", ["greedy"], prm=None)
    added = run(spec, tmp_path / "out", ["best_of_n"])
    assert set(whole(added)) == {("greedy", 1), ("best_of_n", 2), ("best_of_n", 4)}
    with pytest.raises(ValueError, match=r"was made with sampling\.temperature=1\.0, not 0\.5"):
        run(spec, tmp_path / "out", temperature=0.5)
    with pytest.raises(ValueError, match="has a pool of 4 samples, too few for N = 8"):
        run(spec, tmp_path / "out", sizes=(8,))
    with pytest.raises(ValueError, match="was made with limit=40, not 39"):
        run(spec, tmp_path / "out", limit=39)
    with pytest.raises(ValueError, match="was made with prompt='paper', not 'none'"):
        run(spec, tmp_path / "out", prompt="none")
    with pytest.raises(ValueError, match=r"has files but no eval\.json"):
        run(spec, tmp_path)


def test_a_smaller_size_is_taken_from_the_pool_that_is_there(spec, script, tmp_path):
    script()
    run(spec, tmp_path / "out", ["best_of_n"], sizes=(4,))
    script(calls=0)
    added = whole(run(spec, tmp_path / "out", ["self_consistency"], sizes=(2,)))
    assert {key: row["accuracy"] for key, row in added.items()} == {
        ("best_of_n", 4): 1.0,
        ("self_consistency", 2): 0.25,
    }
    assert read_json(tmp_path / "out" / "eval.json")["pool"] == 4


class Broken(Policy):
    """Writes no whole step: a beam search has nothing to go on with."""

    def texts(self, request):
        return ["<|reasoning_start|>\nand so on"] * request.n


def test_a_beam_search_without_a_chain_is_unparseable_and_not_tried_again(spec, tmp_path, monkeypatch):
    policy = Broken(read_items(spec, limit=6))
    policy.fails = list(policy.places)[:1]
    monkeypatch.setattr(workers, "sampler", lambda name, steps=True: policy)
    monkeypatch.setattr(workers, "prm", lambda name: Judge())
    row = whole(run(spec, tmp_path / "out", ["beam"], sizes=(2,), limit=6))["step_beam", 2]
    assert (row["unparseable"], row["failed"]) == (5, 1)  # one could not be asked
    policy.fails = ()
    assert whole(run(spec, tmp_path / "out", ["beam"], sizes=(2,), limit=6))["step_beam", 2]["unparseable"] == 6
    monkeypatch.setattr(workers, "sampler", None)
    assert whole(run(spec, tmp_path / "out", ["beam"], sizes=(2,), limit=6))["step_beam", 2]["unparseable"] == 6


def test_what_the_scorer_failed_on_is_scored_again(spec, script, tmp_path):
    failing = {example.id for example in read_items(spec, limit=3).examples}
    script(judge=Judge(failing))
    run(spec, tmp_path / "out", ["best_of_n", "beam"], sizes=(4,))
    script()
    again = whole(run(spec, tmp_path / "out", ["best_of_n", "beam"], sizes=(4,)))
    assert {key: (row["failed"], row["right"]) for key, row in again.items()} == {
        ("best_of_n", 4): (0, 40), ("step_beam", 4): (0, 40)
    }  # fmt: skip


def test_samples_that_are_no_chains_are_not_scored_again(spec, tmp_path, monkeypatch):
    policy = Broken(read_items(spec, limit=2))
    monkeypatch.setattr(workers, "sampler", lambda name, steps=True: policy)
    monkeypatch.setattr(workers, "prm", lambda name: Judge())
    run(spec, tmp_path / "out", ["best_of_n"], sizes=(2,), limit=2)
    monkeypatch.setattr(workers, "prm", None)
    assert whole(run(spec, tmp_path / "out", ["best_of_n"], sizes=(2,), limit=2))["best_of_n", 2]["unparseable"] == 2


def test_a_folder_in_use_is_left_alone(spec, script, tmp_path):
    script()
    run(spec, tmp_path / "out", ["greedy"])
    lock = RunFolder(tmp_path / "out").lock()
    for again in (lambda: run(spec, tmp_path / "out", ["greedy"]), lambda: verbs.regrade(spec, tmp_path / "out")):
        with pytest.raises(ValueError, match="is in use by another command"):
            again()
    lock.release()
    run(spec, tmp_path / "out", ["greedy"])


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 0), ("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0)]
)
def test_settings_that_cannot_be_are_named_before_anything_is_made(spec, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; give "):
        verbs.evaluate(spec, "some/policy", tmp_path / "out", config=SearchConfig(**{name: value}))
    assert not (tmp_path / "out").exists()


def test_regrading_equals_the_first_grading(spec, script, tmp_path):
    script()
    first = run(spec, tmp_path / "out")
    script(calls=0)
    again = verbs.regrade(spec, tmp_path / "out", tmp_path / "again")
    assert again["rows"] == first["rows"] and again["problems"] == first["problems"]
    names = sorted(path.name for path in (tmp_path / "out" / "verdicts").iterdir())
    assert len(names) == len(EXPECTED)
    for name in names:
        pair = [(tmp_path / folder / "verdicts" / name).read_text() for folder in ("out", "again")]
        assert pair[0] == pair[1]


def test_a_folder_is_regraded_on_other_items_of_its_benchmark(spec, script, tmp_path):
    script()
    run(spec, tmp_path / "out", ["greedy", "best_of_n"], sizes=(4,))
    fewer = verbs.regrade(spec, tmp_path / "out", tmp_path / "fewer", limit=8)
    assert whole(fewer)["best_of_n", 4]["right"] == 8 and "32 stored items are not" in " ".join(fewer["problems"])
    more = verbs.regrade(spec, tmp_path / "out", tmp_path / "more", limit=50)
    assert whole(more)["best_of_n", 4]["right"] == 40 and whole(more)["best_of_n", 4]["failed"] == 10


def test_gold_predictions_are_right_and_other_ones_are_counted(spec, tmp_path):
    items = read_items(spec)
    gold = [{"id": example.id, "text": example.answer} for example in items.examples]
    full = verbs.regrade(spec, write_lines(tmp_path / "gold.jsonl", gold))
    assert full["rows"][0]["accuracy"] == 1.0 and full["rows"][0]["total"] == len(items)
    assert (tmp_path / "gold.graded" / "results.md").is_file()
    worse = [*gold[2:], gold[2], {"id": "nobody", "text": ""}, {"id": gold[0]["id"], "text": ""}, {"id": 5}]
    found = verbs.regrade(spec, write_lines(tmp_path / "worse.jsonl", worse))
    row = found["rows"][0]
    assert (row["failed"], row["unparseable"], row["right"]) == (1, 1, len(items) - 2)
    assert found["predictions"] | {"file": ""} == {
        **{"file": "", "read": len(items) + 1, "missing": 1, "doubled": 1, "unknown": 1, "other question": 0, "bad": 1}
    }
    assert any("1 item without a prediction: failed" in line and gold[1]["id"] in line for line in found["problems"])


def test_hostile_predictions_end_in_one_outcome_each(spec, tmp_path):
    hostile = ["", "nan", "inf", "٣", "３", "[A, B]", "<|answer_start|>", "(" * 100_000, "9" * 100_000, "A " * 50_000]
    hostile += ["<|answer_start|>A<|answer_end|>" * 1000, "\u2060<|", " \n", "(A) (B) (C)", "1" + "0" * 400, "-1e999"]
    items = read_items(spec)
    rows = [{"id": e.id, "text": text} for e, text in zip(items.examples, hostile, strict=False)]
    row = verbs.regrade(spec, write_lines(tmp_path / "p.jsonl", rows))["rows"][0]
    assert row["failed"] == len(items) - len(hostile)
    assert row["right"] + row["wrong"] + row["unparseable"] == len(hostile)


def test_rows_that_cannot_be_read_are_failed_items(spec, tmp_path):
    name, folder = spec.split(":")
    lines = (Path(folder) / "items.jsonl").read_text("utf-8").splitlines()[:10]
    broken = [json.dumps({**json.loads(lines[0]), "answer": None}), lines[1], lines[1], *lines[2:]]
    (tmp_path / "items.jsonl").write_text("\n".join(broken) + "\n", "utf-8")
    items = read_items(f"{name}:{tmp_path}", pictures=False)
    gold = write_lines(tmp_path / "p.jsonl", [{"id": e.id, "text": e.answer} for e in items.examples])
    found = verbs.regrade(f"{name}:{tmp_path}", gold)
    assert (found["rows"][0]["right"], found["rows"][0]["failed"], found["items"]) == (9, 1, 10)
    assert len(found["rejected"]) == 1
    lost = [row for _, row in read_rows(tmp_path / "p.graded" / "verdicts" / "predictions.jsonl")][-1]
    assert lost["outcome"] == "failed" and lost["note"].startswith("the item cannot be read: ")


def test_workers_make_the_same_rows(model, tmp_path):
    examples = verbs.problems(tmp_path / "problems", ["line_sum"], "test", 66)
    for count in (1, 2):
        verbs.evaluate(
            str(examples),
            str(model),
            tmp_path / str(count),
            ("greedy", "best_of_n", "beam"),
            (2,),
            SearchConfig(max_tokens=6),
            str(model),
            spread=Spread(count),
        )
    assert stored(tmp_path / "1") == stored(tmp_path / "2")


def test_an_official_score_may_credit_what_is_not_right():
    verdicts = [Verdict("right", "A", True), Verdict("unparseable", None, True, "guessed"), Verdict("wrong", "B")]
    groups = {"subject": {"Art": [0, 1], "Law": [2]}}
    rows = score(Run("greedy"), verdicts, 1, groups, Cost(12))
    assert [(row["group"], row["right"], row["credited"], row["total"]) for row in rows] == [
        *(("all", 1, 2, 4), ("Art", 1, 2, 2), ("Law", 0, 0, 1))
    ]
    assert rows[0]["official"] == 0.5 and rows[0]["failed"] == 1 and rows[0]["sampled_tokens"] == 12


def test_a_folder_without_a_finished_method_is_refused(spec, tmp_path):
    with pytest.raises(ValueError, match=r"has no eval\.json"):
        verbs.regrade(spec, tmp_path)
    name = spec.split(":")[0]
    (tmp_path / "eval.json").write_text(json.dumps({"benchmark": name, "split": "test", "limit": None, "runs": []}))
    with pytest.raises(ValueError, match="no method is finished"):
        verbs.regrade(spec, tmp_path)
    shutil.rmtree(tmp_path)
