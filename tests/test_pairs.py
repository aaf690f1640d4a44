"""Which rollouts become pairs, and why others do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import render
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.scoring import pairs as rules
from chainofstep.scoring.pairs import UNSCORED, OutcomeScorer, PairRule, choose_pairs
from chainofstep.scoring.path_score import path_score
from conftest import make_chain, make_rollout

Q = Example("q", "?", (), "12", "number")
FAILED = ScoreFailure("no reply")


def pool(*scores, answers=None):
    """Rollouts "0", "1", ... with these path scores; None is a text that is no chain, FAILED a scorer's failure."""
    rollouts, scored = [], []
    for index, score in enumerate(scores):
        chain = make_chain(str(index), answer=answers[index] if answers else "1")
        rollouts.append(make_rollout(f"broken {index}" if score is None else chain, index))
        scored.append(StepScores((score,), score) if isinstance(score, float) else FAILED)
    return rollouts, scored


def named(pairs):
    """The thoughts of chosen and rejected: "0" for rollout 0, "broken 3" for a text that is no chain."""
    names = {render(make_chain(str(index), answer=answer)): str(index) for index in range(16) for answer in ("1", "12")}
    return [(names.get(pair.chosen, pair.chosen), names.get(pair.rejected, pair.rejected)) for pair in pairs]


def test_the_best_meets_the_worst():
    pairs, rejects = choose_pairs(Q, *pool(0.5, 0.9, 0.1, 0.6), PairRule(threshold=0.3))
    assert named(pairs) == [("1", "2")] and rejects == []
    assert (pairs[0].chosen_score, pairs[0].rejected_score) == pytest.approx((0.9, 0.1))
    assert pairs[0].example_id == "q"
    assert pairs[0].rule == "best 1 against worst 1, t=0.3, step weight 0.2"


def test_scores_are_path_scores_at_the_rules_weight():
    rollouts, _ = pool(0.0, 0.0)
    scores = [StepScores((1.0,), 0.0), StepScores((0.0,), 1.0)]
    assert named(choose_pairs(Q, rollouts, scores, PairRule())[0]) == [("1", "0")]
    assert named(choose_pairs(Q, rollouts, scores, PairRule(step_weight=0.9))[0]) == [("0", "1")]


def test_the_margin_must_exceed_t():
    rollouts, scores = pool(0.75, 0.25)
    half = PairRule(threshold=0.5, step_weight=0.5)  # scores and margin are exact in binary
    assert choose_pairs(Q, rollouts, scores, half) == ([], [("q", rules.SMALL_MARGIN)])
    assert len(choose_pairs(Q, rollouts, scores, PairRule(threshold=0.49))[0]) == 1


def test_further_pairs_come_from_the_next_best_and_next_worst():
    rollouts, scores = pool(0.9, 0.8, 0.5, 0.2, 0.1)
    assert named(choose_pairs(Q, rollouts, scores, PairRule(0.3, per_question=2))[0]) == [("0", "4"), ("1", "3")]
    assert named(choose_pairs(Q, rollouts, scores, PairRule(0.7, per_question=2))[0]) == [("0", "4")]
    assert len(choose_pairs(Q, rollouts, scores, PairRule(0.0, per_question=9))[0]) == 2  # 2 would meet itself


def test_equal_texts_are_one_candidate():
    rollouts, scores = pool(0.9, 0.1)
    doubled = choose_pairs(Q, rollouts * 3, scores * 3, PairRule(0.3, per_question=3))
    assert doubled == choose_pairs(Q, rollouts, scores, PairRule(0.3, per_question=3))
    assert len(doubled[0]) == 1


def test_with_outcomes_the_first_right_meets_the_first_wrong():
    rollouts, _ = pool(0.0, 0.0, 0.0, 0.0, answers=["1", "12", "12", "1"])
    scores = OutcomeScorer().score([(Q, rollout.chain) for rollout in rollouts])
    assert named(choose_pairs(Q, rollouts, scores, PairRule(0.3, per_question=2))[0]) == [("1", "0"), ("2", "3")]


def test_outcome_scores_are_the_outcome_at_every_weight():
    right, wrong, prefix = OutcomeScorer().score(
        [(Q, make_chain("a", "b", answer="12")), (Q, make_chain("a", answer="7")), (Q, make_chain("a"))]
    )
    assert right == StepScores((1.0, 1.0), 1.0) and wrong == StepScores((0.0,), 0.0)
    assert {path_score(right, weight) for weight in (0, 0.5, 1)} == {1.0}
    assert isinstance(prefix, ScoreFailure)


def test_text_that_is_no_chain_is_left_out_unless_it_may_be_rejected():
    rollouts, scores = pool(0.9, 0.2, None)
    assert named(choose_pairs(Q, rollouts, scores, PairRule())[0]) == [("0", "1")]
    pairs, _ = choose_pairs(Q, rollouts, scores, PairRule(unparseable_rejected=True))
    assert named(pairs) == [("0", "broken 2")]
    assert pairs[0].rejected_score == UNSCORED
    assert pairs[0].rule.startswith("best 1 against unparseable (expected <|reasoning_start|>, found 'broken 2'")


def test_one_chain_may_stand_against_text_that_is_none_if_it_scores_above_t():
    rule = PairRule(0.3, unparseable_rejected=True)
    assert named(choose_pairs(Q, *pool(None, 0.4), rule)[0]) == [("1", "broken 0")]
    assert choose_pairs(Q, *pool(None, 0.3), rule) == ([], [("q", rules.SMALL_MARGIN)])


def test_a_scorers_failure_is_never_a_low_score():
    assert named(choose_pairs(Q, *pool(0.9, FAILED, 0.2), PairRule())[0]) == [("0", "2")]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((), rules.FEW_PARSED),
        ((None, None), rules.FEW_PARSED),
        ((0.9, None), rules.FEW_PARSED),
        ((FAILED, FAILED), rules.ALL_FAILED),
        ((0.9, FAILED), rules.FEW_SCORED),
        ((0.5, 0.6), rules.SMALL_MARGIN),
    ],
)
def test_a_question_without_a_pair_has_a_reason(scores, reason):
    assert choose_pairs(Q, *pool(*scores), PairRule()) == ([], [("q", reason)])


def test_one_text_sixteen_times_has_a_reason():
    rollouts, scores = pool(0.9)
    assert choose_pairs(Q, rollouts * 16, scores * 16, PairRule()) == ([], [("q", rules.ONE_TEXT)])


@pytest.mark.parametrize("rule", [PairRule(threshold=-0.1), PairRule(per_question=0)])
def test_a_rule_that_makes_no_sense_is_an_error(rule):
    with pytest.raises(ValueError, match=r"threshold is -0\.1|per_question is 0"):
        choose_pairs(Q, *pool(0.9, 0.1), rule)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, None]), max_size=16),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.booleans(),
)
def test_no_text_is_used_twice_and_every_margin_exceeds_t(scores, per_question, threshold, unparseable):
    rule = PairRule(threshold, per_question, unparseable)
    pairs, rejects = choose_pairs(Q, *pool(*scores), rule)
    used = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    assert len(used) == len(set(used)) and len(pairs) <= per_question
    assert all(pair.chosen_score - max(pair.rejected_score, 0) > threshold for pair in pairs)
    assert bool(pairs) != bool(rejects)
