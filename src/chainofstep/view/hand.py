"""Labels by hand: corrections of a run's step scores, kept beside it, and as rows that a PRM is trained on.

    RUN/hand/corrections.jsonl    what was corrected, in order; {"label": null} takes a correction back
    RUN/hand/examples.jsonl       the questions of the corrected rollouts
    RUN/hand/rollouts.jsonl       these rollouts alone
    RUN/hand/scores.jsonl         their labels: those by hand, and between them those of `others`

The last three are written anew after each correction. `cos train prm MODEL` takes them as they are.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainofstep.records import Example, Scored, StepScores, to_row
from chainofstep.store import Log, write_text
from chainofstep.view.facts import THRESHOLD
from chainofstep.view.opened import NotThere, OpenRun, OpenSet
from chainofstep.view.pictures import OutsideRun
from chainofstep.view.rows import BROKEN, open_regular
from chainofstep.view.texts import Reading, Sampled, example_of, pool_of, read_text, scores_of

LABELS = (0.0, 0.5, 1.0)
#: Whose labels a corrected rollout has where no hand gave one, the surest first.
OTHERS = ("checker", "monte-carlo", "judge", "prm")
PATIENCE = 10.0  # seconds that another viewer's correction may take
#: (set, question's id, index) of a rollout -> its corrections by step; the number of steps is the answer's place.
Corrections = dict[tuple[str, str, int], dict[int, float]]


@dataclass(frozen=True)
class Correction:
    """A row of corrections.jsonl. `text` is a hash of the rollout's text: another text is another rollout."""

    set: str
    id: str
    index: int
    step: int
    label: float | None
    text: str


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Hand:
    """The corrections of a run, as they stand now."""

    def __init__(self, run: Path):
        self.folder = run / "hand"
        self.found: dict[tuple[str, str, int, str], dict[int, float]] = {}
        for row in self._rows():
            labels = self.found.setdefault((row.set, row.id, row.index, row.text), {})
            if row.label is None:
                labels.pop(row.step, None)
            else:
                labels[row.step] = row.label

    def _rows(self) -> Iterator[Correction]:
        """Rows that can be read: another viewer may be writing the last one."""
        path = self.folder / "corrections.jsonl"
        if not path.is_file():
            return
        with open_regular(path) as file:
            for line in file:
                try:
                    row = Correction(**json.loads(line))
                except (*BROKEN, TypeError):
                    continue
                if _is_correction(row):
                    yield row

    def labels(self, one: str, name: str, pool: Sequence[Sampled]) -> dict[int, dict[int, float]]:
        """The corrections of a pool's rollouts by their indexes, each by step."""
        keys = {sampled.index: (one, name, sampled.index, hash_of(sampled.text)) for sampled in pool}
        return {index: found for index, key in keys.items() if (found := self.found.get(key))}

    def sets(self) -> set[str]:
        """The sets in which something is corrected."""
        return {key[0] for key, labels in self.found.items() if labels}

    def lowest(self, one: str) -> dict[tuple[str, int], float]:
        """The lowest label of each corrected rollout of a set."""
        return {key[1:3]: min(labels.values()) for key, labels in self.found.items() if key[0] == one and labels}


def _is_correction(row: Correction) -> bool:
    numbers = type(row.index) is int and type(row.step) is int and row.index >= 0 and row.step >= 0
    words = all(isinstance(word, str) for word in (row.set, row.id, row.text))
    return numbers and words and (row.label is None or row.label in LABELS)


def correct(run: OpenRun, one: OpenSet, name: str, index: int, step: int, label: float | None) -> list[float | None]:
    """Correct a label, or take the correction back without one; all labels of the rollout after it.

    None stands for a step of which nothing is known. `ValueError` for a rollout or step that is not there, an
    `OSError` where the folder cannot be written.
    """
    if label is not None and label not in LABELS:
        raise ValueError(f"label is {label!r}: give 1, 0.5, 0, or null to take it back")
    pool = pool_of(one.rows.row(name))
    if name not in one.rows or not 0 <= index < len(pool):
        raise NotThere(f"set {one.files.id} has no rollout {index} of {name[:100]!r}: choose one of /api/item")
    reading = read_text(pool[index].text)
    last = len(reading.steps) - (reading.answer is None)
    if not 0 <= step <= last or not reading.steps:
        raise ValueError(f"step is {step}: rollout {index} of {name} has {len(reading.steps)} steps to label")
    value = None if label is None else float(label)
    with _alone(run.path / "hand") as folder:
        corrections = folder / "corrections.jsonl"
        if corrections.exists() and not corrections.is_file():
            raise ValueError(f"{corrections} is no regular file: take it away")
        row = Correction(one.files.id, name, index, step, value, hash_of(pool[index].text))
        Log(corrections).append(to_row(row))
        hand = Hand(run.path)
        _write_rows(run, hand, folder)
    labels = hand.labels(one.files.id, name, pool).get(index, {})
    return _labels(reading, labels, _others(one, name, index, len(pool))[1])


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder for this correction alone, made if it is not there."""
    from filelock import FileLock, Timeout

    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=PATIENCE):
            yield folder
    except Timeout:
        raise ValueError(f"{folder} is in use by another viewer: correct the label again") from None


def _others(one: OpenSet, name: str, index: int, count: int) -> tuple[str, Scored | None]:
    """(whose, labels) a rollout has that no hand gave; "" for nobody's."""
    for kind in OTHERS:
        log = one.files.first([kind])
        scored = scores_of(one.scores[log.name].row(name), count) if log else []
        if log and scored and isinstance(found := scored[index], StepScores):
            return log.name, _hard(found) if kind == "prm" else found
    return "", None


def _hard(scores: StepScores) -> StepScores:
    """What a PRM says, rather than how sure it is."""
    steps = tuple(float(score > THRESHOLD) for score in scores.steps)
    return StepScores(steps, None if scores.answer is None else float(scores.answer > THRESHOLD))


def _labels(reading: Reading, by_hand: Mapping[int, float], others: Scored | None) -> list[float | None]:
    """A label for each step and, where there is one, the answer: by hand, else the others', else None."""
    steps, known = len(reading.steps), list[float | None]()
    if isinstance(others, StepScores) and len(others.steps) == steps:
        known = [*others.steps, others.answer]
    known += [None] * (steps + 1 - len(known))
    wanted = steps + (reading.answer is not None)
    return [by_hand.get(place, known[place]) for place in range(wanted)]


# Rows for training


def _write_rows(run: OpenRun, hand: Hand, folder: Path) -> None:
    """examples, rollouts and scores.jsonl of all that is corrected now."""
    examples: dict[str, dict[str, Any]] = {}
    rollouts: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for one, name in dict.fromkeys((key[0], key[1]) for key, labels in hand.found.items() if labels):
        example = _example(run, one, name, folder)
        if example is None:
            continue
        same = to_row(example)
        own = name if examples.get(name, same) == same else f"{name}@{one}"  # another question of this id
        kept, marks, others = _corrected(run.sets[one], name, own, hand)
        if not kept:  # the texts that were corrected are no longer there
            continue
        examples[own] = to_row(replace(example, id=own))
        rollouts.setdefault(own, {"id": own, "rollouts": []})["rollouts"] += kept
        row = scores.setdefault(own, {"id": own, "scores": [], "others": []})
        row["scores"] += marks
        row["others"] += others
    for file, rows in (("examples", examples), ("rollouts", rollouts), ("scores", scores)):
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows.values())
        write_text(folder / f"{file}.jsonl", "".join(lines))


def _example(run: OpenRun, one: str, name: str, folder: Path) -> Example | None:
    """The question of corrected rollouts, its pictures as paths from the folder of labels."""
    opened = run.sets.get(one)
    example = example_of(opened.examples.row(name)) if opened else None
    if opened is None or example is None:
        return None
    found = ((image, _picture(run, opened, image)) for image in example.images)
    return replace(example, images=tuple(image if path is None else _from(folder, path) for image, path in found))


def _picture(run: OpenRun, one: OpenSet, image: str) -> Path | None:
    """Also one that lies outside the run: training reads what the row names, and shows it to nobody."""
    try:
        return run.picture(one, image)
    except OutsideRun as error:
        return next((path for path in error.paths if path.is_file()), None)


def _from(folder: Path, path: Path) -> str:
    """The path of a picture as it is found from the folder; of one that is not the run's, the whole path."""
    here, there = folder.resolve(), path.resolve()
    return os.path.relpath(there, here) if there.is_relative_to(here.parent) else str(there)


def _corrected(
    one: OpenSet, name: str, own: str, hand: Hand
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """The rollouts of a question that are corrected, their labels, and whose labels stand between those by hand."""
    row = one.rows.row(name)
    pool = pool_of(row)
    kept, marks, others = [], [], []
    for index, by_hand in hand.labels(one.files.id, name, pool).items():
        whose, known = _others(one, name, index, len(pool))
        kept.append(row["rollouts"][index] | {"example_id": own})
        marks.append(_mark(read_text(pool[index].text), by_hand, known))
        others.append(whose)
    return kept, marks, others


def _mark(reading: Reading, by_hand: Mapping[int, float], others: Scored | None) -> dict[str, Any]:
    """The labels as a row of scores: up to the first step of which nothing is known."""
    labels = _labels(reading, by_hand, others)
    unknown = next((place for place, label in enumerate(labels) if label is None), len(labels))
    steps = labels[: min(unknown, len(reading.steps))]
    if not steps:
        return {"reason": "labels by hand begin after the first step, and no other labels are known"}
    return {"steps": steps, "answer": labels[-1] if unknown == len(labels) > len(reading.steps) else None}
