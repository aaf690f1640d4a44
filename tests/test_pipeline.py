"""The whole run in miniature: every stage, the report, and that a killed run ends as one that was not."""

import gc
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from chainofstep.models.tiny import POLICY, build_tiny, grow
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm
from chainofstep.pipeline import stages
from chainofstep.pipeline.measure import CLAIMS
from chainofstep.pipeline.memory import MemoryWatch
from chainofstep.pipeline.recipe import Labels, Problems, Recipe, Rounds
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.sets import make_sets
from chainofstep.records import to_row
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.training.pretrain import PretrainConfig, pretrain
from chainofstep.training.sft import SftConfig
from chainofstep.verbs.files import write_lines

SMALL = Recipe(
    "small",
    threads=1,
    problems=Problems(sft=640, labels=16, dpo=16, test=32, held_out=8),
    labels=Labels(chains=1, rollouts=2, unseen_chains=4),
    sampling=SearchConfig(n=4, max_tokens=260),
    sft=SftConfig(batch_size=16, learning_rate=2e-3),
    pairs=PairRule(threshold=0.0),
    outcome_pairs=PairRule(threshold=0.0),
    rounds=Rounds(rounds=1, outcome_rounds=0),
    pool_sizes=(1, 4),
    beams=(4,),
    wide_beam=1,
)


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    """Stands in for the shipped base: what it knows matters little here, only that it is a pair of models."""
    folder = tmp_path_factory.mktemp("base")
    policy = build_tiny(POLICY, seed=0)
    pretrain(policy, "explaining", PretrainConfig(updates=10, batch_size=8, warmup=2), lambda *_: None)
    save_vlm(policy, folder / "policy")
    prm = VLM(grow(policy, 1).model, load_vlm(folder / "policy").processor)
    add_step_tokens(prm)
    save_vlm(prm, folder / "prm")
    return folder


def rows_of(folder):
    """Every row that the run wrote, file by file."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*.jsonl"))
        if not str(path.relative_to(folder)).startswith("stages")
    }


def chains_wanted(run):
    """Stages up to the first samples; an untrained policy gives no chains, so the rest is tested on the shipped one."""
    make_sets(run)
    stages.prepare_base(run)
    stages.fine_tune(run)
    run.sample("search/pool", run.model_folder("sft"), run.examples("test"), run.sampling("search"))


@pytest.mark.slow
def test_a_resumed_run_has_the_same_rows(tmp_path, small_base, monkeypatch):
    monkeypatch.setattr("chainofstep.pipeline.run.SHIPPED", small_base)
    with Run(SMALL, tmp_path / "whole") as run:
        chains_wanted(run)
    with Run(SMALL, tmp_path / "killed") as run:
        chains_wanted(run)
    # As a kill in the middle of writing would leave it: the stage unfinished, half the rows, and a torn one.
    pool = tmp_path / "killed" / "search" / "pool" / "rollouts.jsonl"
    lines = pool.read_bytes().splitlines(keepends=True)
    pool.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])
    marker = tmp_path / "killed" / "stages" / "search" / "pool" / "sample.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"seconds": None, "outputs": {}}))
    with Run(SMALL, tmp_path / "killed") as run:
        chains_wanted(run)
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    weights = [tmp_path / name / "models" / "sft" / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    Run(SMALL, tmp_path / "run")
    with pytest.raises(ValueError, match="seed=0, not 1"):
        Run(replace(SMALL, seed=1), tmp_path / "run")


def test_two_commands_cannot_share_a_folder(tmp_path):
    refused = pytest.raises(ValueError, match="is in use by another command: wait until it ends")
    with Run(SMALL, tmp_path / "run"), refused, Run(SMALL, tmp_path / "run"):
        pass
    with Run(SMALL, tmp_path / "run"):
        pass  # given back


def test_memory_is_that_of_all_processes():
    gc.collect()  # what earlier tests left would go while it is measured
    with MemoryWatch(interval=0.02) as idle:
        time.sleep(0.1)
    held = "import time; block = bytearray(b'x') * 150_000_000; time.sleep(1.5)"
    with MemoryWatch(interval=0.02) as busy, subprocess.Popen([sys.executable, "-c", held]):
        block = bytearray(b"x") * 100_000_000
    assert 245 < busy.peak_mb - idle.peak_mb < 320, len(block)


def test_a_lost_output_is_named(tmp_path, small_base, monkeypatch):
    monkeypatch.setattr("chainofstep.pipeline.run.SHIPPED", small_base)
    with Run(SMALL, tmp_path / "run") as run:
        make_sets(run)
    gone = tmp_path / "run" / "problems" / "test.jsonl"
    gone.unlink()
    with (
        Run(SMALL, tmp_path / "run") as run,
        pytest.raises(ValueError, match=r"test\.jsonl, made by stage problems, is gone"),
    ):
        make_sets(run)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A finished run from the shipped base to the report, with two workers, and its recipe."""
    recipe = replace(SMALL, name="miniature", threads=2, problems=replace(SMALL.problems, sft=3200))
    folder = tmp_path_factory.mktemp("miniature") / "run"
    with Run(recipe, folder) as run:
        stages.run_recipe(run)
    return folder, recipe


@pytest.mark.slow
def test_the_whole_run_in_miniature(miniature):
    folder, recipe = miniature
    results = json.loads((folder / "results.json").read_text())
    assert {row["stage"] for row in results["accuracy"]} == {"base", "sft", "dpo-1"}
    assert all(
        row["right"] + row["wrong"] + row["unparseable"] + row["failed"] == row["total"] for row in results["accuracy"]
    )
    assert {row["method"] for row in results["methods"]} >= {"greedy", "self_consistency", "best_of_n", "step_beam"}
    assert {row["name"] for row in results["claims"]} <= {claim[0] for claim in CLAIMS}
    assert len(results["step_weight"]) == 11
    assert "<html" in (folder / "report.html").read_text()
    before = rows_of(folder)
    shutil.rmtree(folder / "search")
    shutil.rmtree(folder / "stages" / "search")
    with Run(recipe, folder) as run:
        stages.run_recipe(run)
    assert rows_of(folder) == before


@pytest.mark.slow
def test_a_run_on_files_from_given_models(tmp_path, miniature):
    """A run's models stand for a user's, its problems for a user's files: nothing knows the truth of their steps."""
    folder, recipe = miniature
    data = tmp_path / "data"
    with Run(recipe, folder) as run:
        for name, of in {"sft": "sft", "labels": "labels", "dpo": "dpo-1", "test": "test"}.items():
            write_lines(data / f"{name}.jsonl", map(to_row, run.examples(of)))
    own = replace(
        recipe,
        name="own",
        policy=str(folder / "models" / "sft"),
        backbone=str(folder / "models" / "prm"),
        data=str(data),
        problems=Problems(sft=64, labels=0, dpo=0, test=16, held_out=0),
        sft=replace(recipe.sft, learning_rate=1e-5),
    )
    with Run(own, tmp_path / "run") as run:
        page = stages.run_recipe(run).read_text()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["against"] for row in results["prm"]} == {"labels"}
    assert results["prm_by_error"] == [] and "agreement_with_checker" not in results["labels"]
    assert {row["stage"] for row in results["accuracy"]} == {"base", "sft", "dpo-1"}
    assert "Calibration against Monte-Carlo labels" in page
    assert "exact checker" not in page
