"""`cos ask`: what is printed as steps are made, for people and for programs, and pictures from anywhere."""

import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from chainofstep import cli
from chainofstep.answering import AnswerMade, Progress, StepMade
from chainofstep.chain import Chain, Step, render
from chainofstep.records import ScoreFailure, StepScores
from chainofstep.search import Cost, SearchResult
from chainofstep.verbs.printed import PrintedAnswer, comparison_table
from taught import write_taught

STEP = Step("Read row 1", "Row 1 reads 3 [bold].", "3 in row 1.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    write_taught(folder)
    return folder


def picture_of(folder: Path) -> Path:
    return next(folder.glob("*.png"))


def cos_ask(folder: Path, picture: object, *words: object, stdin: bytes = b"", code: int = 0) -> Result:
    models = ("--model", folder / "policy", "--prm", folder / "prm", "-n", 4, "--temperature", 0.4, "--seed", 3)
    whole = ["ask", picture, "What is the sum of row 1?", *models, *words]
    with ThreadPoolExecutor(1) as threads:  # a browser of other tests may have left its event loop in this one
        asked = partial(CliRunner().invoke, cli.app, [str(word) for word in whole], input=stdin, env={"COLUMNS": "120"})
        found = threads.submit(asked).result()
    assert found.exit_code == code, (found.stdout, found.stderr, found.exception)
    return found


def console() -> Console:
    return Console(width=100, record=True, force_terminal=True, color_system="standard", file=io.StringIO())


def test_steps_and_answer_are_coloured_by_their_scores():
    shown = console()
    printed = PrintedAnswer(shown)
    for event in (Progress(1, 4), StepMade(0, 0, STEP, 0.25), AnswerMade(0, "3", 0.9)):
        printed.tell(event)
    chain = Chain((STEP,), "3")
    printed.end(SearchResult("q", "3", render(chain), chain, StepScores((0.25,), 0.9), Cost(1200, 2, 3)), 1.25)
    coloured = shown.export_text(styles=True, clear=False)
    assert "\x1b[31m0.25" in coloured and "\x1b[32m0.90" in coloured
    assert shown.export_text() == (
        "0.25  1. Read row 1\n      Row 1 reads 3 [bold].\n      3 in row 1.\n0.90  Answer: 3\n"
        "cost: 1,200 sampled tokens, 2 chains scored (3 steps), 1.2 s\n"
    )


def test_a_step_that_is_replaced_says_so():
    shown = console()
    printed = PrintedAnswer(shown)
    for number in (0, 1, 1):
        printed.tell(StepMade(0, number, STEP, None))
    assert "another chain won; from step 2 on it is\n      2. Read row 1" in shown.export_text()


def test_no_answer_and_no_score_say_why():
    shown = console()
    printed = PrintedAnswer(shown)
    printed.end(SearchResult("q", None, "", None, None, Cost(), (), "no chain reached an answer"), 0.0)
    chain = Chain((STEP,), "3")
    printed.end(SearchResult("q", "3", "", chain, ScoreFailure("too long"), Cost()), 0.0)
    text = shown.export_text()
    assert "no answer: no chain reached an answer\n" in text and "not scored: too long\n" in text


def test_the_table_of_methods_has_what_each_came_to():
    chain = Chain((STEP, STEP), "3")
    found = SearchResult("q", "3", "", chain, StepScores((0.5, 1.0), 1.0), Cost(1234))
    shown = console()
    shown.print(comparison_table({"greedy": found, "step_beam": SearchResult("q", None, "", None, None, Cost(5))},
                                 {"greedy": 0.5, "step_beam": 2.0}))  # fmt: skip
    lines = [line.split() for line in shown.export_text().splitlines()]
    assert [
        "greedy",
        "3",
        "0.95",
        "2",
        "1,234",
        "0.5",
    ] in lines  # 0.2 of the steps' mean 0.75 and 0.8 of the answer's 1
    assert ["step_beam", "none", "5", "2.0"] in lines


def test_an_answer_in_a_terminal_has_steps_answer_and_cost(folder):
    done = cos_ask(folder, picture_of(folder), "--method", "beam")
    text = done.stdout
    assert "1. Read row\n" in text and "2. Read row\n" in text
    assert "Answer: 5\n" in text
    assert text.splitlines()[-1].startswith("cost: ") and text.splitlines()[-1].endswith(" s")


def test_standard_input_holds_a_picture_and_json_is_one_line_a_method(folder):
    content = picture_of(folder).read_bytes()
    done = cos_ask(folder, "-", "--compare", "greedy,beam", "--json", stdin=content)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["method"] for row in rows] == ["greedy", "step_beam"]
    from_file = cos_ask(folder, picture_of(folder), "--compare", "greedy,beam", "--json")
    assert [json.loads(line) for line in from_file.stdout.splitlines()] == rows
    assert rows[1]["answer"] == "5" and len(rows[1]["scores"]["steps"]) == 2 and rows[1]["trace"]


def test_methods_side_by_side_end_in_a_table(folder):
    text = cos_ask(folder, picture_of(folder), "--compare", "greedy, self_consistency").stdout
    assert text.index("greedy ─") < text.index("self_consistency ─") < text.index("sampled tokens   seconds")


def test_an_address_is_fetched_and_what_is_wrong_with_it_said(folder):
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *words: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = cos_ask(folder, f"{address}/{picture_of(folder).name}")
        assert "Answer: 5" in done.stdout
        missing = cos_ask(folder, f"{address}/no.png", code=2)
        server.shutdown()
    assert missing.stderr.strip() == (
        f"error: {address}/no.png: its server answered 404: save the picture and give the file"
    )


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_standard_input_without_a_picture_is_refused(folder, content):
    assert "unreadable picture: standard input: " in cos_ask(folder, "-", stdin=content, code=2).stderr


def test_other_addresses_are_not_fetched(folder):
    for address in ("ftp://x/x.png", "File:///x.png"):
        said = cos_ask(folder, address, code=2).stderr
        assert said.startswith(f"error: {address}: only http and https") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--temperature", -1), "temperature is -1.0; give 0 or more"),
        (("--top-p", 0), "top_p is 0.0; give a number above 0, up to 1"),
        (("-n", 0), "n is 0; give at least 1"),
        (("--max-tokens", 0), "max_tokens is 0; give at least 1"),
        (("--width", 0), "width is 0; give at least 1"),
        (("--width", 3, "--method", "beam"), "n is 4 and width 3; choose a width that divides n"),
        (("--compare", "greedy,beam,greedy"), "method greedy is named twice in 'greedy,beam,greedy': name each once"),
        (("--compare", "beam,step_beam"), "method step_beam is named twice in 'beam,step_beam': name each once"),
        (("--compare", "greedy, ,beam"), "a method's name is empty in 'greedy,,beam': there are greedy, "),
    ],
)
def test_what_means_nothing_is_refused_before_models_are_loaded(folder, words, said):
    assert cos_ask(folder, picture_of(folder), "--model", "gone", *words, code=2).stderr.startswith(f"error: {said}")


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused_before_models_are_loaded(folder, question):
    words = ["ask", str(picture_of(folder)), question, "--model", "gone"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 2
    assert done.stderr == f"error: the question is {question!r}: ask something about the picture\n"


def test_what_cannot_be_sampled_is_told_of_the_one_question_alone(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    said = cos_ask(folder, tmp_path / "broken.png", code=2).stderr
    assert "request" not in said and "example" not in said and "broken.png" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ("- Q --model gone <&-", "standard input is closed: send the picture to it, or give a file"),
        (
            "FILE Q --model MODEL > /dev/full",
            "no space left where the output goes: free some, or send it elsewhere",
        ),
    ],
)
def test_streams_that_cannot_be_used_are_one_line(folder, streams, said):
    words = streams.replace("FILE", str(picture_of(folder))).replace("MODEL", str(folder / "policy"))
    command = f"{sys.executable} -m chainofstep ask {words}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"error: {said}")
    assert "Traceback" not in done.stderr


def test_a_method_that_is_not_known_is_refused_before_models_are_loaded(folder):
    done = cos_ask(folder, picture_of(folder), "--compare", "greedy,best", code=2)
    assert "best" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("chainofstep.verbs.run_models", ["ask", "x.png", "Q"]),
        ("chainofstep.cli.serve._listen", ["serve", "m"]),
        ("chainofstep.view.opened.Shelf", ["view", "r", "--export", "x.html"]),
    ],
)
def test_a_stop_of_what_keeps_nothing_promises_nothing(monkeypatch, where, words):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stderr) == (130, "stopped\n")
