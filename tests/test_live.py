"""Many threads on one engine and PRM: each gets what it would get alone, and who goes away costs nothing more."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chainofstep.chain import Chain, Step
from chainofstep.models.calls import Cancelled
from chainofstep.models.engine import Engine
from chainofstep.models.flight import Flight
from chainofstep.models.live import CHAINS, Live
from chainofstep.models.prefix_attention import CHUNK
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request, SamplingErrors, ScoreFailure
from vlm_server import spread_vlm

TOKENS = 24


@pytest.fixture(scope="module")
def policy() -> VLM:
    return spread_vlm(3, 2.0)


@pytest.fixture(scope="module")
def judge() -> VLM:
    return spread_vlm(4, 2.0)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(12), tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def live(policy: VLM, judge: VLM) -> Iterator[Live]:
    with Live(Engine(policy, logprobs=True), PRM(judge)) as live:
        yield live


def asked(example: Example, number: int = 0, n: int = 3, tokens: int = TOKENS) -> Request:
    return Request(example, n=n, seed=number, max_tokens=tokens)


def texts(groups: list) -> list[list[tuple]]:
    return [[(rollout.text, rollout.token_ids, rollout.ending, rollout.index) for rollout in group] for group in groups]


def wait_until(holds) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_of_many_threads_gets_what_the_engine_gives_it_alone(live, policy, examples):
    requests = [[asked(example, number), asked(example, number + 100, n=1)] for number, example in enumerate(examples)]
    with ThreadPoolExecutor(len(requests)) as threads:
        found = list(threads.map(lambda own: live.caller().sample(own), requests))
    alone = Engine(policy)
    assert [texts(groups) for groups in found] == [texts(alone.sample(own)) for own in requests]


def test_each_of_many_threads_gets_the_scores_that_the_prm_gives_it_alone(live, judge, examples):
    items = [[(e, e.chain), (e, e.chain.prefix(1))] * 3 for e in examples]
    with ThreadPoolExecutor(len(items)) as threads:
        found = list(threads.map(lambda own: live.caller().score(own), items))
    alone = PRM(judge)
    for scores, own in zip(found, items, strict=True):
        expected = alone.score(own)
        assert [s.steps for s in scores] == [pytest.approx(e.steps, abs=1e-5) for e in expected]
        assert [s.answer for s in scores] == [pytest.approx(e.answer, abs=1e-5) for e in expected]


def test_a_long_call_is_scored_in_parts_and_in_order(live, judge, examples):
    items = [(example, example.chain) for example in examples] * (2 * CHAINS // len(examples) + 1)
    assert len(items) > 2 * CHAINS
    scores = live.caller().score(items)
    assert len(scores) == len(items)
    expected = PRM(judge).score(items[: len(examples)])
    for place, score in enumerate(scores):
        assert score.steps == pytest.approx(expected[place % len(examples)].steps, abs=1e-5)


def test_requests_of_one_call_that_cannot_be_met_leave_the_others(live, examples):
    with pytest.raises(SamplingErrors, match="n=0") as raised:
        live.caller().sample([asked(examples[0]), asked(examples[1], n=0)])
    assert [None if group is None else len(group) for group in raised.value.results] == [3, None]
    assert list(raised.value.failures) == [1]
    assert len(live.caller().sample([asked(examples[0])])[0]) == 3  # and the next call is as if nothing had been


def test_a_chain_that_cannot_be_scored_is_a_failure_of_its_own(live, examples):
    lost = Example("lost", "What?", ("/nowhere/picture.png",), "", "word")
    scores = live.caller().score([(lost, examples[0].chain), (examples[0], examples[0].chain)])
    assert isinstance(scores[0], ScoreFailure) and "does not exist" in scores[0].reason
    assert len(scores[1].steps) == len(examples[0].chain.steps)


def test_updates_grow_into_the_texts_of_the_result(live, examples):
    caller = live.caller()
    call = caller.begin([asked(examples[0], n=2, tokens=64), asked(examples[1], n=1, tokens=64)], watched=True)
    seen: dict[tuple[int, int], list[str]] = {}
    finished = []
    for update in call.updates():
        finished.append(update.finished)
        for key, text in update.texts.items():
            seen.setdefault(key, []).append(text)
    result = call.result()
    assert finished == sorted(finished) and finished[-1] == 3
    assert len(seen) >= 2
    for (request, index), parts in seen.items():
        whole = result[request][index].text
        assert all(whole.startswith(part.rstrip("\ufffd")) for part in parts)
        assert len(parts[-1]) >= len(parts[0])


def test_who_goes_away_leaves_the_flight_at_once(live, examples):
    caller = live.caller()
    gone = ThreadPoolExecutor(1).submit(caller.sample, [asked(examples[0], n=8, tokens=200)])
    wait_until(lambda: live.running == 8)
    before = live.engine.sampled_tokens
    caller.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=10)
    wait_until(lambda: live.running == 0 and live.waiting == 0)
    assert live.engine.sampled_tokens - before < 8 * 200
    with pytest.raises(Cancelled):  # and asks for nothing any more
        caller.sample([asked(examples[0])])
    assert len(live.caller().sample([asked(examples[0])])[0]) == 3


def test_others_get_the_same_texts_when_one_goes_away(live, policy, examples):
    leaving, staying = live.caller(), live.caller()
    call = staying.begin([asked(examples[1], 5, tokens=60)])
    gone = leaving.begin([asked(examples[0], n=8, tokens=200)])
    wait_until(lambda: live.running >= 8)
    leaving.cancel()
    assert texts(call.result()) == texts(Engine(policy).sample([asked(examples[1], 5, tokens=60)]))
    with pytest.raises(Cancelled):
        gone.result()


def test_closing_ends_who_waits_and_refuses_who_comes(policy, examples):
    with Live(Engine(policy)) as live:
        call = live.caller().begin([asked(examples[0], n=8, tokens=200)])
    with pytest.raises(Cancelled):
        call.result()
    with pytest.raises(Cancelled):
        live.caller().sample([asked(examples[0])])
    with pytest.raises(ValueError, match="no PRM"):
        live.caller().score([(examples[0], examples[0].chain)])


def test_a_fault_of_the_device_reaches_all_who_wait_and_the_next_call_works(live, examples, monkeypatch):
    flight_steps = {"left": 3}

    step = Flight._step

    def failing(self):
        flight_steps["left"] -= 1
        if flight_steps["left"] == 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        step(self)

    monkeypatch.setattr(Flight, "_step", failing)
    calls = [live.caller().begin([asked(example)]) for example in examples[:3]]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        calls[0].result()
    for call in calls[1:]:  # those that had joined fail with it, those that came later are sampled
        try:
            assert len(call.result()[0]) == 3
        except RuntimeError as error:
            assert "illegal memory access" in str(error)
    assert len(live.caller().sample([asked(examples[0])])[0]) == 3


def test_nothing_of_finished_calls_is_kept(live, examples):
    for round_number in range(3):
        for example in examples:
            live.caller().sample([asked(example, round_number, n=2, tokens=8)])
    assert live._calls == {} and live._arrived == [] and not live._scoring
    flights = [thread for thread in threading.enumerate() if thread.name == "models"]
    assert len(flights) == 1


def test_rows_that_join_later_are_sampled_as_if_alone_whatever_is_in_flight(policy, examples):
    """Cohorts of several ages are put together, rows leave in between, and each text is what it is by itself."""
    engine = Engine(policy, logprobs=True)
    requests = [asked(example, number, n=1 + number % 3, tokens=10 + 13 * (number % 5)) for number, example in
                enumerate(examples)]  # fmt: skip
    expected = texts(Engine(policy).sample(requests))
    found: dict[tuple[int, int], tuple] = {}
    with engine.mode():
        flight = Flight(engine)
        largest = turn = 0
        waiting = list(requests)
        while waiting or flight.unfinished:
            if waiting and turn % 2 == 0:
                flight.join([waiting.pop(0)])
            for number, rollout in flight.advance():
                found[number, rollout.index] = texts([[rollout]])[0][0]
            largest = max([largest, *(len(set(cohort.starts)) for cohort in flight.cohorts)])
            turn += 1
    assert largest > 2  # rows of several ages did lie side by side
    assert [[found[number, i] for i in range(r.n)] for number, r in enumerate(requests)] == expected
    assert not flight.open and not flight.users and not flight.lengths and not flight.examples


def test_a_flight_that_never_ends_does_not_grow(policy, examples):
    engine = Engine(policy)
    with engine.mode():
        flight = Flight(engine)
        columns = []
        for number in range(60):
            flight.join([asked(examples[number % 12], number, n=1, tokens=24)])
            flight.advance()
            columns += [cohort.tokens.shape[1] for cohort in flight.cohorts]
    assert max(columns) <= 2 * CHUNK  # 60 rows, one after the other, took 240 steps
    assert len(flight.open) < 20


def test_text_that_no_tokenizer_takes_fails_alone(live, policy, judge, examples):
    odd = Example("odd", "half a \ud800 pair", examples[0].images, "", "word")
    gone = live.caller().begin([asked(odd)])
    staying = live.caller().begin([asked(examples[1], 4)])
    with pytest.raises(SamplingErrors):
        gone.result()
    assert texts(staying.result()) == texts(Engine(policy).sample([asked(examples[1], 4)]))
    step = Step("half \udfff", "of it", "is lost")
    found = live.caller().score([(examples[0], Chain((step,))), (examples[0], examples[0].chain)])
    assert isinstance(found[0], ScoreFailure) and found[1].steps == pytest.approx(
        PRM(judge).score([(examples[0], examples[0].chain)])[0].steps, abs=1e-5
    )


@pytest.mark.parametrize("temperature", [1e-7, 1e-38, 5e-324])
def test_a_temperature_next_to_nothing_is_greedy(live, examples, temperature):
    cold = Request(examples[0], n=2, seed=3, max_tokens=TOKENS, temperature=temperature, top_p=0.9)
    greedy = Request(examples[0], n=2, seed=3, max_tokens=TOKENS, temperature=0.0)
    assert texts(live.caller().sample([cold])) == texts(live.caller().sample([greedy]))
