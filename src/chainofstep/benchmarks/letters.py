"""Items of benchmarks as Examples: the bare question, the options as texts, the gold answer as published.

The readers of training sets write the options into the question and mend gold answers; a benchmark's item stays as it
was published, for its own prompt shows the options and its own rule reads the gold answer.
"""

import ast
from collections.abc import Sequence
from typing import Any

from chainofstep.answers import LETTERS
from chainofstep.problems.sources.source import Row, letter_at, row_id, text, texts, whole_number
from chainofstep.records import AnswerKind, Example

_LONGEST_LIST = 20_000  # characters of a written list that are read


def item(
    set_name: str,
    row: Row,
    *,
    identity: Sequence[str] = ("id",),
    question: str,
    images: tuple[str, ...],
    answer: str,
    kind: AnswerKind,
    choices: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
) -> Example:
    """The Example of a benchmark's row; `identity` names the fields that may hold the row's id."""
    own_id = row_id(set_name, row, identity)
    if not question.strip():
        raise ValueError("empty question: the row asks nothing in words")
    if not answer.strip():
        raise ValueError("no gold answer: the row's is empty")
    return Example(own_id, question.strip(), images, answer.strip(), kind, choices, set_name, meta=meta or {})


def options(row: Row, *names: str) -> tuple[str, ...]:
    """The row's options: a list under one of `names`, or VLMEvalKit's columns A, B, C ...; () if it has none."""
    for name in names:
        if row.get(name) is not None:
            return texts(row, name)
    given = [letter for letter in LETTERS if row.get(letter) not in (None, "")]
    if "".join(given) != LETTERS[: len(given)]:
        raise ValueError(f"missing choices: only {', '.join(given)} are there")
    return tuple(text(row, letter) for letter in given)


def gold_letter(row: Row, choices: Sequence[str], name: str = "answer") -> str:
    """The gold option's letter, published as a letter or as an index from 0."""
    given = text(row, name).strip()
    if given and given in LETTERS:
        return letter_at(LETTERS.index(given), choices)
    return letter_at(whole_number({name: given}, name), choices)


def lettered(choices: Sequence[str], form: str = "{letter}. {choice}") -> str:
    """The options one a line.

    >>> lettered(["red", "blue"])
    'A. red\\nB. blue'
    """
    pairs = zip(LETTERS, choices, strict=False)
    return "\n".join(form.replace("{letter}", letter).replace("{choice}", choice) for letter, choice in pairs)


def written_texts(row: Row, name: str) -> tuple[str, ...]:
    """A field that is a list of texts, written in Python's way or not; () if it is empty."""
    value = row.get(name)
    if not isinstance(value, str):
        return texts(row, name)
    found = literal_list(value) if value.strip() else []
    if found is None:
        raise ValueError(f"unreadable {name}: {value[:100]!r} is no list of texts")
    return texts({name: found}, name)


def literal_list(value: str) -> list[Any] | None:
    """The list that a text writes in Python's way; None if it writes none."""
    try:
        found = ast.literal_eval(value.strip()) if len(value) <= _LONGEST_LIST else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return list(found) if isinstance(found, list | tuple) else None
