"""A benchmark's rule with a language model behind it, for replies that the rule's own extraction cannot read.

`Reader.benchmark` is judged with in two passes. In the first the replies that need the model are gathered, those among
which pass@N looks too; `Reader.ask` has them read, each once; in the second the answers stand in the replies' places.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

from chainofstep.benchmarks.benchmark import Benchmark, Verdict, said
from chainofstep.llm import Endpoint, Failure, Outcome, Prompt, Spending, ask
from chainofstep.llm.cache import Cache
from chainofstep.llm.request import request_key
from chainofstep.records import Example, ScoreFailure

#: Who read a reply; "failed": the model was asked and gave nothing; "nothing": there was no reply to read.
Reading = Literal["rules", "model", "failed", "nothing"]
Done = Callable[[int], None]


@dataclass(frozen=True)
class Extraction:
    """How a benchmark has a language model read what its rules cannot."""

    prompt: str  # what is asked, its places in braces
    quick: Callable[[Example, str], str | None]  # the answer that rules take from a reply; None: the model is asked
    ask: Callable[[Example, str, str], Prompt]  # the prompt of an item, its reply, and the prompt's id
    read: Callable[[str], str | None]  # the answer in what the model said, "" if it found none; None: it said nothing
    note: str  # what to know of a score with it, in place of the benchmark's `note`

    @property
    def prompt_hash(self) -> str:
        """SHA-256 (first 12 digits) of the wording."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:12]


class Reader:
    """Has the model of `endpoint` read what the rules of a benchmark with an `extraction` cannot."""

    def __init__(self, benchmark: Benchmark, endpoint: Endpoint):
        assert benchmark.extraction is not None
        self.extraction, self.endpoint = benchmark.extraction, endpoint
        self.benchmark = replace(benchmark, rule=self._rule)
        self._by_rules = benchmark.rule
        self._asked: dict[tuple[str, str], Example] = {}
        self._answers: dict[tuple[str, str], str | ScoreFailure] = {}

    def prompts(self) -> list[Prompt]:
        """What is still to be asked of all that was judged, a prompt for each reply to an item; ids are numbers."""
        missing = [(key, example) for key, example in self._asked.items() if key not in self._answers]
        return [self.extraction.ask(example, key[1], str(number)) for number, (key, example) in enumerate(missing)]

    def unpaid(self, cache: Path) -> list[Prompt]:
        """Those of the prompts that will be sent: their replies are not in `cache`, and none is asked twice."""
        missing = {request_key(self.endpoint, prompt, structured=False): prompt for prompt in self.prompts()}
        if not missing or not cache.exists():
            return list(missing.values())
        with Cache(cache) as kept:
            return [prompt for key, prompt in missing.items() if kept.get(key) is None]

    def ask(self, cache: Path, done: Done = lambda _: None) -> Spending:
        """Have the gathered replies read. What is in `cache` is not asked again; `EndpointDown` if nobody answers."""
        keys = [key for key in self._asked if key not in self._answers]
        prompts = self.prompts()
        heard: dict[tuple[str, str], str | ScoreFailure] = {}

        def keep(prompt: Prompt, outcome: Outcome) -> None:
            heard[keys[int(prompt.id)]] = self._answer(outcome)
            done(len(heard))

        spending = ask(self.endpoint, prompts, keep, cache) if prompts else Spending()
        self._answers |= heard
        return spending

    def count(self, examples: Sequence[Example], texts: Sequence[str | ScoreFailure | None]) -> Counter[Reading]:
        """Who read each of the texts."""
        replies = [said(text) if isinstance(text, str) else None for text in texts]
        return Counter(self._who(example, reply or "") for example, reply in zip(examples, replies, strict=True))

    @property
    def failures(self) -> Counter[str]:
        """Why replies were not read, with the number of each reason."""
        return Counter(answer.reason for answer in self._answers.values() if isinstance(answer, ScoreFailure))

    def _who(self, example: Example, reply: str) -> Reading:
        if not reply:
            return "nothing"
        if self.extraction.quick(example, reply) is not None:
            return "rules"
        return "failed" if isinstance(self._answers.get((example.id, reply)), ScoreFailure) else "model"

    def _rule(self, example: Example, reply: str, guesses: Random) -> Verdict:
        who = self._who(example, reply)
        if who == "nothing":
            return self._by_rules(example, reply, guesses)
        if who == "rules":
            return _noted(self._by_rules(example, reply, guesses), "read by rules")
        answer = self._answers.get((example.id, reply))
        if answer is None:
            self._asked[example.id, reply] = example
            return Verdict("unparseable", note="not read yet")
        if isinstance(answer, ScoreFailure):
            return Verdict("failed", note=answer.reason)
        return _noted(self._by_rules(example, answer, guesses), f"read by {self.endpoint.model}")

    def _answer(self, outcome: Outcome) -> str | ScoreFailure:
        if isinstance(outcome, Failure):
            return ScoreFailure(f"not read by {self.endpoint.model}: {outcome.reason}")
        answer = self.extraction.read(outcome.text)
        return ScoreFailure(f"not read by {self.endpoint.model}: its reply is empty") if answer is None else answer


def _noted(verdict: Verdict, reader: str) -> Verdict:
    return replace(verdict, note="; ".join(note for note in (reader, verdict.note) if note))
