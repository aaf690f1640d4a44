"""Monte-Carlo labels with fewer rollouts: when a prefix's label is settled, and which prefixes need be asked at all.

The fixed rule (paper A3) continues every prefix 16 times. Most of these rollouts cannot change a label any more: the
first right one settles Math-Shepherd's "any of N is right", and a right one of a chain's last prefix settles all the
chain's prefixes. What is drawn here are always the first k of the fixed rule's own rollouts of a prefix, in doubling
rounds, until `settled` has a label. `Search` asks as few prefixes as it can, as OmegaPRM (Luo et al. 2024) does.
"""

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache

Key = tuple[str, str]  # example id, text of the prefix
Path = tuple[Key, ...]  # the prefixes of a chain, the first step's first
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Adaptive:
    """When to stop: hard labels by `error`, soft ones by `width`; "any is right" also searches by `bisect`.

    `error` bounds, for each prefix that stops early, the chance that its remaining rollouts would change its label
    (see `chance_of_one`); 0 stops only where nothing can change it. `bisect` saves most, as `Search` says, but lets
    one prefix's label speak for others of its chain; without it a label depends on the example and the prefix alone.

    `prior` is the Beta distribution of the shares of right continuations, from which every prefix's own is taken to
    be drawn. It is fixed: were it estimated from the prefixes of a call, labels would depend on what else is asked
    there. Beta(0.2, 0.2) is what moments give for the 16-rollout shares of 1,400 prefixes of two `mini` policies
    (0.17 to 0.18 and 0.19 to 0.21): a third of them at 0, a third at 1. Under Jeffreys' Beta(0.5, 0.5), which expects
    fewer shares near 0, fifteen wrong rollouts are needed to foretell the sixteenth with an error of 0.05.
    """

    error: float = 0.05
    width: float = 0.35  # of the 95% Wilson interval: 8 equal rollouts have 0.32, 16 mixed ones up to 0.44
    bisect: bool = True  # heeded where the hard threshold is 0 ("any is right"), for other labels are not monotone
    prior: tuple[float, float] = (0.2, 0.2)

    def __post_init__(self) -> None:
        if not 0 <= self.error < 0.5:
            raise ValueError(f"error is {self.error}; choose a chance from 0 (no error) to below 0.5")
        if self.width <= 0:
            raise ValueError(f"width is {self.width}; choose an interval's width above 0, such as 0.35")
        if min(self.prior) <= 0:
            raise ValueError(f"prior is {self.prior}; both numbers of a Beta distribution are above 0")


def final_label(right: int, rollouts: int, threshold: float | None) -> float:
    """The fixed rule's label: the share, or whether it exceeds the threshold."""
    share = right / rollouts
    return share if threshold is None else float(share > threshold)


@cache
def settled(rule: Adaptive, right: int, seen: int, rollouts: int, threshold: float | None) -> float | None:
    """The label of a prefix of whose `seen` rollouts `right` came right, or None while more must be drawn.

    A soft label is settled by its interval's width. It is the share of what was seen; as only the shares nearest 0
    and 1 stop early, it errs towards those ends. A hard label is settled if what was seen decides the label of all
    `rollouts` (curtailment, no error), or if the chance that the rest changes the label of what was seen is below
    `rule.error`; so a 1 of "any is right" always has a right rollout behind it.
    """
    if seen == rollouts:
        return final_label(right, rollouts, threshold)
    if threshold is None:
        return right / seen if seen and wilson_width(right, seen) < rule.width else None
    lowest, highest = (final_label(right + more, rollouts, threshold) for more in (0, rollouts - seen))
    if lowest == highest or not seen:
        return None if lowest < highest else lowest
    label, chance = final_label(right, seen, threshold), chance_of_one(rule.prior, right, seen, rollouts, threshold)
    return label if (1 - chance if label else chance) < rule.error else None


@cache
def next_round(rule: Adaptive, right: int, seen: int, rollouts: int, threshold: float | None) -> int:
    """How many rollouts to draw next of a prefix that is not settled.

    Each round doubles what was seen (1, 1, 2, 4, 8), because a round waits for its longest rollout: a prefix has about
    log2(rollouts) + 1 of them, and draws at most twice what would have settled it. A round is cut short where fewer
    rollouts settle the label if all of them are as most were so far.
    """
    most = min(max(1, seen), rollouts - seen)
    leaning = seen > 0 and final_label(right, seen, 0.5 if threshold is None else threshold) == 1.0
    for count in range(1, most):
        if settled(rule, right + count * leaning, seen + count, rollouts, threshold) is not None:
            return count
    return most


def chance_of_one(prior: tuple[float, float], right: int, seen: int, rollouts: int, threshold: float) -> float:
    """The chance that all `rollouts` give a hard label of 1, once `right` of `seen` came right.

    With a share drawn from Beta(a, b), the rights X among the m = rollouts - seen that remain are beta-binomial,

        P(X = x) = C(m, x) B(a + right + x, b + seen - right + m - x) / B(a + right, b + seen - right),

    with B(u, v) = Γ(u) Γ(v) / Γ(u + v), and the chance is the sum of P(x) over the x that give the label 1.
    """
    rest, a, b = rollouts - seen, prior[0] + right, prior[1] + seen - right
    return sum(
        math.comb(rest, more) * math.exp(_log_beta(a + more, b + rest - more) - _log_beta(a, b))
        for more in range(rest + 1)
        if final_label(right + more, rollouts, threshold)
    )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def wilson_width(right: int, seen: int) -> float:
    """The width of the 95% Wilson interval of a share; it is never zero, also where all rollouts are alike."""
    share, z = right / seen, NORMAL_95
    return 2 * z / (1 + z * z / seen) * math.sqrt(share * (1 - share) / seen + z * z / (4 * seen * seen))


@dataclass(frozen=True)
class Search:
    """Which prefixes of some chains to ask next, and what the settled ones say about others.

    With `bisect`, the label "any continuation is right" is monotone along a chain. If p(right | a prefix) > 0 then the
    same holds of every shorter prefix of its chain, which may go on with the chain's own steps; so a 1 labels all
    prefixes before it, and a 0 all after it. A chain of k steps has k + 1 outcomes (the place of its first wrong step,
    or none), which halving finds from at most ceil(log2(k + 1)) prefixes. Prefixes of several chains of an example
    are one entry, so what one chain found out serves the others.

    Of finite samples the assumption can err in two ways. A 0 by bad luck (p > 0, no right rollout drawn) becomes the
    label of all later steps, while the fixed rule asks each anew; a lucky right continuation of a wrong prefix becomes
    a 1 of the steps before. Of `mini`'s chains 1.3% had labels from 16 rollouts that were not monotone. On its recorded
    shares the default rule gives 98.4 to 98.8% of the fixed rule's labels for 3.3 to 3.5 times fewer rollouts.
    """

    promising: Mapping[Path, bool]  # every chain's prefixes, and whether its own answer is right
    bisect: bool

    def ask(self, labels: Mapping[Key, float]) -> list[Key]:
        """The prefixes to draw from next, each once; none when all are labelled."""
        return list(dict.fromkeys(key for path in self.promising for key in self._ask(path, labels)))

    def _ask(self, path: Path, labels: Mapping[Key, float]) -> Sequence[Key]:
        """Of one chain: all that is open, or the one prefix that tells most.

        Right chains are the cheapest: one right continuation of the last prefix labels all of it. So a chain whose
        answer is right is asked there first. A wrong one would spend nearly all `rollouts` there to learn little, and
        is halved at once. Of two middles it is the earlier, as right prefixes are settled sooner than wrong ones.
        """
        unknown = [key for key in path if key not in labels]
        if not self.bisect or not unknown:
            return unknown
        if self.promising[path] and unknown[-1] == path[-1]:
            return unknown[-1:]
        return [unknown[(len(unknown) - 1) // 2]]

    def spread(self, verdicts: Mapping[Key, float], labels: MutableMapping[Key, float]) -> None:
        """Enter a round's settled labels, and those that follow from them.

        Ones go first: a right continuation is a proof, so it overrules a 0 of an earlier prefix in the same round.
        """
        if not self.bisect:
            labels.update(verdicts)
            return
        for path in self.promising:
            proved = [place for place, key in enumerate(path) if verdicts.get(key) == 1.0]
            labels.update(dict.fromkeys(path[: proved[-1] + 1] if proved else (), 1.0))
        for path in self.promising:
            failed = [p for p, key in enumerate(path) if verdicts.get(key) == 0.0 and labels.get(key) != 1.0]
            labels.update(dict.fromkeys(path[failed[0] :] if failed else (), 0.0))
