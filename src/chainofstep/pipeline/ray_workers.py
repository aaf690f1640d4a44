"""Workers on a Ray cluster behind the same `Executor` that processes of one machine have.

So a stage is written once: `write_chunks` hands out chunks, and writes what comes back in their order. Ray Data would
bring its own blocks, order and retries, which the rows' log already has: what is in the log is finished, and nothing is
written twice.
"""

import logging
import socket
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import count
from queue import PriorityQueue
from typing import Any

TRIES = 3  # of a chunk whose workers die
REACH = 5.0  # seconds to reach a cluster's port
GRACE = 10.0  # seconds for a thread to notice that its worker is gone
PATIENCE = 60.0  # seconds to wait for room on the cluster before saying so
log = logging.getLogger(__name__)


@dataclass(order=True)
class _Task:
    """A call on its way to a worker. The earliest goes first, also when it has to be done again."""

    number: float
    function: Callable[..., Any] | None = field(compare=False)  # None: there is nothing left to do
    arguments: tuple[Any, ...] = field(default=(), compare=False)
    future: Future[Any] = field(default_factory=Future, compare=False)
    deaths: int = field(default=0, compare=False)


class RayWorkers(Executor):
    """`workers` actors, each with a CPU or, where the cluster has GPUs and `gpus` is not 0, so many GPUs.

    A worker that dies is replaced, and what it was doing is done again, three times at most. `address` is Ray's: `auto`
    for the cluster that this machine belongs to, `ray://HOST:10001` for one elsewhere, `local` for one that lives as
    long as these workers. `workers` 0 takes as many as there is room for.
    """

    def __init__(self, workers: int, address: str, gpus: float = 1.0):
        import ray

        # Ray puts its log lines of every worker on our screen, and warns of what a single machine always has.
        quiet = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
        self.ours = not ray.is_initialized()
        try:
            _reach(address)
            if self.ours:
                ray.init(**quiet) if address == "local" else _join(address, _but(quiet, "include_dashboard"))
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"no Ray cluster at {address!r} ({reason}); start one, or use --ray local") from None
        self.gpus = gpus if ray.cluster_resources().get("GPU", 0) >= gpus > 0 else 0.0
        room = _room(ray.cluster_resources(), self.gpus)
        if workers > room:
            self._leave()
            raise ValueError(f"{workers} workers on a Ray cluster with room for {room}; ask for fewer, or add nodes")
        self.workers, self.numbers, self.closed = workers or room, count(), False
        self.tasks: PriorityQueue[_Task] = PriorityQueue()
        self.actors: dict[int, Any] = {}  # those that run, by their thread's number
        self.hired: list[Any] = []
        self.threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(self.workers)]
        for thread in self.threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not kwargs and not self.closed
        task = _Task(next(self.numbers), fn, args)
        self.tasks.put(task)
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers go: after the tasks that were submitted, or at once."""
        import ray

        self.closed = cancel_futures
        for _ in self.threads:
            self.tasks.put(_Task(float("inf"), None))
        if wait and not cancel_futures:
            for thread in self.threads:
                thread.join()
        self.closed = True
        for actor in self.hired:
            ray.kill(actor)
        for thread in self.threads:  # each ends with its worker; Ray must not be asked again once it is gone
            thread.join(GRACE)
        self._leave()

    def _leave(self) -> None:
        if self.ours:
            import ray

            ray.shutdown()

    def _serve(self, place: int) -> None:
        """One thread for one worker: it takes a task only once its worker is there, so none waits for a missing one."""
        while not self.closed:
            problem = "" if place in self.actors else self._hire(place)
            task = self.tasks.get()
            if task.function is None:
                return
            if task.deaths or task.future.set_running_or_notify_cancel():
                if problem:
                    task.future.set_exception(ValueError(problem))
                else:
                    self._do(task, place)

    def _hire(self, place: int) -> str:
        """Wait until a new worker runs; why there is none, after three attempts."""
        import ray

        need = {"num_gpus": self.gpus, "num_cpus": 0} if self.gpus else {"num_cpus": 1}
        reason = ""
        for _ in range(TRIES):
            if self.closed:
                break
            actor = ray.remote(_Worker).options(**need).remote()
            self.hired.append(actor)
            try:
                while ray.wait([ready := actor.ready.remote()], timeout=PATIENCE)[1]:
                    log.warning("a worker waits for room on the Ray cluster; the others go on")
                ray.get(ready)
                self.actors[place] = actor
                return ""
            except ray.exceptions.RayError as error:  # this package is missing there, or the node has gone
                reason = " ".join(str(error).split())[-200:]
        return f"no worker starts on the Ray cluster ({reason}); install chain-of-step on its machines"

    def _do(self, task: _Task, place: int) -> None:
        import ray

        try:
            result = ray.get(self.actors[place].run.remote(task.function, *task.arguments))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            if self.closed:
                return
            del self.actors[place]
            self._again(task, error)
        except ray.exceptions.RayTaskError as error:
            task.future.set_exception(error.cause)
        except BaseException as error:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _again(self, task: _Task, error: Exception) -> None:
        """Put back what a dead worker was doing; after three deaths it is the task that is to blame."""
        task.deaths += 1
        reason = " ".join(str(error).split())[:200]
        if task.deaths == TRIES:
            problem = f"{TRIES} workers died on the same rows ({reason}); give them more memory or leave the rows out"
            task.future.set_exception(ValueError(problem))
        else:
            log.warning("a worker died; it is replaced, and its rows are done again (%s)", reason)
            self.tasks.put(task)


class _Worker:
    """Runs calls in a process of the cluster; models that it loads stay loaded."""

    def ready(self) -> None:
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(1)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _reach(address: str) -> None:
    """OSError where nobody listens at [ray://]HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()


def _join(address: str, settings: dict[str, Any]) -> None:
    import ray

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Ray Client connection timed out")  # the error says it too
        ray.init(address, **settings)


def _room(resources: dict[str, float], gpus: float) -> int:
    return int(resources.get("GPU", 0) // gpus) if gpus else int(resources.get("CPU", 1))


def _but(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}
