"""Prefixes that are stored once, in levels, and attention of many rows to them.

Rows of a prefix have slots side by side and ask it in one batched product. Prefixes with about as many rows and tokens
as each other form a band, so that little is padded.

Shapes: B rows, Q new tokens of a row, P prefixes, G rows of one prefix, S slots, K key-value heads, R query heads of
each, T prefix tokens, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

BANDS = 6  # at most so many products of a level in a layer
MASKED = -1e30  # finite, so that a prefix of which a row may see nothing merges with weight 0 instead of NaN

#: Keys and values of each layer, as the model's cache holds them: [P, K, T, D] each.
Layers = list[tuple[torch.Tensor, torch.Tensor]]
#: Attention to some of the keys: the logarithm of the softmax's denominator [..., 1], and the output [..., D].
Partial = tuple[torch.Tensor, torch.Tensor]


def partial_softmax(scores: torch.Tensor, values: torch.Tensor) -> Partial:
    """Attention of `scores` [..., Q, T] to `values` [..., T, D], in float32."""
    scores = scores.float()
    peak = scores.amax(-1, keepdim=True)
    weights = (scores - peak).exp_()
    total = weights.sum(-1, keepdim=True)
    return total.log() + peak, (weights.to(values.dtype) @ values).float() / total


def partial_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None
) -> Partial:
    """What scaled queries [N, K, M, D] find in keys and values [N, K, T, D], `bias` [N, 1, M, T] added to the scores.

    On a CPU by torch's flash kernel, which passes over the scores once; elsewhere by two products.
    """
    if query.device.type == "cpu":
        mask = None if bias is None else bias.to(query.dtype)
        output, logarithm = _flash(query, keys, values, 0.0, False, attn_mask=mask, scale=1.0)
        return logarithm[..., None].float(), output.float()
    scores = query @ keys.transpose(-1, -2)
    return partial_softmax(scores if bias is None else scores + bias, values)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def merge(parts: Sequence[Partial]) -> torch.Tensor:
    """Attention to the keys of all parts together, [..., D]."""
    total, output = parts[0]
    for logarithm, more in parts[1:]:
        output = torch.lerp(output, more, torch.sigmoid(logarithm - total))
        total = torch.logaddexp(total, logarithm) if len(parts) > 2 else total
    return output


class Level:
    """Prefixes of one depth, each stored once, for rows that hang on them.

    Row b belongs to prefix `owner[b]` and sees its first `seen[b]` tokens, the first of which is token
    `start[b]` of the row's whole text.
    """

    def __init__(
        self, layers: Layers, owner: torch.Tensor, seen: torch.Tensor, start: torch.Tensor, holder: object = None
    ):
        self.layers, self.owner, self.seen, self.start = layers, owner, seen, start
        self.holder = holder  # lives as long as its layers are used here
        self.private_bytes = 0  # of keys and values that were copied for this level alone
        self._lay_out()

    @property
    def prefixes(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def private_positions(self) -> int:
        """Key-value positions that were copied for this level alone."""
        return self.prefixes * self.length if self.private_bytes else 0

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2]

    def _lay_out(self) -> None:
        """Give each row a slot among those of its prefix; prefixes of a band have as many slots as each other."""
        device, rows = self.owner.device, len(self.owner)
        self.counts = counts = torch.bincount(self.owner, minlength=self.prefixes)  # rows of each prefix
        self.reaches = torch.zeros_like(counts).scatter_reduce(0, self.owner, self.seen, "amax")  # tokens they see
        self.bands = _bands(counts.tolist(), self.reaches.tolist())
        slots = torch.tensor([band.width for band in self.bands for _ in range(band.prefixes)], device=device)
        order = self.owner.argsort(stable=True)
        first, first_slot = counts.cumsum(0) - counts, slots.cumsum(0) - slots
        rank = torch.empty_like(order)
        rank[order] = torch.arange(rows, device=device) - first[self.owner[order]]
        self.slot_of_row = first_slot[self.owner] + rank
        # An empty slot stands for the first row of its prefix (of one without rows, for any), and is never read.
        self.row_in_slot = order[first.clamp_max(rows - 1)].repeat_interleave(slots)
        self.row_in_slot[self.slot_of_row] = torch.arange(rows, device=device)
        in_order = bool((self.slot_of_row == torch.arange(rows, device=device)).all())
        self.full = in_order and len(self.row_in_slot) == rows  # then slots are rows and nothing need be moved

    def bias(self, index: torch.Tensor, repeat: int, window: int | None) -> list[torch.Tensor | None]:
        """For each band, what is added to scores [P, K, G * R * Q, T]: nothing for visible tokens, else `MASKED`.

        Queries are the `index`-th [B, Q] tokens of their rows and see `window` tokens (None: all before them).
        """
        seen = self.seen[self.row_in_slot]
        first = None if window is None else (index - window + 1 - self.start[:, None])[self.row_in_slot]
        return [
            self._bias(band, seen[band.slots], first if first is None else first[band.slots], repeat)
            for band in self.bands
        ]

    def _bias(self, band: "_Band", seen: torch.Tensor, first: torch.Tensor | None, repeat: int) -> torch.Tensor | None:
        """Of a band whose slots see columns from `first` [S, Q] on (None: from 0) up to `seen` [S]."""
        shape = (band.prefixes, band.width, 1, -1, 1)
        if first is None and int(seen.min()) >= band.length:
            return None
        columns = torch.arange(band.length, device=seen.device)
        last = seen.view(shape)
        alike = first is None and bool((last == last[:, :1]).all())
        hidden = columns >= (last[:, :1] if alike else last)  # alike: one line for all rows of a prefix
        if first is not None:
            hidden = hidden | (columns < first.view(shape))
        bias = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, MASKED)
        if bias.shape[1:4] == (1, 1, 1):
            new = 1 if first is None else first.shape[1]
            return bias.view(band.prefixes, 1, 1, -1).expand(-1, -1, band.width * repeat * new, -1)
        return bias.expand(-1, -1, repeat, -1, -1).reshape(band.prefixes, 1, -1, band.length)

    def partial(self, layer: int, query: torch.Tensor, biases: Sequence[torch.Tensor | None]) -> Partial:
        """What scaled queries [B, K, R, Q, D] find in their prefixes."""
        slots = query if self.full else query[self.row_in_slot]
        parts = [self._band_partial(layer, slots[b.slots], b, bias) for b, bias in zip(self.bands, biases, strict=True)]
        if self.full:
            return parts[0] if len(parts) == 1 else (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
        rows = self.slot_of_row
        return torch.cat([part[0] for part in parts])[rows], torch.cat([part[1] for part in parts])[rows]

    def _band_partial(self, layer: int, query: torch.Tensor, band: "_Band", bias: torch.Tensor | None) -> Partial:
        """Of the queries [S, K, R, Q, D] in a band's slots."""
        (_, kv_heads, repeat, new, size), (prefixes, width) = query.shape, (band.prefixes, band.width)
        keys, values = (tensor[band.begin : band.end, :, : band.length] for tensor in self.layers[layer])
        slots = query.reshape(prefixes, width, kv_heads, repeat * new, size).transpose(1, 2)
        if bias is not None and bias.shape[2] != width * repeat * new:  # one line for each row's new tokens
            bias = bias.repeat_interleave(new, 2)
        parts = partial_attention(slots.reshape(prefixes, kv_heads, -1, size), keys, values, bias)
        logarithm, output = (
            part.reshape(prefixes, kv_heads, width, repeat * new, -1)
            .transpose(1, 2)
            .reshape(-1, kv_heads, repeat, new, part.shape[-1])
            for part in parts
        )
        return logarithm, output

    def take_in(self, other: "Level") -> None:
        """Put another level's prefixes and rows behind these; the keys and values of both are copied."""
        both = zip(self.layers, other.layers, strict=True)
        self.layers = [(_stacked(mine[0], more[0]), _stacked(mine[1], more[1])) for mine, more in both]
        self.owner = torch.cat([self.owner, other.owner + len(self.counts)])
        self.seen, self.start = torch.cat([self.seen, other.seen]), torch.cat([self.start, other.start])
        self.holder = None
        self.private_bytes = sum(keys.nbytes + values.nbytes for keys, values in self.layers)
        self._lay_out()

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these; where much is left empty by it, prefixes are put together anew, fullest first."""
        self.owner, self.seen, self.start = self.owner[rows], self.seen[rows], self.start[rows]
        self._lay_out()
        work = sum(band.width * band.prefixes * band.length for band in self.bands)
        used = int((self.counts > 0).sum())
        if 2 * work > 3 * int(self.seen.sum()) or 4 * used <= 3 * self.prefixes:
            self._compact(used)

    def _compact(self, used: int) -> None:
        """A copy of the `used` prefixes that rows see, as long as any row sees them."""
        fullest = self.counts * (self.length + 1) + self.reaches  # of those equally full the longest
        order = fullest.argsort(descending=True, stable=True)[:used]
        if len(order) == self.prefixes and bool((order == torch.arange(self.prefixes, device=order.device)).all()):
            return
        length = int(self.seen.max())
        self.layers = [(keys[order, :, :length], values[order, :, :length]) for keys, values in self.layers]
        self.holder = None
        self.private_bytes = sum(keys.nbytes + values.nbytes for keys, values in self.layers)
        number = torch.empty_like(self.counts)
        number[order] = torch.arange(len(order), device=order.device)
        self.owner = number[self.owner]
        self._lay_out()


def _stacked(mine: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """Keys or values [P, K, T, D] of both, padded with zeros: a NaN would outlive the sum that masks it."""
    stacked = mine.new_zeros(len(mine) + len(more), mine.shape[1], max(mine.shape[2], more.shape[2]), mine.shape[3])
    stacked[: len(mine), :, : mine.shape[2]] = mine
    stacked[len(mine) :, :, : more.shape[2]] = more
    return stacked


@dataclass(frozen=True)
class _Band:
    """Prefixes `begin` to `end`, of each `width` slots and the first `length` tokens; `slots` are theirs among all."""

    begin: int
    end: int
    width: int
    length: int
    slots: slice

    @property
    def prefixes(self) -> int:
        return self.end - self.begin


def _bands(counts: Sequence[int], reaches: Sequence[int]) -> list[_Band]:
    """Prefixes with so many rows and tokens each, cut where padding to one width and length adds a third to it."""
    bands: list[_Band] = []
    begin = slot = 0
    while begin < len(counts):
        end, width, length, work = begin, 0, 0, 0
        while end < len(counts):
            wider, longer = max(width, counts[end]), max(length, reaches[end])
            own = counts[end] * reaches[end]
            loose = 3 * wider * longer * (end + 1 - begin) > 4 * (work + own)
            if loose and end > begin and len(bands) < BANDS - 1:
                break
            end, width, length, work = end + 1, wider, longer, work + own
        slots = max(width, 1) * (end - begin)
        bands.append(_Band(begin, end, max(width, 1), max(length, 1), slice(slot, slot + slots)))
        begin, slot = end, slot + slots
    return bands


class Levels:
    """Levels of one set of rows, and the biases that a forward needs, made once for all layers of one window."""

    def __init__(self, levels: Sequence[Level]):
        self.levels = levels
        self.before: torch.Tensor = torch.stack([level.seen for level in levels]).sum(0)  # [B]
        self.longest = int(self.before.max())
        self.biases: dict[int | None, list[list[torch.Tensor | None]]] = {}

    def partials(self, layer: int, query: torch.Tensor, depths: torch.Tensor, window: int | None) -> list[Partial]:
        """Of queries [B, K, R, Q, D], the `depths`-th [B or 1, Q] tokens after the levels."""
        if window not in self.biases:
            index = self.before[:, None] + depths
            self.biases[window] = [level.bias(index, query.shape[2], window) for level in self.levels]
        biases = self.biases[window]
        return [level.partial(layer, query, bias) for level, bias in zip(self.levels, biases, strict=True)]

    def reached(self, window: int | None, deepest: int) -> int | None:
        """The window, or None where no text up to this depth is long enough to leave it."""
        return None if window is None or self.longest + deepest < window else window

    def take_in(self, other: "Levels") -> None:
        for level, more in zip(self.levels, other.levels, strict=True):
            level.take_in(more)
        self.before = torch.cat([self.before, other.before])
        self.longest = max(self.longest, other.longest)
        self.biases = {}

    def keep(self, rows: torch.Tensor) -> None:
        for level in self.levels:
            level.keep(rows)
        self.before = self.before[rows]
        self.biases = {}
