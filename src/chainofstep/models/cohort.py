"""Rows that were admitted together: their tokens so far, what they attend to, and which of them have ended.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    broken: bool  # its last logits were NaN, and its last token means nothing


class KV(Protocol):
    """What rows attend to: `age` columns of own tokens, of which row b has those from `start[b]` on."""

    age: int
    start: torch.Tensor

    def positions(self, more: int) -> int: ...

    def advance(self) -> None: ...

    def keep(self, rows: torch.Tensor, first: int) -> None: ...


class Cohort:
    """Rows of the same settings, each as old as it has tokens. `ends` [V] says of each token whether it ends a sample.

    `offset` [B] is what is added to the index of a row's token to get its position.
    """

    def __init__(self, trunks: Sequence[Trunk], kv: KV, ends: torch.Tensor, offset: Sequence[int], logprobs: bool):
        device = ends.device
        self.kv, self.ends = kv, ends
        self.settings: Settings = trunks[0].settings
        self.rows: list[Row] = [row for trunk in trunks for row in trunk.rows]
        self.trunks = [trunk for trunk in trunks for _ in trunk.rows]  # each row's
        self.starts = [0] * len(self.rows)  # the column of its first token
        self.keys = stream_keys([row.seed for row in self.rows], [row.index for row in self.rows], device)
        self.limits = torch.tensor([row.max_tokens for row in self.rows], device=device)
        self.last = torch.tensor([row.last for row in self.rows], device=device)
        before = [row.asked + row.seen for row in self.rows]
        self.positions = torch.tensor([sum(pair) for pair in zip(before, offset, strict=True)], device=device)
        self.lengths = torch.zeros_like(self.limits)  # of rows that have ended; 0 for the others
        self.broken = torch.zeros_like(self.limits, dtype=torch.bool)
        self.tokens = self.limits.new_empty(len(self.rows), CHUNK)
        self.logprobs = torch.empty(len(self.rows), CHUNK, device=device) if logprobs else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def likely(self) -> int:
        """Key-value positions to reserve for it beside what else may be admitted: what it holds, and room to grow."""
        needed = self._needed()
        room = sum(min(columns, self.kv.age + CHUNK) + 1 for columns in needed)
        return max(room, self.kv.positions(0))

    @property
    def remaining(self) -> int:
        """Tokens until its last row must have ended."""
        return max(self._needed()) - self.kv.age

    def _needed(self) -> list[int]:
        """The columns that each row may come to need."""
        return [row.max_tokens + start for row, start in zip(self.rows, self.starts, strict=True)]

    def take_in(self, other: "Cohort") -> None:
        """Put the rows of a younger cohort, of the same settings and as many shared levels, behind these."""
        assert isinstance(self.kv, SharedKV) and isinstance(other.kv, SharedKV)
        late = self.kv.age - other.kv.age
        self.kv.take_in(other.kv)
        self.tokens = _behind(self.tokens, other.tokens[:, : other.kv.age], late)
        if self.logprobs is not None and other.logprobs is not None:
            self.logprobs = _behind(self.logprobs, other.logprobs[:, : other.kv.age], late)
        for name in ("keys", "limits", "last", "positions", "lengths", "broken"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        self.starts += [start + late for start in other.starts]
        self.rows, self.trunks = self.rows + other.rows, self.trunks + other.trunks

    def take(self, logits: torch.Tensor, forbidden: torch.Tensor) -> None:
        """Sample one token for each row from float32 `logits` [B, V], which it may overwrite."""
        age = self.kv.age
        ages = age - self.kv.start
        if age == self.tokens.shape[1]:
            self._grow()
        total = logits.logsumexp(-1) if self.logprobs is not None else None
        allowed = logits.index_fill(1, forbidden, -torch.inf)
        broken = allowed.amax(-1).isnan()
        chosen = choose(allowed, uniforms(self.keys, ages), self.settings).clamp_max(logits.shape[1] - 1)
        if self.logprobs is not None and total is not None:
            self.logprobs[:, age] = logits.gather(1, chosen[:, None])[:, 0] - total
        self.tokens[:, age] = chosen
        going = self.lengths == 0
        ended = going & (self.ends[chosen] | (self.limits <= ages + 1) | broken)
        self.broken |= going & broken
        self.lengths = torch.where(ended, ages + 1, self.lengths)
        self.last = chosen
        self.positions += going  # rows that wait to be taken out stay within the model's context
        self.kv.advance()

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
        broken = self.broken[numbers].tolist()
        logprobs = None if self.logprobs is None else self.logprobs[numbers, : self.kv.age].tolist()
        sampled = []
        for i, row in enumerate(ended):
            own = slice(self.starts[row], self.starts[row] + lengths[row])
            logs = None if logprobs is None else logprobs[i][own]
            sampled.append(Sampled(self.rows[row], tokens[i][own], logs, broken[i]))
        self._keep([number for number, length in enumerate(lengths) if not length])
        return sampled

    def so_far(self, requests: Container[int]) -> list[Sampled]:
        """The rows of these requests with what is sampled of them so far."""
        begun = [start < self.kv.age for start in self.starts]
        wanted = [number for number, row in enumerate(self.rows) if begun[number] and row.request in requests]
        if not wanted:
            return []
        tokens, lengths = self.tokens[wanted, : self.kv.age].tolist(), self.lengths[wanted].tolist()
        return [
            Sampled(self.rows[number], ids[start : start + length if length else self.kv.age], None, False)
            for number, ids, length, start in zip(
                wanted, tokens, lengths, [self.starts[number] for number in wanted], strict=True
            )
        ]

    def drop(self, requests: Container[int]) -> None:
        """Take out the rows of these requests."""
        self._keep([number for number, row in enumerate(self.rows) if row.request not in requests])

    def _keep(self, going: list[int]) -> None:
        if len(going) == len(self.rows):
            return
        self.rows, self.trunks = [self.rows[n] for n in going], [self.trunks[n] for n in going]
        if not going:
            return
        rows = torch.tensor(going, device=self.tokens.device)
        first = min(self.starts[number] for number in going)
        self.starts = [self.starts[number] - first for number in going]
        self.kv.keep(rows, first)
        self.keys, self.limits, self.lengths = self.keys[rows], self.limits[rows], self.lengths[rows]
        self.last, self.positions, self.tokens = self.last[rows], self.positions[rows], _from(self.tokens[rows], first)
        self.broken = self.broken[rows]
        if self.logprobs is not None:
            self.logprobs = _from(self.logprobs[rows], first)

    def give_back(self, start: int = 0) -> list[Trunk]:
        """Drop its rows from `start` on; they are returned with their trunks, to be sampled from their beginning."""
        left: dict[int, tuple[Trunk, list[Row]]] = {}
        for trunk, row in zip(self.trunks[start:], self.rows[start:], strict=True):
            left.setdefault(id(trunk), (trunk, []))[1].append(row)
        self._keep(list(range(start)))
        return [Trunk(trunk.key, trunk.ids, trunk.settings, tuple(rows)) for trunk, rows in left.values()]


def _behind(mine: torch.Tensor, more: torch.Tensor, late: int) -> torch.Tensor:
    """Rows [B, columns] with others behind them, whose first column stands at `late`."""
    joined = mine.new_zeros(len(mine) + len(more), mine.shape[1])
    joined[: len(mine)] = mine
    joined[len(mine) :, late : late + more.shape[1]] = more
    return joined


def _from(rows: torch.Tensor, first: int) -> torch.Tensor:
    """Rows [B, columns] without their first columns, as wide as before."""
    return rows if not first else torch.cat([rows[:, first:], torch.zeros_like(rows[:, :first])], dim=1)
