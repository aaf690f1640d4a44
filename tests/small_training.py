"""Small models and rows to train on; and, started as a script, short trainings for tests of several processes.

python small_training.py INPUTS OUT NAME ...      NAME: sft, prm or dpo, then ,SETTING=VALUE ...
"""

import copy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from PIL import Image
from torch.distributed.tensor import DTensor

from chainofstep.chain import ALL_TOKENS, Chain, Step, render
from chainofstep.models.tiny import Shape, build_processor, build_tiny, build_tokenizer
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm
from chainofstep.records import Example, Pair
from chainofstep.settings import apply_overrides
from chainofstep.training.distributed import sharded_launch
from chainofstep.training.dpo import DpoConfig, train_dpo
from chainofstep.training.prm import PrmConfig, PrmRow, train_prm
from chainofstep.training.sft import SftConfig, SftRow, train_sft

SMALL = Shape(vision_width=32, vision_layers=2, width=32, layers=2, heads=1, key_value_heads=1, feed_forward=64)
ROWS = 11  # with passes of two rows and updates of four, the last one is short, and uneven over two processes
SETTINGS = ("batch_size=4", "forward_rows=2", "learning_rate=1e-3")


@cache
def processor() -> Any:
    texts = ["What is the colour? Read row 1 2 3 4 5 is = + .", *ALL_TOKENS.values()]
    return build_processor(build_tokenizer(texts))


def small(seed: int = 0) -> VLM:
    """A model of two layers that knows the step tokens."""
    vlm = build_tiny(SMALL, seed, copy.deepcopy(processor()))
    add_step_tokens(vlm)
    return vlm


def chain(*numbers: int, answer: str | None = "5") -> Chain:
    return Chain(tuple(Step("Read row", f"row is {n}.", f"{n} = {n}.") for n in numbers), answer)


def write_inputs(folder: Path) -> Path:
    """Four pictures of noise, and a model."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    save_vlm(small(), folder / "model")
    return folder


def examples_of(inputs: Path) -> list[Example]:
    pictures = sorted(inputs.glob("*.png"))
    return [
        Example(f"e{n}", "What is the colour? " * (n % 4 + 1), (str(pictures[n % len(pictures)]),), "5", "number")
        for n in range(ROWS)
    ]


def rows_of(what: str, examples: list[Example]) -> list[Any]:
    """Rows of different lengths for a training."""
    chains = [chain(*range(n % 3 + 1)) for n in range(len(examples))]
    if what == "sft":
        return [SftRow(e, render(c)) for e, c in zip(examples, chains, strict=True)]
    if what == "prm":
        return [PrmRow(e, c, (0.5,) * len(c.steps), 1.0) for e, c in zip(examples, chains, strict=True)]
    rejected = render(chain(9, 8, answer="4"))
    return [(e, Pair(e.id, render(c), rejected, 1.0, 0.0, "test")) for e, c in zip(examples, chains, strict=True)]


def train(what: str, vlm: VLM, rows: list[Any], out: Path, *overrides: str, reference: VLM | None = None) -> VLM:
    """One short training; DPO against `reference`, if there is one."""
    settings = (*SETTINGS, *overrides)
    if what == "sft":
        return train_sft(vlm, rows, apply_overrides(SftConfig(), settings), out)
    if what == "prm":
        return train_prm(vlm, rows, apply_overrides(PrmConfig(epochs=1), settings), out)
    return train_dpo(vlm, reference, rows, apply_overrides(DpoConfig(chosen_nll_weight=0.5), settings), out)


def shard_on_a_cpu() -> None:
    """Let accelerate shard weights here too: without a GPU it would take DDP, whatever it was launched with."""
    stock = AcceleratorState.__init__

    def start(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        stock(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = start


def main(inputs: Path, out: Path, names: list[str]) -> None:
    """Trainings one after the other, each in a folder of its name: a kind, and settings after commas."""
    torch.set_num_threads(1)
    if sharded_launch():
        shard_on_a_cpu()
    for name in names:
        what, *overrides = name.split(",")
        adapted = any(override.startswith("lora.rank") for override in overrides)
        reference = None if adapted or what != "dpo" else load_vlm(inputs / "model")
        rows = rows_of(what, examples_of(inputs))
        vlm = train(what, load_vlm(inputs / "model"), rows, out / name, *overrides, reference=reference)
        assert sharded_launch() == any(isinstance(weight, DTensor) for weight in vlm.model.parameters())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
