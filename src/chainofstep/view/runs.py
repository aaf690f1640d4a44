"""What a folder holds that a viewer can show: rollouts, whose scores are whose, searches, pairs.

A run folder says it in its stages' markers, `cos sample` and `cos annotate` in the `.made.json` beside their files.
Any other folder with such rows will do: a file is what its first row is, and belongs to what lies beside it.
"""

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainofstep.store import file_hash, read_json
from chainofstep.view.rows import first_row, open_regular
from chainofstep.view.texts import pool_of, scores_of

#: Scorers in the order in which they are shown.
KINDS = ("prm", "checker", "monte-carlo", "judge", "outcome")
#: By whom the truth of a step is known, the surest first.
TRUTHS = ("checker", "monte-carlo")
#: Folders of a run without rows to show; labels by hand are read elsewhere.
PASSED_OVER = {"models", "hand", "plots"}
HASH_DIGITS = 64


@dataclass(frozen=True)
class ScoreLog:
    """Scores of one scorer. `name` is its kind, with the place in the run where a set has several of a kind."""

    name: str
    kind: str
    path: Path


@dataclass(frozen=True)
class RolloutSet:
    """A log of rollouts with its questions and scores."""

    id: str
    title: str
    path: Path
    examples: Path | None
    scores: tuple[ScoreLog, ...]

    def first(self, kinds: Sequence[str]) -> ScoreLog | None:
        """The scores of the first of these kinds that the set has."""
        return next((log for kind in kinds for log in self.scores if log.kind == kind), None)


@dataclass(frozen=True)
class SearchLog:
    """Results of a beam search. `width` is None where nothing says it."""

    id: str
    path: Path
    width: int | None


@dataclass(frozen=True)
class PairLog:
    """Preference pairs, and the id of the set that they were chosen from."""

    id: str
    path: Path
    set: str | None


@dataclass(frozen=True)
class RunFiles:
    """A run's files."""

    name: str
    path: Path
    sets: tuple[RolloutSet, ...]
    searches: tuple[SearchLog, ...]
    pairs: tuple[PairLog, ...]
    problems: tuple[str, ...]


def named_runs(paths: Sequence[Path]) -> dict[str, Path]:
    """Short names for run folders: the last part of the path, with as many parts before it as tell them apart."""
    whole = {path.resolve(): path for path in reversed(paths)}
    found: dict[str, Path] = {}
    for path in dict.fromkeys(path.resolve() for path in paths):
        lengths = range(1, len(path.parts) + 1)
        names = ("/".join(path.parts[-length:]) for length in lengths)
        ends = (sum(other.parts[-length:] == path.parts[-length:] for other in whole) for length in lengths)
        found[next(name for name, count in zip(names, ends, strict=True) if count == 1)] = whole[path]
    return found


def read_run(name: str, path: Path) -> RunFiles:
    """What is in the folder. `ValueError` for a folder that is none, or has no rows that a viewer could show."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give the --out of `cos run`, or a folder with a rollouts.jsonl")
    files = _Files(path)
    if not files.of("rollouts") and not files.of("searches") and not files.of("pairs"):
        raise ValueError(f"{path} holds no rollouts, searches or pairs; `cos run` or `cos sample` writes some")
    sets = tuple(sorted(files.sets(), key=_interest))
    searches = tuple(SearchLog(files.short(log), log, files.width(log)) for log in files.of("searches"))
    pairs = tuple(PairLog(files.named(log), log, _source(log, sets)) for log in files.of("pairs"))
    return RunFiles(name, path, sets, searches, pairs, tuple(files.problems))


def _interest(one: RolloutSet) -> tuple[bool, int, int]:
    """What is shown first: rollouts whose PRM scores can be held against a truth, then by scorers and size."""
    compared = one.first(["prm"]) is not None and one.first(TRUTHS) is not None
    return not compared, -len(one.scores), -one.path.stat().st_size


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a run's logs: it changes when a running command adds to them."""
    found = []
    for log in _logs(path)[0]:
        try:
            about = log.stat()
        except OSError:
            continue
        found.append((str(log), about.st_size, about.st_mtime_ns))
    return tuple(found)


def _logs(path: Path) -> tuple[list[Path], list[Path]]:
    """All JSONL files of a run in order of name, and those that are no regular files: a pipe would be waited for.

    Links that lead out of the run are not followed.
    """
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(
            name for name in inner if not name.startswith(".") and not (Path(folder) == path and name in PASSED_OVER)
        )
        found += [Path(folder) / name for name in sorted(names) if name.endswith(".jsonl")]
    own = [log for log in found if not log.is_symlink() or log.resolve().is_relative_to(path.resolve())]
    return [log for log in own if log.is_file()], [log for log in own if not log.is_file()]


def _kind(row: Mapping[str, Any]) -> str:
    """What a file is by its first row; "" for anything that is not shown."""
    if isinstance(row.get("rollouts"), list) and "id" in row:
        return "rollouts"
    if "trace" in row and "id" in row:
        return "searches"
    if isinstance(row.get("scores"), list) and "id" in row:
        return "scores"
    if {"example_id", "chosen", "rejected"} <= row.keys():
        return "pairs"
    return "examples" if {"id", "question", "images", "answer"} <= row.keys() else ""


class _Files:
    """A run's logs by what they are, and the markers of its stages."""

    def __init__(self, path: Path):
        logs, others = _logs(path)
        self.path, self.rows = path, {log: first_row(log) for log in logs}
        self.problems = [f"{self.inside(log)}: no regular file, left out" for log in others]
        self.kinds = {log: _kind(row) for log, row in self.rows.items()}
        for log, row in self.rows.items():
            if not row and log.stat().st_size:
                self.problems.append(f"{self.inside(log)}: none of its first rows can be read")
        self.markers = dict(self._markers())

    def of(self, kind: str) -> list[Path]:
        return [log for log, own in self.kinds.items() if own == kind]

    def inside(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def named(self, log: Path) -> str:
        return self.inside(log).removesuffix(".jsonl")

    def short(self, log: Path) -> str:
        """The name of the stage that wrote a log: its folder, where the file has the name of all such files."""
        name = self.named(log)
        folder, _, file = name.rpartition("/")
        return folder if folder and file in ("rollouts", "results", "scores") else name

    def _markers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The inputs of each stage by its name."""
        for file in sorted((self.path / "stages").rglob("*.json")):
            name = file.relative_to(self.path / "stages").with_suffix("").as_posix()
            marker = self._json(file)
            if isinstance(inputs := marker.get("inputs"), dict):
                yield name, inputs

    def _json(self, file: Path) -> Mapping[str, Any]:
        if not file.is_file():
            self.problems.append(f"{self.inside(file)}: no regular file, left out")
            return {}
        try:
            found = read_json(file)
        except (ValueError, OSError, RecursionError) as error:
            self.problems.append(" ".join(str(error).split()))
            return {}
        return found if isinstance(found, dict) else {}

    def _made(self, log: Path) -> Mapping[str, Any]:
        """What a single command wrote beside its file."""
        made = log.with_suffix(".made.json")
        return self._json(made) if made.is_file() else {}

    def sets(self) -> Iterator[RolloutSet]:
        scores: dict[Path, list[tuple[str, str, Path]]] = {}
        for log in self.of("scores"):
            owner = self._owner(log)
            if owner is None:
                self.problems.append(f"{self.inside(log)}: no rollouts here that these scores fit")
            else:
                scores.setdefault(owner, []).append((*self._scorer(log), log))
        for log in self.of("rollouts"):
            examples = self._examples(log)
            if examples is None:
                self.problems.append(f"{self.inside(log)}: no file here has its questions, so nothing is known right")
            yield RolloutSet(self.short(log), self._title(log), log, examples, self._ordered(scores.get(log, [])))

    def _owner(self, log: Path) -> Path | None:
        """The rollouts that a file of scores is of."""
        pools = self.markers.get(f"{self.short(log)}/score", {}).get("pools")
        if isinstance(pools, str):
            owner = self.path / pools / "rollouts.jsonl"
            return owner if self.kinds.get(owner) == "rollouts" else None
        beside = [other for other in self.of("rollouts") if other.parent == log.parent]
        if len(beside) > 1 and (wanted := self._made(log).get("rollouts")):
            beside = [other for other in beside if file_hash(other) == wanted]
        fitting = [other for other in beside or self.of("rollouts") if self._fits(log, other)]
        if len(fitting) > 1:
            rows = _lines(log)
            fitting.sort(key=lambda other: _lines(other) != rows)
        return fitting[0] if fitting else None

    def _fits(self, log: Path, rollouts: Path) -> bool:
        """Whether the first scores are as many as the first rollouts, and of the same question."""
        pool, row = self.rows[rollouts], self.rows[log]
        return row.get("id") == pool.get("id") and bool(scores_of(row, len(pool_of(pool))))

    def _scorer(self, log: Path) -> tuple[str, str]:
        """(kind, model) of the scorer: as its marker says, or its own file, or its name."""
        said = self.markers.get(f"{self.short(log)}/score", {}).get("scorer") or self._made(log).get("scorer")
        if isinstance(said, dict):
            return str(said.get("kind", "")), str(said.get("model", ""))
        if isinstance(said, str):
            return said, ""
        name = self.named(log).replace("_", "-")
        if (self.path / "eval.json").is_file():
            return "prm", ""
        if (self.path / "judge-1").is_dir():  # of `cos data build`, where prm/scores.jsonl is what a PRM is to learn
            return "judge", ""
        return next((kind for kind in KINDS if kind in name), Path(name).name), ""

    def _ordered(self, found: Sequence[tuple[str, str, Path]]) -> tuple[ScoreLog, ...]:
        """The scores of a set, the run's own PRM before others, each with a name of its own."""
        order = {kind: place for place, kind in enumerate(KINDS)}
        ranked = sorted(found, key=lambda one: (order.get(one[0], len(KINDS)), not one[1].endswith("/prm"), one[2]))
        logs: list[ScoreLog] = []
        for kind, _, path in ranked:
            taken = {log.name for log in logs}
            logs.append(ScoreLog(kind if kind not in taken else f"{kind} ({self.short(path)})", kind, path))
        return tuple(logs)

    def _examples(self, log: Path) -> Path | None:
        """The file that holds the question of the log's first row: where several do, the one that it was made from, one
        beside it, or the run's own problems.
        """
        name = str(self.rows[log].get("id"))
        found = [path for path in self.of("examples") if holds(path, name)]
        if len(found) > 1:
            made_from = self._made(log).get("examples")
            own = self.path / "problems"
            found.sort(key=lambda path: (path.parent != log.parent, path.parent != own))
            found.sort(key=lambda path: made_from is None or file_hash(path) != made_from)
        return found[0] if found else None

    def _title(self, log: Path) -> str:
        """Where it lies, who wrote it, and how many for each question."""
        name, made = self.short(log), self._made(log)
        inputs = self.markers.get(f"{name}/sample", {}) or made
        sampling = inputs.get("sampling")
        sampling = sampling if isinstance(sampling, dict) else {}
        facts = []
        model = inputs.get("model")
        if isinstance(model, str) and len(model) != HASH_DIGITS:
            facts.append(f"policy {model.partition('@')[0].rstrip('/').rpartition('/')[2]}")
        if isinstance(sampling.get("n"), int):
            facts.append("greedy" if sampling.get("temperature") == 0 else f"{sampling['n']} each")
        return f"{name}: {', '.join(facts)}" if facts else name

    def width(self, log: Path) -> int | None:
        config = self.markers.get(self.short(log), {}).get("config")
        width = config.get("width") if isinstance(config, dict) else None
        if isinstance(width, int):
            return width
        found = re.search(r"beam-\d+-(\d+)$", self.short(log))
        return int(found[1]) if found else None


def _lines(path: Path) -> int:
    with open_regular(path) as file:
        return sum(1 for _ in file)


def holds(path: Path, name: str) -> bool:
    """Whether a file of examples has a row with this id, found by its bytes."""
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            spelled = (json.dumps(name, ensure_ascii=plain).encode("utf-8", "replace") for plain in (False, True))
            return any(content.find(b'"id": ' + text) >= 0 for text in spelled)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _source(log: Path, sets: Sequence[RolloutSet]) -> str | None:
    """The set that pairs were chosen from: the one that the scores in their folder are of."""
    for one in sets:
        if any(scores.path.parent == log.parent for scores in one.scores):
            return one.id
    return next((one.id for one in sets if one.path.parent == log.parent), None)
