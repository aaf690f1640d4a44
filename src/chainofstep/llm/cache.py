"""Replies that were paid for, in one SQLite file, each under the key of its request.

A reply is committed as soon as it is there, so a job that is killed loses none. Several processes may share the file.
While it is open a FILE-wal stands beside it and belongs to it.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from chainofstep.llm.records import Reply
from chainofstep.store import DiskFull

_COLUMNS = ("text", "prompt_tokens", "completion_tokens", "finish_reason", "model", "structured")
_SECONDS_FOR_OTHERS = 60.0  # how long another process may be in the middle of writing


class Cache:
    """Replies by key (32 bytes). A file that is no such cache is a `ValueError`, a full disk `DiskFull`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._naming_the_file():
            self._database = sqlite3.connect(path, timeout=_SECONDS_FOR_OTHERS, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        with self._naming_the_file():
            # With a write-ahead log readers and a writer do not wait for one another. NORMAL leaves out the fsync of
            # each commit: a killed process loses nothing, a power cut the last seconds.
            self._write_ahead()
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, text TEXT, prompt_tokens INTEGER,"
                " completion_tokens INTEGER, finish_reason TEXT, model TEXT, structured INTEGER)"
            )
            self.get(bytes(32))  # a table of the same name may hold other things

    def _write_ahead(self) -> None:
        """Of two processes that make the file at once, SQLite turns one away here without waiting."""
        give_up = time.monotonic() + _SECONDS_FOR_OTHERS
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
            time.sleep(0.02)

    def get(self, key: bytes) -> Reply | None:
        """The kept reply, marked as cached."""
        with self._naming_the_file():
            row = self._database.execute(f"SELECT {', '.join(_COLUMNS)} FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        values = dict(zip(_COLUMNS, row, strict=True))
        return Reply(**values | {"structured": bool(values["structured"]), "cached": True})

    def put(self, key: bytes, reply: Reply) -> None:
        """Keep a reply, for good once this returns. One that is there already stays."""
        values = [getattr(reply, column) for column in _COLUMNS]
        with self._naming_the_file():
            self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", (key, *values))

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFull(self.path) from error
            raise ValueError(
                f"{self.path}: cannot be used as a cache of replies ({error}): move it away or name another file"
            ) from error
