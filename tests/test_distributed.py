"""Training in several processes: the same updates as in one, whatever the way weights are held.

Two processes on this machine's CPU, launched as users launch them, with the settings that are shipped.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.resources import files

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from accelerate.commands.config.config_args import load_config_from_file  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from chainofstep.models.vlm import load_vlm  # noqa: E402
from small_training import examples_of, main, rows_of, train, write_inputs  # noqa: E402

pytestmark = pytest.mark.slow
PLAIN = ["sft", "prm", "dpo"]
ADAPTED = ["sft,lora.rank=2", "dpo,lora.rank=2"]
CONFIGS = files("chainofstep") / "accelerate_configs"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def single(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    main(inputs, out, [*PLAIN, *ADAPTED])
    return out


def launcher(way, out, processes):
    """`torchrun` for DDP; for sharded weights `accelerate launch` with the shipped settings, changed to this CPU."""
    if way == "ddp":
        return ["torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    changed = (CONFIGS / f"{way}.yaml").read_text()
    for old, new in (("num_processes: 8", f"num_processes: {processes}"), ("use_cpu: false", "use_cpu: true")):
        assert old in changed
        changed = changed.replace(old, new)
    (out / "config.yaml").write_text(changed)
    return ["accelerate.commands.launch", "--config_file", str(out / "config.yaml"), "--main_process_port", free_port()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def launch(way, inputs, out, names, processes=2):
    script = os.path.join(os.path.dirname(__file__), "small_training.py")
    command = [sys.executable, "-m", *launcher(way, out, processes), script, str(inputs), str(out), *names]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started would outlive it
    return process.returncode, output, errors


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def together(request, inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    code, printed, errors = launch(request.param, inputs, out, [*PLAIN, *ADAPTED])
    assert code == 0, errors[-3000:]
    return out, printed


def log_of(folder):
    return [row for row in json.loads((folder / "training_log.json").read_text()) if "loss" in row]


@pytest.mark.parametrize("name", [*PLAIN, *ADAPTED])
def test_two_processes_learn_what_one_learns(name, single, together):
    alone, both = log_of(single / name), log_of(together[0] / name)
    assert len(alone) == len(both) == 3
    for one, two in zip(alone, both, strict=True):
        assert one.keys() == two.keys()
        for field in one:
            assert two[field] == pytest.approx(one[field], rel=1e-3, abs=1e-4), field
    left, right = (load_file(folder / name / "model.safetensors") for folder in (single, together[0]))
    assert left.keys() == right.keys()
    for weight in left:
        torch.testing.assert_close(left[weight], right[weight], atol=1e-3, rtol=1e-3)


def test_one_process_writes_and_prints(together):
    out, printed = together
    assert printed == ""
    for folder in (out / "sft", out / "dpo,lora.rank=2"):
        assert load_vlm(folder).tokenizer.get_vocab()
        assert "2 process(es)" in (folder / "README.md").read_text()
        assert not (folder / "checkpoints").exists()
    assert (out / "dpo,lora.rank=2" / "adapter" / "adapter_model.safetensors").exists()


def test_processes_that_do_not_divide_an_update_are_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="batch_size=4 is no multiple of forward_rows=2 x 3 processes"):
        train("sft", load_vlm(inputs / "model"), rows_of("sft", examples_of(inputs)), tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_shipped_settings(name, kind):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind and config.num_processes == 8 and config.mixed_precision == "no"
