"""What a format is, and what all formats share: fields with their errors, picture marks, labels, plain steps.

A format's own two functions speak its standard form alone. `build` wraps them: whatever else a row holds is kept in
`example.meta[FORMAT]` (other fields, fields that it spells otherwise, which keys stood where), and is written again
as long as the row still says the same.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from chainofstep import answers
from chainofstep.chain import (
    ANSWER_END,
    ANSWER_START,
    STEP_END,
    Chain,
    ChainError,
    Prefix,
    Step,
    parse_prefix,
    unescape,
)
from chainofstep.records import AnswerKind, Example, StepRow, StepScores

Row = dict[str, Any]
Held = Literal["chain", "labels", "pair"]


@dataclass(frozen=True)
class Format:
    """A way to write step data as JSON rows.

    `read(row, id)` gives a `StepRow`, with `id` where the row has none of its own; its `ValueError` says which field
    is wrong and what was found. `write(row)` raises `ValueError` naming what the row lacks for this format.
    """

    name: str
    title: str
    holds: frozenset[Held]
    read: Callable[[Row, str], StepRow]
    write: Callable[[StepRow], Row]
    fits: Callable[[Row], bool]  # whether a row can only be of this format, by its keys and the look of its values
    several: bool = False  # an id names a question, which may have several texts or pairs

    def __reduce__(self) -> tuple[Callable[[str], "Format"], tuple[str]]:
        return _named, (self.name,)  # workers are sent the name: a format's functions cannot be pickled


def _named(name: str) -> Format:
    from chainofstep.problems.formats import FORMATS

    return FORMATS[name]


def build(
    name: str,
    title: str,
    holds: Iterable[Held],
    read: Callable[[Row, str], StepRow],
    write: Callable[[StepRow], Row],
    fits: Callable[[Row], bool],
    several: bool = False,
) -> Format:
    """A format that gives back the rows it read, made of two functions that know its standard form only."""

    def read_faithfully(row: Row, row_id: str) -> StepRow:
        step_row = read(row, row_id)
        example, other = step_row.example, _differences(row, write(step_row))
        if not other:
            return step_row
        meta = example.meta | {name: kept(example, name) | other}
        return replace(step_row, example=replace(example, meta=meta))

    def write_faithfully(step_row: StepRow) -> Row:
        row, other = write(step_row), kept(step_row.example, name)
        if "keys" not in other:
            return row
        as_read = row | other["spelled"] | other["extra"]
        again = {key: as_read[key] for key in other["keys"] if key in as_read}
        if (not other["spelled"] and row.keys() - again.keys() <= {"id"}) or _says(read, again, step_row):
            return again
        return row | {key: value for key, value in other["extra"].items() if key not in row}

    return Format(name, title, frozenset(holds), read_faithfully, write_faithfully, fits, several)


def json_line(row: Row) -> str:
    """A row as one line, characters as they are; `ValueError` for NaN and infinities."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _differences(row: Row, standard: Row) -> Row:
    """What a row has that its standard form has not: its keys, other fields, and fields that are spelled otherwise."""
    extra = {key: value for key, value in row.items() if key not in standard}
    spelled = {key: row[key] for key, value in standard.items() if key in row and not _same(row[key], value)}
    if not spelled and list(row) == list(standard):
        return {}
    return {"keys": list(row), "extra": extra, "spelled": spelled}


def _same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON text: 1 is not 1.0, and the order of keys counts."""
    if isinstance(left, str):
        return bool(left == right)
    return left == right and json.dumps(left) == json.dumps(right)


def _says(read: Callable[[Row, str], StepRow], row: Row, wanted: StepRow) -> bool:
    try:
        found = read(row, wanted.example.id)
    except ValueError:
        return False
    return _content(found) == _content(wanted)


def _content(row: StepRow) -> tuple[Any, ...]:
    example = row.example
    return example.id, example.question, example.images, example.answer, row.text, row.labels, row.rejected


def kept(example: Example, name: str) -> Row:
    """What a format kept of the row that an example was read from."""
    found = example.meta.get(name)
    return found if isinstance(found, dict) else {}


# Fields


def shown(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def wrong(key: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"wrong field: {key}: expected {expected}, found {shown(found)}")


def field(row: Row, key: str) -> Any:
    if key not in row:
        raise ValueError(f"missing field: {key}; the row has {', '.join(list(row)[:12]) or 'none'}")
    return row[key]


def text_field(row: Row, key: str) -> str:
    value = field(row, key)
    if not isinstance(value, str):
        raise wrong(key, "text", value)
    return value


def list_field(row: Row, key: str) -> list[Any]:
    value = field(row, key)
    if not isinstance(value, list):
        raise wrong(key, "a list", value)
    return value


def objects_field(row: Row, key: str) -> list[Row]:
    values = list_field(row, key)
    for place, value in enumerate(values):
        if not isinstance(value, dict):
            raise wrong(f"{key}[{place}]", "an object", value)
    return values


def texts_field(row: Row, key: str) -> list[str]:
    values = list_field(row, key)
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise wrong(f"{key}[{place}]", "text", value)
    return values


def id_field(row: Row, key: str, otherwise: str) -> str:
    """The row's id as text; `otherwise` where it has none."""
    if key not in row:
        return otherwise
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong(key, "text or a whole number", value)
    return str(value)


def images_field(row: Row, key: str = "image") -> tuple[str, ...]:
    """Pictures as one path or a list of paths; absent, null, "" or [] for a question without pictures."""
    value = row.get(key)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise wrong(key, "a path or a list of paths", value)
    return tuple(value)


def image_entry(images: Sequence[str], key: str = "image") -> Row:
    """The entry that `images_field` reads: one path, several as a list, none without the key."""
    if not images:
        return {}
    return {key: images[0] if len(images) == 1 else list(images)}


def number_field(value: Any, key: str) -> float:
    """A label or score in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise wrong(key, "a number in [0, 1]", value)
    return float(value)


# Picture marks

MARK = "<image>"


def unmarked(question: str, images: Sequence[str], mark: str) -> str:
    """A question without the picture marks that lead it, if there is one for each picture.

    Marks at other places stay where they are: the question then says itself where its pictures belong.
    """
    lead = mark * len(images)
    return question[len(lead) :] if question.startswith(lead) and question.count(MARK) == len(images) else question


def marked(question: str, images: Sequence[str], mark: str) -> str:
    """A question with one mark for each picture, in front unless it has them already."""
    return question if question.count(MARK) == len(images) else mark * len(images) + question


# Examples, texts and labels


def answer_in(text: str | None) -> str:
    """The text between the last answer tags; "" if there is none."""
    _, start, after = (text or "").rpartition(ANSWER_START)
    inside, end, _rest = after.partition(ANSWER_END)
    return unescape(inside) if start and end else ""


def example_of(
    example_id: str, question: str, images: tuple[str, ...], answer: str, meta: Row | None = None, source: str = ""
) -> Example:
    return Example(example_id, question, images, answer, kind_of(answer), source=source, meta=meta or {})


def kind_of(answer: str) -> AnswerKind:
    return answers.guess_kind(answer, ())


def text_of(row: StepRow) -> str:
    if row.text is None:
        raise ValueError("no text: the row is a question alone")
    return row.text


def chain_of(row: StepRow) -> Chain:
    """The row's chain, which may be a prefix: the steps of a text that ends after a step."""
    read = _read_chain(text_of(row))
    if not read.finished and read.rest.strip():
        raise ValueError(f"no chain: the text stops inside step {len(read.chain.steps) + 1}")
    return read.chain


def _read_chain(text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ChainError as error:
        raise ValueError(f"no chain: {error}") from error


def labels_of(row: StepRow) -> StepScores:
    if row.labels is None or not row.labels.steps:
        raise ValueError("no step labels: score the chains first, or choose a format without labels")
    return row.labels


def labelled(row: StepRow) -> tuple[Chain, StepScores]:
    """The chain as far as its verdicts go, with a label for each step.

    Labels may end before the chain does (nobody judged what comes after the first wrong step); an answer is kept
    where all steps before it have a label.
    """
    chain, labels = chain_of(row), labels_of(row)
    steps = len(labels.steps)
    if steps > len(chain.steps):
        raise ValueError(f"labels do not fit: {steps} for {len(chain.steps)} steps")
    if steps < len(chain.steps):
        return chain.prefix(steps), StepScores(labels.steps)
    return chain, labels if chain.answer is not None else StepScores(labels.steps)


def cut_after(text: str, steps: int) -> str:
    """A chain's text up to the end of its step number `steps`, from 1."""
    ends = [match.end() for match in re.finditer(re.escape(STEP_END), text)]
    return text[: ends[steps - 1]] + "\n"


def hard(labels: StepScores, values: Sequence[float] = (0.0, 1.0)) -> StepScores:
    """The labels, if all of them are among `values`; `ValueError` names the first that is not."""
    places = [*(f"step {number}" for number in range(1, len(labels.steps) + 1)), "the answer"]
    known = labels.steps if labels.answer is None else (*labels.steps, labels.answer)
    for place, label in zip(places, known, strict=False):
        if label not in values:
            raise ValueError(f"soft labels: {label:g} at {place}, give a threshold")
    return labels


def harden(row: StepRow, threshold: float) -> StepRow:
    """The row with hard labels: 1 where more than `threshold` came right (0: any, as Math-Shepherd and VisualPRM)."""
    if row.labels is None:
        return row
    steps = tuple(float(label > threshold) for label in row.labels.steps)
    answer = None if row.labels.answer is None else float(row.labels.answer > threshold)
    return replace(row, labels=StepScores(steps, answer))


# Steps of plain text

_ANSWER_HEADING = re.compile(r"# Answer\s*\n(.*)\Z", re.DOTALL)
_ANSWER_LINE = re.compile(r"(?:final\s+)?answer\W*?:\**\s*(\S.*)\s*\Z", re.IGNORECASE)
_BOXED = "\\boxed{"


def plain_chain(steps: Sequence[str]) -> Chain:
    """Steps of plain text as a chain: the text is the thought. The answer is what the last step gives as one."""
    return Chain(tuple(Step("", step, "") for step in steps), plain_answer(steps[-1]) if steps else None)


def plain_answer(step: str) -> str | None:
    """The answer that a last step ends on: under `# Answer` (PRM800K), after `Final answer:` or inside \\boxed{}."""
    heading = _ANSWER_HEADING.search(step)
    line = _ANSWER_LINE.search(step.rstrip().rpartition("\n")[2])
    found = heading.group(1).strip() if heading else line.group(1).strip() if line else ""
    return _boxed(found or step) or found or None


def _boxed(text: str) -> str:
    """What stands in the last \\boxed{}, braces inside it matched."""
    start, depth = text.rfind(_BOXED), 1
    if start < 0:
        return ""
    start += len(_BOXED)
    for place, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[start:place].strip()
    return ""


def plain_steps(chain: Chain, lead: str) -> list[str]:
    """A chain's steps as plain text: each step's fields on lines of their own, the answer after `lead` in the last.

    Empty fields are left out, and so is an answer that the last step gives already.
    """
    steps = ["\n".join(part for part in (s.name, s.thought, s.reflection) if part) for s in chain.steps]
    if chain.answer is None or (steps and plain_answer(steps[-1]) == chain.answer):
        return steps
    if not steps:
        raise ValueError("no steps: an answer alone has no place among plain steps")
    return [*steps[:-1], f"{steps[-1]}\n\n{lead}{chain.answer}"]
