"""`cos data build`: real questions and pictures, a real server that a script answers for, every stage to its files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from chainofstep import verbs
from chainofstep.llm.faults import Fault, Faults
from chainofstep.llm.stand_in import StandIn
from chainofstep.pipeline.corpus import Build
from chainofstep.pipeline.corpus_files import PRM_FILES, SFT_FILES
from chainofstep.pipeline.stand_in import FLAWS, NOTE, ScriptedModel
from chainofstep.problems.formats import FORMATS
from chainofstep.problems.formats.files import read_steps
from chainofstep.records import StepRow
from chainofstep.store import read_json, read_rows
from chainofstep.verbs.build import EndpointSettings, endpoint, source_at

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
SETS = {"chartqa": 250, "m3cot": 150, "mathvision": 150, "scemqa": 160, "tabmwp": 200}
FAST = EndpointSettings(concurrency=16)

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data with real benchmark items")


def config(sources, model="stand-in", solver=True, against=(), **others):
    asked = {"teacher": model, "solver": model if solver else None, "judges": [model] if solver else []}
    return verbs.build_config(sources, against, "both", shared=FAST, **asked, **others)


def rows(path):
    return [row for _, row in read_rows(path)] if path.exists() else []


def served(out, name="scripted"):
    """A script that answers for the questions in a folder."""
    build = Build(config(["tabmwp"]), out, lambda line: None)
    examples = build.examples()
    return ScriptedModel(examples.read(list(examples)))


def files_of(folder):
    """Every file but pictures, timings and the replies' database, by name."""
    skipped = {"images", "stages"}
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not skipped & set(path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if ".sqlite" not in path.name}


@needs_data
@pytest.mark.slow
def test_the_five_real_sets_become_checked_files_with_cards(tmp_path):
    verbs.build(config([f"{name}={SHARED / name}" for name in SETS], solutions=2), tmp_path)
    examples = rows(tmp_path / "examples" / "examples.jsonl")
    assert Counter(row["source"] for row in examples) == SETS
    report = read_json(tmp_path / "sft" / "filters.json")
    assert report["read"] == 910 == report["kept"] + sum(report["removed"].values())
    assert set(report["removed"]) == {*FLAWS, "parses"}  # every planted flaw was caught, and nothing else
    for files, count in ((SFT_FILES, report["kept"]), (PRM_FILES, 2 * 910)):
        for name, known in files.items():
            read = list(read_steps(tmp_path / name, FORMATS[known]))
            assert Counter(map(type, read)) == {StepRow: count}, name
            assert all((tmp_path / image).is_file() for row in read for image in row.example.images)
    for name in ("sft", "prm"):
        for card in (tmp_path / f"{name}.card.md", tmp_path / f"{name}.card.html"):
            text = card.read_text("utf-8")
            assert NOTE in text and "evaluation split" in text and "CC BY-NC-SA 4.0" in text


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Eight questions of each of two real sets, all stages."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data with real benchmark items")
    out = tmp_path_factory.mktemp("few")
    verbs.build(config([f"tabmwp={SHARED / 'tabmwp'}", f"scemqa={SHARED / 'scemqa'}"], limit=8, solutions=3), out)
    return out


def test_a_build_adds_up(few):
    assert len(rows(few / "examples" / "examples.jsonl")) == 16
    kept, removed = (rows(few / "sft" / name) for name in ("examples.jsonl", "rejects.jsonl"))
    assert len(kept) + len(removed) == 16 and all(row["chain"] for row in kept)
    pools, scores = rows(few / "solve" / "rollouts.jsonl"), rows(few / "prm" / "scores.jsonl")
    assert [row["id"] for row in pools] == [row["id"] for row in scores]
    assert all(len(row["rollouts"]) == 3 for row in pools) and all(len(row["scores"]) == 3 for row in scores)
    assert len(rows(few / "prm_train.jsonl")) + len(rows(few / "prm" / "rejects.jsonl")) == 48


def all_good(request):
    """A judge that likes everything."""
    return "### Step Label: " + json.dumps([1] * request.text.split("Solution:")[1].count("\nStep "))


@needs_data
def test_two_judges_are_compared_in_the_card(tmp_path):
    policy = str(Path(verbs.__file__).parent.parent / "recipes" / "mini_base" / "policy")
    with StandIn(all_good, model="lenient", takes_schema=False) as server:
        judges = ["stand-in", f"lenient@{server.base_url}"]
        made = verbs.build_config(
            [f"tabmwp={SHARED / 'tabmwp'}"],
            [],
            "both",
            None,
            "stand-in",
            judges,
            FAST,
            limit=6,
            solutions=2,
            tokenizer=policy,
        )
        verbs.build(made, tmp_path)
    # A tie of two judges goes to the worse label, so the labels are those of the strict judge.
    strict = [label for row in read_steps(tmp_path / "prm.parquet") for label in row.labels.steps]
    alike = sum(label == 1.0 for label in strict) / len(strict)
    assert 0.5 < alike < 1.0
    text = (tmp_path / "prm.card.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if "judge-1" in line and "judge-2" in line]
    assert f"{100 * alike:.1f}%" in line and "| 0.00" in line  # a judge without an opinion agrees by chance alone
    assert "okens" in text


def test_one_judge_is_not_two():
    with pytest.raises(ValueError, match="judge stand-in is given twice: one judge votes several times by --votes"):
        verbs.build_config([], [], "both", None, "stand-in", ["stand-in", "stand-in"], FAST)


def test_a_finished_build_is_not_asked_for_again(few):
    before = files_of(few)
    again = config([f"tabmwp={SHARED / 'tabmwp'}", f"scemqa={SHARED / 'scemqa'}"], limit=8, solutions=3)
    assert verbs.build(again, few) == []  # nothing left to estimate
    assert files_of(few) == before


def test_other_settings_name_what_differs(few):
    other = config([f"tabmwp={SHARED / 'tabmwp'}", f"scemqa={SHARED / 'scemqa'}"], limit=9, solutions=3)
    with pytest.raises(ValueError, match=r"stage examples .* was made from limit=8, not 9: to make it again, delete"):
        verbs.build(other, few)


def test_the_step_labels_are_those_of_the_planted_mistakes(few):
    """The scripted judge marks everything from the solver's planted mistake on as Bad."""
    found = Counter()
    for row in read_steps(few / "prm.parquet"):
        wrong = [place for place, step in enumerate(row.chain.steps) if "the value next to the one" in step.thought]
        expected = tuple(float(not wrong or place < wrong[0]) for place in range(len(row.chain.steps)))
        found[row.labels.steps == expected or row.labels.answer == 0.0] += 1  # Neutral is wrong below a wrong answer
        assert row.labels.answer == float(not wrong)
    assert found == {True: 48}


def test_items_of_evaluation_sets_are_removed(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data with real benchmark items")
    place = f"chartqa={SHARED / 'chartqa'}"
    verbs.build(config([place, f"tabmwp={SHARED / 'tabmwp'}"], against=[place], limit=20), tmp_path, only_estimate=True)
    assert {row["source"] for row in rows(tmp_path / "examples" / "examples.jsonl")} == {"tabmwp"}
    removed = rows(tmp_path / "examples" / "rejects.jsonl")
    assert len(removed) == 250 and all(
        row["reason"].startswith("overlap: picture and question of ChartQA") for row in removed
    )
    overlap = read_json(tmp_path / "examples" / "overlap.json")
    assert overlap["removed"] == 250 and overlap["looked_up"] == 270
    assert not (tmp_path / "teach").exists()


def questions_only(out, limit=12):
    verbs.build(config([f"tabmwp={SHARED / 'tabmwp'}"], limit=limit), out, only_estimate=True)


def build_with(server, out, **others):
    shared = EndpointSettings(concurrency=8)
    spec = f"scripted@{server.base_url}"
    made = verbs.build_config(
        [f"tabmwp={SHARED / 'tabmwp'}"], [], "both", spec, None, [], shared, ["teacher.seed=0"], limit=12, **others
    )
    return verbs.build(made, out)


@needs_data
def test_a_server_in_trouble_costs_nothing_but_time(tmp_path):
    plain, troubled = tmp_path / "plain", tmp_path / "troubled"
    one_in_ten = Fault(rate=0.1)
    faults = Faults(
        busy=one_in_ten, server_error=one_in_ten, cut=one_in_ten, not_json=one_in_ten, error_object=one_in_ten
    )
    for out in (plain, troubled):
        questions_only(out)
    with StandIn(served(plain), model="scripted") as server:
        build_with(server, plain)
    with StandIn(served(plain), model="scripted", faults=faults) as server:
        build_with(server, troubled)
        assert sum(server.counts.faults.values()) > 0
    assert files_of(troubled) == files_of(plain)


@needs_data
def test_an_error_told_as_a_reply_is_a_reject(tmp_path):
    questions_only(tmp_path)
    with StandIn(served(tmp_path), model="scripted", faults=Faults(error_text=Fault(every=4))) as server:
        build_with(server, tmp_path)
    rejects = rows(tmp_path / "sft" / "rejects.jsonl")
    report = read_json(tmp_path / "sft" / "filters.json")
    assert report["removed"]["parses"] >= 3 and report["kept"] + len(rejects) == 12


@pytest.mark.slow
@needs_data
def test_a_server_that_goes_down_leaves_the_rest_to_the_next_run(tmp_path):
    questions_only(tmp_path)
    script = served(tmp_path)
    with StandIn(script, model="scripted", faults=Faults(refused=Fault(every=6))) as server:
        build_with(server, tmp_path)  # a refused prompt is refused for good
    assert sum(row["reason"].startswith("reply: ") for row in rows(tmp_path / "sft" / "rejects.jsonl")) == 2

    other = tmp_path / "other"
    questions_only(other)
    with StandIn(script, model="scripted", faults=Faults(server_error=Fault(rate=1.0))) as server:
        with pytest.raises(ValueError):
            build_with(
                server,
                other,
            )
        assert rows(other / "teach" / "replies.jsonl") == []
    with StandIn(script, model="scripted") as server:
        build_with(server, other)
        assert server.counts.requests == 12


@needs_data
def test_settings_that_nobody_answers_are_not_taken_for_the_questions_fault(tmp_path):
    questions_only(tmp_path)
    wanted = r"teach: none of 12 was answered .* mend the endpoint's settings"
    faults = Faults(refused=Fault(rate=1.0))
    with StandIn(served(tmp_path), model="scripted", faults=faults) as server, pytest.raises(ValueError, match=wanted):
        build_with(server, tmp_path)
    assert rows(tmp_path / "teach" / "replies.jsonl") == []


@needs_data
def test_a_set_that_the_filters_leave_empty_has_its_files_too(tmp_path):
    strict = config([f"tabmwp={SHARED / 'tabmwp'}"], limit=3, solver=False, settings=["filters.minimum_steps=9"])
    verbs.build(strict, tmp_path)
    assert rows(tmp_path / "sft.jsonl") == [] and len(rows(tmp_path / "sft" / "rejects.jsonl")) == 3
    assert "minimum_steps" in (tmp_path / "sft.card.md").read_text("utf-8")
    # Filters ask nobody, so other filters are simply tried on what is there.
    verbs.build(config([f"tabmwp={SHARED / 'tabmwp'}"], limit=3, solver=False), tmp_path)
    assert len(rows(tmp_path / "sft.jsonl")) + len(rows(tmp_path / "sft" / "rejects.jsonl")) == 3


def test_a_folder_is_built_by_one_at_a_time(tmp_path):
    made = config(["tabmwp"], solver=False)
    with Build(made, tmp_path, print), pytest.raises(ValueError, match="is in use by another command"):
        verbs.build(made, tmp_path)


def test_the_key_goes_to_its_own_server_alone():
    own, other = endpoint("gpt-4o", FAST), endpoint("qwen@http://localhost:8000/v1", FAST)
    assert (own.key_variable, other.key_variable) == ("OPENAI_API_KEY", "")
    named = endpoint("qwen@http://localhost:8000/v1", EndpointSettings(key_variable="QWEN_KEY"))
    assert named.key_variable == "QWEN_KEY"
    with pytest.raises(ValueError, match="Port out of range"):
        endpoint("qwen@http://localhost:99999/v1", FAST)


@pytest.mark.parametrize("setting", ["limit", "solutions", "votes"])
def test_numbers_that_make_no_sense(setting):
    with pytest.raises(ValueError, match=f"{setting} -1; give"):
        config(["tabmwp"], **{setting: -1})


def command(out, url):
    words = ["data", "build", out, "--source", f"tabmwp={SHARED / 'tabmwp'}", "--teacher", f"scripted@{url}"]
    words += ["--limit", "40", "--concurrency", "4", "--set", "teacher.seed=0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-m", "chainofstep", *map(str, words)]
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@needs_data
def test_killed_while_asking_it_pays_for_nothing_twice(tmp_path):
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    for out in (plain, killed):
        questions_only(out, limit=40)
    with StandIn(served(plain), model="scripted", latency=0.1) as server:
        assert command(plain, server.base_url).communicate()[1].count("error") == 0
        assert server.counts.requests == 40
    with StandIn(served(plain), model="scripted", latency=0.1) as server:
        running = command(killed, server.base_url)
        while server.counts.answered < 10:
            time.sleep(0.01)
            assert running.poll() is None, running.communicate()
        running.send_signal(signal.SIGKILL)
        running.communicate()
        kept = len(rows(killed / "teach" / "replies.jsonl"))
        assert 0 < kept < 40
        output, errors = command(killed, server.base_url).communicate()
        assert f"wrote {killed}" in output, errors
        assert server.counts.requests <= 40 + 4  # those in flight when it was killed
    assert files_of(killed) == files_of(plain)


# Words of the command line


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("chartq=x", "no source 'chartq', the nearest is chartqa"),
        ("chartqa=/nowhere", "/nowhere is no folder"),
    ],
)
def test_sources_that_are_not_there(spec, reason):
    with pytest.raises(ValueError) as error:
        source_at(spec)
    assert reason in str(error.value)


def test_an_endpoint_without_a_url_and_labels_without_a_judge():
    with pytest.raises(ValueError, match="give MODEL@URL"):
        verbs.build_config([], [], "both", "gpt-4o@", None, [], FAST)
    with pytest.raises(ValueError, match="no source"):
        verbs.build(verbs.build_config([], [], "both", "stand-in", None, [], FAST), Path("unused"))
    lone = verbs.build_config(["tabmwp"], [], "both", None, "stand-in", [], FAST)
    with pytest.raises(ValueError, match="solutions without a judge have no labels"):
        verbs.build(lone, Path("unused"))
