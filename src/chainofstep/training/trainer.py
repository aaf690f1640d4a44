"""One training: transformers' Trainer with a loss counted over all processes, and how a run begins and ends.

A subclass gives `count`, how many items (tokens, tags, pairs) a batch holds, and `summed_loss`, the sum of their
losses. An update's loss is the sum over all of its forward passes and processes, divided by the number of its items:
how rows are laid out over passes and processes changes nothing but rounding.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, Trainer, TrainerCallback

from chainofstep.models.batch import Batch
from chainofstep.models.vlm import VLM, load_vlm, quiet
from chainofstep.store import write_json
from chainofstep.training.checkpoints import MarkWhole, TrainedWeights, begin, finish, is_finished, last_checkpoint
from chainofstep.training.common import TrainConfig
from chainofstep.training.distributed import processes, rank, shard_by_layers, sharded_launch, total, wait
from chainofstep.training.features import TowerFeatures
from chainofstep.training.model_card import write_card
from chainofstep.training.saving import save_trained

log = logging.getLogger(__name__)


class CountedTrainer(TrainedWeights, Trainer):
    """Trains on the mean loss of an update's items."""

    loss_is_scaled_for_ga = True

    def __init__(self, features: Sequence[TowerFeatures] = (), **kwargs: Any):
        super().__init__(**kwargs)
        shard_by_layers(self)
        self.features = features
        self.sums: Counter[str] = Counter()  # of metrics over the items since the last log
        self.items = 0

    def count(self, batch: Batch) -> int:
        """Items in a batch."""
        raise NotImplementedError

    def summed_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """The sum of the items' losses, a scalar; 0, but with a gradient, for a batch without items."""
        raise NotImplementedError

    def note(self, batch: Batch, **sums: torch.Tensor) -> None:
        """Sums of metrics over a batch's items, whose means are logged."""
        self.items += self.count(batch)
        self.sums.update({name: float(value.detach()) for name, value in sums.items()})

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of the next update for this process, and how many items all processes' batches hold."""
        samples = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        return samples, int(total([sum(map(self.count, samples))], device)[0])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> torch.Tensor:
        assert num_items_in_batch, "an update without anything to learn"
        for features in self.features:
            features.playing = inputs.pop(features.name)
        # Gradients and logged losses are averaged over processes, where a sum is wanted.
        return self.summed_loss(model, inputs) * processes() / num_items_in_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means of all metrics since the last log too."""
        if "loss" in logs:
            names = sorted(self.sums)
            items, *sums = total([self.items, *(self.sums[name] for name in names)], self.args.device)
            logs |= {name: value / items for name, value in zip(names, sums, strict=True)}
            self.sums.clear()
            self.items = 0
        super().log(logs, start_time)


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


def trained_before(vlm: VLM, out: Path, made_from: dict[str, Any]) -> bool:
    """Whether `out` holds the model of this very training, as after a job that was queued again: `vlm` is it then.

    (With weights sharded over processes `vlm` stays as it is: load `out` to use it.) ValueError if `out` holds the
    finished model of another training.
    """
    if not is_finished(out, made_from):
        return False
    if rank() == 0:
        log.warning("%s holds the finished model of this very training: nothing is trained", out)
        _clear(out)
    if not sharded_launch():
        attention = vlm.model.config._attn_implementation
        saved = load_vlm(out, dtype=vlm.model.dtype, device=vlm.device, attention=attention)
        vlm.model, vlm.processor = saved.model, saved.processor
    return True


def run(
    trainer: Trainer,
    vlm: VLM,
    out: Path,
    title: str,
    config: TrainConfig,
    types: Mapping[str, torch.dtype] | None = None,
    made_from: dict[str, Any] | None = None,
    left_out: Sequence[str] = (),
) -> VLM:
    """Train and save the model, its log (`training_log.json`: one dict for each update) and its card in `out`.

    With `made_from`, goes on from the last whole checkpoint of the same training, and leaves it beside the model, by
    which `trained_before` knows it. `types` are those that weights are
    saved in. `left_out` are the ids of rows that are too long: they are listed in `left_out.json`. Returns the VLM.
    """
    checkpoint = None
    if made_from is not None:
        checkpoint = last_checkpoint(out, made_from)
        wait()  # all have looked before one writes
        if config.machine.save_every:
            begin(out, made_from)
            trainer.add_callback(MarkWhole())
    shard_by_layers(trainer)
    trainer.remove_callback(PrinterCallback)  # it prints every log line to stdout
    bar = ProgressBar(title)
    if rank() == 0:
        trainer.add_callback(bar)
    with bar.progress if rank() == 0 else nullcontext(), quiet():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    vlm.model.eval()
    save_trained(trainer, vlm, out, types or {})
    if rank() == 0:
        write_json(out / "training_log.json", trainer.state.log_history)
        (out / "left_out.json").unlink(missing_ok=True)
        if left_out:
            write_json(out / "left_out.json", list(left_out))
            log.warning("%d rows are longer than the model's context or max_tokens and were left out", len(left_out))
        write_card(vlm, out, title, config, trainer.state.log_history, len(left_out))
        if made_from is not None:
            finish(out, made_from)
        _clear(out)
    wait()
    return vlm


def _clear(out: Path) -> None:
    """Delete what a finished training needs no more; a tracker's files, written beside the checkpoints, stay."""
    tracked = out / "checkpoints" / "runs"
    if tracked.exists():
        copytree(tracked, out / "runs", dirs_exist_ok=True)
    for name in ("checkpoints", "features"):
        rmtree(out / name, ignore_errors=True)
