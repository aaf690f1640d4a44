"""What lists and filters go by, of every rollout of a set: numpy arrays, made chunk by chunk and kept in RUN/.view/.

A set of 100,000 rollouts takes some seconds, so lists show what is known so far. Rollouts are numbered through the
set: those of question q are `starts[q]` to `starts[q + 1]`.
"""

import hashlib
import io
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from chainofstep.records import Example, Scored, StepScores
from chainofstep.store import write_bytes
from chainofstep.view.rows import Rows, open_regular
from chainofstep.view.runs import TRUTHS, RolloutSet
from chainofstep.view.texts import counted, example_of, kind_of, pool_of, right, scores_of

VERSION = 1  # of the files that are kept
FIRST, CHUNK = 64, 256  # questions at a time
#: A score above it says "right", as in the PRM's accuracy.
THRESHOLD = 0.5
NONE = -1  # of `right`: no answer could be read, or the gold one is not known


class Facts:
    """The arrays of a set; those of the first `done` questions are made."""

    def __init__(self, files: RolloutSet, rows: Rows, examples: Rows, scores: Mapping[str, Rows]):
        self.files, self.rows, self.examples, self.scores = files, rows, examples, scores
        self.starts = np.concatenate([[0], np.cumsum(rows.counts, dtype=np.int64)]).astype(np.int64)
        total = int(self.starts[-1])
        self.question = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(self.starts))
        self.steps = np.zeros(total, np.int16)
        self.right = np.full(total, NONE, np.int8)
        self.gap = np.zeros(total, np.float32)  # how far the PRM is from the truth where they disagree, else 0
        self.lowest = {name: np.full(total, np.nan, np.float32) for name in scores}  # NaN: no scores
        self.families = np.zeros(len(rows), np.int16)  # places in `family_names`
        self.family_names: list[str] = []
        self.texts: list[str] = []  # id and question, casefolded, to search in
        self.problems: dict[str, None] = {}
        self.done = 0
        self.grown = threading.Condition()
        prm, truth = files.first(["prm"]), files.first(TRUTHS)
        self.compared = (prm.name, truth.name) if prm and truth else None
        self.kept_as = self._name()

    @property
    def ready(self) -> float:
        return self.done / len(self.rows) if len(self.rows) else 1.0

    @property
    def finished(self) -> bool:
        return self.done == len(self.rows)

    def wait(self, questions: int, seconds: float) -> None:
        """Until so many questions are done, or the time is over."""
        with self.grown:
            self.grown.wait_for(lambda: self.done >= min(questions, len(self.rows)), seconds)

    def work(self) -> None:
        """Make the next chunk."""
        end = min(self.done + (CHUNK if self.done else FIRST), len(self.rows))
        places = range(self.done, end)
        names = [self.rows.ids[place] for place in places]
        scored = {name: self.scores[name].named(names) for name in self.scores}
        for place, row, known in zip(places, self.rows.at(places), self.examples.named(names), strict=True):
            own = {name: next(found) for name, found in scored.items()}
            self._question(place, row, example_of(known), own)
        with self.grown:
            self.done = end
            self.grown.notify_all()

    def _question(
        self, place: int, row: Mapping[str, Any], example: Example | None, scored: Mapping[str, Mapping[str, Any]]
    ) -> None:
        name, pool = self.rows.ids[place], pool_of(row)
        start, room = int(self.starts[place]), self.rows.counts[place]
        if len(pool) != room:
            self.problems.setdefault(f"{self.files.id}: the row of {name} cannot be read as a whole")
        marks = {log: scores_of(found, len(pool)) for log, found in scored.items()}
        for log, found in scored.items():
            if found and pool and not marks[log]:
                self.problems.setdefault(f"{self.files.id}: {log} has not as many scores as rollouts, {name} first")
        known: dict[str, int] = {}  # most answers of a pool are the same few
        for number, sampled in enumerate(pool[:room], start=start):
            steps, answer = counted(sampled.text)
            self.steps[number] = min(steps, np.iinfo(np.int16).max)
            self.right[number] = NONE if answer is None else _right(known, example, answer)
        for log, pooled in marks.items():
            values = [lowest(one) for one in pooled[:room]]
            self.lowest[log][start : start + len(values)] = values
        if self.compared:
            guesses, truths = (marks[log] for log in self.compared)
            gaps = [gap(guess, truth) for guess, truth in zip(guesses[:room], truths, strict=False)]
            self.gap[start : start + len(gaps)] = gaps
        self.families[place] = self._family(kind_of(example))
        self.texts.append(f"{name}\n{example.question if example else ''}".casefold())

    def _family(self, name: str) -> int:
        if name not in self.family_names:
            self.family_names.append(name)
        return self.family_names.index(name)

    # Keeping

    def _kept(self) -> dict[str, np.ndarray]:
        lowest = {f"lowest {name}": values for name, values in self.lowest.items()}
        return {name: getattr(self, name) for name in ("steps", "right", "gap", "families")} | lowest

    def save(self, run: Path) -> None:
        """Into RUN/.view/, in place of what was kept of other sources; nowhere if the folder cannot be written."""
        words = {"families": self.family_names, "texts": self.texts, "problems": list(self.problems)}
        file = io.BytesIO()
        words_bytes = np.frombuffer(json.dumps(words).encode("ascii"), np.uint8)
        np.savez(file, words=words_bytes, **self._kept())  # type: ignore[arg-type]
        path = run / ".view" / self.kept_as
        with suppress(OSError):
            for old in path.parent.glob(f"{self.kept_as.partition('-')[0]}-*.npz"):
                old.unlink()
            write_bytes(path, file.getvalue())

    def load(self, run: Path) -> bool:
        """Take what was kept of these sources; False where nothing was, or not in this form."""
        try:
            with open_regular(run / ".view" / self.kept_as) as file, np.load(file, allow_pickle=False) as kept:
                words = json.loads(kept["words"].tobytes())
                arrays = {name: kept[name] for name in self._kept()}
                families, texts, problems = (list(words[name]) for name in ("families", "texts", "problems"))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return False
        fits = all(
            arrays[name].shape == own.shape and arrays[name].dtype == own.dtype for name, own in self._kept().items()
        )
        if not fits or len(texts) != len(self.rows) or not all(isinstance(text, str) for text in texts):
            return False
        for name, own in self._kept().items():
            own[:] = arrays[name]
        self.family_names, self.texts, self.problems = families, texts, dict.fromkeys(problems)
        with self.grown:
            self.done = len(self.rows)
            self.grown.notify_all()
        return True

    def _name(self) -> str:
        """Of the file that they are kept in: by the set, and by size and time of all that they are made from."""
        sources = [self.rows, self.examples, *self.scores.values()]
        seen: list[object] = [VERSION, *self.scores]
        for path in (source.path for source in sources if source.path is not None):
            with suppress(OSError):
                about = path.stat()
                seen.append([path.name, about.st_size, about.st_mtime_ns])
        return f"{_digest(self.files.id)}-{_digest(json.dumps(seen))}.npz"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _right(known: dict[str, int], example: Example | None, answer: str) -> int:
    if answer not in known:
        verdict = right(example, answer)
        known[answer] = NONE if verdict is None else int(verdict)
    return known[answer]


def lowest(scored: Scored) -> float:
    """The lowest score of a step; NaN where there is none."""
    return min(scored.steps, default=np.nan) if isinstance(scored, StepScores) else np.nan


def gap(guess: Scored, truth: Scored) -> float:
    """The largest distance of a step's or answer's score from a truth that it is on the other side of; 0 for none."""
    if not isinstance(guess, StepScores) or not isinstance(truth, StepScores) or len(guess.steps) != len(truth.steps):
        return 0.0
    pairs: Sequence[tuple[float | None, float | None]] = [
        *zip(guess.steps, truth.steps, strict=True),
        (guess.answer, truth.answer),
    ]
    apart = [
        abs(score - (true > THRESHOLD))
        for score, true in pairs
        if score is not None and true is not None and (score > THRESHOLD) != (true > THRESHOLD)
    ]
    return max(apart, default=0.0)
