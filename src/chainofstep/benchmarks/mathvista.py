"""MathVista (lupantech/MathVista): mathematics in pictures; options, whole numbers, decimals, lists.

The official score has two parts. An extraction takes a reply as it is where that is an option, a whole number or a
decimal, reads `The answer is "..."`, and else asks a language model (`mathvista_extract`). The normalisation brings
what was extracted to the spelling of the gold answer, which is an option's text. Without a language model the rule here
normalises the whole reply in its place: of a chain what stands between the answer tokens, of other text all of it.
"""

import re
from collections.abc import Mapping
from math import isfinite
from random import Random
from typing import Any

from chainofstep.answers import LETTERS, normalize
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.extraction import Extraction
from chainofstep.benchmarks.letters import lettered, literal_list, written_texts
from chainofstep.benchmarks.mathvista_extract import EXTRACTION_PROMPT, answer_in, extraction_prompt
from chainofstep.problems.sources.source import Row, kept, pictures, required, text, texts
from chainofstep.records import AnswerKind, Example

#: The official breakdowns: two of the question, seven of its `metadata`.
_OF_QUESTION = ("question_type", "answer_type")
_OF_METADATA = ("language", "source", "category", "task", "context", "grade", "skills")
_QUESTION_TYPES = ("multi_choice", "free_form")
_ANSWER_TYPES: dict[str, AnswerKind] = {"text": "choice", "integer": "number", "float": "number", "list": "word"}

#: How an item of each kind is to be answered, in the words of the published `query`.
_HINTS = {
    "text": "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value, "
    "e.g., 1, 2, 3, at the end.",
    "float 1": "Please answer the question requiring a floating-point number with one decimal place and provide the "
    "final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float 2": "Please answer the question requiring a floating-point number with two decimal places and provide the "
    "final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final list, "
    "e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}
_APPENDED = "Think step-by-step first and then answer the question with a single number or an option letter."

_MARKED_LETTER = re.compile(r"\(([a-zA-Z])\)")
#: The published query, which VLMEvalKit has in the place of the question.
_QUERY = re.compile(
    r"Hint: .*?\nQuestion: (?P<question>.*?)(?: \(Unit: (?P<unit>[^()]*)\))?(?:\nChoices:\n.*)?", re.DOTALL
)
_PLACES = {"one decimal place": 1, "two decimal places": 2}
_QUICK_START, _QUICK_END = 'The answer is "', '".'
#: How much longer than every option a reply may be that is still taken to name one: `Answer: B.`, `B) red`.
_MARKS_OF_A_NAME = 40


def read_mathvista(row: Row) -> Example:
    """A row of the hub's set, of the published testmini.json or of VLMEvalKit's file; the gold answer is an option's
    text, not its letter."""
    row = row if "pid" in row else _from_vlmevalkit(row)
    choices, answer_type = texts(row, "choices"), text(row, "answer_type")
    question_type, answer = text(row, "question_type"), text(row, "answer", "")
    if empty := next((name for name in ("pid", "question") if not text(row, name).strip()), None):
        raise ValueError(f"empty field: {empty}")
    if question_type not in _QUESTION_TYPES:
        raise ValueError(f"unknown question_type: {question_type[:40]!r}, not one of {', '.join(_QUESTION_TYPES)}")
    if answer_type not in _ANSWER_TYPES:
        raise ValueError(f"unknown answer_type: {answer_type[:40]!r}, not one of {', '.join(_ANSWER_TYPES)}")
    if not answer:
        raise ValueError("no gold answer: the row's is empty, those of the test split are not published")
    if question_type == "multi_choice" and answer not in required(choices):
        raise ValueError(
            f"gold answer is no option: {answer[:40]!r} is none of the choices, so no reply could be right"
        )
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"wrong type: field metadata is {type(metadata).__name__}, not an object")
    return Example(
        f"mathvista/{text(row, 'pid')}",
        text(row, "question"),
        pictures(row),
        answer,
        _ANSWER_TYPES[answer_type],
        choices,
        "mathvista",
        meta=kept(row, *_OF_QUESTION, "unit", "query")
        | ({"precision": _precision(row)} if answer_type == "float" else {})
        | kept(metadata, *_OF_METADATA),
    )


def _from_vlmevalkit(row: Row) -> Row:
    """VLMEvalKit's row in the hub's layout: it has the query as question, lists as text, no `metadata`, no `pid`."""
    filled = {name: value for name, value in row.items() if value not in (None, "")}
    query = text(row, "question").strip()
    asked = _QUERY.fullmatch(query)
    named = {name: value for name, value in asked.groupdict().items() if value} | {"query": query} if asked else {}
    skills = row.get("skills")
    lists = {"choices": written_texts(row, "choices")}
    lists |= {"skills": tuple(literal_list(skills) or [skills])} if isinstance(skills, str) and skills else {}
    places = (places for words, places in _PLACES.items() if words in query)
    precision = _number(row.get("precision")) or next(places, None)
    whole = filled | named | lists | {"pid": text(row, "index"), "precision": precision}
    return whole | {"metadata": {name: whole.get(name) for name in _OF_METADATA}}


def _number(cell: Any) -> float | None:
    """A table's cell as a number."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _precision(row: Row) -> int:
    """Decimal places of a float, which the hub has as 1.0 or 2.0."""
    value = row.get("precision")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"wrong type: field precision is {value!r}, not a number of decimal places")
    return int(value)


def official_prompt(example: Example) -> str:
    """The published query: hint, question with its unit, choices."""
    if "query" in example.meta:
        return str(example.meta["query"])
    kind = example.meta["answer_type"]
    if kind == "float":
        kind = "float 1" if example.meta["precision"] == 1 else "float 2"
    return f"Hint: {_HINTS[kind]}\nQuestion: {_question(example)}"


def paper_prompt(example: Example) -> str:
    """Question, unit and choices as in the published query, then the paper's sentence (B2) in place of the hint."""
    return f"{_question(example)}\n{_APPENDED}"


def _question(example: Example) -> str:
    unit = f" (Unit: {example.meta['unit']})" if example.meta.get("unit") else ""
    choices = ["Choices:", lettered(example.choices, "({letter}) {choice}")] if example.choices else []
    return "\n".join([example.question + unit, *choices])


def quick_extraction(example: Example, reply: str) -> str | None:
    """What the official extraction takes from a reply without a language model; None where it asks one."""
    kind = example.meta["answer_type"]
    if reply == "" or (_has_options(example) and reply in example.choices):
        return reply
    try:
        if kind == "integer":
            return str(int(reply))
        if kind == "float":
            return str(float(reply))
    except ValueError:
        pass
    return _quoted(reply)


def _quoted(reply: str) -> str | None:
    """The text in `The answer is "text".`, to the last such end of its line, as a greedy `.*` takes it."""
    for line in reply.split("\n"):
        start = line.find(_QUICK_START)
        end = line.rfind(_QUICK_END, start + len(_QUICK_START)) if start >= 0 else -1
        if end >= 0:
            return line[start + len(_QUICK_START) : end]
    return None


def rule(example: Example, reply: str, guesses: Random) -> Verdict:
    """Extraction by rules, normalisation, equality with the gold answer."""
    quick = quick_extraction(example, reply)
    extracted = reply if quick is None else quick
    if _has_options(example):
        return _option(example, extracted.strip())
    answer = _normal(example, extracted)
    if answer is None or not extracted:
        return Verdict("unparseable", note=f"no {example.meta['answer_type']}" if extracted else "")
    return right_if(answer == example.answer, answer)


def _has_options(example: Example) -> bool:
    return bool(example.meta["question_type"] == "multi_choice")


def _normal(example: Example, extracted: str) -> str | None:
    """A number or list in the spelling of gold answers: `3.9` as an integer is 3, cut and not rounded."""
    kind = example.meta["answer_type"]
    try:
        if kind == "integer":
            return str(int(float(extracted)))
        if kind == "float":
            return str(round(float(extracted), example.meta["precision"]))
    except (ValueError, OverflowError):
        return None
    return extracted


def _option(example: Example, extracted: str) -> Verdict:
    """The option of a letter, `(B)` before all others; else the one nearest in spelling, whatever the text says."""
    marked = _MARKED_LETTER.search(extracted)
    letter = marked[1].upper() if marked else extracted
    letters = LETTERS[: len(example.choices)]
    if len(letter) == 1 and letter in letters:
        choice = example.choices[letters.index(letter)]
        return right_if(choice == example.answer, choice)
    choice = nearest(letter, example.choices)
    credit = choice == example.answer
    if _names(extracted, choice, example.choices):
        return right_if(credit, choice, "nearest option")
    return Verdict("unparseable", choice, credit, "nearest option")


def nearest(extracted: str, choices: tuple[str, ...]) -> str:
    """The choice at the smallest Levenshtein distance, the first of several."""
    from rapidfuzz.distance import Levenshtein

    return min(choices, key=lambda choice: Levenshtein.distance(extracted, choice))


def _names(extracted: str, choice: str, choices: tuple[str, ...]) -> bool:
    """Whether a plain reading of the text (`answers.normalize`) comes to that choice: `B.` may, garbage not."""
    if not extracted or len(extracted) > max(map(len, choices)) + _MARKS_OF_A_NAME:
        return False
    letter = normalize(extracted, "choice", choices)
    return extracted == choice or (letter is not None and choices[LETTERS.index(letter)] == choice)


def groups(example: Example) -> Mapping[str, str | tuple[str, ...]]:
    """The nine official breakdowns; an item counts for each of its skills."""
    found: dict[str, Any] = {name: example.meta[name] for name in _OF_QUESTION + _OF_METADATA if name in example.meta}
    return {name: tuple(value) if isinstance(value, list | tuple) else str(value) for name, value in found.items()}


MATHVISTA = Benchmark(
    name="mathvista",
    title="MathVista",
    hub="AI4Math/MathVista",
    split="testmini",
    rows={"testmini": 1000, "test": 5141},
    licence="CC BY-SA 4.0",
    read=read_mathvista,
    prompts={"paper": paper_prompt, "official": official_prompt},
    rule=rule,
    groups=groups,
    # Not {split}*.parquet: `test` would find `testmini` too.
    files=("{split}.jsonl", "{split}.json", "data/{split}-*.parquet", "{split}-*.parquet", "MathVista_MINI.tsv"),
    note="Where the official script asks a language model for the answer in a reply, the rule takes the whole reply, "
    "of a chain its answer: a number within a sentence is unparseable, and of options the one nearest in spelling is "
    "taken, as officially. Such an item is unparseable unless the reply names that option; the official score credits "
    "it where it happens to be right, also for an empty reply.",
    columns=("pid|index", "question", "choices", "answer", "question_type", "answer_type"),
    extraction=Extraction(
        EXTRACTION_PROMPT,
        quick_extraction,
        extraction_prompt,
        answer_in,
        note="A language model read the replies that the quick rules cannot, as officially, but asked in this "
        "project's own words: name the model beside the score. What it says is brought to the gold answer's spelling, "
        "of options to the nearest.",
    ),
)
