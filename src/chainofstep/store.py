"""The run folder: append-only logs, atomic files, rejects with their reasons, and stages that run once.

    runs/mini/
      recipe.json                the resolved recipe the folder belongs to
      stages/sample.json         what the stage was made from, its seconds, the SHA-256 of each output
      sample/rollouts.jsonl      a log: one row, one line, one write
      sample/rejects.jsonl       the rows that could not be used, and why

A run may be killed anywhere. Files are replaced whole or not at all; a log loses at most the row that was being
written, and a stage goes on from the rows that are there.
"""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from chainofstep.records import from_row

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)
Record = TypeVar("Record")
Row = dict[str, Any]


class DiskFull(OSError):
    """No space left (or the quota is used up) while a file of the run folder was written."""

    def __init__(self, path: Path):
        super().__init__(
            f"no disk space left to write {path}: free some and give the same command again, it goes on from here"
        )
        self.errno = errno.ENOSPC


@contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path) from error
        raise


# Files written whole


def write_bytes(path: Path, content: bytes) -> Path:
    """Replace the file at once: a reader sees the old bytes or the new ones, also after a kill or a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):  # the first error is the one to show
                temporary.unlink(missing_ok=True)
            raise
    return path


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` in UTF-8, with newlines as they are."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Indented JSON. NaN and infinities, which JSON does not have, raise `ValueError`."""
    return write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; `ValueError` names the file and line of what is not JSON."""
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}): mend or delete the file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}: mend or delete the file") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Logs


def _row_of(line: bytes) -> Row:
    """The JSON object on a line; `ValueError` for anything else."""
    row = json.loads(line.decode("utf-8"))
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _shortened(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace").strip()
    return repr(text if len(text) <= 60 else text[:60] + "...")


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number from 1, row) of a JSONL file, read as it goes; empty lines are passed over.

    `ValueError` names file, line and text of a line that is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = _row_of(line)
            except ValueError as error:
                torn = "" if line.endswith(b"\n") else ", cut off: the run was stopped while writing it"
                raise ValueError(
                    f"{path}:{number}: not a JSON object{torn}, found {_shortened(line)}: mend or delete the line"
                ) from error
            yield number, row


def read_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The rows of a JSONL file as records of `kind`; `ValueError` names file, line and the field that does not fit."""
    for number, row in read_rows(path):
        yield _record(kind, row, f"{path}:{number}")


def _record(kind: type[Record], row: Row, place: str) -> Record:
    try:
        return from_row(kind, row)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: not a valid {kind.__name__}: {name}: {first['msg']}: mend or delete it") from error


class Log:
    """An append-only JSONL file, also across kills: opening it drops a torn last line and says so.

    For the process that writes it; any other reads with `read_rows` or `read_records`, which change nothing.
    What is to be resumed must be one row, for a row is there whole or not at all: one row with an example's 16
    rollouts, not 16 rows of which a kill may leave 5.
    """

    def __init__(self, path: Path):
        self.path = path
        self.dropped = self._mend_last_line()  # bytes of a torn last line; 0 if there was none

    def _mend_last_line(self) -> int:
        """Drop a last line that a kill left unfinished, or end it if only its newline is missing."""
        if not self.path.is_file():
            return 0
        with _naming_full_disk(self.path), self.path.open("rb+") as file:
            start, tail = _unended_line(file.fileno())
            if not tail:
                return 0
            try:
                _row_of(tail)  # no JSON object is the beginning of another one: this row is whole
            except ValueError:
                file.truncate(start)
                logger.warning("%s: dropped a last line cut off after %d bytes", self.path, len(tail))
                return len(tail)
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        return 0

    def append(self, row: Row) -> None:
        """Write one row with one write call. NaN and infinities raise `ValueError`; a full disk raises `DiskFull`."""
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        with _naming_full_disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _write_whole(descriptor, line)
            finally:
                os.close(descriptor)

    def rows(self) -> Iterator[Row]:
        """The rows so far; none if the file does not exist yet."""
        if self.path.exists():
            yield from (row for _, row in read_rows(self.path))

    def records(self, kind: type[Record]) -> Iterator[Record]:
        """The rows so far as records of `kind`; none if the file does not exist yet."""
        if self.path.exists():
            yield from read_records(self.path, kind)


def _write_whole(descriptor: int, line: bytes) -> None:
    """One write call; where the disk takes only a part, the rest is tried, or the part taken back."""
    written = os.write(descriptor, line)
    while written < len(line):
        try:
            written += os.write(descriptor, line[written:])
        except OSError:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise


def _unended_line(descriptor: int, block: int = 1 << 16) -> tuple[int, bytes]:
    """Offset and bytes of what follows the file's last newline, read from the end."""
    start, tail = os.fstat(descriptor).st_size, b""
    while start > 0:
        size = min(block, start)
        start -= size
        tail = os.pread(descriptor, size, start) + tail
        newline = tail.rfind(b"\n", 0, size)
        if newline >= 0:
            return start + newline + 1, tail[newline + 1 :]
    return 0, tail


def done_ids(log: Log, key: str) -> set[Any]:
    """The values under `key` of all rows: what a resumed stage need not do again."""
    if not log.path.exists():
        return set()
    done = set()
    for number, row in read_rows(log.path):
        if key not in row:
            raise ValueError(f"{log.path}:{number}: no field {key!r}, only {', '.join(row)}: mend or delete the line")
        done.add(row[key])
    return done


# Comparing recipes


def _differences(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted field path, left value, right value) wherever two JSON values differ, in the left one's order."""
    if not (isinstance(left, Mapping) and isinstance(right, Mapping)):
        if left != right:
            yield path, repr(left), repr(right)
        return
    for key in (*left, *(key for key in right if key not in left)):
        inner = f"{path}.{key}" if path else str(key)
        if key in left and key in right:
            yield from _differences(left[key], right[key], inner)
        else:
            yield inner, repr(left[key]) if key in left else "nothing", repr(right[key]) if key in right else "nothing"


def difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> str | None:
    """The dotted path of the first field in which two resolved recipes differ, or None.

    >>> difference({"seed": 0, "dpo": {"beta": 0.1}}, {"seed": 0, "dpo": {"beta": 0.2}})
    'dpo.beta'
    """
    return next((path for path, _, _ in _differences(left, right)), None)


def _as_json(value: Any) -> Any:
    """The value as it would come back from a JSON file (tuples become lists)."""
    return json.loads(json.dumps(value, allow_nan=False))


# The folder


@dataclass(frozen=True)
class Stage:
    """A stage's marker file. Unfinished while `seconds` is None."""

    name: str
    inputs: dict[str, Any]  # what decides the outputs: recipe fields, hashes of earlier outputs
    inputs_hash: str  # SHA-256 of the inputs as JSON with sorted keys
    attempts: int = 1  # more than 1: killed and resumed
    seconds: float | None = None  # wall time of the last attempt
    outputs: dict[str, str] = field(default_factory=dict)  # path in the run folder -> SHA-256
    peak_mb: float | None = None  # the most memory in use during the last attempt, where it was watched


class RunFolder:
    """One run's files. Paths given to its methods are relative to the folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def claim(self, recipe: Mapping[str, Any]) -> None:
        """Make the folder this recipe's, or check that it is. `recipe` is the resolved one, seed included.

        `ValueError` for a folder of another recipe or seed, or one with files that are no run's.
        """
        wanted, known = _as_json(recipe), self.path / "recipe.json"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: choose another --out")
        if known.exists():
            self._check_recipe(read_json(known), wanted)
        elif self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise ValueError(f"{self.path} has files but no recipe.json, so it is no run's: choose another --out")
        else:
            write_json(known, wanted)

    def _check_recipe(self, known: Any, wanted: Any) -> None:
        for name, old, new in _differences(known, wanted):
            raise ValueError(
                f"{self.path} was made with {name}={old}, not {new}: choose another --out, or delete the folder"
            )

    def lock(self) -> "FileLock":
        """Take the folder for this command until the lock is released; the system gives it back after a kill.

        `ValueError` if another command has it.
        """
        from filelock import FileLock, Timeout  # an extra, and nothing else here needs one

        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"{self.path} is in use by another command: wait until it ends, or choose another --out"
            ) from error
        return lock

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe the folder was made with."""
        path = self.path / "recipe.json"
        if not path.is_file():
            raise ValueError(f"{self.path} has no recipe.json, so it is no run folder: give the --out of a run")
        recipe: dict[str, Any] = read_json(path)
        return recipe

    def log(self, name: str) -> Log:
        """The log `NAME.jsonl`, such as `sample/rollouts`."""
        return Log(self.path / f"{name}.jsonl")

    def rejects(self, stage: str) -> Log:
        """The stage's rows that could not be used: {"id", "reason", "row"}."""
        return self.log(f"{stage}/rejects")

    def reject(self, stage: str, row_id: str, reason: str, row: Row) -> None:
        """Keep a row that cannot be used, and why. It counts as done for a resumed stage, and in every denominator."""
        self.rejects(stage).append({"id": row_id, "reason": reason, "row": row})

    def stage(self, name: str) -> Stage | None:
        """The stage's marker; None if it never began."""
        path = self._marker(name)
        return _record(Stage, read_json(path), str(path)) if path.exists() else None

    def run_stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], Iterable[Path]],
        peak_mb: Callable[[], float | None] = lambda: None,
    ) -> Stage:
        """Run `work(folder of the stage)` unless it is finished already; its files or folders are the outputs.
        `peak_mb` is asked after it.

        A stage that was killed runs again, with its logs as they stand. `ValueError` if the stage was made from other
        inputs, or an output is no longer what the stage wrote.
        """
        known, wanted = self.stage(name), _as_json(inputs)
        if known is not None:
            self._check_inputs(known, wanted)
            if known.seconds is not None:
                self._check_outputs(known)
                return known
        stage = Stage(name, wanted, _hash_of(wanted), attempts=1 if known is None else known.attempts + 1)
        write_json(self._marker(name), asdict(stage))
        started = time.perf_counter()
        outputs = {str(file.relative_to(self.path)): file_hash(file) for file in _files(work(self.path / name))}
        seconds = time.perf_counter() - started
        stage = Stage(name, wanted, stage.inputs_hash, stage.attempts, seconds, outputs, peak_mb())
        write_json(self._marker(name), asdict(stage))
        return stage

    def _marker(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _again(self, name: str) -> str:
        return f"to make it again, delete {self.path / name} and {self._marker(name)}"

    def _check_inputs(self, known: Stage, wanted: dict[str, Any]) -> None:
        for path, old, new in _differences(known.inputs, wanted):
            raise ValueError(
                f"stage {known.name} in {self.path} was made from {path}={old}, not {new}: {self._again(known.name)}"
            )

    def _check_outputs(self, known: Stage) -> None:
        for output, expected in known.outputs.items():
            path = self.path / output
            if not path.is_file():
                raise ValueError(f"{path}, made by stage {known.name}, is gone: {self._again(known.name)}")
            if file_hash(path) != expected:
                raise ValueError(f"{path} is not what stage {known.name} wrote: {self._again(known.name)}")


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths` and in the folders among them, in order of name."""
    for path in paths:
        yield from sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else (path,)
