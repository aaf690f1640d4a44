"""Training: tokens are those that are sampled, losses agree with plain forwards, seeds decide the bytes."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
from torch.nn import functional  # noqa: E402
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference  # noqa: E402
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling  # noqa: E402

from chainofstep.chain import ALL_TOKENS, Chain, Step, render  # noqa: E402
from chainofstep.models.batch import PromptCache, completion_ids  # noqa: E402
from chainofstep.models.encode import encode_prompt, encode_text, open_picture  # noqa: E402
from chainofstep.models.prm import PRM  # noqa: E402
from chainofstep.models.tiny import Shape, build_processor, build_tiny, build_tokenizer  # noqa: E402
from chainofstep.models.vlm import add_step_tokens, load_vlm  # noqa: E402
from chainofstep.records import Example, Pair  # noqa: E402
from chainofstep.store import read_json  # noqa: E402
from chainofstep.training.common import TrainConfig, training_order  # noqa: E402
from chainofstep.training.dpo import DpoCollator, DpoConfig, train_dpo  # noqa: E402
from chainofstep.training.prm import PrmConfig, PrmRow, train_prm  # noqa: E402
from chainofstep.training.sft import SftCollator, SftConfig, SftRow, train_sft  # noqa: E402

SMALL = Shape(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, key_value_heads=1, feed_forward=64)
PROCESSOR = build_processor(build_tokenizer(["What is the colour? Read row 1 2 3 4 5 is = + .", *ALL_TOKENS.values()]))
SFT = SftConfig(batch_size=4, forward_rows=4, learning_rate=1e-2)
DPO = DpoConfig(batch_size=4, forward_rows=4, learning_rate=1e-3)
PRM_SETTINGS = PrmConfig(batch_size=4, forward_rows=4, epochs=1)


def small(seed=0):
    vlm = build_tiny(SMALL, seed, copy.deepcopy(PROCESSOR))
    add_step_tokens(vlm)
    return vlm


def chain(*numbers, answer="5"):
    return Chain(tuple(Step("Read row", f"row is {n}.", f"{n} = {n}.") for n in numbers), answer)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    made = []
    for number in range(4):
        path = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path)
        made.append(Example(f"e{number}", "What is the colour? " * (number + 1), (str(path),), "5", "number"))
    return made


@pytest.fixture
def sft_rows(examples):
    return [SftRow(example, render(chain(*range(i + 1)))) for i, example in enumerate(examples)]


@pytest.fixture
def pairs(examples):
    return [
        (example, Pair(example.id, render(chain(*range(i + 1))), render(chain(9, answer="4")), 1.0, 0.0, "test"))
        for i, example in enumerate(examples)
    ]


@pytest.fixture
def prm_rows(examples):
    return [PrmRow(e, chain(*range(i + 1)), tuple(0.25 * n for n in range(i + 1)), 1.0) for i, e in enumerate(examples)]


def numbers(count):
    return [{"row": number} for number in range(count)]


def state(vlm):
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def history(folder):
    return read_json(folder / "training_log.json")


def completion_logprobs(vlm, example, text):
    """Log-probabilities of the completion's tokens, from a plain forward of one row."""
    prompt, completion = encode_prompt(vlm, example), completion_ids(vlm, text)
    ids = torch.cat([prompt.ids, torch.tensor(completion)])[None]
    with torch.no_grad():
        logs = vlm.model(ids, **prompt.images).logits[0].log_softmax(-1)
    start = len(prompt.ids)
    return torch.stack([logs[start + i - 1, token] for i, token in enumerate(completion)])


# The order of rows.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=300), st.integers(1, 3), st.sampled_from([1, 2, 8]))
def test_every_row_comes_once_an_epoch(lengths, epochs, forward_rows):
    config = TrainConfig(epochs=epochs, forward_rows=forward_rows, batch_size=8)
    order = training_order(lengths, config)
    assert sorted(order) == sorted(list(range(len(lengths))) * epochs)
    assert order == training_order(lengths, config)


def test_a_small_set_is_not_copied_into_one_pass():
    config = TrainConfig(epochs=16, forward_rows=4, batch_size=4)
    passes = np.array(training_order([10, 20, 30, 40], config)).reshape(-1, 4)
    assert (np.sort(passes, axis=1) == [0, 1, 2, 3]).all()


def test_passes_hold_rows_of_like_length_in_random_order():
    lengths = np.random.default_rng(0).integers(50, 250, 256).tolist()
    order = training_order(lengths, TrainConfig(forward_rows=8, batch_size=8))
    passes = np.array([lengths[i] for i in order]).reshape(-1, 8)
    padding = 1 - passes.sum() / (passes.max(axis=1) * 8).sum()
    assert padding < 0.03
    means = passes.mean(axis=1)
    assert 10 < sum(later > before for before, later in pairwise(means)) < 21
    assert order != training_order(lengths, TrainConfig(forward_rows=8, batch_size=8, seed=1))


# What is trained on.


def turn(text):
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def question(example):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}]


def test_sft_trains_on_the_tokens_that_trl_would_make_of_messages(sft_rows):
    vlm = small()
    ours = SftCollator(vlm, sft_rows)(numbers(4))
    pictures = [[open_picture(row.example.images[0])] for row in sft_rows]
    asked = [
        {"prompt": question(row.example), "completion": turn(row.text), "images": images}
        for row, images in zip(sft_rows, pictures, strict=True)
    ]
    theirs = DataCollatorForVisionLanguageModeling(vlm.processor, completion_only_loss=True)(asked)
    assert set(ours) == set(theirs.keys())
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_sft_trains_on_the_tokens_that_are_sampled(sft_rows):
    vlm = small()
    batch = SftCollator(vlm, sft_rows)(numbers(4))
    for i, row in enumerate(sft_rows):
        prompt, text = encode_prompt(vlm, row.example), encode_text(vlm, row.text)
        whole = [*prompt.ids.tolist(), *text, vlm.tokenizer.eos_token_id]
        length = len(whole)
        assert batch["input_ids"][i, :length].tolist() == whole
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        trained = batch["labels"][i] != -100
        assert trained.nonzero()[:, 0].tolist() == list(range(len(prompt.ids), length))
        assert vlm.tokenizer.decode(batch["labels"][i][trained]) == row.text + vlm.tokenizer.eos_token


def test_dpo_trains_on_the_tokens_that_trl_would_make_of_messages(pairs):
    vlm = small()
    ours = DpoCollator(vlm, pairs)(numbers(4))
    asked = [
        {
            "prompt": question(example),
            "chosen": turn(pair.chosen),
            "rejected": turn(pair.rejected),
            "images": [open_picture(example.images[0])],
        }
        for example, pair in pairs
    ]
    theirs = DataCollatorForVisionPreference(vlm.processor)(asked)
    assert set(ours) == set(theirs.keys())
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_control_tokens_spelled_out_in_a_text_stay_text(examples):
    vlm = small()
    batch = SftCollator(vlm, [SftRow(examples[0], "<image><|end|><|answer_end|>")])(numbers(1))
    ids = batch["labels"][0][batch["labels"][0] != -100].tolist()
    assert ids[-2:] == [vlm.token_id("<|answer_end|>"), vlm.tokenizer.eos_token_id]
    assert not set(ids[:-2]) & set(vlm.tokenizer.all_special_ids)


@pytest.mark.parametrize("image_bytes", [0, 200_000, 2**20])
def test_a_full_picture_cache_changes_nothing(examples, image_bytes):
    vlm = small()
    cache = PromptCache(vlm, image_bytes)
    for example in [*examples, *examples]:
        prompt, plain = cache.encode(example), encode_prompt(vlm, example)
        assert torch.equal(prompt.ids, plain.ids) and torch.equal(cache.prompt_ids(example), plain.ids)
        assert torch.equal(prompt.images["pixel_values"], plain.images["pixel_values"])
    assert sum(images["pixel_values"].nbytes for images in cache.images.values()) <= image_bytes


# Losses.


def test_sft_loss_is_that_of_a_plain_forward(sft_rows, tmp_path):
    vlm = small()
    logs = torch.cat([completion_logprobs(vlm, row.example, row.text) for row in sft_rows])
    train_sft(vlm, sft_rows, SFT, tmp_path)
    assert history(tmp_path)[0]["loss"] == pytest.approx(-float(logs.mean()), rel=1e-4)


def test_dpo_loss_starts_at_log_two(pairs, tmp_path):
    train_dpo(small(), small(), pairs, DPO, tmp_path)
    assert history(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize(("beta", "nll"), [(0.1, 0.0), (0.5, 0.0), (0.1, 1.0)])
def test_dpo_loss_is_that_of_plain_forwards(pairs, tmp_path, beta, nll):
    policy, reference = small(), small(seed=1)
    example, pair = pairs[2]
    chosen, rejected = (completion_logprobs(policy, example, text) for text in (pair.chosen, pair.rejected))
    chosen_then, rejected_then = (
        completion_logprobs(reference, example, text) for text in (pair.chosen, pair.rejected)
    )
    margin = (chosen.sum() - chosen_then.sum()) - (rejected.sum() - rejected_then.sum())
    expected = -functional.logsigmoid(beta * margin) - nll * chosen.mean()
    train_dpo(policy, reference, [pairs[2]], replace(DPO, beta=beta, chosen_nll_weight=nll), tmp_path)
    assert history(tmp_path)[0]["loss"] == pytest.approx(float(expected), rel=1e-3)


def test_dpo_prefers_the_chosen_and_leaves_the_reference(pairs, tmp_path):
    policy, reference = small(), small()
    before = state(reference)
    train_dpo(policy, reference, pairs, replace(DPO, epochs=10), tmp_path)
    assert same(before, state(reference)) and not same(before, state(policy))
    assert "forward" not in vars(reference.model)
    last = history(tmp_path)[-2]
    assert last["rewards/accuracies"] == 1.0 and last["loss"] < 0.6


def test_dpo_of_a_model_against_itself_is_refused(pairs, tmp_path):
    vlm = small()
    with pytest.raises(ValueError, match="same model in memory"):
        train_dpo(vlm, vlm, pairs, DPO, tmp_path)


def test_prm_loss_is_that_of_the_scorer(prm_rows, tmp_path):
    vlm = small()
    rows = [*prm_rows[:3], replace(prm_rows[3], answer_label=None)]
    scores = PRM(vlm).score([(row.example, row.chain) for row in rows])
    parts = []
    for row, scored in zip(rows, scores, strict=True):
        answer = [] if row.answer_label is None else [(scored.answer, row.answer_label)]
        for good, label in [*zip(scored.steps, row.step_labels, strict=True), *answer]:
            parts.append(-2 * (label * math.log(good) + (1 - label) * math.log(1 - good)))
    assert len(parts) == 1 + 2 + 3 + 4 + 3
    train_prm(vlm, rows, PRM_SETTINGS, tmp_path)
    assert history(tmp_path)[0]["loss"] == pytest.approx(sum(parts) / len(parts), rel=1e-4)


def test_prm_learns_labels_hard_and_soft(examples, tmp_path):
    vlm = small()
    right, wrong, unsure = chain(1), chain(2, answer="4"), chain(3)
    labels = {right: (1.0, 1.0), wrong: (0.0, 0.0), unsure: (0.7, 1.0)}
    rows = [PrmRow(e, c, (step,), answer) for e in examples for c, (step, answer) in labels.items()]
    train_prm(vlm, rows, replace(PRM_SETTINGS, epochs=60, learning_rate=2e-3, weight_decay=0.0), tmp_path)
    scored = dict(zip(labels, PRM(load_vlm(tmp_path)).score([(examples[1], c) for c in labels]), strict=True))
    assert scored[right].steps[0] > 0.9 and scored[right].answer > 0.9
    assert scored[wrong].steps[0] < 0.1 and scored[wrong].answer < 0.1
    assert scored[unsure].steps[0] == pytest.approx(0.7, abs=0.1)


# Seeds and batches.


def trained(what, tmp_path, config, rows):
    vlm, folder = small(), tmp_path / "out"
    (folder / "made_from.json").unlink(missing_ok=True)  # or a second training would be refused
    if what == "sft":
        train_sft(vlm, rows, config, folder)
    elif what == "dpo":
        train_dpo(vlm, small(1), rows, config, folder)
    else:
        train_prm(vlm, rows, config, folder)
    return vlm, history(folder), (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("what", ["sft", "dpo", "prm"])
def test_the_same_seed_gives_the_same_bytes(what, tmp_path, sft_rows, pairs, prm_rows):
    rows, config = {"sft": (sft_rows, SFT), "dpo": (pairs, DPO), "prm": (prm_rows, PRM_SETTINGS)}[what]
    config = replace(config, epochs=3, batch_size=2, forward_rows=2)
    vlm, _, weights = trained(what, tmp_path, config, rows)
    torch.manual_seed(99)  # whatever the process did before
    assert trained(what, tmp_path, config, rows)[2] == weights
    assert trained(what, tmp_path, replace(config, seed=1), rows)[2] != weights
    assert not vlm.model.training


@pytest.mark.parametrize("what", ["sft", "dpo", "prm"])
def test_the_size_of_forward_passes_changes_no_update(what, tmp_path, sft_rows, pairs, prm_rows):
    rows, config = {"sft": (sft_rows, SFT), "dpo": (pairs, DPO), "prm": (prm_rows, PRM_SETTINGS)}[what]
    logs = [trained(what, tmp_path, replace(config, forward_rows=size), rows)[1][0] for size in (4, 1)]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-4)
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-3)


def test_a_copy_of_a_trained_model_runs_its_own_weights(sft_rows, tmp_path):
    vlm = small()
    train_sft(vlm, sft_rows, SFT, tmp_path)
    twin = copy.deepcopy(vlm)
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.zero_()
        assert float(twin.model(torch.tensor([[5, 6]])).logits.abs().max()) > 0


def test_a_run_of_one_update_moves_the_weights(sft_rows, tmp_path):
    vlm = small()
    before = state(vlm)
    train_sft(vlm, sft_rows, SFT, tmp_path)
    assert not same(before, state(vlm))
    assert same(state(vlm), state(load_vlm(tmp_path)))


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6}, "batch_size=6 is no multiple of forward_rows=4"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_settings_that_cannot_work(change, message, sft_rows, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_sft(small(), sft_rows, replace(SFT, **change), tmp_path)


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(ValueError, match="0 rows"):
        train_sft(small(), [], SFT, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_labels": (1.0,)}, "e1: 1 step labels for 2 steps"),
        ({"step_labels": (1.0, 1.5)}, "each in \\[0, 1\\]"),
        ({"chain": chain(1, 2, answer=None)}, "without an answer"),
        ({"chain": chain(*range(200)), "step_labels": (1.0,) * 200}, "model's context of 1024"),
    ],
)
def test_prm_rows_that_cannot_be_used(change, message, prm_rows, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_prm(small(), [replace(prm_rows[1], **change)], PRM_SETTINGS, tmp_path)


def test_a_missing_picture_is_named(examples, tmp_path):
    lost = replace(examples[0], images=("nowhere.png",))
    with pytest.raises(ValueError, match=r"nowhere\.png does not exist"):
        train_sft(small(), [SftRow(lost, render(chain(1)))], SFT, tmp_path)
