"""The project's own folders: examples with what was made for them, as the commands read and write them.

examples.jsonl                   SFT data: each example with its gold `chain`
rollouts.jsonl, scores.jsonl     PRM data: {"id", "rollouts": [...]}, {"id", "scores": [...]}
pairs.jsonl                      preference pairs, one a row
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from chainofstep.chain import Chain, parse_prefix, render
from chainofstep.problems.formats.base import Row, chain_of, cut_after, json_line, labelled, shown, text_of
from chainofstep.problems.formats.chunks import BATCH, Found, Rows, line_chunks
from chainofstep.problems.formats.rows import example_row, read_row
from chainofstep.records import Example, Pair, Reject, Rollout, StepRow, to_row
from chainofstep.row_index import RowIndex

EXAMPLES, ROLLOUTS, SCORES, PAIRS = "examples.jsonl", "rollouts.jsonl", "scores.jsonl", "pairs.jsonl"
CHOSEN, REJECTED, RULE = 1.0, 0.0, "imported"  # of pairs that come without their path scores and rule


def temporary(folder: Path) -> Path:
    """Where a folder is made."""
    return folder.with_name(f".{folder.name}.tmp")


def read_chunks(folder: Path) -> Iterator[Rows]:
    """A folder's rows in the format `rows`: one for each pair or rollout or, where there is neither, each example."""
    if not (folder / EXAMPLES).is_file():
        raise ValueError(f"{folder} has no {EXAMPLES}, so it is no folder of step data; give the file itself")
    if (folder / PAIRS).is_file():
        found = _joined(folder, PAIRS, "example_id", lambda example, row, _: [_of_pair(example, row)])
    elif (folder / ROLLOUTS).is_file():
        found = _joined(folder, ROLLOUTS, "id", _of_rollouts)
    else:
        found = ((number, path, [_of_example(row)]) for number, path, row in _lines(folder / EXAMPLES))
    batch: list[Found] = []
    for number, path, rows in found:
        batch += [(number, _placed(path, number, row)) for row in rows]
        if len(batch) >= BATCH:
            yield Rows(folder, tuple(batch))
            batch = []
    if batch:
        yield Rows(folder, tuple(batch))


def _placed(path: Path, number: int, row: Row | Reject) -> Row | Reject:
    return Reject(f"{path}:{number}", row.reason, row.row) if isinstance(row, Reject) else row


def _lines(path: Path) -> Iterator[tuple[int, Path, Any]]:
    return ((number, path, row) for chunk in line_chunks(path) for number, row in chunk.items())


def _joined(folder: Path, name: str, key: str, rows_of: Any) -> Iterator[tuple[int, Path, list[Row | Reject]]]:
    """The rows of a file, each with its example and, if there is such a row, its scores."""
    examples, scores = RowIndex(folder / EXAMPLES), RowIndex(folder / SCORES)
    for number, path, row in _lines(folder / name):
        row_id = row.get(key) if not isinstance(row, Reject) else None
        if isinstance(row, Reject):
            yield number, path, [row]
        elif not isinstance(row_id, str) or row_id not in examples:
            yield number, path, [Reject("", f"no example: {EXAMPLES} has none with the id {shown(row_id)}", row)]
        else:
            scored = next(scores.rows([row_id])) if row_id in scores else None
            yield number, path, rows_of(next(examples.rows([row_id])), row, scored)


def _of_example(row: Row | Reject) -> Row | Reject:
    if isinstance(row, Reject):
        return row
    if row.get("chain") is None:
        return {"example": row}
    try:
        chain = read_row({"example": row}, "").example.chain
    except ValueError as error:
        return Reject("", str(error), row)
    return {"example": row, "text": render(chain) if isinstance(chain, Chain) else None}


def _of_pair(example: Row, row: Row) -> Row | Reject:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return Reject("", "wrong field: chosen and rejected: expected two texts", row)
    return {"example": example, "text": chosen, "rejected": rejected}


def _of_rollouts(example: Row, row: Row, scored: Row | None) -> list[Row | Reject]:
    rollouts = row.get("rollouts")
    scores = [None] * len(rollouts or []) if scored is None else scored.get("scores")
    if not isinstance(rollouts, list) or not isinstance(scores, list) or len(rollouts) != len(scores):
        return [Reject("", f"labels do not fit: {len(scores or [])} scores for {len(rollouts or [])} rollouts", row)]
    return [_of_rollout(example, *both) for both in zip(rollouts, scores, strict=True)]


def _of_rollout(example: Row, rollout: Any, scores: Any) -> Row | Reject:
    if not isinstance(rollout, dict) or not isinstance(scores, dict | None):
        return Reject("", "wrong field: rollouts: expected objects", rollout)
    if scores is not None and "reason" in scores:
        return Reject("", f"no step labels: {scores['reason']}", rollout)
    return {"example": example, "text": rollout.get("text"), "labels": scores}


# Writing


class FolderFiles:
    """A folder of step data being written; it appears whole when closed. Rows of a question must follow one another.

    The first row says what the folder holds: pairs, PRM data or, with neither, gold chains.
    """

    def __init__(self, path: Path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} exists; choose another folder, or delete it")
        self.path, self.temporary = path, temporary(path)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.files: dict[str, BinaryIO] = {}
        self.held = ""
        self.pool: list[StepRow] = []  # rows of one question
        self.known: set[str] = set()

    def put(self, row: StepRow) -> None:
        """`ValueError` for a row that does not go with the others."""
        held = "pair" if row.rejected is not None else "labels" if row.labels is not None else "chain"
        if held != (self.held or held):
            raise ValueError(f"no {self.held}: the folder holds rows with one, as its first row")
        prepared = self._prepared(row, held)
        if not self._goes_on(prepared):
            if row.example.id in self.known:
                raise ValueError(f"duplicate id: {row.example.id} with rows of other questions between")
            self._flush()
        self.held = held
        self.pool.append(prepared)

    def _prepared(self, row: StepRow, held: str) -> StepRow:
        """The row as it will be trained on: PRM data ends where its labels do."""
        if held == "pair":
            text_of(row)
        elif held == "labels":
            chain, labels = labelled(row)
            text = text_of(row)
            cut = len(chain.steps) < len(parse_prefix(text).chain.steps)
            return replace(row, labels=labels, text=cut_after(text, len(chain.steps)) if cut else text)
        elif row.text is not None:
            return replace(row, example=replace(row.example, chain=chain_of(row)))
        return row

    def _goes_on(self, row: StepRow) -> bool:
        """Whether the row is of the same question as the last one."""
        if not self.pool or self.pool[0].example.id != row.example.id:
            return False
        asked, now = (_asked(known.example) for known in (self.pool[0], row))
        if self.held == "chain" or asked != now:
            raise ValueError(f"duplicate id: {row.example.id} is the id of the row before, too")
        return True

    def _flush(self) -> None:
        if not self.pool:
            return
        example = self.pool[0].example
        self._line(EXAMPLES, example_row(example))
        if self.held == "labels":
            rollouts = [_rollout(row, index) for index, row in enumerate(self.pool)]
            self._line(ROLLOUTS, {"id": example.id, "rollouts": [to_row(rollout) for rollout in rollouts]})
            self._line(SCORES, {"id": example.id, "scores": [to_row(row.labels) for row in self.pool]})
        elif self.held == "pair":
            for row in self.pool:
                pair = Pair(example.id, text_of(row), row.rejected or "", CHOSEN, REJECTED, RULE)
                self._line(PAIRS, to_row(pair))
        self.known.add(example.id)
        self.pool = []

    def _line(self, name: str, row: Row) -> None:
        if name not in self.files:
            self.files[name] = (self.temporary / name).open("wb")
        self.files[name].write((json_line(row) + "\n").encode("utf-8"))

    def close(self) -> None:
        self._flush()
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if not self.files:
            (self.temporary / EXAMPLES).touch()
        os.replace(self.temporary, self.path)

    def discard(self) -> None:
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def _asked(example: Example) -> tuple[Any, ...]:
    return example.question, example.images, example.answer, example.choices


def _rollout(row: StepRow, index: int) -> Rollout:
    finished = parse_prefix(text_of(row)).finished
    return Rollout(row.example.id, text_of(row), (), "answer" if finished else "step", seed=0, index=index)
