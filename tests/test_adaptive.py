"""Monte-Carlo labels that stop early: against the fixed rule, hand-worked counts, and simulated policies."""

import math
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import STEP_END, render
from chainofstep.records import Example, Rollout, StepScores
from chainofstep.scoring.adaptive import Adaptive, Search, chance_of_one, next_round, settled, wilson_width
from chainofstep.scoring.monte_carlo import MonteCarloScorer, MonteCarloStats
from conftest import ScriptedSampler, make_chain

EXACT = Adaptive(error=0, bisect=False)
RIGHT, WRONG = (render(make_chain("x", answer=answer)) for answer in ("1", "2"))


def example(name="q"):
    return Example(name, "?", (), "1", "word")


def steps(*thoughts, right=False):
    """A chain with these steps whose own answer is right or wrong."""
    return make_chain(*thoughts, answer="1" if right else "2")


def prefix(*thoughts):
    return render(make_chain(*thoughts))


class TableSampler:
    """Sample i of a request is right where the request's table says so at i. It heeds `first`, as the engine does."""

    def __init__(self, table):
        self.table, self.calls, self.drawn = table, [], {}
        self.made = {}  # rollouts are shared, for each is parsed once

    def sample(self, requests):
        self.calls.append(requests)
        assert len({(r.example.id, r.prefix) for r in requests}) == len(requests), "a prefix was asked twice in a round"
        return [self.group(request) for request in requests]

    def group(self, request):
        key = request.example.id, request.prefix
        assert self.drawn.get(key, 0) == request.first, "samples left out or asked again"
        self.drawn[key] = request.first + request.n
        table = self.table(request)
        return [self.rollout(table[index], index) for index in range(request.first, request.first + request.n)]

    def rollout(self, right, index):
        made = Rollout("q", RIGHT if right else WRONG, (7,), "answer", 0, index)
        return self.made.setdefault((bool(right), index), made)


def scorer_of(table, adaptive=EXACT, threshold=0.0, rollouts=16):
    """`table`: a function of the request, or one table for all."""
    sampler = TableSampler(table if callable(table) else lambda request: table)
    return MonteCarloScorer(sampler, rollouts, hard_threshold=threshold, adaptive=adaptive)


def label_one(outcomes, **more):
    """The label of a chain of one step, and how many rollouts it took."""
    scorer = scorer_of([letter == "R" for letter in outcomes], rollouts=len(outcomes), **more)
    [scores] = scorer.score([(example(), steps("a"))])
    return scores.steps[0], scorer.stats.rollouts


@pytest.mark.parametrize(
    ("threshold", "outcomes", "label", "rollouts"),
    [
        (0.0, "R" + "W" * 15, 1.0, 1),
        (0.0, "WR" + "W" * 14, 1.0, 2),
        (0.0, "WWR" + "W" * 13, 1.0, 4),  # the third is in the round 3..4
        (0.0, "W" * 8 + "R" * 8, 1.0, 16),
        (0.0, "W" * 16, 0.0, 16),  # nothing but the last rollout tells
        (0.25, "R" * 16, 1.0, 5),  # 5 of 16 exceed a quarter; 1 + 1 + 2, and one more is enough
        (0.25, "W" * 16, 0.0, 12),  # 12 wrong leave 4 of 16 at best; 1 + 1 + 2 + 4, and 4 more are enough
        (0.5, "R" * 16, 1.0, 9),
        (0.5, "W" * 16, 0.0, 8),  # 8 of 16 do not exceed a half
        (0.5, "WR" * 8, 0.0, 15),  # 8, then 4, 2 and 1 more if wrong, to the eighth wrong one
        (0.5, "RW" * 8, 0.0, 16),
        (1.0, "R" * 16, 0.0, 1),  # no share exceeds 1
        (0.0, "WWW", 0.0, 3),
        (0.0, "W", 0.0, 1),
    ],
)
def test_curtailment_by_hand(threshold, outcomes, label, rollouts):
    assert label_one(outcomes, threshold=threshold) == (label, rollouts)


@given(
    st.lists(st.booleans(), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0]),
)
def test_without_error_every_label_is_the_fixed_rules(outcomes, threshold):
    table = ["R" if right else "W" for right in outcomes]
    label, rollouts = label_one(table, threshold=threshold)
    assert label == label_one(table, threshold=threshold, adaptive=None)[0]
    assert 1 <= rollouts <= len(outcomes)


@given(st.integers(1, 24), st.data(), st.sampled_from([0.0, 0.25, 0.5]))
def test_error_zero_stops_only_where_nothing_can_change_the_label(rollouts, data, threshold):
    seen = data.draw(st.integers(0, rollouts))
    right = data.draw(st.integers(0, seen))
    possible = {(right + more) / rollouts > threshold for more in range(rollouts - seen + 1)}
    label = settled(EXACT, right, seen, rollouts, threshold)
    assert label == (float(possible.pop()) if len(possible) == 1 else None)


def urn(right, wrong, rest, needed):
    """P(at least `needed` rights among `rest`), where the next is right with chance right / (right + wrong)."""
    if needed <= 0:
        return Fraction(1)
    if rest == 0:
        return Fraction(0)
    chance = right / (right + wrong)
    return chance * urn(right + 1, wrong, rest - 1, needed - 1) + (1 - chance) * urn(right, wrong + 1, rest - 1, needed)


@given(st.integers(0, 9), st.data(), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5]))
def test_the_chance_is_that_of_polyas_urn(seen, data, a, b, threshold):
    right = data.draw(st.integers(0, seen))
    needed = math.floor(10 * threshold) + 1 - right
    exact = urn(Fraction(a, 5) + right, Fraction(b, 5) + seen - right, 10 - seen, needed)
    assert chance_of_one((a / 5, b / 5), right, seen, 10, threshold) == pytest.approx(float(exact), abs=1e-12)


def test_the_error_rule_by_hand_under_a_uniform_prior():
    """Laplace: after k wrong ones all m others are wrong with chance (k + 1) / (k + 1 + m), here (k + 1) / 17."""
    uniform = Adaptive(error=0.2, bisect=False, prior=(1, 1))
    assert chance_of_one((1, 1), 0, 12, 16, 0.0) == pytest.approx(4 / 17)
    assert label_one("W" * 16, adaptive=uniform) == (0.0, 13)  # 3 / 17 is the first below 0.2
    assert label_one("W" * 14 + "RR", adaptive=uniform) == (0.0, 13)  # the error: all 16 would have said 1
    assert label_one("W" * 16, adaptive=Adaptive(error=3 / 17 - 0.001, prior=(1, 1))) == (0.0, 14)


def test_fifteen_wrong_under_jeffreys_prior_thirteen_under_ours():
    assert label_one("W" * 16, adaptive=Adaptive(prior=(0.5, 0.5))) == (0.0, 15)
    assert label_one("W" * 16, adaptive=Adaptive()) == (0.0, 13)


def foretold(shares, rule, threshold, generator):
    """Of prefixes with these shares: how many stopped before it was certain, and how many of those were mislabelled."""
    early = false = 0
    for share in shares:
        table = [generator.random() < share for _ in range(16)]
        seen = 0
        while (label := settled(rule, sum(table[:seen]), seen, 16, threshold)) is None:
            seen += next_round(rule, sum(table[:seen]), seen, 16, threshold)
        if settled(EXACT, sum(table[:seen]), seen, 16, threshold) is None:
            early += 1
            false += label != float(sum(table) / 16 > threshold)
    return early, false


@pytest.mark.parametrize("prior", [(0.2, 0.2), (0.5, 0.5), (0.1, 0.3)])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_labels_that_stop_early_are_false_no_oftener_than_stated(prior, threshold, error):
    generator = Random(f"{prior} {threshold} {error}")
    shares = [generator.betavariate(*prior) for _ in range(6000)]
    early, false = foretold(shares, Adaptive(error, prior=prior), threshold, generator)
    assert early > 200
    assert false / early <= error


def test_the_stated_error_is_no_empty_promise():
    """The test above fails where the prior is wrong: a policy that comes right now and then, but never mostly."""
    generator = Random(3)
    shares = [generator.betavariate(2, 20) for _ in range(3000)]
    early, false = foretold(shares, Adaptive(0.05), 0.0, generator)
    assert false / early > 0.1


@given(st.integers(1, 15), st.sampled_from([0.05, 0.3, 0.49]))
def test_a_one_of_any_right_has_a_right_rollout_behind_it(seen, error):
    """Under a prior that expects rights, all 16 would hardly ever be wrong; but bisecting takes a 1 for a proof."""
    assert settled(Adaptive(error, prior=(5, 1)), 0, seen, 16, 0.0) in (None, 0.0)


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5])
def test_shares_of_zero_and_one_are_never_mislabelled(share, threshold):
    _, false = foretold([share], Adaptive(0.4), threshold, Random(0))
    assert false == 0


@given(st.lists(st.booleans(), min_size=16, max_size=16), st.sampled_from([0.25, 0.35, 0.45]))
def test_soft_labels_have_narrow_intervals_or_all_rollouts(outcomes, width):
    table = ["R" if right else "W" for right in outcomes]
    share, seen = label_one(table, adaptive=Adaptive(width=width), threshold=None)
    assert share == sum(outcomes[:seen]) / seen
    assert seen == 16 or wilson_width(sum(outcomes[:seen]), seen) < width


@pytest.mark.parametrize(
    ("outcomes", "share", "rollouts"),
    [("R" * 16, 1.0, 8), ("W" * 16, 0.0, 8), ("RW" * 8, 0.5, 16), ("R" * 7 + "W" + "R" * 8, 11 / 12, 12)],
)
def test_soft_labels_by_hand(outcomes, share, rollouts):
    """z = 1.96: the width at 0 or 8 of 8 is z^2 / (8 + z^2) = 0.324; at 1 of 8 it is 0.449, at 1 of 12 0.340."""
    assert wilson_width(0, 8) == pytest.approx(3.8415 / 11.8415, abs=1e-4)
    assert label_one(outcomes, adaptive=Adaptive(), threshold=None) == (share, rollouts)


def right_before(first_wrong):
    """Rollouts of a prefix are all right as long as it has no step from number `first_wrong` on."""
    return lambda request: [request.prefix.count(STEP_END) <= first_wrong] * request.n * 16


@pytest.mark.parametrize("count", range(1, 17))
@pytest.mark.parametrize("right", [False, True])
def test_the_first_wrong_step_is_found_in_log2_prefixes(count, right):
    for first_wrong in range(count + 1):
        scorer = scorer_of(right_before(first_wrong), adaptive=Adaptive(error=0))
        [scores] = scorer.score([(example(), steps(*map(str, range(count)), right=right))])
        assert scores.steps == (1.0,) * first_wrong + (0.0,) * (count - first_wrong)
        # a right answer's chain is asked at its end first, and halved only if that is wrong
        assert scorer.stats.prefixes <= (1 + math.ceil(math.log2(count)) if right else math.ceil(math.log2(count + 1)))


def test_a_right_chain_costs_one_rollout():
    scorer = scorer_of(right_before(9), adaptive=Adaptive())
    scorer.score([(example(), steps(*"abcdefg", right=True))])
    stats = scorer.stats
    assert (stats.rollouts, stats.prefixes, stats.labels, stats.fixed_rollouts) == (1, 1, 7, 7 * 16)


def test_bisecting_is_for_any_right_alone():
    for threshold in (None, 0.5):
        scorer = scorer_of(right_before(9), adaptive=Adaptive(), threshold=threshold)
        scorer.score([(example(), steps("a", "b", right=True))])
        assert scorer.stats.prefixes == 2


def test_shared_prefixes_are_asked_once_and_what_one_chain_finds_serves_the_others():
    scorer = scorer_of(lambda request: [request.prefix == prefix("a", "b")] * 16, adaptive=Adaptive(error=0))
    items = [(example(), steps("a", "b", right=True)), (example(), steps("a", "c")), (example("r"), steps("a"))]
    assert [scores.steps for scores in scorer.score(items)] == [(1.0, 1.0), (1.0, 0.0), (0.0,)]
    first, second = ([(r.example.id, r.prefix) for r in call] for call in scorer.sampler.calls[:2])
    # the first chain is asked at its end, the second at the earlier of its two prefixes, the third is another example's
    assert first == [("q", prefix("a", "b")), ("q", prefix("a")), ("r", prefix("a"))]
    # "a" has come wrong once, but the first chain's proof labels it, so the second chain goes on to "a c"
    assert second == [("q", prefix("a", "c")), ("r", prefix("a"))]
    assert scorer.stats == MonteCarloStats(3 + 1, 1 + 1 + 16 + 16, 34, labels=5, fixed_rollouts=4 * 16)


def test_a_right_continuation_overrules_a_zero_of_the_same_round():
    one, two, three, other = (("q", name) for name in "123x")
    search = Search({(one, other): False, (one, two, three): False}, bisect=True)
    labels = {}
    search.spread({one: 0.0, two: 1.0}, labels)
    assert labels == {one: 1.0, two: 1.0}
    search.spread({other: 0.0, three: 0.0}, labels)
    assert labels == {one: 1.0, two: 1.0, three: 0.0, other: 0.0}
    assert search.ask(labels) == []


def test_the_latest_of_several_right_prefixes_counts():
    path = tuple(("q", name) for name in "1234")
    labels = {}
    Search({path: False}, bisect=True).spread({path[0]: 1.0, path[2]: 1.0}, labels)
    assert labels == dict.fromkeys(path[:3], 1.0)


def test_of_chains_with_the_same_steps_one_right_answer_is_enough_to_ask_the_end_first():
    chains = [steps("a", "b", "c", right=right) for right in (True, False)]
    for order in (chains, chains[::-1]):
        scorer = scorer_of([True] * 16, adaptive=Adaptive())
        scorer.score([(example(), chain) for chain in order])
        assert [[r.prefix for r in call] for call in scorer.sampler.calls] == [[prefix("a", "b", "c")]]


def test_a_zero_labels_the_later_steps_of_every_chain_that_has_it():
    a, b, c = (("q", name) for name in "abc")
    labels = {}
    Search({(a, b): False, (a, c): False}, bisect=True).spread({a: 0.0}, labels)
    assert labels == {a: 0.0, b: 0.0, c: 0.0}


def bernoulli(share):
    """Tables of independent rollouts, the same for the same seed; `share` is a function of the request."""

    def table(request):
        generator, chance = Random(request.seed), share(request)
        return [generator.random() < chance for _ in range(16)]

    return table


@given(st.data(), st.sampled_from([Adaptive(), Adaptive(0.2, bisect=False), EXACT]), st.sampled_from([0.0, 0.25, None]))
def test_labels_depend_on_neither_order_nor_other_examples_nor_repetition(data, rule, threshold):
    chains = st.builds(steps, st.sampled_from("ab"), st.sampled_from("ab"), st.sampled_from("abc"), right=st.booleans())
    items = data.draw(st.lists(st.tuples(st.sampled_from([example("q"), example("r")]), chains), max_size=8))
    table = bernoulli(lambda request: 0.7 if request.prefix.endswith(prefix("b")[-30:]) else 0.1)

    def label(some):
        return dict(zip(map(repr, some), scorer_of(table, rule, threshold).score(some), strict=True))

    together = label(items)
    assert label(data.draw(st.permutations(items * 2))) == together
    apart = [label([item for item in items if item[0].id == name]) for name in "qr"]
    assert apart[0] | apart[1] == together


def test_rounds_double_and_are_one_call_for_all_chains():
    scorer = scorer_of([False] * 16)
    scorer.score([(example(), steps("a", "b")), (example("r"), steps("a"))])
    assert [{(r.first, r.n) for r in call} for call in scorer.sampler.calls] == [
        {(0, 1)},
        {(1, 1)},
        {(2, 2)},
        {(4, 4)},
        {(8, 8)},
    ]
    assert all(len(call) == 3 and len({r.seed for r in call}) == 3 for call in scorer.sampler.calls)
    fixed = scorer_of([False] * 16, adaptive=None)
    fixed.score([(example(), steps("a", "b"))])
    assert [r.seed for r in fixed.sampler.calls[0]] == [r.seed for r in scorer.sampler.calls[0][:2]]


def test_a_sampler_that_begins_again_is_an_error_not_the_same_evidence_twice():
    class BeginsAgain(ScriptedSampler):
        def sample(self, requests):
            return super().sample([replace(request, first=0) for request in requests])

    scorer = MonteCarloScorer(BeginsAgain(lambda request: [WRONG]), hard_threshold=0.0, adaptive=Adaptive())
    with pytest.raises(ValueError, match=r"example q: sample 0 came for a request from sample 1; use a sampler that"):
        scorer.score([(example(), steps("a"))])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"error": 0.5}, "error is 0.5"),
        ({"error": -0.1}, "error is -0.1"),
        ({"width": 0}, "width is 0"),
        ({"prior": (0, 1)}, "prior is"),
    ],
)
def test_impossible_rules_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**wrong)


def test_nothing_to_label_asks_nothing():
    scorer = scorer_of([True], adaptive=Adaptive())
    assert scorer.score([]) == []
    assert scorer.score([(example(), make_chain(answer="1"))]) == [StepScores((), 1.0)]
    assert scorer.sampler.calls == []


def simulated(count, seed):
    """Chains of 2 to 8 steps, 55% right, the others wrong from a uniform step on; and the shares of a policy that comes
    right after right steps in 6 of 10 rollouts, after wrong ones in 1 of 100."""
    generator = Random(seed)
    items, first_wrong = [], {}
    for number in range(count):
        length = generator.randint(2, 8)
        right = generator.random() < 0.55
        first_wrong[str(number)] = length if right else generator.randrange(length)
        items.append((example(str(number)), steps(*map(str, range(length)), right=right)))
    truth = [[float(place < first_wrong[e.id]) for place in range(len(c.steps))] for e, c in items]
    table = bernoulli(lambda r: 0.6 if r.prefix.count(STEP_END) <= first_wrong[r.example.id] else 0.01)
    return items, truth, table


def agreement(scores, truth):
    pairs = [
        pair for scored, labels in zip(scores, truth, strict=True) for pair in zip(scored.steps, labels, strict=True)
    ]
    return sum(label == true for label, true in pairs) / len(pairs)


def test_adaptive_labels_cost_less_and_are_as_true_as_the_fixed_rules():
    items, truth, table = simulated(3000, seed=1)
    print()
    ratios, trues = {}, {}
    rules = {"fixed": None, "curtailed": EXACT, "error": Adaptive(bisect=False), "bisected": Adaptive()}
    for name, rule in rules.items():
        scorer = scorer_of(table, rule)
        trues[name] = agreement(scorer.score(items), truth)
        stats = scorer.stats
        ratios[name] = stats.fixed_rollouts / stats.rollouts
        print(
            f"{name:9}: {stats.rollouts:6} rollouts for {stats.labels} labels, {ratios[name]:4.1f}x fewer, "
            f"{stats.prefixes} prefixes, {len(scorer.sampler.calls):2} calls, {trues[name]:.1%} true"
        )
    assert ratios["fixed"] == 1 and trues["curtailed"] == trues["fixed"]
    assert ratios["curtailed"] >= 2.5 and ratios["error"] >= 3 and ratios["bisected"] >= 6
    # 13,500 labels of a 96% rule have a standard error of 0.2 points; early stops also shun lucky rollouts
    assert trues["error"] >= trues["fixed"] - 0.005 and trues["bisected"] >= trues["fixed"] - 0.005
