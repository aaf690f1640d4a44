"""What is wrong with a model, found before the first batch and said in one line.

`check_folder` looks at a folder before its weights are read, `check_vlm` at any loaded model, `check_policy` and
`check_prm` at one that shall write chains or score them. Each raises ValueError with the value and what to do.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from chainofstep.chain import PRM_TOKENS, REASONING_TOKENS, UNUSED
from chainofstep.models.families import FURTHER_PROCESSORS

if TYPE_CHECKING:
    from chainofstep.models.vlm import VLM

CHAIN_TOKENS = {token: text for token, text in REASONING_TOKENS.items() if token != UNUSED}
REMOTE_LAYOUT = "internvl_chat"  # InternVL's own, in which the authors' checkpoints are published, too
PROBE_SIZE = (96, 64)  # width and height of the picture with which a processor is tried
PICKLED = ("pytorch_model*.bin", "adapter_model.bin")


def check_folder(folder: str | Path, any_weights: bool = False) -> None:
    """ValueError for a folder that cannot hold a usable VLM. Of a hub id, only its config.json is looked at."""
    path = Path(folder)
    if not path.is_dir():
        with suppress(OSError):  # whatever is not there is reported by the loader
            check_config(PreTrainedConfig.get_config_dict(str(folder))[0], folder)
        return
    adapter = (path / "adapter_config.json").exists()
    if not adapter and not (path / "config.json").exists():
        raise ValueError(f"{folder} holds no model (config.json is missing); give the folder that training wrote")
    pickled = sorted(file.name for pattern in PICKLED for file in path.glob(pattern))
    if pickled and not any_weights and not list(path.glob("*.safetensors")):
        raise ValueError(
            f"{folder} holds its weights as {pickled[0]} alone, and reading pickled weights may run code from them:"
            " have them as safetensors, or give any_weights=True if you trust them"
        )
    if not adapter:
        check_config(_read(path / "config.json"), folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy the model again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object; copy the model again")
    return config


def check_config(config: Mapping[str, Any], name: str | Path) -> None:
    """ValueError for a config.json of a model that is no VLM, or that the installed transformers does not know."""
    kind = config.get("model_type")
    if kind == REMOTE_LAYOUT:
        raise ValueError(
            f"{name} is in InternVL's own layout (model_type {kind!r}), whose code would come with the weights:"
            " convert it first (chainofstep.models.conversion.convert_internvl, docs/models.md)"
        )
    written = str(config.get("transformers_version") or "0")
    major, installed = (int(version.split(".")[0]) for version in (written, transformers.__version__))
    if major > installed:
        raise ValueError(
            f"{name} was written by transformers {written} and {transformers.__version__} is installed:"
            f" pip install 'transformers>={major}'"
        )
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"{name} is no vision-language model that transformers {transformers.__version__} knows"
            f" (model_type {kind!r}): give one with a vision tower, such as Qwen2.5-VL or InternVL3-hf"
        )


def check_vlm(vlm: "VLM") -> None:
    """ValueError if model, processor and tokenizer do not belong together. Computes nothing."""
    kind = vlm.model.config.model_type
    if not hasattr(vlm.model, "get_image_features"):
        raise ValueError(f"the model ({kind}) has no vision tower: give a vision-language model")
    expected, found = PROCESSOR_MAPPING_NAMES.get(kind), type(vlm.processor).__name__
    if expected is not None and found not in (expected, FURTHER_PROCESSORS.get(kind)):
        raise ValueError(f"the model is {kind!r} and its processor {found}, not {expected}: take both from one folder")
    if vlm.processor.chat_template is None:
        raise ValueError(
            "the processor has no chat template: copy chat_template.jinja of the model's instruct variant to its folder"
        )
    rows, largest = _rows(vlm), max(vlm.tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(
            f"the tokenizer has ids up to {largest} and the embedding {rows} rows: the model was saved before tokens"
            " were added, so add them to the model and train it again"
        )


def check_policy(vlm: "VLM") -> None:
    """ValueError for a model that cannot write chains; computes the features of one small picture."""
    check_vlm(vlm)
    check_tokens(vlm, CHAIN_TOKENS, "run SFT, which adds and trains them (add_step_tokens)")
    check_picture(vlm)


def check_prm(vlm: "VLM") -> None:
    """ValueError for a model that cannot score chains; computes the features of one small picture."""
    check_vlm(vlm)
    check_verdicts(vlm)
    check_tokens(vlm, CHAIN_TOKENS, "train the PRM from a model that knows chains")
    check_picture(vlm)


def check_verdicts(vlm: "VLM") -> None:
    """ValueError if the tokenizer lacks the step tag or its two verdicts, or does not read each as one token."""
    other = "a PRM with other verdicts, such as VisualPRM's + and -, cannot be read here"
    check_tokens(vlm, PRM_TOKENS, f"add the step tokens first (add_step_tokens) and train it as a PRM; {other}")


def check_tokens(vlm: "VLM", tokens: Mapping[str, str], remedy: str) -> None:
    """ValueError unless the tokenizer reads each of `tokens` as one id that the embedding has."""
    known = vlm.tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if missing:
        more = f" and {len(missing) - 1} more of {len(tokens)}" if len(missing) > 1 else ""
        raise ValueError(f"the tokenizer has no token {missing[0]!r}{more}: {remedy}")
    rows = _rows(vlm)
    for token in tokens:
        ids = vlm.tokenizer(f"a{token}b", add_special_tokens=False).input_ids
        if known[token] not in ids:
            split = vlm.tokenizer(token, add_special_tokens=False).input_ids
            raise ValueError(
                f"the tokenizer knows {token!r} but reads it as {len(split)} tokens: take it out of its vocabulary"
                " and add it with add_step_tokens"
            )
        if known[token] >= rows:
            raise ValueError(
                f"{token!r} has id {known[token]} and the embedding {rows} rows: the model was saved before the token"
                " was added, so add it to the model (add_step_tokens) and train it again"
            )


def check_picture(vlm: "VLM") -> None:
    """ValueError unless a picture has as many tokens for the processor as the model has features for it."""
    # These two import `vlm`, which calls this file.
    from chainofstep.models.encode import encode_prompt
    from chainofstep.models.pictures import PictureFeatures
    from chainofstep.records import Example

    example = Example("probe", "What is it?", ("probe",), "", "word")
    prompt = encode_prompt(vlm, example, [Image.new("RGB", PROBE_SIZE, "gray")])
    expected = int((prompt.ids == vlm.model.config.image_token_id).sum())
    remedy = "model and processor have different settings, so take both from one folder"
    try:
        with torch.inference_mode():
            pooled = PictureFeatures(vlm).of({("probe",): prompt})[("probe",)].pooler_output
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the model cannot read the processor's pictures ({reason}): {remedy}") from error
    parts = [pooled] if isinstance(pooled, torch.Tensor) else list(pooled)
    found = sum(part.shape[:-1].numel() for part in parts)
    if found != expected:
        raise ValueError(f"a picture has {expected} tokens in the prompt and {found} features in the model: {remedy}")


def _rows(vlm: "VLM") -> int:
    return int(vlm.model.get_input_embeddings().weight.shape[0])
