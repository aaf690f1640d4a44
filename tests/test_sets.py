"""Question sets from the user's own files: which rows each stage gets."""

import json
from dataclasses import replace

import pytest

from chainofstep.pipeline.recipe import Launch, Problems, Recipe, Rounds
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.sets import make_sets
from chainofstep.records import Example, to_row
from chainofstep.verbs.files import write_lines

ROUNDS = Rounds(rounds=2, outcome_rounds=0)


def questions(count, start=0):
    return [Example(f"q{n}", f"What is {n}?", ("a.png",), str(n), "number") for n in range(start, start + count)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name, count in {"sft": 5, "labels": 4, "dpo": 3, "test": 2}.items():
        write_lines(folder / f"{name}.jsonl", map(to_row, questions(count)))
    return folder


def sets_of(recipe, out):
    with Run(recipe, out) as run:
        make_sets(run)
        rounds = range(1, recipe.rounds.rounds + 1)
        return {
            name: [example.id for example in run.examples(name)]
            for name in ["sft", "labels", *(f"dpo-{n}" for n in rounds), "test", "held-out"]
        }


def test_sizes_are_rows_at_most_and_rounds_take_turns(tmp_path, data):
    recipe = Recipe("own", data=str(data), threads=1, problems=Problems(4, 0.0, 9, 2, 0, 0), rounds=ROUNDS)
    assert sets_of(recipe, tmp_path / "run") == {
        "sft": ["q0", "q1", "q2", "q3"],
        "labels": ["q0", "q1", "q2", "q3"],  # four rows are all there are
        "dpo-1": ["q0", "q1"],
        "dpo-2": ["q2", "q0"],  # from the beginning again
        "test": ["q0", "q1"],  # 0: all
        "held-out": [],
    }


def test_pictures_stay_where_they_are(tmp_path, data):
    recipe = Recipe("own", data=str(data), threads=1, rounds=ROUNDS)
    with Run(recipe, tmp_path / "run") as run:
        make_sets(run)
        assert run.examples("sft")[0].images == (str(data / "a.png"),)


def test_a_missing_set_is_named(tmp_path, data):
    (data / "labels.jsonl").unlink()
    with pytest.raises(ValueError, match=r"labels\.jsonl does not exist; a recipe's data are sft, labels"):
        sets_of(Recipe("own", data=str(data), threads=1, rounds=ROUNDS), tmp_path / "run")


def test_changed_data_are_noticed(tmp_path, data):
    recipe = Recipe("own", data=str(data), threads=1, rounds=ROUNDS)
    sets_of(recipe, tmp_path / "run")
    write_lines(data / "sft.jsonl", map(to_row, questions(6)))
    with pytest.raises(ValueError, match=r"stage problems .* was made from files\.sft="):
        sets_of(recipe, tmp_path / "run")


def test_where_work_is_done_may_change_between_attempts(tmp_path, data):
    recipe = Recipe("own", data=str(data), threads=1, rounds=ROUNDS)
    first = sets_of(recipe, tmp_path / "run")
    assert sets_of(replace(recipe, launch=Launch(processes=8, workers=1)), tmp_path / "run") == first
    assert "launch" not in json.loads((tmp_path / "run" / "recipe.json").read_text())
