"""Planted errors: each is found before the first batch, in one line that names the value and what to do."""

import copy
import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402
from tokenizers import AddedToken  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from chainofstep.chain import ALL_TOKENS, BAD, GOOD, PRM_TOKENS, REASONING_TOKENS, STEP_TAG, UNUSED  # noqa: E402
from chainofstep.models.checks import check_folder, check_policy, check_prm, check_vlm  # noqa: E402
from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.prm import PRM  # noqa: E402
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm  # noqa: E402
from families import FAMILIES, decoder, tokenizer_with  # noqa: E402


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest) -> VLM:
    vlm = FAMILIES[request.param](0)
    add_step_tokens(vlm)
    return vlm


@pytest.fixture
def vlm() -> VLM:
    made = FAMILIES["internvl"](0)
    add_step_tokens(made)
    return made


def refused(check, vlm: VLM, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(vlm)
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message


def test_a_whole_model_of_any_family_passes(whole: VLM) -> None:
    check_policy(whole)
    check_prm(whole)


def test_a_model_without_step_tokens_is_named_with_the_remedy() -> None:
    fresh = FAMILIES["qwen3_vl"](0)
    check_vlm(fresh)
    refused(check_policy, fresh, "no token '<|reasoning_start|>' and 12 more of 13", "run SFT")
    refused(check_prm, fresh, f"no token {STEP_TAG!r} and 2 more of 3", "VisualPRM's + and -")


def test_a_prm_without_verdicts_is_refused(vlm: VLM) -> None:
    policy = FAMILIES["internvl"](0)
    add_step_tokens(policy, REASONING_TOKENS)
    check_policy(policy)
    refused(check_prm, policy, f"no token {STEP_TAG!r}")
    refused(PRM, policy, f"no token {STEP_TAG!r}")
    add_step_tokens(policy, {STEP_TAG: PRM_TOKENS[STEP_TAG]})
    refused(check_prm, policy, f"no token {GOOD!r} and 1 more of 3")
    add_step_tokens(policy, {GOOD: PRM_TOKENS[GOOD]})
    refused(check_prm, policy, f"no token {BAD!r}: ")


def test_a_token_that_is_read_in_pieces_is_refused(vlm: VLM) -> None:
    """It is in the vocabulary, but as a word that the tokenizer never makes of the text."""
    split = FAMILIES["internvl"](0)
    core = json.loads(split.tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"].append(["<|answer_end|>", -1e9])
    last = max(token["id"] for token in core["added_tokens"])
    for token in core["added_tokens"]:
        token["id"] += token["id"] >= len(core["model"]["vocab"]) - 1
    split.tokenizer._tokenizer = type(split.tokenizer.backend_tokenizer).from_str(json.dumps(core))
    assert "<|answer_end|>" in split.tokenizer.get_vocab() and last + 2 == len(split.tokenizer)
    split.model.resize_token_embeddings(len(split.tokenizer), mean_resizing=False)
    add_step_tokens(split)
    refused(check_policy, split, "'<|answer_end|>' but reads it as", "add_step_tokens")


def test_a_tokenizer_larger_than_the_embedding_is_refused(vlm: VLM) -> None:
    vlm.tokenizer.add_tokens([AddedToken("<new>")])
    rows = vlm.model.get_input_embeddings().weight.shape[0]
    for check in (check_vlm, check_policy, check_prm, Engine):
        refused(check, vlm, f"ids up to {rows}", f"{rows} rows")


def test_a_text_model_is_refused() -> None:
    tokenizer = tokenizer_with()
    text = LlamaForCausalLM(decoder(transformers.LlamaConfig, tokenizer))
    processor = FAMILIES["llava"](0).processor
    for check in (check_policy, check_prm, Engine):
        refused(check, VLM(text, processor), "the model (llama) has no vision tower")


def test_the_processor_of_another_family_is_refused(vlm: VLM) -> None:
    other = FAMILIES["llava"](0)
    refused(check_vlm, VLM(vlm.model, other.processor), "is 'internvl'", "LlavaProcessor, not InternVLProcessor")


def test_a_processor_without_a_chat_template_is_refused(vlm: VLM) -> None:
    vlm.processor.chat_template = None
    refused(check_policy, vlm, "no chat template", "chat_template.jinja")


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "idefics3", "gemma3", "llava_onevision"])
def test_other_picture_settings_than_the_models_are_refused(name: str) -> None:
    vlm = FAMILIES[name](0)
    add_step_tokens(vlm)
    processor = copy.deepcopy(vlm.processor)
    changes = {"llava": ("patch_size", 32), "internvl": ("image_seq_length", 9), "idefics3": ("image_seq_len", 4)}
    shorter = "<start_of_image>" + "<image_soft_token>" * 16 + "<end_of_image>"
    changes |= {"gemma3": ("full_image_sequence", shorter), "llava_onevision": ("num_image_tokens", 16)}
    if name == "qwen2_5_vl":
        processor.image_processor.merge_size = 1
    else:
        setattr(processor, *changes[name])
    refused(check_policy, VLM(vlm.model, processor), "take both from one folder")


# Folders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm(FAMILIES["llava"](0), tmp_path_factory.mktemp("whole") / "model")


def changed(folder: Path, out: Path, **values: object) -> Path:
    """A folder whose config.json says something else; its weights are not read."""
    out.mkdir()
    (out / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | values))
    return out


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"transformers_version": "99.1.0"}, "was written by transformers 99.1.0 and"),
        ({"model_type": "internvl_chat"}, "convert it first (chainofstep.models.conversion"),
        ({"model_type": "llama"}, "is no vision-language model"),
        ({"model_type": "qwen9_vl"}, "(model_type 'qwen9_vl')"),
    ],
)
def test_a_config_that_cannot_be_loaded_is_refused(
    values: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        load_vlm(changed(folder, tmp_path / "changed", **values))


def test_a_version_of_the_same_major_is_left_to_transformers(folder: Path, tmp_path: Path) -> None:
    major = transformers.__version__.split(".")[0]
    check_folder(changed(folder, tmp_path / "changed", transformers_version=f"{major}.999.0"))


def test_all_tokens_are_looked_at() -> None:
    """A tokenizer that lacks any one token is refused by one of the two checks."""
    bare = FAMILIES["smolvlm"](0)
    for token in set(ALL_TOKENS) - {UNUSED}:
        some = copy.deepcopy(bare)
        add_step_tokens(some, {name: text for name, text in ALL_TOKENS.items() if name != token})
        refused(check_prm, some, f"no token {token!r}: ")
