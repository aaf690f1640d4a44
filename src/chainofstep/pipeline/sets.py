"""The question sets of a run: generated problems, or the user's own from files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

from chainofstep.pipeline.asking import Examples
from chainofstep.pipeline.run import Run
from chainofstep.problems.tasks.build import HELD_OUT, TRAINED, write_problems
from chainofstep.problems.tasks.problem import Split
from chainofstep.records import Example, to_row
from chainofstep.store import file_hash

TRAIN_BLOCK = 1_000_000  # train problems of seed s start at s times this; pretraining starts at ten blocks


def make_sets(run: Run) -> None:
    """`problems/NAME.jsonl`: sft, labels, dpo-1, dpo-2, ..., test and held-out."""
    if run.recipe.data:
        _take(run, Path(run.recipe.data))
    else:
        _make(run)


def _rounds(run: Run) -> int:
    """How many sets of questions for rewards are needed; GRPO asks those of the first round."""
    rounds = run.recipe.rounds
    return max(rounds.rounds, rounds.outcome_rounds, int(run.recipe.grpo is not None))


# Generated problems


def _make(run: Run) -> None:
    """Train problems for each stage, unseen test problems, and held-out kinds; pictures as PNG."""
    sizes, start = run.recipe.problems, run.recipe.seed * TRAIN_BLOCK
    counts = {"sft": sizes.sft, "labels": sizes.labels} | {f"dpo-{n}": sizes.dpo for n in range(1, _rounds(run) + 1)}

    def work() -> Sequence[Path]:
        folder, first = run.path("problems"), start
        for name, count in counts.items():
            _write_set(run, name, _made(run, "train", range(first, first + count), TRAINED))
            first += count
        _write_set(run, "test", _made(run, "test", range(sizes.test), TRAINED))
        _write_set(run, "held-out", _made(run, "test", range(sizes.held_out), HELD_OUT))
        return sorted(folder.glob("*.jsonl"))

    run.stage("problems", work, sizes=asdict(sizes), seed=run.recipe.seed)


def _made(run: Run, split: Split, seeds: range, kinds: Sequence[str]) -> Iterator[Example]:
    """The examples of these seeds, made by the workers in equal parts."""
    folder, parts = run.path("problems", "held-out" if kinds == HELD_OUT else split), run.recipe.threads
    cuts = [len(seeds) * part // parts for part in range(parts + 1)]
    slices = [seeds[start:end] for start, end in pairwise(cuts)]
    count = len(slices)
    each = map if run.workers is None else run.workers.map
    for made in each(write_problems, [split] * count, slices, [folder] * count, [kinds] * count):
        yield from made


def _write_set(run: Run, name: str, examples: Iterable[Example]) -> None:
    """A set's rows; pictures in the run folder by their path in it, so that the folder can be moved."""
    log = run.folder.log(f"problems/{name}")
    log.path.unlink(missing_ok=True)  # a killed attempt left a part
    for example in examples:
        inside = [Path(image) for image in example.images]
        inside = [
            path.relative_to(run.folder.path) if path.is_relative_to(run.folder.path) else path for path in inside
        ]
        log.append(to_row(replace(example, images=tuple(map(str, inside)))))


# The user's own


def _take(run: Run, data: Path) -> None:
    """Rows of `sft.jsonl`, `labels.jsonl`, `dpo.jsonl`, `test.jsonl` and, if there, `held-out.jsonl` of a folder.

    Sizes of the recipe are how many rows of each at most (0: all). Pictures stay where they are.
    """
    sizes = run.recipe.problems
    wanted = {"sft": sizes.sft, "labels": sizes.labels, "dpo": sizes.dpo if _rounds(run) else None, "test": sizes.test}
    files = {name: _file(data, name) for name, count in wanted.items() if count is not None}
    if (data / "held-out.jsonl").is_file():
        files["held-out"] = data / "held-out.jsonl"
        wanted["held-out"] = sizes.held_out

    def work() -> Sequence[Path]:
        for name, path in files.items():
            if name == "dpo":
                for number in range(1, _rounds(run) + 1):
                    _write_set(run, f"dpo-{number}", _rows(path, sizes.dpo, number))
            else:
                _write_set(run, name, _rows(path, wanted[name] or 0))
        return sorted(run.path("problems").glob("*.jsonl"))

    run.stage("problems", work, sizes=asdict(sizes), files={name: file_hash(path) for name, path in files.items()})


def _file(data: Path, name: str) -> Path:
    path = data / f"{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a recipe's data are sft, labels, dpo and test.jsonl in one folder")
    return path


def _rows(path: Path, count: int, part: int = 1) -> Iterator[Example]:
    """The `part`-th `count` rows of a file, beginning again at its end; all of them for a count of 0."""
    examples = Examples(path, lambda image: str((path.parent / image).resolve()))
    names = list(examples)
    if not names:
        raise ValueError(f"{path} holds no example; `cos data build` makes some")
    if 0 < count < len(names):
        first = (part - 1) * count
        names = [names[place % len(names)] for place in range(first, first + count)]
    return examples.read(names)
