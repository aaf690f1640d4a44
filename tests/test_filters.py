"""Format filters: each removes what it is there for and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.chain import Chain, Step, render
from chainofstep.problems.filters import FILTERS, MEANINGS, FilterConfig, FilterReport, RowFilter, refusal
from chainofstep.problems.skeleton import Draft, read_skeleton, read_structured, write_skeleton
from chainofstep.records import Example, Reject, StepRow, StepScores

EXAMPLE = Example("q1", "How many apples are in the two baskets?", ("a.png",), "12", "number")
NAMES = ("Look at the left basket", "Look at the right basket", "Note the counts", "Add the counts", "Conclude")
THOUGHTS = (
    "The left basket holds five red apples in two rows.",
    "The right basket holds seven green apples, three in front.",
    "So the counts to work with are five and seven.",
    "Five plus seven is twelve: 5 + 7 = 12.",
    "Both baskets together hold that many pieces of fruit.",
)
STEPS = tuple(Step(name, thought, "The picture shows it.") for name, thought in zip(NAMES, THOUGHTS, strict=True))
GOOD = Draft(STEPS, (1, 2, 3, 4, 5), "12")


def with_step(place, **changes):
    steps = list(STEPS)
    steps[place] = replace(steps[place], **changes)
    return replace(GOOD, steps=tuple(steps))


BROKEN = {
    "fields": with_step(2, reflection=" "),
    "numbering": replace(GOOD, numbers=(1, 2, 4, 5, 6)),
    "step_count": Draft(STEPS[:4], (1, 2, 3, 4), "12"),
    "answer": replace(GOOD, answer=None),
    "right_answer": replace(GOOD, answer="13"),
    "control_tokens": with_step(1, thought="It says <|answer_end|> below."),
    "leak": with_step(4, thought="This agrees with the reference answer."),
    "early_answer": with_step(0, thought="The answer is 12, as will be shown."),
    "length": with_step(3, thought="Yes."),
    "repeats": with_step(4, thought=THOUGHTS[3]),
}


def test_a_good_draft_passes():
    assert refusal(EXAMPLE, GOOD, FilterConfig()) is None


@pytest.mark.parametrize("name", BROKEN)
def test_each_filter_removes_its_own_and_can_be_switched_off(name):
    refused = refusal(EXAMPLE, BROKEN[name], FilterConfig())
    assert refused is not None and refused.startswith(f"{name}: ")
    without = FilterConfig(without=(name,))
    if name == "answer":  # a missing answer is no right one either
        assert refusal(EXAMPLE, BROKEN[name], without).startswith("right_answer: ")
    else:
        assert refusal(EXAMPLE, BROKEN[name], without) is None


def test_every_filter_is_tried_and_explained():
    assert set(BROKEN) | {"parses"} == set(FILTERS) == set(MEANINGS)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (replace(GOOD, numbers=(2, 3, 4, 5, 6)), "numbering: the first step is number 2"),
        (BROKEN["numbering"], "numbering: step 4 follows step 2"),
        (BROKEN["step_count"], "step_count: 4 steps, wanted 5 to 10"),
        (Draft(STEPS * 3, (), "12"), "step_count: 15 steps, wanted 5 to 10"),
        (BROKEN["right_answer"], "right_answer: answer '13', reference '12'"),
        (BROKEN["control_tokens"], "control_tokens: <|answer_end|> stands as text in step 2"),
        (BROKEN["leak"], "leak: step 5 speaks of 'reference answer'"),
        (BROKEN["repeats"], "repeats: steps 4 and 5 say nearly the same"),
        (with_step(0, thought="x" * 4001), "length: a field of step 1 has 4001 characters, at most 4000"),
        (with_step(0, name="x" * 201), "length: the name of step 1 has 201 characters, at most 200"),
    ],
)
def test_reasons_say_what_was_found(draft, reason):
    assert refusal(EXAMPLE, draft, FilterConfig()) == reason


@pytest.mark.parametrize(
    "text",
    [
        "I have to find the answer by counting.",
        "To answer the question, count both baskets.",
        "The answer is to be found in the picture.",
        "The question asks for the answer in apples.",
        "The correct option is not obvious yet.",
    ],
)
def test_speaking_of_an_answer_is_not_stating_it(text):
    assert refusal(EXAMPLE, with_step(0, thought=text), FilterConfig()) is None


@pytest.mark.parametrize(
    "text", ["The answer is (B).", "Answer: 12", "the correct option is C", "So the answer to the question is 12."]
)
def test_stating_the_answer_first_is_seen(text):
    refused = refusal(EXAMPLE, with_step(0, reflection=text), FilterConfig())
    assert refused is not None and refused.startswith("early_answer: step 1 says")


@pytest.mark.parametrize(
    "text", ["the given answer", "ground truth", "ground-truth", "provided explanation", "answer key"]
)
def test_leaks_are_seen_in_any_field(text):
    assert refusal(EXAMPLE, with_step(2, name=f"Compare with {text}"), FilterConfig()).startswith("leak: step 3")


def test_bounds_can_be_set():
    assert refusal(EXAMPLE, BROKEN["step_count"], FilterConfig(minimum_steps=3)) is None


def test_an_unknown_filter_is_named():
    with pytest.raises(ValueError, match="no filter 'lenght'; there are parses, fields"):
        FilterConfig(without=("lenght",))


def test_rows_are_filtered_by_their_text():
    row = StepRow(EXAMPLE, render(GOOD.chain))
    assert RowFilter()(row) is None
    assert RowFilter()(replace(row, text="nothing")).startswith("parses: expected <|reasoning_start|>")
    assert RowFilter()(replace(row, text=None)).startswith("parses: ")
    unreadable = replace(row, example=replace(EXAMPLE, answer="many"))
    assert RowFilter()(unreadable).startswith("right_answer: example q1: its gold answer")


def test_labelled_rows_may_have_wrong_answers():
    row = StepRow(EXAMPLE, render(Chain(STEPS, "13")))
    assert RowFilter()(row).startswith("right_answer: ")
    assert RowFilter()(replace(row, labels=StepScores((1.0,) * 5, 0.0))) is None
    assert RowFilter()(replace(row, rejected="worse")) is None


def test_numbers_are_taken_from_names_where_all_carry_one():
    named = tuple(replace(step, name=f"Step {n}: {step.name}") for n, step in zip((1, 2, 3, 5, 6), STEPS, strict=True))
    assert RowFilter()(StepRow(EXAMPLE, render(Chain(named, "12")))) == "numbering: step 5 follows step 3"
    assert RowFilter()(StepRow(EXAMPLE, render(Chain((STEPS[0], *named[1:]), "12")))) is None


def test_a_report_adds_up_and_shows_a_few():
    report = FilterReport(shown=2)
    report.keep()
    for number in range(3):
        report.remove(Reject(f"f:{number}", "leak: step 1 speaks of 'answer key'", {"text": "t" * 2000}))
    assert (report.read, report.kept, report.removed) == (4, 1, {"leak": 3})
    assert [example["place"] for example in report.examples["leak"]] == ["f:0", "f:1"]
    assert len(report.examples["leak"][0]["text"]) == 600


# The skeleton

SKELETON = """Here are the steps.

### <Step 1: Look>
<Detailed Thinking>: Two baskets.
Each has apples.
<Reflection>: The picture shows them.
### <Step 2: Add>
<Detailed Thinking>: 5 + 7 = 12.
<Reflection>: Easy to slip here.
### <Answer>
12
"""


def test_the_skeleton_is_read():
    steps = (
        Step("Look", "Two baskets.\nEach has apples.", "The picture shows them."),
        Step("Add", "5 + 7 = 12.", "Easy to slip here."),
    )
    assert read_skeleton(SKELETON) == Draft(steps, (1, 2), "12")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("### <Step 1: Look>", "### Step 1: Look"),
        ("### <Step 1: Look>", "## **Step 1: Look**"),
        ("### <Step 1: Look>", "#### <Step 1. Look>"),
        ("<Detailed Thinking>: Two", "**Detailed Thinking**: Two"),
        ("<Detailed Thinking>: Two", "Detailed thinking: Two"),
        ("<Reflection>: The", "**<Reflection>**: The"),
        ("### <Answer>\n12", "### <Answer>: 12"),
        ("### <Answer>\n12", "### Final Answer\n\n12"),
    ],
)
def test_small_departures_read_the_same(old, new):
    assert old in SKELETON
    assert read_skeleton(SKELETON.replace(old, new)) == read_skeleton(SKELETON)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot help with this.", "no line `### <Step 1: ...>` in 'I cannot help with this.'"),
        (SKELETON + "### <Step 3: More>\n", "the answer section is not the last one"),
        (SKELETON + "### <Answer>\n13\n", "the answer section is not the last one, or there are several"),
        (SKELETON.replace("<Reflection>: Easy", "<Detailed Thinking>: Easy"), "step 2 has two fields"),
        (SKELETON.replace("<Detailed Thinking>: 5", "5"), "step 2 has text before its fields: '5 + 7 = 12.'"),
    ],
)
def test_what_is_no_skeleton_says_why(text, reason):
    with pytest.raises(ValueError) as error:
        read_skeleton(text)
    assert reason in str(error.value)


def test_missing_parts_are_left_to_the_filters():
    draft = read_skeleton("### <Step 1: Look>\n<Detailed Thinking>: Two baskets.\n")
    assert draft == Draft((Step("Look", "Two baskets.", ""),), (1,), None)


FIELD = (
    st.text(
        st.characters(codec="utf-8", exclude_characters="#<>*[]:\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1
    )
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
    .filter(lambda text: not text.lower().startswith(("reflection", "detailed")))
)


@given(st.lists(st.builds(Step, FIELD, FIELD, FIELD), min_size=1, max_size=6), FIELD)
def test_a_written_skeleton_reads_back(steps, answer):
    chain = Chain(tuple(steps), answer)
    assert read_skeleton(write_skeleton(chain)).chain == chain


def test_json_replies_are_read():
    text = '{"steps": [{"name": "Look ", "thought": "Two.", "reflection": "Yes."}], "answer": " 12"}'
    assert read_structured(text) == Draft((Step("Look", "Two.", "Yes."),), (), "12")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"steps": [', "not JSON"),
        ("[1]", "no list under 'steps'"),
        ('{"steps": {}}', "no list under 'steps'"),
        ('{"steps": ["Look"]}', "step 1 is 'Look', not an object of three texts"),
        ('{"steps": [{"name": 3}]}', "step 1 is"),
        ('{"steps": [], "answer": 12}', "'answer' is 12, not text"),
    ],
)
def test_json_that_does_not_fit_says_why(text, reason):
    with pytest.raises(ValueError) as error:
        read_structured(text)
    assert reason in str(error.value)
