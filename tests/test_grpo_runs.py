"""GRPO runs: beside an adapter, after a kill, over two processes."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from chainofstep.models.engine import Engine  # noqa: E402
from chainofstep.models.vlm import load_vlm, save_vlm  # noqa: E402
from chainofstep.records import Request, to_row  # noqa: E402
from chainofstep.scoring.monte_carlo import derive_seed  # noqa: E402
from chainofstep.store import write_json  # noqa: E402
from chainofstep.training.common import Lora, Machine  # noqa: E402
from chainofstep.training.grpo import question_order, train_grpo  # noqa: E402
from grpo_case import (  # noqa: E402
    ONE,
    SHORT,
    ByLength,
    history,
    make_examples,
    same,
    state,
    teach,
    unpadded,
    watch,
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return make_examples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def taught(examples, tmp_path_factory):
    return teach(examples, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def policy(taught):
    return copy.deepcopy(taught)


@pytest.fixture
def seen(monkeypatch):
    return watch(monkeypatch)


def test_an_adapter_is_sampled_trained_and_merged(policy, examples, seen, tmp_path):
    before = state(policy)
    config = replace(ONE, updates=3, lora=Lora(rank=4), kl=0.1, learning_rate=5e-3)
    train_grpo(policy, examples, SHORT, config, tmp_path)
    assert (tmp_path / "adapter/adapter_config.json").exists()
    assert same(state(policy), state(load_vlm(tmp_path))) and not same(before, state(policy))
    divergence = [row["kl"] for row in history(tmp_path)[:-1]]
    assert divergence[0] == pytest.approx(0, abs=1e-6) and divergence[2] > 1e-5
    frozen = [name for name in before if "norm" in name]
    assert frozen and all(torch.equal(before[name], state(policy)[name]) for name in frozen)


def test_the_sampler_sees_the_adapter_as_it_is_trained(policy, examples, seen, tmp_path):
    config = replace(ONE, updates=2, lora=Lora(rank=4), learning_rate=1e-2, forward_rows=8)
    train_grpo(copy.deepcopy(policy), examples, SHORT, config, tmp_path / "two")
    again = train_grpo(policy, examples, SHORT, replace(config, updates=1, warmup_ratio=0.0), tmp_path / "one")
    order = question_order(4, config)
    request = Request(examples[order[4]], n=2, seed=derive_seed(0, "grpo", 4), max_tokens=config.max_completion)
    sampled = Engine(again).sample([request])[0]
    assert unpadded(seen["batches"][1], "completion")[:2] == [list(rollout.token_ids) for rollout in sampled]


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_bytes(taught, examples, tmp_path):
    config = replace(ONE, updates=4, forward_rows=4, machine=Machine(save_every=1))
    whole = train_grpo(copy.deepcopy(taught), examples, SHORT, config, tmp_path / "whole")

    class Fails(ByLength):
        calls = 0

        def score(self, items):
            self.calls += 1
            if self.calls == 3:
                raise Killed
            return super().score(items)

    Fails.__name__ = "ByLength"  # a checkpoint names the scorer of its training, and this one is to go on with SHORT
    with pytest.raises(Killed):
        train_grpo(copy.deepcopy(taught), examples, Fails({1: 1.0}), config, tmp_path / "again")
    resumed = train_grpo(copy.deepcopy(taught), examples, SHORT, config, tmp_path / "again")
    assert same(state(whole), state(resumed))
    assert len(history(tmp_path / "again")) == len(history(tmp_path / "whole")) == 5


# Processes.

PROGRAM = """
import sys
from pathlib import Path
from chainofstep.models.vlm import load_vlm
from chainofstep.records import Example
from chainofstep.store import read_json
from chainofstep.training.grpo import train_grpo
from dataclasses import replace
from grpo_case import ONE, SHORT
folder = Path(sys.argv[1])
examples = [Example(**{**row, "images": tuple(row["images"])}) for row in read_json(folder / "examples.json")]
train_grpo(load_vlm(folder / "policy"), examples, SHORT, replace(ONE, updates=2, forward_rows=2), folder / "two")
"""


@pytest.mark.slow
def test_two_processes_make_the_same_updates(policy, examples, tmp_path):
    save_vlm(policy, tmp_path / "policy")
    write_json(tmp_path / "examples.json", [to_row(example) for example in examples])
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launch, str(tmp_path / "program.py"), str(tmp_path)]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=found)
    assert done.returncode == 0, done.stderr[-3000:]
    train_grpo(policy, examples, SHORT, replace(ONE, updates=2, forward_rows=2), tmp_path / "one")
    for one, two in zip(history(tmp_path / "one")[:2], history(tmp_path / "two")[:2], strict=True):
        for name in ("loss", "grad_norm", "reward", "steps", "completions/mean_length"):
            assert one[name] == pytest.approx(two[name], abs=1e-3), name
    left, right = (state(load_vlm(tmp_path / name)) for name in ("one", "two"))
    assert all(torch.allclose(left[name], right[name], atol=1e-3) for name in left)
