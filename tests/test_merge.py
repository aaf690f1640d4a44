"""Agreement of label sets, and one set made of several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from chainofstep.records import ScoreFailure, StepScores
from chainofstep.scoring.merge import Agreement, agreement_of, merge

FAILED = ScoreFailure("judge: no vote")


def test_a_table_by_hand():
    # right/right, right/wrong, wrong/right, wrong/wrong, and 0.5 counts as not right
    table = agreement_of(StepScores((1.0, 0.9, 0.1, 0.0, 0.5)), StepScores((1.0, 0.2, 0.8, 0.0, 0.0)))
    assert table == Agreement(both=1, first_only=1, second_only=1, neither=2)
    assert table.steps == 5 and table.observed == 0.6
    # by chance: 0.4 * 0.4 + 0.6 * 0.6 = 0.52; (0.6 - 0.52) / 0.48
    assert table.kappa == pytest.approx(1 / 6)


def test_chains_that_one_could_not_score_are_counted_apart():
    total = agreement_of(FAILED, StepScores((1.0,))) + agreement_of(StepScores((1.0,)), StepScores((1.0,)))
    assert total == Agreement(both=1, unmatched=1)
    assert total.kappa is None  # every label the same: nothing beyond chance can be told
    assert Agreement().observed is None and Agreement().kappa is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_is_the_known_one(labels):
    first, second = zip(*labels, strict=True)
    kappa = agreement_of(StepScores(tuple(map(float, first))), StepScores(tuple(map(float, second)))).kappa
    if len(set(first) | set(second)) == 1:
        assert kappa is None
    else:
        assert kappa == pytest.approx(cohen_kappa_score(first, second))


def test_agreeing_labels_are_kept_with_their_mean():
    assert merge([StepScores((1.0, 0.2), 1.0), StepScores((0.8, 0.0), 1.0)], "agree") == StepScores((0.9, 0.1), 1.0)


def test_a_disagreement_removes_the_chain_and_names_the_step():
    merged = merge([StepScores((1.0, 0.2), 1.0), StepScores((0.8, 0.9), 1.0)], "agree")
    assert merged == ScoreFailure("labels disagree: at step 2")


def test_weights_weigh():
    merged = merge([StepScores((1.0, 0.0)), StepScores((0.0, 0.0))], "weight", [3, 1])
    assert merged == StepScores((0.75, 0.0))


def test_a_set_that_failed():
    kept = StepScores((1.0,), 0.0)
    assert merge([FAILED, kept], "agree") == FAILED
    assert merge([FAILED, kept], "weight", [5, 1]) == kept
    assert merge([FAILED, FAILED], "weight") == FAILED


def test_scores_of_other_chains_are_an_error():
    with pytest.raises(ValueError, match="scores of 1 and 2 steps"):
        merge([StepScores((1.0,)), StepScores((1.0, 1.0))], "weight")
