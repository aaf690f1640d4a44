"""What an LLM writes when it is asked for steps: the paper's skeleton (paper A2, Fig. 8), or JSON where the server
keeps a model to a schema. Both are read into a `Draft`, and nothing is mended on the way.

    ### <Step 1: Read the axis>
    <Detailed Thinking>: The bars stand over 2019 and 2020.
    <Reflection>: The labels below the axis say so.
    ### <Answer>
    2020

Read with or without the angle brackets, with bold marks, with any number of hashes; text before the first step is
passed over, for models like to announce what they are about to do.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chainofstep.chain import Chain, Step

_MARK = r"[<*\[\s]*"
_STEP = re.compile(rf"^\s*#{{1,6}}{_MARK}step\s+(\d+)\s*[:.)-]?\s*(.*)$", re.IGNORECASE)
_ANSWER = re.compile(rf"^\s*#{{1,6}}{_MARK}(?:final\s+)?answer[>*\]\s]*:?[*\s]*(.*)$", re.IGNORECASE)
_FIELD = re.compile(rf"^{_MARK}(detailed\s+thinking|reflection)[>*\]\s]*:[*\s]*(.*)$", re.IGNORECASE)

#: The JSON schema of the same content, for servers with structured output. Strict mode wants every field required.
STEPS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {field: {"type": "string"} for field in ("name", "thought", "reflection")},
                "required": ["name", "thought", "reflection"],
                "additionalProperties": False,
            },
        },
        "answer": {"type": "string"},
    },
    "required": ["steps", "answer"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Draft:
    """Steps as they were written: `numbers` as the headers count them (empty where nothing counts them), and the
    answer, None where there is no answer section."""

    steps: tuple[Step, ...]
    numbers: tuple[int, ...] = ()
    answer: str | None = None

    @property
    def chain(self) -> Chain:
        return Chain(self.steps, self.answer)


def read_skeleton(text: str) -> Draft:
    """The steps of a reply in the skeleton; `ValueError` says what is missing."""
    sections = _sections(text)
    if not sections:
        raise ValueError(f"no line `### <Step 1: ...>` in {text.strip()[:60]!r}")
    steps = [section for section in sections if section.number is not None]
    answers = [section for section in sections if section.number is None]
    if len(answers) > 1 or (answers and sections[-1] is not answers[0]):
        raise ValueError("the answer section is not the last one, or there are several")
    answer = "\n".join((answers[0].title, *answers[0].lines)).strip() if answers else None
    return Draft(tuple(map(_step, steps)), tuple(section.number or 0 for section in steps), answer)


@dataclass
class _Section:
    number: int | None  # None for the answer
    title: str
    lines: list[str]


def _sections(text: str) -> list[_Section]:
    sections: list[_Section] = []
    for line in text.splitlines():
        if step := _STEP.match(line):
            sections.append(_Section(int(step[1]), step[2].strip().rstrip(">*]").strip(), []))
        elif answer := _ANSWER.match(line):
            sections.append(_Section(None, answer[1], []))
        elif sections:
            sections[-1].lines.append(line)
    return sections


def _step(section: _Section) -> Step:
    """Name, thought and reflection of a section; a field that is not there is empty, and the filters' business."""
    fields: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in section.lines:
        if match := _FIELD.match(line):
            name = match[1].split()[0].lower()
            if name in fields:
                raise ValueError(f"step {section.number} has two fields {match[1]!r}")
            current = fields.setdefault(name, [match[2]])
        elif current is not None:
            current.append(line)
        elif line.strip():
            raise ValueError(f"step {section.number} has text before its fields: {line.strip()[:60]!r}")
    thought, reflection = ("\n".join(fields.get(name, [])).strip() for name in ("detailed", "reflection"))
    return Step(section.title, thought, reflection)


def read_structured(text: str) -> Draft:
    """The steps of a reply in JSON after `STEPS_SCHEMA`; `ValueError` says what does not fit."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}): {text.strip()[:60]!r}") from error
    entries = value.get("steps") if isinstance(value, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError(f"no list under 'steps' in {text.strip()[:60]!r}")
    steps = tuple(_structured_step(number, entry) for number, entry in enumerate(entries, start=1))
    answer = value.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"'answer' is {answer!r}, not text")
    return Draft(steps, answer=None if answer is None else answer.strip())


def _structured_step(number: int, entry: Any) -> Step:
    fields = [entry.get(name, "") for name in ("name", "thought", "reflection")] if isinstance(entry, Mapping) else []
    if not fields or not all(isinstance(field, str) for field in fields):
        raise ValueError(f"step {number} is {str(entry)[:60]!r}, not an object of three texts")
    return Step(*(field.strip() for field in fields))


def write_skeleton(chain: Chain) -> str:
    """A chain in the skeleton: what `read_skeleton` reads."""
    steps = "".join(
        f"### <Step {number}: {step.name}>\n<Detailed Thinking>: {step.thought}\n<Reflection>: {step.reflection}\n"
        for number, step in enumerate(chain.steps, start=1)
    )
    return steps if chain.answer is None else f"{steps}### <Answer>\n{chain.answer}\n"
