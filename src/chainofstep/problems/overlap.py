"""Remove from training data what is in evaluation sets: the same picture, the same question, or both.

Pictures are the same if their bytes are, or if their perceptual hashes differ in few bits: re-encoded and scaled
copies are found. Questions are the same if they are so without case, punctuation, placeholders and listed choices.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from chainofstep.problems.pictures import SAME_PICTURE, perceptual_hash
from chainofstep.records import Example
from chainofstep.store import file_hash

Matched = Literal["picture and question", "picture", "question"]
Rule = Literal["both", "picture", "question", "either"]
#: What matched, for which a rule removes an example.
RULES: dict[Rule, tuple[Matched, ...]] = {
    "both": ("picture and question",),
    "picture": ("picture and question", "picture"),
    "question": ("picture and question", "question"),
    "either": ("picture and question", "picture", "question"),
}
SHOWN = 5  # examples of each kind of match that a report keeps

_PLACEHOLDER = re.compile(r"<image\s*\d*>", re.IGNORECASE)
_HINT = re.compile(r"^\s*hint:.*?\bquestion:", re.IGNORECASE | re.DOTALL)
_UNIT = re.compile(r"\(unit:[^()]*\)", re.IGNORECASE)
#: Where listed choices begin: a heading, `(A) ... (B) ...`, or lines `A. ...`, `B. ...`.
_CHOICES = re.compile(
    r"(?:^|\s)(?:choices?|options?):\s.*|(?:^|\s)\(a\)\s.*?\s\(b\)\s.*|(?:^|\n)\s*a[.:)]\s*\S.*?\n\s*b[.:)]\s*\S.*",
    re.IGNORECASE | re.DOTALL,
)


def normalized_question(text: str) -> str:
    """The question as it is compared: without placeholders, hint, unit, listed choices, case and punctuation.

    >>> normalized_question("<image 1>\\nHow  many BARS are there? (A) two (B) three")
    'how many bars are there'
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for part in (_PLACEHOLDER, _HINT, _CHOICES, _UNIT):
        text = part.sub(" ", text)
    return " ".join("".join(letter if _counts(letter) else " " for letter in text).split())


def _counts(letter: str) -> bool:
    """Letters, marks, numbers and signs of calculation; all else is punctuation."""
    category = unicodedata.category(letter)
    return category[0] in "LMN" or category == "Sm"


@dataclass(frozen=True)
class Overlap:
    """An evaluation example that a training example repeats."""

    set_name: str  # the evaluation set
    example_id: str  # the evaluation example
    matched: Matched
    distance: int | None = None  # bits of 256 between the pictures' hashes; None if no picture matched


class OverlapIndex:
    """The pictures and questions of evaluation sets, to look training examples up in.

    All hashes are compared at once, by XOR and a count of bits: 0.03 ms a picture among 10,000 on one core, so 10 s
    for 300,000 pictures. Reading and hashing takes 6 ms a picture, so bands or trees of hashes would win nothing.
    """

    def __init__(self, threshold: int = SAME_PICTURE):
        self.threshold = threshold
        self._examples: list[tuple[str, str]] = []  # (set, id)
        self._questions: dict[str, list[int]] = {}  # normalized -> examples
        self._words: list[np.ndarray] = []  # a picture's hash as [4] words
        self._owners: list[int] = []  # the example of each picture in `_words`
        self._matrix = np.zeros((4, 0), np.uint64)  # `_words` side by side: [4, number of pictures]
        self._of_path: dict[str, np.ndarray] = {}
        self._of_content: dict[str, np.ndarray] = {}  # by SHA-256: copies of a file are not decoded again

    def add(self, example: Example, set_name: str) -> None:
        """An example of an evaluation set; `PictureError` if a picture cannot be read."""
        words = [self._hash(path) for path in example.images]
        number = len(self._examples)
        self._examples.append((set_name, example.id))
        if question := normalized_question(example.question):
            self._questions.setdefault(question, []).append(number)
        self._words += words
        self._owners += [number] * len(words)

    def match(self, example: Example) -> Overlap | None:
        """The strongest match: picture and question of one evaluation example, else a picture, else a question."""
        return next(iter(self.matches(example)), None)

    def matches(self, example: Example) -> list[Overlap]:
        """One match by picture and question; where there is none, the nearest picture and the first question."""
        if not self._examples:
            return []  # nothing to compare with: pictures need not be read
        distances = self._near(example.images)
        questions = self._questions.get(normalized_question(example.question), [])
        both = [number for number in questions if number in distances]
        if both:
            best = min(both, key=distances.__getitem__)
            return [self._overlap(best, "picture and question", distances[best])]
        found = []
        if distances:
            nearest = min(distances, key=distances.__getitem__)
            found.append(self._overlap(nearest, "picture", distances[nearest]))
        return found + [self._overlap(number, "question", None) for number in questions[:1]]

    def _overlap(self, number: int, matched: Matched, distance: int | None) -> Overlap:
        set_name, example_id = self._examples[number]
        return Overlap(set_name, example_id, matched, distance)

    def _near(self, paths: Sequence[str]) -> dict[int, int]:
        """Evaluation examples with one of these pictures: number -> least distance."""
        if self._matrix.shape[1] < len(self._words):
            self._matrix = np.stack(self._words, axis=1)
        found: dict[int, int] = {}
        for words in map(self._hash, paths):
            distances = np.bitwise_count(self._matrix ^ words[:, None]).sum(axis=0, dtype=np.uint16)
            for place in np.flatnonzero(distances <= self.threshold):
                number, distance = self._owners[place], int(distances[place])
                found[number] = min(distance, found.get(number, distance))
        return found

    def _hash(self, path: str) -> np.ndarray:
        if path not in self._of_path:
            content = file_hash(Path(path)) if Path(path).is_file() else ""
            if content not in self._of_content:
                words = np.frombuffer(bytes.fromhex(perceptual_hash(Path(path))), np.uint64)
                self._of_content[content] = words
            self._of_path[path] = self._of_content[content]
        return self._of_path[path]


@dataclass
class OverlapCount:
    """Matches of one kind between one source and one evaluation set."""

    source: str
    set_name: str
    matched: Matched
    removed: bool  # whether the rule removes such matches
    count: int = 0
    examples: list[dict[str, str | int | None]] = field(default_factory=list)  # the first few


@dataclass
class Overlaps:
    """What was looked up, removed and matched; `dataclasses.asdict` makes a JSON value of it."""

    rule: Rule
    threshold: int
    looked_up: int = 0
    removed: int = 0
    counts: list[OverlapCount] = field(default_factory=list)  # the matches that the rule left in as well

    def note(self, example: Example, overlap: Overlap) -> None:
        """Count a match."""
        key = (example.source, overlap.set_name, overlap.matched)
        for row in self.counts:
            if (row.source, row.set_name, row.matched) == key:
                break
        else:
            row = OverlapCount(*key, removed=overlap.matched in RULES[self.rule])
            self.counts.append(row)
        row.count += 1
        if len(row.examples) < SHOWN:
            row.examples.append({"id": example.id, "evaluation_id": overlap.example_id, "distance": overlap.distance})

    def removes(self, example: Example, found: Sequence[Overlap]) -> Overlap | None:
        """Count an example with its matches; the one for which the rule removes it, or None."""
        self.looked_up += 1
        for overlap in found:
            self.note(example, overlap)
        decisive = next((overlap for overlap in found if overlap.matched in RULES[self.rule]), None)
        self.removed += decisive is not None
        return decisive
