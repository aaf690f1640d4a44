"""Rollouts as they were stored: what of a text can be read, and what of it right is.

Rows are taken as they come, for a viewer also shows what is broken: a text that is none is empty.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainofstep.answers import is_right
from chainofstep.chain import (
    ANSWER_END,
    ANSWER_LINE,
    ANSWER_START,
    JOINER,
    NAME_END,
    NAME_START,
    PROCEED,
    REASONING_END,
    REASONING_START,
    REFLECTION_END,
    REFLECTION_START,
    STEP_END,
    STEP_START,
    THOUGHT_END,
    THOUGHT_START,
    ChainError,
    Step,
    parse_prefix,
)
from chainofstep.records import Example, Scored, ScoreFailure, StepScores, from_row

PLAIN = "no steps: the text itself is the answer"
CUT = "the text ends before its answer"


@dataclass(frozen=True)
class Sampled:
    """A stored rollout: `index` is its place in the pool."""

    index: int
    text: str
    ending: str


@dataclass(frozen=True)
class Reading:
    """The steps and the answer of a text, and where it is no chain, why, and the `rest` that could not be read."""

    steps: tuple[Step, ...]
    answer: str | None
    rest: str = ""
    problem: str = ""


def pool_of(row: Mapping[str, Any]) -> list[Sampled]:
    """The rollouts of a row, in order."""
    listed = row.get("rollouts")
    return [_sampled(index, entry) for index, entry in enumerate(listed if isinstance(listed, list) else ())]


def _sampled(index: int, entry: Any) -> Sampled:
    fields = entry if isinstance(entry, dict) else {}
    text, ending = fields.get("text"), fields.get("ending")
    return Sampled(index, text if isinstance(text, str) else "", ending if isinstance(ending, str) else "")


def scores_of(row: Mapping[str, Any], count: int) -> list[Scored]:
    """The scores of a row for a pool of `count`; none where there are not as many."""
    listed = row.get("scores")
    if not isinstance(listed, list) or len(listed) != count:
        return []
    return [_scored(entry) for entry in listed]


def _scored(entry: Any) -> Scored:
    try:
        scored = from_row(ScoreFailure, entry) if "reason" in entry else from_row(StepScores, entry)
    except (ValueError, TypeError):
        return ScoreFailure("the row of its scores cannot be read")
    if isinstance(scored, StepScores) and not all(0 <= value <= 1 for value in (*scored.steps, scored.answer or 0.0)):
        return ScoreFailure("its scores are no numbers from 0 to 1")
    return scored


def example_of(row: Mapping[str, Any]) -> Example | None:
    """The row as an example; None for none, or one that cannot be read."""
    try:
        return from_row(Example, dict(row)) if row else None
    except ValueError:
        return None


def kind_of(example: Example | None) -> str:
    """What a viewer groups questions by: the last part of the source, `line_sum` of `math/line_sum`."""
    return "" if example is None else example.source.rpartition("/")[2]


def right(example: Example | None, answer: str | None) -> bool | None:
    """Whether an answer is right; None where the gold answer is not known, or cannot be read."""
    if example is None:
        return None
    try:
        return is_right(example, answer)
    except ValueError:
        return None


def read_text(text: str) -> Reading:
    """What can be read of a text. Text without any step token is an answer: a model that has learnt no steps."""
    try:
        prefix = parse_prefix(text)
    except ChainError as error:
        if REASONING_START not in text and STEP_START not in text and text.strip():
            return Reading((), text.strip(), problem=PLAIN)
        end = text.rfind(STEP_END, 0, error.position) + len(STEP_END)
        whole = end >= len(STEP_END)
        steps = parse_prefix(text[:end]).chain.steps if whole else ()
        return Reading(steps, None, text[end:] if whole else text, str(error))
    return Reading(prefix.chain.steps, prefix.chain.answer, prefix.rest, "" if prefix.finished else CUT)


def _field(start: str, end: str) -> str:
    return rf"\s*{re.escape(start)}[^<]*{re.escape(end)}"


_STEP = (
    rf"\s*{re.escape(STEP_START)}{_field(NAME_START, NAME_END)}{_field(THOUGHT_START, THOUGHT_END)}"
    rf"{_field(REFLECTION_START, REFLECTION_END)}\s*{re.escape(STEP_END)}"
)
#: Whole chains as `render` writes them, without a `<` in a field: they need not be read field by field.
_CHAIN = re.compile(
    rf"\s*{re.escape(REASONING_START)}{_STEP}(?:\s*{re.escape(PROCEED)}{_STEP})*\s*{re.escape(REASONING_END)}"
    rf"\s*(?:{ANSWER_LINE})?\s*{re.escape(ANSWER_START)}([^<]*){re.escape(ANSWER_END)}\s*"
)


def counted(text: str) -> tuple[int, str | None]:
    """(number of steps, answer) as `read_text` finds them, without reading most texts field by field."""
    found = _CHAIN.fullmatch(text)
    if found and JOINER not in text:
        return text.count(STEP_END), found[1]
    reading = read_text(text)
    return len(reading.steps), reading.answer


def row_of_step(step: Step) -> dict[str, str]:
    return {"name": step.name, "thought": step.thought, "reflection": step.reflection}


def row_of_scores(scored: Scored) -> dict[str, Any]:
    """As the page takes it: {"steps", "answer"} or {"failure"}."""
    if isinstance(scored, ScoreFailure):
        return {"failure": scored.reason}
    return {"steps": list(scored.steps), "answer": scored.answer}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
