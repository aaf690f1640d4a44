"""Texts that go on from the same prefix, packed so that what they begin with in common is computed once.

The new tokens of such texts form a tree. A row holds the tree's tokens one after another; each attends to those on
its own path from the root and stands at the position of its depth. The chains that one policy samples for one question
often share a first step, and the candidates of a beam all of their past.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from chainofstep.models.memory import to_device

Ids = tuple[int, ...]
#: A row longer than this is not added to: attention within a row grows with its square.
ROW_TOKENS = 256


def common(first: Ids, second: Ids) -> int:
    """How many ids two texts begin with in common."""
    least = min(len(first), len(second))
    if first[:least] == second[:least]:
        return least
    return next(i for i in range(least) if first[i] != second[i])


@dataclass
class PackedRow:
    """A tree of new tokens, Q in all; `paths` holds for each text its number and its tokens' columns."""

    root: Hashable  # what its texts go on from
    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: list[tuple[int, list[int]]] = field(default_factory=list)
    blocks: list[tuple[int, list[int]]] = field(default_factory=list)  # first column of a branch, and what it sees

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, number: int, text: Ids, shared: int) -> None:
        """A text whose first `shared` tokens are those of the text before it."""
        trunk = self.paths[-1][1][:shared] if shared else []
        begin = len(self.ids)
        self.blocks.append((begin, trunk))
        self.ids += text[shared:]
        self.depths += range(shared, len(text))
        self.paths.append((number, [*trunk, *range(begin, len(self.ids))]))

    def visible(self, width: int) -> np.ndarray:
        """[Q, Q], padded to `width`: which columns a column sees; padding sees itself."""
        seen = np.eye(width, dtype=bool)
        ends = [*(begin for begin, _ in self.blocks[1:]), len(self.ids)]
        for (begin, trunk), end in zip(self.blocks, ends, strict=True):
            seen[begin:end, trunk] = True
            seen[begin:end, begin:end] = np.tri(end - begin, dtype=bool)
        return seen


def pack(texts: Sequence[Ids], roots: Sequence[Hashable]) -> list[PackedRow]:
    """Rows of texts of the same root, in the order in which roots first appear; every text has a token."""
    groups: dict[Hashable, list[int]] = {}
    for number, root in enumerate(roots):
        groups.setdefault(root, []).append(number)
    return [row for root, numbers in groups.items() for row in _packed(root, texts, numbers)]


def _packed(root: Hashable, texts: Sequence[Ids], numbers: Sequence[int]) -> Iterator[PackedRow]:
    row = PackedRow(root)
    before: Ids = ()
    # Sorted, texts that begin alike lie side by side.
    for number in sorted(numbers, key=lambda number: texts[number]):
        shared = common(before, texts[number]) if row.ids else 0
        if row.ids and len(row) + len(texts[number]) - shared > ROW_TOKENS:
            yield row
            row, shared = PackedRow(root), 0
        row.add(number, texts[number], shared)
        before = texts[number]
    yield row


def batches(rows: Sequence[PackedRow], tokens: int) -> Iterator[list[PackedRow]]:
    """Rows of about the same length, longest first, at most so many padded `tokens` together, or one row."""
    group: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: -len(row)):
        if group and (len(group) + 1) * len(group[0]) > tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def padded(rows: Sequence[PackedRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and depths [B, Q] and visible columns [B, Q, Q] of rows padded to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    depths = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.ids)
        depths[i, : len(row)] = torch.tensor(row.depths)
    visible = torch.from_numpy(np.stack([row.visible(width) for row in rows]))
    return to_device(ids, device), to_device(depths, device), to_device(visible, device)
