"""Make generated problems: an Example with its picture, its gold chain, and all that the checker needs.

Train and test never share a problem: a problem belongs to the split that a hash of its question and facts says.
Handwriting is split as well (see `digits.handwriting`), and the held-out kinds are only ever made for tests.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from chainofstep.chain import Chain, Step
from chainofstep.problems.tasks import charts, digits, scenes, science
from chainofstep.problems.tasks.problem import Facts, Kind, Setup, Solution, Split
from chainofstep.records import Example

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*digits.KINDS, *charts.KINDS, *science.KINDS, *scenes.KINDS)}
FAMILIES = ("math", "chart", "science", "scene")
TRAINED = tuple(name for name, kind in KINDS.items() if not kind.held_out)
HELD_OUT = tuple(name for name, kind in KINDS.items() if kind.held_out)
TEST_SHARE = 10  # one problem in ten belongs to the test split


@dataclass(frozen=True)
class Problem:
    """One made problem: the kind, its setup and its picture. `example()` is what the rest of the project sees."""

    id: str
    kind: Kind
    setup: Setup
    picture: Image.Image

    def solution(self, facts: Facts | None = None) -> Solution:
        """The solution from these facts; from the true ones when none are given."""
        return self.setup.solve(self.setup.seen if facts is None else facts)

    def example(self, picture: str = "") -> Example:
        """The Example, its picture stored at the path `picture`."""
        setup = self.setup
        meta = {
            "seen": setup.seen,
            "groups": {group: list(subjects) for group, subjects in setup.groups.items()},
            "level": self.kind.level,
        }
        return Example(
            self.id,
            with_choices(setup.question, setup.choices),
            (picture,) if picture else (),
            self.solution().answer,
            setup.answer_kind,
            setup.choices,
            f"{self.kind.family}/{self.kind.name}",
            chain_of(self.solution()),
            meta,
        )


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question as asked, with its lettered choices."""
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEFGH", choices, strict=False))
    return f"{question} {options}" if choices else question


def step_text(sentences: Sequence[str]) -> str:
    return " ".join(f"{sentence}." for sentence in sentences)


def chain_of(solution: Solution) -> Chain:
    """A solution in words."""
    steps = tuple(Step(move.name, step_text(move.thought), step_text(move.reflection)) for move in solution.moves)
    return Chain(steps, solution.answer)


def _belongs_to(setup: Setup) -> Split:
    key = json.dumps([setup.question, setup.seen], sort_keys=True).encode()
    return "test" if hashlib.sha256(key).digest()[0] % TEST_SHARE == 0 else "train"


def make_problem(kind_name: str, split: Split, seed: int) -> Problem:
    """The problem of this kind, split and seed, always the same one."""
    kind = KINDS[kind_name]
    if kind.held_out and split == "train":
        raise ValueError(f"kind {kind_name!r} is held out: it is made for tests only; ask for split 'test'")
    digest = hashlib.sha256(f"{kind_name}/{split}/{seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    setup = kind.set_up(generator, split)
    while _belongs_to(setup) != split:
        setup = kind.set_up(generator, split)
    return Problem(f"{kind_name}-{split}-{seed}", kind, setup, kind.draw(setup.drawing, generator))


def remake(problem_id: str) -> Problem:
    """The problem with this id."""
    kind, split, seed = problem_id.rsplit("-", 2)
    return make_problem(kind, "test" if split == "test" else "train", int(seed))


def problems(split: Split, seeds: range, kinds: Sequence[str] = TRAINED) -> Iterator[Problem]:
    """Problems with these seeds, the kinds taken in turn, so that any stretch is balanced over families."""
    for seed in seeds:
        yield make_problem(kinds[seed % len(kinds)], split, seed)


def write_problems(split: Split, seeds: range, folder: Path, kinds: Sequence[str] = TRAINED) -> list[Example]:
    """Make problems, store their pictures as PNG under `folder`, and return the Examples."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for problem in problems(split, seeds, kinds):
        path = folder / f"{problem.id}.png"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            problem.picture.save(unfinished, format="PNG")
            unfinished.rename(path)
        examples.append(problem.example(str(path)))
    return examples
