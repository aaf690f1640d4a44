"""Calls that are waited for in one thread and met in another: how far they are, results, and being cancelled."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from chainofstep.chain import Chain
from chainofstep.records import Example, Request, Rollout, SamplingErrors, Scored

Item = tuple[Example, Chain]


class Cancelled(Exception):
    """The caller went away, or the models were closed: what it waited for is not computed."""


@dataclass(frozen=True)
class Update:
    """How far a call is: samples finished, and what is sampled of the others, by request and sample."""

    finished: int
    texts: dict[tuple[int, int], str]


@dataclass(eq=False)
class Sampling:
    """Requests of one call. `updates` tells how far they are, `result` waits for their rollouts."""

    requests: Sequence[Request]
    watched: bool = False  # texts so far are wanted
    numbers: range = range(0)  # in the flight, once they have joined it
    finished: dict[tuple[int, int], Rollout] = field(default_factory=dict)
    future: "Future[list[list[Rollout]]]" = field(default_factory=Future)
    news: threading.Condition = field(default_factory=threading.Condition)
    update: Update | None = None  # not yet seen

    def result(self) -> list[list[Rollout]]:
        """As `Engine.sample`; `Cancelled` where the caller went away."""
        return self.future.result()

    def updates(self) -> Iterator[Update]:
        """How far they are, whenever there is more; a reader that is slow misses what is out of date."""
        while True:
            with self.news:
                self.news.wait_for(lambda: self.update is not None or self.future.done())
                seen, self.update = self.update, None
            if seen is None:
                return
            yield seen

    def tell(self, texts: dict[tuple[int, int], str]) -> None:
        with self.news:
            self.update = Update(len(self.finished), texts)
            self.news.notify_all()

    def end(self, error: Exception | None = None, failures: dict[int, str] | None = None) -> None:
        if self.future.done():
            return
        try:
            if error is not None:
                raise error
            self.future.set_result(in_order(self.requests, self.finished, failures or {}))
        except Exception as raised:
            self.future.set_exception(raised)
        with self.news:
            self.news.notify_all()


@dataclass(eq=False)
class Scoring:
    """Chains of one call, and the scores of the first of them."""

    items: Sequence[Item]
    scores: list[Scored] = field(default_factory=list)
    future: "Future[list[Scored]]" = field(default_factory=Future)


def in_order(
    requests: Sequence[Request], finished: Mapping[tuple[int, int], Rollout], failures: dict[int, str]
) -> list[list[Rollout]]:
    """The rollouts of each request by its number and the sample's index; `SamplingErrors` where requests failed."""
    results: list[list[Rollout] | None] = [
        None if number in failures else [finished[number, request.first + i] for i in range(request.n)]
        for number, request in enumerate(requests)
    ]
    if failures:
        raise SamplingErrors(results, failures, [request.example.id for request in requests])
    return [rollouts for rollouts in results if rollouts is not None]
