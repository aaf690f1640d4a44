"""Attention of many sampled rows to prefixes that are stored once.

All rows of a prefix ask it in one batched product, each row asks its own sampled tokens in another, and the two
partial softmaxes are merged. Registered with transformers' `AttentionInterface`, so that the model's stock forward
runs unchanged: the keyword `shared_prefix` travels through it to `shared_prefix_attention`; without it the function
is the stock `sdpa` attention, which is what prefills use.

Shapes: B rows, P prefixes, G rows of one prefix, H heads, K key-value heads, R = H / K, T prefix tokens, D head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "shared_prefix"
CHUNK = 64  # columns by which the buffers of sampled tokens grow
MASKED = -1e30  # finite, so that a prefix of which a row may see nothing merges with weight 0 instead of NaN

#: A softmax over some of the keys, not yet divided: peak [..., 1], total [..., 1], weighted values [..., D].
Partial = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def partial_softmax(scores: torch.Tensor, values: torch.Tensor) -> Partial:
    """Softmax of `scores` [..., Q, T] over `values` [..., T, D], kept as peak, total and undivided output."""
    scores = scores.float()
    peak = scores.amax(-1, keepdim=True)
    weights = (scores - peak).exp_()
    return peak, weights.sum(-1, keepdim=True), (weights.to(values.dtype) @ values).float()


def merge(first: Partial, second: Partial) -> torch.Tensor:
    """The softmax over both sets of keys together, [..., D]."""
    peak = torch.maximum(first[0], second[0])
    weight, other = (first[0] - peak).exp_(), (second[0] - peak).exp_()
    return (first[2] * weight + second[2] * other) / (first[1] * weight + second[1] * other)


class SharedKV:
    """Keys and values of rows that were admitted together: prefixes once, sampled tokens for each row.

    `prefix` holds (keys, values), each [P, K, T, D], for each layer. Row b belongs to prefix `owner[b]` (ascending)
    and sees its first `seen[b]` tokens. All rows have sampled `age` tokens, so a column is written at once.
    """

    def __init__(self, prefix: list[tuple[torch.Tensor, torch.Tensor]], owner: torch.Tensor, seen: torch.Tensor):
        self.prefix, self.owner, self.seen = prefix, owner, seen
        self.age = 0
        self.own = [self._empty(keys, CHUNK) for keys, _ in prefix]
        self._lay_out()

    def _empty(self, like: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(self.owner), like.shape[1], columns, like.shape[3])
        return like.new_empty(shape), like.new_empty(shape)

    def _lay_out(self) -> None:
        """Give each row a slot in [P, G]; G is the largest number of rows of one prefix."""
        device, rows, prefixes, length = self.owner.device, len(self.owner), *self.prefix[0][0].shape[::2]
        counts = torch.bincount(self.owner, minlength=prefixes)
        self.width = int(counts.max())
        starts = counts.cumsum(0) - counts
        numbers = torch.arange(rows, device=device)
        self.slot_of_row = self.owner * self.width + numbers - starts[self.owner]
        self.row_in_slot = torch.zeros(prefixes * self.width, dtype=torch.long, device=device)
        self.row_in_slot[self.slot_of_row] = numbers
        self.full = rows == prefixes * self.width  # then slots are rows and nothing need be moved
        self.bias: torch.Tensor | None = None
        if int(self.seen.min()) < length:
            seen = self.seen[self.row_in_slot].view(prefixes, 1, self.width, 1, 1)
            hidden = torch.arange(length, device=device) >= seen
            self.bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, MASKED)

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a new column, key and value [B, K, 1, D]; all keys and values [B, K, age + 1, D] of sampled tokens."""
        keys, values = self.own[layer]
        if self.age == keys.shape[2]:
            keys, values = self.own[layer] = self._grown(keys), self._grown(values)
        keys[:, :, self.age], values[:, :, self.age] = key[:, :, 0], value[:, :, 0]
        return keys[:, :, : self.age + 1], values[:, :, : self.age + 1]

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention of one new token a row: scaled query [B, K, R, D], key and value [B, K, 1, D] -> [B, K, R, D]."""
        keys, values = self.append(layer, key, value)
        own = partial_softmax(query @ keys.transpose(-1, -2), values)
        return merge(self._attend_prefix(layer, query), own).to(query.dtype)

    def _attend_prefix(self, layer: int, query: torch.Tensor) -> Partial:
        keys, values = self.prefix[layer]
        (prefixes, kv_heads, _, size), repeat = keys.shape, query.shape[2]
        slots = query if self.full else query[self.row_in_slot]
        slots = slots.view(prefixes, self.width, kv_heads, repeat, size).transpose(1, 2)
        scores = slots.reshape(prefixes, kv_heads, self.width * repeat, size) @ keys.transpose(-1, -2)
        if self.bias is not None:
            scores = (scores.view(*slots.shape[:-1], -1) + self.bias).view(scores.shape)
        peak, total, output = (self._to_rows(part, repeat) for part in partial_softmax(scores, values))
        return peak, total, output

    def _to_rows(self, part: torch.Tensor, repeat: int) -> torch.Tensor:
        """[P, K, G * R, X] -> [B, K, R, X]."""
        prefixes, kv_heads, _, size = part.shape
        slots = part.view(prefixes, kv_heads, self.width, repeat, size).transpose(1, 2)
        slots = slots.reshape(-1, kv_heads, repeat, size)
        return slots if self.full else slots[self.slot_of_row]

    @staticmethod
    def _grown(buffer: torch.Tensor) -> torch.Tensor:
        larger = buffer.new_empty(*buffer.shape[:2], buffer.shape[2] + CHUNK, buffer.shape[3])
        larger[:, :, : buffer.shape[2]] = buffer
        return larger

    def _taken(self, buffer: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        taken = buffer.new_empty(len(rows), *buffer.shape[1:])
        taken[:, :, : self.age] = buffer[:, :, : self.age].index_select(0, rows)
        return taken

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these (ascending numbers), and prefixes and prefix tokens that no row sees any more."""
        prefixes, self.owner = torch.unique(self.owner[rows], return_inverse=True)
        self.seen = self.seen[rows]
        length = int(self.seen.max())
        if len(prefixes) < len(self.prefix[0][0]) or length < self.prefix[0][0].shape[2]:
            self.prefix = [(k[prefixes, :, :length], v[prefixes, :, :length]) for k, v in self.prefix]
        self.own = [(self._taken(keys, rows), self._taken(values, rows)) for keys, values in self.own]
        self._lay_out()


class SharedPrefix:
    """What one decode step attends to: the rows of several `SharedKV`, one after another."""

    def __init__(self, parts: Sequence[SharedKV]):
        self.parts = parts
        self.sizes = [len(part.owner) for part in parts]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Query [B, H, 1, D], key and value [B, K, 1, D] -> [B, 1, H, D]; the new keys and values are stored."""
        batch, heads, _, size = query.shape
        kv_heads = key.shape[1]  # query heads of one key-value head lie side by side
        scaled = (query * scaling).reshape(batch, kv_heads, heads // kv_heads, size)
        rows = zip(self.parts, *(tensor.split(self.sizes) for tensor in (scaled, key, value)), strict=True)
        outputs = [part.attend(layer, q, k, v) for part, q, k, v in rows]
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.reshape(batch, 1, heads, -1)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function transformers calls in each layer: query [B, H, Q, D] -> output [B, Q, H, D]."""
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared_prefix.attend(int(module.layer_idx), query, key, value, factor), None  # type: ignore[arg-type]


AttentionInterface.register(NAME, shared_prefix_attention)


def require_supported(model: Any) -> None:
    """ValueError where prefixes cannot be shared: the architecture is not LLaVA's, or its attention uses windows."""
    config = model.config.get_text_config()
    if model.config.model_type != "llava":
        raise ValueError(f"the engine samples from LLaVA models, not {model.config.model_type!r}; serve it by endpoint")
    if getattr(config, "sliding_window", None):
        raise ValueError(f"the engine does not know sliding windows ({config.sliding_window}); serve it by endpoint")


@contextmanager
def sampling_mode(model: Any) -> Iterator[None]:
    """No gradients, no dropout and shared-prefix attention in the decoder; all as it was afterwards."""
    training, before = model.training, model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": NAME})
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation({"text_config": before})
        model.train(training)
