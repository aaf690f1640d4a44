"""What the trainers share: their settings, the order of rows, and the settings of transformers' trainer.

Rows are encoded by `models.encode`, so the tokens trained on are the tokens sampled. An update is the same rows in the
same order whatever the number of processes: each process takes every so-manieth forward pass.

Shapes: B rows, T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from chainofstep.models.vlm import VLM
from chainofstep.training.distributed import on_cpu, processes, workers

IGNORED = -100  # label of tokens that are not trained on
WINDOW = 32  # forward passes whose rows are sorted by length together


Part = Literal["vision", "projector", "decoder"]
PARTS: tuple[Part, ...] = ("vision", "projector", "decoder")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights; rank 0: full weights."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    four_bit: bool = False  # QLoRA: the frozen weights in four bits (bitsandbytes)


@dataclass(frozen=True)
class Machine:
    """How training fits a machine; changes what is learnt by rounding alone."""

    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    liger: bool = False  # the fused kernels of liger_kernel
    cached_features: bool = False  # of a frozen vision tower: computed once, not in every epoch
    save_every: int = 0  # updates between checkpoints; 0: none
    report_to: tuple[str, ...] = ()  # trackers as transformers names them: "tensorboard", "wandb"


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train: cosine schedule with warm-up (paper Table 7)."""

    learning_rate: float = 1e-4
    epochs: int = 1
    batch_size: int = 64  # rows of an optimizer update
    forward_rows: int = 16  # rows of a forward pass; on a CPU small ones stay in its caches
    warmup_ratio: float = 0.03
    weight_decay: float = 0.05
    seed: int = 0
    trained: tuple[Part, ...] = PARTS  # the others are frozen
    drop_path: float = 0.0  # of the vision tower
    max_tokens: int = 0  # rows longer than this are left out and counted; 0: the model's context
    lora: Lora = field(default_factory=Lora)
    machine: Machine = field(default_factory=Machine)


def check(config: TrainConfig, rows: int) -> None:
    """ValueError for settings that cannot work, and for no rows."""
    if rows == 0:
        raise ValueError("0 rows to train on; check the stage that made them")
    if config.learning_rate <= 0 or config.epochs <= 0 or config.forward_rows <= 0:
        raise ValueError(
            f"learning_rate={config.learning_rate}, epochs={config.epochs}, forward_rows={config.forward_rows}:"
            " give numbers above 0"
        )
    if config.batch_size <= 0 or config.batch_size % config.forward_rows:
        raise ValueError(
            f"batch_size={config.batch_size} is no multiple of forward_rows={config.forward_rows}; change one of them"
        )
    if config.batch_size % (config.forward_rows * processes()):
        raise ValueError(
            f"batch_size={config.batch_size} is no multiple of forward_rows={config.forward_rows} x {processes()}"
            " processes; change one of them"
        )
    check_settings(config)


def check_settings(config: TrainConfig) -> None:
    """ValueError for settings that cannot work whatever the model and the rows are."""
    if not config.trained or not set(config.trained) <= set(PARTS):
        raise ValueError(f"trained={','.join(config.trained)}: give one or more of {', '.join(PARTS)}")
    if not 0 <= config.drop_path < 1 or not 0 <= config.lora.dropout < 1:
        raise ValueError(
            f"drop_path={config.drop_path}, lora.dropout={config.lora.dropout}: give numbers from 0 to below 1"
        )
    if config.max_tokens < 0 or config.lora.rank < 0 or config.machine.save_every < 0:
        raise ValueError(
            f"max_tokens={config.max_tokens}, lora.rank={config.lora.rank},"
            f" machine.save_every={config.machine.save_every}: give 0 or more"
        )
    if config.lora.four_bit and not config.lora.rank:
        raise ValueError("lora.four_bit without adapters would train nothing; set lora.rank, 16 for example")
    if config.machine.cached_features and ("vision" in config.trained or config.drop_path):
        raise ValueError(
            f"cached_features with trained={','.join(config.trained)} and drop_path={config.drop_path}: features that"
            " change cannot be kept; leave vision out of `trained` and set drop_path=0, or set cached_features=false"
        )
    check_machine(config.machine)


def check_machine(machine: Machine) -> None:
    """ValueError for a package that the settings need and that is not installed."""
    known = get_available_reporting_integrations()
    for tracker in machine.report_to:
        if tracker not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"report_to={tracker}: not installed, pip install {tracker} (installed: {there})")
    if machine.liger and not is_liger_kernel_available():
        raise ValueError("machine.liger needs the package liger_kernel and a GPU: pip install liger-kernel")
    if machine.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ValueError(
            "machine.attention=flash_attention_2 needs the package flash_attn and a GPU: pip install flash-attn, or"
            " set machine.attention=sdpa"
        )


def training_order(lengths: Sequence[int], config: TrainConfig) -> list[int]:
    """Row numbers of all epochs: rows of a forward pass are of about the same length, passes come in random order.

    Every row comes once an epoch, give or take the window in which rows are sorted. A last pass may be short.
    """
    generator = np.random.default_rng(config.seed)
    stream = np.concatenate([generator.permutation(len(lengths)) for _ in range(config.epochs)])
    size = np.asarray(lengths)
    # No longer than an epoch, or copies of one row would lie side by side.
    width = config.forward_rows * max(1, min(WINDOW, len(lengths) // config.forward_rows))
    order: list[int] = []
    for begin in range(0, len(stream), width):
        window = stream[begin : begin + width]
        window = window[np.argsort(size[window], kind="stable")]
        whole = len(window) // config.forward_rows * config.forward_rows
        # Only the last window can leave rows beyond its whole passes; they come last, so that passes stay aligned.
        passes = window[:whole].reshape(-1, config.forward_rows)
        order += generator.permutation(passes).flatten().tolist() + window[whole:].tolist()
    return order


def row_numbers(lengths: Sequence[int], config: TrainConfig, limit: int) -> tuple[Dataset, list[int]]:
    """The data set that trainers see, and the rows that it leaves out as longer than `limit`.

    One row number for each row of each epoch, in training order. Filled up to whole passes of all processes with
    -1 - n: nothing to learn, to be computed as row n where a pass has no other. ValueError if no row is short enough.
    """
    kept = [number for number, length in enumerate(lengths) if length <= limit]
    if not kept:
        raise ValueError(
            f"all {len(lengths)} rows are longer than max_tokens or the model's context of {limit}, the shortest has"
            f" {min(lengths)} tokens: raise max_tokens or shorten the rows"
        )
    order = [kept[place] for place in training_order([lengths[number] for number in kept], config)]
    missing = -len(order) % (config.forward_rows * processes())
    shortest = min(kept, key=lengths.__getitem__)
    left_out = sorted(set(range(len(lengths))).difference(kept))
    return Dataset.from_dict({"row": order + [-1 - shortest] * missing}), left_out


def rows_of(numbers: Sequence[dict[str, Any]]) -> tuple[list[int], bool]:
    """The rows of a forward pass, and whether there is anything to learn from them (see `row_numbers`)."""
    asked = [int(entry["row"]) for entry in numbers]
    rows = [row for row in asked if row >= 0]
    return (rows, True) if rows else ([-1 - asked[0]], False)


def context(vlm: VLM, config: TrainConfig) -> int:
    """The most tokens that a row may have: `max_tokens`, within the model's context."""
    longest = int(vlm.model.config.get_text_config().max_position_embeddings)
    return min(config.max_tokens or longest, longest)


def arguments(
    kind: type[TrainingArguments], config: TrainConfig, vlm: VLM, data: Dataset, out: Path, **more: Any
) -> Any:
    """Settings for a trainer: one pass over `data`, already in order; checkpoints in `out/checkpoints`."""
    machine, cpu = config.machine, on_cpu(vlm.device)
    updates = -(-len(data) // config.batch_size)
    saving: dict[str, Any] = {"save_strategy": "no"}
    if machine.save_every:
        # Two: should the newest be torn, the one before it is whole.
        saving = {"save_strategy": "steps", "save_steps": machine.save_every, "save_total_limit": 2}
    return kind(
        output_dir=str(out / "checkpoints" if machine.save_every else out),
        num_train_epochs=1,  # the data set holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.forward_rows,
        gradient_accumulation_steps=config.batch_size // (config.forward_rows * processes()),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(config.warmup_ratio * updates),  # a share would be rounded up: a single update at rate 0
        weight_decay=config.weight_decay,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=cpu,
        bf16=machine.precision == "bfloat16",  # TRL's default is to train in bfloat16, on a CPU too
        gradient_checkpointing=machine.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if machine.gradient_checkpointing else None,
        ddp_find_unused_parameters=True,  # a pass without pictures leaves the vision tower without gradients
        dataloader_pin_memory=not cpu,
        dataloader_num_workers=0 if cpu else workers(),
        remove_unused_columns=False,  # the collator looks rows up by number
        logging_steps=1,
        report_to=list(machine.report_to),
        disable_tqdm=True,
        **saving,
        **more,
    )


@contextmanager
def stock_forward(*models: Any) -> Iterator[None]:
    """Take patched `forward`s off the models again at the end: TRL's, and accelerate's for mixed precision.

    Left on, a copy of the model would go on calling the forward of the model it was copied from.
    """
    try:
        yield
    finally:
        for model in models:
            for name in ("forward", "_original_forward"):
                vars(model).pop(name, None)
