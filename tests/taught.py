"""A policy that knows two chains by heart, so that it writes whole ones, and a PRM with an opinion."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from chainofstep.chain import render
from chainofstep.models.vlm import save_vlm
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example
from chainofstep.settings import apply_overrides
from chainofstep.training.sft import SftConfig, SftRow, train_sft
from small_training import chain, small
from vlm_server import spread_vlm

SETTINGS = ["epochs=60", "batch_size=4", "forward_rows=4", "learning_rate=1e-2"]


def write_taught(folder: Path) -> Example:
    """FOLDER/policy, FOLDER/prm, and the example that the policy was taught on."""
    [example] = write_problems("test", range(1), folder)
    for name in ("policy", "prm"):
        shutil.copytree(Path(_models().name) / name, folder / name)
    return example


@cache
def _models() -> TemporaryDirectory[str]:
    """Trained once a process: it takes a few seconds."""
    made = TemporaryDirectory()
    folder = Path(made.name)
    [example] = write_problems("test", range(1), folder)
    rows = [SftRow(example, render(chain(1, 2))), SftRow(example, render(chain(3, 4)))] * 2
    train_sft(small(), rows, apply_overrides(SftConfig(), SETTINGS), folder / "policy")
    save_vlm(spread_vlm(4, 2.0), folder / "prm")
    return made
