"""Whether a decoder can attend to shared prefixes: found out by letting it."""

import logging
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache

from chainofstep.models.levels import Level
from chainofstep.models.prefix_attention import Extension, SharedPrefix, sampling_mode

PROBE = 6  # tokens of the probe, of which the last `NEW` are computed on top of the others
NEW = 2
log = logging.getLogger(__name__)
_found: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()


def why_not_shareable(model: Any) -> str:
    """Empty if hidden states on top of a shared prefix are those of a plain forward; else why they are not."""
    if model not in _found:
        _found[model] = _probe(model)
    return _found[model]


def warn_if_copied(model: Any) -> bool:
    """Whether prefixes must be copied for each row; said once for a model, with the reason."""
    known = model in _found
    reason = why_not_shareable(model)
    if reason and not known:
        log.warning("%s: %s; each row gets a copy of its prefix, which is slow", model.config.model_type, reason)
    return bool(reason)


def _probe(model: Any) -> str:
    config = model.config.get_text_config()
    if not _takes_attention(model):
        return "its decoder does not take transformers' AttentionInterface"
    ids = torch.arange(PROBE, device=model.device)[None] % config.vocab_size
    try:
        with sampling_mode(model, None):
            plain = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -NEW:]
        with sampling_mode(model):
            part, shared = _shared(model, ids)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"its decoder refuses a shared prefix ({str(error).splitlines()[0]})"
    if len(part.layers) != config.num_hidden_layers:
        return f"{len(part.layers)} of its {config.num_hidden_layers} layers asked for the shared prefix"
    coarse = 1e-3 if plain.dtype == torch.float32 else 0.1
    if not torch.allclose(plain.float(), shared.float(), atol=coarse * float(plain.float().abs().max()), rtol=0):
        return "its hidden states on top of a shared prefix differ from a plain forward's"
    return ""


def _takes_attention(model: Any) -> bool:
    """Whether every submodel of the decoder reads its attention from the interface."""
    decoders = [part for part in model.modules() if getattr(part, "config", None) is model.config.get_text_config()]
    able = [part._can_set_attn_implementation() for part in decoders if hasattr(part, "_can_set_attn_implementation")]
    return bool(able) and all(able)


def _shared(model: Any, ids: torch.Tensor) -> tuple[Extension, torch.Tensor]:
    cache = DynamicCache()
    before = PROBE - NEW
    model.model(input_ids=ids[:, :before], past_key_values=cache, use_cache=True)
    zero = torch.zeros(1, dtype=torch.long, device=ids.device)
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    visible = torch.ones(1, NEW, NEW, dtype=torch.bool, device=ids.device).tril()
    part = Extension([Level(layers, zero, zero + before, zero)], torch.arange(NEW, device=ids.device)[None], visible)
    positions = torch.arange(before, PROBE, device=ids.device)[None]
    shared = SharedPrefix([part])
    output = model.model(input_ids=ids[:, before:], position_ids=positions, use_cache=False, shared_prefix=shared)
    return part, output.last_hidden_state
