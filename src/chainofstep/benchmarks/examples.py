"""The project's own examples as a benchmark: the rules of `answers`, broken down by family."""

from random import Random

from chainofstep.answers import is_right, normalize
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.evaluate import family
from chainofstep.problems.sources.source import Row
from chainofstep.records import Example, from_row


def _rule(example: Example, said: str, _: Random) -> Verdict:
    """ValueError for a gold answer that cannot be read."""
    if is_right(example, said):
        return right_if(True, said)
    readable = normalize(said, example.answer_kind, example.choices) is not None
    return right_if(False, said) if readable else Verdict("unparseable")


def _read(row: Row) -> Example:
    return from_row(Example, dict(row))


EXAMPLES = Benchmark(
    name="examples",
    title="examples",
    hub="",
    split="",
    rows={},
    licence="",
    read=_read,
    prompts={},
    rule=_rule,
    groups=lambda example: {"family": family(example)},
)
