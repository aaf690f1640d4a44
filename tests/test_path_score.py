"""Path scores, the scores of pools, and the exact checker as a scorer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import Chain
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.scoring.oracle import OracleScorer
from chainofstep.scoring.path_score import path_score, score_pools
from conftest import ScriptedScorer, make_chain, make_rollout

Q = Example("q", "?", (), "12", "number")
SHARE = st.floats(0, 1)


def test_steps_weigh_a_fifth_and_the_answer_four():
    # mean of 0.9, 0.5, 0.7 is 0.7; 0.2 * 0.7 + 0.8 * 0.4 = 0.14 + 0.32
    assert path_score(StepScores((0.9, 0.5, 0.7), 0.4)) == pytest.approx(0.46)
    assert path_score(StepScores((0.9, 0.5, 0.7), 0.4), step_weight=0) == pytest.approx(0.4)
    assert path_score(StepScores((0.9, 0.5, 0.7), 0.4), step_weight=1) == pytest.approx(0.7)


def test_what_is_absent_has_no_weight():
    assert path_score(StepScores((), 0.4)) == 0.4
    assert path_score(StepScores((0.5, 1.0))) == 0.75


@given(st.lists(SHARE, min_size=1, max_size=8), SHARE, SHARE, SHARE)
def test_the_score_stays_in_range_and_rises_with_the_answer(steps, low, high, weight):
    low, high = sorted((low, high))
    lower = path_score(StepScores(tuple(steps), low), weight)
    assert -1e-9 <= lower <= path_score(StepScores(tuple(steps), high), weight) + 1e-9 <= 1 + 2e-9


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_an_error(weight):
    with pytest.raises(ValueError, match="step_weight is"):
        path_score(StepScores((0.5,), 0.5), weight)


def test_nothing_scored_has_no_path_score():
    with pytest.raises(ValueError, match="neither steps nor an answer"):
        path_score(StepScores(()))


def test_a_pool_is_scored_in_one_call_each_chain_of_an_example_once():
    other = Example("r", "?", (), "1", "number")
    good, bad = make_chain("good", answer="12"), make_chain("bad", answer="1")
    scorer = ScriptedScorer({"good": 0.9, "bad": 0.2}, {"12": 0.8, "1": 0.1})
    pools = [[make_rollout(text) for text in (good, "no chain", bad, good)], [make_rollout(good)]]
    scores = score_pools([Q, other], pools, scorer)
    assert scorer.calls == [[(Q, good), (Q, bad), (other, good)]]
    assert [scores[0][place] for place in (0, 2, 3)] == [
        StepScores((0.9,), 0.8),
        StepScores((0.2,), 0.1),
        StepScores((0.9,), 0.8),
    ]
    assert isinstance(scores[0][1], ScoreFailure) and scores[0][1].reason.startswith("unparseable: expected")
    assert scores[1] == [StepScores((0.9,), 0.8)]


def test_a_pool_without_a_chain_does_not_call_the_scorer():
    scorer = ScriptedScorer({})
    assert isinstance(score_pools([Q], [[make_rollout("")]], scorer)[0][0], ScoreFailure)
    assert scorer.calls == []


def honest(example, chain):
    return [step.thought != "false" for step in chain.steps]


def test_the_oracle_scores_steps_by_the_check_and_the_answer_by_gold():
    items = [(Q, make_chain("true", "false", answer="12.0")), (Q, make_chain("true", answer="3")), (Q, Chain(()))]
    assert OracleScorer(honest).score(items) == [
        StepScores((1.0, 0.0), 1.0),
        StepScores((1.0,), 0.0),
        StepScores((), None),
    ]


def test_a_check_that_misses_a_step_is_caught():
    with pytest.raises(AssertionError, match="0 verdicts for 1 steps"):
        OracleScorer(lambda example, chain: []).score([(Q, make_chain("true"))])
