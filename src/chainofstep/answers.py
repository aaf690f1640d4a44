"""Whether an answer is right: the one rule for Monte-Carlo labels, votes, outcome rewards and evaluation.

The paper does not say how answers are matched (A10), so the rule is written here. An answer is read as its kind:

- number: the one number in the text, compared by value. `1,200` is 1200 and `12.0` is 12; units, currency and
  percent signs are ignored; text with two different numbers is unreadable.
- word: compared without case, leading articles, outer quotes and final period.
- choice: the option's letter. A letter alone (`A`, `(A)`, `A.`, `option A`) comes first, then the exact text of one
  option, then a marked letter before other text (`(A) row 1`). Text that names two different options is unreadable.

A lead-in such as "The answer is" is dropped for all kinds. Unreadable text is None, and never right.
The rules of published benchmarks are other rules and live with the benchmarks.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from chainofstep.records import AnswerKind, Example

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|option|choice)\s*(?:is\b|:|=)\s*:?\s*",
    re.IGNORECASE,
)
_ARTICLES = re.compile(r"^(?:(?:a|an|the)\s+)+", re.IGNORECASE)
#: A sign counts only where no digit or letter stands before it (`3-4` is two numbers); a number that runs on into
#: further digits (`1.2.3`, `4x4`) is none.
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,2})?(?![\w.]*[0-9])"
)
#: A number with nothing beside it but its currency, percent or degree sign.
_NUMBER_ALONE = re.compile(r"[-+\u2212]?\s*[$€£¥₹]?\s*" + _NUMBER.pattern + r"\s*[%°]?")
_OPTION_WORD = r"(?:(?:option|choice)\s+)?"
_LETTER_ALONE = re.compile(_OPTION_WORD + r"(?:\(([a-z])\)|([a-z])[).:]?)", re.IGNORECASE)
_LETTER_FIRST = re.compile(_OPTION_WORD + r"(?:\(([a-z])\)|([a-z])[).:](?=\s))\s*(.+)", re.IGNORECASE | re.DOTALL)
_LETTER_INSIDE = re.compile(r"\(([a-z])\)", re.IGNORECASE)


def normalize(answer: str, kind: AnswerKind, choices: Sequence[str] = ()) -> str | None:
    """The one spelling of an answer: a plain decimal number, a lower-case word, an option letter; None if unreadable.

    `choices` are the option texts in letter order; without them every letter is an option and no text is.
    """
    if kind == "number":
        return _number(answer)
    if kind == "word":
        return _word(answer) or None
    return _choice(answer, choices)


def is_right(example: Example, answer: str | None) -> bool:
    """Whether `answer` is the gold one; None (no answer) is wrong. A gold answer that cannot be read is an error."""
    gold = normalize(example.answer, example.answer_kind, example.choices)
    if gold is None:
        raise ValueError(
            f"example {example.id}: its gold answer {example.answer!r} is no {example.answer_kind}; "
            "correct the answer or its kind"
        )
    return answer is not None and normalize(answer, example.answer_kind, example.choices) == gold


def guess_kind(answer: str, choices: Sequence[str] = ()) -> AnswerKind:
    """The kind of a gold answer that a data set gives without one.

    A number only where the whole text is one, with at most a currency, percent or degree sign: `$1,200` is a number,
    `12 years` and `1/8` are words.
    """
    if choices:
        return "choice"
    whole = _NUMBER_ALONE.fullmatch(answer.strip())
    return "number" if whole and _number(answer) is not None else "word"


def answer_key(example: Example, answer: str) -> str:
    """What votes group by: the normalized answer; unreadable text votes for itself, and for nothing readable."""
    normal = normalize(answer, example.answer_kind, example.choices)
    return normal if normal is not None else f"unreadable: {' '.join(answer.casefold().split())}"


def _bare(text: str) -> str:
    """Text without lead-in, outer quotes and emphasis, final period."""
    while True:
        shorter = _LEAD_IN.sub("", text.strip()).lstrip("*`\"'").rstrip("*`\"'.!").strip()
        if shorter == text:
            return text
        text = shorter


def _number(text: str) -> str | None:
    values = {_decimal(match.group()) for match in _NUMBER.finditer(text)}
    return values.pop() if len(values) == 1 else None


def _decimal(text: str) -> str:
    """A number without separators, exponent, sign of zero and zeros that say nothing."""
    plain = format(Decimal(text.replace(",", "").replace("\u2212", "-")), "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain == "-0" else plain


def _word(text: str) -> str:
    text = " ".join(text.casefold().split())
    while (shorter := _ARTICLES.sub("", _bare(text))) != text:
        text = shorter
    return text


def _choice(text: str, choices: Sequence[str]) -> str | None:
    """The option that the text names: by its letter or its text alone, or by a letter before text that names no other.

    What such a letter stands before is read in the same way, as often as there is one: `A. B. row 2`.
    """
    marked: list[str] = []  # each stands as long as what comes after it names it or nothing
    while True:
        text = _bare(text)
        named = _named(text, choices)
        first = None if named else _LETTER_FIRST.fullmatch(text)
        letter = _option(first, choices) if first else None
        if first is None or letter is None:
            found = named[0] if len(named) == 1 else None
            break
        if len(marked) == len(LETTERS):  # a loop, not an answer: each letter more would read all of the text again
            return None
        text = first.group(3)
        if letter in _letters_of(text, choices) or marked[-1:] == [letter]:
            found = letter
            break
        if {inside.upper() for inside in _LETTER_INSIDE.findall(text)} - {letter}:
            found = None
            break
        marked.append(letter)
    for letter in reversed(marked):
        found = letter if found in (letter, None) else None
    return found


def _named(text: str, choices: Sequence[str]) -> list[str]:
    """The letter that is all of the text, else those of the options whose text it is."""
    alone = _LETTER_ALONE.fullmatch(text)
    letter = _option(alone, choices) if alone else None
    return [letter] if letter else _letters_of(text, choices)


def _option(match: re.Match[str], choices: Sequence[str]) -> str | None:
    """The matched letter where it is one of the options."""
    letter = (match.group(1) or match.group(2)).upper()
    return letter if letter in LETTERS[: len(choices) or None] else None


def _letters_of(text: str, choices: Sequence[str]) -> list[str]:
    """The letters of the options whose text this is."""
    wanted = _word(text)
    return [letter for letter, choice in zip(LETTERS, choices, strict=False) if wanted and _word(choice) == wanted]
