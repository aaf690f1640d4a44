"""Several servers as one: who is asked, and what happens to requests when a server dies, errs, or comes back."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
from chainofstep.llm import EndpointDown  # noqa: E402
from chainofstep.llm.records import Endpoint  # noqa: E402
from chainofstep.models.endpoint import counts, endpoint_sampler  # noqa: E402
from chainofstep.models.endpoint import pool as endpoint_pool  # noqa: E402
from chainofstep.models.endpoint.chat import prompt_key  # noqa: E402
from chainofstep.models.endpoint.pool import FEW, Open, Server, choose, ranked  # noqa: E402
from chainofstep.models.endpoint.sampler import EndpointSampler  # noqa: E402
from chainofstep.models.vlm import VLM  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Example, Request, Rollout, SamplingErrors  # noqa: E402
from vlm_server import VlmServer, spread_vlm  # noqa: E402

URLS = [f"http://gpu{number}:8000/v1" for number in range(5)]
KEYS = [f"prompt {number}".encode() for number in range(400)]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return spread_vlm(seed=3, scale=3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(3), tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def servers(vlm: VLM) -> Iterator[list[VlmServer]]:
    with VlmServer(vlm) as one, VlmServer(vlm) as two, VlmServer(vlm) as three:
        yield [one, two, three]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_pool, "FIRST_BACK_OFF", 0.02)
    monkeypatch.setattr(endpoint_pool, "LOOK_AGAIN", 0.1)


def sampler_of(servers: list[VlmServer], **settings: object) -> EndpointSampler:
    spec = "tiny@" + ",".join(server.base_url for server in servers)
    return endpoint_sampler.__wrapped__(spec, **{"attempts": 3, "concurrency": 4} | settings)


def requests_of(examples: list[Example], count: int) -> list[Request]:
    """Requests that all differ, whose samples tell which one they belong to."""
    return [Request(examples[i % len(examples)], n=2, seed=i, max_tokens=6) for i in range(count)]


def alone(server: VlmServer, requests: list[Request]) -> list[list[Rollout]]:
    return sampler_of([server]).sample(requests)


def answered(servers: list[VlmServer]) -> list[int]:
    """Requests for samples that reached each server's model, those of the checks left out."""
    return [sum(body["max_tokens"] == 6 for body in server.seen.bodies) for server in servers]


# Who is asked


def test_prompts_are_spread_over_servers() -> None:
    first = Counter(ranked(URLS, key)[0] for key in KEYS)
    assert set(first) == set(URLS) and max(first.values()) < 2 * len(KEYS) / len(URLS)


@given(st.binary(max_size=40), st.sampled_from(URLS))
def test_a_server_that_goes_moves_its_own_prompts_alone(key: bytes, gone: str) -> None:
    order = ranked(URLS, key)
    assert ranked([url for url in URLS if url != gone], key) == [url for url in order if url != gone]
    assert ranked(URLS[::-1], key) == order


def busy(*samples: int) -> list[Open]:
    return [Open(Server(Endpoint(url, "m")), None, count) for url, count in zip(URLS, samples, strict=False)]  # type: ignore[arg-type]


def test_a_prompt_stays_with_its_server_until_that_is_much_busier() -> None:
    key = next(key for key in KEYS if ranked(URLS[:2], key) == URLS[:2])
    few, mean = FEW - 1, 100
    assert choose(busy(few, 0), key, 1).server.url == URLS[0]  # a few are never too many
    assert choose(busy(few + 1, 0), key, 1).server.url == URLS[1]
    assert choose(busy(mean, mean), key, 1).server.url == URLS[0]
    assert choose(busy(2 * mean, mean), key, 1).server.url == URLS[1]  # 201 of a mean of 150.5, above 1.25 times
    assert choose(busy(0, 0), key, 10 * FEW).server.url == URLS[0]  # more than anyone may have: the least busy


def test_requests_of_one_prompt_go_to_one_server(servers: list[VlmServer], examples: list[Example]) -> None:
    sampler_of(servers, concurrency=8).sample([Request(examples[0], seed=i, max_tokens=6) for i in range(6)])
    assert sorted(answered(servers)) == [0, 0, 6]


# What happens to requests


def test_nothing_is_lost_or_doubled_when_a_server_dies(servers: list[VlmServer], examples: list[Example]) -> None:
    requests = requests_of(examples, 24)
    expected = alone(servers[0], requests)
    sampler = sampler_of(servers)
    victim = servers[Counter(owner_of(sampler, request) for request in requests).most_common(1)[0][0]]
    victim.faults.dies_after = 4  # two of the check
    assert sampler.sample(requests) == expected
    rows = {row["url"]: row for row in counts(sampler.servers)}
    assert not rows[victim.base_url]["up"] and rows[victim.base_url]["failures"] > 0
    assert sum(row["requests"] for row in rows.values()) == 24
    assert sum(row["samples"] for row in rows.values()) == 48


def owner_of(sampler: EndpointSampler, request: Request) -> int:
    urls = [server.url for server in sampler.servers]
    return urls.index(ranked(urls, prompt_key(request.example))[0])


def test_a_server_that_is_down_at_first_is_left_out(servers: list[VlmServer], examples: list[Example]) -> None:
    servers[1].faults.dead = True
    sampler = sampler_of(servers)
    assert sampler.sample(requests_of(examples, 6)) == alone(servers[0], requests_of(examples, 6))
    assert [server.up for server in sampler.servers] == [True, False, True]


def test_a_server_comes_back(servers: list[VlmServer], examples: list[Example]) -> None:
    one, two = servers[:2]
    two.faults.dead = True
    sampler = sampler_of([one, two])
    sampler.sample(requests_of(examples, 2))
    assert not sampler.servers[1].up
    two.faults.dead = False
    sampler.sample(requests_of(examples, 2))
    assert sampler.servers[1].up and sampler.servers[1].checked


def test_a_server_comes_back_while_a_call_runs(servers: list[VlmServer], examples: list[Example]) -> None:
    one, two = servers[:2]
    one.faults.latency = 0.05
    two.faults.dead = True
    sampler = sampler_of([one, two], concurrency=1)
    revived = []

    def progress(finished: int, total: int) -> None:
        two.faults.dead = False
        revived.append(sampler.servers[1].up)

    sampler.progress = progress
    assert len(sampler.sample(requests_of(examples, 20))) == 20
    assert not revived[0] and revived[-1]
    assert sampler.servers[1].requests > 0


def test_all_down_is_said_in_one_line(servers: list[VlmServer], examples: list[Example]) -> None:
    servers[0].faults.dies_after = 2  # those of the check
    servers[1].faults.dies_after = 2
    sampler = sampler_of(servers[:2])
    with pytest.raises(EndpointDown, match=r"no server answers: .*cut reply.*start one") as caught:
        sampler.sample(requests_of(examples, 12))
    assert not isinstance(caught.value, SamplingErrors)
    assert "\n" not in str(caught.value) and all(server.base_url in str(caught.value) for server in servers[:2])
    with pytest.raises(EndpointDown, match="no connection"):
        endpoint_sampler("tiny@http://127.0.0.1:9").sample(requests_of(examples, 1))


def test_what_was_sampled_is_kept_when_all_die(servers: list[VlmServer], examples: list[Example]) -> None:
    requests = requests_of(examples, 12)
    expected = alone(servers[2], requests)
    servers[0].faults.dies_after = servers[1].faults.dies_after = 5  # two of the check, so three samples of each
    sampler = sampler_of(servers[:2], concurrency=1)
    with pytest.raises(SamplingErrors, match="no server answers") as caught:
        sampler.sample(requests)
    assert isinstance(caught.value, EndpointDown)
    met = {n: rollouts for n, rollouts in enumerate(caught.value.results) if rollouts is not None}
    assert len(met) == 6 and met == {n: expected[n] for n in met}
    assert set(caught.value.failures) == set(range(12)) - set(met)
    with pytest.raises(EndpointDown) as caught_again:
        sampler.sample(requests)
    assert not isinstance(caught_again.value, SamplingErrors)


def test_errors_in_the_check_are_tried_again(servers: list[VlmServer], examples: list[Example]) -> None:
    requests = requests_of(examples, 2)
    expected = alone(servers[1], requests)
    servers[0].faults.errors = 2
    sampler = sampler_of(servers[:1])
    assert sampler.sample(requests) == expected
    servers[2].faults.errors = 3  # as many as there are attempts
    with pytest.raises(EndpointDown, match=r"no server answers: .*HTTP 500"):
        sampler_of(servers[2:]).sample(requests)
    assert servers[2].faults.errors == 0


def test_errors_of_a_server_that_is_well_are_tried_again(servers: list[VlmServer], examples: list[Example]) -> None:
    requests = requests_of(examples, 4)
    expected = alone(servers[0], requests)
    sampler = sampler_of(servers[:1])
    sampler.sample(requests[:1])
    servers[0].faults.errors = 2
    assert sampler.sample(requests) == expected
    assert sampler.servers[0].failures == 2 and sampler.servers[0].up


def test_a_request_that_always_errs_fails_alone(servers: list[VlmServer], examples: list[Example]) -> None:
    sampler = sampler_of(servers[:1], concurrency=1)
    sampler.sample(requests_of(examples, 1))
    servers[0].faults.errors = 3
    with pytest.raises(SamplingErrors) as caught:
        sampler.sample(requests_of(examples, 3))
    assert list(caught.value.failures) == [0] and "HTTP 500" in caught.value.failures[0]
    assert [rollouts is None for rollouts in caught.value.results] == [True, False, False]


def test_a_server_that_is_too_slow_times_out(servers: list[VlmServer], examples: list[Example]) -> None:
    sampler = sampler_of(servers[:1], attempts=1, timeout_seconds=1)
    sampler.sample(requests_of(examples, 1))
    servers[0].faults.latency = 2
    started = time.monotonic()
    with pytest.raises(SamplingErrors, match="time-out: no whole reply within 1 s"):
        sampler.sample(requests_of(examples, 1))
    assert time.monotonic() - started < 10


def test_servers_of_two_kinds_are_not_one(vlm: VLM, examples: list[Example]) -> None:
    with VlmServer(vlm) as one, VlmServer(vlm, "sglang") as two, pytest.raises(ValueError, match="servers of one kind"):
        sampler_of([one, two]).sample(requests_of(examples, 1))


def test_one_wrong_model_among_several_is_found_first(vlm: VLM, examples: list[Example]) -> None:
    with VlmServer(vlm) as one, VlmServer(vlm, model="other") as two:
        with pytest.raises(ValueError, match=f"{two.base_url} serves other and not tiny"):
            sampler_of([one, two]).sample(requests_of(examples, 1))
        assert answered([one, two]) == [0, 0]
