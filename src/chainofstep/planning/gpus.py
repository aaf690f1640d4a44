"""GPUs as a plan sees them: how many, how much memory, how fast."""

import re
from dataclasses import dataclass

USABLE = 0.92  # of the memory; the rest is for CUDA, communication buffers and what fragmentation wastes
#: Dense bfloat16 operations a second by memory, from the makers' sheets: RTX 4090, A100, L40S, A100, H200.
PEAK_FLOPS = {24: 165e12, 40: 312e12, 48: 362e12, 80: 312e12, 141: 989e12}
OTHER_PEAK = 312e12


@dataclass(frozen=True)
class Gpus:
    """Equal machines with equal GPUs. Memory in GiB, which the trade calls GB."""

    nodes: int
    per_node: int
    gigabytes: int

    @property
    def count(self) -> int:
        return self.nodes * self.per_node

    @property
    def usable_bytes(self) -> int:
        """Of one GPU."""
        return int(USABLE * self.gigabytes * 2**30)

    @property
    def peak_flops(self) -> float:
        """Of one GPU: that of the best known card of this memory. An 80 GB card counts as an A100, not as an H100."""
        return PEAK_FLOPS.get(self.gigabytes, OTHER_PEAK)

    def __str__(self) -> str:
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.per_node}x{self.gigabytes}GB"


def read_gpus(text: str) -> Gpus:
    """`8x80GB`, or `2x8x80GB` for two machines; ValueError for anything else."""
    match = re.fullmatch(r"(?:(\d{1,4})x)?(\d{1,4})x(\d{1,4})GB", text)
    numbers = [int(number or 1) for number in match.groups()] if match else [0]
    if 0 in numbers:
        raise ValueError(f"GPUs {text!r} are no COUNTxMEMORYGB; write 8x80GB, or 2x8x80GB for two machines")
    return Gpus(*numbers)
