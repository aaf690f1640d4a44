"""Counts, intervals and agreement, against values worked by hand and brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.evaluate import (
    Agreement,
    Bin,
    Tally,
    auc,
    by_group,
    calibration,
    family,
    grade,
    grade_results,
    paired_bootstrap,
    step_agreement,
    tally,
    wilson,
)
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.search import Cost, SearchResult
from conftest import make_chain

FAILED = ScoreFailure("no reply")


def question(name, source="math/sum"):
    return Example(name, "?", (), "12", "number", source=source)


def test_every_answer_has_an_outcome_and_stays_in_the_denominator():
    answers = ["12.0", "7", "twelve", None, FAILED]
    outcomes = grade([question(str(place)) for place in range(5)], answers)
    assert outcomes == ["right", "wrong", "unparseable", "unparseable", "failed"]
    assert tally(outcomes) == Tally(right=1, wrong=1, unparseable=2, failed=1)
    assert (tally(outcomes).total, tally(outcomes).accuracy) == (5, 0.2)


def test_search_results_are_graded_with_their_failures():
    chain = make_chain("a", answer="12")
    results = [
        SearchResult("q", "12", "text", chain, None, Cost()),
        SearchResult("q", None, "text", None, None, Cost()),
        SearchResult("q", None, "", None, None, Cost(), failure="no chain reached an answer"),
    ]
    assert grade_results([question("q")] * 3, results) == ["right", "unparseable", "failed"]


def test_a_missing_answer_is_an_error_not_a_smaller_denominator():
    with pytest.raises(ValueError):
        grade([question("a"), question("b")], ["12"])


def test_outcomes_are_broken_down_by_family_or_any_group():
    sources = {"a": "math/sum", "b": "chart/bar", "c": "math/max", "d": "m3cot"}
    examples = [question(name, source) for name, source in sources.items()]
    outcomes = grade(examples, ["12", "12", "7", None])
    assert by_group(examples, outcomes) == {"chart": Tally(1), "m3cot": Tally(unparseable=1), "math": Tally(1, 1)}
    assert list(by_group(examples, outcomes)) == ["chart", "m3cot", "math"]
    assert by_group(examples, outcomes, lambda example: example.id)["c"] == Tally(0, 1)
    assert family(examples[3]) == "m3cot"


def test_wilson_agrees_with_hand_worked_intervals():
    # z^2 = 3.84146; 8 of 10: middle 0.8 + 0.192073 = 0.992073,
    # half width 1.959964 * sqrt(0.016 + 0.0096036) = 0.313615, both over 1.384146
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    # 0 of 10: high = z^2 / (10 + z^2) = 3.84146 / 13.84146
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((1 - 0.277533, 1.0), abs=1e-5)
    # 50 of 100: half width 1.959964 * sqrt(0.0025 + 0.000096036) / 1.0384146 = 0.0961685
    assert wilson(50, 100) == pytest.approx((0.5 - 0.0961685, 0.5 + 0.0961685), abs=1e-5)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_holds_the_share_and_mirrors(counts):
    right, total = counts
    low, high = wilson(right, total)
    assert 0 <= low <= right / total + 1e-12 and right / total - 1e-12 <= high <= 1
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_count_has_no_interval(counts):
    with pytest.raises(ValueError, match="has no interval"):
        wilson(*counts)


def test_the_bootstrap_pairs_its_samples():
    both = [True, False] * 50
    assert paired_bootstrap(both, both, seed=0) == (0.0, 0.0, 0.0)  # unpaired draws would spread
    assert paired_bootstrap([True] * 40, [False] * 40, seed=0) == (1.0, 1.0, 1.0)
    # 30 of 100 questions gained, 10 lost: difference 0.2, standard error sqrt(0.4 - 0.04) / 10 = 0.06
    a = [True] * 30 + [False] * 10 + [True] * 60
    b = [False] * 30 + [True] * 10 + [True] * 60
    difference, low, high = paired_bootstrap(a, b, seed=1)
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - 1.96 * 0.06, 0.2 + 1.96 * 0.06), abs=0.02)
    assert paired_bootstrap(a, b, seed=1) == (difference, low, high)
    assert paired_bootstrap(b, a, seed=1)[0] == pytest.approx(-0.2)


def test_the_bootstrap_needs_pairs():
    with pytest.raises(ValueError, match="have 1 and 2 items"):
        paired_bootstrap([True], [True, False], seed=0)
    with pytest.raises(ValueError, match="have 0 and 0 items"):
        paired_bootstrap([], [], seed=0)


def counted(scores, labels):
    """The area by its meaning: over all pairs of a right and a wrong item."""
    right = [score for score, label in zip(scores, labels, strict=True) if label]
    wrong = [score for score, label in zip(scores, labels, strict=True) if not label]
    return sum((r > w) + 0.5 * (r == w) for r in right for w in wrong) / (len(right) * len(wrong))


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=40))
def test_the_area_is_that_of_counting_all_pairs(items):
    scores, labels = [score for score, _ in items], [label for _, label in items]
    if len(set(labels)) < 2:
        assert auc(scores, labels) is None
    else:
        assert auc(scores, labels) == pytest.approx(counted(scores, labels))


def test_the_area_by_hand():
    assert auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auc([0.5, 0.5], [True, False]) == 0.5
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        auc([0.5, 0.5], [True])


def test_step_agreement_by_hand():
    truth = [
        StepScores((1.0, 0.0), 0.0),
        StepScores((1.0, 1.0, 1.0), 1.0),
        StepScores((1.0,), None),  # a prefix
        StepScores((1.0,), 1.0),
        FAILED,
    ]
    predicted = [
        StepScores((0.9, 0.6), 0.2),  # the second step is wrong, and passes
        StepScores((0.8, 0.5, 0.7), 0.1),  # 0.5 is not above 0.5
        StepScores((0.95,), None),
        FAILED,  # its step and answer count as not right
        StepScores((0.9,), 0.9),
    ]
    result = step_agreement(predicted, truth)
    # steps: hits 0.9 0.8 0.7 0.95, misses 0.6 0.5, one not scored; the wrong step (0.6) lies under 4 of 5 right ones
    assert result.steps == Agreement(right=4, total=7, positives=6, auc=0.8)
    assert result.answers == Agreement(right=1, total=3, positives=2, auc=0.0)  # wrong 0.2 above right 0.1
    assert (result.chains, result.failures, result.unlabelled) == (4, 1, 1)
    assert result.steps.accuracy == pytest.approx(4 / 7) and result.steps.majority_rate == pytest.approx(6 / 7)
    assert result.answers.majority_rate == pytest.approx(2 / 3)


def test_thresholds_are_those_given():
    predicted, truth = [StepScores((0.4, 0.2))], [StepScores((0.3, 0.1))]  # soft labels
    assert step_agreement(predicted, truth).steps.positives == 0
    result = step_agreement(predicted, truth, threshold=0.3, truth_threshold=0.2)
    assert result.steps == Agreement(right=2, total=2, positives=1, auc=1.0)


def test_the_majority_rate_is_of_whichever_label_leads():
    assert step_agreement([StepScores((0.1,) * 4)], [StepScores((0.0, 0.0, 0.0, 1.0))]).steps.majority_rate == 0.75


@pytest.mark.parametrize("guess", [StepScores((0.5,), 0.5), StepScores((0.5, 0.5), None)])
def test_scores_of_another_chain_are_an_error(guess):
    with pytest.raises(ValueError, match=r"chain 0: .* does not match"):
        step_agreement([guess], [StepScores((1.0, 1.0), 1.0)])


def test_nothing_to_compare_is_no_accuracy():
    result = step_agreement([FAILED], [FAILED])
    assert (result.steps.accuracy, result.steps.majority_rate, result.steps.auc) == (0.0, 0.0, None)


def test_calibration_by_hand():
    scores, labels = [0.0, 0.2, 0.25, 0.7, 1.0], [False, False, True, True, True]
    bins = calibration(scores, labels, bins=4)
    assert [(b.count, b.share_right) for b in bins] == [(2, 0.0), (1, 1.0), (1, 1.0), (1, 1.0)]
    assert bins[0] == Bin(0.0, 0.25, 2, 0.1, 0.0)  # 0.25 itself opens the next bin
    assert calibration([0.9], [True], bins=2)[0] == Bin(0.0, 0.5, 0, None, None)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=50), st.integers(1, 12))
def test_every_item_is_in_one_bin(items, bins):
    result = calibration([score for score, _ in items], [label for _, label in items], bins)
    assert len(result) == bins and sum(b.count for b in result) == len(items)
    right = sum(b.share_right * b.count for b in result if b.share_right is not None)
    assert right == pytest.approx(sum(label for _, label in items))
