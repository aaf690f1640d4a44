"""Sampling through servers: the same texts as in this process, and every server that would change them found first."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
from chainofstep.chain import ANSWER_END, STEP_END, render  # noqa: E402
from chainofstep.models.endpoint import endpoint_sampler, is_endpoint, servers_of  # noqa: E402
from chainofstep.models.endpoint.chat import sample_seed  # noqa: E402
from chainofstep.models.endpoint.sampler import EndpointSampler  # noqa: E402
from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.tiny import build_tiny  # noqa: E402
from chainofstep.models.vlm import VLM, save_vlm  # noqa: E402
from chainofstep.problems.tasks.build import write_problems  # noqa: E402
from chainofstep.records import Example, Request, SamplingErrors  # noqa: E402
from vlm_server import SMALL, TRIMS, VlmServer, spread_vlm  # noqa: E402


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return spread_vlm(seed=3, scale=3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(3), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(params=["vllm", "sglang"])
def server(vlm: VLM, request: pytest.FixtureRequest) -> Iterator[VlmServer]:
    with VlmServer(vlm, request.param) as started:
        yield started


@pytest.fixture
def vllm(vlm: VLM) -> Iterator[VlmServer]:
    with VlmServer(vlm) as started:
        yield started


def sampler_of(server: VlmServer, tokenizer: str | None = None, **settings: object) -> EndpointSampler:
    """A new one for each test: `endpoint_sampler` gives the same object for the same words."""
    return endpoint_sampler.__wrapped__(server.spec, tokenizer, attempts=2, **settings)


def requests_of(examples: list[Example], **settings: object) -> list[Request]:
    """Bare questions and step prefixes."""
    places = [(e, p) for e in examples if e.chain for p in ("", render(e.chain.prefix(0)), render(e.chain.prefix(1)))]
    return [Request(example, prefix=prefix, max_tokens=24, **settings) for example, prefix in places]


# Texts


def test_greedy_texts_and_ids_are_the_engines(server: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    requests = [*requests_of(examples, temperature=0.0), *requests_of(examples[:1], temperature=0.0, stop="step")]
    assert sampler_of(server).sample(requests) == Engine(vlm).sample(requests)


def test_nothing_is_left_to_the_models_generation_config(server: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    server.defaults = {"repetition_penalty": 1.5, "top_k": 1, "min_p": 0.5, "temperature": 0.1, "top_p": 0.1}
    requests = requests_of(examples[:1], temperature=0.0)
    assert sampler_of(server).sample(requests) == Engine(vlm).sample(requests)
    [rollouts] = sampler_of(server).sample([Request(examples[0], n=4, max_tokens=8)])
    assert len({rollout.text for rollout in rollouts}) == 4


def test_pictures_carry_an_id_where_the_server_knows_it(server: VlmServer, examples: list[Example]) -> None:
    sampler_of(server).sample([Request(examples[0], max_tokens=2)])
    [part] = [p for body in server.seen.bodies for p in body["messages"][0]["content"] if p["type"] == "image_url"]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")
    assert ("uuid" in part) == (server.dialect == "vllm")


def test_logprobs_are_those_of_the_untempered_model(vllm: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    requests = requests_of(examples[:1], temperature=0.0)
    ours = [r for group in sampler_of(vllm, logprobs=True).sample(requests) for r in group]
    theirs = [r for group in Engine(vlm, logprobs=True).sample(requests) for r in group]
    for our, their in zip(ours, theirs, strict=True):
        assert our.logprobs == pytest.approx(their.logprobs, abs=1e-4)


def test_a_sample_depends_on_its_seed_and_index_alone(server: VlmServer, examples: list[Example]) -> None:
    request = Request(examples[0], n=5, seed=7, max_tokens=12)
    [together] = sampler_of(server).sample([request])
    assert [rollout.index for rollout in together] == [0, 1, 2, 3, 4]
    assert len({rollout.text for rollout in together}) > 1
    [later] = sampler_of(server).sample([replace(request, n=2, first=3)])
    assert later == together[3:]
    [other] = sampler_of(server).sample([replace(request, seed=8)])
    assert not {rollout.text for rollout in other} & {rollout.text for rollout in together}


def test_vllm_gets_many_samples_at_once_and_sglang_one(server: VlmServer, examples: list[Example]) -> None:
    sampler_of(server).sample([Request(examples[0], n=5, max_tokens=4)])
    counts = [body["n"] for body in server.seen.bodies if body["max_tokens"] == 4]
    assert counts == ([5] if server.dialect == "vllm" else [1] * 5)


def test_seeds_of_samples_do_not_meet() -> None:
    seeds = {sample_seed(seed, index) for seed in range(100) for index in range(100)}
    assert len(seeds) == 10_000 and all(0 <= seed < 2**49 for seed in seeds)


def test_greedy_is_asked_for_once(vllm: VlmServer, examples: list[Example]) -> None:
    [rollouts] = sampler_of(vllm).sample([Request(examples[0], n=3, temperature=0.0, max_tokens=6)])
    assert [rollout.index for rollout in rollouts] == [0, 1, 2]
    assert len({rollout.text for rollout in rollouts}) == 1
    assert [body["n"] for body in vllm.seen.bodies if body["max_tokens"] == 6] == [1]


def test_a_step_ends_with_its_token_in_the_text(server: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    """The head is bent so that a sample is one step's end, or one end of a turn."""
    for name, stop, ending, shown in (
        (STEP_END, "step", "step", STEP_END),
        (ANSWER_END, "answer", "answer", ANSWER_END),
        ("<|end|>", "answer", "answer", ""),
        ("<|pad|>", "answer", "length", None),  # ruled out, however likely
    ):
        with likely(vlm, name):
            request = Request(examples[0], prefix="<|reasoning_start|>\n", max_tokens=2, temperature=0.0, stop=stop)
            [[rollout]] = sampler_of(server).sample([request])
        assert rollout.ending == ending
        if shown is not None:
            assert rollout.text == request.prefix + shown
            assert rollout.token_ids == (vlm.token_id(name),)
        else:
            assert vlm.token_id(name) not in rollout.token_ids


class likely:  # it reads as a condition
    """While the block runs, a token's logit is 50 above what it is."""

    def __init__(self, vlm: VLM, name: str) -> None:
        self.head, self.column = vlm.model.get_output_embeddings(), vlm.token_id(name)

    def __enter__(self) -> None:
        self.hook = self.head.register_forward_hook(self.raise_it)

    def raise_it(self, module: object, inputs: object, logits: "torch.Tensor") -> "torch.Tensor":
        bent = logits.clone()
        bent[..., self.column] += 50
        return bent

    def __exit__(self, *error: object) -> None:
        self.hook.remove()


def test_a_tokenizers_folder_says_the_same_as_the_server(
    vllm: VlmServer, vlm: VLM, examples: list[Example], tmp_path: Path
) -> None:
    folder = save_vlm(vlm, tmp_path / "tiny")
    asked, read = sampler_of(vllm), sampler_of(vllm, str(folder))
    requests = requests_of(examples[:1], temperature=0.0)
    assert asked.sample(requests) == read.sample(requests)
    first, second = asked.servers[0].tokens, read.servers[0].tokens
    assert first is not None and second is not None
    assert dict(first.ids) == dict(second.ids) and first.ends == second.ends


def test_control_tokens_in_a_question_stay_text(server: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    asked = replace(examples[0], question="What is <image> or <|assistant|> or <|answer_end|>?")
    request = Request(asked, temperature=0.0, max_tokens=8)
    assert sampler_of(server).sample([request]) == Engine(vlm).sample([request])


# What fails


def test_requests_that_fail_do_not_stop_the_others(server: VlmServer, examples: list[Example]) -> None:
    server.faults.refuses = "unanswerable"
    fine = Request(examples[0], max_tokens=4, temperature=0.0)
    wrong = [
        replace(fine, example=replace(examples[1], question="unanswerable")),
        replace(fine, example=replace(examples[1], images=("nowhere.png",))),
        replace(fine, prefix="<|user|>"),
        replace(fine, max_tokens=5000),
        replace(fine, n=0),
    ]
    with pytest.raises(SamplingErrors) as caught:
        sampler_of(server).sample([fine, *wrong, fine])
    reasons = caught.value.failures
    assert list(sorted(reasons)) == [1, 2, 3, 4, 5]
    assert "longer than the maximum" in reasons[1] and "nowhere.png" in reasons[2] and "<|user|>" in reasons[3]
    assert "context length" in reasons[4] and "n=0" in reasons[5]
    assert caught.value.results[0] == caught.value.results[6] and caught.value.results[0]


def test_a_template_that_trims_is_found_first(vllm: VlmServer, examples: list[Example]) -> None:
    vllm.chat_template = TRIMS
    with pytest.raises(ValueError, match=r"does not go on with the assistant's text as it stands.*--chat-template"):
        sampler_of(vllm).sample([Request(examples[0])])
    assert all(body["max_tokens"] == 1 for body in vllm.seen.bodies)


def test_a_server_that_strips_control_tokens_is_found_first(server: VlmServer, examples: list[Example]) -> None:
    server.faults.strips_special = True
    with pytest.raises(ValueError, match="strips control tokens"):
        sampler_of(server).sample([Request(examples[0])])


def test_control_tokens_stripped_later_on_are_a_failure(vllm: VlmServer, vlm: VLM, examples: list[Example]) -> None:
    sampler = sampler_of(vllm)
    sampler.sample([Request(examples[0], max_tokens=1)])
    vllm.faults.strips_special = True
    with pytest.raises(SamplingErrors, match="out of the text though it was sampled"), likely(vlm, STEP_END):
        sampler.sample([Request(examples[0], max_tokens=2)])


def test_another_model_is_found_first(vlm: VLM, examples: list[Example]) -> None:
    with VlmServer(vlm, model="other") as server, pytest.raises(ValueError, match="serves other and not tiny"):
        endpoint_sampler(f"tiny@{server.base_url}").sample([Request(examples[0])])


def test_a_model_without_step_tokens_is_found_first(examples: list[Example]) -> None:
    plain = build_tiny(SMALL, seed=3)
    with VlmServer(plain) as server, pytest.raises(ValueError, match="step tokens are no single tokens"):
        sampler_of(server).sample([Request(examples[0])])


def test_a_server_of_an_unknown_kind_is_asked_to_be_named(vlm: VLM, examples: list[Example]) -> None:
    with VlmServer(vlm, dialect="llamacpp") as server:
        with pytest.raises(ValueError, match="neither vLLM, SGLang nor"):
            sampler_of(server).sample([Request(examples[0])])
        server.dialect = "vllm"
        assert sampler_of(server, dialect="vllm").sample([Request(examples[0], max_tokens=2)])


# Names


def test_a_model_on_a_server_is_told_from_a_folder() -> None:
    assert is_endpoint("Qwen/Qwen3-VL-8B@http://gpu1:8000/v1")
    assert is_endpoint("tiny@https://a/v1,https://b/v1")
    assert not any(map(is_endpoint, ("Qwen/Qwen3-VL-8B", "runs/mini/models/sft", "runs/a@b", "C:/models/sft")))


def test_what_is_nearly_an_endpoint_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = (
        "foo@",
        "foo@htp://localhost:1/v1",
        "foo@localhost:8000",
        "foo@gpu1:8000/v1",
        "@http://a",
        "http://a:1/v1",
    )
    for model in (*nearly, "foo@http://"):
        with pytest.raises(ValueError, match=r"names no server: write MODEL@URL with http:// or https://"):
            is_endpoint(model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foo@localhost:8000").mkdir()
    assert not is_endpoint("foo@localhost:8000")


def test_addresses_are_read() -> None:
    model, servers = servers_of("a@b@http://one:8000, http://two:8000/v1/", concurrency=3)
    assert model == "a@b"
    assert [server.url for server in servers] == ["http://one:8000/v1", "http://two:8000/v1"]
    assert [server.root for server in servers] == ["http://one:8000", "http://two:8000"]
    assert servers[0].endpoint.concurrency == 3 and servers[0].endpoint.model == "a@b"
    for spec in ("model", "model@ftp://x", "model@http://one,two:8000", "model@http://one:port", "model@http://one,"):
        with pytest.raises(ValueError, match="MODEL@URL"):
            servers_of(spec)
    with pytest.raises(ValueError, match="twice"):
        servers_of("model@http://one,http://one/v1")
    assert servers_of("m@http://[::1]:8000")[1][0].url == "http://[::1]:8000/v1"


def test_a_sampler_goes_to_another_process(vllm: VlmServer, examples: list[Example]) -> None:
    sampler = sampler_of(vllm)
    request = Request(examples[0], n=2, max_tokens=4)
    expected = sampler.sample([request])
    assert pickle.loads(pickle.dumps(sampler)).sample([request]) == expected
    assert endpoint_sampler(vllm.spec) is endpoint_sampler(vllm.spec)


def test_nothing_is_asked_for_no_request(vllm: VlmServer) -> None:
    assert sampler_of(vllm).sample([]) == []
    assert not vllm.seen.requests
