"""What the commands read and write: examples, rollouts, scores, model folders, and logs that can be gone on with."""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from chainofstep.models.endpoint import is_endpoint
from chainofstep.pipeline import rows
from chainofstep.records import Example, Rollout, Scored, StepScores
from chainofstep.row_index import RowIndex
from chainofstep.settings import difference
from chainofstep.store import Log, RunFolder, file_hash, read_json, read_records, read_rows, write_json, write_text


def choose(name: str, options: Iterable[str], what: str) -> str:
    """`name` if it is one of `options`; else a `ValueError` with the nearest."""
    options = list(options)
    if name in options:
        return name
    nearest = max(options, key=lambda option: difflib.SequenceMatcher(None, name, option).ratio())
    raise ValueError(f"no {what} {name!r}, the nearest is {nearest}; there are {', '.join(options)}")


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file, with pictures as paths that open from here.

    A relative picture path counts from the file's folder or, in a run's folder, from the run's.
    `ValueError` for a missing or empty file, a row that is no Example, and an id that occurs twice.
    """
    examples = list(read_records(existing(path), Example))
    if not examples:
        raise ValueError(f"{path} holds no example; `cos problems` writes some")
    twice = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: the id {twice[0]!r} occurs twice; give each example its own")
    locate = locate_pictures(path)
    return [replace(example, images=tuple(map(locate, example.images))) for example in examples]


def locate_pictures(path: Path) -> Callable[[str], str]:
    """How pictures that a file names are found: in its folder or, in a run's folder, in the run's."""
    folders = [path.parent, *(above for above in path.resolve().parents if (above / "recipe.json").is_file())]

    def locate(image: str) -> str:
        return str(next((folder / image for folder in folders if (folder / image).is_file()), folders[0] / image))

    return locate


def existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is no file; check the path")
    return path


def with_rows(path: Path, key: str, examples: Sequence[Example]) -> Log:
    """The log at `path`, once every example has a row with `key` in it."""
    ids = set()
    for number, row in read_rows(existing(path)):
        if not {"id", key} <= row.keys():
            writer = "sample" if key == "rollouts" else "annotate"
            raise ValueError(f"{path}:{number}: no {key!r}, only {', '.join(row)}; give what `cos {writer}` wrote")
        ids.add(row["id"])
    missing = [example.id for example in examples if example.id not in ids]
    if missing:
        raise ValueError(
            f"{path} has no {key} for {len(missing)} of {len(examples)} examples ({missing[0]} first); "
            "give the command that wrote it again, it goes on from there"
        )
    return Log(path)


def read_pools(path: Path, examples: Sequence[Example]) -> list[list[Rollout]]:
    """Each example's rollouts, as `sample` wrote them."""
    return rows.read_pools(with_rows(path, "rollouts", examples), examples)


def read_scores(path: Path, examples: Sequence[Example], pools: Sequence[Sequence[Rollout]]) -> list[list[Scored]]:
    """Each rollout's scores, as `annotate` wrote them."""
    scores = rows.read_scores(with_rows(path, "scores", examples), examples)
    for example, pool, scored in zip(examples, pools, scores, strict=True):
        if len(pool) != len(scored):
            raise ValueError(
                f"{path}: {len(scored)} scores for {len(pool)} rollouts of {example.id}; annotate these rollouts again"
            )
    return scores


def claim(out: Path, made_from: Mapping[str, Any]) -> Log:
    """The log `out`: new, or begun from the same inputs and settings, which are kept beside it.

    So a stopped command goes on where it was, and rows of different settings never meet in one file.
    """
    known = out.with_suffix(".made.json")
    if not out.exists():
        write_json(known, made_from)
    elif not known.exists():
        raise ValueError(f"{out} exists, and {known.name} beside it does not; choose another --out")
    elif changed := difference(read_json(known), made_from):
        raise ValueError(f"{out} was made with another {changed}; choose another --out, or delete it")
    return Log(out)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this command alone, made if it is not there; `ValueError` if another command has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunFolder(folder).lock()
    except ModuleNotFoundError:  # without any extra there is no lock, and no model that could be at work in the folder
        yield
        return
    try:
        yield
    finally:
        lock.release()


def scored_pools(path: Path, names: Sequence[str]) -> Iterator[list[Scored]]:
    """Each named example's scores, as `annotate` or `judge` wrote them, one example at a time."""
    for row in RowIndex(path).rows(list(names)):
        if not isinstance(row.get("scores"), list):
            raise ValueError(f"{path}: no 'scores' in the row of {row['id']}; give what `cos annotate` wrote")
        yield [rows.read_scored(entry) for entry in row["scores"]]


def kinds_of(path: Path, names: Sequence[str]) -> Counter[str]:
    """How many rollouts of these examples have scores in the file, or why not."""
    return Counter(kind_of(scored) for pool in scored_pools(path, names) for scored in pool)


def kind_of(scored: Scored) -> str:
    """`scored`, or what kind of failure it is."""
    return "scored" if isinstance(scored, StepScores) else scored.reason.partition(":")[0]


def model_path(model: str) -> str:
    """A model's folder, hub id or endpoint; `ValueError` for a folder that does not exist."""
    if is_endpoint(model):
        return model
    path = Path(model)
    # A hub id has one slash; where its first part is a folder here, the path was meant.
    if not path.is_dir() and (model.count("/") != 1 or path.is_absolute() or path.parent.is_dir()):
        raise ValueError(f"model folder {model} does not exist; give the --out of a training, or a run's models/NAME")
    return model


def fingerprint(model: str) -> str:
    """What a model's outputs depend on: the hash of its weights, its hub id, or its name at an endpoint."""
    if is_endpoint(model):
        return f"{model.partition('@')[0]}@endpoint"  # servers may move
    weights = sorted(Path(model_path(model)).glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, weights)).encode()).hexdigest() if weights else model


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A whole JSONL file at once."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
