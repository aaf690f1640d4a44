"""Monte-Carlo step labels (paper A3): a step is as good as the share of continuations from its end that come right.

The policy continues every step's end `rollouts` times (16, at temperature 1.0 and top_p 0.95). The share with a right
final answer is the soft label; the hard label is 1.0 where the share exceeds a threshold (0.0 gives Math-Shepherd's
"any of N is right"). The last step is labelled the same way; the answer's own label is whether it is right.
Continuations that are no chain, or that the token limit cut, count as wrong and are counted in `stats`.

That is the fixed rule. `adaptive` draws the same rollouts in rounds and stops where a label is settled.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from chainofstep.answers import is_right
from chainofstep.chain import Chain, render
from chainofstep.llm import EndpointDown
from chainofstep.records import (
    Example,
    Request,
    Rollout,
    Sampler,
    SamplingErrors,
    Scored,
    ScoreFailure,
    StepScores,
)
from chainofstep.scoring.adaptive import Adaptive, Key, Path, Search, final_label, next_round, settled


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
    labels: int = 0  # steps labelled
    fixed_rollouts: int = 0  # what the fixed rule would have drawn: `rollouts` of every distinct prefix


@dataclass
class _Tally:
    """What was seen of one prefix."""

    example: Example
    prefix: str
    seen: int = 0
    right: int = 0
    failure: str = ""  # why the sampler could not go on from it


@dataclass
class MonteCarloScorer:
    """A StepScorer that asks a policy to finish each prefix. All prefixes of one `score` call are sampled together.

    A prefix gets the same seed whatever is scored beside it, so labels do not depend on order or batches. With
    `adaptive.bisect` they depend on the other chains of the same example too, where these share prefixes. Every
    adaptive round is one call of the sampler for all chains: score many in one call.
    """

    sampler: Sampler
    rollouts: int = 16
    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int = 256
    hard_threshold: float | None = None  # None: soft labels
    seed: int = 0
    stats: MonteCarloStats = field(default_factory=MonteCarloStats)
    adaptive: Adaptive | None = None  # None: all `rollouts` of every prefix, as in the paper

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """A label per step and one for the answer (None for a prefix); a failure where the sampler failed."""
        paths = [_path(example, chain) for example, chain in items]
        tallies: dict[Key, _Tally] = {}
        promising: dict[Path, bool] = {}
        for (example, chain), path in zip(items, paths, strict=True):
            promising[path] = promising.get(path, False) or _is_right(example, chain)
            for key in path:
                tallies.setdefault(key, _Tally(example, key[1]))
        self.stats.labels += sum(map(len, paths))
        self.stats.fixed_rollouts += self.rollouts * len(tallies)
        labels = self._labels(tallies, promising)
        return [
            _failure([tallies[key] for key in path]) or _scores(*item, [labels[key] for key in path])
            for item, path in zip(items, paths, strict=True)
        ]

    def _labels(self, tallies: dict[Key, _Tally], promising: dict[Path, bool]) -> dict[Key, float]:
        """Rounds of asking and settling, until every prefix has a label. The fixed rule has one round."""
        rule = self.adaptive
        search = Search(promising, bisect=rule is not None and rule.bisect and self.hard_threshold == 0.0)
        labels: dict[Key, float] = {}
        while asked := search.ask(labels):
            self._draw([tallies[key] for key in asked])
            failed = [key for key in asked if tallies[key].failure]
            labels.update(dict.fromkeys(failed, math.nan))  # it is not asked again, and its chains get no scores
            verdicts = {key: self._settled(tallies[key]) for key in asked if key not in failed}
            search.spread({key: label for key, label in verdicts.items() if label is not None}, labels)
        return labels

    def _settled(self, tally: _Tally) -> float | None:
        if self.adaptive is None:
            return final_label(tally.right, tally.seen, self.hard_threshold)
        return settled(self.adaptive, tally.right, tally.seen, self.rollouts, self.hard_threshold)

    def _draw(self, tallies: Sequence[_Tally]) -> None:
        """The next rollouts of each prefix, from one call of the sampler."""
        requests = [self._request(tally) for tally in tallies]
        groups, failures = sampled(self.sampler, requests)
        for number, (tally, request, group) in enumerate(zip(tallies, requests, groups, strict=True)):
            if group is None:
                tally.failure = failures[number]
                continue
            _check(request, group)
            self._count(tally, group)
            tally.seen += len(group)
            tally.right += sum(_comes_right(tally.example, rollout) for rollout in group)

    def _request(self, tally: _Tally) -> Request:
        count = self.rollouts
        if self.adaptive is not None:
            count = next_round(self.adaptive, tally.right, tally.seen, self.rollouts, self.hard_threshold)
        return Request(
            tally.example,
            n=count,
            prefix=tally.prefix,
            seed=derive_seed(self.seed, tally.example.id, tally.prefix),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            first=tally.seen,
        )

    def _count(self, tally: _Tally, group: Sequence[Rollout]) -> None:
        self.stats.prefixes += tally.seen == 0
        self.stats.rollouts += len(group)
        self.stats.tokens += sum(len(rollout.token_ids) for rollout in group)
        self.stats.cut += sum(rollout.ending == "length" for rollout in group)
        self.stats.unparseable += sum(rollout.ending != "length" and rollout.chain is None for rollout in group)


def sampled(sampler: Sampler, requests: Sequence[Request]) -> tuple[Sequence[list[Rollout] | None], dict[int, str]]:
    """Each request's rollouts, None where it could not be met, and why not by request number."""
    try:
        return sampler.sample(requests), {}
    except EndpointDown:  # no fault of the requests: they can be asked again
        raise
    except SamplingErrors as error:
        return error.results, error.failures


def _failure(tallies: Sequence[_Tally]) -> ScoreFailure | None:
    reason = next((tally.failure for tally in tallies if tally.failure), "")
    return ScoreFailure(f"sampling: {reason}") if reason else None


def _path(example: Example, chain: Chain) -> Path:
    return tuple((example.id, render(chain.prefix(count))) for count in range(1, len(chain.steps) + 1))


def _check(request: Request, group: Sequence[Rollout]) -> None:
    """Too few rollouts would lower a share, and samples that were seen already would count twice."""
    if len(group) != request.n:
        raise ValueError(f"example {request.example.id}: {len(group)} rollouts for a request of {request.n}")
    if request.first and group[0].index != request.first:
        raise ValueError(
            f"example {request.example.id}: sample {group[0].index} came for a request from sample {request.first}; "
            "use a sampler that heeds Request.first, or the fixed rule (adaptive=None)"
        )


def _is_right(example: Example, chain: Chain) -> bool:
    return chain.answer is not None and is_right(example, chain.answer)


def _comes_right(example: Example, rollout: Rollout) -> bool:
    chain = rollout.chain
    return rollout.ending != "length" and chain is not None and _is_right(example, chain)


def _scores(example: Example, chain: Chain, labels: Sequence[float]) -> StepScores:
    return StepScores(tuple(labels), None if chain.answer is None else float(_is_right(example, chain)))
