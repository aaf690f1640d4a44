"""A VLM: weights, processor and step tokens, loaded and saved by the stock Auto classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from chainofstep.chain import ALL_TOKENS

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


def load_vlm(folder: str | Path) -> VLM:
    """Load a folder (or hub id) that `save_vlm` or any transformers user wrote; safetensors only."""
    if Path(folder).is_dir() and not (Path(folder) / "config.json").exists():
        raise ValueError(f"{folder} holds no model (config.json is missing); give the folder that training wrote")
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder} cannot be loaded as a model: {reason}; train it again or name another") from error
    return VLM(model.eval(), processor)


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
