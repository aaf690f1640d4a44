"""One question: its rollouts as a tree, its search with reasons in words, its pairs and pictures; the exported page."""

import base64
import io
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chainofstep.chain import render
from chainofstep.records import ScoreFailure, StepScores, to_row
from chainofstep.search import Candidate, Cost, SearchResult
from chainofstep.view.beam import levels
from chainofstep.view.export import bundle, export_page
from chainofstep.view.hand import Hand
from chainofstep.view.items import item_of, pairs_page
from chainofstep.view.opened import NotThere, OpenRun, Shelf
from chainofstep.view.pictures import OutsideRun, encoded, find_picture
from chainofstep.view.texts import read_text
from chainofstep.view.tree import build_tree
from conftest import make_chain
from view_case import BROKEN, CUT, PICTURE, Q1, Q2, TEN, TWELVE, pool_rows, score_rows, write_rows, write_run

HOSTILE = "</script><script>alert(1)</script><!--<script>\"'&\u2028"

HELD = re.compile(r'<script type="application/json" id="exported">(.*?)</script>', re.DOTALL)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def item(run, name="q-1", one="search/pool"):
    opened = OpenRun("run", run)
    return item_of(opened, opened.sets[one], name, Hand(run))


def said(node):
    """A node in short: where it hangs, its thought or answer, who passes it."""
    return node["parent"], node["answer"] if node["step"] is None else node["step"]["thought"], node["rollouts"]


# The tree


def test_rollouts_share_what_they_begin_with(run):
    found = item(run)
    assert [said(node) for node in found["nodes"]] == [
        (None, "a", [0, 1, 2, 3]),
        (0, "b", [0, 1]),
        (1, "10", [0, 1]),
        (0, "c", [2]),
        (3, "12", [2]),
    ]
    assert [rollout["steps"] for rollout in found["rollouts"]] == [[0, 1], [0, 1], [0, 3], [0]]
    assert [node.get("right") for node in found["nodes"]] == [None, None, True, None, False]


def test_scores_of_a_node_are_the_mean_of_its_rollouts_and_their_spread_where_they_differ():
    readings = [read_text(render(TEN)), read_text(render(TWELVE)), read_text(BROKEN)]
    marks = [StepScores((0.25, 0.8), 0.5), StepScores((0.75, 0.1), 0.2), ScoreFailure("no chain")]
    nodes, _ = build_tree(readings, {"prm": marks, "judge": [StepScores((1.0, 1.0), 1.0), None, None]})
    assert [node.scores for node in nodes[:3]] == [
        {"prm": [0.25, 0.75], "judge": [1.0]},
        {"prm": [0.8], "judge": [1.0]},
        {"prm": [0.5], "judge": [1.0]},
    ]


def test_the_spread_is_told_only_where_scores_differ(run):
    nodes = item(run)["nodes"]
    assert nodes[0]["scores"] == {"prm": pytest.approx(0.9), "checker": 1.0}
    assert [node["spread"] for node in nodes] == [{}] * 5
    other = StepScores((0.5, 0.8), 0.7)
    scores = {"q-1": [other, StepScores((0.9, 0.8), 0.7), ScoreFailure("x"), ScoreFailure("x")]}
    write_rows(run / "search/prm/scores.jsonl", score_rows(scores))
    assert item(run)["nodes"][0]["spread"] == {"prm": [0.5, 0.9]}


WORDS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=6)


@given(WORDS)
def test_a_tree_gives_back_its_rollouts(thoughts):
    chains = [make_chain(*words, answer="1") for words in thoughts]
    nodes, ways = build_tree([read_text(render(chain)) for chain in chains], {})
    assert [node.number for node in nodes] == list(range(len(nodes)))
    assert all(node.parent is None or node.parent < node.number for node in nodes)
    assert [tuple(nodes[number].step for number in way) for way in ways] == [chain.steps for chain in chains]
    assert len({(node.parent, node.step, node.answer) for node in nodes}) == len(nodes)


# Rollouts


def test_a_rollout_says_what_of_it_is_no_chain(run):
    whole, _, _, cut = item(run)["rollouts"]
    assert (whole["answer"], whole["right"], whole["problem"], whole["rest"]) == ("10", True, "", "")
    assert whole["scores"]["prm"] == {"steps": [0.9, 0.8], "answer": 0.7}
    assert (cut["text"], cut["answer"], cut["right"]) == (CUT, None, False)
    assert cut["problem"] == "the text ends before its answer"
    assert cut["rest"].endswith("<|reasoning_step_thought_start|>")
    assert cut["scores"]["prm"] == {"failure": "unparseable: it is no chain"}
    broken = item(run, "q-2")["rollouts"][1]
    assert (broken["rest"], broken["steps"]) == (BROKEN, [])


def test_a_question_has_its_place_gold_chain_and_pictures(run):
    found = item(run)
    assert found["place"] == {"number": 1, "of": 2, "previous": None, "next": "q-2"}
    assert item(run, "q-2")["place"] == {"number": 2, "of": 2, "previous": "q-1", "next": None}
    assert found["gold"] == [{"name": "Look", "thought": "a", "reflection": "It does."}]
    assert (found["family"], found["question"], found["answer"]) == ("line_sum", Q1.question, "10")
    assert found["pictures"] == ["/api/picture?run=run&set=search%2Fpool&id=q-1&number=0"]


def test_a_question_that_nobody_knows_is_said_to_be_none(run):
    with pytest.raises(NotThere, match=r"search/pool has no question '\.\./q-1'"):
        item(run, "../q-1")


def test_a_question_whose_file_is_gone_is_shown_without_it(run):
    (run / "problems/test.jsonl").unlink()
    found = item(run)
    assert (found["question"], found["gold"], found["rollouts"][0]["right"]) == ("", None, None)


# Searches


def test_a_search_says_level_by_level_what_was_kept_and_why(run):
    (beam,) = item(run)["beam"]
    assert (beam["id"], beam["answer"], beam["right"], beam["failure"]) == ("search/beam-4-1", "10", True, "")
    said = [
        [([step["thought"] for step in one["added"]], one["answer"], one["count"], one["why"]) for one in level]
        for level in beam["levels"]
    ]
    assert said == [
        [
            (["a"], None, 2, "kept: best of 2 by its last step's score"),
            (["z"], None, 1, "dropped: 0.31 is below the kept 0.98"),
            ([], None, 1, "dropped: cut by the token limit"),
        ],
        [
            (["b"], None, 3, "kept: best of 2 by its last step's score"),
            (["c"], None, 1, "dropped: 0.80 as the kept one, which was sampled more often (3 times)"),
        ],
        [([], "10", 4, "kept: the only candidate, by its answer's score")],
    ]
    assert [level[0]["depth"] for level in beam["levels"]] == [1, 2, 2]


def trace(*candidates, answer=None, text=""):
    return SearchResult("q", answer, text, None, None, Cost(), (candidates,))


def whys(result, width=1):
    return [one["why"] for one in levels(result, width)[0]]


def candidate(thought, value, kept=False, count=1, problem=""):
    return Candidate(render(make_chain(thought)), count, value, kept, problem)


def test_reasons_of_ties_and_of_scores_that_round_alike():
    first = trace(candidate("a", 0.5, kept=True), candidate("b", 0.5), candidate("c", 0.4996))
    assert whys(first) == [
        "kept: best of 3 by its last step's score",
        "dropped: 0.50 as the kept one, which came first",
        "dropped: 0.4996 is below the kept 0.5000",
    ]


def test_reasons_of_wider_beams_and_of_what_had_no_value():
    wide = trace(
        candidate("a", 0.9, kept=True),
        candidate("b", 0.7, kept=True),
        candidate("c", 0.2),
        candidate("d", None, problem="cut by the token limit"),
    )
    assert whys(wide, 2) == [
        "kept: best of 3 by the mean of its scores so far",
        "kept: number 2 of 3 by the mean of its scores so far",
        "dropped: 0.20 is below the kept 0.70",
        "dropped: cut by the token limit",
    ]


def test_what_a_search_falls_back_on_is_said():
    passed = Candidate(render(TEN), 1, 0.2)
    result = trace(candidate("a", 0.9, kept=True), passed, answer="10", text=passed.text)
    assert whys(result)[1] == "dropped, and taken in the end: no kept chain reached an answer"


def test_a_row_that_is_no_search_result_is_left_out(run):
    write_rows(run / "search/beam-4-1/results.jsonl", [{"id": "q-1", "trace": "nothing"}])
    assert item(run)["beam"] == []


# Pairs


def test_pairs_come_with_the_scores_of_the_pool_that_they_were_chosen_from(run):
    (pair,) = item(run)["pairs"]
    assert (pair["id"], pair["chosen_score"], pair["rejected_score"]) == ("dpo-1/pairs", 0.73, 0.39)
    assert [step["thought"] for step in pair["rejected"]["steps"]] == ["a", "c"]
    assert pair["chosen"]["scores"] == {"prm": {"steps": [0.9, 0.8], "answer": 0.7}}
    page = pairs_page(OpenRun("run", run), "dpo-1/pairs", 0, 5)
    assert page["questions"] == 1
    assert page["pairs"][0]["example"]["question"] == Q1.question
    assert pairs_page(OpenRun("run", run), "dpo-1/pairs", 5, 5)["pairs"] == []


# Pictures


def test_pictures_are_found_where_the_run_lies_now(run, tmp_path):
    examples = run / "problems/test.jsonl"
    wanted = run / PICTURE
    for image in (PICTURE, "test/q-1.png", f"/elsewhere/runs/x/{PICTURE}", "/other/q-1.png", "C:\\runs\\q-1.png"):
        found = find_picture(run, examples, image)
        assert found is not None and found.resolve() == wanted.resolve(), image
    for image in ("", "gone.png", "a\0b", "x" * 5000, "/", ".."):
        assert find_picture(run, examples, image) is None, image


def test_pictures_outside_the_run_are_found_in_given_folders_alone(run, tmp_path):
    examples, outside = run / "problems/test.jsonl", tmp_path / "own" / "one.png"
    outside.parent.mkdir()
    Image.new("RGB", (4, 4)).save(outside)
    (run / "link.png").symlink_to(outside)
    (run / "link").symlink_to(outside.parent)
    ways = (str(outside), "../../own/one.png", "../own/one.png", "link.png", "link/one.png", "/nowhere/gone.png")
    for image in ways:
        with pytest.raises(OutsideRun, match="outside the run: give --pictures FOLDER"):
            find_picture(run, examples, image)
        with pytest.raises(OutsideRun):
            find_picture(run, examples, image, [tmp_path / "ow"])
    for image in ways[:-1]:
        found = find_picture(run, examples, image, [tmp_path / "ow", outside.parent])
        assert found is not None and found.resolve() == outside.resolve(), image
    assert find_picture(run, examples, f"{tmp_path}/own/q-1.png") == run / PICTURE  # by its name


def test_a_run_behind_a_link_has_its_pictures(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    for own in (run, tmp_path / "link"):
        assert find_picture(tmp_path / "link", None, str(own / PICTURE)) is not None


def test_a_picture_that_is_not_shown_says_why(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "own.png")
    images = (PICTURE, str(tmp_path / "own.png"), "gone.png")
    write_rows(run / "problems/test.jsonl", [to_row(replace(Q1, images=images)), to_row(Q2)])
    for folders, outside in (((), "outside the run: give --pictures FOLDER"), ((tmp_path,), "")):
        opened = OpenRun("run", run, folders)
        found = item_of(opened, opened.sets["search/pool"], "q-1", Hand(run))
        assert found["missing"] == ["", outside, "not there: put it in the run folder"]
        export_page(Shelf([run], folders), tmp_path / "page.html", 1)
        (held,) = HELD.findall((tmp_path / "page.html").read_text("utf-8"))
        (item,) = json.loads(held)["items"]
        assert item["missing"] == found["missing"]
        assert [address[:10] for address in item["pictures"]] == ["data:image", "" if outside else "data:image", ""]
    with pytest.raises(ValueError, match=r"--pictures .*gone is no folder"):
        Shelf([run], [tmp_path / "gone"])


def test_an_export_makes_no_folders(run, tmp_path):
    with pytest.raises(ValueError, match="a/b is no folder: make it"):
        export_page(Shelf([run]), tmp_path / "a/b/page.html", 1)
    assert not (tmp_path / "a").exists()


def test_a_picture_leaves_as_new_pixels_alone(tmp_path):
    source = tmp_path / "large.png"
    about = Image.Exif()
    about[0x010E] = "secret"
    Image.new("RGB", (3000, 20), (1, 2, 3)).save(source, exif=about)
    content, kind = encoded(source)
    with Image.open(io.BytesIO(content)) as image:
        assert (kind, image.size) == (f"image/{image.format.lower()}", (1024, 7))
    assert b"secret" in source.read_bytes() and b"secret" not in content


# The page that needs no server


def exported(run, tmp_path, limit):
    path = tmp_path / "page.html"
    count = export_page(Shelf([run]), path, limit)
    text = path.read_text("utf-8")
    (held,) = HELD.findall(text)
    return count, text, json.loads(held)


def test_the_exported_page_holds_what_it_shows(run, tmp_path):
    count, text, held = exported(run, tmp_path, 3)
    assert count == 3
    assert [(one["set"], one["id"]) for one in held["items"]] == [
        ("search/pool", "q-1"), ("search/pool", "q-2"), ("dpo-1", "q-1"),
    ]  # fmt: skip
    assert held["calibration"]["run/search/pool"]["truth"] == "checker"
    content = base64.b64decode(held["items"][0]["pictures"][0].partition("base64,")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (8, 6)
    assert str(tmp_path) not in text
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', text) == []


def test_the_exported_page_runs_only_its_own_script(run, tmp_path):
    write_rows(run / "search/pool/rollouts.jsonl", pool_rows({"q-1": [HOSTILE]}))
    _, text, held = exported(run, tmp_path, 9)
    assert held["items"][0]["rollouts"][0]["text"] == HOSTILE
    assert "alert(1)</script" not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "script-src 'sha256-" in policy


def test_the_bundle_has_each_module_once_and_before_its_users():
    made = re.findall(r'^modules\["?\'?([\w.-]+)', bundle("view.js"), re.MULTILINE)
    assert made[-1] == "view.js"
    assert len(made) == len(set(made))
    used = re.findall(r"= modules\['([\w.-]+)'\];", bundle("view.js"))
    assert set(used) == set(made[:-1])


def test_an_export_of_no_question_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="limit is 0; give at least 1"):
        export_page(Shelf([run]), tmp_path / "page.html", 0)
