"""M3CoT (LightChen233/M3CoT): science, commonsense and mathematics in several steps, multiple choice."""

import re
from collections.abc import Mapping
from random import Random

from chainofstep.answers import LETTERS
from chainofstep.benchmarks.benchmark import Benchmark, Verdict, right_if
from chainofstep.benchmarks.letters import gold_letter, item, lettered
from chainofstep.problems.sources.source import Row, kept, pictures, required, text, texts
from chainofstep.records import Example

_APPENDED = "Think step-by-step first and then answer with the option's letter from the given choices directly."
_OFFICIAL = "Let's think step-by-step!"

_MARKED_LETTER = re.compile(r"\(([A-Za-z])\)")
_AS_SPACE = str.maketrans("\n.,!?", "     ")


def read_m3cot(row: Row) -> Example:
    """The hub's fields, or one `prompt` of [Context], [Question] and [Choices].

    Some published questions hold choices and context a second time, under <CHOICE> and <CONTEXT>. The example has the
    bare question; `meta` keeps what the official prompt is made of. Of a few prompts the choices are not those of the
    field `choices`, by which answers are judged.
    """
    context, question = text(row, "context", ""), text(row, "prompt" if "prompt" in row else "question")
    if "prompt" in row:
        context, question = _of_prompt(question)
    bare = _bare(question)
    choices = required(texts(row, "choices"))
    return item(
        "m3cot",
        row,
        question=bare,
        images=pictures(row, f"images/{row.get('id')}.png"),
        answer=gold_letter(row, choices),
        kind="choice",
        choices=choices,
        meta=kept(row, "domain", "topic", "category")
        | ({"context": context} if context.strip() else {})
        | kept(row, "prompt")
        | ({"published_question": question} if question != bare and "prompt" not in row else {}),
    )


def _of_prompt(prompt: str) -> tuple[str, str]:
    """Context and question of one prompt."""
    head, asked, rest = prompt.partition("[Question]\n")
    if not asked:
        raise ValueError(f"unreadable prompt: no line [Question] in {prompt[:60]!r}")
    return head.removeprefix("[Context]\n").removesuffix("\n"), rest.rpartition("\n[Choices]\n")[0] or rest


def _bare(question: str) -> str:
    """The question without the blocks that repeat its choices and context."""
    return question.strip().removeprefix("<QUESTION>").partition("<CHOICE>")[0].partition("<CONTEXT>")[0].strip()


def paper_prompt(example: Example) -> str:
    """Context, question and options one a line, as the authors' ScienceQA scripts lay them out; their sentence (B2)."""
    context = [example.meta["context"]] if "context" in example.meta else []
    return "\n".join([*context, example.question, lettered(example.choices), _APPENDED])


def official_prompt(example: Example) -> str:
    """The first turn of the official zero-shot chain of thought."""
    return f"{example.meta.get('prompt') or _prompt(example)}\n\n{_OFFICIAL}"


def _prompt(example: Example) -> str:
    context = f"[Context]\n{example.meta['context']}\n" if "context" in example.meta else ""
    question = example.meta.get("published_question", example.question)
    options = lettered(example.choices, "({letter}) {choice}")
    return f"{context}[Question]\n{question}\n[Choices]\n{options}"


def rule(example: Example, reply: str, guesses: Random) -> Verdict:
    """A letter by the first of four readings that finds one; none of them: official FAILED."""
    letter = _letter(reply, example.choices)
    return Verdict("unparseable") if letter is None else right_if(letter == example.answer, letter)


def _letter(reply: str, choices: tuple[str, ...]) -> str | None:
    """Last `(X)`, which need be no option; option text; a capital; a small letter; by the last option, not place."""
    if "[Answer]" in reply:
        reply = reply.rpartition("[Answer]")[2].partition("[Rationale]")[0].partition("[Context]")[0]
    marked = _MARKED_LETTER.findall(reply)
    if marked:
        return str(marked[-1]).upper()
    small = reply.lower()
    named = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.lower() in small]
    if named:
        return named[-1]
    tokens = set(reply.translate(_AS_SPACE).split(" "))
    letters = LETTERS[: len(choices)]
    found = [letter for letter in letters if letter in tokens] or [one for one in letters if one.lower() in tokens]
    return found[-1] if found else None


def groups(example: Example) -> Mapping[str, str]:
    """The official breakdowns: three domains and their topics."""
    return {name: str(example.meta[name]) for name in ("domain", "topic") if name in example.meta}


M3COT = Benchmark(
    name="m3cot",
    title="M3CoT",
    hub="LightChen2333/M3CoT",
    split="test",
    rows={"train": 7863, "validation": 1108, "test": 2318},
    licence="CC BY-SA 4.0",
    read=read_m3cot,
    prompts={"paper": paper_prompt, "official": official_prompt},
    rule=rule,
    groups=groups,
    note="The last (X) of a reply counts, an option's text within it before a bare letter, and of several the last "
    "option and not the last place: `A`, the article, may be read as a letter. Replies as `(X)` are read without "
    "doubt. The official second turn, which asks for a letter, is not asked.",
    columns=("id", "question|prompt", "choices", "answer", "domain", "topic"),
)
