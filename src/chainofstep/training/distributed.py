"""Processes that train together: how many there are, which one this is, and what they tell one another.

`accelerate launch` and `torchrun` start one process for each GPU with WORLD_SIZE, RANK and LOCAL_RANK set. Without
them, and on a CPU, all of this is one process.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")
MOST_WORKERS = 8  # beyond that, reading pictures waits for the disk


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process among all; the first one, 0, prints, logs and saves."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process on its node, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def workers() -> int:
    """Processes that read and encode rows for this one, beside its GPU: its share of the node's cores."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // here - 1))


def sharded_launch() -> bool:
    """Whether this was launched so that no process holds all weights: accelerate with FSDP or DeepSpeed."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("FSDP", "DEEPSPEED"))


def join(device: torch.device) -> None:
    """Meet the other processes, if there are any. `device` is where the model is."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=on_cpu(device))


def on_cpu(device: torch.device) -> bool:
    """Whether a model that was loaded there is trained on a CPU: not if it is only to be sharded over GPUs."""
    return device.type == "cpu" and not (sharded_launch() and torch.cuda.is_available())


def shared(count: int, work: Callable[[Sequence[int]], list[Value]]) -> list[Value]:
    """`work` on the numbers 0 .. count - 1, each process its share; all processes get all values, in order."""
    if processes() == 1:
        return work(range(count))
    parts: list[list[Value] | None] = [None] * processes()
    distributed.all_gather_object(parts, work(range(rank(), count, processes())))
    values: list[Any] = [None] * count
    for first, part in enumerate(parts):
        assert part is not None
        values[first :: processes()] = part
    return values


def total(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums of these numbers over all processes."""
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    if processes() > 1:
        distributed.all_reduce(summed)
    return [float(value) for value in summed]


def wait() -> None:
    """Until all processes are here."""
    if processes() > 1:
        distributed.barrier()


def shard_by_layers(trainer: Any) -> None:
    """Under FSDP, make each transformer layer a unit of its own.

    The list that stock classes give (`_no_split_modules`) also names layers that a vision-language model leaves out,
    such as those of SigLIP's text half, which accelerate refuses.
    """
    if trainer.is_fsdp_enabled:
        plugin = trainer.accelerator.state.fsdp_plugin
        layers = {type(module).__name__ for module in trainer.model.modules() if _is_layer(module)}
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or sorted(layers)


def _is_layer(module: Any) -> bool:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)
