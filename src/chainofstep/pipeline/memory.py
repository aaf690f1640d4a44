"""How much memory a run uses, over all its processes."""

import threading
from types import TracebackType

import psutil


def memory_in_use() -> float:
    """MB that this process and all it started hold; what they share counts once where the system tells (Linux)."""
    total = 0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        try:
            held = process.memory_full_info()
        except psutil.Error:  # ended just now
            continue
        total += getattr(held, "pss", held.uss)
    return total / 1e6


class MemoryWatch:
    """The most memory in use while the context is open, looked at every half second."""

    def __init__(self, interval: float = 0.5):
        self.peak_mb, self._interval, self._done = 0.0, interval, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, memory_in_use())
            if self._done.wait(self._interval):
                return
