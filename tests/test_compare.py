"""Comparing runs and evaluations: read from their folders as the stages write them, paired on the same questions."""

import io
import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from chainofstep.cli.measure import compare_command
from chainofstep.evaluate import wilson
from chainofstep.records import Example, StepScores
from chainofstep.report.compare_page import compare_page, difference_bar, p_value
from chainofstep.report.comparison import (
    ComparedRun,
    Measured,
    Spent,
    differing_settings,
    pairings,
    shared_questions,
    unknown_settings,
)
from chainofstep.verbs.compare import compare, compare_table, cost_table, question_lines, settings_table
from chainofstep.verbs.items import question_hash
from conftest import make_chain, make_rollout

SCORES = StepScores((0.9,), 0.9)


def question(number, text="How many?"):
    return Example(f"q{number}", text, (), "4", "number", source="math/sum")


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def chain(answer):
    return make_chain("look", answer=answer) if answer is not None else "no chain at all"


def write_pools(path, examples, answers):
    """A pool a question; `answers` holds one list of answers for each, None for a text that is no chain."""
    rows = []
    for example, own in zip(examples, answers, strict=True):
        rollouts = [asdict(make_rollout(chain(answer), place, example.id)) for place, answer in enumerate(own)]
        rows.append({"id": example.id, "rollouts": rollouts})
    write_rows(path, rows)


def make_run(folder, right, examples=None, recipe=None):
    """A run whose SFT policy answers the first `right` of its ten questions rightly."""
    examples = examples or [question(number) for number in range(10)]
    write_json(folder / "recipe.json", {"name": "mini", "seed": 0, "pool_sizes": [1, 2]} | (recipe or {}))
    write_rows(folder / "problems" / "test.jsonl", [asdict(example) for example in examples])
    texts = [{"id": e.id, "rollouts": [asdict(make_rollout(" 4 ", 0, e.id))]} for e in examples]
    write_rows(folder / "base" / "rollouts.jsonl", texts)
    answers = [["4"] if number < right else ["5"] for number in range(len(examples))]
    write_pools(folder / "greedy" / "sft" / "rollouts.jsonl", examples, answers)
    answers[-1] = [None]
    write_pools(folder / "greedy" / "dpo-10" / "rollouts.jsonl", examples, answers)
    write_pools(folder / "greedy" / "dpo-2" / "rollouts.jsonl", examples, answers)
    wall, peaks = {"sft": 60.0, "prm": 30.0}, {"sft": 1000.0, "prm": 2500.0}
    known = {"wall_seconds": wall, "peak_memory_mb": peaks, "tokens": {"greedy/sft/sample": 1234}}
    write_json(folder / "results.json", known)
    return folder


def make_search(folder, examples, beam_answers):
    """Pools of two: a wrong answer, then a right one that the PRM prefers; and a beam search."""
    write_pools(folder / "search" / "pool" / "rollouts.jsonl", examples, [["5", "4"]] * len(examples))
    scores = [asdict(StepScores((0.1,), 0.1)), asdict(SCORES)]
    write_rows(folder / "search" / "prm" / "scores.jsonl", [{"id": e.id, "scores": scores} for e in examples])
    rows = [
        {"id": e.id, "answer": answer, "failure": "" if answer else "no chain reached an answer"}
        for e, answer in zip(examples, beam_answers, strict=True)
    ]
    write_rows(folder / "search" / "beam-4-2" / "results.jsonl", rows)


def make_evaluation(folder, right, total=10, rejected=0, first=0):
    """An evaluation whose greedy answers to the first `right` questions are right."""
    names = [f"chartqa/{number}" for number in range(first, first + total)]
    verdicts = [{"id": n, "outcome": "right" if p < right else "wrong", "question": "5ea"} for p, n in enumerate(names)]
    lost = [{"place": f"x:{number}", "reason": "no answer"} for number in range(rejected)]
    verdicts += [{"id": row["place"], "outcome": "failed"} for row in lost]
    write_rows(folder / "verdicts" / "greedy.jsonl", verdicts)
    write_rows(folder / "verdicts" / "best_of_n-16.jsonl", verdicts)
    rows = [
        {"method": method, "n": n, "width": 1, "breakdown": breakdown, "group": "all", "sampled_tokens": tokens}
        for method, n, tokens in (("greedy", 1, 70), ("best_of_n", 16, 1000))
        for breakdown in ("", "type")
    ]
    results = {"benchmark": "chartqa", "split": "test", "model": f"models/{folder.name}", "rejected": lost}
    results["problems"] = [f"{rejected} rows could not be read"] if rejected else []
    write_json(folder / "results.json", {**results, "rows": rows})
    weights = str(right) + "0" * 63
    write_json(folder / "eval.json", {"benchmark": "chartqa", "model": weights, "sampling": {"seed": 0}, "runs": []})
    return folder


def shown(table):
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


# Runs


def test_stages_are_graded_from_their_texts(tmp_path):
    first, _ = compare([make_run(tmp_path / "a", 6), make_run(tmp_path / "b", 8)])
    assert list(first.by_key) == ["base", "sft", "dpo-2", "dpo-10"]  # by number, not by letter
    assert first.by_key["base"].right == 10  # without steps, taken at its word
    assert first.by_key["sft"].right == 6 and first.by_key["sft"].share == (0.6, *wilson(6, 10))
    assert first.by_key["dpo-2"].outcomes["q9"] == "unparseable" and first.by_key["dpo-2"].total == 10
    assert first.spent == Spent(90.0, 1234, 2500.0, {"sft": 60.0, "prm": 30.0})


def test_search_is_chosen_from_the_stored_pools(tmp_path):
    examples = [question(number) for number in range(10)]
    for name in "ab":
        make_search(make_run(tmp_path / name, 6), examples, ["4"] * 9 + [None])
    found = compare([tmp_path / "a", tmp_path / "b"])[0].by_key
    rights = {key: measured.right for key, measured in found.items() if "-" in key and "dpo" not in key}
    assert rights == {
        "self_consistency-1": 0,  # the first sample alone
        "self_consistency-2": 0,  # a tie goes to the first
        "best_of_n-2": 10,
        "weighted_vote-2": 10,
        "pass_at_n-2": 10,
        "step_beam-4-2": 9,
    }
    assert found["step_beam-4-2"].outcomes["q9"] == "failed"
    assert found["step_beam-4-2"].label == "Step beam, width 2, N\u00a0=\u00a04"
    assert found["self_consistency-1"].label == "One sample"


def test_differences_are_paired_on_the_same_questions(tmp_path):
    first, second = compare([make_run(tmp_path / "a", 6), make_run(tmp_path / "b", 8)])
    found = {pairing.key: pairing for pairing in pairings(first, second)}
    assert found["base"].difference == (0.0, 0.0, 0.0) and found["base"].test.p == 1.0
    sft = found["sft"]
    assert sft.difference[0] == pytest.approx(0.2) and sft.questions == 10
    assert (sft.test.first_only, sft.test.second_only) == (0, 2) and sft.test.p == pytest.approx(0.5)


def test_only_shared_questions_are_paired_and_the_others_are_named(tmp_path):
    make_run(tmp_path / "a", 10)
    examples = [question(n) for n in range(2, 8)] + [question(8, "How few?"), question(30), question(31)]
    make_run(tmp_path / "b", 3, examples)
    runs = compare([tmp_path / "a", tmp_path / "b"])
    shared = shared_questions(*runs)
    assert (shared.both, shared.first_only, shared.second_only) == (6, ("q0", "q1", "q9"), ("q30", "q31"))
    assert shared.other == ("q8",)
    sft = next(pairing for pairing in pairings(*runs) if pairing.key == "sft")
    assert sft.questions == 6 and sft.difference[0] == pytest.approx(-0.5)
    lines = question_lines(runs)
    assert lines[0] == "a and b: 6 questions in both"
    assert "  3 only in a: q0, q1, q9" in lines and "  2 only in b: q30, q31" in lines
    assert "  1 with the same id but another question: q8" in lines


def test_an_unfinished_measurement_is_left_out_and_named(tmp_path):
    make_run(tmp_path / "a", 6)
    make_run(tmp_path / "b", 8)
    path = tmp_path / "b" / "greedy" / "sft" / "rollouts.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:4]), "utf-8")
    (tmp_path / "b" / "results.json").unlink()
    runs = compare([tmp_path / "a", tmp_path / "b"])
    assert "sft" not in runs[1].by_key and "sft" not in {pairing.key for pairing in pairings(*runs)}
    lines = " ".join(question_lines(runs))
    assert "b/greedy/sft/rollouts.jsonl is not finished: it lacks 6 of 10 questions" in lines
    assert "b has no results.json" in lines and runs[1].spent == Spent()
    assert "–" in shown(compare_table(runs)) and "–" in shown(cost_table(runs))


def test_a_question_that_could_not_be_sampled_has_failed(tmp_path):
    examples = [question(number) for number in range(10)]
    make_search(make_run(tmp_path / "a", 6), examples, ["4"] * 10)
    make_run(tmp_path / "b", 6)
    for name in ("greedy/sft/rollouts.jsonl", "search/pool/rollouts.jsonl"):
        lines = (tmp_path / "a" / name).read_text("utf-8").splitlines(keepends=True)
        lines[0] = json.dumps({"id": "q0", "rollouts": [], "failure": "too long"}) + "\n"
        (tmp_path / "a" / name).write_text("".join(lines), "utf-8")
    found = compare([tmp_path / "a", tmp_path / "b"])[0].by_key
    assert found["sft"].outcomes["q0"] == found["best_of_n-2"].outcomes["q0"] == "failed"
    assert found["sft"].total == found["best_of_n-2"].total == 10


def test_only_settings_that_differ_are_shown(tmp_path):
    make_run(tmp_path / "a", 6, recipe={"dpo": {"beta": 0.1, "epochs": 1}})
    make_run(tmp_path / "b", 6, recipe={"dpo": {"beta": 0.2, "epochs": 1}, "grpo": None})
    runs = compare([tmp_path / "a", tmp_path / "b"])
    assert differing_settings(runs) == {"dpo.beta": ("0.1", "0.2"), "grpo": ("–", "None")}
    text = shown(settings_table(runs))
    assert "dpo.beta" in text and "epochs" not in text and "seed" not in text


# Evaluations


def test_evaluations_are_read_from_their_verdicts(tmp_path):
    runs = compare([make_evaluation(tmp_path / "a", 6), make_evaluation(tmp_path / "b", 9, rejected=2)])
    assert [m.label.replace("\u00a0", " ") for m in runs[0].measured] == ["Greedy", "Best-of-N by PRM, N = 16"]
    assert (runs[1].by_key["greedy"].right, runs[1].by_key["greedy"].total) == (9, 12)  # rejected items failed
    assert runs[0].spent.tokens == 1070
    assert shared_questions(*runs).second_only == ()  # a row that cannot be read is no question
    assert question_lines(runs)[-1] == "b: 2 rows could not be read"
    pairing = pairings(*runs)[0]
    assert pairing.questions == 10 and pairing.test.second_only == 3
    assert differing_settings(runs) == {
        "model": ("models/a", "models/b"),
        "model weights": ("600000000000", "900000000000"),  # a hash by its beginning
    }


def test_a_run_and_an_evaluation_meet_where_both_have_the_method(tmp_path):
    examples = [question(number) for number in range(10)]
    make_search(make_run(tmp_path / "a", 6), examples, ["4"] * 10)
    make_evaluation(tmp_path / "b", 9)
    runs = compare([tmp_path / "a", tmp_path / "b"])
    assert pairings(*runs) == []  # no question in common
    assert "no measurement of the same questions" in compare_page(runs)
    assert len(shared_questions(*runs).first_only) == 10


def change_verdicts(folder, old, new, times=-1):
    for path in (folder / "verdicts").iterdir():
        path.write_text(path.read_text("utf-8").replace(old, new, times), "utf-8")


def test_rows_that_cannot_be_read_in_both_are_paired_with_nothing(tmp_path):
    runs = compare([make_evaluation(tmp_path / "a", 6, rejected=2), make_evaluation(tmp_path / "b", 6, rejected=2)])
    assert [pairing.questions for pairing in pairings(*runs)] == [10, 10]
    assert [run.by_key["greedy"].total for run in runs] == [12, 12]
    assert question_lines(runs)[0] == "a and b: 10 questions in both"


def test_other_questions_of_one_id_are_not_paired_in_evaluations(tmp_path):
    change_verdicts(make_evaluation(tmp_path / "b", 9), '"5ea"', '"0ff"', 4)
    runs = compare([make_evaluation(tmp_path / "a", 6), tmp_path / "b"])
    assert shared_questions(*runs).other == tuple(f"chartqa/{number}" for number in range(4))
    assert [pairing.questions for pairing in pairings(*runs)] == [6, 6]


def test_a_run_and_an_evaluation_know_the_same_question(tmp_path):
    make_run(tmp_path / "a", 6)
    known = [{"id": e.id, "outcome": "right", "question": question_hash(e)} for e in map(question, range(9))]
    make_evaluation(tmp_path / "b", 9, total=9)
    for name in ("greedy", "best_of_n-16"):
        write_rows(tmp_path / "b" / "verdicts" / f"{name}.jsonl", [*known, {**known[0], "id": "q9", "question": "x"}])
    shared = shared_questions(*compare([tmp_path / "a", tmp_path / "b"]))
    assert (shared.both, shared.other) == (9, ("q9",))


def test_verdicts_that_do_not_say_what_was_asked_are_matched_by_id_and_that_is_said(tmp_path):
    change_verdicts(make_evaluation(tmp_path / "b", 9), ', "question": "5ea"', "")
    runs = compare([make_evaluation(tmp_path / "a", 6), tmp_path / "b"])
    assert pairings(*runs)[0].questions == 10
    assert question_lines(runs)[-1] == "b does not say what was asked: its questions are known by their ids alone"


def with_method(folder, method, outcomes):
    """An evaluation with one method at N = 1."""
    make_evaluation(folder, 0)
    results = json.loads((folder / "results.json").read_text("utf-8"))
    write_json(
        folder / "results.json",
        results | {"rows": [{"method": m, "n": 1, "width": 1, "breakdown": ""} for m in method]},
    )
    for name, own in zip(method, outcomes, strict=True):
        rows = [{"id": f"chartqa/{place}", "outcome": outcome, "question": "5ea"} for place, outcome in enumerate(own)]
        write_rows(folder / "verdicts" / f"{name if name in ('greedy', 'predictions') else name + '-1'}.jsonl", rows)
    return folder


def test_a_file_of_predictions_is_paired_with_greedy_answers(tmp_path):
    with_method(tmp_path / "a", ["greedy"], [["right", "wrong", "wrong"]])
    with_method(tmp_path / "b", ["predictions"], [["right", "right", "wrong"]])
    runs = compare([tmp_path / "a", tmp_path / "b"])
    (pairing,) = pairings(*runs)
    assert (pairing.questions, pairing.test.second_only, pairing.label) == (3, 1, "Greedy / Predictions")
    assert pairings(runs[1], runs[1])[0].label == "Predictions"


def test_all_methods_of_one_sample_are_one_row(tmp_path):
    with_method(tmp_path / "a", ["best_of_n", "self_consistency"], [["failed"], ["right"]])  # scores may be missing
    with_method(tmp_path / "b", ["best_of_n"], [["wrong"]])
    runs = compare([tmp_path / "a", tmp_path / "b"])
    assert [list(run.by_key) for run in runs] == [["self_consistency-1"]] * 2
    (pairing,) = pairings(*runs)
    assert pairing.label == "One sample" and pairing.test.first_only == 1


def test_settings_that_are_not_known_of_both_do_not_differ(tmp_path):
    make_evaluation(tmp_path / "a", 6)
    (make_evaluation(tmp_path / "b", 6) / "eval.json").unlink()  # graded from stored texts
    runs = compare([tmp_path / "a", tmp_path / "b"])
    assert differing_settings(runs) == {"model": ("models/a", "models/b")}
    assert unknown_settings(runs) == ["sampling.seed", "model weights"]
    assert "settings that are not known of every run: sampling.seed, model weights" in question_lines(runs)
    assert "Not known of every run: sampling.seed, model weights" in compare_page(runs)
    third = [*runs, ComparedRun("c", {"sampling.seed": "1"}, {}, ())]
    assert differing_settings(third)["sampling.seed"] == ("0", "not known", "1")


# Bad input


def test_bad_folders_are_one_line(tmp_path):
    make_run(tmp_path / "a", 6)
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="1 folder to compare"):
        compare([tmp_path / "a"])
    with pytest.raises(ValueError, match="given twice"):
        compare([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(ValueError, match="neither a run's folder"):
        compare([tmp_path / "a", tmp_path / "b"])
    write_json(tmp_path / "b" / "recipe.json", {})
    with pytest.raises(ValueError, match="has not begun"):
        compare([tmp_path / "a", tmp_path / "b"])
    write_json(make_evaluation(tmp_path / "d", 6) / "results.json", {"figures": []})
    with pytest.raises(ValueError, match="holds no figures of an evaluation"):
        compare([tmp_path / "a", tmp_path / "d"])
    (make_evaluation(tmp_path / "c", 6) / "verdicts" / "greedy.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no verdicts/greedy.jsonl"):
        compare([tmp_path / "a", tmp_path / "c"])


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    make_run(tmp_path / "x" / "mini", 6)
    make_run(tmp_path / "y" / "mini", 6)
    assert [run.name for run in compare([tmp_path / "x" / "mini", tmp_path / "y" / "mini"])] == ["x/mini", "y/mini"]


# Shown


def test_the_table_holds_accuracy_difference_and_p(tmp_path):
    text = shown(compare_table(compare([make_run(tmp_path / "a", 2), make_run(tmp_path / "b", 10)])))
    row = next(line for line in text.splitlines() if line.strip().startswith("SFT"))
    low, high = wilson(2, 10)
    assert f"20.0% ({100 * low:.1f} to {100 * high:.1f})" in row
    assert "+80.0 (+50.0 to +100.0)" in row and "0.008" in row  # 2 / 2**8


def test_the_page_escapes_loads_nothing_and_names_all(tmp_path):
    name = "<script>alert(1)</script>"
    make_run(tmp_path / "a", 2, recipe={"policy": name})
    make_run(tmp_path / "b", 10, recipe={"policy": "plain"})
    out = tmp_path / "compare.html"
    compare([tmp_path / "a", tmp_path / "b"], out)
    page = out.read_text("utf-8")
    assert name not in page and "&lt;script&gt;alert(1)" in page
    assert re.findall(r"(?:src|href)=\"(?!#)", page) == [] and "<script" not in page
    for text in ("a and b", "+80.0", "1 min 30 s", "1,234", "2.5 GB", "10 questions", "DPO, round 10"):
        assert text in page, text
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def measured_run(name, outcomes):
    return ComparedRun(name, {}, dict.fromkeys(outcomes, ()), (Measured("sft", "SFT", outcomes),))


def test_runs_that_never_differ_have_no_interval():
    one = measured_run("one", {str(n): "right" if n < 3 else "wrong" for n in range(8)})
    row = next(line for line in shown(compare_table([one, one])).splitlines() if line.strip().startswith("SFT"))
    assert "no difference on 8 questions" in row and "+0.0" not in row and "1.000" not in row
    page = compare_page([one, one])
    assert "no difference on 8 questions" in page and "+0.0 to" not in page
    alone = measured_run("one", {"0": "right"})
    assert "no difference on 1 question<" in compare_page([alone, alone])


def test_colours_tell_better_from_worse():
    good = measured_run("good", {str(n): "right" for n in range(40)})
    bad = measured_run("bad", {str(n): "wrong" for n in range(40)})
    (better,), (worse,), (same,) = pairings(bad, good), pairings(good, bad), pairings(good, good)
    assert (better.verdict, worse.verdict, same.verdict) == ("better", "worse", "undecided")
    assert "--right" in difference_bar(better, 1.0) and "--wrong" in difference_bar(worse, 1.0)
    assert "--value:100.00%" in difference_bar(better, 1.0) and "--value:50.00%" in difference_bar(same, 1.0)
    assert (p_value(0.0004), p_value(0.049)) == ("<0.001", "0.049")


def test_comparing_loads_no_torch(tmp_path):
    make_run(tmp_path / "a", 6)
    make_run(tmp_path / "b", 8)
    program = (
        "import sys; from pathlib import Path; from chainofstep.verbs.compare import compare\n"
        "compare([Path(sys.argv[1]), Path(sys.argv[2])], Path(sys.argv[3])); assert 'torch' not in sys.modules"
    )
    arguments = [str(tmp_path / name) for name in ("a", "b", "page.html")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_command_prints_the_tables_and_writes_the_page(tmp_path):
    app = typer.Typer()
    app.command()(compare_command)
    make_run(tmp_path / "a", 2)
    make_run(tmp_path / "b", 10, recipe={"seed": 1})
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    for text in ("Settings that differ", "seed", "SFT", "+80.0", "10 questions in both", "page.html"):
        assert text in done.output, text
    assert (tmp_path / "page.html").is_file()
