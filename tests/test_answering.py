"""Answering while someone watches: what is told is what the methods decide, and the result is theirs alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chainofstep.answering import AnswerMade, Models, Progress, StepMade, TextMade, answer, complete, open_models
from chainofstep.answering.answer import ANSWERING
from chainofstep.answering.events import Teller
from chainofstep.chain import STEP_END, Chain, Step, parse_prefix
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import load_vlm
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request, StepScores
from chainofstep.search import METHODS, SearchConfig
from taught import write_taught

A, B, C, D = (Step(name, f"{name} thought", f"{name} reflection") for name in "ABCD")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    write_taught(folder)
    return folder


@pytest.fixture(scope="module")
def example(folder: Path) -> Example:
    return write_problems("test", range(1), folder)[0]


@pytest.fixture(scope="module")
def models(folder: Path) -> Iterator[Models]:
    with open_models(str(folder / "policy"), str(folder / "prm"), logprobs=True) as models:
        yield models


CONFIG = SearchConfig(n=4, width=1, temperature=0.4, max_tokens=120, seed=3)


def test_the_taught_policy_writes_chains(models, example):
    [found] = complete(models.caller(), Request(example, temperature=0.0, max_tokens=120))
    assert found.rollout.chain is not None and len(found.rollout.chain.steps) == 2
    assert isinstance(found.scores, StepScores) and len(found.scores.steps) == 2


@pytest.mark.parametrize("method", ANSWERING)
def test_a_watched_answer_is_what_the_method_gives_alone(models, folder, example, method):
    events: list = []
    result = answer(models.caller(), example, method, CONFIG, events.append)
    engine, prm = Engine(load_vlm(folder / "policy")), PRM(load_vlm(folder / "prm"))
    [alone] = METHODS[method]([example], engine, prm, CONFIG)
    assert (result.text, result.answer, result.cost.sampled_tokens) == (
        alone.text,
        alone.answer,
        alone.cost.sampled_tokens,
    )
    assert result.chain is not None and isinstance(result.scores, StepScores)
    expected = prm.score([(example, result.chain)])[0]
    assert result.scores.steps == pytest.approx(expected.steps, abs=1e-5)
    told = [event for event in events if isinstance(event, StepMade)]
    assert tuple(event.step for event in told) == result.chain.steps
    assert [event.number for event in told] == list(range(len(told)))
    assert [event.score for event in told] == pytest.approx(list(expected.steps), abs=1e-5)
    assert result.cost.scored_chains >= 1 and result.cost.scored_steps >= len(told)
    assert events[-1] == AnswerMade(0, result.chain.answer, pytest.approx(expected.answer, abs=1e-5))


def test_a_greedy_step_is_told_before_the_answer_is_sampled(models, example):
    seen = []
    answer(models.caller(), example, "greedy", CONFIG, lambda e: seen.append((e, models.sampled_tokens)))
    first = next(tokens for event, tokens in seen if isinstance(event, StepMade))
    last = seen[-1][1]
    assert first < last  # tokens of a row count when it ends: the first step was told before it had


def test_a_pool_tells_how_many_samples_are_done(models, example):
    events: list = []
    answer(models.caller(), example, "self_consistency", CONFIG, events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.of for event in progress] == [4] * len(progress)
    assert progress[-1].samples == 4


def test_texts_of_several_samples_grow_into_what_is_returned(models, example):
    events: list = []
    request = Request(example, n=3, seed=5, max_tokens=120, first=2, temperature=0.3)
    found = complete(models.caller(), request, events.append, texts=True)
    assert [completion.rollout.index for completion in found] == [2, 3, 4]
    for choice, completion in enumerate(found):
        texts = [event.text for event in events if isinstance(event, TextMade) and event.choice == choice]
        assert texts[-1] == completion.rollout.text
        assert all(completion.rollout.text.startswith(text) for text in texts)
        steps = [event.step for event in events if isinstance(event, StepMade) and event.choice == choice]
        assert tuple(steps) == parse_prefix(completion.rollout.text).chain.steps


def test_a_text_goes_on_from_its_prefix_and_tells_its_steps_too(models, example):
    [whole] = complete(models.caller(), Request(example, temperature=0.0, max_tokens=120))
    cut = whole.rollout.text.partition(STEP_END)[0] + STEP_END
    events: list = []
    request = Request(example, temperature=0.0, max_tokens=120, prefix=cut)
    [found] = complete(models.caller(), request, events.append, texts=True)
    assert found.rollout.text == whole.rollout.text
    assert [e.text for e in events if isinstance(e, TextMade)][-1] == whole.rollout.text[len(cut) :]
    assert [e.number for e in events if isinstance(e, StepMade)] == [0, 1]


def test_without_a_prm_steps_have_no_scores_and_methods_by_score_say_so(folder, example):
    with open_models(str(folder / "policy")) as models:
        events: list = []
        result = answer(models.caller(), example, "greedy", CONFIG, events.append)
        assert result.scores is None
        assert [e.score for e in events if isinstance(e, StepMade)] == [None, None]
        with pytest.raises(ValueError, match="best_of_n goes by step scores"):
            answer(models.caller(), example, "best_of_n", CONFIG)


def test_what_is_wrong_is_said(models, example):
    with pytest.raises(ValueError, match="no method 'pass_at_n'"):
        answer(models.caller(), example, "pass_at_n", CONFIG)
    with pytest.raises(ValueError, match="choose a width that divides n"):
        answer(models.caller(), example, "step_beam", replace(CONFIG, width=3))
    with pytest.raises(ValueError, match="exceed the model's context"):
        complete(models.caller(), Request(example, max_tokens=10**6))


def test_a_step_that_changes_is_told_again_and_one_that_is_known_is_not():
    told: list = []
    teller = Teller(told.append)
    teller.steps([A, B], [0.5, 0.25])
    teller.steps([A], [0.5])  # what is known of a longer chain stays
    teller.steps([A, B, C], [0.5, 0.25, 0.125])
    teller.chain(Chain((A, D), "7"), StepScores((0.5, 0.75), 1.0))
    assert [(e.number, e.step.name, e.score) for e in told[:-1]] == [
        (0, "A", 0.5),
        (1, "B", 0.25),
        (2, "C", 0.125),
        (1, "D", 0.75),
    ]
    assert told[-1] == AnswerMade(0, "7", 1.0)
