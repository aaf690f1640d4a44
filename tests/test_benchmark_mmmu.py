"""MMMU by its own rule: cases worked by hand from the official description."""

from io import BytesIO
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chainofstep.benchmarks.benchmark import Verdict
from chainofstep.benchmarks.load import load
from chainofstep.benchmarks.mmmu import DOMAINS, MMMU, SUBJECTS, parse_open, parse_options, read_mmmu
from chainofstep.chain import Chain, Step, render
from chainofstep.records import ScoreFailure
from test_benchmark_m3cot import growth

HUB = {
    "id": "validation_Accounting_1", "question": "<image 1> What is the total?", "explanation": "",
    "options": "['$6', '$7', '<image 2>', \"it's 8\"]", "image": ["p/1.png", "p/2.png"], "answer": "B",
    "img_type": "['Tables']", "topic_difficulty": "Medium", "question_type": "multiple-choice",
    "subfield": "Managerial Accounting",
}  # fmt: skip
HOSTILE = (
    "1",
    "1,",
    "1,111,",
    "1.",
    ".1",
    "1e",
    "9e9,",
    "-",
    "٣",
    "(",
    "(A)",
    " A ",
    "so is\n",
    "is ",
    "=",
    "red app",
    "'",
)


def example_of(*options, answer="B"):
    return read_mmmu(HUB | {"options": str(list(options)), "answer": answer})


def open_question(answer):
    return read_mmmu(HUB | {"options": "[]", "answer": answer, "question_type": "open"})


def judged(example, text):
    return MMMU.judge([example], [text])[0]


COLOURS = example_of("red apple", "blue", "Dark blue", "12")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'B'", "B"),
        ("(B)", "B"),
        ("(B).", "B"),
        ("The answer is (B)", "B"),
        ("(A), no, (B)", "B"),  # the last place counts
        ("(B), not (A)", "A"),
        ("A B", "B"),
        ("A or B it may be", "B"),
        ("B or A it may be", "A"),
        ("Answer: B", "B"),
        ("(A) rather than B", "A"),  # marked letters first
        ("**B**", None),
        ("B) blue", None),  # of two words, texts are not looked for
        ("b", None),
        ("(b)", None),
        ("(E)", None),  # there is no fifth option
        ("A small red apple", "A"),  # the article, read as a letter
        ("I think that it must be blue", "B"),  # more than five words
        ("It must certainly be blue", None),  # five words
        ("I think it is a BLUE thing", "B"),
        ("I think that it is dark blue", "B"),  # where a text begins decides, and `blue` begins later
        ("surely it is blue and not 12", "D"),
        ("I can not tell what it is", None),
        ("", None),
        ("nan", None),
        ("Ｂ", None),  # full width
        ("(B)<|im_end|>", "B"),
        (",.!?;:'B", "B"),
        ("';B;'", None),  # quotes are taken off last, so semicolons stay
    ],
)
def test_options_by_hand(text, letter):
    assert parse_options(text, COLOURS.choices) == letter


@pytest.mark.parametrize(
    ("answer", "text", "outcome"),
    [
        ("12", "12", "right"),
        ("12", "12.0", "right"),
        ("12", "12.004", "right"),  # two decimals count
        ("12", "12.01", "wrong"),
        ("12", "1.2e1", "right"),
        ("12", "The answer is 12.", "right"),
        ("12", "x = 12", "right"),
        ("12", "x = 12\nThat was easy", "right"),  # `=` is a cue in the last line alone; without one the whole is read
        ("12", "x = 12\nThis is easy", "wrong"),
        ("12", "12 apples", "right"),
        ("12", "It is 11 or 12", "right"),  # every number that was read counts
        ("12", "It is 112", "wrong"),
        ("12", "-12", "wrong"),
        ("12", "12%", "right"),
        ("12", "$12", "right"),
        ("12", "", "unparseable"),
        ("12", "nan", "wrong"),
        ("12", "١٢", "right"),  # float() reads the digits of other scripts
        ("1,200", "1200", "right"),
        ("1200", "so 1,200 dollars", "right"),
        ("1200", "1,2000", "wrong"),
        ("0.5", ".5", "wrong"),  # periods are taken off both ends
        ("0.5", "so .5", "right"),
        ("0.33", "1/3 = 0.333", "right"),
        ("-0.5", "it is -0.5", "right"),
        ("5e-7", "0", "right"),  # both are 0.0 with two decimals
        ("red", "Red", "right"),
        ("red", "The colour is red", "right"),
        ("red", "a bored man", "right"),  # within a word
        ("red", "The colour is blue, not red", "right"),  # a part of what was read is enough
        ("red", "red is it", "wrong"),  # what follows the last cue counts
        ("red", "red\nthus blue", "wrong"),
        ("red", "thus red\nso blue", "right"),  # every line with a cue
        ("red", "blue", "wrong"),
        ("x", "x", "right"),
        ("x", "so x y", "right"),  # one character is padded, so that it is not found within words
        ("x", "axb", "wrong"),
        ("['four', '4']", "4", "right"),
        ("['four', '4']", "the answer is Four", "right"),
        ("['four', '4']", "five", "wrong"),
        (["1.5", "3/2"], "3/2", "right"),
        (["1.5", "3/2"], "1.50", "right"),
        ("12", "<|answer_start|>12<|answer_end|>", "right"),
        ("12", "<|answer_start|>12", "unparseable"),
        ("12", "12<|im_end|>", "right"),
    ],
)
def test_open_answers_by_hand(answer, text, outcome):
    verdict = judged(open_question(answer), text)
    assert (verdict.outcome, verdict.credit) == (outcome, outcome == "right")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So the total is 1,234.5 dollars.", ["1,234.5 dollars", 1234.0, 234.5]),
        ("x = 3 = 1.5e2", [150.0, 1.0, 2.0]),  # the plain reading takes what the scientific one took apart
        ("The result is .5", [0.5]),
        ("is :", ["is :"]),  # after the cue nothing but a mark
        ("No.", ["no"]),
        ("7", [7.0]),
        ("B", [" b", "b "]),
        ("therefore 4\nfinal 5-6", [4.0, "5-6", 5.0, -6.0]),
    ],
)
def test_all_that_may_be_meant(text, found):
    assert parse_open(text) == found


def test_where_no_option_is_found_one_is_guessed_in_the_order_of_the_items():
    expected = Random(42)
    guesses = [expected.choice("ABCD") for _ in range(20)]
    texts = [text for _ in guesses for text in ("(A)", "none of them")]
    verdicts = MMMU.judge([COLOURS] * 40, texts)
    assert verdicts[0::2] == [Verdict("wrong", "A")] * 20  # what is read draws nothing
    assert verdicts[1::2] == [Verdict("unparseable", guess, guess == "B", "guessed") for guess in guesses]
    assert {verdict.credit for verdict in verdicts[1::2]} == {True, False}


def test_a_failed_item_draws_no_guess_and_one_without_a_chain_does():
    failed, missing, empty = MMMU.judge([COLOURS] * 3, [ScoreFailure("server down"), None, ""])
    expected = Random(42)
    assert failed == Verdict("failed", note="server down")
    assert [missing.answer, empty.answer] == [expected.choice("ABCD"), expected.choice("ABCD")]
    assert (missing.outcome, missing.note) == ("unparseable", "guessed")


def test_a_chain_is_judged_by_its_answer_alone():
    steps = (Step("Look", "It is not (A).", "Seen."),)
    assert judged(COLOURS, render(Chain(steps, "(B)"))).outcome == "right"
    assert judged(COLOURS, render(Chain(steps))).outcome == "unparseable"


def test_several_gold_letters():
    both = read_mmmu(HUB | {"answer": ["A", "B"]})
    assert [judged(both, text).outcome for text in ("(A)", "(B)", "(C)")] == ["right", "right", "wrong"]


def test_a_row_as_published():
    example = read_mmmu(HUB)
    assert (example.id, example.question) == ("mmmu/validation_Accounting_1", "<image 1> What is the total?")
    assert (example.choices, example.images) == (("$6", "$7", "<image 2>", "it's 8"), ("p/1.png", "p/2.png"))
    assert MMMU.groups(example) == {
        "domain": "Business", "subject": "Accounting", "question_type": "multiple-choice", "topic_difficulty": "Medium",
    }  # fmt: skip


def test_pictures_in_columns_of_their_own():
    row = {name: value for name, value in HUB.items() if name != "image"}
    example = read_mmmu(row | {"image_1": "a.png", "image_2": "b.png", "image_3": None})
    assert example.images == ("a.png", "b.png")


def test_the_hubs_files_are_read_with_all_pictures_in_order(tmp_path):
    """Two subjects, each a folder of its own; pictures are embedded, a column each."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    row = {name: value for name, value in HUB.items() if name != "image"}
    for subject, colours in (("Art", ("red", "blue")), ("Accounting", ("green",))):
        columns = {f"image_{number}": picture(colour) for number, colour in enumerate(colours, start=1)}
        columns |= {f"image_{number}": None for number in range(len(colours) + 1, 8)}
        (tmp_path / subject).mkdir()
        table = pyarrow.Table.from_pylist([row | columns | {"id": f"validation_{subject}_1"}])
        write_table(table, tmp_path / subject / "validation-00000-of-00001.parquet")
    loaded = load(MMMU, tmp_path)
    assert [example.id for example in loaded.examples] == ["mmmu/validation_Accounting_1", "mmmu/validation_Art_1"]
    assert [colour_of(path) for path in loaded.examples[1].images] == [(255, 0, 0), (0, 0, 255)]
    assert loaded.problems == ["mmmu validation: 2 rows, 900 published: a sample, its score is not the benchmark's"]


def picture(colour):
    file = BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{colour}.png"}


def colour_of(path):
    with Image.open(path) as image:
        return image.getpixel((0, 0))


def test_a_gold_answer_in_brackets_that_is_no_list_stays_text():
    assert open_question("[a, b]").answer == "[a, b]"
    assert judged(open_question("[a, b]"), "the pair is [A, B]").outcome == "right"
    assert open_question("['4', 'four']").meta["golds"] == ["4", "four"]
    assert open_question("['4']").answer == "4"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"options": "['a', 'b'"}, "unreadable options: .*'a', 'b'"),
        ({"options": "__import__('os')"}, "unreadable options"),
        ({"options": "[" * 5_000}, "unreadable options"),
        ({"options": "['" + "a" * 30_000 + "']"}, "unreadable options"),
        ({"options": "[]"}, "missing choices"),
        ({"options": "[None]"}, "missing field: options"),
        ({"answer": "E"}, "'E' is no letter of 4 choices"),
        ({"answer": "?"}, "no gold answer"),
        ({"answer": None}, "missing field: answer"),
        ({"question_type": "essay"}, "unknown question_type: 'essay'"),
        ({"id": "validation_Astrology_1"}, "unknown subject"),
        ({"id": "7"}, "unknown subject"),
        ({"image": None}, "no picture"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(change, problem):
    with pytest.raises(ValueError, match=problem):
        read_mmmu(HUB | change)


def test_prompts_differ_by_type():
    assert MMMU.asked(COLOURS, "official").question == (
        "<image 1> What is the total?\n\n(A) red apple\n(B) blue\n(C) Dark blue\n(D) 12\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert MMMU.asked(COLOURS, "paper").question == (
        "<image 1> What is the total?\nA. red apple\nB. blue\nC. Dark blue\nD. 12\n"
        "Think step-by-step first and then answer with the option's letter from the given choices directly."
    )
    number = open_question("12")
    assert MMMU.asked(number, "official").question == (
        "<image 1> What is the total?\n\nAnswer the question using a single word or phrase."
    )
    assert MMMU.asked(number, "paper").question == (
        "<image 1> What is the total?\nThink step-by-step first and then answer the question with a single number."
    )


def test_thirty_subjects_in_six_domains_in_the_order_of_the_alphabet():
    assert len(SUBJECTS) == 30 and len(DOMAINS) == 6
    assert MMMU.hub_config.split(",")[:4] == ["Accounting", "Agriculture", "Architecture_and_Engineering", "Art"]


@given(st.text(), st.sampled_from([COLOURS, open_question("12"), open_question("red"), open_question("['x', '4']")]))
def test_any_text_has_one_outcome(text, example):
    verdict = judged(example, text)
    assert verdict.outcome in ("right", "wrong", "unparseable")
    assert verdict.outcome == "unparseable" or verdict.credit == (verdict.outcome == "right")
    assert (verdict.note == "guessed") <= (verdict.outcome == "unparseable")


@given(st.floats(-1e6, 1e6).map(lambda value: round(value, 2)))
def test_a_number_is_found_in_a_sentence(value):
    assert judged(open_question(str(value)), f"so the answer is {value} metres").outcome == "right"


@pytest.mark.parametrize("example", [COLOURS, open_question("12")], ids=["options", "open"])
@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_text(example, piece):
    assert growth(lambda text: MMMU.rule(example, text, Random(0)), piece) < 8
