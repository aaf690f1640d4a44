"""Loading, saving and widening VLMs: tied, untied and padded vocabularies, round trips, and folders that are broken."""

import copy

import pytest

torch = pytest.importorskip("torch")
from transformers import LlavaForConditionalGeneration  # noqa: E402

from chainofstep.chain import ALL_TOKENS, REASONING_TOKENS, Chain, Step, render  # noqa: E402
from chainofstep.models.tiny import Shape, build_processor, build_tiny, build_tokenizer  # noqa: E402
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm  # noqa: E402

SMALL = Shape(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, key_value_heads=1, feed_forward=32)
WORDS = ["What is the sum of row 1 2 3? It is 12.", *ALL_TOKENS.values()]


def small(tied=False, padded=0):
    """A fresh VLM without step tokens; `padded` rows of the vocabulary belong to no token."""
    vlm = build_tiny(SMALL, 0, build_processor(build_tokenizer(WORDS)))
    if tied:
        config = copy.deepcopy(vlm.model.config)
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
        torch.manual_seed(1)
        vlm = VLM(LlavaForConditionalGeneration(config).eval(), vlm.processor)
    if padded:
        vlm.model.resize_token_embeddings(len(vlm.tokenizer) + padded, mean_resizing=False)
    return vlm


def matrices(vlm):
    return vlm.model.get_input_embeddings().weight, vlm.model.get_output_embeddings().weight


@pytest.mark.parametrize(("tied", "padded"), [(False, 0), (True, 0), (False, 64), (True, 64), (False, 5)], ids=str)
def test_new_rows_are_the_mean_of_their_descriptions(tied, padded):
    vlm = small(tied, padded)
    before = [weight.detach().clone() for weight in matrices(vlm)]
    descriptions = {token: vlm.tokenizer(text).input_ids for token, text in ALL_TOKENS.items()}
    ids = add_step_tokens(vlm)
    assert (matrices(vlm)[0].data_ptr() == matrices(vlm)[1].data_ptr()) == tied
    assert ids == vlm.tokenizer.convert_tokens_to_ids(list(ALL_TOKENS))
    for old, new in zip(before, matrices(vlm), strict=True):
        assert len(new) == max(len(old), ids[-1] + 1)
        known = min(ids)
        assert torch.equal(new[:known], old[:known])
        for token, token_id in zip(ALL_TOKENS, ids, strict=True):
            torch.testing.assert_close(new[token_id], old[descriptions[token]].mean(dim=0))


def test_tokens_come_in_the_authors_order_and_stay_single_ids():
    vlm = small()
    first = len(vlm.tokenizer)
    assert add_step_tokens(vlm) == list(range(first, first + 17))
    for token, token_id in zip(ALL_TOKENS, range(first, first + 17), strict=True):
        assert vlm.tokenizer(f"a{token}b").input_ids.count(token_id) == 1
        assert vlm.token_id(token) == token_id


def test_tokens_that_are_there_are_left_alone():
    vlm = small()
    assert len(add_step_tokens(vlm, REASONING_TOKENS)) == 14
    with torch.no_grad():
        matrices(vlm)[0][vlm.token_id("<|answer_start|>")] = 7.0
    assert len(add_step_tokens(vlm)) == 3
    assert add_step_tokens(vlm) == []
    assert (matrices(vlm)[0][vlm.token_id("<|answer_start|>")] == 7.0).all()


def test_a_token_that_is_missing_is_named():
    with pytest.raises(ValueError, match="no token 'ки': add the step tokens first"):
        small().token_id("ки")


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_give_the_same_model(tied, tmp_path):
    vlm = small(tied)
    add_step_tokens(vlm)
    text = render(Chain((Step("Read", "Row 1 is 1 2.", "It is."),), "12"), "ки")
    loaded = load_vlm(save_vlm(vlm, tmp_path / "model"))
    assert (matrices(loaded)[0].data_ptr() == matrices(loaded)[1].data_ptr()) == tied
    ids = torch.tensor([vlm.tokenizer(text).input_ids])
    assert loaded.tokenizer(text).input_ids == ids[0].tolist()
    assert loaded.tokenizer.decode(ids[0], clean_up_tokenization_spaces=False) == text
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, vlm.model(ids).logits)
    assert not loaded.model.training


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "garbage":
        weights.write_bytes(b"not safetensors at all" * 10)
    elif how == "missing weights":
        weights.unlink()
    elif how == "bad config":
        (folder / "config.json").write_text("{")
    else:
        (folder / "config.json").unlink()


@pytest.mark.parametrize("how", ["cut", "garbage", "missing weights", "bad config", "no config"])
def test_a_broken_folder_is_one_line(how, tmp_path):
    folder = save_vlm(small(), tmp_path / "model")
    damage(folder, how)
    with pytest.raises(ValueError) as caught:
        load_vlm(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
