"""GRPO: what is trained on is what was sampled, advantages and gradients are as worked by hand, rewards rise."""

import copy
import math
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from chainofstep.chain import render  # noqa: E402
from chainofstep.models.batch import completion_ids  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import add_step_tokens, load_vlm  # noqa: E402
from chainofstep.scoring.rewards import Replies  # noqa: E402
from chainofstep.store import read_json  # noqa: E402
from chainofstep.training.common import Machine  # noqa: E402
from chainofstep.training.grpo import GrpoConfig, question_order, train_grpo  # noqa: E402
from families import FAMILIES  # noqa: E402
from grpo_case import (  # noqa: E402
    ONE,
    SHORT,
    ByLength,
    chain,
    history,
    make_examples,
    pools,
    same,
    small,
    state,
    steps_of,
    teach,
    unpadded,
    watch,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return make_examples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def taught(examples, tmp_path_factory):
    return teach(examples, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def policy(taught):
    return copy.deepcopy(taught)


@pytest.fixture
def seen(monkeypatch):
    return watch(monkeypatch)


def plain_logprobs(vlm, example, ids):
    """Log-probabilities of a completion's tokens from a plain forward of one row."""
    prompt = encode_prompt(vlm, example)
    whole = torch.cat([prompt.ids, torch.tensor(ids)])[None]
    logs = vlm.model(whole, **prompt.images).logits[0].log_softmax(-1)
    return torch.stack([logs[len(prompt.ids) + i - 1, token] for i, token in enumerate(ids)])


# What is trained on.


def test_the_tokens_trained_on_are_the_tokens_sampled(policy, examples, seen, tmp_path):
    asked, sampled = pools(policy, examples, ONE)
    train_grpo(policy, examples, SHORT, ONE, tmp_path)
    batch = seen["batches"][0]
    assert unpadded(batch, "completion") == [list(rollout.token_ids) for pool in sampled for rollout in pool]
    prompts = [encode_prompt(policy, example).ids.tolist() for example in asked for _ in range(ONE.samples)]
    assert unpadded(batch, "prompt") == prompts


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "llava_next"])
def test_trainer_and_sampler_agree_on_log_probabilities(family, examples, seen, tmp_path):
    vlm = FAMILIES[family](0)
    add_step_tokens(vlm)
    config = replace(ONE, max_completion=6, batch_size=2, forward_rows=4)
    asked, sampled = pools(vlm, examples, config)
    train_grpo(vlm, examples, SHORT, config, tmp_path)
    rows, logps = seen["logps"][-1]
    expected = {}
    for example, pool in zip(asked, sampled, strict=True):
        for rollout in pool:
            key = examples.index(example), len(rollout.token_ids)
            expected.setdefault(key, []).append(list(rollout.logprobs))
    for row, found in zip(rows, logps, strict=True):
        lengths = [length for number, length in expected if number == row]
        close = [
            logprobs
            for length in lengths
            for logprobs in expected[row, length]
            if found[:length].tolist() == pytest.approx(logprobs, abs=2e-4)
        ]
        assert close, (row, found, expected)


# Advantages.


def test_advantages_of_two_are_as_worked_by_hand(policy, examples, seen, tmp_path):
    # Rewards 1 and 0: mean 1/2, deviation of a sample sqrt(1/2); TRL adds 1e-4 to it.
    _, sampled = pools(policy, examples, ONE)
    train_grpo(policy, examples, SHORT, ONE, tmp_path)
    size = 0.5 / (math.sqrt(0.5) + 1e-4)
    expected = []
    for pool in sampled:
        first, second = (steps_of(rollout) == 1 for rollout in pool)
        expected += [0.0, 0.0] if first == second else [size, -size] if first else [-size, size]
    assert any(expected) and seen["batches"][0]["advantages"].tolist() == pytest.approx(expected)


def test_a_chain_that_could_not_be_scored_is_left_out_of_its_group(policy, examples, seen, tmp_path):
    config = replace(ONE, samples=4, batch_size=4)
    _, sampled = pools(policy, examples, config)
    train_grpo(policy, examples, ByLength({1: 1.0, 3: 0.5}, fails=(2,)), config, tmp_path)
    rewards = torch.tensor([[{1: 1.0, 2: math.nan, 3: 0.5}.get(steps_of(r), 0.0) for r in pool] for pool in sampled])
    failed = rewards.isnan()
    assert failed.any() and not failed.all(dim=1).any(), rewards
    for place, group in enumerate(rewards):
        left = group[~group.isnan()]
        found = seen["batches"][0]["advantages"].view(-1, 4)[place]
        expected = (left - left.mean()) / (left.std() + 1e-4) if len(left) > 1 else torch.zeros(1)
        assert torch.allclose(found[~failed[place]], expected, atol=1e-5)
        assert (found[failed[place]] == 0).all()
    logged = history(tmp_path)[0]
    assert logged["unscored"] == pytest.approx(float(failed.float().mean()))
    assert logged["reward"] == pytest.approx(float(rewards.nanmean()), abs=1e-6)


def test_a_text_that_is_no_chain_is_worth_nothing_and_counted(examples, tmp_path):
    vlm = small(5)
    add_step_tokens(vlm)
    train_grpo(vlm, examples, ByLength({}), replace(ONE, max_completion=8), tmp_path)
    logged = history(tmp_path)[0]
    assert (logged["unparseable"], logged["reward"], logged["unscored"]) == (1.0, 0.0, 0.0)
    assert "steps" not in logged


def test_without_a_scorer_right_answers_are_rewarded(policy, examples, tmp_path):
    wrong = [replace(example, answer="4") if i % 2 else example for i, example in enumerate(examples)]
    _, sampled = pools(policy, wrong, ONE)
    order = question_order(4, ONE)[:4]
    right = [r.chain is not None and row % 2 == 0 for row, pool in zip(order, sampled, strict=True) for r in pool]
    train_grpo(policy, wrong, None, ONE, tmp_path)
    assert history(tmp_path)[0]["reward"] == pytest.approx(sum(right) / len(right))


# Updates.


def test_the_gradient_is_that_of_the_advantages(policy, examples, seen, tmp_path):
    before = copy.deepcopy(policy)
    asked, sampled = pools(policy, examples, ONE)
    train_grpo(policy, examples, SHORT, ONE, tmp_path)
    advantages = iter(seen["batches"][0]["advantages"].tolist())
    total = sum(len(rollout.token_ids) for pool in sampled for rollout in pool)
    loss = torch.zeros(())
    for example, pool in zip(asked, sampled, strict=True):
        for rollout in pool:
            loss = loss - next(advantages) * plain_logprobs(before, example, rollout.token_ids).sum() / total
    loss.backward()
    gradients = [p.grad.flatten() for p in before.model.parameters() if p.grad is not None]
    assert history(tmp_path)[0]["grad_norm"] == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-3)


def test_equal_rewards_move_nothing(policy, examples, tmp_path):
    before = state(policy)
    train_grpo(policy, examples, ByLength({}), replace(ONE, weight_decay=0.0), tmp_path)
    assert same(before, state(policy)) and history(tmp_path)[0]["frac_reward_zero_std"] == 1.0


def test_rewards_rise(policy, examples, tmp_path):
    scorer = ByLength({1: 1.0, 2: 0.5, 3: 0.25})
    config = replace(ONE, samples=4, updates=12, learning_rate=5e-4, forward_rows=16)
    train_grpo(policy, examples, scorer, config, tmp_path)
    logged = history(tmp_path)[:-1]
    first, last = (sum(row["reward"] for row in part) / 3 for part in (logged[:3], logged[-3:]))
    assert last > first + 0.1 and logged[-1]["steps"] < logged[0]["steps"]
    assert same(state(policy), state(load_vlm(tmp_path))) and not policy.model.training
    assert "forward" not in vars(policy.model)


def test_the_same_seed_gives_the_same_bytes(taught, examples, tmp_path):
    def weights(seed):
        config = replace(ONE, updates=2, seed=seed, forward_rows=4)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        train_grpo(copy.deepcopy(taught), examples, SHORT, config, tmp_path / "out")
        return (tmp_path / "out/model.safetensors").read_bytes()

    first = weights(0)
    torch.manual_seed(99)  # whatever the process did before
    assert weights(0) == first and weights(1) != first


def test_the_size_of_forward_passes_changes_no_update(taught, examples, tmp_path):
    logs = []
    for size in (8, 2):
        train_grpo(copy.deepcopy(taught), examples, SHORT, replace(ONE, forward_rows=size), tmp_path / str(size))
        logs.append(history(tmp_path / str(size))[0])
    for name in ("reward", "steps", "grad_norm"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-3)


def test_the_reference_is_the_model_as_it_was_given(policy, examples, tmp_path):
    train_grpo(policy, examples, SHORT, replace(ONE, updates=3, kl=0.1), tmp_path)
    divergence = [row["kl"] for row in history(tmp_path)[:-1]]
    assert divergence[0] == pytest.approx(0, abs=1e-6) and divergence[2] > 1e-5


def test_later_iterations_use_the_same_rollouts(policy, examples, seen, tmp_path):
    train_grpo(policy, examples, SHORT, replace(ONE, updates=4, iterations=2), tmp_path)
    logged = history(tmp_path)[:-1]
    assert len(logged) == 4 and len(seen["batches"]) == 2
    assert all("old_per_token_logps" in batch for batch in seen["batches"])


# The order of questions.


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_every_question_comes_before_any_comes_again(count, batch_size, updates, iterations):
    config = GrpoConfig(batch_size=batch_size, updates=updates, iterations=iterations)
    order = question_order(count, config)
    assert len(order) == math.ceil(updates / iterations) * batch_size
    for begin in range(0, len(order), count):
        epoch = order[begin : begin + count]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(count))


def test_a_question_that_comes_twice_in_an_update_is_sampled_anew(policy, examples, seen, tmp_path):
    config = replace(ONE, batch_size=8, forward_rows=16)
    train_grpo(policy, examples, SHORT, config, tmp_path)
    batch = seen["batches"][0]
    completions, rows = unpadded(batch, "completion"), batch["rows"].tolist()
    groups = [(rows[i], completions[i : i + 2]) for i in range(0, 16, 2)]
    assert sorted(row for row, _ in groups) == sorted([0, 1, 2, 3] * 2)
    assert all(len({str(group) for other, group in groups if other == row}) == 2 for row in range(4))


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 1}, "samples=1"),
        ({"updates": 0}, "updates=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"kl": -1.0}, "kl=-1.0"),
        ({"forward_rows": 3}, "4 questions of 2 samples are 8 rollouts, no multiple of forward_rows=3"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"machine": Machine(cached_features=True)}, "cached_features is not for GRPO"),
        ({"iterations": 2, "machine": Machine(save_every=3)}, "save_every=3 is no multiple of iterations=2"),
        ({"max_completion": 2000}, "none of 4 questions leaves room for max_completion=2000 of 1024 tokens"),
    ],
)
def test_settings_that_cannot_work(change, message, policy, examples, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_grpo(policy, examples, SHORT, replace(ONE, **change), tmp_path)


def test_questions_that_leave_no_room_are_left_out(policy, examples, seen, tmp_path):
    lengths = [len(encode_prompt(policy, example).ids) for example in examples]
    train_grpo(policy, examples, SHORT, replace(ONE, max_completion=40, max_tokens=lengths[1] + 40), tmp_path)
    assert read_json(tmp_path / "left_out.json") == ["e2", "e3"]
    assert max(len(ids) for ids in unpadded(seen["batches"][0], "prompt")) == lengths[1]


def test_a_missing_picture_is_named(policy, examples, tmp_path):
    lost = replace(examples[0], id="lost", images=("nowhere.png",))
    with pytest.raises(ValueError, match=r"nowhere\.png does not exist"):
        train_grpo(policy, [*examples, lost], SHORT, ONE, tmp_path)


def test_a_policy_without_step_tokens_is_refused(examples, tmp_path):
    vlm = small()
    with pytest.raises(ValueError, match="add the step tokens first"):
        train_grpo(vlm, examples, SHORT, ONE, tmp_path)


def test_rollouts_are_read_back_from_their_tokens(policy, examples):
    _, sampled = pools(policy, examples, ONE)
    for rollout in (rollout for pool in sampled for rollout in pool):
        assert Replies(policy.tokenizer).text(rollout.token_ids) == rollout.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_ends_with_its_turn_in_every_family(family):
    vlm = FAMILIES[family](0)
    add_step_tokens(vlm)
    text = render(chain(2))
    assert Replies(vlm.tokenizer).text(completion_ids(vlm, text)) == text
