"""Training of the process reward model (paper A4): a small subclass of transformers' Trainer.

TRL has no PRM trainer any more, and the one it had knew no soft labels and no pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from chainofstep.chain import Chain
from chainofstep.models.batch import Batch, PromptCache, join_rows
from chainofstep.models.prm import EncodedChain, encode_chain_for_prm, prm_loss, verdict_ids
from chainofstep.models.vlm import VLM
from chainofstep.records import Example
from chainofstep.training.common import TrainConfig, arguments, check, quiet, row_numbers, run


@dataclass(frozen=True)
class PrmConfig(TrainConfig):
    """Settings of PRM training."""

    learning_rate: float = 3e-4
    epochs: int = 2


@dataclass(frozen=True)
class PrmRow:
    """A chain with a label in [0, 1] for each step and for the answer; `None` leaves the answer's tag untrained."""

    example: Example
    chain: Chain
    step_labels: tuple[float, ...]
    answer_label: float | None


def labels_of(row: PrmRow) -> tuple[float, ...]:
    """The labels of a row's first tags; ValueError if they do not fit its chain."""
    answer = () if row.answer_label is None else (row.answer_label,)
    labels = (*row.step_labels, *answer)
    if len(row.step_labels) != len(row.chain.steps):
        raise ValueError(
            f"{row.example.id}: {len(row.step_labels)} step labels for {len(row.chain.steps)} steps; give one for each"
        )
    if answer and row.chain.answer is None:
        raise ValueError(f"{row.example.id}: answer label {row.answer_label} for a chain without an answer; give None")
    if not labels or not all(0 <= label <= 1 for label in labels):
        raise ValueError(f"{row.example.id}: labels {labels}; give at least one, each in [0, 1]")
    return labels


class PrmCollator:
    """Batches of rows by number, with the place and label of every labelled tag."""

    def __init__(self, vlm: VLM, rows: Sequence[PrmRow]):
        self.vlm, self.rows, self.prompts = vlm, rows, PromptCache(vlm)
        self.labels = [labels_of(row) for row in rows]
        encoded = [self._encode(row) for row in rows]
        self.ids, self.tags = [row.ids for row in encoded], [row.tags for row in encoded]
        self.lengths = [len(ids) for ids in self.ids]

    def _encode(self, row: PrmRow) -> EncodedChain:
        return encode_chain_for_prm(self.vlm, row.example, row.chain, self.prompts.encode(row.example))

    def __call__(self, numbers: list[dict[str, Any]]) -> Batch:
        """input_ids and attention_mask [B, T], pictures, and for each of K tags its row, position and label [K]."""
        places = [int(entry["row"]) for entry in numbers]
        images = [self.prompts.encode(self.rows[place].example).images for place in places]
        labels = [label for place in places for label in self.labels[place]]
        tags = [
            (number, tag)
            for number, place in enumerate(places)
            for tag, _ in zip(self.tags[place], self.labels[place], strict=False)  # an answer may have no label
        ]
        where = torch.tensor(tags)
        batch = join_rows(self.vlm, [self.ids[place] for place in places], images)
        return {**batch, "tag_rows": where[:, 0], "tag_positions": where[:, 1], "tag_labels": torch.tensor(labels)}


class PrmTrainer(Trainer):
    """Trains on `prm_loss`, averaged over all tags of an update whatever the size of its forward passes."""

    loss_is_scaled_for_ga = True

    def __init__(self, vlm: VLM, **kwargs: Any):
        super().__init__(model=vlm.model, **kwargs)
        self.columns = verdict_ids(vlm)
        self.accuracies: list[float] = []

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of the next update, and how many tags they hold."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, sum(len(batch["tag_labels"]) for batch in samples)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> torch.Tensor:
        labels, rows, positions = (inputs.pop(name) for name in ("tag_labels", "tag_rows", "tag_positions"))
        # The head is computed only at positions where some row has a tag.
        kept, column = positions.unique(return_inverse=True)
        logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
        loss, metrics = prm_loss(logits[rows, column][:, self.columns], labels)
        self.accuracies.append(metrics["accuracy"])
        return loss * len(labels) / (num_items_in_batch or len(labels))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the accuracy of the batches since the last log too."""
        if self.accuracies:
            logs["accuracy"] = sum(self.accuracies) / len(self.accuracies)
            self.accuracies.clear()
        super().log(logs, start_time)


def train_prm(vlm: VLM, rows: Sequence[PrmRow], config: PrmConfig, out: str | Path) -> VLM:
    """Train `vlm` in place and save it in `out`. Its tokenizer must have the step and PRM tokens.

    ValueError if labels do not fit their chains, a chain is longer than the context, or a picture cannot be read.
    """
    check(config, len(rows))
    collator, folder = PrmCollator(vlm, rows), Path(out)
    data = row_numbers(collator.lengths, config)
    with quiet():
        settings = arguments(TrainingArguments, config, vlm, data, folder)
    trainer = PrmTrainer(vlm, args=settings, data_collator=collator, train_dataset=data)
    return run(trainer, vlm, folder, "PRM")
