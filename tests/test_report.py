"""The report: its numbers come from the data, hostile text stays text, a partial run shows what is there."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from chainofstep.chain import Chain, Step, render
from chainofstep.evaluate import wilson
from chainofstep.records import Example, to_row
from chainofstep.report import check_results, print_summary, write_report
from chainofstep.report.drawing import DARK, LIGHT, Plot, Series, spread, to_png, to_svg
from chainofstep.report.gallery import read_gallery
from chainofstep.report.markup import Html, element, join
from chainofstep.report.page import POLICY
from chainofstep.report.plots import accuracy_plot, calibration_error, scaling_plot
from chainofstep.report.tables import flat
from chainofstep.report.wording import duration, signed, stage_label

HOSTILE = (
    "</style></script><script>alert('x')</script>\"'><img src=https://example.org/x onerror=alert(1)>$x^$&amp;--]]>"
)


# A made-up run


def accuracy_row(stage, family, right, total, split="unseen"):
    low, high = wilson(right, total)
    counts = {"right": right, "wrong": total - right - 3, "unparseable": 2, "failed": 1, "total": total}
    share = {"accuracy": right / total, "low": low, "high": high}
    return {"stage": stage, "split": split, "family": family} | counts | share


def method_row(method, n, right, tokens, chains=0, width=1, policy="sft"):
    low, high = wilson(right, 1200)
    counts = {"right": right, "total": 1200, "accuracy": right / 1200, "low": low, "high": high}
    cost = {"sampled_tokens": tokens * 1200, "scored_chains": chains * 1200, "scored_steps": chains * 3600}
    return {"policy": policy, "method": method, "n": n, "width": width} | counts | cost


def share(right, total):
    low, high = wilson(right, total)
    return {"accuracy": right / total, "low": low, "high": high}


def accuracy_rows():
    rights = {"base": 431, "sft": 803, "dpo-1": 829, "dpo-2": 846, "dpo-3": 861}
    rights |= {"outcome-1": 815, "outcome-2": 822, "outcome-3": 826}
    rows = []
    for stage, right in rights.items():
        rows.append(accuracy_row(stage, "all", right, 1200))
        for family, extra in (("math", -40), ("chart", 10), ("science", 45), ("scene", -15)):
            rows.append(accuracy_row(stage, family, right // 4 + extra, 300))
        rows.append(accuracy_row(stage, "all", right // 3 + 20, 400, "seen"))
        rows.append(accuracy_row(stage, "all", right // 6 - 40, 200, "held-out kinds"))
    return rows


def method_rows():
    pools = {
        "self_consistency": ((4, 815), (8, 826), (16, 831)),
        "best_of_n": ((4, 862), (8, 889), (16, 905)),
        "weighted_vote": ((4, 866), (8, 897), (16, 918)),
        "pass_at_n": ((4, 1001), (8, 1075), (16, 1121)),
    }
    rows = [method_row("greedy", 1, 803, 74)]
    for method, points in pools.items():
        scored = method in ("best_of_n", "weighted_vote")
        rows += [method_row(method, n, right, 75 * n, n // 2 if scored else 0) for n, right in points]
    rows += [method_row("step_beam", n, right, 62 * n, 2 * n) for n, right in ((4, 871), (8, 899), (16, 912))]
    return [*rows, *(method_row("step_beam", n, right, 64 * n, 2 * n, width=4) for n, right in ((8, 903), (16, 921)))]


def prm_rows():
    rows = []
    for questions, step, answer in (("seen", 2790, 902), ("unseen", 2745, 874)):
        for against, worse in (("checker", 0), ("labels", 31)):
            for part, right, total in (("step", step - worse, 3100), ("answer", answer - worse, 1000)):
                about = {"questions": questions, "part": part, "against": against, "threshold": 0.5}
                rest = {"majority": 0.794 if part == "step" else 0.662, "auc": 0.937, "total": total, "failed": 0}
                rows.append(about | share(right, total) | rest)
    return rows


def made_up_results():
    """A complete run that never was."""
    weights = (880, 893, 905, 904, 899, 893, 886, 881, 872, 860, 841)
    steps = {"prm": (3.92, 3.71, 3.55, 3.49), "outcome": (3.92, 3.95, 3.97, 4.02)}
    claims = (
        ("SFT on chains is better than the base without steps", "+8.7 points (Table 1)", 31.0, 27.4, 34.7, "holds"),
        ("Three rounds of DPO by PRM are better than SFT", "+3.4 points (Table 1)", 4.8, 2.6, 7.1, "holds"),
        ("DPO by PRM is better than DPO by outcome", "+1.7 points (Table 2)", 1.2, -0.9, 3.3, "undecided"),
        ("Step beam is better than best-of-16", "+0.5 points (Fig. 5)", -2.4, -4.2, -0.6, "does not hold"),
    )
    keys = ("name", "paper", "difference", "low", "high", "verdict")
    return {
        "recipe": {"name": "mini", "seed": 0, "dpo": {"beta": 0.1, "rounds": 3}, "sample": {"n": 16, "top_p": 0.95}},
        "versions": {"chain-of-step": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "peak_memory_mb": {"sft": 1840.0, "search": 2210.5},
        "wall_seconds": {"problems": 14.2, "sft": 96.0, "labels": 131.4, "prm": 154.8, "dpo-1": 61.0, "search": 88.5},
        "accuracy": accuracy_rows(),
        "claims": [dict(zip(keys, claim, strict=True)) | {"unit": "points"} for claim in claims],
        "methods": method_rows(),
        "step_weight": [
            {"weight": tenth / 10, "total": 1200} | share(right, 1200) for tenth, right in enumerate(weights)
        ],
        "rounds": [
            {"reward": reward, "round": number, "mean_steps": mean, "mean_tokens": 19 * mean}
            | share(803 + number, 1200)
            for reward, means in steps.items()
            for number, mean in enumerate(means)
        ],
        "prm": prm_rows(),
        "prm_by_error": [
            {"questions": "unseen", "error": "wrong reading", "caught": 171, "total": 208},
            {"questions": "unseen", "error": "wrong arithmetic", "caught": 93, "total": 104},
            {"questions": "unseen", "error": "answer differs from the last step", "caught": 47, "total": 49},
        ],
        "calibration": [
            {
                "part": part,
                "low": tenth / 10,
                "high": (tenth + 1) / 10,
                "mean_score": tenth / 10 + 0.05,
                "share_right": min(1.0, (tenth / 10) ** 1.3 + shift),
                "total": 40 + 18 * tenth * tenth,
            }
            for part, shift in (("step", 0.04), ("answer", 0.1))
            for tenth in range(10)
        ],
        "labels": {"rollouts_used": 41216, "tokens": 1874402, "agreement_with_checker": 0.914},
        "tokens": {"labels": 1874402, "dpo-1": 610233, "search": 2204118},
        "rejects": {"labels": {"no answer before the token limit": 31}, "dpo-1": {"no pair over the threshold": 212}},
    }


EXAMPLE = Example(
    "line_sum-test-7", "What is the sum of row 2?", ("pictures/7.png",), "12", "number", source="math/line_sum"
)
STEPS = (Step("Read row 2", "Row 2 reads 3, 4, 5.", "3, 4, 5 in row 2."), Step("Add", "3 + 4 = 8.", "The sum is 8."))


def gallery_row(**changes):
    row = {
        "example": to_row(EXAMPLE),
        "picture": "pictures/7.png",
        "method": "greedy",
        "text": render(Chain(STEPS, "13")),
        "answer": "13",
        "answer_right": False,
        "scores": {"steps": [0.93, 0.71], "answer": 0.12},
        "truth": [True, False],
        "note": "",
    }
    return row | changes


def write_run(folder, results, gallery=()):
    """A run folder with these results and gallery rows."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(folder / "pictures" / "7.png")
    (folder / "results.json").write_text(json.dumps(results), "utf-8")
    if gallery:
        (folder / "gallery.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gallery), "utf-8")
    return folder


def report_of(folder, results, gallery=()):
    return write_report(write_run(folder, results, gallery)).read_text("utf-8")


class Reader(HTMLParser):
    """What a browser would find: text by section, scripts, attributes, and whether tags match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.section = [], ""
        self.text, self.scripts, self.attributes = {}, [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag == "section" and "main" in self.open and self.open[-1] == "main":
            self.section = dict(attributes)["id"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text[self.section] = self.text.get(self.section, "") + data.strip() + " "


# The page


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return report_of(tmp_path_factory.mktemp("run"), made_up_results(), [gallery_row()])


def test_numbers_on_the_page_are_those_of_the_data(whole):
    text = Reader(whole).text
    assert "SFT 66.9% 64.2 to 69.5 803 / 1,200" in text["summary"]  # 803 / 1200 and Wilson's interval of it
    assert (
        "Does not hold: Step beam is better than best-of-16. −2.4 points here, 95% interval −4.2 to −0.6."
        in (text["summary"])
    )
    assert "Step beam, width 4 16 76.8% 1,024 32.0 96.0 921 / 1,200" in text["search"]
    assert "Best here at 0.2, with 75.4%" in text["step-weight"]
    assert "Outcome 3 4.02 76.4 67.2% 64.5 to 69.8" in text["chain-length"]
    assert "Steps unseen exact checker 88.5%" in text["process-reward-model"]
    assert "wrong arithmetic unseen 89.4% 93 / 104" in text["process-reward-model"]
    assert "sft 1 min 36 s" in text["cost"]
    assert "rollouts used 41,216" in text["cost"]
    assert "no pair over the threshold 212" in text["cost"]
    assert "dpo.beta 0.1" in text["recipe"]


def test_the_page_changes_with_the_data(tmp_path, whole):
    results = made_up_results()
    results["prm_by_error"][1]["caught"] = 52
    text = Reader(report_of(tmp_path, results)).text
    assert "wrong arithmetic unseen 50.0% 52 / 104" in text["process-reward-model"]


def test_the_gallery_shows_scores_truths_and_where_they_disagree(whole):
    text = Reader(whole).text["gallery"]
    assert "0.93 ✓ Read row 2 Row 2 reads 3, 4, 5." in text
    assert "disagree 0.71 ✗ Add" in text
    assert "0.12 ✗ Answer: 13" in text
    assert 'data-kinds="wrong disagrees"' in whole
    assert 'style="--score:93%"' in whole
    assert 'src="data:image/png;base64,' in whole


def test_the_page_is_well_formed_and_loads_nothing(whole):
    reader = Reader(whole)
    assert reader.open == []
    assert "http:" not in whole and "https:" not in whole and "@import" not in whole
    loads = [value for _, key, value in reader.attributes if key in ("src", "href", "action", "srcset")]
    assert loads and all(value.startswith(("data:image/", "#")) for value in loads)
    assert ("meta", "content", POLICY) in reader.attributes and "default-src 'none'" in POLICY


def test_ids_on_the_page_are_unique_and_links_lead_somewhere(whole):
    reader = Reader(whole)
    ids = [value for _, key, value in reader.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, key, value in reader.attributes if key == "href"}
    assert links <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", whole)) <= set(ids)


def test_the_same_run_gives_the_same_bytes(tmp_path, whole):
    assert report_of(tmp_path, made_up_results(), [gallery_row()]) == whole


def poisoned(value):
    """Every text in a value, keys of free dictionaries excepted, followed by hostile text."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return {key: poisoned(part) for key, part in value.items()} if isinstance(value, dict) else value


def test_hostile_text_stays_text(tmp_path, whole):
    results = made_up_results()
    for key in ("recipe", "versions", "labels"):
        results[key] = poisoned(results[key])
    for key in ("wall_seconds", "peak_memory_mb", "tokens"):
        results[key] = {stage + HOSTILE: value for stage, value in results[key].items()}
    results["rejects"] = {HOSTILE: {HOSTILE: 3}}
    for rows, keys in (
        ("accuracy", ("stage", "family")),
        ("claims", ("name", "paper", "unit")),
        ("methods", ("policy", "method")),
        ("prm", ("questions",)),
        ("prm_by_error", ("error",)),
    ):
        for row in results[rows][1:]:
            row.update({key: row[key] + HOSTILE for key in keys})
    example = to_row(EXAMPLE) | {"id": HOSTILE, "question": HOSTILE, "answer": HOSTILE, "source": HOSTILE}
    chain = render(Chain((Step(HOSTILE, HOSTILE, HOSTILE),), HOSTILE))
    row = gallery_row(example=example, method=HOSTILE, text=chain, answer=HOSTILE, note=HOSTILE, truth=[True])
    rows = [row | {"scores": None}, gallery_row(text=HOSTILE, scores=None, truth=None)]

    page = report_of(tmp_path, results, rows)

    reader, clean = Reader(page), Reader(whole)
    assert reader.open == []
    assert reader.scripts == clean.scripts  # the page's own script and no other
    assert {(tag, key) for tag, key, _ in reader.attributes} <= {(tag, key) for tag, key, _ in clean.attributes}
    assert page.count("<img ") == 2
    shown = {section for section, text in reader.text.items() if "<script>alert('x')</script>" in text}
    assert shown >= {"summary", "accuracy", "search", "process-reward-model", "cost", "recipe", "gallery"}


@pytest.mark.parametrize("missing", [key for key in made_up_results() if key not in ("recipe", "versions")])
def test_a_missing_section_is_named_and_the_rest_is_there(tmp_path, missing):
    results = {key: value for key, value in made_up_results().items() if key != missing}
    text = " ".join(Reader(report_of(tmp_path, results)).text.values())
    assert "dpo.beta 0.1" in text
    assert f"results.json has no rows under “{missing}”" in text


def test_a_run_that_only_started_has_a_report(tmp_path):
    text = Reader(report_of(tmp_path, {"recipe": {"name": "mini", "seed": 3}, "versions": {}})).text
    assert "seed 3" in text[""]
    assert "no rows in gallery.jsonl" in text["gallery"]
    assert not (tmp_path / "plots").exists()


def test_plots_for_the_readme_are_pictures(tmp_path):
    write_report(write_run(tmp_path, made_up_results()))
    for name in ("accuracy", "scaling"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert picture.size == (936, 576)


# The gallery's rows


def test_text_that_is_no_chain_is_shown_with_its_problem(tmp_path):
    rows = [
        gallery_row(text="I think it is 12", scores=None, truth=None, answer=None),
        gallery_row(text=render(Chain(STEPS)) + "then", answer=None),
    ]
    text = Reader(report_of(tmp_path, made_up_results(), rows)).text["gallery"]
    assert "Not a whole chain: expected <|reasoning_start|>" in text and "I think it is 12" in text
    assert "Read row 2" in text
    assert "Answer: none" in text


def test_a_picture_that_is_missing_or_broken_is_said_so(tmp_path):
    write_run(tmp_path, made_up_results())
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    other = to_row(EXAMPLE) | {"id": "other"}
    rows = [gallery_row(picture="gone.png"), gallery_row(picture="broken.png", example=other)]
    text = Reader(report_of(tmp_path, made_up_results(), rows)).text["gallery"]
    assert "The picture gone.png is missing." in text
    assert "The picture broken.png cannot be read." in text


def test_scores_that_do_not_fit_the_steps_are_one_line(tmp_path):
    write_run(tmp_path, made_up_results(), [gallery_row(), gallery_row(truth=[True])])
    with pytest.raises(ValueError, match=r"gallery\.jsonl: row 2: 1 truths for 2 steps; write one for each step"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("scores", "truth", "answer_right", "disagrees"),
    [
        ([0.9, 0.2, 0.1], [True, False], False, False),
        ([0.9, 0.6, 0.1], [True, False], False, True),  # takes a wrong step for right
        ([0.4, 0.2, 0.1], [True, False], False, True),  # takes a right step for wrong
        ([0.9, 0.2, 0.1], [True, False], True, True),  # takes a right answer for wrong
        ([0.9, 0.5, 0.1], [True, False], False, False),  # one half is not above the threshold
        ([0.1, 0.9, 0.1], None, False, False),  # nothing known of the steps
    ],
)
def test_when_the_prm_disagrees(tmp_path, scores, truth, answer_right, disagrees):
    row = gallery_row(scores={"steps": scores[:2], "answer": scores[2]}, truth=truth, answer_right=answer_right)
    write_run(tmp_path, {}, [row])
    assert read_gallery(tmp_path / "gallery.jsonl")[0].disagrees is disagrees


# The schema


def broken(change):
    results = made_up_results()
    change(results)
    return results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("recipe"), "results.json: recipe: missing"),
        (lambda r: r["recipe"].pop("seed"), "results.json: recipe.seed: missing"),
        (lambda r: r["accuracy"][2].pop("low"), "results.json: accuracy.2.low: missing"),
        (lambda r: r.update(step_weigth=[]), "results.json: unknown key 'step_weigth'"),
        (lambda r: r["prm"][0].update(accuracy=87.3), "results.json: prm.0.accuracy: .*less than or equal to 1"),
        (lambda r: r["claims"][1].update(verdict="maybe"), "results.json: claims.1.verdict: .*'holds'.*'maybe'"),
        (lambda r: r["accuracy"][0].update(failed=0), "results.json: accuracy.0: right, .* is not the total 1200"),
        (lambda r: r["prm_by_error"][0].update(caught=209), "results.json: prm_by_error.0: caught 209 of 208"),
        (lambda r: r["wall_seconds"].update(sft=float("nan")), "results.json: wall_seconds.sft: "),
    ],
)
def test_a_schema_error_is_one_line_that_names_the_key(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_results(broken(change))
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no results\.json in .*: finish the run first"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        write_report(tmp_path)


# Plots


def test_the_outcome_rounds_leave_from_sft():
    by_prm, by_outcome = accuracy_plot(check_results(made_up_results()).accuracy).series
    assert by_prm.x == [0, 1, 2, 3, 4]
    assert by_prm.y == [431 / 1200, 803 / 1200, 829 / 1200, 846 / 1200, 861 / 1200]
    assert by_outcome.x == [1, 2, 3, 4]
    assert by_outcome.y == [803 / 1200, 815 / 1200, 822 / 1200, 826 / 1200]


def test_scaling_over_tokens_is_over_tokens_per_question():
    plot = scaling_plot(check_results(made_up_results()).methods, "sft", by_tokens=True)
    lines = {series.label: series for series in plot.series}
    assert lines["Best-of-N by PRM"].x == [300, 600, 1200]
    assert lines["Step beam, width 4"].x == [512, 1024]
    assert lines["Step beam, width 1"].color != lines["Step beam, width 4"].color
    assert [label for _, label in plot.x_ticks] == ["64", "128", "256", "512", "1,024"]  # greedy takes 74 tokens
    assert "Pass@N (ceiling)" not in lines


def test_calibration_error_by_hand():
    bins = [
        {"part": "step", "low": 0.0, "high": 0.5, "mean_score": 0.2, "share_right": 0.4, "total": 30},
        {"part": "step", "low": 0.5, "high": 1.0, "mean_score": 0.8, "share_right": 0.7, "total": 10},
        {"part": "answer", "low": 0.0, "high": 0.5, "mean_score": None, "share_right": None, "total": 0},
    ]
    rows = check_results({"recipe": {"name": "a", "seed": 0}, "versions": {}, "calibration": bins}).calibration
    assert calibration_error(rows, "step") == pytest.approx((30 * 0.2 + 10 * 0.1) / 40)
    assert calibration_error(rows, "answer") is None


PLOT = Plot((Series("a < b & $c$", "series-1", [0, 1], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5]),), "x", "y")


def test_an_svg_takes_its_colours_from_the_page():
    svg = to_svg(PLOT, "one")
    assert "a &lt; b &amp; $c$" in svg
    assert "var(--series-1)" in svg
    assert not [color for color in re.findall(r"#[0-9a-f]{6}", svg) if color in LIGHT.values()]
    assert "<metadata" not in svg and "xmlns" not in svg and "<style" not in svg
    assert LIGHT.keys() == DARK.keys()


def test_ticks_between_whole_per_cents_keep_their_decimal():
    svg = to_svg(Plot((Series("a", "series-1", [0, 1], [0.64, 0.79]),), "x", "y"), "one")
    labels = re.findall(r">([\d.]+)%<", svg)
    steps = [float(after) - float(before) for before, after in pairwise(labels)]
    assert "67.5" in labels and steps == pytest.approx([2.5] * len(steps))


def test_a_png_starts_like_one():
    assert to_png(PLOT).startswith(b"\x89PNG")


def test_spread_by_hand():
    assert spread([0.5, 0.52, 0.1], 0.1) == pytest.approx([0.46, 0.56, 0.1])  # up: 0.5, 0.6; down: 0.42, 0.52
    assert spread([0.97, 0.99], 0.1) == pytest.approx([0.895, 0.995])  # up: 0.9, 1 at most; down: 0.89, 0.99


@given(st.lists(st.floats(0, 1), max_size=9))
def test_spread_keeps_the_order_and_the_gap(heights):
    moved = spread(heights, 0.1)
    ranked = sorted(range(len(heights)), key=lambda index: heights[index])
    gaps = [moved[after] - moved[before] for before, after in pairwise(ranked)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in moved)


# Words, markup, terminal


def test_words_for_numbers():
    assert [duration(seconds) for seconds in (0.04, 9.96, 59.6, 75, 3600)] == [
        "0.0 s",
        "10.0 s",
        "1 min",
        "1 min 15 s",
        "1 h",
    ]
    assert [signed(value) for value in (3.42, -0.5, 0)] == ["+3.4", "−0.5", "+0.0"]
    assert [stage_label(stage) for stage in ("sft", "dpo-2", "outcome-1", "my-stage")] == [
        *("SFT", "DPO, round 2", "Outcome DPO, round 1", "my-stage")
    ]
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}


def test_only_markup_passes_unescaped():
    assert element("p", "<b>", Html("<b>"), None, [1, "&"], title='"', hidden=True, open=False) == (
        '<p title="&quot;" hidden>&lt;b&gt;<b>1&amp;</p>'
    )
    assert join("'") == "&#x27;"


def test_the_terminal_summary_shows_the_headline_the_verdicts_and_the_report(tmp_path):
    console = Console(record=True, width=120, file=(tmp_path / "out").open("w"))
    results = made_up_results()
    results["claims"][0]["name"] = "[red]not markup[/red]"
    print_summary(results, console, tmp_path / "report.html")
    text = console.export_text()
    assert re.search(r"DPO, round 3\W+71\.8%\W+69\.1 to 74\.2\W+861 / 1,200", text)
    assert "Holds: [red]not markup[/red]. +31.0 points here, 95% interval +27.4 to +34.7." in text
    assert f"Report: {tmp_path / 'report.html'}" in text.replace("\n", "")
    console.file.close()
