"""ChartQA: questions about charts, graded with a tolerance of 5%.

The set's own repository holds no script for the rule of its paper; the one in use everywhere is pix2struct's, which
lmms-eval and VLMEvalKit follow.
"""

from random import Random

from chainofstep.answers import guess_kind
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.letters import item
from chainofstep.problems.sources.source import ROW_NUMBER, Row, pictures, text, texts
from chainofstep.records import Example

TOLERANCE = 0.05


def read_chartqa(row: Row) -> Example:
    """The layouts of the authors (imgname, query, label), two hub copies (label a list; type) and VLMEvalKit (split).

    Several gold answers stand in `meta["answers"]`.
    """
    given = "label" if "label" in row else "answer"
    answers = texts(row, given) if isinstance(row.get(given), list) else (text(row, given),)
    answer = answers[0].strip() if answers else ""
    return item(
        "chartqa",
        row,
        identity=("id", "index"),
        question=text(row, "query" if "query" in row else "question"),
        images=pictures(row, f"png/{row['imgname']}" if row.get("imgname") else ""),
        answer=answer,
        kind=guess_kind(answer),
        meta={"type": _type(row)} | ({"answers": list(answers)} if len(answers) > 1 else {}),
    )


def _type(row: Row) -> str:
    """Who asked, from the field that says so; else from the id, or the name of the file."""
    machine = row.get("human_or_machine")
    if machine in (0, 1):
        return ("human", "augmented")[int(machine)]
    for name in ("type", "split", "id", ROW_NUMBER):
        for kind in ("human", "augmented"):
            if kind in str(row.get(name)):
                return kind
    return "not said"


def judge_chartqa(example: Example, said: str, generator: Random) -> Verdict:
    """Right within 5% of a numeric gold answer, else by equal lower-case text; of several gold answers any will do."""
    if not said:
        return Verdict("unparseable", note="nothing said")
    golds = example.meta.get("answers") or [example.answer]
    return right_if(any(is_relaxed_match(gold.strip(), said) for gold in golds), said)


def is_relaxed_match(gold: str, said: str) -> bool:
    """Whether an answer is within 5% of the gold one, or the same text where either is no number.

    Zero as gold has no 5% and is compared as text. Infinities and NaN are numbers that are near nothing.
    """
    target, value = _number(gold), _number(said)
    if value is not None and target:
        return abs(value - target) / abs(target) <= TOLERANCE
    return said.lower() == gold.lower()


def _number(written: str) -> float | None:
    """What Python's `float` reads (also `1e3`, `1_000` and other scripts' digits), a percent sign divided out."""
    try:
        return float(written.rstrip("%")) / 100.0 if written.endswith("%") else float(written)
    except ValueError:
        return None


CHARTQA = Benchmark(
    name="chartqa",
    title="ChartQA",
    hub="lmms-lab/ChartQA",
    split="test",
    rows={"train": 28_299, "val": 1_920, "test": 2_500},
    licence="GPL-3.0",
    read=read_chartqa,
    prompts={
        "paper": lambda example: (
            f"{example.question} \nThink step-by-step first and then answer the question with a single number, word, "
            "or phrase."
        ),
        "official": lambda example: f"{example.question}\nAnswer the question using a single word or phrase.",
    },
    rule=judge_chartqa,
    groups=lambda example: {"type": example.meta.get("type", "not said")},
    files=("{split}/{split}_*.json", "{split}_*.json", "{split}.jsonl", "data/{split}-*.parquet", "ChartQA_*.tsv"),
    note="pix2struct's rule: 3% is 0.03, so it is right for a gold 0.03 and wrong for a gold 3; `1,200` and `$5` are "
    "no numbers; a gold 0 and bracketed lists are compared as text; a year is right within a hundred years. Digits of "
    "other scripts and `1_000` are numbers, as Python reads them; nan and inf are never right. White space around an "
    "answer is dropped. The set has no prompt of its own: `official` is lmms-eval's. The hub's copy has the test split "
    "alone.",
    columns=("question|query", "answer|label", "image|imgname"),
)
