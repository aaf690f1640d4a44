"""The viewer's page in a real browser, against the real server of a small run folder."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from chainofstep.chain import Chain, Step, render
from chainofstep.records import Example, Pair, Rollout, StepScores, to_row
from chainofstep.search import Candidate, Cost, SearchResult
from chainofstep.serve.view import view_app
from chainofstep.view.export import export_page
from chainofstep.view.opened import Shelf

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ("browser",)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
READ = Step("Read row 1", "Row 1 reads 4, 4, 2.", "All in row 1.")
ADD = Step("Add", "4 + 4 + 2 = 10.", "The sum is 10.")
WRONG = Step("Add badly", "4 + 4 + 2 = 12.", "The sum is 12.")
COUNT = 60  # questions: more than one page of 50


def hostile(text: str) -> Step:
    return Step(text, f"{text} {'W' * 200}", "שלום עולם")


def rollout(name: str, index: int, text: str) -> Rollout:
    ending = "answer" if text.endswith(render(Chain((), ""))[-14:]) else "length"
    return Rollout(name, text, (1, 2), ending, seed=0, index=index)  # type: ignore[arg-type]


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def question(number: int) -> tuple[Example, list[str], list[StepScores], list[StepScores]]:
    """An example with its texts and their scores by PRM and checker.

    The first question's three rollouts share a first step; the PRM takes the second's wrong step for right. The second
    question is hostile. Of the others each has one right rollout.
    """
    family = "line_sum" if number % 2 == 0 else "clock"
    example = Example(f"{family}-{number}", f"What is number {number}?", ("grid.png",), "10", "number", source=family)
    whole = render(Chain((READ, ADD), "10"))
    if number == 0:
        texts = [whole, render(Chain((READ, WRONG), "12")), render(Chain((READ,)))]
        prm = [StepScores((0.95, 0.9), 0.97), StepScores((0.95, 0.8), 0.1), StepScores((0.95,))]
        checker = [StepScores((1.0, 1.0), 1.0), StepScores((1.0, 0.0), 0.0), StepScores((1.0,))]
        return example, texts, prm, checker
    if number == 1:
        example = Example("clock-1", SCRIPT, ("grid.png",), "10", "number", (SCRIPT, "W" * 200), source="clock")
        return (
            example,
            [render(Chain((hostile(SCRIPT),), SCRIPT))],
            [StepScores((0.2,), 0.1)],
            [StepScores((0.0,), 0.0)],
        )
    return example, [whole], [StepScores((0.7, 0.9), 0.9)], [StepScores((1.0, 1.0), 1.0)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as single commands leave it, with a search and a pair."""
    folder = tmp_path / "small"
    folder.mkdir()
    Image.new("RGB", (60, 40), "orange").save(folder / "grid.png")
    asked = [question(number) for number in range(COUNT)]
    write_rows(folder / "examples.jsonl", [to_row(example) for example, *_ in asked])
    pools = [
        {"id": example.id, "rollouts": [to_row(rollout(example.id, place, text)) for place, text in enumerate(texts)]}
        for example, texts, *_ in asked
    ]
    write_rows(folder / "rollouts.jsonl", pools)
    for place, scorer in ((2, "prm"), (3, "checker")):
        rows = [{"id": one[0].id, "scores": [to_row(scores) for scores in one[place]]} for one in asked]
        write_rows(folder / f"{scorer}.jsonl", rows)
    good, bad = asked[0][1][:2]
    write_rows(folder / "pairs.jsonl", [to_row(Pair("line_sum-0", good, bad, 0.94, 0.5, "step scores"))])
    levels = (
        (Candidate(render(Chain((READ,))), 2, 0.95, True), Candidate(render(Chain((WRONG,))), 1, 0.3, False)),
        (Candidate(good, 3, 0.97, True),),
    )
    found = SearchResult("line_sum-0", "10", good, Chain((READ, ADD), "10"), asked[0][2][0], Cost(90, 3, 4), levels)
    write_rows(folder / "beam.jsonl", [{"id": "line_sum-0"} | to_row(found)])
    return folder


@pytest.fixture
def address(run: Path, serve: Callable[[Any], str]) -> str:
    return serve(view_app([run]))


def sideways(page: "Page") -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def rows(page: "Page") -> list[str]:
    return [str(link.get_attribute("data-id")) for link in page.locator("#questions a").all()]


def open_list(page: "Page", address: str, state: str = "") -> None:
    """The page once its whole index is built."""
    page.goto(f"{address}/#{state}")
    page.locator("#questions a, #questions .empty").first.wait_for()
    page.locator("#building").wait_for(state="hidden")


def settled(page: "Page", count: int) -> None:
    """Wait until the list has so many questions."""
    page.wait_for_function("count => document.querySelectorAll('#questions a').length === count", arg=count)


def item(name: str, **state: str) -> str:
    return "&".join([f"run=small&set=rollouts&id={name}", *(f"{key}={value}" for key, value in state.items())])


def test_the_list_loads_its_second_page_when_it_is_scrolled(page: "Page", address: str) -> None:
    open_list(page, address)
    settled(page, 50)
    assert page.locator("#count").text_content() == f"{COUNT} questions, {COUNT + 2} rollouts"
    page.locator("#questions a").last.scroll_into_view_if_needed()
    settled(page, COUNT)
    assert rows(page) == [question(number)[0].id for number in range(COUNT)]
    assert page.locator("#questions a").first.locator(".tally").text_content() == "1/3"


def test_filters_narrow_the_list_and_stand_in_the_address(page: "Page", address: str) -> None:
    open_list(page, address)
    page.select_option("[name=family]", "clock")
    settled(page, COUNT // 2)
    page.select_option("[name=answer]", "wrong")
    settled(page, 1)
    assert rows(page) == ["clock-1"]
    assert "family=clock" in page.url and "answer=wrong" in page.url
    page.click("#clear")
    settled(page, 50)
    page.fill("[name=text]", "number 4")
    settled(page, 11)
    assert rows(page)[:2] == ["line_sum-4", "line_sum-40"]
    page.fill("[name=text]", "nothing like it")
    page.locator("#questions .empty").wait_for()
    page.fill("[name=text]", "")
    page.fill("[name=high]", "0.5")
    settled(page, 1)
    assert rows(page) == ["clock-1"]


def test_keys_go_through_questions_tabs_and_filters(page: "Page", address: str) -> None:
    open_list(page, address)
    page.locator("h1", has_text="What is number 0?").wait_for()
    page.keyboard.press("j")
    page.locator("h1").get_by_text(SCRIPT).wait_for()
    page.keyboard.press("j")
    page.locator("h1", has_text="What is number 2?").wait_for()
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.locator("h1", has_text="What is number 0?").wait_for()
    page.keyboard.press("l")
    assert page.locator("[aria-selected=true]").get_attribute("id") == "tab-rollouts"
    page.keyboard.press("h")
    assert page.locator("[aria-selected=true]").get_attribute("id") == "tab-tree"
    page.keyboard.press("d")
    settled(page, 1)
    assert rows(page) == ["line_sum-0"]
    page.keyboard.press("/")
    page.keyboard.type("jd")
    assert page.input_value("[name=text]") == "jd"  # letters, not keys
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_the_first_question_of_the_list_opens_by_itself_at_a_desk(page: "Page", address: str) -> None:
    page.goto("about:blank")
    open_list(page, address, "run=small&set=rollouts&family=clock")
    page.locator("#item .place", has_text="clock · clock-1").wait_for()
    assert "id=clock-1" in page.url and page.locator("a[aria-current]").get_attribute("data-id") == "clock-1"
    page.go_back()
    assert page.url == "about:blank"  # it is no step of its own
    open_list(page, address, item("line_sum-4"))
    page.locator("#item .place", has_text="line_sum-4").wait_for()
    assert "id=line_sum-4" in page.url


def test_a_question_without_text_has_its_id_in_the_list(page: "Page", address: str, run: Path) -> None:
    asked = [to_row(replace(question(number)[0], question=" " * number)) for number in (0, 1)]
    write_rows(run / "examples.jsonl", asked)
    open_list(page, address)
    assert page.locator(".row-question").all_text_contents()[:3] == ["line_sum-0", "clock-1", "line_sum-2"]


def test_a_picture_outside_the_run_is_said_to_be_there(page: "Page", address: str, run: Path) -> None:
    write_rows(run / "examples.jsonl", [to_row(replace(question(0)[0], images=("/elsewhere/grid.gif", "grid.png")))])
    page.route(
        "**/api/items?*", lambda route: route.fulfill(json={"questions": 0, "rollouts": 0, "ready": 1, "items": []})
    )
    page.goto(f"{address}/#{item('line_sum-0')}")
    page.locator(".pictures p", has_text="picture is missing: outside the run: give --pictures FOLDER").wait_for()
    assert page.locator(".pictures img").count() == 1


def test_a_phone_shows_where_a_question_is_and_whose_run_it_is(phone: "Page", address: str) -> None:
    phone.goto(f"{address}/#run=small")
    phone.locator("#questions a").nth(2).click()
    place = phone.locator("#item .place", has_text="line_sum · line_sum-2")
    place.wait_for()
    header = "document.querySelector('.bar').getBoundingClientRect().bottom"
    assert place.bounding_box()["y"] >= phone.evaluate(header)
    assert phone.locator("#where").text_content() == "small · rollouts" and phone.locator("#where").is_visible()
    phone.click("#back")
    assert not phone.locator("#where").is_visible() and "id=" not in phone.url  # the list stays a list
    assert phone.locator("#run").bounding_box()["y"] < phone.locator("#set").bounding_box()["y"]
    assert phone.locator("#run").bounding_box()["width"] > 250


def test_the_theme_is_remembered(page: "Page", address: str) -> None:
    open_list(page, address)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("t")
    dark = page.evaluate(ground)
    page.reload()
    page.locator("#questions a").first.wait_for()
    assert page.evaluate(ground) == dark != light


def test_a_link_shows_the_item_with_its_filters_and_rollout(page: "Page", address: str) -> None:
    open_list(page, address, item("line_sum-0", disagree="1", rollout="1"))
    assert rows(page) == ["line_sum-0"]
    assert page.locator("#disagree").get_attribute("aria-pressed") == "true"
    assert page.locator(".tools .rollout[aria-pressed=true]").text_content() == "1✗"
    assert page.locator(".tree .step.on strong").all_text_contents() == [READ.name, WRONG.name, "12"]
    assert page.locator(".tools .rollout.unfit").count() == 2  # the PRM is right about the others


def test_the_tree_shares_prefixes_flags_disagreements_and_folds(page: "Page", address: str) -> None:
    open_list(page, address, item("line_sum-0"))
    assert page.locator(".tree [data-node] strong").all_text_contents() == [READ.name, ADD.name, "10", WRONG.name, "12"]
    assert page.locator(".tree .share").all_text_contents() == ["3/3", "1/3", "1/3", "1/3", "1/3"]
    flagged = page.locator(".tree [data-node]", has=page.locator(".flag"))
    assert flagged.locator("strong").all_text_contents() == [WRONG.name]
    assert page.locator(".stops .rollout").all_text_contents() == ["2–"]
    wrong = page.locator(".branch", has_text=WRONG.name)
    wrong.locator(".fold").click()
    assert wrong.locator(".leaf").is_hidden() and page.locator(".leaf").first.is_visible()
    page.locator(".leaf .rollout").first.click()
    assert page.locator(".tree .step.on strong").all_text_contents() == [READ.name, ADD.name, "10"]
    assert "rollout=0" in page.url


def test_search_pairs_and_calibration_have_their_tabs(page: "Page", address: str) -> None:
    open_list(page, address, item("line_sum-0", tab="beam"))
    assert page.locator(".level h3").all_text_contents() == [
        "Level 1 2 candidates, 1 kept",
        "Level 2 1 candidate, 1 kept",
    ]
    assert "dropped: " in str(page.locator(".level .dropped .why").text_content())
    page.click("#tab-pairs")
    assert page.locator(".side .differs strong").all_text_contents() == [ADD.name, "10", WRONG.name, "12"]
    page.click("#tab-calibration")
    page.locator(".diagram").wait_for()
    steps = sum(len(scores.steps) for number in range(COUNT) for scores in question(number)[2])
    assert f"{steps} steps" in str(page.locator("#panel").text_content())


def test_a_label_is_corrected_and_taken_back(page: "Page", address: str, run: Path) -> None:
    open_list(page, address, item("line_sum-0", tab="rollouts", rollout="1"))
    first = page.locator(".chain > li").first
    first.locator(".label.wrong").click()
    first.locator(".label.undo").wait_for()
    assert first.locator(".label.wrong").get_attribute("aria-pressed") == "true"
    assert page.locator(".label.undo").count() == 1
    kept = [json.loads(line) for line in (run / "hand" / "corrections.jsonl").read_text("utf-8").splitlines()]
    assert [(row["id"], row["index"], row["step"], row["label"]) for row in kept] == [("line_sum-0", 1, 0, 0.0)]
    assert page.locator("[name=scorer] option").all_text_contents()[-1] == "hand"
    first.locator(".label.undo").click()
    first.locator(".label.undo").wait_for(state="detached")
    assert first.locator("[aria-pressed=true]").count() == 0


def test_a_label_that_cannot_be_kept_is_told_in_one_line(
    page: "Page", address: str, run: Path, complaints: list[str]
) -> None:
    (run / "hand").write_text("a file where the folder of labels should be")
    open_list(page, address, item("line_sum-0", tab="rollouts"))
    page.locator(".label.right").first.click()
    page.locator("#error").wait_for()
    assert "hand" in str(page.locator("#error").text_content())
    assert len(complaints) == 1 and complaints.pop().startswith("Failed to load resource")


def test_hostile_texts_stay_texts(page: "Page", address: str) -> None:
    open_list(page, address, item("clock-1"))
    assert page.locator("h1").text_content() == SCRIPT
    for tab in ("tree", "rollouts"):
        page.click(f"#tab-{tab}")
        assert page.locator("#panel .step strong").all_text_contents() == [SCRIPT, SCRIPT]
    assert page.locator("body script, img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["line_sum-0", "clock-1"])
def test_nothing_is_wider_than_a_phone(phone: "Page", address: str, name: str) -> None:
    phone.goto(f"{address}/#{item(name)}")
    for tab in ("tree", "rollouts", "beam", "pairs", "calibration"):
        phone.click(f"#tab-{tab}")
        phone.locator(f"#panel[aria-labelledby=tab-{tab}] > *").first.wait_for()
        assert sideways(phone) == 0, tab
    phone.click("#back")
    assert phone.locator("#questions").is_visible() and not phone.locator("#panel").is_visible()
    assert sideways(phone) == 0


def test_an_index_that_is_being_built_is_asked_for_again(page: "Page", address: str) -> None:
    answers = []

    def half_built(route: Any) -> None:
        answer = route.fetch()
        if len(answers) < 2:
            answers.append(answer)
            return route.fulfill(response=answer, json=answer.json() | {"ready": 0.42})
        return route.fulfill(response=answer)

    page.route("**/api/items?*", half_built)
    page.goto(address)
    page.locator("#building", has_text="42%").wait_for()
    page.locator("#building").wait_for(state="hidden")
    assert len(answers) == 2 and len(rows(page)) == 50


def test_a_question_that_is_not_there_is_told_in_one_line(page: "Page", address: str, complaints: list[str]) -> None:
    open_list(page, address, item("nobody"))
    page.locator("#error", has_text="nobody").wait_for()
    assert complaints.pop().startswith("Failed to load resource")


def test_the_exported_page_needs_no_server(page: "Page", run: Path, tmp_path: Path) -> None:
    shelf = Shelf([run])
    try:
        assert export_page(shelf, tmp_path / "run.html", limit=10) == 10
    finally:
        shelf.close()
    page.goto((tmp_path / "run.html").as_uri())
    settled(page, 10)
    page.keyboard.press("d")
    settled(page, 1)
    page.keyboard.press("j")
    page.locator("h1", has_text="What is number 0?").wait_for()
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == 60
    page.click("#tab-rollouts")
    assert page.locator(".chain > li").count() == 3 and page.locator(".label").count() == 0
    page.click("#tab-calibration")
    page.locator(".diagram").wait_for()


def test_no_page_makes_elements_of_texts_or_loads_from_elsewhere() -> None:
    makes = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc| style="
    loads = r"(?<!_)url\(|@import|(src|href)=.(https?:)?//"
    for path in (files("chainofstep") / "serve" / "static").iterdir():
        assert not re.search(f"{makes}|{loads}", path.read_text("utf-8")), path.name
