"""Which items a command asks: a benchmark by its name, or examples of a file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from chainofstep.benchmarks.benchmark import Benchmark, PromptName
from chainofstep.benchmarks.examples import EXAMPLES
from chainofstep.benchmarks.load import of_limit
from chainofstep.records import Example, Reject
from chainofstep.report.wording import counted
from chainofstep.verbs.files import choose, read_examples


@dataclass(frozen=True)
class Items:
    """The items of a benchmark's split."""

    benchmark: Benchmark
    split: str
    examples: list[Example]  # with the bare question and the gold answer
    rejects: Sequence[Reject] = ()  # rows that could not be read: failed items
    problems: Sequence[str] = ()  # what is to be known of the set, a line each
    answered: Mapping[str, str] = field(default_factory=dict)  # hashes of questions that stored texts answer, by id

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
    benchmark, path = benchmark_of(spec)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1")
    if benchmark is not EXAMPLES:
        return _published(benchmark, path, split, limit, pictures)
    if split:
        raise ValueError(f"{spec} has no splits; leave --split out")
    return _own(path or Path(), limit)


def benchmark_of(spec: str) -> tuple[Benchmark, Path | None]:
    """Which benchmark BENCHMARK, BENCHMARK:PATH or a file of examples is, and the path. Case does not matter."""
    from chainofstep.benchmarks import BENCHMARKS

    names = [*BENCHMARKS, EXAMPLES.name]
    given, colon, path = spec.partition(":")
    name = given.casefold()
    if Path(spec).suffix == ".jsonl" and not (colon and name in names):
        return EXAMPLES, Path(spec)
    name = choose(name, names, "benchmark")
    return BENCHMARKS.get(name, EXAMPLES), Path(path) if path else None


def _own(path: Path, limit: int | None) -> Items:
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; `cos problems` writes examples")
    examples = read_examples(path)
    taken = examples[:limit]
    return Items(EXAMPLES, "", taken, problems=list(of_limit(len(taken), len(examples))))


def _published(benchmark: Benchmark, where: Path | None, split: str | None, limit: int | None, pictures: bool) -> Items:
    from chainofstep.benchmarks import load

    loaded = load(benchmark, where, split, check="header" if pictures else "none", limit=limit)
    if not loaded.examples:
        first, count = loaded.rejects[0], counted(len(loaded.rejects), "item")
        raise ValueError(f"{benchmark.title}: none of {count} could be read: {first.place}: {first.reason}")
    return Items(benchmark, split or benchmark.split, loaded.examples, loaded.rejects, loaded.problems)


def question_hash(example: Example) -> str:
    """By which two questions of one id are told apart, without any prompt: SHA-256, 12 digits."""
    return hashlib.sha256(example.question.encode()).hexdigest()[:12]


def fingerprint_of(examples: Sequence[Example]) -> str:
    """A hash of what a model is asked: ids, questions, names of pictures. Gold answers may be mended later."""
    digest = hashlib.sha256()
    for example in examples:
        asked = (example.id, example.question, [Path(image).name for image in example.images])
        digest.update(json.dumps(asked).encode())
    return digest.hexdigest()
