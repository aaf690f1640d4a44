"""How many key-value positions fit, and what running out of memory looks like."""

from typing import Any

import torch

CPU_BYTES = 2**31
CPU_POSITIONS = (2**15, 2**20)  # at least, for one long question with its samples; at most, for more is no faster
GPU_SHARE = 0.8  # of the free memory; the rest is for activations and logits


def kv_bytes(model: Any) -> int:
    """Bytes of the keys and values of one position, in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.get_input_embeddings().weight.element_size())


def planned_positions(model: Any) -> int:
    """Key-value positions that fit: a share of a GPU's free memory; on a CPU 2 GiB, within bounds."""
    if model.device.type != "cuda":
        least, most = CPU_POSITIONS
        return max(least, min(most, CPU_BYTES // kv_bytes(model)))
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, int(GPU_SHARE * free) // kv_bytes(model))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor there; on its way to a GPU it waits for nothing, which needs pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
