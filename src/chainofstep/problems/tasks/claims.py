"""The language of the generated problems: sentences that each make one claim, and how a claim is read.

Five forms, each sentence ended by a period:

    reading     "Row 2 reads 3, 4, 5"      "3, 4, 5 in row 2"
    fact        "The red bar is 8"         "8 for the red bar"
    equation    "3 + 4 = 7"                with + - *
    comparison  "12 is more than 9"        also "less than", "as much as"
    rule        "Rule: a square has 4 sides"

A lead-in ("So", "Again", "Then", "Here", "I see that") may stand before any of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAD_IN = re.compile(r"^(?:so|again|then|here|i see that|the picture shows that)[, ]+", re.IGNORECASE)
_EQUATION = re.compile(r"^(\d+) ([+*-]) (\d+) = (-?\d+)$")
_COMPARISON = re.compile(r"^(\d+) is (more than|less than|as much as) (\d+)$", re.IGNORECASE)
_RULE = re.compile(r"^rule: (.+)$", re.IGNORECASE)
_READS = re.compile(r"^(.+?) reads (.+)$", re.IGNORECASE)
_IN = re.compile(r"^(.+) in (.+)$", re.IGNORECASE)
_IS = re.compile(r"^(.+?) (?:is|are) (.+)$", re.IGNORECASE)
_FOR = re.compile(r"^(.+?) for (.+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Fact:
    """`subject` has `value`: something seen in the picture or worked out from it."""

    subject: str
    value: str


@dataclass(frozen=True)
class Equation:
    left: int
    operator: str
    right: int
    result: int

    @property
    def holds(self) -> bool:
        value = {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}
        return value[self.operator] == self.result


@dataclass(frozen=True)
class Comparison:
    left: int
    relation: str
    right: int

    @property
    def holds(self) -> bool:
        truth = {
            "more than": self.left > self.right,
            "less than": self.left < self.right,
            "as much as": self.left == self.right,
        }
        return truth[self.relation]


@dataclass(frozen=True)
class Rule:
    text: str


Claim = Fact | Equation | Comparison | Rule


def plain(text: str) -> str:
    """A subject or value without case, article and outer space, so that "The red bar" and "red bar" are one."""
    return re.sub(r"^(?:the|a|an) ", "", " ".join(text.lower().split()))


def _readings(group: str, values: str, groups: Mapping[str, Sequence[str]]) -> list[Claim] | None:
    subjects = groups.get(plain(group))
    parts = [plain(part) for part in values.split(",")]
    if subjects is None or len(subjects) != len(parts):
        return None
    return [Fact(subject, value) for subject, value in zip(subjects, parts, strict=True)]


def read_sentence(sentence: str, groups: Mapping[str, Sequence[str]]) -> list[Claim] | None:
    """The claims of one sentence (without its period), or None if it is outside the language.

    `groups` names the ordered subjects that a reading covers, such as the three cells of "row 2".
    """
    text = _LEAD_IN.sub("", sentence.strip())
    if match := _EQUATION.match(text):
        left, operator, right, result = match.groups()
        return [Equation(int(left), operator, int(right), int(result))]
    if match := _COMPARISON.match(text):
        return [Comparison(int(match[1]), match[2].lower(), int(match[3]))]
    if match := _RULE.match(text):
        return [Rule(plain(match[1]))]
    if match := _READS.match(text):
        return _readings(match[1], match[2], groups)
    # A subject may hold an "in" of its own ("Pens in May is 5"): only what ends in a group's name is a reading.
    if (match := _IN.match(text)) and plain(match[2]) in groups:
        return _readings(match[2], match[1], groups)
    if match := _IS.match(text):
        return [Fact(plain(match[1]), plain(match[2]))]
    if match := _FOR.match(text):
        return [Fact(plain(match[2]), plain(match[1]))]
    return None


def sentences(text: str) -> list[str]:
    """The sentences of a thought or reflection."""
    return [part.strip() for part in re.split(r"\.(?:\s+|$)", text) if part.strip()]
