"""Loading, saving and widening VLMs: tied, untied and padded vocabularies, round trips, and folders that are broken."""

import copy
import json

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights, name: weights.pop(name), "its weights lack .*k_proj.weight;"),
        (lambda weights, name: [weights.pop(key) for key in list(weights) if "_proj" in key], r"lack .* and \d+ more;"),
        (lambda weights, name: weights.update({name: weights[name][:-1].clone()}), "other shapes of .*k_proj.weight;"),
    ],
    ids=["one missing", "many missing", "another shape"],
)
def test_a_model_without_some_of_its_weights_is_refused(change, message, tmp_path, caplog):
    folder = save_vlm(small(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    change(weights, next(name for name in weights if name.endswith("k_proj.weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load_vlm(folder)
    assert not caplog.records  # one line, and no table before it


def test_weights_that_have_no_place_are_told_of(tmp_path, caplog):
    folder = save_vlm(small(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors") | {"another.weight": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_vlm(folder)
    assert "1 weights that its model has no place for, such as another.weight" in caplog.text


def test_an_adapter_without_some_of_its_weights_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_vlm(save_vlm(small(), tmp_path / "base"))
    get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    load_vlm(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the adapter's weights lack .*lora_.*; train it again"):
        load_vlm(tmp_path / "adapter")


# How weights are read.


@pytest.mark.parametrize(("dtype", "kind"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_have_the_asked_type_and_float32_on_a_cpu(dtype, kind, tmp_path):
    vlm = small()
    vlm.model.to(torch.bfloat16)
    loaded = load_vlm(save_vlm(vlm, tmp_path / "model"), dtype=dtype, device="cpu", attention="eager")
    assert {weight.dtype for weight in loaded.model.parameters()} == {kind}
    assert loaded.device.type == "cpu" and loaded.model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float99"}, "dtype='float99': give float32, bfloat16 or float16"),
        ({"attention": "flashy"}, "cannot be loaded as a model"),
        ({"device": "cpu", "four_bit": True}, "four_bit=True needs a GPU"),
        ({"device": "cuda:99"}, "device='cuda:99': torch sees"),
        ({"device": "gpu"}, "device='gpu': give cpu, cuda or cuda:1"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, message, tmp_path):
    folder = save_vlm(small(), tmp_path / "model")
    with pytest.raises(ValueError, match=message) as caught:
        load_vlm(folder, **options)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_read_only_when_asked(tmp_path):
    vlm = small()
    folder = save_vlm(vlm, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(vlm.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"as pytorch_model\.bin alone.*any_weights=True if you trust them"):
        load_vlm(folder)
    loaded = load_vlm(folder, any_weights=True)
    assert torch.equal(matrices(loaded)[0], matrices(vlm)[0])


def test_an_adapter_is_loaded_with_its_base_and_merged(tmp_path):
    """The base was saved before the step tokens were added, whose rows the adapter trained."""
    from peft import LoraConfig, get_peft_model

    base = load_vlm(save_vlm(small(), tmp_path / "base"))
    ids = add_step_tokens(base)
    rows = {"model.language_model.embed_tokens": ids, "lm_head": ids}
    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], trainable_token_indices=rows)
    adapted = get_peft_model(base.model, settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                weight.add_(torch.randn_like(weight))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base.processor.save_pretrained(tmp_path / "adapter")
    text = torch.tensor([base.tokenizer(f"row 1 <|answer_start|>12{'к+и'}").input_ids])
    with torch.no_grad():
        expected = adapted.model(text).logits
        loaded = load_vlm(tmp_path / "adapter")
        torch.testing.assert_close(loaded.model(text).logits, expected, atol=1e-4, rtol=0)
        plain = load_vlm(tmp_path / "base")
        add_step_tokens(plain)
        assert (plain.model(text).logits - expected).abs().max() > 0.1
    assert not hasattr(loaded.model, "peft_config") and loaded.token_id("ки") == ids[-3]
    load_vlm(save_vlm(loaded, tmp_path / "plain"))
    other = small()
    other.tokenizer.add_tokens(["another"])
    other.model.resize_token_embeddings(len(other.tokenizer))
    save_vlm(other, tmp_path / "base")
    with pytest.raises(ValueError, match=r"in the adapter and .* in its base"):
        load_vlm(tmp_path / "adapter")


def test_an_adapter_without_its_base_is_one_line(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for base, message in ((None, "names no base_model_name_or_path"), (str(tmp_path / "gone"), "cannot be loaded")):
        settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=message) as caught:
            load_vlm(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"adapter_model\.bin alone"):
        (folder / "adapter_model.bin").write_bytes(b"")
        load_vlm(folder)
