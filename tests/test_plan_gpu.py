"""The benchmark of a GPU runs at a size that says nothing about speed, and its shares go into a plan."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").exists():
    pytest.skip("this copy of the project has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import typer  # noqa: E402
from benchmarks import gpu  # noqa: E402

from chainofstep.planning.work import read_speeds  # noqa: E402


def test_all_kinds_are_measured_and_a_plan_takes_their_shares(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    gpu.main(shape="tiny", rows=2, rank=2, json_file=path)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in printed[2:]] == ["| decoding", "| sft", "| prm", "| dpo"]
    speeds = read_speeds(path)
    assert 0 < speeds.training < 1 and 0 < speeds.decoding < 1 and speeds.source == "measured: gpu.json"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    with pytest.raises(typer.Exit):
        gpu.main(shape="8b")
    said = capsys.readouterr().err.strip()
    assert "needs a CUDA GPU" in said and "\n" not in said
