"""Which items a command asks: a benchmark by its name, or examples of a file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from chainofstep.benchmarks.benchmark import Benchmark, PromptName
from chainofstep.benchmarks.examples import EXAMPLES
from chainofstep.records import Example, Reject
from chainofstep.verbs.files import choose, read_examples


@dataclass(frozen=True)
class Items:
    """The items of a benchmark's split."""

    benchmark: Benchmark
    split: str
    examples: list[Example]  # with the bare question and the gold answer
    rejects: Sequence[Reject] = ()  # rows that could not be read: failed items
    problems: Sequence[str] = ()  # what is to be known of the set, a line each

    def __len__(self) -> int:
        return len(self.examples) + len(self.rejects)

    def prompt(self, name: str | None) -> PromptName:
        """A prompt that the benchmark has; without a name the paper's, where there is one."""
        own = [prompt for prompt in get_args(PromptName) if prompt == "none" or prompt in self.benchmark.prompts]
        return cast(PromptName, choose(name or own[0], own, f"prompt of {self.benchmark.title}"))

    def asked(self, prompt: PromptName) -> list[Example]:
        """The examples as a model is asked them."""
        return [self.benchmark.asked(example, prompt) for example in self.examples]


def read_items(spec: str, split: str | None = None, limit: int | None = None, pictures: bool = True) -> Items:
    """The items of BENCHMARK, BENCHMARK:PATH or a file of examples. ValueError names what is wrong with either.

    Without `pictures` those in files of their own need not be there: stored texts are graded without them.
    """
    name, colon, path = spec.partition(":")
    if Path(spec).suffix == ".jsonl" and not (colon and name in _names()):
        items = Items(EXAMPLES, "", read_examples(Path(spec)))
    elif name == EXAMPLES.name:
        items = Items(EXAMPLES, "", read_examples(Path(path)))
    else:
        items = _published(choose(name, _names(), "benchmark"), Path(path) if path else None, split, pictures)
    if split and items.benchmark is EXAMPLES:
        raise ValueError(f"{spec} has no splits; leave --split out")
    return items if limit is None else _first(items, limit)


def _names() -> list[str]:
    from chainofstep.benchmarks import BENCHMARKS

    return [*BENCHMARKS, EXAMPLES.name]


def _published(name: str, where: Path | None, split: str | None, pictures: bool) -> Items:
    from chainofstep.benchmarks import BENCHMARKS, load

    benchmark = BENCHMARKS[name]
    loaded = load(benchmark, where, split, check="header" if pictures else "none")
    if not loaded.examples:
        raise ValueError(
            f"{benchmark.title}: no item could be read of {len(loaded.rejects)}: {_reason(loaded.rejects)}"
        )
    return Items(benchmark, split or benchmark.split, loaded.examples, loaded.rejects, loaded.problems)


def _reason(rejects: Sequence[Reject]) -> str:
    return rejects[0].reason if rejects else "there is none"


def _first(items: Items, limit: int) -> Items:
    if limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1")
    if limit >= len(items.examples):
        return items
    problem = f"the first {limit} of {len(items):,} items: a sample, its score is not the benchmark's"
    return replace(items, examples=items.examples[:limit], rejects=(), problems=[*items.problems, problem])


def fingerprint_of(examples: Sequence[Example]) -> str:
    """A hash of what a model is asked: ids, questions, names of pictures. Gold answers may be mended later."""
    digest = hashlib.sha256()
    for example in examples:
        asked = (example.id, example.question, [Path(image).name for image in example.images])
        digest.update(json.dumps(asked).encode())
    return digest.hexdigest()
