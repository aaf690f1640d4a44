"""Where chunks of rows are made: this process, several of this machine, or a Ray cluster. The rows are equal."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """How many workers, and where. On Ray, 0 workers are as many as the cluster has room for."""

    workers: int = 1
    ray: str = ""  # a Ray cluster's address, `auto` or `local`; "": processes of this machine
    gpus: float = 1.0  # of each worker on Ray, where the cluster has any; 0 for workers that only ask endpoints

    @contextmanager
    def start(self) -> Iterator[Executor | None]:
        """The workers while the block lasts; None where this process does the work itself."""
        if self.workers < (0 if self.ray else 1) or self.gpus < 0:
            raise ValueError(f"workers={self.workers} with {self.gpus:g} GPUs each; give at least one worker")
        if not self.ray and self.workers == 1:
            yield None
            return
        workers = self._workers()
        finished = False
        try:
            yield workers
            finished = True
        finally:
            workers.shutdown(wait=finished, cancel_futures=not finished)

    def _workers(self) -> Executor:
        if self.ray:
            from chainofstep.pipeline.ray_workers import RayWorkers

            return RayWorkers(self.workers, self.ray, self.gpus)
        from chainofstep.pipeline.workers import start_workers

        return start_workers(self.workers)


HERE = Spread()
