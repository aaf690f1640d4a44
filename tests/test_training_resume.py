"""Checkpoints: killed anywhere and started again, a training ends in the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from transformers import TrainerCallback  # noqa: E402

from chainofstep.models.vlm import load_vlm  # noqa: E402
from chainofstep.training import trainer as trainer_module  # noqa: E402
from small_training import examples_of, rows_of, train, write_inputs  # noqa: E402

KINDS = ["sft", "prm", "dpo"]


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that these tests start have: sums in another order are other bytes, and a run sets its own."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


class Stopped(Exception):
    pass


class StopAfter(TrainerCallback):
    """Raises after so many updates, where a kill would hit."""

    def __init__(self, updates):
        self.updates = updates

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.updates:
            raise Stopped


def trained(what, inputs, out, *overrides):
    reference = load_vlm(inputs / "model") if what == "dpo" else None
    train(what, load_vlm(inputs / "model"), rows_of(what, examples_of(inputs)), out, *overrides, reference=reference)
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.suffix in (".safetensors", ".md")}


def stopped(what, inputs, out, updates, monkeypatch, *overrides):
    """A training that stops after so many updates."""
    bar = trainer_module.ProgressBar

    class Bar(bar):
        def on_step_end(self, args, state, control, **kwargs):
            StopAfter(updates).on_step_end(args, state, control)
            super().on_step_end(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "ProgressBar", Bar)
        with pytest.raises(Stopped):
            trained(what, inputs, out, *overrides)


def losses(out):
    log = json.loads((out / "training_log.json").read_text())
    return [{name: row[name] for name in ("loss", "grad_norm", "step")} for row in log if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("lora", [(), ("lora.rank=4", "lora.dropout=0.1")], ids=["full", "lora"])
def test_a_training_that_was_stopped_ends_in_the_same_bytes(what, lora, inputs, tmp_path, monkeypatch):
    settings = ("epochs=2", "machine.save_every=2", "drop_path=0.2", *lora)
    whole = trained(what, inputs, tmp_path / "whole" / "model", *settings)
    out = tmp_path / "stopped" / "model"
    stopped(what, inputs, out, 5, monkeypatch, *settings)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
        "made_from.json",
    ]
    assert trained(what, inputs, out, *settings) == whole
    assert losses(out) == losses(tmp_path / "whole" / "model")
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("torn", ["whole.json", "optimizer.pt", "trained.safetensors"])
def test_a_torn_checkpoint_is_passed_over(torn, inputs, tmp_path, monkeypatch):
    settings = ("epochs=2", "machine.save_every=2")
    whole = trained("sft", inputs, tmp_path / "whole" / "model", *settings)
    out = tmp_path / "stopped" / "model"
    stopped("sft", inputs, out, 5, monkeypatch, *settings)
    newest = out / "checkpoints" / "checkpoint-4" / torn
    newest.unlink() if torn == "whole.json" else newest.write_bytes(newest.read_bytes()[:-1])
    assert trained("sft", inputs, out, *settings) == whole


def test_only_torn_checkpoints_are_a_start_from_the_beginning(inputs, tmp_path, monkeypatch):
    settings = ("epochs=2", "machine.save_every=4")
    whole = trained("sft", inputs, tmp_path / "whole" / "model", *settings)
    out = tmp_path / "stopped" / "model"
    stopped("sft", inputs, out, 5, monkeypatch, *settings)
    (out / "checkpoints" / "checkpoint-4" / "whole.json").unlink()
    assert trained("sft", inputs, out, *settings) == whole


@pytest.mark.slow
def test_a_killed_process_is_resumed(inputs, tmp_path):
    """Killed by the system at whatever point, as soon as a checkpoint is whole."""
    settings = ("epochs=6", "machine.save_every=2")
    name = ",".join(["sft", *settings])
    out = tmp_path / name
    command = [sys.executable, str(Path(__file__).with_name("small_training.py")), str(inputs), str(tmp_path), name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (out / "checkpoints" / "checkpoint-4" / "whole.json").exists():
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert (out / "checkpoints").exists() and not (out / "training_log.json").exists()
    resumed = trained("sft", inputs, out, *settings)
    assert resumed == trained("sft", inputs, tmp_path / "whole" / name, *settings)


def test_checkpoints_of_another_training_are_refused(inputs, tmp_path, monkeypatch):
    stopped("sft", inputs, tmp_path, 3, monkeypatch, "machine.save_every=2")
    for change, field in (("seed=1", "config.seed"), ("lora.rank=2", "config.lora.rank")):
        with pytest.raises(ValueError, match=f"another training \\({field} differs\\): delete"):
            trained("sft", inputs, tmp_path, "machine.save_every=2", change)
    rows, vlm = rows_of("sft", examples_of(inputs)), load_vlm(inputs / "model")
    with pytest.raises(ValueError, match="rows differs"):
        train("sft", vlm, rows[1:], tmp_path, "machine.save_every=2")
    with torch.no_grad():
        vlm.model.get_input_embeddings().weight += 1
    with pytest.raises(ValueError, match="models differs"):
        train("sft", vlm, rows, tmp_path, "machine.save_every=2")
    assert (tmp_path / "checkpoints" / "checkpoint-2" / "whole.json").exists()


def test_how_often_checkpoints_are_written_may_change(inputs, tmp_path, monkeypatch):
    whole = trained("sft", inputs, tmp_path / "whole" / "model", "epochs=2")
    out = tmp_path / "stopped" / "model"
    stopped("sft", inputs, out, 5, monkeypatch, "epochs=2", "machine.save_every=2")
    resumed = trained("sft", inputs, out, "epochs=2")
    assert resumed["model.safetensors"] == whole["model.safetensors"]
