"""Where the keys and values of computed prefixes lie, and how parts of them are put side by side.

Shapes: P prefixes, K key-value heads, T tokens of the longest, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chainofstep.models.levels import Layers
from chainofstep.models.packing import Ids


@dataclass(eq=False)
class Slab:
    """Keys and values of prefixes that lie side by side, padded to one length; `whole` is the slab it is a part of."""

    layers: Layers
    whole: "Slab | None" = None

    def __len__(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def positions(self) -> int:
        return len(self) * self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def part(self, start: int, count: int) -> "Slab":
        """`count` prefixes from `start` on, not copied."""
        layers = [(keys[start : start + count], values[start : start + count]) for keys, values in self.layers]
        return Slab(layers, self.whole or self)


@dataclass(eq=False)
class Piece:
    """A question's ids, or those of text after it: the first `shared` of them lie in `base`, the others in `slab`.

    There they are the columns `columns` of row `place` (None: its first ones).
    """

    ids: Ids
    slab: Slab
    place: int
    columns: Sequence[int] | None = None
    base: "Piece | None" = None
    shared: int = 0
    call: int = 0  # the last call that used it

    def parts(self, layer: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values [K, t, D] of its first `count` tokens, one part after another."""
        before = [] if self.base is None else self.base.parts(layer, min(count, self.shared))
        if count <= self.shared:
            return before
        own = count - self.shared
        columns = slice(own) if self.columns is None else _run(self.columns[:own])
        keys, values = self.slab.layers[layer]
        return [*before, (keys[self.place][:, columns], values[self.place][:, columns])]


def _run(columns: Sequence[int]) -> slice | list[int]:
    """Columns as a slice where they lie side by side."""
    first, last = columns[0], columns[-1]
    return slice(first, last + 1) if last - first + 1 == len(columns) else list(columns)


def gathered(pieces: Sequence[Piece], counts: Sequence[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [P, K, T, D] of the first `counts` tokens of pieces, in one layer."""
    return side_by_side([piece.parts(layer, count) for piece, count in zip(pieces, counts, strict=True)])


def side_by_side(rows: Sequence[list[tuple[torch.Tensor, torch.Tensor]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [P, K, T, D] of rows that are made of parts [K, t, D]."""
    longest = max(sum(keys.shape[1] for keys, _ in parts) for parts in rows)
    # Zeros, not whatever memory holds: padding is masked by a sum, and a NaN would outlive it.
    keys, values = (like.new_zeros(len(rows), like.shape[0], longest, like.shape[2]) for like in rows[0][0])
    for place, parts in enumerate(rows):
        begin = 0
        for part in parts:
            end = begin + part[0].shape[1]
            keys[place, :, begin:end], values[place, :, begin:end] = part
            begin = end
    return keys, values
