"""What a set of step data holds, counted row by row: memory grows with its questions and pictures by a hash each."""

from bisect import insort
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from chainofstep.chain import Chain, ChainError, parse_prefix
from chainofstep.records import Example, StepRow, StepScores, to_row

#: Widths of the buckets that words and tokens of texts are counted in; a bucket is named by its least value.
WORDS_BUCKET = 50
TOKENS_BUCKET = 100
SAMPLES = 6
#: A label above it says "right", as a PRM's score does.
RIGHT_ABOVE = 0.5

LabelKind = Literal["none", "hard", "ternary", "soft"]


@dataclass
class Stats:
    """Counts of a set. `add` its rows; `to_row` gives a JSON value, which read back is for showing, not for adding to.

    Texts are the rows' texts and, in pairs, the rejected ones. Step labels count as `right` (1), `wrong` (0),
    `neutral` (0.5 in a set with no other value between) or `soft` (all others).
    """

    rows: int = 0
    questions: int = 0  # distinct questions, each with its pictures
    pictures: int = 0  # distinct paths
    by_source: dict[str, int] = field(default_factory=dict)  # rows
    by_answer_kind: dict[str, int] = field(default_factory=dict)  # rows
    chains: int = 0  # texts that are whole chains
    prefixes: int = 0  # texts that are steps without an answer
    unparseable: int = 0  # texts that are neither
    steps: dict[int, int] = field(default_factory=dict)  # steps -> chains and prefixes of that length
    rejected_steps: dict[int, int] = field(default_factory=dict)  # the same of rejected texts
    words: dict[int, int] = field(default_factory=dict)  # bucket -> texts
    tokens: dict[int, int] | None = None  # bucket -> texts; None where nothing counts tokens
    right: int = 0
    neutral: int = 0
    wrong: int = 0
    soft: int = 0
    label_tenths: dict[int, int] = field(default_factory=dict)  # tenth, 0 to 9 (with 1.0) -> step labels
    label_counts: dict[int, int] = field(default_factory=dict)  # number of the step, from 1 -> labels
    label_sums: dict[int, float] = field(default_factory=dict)
    answers_right: int = 0  # answer labels above 0.5
    answers_wrong: int = 0
    pairs: int = 0
    evaluation_rows: int = 0  # rows that their source marks as of an evaluation split
    samples: list[dict[str, Any]] = field(default_factory=list)  # rows (`StepRow`), the same in whatever order added
    count_tokens: InitVar[Callable[[str], int] | None] = None

    def __post_init__(self, count_tokens: Callable[[str], int] | None) -> None:
        self._count_tokens = count_tokens
        self._seen_questions: set[int] = set()
        self._seen_pictures: set[int] = set()
        self._reservoir = _Reservoir()
        if count_tokens is not None and self.tokens is None:
            self.tokens = {}

    @property
    def label_kind(self) -> LabelKind:
        if self.soft:
            return "soft"
        if self.neutral:
            return "ternary"
        return "hard" if self.right or self.wrong else "none"

    @property
    def labels(self) -> int:
        """Step labels in all."""
        return self.right + self.neutral + self.wrong + self.soft

    def mean_labels(self) -> dict[int, float]:
        """The mean label of first steps, second steps, ..."""
        return {place: self.label_sums[place] / count for place, count in sorted(self.label_counts.items())}

    def add(self, row: StepRow) -> None:
        self.rows += 1
        self._count_example(row.example)
        if row.text is not None:
            self._count_text(row.text, row.chain, self.steps)
        if row.rejected is not None:
            self.pairs += 1
            self._count_text(row.rejected, None, self.rejected_steps)
        if row.labels is not None:
            self._count_labels(row.labels)
        if self._reservoir.offer(row):
            self.samples = [to_row(sample) for sample in self._reservoir.picked()]

    def _count_example(self, example: Example) -> None:
        _tick(self.by_source, example.source)
        _tick(self.by_answer_kind, example.answer_kind)
        self._seen_questions.add(hash((example.question, example.images)))
        self._seen_pictures.update(map(hash, example.images))
        self.questions, self.pictures = len(self._seen_questions), len(self._seen_pictures)
        self.evaluation_rows += bool(example.meta.get("evaluation_split"))

    def _count_text(self, text: str, whole: Chain | None, steps: dict[int, int]) -> None:
        chain = whole or _read(text)
        if chain is None:
            self.unparseable += 1
        else:
            _tick(steps, len(chain.steps))
            if chain.answer is None:
                self.prefixes += 1
            else:
                self.chains += 1
        words = _word_count(text, chain)
        _tick(self.words, words - words % WORDS_BUCKET)
        if self._count_tokens is not None and self.tokens is not None:
            tokens = self._count_tokens(text)
            _tick(self.tokens, tokens - tokens % TOKENS_BUCKET)

    def _count_labels(self, labels: StepScores) -> None:
        for place, label in enumerate(labels.steps, start=1):
            _tick(self.label_counts, place)
            self.label_sums[place] = self.label_sums.get(place, 0.0) + label
            _tick(self.label_tenths, min(9, int(10 * label)))
            if label == 1:
                self.right += 1
            elif label == 0:
                self.wrong += 1
            elif label == 0.5 and not self.soft:
                self.neutral += 1
            else:  # the set is soft, and what looked neutral so far was soft too
                self.soft, self.neutral = self.soft + self.neutral + 1, 0
        if labels.answer is not None:
            right = labels.answer > RIGHT_ABOVE
            self.answers_right += right
            self.answers_wrong += not right


def _tick(counts: dict[Any, int], key: Any) -> None:
    counts[key] = counts.get(key, 0) + 1


def _read(text: str) -> Chain | None:
    """A whole chain, or steps without an answer; None for text that breaks off within a step, and for any other."""
    try:
        prefix = parse_prefix(text)
    except ChainError:
        return None
    return prefix.chain if prefix.finished or (prefix.chain.steps and not prefix.rest.strip()) else None


def _word_count(text: str, chain: Chain | None) -> int:
    """The words of a chain's steps and answer, without tags; all words of other text."""
    if chain is None:
        return len(text.split())
    fields = [part for step in chain.steps for part in (step.name, step.thought, step.reflection)]
    return sum(len(part.split()) for part in (*fields, chain.answer or ""))


class _Reservoir:
    """A few rows of a set whose length is not known: one of each source first, then others, least hashes first.

    A row's hash is of its content, so the pick is even and does not depend on the order.
    """

    def __init__(self) -> None:
        self._best: dict[str, list[tuple[bytes, StepRow]]] = {}  # source -> its least rows, ascending

    def offer(self, row: StepRow) -> bool:
        """Whether the row is taken, for now."""
        digest, source = _digest(row), row.example.source
        own = self._best.get(source, [])
        if (len(own) == SAMPLES and digest >= own[-1][0]) or any(digest == known for known, _ in own):
            return False
        insort(own, (digest, row), key=lambda kept: kept[0])
        del own[SAMPLES:]
        self._best[source] = own
        if len(self._best) > SAMPLES:  # a source left out can come back only with a row of a lesser hash
            last = max(self._best, key=lambda name: self._best[name][0][0])
            del self._best[last]
            return last != source
        return True

    def picked(self) -> list[StepRow]:
        firsts = sorted((own[0] for own in self._best.values()), key=lambda kept: kept[0])
        others = sorted((kept for own in self._best.values() for kept in own[1:]), key=lambda kept: kept[0])
        return [row for _, row in (firsts + others)[:SAMPLES]]


def _digest(row: StepRow) -> bytes:
    example = row.example
    parts = (example.source, example.id, example.question, row.text or "", row.rejected or "", repr(row.labels))
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
