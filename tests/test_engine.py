"""The engine against plain full forwards of the stock model: the same numbers, the same texts, the right endings."""

import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chainofstep.chain import ANSWER_END, PRM_TOKENS, REASONING_START, STEP_END, STEP_START, render
from chainofstep.models.batch import PromptCache
from chainofstep.models.encode import encode_prompt, encode_text
from chainofstep.models.engine import Engine
from chainofstep.models.levels import merge, partial_softmax
from chainofstep.models.sampling import Settings, choose, control_tokens, least_kept, stream_keys, uniforms
from chainofstep.models.tiny import IMAGE, PAD, ROLES, Shape, build_tiny
from chainofstep.models.trunks import plan
from chainofstep.models.vlm import VLM, add_step_tokens
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request, Rollout, SamplingErrors

SMALL = Shape(vision_width=32, vision_layers=1, width=64, layers=2, heads=4, key_value_heads=2, feed_forward=64)
SPREAD = 2.0  # random heads are nearly flat; this spreads their logits


@pytest.fixture(scope="module")
def vlm() -> VLM:
    built = build_tiny(SMALL, seed=3)
    add_step_tokens(built)
    with torch.no_grad():
        for parameter in built.model.get_output_embeddings().parameters():
            parameter.mul_(SPREAD)
    return built


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(8), tmp_path_factory.mktemp("pictures"))


def prefixes(example: Example) -> list[str]:
    """The text before every step of the gold chain."""
    assert example.chain is not None
    return [render(example.chain.prefix(count)) for count in range(len(example.chain.steps))]


def full_logits(vlm: VLM, example: Example, text: str, sampled: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits [tokens + 1, V] that predict each sampled token and the one after, by a stock forward without a cache."""
    prompt = encode_prompt(vlm, example)
    before = [*prompt.ids.tolist(), *encode_text(vlm, text)]
    with torch.no_grad():
        output = vlm.model(input_ids=torch.tensor([[*before, *sampled]]), use_cache=False, **prompt.images)
    return output.logits[0, len(before) - 1 :]


def allowed_probabilities(vlm: VLM, logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[..., list(control_tokens(vlm).forbidden)] = -torch.inf
    return logits.softmax(-1)


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def mixed_requests(examples: list[Example]) -> list[Request]:
    """64 requests: bare questions and step prefixes, several limits, numbers of samples and ways to stop."""
    places = [(example, prefix) for example in examples for prefix in ("", *prefixes(example))]
    return [
        Request(
            *(places[i % len(places)][0], 1 + i % 3, places[i % len(places)][1], i, 8 + i % 17),
            stop="step" if i % 5 == 0 else "answer",
        )
        for i in range(64)
    ]


def test_logprobs_are_those_of_a_full_forward_without_cache(vlm: VLM, examples: list[Example]) -> None:
    requests = [
        Request(example, 3, prefix, seed=7, max_tokens=70)
        for example in examples[:3]
        for prefix in ("", *prefixes(example))
    ]
    for request, rollouts in zip(requests, Engine(vlm, logprobs=True).sample(requests), strict=True):
        for rollout in rollouts:
            logits = full_logits(vlm, request.example, request.prefix, rollout.token_ids)[:-1]
            expected = logits.log_softmax(-1)[range(len(rollout.token_ids)), list(rollout.token_ids)]
            assert rollout.logprobs is not None
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)


def test_a_batch_with_shared_prefixes_equals_one_sample_at_a_time(vlm: VLM, examples: list[Example]) -> None:
    requests = [Request(examples[0], 4, prefix, 5, 30) for prefix in prefixes(examples[0])]
    together = Engine(vlm).sample(requests)
    for request, rollouts in zip(requests, together, strict=True):
        # With a budget of one position every row is a cohort of its own.
        assert Engine(vlm, token_budget=1).sample([request]) == [rollouts]


def test_texts_do_not_depend_on_batch_size_or_order(vlm: VLM, examples: list[Example]) -> None:
    requests = mixed_requests(examples)
    expected = [r.text for r in flat(Engine(vlm).sample(requests))]
    for size in (1, 7):
        parts = [Engine(vlm).sample(requests[start : start + size]) for start in range(0, 64, size)]
        texts = [r.text for part in parts for r in flat(part)]
        assert agreement(f"batches of {size}", expected, texts) >= 0.995
    turned = Engine(vlm, token_budget=400).sample(requests[::-1])[::-1]
    assert agreement("reversed, small budget", expected, [r.text for r in flat(turned)]) >= 0.995


def agreement(name: str, first: list[str], second: list[str]) -> float:
    assert len(first) == len(second)
    rate = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    print(f"{name}: {rate:.2%} of {len(first)} texts are the same")
    return rate


def test_the_same_call_gives_the_same_bytes_and_seeds_give_others(vlm: VLM, examples: list[Example]) -> None:
    requests = mixed_requests(examples)[:20]
    engine = Engine(vlm, logprobs=True)
    first = engine.sample(requests)
    assert engine.sample(requests) == first
    assert engine.sampled_tokens == 2 * sum(len(r.token_ids) for r in flat(first))
    moved = engine.sample([replace(request, seed=request.seed + 1) for request in requests])
    assert sum(a.text == b.text for a, b in zip(flat(first), flat(moved), strict=True)) <= 2


def test_rollouts_carry_id_seed_and_index_in_order(vlm: VLM, examples: list[Example]) -> None:
    groups = Engine(vlm).sample(
        [Request(examples[1], 3, seed=4, max_tokens=2), Request(examples[0], seed=-1, max_tokens=1)]
    )
    assert [(r.example_id, r.seed, r.index) for r in flat(groups)] == [
        (examples[1].id, 4, 0),
        (examples[1].id, 4, 1),
        (examples[1].id, 4, 2),
        (examples[0].id, -1, 0),
    ]


def chi_square(counts: Counter[int], probabilities: torch.Tensor, samples: int) -> tuple[float, int]:
    """The statistic and its degrees of freedom; tokens expected fewer than 5 times are one cell."""
    likely = (probabilities * samples >= 5).nonzero()[:, 0].tolist()
    expected = [float(probabilities[token]) * samples for token in likely]
    observed = [counts[token] for token in likely]
    rest = samples - sum(expected)
    if rest > 1:
        expected, observed = [*expected, rest], [*observed, samples - sum(observed)]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return statistic, len(expected) - 1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_frequencies_agree_with_the_softmax(vlm: VLM, examples: list[Example], temperature: float) -> None:
    samples = 20_000
    request = Request(examples[0], samples, seed=11, max_tokens=1, temperature=temperature)
    counts = Counter(r.token_ids[0] for r in Engine(vlm).sample([request])[0])
    expected = allowed_probabilities(vlm, full_logits(vlm, examples[0], "")[0] / temperature)
    statistic, degrees = chi_square(counts, expected, samples)
    assert degrees > 20
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)  # four standard deviations above the mean
    tilted = expected * torch.linspace(0.8, 1.2, len(expected))  # a sampler that is off by a fifth would be found
    assert chi_square(counts, tilted / tilted.sum(), samples)[0] > degrees + 4 * math.sqrt(2 * degrees)


@pytest.mark.parametrize(("top_p", "top_k"), [(0.5, 0), (1.0, 3), (0.9, 5), (0.999, 0)])
def test_only_tokens_that_top_p_and_top_k_keep_are_sampled(
    vlm: VLM, examples: list[Example], top_p: float, top_k: int
) -> None:
    request = Request(examples[2], 4000, seed=2, max_tokens=1, top_p=top_p, top_k=top_k)
    sampled = {r.token_ids[0] for r in Engine(vlm).sample([request])[0]}
    probabilities = allowed_probabilities(vlm, full_logits(vlm, examples[2], "")[0])
    ranked = probabilities.sort(descending=True)
    values = ranked.values[: top_k or None]
    before = (values / values.sum()).cumsum(0) - values / values.sum()
    kept = ranked.indices[: int((before < top_p).sum())].tolist()
    assert sampled <= set(kept)
    assert len(sampled) > len(kept) / 3


def test_least_kept_by_hand() -> None:
    # p:                 0.5   0.2   0.2   0.1
    row = torch.tensor([[0.2, 0.5, 0.1, 0.2]])
    assert least_kept(row, top_p=1.0, top_k=1).item() == 0.5
    assert least_kept(row, top_p=0.5, top_k=0).item() == 0.5  # 0.5 is reached by the first
    assert least_kept(row, top_p=0.6, top_k=0).item() == pytest.approx(0.2)
    assert least_kept(row, top_p=0.95, top_k=0).item() == pytest.approx(0.1)
    assert least_kept(row, top_p=0.7, top_k=2).item() == 0.5  # of what top_k leaves, 0.5 / 0.7 is 0.71


def test_top_p_sorts_all_where_the_largest_do_not_reach_it() -> None:
    flat_row = torch.linspace(1.0, 1.2, 200)
    steep_row = torch.cat([torch.full((199,), 0.001), torch.tensor([1.0])])
    rows = torch.stack([flat_row / flat_row.sum(), steep_row / steep_row.sum()])
    least = least_kept(rows, top_p=0.6, top_k=0)
    kept = rows[0][rows[0] >= least[0]]
    assert len(kept) > 100  # more than are looked at first
    assert kept.sum() >= 0.6 > kept.sum() - kept.min()
    assert least[1] == rows[1].max()


def test_choose_inverts_the_cumulative_distribution_in_token_order() -> None:
    logits = torch.log(torch.tensor([0.25, 0.5, 0.0, 0.25])).expand(6, 4)
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1 - 2**-24])
    assert choose(logits, uniform, Settings(1.0, 1.0, 0, "answer")).tolist() == [0, 0, 1, 1, 3, 3]
    assert choose(logits, uniform, Settings(0.0, 1.0, 0, "answer")).tolist() == [1] * 6
    assert choose(logits, uniform, Settings(1.0, 1.0, 1, "answer")).tolist() == [1] * 6


def splitmix(bits: int) -> int:
    """SplitMix64's output function in plain integers."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)


def test_uniforms_are_splitmix_of_seed_index_and_step() -> None:
    golden = 0x9E3779B97F4A7C15
    seeds, indices = [0, -5, 2**63 + 3, 2**70], [0, 1, 2, 100_000]
    got = uniforms(stream_keys(seeds, indices, torch.device("cpu")), torch.tensor([9]))
    for value, seed, index in zip(got.tolist(), seeds, indices, strict=True):
        key = splitmix((splitmix((seed + golden) % 2**64) + (index + 1) * golden) % 2**64)
        assert value == (splitmix((key + 10 * golden) % 2**64) >> 40) * 2.0**-24


def test_partial_softmaxes_merge_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(3, 2, 9, generator=generator) * 5, torch.randn(3, 9, 4, generator=generator)
    whole = scores.softmax(-1) @ values
    parts = [partial_softmax(scores[..., rows], values[:, rows]) for rows in (slice(0, 4), slice(4, 9))]
    torch.testing.assert_close(merge(parts), whole)
    hidden = partial_softmax(torch.full((3, 2, 4), -1e30), values[:, :4])  # a prefix of which nothing may be seen
    torch.testing.assert_close(merge([hidden, parts[1]]), scores[..., 4:].softmax(-1) @ values[:, 4:])


def test_greedy_is_the_argmax_of_the_full_forward(vlm: VLM, examples: list[Example]) -> None:
    for prefix in ("", prefixes(examples[3])[-1]):
        request = Request(examples[3], 2, prefix, max_tokens=20, temperature=0.0)
        first, second = Engine(vlm).sample([request])[0]
        logits = full_logits(vlm, examples[3], prefix, first.token_ids)[:-1]
        assert first.token_ids == tuple(allowed_probabilities(vlm, logits).argmax(-1).tolist())
        assert second.token_ids == first.token_ids


def plain_sample(vlm: VLM, request: Request) -> list[int]:
    """One sample by a full forward a token, with the same uniform numbers."""
    sampled: list[int] = []
    keys = stream_keys([request.seed], [0], torch.device("cpu"))
    settings = Settings(request.temperature, request.top_p, request.top_k, request.stop)
    for step in range(request.max_tokens):
        logits = full_logits(vlm, request.example, request.prefix, tuple(sampled))[-1:]
        probabilities = allowed_probabilities(vlm, logits)
        sampled.append(int(choose(probabilities.log(), uniforms(keys, torch.tensor([step])), settings)))
        if sampled[-1] in control_tokens(vlm).endings(request.stop):
            break
    return sampled


def test_a_prefix_is_continued_as_the_full_forward_continues_it(vlm: VLM, examples: list[Example]) -> None:
    requests = [Request(examples[5], 2, prefix, 21, 12) for prefix in prefixes(examples[5])]
    for request, rollouts in zip(requests, Engine(vlm).sample(requests), strict=True):
        assert rollouts[0].token_ids == tuple(plain_sample(vlm, request))
        assert rollouts[0].text.startswith(request.prefix)
        assert rollouts[0].text[len(request.prefix) :] == vlm.tokenizer.decode(rollouts[0].token_ids)


@pytest.fixture
def favour(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Make the model give a token a probability near 1 (or any other weight)."""
    head = vlm.model.get_output_embeddings()
    raised: dict[int, float] = {}

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, head.weight)
        for token_id, amount in raised.items():
            logits[..., token_id] += amount
        return logits

    monkeypatch.setattr(head, "forward", forward)
    return lambda token, amount: raised.__setitem__(vlm.tokenizer.convert_tokens_to_ids(token), amount)


@pytest.mark.parametrize(
    ("token", "stop", "ending", "text"),
    [
        (ANSWER_END, "answer", "answer", ANSWER_END),
        (ANSWER_END, "step", "answer", ANSWER_END),
        (STEP_END, "step", "step", STEP_END),
        (STEP_END, "answer", "length", STEP_END * 5),
        ("<|end|>", "answer", "answer", ""),
        (STEP_START, "step", "length", STEP_START * 5),
    ],
)
def test_endings(
    vlm: VLM,
    examples: list[Example],
    favour: Callable[[str, float], None],
    token: str,
    stop: str,
    ending: str,
    text: str,
) -> None:
    favour(token, 1000.0)
    request = Request(examples[0], 2, REASONING_START, max_tokens=5, stop=stop)  # type: ignore[arg-type]
    for rollout in Engine(vlm).sample([request])[0]:
        assert (rollout.ending, rollout.text) == (ending, REASONING_START + text)
        assert len(rollout.token_ids) == (5 if ending == "length" else 1)


def test_a_model_without_step_tokens_ends_on_its_end_of_sequence(examples: list[Example]) -> None:
    base = build_tiny(SMALL, seed=0)
    rollouts = Engine(base).sample([Request(examples[0], 60, seed=1, max_tokens=60)])[0]
    end = base.tokenizer.eos_token_id
    assert {r.ending for r in rollouts} == {"answer", "length"}
    for rollout in rollouts:
        assert (rollout.ending == "answer") == (rollout.token_ids[-1] == end)
        assert "<|end|>" not in rollout.text
    with pytest.raises(ValueError, match=r"no token '<\|reasoning_step_end\|>'"):
        Engine(base).sample([Request(examples[0], stop="step")])
    with pytest.raises(ValueError, match=r"request 0 .* the prefix holds '<\|reasoning_start\|>'"):
        Engine(base).sample([Request(examples[0], prefix=REASONING_START)])


def test_tokens_that_no_answer_contains_are_never_sampled(
    vlm: VLM, examples: list[Example], favour: Callable[[str, float], None]
) -> None:
    forbidden = [PAD, IMAGE, *ROLES, "<|reasoning_backtrack|>", *PRM_TOKENS]
    for token in forbidden:
        favour(token, 50.0)
    ids = set(vlm.tokenizer.convert_tokens_to_ids(forbidden))
    for temperature in (0.0, 1.0, 5.0):
        request = Request(examples[0], 20, max_tokens=20, temperature=temperature)
        assert not ids & {token for r in Engine(vlm).sample([request])[0] for token in r.token_ids}


def test_step_prefixes_of_a_chain_share_one_trunk(vlm: VLM, examples: list[Example]) -> None:
    first, second = ([Request(e, 2, prefix, max_tokens=4) for prefix in prefixes(e)] for e in examples[:2])
    trunks = plan(vlm, [*first, *second, first[0]], PromptCache(vlm), control_tokens(vlm)).trunks
    assert len(trunks) == 2
    assert sum(len(trunk.rows) for trunk in trunks) == 2 * (len(first) + len(second) + 1)


def test_pictures_and_trunks_are_computed_once(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    stock = vlm.model.get_image_features

    def counted(pixel_values: torch.Tensor, **options: bool) -> object:
        seen.append(len(pixel_values))
        return stock(pixel_values=pixel_values, **options)

    monkeypatch.setattr(vlm.model, "get_image_features", counted)
    requests = [Request(e, 4, text, max_tokens=6) for e in examples[:3] for text in ("", REASONING_START, "The", "A")]
    Engine(vlm, token_budget=100).sample(requests)
    assert sum(seen) == 3


def test_the_model_is_left_as_it_was(vlm: VLM, examples: list[Example]) -> None:
    vlm.model.train()
    Engine(vlm).sample([Request(examples[0], max_tokens=2)])
    assert vlm.model.training
    assert vlm.model.config.get_text_config()._attn_implementation == "sdpa"
    vlm.model.eval()


def test_progress_reaches_all_samples(vlm: VLM, examples: list[Example]) -> None:
    calls: list[tuple[int, int]] = []
    Engine(vlm, token_budget=200, progress=lambda *numbers: calls.append(numbers)).sample(mixed_requests(examples)[:9])
    assert calls == sorted(calls) and len(calls) > 1
    assert calls[-1] == (18, 18)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n": 0}, "n=0"),
        ({"n": -2}, "n=-2"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 1000}, "exceed the model's context of 1024"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"prefix": "see <image>"}, "control token '<image>'"),
        ({"prefix": "<|reasoning_start|>к+и"}, "control token"),
    ],
)
def test_bad_requests_are_named_and_the_others_are_sampled(
    vlm: VLM, examples: list[Example], changes: dict[str, object], problem: str
) -> None:
    good = Request(examples[0], max_tokens=4)
    bad = replace(good, **changes)  # type: ignore[arg-type]
    with pytest.raises(SamplingErrors, match=r"request 1 .*1 more") as caught:
        Engine(vlm).sample([good, bad, good, bad])
    assert problem in str(caught.value)
    assert examples[0].id in str(caught.value)
    expected = Engine(vlm).sample([good])[0]
    assert caught.value.results == [expected, None, expected, None]
    assert set(caught.value.failures) == {1, 3}
    copied = pickle.loads(pickle.dumps(caught.value))  # as a worker process hands it back
    assert (str(copied), copied.results) == (str(caught.value), caught.value.results)


def test_unreadable_pictures_are_named(vlm: VLM, examples: list[Example], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for path, problem in ((str(broken), "cannot be read"), (str(tmp_path / "gone.png"), "does not exist")):
        with pytest.raises(ValueError, match=f"request 0 .*{problem}"):
            Engine(vlm).sample([Request(replace(examples[0], images=(path,)))])


def test_examples_without_a_picture_are_sampled_too(vlm: VLM, examples: list[Example]) -> None:
    bare = replace(examples[0], images=())
    groups = Engine(vlm, logprobs=True).sample([Request(bare, 1, max_tokens=9), Request(examples[0], 1, max_tokens=9)])
    for example, rollout in zip((bare, examples[0]), flat(groups), strict=True):
        logits = full_logits(vlm, example, "", rollout.token_ids)[:-1].log_softmax(-1)
        expected = logits[range(len(rollout.token_ids)), list(rollout.token_ids)]
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)
