"""What a training set is: where it is published, what it may be used for, and how one of its rows becomes an Example.

The readers of the sets are built from the few functions here; each raises `ValueError` in one line, with the kind of
trouble before the first colon, for a row that cannot be used.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainofstep.answers import LETTERS, guess_kind, normalize
from chainofstep.problems.tasks.build import with_choices
from chainofstep.records import AnswerKind, Example

Row = Mapping[str, Any]
#: Given to rows by the loader: unique in a set, for those sets whose rows have no id of their own.
ROW_NUMBER = "row_number"
#: Choices that `with_choices` has letters for; no published set has more.
MOST_CHOICES = 8

#: A picture's place in the text: a line of its own goes as a whole.
_PLACEHOLDER = re.compile(r"(?:^|\n)[ \t]*<image\s*\d*>[ \t]*(?=\n|$)|[ \t]*<image\s*\d*>", re.IGNORECASE)
_MARK = re.compile(r"^[ \t]*\(?([A-Z])[.):：][ \t]*", re.MULTILINE)
_HEADING = re.compile(r"(?:^|\s)(?:choices?|options?):?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A published training set (paper A2)."""

    name: str  # "chartqa": before the slash in its examples' ids
    title: str  # "ChartQA"
    kind: str  # mathematics | chart & document | science | world knowledge
    hub: str  # hub id; "" if none
    splits: tuple[str, ...]
    train_split: str  # the one to train on
    licence: str  # as the set's card says; "not stated" where it says nothing
    overlaps: tuple[str, ...]  # of the six evaluation sets: those with items of this set
    evaluation_splits: tuple[str, ...]  # never to be trained on
    read: Callable[[Row], Example]  # a row of the published layout; pictures as paths in the set's folder
    hub_config: str = ""
    # Patterns of the published files in the set's folder; the first that finds any is used.
    files: tuple[str, ...] = ("{split}.jsonl", "{split}.json", "data/{split}-*.parquet", "{split}*.parquet")
    note: str = ""  # where the layout was found, what is left out


def text(row: Row, name: str, default: str | None = None) -> str:
    """A field as text; numbers are written out. Without a `default` the field must be there."""
    value = row.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise ValueError(f"missing field: {name}, found only {', '.join(map(str, row))}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"wrong type: field {name} is {type(value).__name__}, not text")
    return str(value)


def texts(row: Row, name: str) -> tuple[str, ...]:
    """A field as a list of texts; a missing or empty one is ()."""
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"wrong type: field {name} is {type(value).__name__}, not a list")
    return tuple(text({name: one}, name) for one in value)


def whole_number(row: Row, name: str) -> int:
    """A field as a whole number, also where the set writes it as text."""
    written = text(row, name)
    if not re.fullmatch(r"-?[0-9]{1,18}", written):
        raise ValueError(f"wrong type: field {name} is {written[:40]!r}, not a whole number")
    return int(written)


def kept(row: Row, *names: str) -> dict[str, Any]:
    """The fields that go to `meta` under their own names, where they hold something."""
    return {name: row[name] for name in names if row.get(name) not in (None, "", [], {})}


def pictures(row: Row, published: str = "") -> tuple[str, ...]:
    """The row's pictures: its `image` (a path, or several), else the path where the published folder has it."""
    value = row.get("image") or published
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if found is None or not all(isinstance(path, str) for path in found):
        raise ValueError(f"wrong type: field image is {type(value).__name__}, not a path")
    if not all(found):
        raise ValueError("no picture: the row has none")
    return found


def letter_at(index: int, choices: Sequence[str]) -> str:
    """The letter of a choice given by its index from 0."""
    if not 0 <= index < min(len(choices), len(LETTERS)):
        raise ValueError(f"unreadable answer: choice number {index} of {len(choices)}")
    return LETTERS[index]


def split_choices(question: str) -> tuple[str, tuple[str, ...]]:
    """A question that lists its choices, one a line, as the question alone and the choices; () if none are listed.

    >>> split_choices("Which one?\\nA. red\\nB. blue")
    ('Which one?', ('red', 'blue'))
    """
    marks = list(_MARK.finditer(question))
    for start in reversed([number for number, mark in enumerate(marks) if mark.group(1) == "A"]):
        run = [marks[start]]
        for mark in marks[start + 1 :]:
            if mark.group(1) == LETTERS[len(run) : len(run) + 1]:
                run.append(mark)
        if len(run) > 1:
            ends = [mark.start() for mark in run[1:]] + [len(question)]
            choices = tuple(question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))
            return _HEADING.sub("", question[: run[0].start()]).strip(), choices
    return question.strip(), ()


def required(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The choices, of which there must be some."""
    if not choices:
        raise ValueError("missing choices: the row has none")
    return choices


def row_id(set_name: str, row: Row, identity: Sequence[str]) -> str:
    """The id of a row's Example; `identity` names the fields that may hold it."""
    names = [str(row[name]) for name in (*identity, ROW_NUMBER) if row.get(name) not in (None, "")]
    if not names:
        raise ValueError(f"missing field: {' or '.join(identity) or ROW_NUMBER}, the row has no id")
    return f"{set_name}/{names[0]}"


def example(
    set_name: str,
    row: Row,
    *,
    identity: Sequence[str] = ("id",),
    question: str,
    images: tuple[str, ...],
    answer: str,
    choices: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
) -> Example:
    """The Example of a row, its gold answer checked; `identity` names the fields that may hold the row's id."""
    own_id = row_id(set_name, row, identity)
    question = _PLACEHOLDER.sub("", question).strip()
    if not question:
        raise ValueError("empty question: the row asks nothing in words")
    if len(choices) > MOST_CHOICES:
        raise ValueError(f"too many choices: {len(choices)}, at most {MOST_CHOICES}")
    kind = guess_kind(answer, choices)
    return Example(
        own_id,
        with_choices(question, choices),
        images,
        _gold(answer.strip(), kind, choices),
        kind,
        choices,
        set_name,
        meta=meta or {},
    )


def _gold(answer: str, kind: AnswerKind, choices: Sequence[str]) -> str:
    if not answer:
        raise ValueError("no gold answer: the row's is empty")
    if kind == "choice" and answer in choices and answer not in LETTERS[: len(choices)]:
        return LETTERS[choices.index(answer)]
    normal = normalize(answer, kind, choices)
    if normal is None:
        raise ValueError(
            f"unreadable answer: {answer[:100]!r} is no {kind}" + (f" of {len(choices)}" if choices else "")
        )
    return normal if kind == "choice" else answer
