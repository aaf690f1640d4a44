"""Step data from an LLM ("reason from the outcome", paper A2): it is shown picture, question and reference answer and
writes the steps that lead there, as if it had found them itself. Without the reference the same prompt asks for a
solution: chains that may be wrong, as a PRM's training needs them.

The wording is this project's; what it asks for is the paper's (Fig. 8). The reply comes as JSON where the server keeps
to a schema, else in the skeleton.
"""

import hashlib
from typing import Literal

from chainofstep.answers import LETTERS
from chainofstep.llm import Prompt, Reply
from chainofstep.problems.skeleton import STEPS_SCHEMA, Draft, read_skeleton, read_structured
from chainofstep.records import Example

Task = Literal["teach", "solve"]

SYSTEM = (
    "You work out questions about pictures in explicit steps, so that a reader can check each step by looking at the "
    "picture."
)

RULES = """\
Write between 5 and 10 steps. Every step has three parts:
- a name: a short title of what the step does;
- detailed thinking: the step itself, as detailed as it can be: what is seen and where, what is computed, with every \
intermediate result;
- a reflection: how the step rests on the picture and on earlier steps, and which mistake would be easy to make here.
Rules:
1. The steps follow from one another, and none may be left out.
2. Begin with what the picture shows. Do not state the result before the steps have reached it.
3. Use what can be seen: words, numbers, colours and positions, not general remarks.
4. In calculations write the operation and its result.
5. No two steps may say the same."""

TEACHER_RULES = """
6. You are told the answer so that your steps arrive at it. Write as if you had found it yourself: never mention that \
an answer or an explanation was given, and never say that your result agrees with one.
7. If an explanation is given, use what helps in it."""

ANSWER_FORMS = {
    "choice": "the letter of the chosen option alone",
    "number": "a number alone, without a unit",
    "word": "as few words as answer the question",
}

SKELETON = """\
Write exactly in this form, and nothing before or after it:
### <Step 1: name>
<Detailed Thinking>: ...
<Reflection>: ...
### <Step 2: name>
<Detailed Thinking>: ...
<Reflection>: ...
(and so on)
### <Answer>
{form}"""

STRUCTURED = """\
Reply in JSON: "steps", a list of objects with "name", "thought" (the detailed thinking) and "reflection", and \
"answer": {form}."""


def steps_prompt(example: Example, task: Task, sample: int = 0) -> Prompt:
    """The prompt for an example's steps, from its reference answer (`teach`) or without it (`solve`)."""
    head, form = _head(example, task), ANSWER_FORMS[example.answer_kind]
    return Prompt(
        id=example.id if task == "teach" else f"{example.id}#{sample}",
        text=f"{head}\n\n{STRUCTURED.format(form=form)}",
        system=SYSTEM,
        images=example.images,
        schema=STEPS_SCHEMA,
        text_without_schema=f"{head}\n\n{SKELETON.format(form=form)}",
        sample=sample,
    )


def _head(example: Example, task: Task) -> str:
    """The rules, the question and, for the teacher, the answer."""
    rules = RULES + (TEACHER_RULES if task == "teach" else "")
    question = f"{rules}\n\nQuestion:\n{example.question}"
    return f"{question}\n\n{reference(example)}" if task == "teach" else question


def reference(example: Example) -> str:
    """The reference answer (with the option's text), and the worked explanation where the source has one."""
    answer = example.answer
    if example.choices and answer in LETTERS[: len(example.choices)]:
        answer = f"{answer} ({example.choices[LETTERS.index(answer)]})"
    solution = example.meta.get("solution")
    return f"Answer: {answer}" + (f"\nExplanation: {solution}" if solution else "")


def read_reply(reply: Reply) -> Draft:
    """The steps of a reply; `ValueError` says why they cannot be read, or that the reply was cut."""
    if reply.finish_reason == "length":
        raise ValueError(f"the reply was cut at {reply.completion_tokens} tokens; raise max_tokens")
    return read_structured(reply.text) if reply.structured else read_skeleton(reply.text)


def prompt_hash(task: Task) -> str:
    """SHA-256 (first 12 digits) of a task's whole wording, for the data card."""
    parts = (SYSTEM, RULES, TEACHER_RULES if task == "teach" else "", *ANSWER_FORMS.values(), SKELETON, STRUCTURED)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]
