"""Rows that were admitted together: their tokens so far, what they attend to, and which of them have ended.

Shapes: B rows, V vocabulary, P trunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chainofstep.models.prefix_attention import CHUNK, SharedKV
from chainofstep.models.sampling import Settings, choose, stream_keys, uniforms
from chainofstep.models.trunks import Row, Trunk

COMPACT = 8  # rows are taken out when one in so many has ended


@dataclass(frozen=True)
class Sampled:
    """A row that has ended, with its sampled tokens and, where asked for, their log-probabilities."""

    row: Row
    ids: list[int]
    logprobs: list[float] | None


class Cohort:
    """Rows of the same age and settings. `ends` [V] says of each token whether it ends a sample."""

    def __init__(
        self,
        trunks: Sequence[Trunk],
        prefix: list[tuple[torch.Tensor, torch.Tensor]],
        ends: torch.Tensor,
        logprobs: bool,
    ):
        device = ends.device
        self.settings: Settings = trunks[0].settings
        self.rows: list[Row] = [row for trunk in trunks for row in trunk.rows]
        owner = [number for number, trunk in enumerate(trunks) for _ in trunk.rows]
        seen = torch.tensor([row.seen for row in self.rows], device=device)
        self.kv = SharedKV(prefix, torch.tensor(owner, device=device), seen)
        self.ends = ends
        self.keys = stream_keys([row.seed for row in self.rows], [row.index for row in self.rows], device)
        self.limits = torch.tensor([row.max_tokens for row in self.rows], device=device)
        self.last = torch.tensor([row.last for row in self.rows], device=device)
        self.positions = seen.clone()
        self.lengths = torch.zeros_like(seen)  # of rows that have ended; 0 for the others
        self.tokens = seen.new_empty(len(self.rows), CHUNK)
        self.logprobs = torch.empty(len(self.rows), CHUNK, device=device) if logprobs else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cost(self) -> int:
        """Key-value positions that its prefixes hold and its rows may come to hold."""
        prefixes, _, length, _ = self.kv.prefix[0][0].shape
        return prefixes * length + sum(row.max_tokens + 1 for row in self.rows)

    @property
    def remaining(self) -> int:
        """Tokens until its last row must have ended."""
        return max(row.max_tokens for row in self.rows) - self.kv.age

    def take(self, logits: torch.Tensor, forbidden: torch.Tensor) -> None:
        """Sample one token for each row from float32 `logits` [B, V], which it may overwrite."""
        age = self.kv.age
        if age == self.tokens.shape[1]:
            self._grow()
        total = logits.logsumexp(-1) if self.logprobs is not None else None
        raw = logits
        allowed = logits.index_fill(1, forbidden, -torch.inf)
        chosen = choose(allowed, uniforms(self.keys, age), self.settings)
        if self.logprobs is not None and total is not None:
            self.logprobs[:, age] = raw.gather(1, chosen[:, None])[:, 0] - total
        self.tokens[:, age] = chosen
        going = self.lengths == 0
        ended = going & (self.ends[chosen] | (self.limits <= age + 1))
        self.lengths.masked_fill_(ended, age + 1)
        self.last = chosen
        self.positions += going  # rows that wait to be taken out stay within the model's context
        self.kv.age += 1

    def _grow(self) -> None:
        self.tokens = torch.cat([self.tokens, torch.empty_like(self.tokens[:, :CHUNK])], dim=1)
        if self.logprobs is not None:
            self.logprobs = torch.cat([self.logprobs, torch.empty_like(self.logprobs[:, :CHUNK])], dim=1)

    def harvest(self) -> list[Sampled]:
        """The rows that have ended, once there are enough of them to be worth taking out; else nothing."""
        lengths = self.lengths.tolist()
        ended = [number for number, length in enumerate(lengths) if length]
        if not ended or (len(ended) < len(lengths) and len(ended) * COMPACT < len(lengths)):
            return []
        numbers = torch.tensor(ended, device=self.tokens.device)
        tokens = self.tokens[numbers, : self.kv.age].tolist()
        logprobs = None if self.logprobs is None else self.logprobs[numbers, : self.kv.age].tolist()
        sampled = []
        for i, row in enumerate(ended):
            count = lengths[row]
            sampled.append(
                Sampled(self.rows[row], tokens[i][:count], None if logprobs is None else logprobs[i][:count])
            )
        self._keep([number for number, length in enumerate(lengths) if not length])
        return sampled

    def _keep(self, going: list[int]) -> None:
        self.rows = [self.rows[number] for number in going]
        if not going:
            return
        rows = torch.tensor(going, device=self.tokens.device)
        self.kv.keep(rows)
        self.keys, self.limits, self.lengths = self.keys[rows], self.limits[rows], self.lengths[rows]
        self.last, self.positions, self.tokens = self.last[rows], self.positions[rows], self.tokens[rows]
        if self.logprobs is not None:
            self.logprobs = self.logprobs[rows]
