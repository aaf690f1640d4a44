"""Runs that are open in a viewer: their rows and facts, made when asked for and in the background."""

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from chainofstep.records import Example
from chainofstep.view.facts import Facts
from chainofstep.view.pictures import OutsideRun, find_picture
from chainofstep.view.rows import Rows
from chainofstep.view.runs import PairLog, RolloutSet, RunFiles, SearchLog, fingerprint, named_runs, read_run

ROLLOUT = b'"text":'  # once in each stored rollout, and nowhere within one, where quotes are escaped
_SOURCE = re.compile(rb'"source": ?"((?:[^"\\]|\\.)*)"')


class NotThere(LookupError):
    """A run, set, question or picture that nothing here has; the message is one line."""


class OpenSet:
    """A set of rollouts with its rows, and what lists go by."""

    def __init__(self, run: Path, files: RolloutSet, shared: dict[Path, Rows] | None = None):
        """`shared` holds the examples that other sets of the run have read."""
        self.run, self.files = run, files
        self._shared = {} if shared is None else shared
        self.rows = Rows(files.path, counted=ROLLOUT)
        self._facts: Facts | None = None
        self._kept = False  # in a file
        self._opening = threading.Lock()

    @cached_property
    def examples(self) -> Rows:
        path = self.files.examples
        if path is None:
            return Rows(None)
        if path not in self._shared:
            self._shared[path] = Rows(path, noted=_SOURCE)
        return self._shared[path]

    @cached_property
    def scores(self) -> dict[str, Rows]:
        return {log.name: Rows(log.path) for log in self.files.scores}

    @property
    def facts(self) -> Facts:
        """What was kept of them, or none yet: see `Shelf.want`."""
        with self._opening:
            if self._facts is None:
                self._facts = Facts(self.files, self.rows, self.examples, self.scores)
                self._kept = self._facts.load(self.run)
            return self._facts

    @property
    def families(self) -> list[str]:
        """What kinds of questions its file has, in their order there."""
        return list(
            dict.fromkeys(source.decode("utf-8", "replace").rpartition("/")[2] for source in self.examples.noted)
        )

    @property
    def rollouts(self) -> int:
        return sum(self.rows.counts)

    @property
    def ready(self) -> float:
        return 0.0 if self._facts is None else self._facts.ready

    @property
    def problems(self) -> list[str]:
        """What could not be read."""
        logs = [self.rows, self.examples, *self.scores.values()]
        found = [problem for log in logs for problem in log.problems]
        return found + ([] if self._facts is None else list(self._facts.problems))

    def work(self) -> bool:
        """Make some more of the facts, in one thread alone; whether there was any left to make."""
        facts = self.facts
        if facts.finished:
            return False
        facts.work()
        self._keep(facts)
        return True

    def _keep(self, facts: Facts) -> None:
        if facts.finished and not self._kept:
            facts.save(self.run)
            self._kept = True


class OpenRun:
    """A run folder whose files are known. Its pictures may lie in `folders` too."""

    def __init__(self, name: str, path: Path, folders: Sequence[Path] = ()):
        self.seen = fingerprint(path)
        self.files: RunFiles = read_run(name, path)
        self.name, self.path, self.folders = name, path, folders
        examples: dict[Path, Rows] = {}
        self.sets = {files.id: OpenSet(path, files, examples) for files in self.files.sets}

    @cached_property
    def searches(self) -> dict[str, tuple[SearchLog, Rows]]:
        return {log.id: (log, Rows(log.path)) for log in self.files.searches}

    @cached_property
    def pairs(self) -> dict[str, tuple[PairLog, Rows]]:
        return {log.id: (log, Rows(log.path, "example_id")) for log in self.files.pairs}

    def picture(self, one: OpenSet, image: str) -> Path | None:
        """The file that an example of a set names, as `find_picture` has it."""
        return find_picture(self.path, one.files.examples, image, self.folders)

    def missing(self, one: OpenSet, example: Example | None) -> list[str]:
        """For each picture of an example why it is not shown; "" where it is."""
        return [self._missing(one, image) for image in (example.images if example else ())]

    def _missing(self, one: OpenSet, image: str) -> str:
        try:
            return "" if self.picture(one, image) else "not there: put it in the run folder"
        except OutsideRun as error:
            return str(error)

    @property
    def problems(self) -> list[str]:
        logs = [rows for _, rows in (*self.searches.values(), *self.pairs.values())]
        found = [*self.files.problems, *(problem for one in self.sets.values() for problem in one.problems)]
        found += [problem for rows in logs for problem in rows.problems]
        return [problem.replace(f"{self.path}/", "") for problem in dict.fromkeys(found)]


class Shelf:
    """The runs of a viewer by name. `ValueError` for a folder without anything to show.

    Pictures that rows name outside their run are shown from `folders` alone.
    """

    def __init__(self, paths: Sequence[Path], folders: Sequence[Path] = ()):
        if gone := [folder for folder in folders if not folder.is_dir()]:
            raise ValueError(f"--pictures {gone[0]} is no folder: give the one that holds the pictures")
        self.folders = tuple(folders)
        self.runs = {name: OpenRun(name, path, self.folders) for name, path in named_runs(paths).items()}
        self._asked = threading.Condition()
        self._wanted: OpenSet | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def run(self, name: str) -> OpenRun:
        if name not in self.runs:
            raise NotThere(f"no run {name[:100]!r} here: choose one of /api/runs")
        return self.runs[name]

    def set(self, run: str, name: str) -> OpenSet:
        sets: Mapping[str, OpenSet] = self.run(run).sets
        if name not in sets:
            raise NotThere(f"run {run} has no set {name[:100]!r}: choose one of /api/runs")
        return sets[name]

    def refresh(self) -> None:
        """Read runs again whose logs have changed; what a run has become that cannot be read stays as it was."""
        for name, run in list(self.runs.items()):
            if fingerprint(run.path) != run.seen:
                try:
                    self.runs[name] = OpenRun(name, run.path, self.folders)
                except ValueError:
                    continue

    # Facts are made by one thread, those first that were asked for last

    def want(self, one: OpenSet) -> None:
        """Make the facts of this set before others."""
        with self._asked:
            self._wanted = one
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._work, name="facts", daemon=True)
                self._thread.start()
            self._asked.notify_all()

    def _work(self) -> None:
        while not self._stopped:
            with self._asked:
                wanted = self._wanted
            if wanted is not None and wanted.work():
                continue
            with self._asked:
                if self._wanted is wanted:
                    self._wanted = None
                    self._asked.wait_for(lambda: self._stopped or self._wanted is not None)

    def close(self) -> None:
        """End the thread."""
        with self._asked:
            self._stopped = True
            self._asked.notify_all()
        if self._thread is not None:
            self._thread.join()
