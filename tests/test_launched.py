"""Trainings of a run in several processes: what one process gives, and one line when they fail."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")
from safetensors.torch import load_file

from chainofstep.models.tiny import POLICY, build_tiny
from chainofstep.models.vlm import save_vlm
from chainofstep.pipeline.launched import CONFIGS, launcher
from chainofstep.pipeline.recipe import Launch, Problems, Recipe, Rounds
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.sets import make_sets
from chainofstep.pipeline.workers import model
from chainofstep.training.sft import SftConfig

RECIPE = Recipe(
    "small",
    threads=1,
    problems=Problems(sft=16, labels=1, dpo=1, test=1, held_out=1),
    sft=SftConfig(batch_size=8, forward_rows=4, learning_rate=1e-3),
    rounds=Rounds(0, 0),
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(save_vlm(build_tiny(POLICY, seed=0), tmp_path_factory.mktemp("policy")))


def trained(recipe, out):
    with Run(recipe, out) as run:
        make_sets(run)
        run.train("sft")
    return load_file(out / "models" / "sft" / "model.safetensors")


@pytest.mark.slow
def test_two_launched_processes_train_as_one(tmp_path, policy):
    recipe = replace(RECIPE, policy=policy)
    alone = trained(recipe, tmp_path / "one")
    together = trained(replace(recipe, launch=Launch(processes=2)), tmp_path / "two")
    before = load_file(f"{policy}/model.safetensors")
    assert alone.keys() == together.keys()
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-3
    moved = [name for name in alone if alone[name].shape == before[name].shape]
    assert max(float((alone[name] - before[name]).abs().max()) for name in moved) > 1e-3  # so the bound says something


def test_processes_that_fail_are_one_line(tmp_path, policy):
    recipe = replace(RECIPE, policy=policy, launch=Launch(processes=2, command="python -c 'exit(3)'"))
    with pytest.raises(ValueError, match="stage sft: 2 processes ended with code 3, the reason stands above"):
        trained(recipe, tmp_path / "run")


def test_grpo_is_never_launched_sharded():
    settings = Launch(processes=8, sharding="zero3")
    assert str(CONFIGS / "zero3.yaml") in launcher(settings, "sft")
    assert str(CONFIGS / "ddp.yaml") in launcher(settings, "grpo")
    assert str(CONFIGS / "zero3.yaml") not in launcher(settings, "grpo")


@pytest.mark.slow
def test_on_a_gpu_workers_make_room_for_a_training(tmp_path, policy, monkeypatch):
    monkeypatch.setattr("chainofstep.pipeline.run.on_gpu", lambda: True)
    with Run(replace(RECIPE, policy=policy, threads=2), tmp_path / "run") as run:
        make_sets(run)
        before = run.workers
        model(policy)  # as a stage before would leave it
        run.train("sft")
        assert run.workers is not before and run.workers.submit(max, 1, 2).result() == 2
        assert model.cache_info().currsize == 0
        with pytest.raises(RuntimeError, match="shutdown"):
            before.submit(max, 1, 2)
