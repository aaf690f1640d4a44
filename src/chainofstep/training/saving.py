"""The trained model as a plain folder: adapters merged, shards gathered, and the adapter by itself beside it."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from chainofstep.models.vlm import VLM, quiet, save_vlm
from chainofstep.store import read_json, write_json
from chainofstep.training.adapters import as_it_came
from chainofstep.training.distributed import rank


def save_trained(trainer: Trainer, vlm: VLM, out: Path, types: Mapping[str, torch.dtype]) -> None:
    """Write the whole model in `out`, as every reader of transformers folders takes it; a LoRA's adapter in
    `out/adapter`, as peft takes it. Weights are written in the `types` they came in. The first process writes.

    Where every process holds all weights, `vlm` is the merged model afterwards. Under FSDP and ZeRO it holds the
    shards of this process: load `out` to use it.
    """
    with quiet():
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            if rank() == 0:
                _save_gathered(trainer, vlm, state, out, types)
            return
        if is_adapted(trainer.model):
            if rank() == 0:
                _save_adapter(trainer.model, vlm, out)
            merge(trainer.model, vlm)
        as_it_came(vlm.model, types)
        if rank() == 0:
            save_vlm(vlm, out)


def is_adapted(model: Any) -> bool:
    """Whether this is a model with adapters of peft around it."""
    return hasattr(model, "peft_config") and hasattr(model, "merge_and_unload")


def _save_adapter(model: Any, vlm: VLM, out: Path) -> None:
    """The adapter and the tokenizer that knows the step tokens: the base may have neither them nor their rows."""
    model.save_pretrained(out / "adapter", save_embedding_layers=False)
    vlm.processor.save_pretrained(out / "adapter")
    settings = read_json(out / "adapter" / "adapter_config.json")
    settings["target_modules"].sort()  # peft writes a set, in another order every time
    write_json(out / "adapter" / "adapter_config.json", settings)


def merge(model: Any, vlm: VLM) -> None:
    """Put the adapter's change into the weights it was trained beside; four-bit ones are unpacked first."""
    if not getattr(vlm.model, "is_loaded_in_4bit", False):
        model.merge_and_unload()
        return
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    settings = model.peft_config["default"]
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    # Merged in four bits, most of the change would be rounded away.
    vlm.model = model.unload().dequantize()
    again = get_peft_model(vlm.model, settings)
    set_peft_model_state_dict(again, state)
    again.merge_and_unload()


def _save_gathered(
    trainer: Trainer, vlm: VLM, state: dict[str, torch.Tensor], out: Path, types: Mapping[str, torch.dtype]
) -> None:
    """Save gathered weights by a model that takes them as its own."""
    adapted = is_adapted(trainer.model)
    base = trainer.model.get_base_model() if adapted else trainer.model
    kind = next(kind for kind in type(base).__mro__ if kind.__module__.startswith("transformers."))
    with torch.device("meta"):
        whole = kind(copy.deepcopy(base.config))
    whole.generation_config = base.generation_config
    if adapted:
        from peft import get_peft_model

        model = get_peft_model(whole, trainer.model.peft_config["default"])
        model.load_state_dict(state, assign=True, strict=False)
        _save_adapter(model, vlm, out)
        model.merge_and_unload()
    else:
        whole.load_state_dict(state, assign=True, strict=False)
        whole.tie_weights()
    as_it_came(whole, types)
    save_vlm(VLM(whole, vlm.processor), out)
