"""A scripted stand-in for teacher, solver and judge, to try `cos data build` with before an LLM is paid.

It sees no picture and knows nothing: it repeats the reference answer with steps made of the question's words, plants
the flaws that the filters are there for, and as a judge finds the errors that it planted as a solver. What it writes is
fit for looking at files and for tests, never for training, and every card made with it says so.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from chainofstep.answers import LETTERS
from chainofstep.chain import Chain, Step
from chainofstep.problems.skeleton import write_skeleton
from chainofstep.problems.teacher import TEACHER_RULES
from chainofstep.records import Example
from chainofstep.scoring import judge

if TYPE_CHECKING:
    from chainofstep.llm.stand_in import StandInRequest

MODEL = "stand-in"
NOTE = (
    "Written by a scripted stand-in, not by an LLM: nobody looked at the pictures. For trying the software out; "
    "do not train on it."
)
MISTAKE = "I take the value next to the one that is asked for"
#: A step's title and what it does; {words} are the question's own words.
MOVES = (
    ("Understand the question", "It asks about {words}, so this is what has to be found in the picture."),
    ("Find the place", "In the picture I look for the part that speaks of {words} and pass over the rest."),
    ("Read what stands there", "Line by line I note what the picture shows about {words}, with its labels."),
    ("Put the parts together", "What was read about {words} is compared and, where numbers are asked for, computed."),
    ("Check the reading", "I go back to the picture once more and read the part about {words} a second time."),
    ("Conclude", "Everything that was read about {words} leads to one result."),
)


class ScriptedModel:
    """Replies to the project's own prompts, made from the prompt and the examples it was given. Deterministic."""

    def __init__(self, examples: Iterable[Example]):
        self.examples = {example.question: example for example in examples}

    def __call__(self, request: "StandInRequest") -> str:
        if request.system == judge.SYSTEM:
            return self._judge(request)
        question = re.split(r"\n\n(?:Answer: |Reply in JSON|Write exactly)", request.text.split("Question:\n", 1)[1])[0]
        # The same question of another sample is another reply.
        luck = _luck(question, str(request.body.get("seed")))
        if TEACHER_RULES in request.text:
            answer = re.split(r"\n(?:Explanation: |\n)", request.text.split("\n\nAnswer: ", 1)[1])[0]
            answer = answer.split(" (")[0] if re.match(r"[A-Z] \(", answer) else answer
            return _flawed(_chain(question, answer), luck, request.schema is not None)
        return _written(self._solution(question, luck), request.schema is not None)

    def _solution(self, question: str, luck: int) -> Chain:
        """Right three times in five; else with one mistake at some step and a wrong answer."""
        example = self.examples.get(question)
        chain = _chain(question, example.answer if example else "unknown")
        if luck % 5 < 3:
            return chain
        place = 1 + luck // 5 % (len(chain.steps) - 1)
        step = replace(chain.steps[place], thought=f"{chain.steps[place].thought} {MISTAKE}.")
        return Chain((*chain.steps[:place], step, *chain.steps[place + 1 :]), _other(example))

    def _judge(self, request: "StandInRequest") -> str:
        """Bad from the planted mistake on, Neutral now and then, Good otherwise."""
        steps = re.split(r"^Step \d+: ", request.text.split("\nSolution:\n", 1)[1], flags=re.MULTILINE)[1:]
        labels, wrong = [], False
        for number, step in enumerate(steps):
            wrong = wrong or MISTAKE in step
            neutral = _luck(step, str(number)) % 12 == 0
            labels.append(judge.BAD if wrong else judge.NEUTRAL if neutral else judge.GOOD)
        names = {value: word.capitalize() for word, value in judge.WORDS.items()}
        why = {judge.GOOD: "It holds.", judge.NEUTRAL: "It says little.", judge.BAD: "It rests on a misreading."}
        if request.schema is not None:
            return json.dumps({"steps": [{"explanation": why[label], "label": names[label]} for label in labels]})
        lines = [f"Step {number}: {why[label]}" for number, label in enumerate(labels, start=1)]
        return "\n".join([*lines, f"### Step Label: {json.dumps(labels)}"])


def _luck(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:4], "big")


def _chain(question: str, answer: str) -> Chain:
    words = re.findall(r"[^\W_]{4,}", question)[:8] or ["the question"]
    count = 5 + _luck(question) % 2
    steps = [
        Step(name, text.format(words=" and ".join(words[place % 2 :: 2])), f"{name}: it fits what the picture shows.")
        for place, (name, text) in enumerate(MOVES[:count])
    ]
    return Chain(tuple(steps), answer)


def _other(example: Example | None) -> str:
    """An answer that is not the reference."""
    if example is None or example.answer_kind == "word":
        return "something else"
    if example.answer_kind == "number":
        return "-1" if example.answer != "-1" else "1"
    options = LETTERS[: len(example.choices) or 4]
    return options[(options.find(example.answer) + 1) % len(options)]


def _written(chain: Chain, structured: bool) -> str:
    if not structured:
        return write_skeleton(chain)
    steps = [{"name": step.name, "thought": step.thought, "reflection": step.reflection} for step in chain.steps]
    return json.dumps({"steps": steps, "answer": chain.answer or ""}, ensure_ascii=False)


def _first(change: Callable[[Step], Step]) -> Callable[[Chain], Chain]:
    return lambda chain: Chain((change(chain.steps[0]), *chain.steps[1:]), chain.answer)


#: What is done to a chain so that one filter has to remove it.
FLAWS: dict[str, Callable[[Chain], Chain]] = {
    "fields": _first(lambda step: replace(step, reflection="")),
    "step_count": lambda chain: Chain(chain.steps[:3], chain.answer),
    "answer": lambda chain: Chain(chain.steps, ""),
    "right_answer": lambda chain: Chain(chain.steps, "something else altogether"),
    "leak": _first(lambda step: replace(step, reflection="It agrees with the reference answer.")),
    "early_answer": lambda chain: _first(lambda s: replace(s, thought=f"The answer is {chain.answer}."))(chain),
    "control_tokens": _first(lambda step: replace(step, thought=step.thought + " <|answer_end|>")),
    "length": _first(lambda step: replace(step, thought="Yes.")),
    "repeats": lambda chain: Chain((*chain.steps[:-1], chain.steps[1]), chain.answer),
}


def _flawed(chain: Chain, luck: int, structured: bool) -> str:
    """The chain as it is nine times in ten; else with one of the flaws, or a text that is no chain at all."""
    flaws = [*FLAWS.values()]
    kind = luck % (10 * (len(flaws) + 2))
    if kind < len(flaws):
        return _written(flaws[kind](chain), structured)
    if kind == len(flaws):
        return "I am sorry, but I cannot help with this picture."
    if kind == len(flaws) + 1 and not structured:
        return _written(chain, structured).replace("### <Step 2:", "### <Step 7:")
    return _written(chain, structured)
