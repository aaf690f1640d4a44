"""MMStar: 1,500 multiple-choice questions that need their picture, in six categories of 250."""

from random import Random

from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.letters import item, options
from chainofstep.problems.sources.source import Row, kept, pictures, text
from chainofstep.records import Example

#: What may stand before the letter in lower-case text; the forms of the official script, and no others.
_BEFORE = ("", "(", "option ", "the answer is ")
_LETTERS = "ABCD"


def read_mmstar(row: Row) -> Example:
    """The hub's layout, with the options inside the question, and VLMEvalKit's, with columns A, B, C and D.

    `choices` stay empty: options inside a question cannot be split at commas that their texts have as well.
    """
    question, choices = text(row, "question"), options(row)
    if choices and "Options:" not in question:
        listed = ", ".join(f"{letter}: {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
        question = f"{question.rstrip()}\nOptions: {listed}"
    answer = text(row, "answer").strip().upper()
    detail = "l2_category" if "l2_category" in row else "l2-category"
    if len(answer) != 1 or answer not in _LETTERS:
        raise ValueError(f"unreadable answer: {answer[:40]!r} is none of {', '.join(_LETTERS)}")
    return item(
        "mmstar",
        row,
        identity=("id", "index"),
        question=question,
        images=pictures(row),
        answer=answer,
        kind="choice",
        meta={"category": text(row, "category"), "l2_category": text(row, detail)} | kept(row, "meta_info", "bench"),
    )


def judge_mmstar(example: Example, said: str, generator: Random) -> Verdict:
    """The letter at the start of the text, or after `(`, `option ` or `the answer is `, in either case."""
    if not said:
        return Verdict("unparseable", note="nothing said")
    text = said[:100].lower().replace("\n", " ")  # no form is longer
    for before in _BEFORE:
        letter = text[len(before) : len(before) + 1].upper()
        if text.startswith(before) and letter and letter in _LETTERS:
            return right_if(letter == example.answer, letter)
    return Verdict("unparseable", note="no option's letter")


MMSTAR = Benchmark(
    name="mmstar",
    title="MMStar",
    hub="Lin-Chen/MMStar",
    split="val",
    rows={"val": 1_500},
    licence="not stated",
    read=read_mmstar,
    prompts={
        "paper": lambda example: (
            f"{example.question}\nThink step-by-step first and then answer with the option's letter from the given "
            "choices directly."
        ),
        "official": lambda example: (
            f"{example.question}\nAnswer with the option's letter from the given choices directly"
        ),
    },
    rule=judge_mmstar,
    groups=lambda example: {key: example.meta[key] for key in ("category", "l2_category") if key in example.meta},
    files=("mmstar.parquet", "{split}*.parquet", "data/{split}-*.parquet", "{split}.jsonl", "MMStar.tsv"),
    note="The official rule looks at the first letter alone: `Because ...` answers B, `Answer: C` answers A, and `The "
    "answer is (C)` answers nothing. The official script's prompt is the bare question; `official` is lmms-eval's, "
    "which asks for the letter. lmms-eval's average is the mean over the 18 sub-categories, another number.",
    columns=("question", "answer", "category", "l2_category|l2-category", "image"),
)
