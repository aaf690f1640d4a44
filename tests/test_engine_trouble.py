"""What the engine does when something goes wrong: the request at fault is named, all others are sampled."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chainofstep.chain import STEP_TAG, Chain, Step, render
from chainofstep.models import batch, memory
from chainofstep.models import flight as flight_module
from chainofstep.models.cohort import Cohort
from chainofstep.models.engine import Engine
from chainofstep.models.memory import kv_bytes, planned_positions
from chainofstep.models.prm import PRM
from chainofstep.models.tiny import Shape, build_tiny
from chainofstep.models.trunks import Trunk
from chainofstep.models.vlm import VLM, add_step_tokens
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request, Rollout, SamplingErrors, ScoreFailure

SMALL = Shape(vision_width=32, vision_layers=1, width=64, layers=2, heads=4, key_value_heads=2, feed_forward=64)
CHAIN = Chain((Step("look", "3 and 4.", "Seen."), Step("add", "3 + 4 = 7.", "Right.")), "7")


@pytest.fixture
def vlm() -> VLM:
    built = build_tiny(SMALL, seed=3)
    add_step_tokens(built)
    return built


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_problems("test", range(6), tmp_path_factory.mktemp("pictures"))


def asked(examples: list[Example]) -> list[Request]:
    texts = ["", render(CHAIN.prefix(1)), render(CHAIN.prefix(2))]
    return [Request(example, 3, text, seed=5, max_tokens=20) for example in examples for text in texts]


def texts(groups: list[list[Rollout]]) -> list[list[str]]:
    return [[rollout.text for rollout in group] for group in groups]


class Memory:
    """A model whose forward runs out of memory for more than so many tokens at once."""

    def __init__(self, vlm: VLM, monkeypatch: pytest.MonkeyPatch, most: int):
        self.stock, self.most, self.refused = vlm.model.model.forward, most, 0
        monkeypatch.setattr(vlm.model.model, "forward", self.forward)

    def forward(self, *args: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.numel() > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError(f"no room for {input_ids.numel()} tokens")
        return self.stock(*args, input_ids=input_ids, **options)


@pytest.mark.parametrize("most", [70, 130])
def test_out_of_memory_halves_the_budget_and_changes_no_text(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    expected = texts(Engine(vlm).sample(asked(examples)))
    memory = Memory(vlm, monkeypatch, most)
    engine = Engine(vlm, token_budget=4096)
    with caplog.at_level(logging.WARNING):
        assert texts(engine.sample(asked(examples))) == expected
    assert memory.refused > 0
    assert engine.token_budget < 4096
    assert "token_budget is now" in caplog.text


def test_a_prm_that_runs_out_of_memory_scores_the_same(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    items = [(example, chain) for example in examples for chain in (CHAIN, CHAIN.prefix(1))]
    expected = PRM(vlm).score(items)
    memory = Memory(vlm, monkeypatch, 400)
    prm = PRM(vlm)
    for one, other in zip(prm.score(items), expected, strict=True):
        assert one.steps == pytest.approx(other.steps, abs=1e-5)  # type: ignore[union-attr]
    assert memory.refused > 0 and prm.token_budget < 2048
    assert "the PRM's token_budget is now" in caplog.text


def test_what_fits_no_memory_fails_alone(vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(examples[0], question=examples[0].question + " and 7" * 60)
    Memory(vlm, monkeypatch, 100)
    requests = [
        Request(examples[1], 2, max_tokens=5),
        Request(long, 2, max_tokens=5),
        Request(examples[2], max_tokens=5),
    ]
    with pytest.raises(SamplingErrors, match=r"request 1 .*out of memory") as caught:
        Engine(vlm, token_budget=4096).sample(requests)
    assert [None if result is None else len(result) for result in caught.value.results] == [2, None, 1]


def test_nan_logits_fail_their_request_alone(vlm: VLM, examples: list[Example]) -> None:
    word = vlm.tokenizer.convert_tokens_to_ids("@")
    with torch.no_grad():
        vlm.model.get_input_embeddings().weight[word] = torch.nan
        vlm.model.get_output_embeddings().weight[word] = 0.0
    good = [Request(example, 2, seed=1, max_tokens=8, temperature=0.0) for example in examples[:3]]
    bad = replace(examples[3], question="What is @?")
    with pytest.raises(SamplingErrors, match=r"request 1 .*logits are NaN after 0 sampled tokens") as caught:
        Engine(vlm).sample([good[0], Request(bad, 2, max_tokens=8), *good[1:]])
    kept = [result for result in caught.value.results if result is not None]
    assert texts(kept) == texts(Engine(vlm).sample(good))


def test_a_picture_that_the_model_refuses_fails_alone(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor made one token too few for its features: only the forward finds out."""
    stock = batch.encode_prompt

    def short(vlm: VLM, example: Example) -> Any:
        prompt = stock(vlm, example)
        if example.id != examples[1].id:
            return prompt
        pictured = (prompt.ids == vlm.model.config.image_token_id).nonzero()[0, 0]
        return replace(prompt, ids=torch.cat([prompt.ids[:pictured], prompt.ids[pictured + 1 :]]))

    monkeypatch.setattr(batch, "encode_prompt", short)
    with pytest.raises(SamplingErrors, match=r"request 1 .*cannot compute its prefix .*tokens") as caught:
        Engine(vlm).sample([Request(example, max_tokens=3) for example in examples])
    assert [result is None for result in caught.value.results] == [False, True, False, False, False, False]
    scored = PRM(vlm).score([(example, CHAIN) for example in examples])
    assert [isinstance(scores, ScoreFailure) for scores in scored] == [False, True, False, False, False, False]
    assert "cannot compute its question" in scored[1].reason  # type: ignore[union-attr]


def test_mixed_dtypes_are_one_line(vlm: VLM, examples: list[Example]) -> None:
    vlm.model.model.language_model.layers[1].to(torch.bfloat16)
    with pytest.raises(SamplingErrors, match=r"request 0 .*dtype") as caught:
        Engine(vlm).sample([Request(examples[0], max_tokens=3)])
    assert "\n" not in str(caught.value)


def test_bfloat16_samples_and_scores(vlm: VLM, examples: list[Example]) -> None:
    vlm.model.to(torch.bfloat16)
    rollouts = Engine(vlm, logprobs=True).sample([Request(example, 4, max_tokens=12) for example in examples])
    assert all(len(group) == 4 for group in rollouts)
    scored, plain = PRM(vlm).score([(examples[0], CHAIN)])[0], PRM(vlm, share=False).score([(examples[0], CHAIN)])[0]
    assert scored.steps == pytest.approx(plain.steps, abs=0.02)  # type: ignore[union-attr]


def test_first_goes_on_where_an_earlier_request_stopped(vlm: VLM, examples: list[Example]) -> None:
    request = Request(examples[0], 8, render(CHAIN.prefix(1)), seed=4, max_tokens=15)
    engine = Engine(vlm)
    whole = engine.sample([request])[0]
    rest = engine.sample([replace(request, n=3, first=5)])[0]
    assert rest == whole[5:]
    assert [rollout.index for rollout in rest] == [5, 6, 7]


def test_kept_prefixes_are_forgotten_when_weights_change(vlm: VLM, examples: list[Example]) -> None:
    request = Request(examples[0], 2, render(CHAIN.prefix(2)), seed=4, max_tokens=15, temperature=0.0)
    engine, prm = Engine(vlm), PRM(vlm)
    before, scored = engine.sample([request]), prm.score([(examples[0], CHAIN.prefix(1))])
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.mul_(-1.3)
    assert engine.sample([request]) == Engine(vlm).sample([request]) != before
    assert prm.score([(examples[0], CHAIN)]) == PRM(vlm).score([(examples[0], CHAIN)])
    assert prm.score([(examples[0], CHAIN.prefix(1))]) != scored


def test_what_is_kept_stays_within_the_budget(vlm: VLM, examples: list[Example]) -> None:
    engine = Engine(vlm, token_budget=1200)
    for request in asked(examples):
        engine.sample([request])
        assert engine.prefixes.positions <= 1200
    assert len(engine.prefixes.questions) > 1


def test_a_call_of_many_questions_keeps_to_its_budget_and_its_batches(vlm: VLM, examples: list[Example]) -> None:
    """What is done with makes room: the last questions are sampled as many at once as the first."""
    many = [replace(e, question=f"{e.question} {i}") for i in range(8) for e in examples]
    requests = [Request(example, 2, seed=3, max_tokens=8) for example in many]
    engine, held, rows = Engine(vlm, token_budget=700), [], []
    stock = vlm.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        held.append(engine.prefixes.positions)
        rows.append(len(options["input_ids"]))
        return stock(*args, **options)

    vlm.model.forward = forward
    found = texts(engine.sample(requests))
    del vlm.model.forward
    assert found == texts(Engine(vlm).sample(requests))
    assert max(held) <= 700
    half = len(rows) // 2
    assert max(rows[half:]) >= 0.8 * max(rows[:half]) > 4


def test_rows_that_outgrow_the_budget_wait_and_come_out_the_same(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are admitted with room for what is likely; here all of them need more than that."""
    requests = [Request(example, 3, seed=3, max_tokens=200) for example in examples]
    put_back = 0
    stock = Cohort.give_back

    def give_back(self: Cohort, start: int = 0) -> list[Trunk]:
        nonlocal put_back
        trunks = stock(self, start)
        put_back += sum(len(trunk.rows) for trunk in trunks)
        return trunks

    monkeypatch.setattr(Cohort, "give_back", give_back)
    engine = Engine(vlm, token_budget=1500)
    found = engine.sample(requests)
    assert put_back > 0
    assert engine.peak_kv_bytes <= 1500 * kv_bytes(vlm.model)
    assert texts(found) == texts(Engine(vlm).sample(requests))


def test_sixteen_samples_of_a_long_prefix_hold_an_eighth_of_copied_keys(vlm: VLM, examples: list[Example]) -> None:
    long = replace(examples[0], question=examples[0].question + " 7" * 800)
    peaks = {}
    for share in (True, False):
        engine = Engine(vlm, share=share)
        engine.sample([Request(long, 16, max_tokens=32)])
        peaks[share] = engine.peak_kv_bytes
    assert peaks[False] > 8 * peaks[True] > 0
    assert peaks[True] <= kv_bytes(vlm.model) * (1024 + 16 * 32)


def test_a_cpu_plans_two_gibibytes_within_bounds(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Engine(vlm).token_budget == planned_positions(vlm.model) == 2**20
    monkeypatch.setattr(memory, "kv_bytes", lambda model: 2**13)
    assert planned_positions(vlm.model) == 2**18
    monkeypatch.setattr(memory, "kv_bytes", lambda model: 2**20)
    assert planned_positions(vlm.model) == 2**15
    # 2 layers, keys and values, 2 heads of 32, 4 bytes each
    assert kv_bytes(vlm.model) == 2 * 2 * 2 * vlm.model.config.text_config.head_dim * 4


def test_large_vocabularies_bound_the_rows_in_flight(
    vlm: VLM, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(Engine(vlm).sample(asked(examples)))
    monkeypatch.setattr(flight_module, "LOGITS", 10 * vlm.model.get_output_embeddings().weight.shape[0])
    widest = 0
    stock = vlm.model.forward

    def forward(*args: Any, **options: Any) -> Any:
        nonlocal widest
        widest = max(widest, len(options["input_ids"]))
        return stock(*args, **options)

    monkeypatch.setattr(vlm.model, "forward", forward)
    assert texts(Engine(vlm).sample(asked(examples))) == expected
    assert 0 < widest <= 10


def test_a_prm_call_after_another_scores_new_tokens_only(vlm: VLM, examples: list[Example]) -> None:
    prm = PRM(vlm)
    prm.score([(example, CHAIN.prefix(1)) for example in examples])
    before = prm.forward_tokens
    scores = prm.score([(example, CHAIN.prefix(2)) for example in examples])
    second = render(CHAIN.prefix(2), STEP_TAG).removeprefix(render(CHAIN.prefix(1), STEP_TAG))
    assert prm.forward_tokens - before == len(examples) * len(vlm.tokenizer(second).input_ids)
    for one, other in zip(scores, PRM(vlm).score([(e, CHAIN.prefix(2)) for e in examples]), strict=True):
        assert one.steps == pytest.approx(other.steps, abs=1e-5)  # type: ignore[union-attr]


def test_a_missing_picture_fails_alone(vlm: VLM, examples: list[Example], tmp_path: Path) -> None:
    gone = replace(examples[0], images=(str(tmp_path / "gone.png"),))
    with pytest.raises(SamplingErrors, match=r"request 1 .*does not exist") as caught:
        Engine(vlm).sample([Request(examples[0], max_tokens=2), Request(gone, max_tokens=2)])
    assert caught.value.results[0] is not None
