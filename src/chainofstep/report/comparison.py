"""What is compared of several runs: settings, accuracy on the same questions, cost. The first run is the yardstick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from chainofstep.evaluate import Outcome, paired_bootstrap, wilson
from chainofstep.statistics import Interval, McNemar, mcnemar

NO_SUCH, NOT_KNOWN = "–", "not known"  # in place of a setting's value


@dataclass(frozen=True)
class Measured:
    """What a stage or a search method of a run made of every question."""

    key: str  # the same in all runs: "sft", "best_of_n-16"
    label: str
    outcomes: Mapping[str, Outcome]  # by question id
    lost: int = 0  # further questions that failed: rows of a benchmark that could not be read, so they have no id

    @property
    def total(self) -> int:
        return len(self.outcomes) + self.lost

    @cached_property
    def right(self) -> int:
        return sum(outcome == "right" for outcome in self.outcomes.values())

    @property
    def share(self) -> Interval:
        """Accuracy with Wilson's interval."""
        return self.right / self.total, *wilson(self.right, self.total)


@dataclass(frozen=True)
class Spent:
    """What a run cost, where that is known."""

    seconds: float | None = None  # wall time of its stages
    tokens: int | None = None  # sampled
    peak_mb: float | None = None
    stages: Mapping[str, float] | None = None  # seconds by stage


@dataclass(frozen=True)
class ComparedRun:
    """One run, or one evaluation, as it is compared."""

    name: str
    settings: Mapping[str, str]  # by dotted name
    # By id, what is known of a question: a hash of its text, then its gold answer and options.
    questions: Mapping[str, tuple[str, ...]]
    measured: tuple[Measured, ...]
    spent: Spent = Spent()
    notes: tuple[str, ...] = ()
    all_settings: bool = True  # whether a setting that is not in `settings` is known not to be there

    @cached_property
    def by_key(self) -> dict[str, Measured]:
        return {measured.key: measured for measured in self.measured}


@dataclass(frozen=True)
class Pairing:
    """A measurement of a run against the same of the first run, on the questions that both have."""

    key: str
    label: str
    questions: int
    difference: Interval  # how much more often it is right than the first run
    test: McNemar  # `first_only`: right in the first run alone

    @property
    def same(self) -> bool:
        """Whether both are right on the same questions."""
        return not self.test.first_only and not self.test.second_only

    @property
    def verdict(self) -> str:
        """better, worse, or undecided where the interval holds 0."""
        _, low, high = self.difference
        return "better" if low > 0 else "worse" if high < 0 else "undecided"


@dataclass(frozen=True)
class SharedQuestions:
    """Which questions two runs have in common."""

    both: int
    first_only: tuple[str, ...]
    second_only: tuple[str, ...]
    other: tuple[str, ...]  # ids that stand for other questions in the two: paired with nothing


def labels_of(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Every measurement that some run has: key and labels, in the order of the run that has most of them."""
    labels: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda run: -len(run.measured)):
        for measured in run.measured:
            labels.setdefault(measured.key, []).append(measured.label)
    return {key: " / ".join(dict.fromkeys(own)) for key, own in labels.items()}


def shared_questions(first: ComparedRun, second: ComparedRun) -> SharedQuestions:
    """Ids of both, of one alone, and of both but with another question."""
    common = [name for name in first.questions if name in second.questions]
    other = {name for name in common if _differ(first.questions[name], second.questions[name])}
    return SharedQuestions(
        len(common) - len(other),
        tuple(name for name in first.questions if name not in second.questions),
        tuple(name for name in second.questions if name not in first.questions),
        tuple(name for name in common if name in other),
    )


def _differ(one: Sequence[str], another: Sequence[str]) -> bool:
    """Whether what is known of both differs."""
    return any(a != b for a, b in zip(one, another, strict=False))


def pairings(first: ComparedRun, second: ComparedRun) -> list[Pairing]:
    """Each measurement that both have, on the questions that both answered."""
    other = set(shared_questions(first, second).other)
    found = []
    for key, label in labels_of([first, second]).items():
        if key in first.by_key and key in second.by_key:
            old, new = first.by_key[key].outcomes, second.by_key[key].outcomes
            if ids := [name for name in old if name in new and name not in other]:
                found.append(_pairing(key, label, [old[name] for name in ids], [new[name] for name in ids]))
    return found


def _pairing(key: str, label: str, old: Sequence[Outcome], new: Sequence[Outcome]) -> Pairing:
    first, second = ([outcome == "right" for outcome in outcomes] for outcomes in (old, new))
    return Pairing(key, label, len(first), paired_bootstrap(second, first, seed=0), mcnemar(first, second))


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, tuple[str, ...]]:
    """Settings of which two runs are known to have other values, one a run; "–" where a run has no such setting."""
    return {name: found for name, found in _settings(runs).items() if len(set(found) - {NOT_KNOWN}) > 1}


def unknown_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """Settings that are not known of every run, and the same where they are known."""
    return [name for name, found in _settings(runs).items() if NOT_KNOWN in found and len(set(found)) == 2]


def _settings(runs: Sequence[ComparedRun]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    absent = [NO_SUCH if run.all_settings else NOT_KNOWN for run in runs]
    return {
        name: tuple(run.settings.get(name, other) for run, other in zip(runs, absent, strict=True)) for name in names
    }
