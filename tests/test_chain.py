"""The chain format: the authors' bytes, what `parse` forgives and refuses, prefixes, streaming, look-alikes."""

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainofstep.chain import (
    ALL_TOKENS,
    ANSWER_END,
    JOINER,
    PRM_TOKENS,
    REASONING_TOKENS,
    STEP_END,
    STEP_TAG,
    Chain,
    ChainError,
    Step,
    StepStream,
    escape,
    parse,
    parse_prefix,
    render,
    render_step,
    unescape,
)

CHAIN = Chain((Step("Read row 2", "It reads 3, 4.", "3, 4 in row 2."), Step("Add", "3 + 4 = 7.", "It is 7.")), "7")

# Written out by hand from the authors' serializer (`get_think` in `score_with_prm.py`), one source line a text line.
TEXT = (
    "<|reasoning_start|>\n"
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Read row 2<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>It reads 3, 4.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>3, 4 in row 2.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>\n"
    "<|reasoning_proceed|>\n"
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Add<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>3 + 4 = 7.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>It is 7.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>\n"
    "<|reasoning_end|>\n"
    "Answer:\n"
    "<|answer_start|>7<|answer_end|>"
)
TAGGED = (
    "<|reasoning_start|>\n"
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Read row 2<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>It reads 3, 4.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>3, 4 in row 2.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>\u043a\u0438\n"
    "<|reasoning_proceed|>\n"
    "<|reasoning_step_start|>\n"
    "<|reasoning_step_name_start|>Add<|reasoning_step_name_end|>\n"
    "<|reasoning_step_thought_start|>3 + 4 = 7.<|reasoning_step_thought_end|>\n"
    "<|reasoning_step_reflection_start|>It is 7.<|reasoning_step_reflection_end|>\n"
    "<|reasoning_step_end|>\u043a\u0438\n"
    "<|reasoning_end|>\n"
    "Answer:\n"
    "<|answer_start|>7<|answer_end|>\u043a\u0438"
)

#: Text that tries to be taken for control tokens: their pieces, joiners, the Cyrillic tag letters, white space.
_PIECES = [*ALL_TOKENS, "<|", "|>", "<", "|", "reasoning_start|>", "answer_end", "\u043a", "\u0438", "+", "-"]
hostile = st.lists(st.sampled_from([*_PIECES, JOINER, JOINER * 2, "\n", " ", "Answer:", "a"]), max_size=12).map("".join)
content = st.one_of(st.text(max_size=30), hostile)
steps = st.builds(Step, content, content, content)
chains = st.builds(Chain, st.lists(steps, max_size=3).map(tuple), st.none() | content)
whole_chains = st.builds(Chain, st.lists(steps, max_size=3).map(tuple), content)


# --- the authors' bytes


def test_the_authors_bytes():
    assert render(CHAIN) == TEXT


def test_the_authors_bytes_with_a_tag_after_each_step_and_the_answer():
    assert render(CHAIN, tag=STEP_TAG) == TAGGED


def test_a_prefix_ends_on_the_newline_after_its_last_step():
    first_step = TEXT.index("<|reasoning_proceed|>")
    assert render(CHAIN.prefix(1)) == TEXT[:first_step]
    assert render(CHAIN.prefix(0)) == "<|reasoning_start|>\n"


def test_a_step_alone_ends_where_sampling_stops():
    assert render_step(CHAIN.steps[0]) == TEXT[len("<|reasoning_start|>\n") : TEXT.index(STEP_END) + len(STEP_END)]


def test_the_tokens_in_the_authors_order():
    names = ["start", "end", "proceed", "backtrack", "step_start", "step_end"]
    names += ["step_name_start", "step_name_end", "step_thought_start", "step_thought_end"]
    names += ["step_reflection_start", "step_reflection_end"]
    reasoning = [f"<|reasoning_{name}|>" for name in names] + ["<|answer_start|>", "<|answer_end|>"]
    assert list(REASONING_TOKENS) == reasoning
    assert list(PRM_TOKENS) == ["\u043a\u0438", "\u043a+\u0438", "\u043a-\u0438"]
    assert list(ALL_TOKENS) == reasoning + list(PRM_TOKENS)
    assert (len(REASONING_TOKENS), len(PRM_TOKENS)) == (14, 3)
    assert all(description for description in ALL_TOKENS.values())


# --- what parse forgives


def test_the_authors_bytes_are_read_back():
    assert parse(TEXT) == CHAIN


def test_the_figure_of_the_paper_has_no_answer_line():
    figure = TEXT.replace("Answer:\n", "").replace("<|answer_start|>7", "<|answer_start|>The answer is 7.")
    assert parse(figure) == Chain(CHAIN.steps, "The answer is 7.")


@pytest.mark.parametrize("space", ["", " ", "\n\n", "\r\n", "\t \u00a0"])
def test_any_white_space_between_tags(space):
    assert parse(TEXT.replace("\n", space)) == CHAIN
    assert parse(space + TEXT + space) == CHAIN


def test_white_space_inside_a_field_is_content():
    padded = TEXT.replace("It reads 3, 4.", "\n It reads 3, 4. ")
    assert parse(padded).steps[0].thought == "\n It reads 3, 4. "


def test_an_answer_without_steps():
    assert parse("<|reasoning_start|><|reasoning_end|><|answer_start|>7<|answer_end|>") == Chain((), "7")


# --- what parse refuses, and where


def swapped(text, first, second):
    return text.replace(first, "\0").replace(second, first).replace("\0", second)


WRONG = {
    "no opening tag": (
        TEXT.removeprefix("<|reasoning_start|>\n"),
        "expected <|reasoning_start|>, found '<|reasoning_step_start|>\\n<|rea'",
        0,
    ),
    "a missing tag": (
        TEXT.replace("<|reasoning_step_thought_start|>It", "It"),
        "expected <|reasoning_step_thought_start|>, found 'It reads 3, 4.<|reasoning_step'",
        TEXT.index("<|reasoning_step_thought_start|>"),
    ),
    "an unclosed field": (
        TEXT.replace("<|reasoning_step_name_end|>", "", 1),
        "expected <|reasoning_step_name_end|>, found <|reasoning_step_thought_start|>",
        TEXT.index("<|reasoning_step_name_end|>") + 1,
    ),
    "a wrong order": (
        swapped(TEXT, "thought", "reflection"),
        "expected <|reasoning_step_thought_start|>, found '<|reasoning_step_reflection_st'",
        TEXT.index("<|reasoning_step_thought_start|>"),
    ),
    "a nested tag": (
        TEXT.replace("It reads", "It <|reasoning_step_start|> reads"),
        "expected <|reasoning_step_thought_end|>, found <|reasoning_step_start|>",
        TEXT.index("It reads") + len("It "),
    ),
    "no proceed between steps": (
        TEXT.replace("<|reasoning_proceed|>\n", ""),
        "expected <|reasoning_proceed|> or <|reasoning_end|>, found '<|reasoning_step_start|>\\n<|rea'",
        TEXT.index("<|reasoning_proceed|>"),
    ),
    "another word before the answer": (
        TEXT.replace("Answer:", "Result:"),
        "expected Answer: or <|answer_start|>, found 'Result:\\n<|answer_start|>7<|ans'",
        TEXT.index("Answer:"),
    ),
    "text after the answer": (TEXT + "\n So it is.", "text after the answer: 'So it is.'", len(TEXT) + 2),
    "a second answer": (
        TEXT + "<|answer_start|>8<|answer_end|>",
        "text after the answer: '<|answer_start|>8<|answer_end|'",
        len(TEXT),
    ),
    "tagged text": (
        TAGGED,
        "expected <|reasoning_proceed|> or <|reasoning_end|>, found '\u043a\u0438\\n<|reasoning_proceed|>\\n<|rea'",
        TAGGED.index("\u043a\u0438"),
    ),
    "plain text": ("It is 7.", "expected <|reasoning_start|>, found 'It is 7.'", 0),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_and_where(case):
    text, problem, position = WRONG[case]
    for read in (parse, parse_prefix):
        with pytest.raises(ChainError) as caught:
            read(text)
        assert (caught.value.problem, caught.value.position) == (problem, position)
        assert str(caught.value) == f"{problem} (character {position})"


@pytest.mark.parametrize(("text", "steps_read"), [("", 0), (TEXT[:-1], 2), (TEXT[: TEXT.index("<|reasoning_pr")], 1)])
def test_cut_text_is_no_chain(text, steps_read):
    with pytest.raises(ChainError) as caught:
        parse(text)
    assert caught.value.problem == f"the text ends before <|answer_end|>, after {steps_read} steps"
    assert caught.value.position == len(text)


# --- prefixes and streams


def test_every_cut_point_gives_the_steps_closed_so_far():
    for cut in range(len(TEXT)):
        text = TEXT[:cut]
        prefix = parse_prefix(text)
        closed = text.count(STEP_END)
        assert prefix.chain == CHAIN.prefix(closed), cut
        assert not prefix.finished
        opened = "<|reasoning_start|>" if cut >= len("<|reasoning_start|>") else ""
        assert prefix.rest == text[(text.rindex(STEP_END) + len(STEP_END)) if closed else len(opened) :], cut
    whole = parse_prefix(TEXT)
    assert whole.finished and whole.chain == CHAIN and whole.rest == ""


@pytest.mark.parametrize("size", [1, 7, 40, len(TEXT)])
def test_a_stream_yields_each_step_once_as_it_closes(size):
    stream, arrived, seen = StepStream(), [], ""
    for start in range(0, len(TEXT), size):
        piece = TEXT[start : start + size]
        seen += piece
        arrived += stream.feed(piece)
        assert len(arrived) == seen.count(STEP_END)
    assert tuple(arrived) == CHAIN.steps
    assert stream.chain == CHAIN


def test_a_stream_says_at_once_what_can_become_no_chain():
    stream = StepStream()
    stream.feed("<|reasoning_start|>\n")
    with pytest.raises(ChainError, match=r"found 'It is 7\.' \(character 20\)"):
        stream.feed("It is 7.")


@given(chain=whole_chains, data=st.data())
def test_a_prefix_and_its_continuation_are_the_chain(chain, data):
    text = render(chain)
    count = data.draw(st.integers(0, len(chain.steps)))
    start = render(chain.prefix(count))
    assert text.startswith(start)
    assert parse(start + text[len(start) :]) == chain
    assert parse_prefix(start).chain == chain.prefix(count)


@given(chain=whole_chains, data=st.data())
def test_a_cut_anywhere_never_fails_and_never_invents(chain, data):
    text = render(chain)
    prefix = parse_prefix(text[: data.draw(st.integers(0, len(text) - 1))])
    assert prefix.chain == chain.prefix(len(prefix.chain.steps))


# --- text that looks like a control token


@given(chain=chains)
@settings(max_examples=300)
def test_render_and_parse_are_inverses(chain):
    text = render(chain)
    assert parse_prefix(text).chain == chain
    if chain.answer is not None:
        assert parse(text) == chain


@given(chain=chains)
def test_a_rendered_chain_has_only_its_own_tokens(chain):
    text, steps_there, answered = render(chain, tag=STEP_TAG), len(chain.steps), chain.answer is not None
    assert text.count(STEP_END) == steps_there
    assert text.count(ANSWER_END) == answered
    assert text.count(STEP_TAG) == steps_there + answered
    assert "\u043a+\u0438" not in text and "<|reasoning_backtrack|>" not in text


@given(text=content)
@settings(max_examples=300)
def test_escape_and_unescape_are_inverses(text):
    escaped = escape(text)
    assert unescape(escaped) == text
    assert not any(token in escaped for token in ALL_TOKENS)
    assert unescape(escape(escaped)) == escaped


@given(text=st.lists(st.sampled_from(["<image>", "<", "image>", JOINER, STEP_TAG, "x"]), max_size=10).map("".join))
def test_a_models_own_tokens_are_escaped_too(text):
    escaped = escape(text, also=("<image>",))
    assert "<image>" not in escaped and STEP_TAG not in escaped
    assert unescape(escaped, also=("<image>",)) == text


def test_only_what_looks_like_a_token_is_changed():
    assert escape("2 < 3 | a <|other|> \u043a \u0438") == "2 < 3 | a <|other|> \u043a \u0438"
    assert escape("\u043a\u0438\u043d\u043e") == f"\u043a{JOINER}\u0438\u043d\u043e"
    assert escape("<|answer_start|>") == f"<{JOINER}|answer_start|>"
    assert escape(f"<{JOINER}|answer_start|>") == f"<{JOINER}{JOINER}|answer_start|>"


# --- the document

DOCUMENT = (Path(__file__).parent.parent / "docs" / "format.md").read_text("utf-8")


def test_the_example_of_the_document_is_a_chain_and_its_errors_are_ours():
    _, example, _, errors, *_ = DOCUMENT.split("```")
    text = example.strip("\n")
    assert render(parse(text)) == text
    broken = [
        text.replace("<|reasoning_step_thought_start|>Row 2", "Row 2"),
        text.replace("Row 2 reads", "Row 2 <|reasoning_step_start|>reads"),
        text[: text.index("<|reasoning_proceed|>") - 1],
        f"{text}\nSo it is.",
    ]
    for wrong, line in zip(broken, errors.split("\n")[1:-1], strict=True):
        with pytest.raises(ChainError) as caught:
            parse(wrong)
        assert str(caught.value) == line


def test_the_tokens_of_the_document_are_ours():
    rows = re.findall(r"^\| (\d+) \| `(.+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
    listed = [(int(number), token.replace("\\|", "|"), words) for number, token, words in rows]
    assert listed == [(number, *row) for number, row in enumerate(ALL_TOKENS.items(), start=1)]


def test_an_error_goes_between_processes():
    error = pickle.loads(pickle.dumps(ChainError("no thought", 7)))
    assert (error.problem, error.position, str(error)) == ("no thought", 7, "no thought (character 7)")
