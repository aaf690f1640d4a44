"""Generated problems: what every kind keeps to, the splits, the claims, the exact checker, and planted errors."""

import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from chainofstep.answers import is_right, normalize
from chainofstep.chain import Chain, Step, parse, render
from chainofstep.problems.tasks.build import FAMILIES, HELD_OUT, KINDS, TRAINED, make_problem, problems, write_problems
from chainofstep.problems.tasks.checker import Checker, check_steps
from chainofstep.problems.tasks.claims import Comparison, Equation, Fact, Rule, plain, read_sentence, sentences
from chainofstep.problems.tasks.digits import handwriting
from chainofstep.problems.tasks.planted import PLANTERS
from chainofstep.records import Example, from_row, to_row

SEEDS = range(25)


@cache
def made(kind, seed, split="test"):
    return make_problem(kind, split, seed)


def every(kind):
    return [made(kind, seed) for seed in SEEDS]


def step(thought, reflection="12 for the sum of row 2."):
    return Step("A step", thought, reflection)


#: A scene small enough to check by eye:  1 2 3
#:                                        3 4 5
#:                                        6 7 9
CELLS = {f"row {r} column {c}": "123345679"[3 * r + c - 4] for r in (1, 2, 3) for c in (1, 2, 3)}
READ = Step("Read row 2", "Row 2 reads 3, 4, 5.", "3, 4, 5 in row 2.")
ADD = Step("Add the digits", "3 + 4 = 7. 7 + 5 = 12.", "The sum of row 2 is 12.")
SUM = Example(
    "by-hand",
    "What is the sum of row 2?",
    (),
    "12",
    "number",
    chain=Chain((READ, ADD), "12"),
    meta={"seen": CELLS, "groups": {f"row {r}": [f"row {r} column {c}" for c in (1, 2, 3)] for r in (1, 2, 3)}},
)

#: The same for a table whose subjects have an "in" of their own:  pens 4 6, cups 5 2, hats 9 9; who sold more?
MONTHS = {"pens in May": "4", "pens in June": "6", "cups in May": "5", "cups in June": "2"}
TABLE = Example(
    "by-hand-table",
    "Which sold more in all, pens or cups?",
    (),
    "pens",
    "word",
    chain=Chain(
        (
            Step("Read pens", "Pens reads 4, 6.", "4, 6 in pens."),
            Step("Add the months", "4 + 6 = 10.", "The total of pens is 10."),
            Step("Read cups", "Cups reads 5, 2.", "5, 2 in cups."),
            Step("Add the months", "5 + 2 = 7.", "The total of cups is 7."),
            Step("Compare the totals", "10 is more than 7.", "The larger total is pens."),
        ),
        "pens",
    ),
    meta={
        "seen": MONTHS | {"hats in May": "9", "hats in June": "9"},
        "groups": {item: [f"{item} in May", f"{item} in June"] for item in ("pens", "cups", "hats")},
    },
)

#: And one with a rule:  red star at row 1 column 1; warm or cool?
RULE = Example(
    "by-hand-rule",
    "Is the shape at row 1 column 1 warm or cool? (A) warm (B) cool",
    (),
    "A",
    "choice",
    ("warm", "cool"),
    chain=Chain(
        (
            Step("Read it", "Row 1 column 1 is a red star.", "red star for row 1 column 1."),
            Step("Recall the colour", "Rule: red is warm.", "The shade is warm."),
        ),
        "A",
    ),
    meta={"seen": {"row 1 column 1": "red star", "row 1 column 2": "blue star"}, "groups": {}},
)


def verdicts(example, *steps):
    return check_steps(example, Chain(steps))


def reasons(example, *steps):
    return [verdict.reason for verdict in Checker(example).check(Chain(steps))]


# --- every kind


def test_the_house_of_kinds():
    assert {kind.family for kind in KINDS.values()} == set(FAMILIES)
    assert all(sum(KINDS[name].family == family for name in TRAINED) >= 3 for family in FAMILIES)
    assert {KINDS[name].family for name in HELD_OUT} == set(FAMILIES)
    assert {kind.level for kind in KINDS.values()} == {1, 2, 3}
    assert {made(name, 0).setup.answer_kind for name in KINDS} == {"number", "word", "choice"}


@pytest.mark.parametrize("kind", KINDS)
def test_gold_passes_and_its_answer_is_right(kind):
    for problem in every(kind):
        example = problem.example()
        verdicts = Checker(example).check(example.chain)
        assert [verdict.reason for verdict in verdicts if not verdict.right] == [], problem.id
        assert is_right(example, example.chain.answer), problem.id
        assert parse(render(example.chain)) == example.chain
        assert 2 <= len(example.chain.steps) <= 7


def test_chains_of_two_and_of_seven_steps_occur():
    lengths = {len(problem.solution().moves) for kind in KINDS for problem in every(kind)}
    assert (min(lengths), max(lengths)) == (2, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_96_by_96_rgb_and_the_same_for_the_same_seed(kind):
    first, again, other = made(kind, 0), make_problem(kind, "test", 0), made(kind, 1)
    assert (first.picture.mode, first.picture.size) == ("RGB", (96, 96))
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.picture.tobytes() != other.picture.tobytes()
    assert first.example() == again.example()


@pytest.mark.parametrize("kind", KINDS)
def test_a_misread_fact_changes_the_chain(kind):
    for problem in every(kind):
        for subject in problem.setup.needed:
            truth = problem.setup.seen[subject]
            assert truth in problem.setup.domain(subject)
            other = next(value for value in problem.setup.domain(subject) if value != truth)
            assert problem.solution(problem.setup.seen | {subject: other}).moves != problem.solution().moves


def test_an_example_is_a_row_and_back_and_can_still_be_checked():
    for kind in KINDS:
        example = made(kind, 3).example("pictures/a.png")
        again = from_row(Example, to_row(example))
        assert again == example
        assert all(check_steps(again, again.chain))


def test_questions_carry_their_lettered_choices():
    example = made("warm_or_cool", 0).example()
    assert example.question.endswith(" warm or cool? (A) warm (B) cool")
    assert normalize("(B) cool", "choice", example.choices) == "B"


def test_writing_stores_the_pictures_once_and_names_them(tmp_path):
    examples = write_problems("train", range(len(TRAINED)), tmp_path)
    assert [example.source.split("/")[1] for example in examples] == list(TRAINED)
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / f"{example.id}.png" for example in examples)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write_problems("train", range(len(TRAINED)), tmp_path) == examples
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_the_examples_in_the_document_are_current():
    documents = Path(__file__).parent.parent / "docs"
    text = (documents / "problems.md").read_text("utf-8")
    assert runpy.run_path(str(documents / "make_problem_sheet.py"))["filled"](text) == text


# --- splits


def identity(problem):
    return problem.setup.question, tuple(problem.setup.seen.items())


@pytest.mark.parametrize("kind", TRAINED)
def test_train_and_test_never_share_a_problem(kind):
    train = {identity(made(kind, seed, "train")) for seed in range(60)}
    assert train.isdisjoint(identity(made(kind, seed)) for seed in range(60))


def test_handwriting_of_the_splits_is_disjoint():
    for digit in range(10):
        train, test = set(handwriting("train", digit)), set(handwriting("test", digit))
        assert train and test and train.isdisjoint(test)
        assert max(train) < 1200 <= min(test)
    for seed in SEEDS:
        assert max(made("line_sum", seed, "train").setup.drawing["images"]) < 1200
        assert min(made("line_sum", seed).setup.drawing["images"]) >= 1200


@pytest.mark.parametrize("kind", HELD_OUT)
def test_held_out_kinds_are_made_for_tests_only(kind):
    with pytest.raises(ValueError, match=f"kind '{kind}' is held out: it is made for tests only; ask for split 'test'"):
        make_problem(kind, "train", 0)


def test_problems_take_the_kinds_in_turn():
    assert [problem.kind.name for problem in problems("train", range(3, 6))] == list(TRAINED[3:6])


# --- claims

GROUPS = {"row 2": ("a", "b", "c"), "main diagonal": ("a", "e", "i"), "pens": ("pens in May", "pens in June")}
ROW = [Fact("a", "3"), Fact("b", "4"), Fact("c", "5")]
READABLE = {
    "Row 2 reads 3, 4, 5": ROW,
    "3, 4, 5 in row 2": ROW,
    "Again the row 2 reads 3,4,5": ROW,
    "the main diagonal READS 1, red star, A blue  circle": [
        Fact("a", "1"),
        Fact("e", "red star"),
        Fact("i", "blue circle"),
    ],
    "4, 6 in pens": [Fact("pens in May", "4"), Fact("pens in June", "6")],
    "Pens in May is 4": [Fact("pens in may", "4")],
    "4 for pens in May": [Fact("pens in may", "4")],
    "The red bar is 8": [Fact("red bar", "8")],
    "So red bar is 8": [Fact("red bar", "8")],
    "8 for the red bar": [Fact("red bar", "8")],
    "The sides of row 1 are 4, 3, 0": [Fact("sides of row 1", "4, 3, 0")],
    "Row 1 column 1 is a red star": [Fact("row 1 column 1", "red star")],
    "3 + 4 = 7": [Equation(3, "+", 4, 7)],
    "Then, 3 - 4 = -1": [Equation(3, "-", 4, -1)],
    "I see that 3 * 4 = 12": [Equation(3, "*", 4, 12)],
    "12 is more than 9": [Comparison(12, "more than", 9)],
    "Here 9 is LESS than 12": [Comparison(9, "less than", 12)],
    "9 is as much as 9": [Comparison(9, "as much as", 9)],
    "Rule: a square has 4 sides": [Rule("square has 4 sides")],
    "so, rule: The larger moment  sinks": [Rule("larger moment sinks")],
}
UNREADABLE = [
    "",
    "It does",
    "Row 2 reads 3, 4",  # a value is missing
    "Row 9 reads 3, 4, 5",  # no such group
    "3, 4, 5, 6 in row 2",
    "3 + 4",
    "3 + 4 equals 7",
    "3 / 4 = 1",
    "3 + 4 + 5 = 12",
    "3 + 4 = 7 = 7",
    "Maybe 7",
    "Rule:",
]


@pytest.mark.parametrize("sentence", READABLE)
def test_what_a_sentence_claims(sentence):
    assert read_sentence(sentence, GROUPS) == READABLE[sentence]


@pytest.mark.parametrize("sentence", UNREADABLE)
def test_a_sentence_outside_the_language_claims_nothing(sentence):
    assert read_sentence(sentence, GROUPS) is None


def test_which_equations_and_comparisons_hold():
    assert Equation(3, "+", 4, 7).holds and Equation(3, "-", 4, -1).holds and Equation(3, "*", 4, 12).holds
    assert not Equation(3, "+", 4, 8).holds and not Equation(3, "*", 4, 7).holds
    assert Comparison(9, "as much as", 9).holds and Comparison(9, "less than", 12).holds
    assert not Comparison(9, "more than", 9).holds and not Comparison(9, "less than", 9).holds


def test_sentences_end_in_periods():
    assert sentences("3 + 4 = 7. So 7 is more than 5.") == ["3 + 4 = 7", "So 7 is more than 5"]
    assert sentences("one.two. ") == ["one.two"]
    assert sentences(" . ") == [] and sentences("") == []


def test_plain_drops_case_article_and_outer_space():
    assert plain("  The Red  bar ") == plain("red bar") == "red bar"
    assert plain("theory") == "theory"


# --- the checker: what passes


def test_order_is_free():
    assert verdicts(SUM, ADD, READ) == [True, True]
    assert verdicts(SUM, READ, step("5 + 4 = 9. 9 + 3 = 12.")) == [True, True]
    assert verdicts(SUM, READ, step("3 + 5 = 8.", "So 3 + 5 = 8."), step("8 + 4 = 12.")) == [True, True, True]


def test_portions_are_free():
    cells = [step(f"Row 2 column {c} is {v}.", f"{v} for row 2 column {c}.") for c, v in ((1, 3), (2, 4), (3, 5))]
    assert verdicts(SUM, *cells, ADD) == [True] * 4
    both = Step("All", f"{READ.thought} {ADD.thought}", f"{READ.reflection} {ADD.reflection}")
    assert verdicts(SUM, both) == [True]
    assert verdicts(SUM, READ, step("3 + 4 = 7.", "So 7 is more than 5."), step("7 + 5 = 12.")) == [True, True, True]


@pytest.mark.parametrize(
    "thought",
    [
        "So row 2 reads 3, 4, 5.",
        "Again, the row 2 reads 3,4,5",
        "I see that 3, 4, 5 in row 2.",
        "ROW 2 READS 3, 4, 5.",
        "Here Row 2 column 1 is 3. Then row 2 column 2 is a 4. 5 for the row 2 column 3.",
    ],
)
def test_wording_is_free_within_the_language(thought):
    assert verdicts(SUM, Step("", thought, "3, 4, 5 in Row 2.")) == [True]


def test_a_true_aside_beside_something_useful_passes():
    assert verdicts(SUM, step("Row 1 reads 1, 2, 3. Row 2 reads 3, 4, 5.", "3, 4, 5 in row 2.")) == [True]


def test_a_subject_with_an_in_of_its_own_is_read():
    apart = [step(f"{subject.capitalize()} is {n}.", f"{n} for {subject}.") for subject, n in MONTHS.items()]
    assert reasons(TABLE, *apart) == [""] * 4
    assert reasons(TABLE, *apart, *TABLE.chain.steps[1::2], TABLE.chain.steps[4]) == [""] * 7


def test_what_a_wrong_step_said_rightly_may_be_said_again():
    slip = replace(READ, reflection="3, 4, 6 in row 2.")
    assert verdicts(SUM, slip, READ, ADD) == [False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_free_in_order_portions_and_wording(kind):
    for problem in every(kind)[:8]:
        example = problem.example()
        steps = example.chain.steps
        reading_first = sorted(steps, key=lambda step: not step.name.startswith(("Read", "Look")))
        merged = Step(
            "All at once",
            " ".join(step.thought for step in steps),
            " ".join(step.reflection for step in steps),
        )
        spoken = dict.fromkeys(sentence for step in steps for sentence in sentences(step.thought))
        split = [Step("", f"{sentence}.", f"So {sentence}.") for sentence in spoken]
        exchanged = [Step("", step.reflection, step.thought) for step in steps]
        lower = [Step("", step.thought.lower(), f"Again, {step.reflection.lower()}") for step in steps]
        upper = [Step("", step.thought.upper(), step.reflection.upper()) for step in steps]
        for variant in (reading_first, steps[::-1], [merged], split, exchanged, lower, upper):
            assert reasons(example, *variant) == [""] * len(variant), problem.id


# --- the checker: what does not


def test_an_irrelevant_true_reading_fails():
    spare = step("Row 1 reads 1, 2, 3.", "1, 2, 3 in row 1.")
    assert reasons(SUM, spare, READ, ADD) == ["nothing new that bears on the question", "", ""]
    hats = step("Hats in May is 9.", "9 for hats in May.")
    assert reasons(TABLE, hats) == ["nothing new that bears on the question"]


def test_irrelevant_arithmetic_fails():
    assert reasons(SUM, READ, step("6 + 9 = 15.", "So 6 + 9 = 15."))[1] == "nothing new that bears on the question"


def test_a_repeated_step_fails_however_it_is_worded():
    again = step("5 for row 2 column 3.", "So 3, 4, 5 in the row 2.")
    assert verdicts(SUM, READ, ADD, ADD, READ, again) == [True, True, False, False, False]


@pytest.mark.parametrize("nothing", ["", "  ", ".", " . "])
def test_an_empty_thought_or_reflection_fails(nothing):
    assert reasons(SUM, replace(READ, reflection=nothing)) == ["the thought or the reflection is empty"]
    assert reasons(SUM, replace(READ, thought=nothing)) == ["the thought or the reflection is empty"]


def test_a_misreading_fails_and_so_does_right_arithmetic_on_it():
    misread = [
        Step("Read row 2", "Row 2 reads 3, 4, 6.", "3, 4, 6 in row 2."),
        Step("Add the digits", "3 + 4 = 7. 7 + 6 = 13.", "The sum of row 2 is 13."),
    ]
    assert reasons(SUM, *misread) == ["row 2 column 3 is 5, not 6", "sum of row 2 is 12, not 13"]
    # A step that draws on misread numbers alone, and states no false fact, bears on nothing.
    alone = Step("Add", "6 + 8 = 14.", "So 6 + 8 = 14.")
    assert reasons(SUM, misread[0], alone)[1] == "nothing new that bears on the question"


def test_a_wrong_sum_fails():
    wrong = replace(ADD, thought="3 + 4 = 8. 8 + 5 = 13.")
    assert verdicts(SUM, READ, wrong) == [True, False]
    assert "does not hold" in reasons(SUM, READ, wrong)[1]
    assert verdicts(TABLE, step("7 is more than 10.", "The larger total is pens.")) == [False]


def test_a_reflection_that_contradicts_the_thought_fails():
    assert reasons(SUM, replace(READ, reflection="3, 4, 7 in row 2."), ADD) == ["row 2 column 3 is 5, not 7", ""]
    assert reasons(SUM, READ, replace(ADD, reflection="The sum of row 2 is 13.")) == ["", "sum of row 2 is 12, not 13"]


def test_an_unknown_rule_or_subject_fails():
    assert verdicts(RULE, *RULE.chain.steps) == [True, True]
    assert reasons(RULE, step("Rule: red is cool.", "The shade is warm.")) == ["no such rule here: 'red is cool'"]
    assert reasons(RULE, step("Rule: blue is cool.", "The shade is warm.")) == ["no such rule here: 'blue is cool'"]
    assert reasons(SUM, step("The weather is fine.")) == ["nothing is known of 'weather'"]


def test_a_sentence_outside_the_language_fails():
    assert reasons(SUM, step("Row 2 reads 3, 4, 5. Surely.")) == ["cannot be read: 'Surely'"]
    assert reasons(SUM, step("Row 2 reads 3, 4, 5.", "It does.")) == ["cannot be read: 'It does'"]


def test_only_generated_problems_can_be_checked():
    for example in (replace(SUM, meta={}), replace(SUM, chain=None)):
        with pytest.raises(ValueError, match="by-hand: only generated problems can be checked exactly"):
            Checker(example)


# --- planted errors

#: Kinds that have no equation, no spare subject, or no reflection that states a value that could be another.
NEED_NOT_APPLY = {
    "wrong arithmetic": {"line_extreme", "circuit_lamp", "food_web", "relation", "warm_or_cool"},
    "irrelevance": {
        *("lever_tip", "lever_difference", "circuit_resistance"),
        *("count_colour", "count_shape"),
    },
}


def planted(name, kind):
    """(problem, planted chain, wrong steps, steps that gold does not have) for many seeds."""
    for seed, problem in zip(SEEDS, every(kind), strict=True):
        chain = PLANTERS[name](problem, np.random.default_rng(seed))
        if chain is not None:
            example = problem.example()
            wrong = [index for index, right in enumerate(check_steps(example, chain)) if not right]
            yield example, chain, wrong, [n for n, s in enumerate(chain.steps) if s not in example.chain.steps]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLANTERS)
def test_every_planted_error_fails_where_it_was_planted(name, kind):
    cases = list(planted(name, kind))
    assert cases or kind in NEED_NOT_APPLY.get(name, ())
    for example, chain, wrong, strange in cases:
        if name == "wrong answer":
            assert wrong == [] and not is_right(example, chain.answer), example.id
        elif name == "repetition":
            again = next(n for n, step in enumerate(chain.steps) if step in chain.steps[:n])
            assert wrong == [again], example.id
        elif name in ("wrong arithmetic", "contradiction", "irrelevance"):
            assert wrong == strange and len(wrong) == 1, example.id
        else:
            assert wrong and wrong[0] == strange[0], example.id
        if name == "right answer by wrong steps":
            assert is_right(example, chain.answer), example.id


def test_planting_is_the_same_for_the_same_generator():
    for name, planter in PLANTERS.items():
        problem = made("sum_difference", 1)
        assert planter(problem, np.random.default_rng(3)) == planter(problem, np.random.default_rng(3)), name
