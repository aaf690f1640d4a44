"""The exchange formats: rows written out by hand, the authors' bytes, round trips, and what a wrong field says."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainofstep.chain import REASONING_TOKENS, Chain, Step, parse, render
from chainofstep.problems.formats import FORMATS, chain_of, detect, harden, labelled, llama_factory_entry
from chainofstep.records import Example, StepRow, StepScores
from format_rows import (
    ALL,
    CHAIN,
    DPO,
    LABEL,
    PRM,
    PRM800K,
    PROCESSBENCH,
    PROCESSED,
    RAW,
    ROWS,
    SCORED,
    SFT,
    TAGGED,
    TEXT,
    TRL,
    completions,
    line,
    plain,
    turns,
)


@pytest.mark.parametrize("name,row,text,labels", ALL)
def test_a_row_says_what_is_expected_and_is_written_again_as_it_was(name, row, text, labels):
    read = FORMATS[name].read(row, "place-1")
    assert (read.text, read.labels) == (text, labels)
    assert line(FORMATS[name].write(read)) == line(row)


@pytest.mark.parametrize("name,row", [(name, row) for name, row, _, _ in ALL])
def test_a_row_tells_its_format(name, row):
    assert detect([row, row]) is FORMATS[name]


def test_every_format_has_a_row_here():
    assert {name for name, *_ in ALL} == FORMATS.keys()


def test_rows_of_two_formats_or_of_none_tell_nothing():
    assert detect([SFT, DPO]) is None
    assert detect([]) is None
    assert detect([{"question": "?"}]) is None


# The authors' formats


def test_examples_of_the_authors_rows():
    example = FORMATS["sharegpt-step"].read(SFT, "x").example
    assert (example.id, example.question, example.images) == ("q1", "Sum of row 2?", ("a.png",))
    assert (example.answer, example.answer_kind) == ("8", "number")
    assert FORMATS["dpo"].read(DPO, "place-1").example.id == "place-1"
    assert FORMATS["dpo"].read(DPO, "x").rejected == "no chain"
    assert FORMATS["prm-scored"].read(SCORED, "x").example.id == "7"


def test_an_answer_known_to_be_wrong_is_no_gold_answer():
    assert FORMATS["prm-train"].read(PRM, "x").example.answer == ""


def test_a_written_row_is_the_authors_line():
    example = Example("q1", "Sum of row 2?", ("a.png",), "8", "number")
    wanted = (
        '{"id": "q1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nSum of row 2?"}, '
        '{"from": "gpt", "value": ' + line(TEXT) + "}]}"
    )
    assert line(FORMATS["sharegpt-step"].write(StepRow(example, TEXT))) == wanted
    row = FORMATS["prm-train"].write(StepRow(example, TEXT, StepScores((1.0, 0.0), 0.0)))
    assert row["conversations"][1]["value"] == TAGGED + "<|split_token|>" + LABEL


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": turns("Sum?", TEXT)},
        {"id": 3, "image": "", "conversations": turns("Sum?", TEXT)},
        {"image": ["a.png"], "conversations": turns("<image>\nSum?", TEXT)},
        {"image": ["a.png", "b.png"], "conversations": turns("<image>\n<image>\nSum?", TEXT), "length": 9},
        {"image": ["a.png", "b.png"], "conversations": turns("Image-1: <image>\nImage-2: <image>\nSum?", TEXT)},
        {"image": "a.png", "conversations": turns("Sum?", TEXT)},
        {"image": [], "conversations": turns("Sum?", "no chain", system="Think.")},
        {"conversations": turns("Sum?", TEXT), "id": "late", "extra": {"a": [1, 1.0, True, None]}},
    ],
)
def test_unusual_rows_come_back_byte_for_byte(row):
    assert line(FORMATS["sharegpt-step"].write(FORMATS["sharegpt-step"].read(row, "x-1"))) == line(row)


def test_picture_marks_are_no_part_of_the_question():
    two = {"image": ["a", "b"], "conversations": turns("<image>\n<image>\nSum?", TEXT)}
    assert FORMATS["sharegpt-step"].read(two, "x").example.question == "Sum?"
    placed = {"image": ["a", "b"], "conversations": turns("From <image> to <image>?", TEXT)}
    read = FORMATS["sharegpt-step"].read(placed, "x")
    assert read.example.question == "From <image> to <image>?"
    assert FORMATS["ms-swift"].write(read)["messages"][0]["content"] == "From <image> to <image>?"


def test_what_was_kept_is_not_written_once_the_row_says_something_else():
    read = FORMATS["prm-raw"].read({**RAW, "step_labels": [1.0, 0.0], "note": "kept"}, "x")
    harder = FORMATS["prm-raw"].write(StepRow(read.example, read.text, StepScores((0.0, 0.0))))
    assert harder["step_labels"] == [0, 0] and "answer_label" not in harder and harder["note"] == "kept"
    assert "step_labels" not in FORMATS["prm-raw"].write(StepRow(read.example, read.text))


@pytest.mark.parametrize(
    "reply,reason",
    [
        (TAGGED + LABEL, "wrong split: <|split_token|> occurs 0 times, not once"),
        (f"{TAGGED}<|split_token|>{LABEL}<|split_token|>", "wrong split: <|split_token|> occurs 2 times, not once"),
        (f"{TAGGED}<|split_token|>{LABEL.replace('Row 2', 'Row 3')}", "wrong split: input and label are not the same"),
        (f"{TAGGED}<|split_token|>{LABEL.replace('к-и', 'ки')}", "wrong split: input and label are not the same"),
        (f"{TEXT}ки<|split_token|>{TEXT}к+и", "labels do not fit: 1 tags for 2 steps and 1 answers"),
        ("Hm.ки<|split_token|>Hm.к+и", "no chain: expected <|reasoning_start|>, found 'Hm.'"),
    ],
)
def test_prm_rows_that_do_not_split_say_why(reply, reason):
    with pytest.raises(ValueError, match="^" + reason.replace("|", r"\|")):
        FORMATS["prm-train"].read({"conversations": turns("Sum?", reply)}, "x")


def test_a_tag_inside_a_step_is_seen():
    inside = TAGGED.replace("Row 2.", "Row 2ки.").replace(
        "<|reasoning_step_end|>ки\n<|reasoning_p", "<|reasoning_step_end|>\n<|reasoning_p"
    )
    label = inside.replace("ки", "к+и")
    with pytest.raises(ValueError, match="labels do not fit: 3 tags"):
        FORMATS["prm-train"].read({"conversations": turns("Sum?", f"{inside}<|split_token|>{label}")}, "x")


# The published sets


def test_prm800k_goes_through_written_steps_and_ends_at_an_error():
    steps = completions(
        [[{"text": "Add.", "rating": 1}], [{"text": "Hm.", "rating": 0}], [{"text": "No.", "rating": -1}]]
    )
    steps[1] |= {"chosen_completion": None, "human_completion": {"text": "Mine.", "rating": None, "source": "human"}}
    steps[2] |= {"chosen_completion": None}
    row = {"question": PRM800K["question"], "label": {"steps": steps, "finish_reason": "found_error"}}
    read = FORMATS["prm800k"].read(row, "x")
    assert (read.text, read.labels) == (plain("Add.", "Mine.", "No."), StepScores((1.0, 1.0, 0.0)))
    assert FORMATS["prm800k"].write(read) == row


def test_prm800k_labels_end_at_a_null_rating():
    rated = [[{"text": "A.", "rating": 1}], [{"text": "B.", "rating": None}], [{"text": "C.", "rating": 1}]]
    read = FORMATS["prm800k"].read({**PRM800K, "label": {"steps": completions(rated)}}, "x")
    assert (read.text, read.labels) == (plain("A.", "B.", "C."), StepScores((1.0,)))
    assert labelled(read) == (Chain((Step("", "A.", ""),)), StepScores((1.0,)))


def test_processbench_of_a_right_solution():
    row = {**PROCESSBENCH, "steps": ["Add.", "\\boxed{7}"], "final_answer_correct": True, "label": -1}
    read = FORMATS["processbench"].read(row, "x")
    assert (read.labels, read.example.answer) == (StepScores((1.0, 1.0), 1.0), "7")


def test_processbench_is_trained_on_up_to_the_first_wrong_step():
    read = FORMATS["processbench"].read(PROCESSBENCH, "x")
    assert labelled(read) == (Chain((Step("", "Add.", ""), Step("", "It is 9.", ""))), StepScores((1.0, 0.0)))


def test_structured_steps_become_plain_ones():
    example = Example("q", "Sum?", ("a.png",), "7", "number")
    row = FORMATS["visualprm400k"].write(StepRow(example, TEXT, StepScores((0.5, 0.25), 0.1)))
    texts = [step["step"] for step in row["steps_with_score"]]
    assert texts == ["Read\nIt shows 3 – 4.\nRow 2.", "Add\n3 + 4 = 8.\nYes.\n\nFinal answer: 8"]
    assert FORMATS["visualprm400k"].read(row, "x").text == plain(*texts, answer="8")


@pytest.mark.parametrize(
    "step,answer",
    [("Final answer: 7", "7"), ("So **Answer:** B.", "B."), ("It is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
     ("7\n\n# Answer\n\n320,000", "320,000"), ("Answer: \\boxed{x}", "x"), ("It is 7.", None), ("\\boxed{7", None)],
)  # fmt: skip
def test_the_answer_of_a_plain_solution(step, answer):
    row = {**PROCESSBENCH, "steps": [step], "label": -1}
    assert chain_of(FORMATS["processbench"].read(row, "x")).answer == answer


# The trainers


def test_plain_stepwise_rows_are_steps_without_tokens():
    row = {"prompt": "Sum?", "completions": ["Add.", "So 7."], "labels": [True, False]}
    read = FORMATS["trl-stepwise"].read(row, "x")
    assert (read.text, read.labels) == (plain("Add.", "So 7."), StepScores((1.0, 0.0)))
    assert FORMATS["trl-stepwise"].write(read) == row


def test_messages_of_text_are_read_for_trl():
    messages = [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "Sum?"},
        {"role": "assistant", "content": TEXT},
    ]
    row = {"messages": messages, "images": []}
    read = FORMATS["trl"].read(row, "x")
    assert (read.example.question, read.text) == ("Sum?", TEXT)
    assert FORMATS["trl"].write(read) == row


def test_trl_takes_the_rows():
    data_utils = pytest.importorskip("trl.data_utils")
    assert data_utils.is_conversational(TRL)
    prepared = data_utils.prepare_multimodal_messages(TRL["prompt"] + TRL["completion"], images=["opened"])
    assert prepared[0]["content"] == [{"type": "image", "image": "opened"}, {"type": "text", "text": "Sum?"}]


def test_the_entry_for_llama_factory():
    columns = {"messages": "conversations", "images": "images"}
    assert llama_factory_entry("steps", "steps.jsonl") == {
        "steps": {"file_name": "steps.jsonl", "formatting": "sharegpt", "columns": columns}
    }
    pairs = llama_factory_entry("steps", "steps.jsonl", pairs=True)["steps"]
    assert pairs["ranking"] is True
    assert pairs["columns"] == columns | {"chosen": "chosen", "rejected": "rejected"}


# What a row lacks


@pytest.mark.parametrize(
    "name,row,reason",
    [
        ("prm-train", StepRow(Example("e", "?", (), "", "word"), TEXT), "no step labels"),
        ("dpo", StepRow(Example("e", "?", (), "", "word"), TEXT), "no rejected text"),
        ("sharegpt-step", StepRow(Example("e", "?", (), "", "word")), "no text"),
        ("prm-raw", StepRow(Example("e", "?", (), "", "word"), "Hm."), "no chain"),
        (
            "prm-train",
            StepRow(Example("e", "?", (), "", "word"), TEXT, StepScores((1.0, 0.3))),
            "soft labels: 0.3 at step 2, give a threshold",
        ),
        (
            "trl-stepwise",
            StepRow(Example("e", "?", (), "", "word"), TEXT, StepScores((1.0, 0.0), 0.5)),
            "soft labels: 0.5 at the answer",
        ),
        (
            "prm-train",
            StepRow(Example("e", "?", (), "", "word"), TEXT, StepScores((1.0,) * 3)),
            "labels do not fit: 3 for 2 steps",
        ),
    ],
)
def test_a_row_that_a_format_cannot_hold_says_what_it_lacks(name, row, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        FORMATS[name].write(row)


def test_a_threshold_makes_labels_hard():
    row = harden(StepRow(Example("e", "?", (), "", "word"), TEXT, StepScores((0.5, 0.6), 0.1)), 0.5)
    assert row.labels == StepScores((0.0, 1.0), 0.0)


@pytest.mark.parametrize(
    "name,row,reason",
    [
        ("sharegpt-step", {"image": "a"}, "missing field: conversations; the row has image"),
        ("sharegpt-step", {**SFT, "image": 3}, "wrong field: image: expected a path or a list of paths, found 3"),
        ("sharegpt-step", {**SFT, "id": None}, "wrong field: id: expected text or a whole number, found None"),
        ("sharegpt-step", {"conversations": turns("?", TEXT) * 2}, "wrong field: conversations: expected turns of"),
        ("prm-raw", {**RAW, "reason_step_num": 3}, "wrong field: reason_step_num: expected 2"),
        ("prm-raw", {**RAW, "step_labels": [1, 2]}, r"wrong field: step_labels\[1\]: expected a number in"),
        ("prm-raw", {**RAW, "step_labels": [1, 1, 1]}, "labels do not fit: 3 for 2 steps"),
        ("visualprocessbench", {**PROCESSED, "response": "x"}, "wrong field: response: expected an object"),
        ("processbench", {**PROCESSBENCH, "label": 3}, "wrong field: label: expected -1 or the number"),
        ("rows", {"example": {"id": "e"}}, "missing field: example.question"),
        ("rows", {**ROWS, "text": 3}, "wrong field: text"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found(name, row, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        FORMATS[name].read(row, "x")


# Properties

TEXTS = st.text(st.sampled_from("ab 3\nки\u2060<|é") | st.sampled_from("xyz"), min_size=1, max_size=8)
WORDS = st.one_of(TEXTS, st.sampled_from([*REASONING_TOKENS, "ки", "к+и", "<|split_token|>x"])).filter(str.strip)
STEPS = st.builds(Step, WORDS, WORDS, WORDS)
CHAINS = st.builds(Chain, st.lists(STEPS, min_size=1, max_size=4).map(tuple), WORDS)
HARD = st.sampled_from([0.0, 1.0])


@st.composite
def step_rows(draw):
    chain, pictures = draw(CHAINS), draw(st.integers(0, 2))
    names = tuple(f"p{number}.png" for number in range(pictures))
    example = Example(draw(st.text("ab1", min_size=1)), draw(WORDS), names, "", "word")
    steps = draw(st.lists(HARD, min_size=len(chain.steps), max_size=len(chain.steps)))
    return StepRow(example, render(chain), StepScores(tuple(steps), draw(HARD)), draw(WORDS))


@settings(max_examples=60, deadline=None)
@given(step_rows())
def test_what_is_written_is_read(row):
    for known in FORMATS.values():
        if known.name == "prm-train" and "<|split_token|>" in row.text:
            continue
        again = known.read(known.write(row), row.example.id)
        assert again.example.question == row.example.question
        assert again.example.images == row.example.images or known.name in ("prm800k", "processbench")
        if "pair" in known.holds:
            assert (again.text, again.rejected) == (row.text, row.rejected)
        if "labels" in known.holds and known.name not in ("processbench", "rows"):
            assert again.labels.steps == row.labels.steps
        if known.name in ("sharegpt-step", "prm-train", "prm-raw", "prm-scored", "trl", "trl-stepwise"):
            assert again.text == row.text
        once = known.write(again)
        assert line(once) == line(known.write(known.read(once, row.example.id)))


@pytest.mark.parametrize("name,row", [(name, row) for name, row, _, _ in ALL])
def test_rows_of_one_format_are_written_in_every_other_or_refused_with_a_reason(name, row):
    read = FORMATS[name].read(row, "x")
    for other in FORMATS.values():
        try:
            written = other.write(read)
        except ValueError as error:
            assert str(error).partition(":")[0] in {"no step labels", "no rejected text", "soft labels", "no text"}
        else:
            assert other.read(written, "x").example.question == read.example.question


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
                    max_leaves=4)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_any_value_in_any_field_is_read_or_refused(case, data):
    name, row = case[0], json.loads(line(case[1]))
    where = row
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not isinstance(where[key], dict | list) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(JSON)
    assert detect([row]) in (None, *FORMATS.values())
    try:
        assert isinstance(FORMATS[name].read(row, "x"), StepRow)
    except ValueError as error:
        assert str(error)


def test_the_hand_written_text_is_the_chain():
    assert parse(TEXT) == CHAIN
