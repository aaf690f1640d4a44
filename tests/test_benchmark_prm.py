"""PRM benchmarks: published rows, figures worked by hand, and the exact checker as a PRM that is always right."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from chainofstep.benchmarks.prm_scores import harmonic, macro_f1, measure, score_items
from chainofstep.benchmarks.prm_sets import FLAWLESS, PrmItem, PrmSet, load_prm_benchmark
from chainofstep.cli.measure import eval_prm_command
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.problems.tasks.planted import PLANTERS
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.scoring.oracle import OracleScorer
from chainofstep.verbs.files import locked
from chainofstep.verbs.prm_eval import eval_prm, prm_table
from conftest import ScriptedScorer, make_chain

FAILED = ScoreFailure("no reply")


def visual_row(steps, verdicts, source="MMMU", image=("a.png",)):
    return {
        "image": list(image),
        "question": "How many?",
        "answer": "4",
        "response": {"steps": steps, "process_correctness": verdicts},
        "policy_model": "GPT-4o",
        "data_source": source,
    }


def text_row(name, steps, label):
    return {
        "id": name,
        "generator": "Qwen2-7B-Instruct",
        "problem": "How many?",
        "steps": steps,
        "final_answer_correct": label == -1,
        "label": label,
    }


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def item(name, labels, group="", answer=None):
    chain = make_chain(*(f"{name}{place}" for place in range(len(labels))))
    return PrmItem(Example(name, "?", (), "4", "number"), chain, tuple(labels), answer, group)


def figures(result):
    return {(figure.group, figure.name): figure for figure in result.figures}


def values(benchmark, items, scored, threshold=0.5):
    return figures(measure(PrmSet(benchmark, tuple(items)), scored, threshold))


# VisualProcessBench


def test_the_published_layout_is_read_and_what_is_wrong_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [
        visual_row(["Look.", "So \\boxed{4}."], [1, -1]),
        visual_row(["Hm.", "4"], [0, 1], "DynaMath", ("lost.png",)),
        visual_row(["One."], [1, 1]),
        visual_row(["One."], [2]),
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    found = load_prm_benchmark("visualprocessbench", tmp_path)
    first, second = found.items
    assert first.labels == (True, False) and first.group == "MMMU" and first.chain.steps[0].thought == "Look."
    assert first.example.images == (str(tmp_path / "a.png"),) and first.problem == ""
    assert second.labels == (None, True) and "lost.png" in second.problem
    assert [reject.place for reject in found.rejects] == [f"{tmp_path / 'test.jsonl'}:{line}" for line in (3, 4)]
    assert found.notes == ("visualprocessbench has 4 items here, 2,866 as published",)
    assert len(load_prm_benchmark("visualprocessbench", tmp_path / "test.jsonl", limit=1).items) == 1


def test_macro_f1_by_hand():
    items = [item("a", [True, False, None], "MMMU"), item("b", [True, True, False], "DynaMath")]
    scored = [StepScores((0.9, 0.8, 0.1)), StepScores((0.7, 0.5, 0.2))]
    found = values("visualprocessbench", items, scored)
    # right: called 0.9 0.7 of three, 0.5 is not above; wrong: 0.2 of two; the neutral step is nowhere
    # F1 of right ones 2*2 / (2*2 + 1 + 1), of wrong ones 2*1 / (2*1 + 1 + 1)
    assert found["all", "F1, correct steps"].value == pytest.approx(4 / 6)
    assert found["all", "F1, incorrect steps"].value == pytest.approx(2 / 4)
    assert found["all", "macro-F1"].value == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert found["all", "macro-F1"].total == 5
    # MMMU: both called right, F1 2/3 and 0; DynaMath: one hit, one miss, the wrong one found, 2/3 and 2/3
    assert found["MMMU", "macro-F1"].value == pytest.approx(1 / 3)
    assert found["DynaMath", "macro-F1"].value == pytest.approx(2 / 3)
    # areas: 0.9 0.7 0.5 against 0.8 0.2: above 0.8 one, above 0.2 three of six pairs each counted
    assert found["all", "step AUC"].value == pytest.approx(4 / 6)
    figure = found["all", "macro-F1"]
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_the_threshold_is_the_one_given():
    items, scored = [item("a", [True, False])], [StepScores((0.4, 0.2))]
    assert values("visualprocessbench", items, scored)["all", "macro-F1"].value == pytest.approx(1 / 3)
    assert values("visualprocessbench", items, scored, 0.3)["all", "macro-F1"].value == 1.0
    with pytest.raises(ValueError, match="threshold 1"):
        values("visualprocessbench", items, scored, 1.0)


def test_an_item_that_failed_counts_as_called_the_opposite():
    items = [item("a", [True, False]), item("b", [True, False, None])]
    found = values("visualprocessbench", items, [StepScores((0.9, 0.1)), FAILED])
    # right: one hit, one called wrong, one wrong called right: 2 / (2 + 2), and the same for wrong ones
    assert found["all", "macro-F1"].value == 0.5 and found["all", "macro-F1"].total == 4
    assert found["all", "step AUC"].total == 2
    result = measure(PrmSet("visualprocessbench", tuple(items)), [FAILED, FAILED])
    assert (result.failed, result.items, result.left_out) == (2, 2, 1)
    assert figures(result)["all", "macro-F1"].value == 0.0 and figures(result)["all", "step AUC"].value is None


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, called = rng.random(60) < 0.7, rng.random(60) < 0.6
        sums = [(truth & called).sum(), (truth & ~called).sum(), (~truth & ~called).sum(), (~truth & called).sum()]
        assert macro_f1(np.array([sums]))[0] == pytest.approx(f1_score(truth, called, average="macro"))


def test_scores_of_another_chain_are_an_error():
    with pytest.raises(ValueError, match="a: 1 scores for 2 steps"):
        values("visualprocessbench", [item("a", [True, False])], [StepScores((0.4,))])


# ProcessBench


def test_subsets_are_read_from_their_files(tmp_path):
    (tmp_path / "gsm8k.json").write_text(
        json.dumps([text_row("gsm8k-0", ["a", "b", "c"], 1), text_row("gsm8k-1", ["a"], -1)]), "utf-8"
    )
    write_rows(tmp_path / "math.jsonl", [text_row("math-0", ["a", "b"], 0), text_row("math-0", ["a"], 0)])
    found = load_prm_benchmark("processbench", tmp_path)
    assert [(i.example.id, i.group, i.labels) for i in found.items] == [
        ("gsm8k-0", "gsm8k", (True, False, None)),
        ("gsm8k-1", "gsm8k", (True,)),
        ("math-0", "math", (False, None)),
    ]
    assert [reject.reason for reject in found.rejects] == ["duplicate id: math-0"]
    assert "gsm8k has 2 items here, 400 as published" in found.notes
    assert len(load_prm_benchmark("processbench", tmp_path, limit=1).items) == 2


def test_the_first_wrong_step_by_hand():
    items = [
        item("a", [True, False, None], "gsm8k"),
        item("b", [True, False, None], "gsm8k"),
        item("c", [True, True], "gsm8k"),
        item("d", [True, True], "gsm8k"),
        item("e", [False], "math"),
        item("f", [True], "math"),
    ]
    scored = [
        StepScores((0.9, 0.1, 0.9)),  # found
        StepScores((0.2, 0.1, 0.9)),  # one too early
        StepScores((0.9, 0.6)),  # accepted
        FAILED,
        StepScores((0.4,)),
        StepScores((0.5,)),  # not above the threshold: refused
    ]
    found = values("processbench", items, scored)
    assert found["gsm8k", "first wrong step found"].value == 0.5
    assert found["gsm8k", "flawless items accepted"].value == 0.5
    assert found["gsm8k", "F1"].value == pytest.approx(0.5)
    assert (found["math", "first wrong step found"].value, found["math", "flawless items accepted"].value) == (1, 0)
    assert found["math", "F1"].value == 0.0
    mean = "mean of 2 of 4 subsets", "F1"  # two are not there
    assert found[mean].value == pytest.approx(0.25) and found[mean].total == 6
    assert values("processbench", items, scored, 0.45)[mean].value == pytest.approx((0.5 + 1) / 2)


def test_a_subset_without_wrong_items_or_without_right_ones_has_no_f1():
    names = ("gsm8k", "math", "olympiadbench", "omnimath")
    items = [item(f"{name}-{label}", [label], name) for name in names for label in (True, False)]
    scored = [StepScores((0.9,)), StepScores((0.1,))] * 4
    found = values("processbench", items, scored)
    assert found["mean", "F1"].value == 1.0 and found["mean", "F1"].total == 8
    found = values("processbench", items[:-1], scored[:-1])  # no wrong item in the last
    assert found["omnimath", "F1"].value is None and found["omnimath", "F1"].total == 1
    assert found["omnimath", "flawless items accepted"].value == 1.0
    assert found["mean of 3 of 4 subsets", "F1"].value == 1.0 and found["mean of 3 of 4 subsets", "F1"].total == 6
    assert ("mean", "F1") not in found
    alone = measure(PrmSet("processbench", (items[1],)), scored[1:2])
    assert figures(alone)["mean of 0 of 4 subsets", "F1"].value is None
    shown = io.StringIO()
    Console(file=shown, width=200).print(prm_table(alone))
    assert "1 item, right" in shown.getvalue() and "mean of 0 of 4 subsets" in shown.getvalue()


def test_f1_is_the_harmonic_mean():
    # 30 of 40 and 45 of 50: 2 * 0.75 * 0.9 / 1.65
    assert harmonic(np.array([[40, 30, 50, 45]]))[0] == pytest.approx(2 * 0.75 * 0.9 / 1.65)
    assert harmonic(np.array([[40, 0, 50, 0], [0, 0, 0, 0]])).tolist() == [0.0, 0.0]


# Generated problems


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return load_prm_benchmark("planted", tmp_path_factory.mktemp("pictures"), limit=48)


def test_every_problem_has_a_flawless_chain_and_one_with_an_error(planted):
    flawless = [i for i in planted.items if i.group == FLAWLESS]
    wrong = [i for i in planted.items if i.group != FLAWLESS]
    assert len(flawless) == len(wrong) == 48
    assert all(all(i.labels) and i.answer for i in flawless)
    assert all(False in i.labels or i.answer is False for i in wrong)
    assert {i.group for i in wrong} == set(PLANTERS)
    assert len({i.example.id for i in planted.items}) == 96
    folder = Path(planted.items[0].example.images[0]).parent
    assert load_prm_benchmark("planted", folder, limit=48) == planted


def test_the_checker_is_always_right(planted):
    result = measure(planted, score_items(planted.items, OracleScorer(check_steps)))
    found = figures(result)
    for name in ("step accuracy", "answer accuracy", "macro-F1", "step AUC", "errors caught"):
        assert found["all", name].value == 1.0, name
    assert found[FLAWLESS, "refused"].value == 0.0
    assert all(found[name, "caught"].value == 1.0 for name in PLANTERS)
    assert result.failed == 0 and result.rejected == 0


class Credulous:
    """A scorer that believes everything."""

    def score(self, items):
        return [StepScores((1.0,) * len(chain.steps), 1.0) for _, chain in items]


def test_believing_everything_catches_nothing(planted):
    found = figures(measure(planted, score_items(planted.items, Credulous())))
    assert found["all", "errors caught"].value == 0.0 and found[FLAWLESS, "refused"].value == 0.0
    steps = [label for i in planted.items for label in i.labels]
    assert found["all", "step accuracy"].value == pytest.approx(sum(steps) / len(steps))
    right = sum(bool(i.answer) for i in planted.items)
    assert found["all", "answer accuracy"].value == pytest.approx(right / 96)


def test_failures_catch_nothing_and_accept_nothing(planted):
    found = figures(measure(planted, [FAILED] * 96))
    assert found["all", "errors caught"].value == 0.0 and found[FLAWLESS, "refused"].value == 1.0
    assert found["all", "step accuracy"].value == found["all", "answer accuracy"].value == 0.0


def test_any_scorer_will_do():
    items = [
        item("a", [True, False]),
        PrmItem(Example("b", "?", (), "", "word"), make_chain("x"), (True,), problem="?"),
    ]
    scorer = ScriptedScorer({"a0": 0.9, "a1": 0.1})
    assert score_items(items, scorer) == [StepScores((0.9, 0.1)), ScoreFailure("?")]


# The command's function


def test_scores_are_kept_and_measured_again_without_a_model(tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = eval_prm("checker", "planted", out, limit=8)
    assert figures(first)["all", "step accuracy"].value == 1.0 and first.items == 16
    stored = (out / "scores.jsonl").read_text("utf-8")
    monkeypatch.setattr("chainofstep.verbs.prm_eval._scorer", None)  # scoring again would fail
    assert eval_prm("checker", "planted", out, limit=8) == first
    lines = stored.splitlines(keepends=True)
    assert json.loads((out / "results.json").read_text("utf-8"))["items"] == 16
    (out / "scores.jsonl").write_text("".join(lines[:5]) + lines[5][:20], "utf-8")  # as a kill leaves it
    monkeypatch.undo()
    assert eval_prm("checker", "planted", out, limit=8) == first
    assert (out / "scores.jsonl").read_text("utf-8") == stored
    strict = eval_prm("checker", "planted", out, threshold=0.9, limit=8)
    assert strict.threshold == 0.9 and strict.figures == first.figures


def test_scores_of_other_chains_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("chainofstep.verbs.prm_eval._scorer", lambda _: ScriptedScorer({"One.": 0.9, "Uno.": 0.9}))
    monkeypatch.setattr("chainofstep.verbs.prm_eval.fingerprint", lambda model: model)
    (tmp_path / "a.png").write_bytes(b"x")
    for text in ("One.", "Uno."):
        write_rows(tmp_path / "test.jsonl", [visual_row([text], [1])])
        if text == "One.":
            eval_prm("prm", f"visualprocessbench:{tmp_path}", tmp_path / "out")
    with pytest.raises(ValueError, match="was made with another chains"):
        eval_prm("prm", f"visualprocessbench:{tmp_path}", tmp_path / "out")


def test_items_that_failed_are_tried_again(tmp_path, monkeypatch):
    (tmp_path / "test.jsonl").write_text(json.dumps(visual_row(["One.", "Two."], [1, -1])) + "\n", "utf-8")
    monkeypatch.setattr("chainofstep.verbs.prm_eval._scorer", lambda _: ScriptedScorer({"One.": 0.9, "Two.": 0.2}))
    monkeypatch.setattr("chainofstep.verbs.prm_eval.fingerprint", lambda model: model)
    lost = eval_prm("prm", f"visualprocessbench:{tmp_path}", tmp_path / "out")
    assert lost.failed == 1 and figures(lost)["all", "macro-F1"].value == 0.0
    (tmp_path / "a.png").write_bytes(b"x")
    assert figures(eval_prm("prm", f"visualprocessbench:{tmp_path}", tmp_path / "out"))["all", "macro-F1"].value == 1.0


@pytest.mark.parametrize(
    ("model", "benchmark", "message"),
    [
        ("checker", "processbench", "generated problems alone"),
        ("checker", "plantd", "the nearest is planted"),
        ("hub/m", "visualprocessbench:/nowhere", "unpacked images.zip"),
        ("hub/m", "processbench:/nowhere", "has none of gsm8k.json"),
        ("nowhere/to/m", "planted", "model folder nowhere/to/m does not exist"),
        ("checker", "planted:/tmp", "limit 0 leaves no item"),
    ],
)
def test_bad_input_is_one_line(tmp_path, model, benchmark, message):
    with pytest.raises(ValueError, match=message):
        eval_prm(model, benchmark, tmp_path / "out", limit=0 if "limit" in message else None)
    assert not (tmp_path / "out" / "pictures").exists()


def left(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path):
    evaluation, annotation, other = (tmp_path / name for name in ("eval", "annotation", "other"))
    write_rows(evaluation / "eval.json", [{"benchmark": "chartqa", "runs": []}])
    write_rows(evaluation / "results.json", [{"rows": []}])
    write_rows(annotation / "scores.made.json", [{"examples": 4, "model": "m"}])
    write_rows(annotation / "scores.jsonl", [{"id": "a", "scores": []}])
    write_rows(other / "results.json", [{"rows": []}])
    for folder in (evaluation, annotation, other):
        before = left(folder)
        with pytest.raises(ValueError, match="choose another --out"):
            eval_prm("checker", "planted", folder, limit=4)
        assert left(folder) == before
    eval_prm("checker", "planted", tmp_path / "own", limit=4)
    write_rows(tmp_path / "own" / "eval.json", [{}])
    with pytest.raises(ValueError, match="choose another --out"):
        eval_prm("checker", "planted", tmp_path / "own", limit=4)


def test_two_commands_do_not_write_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="in use by another command"):
        eval_prm("checker", "planted", tmp_path, limit=4)
    assert not (tmp_path / "pictures").exists()
    assert eval_prm("checker", "planted", tmp_path, limit=4).items == 8


def test_a_threshold_that_is_none_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="threshold 1 is no score"):
        eval_prm("checker", "planted", tmp_path / "out", threshold=1)
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_became_of_every_item(planted):
    shown = io.StringIO()
    Console(file=shown, width=200).print(prm_table(measure(planted, [FAILED] * 96)))
    text = " ".join(shown.getvalue().split())
    assert "96 items could not be scored" in text and "0 rows could not be read" in text
    assert "first 48 alone" in text and "errors caught" in text


def test_the_command_prints_the_figures(tmp_path):
    app = typer.Typer()
    app.command()(eval_prm_command)
    arguments = ["checker", "planted", "--out", str(tmp_path), "--limit", "4", "--threshold", "0.3"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "right above 0.3" in done.output and "errors caught" in done.output and "the first 4 alone" in done.output
