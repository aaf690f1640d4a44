"""Attention of many rows to prefixes that are stored once, as a drop-in for the model's own.

Prefixes nest in levels: a question with its pictures, then a chain so far. All rows of a prefix ask it in one batched
product, each row asks its own tokens in another, and the partial softmaxes are merged. Registered with transformers'
`AttentionInterface`, so that the model's stock forward runs unchanged: the keyword `shared_prefix` travels through it
to `shared_prefix_attention`; without it the function is the stock `sdpa` attention, which computes questions.

Shapes: B rows, Q new tokens of a row, H heads, K key-value heads, R = H / K, D head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from chainofstep.models.levels import MASKED, Layers, Level, Levels, Partial, merge, partial_attention, partial_softmax

NAME = "shared_prefix"
CHUNK = 64  # columns by which the buffers of sampled tokens grow
UNKNOWN = ("softcap", "s_aux", "position_bias")  # what a decoder may ask of its attention and this one cannot do


class Rows(Protocol):
    """Rows of one forward that share their levels."""

    def __len__(self) -> int: ...

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        """Scaled query [B, K, R, Q, D], key and value [B, K, Q, D] of the new tokens -> [B, K, R, Q, D]."""
        ...


class SharedKV:
    """Rows that sample one token at a time: their levels, and the keys and values of their own tokens.

    The oldest row has sampled `age` tokens. Row b's own tokens are columns `start[b]` to `age`, so that a column is
    written at once; no row comes to need more than `most` columns.
    """

    def __init__(self, levels: Sequence[Level], most: int):
        self.shared = Levels(levels)
        self.age, self.most = 0, most
        self.start = torch.zeros_like(self.shared.before)
        self.depth = torch.zeros(1, 1, dtype=torch.long, device=self.start.device)
        self.hidden: torch.Tensor | None = None  # [B, 1, 1, columns]: added to scores where rows began later
        self.own: Layers = [(self._empty(keys), self._empty(values)) for keys, values in levels[0].layers]

    def __len__(self) -> int:
        return len(self.shared.before)

    @property
    def levels(self) -> Sequence[Level]:
        return self.shared.levels

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(len(self), like.shape[1], min(CHUNK, self.most), like.shape[3])

    def positions(self, more: int) -> int:
        """Key-value positions of its rows' own tokens, after so many more, and of its private copies of prefixes."""
        columns = self.own[0][0].shape[2]
        private = sum(level.private_positions for level in self.levels)
        return private + len(self) * (columns if self.age + more <= columns else self._columns(columns))

    def advance(self) -> None:
        """The new column is written in all layers."""
        self.age += 1
        self.depth += 1
        self.shared.biases = {None: self.shared.biases[None]} if None in self.shared.biases else {}

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a new column, key and value [B, K, 1, D]; all keys and values [B, K, age + 1, D] of sampled tokens."""
        keys, values = self.own[layer]
        if self.age == keys.shape[2]:
            keys, values = self.own[layer] = self._grown(keys), self._grown(values)
        keys[:, :, self.age], values[:, :, self.age] = key[:, :, 0], value[:, :, 0]
        return keys[:, :, : self.age + 1], values[:, :, : self.age + 1]

    def attend_own(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> Partial:
        """What scaled queries [B, K, R, 1, D] find in their rows' own tokens, after storing the new ones."""
        keys, values = self.append(layer, key, value)
        first = 0 if window is None else max(0, self.age + 1 - window)
        keys, values = keys[:, :, first:], values[:, :, first:]
        scores = query[..., 0, :] @ keys.transpose(-1, -2)
        if self.hidden is not None:
            scores = scores + self.hidden[..., first : self.age + 1]
        logarithm, output = partial_softmax(scores, values)
        return logarithm[..., None, :], output[..., None, :]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        window = self.shared.reached(window, self.age)
        own = self.attend_own(layer, query, key, value, window)
        return merge([*self.shared.partials(layer, query, self.depth, window), own])

    def _columns(self, columns: int) -> int:
        """How many columns follow on so many: a chunk more, or as many as the longest row can need."""
        return max(columns + 1, min(columns + CHUNK, self.most))

    def _grown(self, buffer: torch.Tensor) -> torch.Tensor:
        columns = self._columns(buffer.shape[2])
        larger = buffer.new_empty(*buffer.shape[:2], columns, buffer.shape[3])
        larger[:, :, : buffer.shape[2]] = buffer
        return larger

    def _hide(self) -> None:
        """After rows came or went: what is before a row's own tokens is not for it."""
        self.depth = (self.age - self.start)[:, None]
        columns = torch.arange(max(self.most, self.age + 1), device=self.start.device)
        before = columns < self.start[:, None]
        self.hidden = torch.zeros(before.shape, device=before.device).masked_fill_(before, MASKED)[:, None, None]

    def take_in(self, other: "SharedKV") -> None:
        """Put rows that are no older behind these."""
        late = self.age - other.age
        self.shared.take_in(other.shared)
        both = zip(self.own, other.own, strict=True)
        self.own = [(self._joined(a[0], b[0], late), self._joined(a[1], b[1], late)) for a, b in both]
        self.start = torch.cat([self.start, other.start + late])
        self.most = max(self.most, other.most + late)
        self._hide()

    def _joined(self, mine: torch.Tensor, more: torch.Tensor, late: int) -> torch.Tensor:
        joined = mine.new_zeros(len(mine) + len(more), *mine.shape[1:])  # zeros: hidden columns are weighed with 0
        joined[: len(mine), :, : self.age] = mine[:, :, : self.age]
        joined[len(mine) :, :, late : self.age] = more[:, :, : self.age - late]
        return joined

    def _taken(self, buffer: torch.Tensor, rows: torch.Tensor, first: int) -> torch.Tensor:
        taken = buffer.new_empty(len(rows), *buffer.shape[1:])
        taken[:, :, : self.age - first] = buffer[:, :, first : self.age].index_select(0, rows)
        return taken

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Drop all rows but these (ascending numbers), and the columns before `first`, where none of them begins."""
        self.shared.keep(rows)
        self.own = [(self._taken(keys, rows, first), self._taken(values, rows, first)) for keys, values in self.own]
        self.start = self.start[rows] - first
        self.age, self.most = self.age - first, self.most - first
        if self.hidden is not None:
            self._hide()


class Extension:
    """Rows of which several new tokens are computed at once; `layers` holds the new keys and values [B, K, Q, D].

    `depths` [B, Q] says how many tokens come before each, after the levels, and `visible` [B, Q, Q] which it sees.
    """

    def __init__(self, levels: Sequence[Level], depths: torch.Tensor, visible: torch.Tensor):
        self.shared = Levels(levels)
        self.layers: Layers = []
        self.depths, self.visible, self.deepest = depths, visible, int(depths.max())
        self.biases: dict[int | None, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.shared.before)

    def _bias(self, window: int | None) -> torch.Tensor:
        """[B, 1, Q, Q]: what is added to scores of new tokens."""
        if window not in self.biases:
            visible = self.visible
            if window is not None:
                visible = visible & (self.depths[:, :, None] - self.depths[:, None] < window)
            bias = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, MASKED)
            self.biases[window] = bias[:, None]
        return self.biases[window]

    def attend_own(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> Partial:
        """What scaled queries [B, K, R, Q, D] find in their rows' new tokens."""
        _, kv_heads, repeat, new, size = query.shape
        heads = [tensor[:, :, None].expand(-1, -1, repeat, -1, -1).flatten(1, 2) for tensor in (key, value)]
        parts = partial_attention(query.reshape(len(query), -1, new, size), heads[0], heads[1], self._bias(window))
        return parts[0].unflatten(1, (kv_heads, repeat)), parts[1].unflatten(1, (kv_heads, repeat))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        self.layers.append((key, value))
        window = self.shared.reached(window, self.deepest)
        own = self.attend_own(query, key, value, window)
        return merge([*self.shared.partials(layer, query, self.depths, window), own])


class SharedPrefix:
    """What one forward attends to: several sets of rows, one after another."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = parts
        self.sizes = [len(part) for part in parts]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Query [B, H, Q, D], key and value [B, K, Q, D] -> [B, Q, H, D]; the new keys and values are stored."""
        batch, heads, new, size = query.shape
        kv_heads = key.shape[1]  # query heads of one key-value head lie side by side
        scaled = (query * scaling).reshape(batch, kv_heads, heads // kv_heads, new, size)
        rows = zip(self.parts, *(tensor.split(self.sizes) for tensor in (scaled, key, value)), strict=True)
        outputs = [part.attend(layer, q, k, v, window) for part, q, k, v in rows]
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.to(query.dtype).reshape(batch, heads, new, -1).transpose(1, 2)


class NotShareable(ValueError):
    """A decoder whose attention cannot take the shared form; the text says why."""


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefix | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function transformers calls in each layer: query [B, H, Q, D] -> output [B, Q, H, D]."""
    unknown = [name for name in UNKNOWN if kwargs.get(name) is not None]
    if unknown and shared_prefix is not None:
        raise NotShareable(f"its attention uses {', '.join(unknown)}")
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared_prefix.attend(int(module.layer_idx), query, key, value, factor, sliding_window), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def sampling_mode(model: Any, attention: str | None = NAME) -> Iterator[None]:
    """No gradients, no dropout and this attention in the decoder (None: its own); all as it was afterwards."""
    training, before = model.training, model.config.get_text_config()._attn_implementation
    if attention is not None:
        model.set_attn_implementation({"text_config": attention})
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if attention is not None:
            model.set_attn_implementation({"text_config": before})
        model.train(training)
