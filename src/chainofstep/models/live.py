"""One engine and one PRM that many threads use at once: a `Live` computes in a thread of its own, callers wait.

Requests join the engine's flight as they come and leave it when their caller goes, so all callers share its decode
steps; chains to be scored are taken together, between two looks at the flight. What a caller gets is what the engine
or the PRM alone would give it.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext

from chainofstep.models.calls import Cancelled, Item, Sampling, Scoring
from chainofstep.models.engine import Engine
from chainofstep.models.flight import FEW, GATHER, POLL, Flight
from chainofstep.models.prm import PRM
from chainofstep.records import Request, Rollout, Scored

CHAINS = 64  # that are scored between two looks at the flight
log = logging.getLogger(__name__)


class Live:
    """A context manager: inside it, `caller()` gives a Sampler and StepScorer that any thread may use.

    The two models belong to its thread; nothing else may use them meanwhile. `waiting` and `running` count samples.
    Either model may be missing: then nobody may ask for it.
    """

    def __init__(self, engine: Engine | None, prm: PRM | None = None):
        self.engine, self.prm = engine, prm
        self.waiting = self.running = 0
        self._lock = threading.Condition()
        self._joining: list[Sampling] = []
        self._arrived: list[Sampling] = []  # on their way into the flight
        self._leaving: list[Sampling] = []
        self._scoring: deque[Scoring] = deque()
        self._flight: Flight | None = None
        self._calls: dict[int, Sampling] = {}  # by number in the flight
        self._patience = 0  # decode steps that chains have waited
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def __enter__(self) -> "Live":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    def caller(self) -> "LiveCaller":
        return LiveCaller(self)

    # From callers' threads

    def begin(self, call: Sampling) -> None:
        with self._lock:
            self._check_open()
            self._joining.append(call)
            self.waiting += sum(request.n for request in call.requests)
            self._lock.notify_all()

    def score(self, call: Scoring) -> None:
        with self._lock:
            self._check_open()
            self._scoring.append(call)
            self._lock.notify_all()

    def _check_open(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise Cancelled("the models are closed")

    def forget(self, calls: Sequence[Sampling | Scoring]) -> None:
        """End calls with `Cancelled`: their rows leave the flight before its next step."""
        with self._lock:
            for call in calls:
                if isinstance(call, Sampling):
                    self._leaving.append(call)
                elif not call.future.done() and call in self._scoring:
                    self._scoring.remove(call)
                    call.future.set_exception(Cancelled())
            self._lock.notify_all()

    # In the thread of the models

    def _run(self) -> None:
        with nullcontext() if self.engine is None else self.engine.mode():  # entering it takes as long as a step
            self._loop()
        self._end_all(Cancelled("the models are closed"))

    def _loop(self) -> None:
        while self._wait():
            try:
                if self.engine is not None:
                    self._turn(self.engine)
                if self._scores_now():
                    self._score()
            except Exception as error:  # a fault of ours or of the device: those who wait must hear of it
                log.exception("the models' thread failed, and goes on without what it was doing")
                self._end_all(error)
                self._flight = None

    def _wait(self) -> bool:
        """Wait until there is something to do; False once closed."""
        with self._lock:
            busy = self._flight is not None and self._flight.unfinished
            self._lock.wait_for(lambda: busy or self._closed or self._joining or self._leaving or self._scoring)
            return not self._closed

    def _turn(self, engine: Engine) -> None:
        """Let calls come and go, and take a few steps of all that are in flight."""
        with self._lock:
            self._arrived, self._joining = self._joining, []
            leaving, self._leaving = self._leaving, []
        flight = self._flight = self._flight or Flight(engine)
        self._take_out(flight, leaving)
        self._take_in(flight, [call for call in self._arrived if not call.future.done()])
        self._arrived = []
        if flight.unfinished:
            for number, rollout in flight.advance():
                call = self._calls[number]
                call.finished[number - call.numbers.start, rollout.index] = rollout
            self._tell(flight)
        elif not self._calls:
            flight.rest()
        self.waiting, self.running = flight.waiting, flight.running

    def _take_in(self, flight: Flight, calls: Sequence[Sampling]) -> None:
        """All that came meanwhile joins at once, so that it is planned together."""
        numbers = flight.join([request for call in calls for request in call.requests])
        start = numbers.start
        for call in calls:
            call.numbers = range(start, start + len(call.requests))
            start = call.numbers.stop
            self._calls |= dict.fromkeys(call.numbers, call)
            self._settle(flight, call)

    def _take_out(self, flight: Flight, leaving: Sequence[Sampling]) -> None:
        for call in leaving:
            flight.leave(call.numbers)
            self._forget(flight, call)
            call.end(Cancelled())

    def _tell(self, flight: Flight) -> None:
        """Hand out what is finished, and to those who watch how far the rest is."""
        calls = list(dict.fromkeys(self._calls.values()))
        watched = {number for call in calls if call.watched for number in call.numbers}
        texts: dict[Sampling, dict[tuple[int, int], str]] = {call: {} for call in calls}
        for (number, index), text in flight.texts(watched).items() if watched else ():
            call = self._calls[number]
            texts[call][number - call.numbers.start, index] = text
        for call in calls:
            call.tell(texts[call])
            self._settle(flight, call)

    def _settle(self, flight: Flight, call: Sampling) -> None:
        """End a call of which nothing is in flight any more."""
        if not any(number in flight.open for number in call.numbers):
            failures = {n - call.numbers.start: flight.failures[n] for n in call.numbers if n in flight.failures}
            self._forget(flight, call)
            call.end(failures=failures)

    def _forget(self, flight: Flight, call: Sampling) -> None:
        for number in call.numbers:
            self._calls.pop(number, None)
            flight.failures.pop(number, None)

    def _scores_now(self) -> bool:
        """Whether to score what waits; few chains wait a while for more, as rows do, while many rows are sampled."""
        with self._lock:
            chains = sum(len(call.items) - len(call.scores) for call in self._scoring)
        self._patience = self._patience + POLL if chains else 0
        if chains * FEW < self.running and self._patience < GATHER:
            return False
        self._patience = 0
        return bool(chains)

    def _score(self) -> None:
        """Score the first `CHAINS` chains that wait, of as many calls as they belong to."""
        assert self.prm is not None or not self._scoring
        taken: list[tuple[Scoring, Sequence[Item]]] = []
        room = CHAINS
        with self._lock:
            while self._scoring and room > 0:
                call = self._scoring[0]
                some = call.items[len(call.scores) : len(call.scores) + room]
                taken.append((call, some))
                room -= len(some)
                if len(call.scores) + len(some) < len(call.items):
                    break
                self._scoring.popleft()
        if not taken or self.prm is None:
            return
        try:
            scores = iter(self.prm.score([item for _, some in taken for item in some]))
        except Exception as error:
            _end_scoring([call for call, _ in taken], error)
            raise
        for call, some in taken:
            call.scores += [next(scores) for _ in some]
            if len(call.scores) == len(call.items) and not call.future.done():
                call.future.set_result(call.scores)

    def _end_all(self, error: Exception) -> None:
        with self._lock:
            calls = [*self._calls.values(), *self._arrived, *self._joining]
            scoring = list(self._scoring)
            self._joining, self._arrived, self._calls = [], [], {}
            self._scoring.clear()
        for call in calls:
            call.end(error)
        _end_scoring(scoring, error)
        self.waiting = self.running = 0


def _end_scoring(calls: Sequence[Scoring], error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)


class LiveCaller:
    """One caller of a `Live`: a Sampler and a StepScorer. `cancel`, from any thread, ends what it waits for."""

    def __init__(self, live: Live):
        self.live, self.cancelled = live, False
        self.calls: list[Sampling | Scoring] = []

    def begin(self, requests: Sequence[Request], watched: bool = False) -> Sampling:
        """Ask for rollouts without waiting for them; `watched`: its updates hold texts so far."""
        if self.live.engine is None:
            raise ValueError("there is no policy to sample from: give one")
        call = Sampling(requests, watched)
        self._open(call)
        self.live.begin(call)
        return call

    def sample(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """As `Engine.sample`; `Cancelled` after `cancel`."""
        call = self.begin(requests)
        try:
            return call.result()
        finally:
            self._close(call)

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """As `PRM.score`; `Cancelled` after `cancel`. ValueError where there is no PRM."""
        if self.live.prm is None:
            raise ValueError("there is no PRM to score with: give one")
        if not items:
            return []
        call = Scoring(items)
        self._open(call)
        try:
            self.live.score(call)
            return call.future.result()
        finally:
            self._close(call)

    def _open(self, call: Sampling | Scoring) -> None:
        self.calls = [other for other in self.calls if not other.future.done()]
        self.calls.append(call)
        if self.cancelled:
            raise Cancelled

    def _close(self, call: Sampling | Scoring) -> None:
        if call in self.calls:
            self.calls.remove(call)

    def cancel(self) -> None:
        self.cancelled = True
        self.live.forget(list(self.calls))
