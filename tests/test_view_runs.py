"""What a folder holds: rollouts with their questions and scores, whoever wrote them, and what is broken in it."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import Chain, ChainError, Step, parse, render
from chainofstep.records import StepScores, to_row
from chainofstep.store import file_hash
from chainofstep.view.calibration import calibration_of
from chainofstep.view.facts import gap
from chainofstep.view.lists import Filter, choose
from chainofstep.view.opened import NotThere, OpenRun, Shelf
from chainofstep.view.overview import runs_page
from chainofstep.view.rows import Rows, first_row
from chainofstep.view.runs import named_runs, read_run
from chainofstep.view.texts import counted, read_text
from view_case import CHECKER, POOLS, PRM, Q1, Q2, TEN, marker, pool_rows, score_rows, write_rows, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def opened(path):
    """The first set of a folder, with all of its facts."""
    one = next(iter(OpenRun("run", path).sets.values()))
    while one.work():
        pass
    return one


def chosen(one, **filters):
    """{id: indexes of its rollouts that fit} in the list's order."""
    listed = choose(one.facts, Filter(**filters))
    starts = one.facts.starts
    return {
        one.rows.ids[q]: np.flatnonzero(listed.fitting[starts[q] : starts[q + 1]]).tolist() for q in listed.questions
    }


# Which file is what


@pytest.mark.parametrize(
    "name", ["x.jsonl", "hand/corrections.jsonl", "stages/x.json", "search/pool/rollouts.made.json", "problems/q.png"]
)
def test_what_is_no_regular_file_is_not_waited_for(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run / name)
    shelf = Shelf([run])
    one = shelf.set("run", "search/pool")
    while one.work():
        pass
    found = runs_page(shelf)["runs"][0]
    assert found["sets"][0]["questions"] == 2
    assert found["problems"] == ([f"{name}: no regular file, left out"] if "x.json" in name else [])


def test_a_log_that_became_a_pipe_has_no_rows(run):
    path = run / "search/pool/rollouts.jsonl"
    rows = Rows(path)
    path.unlink()
    os.mkfifo(path)
    assert list(rows.at([0])) == [{}] and first_row(path) == {}
    assert Rows(path).problems == [f"{path} cannot be read: no regular file"]


def test_an_index_that_is_a_pipe_is_made_anew(run):
    kept = run / ".view" / opened(run).facts.kept_as
    kept.unlink()
    os.mkfifo(kept)
    assert opened(run).ready == 1 and kept.is_file()


def test_a_run_says_in_its_markers_whose_scores_are_whose(run):
    files = read_run("run", run)
    pool, dpo = files.sets
    assert (pool.id, pool.title) == ("search/pool", "search/pool: policy sft, 4 each")
    assert [(log.name, log.path) for log in pool.scores] == [
        ("prm", run / "search/prm/scores.jsonl"),
        ("checker", run / "search/checker/scores.jsonl"),
    ]
    assert pool.examples == run / "problems/test.jsonl"
    assert (dpo.id, [log.name for log in dpo.scores]) == ("dpo-1", ["prm"])
    assert [(log.id, log.width) for log in files.searches] == [("search/beam-4-1", 1)]
    assert [(log.id, log.set) for log in files.pairs] == [("dpo-1/pairs", "dpo-1")]
    assert files.problems == ()


def test_several_prms_of_one_set_have_names_of_their_own_and_the_runs_own_comes_first(run):
    write_rows(run / "gaming/scores.jsonl", score_rows(PRM))
    marker(run, "gaming/score", pools="search/pool", scorer={"kind": "prm", "model": "runs/x/models/another"})
    assert [log.name for log in read_run("run", run).sets[0].scores] == ["prm", "prm (gaming)", "checker"]


def test_files_of_single_commands_side_by_side_are_a_run(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [to_row(Q1), to_row(Q2)])
    rollouts = write_rows(tmp_path / "rollouts.jsonl", pool_rows())
    other = write_rows(tmp_path / "greedy.jsonl", pool_rows({"q-1": POOLS["q-1"]}))
    labelled = write_rows(tmp_path / "labelled.jsonl", score_rows(CHECKER))
    made = {"rollouts": file_hash(rollouts), "scorer": "checker"}
    labelled.with_suffix(".made.json").write_text(json.dumps(made))
    write_rows(tmp_path / "scores-prm.jsonl", score_rows(PRM))
    sets = {one.path: one for one in read_run("run", tmp_path).sets}
    assert {log.name for log in sets[rollouts].scores} == {"prm", "checker"}
    assert sets[other].scores == ()
    assert {one.examples for one in sets.values()} == {tmp_path / "mine.jsonl"}


def test_a_folder_of_an_evaluation_is_shown_without_its_questions(tmp_path):
    (tmp_path / "eval.json").write_text("{}")
    write_rows(tmp_path / "pool/rollouts.jsonl", pool_rows())
    write_rows(tmp_path / "pool/scores.jsonl", score_rows(PRM))
    write_rows(
        tmp_path / "verdicts/greedy.jsonl", [{"id": "q-1", "outcome": "right", "answer": "10", "question": "ab"}]
    )
    files = read_run("run", tmp_path)
    assert [(one.id, [log.name for log in one.scores]) for one in files.sets] == [("pool", ["prm"])]
    assert files.problems == ("pool/rollouts.jsonl: no file here has its questions, so nothing is known right",)
    assert opened(tmp_path).facts.right.tolist() == [-1] * 6


def test_a_folder_of_built_data_has_its_judges_labels(tmp_path):
    write_rows(tmp_path / "examples/examples.jsonl", [to_row(Q1), to_row(Q2)])
    write_rows(tmp_path / "solve/rollouts.jsonl", pool_rows())
    write_rows(tmp_path / "prm/scores.jsonl", score_rows(CHECKER))
    write_rows(tmp_path / "judge-1/replies.jsonl", [{"id": "q-1", "replies": []}])
    (one,) = read_run("run", tmp_path).sets
    assert (one.id, [log.name for log in one.scores]) == ("solve", ["judge"])


def test_a_folder_without_rows_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no rollouts"):
        read_run("run", tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        read_run("run", tmp_path / "gone")


def test_runs_of_one_name_are_told_apart_by_what_is_before(tmp_path):
    paths = [tmp_path / "a/mini", tmp_path / "b/mini", tmp_path / "c/other", tmp_path / "a/../a/mini"]
    for path in paths[:3]:
        path.mkdir(parents=True)
    assert list(named_runs(paths)) == ["a/mini", "b/mini", "other"]


def test_a_link_that_leads_out_of_the_run_is_not_followed(run, tmp_path):
    outside = write_rows(tmp_path / "elsewhere.jsonl", pool_rows())
    (run / "more.jsonl").symlink_to(outside)
    assert "more" not in {one.id for one in read_run("run", run).sets}


# Damage


def test_what_can_be_read_is_shown_and_the_rest_is_said(run):
    log = run / "search/pool/rollouts.jsonl"
    log.write_bytes(log.read_bytes() + b'{"no": "id"}\n' + b'{"id": "q-3", "rollouts": [{"te')
    (run / "search/checker/scores.jsonl").unlink()
    (run / "stages/search/pool/sample.json").write_text("{")
    (run / "search/prm/scores.jsonl").write_text(
        json.dumps(score_rows(PRM)[1]) + "\n" + '{"id": "q-1", "scores": [[]]}\n'
    )
    shown = OpenRun("run", run)
    one = shown.sets["search/pool"]
    while one.work():
        pass
    assert one.rows.ids == ["q-1", "q-2"]
    assert one.facts.lowest["prm"][4] == np.float32(0.2)
    problems = "\n".join(shown.problems)
    assert "search/pool/rollouts.jsonl:3: no row with 'id'" in problems
    assert "search/pool/rollouts.jsonl:4: no row with 'id', left out: it is cut off" in problems
    assert "stages/search/pool/sample.json:1: not JSON" in problems
    assert "search/pool: prm has not as many scores as rollouts, q-1 first" in problems


def test_a_row_that_is_damaged_inside_keeps_its_place(run):
    log = run / "search/pool/rollouts.jsonl"
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first[:-20] + b"\n" + second)
    one = opened(run)
    assert (one.rows.ids, one.facts.starts.tolist()) == (["q-1", "q-2"], [0, 4, 6])
    assert one.facts.right.tolist() == [-1, -1, -1, -1, 1, -1]
    assert "search/pool: the row of q-1 cannot be read as a whole" in one.problems


def test_of_two_rows_with_one_id_the_first_is_shown(run):
    write_rows(run / "problems/test.jsonl", [to_row(Q1), to_row(Q2), to_row(Q1) | {"question": "another"}])
    shown = OpenRun("run", run)
    assert shown.sets["search/pool"].examples.row("q-1")["question"] == Q1.question
    assert shown.problems == ["problems/test.jsonl: 1 rows with an id that was there before"]


def test_of_many_broken_lines_the_first_are_told(run):
    log = run / "search/pool/rollouts.jsonl"
    log.write_bytes(log.read_bytes() + b"no row\n" * 500)
    problems = OpenRun("run", run).problems
    assert len(problems) == 11 and problems[-1] == "search/pool/rollouts.jsonl: 490 more lines are no rows"


def test_rows_of_wrong_types_break_nothing(run):
    odd = [
        {"id": "q-1", "rollouts": [7, {"text": None}, {"text": 3}, {"text": "\ud800", "ending": []}]},
        {"id": 5, "rollouts": "none"},
        {"id": "q-2", "rollouts": [{"text": ["a"]}]},
    ]
    write_rows(run / "search/pool/rollouts.jsonl", odd)
    write_rows(
        run / "search/prm/scores.jsonl", [{"id": "q-1", "scores": [None, 7, {"steps": "no"}, {"steps": [1e300]}]}]
    )
    write_rows(run / "problems/test.jsonl", [{"id": "q-1", "question": [], "images": 3, "answer": {}}])
    one = opened(run)
    assert one.rows.ids == ["q-1", "5", "q-2"]
    assert one.facts.finished
    assert np.isnan(one.facts.lowest["prm"]).all()


# Facts and filters


def test_facts_of_each_rollout(run):
    facts = opened(run).facts
    assert facts.starts.tolist() == [0, 4, 6]
    assert facts.steps.tolist() == [2, 2, 2, 1, 1, 0]
    assert facts.right.tolist() == [1, 1, 0, -1, 1, -1]
    assert facts.lowest["prm"].tolist()[:3] == pytest.approx([0.8, 0.8, 0.6])
    assert np.isnan(facts.lowest["prm"][[3, 5]]).all()
    assert facts.gap.tolist() == pytest.approx([0, 0, 0.6, 0, 0.8, 0])


def test_filters_go_by_rollouts_and_list_their_questions(run):
    one = opened(run)
    assert chosen(one) == {"q-1": [0, 1, 2, 3], "q-2": [0, 1]}
    assert chosen(one, answer="right") == {"q-1": [0, 1], "q-2": [0]}
    assert chosen(one, answer="wrong") == {"q-1": [2]}
    assert chosen(one, answer="none") == {"q-1": [3], "q-2": [1]}
    assert chosen(one, disagree=True) == {"q-1": [2], "q-2": [0]}
    assert chosen(one, scorer="prm", low=0.5, high=0.7) == {"q-1": [2]}
    assert chosen(one, scorer="checker", high=0.5) == {"q-1": [2]}
    assert chosen(one, shortest=1, longest=1) == {"q-1": [3], "q-2": [0]}
    assert chosen(one, family="lever_tip") == {"q-2": [0, 1]}
    assert chosen(one, family="nothing") == {}
    assert list(chosen(one, text="SUM of")) == ["q-1"]
    assert list(chosen(one, text="q-2")) == ["q-2"]
    assert chosen(one, text="q-2", answer="wrong") == {}


def test_lists_are_sorted_by_the_largest_disagreement_or_the_lowest_score(run):
    one = opened(run)
    assert list(chosen(one, sort="disagree")) == ["q-2", "q-1"]
    assert list(chosen(one, sort="score", scorer="prm")) == ["q-2", "q-1"]
    assert list(chosen(one, sort="score", scorer="prm", answer="none")) == ["q-1", "q-2"]  # neither has a score


def test_a_question_without_rollouts_is_listed_where_nothing_is_asked_of_rollouts(run):
    write_rows(
        run / "search/pool/rollouts.jsonl", [*pool_rows(), {"id": "q-9", "rollouts": [], "failure": "no picture"}]
    )
    one = opened(run)
    assert list(chosen(one)) == ["q-1", "q-2", "q-9"]
    assert "q-9" not in chosen(one, answer="none")


def test_what_is_not_yet_known_is_not_listed_and_the_list_says_so(run):
    one = next(iter(OpenRun("run", run).sets.values()))
    assert (chosen(one), one.facts.ready) == ({}, 0.0)


def test_facts_are_kept_until_their_sources_change(run):
    opened(run)
    kept = list((run / ".view").iterdir())
    one = next(iter(OpenRun("run", run).sets.values()))
    assert one.facts.finished and chosen(one, disagree=True) == {"q-1": [2], "q-2": [0]}
    write_rows(run / "search/prm/scores.jsonl", score_rows(PRM | {"q-2": [StepScores((0.9,), 0.9), PRM["q-2"][1]]}))
    assert chosen(opened(run), disagree=True) == {"q-1": [2]}
    assert len(list((run / ".view").iterdir())) == len(kept) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_broken_file_of_facts_is_made_again(run, content):
    opened(run)
    (kept,) = (run / ".view").iterdir()
    kept.write_bytes(content)
    one = next(iter(OpenRun("run", run).sets.values()))
    assert not one.facts.finished
    assert chosen(opened(run), answer="wrong") == {"q-1": [2]}


def test_a_folder_that_cannot_be_written_is_shown_all_the_same(run):
    (run / ".view").write_text("a file where the folder would be")
    assert chosen(opened(run), answer="wrong") == {"q-1": [2]}


def test_the_thread_of_a_shelf_makes_the_facts_of_the_set_that_is_wanted(run):
    shelf = Shelf([run])
    try:
        one = shelf.set("run", "dpo-1")
        shelf.want(one)
        one.facts.wait(2, 10.0)
        assert one.facts.finished and not shelf.set("run", "search/pool").facts.finished
    finally:
        shelf.close()


def test_a_run_that_has_grown_is_read_again(run):
    shelf = Shelf([run])
    before = shelf.run("run")
    shelf.refresh()
    assert shelf.run("run") is before
    write_rows(run / "more/rollouts.jsonl", pool_rows())
    os.utime(run / "more/rollouts.jsonl", (1, 1))
    shelf.refresh()
    assert "more" in shelf.run("run").sets


# Texts

FIELDS = st.text("ab<к+и \n⁠", max_size=5)
CHAINS = st.builds(Chain, st.lists(st.builds(Step, FIELDS, FIELDS, FIELDS), max_size=3).map(tuple), FIELDS)


@given(CHAINS, st.integers(0, 400), st.booleans())
def test_counting_finds_what_reading_finds(chain, end, cut):
    text = render(chain)[:end] if cut else render(chain)
    reading = read_text(text)
    assert counted(text) == (len(reading.steps), reading.answer)
    try:
        assert counted(text) == (len(parse(text).steps), parse(text).answer)
    except ChainError:
        assert reading.problem


def test_what_comes_before_a_fault_is_read():
    text = render(TEN).replace("<|reasoning_proceed|>", "<|reasoning_backtrack|>")
    reading = read_text(text)
    assert reading.steps == TEN.steps[:1]
    assert reading.rest.startswith("\n<|reasoning_backtrack|>")
    assert "expected" in reading.problem


def test_text_of_a_model_without_steps_is_its_answer():
    assert read_text(" 17 ").answer == "17"
    assert read_text("").answer is None


def test_scores_on_the_other_side_of_the_truth_are_as_far_as_from_it():
    assert gap(StepScores((0.4, 0.9), 0.2), StepScores((1.0, 0.0), 1.0)) == pytest.approx(0.9)
    assert gap(StepScores((0.6,), 0.2), StepScores((0.7,), 0.3)) == 0  # Monte-Carlo: above a half is right


# Calibration


def test_calibration_counts_the_steps_of_each_score(run):
    found = calibration_of(opened(run), "prm")
    # steps .9 .8 .9 .8 .9 .6 .2 against 1 1 1 1 1 0 1: five of seven on the right side of 0.5
    assert (found["truth"], found["steps"]) == ("checker", 7)
    assert found["accuracy"] == pytest.approx(5 / 7)
    bins = {round(one["low"], 1): (one["steps"], one["score"], one["right"]) for one in found["bins"] if one["steps"]}
    assert bins == {
        0.2: (1, pytest.approx(0.2), 1.0),
        0.6: (1, pytest.approx(0.6), 0.0),
        0.8: (2, pytest.approx(0.8), 1.0),
        0.9: (3, pytest.approx(0.9), 1.0),
    }


def test_calibration_needs_a_truth_and_scores(run):
    dpo = OpenRun("run", run).sets["dpo-1"]
    assert calibration_of(dpo, "prm") == {"truth": None, "steps": 0, "accuracy": None, "bins": []}
    with pytest.raises(NotThere, match="no scores of 'judge'; it has prm"):
        calibration_of(dpo, "judge")
