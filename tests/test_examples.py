"""The scripts in examples/: each runs as its first lines say, on small models, and says what is wrong in one line."""

import csv
import json
import runpy
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path

import pytest

from chainofstep.chain import render
from chainofstep.records import Example, to_row
from chainofstep.store import read_rows
from chainofstep.verbs.files import write_lines
from conftest import make_chain

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
FOLDER = SCRIPTS[0].parent


def run(name, *words, code=0):
    """What the script prints; where it fails, the line that it ends with. In this process, which has torch already."""
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        try:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            assert bool(end.code) == bool(code), end.code
            return end.code if code else out.getvalue()
    assert code == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (96, 96), "red").save(path)
    return path


@pytest.fixture(scope="module")
def by_heart(picture, tmp_path_factory):
    """A policy that has learnt one chain by heart: its answer is 5 whatever is asked."""
    from chainofstep.training.sft import SftConfig, SftRow, train_sft
    from small_training import small

    chain = make_chain("row is 5.", answer="5")
    row = SftRow(Example("e", "What is the colour?", (str(picture),), "5", "number"), render(chain))
    config = SftConfig(batch_size=8, forward_rows=8, learning_rate=3e-3, epochs=400)
    folder = tmp_path_factory.mktemp("models") / "policy"
    train_sft(small(), [row] * 8, config, folder)
    return folder


def test_there_are_three_short_scripts():
    assert [path.stem for path in SCRIPTS] == ["own_data", "own_model", "rerank"]
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) < 120
        assert f"python examples/{path.name}" in run(path.stem, "--help")


# own_data


def questions(folder, picture, *rows, header=("picture", "question", "answer")):
    path = folder / "questions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *((picture, *row) for row in rows)])
    return path


def test_own_data_becomes_what_a_prm_is_trained_on(tmp_path, picture, by_heart):
    from chainofstep.verbs import train_prm

    asked = questions(tmp_path, picture, ("What is the colour?", "5"), ("What is the colour?", "4"))
    said = run("own_data", asked, "--model", by_heart, "--out", tmp_path / "out", "-n", 2)
    assert "questions-1: 2 right of 2 texts, 2 of them whole chains" in said
    assert "questions-2: 0 right of 2 texts" in said and "labelled: 4" in said
    rows = [row for _, row in read_rows(tmp_path / "out" / "examples.jsonl")]
    assert [(row["question"], row["answer"], row["answer_kind"]) for row in rows] == [
        ("What is the colour?", "5", "number"),
        ("What is the colour?", "4", "number"),
    ]
    labels = [row["scores"] for _, row in read_rows(tmp_path / "out" / "labels.jsonl")]
    assert [scores["answer"] for pool in labels for scores in pool] == [1.0, 1.0, 0.0, 0.0]
    files = [tmp_path / "out" / f"{name}.jsonl" for name in ("examples", "rollouts", "labels")]
    trained = train_prm(str(by_heart), *files, tmp_path / "prm", ["epochs=1", "batch_size=4", "forward_rows=4"])
    assert trained.rows == 4


@pytest.mark.parametrize(
    "rows, header, told",
    [
        ([("Which?", "5")], ("picture", "question"), "has no column answer"),
        ([("Which?", "")], ("picture", "question", "answer"), ":2: an empty cell"),
        ([], ("picture", "question", "answer"), "has no row"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, picture, rows, header, told):
    asked = questions(tmp_path, picture, *rows, header=header)
    error = run("own_data", asked, "--model", "none", "--out", tmp_path / "out", code=1)
    assert error.startswith("error: ") and told in error and "\n" not in error


def test_a_picture_that_is_gone_is_told(tmp_path):
    asked = questions(tmp_path, "gone.png", ("Which?", "5"))
    assert "questions.csv:2: no picture" in run("own_data", asked, "--model", "m", "--out", tmp_path / "o", code=1)


# own_model


def test_own_model_learns_and_is_saved(tmp_path):
    said = run("own_model", "--out", tmp_path, "--epochs", 1)
    assert "14 tokens added" in said and "What is the" in said
    assert (tmp_path / "model" / "model.safetensors").is_file()
    again = run("own_model", "--model", tmp_path / "model", "--out", tmp_path / "again", "--epochs", 1)
    assert "0 tokens added" in again


def test_examples_without_a_chain_are_told(tmp_path, picture):
    rows = write_lines(tmp_path / "rows.jsonl", [to_row(Example("e", "Which?", (str(picture),), "5", "number"))])
    error = run("own_model", "--out", tmp_path / "out", "--examples", rows, code=1)
    assert error.startswith("error: ") and "no example with a chain" in error


# rerank


def asked_of(folder, picture):
    return write_lines(
        folder / "rows.jsonl", [to_row(Example("e", "What is the colour?", (str(picture),), "5", "number"))]
    )


def test_answers_of_a_file_are_ranked(tmp_path, picture, model):
    texts = ["It is red.\nAnswer: 5", render(make_chain("row is 4.", answer="4")), "No idea."]
    answers = write_lines(tmp_path / "texts.jsonl", [{"id": "e", "texts": texts}])
    said = run("rerank", asked_of(tmp_path, picture), "--texts", answers, "--prm", model)
    assert "e: text 2 is left out: its last line is no answer: 'No idea.'" in said
    (line,) = [line for line in said.splitlines() if line.startswith("e: ") and "left out" not in line]
    ranked = [part.split(" ") for part in line.removeprefix("e: ").split(", ")]
    assert {answer for answer, _ in ranked} == {"4", "5"}
    scores = [float(score.strip("()")) for _, score in ranked]
    assert scores == sorted(scores, reverse=True)
    assert f"right for {int(ranked[0][0] == '5')} of 1" in said


@contextmanager
def endpoint(text, asked):
    """A server that always says `text`, and remembers what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": text}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"m@http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def test_answers_of_an_endpoint_are_ranked(tmp_path, picture, model):
    pytest.importorskip("openai")
    asked = []
    with endpoint("It is red.\nIt is 5.\nAnswer: 5", asked) as address:
        said = run("rerank", asked_of(tmp_path, picture), "--endpoint", address, "-n", 2, "--prm", model)
    assert "right for 1 of 1" in said and said.count("5 (") == 2
    picture_part, text_part = asked[0]["messages"][0]["content"]
    assert len(asked) == 2 and picture_part["image_url"]["url"].startswith("data:image/png;base64,")
    assert text_part["text"].startswith("What is the colour?")


def test_texts_that_are_missing_are_told(tmp_path, picture, model):
    answers = write_lines(tmp_path / "texts.jsonl", [{"id": "other", "texts": []}])
    error = run("rerank", asked_of(tmp_path, picture), "--texts", answers, "--prm", model, code=1)
    assert "has no texts for 'e'" in error
