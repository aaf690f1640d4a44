"""Labels by hand: what a correction changes, and that the rows which it leaves are what training reads."""

import json
import os
import threading
from dataclasses import replace

import pytest

from chainofstep.records import ScoreFailure, StepScores, to_row
from chainofstep.view.hand import Hand, correct
from chainofstep.view.items import item_of
from chainofstep.view.lists import Filter, list_page
from chainofstep.view.opened import NotThere, OpenRun
from view_case import CUT, LEFT, PICTURE, POOLS, Q1, Q2, TEN, TWELVE, pool_rows, score_rows, write_rows, write_run

SET = "search/pool"


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def label(run, name, index, step, value, one=SET):
    opened = OpenRun("run", run)
    return correct(opened, opened.sets[one], name, index, step, value)


def rows(run, file):
    return [json.loads(line) for line in (run / f"hand/{file}.jsonl").read_text("utf-8").splitlines()]


def trained_on(run):
    """{(id, text of the answer): labels} of the rows that `cos train prm` makes of the three files."""
    pytest.importorskip("torch")
    from chainofstep.problems.formats import labelled
    from chainofstep.records import StepRow
    from chainofstep.verbs.files import read_examples, read_pools, read_scores

    hand = run / "hand"
    examples = read_examples(hand / "examples.jsonl")
    pools = read_pools(hand / "rollouts.jsonl", examples)
    found = {}
    for example, pool, scored in zip(examples, pools, read_scores(hand / "scores.jsonl", examples, pools), strict=True):
        for rollout, labels in zip(pool, scored, strict=True):
            chain, known = labelled(StepRow(example, rollout.text, labels))
            assert rollout.example_id == example.id
            found[example.id, chain] = known
    return examples, found


def test_training_reads_the_corrected_rollouts_and_the_checkers_labels_between(run):
    assert label(run, "q-1", 2, 1, 1) == [1.0, 1.0, 0.0]
    assert label(run, "q-1", 0, 0, 0.5) == [0.5, 1.0, 1.0]
    assert label(run, "q-2", 0, 1, 0) == [1.0, 0.0]
    examples, found = trained_on(run)
    assert found == {
        ("q-1", TWELVE): StepScores((1.0, 1.0), 0.0),
        ("q-1", TEN): StepScores((0.5, 1.0), 1.0),
        ("q-2", LEFT): StepScores((1.0,), 0.0),
    }
    assert (run / "hand" / "../problems/test/q-1.png").samefile(examples[0].images[0])
    assert rows(run, "scores")[0]["others"] == ["checker", "checker"]


def test_a_correction_taken_back_leaves_no_row(run):
    label(run, "q-1", 2, 1, 1)
    label(run, "q-1", 2, 0, 0)
    assert label(run, "q-1", 2, 1, None) == [0.0, 0.0, 0.0]
    assert label(run, "q-1", 2, 0, None) == [1.0, 0.0, 0.0]
    assert [rows(run, file) for file in ("examples", "rollouts", "scores")] == [[], [], []]
    assert len(rows(run, "corrections")) == 4


@pytest.mark.parametrize(
    ("kind", "whose", "labels"),
    [
        ("monte-carlo", "monte-carlo", [0.9, 0.0, 0.3]),
        ("judge", "judge", [0.9, 0.0, 0.3]),
        ("prm", "prm", [1.0, 0.0, 0.0]),  # what it says, not how sure it is
        ("outcome", "", [None, 0.0, None]),
    ],
)
def test_other_labels_are_those_of_the_surest_scorer(run, kind, whose, labels):
    (run / "search/checker/scores.jsonl").unlink()
    path = run / "stages/search/prm/score.json"
    path.write_text(json.dumps({"inputs": {"pools": SET, "scorer": {"kind": kind, "model": ""}}}))
    assert label(run, "q-1", 2, 1, 0) == labels
    assert rows(run, "scores")[0]["others"] == [whose]


def test_labels_that_begin_after_an_unknown_step_are_no_row_for_training(run):
    label(run, "q-1", 3, 0, 1)  # no scorer could score this text
    assert rows(run, "scores")[0]["scores"] == [{"steps": [1.0], "answer": None}]
    write_rows(run / "search/checker/scores.jsonl", [])
    write_rows(run / "search/prm/scores.jsonl", [])
    label(run, "q-1", 2, 1, 1)
    reason = "labels by hand begin after the first step, and no other labels are known"
    marks = dict(
        zip(
            (entry["index"] for entry in rows(run, "rollouts")[0]["rollouts"]),
            rows(run, "scores")[0]["scores"],
            strict=True,
        )
    )
    assert marks == {3: {"steps": [1.0], "answer": None}, 2: {"reason": reason}}


@pytest.mark.parametrize(
    ("name", "index", "step", "value", "said"),
    [
        ("q-1", 0, 3, 1, "step is 3: rollout 0 of q-1 has 2 steps"),
        ("q-1", 3, 1, 1, "step is 1: rollout 3 of q-1 has 1 steps"),  # cut off before its answer
        ("q-1", 0, -1, 1, "step is -1"),
        ("q-2", 1, 0, 1, "rollout 1 of q-2 has 0 steps"),
        ("q-1", 0, 0, 0.7, "label is 0.7: give 1, 0.5, 0, or null"),
    ],
)
def test_labels_of_what_is_not_there_are_refused(run, name, index, step, value, said):
    with pytest.raises(ValueError, match=said):
        label(run, name, index, step, value)
    assert not (run / "hand").exists()


def test_rollouts_that_are_not_there_are_refused(run):
    for name, index in (("q-1", 4), ("q-1", -1), ("../q-1", 0)):
        with pytest.raises(NotThere):
            label(run, name, index, 0, 1)


def test_labels_by_hand_are_shown_on_the_tree_and_can_be_filtered_by(run):
    label(run, "q-1", 0, 1, 0)
    label(run, "q-1", 1, 1, 1)
    label(run, "q-1", 2, 2, 0.5)
    opened = OpenRun("run", run)
    one = opened.sets[SET]
    found = item_of(opened, one, "q-1", Hand(run))
    assert [node["scores"].get("hand") for node in found["nodes"]] == [None, 0.5, None, None, 0.5]
    assert found["nodes"][1]["spread"]["hand"] == [0.0, 1.0]
    assert found["rollouts"][0]["scores"]["hand"] == {"steps": [None, 0.0], "answer": None}
    assert "hand" not in found["rollouts"][3]["scores"]
    while one.work():
        pass
    page = list_page(opened, one, Filter(scorer="hand", low=0.4, high=0.6), 0, 10, Hand(run).lowest(SET))
    assert [(entry["id"], entry["fitting"], entry["lowest"]) for entry in page["items"]] == [("q-1", [2], 0.5)]


def test_a_correction_belongs_to_a_text_and_goes_with_it(run):
    label(run, "q-1", 2, 1, 1)
    write_rows(run / "search/pool/rollouts.jsonl", pool_rows(POOLS | {"q-1": [*POOLS["q-1"][:2], CUT, CUT]}))
    opened = OpenRun("run", run)
    assert Hand(run).labels(SET, "q-1", []) == {}
    assert "hand" not in item_of(opened, opened.sets[SET], "q-1", Hand(run))["rollouts"][2]["scores"]
    label(run, "q-2", 0, 0, 0)
    assert [row["id"] for row in rows(run, "rollouts")] == ["q-2"]


def test_one_question_corrected_in_two_sets_is_one_row(run):
    label(run, "q-1", 0, 0, 0)
    label(run, "q-1", 2, 0, 0, "dpo-1")
    assert [len(row["rollouts"]) for row in rows(run, "rollouts")] == [2]
    assert rows(run, "scores")[0]["others"] == ["checker", "prm"]
    assert len(trained_on(run)[1]) == 2


def test_two_questions_of_one_id_stay_two(run):
    other = replace(Q1, question="What is the sum of row 2?", answer="12")
    write_rows(run / "more/questions.jsonl", [to_row(other), to_row(Q2)])
    write_rows(run / "more/rollouts.jsonl", pool_rows())
    label(run, "q-1", 0, 0, 0)
    assert label(run, "q-1", 0, 0, 0, "more")[0] == 0
    assert [row["id"] for row in rows(run, "examples")] == ["q-1", "q-1@more"]
    examples, _ = trained_on_ids(run)
    assert examples == {"q-1": "10", "q-1@more": "12"}


def trained_on_ids(run):
    from chainofstep.verbs.files import read_examples, read_pools

    examples = read_examples(run / "hand/examples.jsonl")
    return {example.id: example.answer for example in examples}, read_pools(run / "hand/rollouts.jsonl", examples)


def test_pictures_from_outside_the_run_keep_their_whole_path(run, tmp_path):
    outside = tmp_path / "own.png"
    outside.write_bytes((run / PICTURE).read_bytes())
    write_rows(run / "problems/test.jsonl", [to_row(replace(Q1, images=(str(outside), "gone.png"))), to_row(Q2)])
    label(run, "q-1", 0, 0, 0)
    assert rows(run, "examples")[0]["images"] == [str(outside), "gone.png"]


def test_corrections_are_not_written_to_a_pipe(run):
    (run / "hand").mkdir()
    os.mkfifo(run / "hand/corrections.jsonl")
    with pytest.raises(ValueError, match="is no regular file: take it away"):
        label(run, "q-1", 0, 0, 0)


def test_viewers_that_correct_at_once_lose_nothing(run):
    places = [(name, index, step) for name, index in (("q-1", 0), ("q-1", 1), ("q-1", 2)) for step in range(3)]
    threads = [threading.Thread(target=label, args=(run, *place, 0)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(run, "corrections")) == 9
    assert [mark["steps"] for mark in rows(run, "scores")[0]["scores"]] == [[0.0, 0.0]] * 3
    assert len(rows(run, "rollouts")[0]["rollouts"]) == 3


def test_broken_rows_of_corrections_are_passed_over(run):
    label(run, "q-1", 0, 0, 0)
    path = run / "hand/corrections.jsonl"
    good = json.loads(path.read_text())
    broken = [
        {},
        good | {"label": 7},
        good | {"step": "1"},
        good | {"more": 1},
        good | {"index": -1},
        good | {"id": []},
    ]
    lines = [*map(json.dumps, broken), "[]", "no JSON", '{"set": "cut o']
    path.write_text("\n".join([path.read_text().strip(), *lines]))
    assert Hand(run).lowest(SET) == {("q-1", 0): 0.0}
    label(run, "q-1", 0, 1, 1)
    assert rows(run, "scores")[0]["scores"] == [{"steps": [0.0, 1.0], "answer": 1.0}]


def test_scores_that_do_not_fit_a_text_are_not_between_labels_by_hand(run):
    odd = [StepScores((1.0,), 1.0), *[ScoreFailure("x")] * 3]
    write_rows(run / "search/checker/scores.jsonl", score_rows({"q-1": odd}))
    assert label(run, "q-1", 0, 0, 0) == [0.0, None, None]
