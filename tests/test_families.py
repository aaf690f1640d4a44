"""Every family of VLM: shared prefixes, copied prefixes and full forwards without a cache give the same numbers."""

import logging
from dataclasses import replace

import pytest
import torch

from chainofstep.chain import Chain, Step, render
from chainofstep.models.encode import encode_prompt, encode_text
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM, encode_chain_for_prm, verdict_ids
from chainofstep.models.shareable import why_not_shareable
from chainofstep.models.vlm import VLM, add_step_tokens
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request, Rollout, StepScores
from families import FAMILIES

#: Families whose attention cannot take the shared form, and a word of the reason.
COPIED = {"llava_legacy": "AttentionInterface", "llava_gemma2": "softcap"}
CHAINS = [
    Chain((Step("look", "The row shows 3 and 4.", "Seen."), Step("add", "3 + 4 = 7.", "Right.")), "7"),
    Chain((Step("look", "The row shows 3 and 4.", "Seen."),), None),
    Chain(
        (Step("look", "The row shows 3 and 4.", "Seen."), Step("add", "It is 9.", "Right."), Step("end", "9", "")), "9"
    ),
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    written = write_problems("test", range(3), tmp_path_factory.mktemp("pictures"))
    both = replace(written[0], id="two pictures", images=(*written[0].images, *written[1].images))
    return [*written, replace(written[0], id="no picture", images=()), both]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[str, VLM]:
    vlm = FAMILIES[request.param](7)
    add_step_tokens(vlm)
    return request.param, vlm


def full_forward(vlm: VLM, example: Example, after: list[int]) -> torch.Tensor:
    """Logits [len(after) + 1, V] from the last token of the prompt on, by a stock forward without a cache."""
    prompt = encode_prompt(vlm, example)
    ids = torch.cat([prompt.ids, torch.tensor(after, dtype=prompt.ids.dtype)])[None]
    longer = {
        name: torch.nn.functional.pad(t, (0, len(after))) if t.shape == (1, len(prompt.ids)) else t
        for name, t in prompt.images.items()
    }
    with torch.no_grad():
        return vlm.model(input_ids=ids, use_cache=False, **longer).logits[0, len(prompt.ids) - 1 :]


def requests(examples: list[Example]) -> list[Request]:
    """Bare questions and two depths of chain, several samples each, some that end early."""
    texts = ["", render(CHAINS[0].prefix(1)), render(CHAINS[0].prefix(2))]
    return [
        Request(example, 2, text, seed=i, max_tokens=6 + 3 * i)
        for i, (example, text) in enumerate((example, text) for example in examples for text in texts)
    ]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


@pytest.mark.parametrize("share", [True, False])
def test_logprobs_are_those_of_a_full_forward(family: tuple[str, VLM], examples: list[Example], share: bool) -> None:
    vlm, asked = family[1], requests(examples)
    for request, rollouts in zip(asked, Engine(vlm, logprobs=True, share=share).sample(asked), strict=True):
        for rollout in rollouts:
            before = encode_text(vlm, request.prefix)
            logits = full_forward(vlm, request.example, [*before, *rollout.token_ids])[len(before) : -1]
            expected = logits.log_softmax(-1)[range(len(rollout.token_ids)), list(rollout.token_ids)]
            assert rollout.logprobs is not None
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)


def test_shared_and_copied_prefixes_give_the_same_texts(family: tuple[str, VLM], examples: list[Example]) -> None:
    """Greedy, so that a float's last bit decides nothing."""
    asked = [replace(request, temperature=0.0) for request in requests(examples)]
    shared, copied = Engine(family[1]), Engine(family[1], share=False)
    assert [r.text for r in flat(shared.sample(asked))] == [r.text for r in flat(copied.sample(asked))]
    assert shared.share == (family[0] not in COPIED)


def test_a_second_call_goes_on_from_what_the_first_computed(family: tuple[str, VLM], examples: list[Example]) -> None:
    """As beam search does: the second call's texts go on from the first one's."""
    name, vlm = family
    engine = Engine(vlm, logprobs=True)
    first, second = (render(CHAINS[0].prefix(count)) for count in (1, 2))
    engine.sample([Request(example, 1, first, max_tokens=2) for example in examples])
    before = engine.computed_tokens
    asked = [Request(example, 2, second, seed=3, max_tokens=9) for example in examples]
    warm = engine.sample(asked)
    if name not in COPIED:
        # All but the last token of a text are computed before it is sampled from.
        assert engine.computed_tokens - before == len(examples) * (
            len(encode_text(vlm, second)) - len(encode_text(vlm, first))
        )
    for one, other in zip(flat(warm), flat(Engine(vlm, logprobs=True).sample(asked)), strict=True):
        assert one.text == other.text
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_prm_scores_are_those_of_a_full_forward(family: tuple[str, VLM], examples: list[Example]) -> None:
    vlm = family[1]
    items = [(example, chain) for example in examples for chain in CHAINS]
    scored, plain = PRM(vlm).score(items), PRM(vlm, share=False).score(items)
    for (example, chain), scores, other in zip(items, scored, plain, strict=True):
        row = encode_chain_for_prm(vlm, example, chain)
        logits = full_forward(vlm, example, list(row.text))[[place + 1 for place in row.places]]
        expected = logits[:, verdict_ids(vlm)].softmax(-1)[:, 0]
        for found in (scores, other):
            assert isinstance(found, StepScores)
            values = [*found.steps, *([] if found.answer is None else [found.answer])]
            torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=0)


def test_which_families_share_and_why_others_do_not(
    family: tuple[str, VLM], caplog: pytest.LogCaptureFixture, examples: list[Example]
) -> None:
    name, vlm = family
    reason = why_not_shareable(vlm.model)
    assert (COPIED[name] in reason) if name in COPIED else not reason
    fresh = FAMILIES[name](8)
    add_step_tokens(fresh)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Engine(fresh).sample([Request(examples[0], max_tokens=1)])
    assert sum("copy of its prefix" in record.message for record in caplog.records) == (name in COPIED)
