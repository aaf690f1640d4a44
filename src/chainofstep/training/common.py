"""What the three trainers share: their settings, the order of rows, padded batches, progress, and how a run ends.

Rows are encoded by `models.encode`, so the tokens trained on are the tokens sampled, and laid out in training order
before a trainer starts: same rows, settings and threads give the same bytes.

Shapes: B rows, T tokens.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from chainofstep.models.vlm import VLM, save_vlm
from chainofstep.store import write_json

IGNORED = -100  # label of tokens that are not trained on
WINDOW = 32  # forward passes whose rows are sorted by length together


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


def check(config: TrainConfig, rows: int) -> None:
    """ValueError for settings that cannot work, before anything is loaded."""
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


def row_numbers(lengths: Sequence[int], config: TrainConfig, **columns: list[Any]) -> Dataset:
    """The data set that trainers see: one row number for each row of each epoch, in training order."""
    order = training_order(lengths, config)
    return Dataset.from_dict({"row": order} | {name: [values[i] for i in order] for name, values in columns.items()})


@contextmanager
def quiet() -> Iterator[None]:
    """Without two warnings that nobody here can act on: TRL still uses names that transformers renamed."""
    with warnings.catch_warnings():
        for name in ("gradient_checkpointing", "is_gradient_checkpointing"):
            warnings.filterwarnings("ignore", f"`{name}` is deprecated", FutureWarning)
        yield


def arguments(
    kind: type[TrainingArguments], config: TrainConfig, vlm: VLM, data: Dataset, out: Path, **more: Any
) -> Any:
    """Settings for a trainer: one pass over `data`, already in order; nothing written or reported on the way."""
    updates = -(-len(data) // config.batch_size)
    return kind(
        output_dir=str(out),
        num_train_epochs=1,  # the data set holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.forward_rows,
        gradient_accumulation_steps=config.batch_size // config.forward_rows,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(config.warmup_ratio * updates),  # a share would be rounded up: a single update at rate 0
        weight_decay=config.weight_decay,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=vlm.device.type == "cpu",
        bf16=False,  # TRL's default is to train in bfloat16, on a CPU too
        gradient_checkpointing=False,  # TRL's default trades time for memory that small models do not need
        dataloader_pin_memory=vlm.device.type != "cpu",
        remove_unused_columns=False,  # the collator looks rows up by number
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )


class ProgressBar(TrainerCallback):
    """A bar on stderr with the loss and the time left."""

    def __init__(self, title: str):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.title, self.progress = title, Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task(title, total=None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.progress.update(self.task, description=f"{self.title} (loss {float(logs['loss']):.3f})")


@contextmanager
def stock_forward(*models: Any) -> Iterator[None]:
    """Take TRL's patched `forward` off the models again at the end.

    Left on, a copy of the model would go on calling the forward of the model it was copied from.
    """
    try:
        yield
    finally:
        for model in models:
            vars(model).pop("forward", None)


def run(trainer: Trainer, vlm: VLM, out: Path, title: str) -> VLM:
    """Train, save the model and its log (`training_log.json`: one dict for each update) in `out`; the VLM itself."""
    bar = ProgressBar(title)
    trainer.remove_callback(PrinterCallback)  # it prints every log line to stdout
    trainer.add_callback(bar)
    with bar.progress, quiet():
        trainer.train()
    vlm.model.eval()
    save_vlm(vlm, out)
    write_json(out / "training_log.json", trainer.state.log_history)
    return vlm
