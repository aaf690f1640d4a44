"""Monte-Carlo step labels (paper A3): a step is as good as the share of continuations from its end that come right.

The policy continues every step's end `rollouts` times (16, at temperature 1.0 and top_p 0.95). The share with a right
final answer is the soft label; the hard label is 1.0 where the share exceeds a threshold (0.0 gives Math-Shepherd's
"any of N is right"). The last step is labelled the same way; the answer's own label is whether it is right.
Continuations that are no chain, or that the token limit cut, count as wrong and are counted in `stats`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from chainofstep.answers import is_right
from chainofstep.chain import Chain, render
from chainofstep.records import Example, Request, Rollout, Sampler, Scored, StepScores

_Key = tuple[str, str]  # example id, text of the prefix


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**48 (exact in JSON) that depends on `parts` alone; distinct parts do not collide in practice."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


@dataclass
class MonteCarloStats:
    """What a scorer has spent so far, over all its calls."""

    prefixes: int = 0  # distinct prefixes continued
    rollouts: int = 0
    tokens: int = 0  # sampled tokens
    unparseable: int = 0  # ended, but no chain
    cut: int = 0  # stopped by the token limit


@dataclass
class MonteCarloScorer:
    """A StepScorer that asks a policy to finish each prefix. All prefixes of one `score` call are sampled together.

    A prefix gets the same seed whatever is scored beside it, so labels do not depend on order or batches.
    """

    sampler: Sampler
    rollouts: int = 16
    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int = 256
    hard_threshold: float | None = None  # None: soft labels
    seed: int = 0
    stats: MonteCarloStats = field(default_factory=MonteCarloStats)

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """A label per step and one for the answer (None for a prefix)."""
        requests: dict[_Key, Request] = {}
        for example, chain in items:
            for prefix in _prefixes(chain):
                requests.setdefault((example.id, prefix), self._request(example, prefix))
        continued = self.sampler.sample(list(requests.values())) if requests else []
        labels = {
            key: self._label(request.example, group)
            for (key, request), group in zip(requests.items(), continued, strict=True)
        }
        return [_scores(example, chain, labels) for example, chain in items]

    def _request(self, example: Example, prefix: str) -> Request:
        return Request(
            example,
            n=self.rollouts,
            prefix=prefix,
            seed=derive_seed(self.seed, example.id, prefix),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def _label(self, example: Example, group: Sequence[Rollout]) -> float:
        if len(group) != self.rollouts:
            raise ValueError(f"example {example.id}: {len(group)} rollouts for a request of {self.rollouts}")
        self.stats.prefixes += 1
        self.stats.rollouts += len(group)
        self.stats.tokens += sum(len(rollout.token_ids) for rollout in group)
        self.stats.cut += sum(rollout.ending == "length" for rollout in group)
        self.stats.unparseable += sum(rollout.ending != "length" and rollout.chain is None for rollout in group)
        right = sum(_comes_right(example, rollout) for rollout in group)
        share = right / len(group)
        return share if self.hard_threshold is None else float(share > self.hard_threshold)


def _prefixes(chain: Chain) -> list[str]:
    return [render(chain.prefix(count)) for count in range(1, len(chain.steps) + 1)]


def _comes_right(example: Example, rollout: Rollout) -> bool:
    chain = rollout.chain
    return rollout.ending != "length" and chain is not None and is_right(example, chain.answer)


def _scores(example: Example, chain: Chain, labels: dict[_Key, float]) -> StepScores:
    steps = tuple(labels[example.id, prefix] for prefix in _prefixes(chain))
    return StepScores(steps, None if chain.answer is None else float(is_right(example, chain.answer)))
