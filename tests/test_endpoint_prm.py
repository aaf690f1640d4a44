"""Scoring through servers: the scores of the PRM in this process, in each of three ways, and what cannot be scored."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
from chainofstep.chain import REASONING_TOKENS, Chain, Step  # noqa: E402
from chainofstep.models.endpoint import endpoint_prm, endpoint_sampler  # noqa: E402
from chainofstep.models.endpoint.prm import EndpointPrm, read_class, read_next, read_pooled  # noqa: E402
from chainofstep.models.prm import PRM  # noqa: E402
from chainofstep.models.tiny import build_tiny  # noqa: E402
from chainofstep.models.vlm import VLM, add_step_tokens  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Example, ScoreFailure, StepScores  # noqa: E402
from chainofstep.search import METHODS, SearchConfig  # noqa: E402
from vlm_server import SMALL, TRIMS, VlmServer, spread_vlm  # noqa: E402

WAYS = [("vllm", "generate", "tokens"), ("sglang", "generate", "tokens"), ("vllm", "STEP", "pooling")]
WAYS += [("vllm", "ALL", "classify")]
STEPS = (Step("Read", "Row 1 is 1 2.", "1 2."), Step("Add", "1 + 2 = 3.", "3."), Step("ки", "<image> <|end|>", ""))


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return spread_vlm(seed=3, scale=3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(3), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def judge(vlm: VLM) -> VLM:
    """A PRM whose scores are apart from each other and from one half."""
    return spread_vlm(seed=0, scale=20)


@pytest.fixture(params=WAYS, ids=[f"{dialect}-{way}" for dialect, _, way in WAYS])
def served(judge: VLM, request: pytest.FixtureRequest) -> Iterator[tuple[VlmServer, str]]:
    dialect, runner, way = request.param
    with VlmServer(judge, dialect, runner=runner) as server:
        yield server, way


def prm_of(server: VlmServer, **settings: object) -> EndpointPrm:
    return endpoint_prm.__wrapped__(server.spec, attempts=2, **settings)


def chains() -> list[Chain]:
    return [Chain(STEPS[:count], answer) for count in range(4) for answer in (None, "3")]


def flat(scored: object) -> list[float]:
    assert isinstance(scored, StepScores)
    return [*scored.steps, *([] if scored.answer is None else [scored.answer])]


def test_scores_are_those_of_the_prm_in_this_process(
    served: tuple[VlmServer, str],
    judge: VLM,
    examples: list[Example],
) -> None:
    server, way = served
    items = [(example, chain) for example in examples[:2] for chain in chains()]
    server.defaults = {"repetition_penalty": 1.5, "top_p": 0.1}  # the model's generation_config.json
    prm = prm_of(server)
    ours, theirs = prm.score(items), PRM(judge).score(items)
    assert prm.way == way  # found out
    for (_, chain), our, their in zip(items, ours, theirs, strict=True):
        assert flat(our) == pytest.approx(flat(their), abs=1e-4)
        assert isinstance(our, StepScores) and len(our.steps) == len(chain.steps)
        assert (our.answer is None) == (chain.answer is None)
    every = [value for scored in ours for value in flat(scored)]
    assert max(every) - min(every) > 0.3


def test_only_new_tags_are_asked_for(judge: VLM, examples: list[Example]) -> None:
    with VlmServer(judge) as server:
        prm = prm_of(server)
        asked = []
        for chain in (Chain(STEPS[:1]), Chain(STEPS[:2]), Chain(STEPS[:2]), Chain(STEPS[:2], "3")):
            before = server.seen.questions[examples[0].question]
            prm.score([(examples[0], chain), (examples[0], chain)])
            asked.append(server.seen.questions[examples[0].question] - before)
    assert asked == [1, 1, 0, 1]
    assert (prm.scored_chains, prm.scored_steps) == (3, 3)


def test_a_chain_that_cannot_be_scored_is_a_failure_and_no_score(
    served: tuple[VlmServer, str],
    examples: list[Example],
) -> None:
    server, _ = served
    server.faults.refuses = "unanswerable"
    asked = replace(examples[0], question="unanswerable")
    lost = replace(examples[1], images=("nowhere.png",))
    chain = Chain(STEPS[:1], "3")
    refused, missing, fine = prm_of(server).score([(asked, chain), (lost, chain), (examples[0], chain)])
    assert isinstance(refused, ScoreFailure) and "HTTP 400" in refused.reason
    assert isinstance(missing, ScoreFailure) and "nowhere.png" in missing.reason
    assert isinstance(fine, StepScores)


def test_a_pooler_that_reads_elsewhere_than_at_the_tags_is_found_first(
    judge: VLM,
    examples: list[Example],
) -> None:
    with VlmServer(judge, runner="ALL") as server, pytest.raises(ValueError, match="not one number for each of 2 tags"):
        prm_of(server, way="pooling").score([(examples[0], Chain(STEPS))])


def test_a_policy_in_place_of_a_prm_is_found_first(examples: list[Example]) -> None:
    policy = build_tiny(SMALL, seed=3)
    add_step_tokens(policy, REASONING_TOKENS)
    with VlmServer(policy) as server, pytest.raises(ValueError, match="has no token 'ки': serve a model that was"):
        prm_of(server).score([(examples[0], Chain(STEPS))])


@pytest.mark.parametrize(("dialect", "runner", "way"), WAYS[::2])
def test_a_template_that_trims_is_found_first(
    judge: VLM,
    examples: list[Example],
    dialect: str,
    runner: str,
    way: str,
) -> None:
    with VlmServer(judge, dialect, runner=runner) as server:
        server.chat_template = TRIMS
        with pytest.raises(ValueError, match="does not go on with the assistant's text"):
            prm_of(server).score([(examples[0], Chain(STEPS))])


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="no way 'guess'"):
        endpoint_prm("m@http://a", way="guess")  # type: ignore[arg-type]


# What servers say


def test_two_logprobs_are_one_probability() -> None:
    names = (("token_id:4", "good"), ("token_id:5", "bad"))

    def said(*pairs: tuple[str, float]) -> dict[str, object]:
        listed = [{"token": token, "logprob": value} for token, value in pairs]
        return {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}

    # P(good) = 0.3 / (0.3 + 0.1), whatever else is likely
    assert read_next(
        said(("x", -0.1), ("token_id:4", -1.2039728), ("token_id:5", -2.3025851)), *names
    ) == pytest.approx(0.75)
    assert read_next(said(("bad", -2.3025851), ("good", -1.2039728)), *names) == pytest.approx(0.75)
    assert read_next(said(("good", -9999.0), ("bad", 0.0)), *names) == pytest.approx(0)
    for answer in (said(("good", -1.0)), {"choices": []}, {"choices": [{"logprobs": None}]}):
        with pytest.raises(ValueError, match="does not say how likely good and bad are"):
            read_next(answer, *names)


def test_what_is_no_probability_is_refused() -> None:
    assert read_pooled({"data": [{"data": [[0.25], [1.0]]}]}, 2) == [0.25, 1.0]
    for rows in ([[0.25]], [[0.25, 0.75], [0.5, 0.5]], None, [0.25, 0.5]):
        with pytest.raises(ValueError, match="not one number for each of 2 tags"):
            read_pooled({"data": [{"data": rows}]}, 2)
    with pytest.raises(ValueError, match=r"-3.5 is no probability"):
        read_pooled({"data": [{"data": [[-3.5]]}]}, 1)
    with pytest.raises(ValueError, match="nan is no probability"):
        read_class({"data": [{"probs": [float("nan")]}]})
    with pytest.raises(ValueError, match="2 classes"):
        read_class({"data": [{"probs": [0.5, 0.5]}]})


# Search over both


@pytest.mark.parametrize("method", ["greedy", "best_of_n", "step_beam"])
def test_search_runs_over_servers(vlm: VLM, judge: VLM, examples: list[Example], method: str) -> None:
    """Random weights reach no answer; what the search spent shows that it went all the way."""
    config = SearchConfig(n=4, max_tokens=12, max_steps=2)
    with VlmServer(vlm) as policy, VlmServer(judge) as prm:
        sampler = endpoint_sampler.__wrapped__(policy.spec)
        results = METHODS[method](examples[:2], sampler, prm_of(prm), config)
    assert [result.example_id for result in results] == [example.id for example in examples[:2]]
    assert sum(result.cost.sampled_tokens for result in results) > 0
