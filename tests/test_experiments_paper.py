"""The experiments and the paper: its figures, the differences that claims report, and the commands that run them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from chainofstep import cli
from chainofstep.cli.common import BAD_INPUT
from chainofstep.experiments import EXPERIMENTS, suite
from chainofstep.experiments.seeds import read_seeds, seeds_text
from chainofstep.verbs import recipe_lines, run_experiments

#: Read by hand from the paper's tables: experiment, row, column by place, figure.
IN_THE_PAPER = [
    *(("table1", "base", 0, 45.9), ("table1", "SFT", 3, 67.4), ("table1", "DPO round 3", 3, 71.7)),
    *(("table2", "outcome", 1, 58.1), ("table2", "answer score (PRM)", 2, 69.7)),
    *(("table3", "LLaVA-NeXT-8B", 1, 90.5), ("table3", "InternVL-2.5-38B", 3, 88.7)),
    *(("table4", "direct prompt: + RL (outcome)", 3, 60.2), ("table4", "no reasoning: SFT", 2, 62.1)),
    *(("table5", "GRPO, step and answer scores", 2, 73.7), ("table5", "GRPO, outcome", 0, 54.3)),
    *(("table9", "per-step DPO", 3, -3.86), ("table9", "outcome DPO", 2, -0.07), ("table9", "SFT", 2, None)),
    *(("figure3", "0.0", 0, 81.3), ("figure3", "0.2", 0, 82.6), ("figure3", "1.0", 0, 74.7)),
    *(("figure5", "N = 4", 5, 51.0), ("figure5", "N = 16", 2, 82.6), ("figure5", "N = 64", 7, 69.9)),
    *(("figure6", "round 0", 1, 6.22), ("figure6", "round 4", 1, 4.96), ("figure6", "round 6", 0, 6.55)),
]


@pytest.mark.parametrize(("name", "row", "column", "figure"), IN_THE_PAPER)
def test_figures_are_the_papers(name, row, column, figure):
    assert EXPERIMENTS[name].paper.rows[row][column] == figure


def test_means_are_those_of_their_columns():
    for name, sets in (("table1", 6), ("table4", 3), ("table5", 3)):
        assert EXPERIMENTS[name].paper.columns[sets] == "mean"
        for row in EXPERIMENTS[name].paper.rows.values():
            assert sum(row[:sets]) / sets == pytest.approx(row[sets], abs=0.051)
    tables = [experiment.paper for experiment in EXPERIMENTS.values() if experiment.paper]
    assert len(tables) == 9 and all(len(row) == len(paper.columns) for paper in tables for row in paper.rows.values())


#: The differences that the claims report, from the figures above them: (experiment, claim's place, column) -> text.
DIFFERENCES = [
    *(("table1", 0, 6, "+8.7"), ("table1", 1, 6, "+3.4")),
    *(("table4", 0, 3, "+0.3"), ("table4", 1, 3, "+2.5"), ("table4", 2, 3, "+1.6")),
    *(("table5", 0, 3, "+1.8"), ("table5", 1, 3, "+3.4")),
    *(("table9", 0, 0, "+5.2"), ("table9", 0, 1, "+2.8"), ("table9", 1, 0, "+2.6"), ("table9", 1, 1, "+0.7")),
    *(("figure3", 0, 0, "+1.3"), ("figure3", 1, 0, "+7.9")),
]


@pytest.mark.parametrize(("name", "place", "column", "text"), DIFFERENCES)
def test_claims_report_the_papers_differences(name, place, column, text):
    claim, paper = EXPERIMENTS[name].claims[place], EXPERIMENTS[name].paper
    difference = paper.rows[claim.better[0]][column] - paper.rows[claim.worse[0]][column]
    assert f"{difference:+.1f}" == text and text in claim.paper


def test_claims_of_means_report_the_papers_differences():
    for claim, text in zip(EXPERIMENTS["table2"].claims, ("+1.7", "+1.2", "+0.5", "+2.2"), strict=True):
        better, worse = (sum(EXPERIMENTS["table2"].paper.rows[row]) / 3 for row, _ in (claim.better, claim.worse))
        assert f"{better - worse:+.1f}" == text and text in claim.paper


# Commands


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True))
def test_seeds_are_read_as_they_are_written(seeds):
    assert read_seeds(seeds_text(seeds)) == seeds


def test_seeds_as_a_user_writes_them():
    assert read_seeds("0-2") == [0, 1, 2] and read_seeds("7, 0-1,5") == [7, 0, 1, 5] and read_seeds("0-999")[-1] == 999
    assert [seeds_text(seeds) for seeds in ([0, 1, 2], [3], [0, 2], [1, 0])] == ["0-2", "3", "0,2", "1,0"]


@pytest.mark.parametrize("text", ["", "nonsense", "-1", "0-", "1,,2", "3-1", "0-1000", "0,0", "0-3,2", "1.5"])
def test_wrong_seeds_are_one_line(text):
    with pytest.raises(ValueError, match="seed") as caught:
        read_seeds(text)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def cos(*words):
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_seeds_of_a_command(tmp_path):
    code, shown, error = cos("run", "table1", "--out", tmp_path / "run", "--seeds", "nonsense")
    assert (code, shown) == (BAD_INPUT, "") == (2, "")
    assert error == "error: seeds 'nonsense' are no list of numbers; write them as 0-4 or 0,2,5\n"
    code, _, error = cos("run", "mini", "--out", tmp_path / "run", "--seeds", "0-1")
    assert code == 2 and error.count("\n") == 1 and "are for experiments, and 'mini' is none; leave them out" in error
    code, _, error = cos("run", "table1", "--out", tmp_path / "run", "--jobs", "0")
    assert code == 2 and error == "error: jobs is 0; run at least one seed at a time\n"
    assert not (tmp_path / "run").exists()


def test_experiments_are_listed_and_their_settings_printed():
    code, shown, _ = cos("recipes")
    assert code == 0 and all(f"{name:<10} {e.title}" in shown for name, e in EXPERIMENTS.items())
    code, shown, _ = cos("recipes", "paper", "--set", "problems.dpo=7")
    lines = shown.splitlines()
    assert code == 0 and {"problems.dpo=7", "rounds.rounds=6", "rounds.outcome_rounds=6", "threads=1"} <= set(lines)
    assert lines == recipe_lines("paper", 0, ["problems.dpo=7"])


def test_experiments_of_a_seed_run_in_the_order_of_the_list(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(suite, "run_seed", lambda out, seed, names, *rest: runs.append((seed, *names)))
    suite.run_suite(tmp_path, [3, 1], ["length", "figure3", "table2"])
    suite.run_suite(tmp_path, [0])
    assert runs == [(3, "table2", "figure3", "length"), (1, "table2", "figure3", "length"), (0, *EXPERIMENTS)]


def test_an_unknown_experiment_is_named(tmp_path):
    with pytest.raises(ValueError, match="no experiment 'tabel1', the nearest is table1"):
        run_experiments("tabel1", tmp_path / "run", "0")
