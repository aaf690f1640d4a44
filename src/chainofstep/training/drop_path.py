"""Stochastic depth of a vision tower (paper Table 7: 0.1 for SFT and DPO, 0.4 for the PRM).

The stock classes of most families have no such setting. What it drops is the output of a layer's attention and of its
feed-forward, before they are added to the stream, so two hooks on each layer do the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

LAYERS = ("layers", "layer", "blocks")
BRANCHES = ("self_attn", "attention", "attn", "mlp")


@contextmanager
def dropping(tower: nn.Module, most: float) -> Iterator[None]:
    """In training mode, drop each branch of each layer for a share of the pictures: 0 in the first, `most` in the last.

    What is kept is scaled up, so that the mean stays. ValueError for a tower that lays pictures end to end in one row
    (Qwen's), or whose layers are not known.
    """
    layers = _layers(tower)
    handles = []
    for number, layer in enumerate(layers):
        share = most * number / max(1, len(layers) - 1)
        branches = [module for name, module in layer.named_children() if name in BRANCHES]
        handles += [branch.register_forward_hook(_Drop(share, type(tower).__name__)) for branch in branches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(tower: nn.Module) -> list[nn.Module]:
    for name, module in tower.named_modules():
        if name.rpartition(".")[2] in LAYERS and isinstance(module, nn.ModuleList) and len(module):
            layers = list(module)
            if all(sum(name in BRANCHES for name, _ in layer.named_children()) == 2 for layer in layers):
                return layers
    raise ValueError(f"drop_path: the layers of {type(tower).__name__} are not known; set drop_path=0")


class _Drop:
    """A forward hook that drops a branch's output [pictures, ...] for whole pictures."""

    def __init__(self, share: float, tower: str):
        self.share, self.tower = share, tower

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training or not self.share:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.dim() < 3:
            raise ValueError(f"drop_path: {self.tower} lays pictures end to end in one row; set drop_path=0")
        kept = torch.rand(hidden.shape[0], *[1] * (hidden.dim() - 1), device=hidden.device) >= self.share
        hidden = hidden * kept.to(hidden.dtype) / (1 - self.share)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
