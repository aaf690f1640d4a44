"""`cos eval`: its rollouts against the engine's own on the same requests, and the speed of scoring predictions."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.common import Goal, Row, cost_row, seconds_of, take_in_turn
from benchmarks.models import Bench, trained_policy
from chainofstep.benchmarks import BENCHMARKS, Benchmark
from chainofstep.benchmarks.predictions import Prediction, match, read_predictions
from chainofstep.benchmarks.scores import Run
from chainofstep.chain import Chain, Step, render
from chainofstep.models.engine import Engine
from chainofstep.pipeline import workers
from chainofstep.records import Example, to_row
from chainofstep.search import SearchConfig, sample_pools
from chainofstep.verbs import evaluate
from chainofstep.verbs.files import write_lines
from chainofstep.verbs.grading import Answered, write_results
from chainofstep.verbs.items import Items

SECONDS = 20.0  # for so many stored predictions, on two cores
OPTIONS = ["the red bar", "the blue bar", "the green bar", "none of these"]
#: A row of each benchmark as it is published; what a row lacks of these fields, another benchmark's has.
PUBLISHED: dict[str, Any] = {
    **{"image": "a.png", "image_1": "a.png", "question": "Which bar is the longest of all those in the picture?"},
    **{"choices": OPTIONS, "options": OPTIONS, "type": "human", "domain": "science", "topic": "natural-science"},
    **{"category": "math", "l2_category": "geometry", "question_type": "multi_choice", "answer_type": "text"},
    **{"metadata": {"skills": ["statistical reasoning"], "task": "figure question answering"}},
    **{"subfield": "Painting", "topic_difficulty": "Easy", "precision": None, "unit": None},
}
OWN: dict[str, dict[str, Any]] = {
    "mathvista": {"answer": OPTIONS[1]},
    "mmmu": {"answer": "B", "options": repr(OPTIONS), "question_type": "multiple-choice"},
    "ai2d": {"answer": "1"},
    "ai2d-no-mask": {"answer": "1"},
    "chartqa": {"answer": "12.5", "choices": None, "options": None},
    "mmstar": {"answer": "B", "question": PUBLISHED["question"] + "\nOptions: A: red, B: blue, C: green, D: none"},
}


@dataclass(frozen=True)
class Sizes:
    questions: int = 512
    samples: int = 16
    max_tokens: int = 320
    predictions: int = 100_000


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """The rate of greedy and pooled rollouts, and the seconds that predictions of each benchmark take."""
    policy = str(bench.policy_folder or trained_policy())
    file = write_lines(bench.pictures / "eval.jsonl", map(to_row, bench.examples(sizes.questions)))
    examples = bench.examples(sizes.questions)
    rows = [
        _rate(name, bench, policy, file, examples, config)
        for name, config in {
            "greedy": SearchConfig(1, temperature=0.0, top_p=1.0, max_tokens=sizes.max_tokens),
            "self_consistency": SearchConfig(sizes.samples, max_tokens=sizes.max_tokens),
        }.items()
    ]
    return rows + [_scoring(bench, benchmark, sizes.predictions) for benchmark in BENCHMARKS.values()]


def _rate(method: str, bench: Bench, policy: str, file: Path, examples: list[Example], config: SearchConfig) -> Row:
    """Seconds of `cos eval` over those of one call of the engine for the same samples."""
    out = bench.pictures / f"eval-{method}"

    def plain(_: int) -> Any:
        return sample_pools(examples, Engine(workers.model(policy)), config)  # a new one has no prompts encoded

    def evaluated(_: int) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        return evaluate(str(file), policy, out, [method], [config.n], SearchConfig(max_tokens=config.max_tokens))

    plain(-1)
    runs = take_in_turn({"engine": plain, "cos eval": evaluated}, bench.repeats)
    ours, against = (seconds_of(runs[name]) for name in ("cos eval", "engine"))
    what = f"cos eval {method}: {len(examples)} questions x {config.n}, over the engine alone"
    return cost_row(what, ours, against, Goal(1.1, at_most=True))


def _scoring(bench: Bench, benchmark: Benchmark, count: int) -> Row:
    """Seconds for reading, matching, judging and writing so many predictions, against the goal."""
    items = Items(benchmark, benchmark.split, [_item(benchmark, number) for number in range(count)])
    path, generator = bench.pictures / f"{benchmark.name}.jsonl", Random(0)
    texts = [_text(example, generator) for example in items.examples]
    write_lines(path, ({"id": e.id, "text": text} for e, text in zip(items.examples, texts, strict=True)))

    def scored(_: int) -> Any:
        matched = match(items.examples, [one for one in read_predictions(path) if isinstance(one, Prediction)])
        answered = {Run("predictions"): Answered(list(matched.texts), None)}
        return write_results(bench.pictures / f"{benchmark.name}.graded", items, answered, 0, {})

    seconds = seconds_of(take_in_turn({benchmark.name: scored}, bench.repeats)[benchmark.name])
    what = f"scoring {count:,} predictions of {benchmark.title}"
    return cost_row(what, seconds, [SECONDS] * len(seconds), Goal(1.0))


def _item(benchmark: Benchmark, number: int) -> Example:
    name = f"validation_Art_{number}"
    row = PUBLISHED | {"id": name, "pid": name, "index": name, "answer": "B"} | OWN.get(benchmark.name, {})
    return benchmark.read(row)


def _text(example: Example, generator: Random) -> str:
    """A chain, a sentence, a bare answer or nothing useful."""
    answer = generator.choice(["A", "B", "(B)", "12", "12.4%", OPTIONS[1]])
    thought = "The blue bar reaches 12.5 and no other one reaches so far. " * 3
    chain = render(Chain(tuple(Step("Look", thought, "So it stands in the picture.") for _ in range(3)), answer))
    return generator.choice([chain, f"The answer is {answer}.", answer, "I cannot tell which of the bars it may be."])
