"""MathVista's extraction by a language model, for replies that the quick rules cannot read (paper.md C1).

The official script asks GPT with five solved examples; the wording and the examples here are this project's own, so a
score made with it names the model and says which share of the replies needed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chainofstep.benchmarks.benchmark import said
from chainofstep.benchmarks.letters import lettered
from chainofstep.benchmarks.mathvista import quick_extraction
from chainofstep.llm import Endpoint, Failure, Outcome, Prompt, Spending, ask
from chainofstep.records import Example, ScoreFailure

NO_ANSWER = "no answer"
#: Of a longer reply its end is shown: answers stand there, and a model's context has a limit.
LONGEST_REPLY = 8_000  # characters

#: What is asked, with places for `wanted`, `question` and `reply`.
EXTRACTION_PROMPT = f"""\
Below is a question and what somebody replied. Copy out the reply's final answer. Do not solve the question, do not \
correct the reply, and write nothing but the answer, on one line. If the reply comes to no answer, write: {NO_ANSWER}

Question: How many of the lamps are lit?
Wanted: a whole number
Reply: There are nine lamps in two rows. Four in the upper row are dark, so five lamps are lit.
Answer: 5

Question: What share of the visitors came by train?
Wanted: a number with 2 decimal places
Reply: By train came 31 of 124 visitors, which is a quarter of them.
Answer: 0.25

Question: Which bar is the tallest?
(A) Monday
(B) Thursday
(C) Sunday
Wanted: the letter of an option
Reply: Thursday's bar reaches 40, Monday's 35 and Sunday's only 12. Thursday's it is.
Answer: B

Question: Between which two years did the price double?
Wanted: a list in Python's notation
Reply: It stood at 3 in 2004 and at 6 in 2009, so between 2004 and 2009.
Answer: [2004, 2009]

Question: How long is side AC?
Wanted: a whole number
Reply: The picture is too blurred for me to read the lengths.
Answer: {NO_ANSWER}

Question: {{question}}
Wanted: {{wanted}}
Reply: {{reply}}
Answer:"""

_WANTED = {
    "text": "the letter of an option",
    "integer": "a whole number",
    "float": "a number with {places} decimal places",
    "list": "a list in Python's notation",
}


@dataclass(frozen=True)
class Extracted:
    """An answer for each text, to be judged in its place, and how many came which way."""

    answers: list[str | ScoreFailure | None]
    by_rule: int
    by_model: int
    failed: int  # the model was asked and gave nothing: each is a `ScoreFailure`
    missing: int  # no reply to read: no text, or a chain without an answer; left as it was
    spending: Spending
    model: str

    @property
    def fallback_share(self) -> float:
        """The share of the texts for which the model was asked; 0.0 for no text at all."""
        return (self.by_model + self.failed) / len(self.answers) if self.answers else 0.0


def extract(
    examples: Sequence[Example], texts: Sequence[str | ScoreFailure | None], endpoint: Endpoint, cache: Path
) -> Extracted:
    """The answers in texts that were written to MathVista's questions, by the quick rules or else by a model.

    Replies are kept in `cache`, and what is there is not asked again. A text that is missing stays as it is.
    `EndpointDown` if no prompt will be answered.
    """
    answers: list[str | ScoreFailure | None] = list(texts)
    replies = [said(text) if isinstance(text, str) else None for text in texts]
    prompts = []
    for number, (example, reply) in enumerate(zip(examples, replies, strict=True)):
        quick = None if reply is None else quick_extraction(example, reply)
        if quick is not None:
            answers[number] = quick
        elif reply is not None:
            prompts.append(extraction_prompt(example, reply, str(number)))

    def done(prompt: Prompt, outcome: Outcome) -> None:
        answers[int(prompt.id)] = _answer(outcome)

    spending = ask(endpoint, prompts, done, cache) if prompts else Spending()
    failed = sum(isinstance(answers[int(prompt.id)], ScoreFailure) for prompt in prompts)
    missing = replies.count(None)
    by_rule = len(answers) - missing - len(prompts)
    return Extracted(answers, by_rule, len(prompts) - failed, failed, missing, spending, endpoint.model)


def extraction_prompt(example: Example, reply: str, prompt_id: str) -> Prompt:
    """The prompt that asks for the answer in a reply; the picture is not shown."""
    options = [lettered(example.choices, "({letter}) {choice}")] if example.choices else []
    wanted = _WANTED[example.meta["answer_type"]].format(places=example.meta.get("precision"))
    question = "\n".join([example.question, *options])
    return Prompt(prompt_id, EXTRACTION_PROMPT.format(question=question, wanted=wanted, reply=reply[-LONGEST_REPLY:]))


def _answer(outcome: Outcome) -> str | ScoreFailure:
    """The model's answer; "" where it says that there is none."""
    if isinstance(outcome, Failure):
        return ScoreFailure(f"extraction: {outcome.reason}")
    answer = outcome.text.strip().removeprefix("Answer:").strip()
    if not answer:
        return ScoreFailure("extraction: the model's reply is empty")
    return "" if answer.strip('."').casefold() == NO_ANSWER else answer
