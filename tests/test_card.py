"""What a set of step data holds, and the card that says so: counts by hand, and text that stays text."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from chainofstep.chain import Chain, Step, render
from chainofstep.problems.filters import FilterReport
from chainofstep.problems.overlap import Overlap, Overlaps
from chainofstep.problems.stats import SAMPLES, Stats
from chainofstep.records import Example, Reject, StepRow, StepScores, from_row, to_row
from chainofstep.report.card import Card, SourceFacts, card_html, card_markdown, write_card
from chainofstep.report.card_sections import hub_licence
from test_report import HOSTILE, Reader

DATA = Path(__file__).parents[2] / "shared" / "data"
#: What Markdown, YAML and HTML each may trip over.
WORST = (
    f"{HOSTILE}\n---\nkey: [a, *b, &c\n| x | y |\r\n# head\n![p](https://example.org/p.png) `code` **b** \x00\x1b\u202e"
)


def chain_text(steps, answer="12", words="one two three"):
    step = Step("Read row", words, "It fits.")  # 2 + 3 + 2 words
    return render(Chain((step,) * steps, answer))


def row(number=0, text=None, labels=None, rejected=None, source="tabmwp", **changes):
    example = Example(f"q-{number}", f"What is {number}?", (f"{number}.png",), "12", "number", source=source)
    return StepRow(replace(example, **changes), text, labels, rejected)


def stats_of(rows, **settings):
    stats = Stats(**settings)
    for one in rows:
        stats.add(one)
    return stats


# Counts


def test_counts_of_a_few_rows_are_those_made_by_hand():
    rows = [
        row(1, chain_text(2)),  # 2 * 7 words and the answer
        row(1, chain_text(3), source="chartqa"),  # the same question and picture once more
        row(2, chain_text(2, words="word " * 60), answer_kind="choice", images=("1.png", "2.png")),  # 129 words
        row(3, "I think it is 12"),
        row(4, chain_text(2, answer=None), images=()),
        row(4, chain_text(2, answer=None)[:-30], images=()),  # breaks off within a step: 14 words and 15 tags
        row(5, meta={"evaluation_split": "test"}),  # no text: neither a chain nor unparseable
    ]
    stats = stats_of(rows, count_tokens=lambda text: 250)
    assert (stats.rows, stats.questions, stats.pictures) == (7, 5, 4)
    assert stats.by_source == {"tabmwp": 6, "chartqa": 1}
    assert stats.by_answer_kind == {"number": 6, "choice": 1}
    assert (stats.chains, stats.prefixes, stats.unparseable) == (3, 1, 2)
    assert stats.steps == {2: 3, 3: 1}
    assert stats.words == {0: 5, 100: 1}
    assert stats.tokens == {200: 6}
    assert (stats.evaluation_rows, stats.pairs, stats.labels) == (1, 0, 0)
    assert stats_of(rows).tokens is None


def test_both_texts_of_a_pair_are_counted():
    stats = stats_of([row(1, chain_text(2), rejected=chain_text(4, "13")), row(2, chain_text(3), rejected="no chain")])
    assert (stats.pairs, stats.chains, stats.unparseable) == (2, 3, 1)
    assert stats.steps == {2: 1, 3: 1}
    assert stats.rejected_steps == {4: 1}


@pytest.mark.parametrize(
    ("labels", "kind", "counts"),  # right, neutral, wrong, soft
    [
        ([], "none", (0, 0, 0, 0)),
        ([(1, 0, 1)], "hard", (2, 0, 1, 0)),
        ([(1, 0.5), (0.5, 0)], "ternary", (1, 2, 1, 0)),
        ([(1, 0.5), (0.25, 0.5), (0, 0.5)], "soft", (1, 0, 1, 4)),  # one soft label makes all the halves soft
    ],
)
def test_labels_are_counted_as_their_set_means_them(labels, kind, counts):
    stats = stats_of([row(number, chain_text(len(one)), StepScores(one)) for number, one in enumerate(labels)])
    assert stats.label_kind == kind
    assert (stats.right, stats.neutral, stats.wrong, stats.soft) == counts


def test_mean_labels_by_position_and_answers():
    scores = [StepScores((1.0, 0.25), 1.0), StepScores((0.5,), 0.0), StepScores((0.0, 0.75), None)]
    stats = stats_of([row(number, chain_text(2), one) for number, one in enumerate(scores)])
    assert stats.mean_labels() == {1: 0.5, 2: 0.5}
    assert stats.label_counts == {1: 3, 2: 2}
    assert stats.label_tenths == {9: 1, 2: 1, 5: 1, 0: 1, 7: 1}
    assert (stats.answers_right, stats.answers_wrong) == (1, 1)


def test_statistics_are_json_and_read_back_the_same():
    rows = [row(n, chain_text(n % 3 + 1), StepScores((1.0,)), chain_text(1), meta={"n": [1, None]}) for n in range(9)]
    stats = stats_of(rows, count_tokens=len)
    content = json.loads(json.dumps(to_row(stats)))
    again = from_row(Stats, content)
    assert json.loads(json.dumps(to_row(again))) == content
    assert again.steps == stats.steps == {1: 3, 2: 3, 3: 3}
    assert [from_row(StepRow, sample) for sample in again.samples] == [
        from_row(StepRow, sample) for sample in stats.samples
    ]


# Samples


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abcdefghi"))), st.randoms(use_true_random=False))
def test_samples_do_not_depend_on_the_order_and_show_every_source_first(found, luck):
    rows = [row(number, f"text {number}", source=source) for number, source in found]
    samples = stats_of(rows).samples
    luck.shuffle(rows)
    assert stats_of(rows).samples == samples
    different = {(one.example.id, one.example.source) for one in rows}
    assert len(samples) == min(SAMPLES, len(different))
    sources = {one.example.source for one in rows}
    assert len({sample["example"]["source"] for sample in samples}) == min(SAMPLES, len(sources))
    assert len({(sample["example"]["id"], sample["example"]["source"]) for sample in samples}) == len(samples)


def test_samples_are_picked_evenly():
    """Of 600 sets of 30 rows each place of the set is picked about 600 * 6 / 30 = 120 times (deviation 10)."""
    picked = [0] * 30
    for number in range(600):
        stats = stats_of([row(f"{number}-{place}") for place in range(30)])
        for sample in stats.samples:
            picked[int(sample["example"]["id"].split("-")[-1])] += 1
    assert sum(picked) == 600 * SAMPLES
    assert min(picked) > 70 and max(picked) < 170


# The card

TABMWP = SourceFacts("tabmwp", "TabMWP", "chart & document", "CC BY-NC-SA 4.0", 3, ("MathVista",), "Tables.")
CHARTQA = SourceFacts("chartqa", "ChartQA", "chart & document", "GPL-3.0", 1, (), "")


def filter_report():
    report = FilterReport()
    for _ in range(3):
        report.keep()
    report.remove(Reject("tabmwp:7", "leak: step 3 speaks of 'the reference answer'", "It agrees with it."))
    return to_row(report)


def overlaps():
    report = Overlaps("both", 20, looked_up=5, removed=1)
    report.note(row(9).example, Overlap("MathVista", "vista-41", "picture and question", 2))
    return to_row(report)


def whole_card(**changes):
    rows = [
        row(1, chain_text(2), StepScores((1.0, 0.0), 0.0)),
        row(2, chain_text(3), StepScores((1.0, 1.0, 0.5), 1.0)),
        row(3, "I think it is 12"),
        row(4, chain_text(2, answer=None), source="chartqa", choices=("ten", "twelve")),
    ]
    card = Card(
        "Rows of two sources",
        "PRM labels",
        stats_of(rows, count_tokens=len),
        (TABMWP, CHARTQA),
        (("Teacher", {"model": "gpt-4o", "prompt": "3f9a61c2"}), ("Judge 1", {"model": "qwen", "votes": "3"})),
        filter_report(),
        overlaps(),
        (("Judge 1", "Judge 2", 4120, 0.914, 0.78),),
        ("Written by a scripted stand-in.",),
        {"chain-of-step": "0.1.0"},
    )
    return replace(card, **changes)


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2, 4):
        Image.new("RGB", (900, 300), "teal").save(tmp_path / f"{number}.png")
    return tmp_path


def cells(markdown):
    """The first cell of every table line, with the others."""
    return {line.split(" | ")[0].strip("| "): line for line in markdown.splitlines() if line.startswith("| ")}


def test_both_forms_say_the_same_numbers(folder):
    card = whole_card()
    text, page = card_markdown(card), Reader(card_html(card, folder)).text
    lines = cells(text)
    assert lines["Rows"] == "| Rows | 4 |" and "Rows 4 Questions 4 Pictures 4" in page["contents"]
    assert lines["TabMWP"] and "TabMWP chart & document CC BY-NC-SA 4.0 MathVista 3 75.0%" in page["sources"]
    assert lines["model"] == "| model | gpt-4o | qwen |" and "votes – 3" in page["how-it-was-made"]
    wanted = "no step speaks of a reference answer"
    assert lines["leak"] == f"| leak | {wanted} | 1 | 25.0% |" and f"leak {wanted} 1 25.0%" in page["filters"]
    assert "5 rows were looked up in evaluation sets, and 1 of them removed." in text
    assert "tabmwp MathVista picture and question removed 1" in page["overlap"]
    assert lines["2"] and "2 2 66.7%" in page["length"]  # two of three chains have two steps
    assert lines["Steps neutral"] == "| Steps neutral | 1 | 20.0% |" and "Steps neutral 1 20.0%" in page["labels"]
    assert "3 1 0.50" in page["labels"]  # the one label of third steps
    assert lines["Judge 1"] == "| Judge 1 | Judge 2 | 4,120 | 91.4% | 0.78 |"
    assert "Judge 1 Judge 2 4,120 91.4% 0.78" in page["agreement"]


def test_warnings_come_first_and_an_evaluation_split_is_one():
    card = whole_card(stats=stats_of([row(1, meta={"evaluation_split": "test"})]))
    text, page = card_markdown(card), Reader(card_html(card, Path())).text
    for shown in (text, page[""]):
        assert shown.index("Written by a scripted stand-in.") < shown.index("PRM labels")
        assert "1 row is of an evaluation split: do not train on this set." in shown
    assert page[""].startswith("Rows of two sources: data card Warning: ")


def test_samples_show_pictures_and_labelled_steps(folder):
    page = card_html(whole_card(), folder)
    text = Reader(page).text["samples"]
    assert page.count('<img src="data:image/') == 3  # scaled down from 900 pixels
    assert page.count('width="480" height="160"') == 3
    assert "The picture 3.png is missing." in text
    assert "right Read row one two three It fits. wrong Read row" in text
    assert 'style="--score:50%"' in page
    assert "Not a whole chain: expected <|reasoning_start|>" in text and "I think it is 12" in text
    assert "Not a whole chain: the text ends before its answer." in text
    assert "B. twelve" in text
    markdown = card_markdown(whole_card())
    assert "1. **Read row** (right): one two three *It fits.*\n2. **Read row** (wrong)" in markdown


def test_a_picture_outside_the_folder_or_broken_is_said_so(folder):
    inside = folder / "inside"
    inside.mkdir()
    (inside / "broken.png").write_bytes(b"not a picture")
    paths = ("../1.png", str(folder / "1.png"), "broken.png", "nul\0.png")
    page = card_html(whole_card(stats=stats_of([row(1, images=paths)])), inside)
    text = Reader(page).text["samples"]
    assert text.count("The picture 1.png is outside the folder of pictures.") == 2
    assert text.count("cannot be read.") == 2
    assert "<img" not in page


def test_soft_labels_show_their_spread(folder):
    rows = [row(1, chain_text(2), StepScores((0.9375, 0.25), 0.5)), row(2, chain_text(2), StepScores((1.0, 0.0), 1.0))]
    card = whole_card(stats=stats_of(rows))
    lines, page = cells(card_markdown(card)), Reader(card_html(card, folder)).text
    assert lines["0.9 to 1.0"] == "| 0.9 to 1.0 | 2 | 50.0% |"
    assert "Steps between 2 50.0%" in page["labels"]
    assert "0.94 Read row" in page["samples"] and "0.50 Answer:" in page["samples"]


def test_the_lengths_of_chosen_and_rejected_texts_stand_side_by_side(folder):
    rows = [row(n, chain_text(2), rejected=chain_text(3 + n)) for n in (1, 2)]
    card = whole_card(stats=stats_of(rows), purpose="DPO pairs")
    text, page = card_markdown(card), card_html(card, folder)
    assert "| Steps | Chosen | Share | Rejected | Share |" in text
    assert cells(text)["4"] == "| 4 | 0 | 0.0% | 1 | 50.0% |"
    assert ">Rejected</text>" in page and "Labels" not in Reader(page).text


def test_a_few_long_texts_do_not_hide_the_others():
    stats = Stats(rows=1000, chains=1000, steps={4: 400, 5: 300, 6: 299, 9000: 1})
    lines = cells(card_markdown(whole_card(stats=stats)))
    assert lines["4"] == "| 4 | 400 | 40.0% |"
    assert lines["7 or more"] == "| 7 or more | 1 | 0.1% |"
    wide = cells(card_markdown(whole_card(stats=Stats(steps={1: 50, 40: 50}))))
    assert wide["40 to 43"] == "| 40 to 43 | 50 | 50.0% |"


def test_an_empty_set_has_a_card(tmp_path):
    card = Card("Nothing yet", "SFT chains", Stats())
    markdown, page = write_card(card, tmp_path / "sft", tmp_path)
    assert write_card(card, tmp_path / "again", tmp_path)[1].read_bytes() == page.read_bytes()
    assert (markdown.name, page.name) == ("sft.card.md", "sft.card.html")
    for text in (markdown.read_text("utf-8"), page.read_text("utf-8")):
        for said in ("The set has no rows.", "Nothing is recorded of filters.", "No licence is recorded."):
            assert said in text


# Licences and front matter


@pytest.mark.parametrize(
    ("licence", "found"),
    [("MIT", "mit"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("not stated", "unknown"), ("", "unknown"), ("Ours", "other")],
)
def test_licences_are_named_as_the_hub_names_them(licence, found):
    assert hub_licence(licence) == found


def test_the_strictest_licence_is_named_and_so_are_the_unknown_ones():
    others = (replace(CHARTQA, title="FVQA", licence="not stated"), replace(CHARTQA, title="Ours", licence="Own terms"))
    text = card_markdown(whole_card(sources=(CHARTQA, TABMWP, *others)))
    assert "The strictest of those known here is CC BY-NC-SA 4.0 (TabMWP)" in text
    assert "No licence is stated for FVQA" in text
    assert "Read the licence of Ours (Own terms)" in text


def front_matter(markdown):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", markdown, re.DOTALL)[1])


def test_the_front_matter_is_what_the_hub_reads():
    assert front_matter(card_markdown(whole_card())) == {
        "pretty_name": "Rows of two sources",
        "license": ["cc-by-nc-sa-4.0", "gpl-3.0"],
        "task_categories": ["visual-question-answering"],
        "size_categories": ["n<1K"],
        "tags": ["chain-of-step", "step-by-step reasoning"],
    }


@pytest.mark.parametrize(
    ("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (296_543, "100K<n<1M"), (10**7, "n>10M")]
)
def test_the_size_category_holds_the_number_of_rows(rows, size):
    assert front_matter(card_markdown(whole_card(stats=Stats(rows=rows))))["size_categories"] == [size]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_the_front_matter_is_valid_whatever_the_name_holds(name):
    markdown = card_markdown(Card(name, "SFT chains", Stats()))
    markdown.encode("utf-8")
    found = front_matter(markdown)["pretty_name"]
    if name.isprintable():
        assert found == " ".join(name.split())


# Text that others wrote


def hostile_card():
    report = filter_report()
    report["removed"] = {WORST: 2, "leak": 1}
    report["examples"] = {WORST: [{"place": WORST, "reason": WORST, "text": WORST}]}
    found = overlaps()
    for match in found["counts"]:
        match |= {"source": WORST, "set_name": WORST, "examples": [{"id": WORST, "evaluation_id": WORST}]}
    source = SourceFacts(WORST, WORST, WORST, WORST, 1, (WORST,), WORST)
    chain = render(Chain((Step(WORST, WORST, WORST),), WORST))
    about = {"question": WORST, "answer": WORST, "images": ("1.png", WORST), "choices": (WORST,)}
    rows = [row(WORST, chain, StepScores((1.0,), 1.0), WORST, source=f"s{WORST}", **about)]
    return Card(
        WORST, WORST, stats_of(rows), (source,), ((WORST, {WORST: WORST}),), report, found,
        ((WORST, WORST, 3, None, None),), (WORST,), {WORST: WORST},
    )  # fmt: skip


def test_hostile_text_stays_text_on_the_page(folder):
    page, clean = card_html(hostile_card(), folder), card_html(whole_card(), folder)
    reader, usual = Reader(page), Reader(clean)
    assert reader.open == []
    assert reader.scripts == [] and "script-src" not in page
    assert {(tag, key) for tag, key, _ in reader.attributes} <= {(tag, key) for tag, key, _ in usual.attributes}
    assert page.count("<img ") == 1
    assert not set(page) & {"\x00", "\x1b", "\u202e"}
    shown = {section for section, text in reader.text.items() if "<script>alert('x')</script>" in text}
    assert shown == set(reader.text) - {"length", "labels", "contents"}


def test_the_page_loads_nothing_and_its_ids_are_unique(folder):
    page = card_html(whole_card(), folder)
    reader = Reader(page)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    loads = [value for _, key, value in reader.attributes if key in ("src", "href", "action", "srcset")]
    assert loads and all(value.startswith(("data:image/", "#")) for value in loads)
    policies = [value for _, key, value in reader.attributes if key == "content" and "default-src" in value]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    ids = [value for _, key, value in reader.attributes if key == "id"]
    assert len(ids) == len(set(ids)) and {link[1:] for link in loads if link.startswith("#")} <= set(ids)


def body_of(markdown):
    return re.sub(r"\A---\n.*?\n---\n", "", markdown, count=1, flags=re.DOTALL)


def parsed(markdown):
    """Every token of the body, those within a line included."""
    for token in MarkdownIt("commonmark").enable("table").parse(body_of(markdown)):
        yield token
        yield from token.children or ()


def test_hostile_text_stays_text_in_markdown():
    markdown = card_markdown(hostile_card())
    tokens = list(parsed(markdown))
    usual = {token.type for token in parsed(card_markdown(whole_card()))}
    assert {token.type for token in tokens} <= usual
    assert not usual & {"html_block", "html_inline", "link_open", "image", "code_inline", "fence"}
    headings = [token.markup for token in tokens if token.type == "heading_open"]
    assert headings.count("#") == 1
    assert not any(part in body_of(markdown) for part in ("<", "https://", "\x00"))
    assert front_matter(markdown)["pretty_name"].startswith("</style></script><script>")
    in_cells = [inner for before, inner in pairwise(tokens) if before.type == "td_open"]
    texts = ["".join(part.content for part in cell.children) for cell in in_cells]
    assert any("<script>alert('x')</script>" in text and "| x | y |" in text for text in texts)


@pytest.mark.skipif(not DATA.is_dir(), reason="the samples of real benchmarks are not here")
def test_real_pictures_are_embedded_as_thumbnails():
    lines = (DATA / "chartqa" / "items.jsonl").read_text("utf-8").splitlines()
    items = [json.loads(line) for line in lines[:40]]
    stats = stats_of([row(n, chain_text(5), images=(item["image"],)) for n, item in enumerate(items)])
    page = card_html(whole_card(stats=stats), DATA / "chartqa")
    sizes = re.findall(r'<img [^>]*width="(\d+)" height="(\d+)"', page)
    assert len(sizes) == SAMPLES and max(int(side) for size in sizes for side in size) <= 480
    assert len(page) < 600_000
