"""What a benchmark is: where its items are published, how it asks, and the rule that says what is right.

A rule sees what a model said (`said`) and ends every item in one of four outcomes; nothing leaves a denominator. The
official score of a benchmark may credit an item that was not right: MMMU guesses where it finds no option, MathVista
takes the option nearest in spelling. Such an item is `unparseable` with `credit`, so both figures can be given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Literal

from chainofstep.chain import REASONING_TOKENS
from chainofstep.evaluate import Outcome
from chainofstep.problems.sources.source import Row
from chainofstep.records import Example, ScoreFailure

if TYPE_CHECKING:
    from chainofstep.benchmarks.extraction import Extraction

PromptName = Literal["paper", "official", "none"]
ANSWER_START, ANSWER_END = "<|answer_start|>", "<|answer_end|>"


GUESS_SEED = 42  # of official guesses: MMMU's script


@dataclass(frozen=True)
class Verdict:
    """What became of one item."""

    outcome: Outcome
    answer: str | None = None  # what the official extraction read; None where it read nothing
    credit: bool = False  # whether the official score counts it
    note: str = ""  # what to know of it: "guessed", "nearest option", why it failed


def right_if(right: bool, answer: str, note: str = "") -> Verdict:
    """The verdict on an answer that was read."""
    return Verdict("right" if right else "wrong", answer, right, note)


#: What a rule decides from: the item, what the model said ("" where it said nothing: `unparseable`, though the official
#: rule may credit a guess), and the generator of official guesses.
Rule = Callable[[Example, str, Random], Verdict]


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark. `read` and `files` are as those of a `Source`."""

    name: str  # "chartqa": before the slash in its examples' ids
    title: str  # "ChartQA"
    hub: str  # hub id
    split: str  # the one that is reported
    rows: Mapping[str, int]  # published number of rows by split
    licence: str
    read: Callable[[Row], Example]  # question without any prompt, gold answer as published
    prompts: Mapping[str, Callable[[Example], str]]  # "paper" (appended by the paper, B2), "official"
    rule: Rule
    groups: Callable[[Example], Mapping[str, str | tuple[str, ...]]]  # official breakdowns: {"type": "human"}
    hub_config: str = ""  # one configuration, or several separated by commas
    files: tuple[str, ...] = ("{split}.jsonl", "{split}.json", "data/{split}-*.parquet", "{split}*.parquet")
    note: str = ""  # what the rule does that one would not expect
    columns: tuple[str, ...] = ()  # columns that tell this version's layout from another's; "a|b": either will do
    extraction: "Extraction | None" = None  # how a language model reads what the rule cannot, where there is a way

    def asked(self, example: Example, prompt: PromptName) -> Example:
        """The example as a model is asked it."""
        return example if prompt == "none" else replace(example, question=self.prompts[prompt](example))

    def judge(self, examples: Sequence[Example], texts: Sequence[str | ScoreFailure | None]) -> list[Verdict]:
        """A verdict on each text: what a model wrote, why there is nothing, or None where nothing parsed.

        Official guesses follow the order of the items.
        """
        generator = Random(GUESS_SEED)
        return [self._verdict(example, text, generator) for example, text in zip(examples, texts, strict=True)]

    def _verdict(self, example: Example, text: str | ScoreFailure | None, generator: Random) -> Verdict:
        if isinstance(text, ScoreFailure):
            return Verdict("failed", note=text.reason)
        reply = None if text is None else said(text)
        verdict = self.rule(example, reply or "", generator)
        why = "no chain" if text is None else "no closed answer"
        return replace(verdict, note=verdict.note or why) if reply is None else verdict


def said(text: str) -> str | None:
    """What a text says as its answer: what stands between its first answer tokens (paper B2), else all of it.

    A closed answer counts whatever surrounds it, a chain that parses or not: every text is graded by this, of a model's
    own samples and of a file of predictions. None for a text with step tokens and no closed answer. Never a token of
    the format.
    """
    if "<|" not in text:
        return text.strip()
    if ANSWER_START in text:
        answer, closed, _ = text.split(ANSWER_START, 1)[1].partition(ANSWER_END)
        return answer.strip() if closed else None
    return None if any(token in text for token in REASONING_TOKENS) else text.strip()
