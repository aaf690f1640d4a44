"""Floating-point operations of a row, and the speeds that turn them into hours.

A product of a weight and a token is two operations, so a forward pass over T tokens is 2 N T for N weights, and
attention adds 4 q of every token for every one that it looks back at: half of T on average. A backward pass costs twice
the forward where weights are trained, once where adapters alone are, and nothing below the lowest trained part;
recomputed activations cost one forward more. DPO runs the policy on two rows of a pair and the frozen reference on the
same two.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainofstep.planning.gpus import Gpus
from chainofstep.planning.shape import ModelShape, Stack
from chainofstep.planning.sizes import Lengths
from chainofstep.training.common import TrainConfig

TILE_PATCHES = 1024  # that a tower's patch looks at: a tile of 448 pixels, or a window's worth of larger pictures


@dataclass(frozen=True)
class Speeds:
    """Shares of the GPUs' peak that are used. Assumptions, until a measurement replaces them.

    Training counts recomputed activations as work. Decoding is bound by reading weights and caches from memory, so its
    share is small.
    """

    training: float = 0.40
    scoring: float = 0.40
    decoding: float = 0.10
    source: str = "assumed"


def read_speeds(path: Path) -> Speeds:
    """Shares of the peak from the JSON of `python -m benchmarks.gpu --json`; ValueError if they are no such shares."""
    names = ("training", "scoring", "decoding")
    try:
        measured: Any = json.loads(path.read_text("utf-8"))
        shares = {name: float(measured["shares"][name]) for name in names if name in measured["shares"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no measured shares ({error!r}); write it with `python -m benchmarks.gpu --json`"
        ) from error
    if not shares or not all(0 < share <= 1 for share in shares.values()):
        raise ValueError(f"{path}: shares of the peak are {shares}; each lies above 0 and at most at 1")
    return replace(Speeds(), **shares, source=f"measured: {path.name}")


def stack_flops(stack: Stack, parameters: int, tokens: float, looks_at: float) -> float:
    """Of one forward pass over so many tokens, each of which looks at `looks_at` others."""
    return tokens * (2 * parameters + 4 * stack.layers * stack.queries * looks_at)


def decoder_flops(model: ModelShape, tokens: float) -> float:
    """Of one row through the decoder without its head; causal, so a token looks at half of the row."""
    return stack_flops(model.decoder, model.parameters["decoder"], tokens, tokens / 2)


def head_flops(model: ModelShape, positions: float) -> float:
    return 2 * model.vocabulary * model.decoder.width * positions


def tower_flops(model: ModelShape, picture_tokens: float) -> float:
    """Of a row's pictures through tower and projector."""
    patches = picture_tokens * model.patches_per_token
    tower = stack_flops(model.tower, model.parameters["vision"], patches, min(patches, TILE_PATCHES))
    return tower + 2 * model.parameters["projector"] * picture_tokens


def reading_flops(model: ModelShape, lengths: Lengths, tokens: float) -> float:
    """Of a forward pass over a prompt of `tokens`, its picture included, that keeps no logits."""
    return decoder_flops(model, tokens) + tower_flops(model, lengths.picture)


def training_flops(model: ModelShape, config: TrainConfig, lengths: Lengths, kept: float) -> float:
    """Of one row: forward, backward, and what is recomputed; `kept` positions go through the head."""
    again = 1 if config.machine.gradient_checkpointing else 0
    backward = 1 if config.lora.rank else 2
    decoder = decoder_flops(model, lengths.row)
    tower = tower_flops(model, lengths.picture)
    towers = (1 + again + backward) * tower if "vision" in config.trained else tower
    if config.machine.cached_features:
        towers = tower / config.epochs
    return (1 + again + backward) * decoder + towers + (1 + backward) * head_flops(model, kept)


def dpo_flops(model: ModelShape, config: TrainConfig, lengths: Lengths) -> float:
    """Of one pair."""
    reference = decoder_flops(model, lengths.row) + tower_flops(model, lengths.picture)
    reference += head_flops(model, lengths.row)
    return 2 * (training_flops(model, config, lengths, lengths.row) + reference)


def hours(flops: float, gpus: Gpus, share: float) -> float:
    """On all GPUs together."""
    return flops / (gpus.count * gpus.peak_flops * share) / 3600
