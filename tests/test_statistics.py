"""Tests and intervals against scipy and scikit-learn, and against what is known of them by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from chainofstep.evaluate import auc, paired_bootstrap, wilson
from chainofstep.statistics import bootstrap_counts, mcnemar, seed_difference, seed_mean

counts = st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(counts)
def test_wilson_is_that_of_scipy(count):
    right, total = count
    theirs = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def outcomes(first_only, second_only, alike):
    """Two lists of outcomes that differ on so many questions."""
    first = [True] * first_only + [False] * second_only + [True] * alike
    second = [False] * first_only + [True] * second_only + [True] * alike
    return first, second


@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 20))
def test_the_exact_mcnemar_test_is_the_binomial_test_of_scipy(first_only, second_only, alike):
    found = mcnemar(*outcomes(first_only, second_only, alike))
    assert (found.first_only, found.second_only) == (first_only, second_only)
    tosses = first_only + second_only
    expected = stats.binomtest(first_only, tosses).pvalue if tosses else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    # 1 against 5 of 6: (1 + 6) / 64, both sides: 14 / 64
    assert mcnemar(*outcomes(1, 5, 3)).p == pytest.approx(14 / 64)
    assert mcnemar(*outcomes(3, 3, 0)).p == 1.0
    assert mcnemar([True, False], [True, False]).p == 1.0


def test_mcnemar_of_many_questions_neither_overflows_nor_vanishes():
    first, second = np.zeros(100_000, dtype=bool), np.zeros(100_000, dtype=bool)
    first[:50_600], second[50_600:] = True, True
    assert mcnemar(first, second).p == pytest.approx(stats.binomtest(50_600, 100_000).pvalue, rel=1e-6)
    assert mcnemar(*outcomes(3000, 0, 1)).p == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize("pair", [([True], [True, False]), ([], [])])
def test_mcnemar_needs_the_same_questions(pair):
    with pytest.raises(ValueError, match="pass the same questions"):
        mcnemar(*pair)


def test_the_paired_bootstrap_is_that_of_scipy():
    first, second = outcomes(60, 35, 205)
    theirs = stats.bootstrap(
        (np.asarray(first, float), np.asarray(second, float)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    difference, low, high = paired_bootstrap(first, second, seed=0, draws=20_000)
    assert difference == pytest.approx(25 / 300)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_paired_bootstrap_draws_as_one_by_one():
    """The numbers drawn have the distribution of questions drawn one by one: the same spread, the same middle."""
    first, second = outcomes(9, 4, 17)
    differences = np.asarray(first, float) - np.asarray(second, float)
    generator = np.random.default_rng(3)
    means = generator.choice(differences, size=(20_000, 30)).mean(axis=1)
    _, low, high = paired_bootstrap(first, second, seed=0, draws=20_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.0334)  # one question


def test_a_hundred_thousand_pairs_are_quick():
    first, second = outcomes(20_000, 15_000, 65_000)
    assert paired_bootstrap(first, second, seed=0)[0] == pytest.approx(0.05)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=60))
def test_the_area_is_that_of_scikit_learn_and_of_mann_and_whitney(items):
    scores, labels = [score for score, _ in items], [label for _, label in items]
    if len(set(labels)) < 2:
        assert auc(scores, labels) is None
        return
    right, wrong = ([s for s, label in items if label == kind] for kind in (True, False))
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert auc(scores, labels) == pytest.approx(stats.mannwhitneyu(right, wrong).statistic / len(right) / len(wrong))


# Several seeds


def test_one_run_has_the_bootstrap_of_scipy():
    values = [True] * 130 + [False] * 70
    theirs = stats.bootstrap(
        (np.asarray(values, float),),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    mean, low, high = seed_mean([values], seed=0, draws=20_000)
    assert mean == 0.65 and (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_runs_and_items_are_both_drawn():
    rng = np.random.default_rng(5)
    values = rng.random((4, 60)) < np.array([0.3, 0.5, 0.55, 0.7])[:, None]
    picked = rng.integers(4, size=(20_000, 4)), rng.integers(60, size=(20_000, 60))
    means = [values[np.ix_(runs, items)].mean() for runs, items in zip(*picked, strict=True)]
    mean, low, high = seed_mean(values.tolist(), seed=0, draws=20_000)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.008)


def test_runs_alike_tell_no_more_than_one():
    run = [True] * 40 + [False] * 60
    one, five = seed_mean([run], seed=0), seed_mean([run] * 5, seed=0)
    assert five == pytest.approx(one, abs=0.011)


def test_runs_that_differ_widen_the_interval():
    steady, moody = [[True, False] * 50] * 4, [[True] * 100, [False] * 100, [True] * 100, [False] * 100]
    _, low, high = seed_mean(steady, seed=0)
    _, lower, higher = seed_mean(moody, seed=0)
    assert higher - lower > 3 * (high - low)
    assert (lower, higher) == (0.0, 1.0)


def test_a_difference_over_seeds_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5  # both methods miss the same questions
    second = [hard.tolist(), hard.tolist()]
    first = [(hard | (np.arange(200) < 20)).tolist()] * 2
    difference, low, high = seed_difference(first, second, seed=0)
    gained = float((~hard & (np.arange(200) < 20)).mean())
    assert difference == pytest.approx(gained) and high - low < 0.07
    assert low > 0  # an unpaired interval would be 0.19 wide
    assert seed_difference(first, second, seed=0) == (difference, low, high)


@pytest.mark.parametrize("values", [[], [[]], [[True], [True, False]]])
def test_runs_need_the_same_items(values):
    with pytest.raises(ValueError, match="pass the same items for every run"):
        seed_mean(values, seed=0)


def test_differences_need_the_same_runs():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
        seed_difference([[True, False]], [[True, False]] * 2, seed=0)


# Statistics of counts


def f1(sums):
    return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1])


def test_a_statistic_of_counts_is_drawn_over_items():
    rng = np.random.default_rng(2)
    table = rng.integers(0, 4, size=(120, 2))
    theirs = stats.bootstrap(
        (table[:, 0], table[:, 1]),
        lambda hits, faults, axis: 2 * hits.sum(axis) / (2 * hits.sum(axis) + faults.sum(axis)),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    value, low, high = bootstrap_counts(table, f1, seed=0, draws=20_000)
    assert value == pytest.approx(f1(table.sum(axis=0, keepdims=True))[0])
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    with pytest.raises(ValueError, match="no item"):
        bootstrap_counts(np.zeros((0, 2), dtype=int), f1, seed=0)
