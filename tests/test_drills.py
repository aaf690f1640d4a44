"""Drills: what is said to be right is right, worked out here a second time from the text alone."""

import re

import numpy as np
import pytest

from chainofstep.problems.tasks.claims import Comparison, Equation, read_sentence, sentences
from chainofstep.problems.tasks.drills import FORMS, drill


def drilled(form, count=120):
    generator = np.random.default_rng(0)
    return [form(generator) for _ in range(count)]


def conclusion(step):
    """The value that a step's reflection states, without its period."""
    return re.search(r" is (.+)\.$", step.reflection)[1]


@pytest.mark.parametrize("form", sorted(set(FORMS), key=lambda form: form.__name__))
def test_every_form_goes_wrong_often_and_its_gold_is_right(form):
    rights = []
    for said, gold, claims in drilled(form):
        texts = {"thought": said.thought, "reflection": said.reflection}
        spoken = [(part, sentences(texts[part][:end])[-1], holds) for part, end, holds in claims]
        for part, sentence, holds in spoken:
            (claim, *_) = read_sentence(sentence, {})
            if isinstance(claim, Equation | Comparison):
                assert claim.holds == holds, sentence
            if part == "reflection":
                assert holds == (said.reflection == gold.reflection)
        for sentence in sentences(gold.thought):
            claim = (read_sentence(sentence, {}) or [None])[0]
            assert not isinstance(claim, Equation | Comparison) or said.name.startswith("Find the ") or claim.holds
        rights.append(all(holds for _, _, holds in claims))
    assert 0.3 < np.mean(rights) < 0.85


def form(name):
    return next(form for form in FORMS if form.__name__ == name)


def test_the_winner_is_the_larger_number():
    for _, gold, claims in drilled(form("_winner")):
        told = re.findall(r"The (?:total of |sum of )?(.+?)(?: moment)? is (\d+)\.", gold.thought)
        (first, left), (second, right) = ((name, int(number)) for name, number in told)
        tie = "both the same" if "sum" in gold.reflection else "neither"
        assert conclusion(gold) == (first if left > right else second if right > left else tie)
        assert len(claims) == 2  # what is told is given, not claimed


def test_the_extreme_is_found_among_the_digits():
    for said, gold, claims in drilled(form("_extreme")):
        digits = [int(digit) for digit in re.search(r"reads (\d, \d, \d)", gold.thought)[1].split(", ")]
        assert conclusion(gold) == str(max(digits) if "largest" in gold.name else min(digits))
        compared = [read_sentence(sentence, {})[0] for sentence in sentences(said.thought)[1:]]
        others = sorted(digits)
        others.remove(int(conclusion(said)))
        assert sorted(comparison.right for comparison in compared) == others
        assert len(claims) == 3


def test_the_count_is_that_of_the_things_read():
    for _, gold, claims in drilled(form("_count")):
        colour = re.search(r"The (\w+) count", gold.reflection)[1]
        assert conclusion(gold) == str(gold.thought.count(colour))
        assert len(claims) == 1


def test_a_drill_has_steps_of_every_form_and_no_answer():
    lesson = drill(np.random.default_rng(0), steps=40)
    assert len({step.name for step in lesson.chain.steps}) > 5
    assert lesson.chain.answer is None and lesson.gold.answer is None
    assert list(lesson.steps) == [all(holds for _, _, holds in claims) for claims in lesson.claims]
    assert lesson.steps == tuple(said == gold for said, gold in zip(lesson.chain.steps, lesson.gold.steps, strict=True))
