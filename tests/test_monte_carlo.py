"""Monte-Carlo labels against a scripted policy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import render
from chainofstep.records import Example, SamplingErrors, ScoreFailure, StepScores
from chainofstep.scoring.adaptive import Adaptive
from chainofstep.scoring.monte_carlo import MonteCarloScorer, derive_seed
from conftest import ScriptedSampler, make_chain

Q = Example("q", "?", (), "12", "number")
R = Example("r", "?", (), "3", "number")


def ending(*steps, answer):
    """What follows the prefix made of `steps` when the model answers at once."""
    return render(make_chain(*steps, answer=answer))[len(render(make_chain(*steps))) :]


A, AB = render(make_chain("a")), render(make_chain("a", "b"))
SCRIPT = {
    # three of four right, one of them in other words
    A: [ending("a", answer="12"), ending("a", answer="7"), ending("a", answer="12.0"), ending("a", answer="12")],
    # one of four right; one is no chain, one is cut
    AB: [ending("a", "b", answer="12"), ending("a", "b", answer="8"), "<|answer_end|>", "<|reasoning_end|>"],
}


def scorer_of(script=SCRIPT, **more):
    return MonteCarloScorer(ScriptedSampler(script), **{"rollouts": 4, **more})


def test_a_step_is_worth_the_share_of_right_continuations_from_its_end():
    scores = scorer_of().score([(Q, make_chain("a", "b", answer="12")), (Q, make_chain("a", "b", answer="8"))])
    assert scores == [StepScores((0.75, 0.25), 1.0), StepScores((0.75, 0.25), 0.0)]


def test_a_prefix_has_no_answer_label():
    assert scorer_of().score([(Q, make_chain("a"))]) == [StepScores((0.75,), None)]


@pytest.mark.parametrize(("threshold", "labels"), [(0.0, (1.0, 1.0)), (0.25, (1.0, 0.0)), (0.75, (0.0, 0.0))])
def test_hard_labels_are_shares_strictly_above_the_threshold(threshold, labels):
    assert scorer_of(hard_threshold=threshold).score([(Q, make_chain("a", "b"))]) == [StepScores(labels, None)]


def test_all_prefixes_are_sampled_in_one_call_shared_ones_once():
    scorer = scorer_of()
    chain, longer = make_chain("a", answer="12"), make_chain("a", "b", answer="8")
    scorer.score([(Q, chain), (Q, longer), (R, chain)])
    [requests] = scorer.sampler.calls
    assert [(r.example.id, r.prefix) for r in requests] == [("q", A), ("q", AB), ("r", A)]
    assert {(r.first, r.n, r.temperature, r.top_p, r.stop) for r in requests} == {(0, 4, 1.0, 0.95, "answer")}
    assert len({r.seed for r in requests}) == 3


def test_another_example_is_judged_by_its_own_gold_answer():
    assert scorer_of().score([(R, make_chain("a", answer="3"))]) == [StepScores((0.0,), 1.0)]


def test_what_was_spent_is_counted_over_calls():
    scorer = scorer_of()
    scorer.score([(Q, make_chain("a", "b", answer="8"))])
    scorer.score([(Q, make_chain("a"))])
    stats = scorer.stats
    assert (stats.prefixes, stats.rollouts, stats.unparseable, stats.cut) == (3, 12, 1, 1)
    assert (stats.labels, stats.fixed_rollouts) == (3, 12)
    a_tokens, ab_tokens = (sum(map(len, SCRIPT[prefix])) for prefix in (A, AB))  # one token per character
    assert stats.tokens == 2 * a_tokens + ab_tokens


def test_a_chain_without_steps_needs_no_sample():
    scorer = scorer_of()
    assert scorer.score([(Q, make_chain(answer="12"))]) == [StepScores((), 1.0)]
    assert scorer.sampler.calls == []


def test_seeds_do_not_depend_on_what_is_scored_beside():
    together, alone = scorer_of(), scorer_of()
    together.score([(R, make_chain("a")), (Q, make_chain("a", "b"))])
    alone.score([(Q, make_chain("a", "b"))])
    assert together.sampler.calls[0][1:] == alone.sampler.calls[0]
    other = scorer_of(seed=1)
    other.score([(Q, make_chain("a", "b"))])
    assert {r.seed for r in other.sampler.calls[0]}.isdisjoint({r.seed for r in alone.sampler.calls[0]})


class ShortSampler(ScriptedSampler):
    def sample(self, requests):
        return [group[:-1] for group in super().sample(requests)]


def test_a_sampler_that_returns_too_few_is_an_error_not_a_lower_share():
    with pytest.raises(ValueError, match="example q: 3 rollouts for a request of 4"):
        MonteCarloScorer(ShortSampler(SCRIPT), rollouts=4).score([(Q, make_chain("a"))])


@given(st.lists(st.booleans(), min_size=1, max_size=16))
def test_the_share_is_that_of_the_script(outcomes):
    texts = [ending("a", answer="12" if right else "5") for right in outcomes]
    [scores] = scorer_of({A: texts}, rollouts=len(texts)).score([(Q, make_chain("a"))])
    assert scores.steps == (sum(outcomes) / len(outcomes),)


def test_seeds_are_stable_across_versions_and_separate_their_parts():
    assert derive_seed(0, "q", 1, 2) == derive_seed(0, "q", 1, 2) < 2**48
    assert len({derive_seed(*parts) for parts in [(1, 23), (12, 3), (123,), ("1", "2", "3")]}) == 4
    assert derive_seed(0, "q") == 47097596922234


class FailingSampler(ScriptedSampler):
    """Cannot sample the examples of these ids."""

    def __init__(self, script, fails):
        super().__init__(script)
        self.fails = fails

    def sample(self, requests):
        results = [
            None if request.example.id in self.fails else group
            for request, group in zip(requests, super().sample(requests), strict=True)
        ]
        failures = {n: "gone.png does not exist" for n, group in enumerate(results) if group is None}
        if failures:
            raise SamplingErrors(results, failures, [request.example.id for request in requests])
        return results


@pytest.mark.parametrize("adaptive", [None, Adaptive()])
def test_what_cannot_be_sampled_is_a_failure_and_others_are_scored(adaptive):
    chain, lost = make_chain("a", "b"), replace(Q, id="lost")
    sampler = FailingSampler(lambda request: [render(chain)[len(request.prefix) :]], {"lost"})
    scorer = MonteCarloScorer(sampler, rollouts=1, hard_threshold=0.0, adaptive=adaptive)
    scored = scorer.score([(Q, chain), (lost, chain), (lost, make_chain("a"))])
    assert isinstance(scored[0], StepScores)
    assert scored[1:] == [ScoreFailure("sampling: gone.png does not exist")] * 2
