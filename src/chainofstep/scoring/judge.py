"""Step labels by an LLM judge (paper A3): every step is Good, Neutral or Bad, with a short explanation.

The judge sees picture, question, reference answer and the steps; the answer's own label is not its business but the
answer rules'. Several judges, or one asked several times, vote on each step; a step goes to the label with most votes,
a tie to the worst of those that tie. What cannot be read, or has another number of labels than the chain has steps, is
a failure and not a score; labels stand only where more than half of the votes came in.

How labels become scores (paper A3): where the chain's answer is right, Good and Neutral count as right and Bad as
wrong; where it is wrong, only Good counts as right. `neutral="half"` keeps Neutral as 0.5 instead, so that all three
reach the PRM.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from chainofstep.answers import is_right
from chainofstep.chain import Chain
from chainofstep.llm import Endpoint, Failure, Outcome, Prompt, Reply, Spending, ask
from chainofstep.problems.teacher import reference
from chainofstep.records import Example, Scored, ScoreFailure, StepScores

Neutral = Literal["by_answer", "half"]
GOOD, NEUTRAL, BAD = 1, 0, -1
WORDS = {"good": GOOD, "neutral": NEUTRAL, "bad": BAD}
_LIST = re.compile(r"step\s+labels?\**\s*:\s*\**\s*(\[[^\]]*\])", re.IGNORECASE)

SYSTEM = (
    "You examine worked solutions of questions about pictures, step by step. You are strict about what the picture "
    "shows and about calculations. A right result does not excuse a wrong step, nor does a wrong one condemn a right "
    "step."
)

RULES = """\
Rate every step of the solution below:
- Good: the step is right and to the point, what it claims can be seen or follows, and it brings the solution forward;
- Neutral: the step is to the point, but has a small flaw or a gap, or speaks of what could be done without doing it;
- Bad: the step is wrong: it misreads the picture, miscalculates, misunderstands the question, or leads astray.
The reference answer is right. The solution may be wrong, in its steps and in its answer. A step that only repeats an \
earlier mistake is Bad too. Say in one sentence for each step why you rate it so."""

SKELETON = """\
Write one line for each step, `Step k: why`, and then exactly this line, with 1 for Good, 0 for Neutral, -1 for Bad, \
one number for each of the {count} steps:
### Step Label: [1, 0, -1]"""

STRUCTURED = """\
Reply in JSON: "steps", a list of exactly {count} objects in the steps' order, each with "explanation" and "label" \
("Good", "Neutral" or "Bad")."""

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "explanation": {"type": "string"},
                    "label": {"type": "string", "enum": ["Good", "Neutral", "Bad"]},
                },
                "required": ["explanation", "label"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["steps"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Verdict:
    """One judge's labels, 1 Good, 0 Neutral, -1 Bad, and why, for each step."""

    labels: tuple[int, ...]
    explanations: tuple[str, ...] = ()


def judge_prompt(example: Example, chain: Chain, prompt_id: str, sample: int = 0) -> Prompt:
    """The prompt that asks for a verdict on a chain's steps."""
    head = f"{RULES}\n\nQuestion:\n{example.question}\n\n{reference(example)}\n\nSolution:\n{_solution(chain)}\n\n"
    count = len(chain.steps)
    return Prompt(
        id=prompt_id,
        text=head + STRUCTURED.format(count=count),
        system=SYSTEM,
        images=example.images,
        schema=VERDICT_SCHEMA,
        text_without_schema=head + SKELETON.format(count=count),
        sample=sample,
    )


def _solution(chain: Chain) -> str:
    steps = [
        f"Step {number}: {step.name}\n{step.thought}\n{step.reflection}".rstrip()
        for number, step in enumerate(chain.steps, start=1)
    ]
    return "\n\n".join([*steps, *([f"Answer: {chain.answer}"] if chain.answer is not None else [])])


def read_verdict(reply: Reply, count: int) -> Verdict:
    """The verdict on a chain of `count` steps; `ValueError` says why there is none."""
    verdict = _structured(reply.text) if reply.structured else _labelled(reply.text)
    if len(verdict.labels) != count:
        raise ValueError(f"{len(verdict.labels)} labels for {count} steps")
    return verdict


def _structured(text: str) -> Verdict:
    try:
        entries = json.loads(text)["steps"]
        labels = tuple(WORDS[entry["label"].strip().lower()] for entry in entries)
        return Verdict(labels, tuple(str(entry.get("explanation", "")) for entry in entries))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no verdict in JSON: {text.strip()[:60]!r}") from error


def _labelled(text: str) -> Verdict:
    """The list after `### Step Label:`, the last one if there are several, and the lines before it as explanations."""
    found = list(_LIST.finditer(text))
    if not found:
        raise ValueError(f"no line `### Step Label: [...]` in {text.strip()[-60:]!r}")
    try:
        labels = json.loads(found[-1][1])
    except json.JSONDecodeError:
        labels = None
    if not isinstance(labels, list) or any(type(label) is not int or label not in WORDS.values() for label in labels):
        raise ValueError(f"labels {found[-1][1][:60]} are not all 1, 0 or -1")
    lines = text[: found[-1].start()].splitlines()
    explanations = tuple(line.strip() for line in lines if re.match(r"\W*step\s+\d+", line, re.IGNORECASE))
    return Verdict(tuple(labels), explanations if len(explanations) == len(labels) else ())


def vote(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """Each step's label with most votes; a tie goes to the worst of those that tie."""
    return tuple(_majority(labels) for labels in zip(*(verdict.labels for verdict in verdicts), strict=True))


def _majority(labels: Sequence[int]) -> int:
    counts = Counter(labels)
    most = max(counts.values())
    return min(label for label, count in counts.items() if count == most)


def scores_of(example: Example, chain: Chain, labels: Sequence[int], neutral: Neutral = "by_answer") -> StepScores:
    """Labels as scores in [0, 1], by the paper's two mapping rules or with Neutral as 0.5."""
    right = chain.answer is not None and is_right(example, chain.answer)
    middle = 0.5 if neutral == "half" else float(right)
    values = {GOOD: 1.0, NEUTRAL: middle, BAD: 0.0}
    return StepScores(tuple(values[label] for label in labels), None if chain.answer is None else float(right))


@dataclass(frozen=True)
class Judgement:
    """All votes on one chain: the verdicts that could be read, and why the others could not."""

    verdicts: tuple[Verdict, ...] = ()
    failures: tuple[str, ...] = ()

    def scored(self, example: Example, chain: Chain, neutral: Neutral) -> Scored:
        """The vote as scores; a failure where half of the votes or more are missing."""
        if len(self.verdicts) <= len(self.failures):
            return ScoreFailure(f"judge: {self.failures[0] if self.failures else 'no vote'}")
        return scores_of(example, chain, vote(self.verdicts), neutral)


def judgement(chain: Chain, replies: Sequence[Outcome]) -> Judgement:
    """The votes in the replies of all judges."""
    verdicts, failures = [], []
    for reply in replies:
        try:
            if isinstance(reply, Failure):
                raise ValueError(reply.reason)
            verdicts.append(read_verdict(reply, len(chain.steps)))
        except ValueError as error:
            failures.append(str(error))
    return Judgement(tuple(verdicts), tuple(failures))


@dataclass
class JudgeScorer:
    """A StepScorer that asks each of the `judges` for `votes` verdicts on every chain.

    `cache` keeps what was paid for; without one a call keeps it only while it runs. A prefix (no answer) is judged by
    the rule for wrong answers. A failed verdict is a `ScoreFailure`, never a score.
    """

    judges: Sequence[Endpoint]
    votes: int = 1
    neutral: Neutral = "by_answer"
    cache: Path | None = None
    spending: list[Spending] = field(default_factory=list)  # one a judge, of the last call

    def score(self, items: Sequence[tuple[Example, Chain]]) -> list[Scored]:
        """One result per (example, chain), in order."""
        return [
            found.scored(example, chain, self.neutral)
            for (example, chain), found in zip(items, self.judge(items), strict=True)
        ]

    def judge(self, items: Sequence[tuple[Example, Chain]]) -> list[Judgement]:
        """The votes on each chain, in order."""
        replies: list[list[Outcome]] = [[] for _ in items]

        def done(prompt: Prompt, reply: Outcome) -> None:
            replies[int(prompt.id)].append(reply)

        prompts = [
            judge_prompt(example, chain, str(number), sample)
            for number, (example, chain) in enumerate(items)
            if chain.steps
            for sample in range(self.votes)
        ]
        with TemporaryDirectory() as folder:
            cache = self.cache or Path(folder) / "replies.sqlite"
            self.spending = [ask(judge, prompts, done, cache) for judge in self.judges]
        return [judgement(chain, found) for (_, chain), found in zip(items, replies, strict=True)]


def prompt_hash() -> str:
    """SHA-256 (first 12 digits) of the judge's whole wording, for the data card."""
    return hashlib.sha256("\x1f".join((SYSTEM, RULES, SKELETON, STRUCTURED)).encode()).hexdigest()[:12]
