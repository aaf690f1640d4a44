"""What `cos eval` prints: whole headings at 80 columns, one row where methods cannot differ, captions that fit."""

import io

import pytest
from rich.console import Console

from chainofstep.report.evaluation import caption, markdown, sheets
from chainofstep.verbs.printed import print_evaluation


def row(method, n=1, breakdown="", group="all", right=3, failed=0, **more):
    counts = {"right": right, "wrong": 2, "unparseable": 1, "failed": failed, "total": 6 + failed}
    shares = {"accuracy": 0.5, "low": 0.2, "high": 0.8, "credited": right, "official": 0.5}
    return {"method": method, "n": n, "width": 1, "breakdown": breakdown, "group": group} | counts | shares | more


def results(*rows, **more):
    about = {"title": "MMStar", "split": "val", "items": 6, "rejected": [], "problems": []}
    return about | {"rows": list(rows)} | more


def shown(found, width):
    console = Console(file=io.StringIO(), width=width)
    print_evaluation(found, console)
    return console.file.getvalue()


POOL = ("self_consistency", "best_of_n", "weighted_vote", "pass_at_n")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_headings_are_whole_and_no_cell_is_lost(width):
    rows = [row(method, 16, sampled_tokens=6, credited=4) for method in (*POOL, "step_beam")]
    rows += [row("greedy", 1, "l2_category", "coarse perception of things", credited=4)]
    text = shown(results(*rows), width)
    for heading in ("Method", "Accuracy", "95% interval", "Unparseable", "Official", "Tokens", "L2 category"):
        assert any(heading in line for line in text.splitlines()) or (width, heading) == (40, "L2 category")
    assert "…" not in text and text.count("20.0 to 80.0") == len(rows)
    assert text.count("Step beam, width 1") == {200: 1, 80: 2, 40: 7}[width]
    assert text.count("MMStar, val: 6 items") == 1


def test_words_of_a_breakdown_are_words():
    titles = [(sheet.title, sheet.headings[2]) for sheet in sheets(results(row("greedy", 1, "question_type", "open")))]
    assert titles[1:] == [("By question type", "Question type")]


def test_methods_of_one_sample_are_one_row():
    rows = [row("greedy"), *(row(method, n) for method in POOL for n in (1, 4))]
    rows += [row(method, 1, "type", "human", right=2) for method in POOL]
    whole, parts = sheets(results(*rows))
    labels = [cells[:2] for cells in whole.rows]
    assert labels[:3] == [("Greedy", "1"), ("One sample", "1"), ("Self-consistency", "4")] and len(labels) == 6
    assert [cells[:3] for cells in parts.rows] == [("One sample", "1", "human")]


def test_a_method_of_one_sample_that_came_to_another_figure_keeps_its_row():
    rows = [row("self_consistency"), row("best_of_n", right=2, failed=1), row("pass_at_n")]
    whole = next(sheets(results(*rows)))
    assert [cells[0] for cells in whole.rows] == ["One sample", "Best-of-N by PRM"]


def test_captions_speak_of_what_is_there():
    graded = " ".join(caption(results(row("predictions"))))
    assert "token" not in graded and "pool" not in graded
    asked = " ".join(caption(results(row("best_of_n", 4, sampled_tokens=6))))
    assert "tokens are those sampled a question" in asked and "Pool methods" in asked


def test_one_is_one():
    found = results(row("greedy"), items=1, rejected=[{"place": "x:1", "reason": "no gold answer"}])
    text = markdown(found)
    assert "## MMStar, val: 1 item\n" in text and "1 row could not be read: a failed item, in no group." in text
