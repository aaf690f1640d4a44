"""Training of the process reward model (paper A4).

TRL has no PRM trainer any more, and the one it had knew no soft labels and no pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from chainofstep.chain import STEP_TAG, Chain, render
from chainofstep.models.batch import Batch, PromptCache, join_rows
from chainofstep.models.prm import EncodedChain, encode_chain_for_prm, prm_loss, verdict_ids
from chainofstep.models.vlm import VLM, quiet
from chainofstep.records import Example
from chainofstep.training.adapters import prepared
from chainofstep.training.checkpoints import made_from
from chainofstep.training.common import TrainConfig, arguments, check, context, row_numbers, rows_of
from chainofstep.training.distributed import join
from chainofstep.training.features import TowerFeatures, batch_features, kept_features
from chainofstep.training.lengths import check_pictures, row_lengths
from chainofstep.training.trainer import CountedTrainer, run, trained_before


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
    """Batches of rows by number, with the place and label of every labelled tag. Encoded when they are asked for."""

    def __init__(self, vlm: VLM, rows: Sequence[PrmRow], features: Sequence[TowerFeatures] = ()):
        self.vlm, self.rows, self.features, self.prompts = vlm, rows, features, PromptCache(vlm)

    def _encode(self, row: PrmRow) -> EncodedChain:
        return encode_chain_for_prm(self.vlm, row.example, row.chain, self.prompts.encode(row.example))

    def __call__(self, numbers: list[dict[str, Any]]) -> dict[str, Any]:
        """input_ids and attention_mask [B, T], pictures, and for each of K tags its row, position and label [K]."""
        places, learnt = rows_of(numbers)
        rows = [self.rows[place] for place in places]
        encoded = [self._encode(row) for row in rows]
        tags = [
            (number, tag, label)
            for number, (row, chain) in enumerate(zip(rows, encoded, strict=True))
            for tag, label in zip(chain.tags, labels_of(row), strict=False)  # an answer may have no label
            if learnt
        ]
        batch = join_rows(self.vlm, [chain.ids for chain in encoded], [chain.prompt.images for chain in encoded])
        return {
            **batch,
            "tag_rows": torch.tensor([number for number, _, _ in tags], dtype=torch.long),
            "tag_positions": torch.tensor([tag for _, tag, _ in tags], dtype=torch.long),
            "tag_labels": torch.tensor([label for _, _, label in tags], dtype=torch.float32),
            **batch_features(self.features, [row.example for row in rows]),
        }


class PrmTrainer(CountedTrainer):
    """Trains on `prm_loss`, averaged over all tags of an update whatever the size of its forward passes."""

    def __init__(self, vlm: VLM, **kwargs: Any):
        super().__init__(**kwargs)
        self.columns = verdict_ids(vlm)

    def count(self, batch: Batch) -> int:
        return len(batch["tag_labels"])

    def summed_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        forward = {name: tensor for name, tensor in batch.items() if not name.startswith("tag_")}
        labels, rows, positions = (batch[name] for name in ("tag_labels", "tag_rows", "tag_positions"))
        # The head is computed only at positions where some row has a tag.
        kept, column = positions.unique(return_inverse=True)
        logits = model(**forward, logits_to_keep=kept, use_cache=False).logits
        if len(labels) == 0:
            return logits.sum()
        loss, metrics = prm_loss(logits[rows, column][:, self.columns], labels)
        self.note(batch, accuracy=torch.tensor(metrics["accuracy"] * len(labels)))
        return loss * len(labels)


def train_prm(vlm: VLM, rows: Sequence[PrmRow], config: PrmConfig, out: str | Path) -> VLM:
    """Train `vlm` in place and save it in `out`. Its tokenizer must have the step and PRM tokens.

    ValueError if labels do not fit their chains, a picture cannot be read or settings cannot work on this machine.
    """
    check(config, len(rows))
    for row in rows:
        labels_of(row)
    join(vlm.device)
    folder, examples, source = Path(out), [row.example for row in rows], made_from(config, rows, vlm)
    if trained_before(vlm, folder, source):
        return vlm
    check_pictures(examples)
    lengths = row_lengths(vlm, len(rows), lambda number: (examples[number], [render(rows[number].chain, STEP_TAG)]))
    data, left_out = row_numbers(lengths, config, context(vlm, config))
    with prepared(vlm, config) as ready, kept_features(config, examples, folder, tower=vlm) as features, quiet():
        trainer = PrmTrainer(
            vlm,
            features=features,
            model=ready.model,
            args=arguments(TrainingArguments, config, vlm, data, folder),
            data_collator=PrmCollator(vlm, rows, features),
            train_dataset=data,
        )
        return run(trainer, vlm, folder, "PRM", config, ready.types, source, [examples[n].id for n in left_out])
