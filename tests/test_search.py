"""Search methods against a scripted policy and scorer; costs are worked by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainofstep.chain import PROCEED, STEP_END, Chain, render, render_step
from chainofstep.records import Example, ScoreFailure, StepScores
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.path_score import score_pools
from chainofstep.search import (
    BY_SCORE,
    METHODS,
    POOL_METHODS,
    Cost,
    SearchConfig,
    greedy,
    pool_results,
    sample_pools,
    step_beam,
)
from conftest import ScriptedSampler, ScriptedScorer, make_chain, make_rollout

Q = Example("q", "?", (), "12", "number")
R = Example("r", "?", (), "3", "number")

# A pool of six: the right chain "x" twice, its answer once more by "y", and the wrong answer 7 three times, all unlike.
POOL = [
    make_rollout(chain, index)
    for index, chain in enumerate(
        [
            make_chain("u", answer="7"),
            make_chain("x", answer="12"),
            "no chain",
            make_chain("v", answer="7.0"),
            make_chain("x", answer="12"),
            make_chain("w", answer="The answer is 7."),
            make_chain("y", "z", answer="12.0"),
        ]
    )
]
STEPS = {"u": 0.5, "v": 0.5, "w": 0.5, "x": 0.5, "y": 0.5, "z": 0.5}
ANSWERS = {"7": 0.95, "7.0": 0.1, "The answer is 7.": 0.1, "12": 0.9, "12.0": 0.7}
SCORER = ScriptedScorer(STEPS, ANSWERS)


def pick(method, pool=POOL, scorer=SCORER, n=None, example=Q):
    [result] = pool_results([example], [pool], score_pools([example], [pool], scorer), method, n or len(pool), 0.2)
    return result


def tokens(rollouts):
    return sum(len(rollout.token_ids) for rollout in rollouts)


# Choosing from a pool


def test_self_consistency_takes_the_most_frequent_answer_however_it_is_written():
    assert pick("self_consistency", n=6).answer == "7"  # 3 to 2
    assert pick("self_consistency", n=6).chain == make_chain("u", answer="7")
    assert pick("self_consistency").answer == "7"  # 3 to 3: the first to occur
    assert pick("self_consistency", POOL[1:]).answer == "12"  # without "u": 3 to 2
    assert pick("self_consistency", [POOL[0], POOL[1], POOL[4]]).answer == "12"  # equal texts are votes of their own


def test_best_of_n_takes_the_best_scored_text():
    assert pick("best_of_n").chain == make_chain("u", answer="7")
    result = pick("best_of_n", POOL[1:])
    assert (result.chain, result.scores) == (make_chain("x", answer="12"), StepScores((0.5,), 0.9))


def test_best_of_n_breaks_ties_by_count_then_by_first_place():
    level = ScriptedScorer(STEPS, dict.fromkeys(ANSWERS, 0.5))
    assert pick("best_of_n", scorer=level).chain == make_chain("x", answer="12")  # the only text sampled twice
    assert pick("best_of_n", POOL[2:], scorer=level).chain == make_chain("v", answer="7.0")


def test_best_of_n_goes_by_the_step_weight():
    scorer = ScriptedScorer({**STEPS, "v": 1.0}, ANSWERS)
    scores = score_pools([Q], [POOL], scorer)
    [by_steps] = pool_results([Q], [POOL], scores, "best_of_n", 7, step_weight=1.0)
    assert by_steps.answer == "7.0"


def test_the_weighted_vote_sums_path_scores_over_rollouts():
    # 7: u 0.86 + v 0.18 + w 0.18 = 1.22; 12: x 0.82 twice + y 0.66 = 2.30; the best-scored chain speaks for 12
    result = pick("weighted_vote")
    assert (result.answer, result.chain) == ("12", make_chain("x", answer="12"))
    assert pick("weighted_vote", POOL[::-1]).chain == make_chain("x", answer="12")  # though "y" comes first
    assert {c.text: c.value for c in result.trace[0]}[POOL[0].text] == pytest.approx(1.22)
    assert {c.text: c.value for c in result.trace[0]}[POOL[6].text] == pytest.approx(2.30)


def test_pass_at_n_is_right_if_any_is():
    assert [pick("pass_at_n", n=n).answer for n in (1, 2, 7)] == ["7", "12", "12"]
    assert pick("pass_at_n", example=R).answer == "7"  # none is right: the first


def test_only_the_first_n_rollouts_are_seen_and_paid_for():
    result = pick("best_of_n", n=3)
    assert result.cost == Cost(tokens(POOL[:3]), scored_chains=2, scored_steps=2)
    assert {candidate.text for candidate in result.trace[0]} == {rollout.text for rollout in POOL[:3]}
    assert pick("best_of_n").cost == Cost(tokens(POOL), scored_chains=5, scored_steps=6)  # x twice is scored once
    assert pick("self_consistency").cost == pick("pass_at_n").cost == Cost(tokens(POOL))


@pytest.mark.parametrize("method", POOL_METHODS)
def test_where_nothing_parses_there_is_no_answer_and_no_failure(method):
    broken = [make_rollout("no chain"), make_rollout("")]
    result = pick(method, broken)
    assert (result.answer, result.chain, result.failure, result.text) == (None, None, "", "no chain")
    assert result.cost == Cost(sampled_tokens=8)
    assert result.trace[0][0].problem.startswith("expected <|reasoning_start|>")


@pytest.mark.parametrize("method", sorted(BY_SCORE))
def test_a_chain_that_the_scorer_failed_on_is_left_out(method):
    assert pick(method, scorer=ScriptedScorer(STEPS, ANSWERS, fails=["x", "y"])).answer == "7"
    result = pick(method, scorer=ScriptedScorer(STEPS, ANSWERS, fails=list(STEPS)))
    assert (result.answer, result.failure) == (None, "the scorer failed on every chain")
    assert result.trace[0][0].problem == "cannot score u"


def test_a_low_score_is_not_a_failure():
    zero = ScriptedScorer(dict.fromkeys(STEPS, 0.0), dict.fromkeys(ANSWERS, 0.0))
    assert pick("weighted_vote", scorer=zero).answer == "7"  # all weigh nothing: the first


def test_what_cannot_be_chosen_by_is_an_error():
    with pytest.raises(ValueError, match="no pool method 'best'; choose one of self_consistency, "):
        pool_results([Q], [POOL], None, "best", 1)
    with pytest.raises(ValueError, match="best_of_n goes by score, and there are no scores"):
        pool_results([Q], [POOL], None, "best_of_n", 1)
    with pytest.raises(ValueError, match="example q: n is 8, its pool has 7 rollouts"):
        pool_results([Q], [POOL], None, "pass_at_n", 8)


def whole(*chains):
    """A script that answers every whole-chain request with these chains in turn."""
    start = render(Chain(()))
    texts = [render(chain) for chain in chains]
    return ScriptedSampler({"": texts, start: [text[len(start) :] for text in texts]})


X, U = make_chain("x", answer="12"), make_chain("u", answer="7")


@pytest.mark.parametrize("method", [name for name in METHODS if name in POOL_METHODS])
def test_a_pool_method_is_its_choice_from_a_sampled_pool(method):
    config = SearchConfig(n=3, seed=5, max_tokens=100_000)
    sampler = whole(U, X, X)
    scorer = ScriptedScorer(STEPS, ANSWERS)
    results = METHODS[method]([Q, R], sampler, scorer, config)
    pools = sample_pools([Q, R], sampler, config)
    assert results == pool_results([Q, R], pools, score_pools([Q, R], pools, SCORER), method, 3)
    assert len(sampler.calls) == 2 and len(scorer.calls) == (method in BY_SCORE)


def test_greedy_is_one_chain_at_temperature_0():
    sampler = whole(U)
    [result] = greedy([Q], sampler, None, SearchConfig(max_tokens=999))
    [[request]] = sampler.calls
    assert (request.n, request.temperature, request.max_tokens, request.stop) == (1, 0.0, 999, "answer")
    assert (result.answer, result.cost) == ("7", Cost(len(render(U))))


@pytest.mark.parametrize("method", ["best_of_n", "weighted_vote", "step_beam"])
def test_methods_that_go_by_score_ask_for_a_scorer(method):
    with pytest.raises(ValueError, match=f"{method} goes by score, and there is no scorer"):
        METHODS[method]([Q], whole(U), None, SearchConfig())


# Step-level beam search


def after(*kept, step=None, answer=None):
    """What a model writes after the kept steps: one more step, or the answer."""
    prefix = render(make_chain(*kept))
    if answer is not None:
        return render(make_chain(*kept, answer=answer))[len(prefix) :]
    joint = f"{PROCEED}\n" if kept else ""
    return joint + render_step(make_chain(step).steps[0])


def tree(branches):
    """A script from {kept steps: continuations}; a continuation is a thought, `=answer`, or `!raw text`."""

    def text(kept, what):
        if what.startswith("="):
            return after(*kept, answer=what[1:])
        return what[1:] if what.startswith("!") else after(*kept, step=what)

    script = {render(make_chain(*kept)): [text(kept, what) for what in whats] for kept, whats in branches.items()}
    return ScriptedSampler(script)


ROOMY = SearchConfig(n=2, max_tokens=100_000)


def beam(branches, steps, answers, config=ROOMY, fails=()):
    sampler, scorer = tree(branches), ScriptedScorer(steps, answers, fails)
    [result] = step_beam([Q], sampler, scorer, config)
    return result, sampler, scorer


# Fig. 4(c): 0.9 -> 0.8 -> 0.9 -> 0.9, the greedy choice at every level
FIGURE: dict[tuple[str, ...], list[str]] = {
    (): ["a1", "a2", "a3"],
    ("a2",): ["b1", "b2", "b3"],
    ("a2", "b3"): ["c1", "c2", "c3"],
    ("a2", "b3", "c1"): ["=4", "=12", "=5"],
}
FIGURE_STEPS = {"a1": 0.6, "a2": 0.9, "a3": 0.2, "b1": 0.7, "b2": 0.1, "b3": 0.8, "c1": 0.9, "c2": 0.5, "c3": 0.3}
FIGURE_ANSWERS = {"4": 0.3, "12": 0.9, "5": 0.8}


def test_the_best_candidate_of_each_level_goes_on():
    result, sampler, scorer = beam(FIGURE, FIGURE_STEPS, FIGURE_ANSWERS, replace(ROOMY, n=3))
    assert result.chain == make_chain("a2", "b3", "c1", answer="12")
    assert result.text == render(result.chain)
    assert result.scores == StepScores((0.9, 0.8, 0.9), 0.9)
    assert [[c.value for c in level if c.kept] for level in result.trace] == [[0.9], [0.8], [0.9], [0.9]]
    assert [[r.prefix for r in call] for call in sampler.calls] == [[render(make_chain(*kept))] for kept in FIGURE]
    assert len(scorer.calls) == 4


def test_every_level_is_paid_for():
    result, _, _ = beam(FIGURE, FIGURE_STEPS, FIGURE_ANSWERS, replace(ROOMY, n=3))
    written = [len(after(*kept, step=x)) for kept in list(FIGURE)[:3] for x in FIGURE[kept]]
    written += [len(after("a2", "b3", "c1", answer=x[1:])) for x in FIGURE["a2", "b3", "c1"]]
    # 3 candidates a level; their chains have 1, 2, 3 and, with the answer, 3 steps
    assert result.cost == Cost(sum(written), scored_chains=12, scored_steps=3 * (1 + 2 + 3 + 3))


def test_equal_steps_are_scored_once_and_counted():
    branches = {(): ["a", "b", "a", "a"], ("a",): ["=12"]}
    result, _, scorer = beam(branches, {"a": 0.9, "b": 0.5}, {"12": 1.0}, replace(ROOMY, n=4))
    assert [len(call) for call in scorer.calls] == [2, 1]
    assert [(c.count, c.kept) for c in result.trace[0]] == [(3, True), (1, False)]


def test_ties_go_to_the_more_frequent_then_to_the_first():
    branches = {(): ["a", "b", "c", "b"], ("b",): ["=12"], ("a",): ["=7"]}
    level = {"a": 0.5, "b": 0.5, "c": 0.5}
    assert beam(branches, level, {"12": 1.0, "7": 1.0}, replace(ROOMY, n=4))[0].answer == "12"
    assert beam(branches, level, {"12": 1.0, "7": 1.0}, replace(ROOMY, n=2))[0].answer == "7"


@pytest.mark.parametrize(("answer_score", "chain"), [(0.9, ("a",)), (0.7, ("a", "b"))])
def test_finished_and_unfinished_candidates_compete(answer_score, chain):
    branches = {(): ["a"], ("a",): ["=12", "b"], ("a", "b"): ["=7"]}
    result, _, _ = beam(branches, {"a": 0.5, "b": 0.8}, {"12": answer_score, "7": 0.1})
    assert tuple(step.thought for step in result.chain.steps) == chain


def test_an_answer_without_a_step_is_a_candidate():
    result, _, _ = beam({(): ["=12", "a"], ("a",): ["=7"]}, {"a": 0.5}, {"12": 0.9, "7": 0.9})
    assert result.chain == make_chain(answer="12")


def test_at_a_dead_end_the_best_finished_chain_passed_over_is_the_result():
    branches = {(): ["=7", "=12", "a"], ("a",): ["!<|oops", "!"]}
    result, _, _ = beam(branches, {"a": 0.9}, {"12": 0.4, "7": 0.3}, replace(ROOMY, n=3))
    assert (result.answer, result.failure) == ("12", "")
    assert [c.problem[:11] for c in result.trace[1]] == ["unparseable", "cut by the ", "unparseable"]


def test_a_search_that_never_finishes_has_failed_and_is_paid_for():
    result, _, _ = beam({(): ["!nonsense"]}, {}, {})
    assert (result.answer, result.chain, result.failure) == (None, None, "no chain reached an answer")
    assert result.cost == Cost(2 * len("nonsense"))


def test_steps_beyond_the_depth_are_no_candidates():
    branches: dict[tuple[str, ...], list[str]] = {(): ["a"], ("a",): ["b"], ("a", "b"): ["c", "=12"]}
    steps = {"a": 0.5, "b": 0.5, "c": 0.9}
    result, sampler, scorer = beam(branches, steps, {"12": 0.1}, replace(ROOMY, max_steps=2))
    assert result.answer == "12" and len(sampler.calls) == 3
    assert [c.problem for c in result.trace[2] if c.problem] == ["unfinished after 2 steps"]
    assert all(len(chain.steps) <= 2 for call in scorer.calls for _, chain in call)
    assert beam(branches, steps, {}, replace(ROOMY, max_steps=1))[0].failure == "no chain reached an answer"


def test_a_chain_has_one_token_limit_over_all_its_levels():
    branches: dict[tuple[str, ...], list[str]] = {(): ["a"], ("a",): ["b"], ("a", "b"): ["=12"]}
    lengths = [len(after(step="a")), len(after("a", step="b")), len(after("a", "b", answer="12"))]
    enough = replace(ROOMY, max_tokens=sum(lengths))
    result, sampler, _ = beam(branches, {"a": 0.5, "b": 0.5}, {"12": 0.5}, enough)
    assert result.answer == "12"
    assert [call[0].max_tokens for call in sampler.calls] == [sum(lengths), sum(lengths[1:]), lengths[2]]
    short = replace(ROOMY, max_tokens=sum(lengths) - 1)
    result, _, _ = beam(branches, {"a": 0.5, "b": 0.5}, {"12": 0.5}, short)
    assert result.failure and {c.problem for c in result.trace[2]} == {"cut by the token limit"}
    spent = replace(ROOMY, max_tokens=lengths[0])
    result, _, _ = beam(branches, {"a": 0.5, "b": 0.5}, {"12": 0.5}, spent)
    assert [c.problem for c in result.trace[0]] == [f"unfinished after {lengths[0]} tokens"] * 2


def test_a_candidate_that_the_scorer_failed_on_is_none():
    branches = {(): ["a", "b"], ("b",): ["=12"]}
    result, _, _ = beam(branches, {"b": 0.1}, {"12": 0.5}, fails=["a"])
    assert result.answer == "12"
    assert [(c.value, c.problem) for c in result.trace[0]] == [(0.1, ""), (None, "cannot score a")]
    assert result.cost.scored_chains == 3


def test_a_sampler_that_does_not_stop_at_a_step_is_an_error():
    class Deaf(ScriptedSampler):
        def sample(self, requests):
            return super().sample([replace(request, stop="answer") for request in requests])

    start = render(Chain(()))
    sampler = Deaf({start: [render(X)[len(start) :]]})
    with pytest.raises(ValueError, match="example q: a request with stop='step' ran on"):
        step_beam([Q], sampler, SCORER, ROOMY)


# Wider beams. Level 1: a 0.9 and b 0.6 are kept, c is not. Level 2, by the mean so far: a-e (0.9+0.5)/2 = 0.7,
# b-f (0.6+0.7)/2 = 0.65, a-d 0.55, b-12 (0.6+0.65)/2 = 0.625.
WIDE: dict[tuple[str, ...], list[str]] = {
    (): ["a", "b", "c", "c"],
    ("a",): ["d", "e"],
    ("b",): ["f", "=12"],
    ("a", "e"): ["=7", "g"],
    ("b", "f"): ["=8", "h"],
}
WIDE_STEPS = {"a": 0.9, "b": 0.6, "c": 0.5, "d": 0.2, "e": 0.5, "f": 0.7, "g": 0.1, "h": 0.1}
WIDE_CONFIG = replace(ROOMY, n=4, width=2)


def test_a_wide_beam_ranks_by_the_mean_of_all_scores_so_far():
    result, sampler, _ = beam(WIDE, WIDE_STEPS, {"12": 0.65, "7": 0.4, "8": 0.5}, WIDE_CONFIG)
    assert [c.value for c in result.trace[1]] == pytest.approx([0.7, 0.65, 0.625, 0.55])
    # level 3: a-e-7 (0.9+0.5+0.4)/3 = 0.6, b-f-8 (0.6+0.7+0.5)/3 = 0.6; of the finished the best path score, 8
    assert [[c.kept for c in level] for level in result.trace[1:]] == [[True, True, False, False]] * 2
    assert result.answer == "8"
    assert [[r.n for r in call] for call in sampler.calls] == [[4], [2, 2], [2, 2]]


def test_a_finished_beam_keeps_its_place_and_the_rest_goes_on():
    # b-12 has the mean (0.6+0.9)/2 = 0.75: it is kept with a-e, and only a-e is expanded. Its answer wins in the end:
    # path scores 0.2*0.6+0.8*0.9 = 0.84 against 0.2*0.7+0.8*0.4 = 0.46.
    result, sampler, _ = beam(WIDE, WIDE_STEPS, {"12": 0.9, "7": 0.4}, WIDE_CONFIG)
    assert [[r.prefix for r in call] for call in sampler.calls[2:]] == [[render(make_chain("a", "e"))]]
    assert [r.n for r in sampler.calls[2]] == [2]
    assert [sum(c.kept for c in level) for level in result.trace] == [2, 2, 1]
    assert result.answer == "12"


def test_a_beam_that_finishes_later_can_still_win():
    result, _, _ = beam(WIDE, WIDE_STEPS, {"12": 0.9, "7": 1.0}, WIDE_CONFIG)
    assert result.answer == "7"


def test_beams_of_a_level_and_levels_have_seeds_of_their_own():
    _, sampler, _ = beam(WIDE, WIDE_STEPS, {"12": 0.65, "7": 0.4, "8": 0.5}, WIDE_CONFIG)
    seeds = [request.seed for call in sampler.calls for request in call]
    assert len(set(seeds)) == 5
    _, again, _ = beam(WIDE, WIDE_STEPS, {"12": 0.65, "7": 0.4, "8": 0.5}, WIDE_CONFIG)
    assert [request.seed for call in again.calls for request in call] == seeds
    _, other, _ = beam(WIDE, WIDE_STEPS, {"12": 0.65, "7": 0.4, "8": 0.5}, replace(WIDE_CONFIG, seed=1))
    assert not {request.seed for call in other.calls for request in call} & set(seeds)


@pytest.mark.parametrize(("n", "width"), [(4, 3), (0, 1), (4, 0), (2, 4)])
def test_a_width_that_does_not_divide_n_is_an_error(n, width):
    with pytest.raises(ValueError, match=f"n is {n} and width {width}"):
        step_beam([Q], whole(X), SCORER, SearchConfig(n=n, width=width))


def test_all_examples_advance_in_one_call_per_level_and_leave_when_done():
    short = {("q", render(make_chain())): [after(step="a")], ("q", render(make_chain("a"))): [after("a", answer="12")]}
    long = {render(make_chain()): [after(step="b")], render(make_chain("b")): [after("b", step="c")]}
    end = {render(make_chain("b", "c")): [after("b", "c", answer="3")]}
    sampler = ScriptedSampler({**short, **long, **end})
    scorer = ScriptedScorer({"a": 0.5, "b": 0.5, "c": 0.5}, {"12": 0.5, "3": 0.5})
    results = step_beam([Q, R], sampler, scorer, ROOMY)
    assert [result.answer for result in results] == ["12", "3"]
    assert [[r.example.id for r in call] for call in sampler.calls] == [["q", "r"], ["q", "r"], ["r"]]
    assert [[example.id for example, _ in call] for call in scorer.calls] == [["q", "r"], ["q", "r"], ["r"]]


class Wandering:
    """A policy whose next step or answer, and a scorer whose scores, depend on seed and text alone."""

    def sample(self, requests):
        return ScriptedSampler(self._texts).sample(requests)

    def _texts(self, request) -> Sequence[str]:
        kept = ["any"] * request.prefix.count(STEP_END)  # what follows does not depend on what the steps say
        options = ["oops", *(after(*kept, answer=answer) for answer in ("12", "7"))]
        options += [after(*kept, step=thought) for thought in "uvwxyz"]
        return [options[(request.seed >> 3 * index) % len(options)] for index in range(request.n)]

    def score(self, items):
        return [self._score(example, chain) for example, chain in items]

    def _score(self, example, chain):
        noise = [derive_seed(example.id, place, step.thought) % 5 for place, step in enumerate(chain.steps)]
        if noise[-1:] == [4]:
            return ScoreFailure("cannot tell")
        answer = None if chain.answer is None else int(chain.answer) / 24
        return StepScores(tuple(value / 4 for value in noise), answer)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1), (4, 1), (4, 2), (6, 3), (4, 4)]), st.integers(1, 4))
def test_a_beam_search_ends_spends_no_more_than_its_budget_and_minds_its_own_example(seed, shape, max_steps):
    config = SearchConfig(n=shape[0], width=shape[1], max_tokens=2_000, max_steps=max_steps, seed=seed)
    examples = [Example(name, "?", (), "12", "number") for name in "abc"]
    policy = Wandering()
    together = step_beam(examples, policy, policy, config)
    assert together == [step_beam([example], policy, policy, config)[0] for example in examples]
    for result in together:
        assert len(result.trace) <= max_steps + 1
        assert all(sum(c.count for c in level) <= config.n for level in result.trace)
        assert all(sum(c.kept for c in level) <= config.width for level in result.trace)
        assert result.cost.scored_chains <= config.n * len(result.trace)
        assert (result.answer is None) == bool(result.failure)
