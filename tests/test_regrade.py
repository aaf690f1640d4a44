"""Stored texts graded again: one verdict a text, other questions and sets noticed, no folder taken from another."""

import json
from dataclasses import replace

import pytest

from chainofstep import verbs
from chainofstep.chain import render
from chainofstep.records import Example, to_row
from chainofstep.store import RunFolder, read_json, read_rows, write_json
from chainofstep.verbs.files import write_lines
from chainofstep.verbs.items import question_hash
from conftest import make_chain, make_rollout

ITEMS = [Example(f"q-{n}", f"What is {n} and {n}?", (), str(2 * n), "number", source="math/sum") for n in range(4)]
SAMPLING = {"temperature": 1.0, "max_tokens": 256}


@pytest.fixture
def spec(tmp_path):
    return str(write_lines(tmp_path / "examples.jsonl", map(to_row, ITEMS)))


def folder_of(path, texts, verdicts=True):
    """A finished folder of `cos eval` with these greedy texts, as a model gave them."""
    logged = [{"id": one.id, "rollouts": [to_row(make_rollout(text))]} for one, text in zip(ITEMS, texts, strict=False)]
    write_lines(path / "greedy" / "rollouts.jsonl", logged)
    run = {"method": "greedy", "n": 1, "width": 1}
    made = {"benchmark": "examples", "split": "", "limit": None, "prompt": "none", "model": "0" * 64}
    write_json(path / "eval.json", made | {"sampling": SAMPLING, "runs": [run]})
    if verdicts:
        hashes = [{"id": one.id, "outcome": "right", "question": question_hash(one)} for one in ITEMS]
        write_lines(path / "verdicts" / "greedy.jsonl", hashes)
    return path


def right_chains():
    return [make_chain("Double it.", answer=one.answer) for one in ITEMS]


def verdicts(folder, name="greedy"):
    return [row for _, row in read_rows(folder / "verdicts" / f"{name}.jsonl")]


def changed(tmp_path, *numbers):
    """The examples, those of these numbers with another question under the same id."""
    items = [replace(one, question="What is it?") if n in numbers else one for n, one in enumerate(ITEMS)]
    return str(write_lines(tmp_path / "changed.jsonl", map(to_row, items)))


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_text_has_one_verdict_whether_it_is_sampled_or_predicted(spec, tmp_path):
    whole = render(right_chains()[2])
    texts = [
        "<|reasoning_start|> broken <|answer_start|>0<|answer_end|>",
        "<|reasoning_start|> broken <|answer_start|>2",
        whole.replace("<|reasoning_thought_start|>", ""),
        "6",
    ]
    verbs.regrade(spec, folder_of(tmp_path / "out", texts))
    rows = [{"id": one.id, "text": text} for one, text in zip(ITEMS, texts, strict=True)]
    verbs.regrade(spec, write_lines(tmp_path / "p.jsonl", rows))
    assert [row["outcome"] for row in verdicts(tmp_path / "out")] == ["right", "unparseable", "right", "right"]
    assert verdicts(tmp_path / "out") == verdicts(tmp_path / "p.graded", "predictions")
    assert verdicts(tmp_path / "out")[1]["note"] == "no closed answer"


def test_a_verdict_says_which_question_it_is_of(spec, tmp_path):
    verbs.regrade(spec, folder_of(tmp_path / "out", right_chains(), verdicts=False))
    assert [row["question"] for row in verdicts(tmp_path / "out")] == [question_hash(one) for one in ITEMS]
    # sha256 of "What is 0 and 0?"
    assert verdicts(tmp_path / "out")[0]["question"] == "0d85f9508d2d"


def test_answers_to_other_questions_are_named_each_time(tmp_path):
    other = changed(tmp_path, 1)
    for _ in range(2):
        found = verbs.regrade(other, folder_of(tmp_path / "out", right_chains()))
        assert found["other question"] == 1
        assert any(
            line.startswith("1 stored answer is to another question") and "q-1" in line for line in found["problems"]
        )
        assert verdicts(tmp_path / "out")[1]["question"] == question_hash(ITEMS[1])  # what was answered
    assert verbs.regrade(str(write_lines(tmp_path / "examples.jsonl", map(to_row, ITEMS))), tmp_path / "out")[
        "other question"
    ] == 0  # fmt: skip


def test_a_folder_of_other_questions_or_items_is_refused_and_left(tmp_path):
    out = folder_of(tmp_path / "out", right_chains())
    before = left(tmp_path)
    with pytest.raises(
        ValueError, match=r"it answers 4 items \(q-0, q-1, q-2 and 1 more\), 4 of them .* 3 of those to"
    ):
        verbs.regrade(changed(tmp_path, 0, 1, 2), out)
    (tmp_path / "changed.jsonl").unlink()
    others = write_lines(tmp_path / "others.jsonl", [to_row(replace(ITEMS[0], id="x-1"))])
    with pytest.raises(ValueError, match=r"0 of them are of these items; here are 1 item \(x-1\)"):
        verbs.regrade(str(others), out, tmp_path / "again")
    others.unlink()
    assert left(tmp_path) == before


def test_predictions_of_another_set_are_refused_before_anything_is_written(spec, tmp_path):
    unknown = write_lines(tmp_path / "p.jsonl", [{"id": name, "text": "1"} for name in ("a", "b")])
    with pytest.raises(
        ValueError, match=r"it answers 2 items \(a, b\), 0 of them are .* here are 4 items \(q-0, q-1, q"
    ):
        verbs.regrade(spec, unknown)
    rows = [{"doc_id": n, "input": one.question if n == 0 else "?", "resps": ["1"]} for n, one in enumerate(ITEMS[:3])]
    with pytest.raises(ValueError, match="3 of them are of these items, 2 of those to another question"):
        verbs.regrade(spec, write_lines(tmp_path / "p.jsonl", rows))
    assert not (tmp_path / "p.graded").exists()
    rows[1]["input"] = ITEMS[1].question
    assert verbs.regrade(spec, write_lines(tmp_path / "p.jsonl", rows))["predictions"]["other question"] == 1


def test_a_folder_that_holds_something_else_is_refused_and_left(spec, tmp_path):
    gold = [{"id": one.id, "text": one.answer} for one in ITEMS]
    predictions = write_lines(tmp_path / "p.jsonl", gold)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"notes has files but no eval\.json"):
        verbs.regrade(spec, predictions, tmp_path / "notes")
    evaluation = folder_of(tmp_path / "out", right_chains())
    with pytest.raises(ValueError, match="out is the folder of another evaluation"):
        verbs.regrade(spec, predictions, evaluation)
    assert left(tmp_path / "notes") == ["mine.txt"] and not (evaluation / "results.json").exists()
    verbs.regrade(spec, predictions)
    (tmp_path / "p.json").write_text(json.dumps([{"index": one["id"], "prediction": one["text"]} for one in gold]))
    with pytest.raises(ValueError, match=r"p\.graded was made with source='.*p\.jsonl', not '.*p\.json'"):
        verbs.regrade(spec, tmp_path / "p.json")
    verbs.regrade(spec, predictions, limit=2)  # another share of the same may be graded there


def test_regrading_in_place_keeps_what_the_results_say_of_the_texts(spec, tmp_path):
    out = folder_of(tmp_path / "out", right_chains())
    write_json(out / "results.json", {"model": "models/sft", "prm": None, "prompt": "none", "sampling": SAMPLING})
    for _ in range(2):
        found = verbs.regrade(spec, out)
        assert {name: found[name] for name in ("model", "prm", "sampling")} == {
            "model": "models/sft", "prm": None, "sampling": SAMPLING
        }  # fmt: skip
    with pytest.raises(ValueError, match="out was made with limit=None, not 2: choose another --out"):
        verbs.regrade(spec, out, limit=2)
    assert verbs.regrade(spec, out, tmp_path / "two", limit=2)["items"] == 2


def test_a_graded_folder_says_what_it_is_of_and_is_no_evaluation(spec, tmp_path):
    out = folder_of(tmp_path / "out", right_chains())
    verbs.regrade(spec, out, tmp_path / "again")
    made = read_json(tmp_path / "again" / "eval.json")
    assert made == {
        **{"benchmark": "examples", "split": "", "limit": None, "prompt": "none", "model": "0" * 64},
        **{"sampling": SAMPLING, "path": spec, "source": str(out)},
    }
    with pytest.raises(ValueError, match=r"again holds no texts, only what was graded from .*out; give that"):
        verbs.regrade(spec, tmp_path / "again")


def test_two_commands_do_not_grade_into_one_folder(spec, tmp_path):
    predictions = write_lines(tmp_path / "p.jsonl", [{"id": one.id, "text": one.answer} for one in ITEMS])
    verbs.regrade(spec, predictions)
    lock = RunFolder(tmp_path / "p.graded").lock()
    with pytest.raises(ValueError, match="is in use by another command"):
        verbs.regrade(spec, predictions)
    lock.release()
    verbs.regrade(spec, predictions)


def test_the_error_says_what_is_wrong(spec, tmp_path):
    out = folder_of(tmp_path / "out", right_chains())
    write_json(out / "eval.json", read_json(out / "eval.json") | {"benchmark": "chartqa", "split": "test"})
    with pytest.raises(ValueError, match="out holds answers to chartqa, not to examples"):
        verbs.regrade(spec, out)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no prediction: it is empty"):
        verbs.regrade(spec, empty)
    for name in (str(empty), f"chartqa:{empty}"):
        with pytest.raises(ValueError, match=r"empty\.jsonl is empty"):
            verbs.regrade(name, empty)
    empty.write_text("{torn\n")
    with pytest.raises(ValueError, match=r"holds no prediction: 1 bad row: .*empty\.jsonl:1: not JSON"):
        verbs.regrade(spec, empty)
    with pytest.raises(ValueError, match=r"ChartQA: none of 1 item could be read: .*empty\.jsonl:1: not JSON"):
        verbs.regrade(f"ChartQA:{empty}", empty)  # case does not matter
