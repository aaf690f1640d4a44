"""The chain format: the only place that knows the step tokens.

`render` writes the bytes of the authors' serializer (paper Fig. 7; `get_think` in the authors'
`score_with_prm.py`), `parse` reads them back, also without the literal `Answer:` line and with any white
space between tags, and `parse_prefix` reads text that stops anywhere. A chain without an answer (`answer is
None`) is a prefix: the steps so far.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

REASONING_START = "<|reasoning_start|>"
REASONING_END = "<|reasoning_end|>"
PROCEED = "<|reasoning_proceed|>"
STEP_START = "<|reasoning_step_start|>"
STEP_END = "<|reasoning_step_end|>"
NAME_START = "<|reasoning_step_name_start|>"
NAME_END = "<|reasoning_step_name_end|>"
THOUGHT_START = "<|reasoning_step_thought_start|>"
THOUGHT_END = "<|reasoning_step_thought_end|>"
REFLECTION_START = "<|reasoning_step_reflection_start|>"
REFLECTION_END = "<|reasoning_step_reflection_end|>"
ANSWER_START = "<|answer_start|>"
ANSWER_END = "<|answer_end|>"
UNUSED = "<|reasoning_backtrack|>"  # in the authors' set, in no chain
STEP_TAG = "ки"
GOOD = "к+и"
BAD = "к-и"

#: Each added token in the authors' order, with the short description whose tokens' mean starts its embedding row
#: (paper Table 6, `add_special_token.py`).
REASONING_TOKENS: dict[str, str] = {
    REASONING_START: "start of reasoning",
    REASONING_END: "end of reasoning",
    PROCEED: "reasoning proceed",
    UNUSED: "reasoning backtrack",
    STEP_START: "start of reasoning step",
    STEP_END: "end of reasoning step",
    NAME_START: "start of step name",
    NAME_END: "end of step name",
    THOUGHT_START: "start of step thought",
    THOUGHT_END: "end of step thought",
    REFLECTION_START: "start of step reflection",
    REFLECTION_END: "end of step reflection",
    ANSWER_START: "start of answer",
    ANSWER_END: "end of answer",
}
PRM_TOKENS: dict[str, str] = {STEP_TAG: "step tag to label", GOOD: "correct step", BAD: "bad step"}
ALL_TOKENS: dict[str, str] = REASONING_TOKENS | PRM_TOKENS

ANSWER_LINE = "Answer:"
#: A word joiner: written after the first character of text that looks like a control token, so that no
#: tokenizer takes it for one. Invisible on the page.
JOINER = "\u2060"


class ChainError(ValueError):
    """Text that is no chain: what is wrong, and at which character."""

    def __init__(self, problem: str, position: int):
        super().__init__(f"{problem} (character {position})")
        self.problem = problem
        self.position = position

    def __reduce__(self) -> tuple[type["ChainError"], tuple[str, int]]:
        # An exception is pickled by its message alone, and rollouts carry this one between processes.
        return type(self), (self.problem, self.position)


@dataclass(frozen=True)
class Step:
    """One step: `name` is its title, `thought` its content, `reflection` its tie to image and earlier steps."""

    name: str
    thought: str
    reflection: str


@dataclass(frozen=True)
class Chain:
    """Steps and the answer; `answer is None` for a prefix, the steps so far."""

    steps: tuple[Step, ...]
    answer: str | None = None

    def prefix(self, count: int) -> "Chain":
        """The first `count` steps, without an answer."""
        return Chain(self.steps[:count])


@cache
def _lookalike(tokens: tuple[str, ...]) -> re.Pattern[str]:
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(f"{re.escape(t[0])}{JOINER}*(?={re.escape(t[1:])})" for t in ordered))


_CONTROL = re.compile("|".join(re.escape(t) for t in sorted(REASONING_TOKENS, key=len, reverse=True)))
_LOOKALIKE = _lookalike(tuple(ALL_TOKENS))


def escape(text: str, also: Sequence[str] = ()) -> str:
    """Text in which nothing looks like a control token: a word joiner splits each look-alike.

    `also` names further control tokens, such as a model's image placeholder. `unescape` takes it back.
    """
    pattern = _lookalike((*ALL_TOKENS, *also)) if also else _LOOKALIKE
    return pattern.sub(lambda match: match.group() + JOINER, text)


def unescape(text: str, also: Sequence[str] = ()) -> str:
    """The text that `escape` was given."""
    return _split((*ALL_TOKENS, *also)).sub(lambda match: match.group()[:-1], text) if JOINER in text else text


@cache
def _split(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """What `escape` made of these tokens, up to and with the joiners."""
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(f"{re.escape(t[0])}{JOINER}+(?={re.escape(t[1:])})" for t in ordered))


def render_step(step: Step) -> str:
    """One step without its closing newline: it ends on `<|reasoning_step_end|>`, where sampling stops."""
    return (
        f"{STEP_START}\n"
        f"{NAME_START}{escape(step.name)}{NAME_END}\n"
        f"{THOUGHT_START}{escape(step.thought)}{THOUGHT_END}\n"
        f"{REFLECTION_START}{escape(step.reflection)}{REFLECTION_END}\n"
        f"{STEP_END}"
    )


def render(chain: Chain, tag: str = "") -> str:
    """The authors' bytes. `tag` is written after each step's end and after the answer's (the PRM's input).

    A prefix (no answer) ends on the newline after its last step, or after `<|reasoning_start|>` if it has none.
    """
    body = f"{PROCEED}\n".join(render_step(step) + tag + "\n" for step in chain.steps)
    text = f"{REASONING_START}\n{body}"
    if chain.answer is None:
        return text
    return f"{text}{REASONING_END}\n{ANSWER_LINE}\n{ANSWER_START}{escape(chain.answer)}{ANSWER_END}{tag}"


class _Unfinished(Exception):
    """The text stopped before the grammar did."""


class _Reader:
    """A cursor over the text; every method either moves it forward or says why it cannot."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0

    def skip_space(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def starts(self, literal: str) -> bool:
        """Whether `literal` comes next; unfinished if the text ends inside it."""
        self.skip_space()
        rest = self.text[self.position : self.position + len(literal)]
        if len(rest) < len(literal) and literal.startswith(rest):
            raise _Unfinished
        return rest == literal

    def expect(self, *literals: str) -> str:
        """Consume whichever of `literals` comes next."""
        unfinished = False
        for literal in literals:
            try:
                if self.starts(literal):
                    self.position += len(literal)
                    return literal
            except _Unfinished:
                unfinished = True
        if unfinished:
            raise _Unfinished
        found = self.text[self.position : self.position + 30]
        raise ChainError(f"expected {' or '.join(literals)}, found {found!r}", self.position)

    def field(self, start: str, end: str) -> str:
        """The text between two tags, with no control token inside."""
        self.expect(start)
        match = _CONTROL.search(self.text, self.position)
        if match is None:
            raise _Unfinished
        if match.group() != end:
            raise ChainError(f"expected {end}, found {match.group()}", match.start())
        content = self.text[self.position : match.start()]
        self.position = match.end()
        return unescape(content)


@dataclass(frozen=True)
class Prefix:
    """What `parse_prefix` read: the closed part as a chain, and the `rest`, the text after its last closed step."""

    chain: Chain
    rest: str

    @property
    def finished(self) -> bool:
        return self.chain.answer is not None


def _read_step(reader: _Reader) -> Step:
    reader.expect(STEP_START)
    name = reader.field(NAME_START, NAME_END)
    thought = reader.field(THOUGHT_START, THOUGHT_END)
    reflection = reader.field(REFLECTION_START, REFLECTION_END)
    reader.expect(STEP_END)
    return Step(name, thought, reflection)


def _read_answer(reader: _Reader) -> str:
    if reader.expect(ANSWER_LINE, ANSWER_START) == ANSWER_START:
        reader.position -= len(ANSWER_START)
    return reader.field(ANSWER_START, ANSWER_END)


def parse_prefix(text: str) -> Prefix:
    """Read text that may stop anywhere; `ChainError` if no continuation could make it a chain."""
    reader, steps, closed = _Reader(text), [], 0
    try:
        reader.expect(REASONING_START)
        closed = reader.position
        tag = reader.expect(STEP_START, REASONING_END)
        while tag != REASONING_END:
            if tag == STEP_START:
                reader.position -= len(STEP_START)
            steps.append(_read_step(reader))
            closed = reader.position
            tag = reader.expect(PROCEED, REASONING_END)
        answer = _read_answer(reader)
    except _Unfinished:
        return Prefix(Chain(tuple(steps)), text[closed:])
    reader.skip_space()
    if reader.position < len(text):
        raise ChainError(f"text after the answer: {text[reader.position : reader.position + 30]!r}", reader.position)
    return Prefix(Chain(tuple(steps), answer), "")


def parse(text: str) -> Chain:
    """Read a whole chain; `ChainError` says what is wrong and at which character."""
    prefix = parse_prefix(text)
    if not prefix.finished:
        raise ChainError(f"the text ends before {ANSWER_END}, after {len(prefix.chain.steps)} steps", len(text))
    return prefix.chain


class StepStream:
    """Feed text as it arrives; each step comes out once, as soon as it closes.

    >>> stream = StepStream()
    >>> stream.feed(render(Chain((Step("Read", "Row 1 reads 3.", "It does."),))))
    [Step(name='Read', thought='Row 1 reads 3.', reflection='It does.')]
    """

    def __init__(self) -> None:
        self.text = ""
        self.chain = Chain(())

    def feed(self, text: str) -> list[Step]:
        """The steps that this text closed; `self.chain.answer` is set once the answer closed."""
        self.text += text
        done = len(self.chain.steps)
        self.chain = parse_prefix(self.text).chain
        return list(self.chain.steps[done:])
