"""POST /v1/score: the PRM's scores of chains that someone else made."""

import httpx2 as httpx
import pytest

from chainofstep.answering import open_models
from chainofstep.chain import STEP_START, render
from chainofstep.models.prm import PRM
from chainofstep.models.vlm import load_vlm, save_vlm
from chainofstep.records import Example
from chainofstep.serve.settings import ServeSettings
from conftest import ScriptedScorer, make_chain
from serving import NAME, PRM_NAME, ScriptedModels, Serving, ask, data_url, png
from vlm_server import spread_vlm

CHAIN = make_chain("a", "b", answer="12")
ROW = {
    "steps": [{"name": "Look", "thought": thought, "reflection": "It does."} for thought in ("a", "b")],
    "answer": "12",
}


def post(server, **body):
    return httpx.post(f"{server.url}/v1/score", json=body, timeout=20)


@pytest.fixture(scope="module")
def server():
    scorer = ScriptedScorer({"a": 0.5, "b": 0.7}, {"12": 0.9}, fails=("broken",))
    with Serving(ScriptedModels({"": ["x"]}, scorer), ServeSettings(n=8, most_samples=8)) as serving:
        yield serving


def test_texts_and_rows_of_one_chain_score_alike(server):
    reply = post(server, model=PRM_NAME, question="How many?", chains=[render(CHAIN), ROW]).json()
    # path score: 0.2 x mean(0.5, 0.7) + 0.8 x 0.9
    row = {"steps": [0.5, 0.7], "answer": 0.9, "path": pytest.approx(0.84), "error": None}
    assert reply["data"] == [{"index": 0, **row}, {"index": 1, **row}]
    assert (reply["model"], reply["usage"]) == (PRM_NAME, {"scored_chains": 1, "scored_steps": 2})


def test_begun_chains_score_their_closed_steps(server):
    cut = render(make_chain("a")) + f"<|reasoning_proceed|>\n{STEP_START}\nand"
    [row] = post(server, question="How many?", chains=[render(make_chain("a")) + STEP_START]).json()["data"]
    assert (row["steps"], row["answer"], row["path"]) == ([0.5], None, 0.5) or row["error"]
    [row] = post(server, question="How many?", chains=[{"steps": ROW["steps"][:1]}]).json()["data"]
    assert (row["steps"], row["answer"], row["path"]) == ([0.5], None, 0.5)
    assert post(server, question="How many?", chains=[cut]).json()["data"][0]["error"].startswith("no chain: expected")


def test_what_cannot_be_scored_says_why_and_hinders_no_other(server):
    chains = ["12", "<|reasoning_start|>\n", {"steps": []}, render(make_chain("broken", answer="12")), ROW]
    rows = post(server, question="How many?", chains=chains).json()["data"]
    nothing = "nothing to score: no step closed, and no answer"
    errors = ["no chain: expected <|reasoning_start|>, found '12' (character 0)", nothing, nothing]
    assert [row["error"] for row in rows] == [*errors, "cannot score broken", None]
    assert [row["steps"] for row in rows] == [[], [], [], [], [0.5, 0.7]] and rows[3]["path"] is None


def test_control_tokens_in_a_rows_texts_stay_text(server):
    steps = [{"name": STEP_START, "thought": "a", "reflection": "<image>"}]
    assert post(server, question="How many?", chains=[{"steps": steps}]).json()["data"][0]["steps"] == [0.5]


WRONG = [
    ({"chains": []}, 422, "chains"),
    ({"chains": [ROW] * 9}, 422, "chains"),
    ({"chains": [7]}, 422, "chains.0"),
    ({"chains": [{"steps": [{"name": "a"}]}]}, 422, "chains.0.steps.0.thought"),
    ({"chains": [ROW], "model": "other"}, 404, "model"),
    ({"chains": [ROW], "question": None}, 422, "question"),
    ({"chains": [ROW], "question": " "}, 422, "question"),
    ({"chains": [ROW], "messages": ask()}, 422, "question"),
    ({"chains": [ROW], "images": ["/etc/passwd"]}, 422, "images"),
    ({"chains": [ROW], "images": [data_url(b"none")]}, 422, "images"),
    ({"chains": [ROW], "surprise": 1}, 422, "surprise"),
]


@pytest.mark.parametrize(("body", "status", "field"), WRONG)
def test_what_cannot_be_met_is_refused_by_its_name(server, body, status, field):
    reply = post(server, **{"question": "How many?"} | body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, field), reply.text


def test_a_server_without_a_prm_says_so():
    with Serving(ScriptedModels({"": ["x"]})) as server:
        reply = post(server, question="How many?", chains=[ROW])
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "no_prm")


def test_scores_are_the_prms_own(tmp_path):
    folders = [save_vlm(spread_vlm(seed, 4.0), tmp_path / name) for seed, name in ((1, NAME), (2, PRM_NAME))]
    picture = tmp_path / "red.png"
    picture.write_bytes(png((96, 96)))
    chains = [CHAIN, make_chain("a"), make_chain("c", "d", answer="7")]
    url = data_url(picture.read_bytes())
    with open_models(str(folders[0]), str(folders[1])) as models, Serving(models) as server:
        asked = post(server, question="How many?", images=[url], chains=[render(chain) for chain in chains])
        messages = post(server, messages=ask("How many?", url), chains=[render(chain) for chain in chains])
    own = PRM(load_vlm(folders[1])).score([(Example("q", "How many?", (str(picture),), "", "word"), c) for c in chains])
    for row, scores in zip(asked.json()["data"], own, strict=True):
        assert row["steps"] == pytest.approx(scores.steps, abs=1e-5)
        assert row["answer"] == (None if scores.answer is None else pytest.approx(scores.answer, abs=1e-5))
    for row, other in zip(asked.json()["data"], messages.json()["data"], strict=True):
        assert row["steps"] == pytest.approx(other["steps"], abs=1e-5)
