"""What a plan knows of a model: its sizes from its config, its parameters counted on a model without memory."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from chainofstep.chain import ALL_TOKENS
from chainofstep.recipes.shapes import SHAPES
from chainofstep.training.adapters import part_of
from chainofstep.training.common import PARTS, Part

Piece = Literal["vision", "projector", "decoder", "embeddings", "head"]
STEP_TOKENS = len(ALL_TOKENS)


@dataclass(frozen=True)
class Stack:
    """A stack of transformer layers; `key_values` is the width of keys, and of values."""

    width: int
    layers: int
    queries: int
    heads: int
    key_values: int
    feed_forward: int
    gated: bool  # three products instead of two
    activation_tensors: int  # of the width `feed_forward` that its backward pass needs
    rms: bool  # norms written out in float32, instead of torch's fused layer norm
    query_norm: bool = False  # norms of queries and keys
    layer_scale: bool = False  # a learnt factor on what attention and feed-forward add
    joint: bool = False  # queries, keys and values come of one product, and pictures go through attention one by one


@dataclass(frozen=True)
class ModelShape:
    """A VLM's sizes. `parameters` counts each weight once: a tied head belongs to the embeddings."""

    name: str
    decoder: Stack
    tower: Stack
    vocabulary: int
    patches_per_token: float  # of the tower, for one token of the decoder
    parameters: dict[Piece, int]
    linear_ends: dict[Part, int]  # inputs and outputs of all linear layers but the head, for adapters beside them

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    def of(self, part: Part) -> int:
        """Parameters of a part that training can freeze; embeddings and head go with the decoder."""
        pieces: tuple[Piece, ...] = ("decoder", "embeddings", "head") if part == "decoder" else (part,)
        return sum(self.parameters.get(piece, 0) for piece in pieces)

    def adapter(self, parts: tuple[Part, ...], rank: int) -> int:
        """Parameters of adapters on these parts: two thin matrices for each linear layer, and the step tokens' rows."""
        matrices = 2 if "head" in self.parameters else 1
        rows = matrices * STEP_TOKENS * self.decoder.width if "decoder" in parts else 0
        return rows + rank * sum(self.linear_ends[part] for part in parts)

    @property
    def key_value_bytes(self) -> int:
        """Of one position in bfloat16, in all layers."""
        return 2 * 2 * self.decoder.layers * self.decoder.key_values


@cache
def shape_of(name: str) -> ModelShape:
    """The shape of a named model (no download), of a folder, or of a hub id; ValueError if it has none."""
    if name in SHAPES:
        return shape_from_config(name, SHAPES[name]())
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise ValueError(f"{name} holds no model (config.json is missing); give the folder that training wrote")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        known = ", ".join(SHAPES)
        raise ValueError(f"no config of the model {name!r}; give a folder, a hub id, or one of {known}") from error
    return shape_from_config(name, config)


def shape_from_config(name: str, config: Any) -> ModelShape:
    """The shape of a model with this config. The model is built on torch's meta device, which holds no weights."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text, vision = config.get_text_config(), config.vision_config
    return ModelShape(
        name,
        _decoder(text),
        _tower(config, vision),
        model.get_input_embeddings().weight.shape[0],
        _patches_per_token(config, vision),
        count_parameters(model),
        _linear_ends(model),
    )


def count_parameters(model: torch.nn.Module) -> dict[Piece, int]:
    """Parameters by piece; torch names a tied weight once, by its first place."""
    counts: Counter[Piece] = Counter()
    for name, weight in model.named_parameters():
        counts[piece_of(name)] += weight.numel()
    return dict(counts)


def piece_of(name: str) -> Piece:
    """Which piece of a VLM a parameter belongs to, by its name."""
    part, path = part_of(name), set(name.split("."))
    if part != "decoder":
        return part
    if "lm_head" in path:
        return "head"
    return "embeddings" if path & {"embed_tokens", "wte"} else "decoder"


def _linear_ends(model: Any) -> dict[Part, int]:
    ends: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            ends[part_of(name)] += module.in_features + module.out_features
    return ends


def _decoder(config: Any) -> Stack:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Stack(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        queries=head * config.num_attention_heads,
        heads=config.num_attention_heads,
        key_values=head * key_value_heads,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        gated=True,
        activation_tensors=4,
        rms=True,
        query_norm=config.model_type.startswith(("qwen3", "gemma3")),
    )


def _tower(config: Any, vision: Any) -> Stack:
    qwen = config.model_type.startswith("qwen")
    gated = config.model_type == "qwen2_5_vl"
    quick = getattr(vision, "hidden_act", "") == "quick_gelu"  # written out: x, its sigmoid, their product
    return Stack(
        width=vision.hidden_size,
        layers=vision.depth if qwen else vision.num_hidden_layers,
        queries=vision.hidden_size,
        heads=vision.num_heads if qwen else vision.num_attention_heads,
        key_values=vision.hidden_size,
        feed_forward=vision.intermediate_size,
        gated=gated,
        activation_tensors=4 if gated else 3 if quick else 2,
        rms=gated or getattr(vision, "norm_type", "") == "rms_norm",
        query_norm=getattr(vision, "use_qk_norm", False),
        layer_scale=config.model_type == "internvl",
        joint=qwen,
    )


def _patches_per_token(config: Any, vision: Any) -> float:
    """Families that merge neighbouring patches into one token say so each in their own way."""
    if config.model_type == "internvl":
        return float(config.downsample_ratio**-2)
    merged = getattr(vision, "spatial_merge_size", None) or getattr(config, "scale_factor", None) or 1
    return float(merged**2)
