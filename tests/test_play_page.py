"""The playground in a real browser, against the real server of models that write whole chains."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from chainofstep.answering import Models, open_models
from chainofstep.chain import render
from chainofstep.records import Example
from chainofstep.serve.app import app
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import ScriptedModels, until
from taught import write_taught

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytest_plugins = ("browser",)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
Playground = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("taught")


@pytest.fixture(scope="module")
def example(folder: Path) -> Example:
    return write_taught(folder)


@pytest.fixture(scope="module")
def models(folder: Path, example: Example) -> Iterator[Models]:
    with open_models(str(folder / "policy"), str(folder / "prm")) as models:
        yield models


@pytest.fixture
def playground(serve: Callable[[Any], str]) -> Iterator[Playground]:
    """Call it with models and settings: the address of their server."""
    servers = []

    def start(models: Any, **settings: Any) -> str:
        servers.append(app(models, ServeSettings(**{"max_tokens": 120, "n": 4} | settings)))
        return serve(servers[-1].app)

    yield start
    for server in servers:
        server.close()


def open_page(page: "Page", address: str) -> None:
    page.goto(address)
    page.locator("#method option").first.wait_for(state="attached")


def ask(page: "Page", question: str, *pictures: str, method: str = "greedy") -> None:
    """Choose, type and run; what comes is not waited for."""
    page.set_input_files("#files", pictures)
    page.wait_for_function("n => document.querySelectorAll('.previews li').length === n", arg=len(pictures))
    page.fill("#question", question)
    page.select_option("#method", method)
    page.click("#run")


def ended(page: "Page", words: str = "Done", title: str = "Greedy") -> "Locator":
    """A method's result once it is at its end."""
    result = page.locator(f".result[aria-label='{title}']")
    result.locator("[role=status]", has_text=re.compile(f"^{words}")).wait_for()
    return result


def sideways(page: "Page") -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_a_picture_and_a_question_give_steps_scores_answer_and_cost(
    page: "Page", playground: Playground, models: Models, example: Example, tmp_path: Path
) -> None:
    open_page(page, playground(models))
    assert page.locator("#model").text_content() == "policy · scored by prm"
    ask(page, example.question, *example.images)
    result = ended(page)
    assert result.locator(".chain .step strong").all_text_contents() == ["Read row", "Read row"]
    assert result.locator(".chain p:not(.step-head):not(.reflection)").all_text_contents() == ["row is 3.", "row is 4."]
    scores = [float(text) for text in result.locator("[aria-live].chain .chip").all_text_contents()]
    assert len(scores) == 2 and all(0 < score < 1 for score in scores)
    assert str(result.locator(".step.answer").text_content()).startswith("Answer: 5")
    assert re.search(r"Done · 63 sampled tokens · .* tokens in all · [\d.]+ s", result.text_content() or "")
    assert result.locator(".note, .error:visible, progress:visible").count() == 0
    page.screenshot(path=tmp_path / "light.png", full_page=True)
    page.click("#theme")
    page.screenshot(path=tmp_path / "dark.png", full_page=True)
    page.click(".remove")
    assert page.locator(".previews li").count() == 0


def test_a_search_takes_its_settings_and_shows_its_candidates(
    page: "Page", playground: Playground, models: Models, example: Example, tmp_path: Path
) -> None:
    open_page(page, playground(models))
    assert page.locator("#n").is_disabled() and page.locator("#width").is_disabled()
    page.select_option("#method", "step_beam")
    assert page.input_value("#n") == "4" and page.locator("#width").is_enabled()
    page.fill("#n", "6")
    page.fill("#width", "2")
    page.fill("#temperature", "0.4")
    with page.expect_request("**/v1/chat/completions") as asked:
        ask(page, example.question, *example.images, method="step_beam")
    assert asked.value.post_data_json["search"] == {"method": "step_beam", "n": 6, "width": 2}
    result = ended(page, title="Step beam search")
    assert str(result.locator(".step.answer").text_content()).startswith("Answer: 5")
    result.locator("summary").click()
    assert result.locator(".candidates h3").all_text_contents() == ["Level 1", "Level 2", "Level 3"]
    assert result.locator(".candidates .chip.kept:visible").count() >= 3
    page.screenshot(path=tmp_path / "beam.png", full_page=True)


def test_two_methods_are_compared_side_by_side(
    page: "Page", playground: Playground, models: Models, example: Example
) -> None:
    open_page(page, playground(models))
    page.check("#compare")
    page.select_option("#second", "best_of_n")
    page.fill("#temperature", "0.4")
    ask(page, example.question, *example.images)
    left, right = ended(page).bounding_box(), ended(page, title="Best of N").bounding_box()
    assert left and right and left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    assert page.locator(".result .step.answer").count() == 2


def test_stop_ends_the_run_here_and_at_the_server(
    page: "Page", playground: Playground, example: Example, complaints: list[str]
) -> None:
    chain = make_chain("a", answer="12")
    scripted = ScriptedModels(lambda request: [render(chain)], ScriptedScorer({"a": 0.9}, {"12": 0.8}))
    scripted.gate.clear()
    open_page(page, playground(scripted))
    ask(page, example.question)
    assert page.locator("#run").is_disabled()
    assert scripted.begun.wait(10)
    page.click("#stop")
    ended(page, "Stopped")
    assert scripted.cancelled.wait(10)
    assert page.locator("#stop").is_hidden() and page.locator("#run").is_enabled()
    scripted.gate.set()
    page.click("#run")
    ended(page)


def test_a_key_is_asked_for_where_the_server_wants_one(
    page: "Page", playground: Playground, models: Models, example: Example, complaints: list[str]
) -> None:
    page.goto(playground(models, keys=("right",)))
    page.locator("#key-field").wait_for()
    assert "no valid API key" in str(page.locator("#error").text_content())
    with page.expect_response("**/v1/models"):
        page.fill("#key", "wrong")
        page.press("#key", "Tab")
    page.locator("#error").wait_for()
    with page.expect_response("**/v1/models"):
        page.fill("#key", "right")
        page.press("#key", "Tab")
    page.locator("#error").wait_for(state="hidden")
    ask(page, example.question, *example.images)
    ended(page)
    assert "right" not in str(page.locator("#code").text_content())
    assert len(complaints) == 2 and all("401" in complaint for complaint in complaints)
    complaints.clear()


def test_what_the_server_refuses_is_one_line(
    page: "Page", playground: Playground, models: Models, tmp_path: Path, complaints: list[str]
) -> None:
    open_page(page, playground(models))
    ask(page, "word " * 3000)
    result = ended(page, "Failed")
    assert "1024" in str(result.locator(".error").text_content())
    assert len(complaints) == 1 and "422" in complaints.pop()
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#files", tmp_path / "no.png")
    page.locator("#error", has_text="no.png is no picture").wait_for()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.fill("#question", "How many?")
    page.click("#run")
    assert "does not answer" in str(ended(page, "Failed").locator(".error").text_content())
    assert len(complaints) == 1 and "ERR_FAILED" in complaints.pop()


def test_why_there_is_no_chain_and_no_score_is_said(page: "Page", playground: Playground, example: Example) -> None:
    texts = ["<|reasoning_start|>\nno chain at all", render(make_chain("a", answer="12"))]
    scripted = ScriptedModels(lambda request: [texts[0]], ScriptedScorer({}, fails=["a"]))
    open_page(page, playground(scripted))
    ask(page, example.question)
    note = ended(page).locator(".note")
    assert str(note.text_content()).startswith("Not a whole chain: expected")
    assert page.locator(".result pre").first.text_content() == "no chain at all"
    texts.pop(0)
    page.click("#run")
    page.locator(".note", has_text="Not scored: cannot score a.").wait_for()
    assert page.locator(".result .step.answer").count() == 1


def test_hostile_texts_stay_texts(page: "Page", playground: Playground, example: Example, tmp_path: Path) -> None:
    scripted = ScriptedModels(
        lambda request: [render(make_chain(SCRIPT, answer=SCRIPT))], ScriptedScorer({SCRIPT: 0.9}, {SCRIPT: 0.8})
    )
    picture = tmp_path / "<img src=x onerror=alert(3)>.png"
    picture.write_bytes(Path(example.images[0]).read_bytes())
    open_page(page, playground(scripted))
    ask(page, f"{SCRIPT} $(touch x) `y` 'z' END", str(picture))
    assert SCRIPT in str(ended(page).locator(".step.answer").text_content())
    page.click("#code summary")
    assert SCRIPT in str(page.locator("#python").text_content())
    assert "\\$(touch x) \\`y\\`" in str(page.locator("#curl").text_content())
    assert page.locator("body script, img[src=x]").count() == 0


def test_nothing_is_wider_than_a_phone(
    phone: "Page", playground: Playground, models: Models, example: Example, tmp_path: Path
) -> None:
    open_page(phone, playground(models))
    assert sideways(phone) == 0
    phone.check("#compare")
    ask(phone, "W" * 300, *example.images)
    ended(phone)
    ended(phone, title="Step beam search")
    for fold in phone.locator("summary").all():
        fold.click()
    assert sideways(phone) == 0
    phone.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert until(lambda: models.running == models.waiting == 0)
