"""The experiments without training: what seeds find together, the document, the counts, and the paper's figures."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import Chain, Step, parse, render
from chainofstep.experiments import EXPERIMENTS, pictures
from chainofstep.experiments.arms import in_one_piece, without_part, without_reasoning
from chainofstep.experiments.document import write_document
from chainofstep.experiments.experiment import Claim, Curve, Experiment, PaperTable
from chainofstep.experiments.found import Value, findings
from chainofstep.experiments.policies import PARTS, step_pairs, truthful
from chainofstep.experiments.searches import COMBINED
from chainofstep.experiments.verifiers import ROLLOUTS, judge, noise_cells
from chainofstep.problems.tasks.build import problems
from chainofstep.records import Example, Pair, StepScores
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import Candidate, Cost, SearchResult
from chainofstep.statistics import seed_difference, seed_mean
from chainofstep.store import Stage, write_json
from chainofstep.training.prm import PrmRow
from conftest import make_chain, make_rollout

UP = Claim("A is above B", "+1.0", ("A", "all"), ("B", "all"))


def experiment(*claims, **changes):
    return Experiment("asked", "Table 7: what is asked", "About it.", lambda run: {}, "row", claims, **changes)


def write_seed(folder, cells, stages=(), name="asked"):
    """A seed's cells as an experiment leaves them: "0110" is right by question, a number one number."""
    rows = [
        {"row": row, "column": column} | ({"right": cell} if isinstance(cell, str) else {"value": cell})
        for (row, column), cell in cells.items()
    ]
    write_json(folder / "experiments" / f"{name}.json", {"cells": rows, "stages": list(stages)})
    write_json(folder / "recipe.json", {"problems": {"sft": 5000, "dpo": 160, "test": 504}})
    return folder


def seeds_of(tmp_path, *seeds, stages=()):
    return {number: write_seed(tmp_path / f"seed-{number}", cells, stages) for number, cells in enumerate(seeds)}


def answer_to(claim, tmp_path, *seeds):
    (finding,) = findings(seeds_of(tmp_path, *seeds), [experiment(claim)])
    return finding.answers[0]


def levels(a, b):
    return {("A", "all"): a, ("B", "all"): b}


# What seeds find together


def test_questions_have_an_interval_over_seeds_and_questions(tmp_path):
    seeds = seeds_of(tmp_path, *({("A", "all"): cell} for cell in ("1100", "1110", "1111")))
    (finding,) = findings(seeds, [experiment()])
    value = finding.values["A", "all"]
    digits = [[True, True, False, False], [True, True, True, False], [True] * 4]
    assert value == Value(*seed_mean(digits, seed=0), True)
    assert value.mean == 9 / 12 and value.low < 9 / 12 < value.high


def test_numbers_have_the_smallest_and_largest_seed(tmp_path):
    (finding,) = findings(seeds_of(tmp_path, *({("A", "steps"): cell} for cell in (1.0, 3.5, 3.0))), [experiment()])
    assert finding.values == {("A", "steps"): Value(2.5, 1.0, 3.5, False)}
    assert (finding.seeds, finding.rows(), finding.columns()) == ((0, 1, 2), ["A"], ["steps"])


@pytest.mark.parametrize(
    ("seeds", "difference", "agreeing", "verdict"),
    [
        ([(3.0, 1.0), (3.0, 2.0), (5.0, 2.0)], (2.0, 1.0, 3.0), 3, "holds"),
        ([(1.0, 3.0), (2.0, 3.0), (2.0, 5.0)], (-2.0, -3.0, -1.0), 0, "reversed"),
        ([(3.0, 1.0), (3.0, 2.0), (2.0, 5.0)], (0.0, -3.0, 2.0), 2, "undecided"),
        ([(3.0, 1.0), (2.0, 2.0), (4.0, 3.0)], (1.0, 0.0, 2.0), 2, "undecided"),  # a tie is on neither side
        ([(3.0, 1.0), (3.0, 2.0)], (1.5, 1.0, 2.0), 2, "undecided"),  # two seeds that agree are too few
        ([(1.0, 3.0)], (-2.0, -2.0, -2.0), 0, "undecided"),
    ],
)
def test_numbers_decide_where_three_seeds_agree(tmp_path, seeds, difference, agreeing, verdict):
    answer = answer_to(UP, tmp_path, *(levels(*seed) for seed in seeds))
    assert answer.difference == Value(*difference, False)
    assert (answer.agreeing, answer.verdict) == (agreeing, verdict)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ("1" * 40, "0" * 40, "holds"),  # one seed's questions are enough, unlike its numbers
        ("0" * 40, "1" * 40, "reversed"),
        ("10" * 20, "01" * 20, "undecided"),
    ],
)
def test_questions_decide_by_their_interval(tmp_path, a, b, verdict):
    answer = answer_to(UP, tmp_path, levels(a, b))
    assert (answer.verdict, answer.difference.of_questions) == (verdict, True)


def test_questions_are_compared_one_by_one(tmp_path):
    """The same 30 of 40 and one more: unpaired, such a difference would drown."""
    a, b = "1" * 34 + "0" * 6, "1" * 28 + "0" * 12
    answer = answer_to(UP, tmp_path, *[levels(a, b)] * 3)
    digits = [[[digit == "1" for digit in cell]] * 3 for cell in (a, b)]
    assert answer.difference == Value(*seed_difference(*digits, seed=0), True)
    assert answer.difference.mean == pytest.approx(6 / 40) and answer.verdict == "holds"


def test_since_compares_what_each_gained(tmp_path):
    """A ends below B but gained 0.25 while B gained nothing."""
    gained = replace(UP, since=(("A before", "all"), ("B before", "all")))
    cells = levels("1100", "1110") | {("A before", "all"): "0100", ("B before", "all"): "0111"}
    answer = answer_to(gained, tmp_path, *[cells] * 3)
    assert answer.difference.mean == pytest.approx(0.25) and answer.agreeing == 3
    assert answer_to(UP, tmp_path, *[cells] * 3).difference.mean == pytest.approx(-0.25)


def test_a_score_is_compared_with_a_share_of_questions(tmp_path):
    seeds = [levels(score, "1100") for score in (0.9, 0.75, 0.6)]
    answer = answer_to(UP, tmp_path, *seeds)
    assert answer.difference == Value(pytest.approx(0.25), pytest.approx(0.1), pytest.approx(0.4), False)
    assert answer.verdict == "holds"


def test_a_cell_that_one_seed_lacks_is_left_out_and_its_claim_named(tmp_path):
    seeds = [levels(3.0, 1.0), {("A", "all"): 3.0}, {**levels(3.0, 1.0), ("C", "all"): 0.0}]
    folders = seeds_of(tmp_path, *seeds)
    (finding,) = findings(folders, [experiment(UP)])
    assert list(finding.values) == [("A", "all")]
    assert (finding.answers, finding.unanswered) == ((), (UP,))
    text = write(tmp_path, folders, experiment(UP, numbers=("all",)))
    assert "| [Table 7](#table-7-what-is-asked): A is above B | +1.0 |  |  | not measured in every seed |" in text
    assert "- A is above B (paper: +1.0): **not measured in every seed**." in text


def write_marker(folder, name, seconds):
    write_json(folder / "stages" / f"{name}.json", asdict(Stage(name, {}, "", seconds=seconds)))


def test_a_stage_counts_for_the_experiment_that_asked_first(tmp_path):
    folders = {}
    for seed, more in ((0, 5.0), (1, 9.0)):
        folder = write_seed(tmp_path / f"seed-{seed}", levels(1.0, 0.0), ["sft", "pool/sample"])
        write_seed(folder, levels(1.0, 0.0), ["sft", "pool/sample", "beam", "stopped"], "second")
        for name, seconds in (("sft", 10.0), ("pool/sample", 20.0), ("beam", more), ("stopped", None)):
            write_marker(folder, name, seconds)
        folders[seed] = folder
    first, second = experiment(), replace(experiment(), name="second")
    assert [found.seconds for found in findings(folders, [first, second])] == [30.0, 7.0]
    assert [found.seconds for found in findings(folders, [second, first])] == [37.0, 0.0]


def test_an_experiment_has_the_seeds_that_finished_it(tmp_path):
    folders = seeds_of(tmp_path, levels(1.0, 0.0), levels(1.0, 0.0))
    write_seed(folders[1], levels(2.0, 0.0), name="second")
    nobody, second = (replace(experiment(), name=name) for name in ("nobody", "second"))
    found = findings(folders, [nobody, experiment(), second])
    assert [(finding.experiment.name, finding.seeds) for finding in found] == [("asked", (0, 1)), ("second", (1,))]


# The document

BESIDE = PaperTable(("MathVista", "reward"), {"A": (51.4, -1.39), "C": (60.0, None)}, "Read off.")
BELOW = PaperTable(("M3CoT",), {"LLaVA": (85.1,), "InternVL": (None,)})


def write(tmp_path, seeds, *experiments):
    target = write_document(seeds, experiments, tmp_path / "out" / "results.md", Path("runs/paper"))
    return target.read_text("utf-8")


def cells_of(reward):
    return {("A", "all"): "1111", ("A", "reward"): reward, ("B", "all"): "0000", ("B", "reward"): 1234.5}


def test_cells_stand_beside_the_papers_figures(tmp_path):
    seeds = seeds_of(tmp_path, *map(cells_of, (-1.5, -1.0, -0.5)))
    lower = Claim("B has more reward", "+2", ("B", "reward"), ("A", "reward"))
    text = write(tmp_path, seeds, experiment(UP, lower, paper=BESIDE, numbers=("reward",)))
    lines = text.splitlines()
    assert "| row | all | reward | paper: MathVista | paper: reward |" in lines
    assert "| A | 100.0 | −1.00 (−1.50 to −0.50) | 51.4 | −1.39 |" in lines
    assert "| B | 0.0 | 1,234 |  |  |" in lines
    link = "[Table 7](#table-7-what-is-asked)"
    assert f"| {link}: A is above B | +1.0 | +100.0 | 3 of 3 | holds |" in lines
    assert "- A is above B (paper: +1.0): **holds**, +100.0 here, in 3 of 3 seeds." in lines
    assert "- B has more reward (paper: +2): **holds**, +1,236 (+1,235 to +1,236) here, in 3 of 3 seeds." in lines
    assert "The paper's figures: Read off." in lines and "The paper:" not in text
    assert "SFT on 5,000 chains, 160 questions a round of DPO, 504 unseen test questions" in text


def test_figures_of_other_rows_stand_below(tmp_path):
    text = write(tmp_path, seeds_of(tmp_path, cells_of(0.0)), experiment(paper=BELOW, numbers=("reward",)))
    assert "| row | all | reward |" in text
    assert "The paper:\n\n| row | M3CoT |\n| --- | --- |\n| LLaVA | 85.1 |\n| InternVL |  |\n" in text


def test_the_same_rows_make_the_same_bytes(tmp_path):
    seeds = seeds_of(tmp_path, *map(cells_of, (-1.5, -1.0, -0.5)))
    asked = experiment(UP, paper=BESIDE, numbers=("reward",))
    image = tmp_path / "out" / "images" / "results-asked.png"
    first = write(tmp_path, seeds, asked), image.read_bytes()
    assert (write(tmp_path, seeds, asked), image.read_bytes()) == first
    assert "![Table 7: what is asked](images/results-asked.png)" in first[0]
    assert image.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_an_experiment_of_some_seeds_says_which(tmp_path):
    seeds = seeds_of(tmp_path, *[cells_of(0.5)] * 3)
    for seed in (0, 2):
        write_seed(seeds[seed], levels("1" * 9, "0" * 9), name="second")
    second = replace(experiment(UP), name="second", title="Open: more")
    text = write(tmp_path, seeds, experiment(numbers=("reward",)), second)
    assert "`cos run asked --out runs/paper --seeds 0-2`" in text
    assert "`cos run second --out runs/paper --seeds 0,2`" in text
    assert "| [Open](#open-more): A is above B | +1.0 | +100.0 | 2 of 2 | holds |" in text


def test_nothing_finished_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no experiment is finished in .*seed-0; run one first") as caught:
        write_document({0: tmp_path / "seed-0"}, [experiment()], tmp_path / "results.md", Path("runs/paper"))
    assert "\n" not in str(caught.value) and not (tmp_path / "results.md").exists()


def github_anchor(heading):
    """Letters, digits, spaces and hyphens of it in lower case, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_to_headings(tmp_path, monkeypatch):
    monkeypatch.setattr("chainofstep.experiments.document.picture", lambda finding: b"")
    asked = [replace(experiment(UP), name=e.name, title=e.title) for e in EXPERIMENTS.values()]
    folder = tmp_path / "seed-0"
    for one in asked:
        write_seed(folder, levels(1.0, 0.0), name=one.name)
    text = write(tmp_path, {0: folder}, *asked)
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    anchors = [github_anchor(heading) for heading in headings]
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(set(anchors)) == len(anchors) and len(links) == len(asked) and set(links) <= set(anchors)
    assert {"table-3-the-prms-backbone", "open-judge-monte-carlo-or-both"} <= set(anchors)


# Plots


def test_a_line_stands_where_its_rows_names_say(tmp_path, monkeypatch):
    rows = {"round 0": 0.5, "N = 16": 1.0, "0.2": 2.0, "6 or more": 3.0}
    seeds = seeds_of(tmp_path, {(row, "steps"): value for row, value in rows.items()})
    asked = experiment(curve=Curve("after", "steps", ("steps",)), numbers=("steps",))
    (finding,) = findings(seeds, [asked])
    assert pictures.picture(finding).startswith(b"\x89PNG\r\n\x1a\n")
    plots = []
    monkeypatch.setattr(pictures, "to_png", lambda plot: plots.append(plot) or b"")
    pictures.picture(finding)
    (series,) = plots[0].series
    assert (series.x, series.y) == ([0.0, 16.0, 0.2, 6.0], [0.5, 1.0, 2.0, 3.0])
    assert plots[0].x_ticks == ((0.0, "0"), (16.0, "16"), (0.2, "0.2"), (6.0, "6")) and not plots[0].shares


def test_dots_leave_numbers_to_the_table(tmp_path, monkeypatch):
    plots = []
    monkeypatch.setattr(pictures, "dots_to_png", lambda dots: plots.append(dots) or b"")
    (finding,) = findings(seeds_of(tmp_path, cells_of(1.0)), [experiment(numbers=("reward",))])
    pictures.picture(finding)
    (series,) = plots[0].series
    assert plots[0].rows == ("A", "B") and (series.label, series.x, series.y) == ("all", [0.0, 1.0], [1.0, 0.0])


# How chains are told

TEXTS = st.text(max_size=20)
CHAINS = st.builds(Chain, st.lists(st.builds(Step, TEXTS, TEXTS, TEXTS), max_size=4).map(tuple), TEXTS)
TOLD = [without_reasoning, in_one_piece, *map(without_part, PARTS)]


@given(CHAINS, st.sampled_from(TOLD))
def test_a_chain_told_in_another_way_is_still_one(chain, told):
    assert parse(render(told(chain))) == told(chain)
    assert told(chain).answer == chain.answer


def test_what_is_left_of_a_chain():
    chain = Chain((Step("Read", "Row 1 reads 3.", "3 in row 1."), Step("Add", "3 + 4 = 7.", "The sum is 7.")), "7")
    assert without_reasoning(chain) == Chain((), "7")
    assert in_one_piece(chain) == Chain((Step("", "Row 1 reads 3. 3 + 4 = 7.", ""),), "7")
    assert without_part("thought")(chain).steps[1] == Step("Add", "", "The sum is 7.")
    assert [without_part(part)(chain).steps[0] for part in ("name", "reflection")] == [
        Step("", "Row 1 reads 3.", "3 in row 1."),
        Step("Read", "Row 1 reads 3.", ""),
    ]


# Counts worked by hand


def test_the_best_step_of_a_level_is_paired_with_the_worst():
    trace = (
        (Candidate("a", 2, 0.75, True), Candidate("b", 1, 0.5), Candidate("c", 1, 0.125), Candidate("broken", 1)),
        (Candidate("d", 1, 0.5, True), Candidate("e", 1, 0.25)),  # a margin of t is not above t
        (Candidate("f", 9, 0.5, True),),  # all samples alike
        (Candidate("broken", 1, problem="cut"),),
        (Candidate("h", 1, 0.5), Candidate("g", 1, 1.0, True)),
        (Candidate("i", 1, 1.0), Candidate("j", 1, 0.5)),  # nothing was kept
    )
    result = SearchResult("q", None, "", None, None, Cost(), trace)
    assert step_pairs(result, PairRule(threshold=0.25)) == [
        Pair("q", "a", "c", 0.75, 0.125, "step 1: best against worst, t=0.25"),
        Pair("q", "g", "h", 1.0, 0.5, "step 5: best against worst, t=0.25"),
    ]
    assert len(step_pairs(result, PairRule(threshold=0.0))) == 3


def test_noise_of_labels_by_hand():
    """A true step whose first continuation alone comes right, and a false one whose first alone goes wrong."""
    cells = noise_cells([True, False], ["1" + 255 * "0", "0" + 255 * "1"])
    table = {
        row: tuple(cells[f"{row}", column] for column in ("hard: any is right", "hard: more than half", "soft: AUC"))
        for row in ROLLOUTS
    }
    assert list(table) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert table[1] == (1.0, 1.0, 1.0)
    assert table[2] == (0.5, 0.5, 0.5)  # both have half: any says both right, more than half both wrong
    assert table[4] == table[256] == (0.5, 0.0, 0.0)


QUESTIONS = [Example(f"q{number}", "?", (), "5", "number") for number in range(400)]
JUDGED = [PrmRow(question, make_chain(*"abcde", answer="5"), (), 1.0) for question in QUESTIONS]
TRUTH = StepScores((1.0, 0.0, 1.0, 1.0, 0.0), 1.0)


def judged(error, seed=0):
    run = SimpleNamespace(recipe=SimpleNamespace(seed=seed))
    return [judge(run, row, TRUTH, error) for row in JUDGED]


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_a_judge_errs_as_often_as_it_is_told(error):
    """2,000 labels: four standard deviations are 2 and 3.6 points."""
    labels = judged(error)
    wrong = sum(label != true for s in labels for label, true in zip(s.steps, TRUTH.steps, strict=True)) / 2000
    assert abs(wrong - error) < 4 * (error * (1 - error) / 2000) ** 0.5
    assert {label for s in labels for label in s.steps} == {0.0, 1.0} and {s.answer for s in labels} == {1.0}
    assert judged(error) == judged(error) != judged(error, seed=1)


def test_a_judge_without_errors_knows_the_truth():
    assert judged(0.0) == [TRUTH] * 400
    assert judged(1.0) == [StepScores((0.0, 1.0, 0.0, 0.0, 1.0), 1.0)] * 400


def test_scores_become_one_number():
    values = {row: value(StepScores((0.5, 0.8), 0.9)) for row, value in COMBINED.items()}
    assert values == {
        "0.2 mean of steps + 0.8 answer": pytest.approx(0.85),
        "mean of steps": pytest.approx(0.65),
        "smallest of steps and answer": 0.5,
        "product of steps and answer": pytest.approx(0.36),
        "last step": 0.8,
        "answer": 0.9,
    }
    assert {value(StepScores((), 0.4)) for value in COMBINED.values()} == {0.4}


def test_a_truthful_chain_says_nothing_false():
    (problem,) = problems("test", range(1), ["line_sum"])
    example = problem.example()
    read, add = example.chain.steps
    false, unread = (replace(read, reflection=text) for text in ("1 is more than 2.", "Nothing to see."))
    chains = [(read, add), (), (read,), (read, replace(add, reflection="")), (false, add), (read, unread)]
    rollouts = [make_rollout(Chain(steps, "no answer of this")) for steps in chains] + [make_rollout("no chain")]
    run = SimpleNamespace(examples=lambda name: [example] * len(rollouts))
    assert truthful(run, rollouts) == [True, True, True, True, False, False, False]
