"""A VLM: weights, processor and step tokens, loaded and saved by the stock Auto classes."""

import importlib.util
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from chainofstep.chain import ALL_TOKENS
from chainofstep.models.checks import check_folder
from chainofstep.models.processors import load_processor

log = logging.get_logger(__name__)
logging.disable_progress_bar()  # a bar for every load and save hides those of the stages


@dataclass
class VLM:
    """Weights and processor of one vision-language model."""

    model: Any  # a transformers model with a language-modelling head
    processor: Any  # its processor; `processor.tokenizer` is the tokenizer

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        return self.model.device

    def token_id(self, token: str) -> int:
        """The id of a single control token; ValueError if this model's tokenizer does not have it."""
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if token_id is None or token_id == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {token!r}: add the step tokens first (add_step_tokens)")
        return int(token_id)


def load_vlm(
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: str | None = None,
    four_bit: bool = False,
    any_weights: bool = False,
) -> VLM:
    """Load a folder (or hub id) that `save_vlm` or any transformers user wrote; one of an adapter is merged.

    `dtype` None is float32 on a CPU and bfloat16 on a GPU; `device` None is this process's GPU, else the CPU.
    `attention` is as transformers names it. `four_bit` loads a decoder to train an adapter beside (bitsandbytes).
    Weights must be safetensors unless `any_weights`, as pickled ones may run code. ValueError for what cannot be
    loaded.
    """
    check_folder(folder, any_weights)
    place = default_device() if device is None else _device(device)
    kind = (torch.float32 if place.type == "cpu" else torch.bfloat16) if dtype is None else _dtype(dtype)
    options: dict[str, Any] = {"dtype": kind, "use_safetensors": None if any_weights else True}
    if attention is not None:
        options["attn_implementation"] = attention
    if place.type != "cpu":
        options["device_map"] = {"": place}
    if four_bit:
        options["quantization_config"] = _four_bits(place, kind)
    base = _base_of(folder)
    if base is not None:
        check_folder(base, any_weights)
        if four_bit:
            raise ValueError("an adapter cannot be merged into weights of four bits; load it without four_bit")
    try:
        return _load(folder, options) if base is None else _load_merged(folder, base, options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} cannot be loaded as a model: {reason}; train it again or name another") from error


def default_device() -> torch.device:
    """The GPU of this process (its `LOCAL_RANK` where a launcher started several), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _device(name: torch.device | str) -> torch.device:
    """The device; ValueError if there is none of that name."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: give cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(name)!r}: torch sees {torch.cuda.device_count()} GPUs; give one of them, or cpu")
    return device


def _dtype(name: torch.dtype | str) -> torch.dtype:
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={name!r}: give float32, bfloat16 or float16")
    return dtype


def _four_bits(place: torch.device, compute: torch.dtype) -> Any:
    """How weights are held in four bits, as QLoRA holds them; ValueError where that is not possible."""
    if place.type == "cpu" or importlib.util.find_spec("bitsandbytes") is None:
        lacking = "a GPU" if place.type == "cpu" else "bitsandbytes: pip install bitsandbytes"
        raise ValueError(f"four_bit=True needs {lacking}, or load the model without it")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _base_of(folder: str | Path) -> str | None:
    """The base model of an adapter's folder; None for a whole model's."""
    try:
        path = find_adapter_config_file(str(folder))
    except OSError:
        return None  # not to be reached, which loading will report
    if path is None:
        return None
    base = json.loads(Path(path).read_text("utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{path} names no base_model_name_or_path: write there where its base model is")
    return str(base)


def _load(folder: str | Path, options: dict[str, Any]) -> VLM:
    with _without_report():
        # Of weights with other shapes transformers says no more than that there are some.
        model, found = AutoModelForImageTextToText.from_pretrained(
            folder, **options, output_loading_info=True, ignore_mismatched_sizes=True
        )
    _refuse(found["missing_keys"], "its weights lack")
    _refuse((key for key, *_ in found["mismatched_keys"]), "its config.json asks for other shapes of")
    if unused := sorted(found["unexpected_keys"]):
        log.warning("%s has %d weights that its model has no place for, such as %s", folder, len(unused), unused[0])
    return VLM(model.eval(), load_processor(folder))


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of the weights that it did not find: what matters there is said in one line."""
    logger = logging.get_logger("transformers.modeling_utils")

    def wanted(record: Any) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _refuse(keys: Iterable[str], trouble: str) -> None:
    """ValueError that names the first of these weights and how many there are; they would be random numbers."""
    if names := sorted(keys):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"{trouble} {names[0]}{more}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings that nobody here can act on: TRL and peft still use names that others renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`[a-z_]*gradient_checkpointing[a-z_]*` is deprecated", FutureWarning)
        yield


def _load_merged(folder: str | Path, base: str, options: dict[str, Any]) -> VLM:
    """The base model with the adapter's changes; the processor is the adapter's where it has one."""
    from peft import PeftModel

    vlm = _load(base, options)
    own = (Path(folder) / "tokenizer_config.json").exists()
    processor = load_processor(folder) if own else vlm.processor
    known = processor.tokenizer.get_vocab()
    # The adapter was trained on a base to which tokens had been added: their first rows come from their descriptions.
    steps = {token: text for token, text in ALL_TOKENS.items() if token in known}
    add_step_tokens(vlm, steps)
    for token in steps:
        if vlm.token_id(token) != known[token]:
            raise ValueError(
                f"{token!r} has id {known[token]} in the adapter and {vlm.token_id(token)} in its base {base}"
            )
    with quiet():
        warnings.filterwarnings("error", ".*missing adapter keys", UserWarning)
        try:
            adapted = PeftModel.from_pretrained(vlm.model, str(folder))
        except UserWarning as warning:
            _refuse(re.findall("'([^']+)'", str(warning)), "the adapter's weights lack")
            raise
    return VLM(adapted.merge_and_unload().eval(), processor)


def save_vlm(vlm: VLM, folder: str | Path) -> Path:
    """Write weights, processor and tokenizer, as `load_vlm` and the Auto classes read them."""
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return Path(folder)


def add_step_tokens(vlm: VLM, tokens: Mapping[str, str] = ALL_TOKENS) -> list[int]:
    """Add the step tokens; each new row of input embedding and LM head is the mean of its description's rows.

    Works with tied and untied heads and with vocabularies padded beyond the tokenizer. Tokens that the tokenizer
    has already are left alone. Returns the ids of the tokens that were added (paper A1; Table 6).
    """
    known = vlm.tokenizer.get_vocab()
    fresh = {token: text for token, text in tokens.items() if token not in known}
    if not fresh:
        return []
    described = [vlm.tokenizer(text, add_special_tokens=False).input_ids for text in fresh.values()]
    vlm.tokenizer.add_special_tokens({"additional_special_tokens": list(fresh)}, replace_extra_special_tokens=False)
    ids = vlm.tokenizer.convert_tokens_to_ids(list(fresh))
    rows = vlm.model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        vlm.model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    for weight in _embedding_matrices(vlm.model):
        with torch.no_grad():
            for token_id, description in zip(ids, described, strict=True):
                weight[token_id] = weight[description].float().mean(dim=0).to(weight.dtype)
    return list(ids)


def _embedding_matrices(model: Any) -> list[torch.Tensor]:
    """Input embedding and LM head, once if they are tied."""
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [inputs] if outputs.data_ptr() == inputs.data_ptr() else [inputs, outputs]
