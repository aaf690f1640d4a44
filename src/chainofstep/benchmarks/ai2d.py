"""AI2D: multiple choice about science diagrams whose labels are masked by letters.

The paper's AI2D is the set with masks; without them the labels can be read and scores are about eight points higher.
"""

import re
from dataclasses import replace
from random import Random
from string import punctuation

from chainofstep.answers import LETTERS
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.letters import gold_letter, item, lettered, options
from chainofstep.problems.sources.source import Row, pictures, required, text
from chainofstep.records import Example

_LETTER_FIRST = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", punctuation)
_DIRECTLY = "Answer with the option's letter from the given choices directly."
_STEPS = "Think step-by-step first and then answer with the option's letter from the given choices directly."


def read_ai2d(row: Row) -> Example:
    """The hub's layout (options, answer an index) and VLMEvalKit's (A, B, C, D, answer a letter)."""
    return _read("ai2d", row)


def read_ai2d_no_mask(row: Row) -> Example:
    """As `read_ai2d`."""
    return _read("ai2d-no-mask", row)


def _read(name: str, row: Row) -> Example:
    choices = required(options(row, "options"))
    return item(
        name,
        row,
        identity=("id", "index"),
        question=text(row, "question"),
        images=pictures(row),
        answer=gold_letter(row, choices),
        kind="choice",
        choices=choices,
    )


def judge_ai2d(example: Example, said: str, generator: Random) -> Verdict:
    """A capital letter and a period at the start, else the whole text, equal to the gold letter in either case and
    without ASCII punctuation."""
    if not said:
        return Verdict("unparseable", note="nothing said")
    first = _LETTER_FIRST.match(said)
    read = (first.group(1) if first else said).lower().translate(_NO_PUNCTUATION)
    if len(read) == 1 and read in LETTERS[: len(example.choices)].lower():
        return right_if(read == example.answer.lower(), read.upper())
    return Verdict("unparseable", note="no option's letter")


def _asked(example: Example) -> str:
    return f"{example.question}\n{lettered(example.choices)}"


AI2D = Benchmark(
    name="ai2d",
    title="AI2D",
    hub="lmms-lab/ai2d",
    split="test",
    rows={"test": 3_088},
    licence="not stated",
    read=read_ai2d,
    prompts={
        "paper": lambda example: f"{_asked(example)} \n{_STEPS}",
        "official": lambda example: f"{_asked(example)}\n{_DIRECTLY}",
    },
    rule=judge_ai2d,
    groups=lambda example: {},
    files=("data/{split}-*.parquet", "{split}*.parquet", "{split}.jsonl", "AI2D_TEST.tsv"),
    note="Labels are masked, as in the paper. The set has no script of its own: this is lmms-eval's rule, whose "
    "authors publish the hub's copy: `B`, `(b)`, `B.` and `B. leaf` are answers, `(B) leaf`, `option B` and the "
    "option's text are none. VLMEvalKit finds a lone letter or an option's text anywhere, else asks a model, so its "
    "score can be higher.",
    columns=("question", "options|A", "answer", "image"),
)

AI2D_NO_MASK = replace(
    AI2D,
    name="ai2d-no-mask",
    title="AI2D without masks",
    hub="lmms-lab/ai2d-no-mask",
    read=read_ai2d_no_mask,
    files=(*AI2D.files[:-1], "AI2D_TEST_NO_MASK.tsv"),
    note="Labels can be read in the pictures: not the paper's AI2D, do not compare with its Table 1. The rule is that "
    "of `ai2d`.",
)
