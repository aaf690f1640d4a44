"""GPUs as a plan sees them: how many, how much memory, how fast."""

import re
from dataclasses import dataclass

USABLE = 0.92  # of the memory; the rest is for CUDA, communication buffers and what fragmentation wastes
#: Cards by memory with their dense bfloat16 operations a second, from the makers' sheets.
CARDS = {
    24: ("RTX 4090", 165e12),
    40: ("A100", 312e12),
    48: ("L40S", 362e12),
    80: ("A100", 312e12),
    141: ("H200", 989e12),
}


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
        """Of one GPU, as that of `known` says. An 80 GB card counts as an A100, not as an H100."""
        return CARDS[self.known][1]

    @property
    def card(self) -> str:
        """The card whose peak is taken."""
        return f"{CARDS[self.known][0]} of {self.known} GB"

    @property
    def known(self) -> int:
        """The memory of the nearest known card of no more memory, or of the smallest known one."""
        return max((size for size in CARDS if size <= self.gigabytes), default=min(CARDS))

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
