"""Supervised fine-tuning on chains (paper A2): the loss is on the completion alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import TrainingArguments

from chainofstep.models.batch import Batch, PromptCache, completion_ids, join_rows, pad_right
from chainofstep.models.vlm import VLM, quiet
from chainofstep.records import Example
from chainofstep.training.adapters import prepared
from chainofstep.training.checkpoints import made_from
from chainofstep.training.common import IGNORED, TrainConfig, arguments, check, context, row_numbers, rows_of
from chainofstep.training.distributed import join
from chainofstep.training.features import TowerFeatures, batch_features, kept_features
from chainofstep.training.lengths import check_pictures, row_lengths
from chainofstep.training.trainer import CountedTrainer, run, trained_before


@dataclass(frozen=True)
class SftConfig(TrainConfig):
    """Settings of supervised fine-tuning."""

    learning_rate: float = 5e-4


@dataclass(frozen=True)
class SftRow:
    """A question and the assistant's text to learn, for a chain `render(chain)`."""

    example: Example
    text: str


class SftCollator:
    """Batches of rows by number. Encodes as sampling does: prompt ids, text ids, end of turn.

    Rows are encoded when they are asked for: all of a large set at once would take hours and much memory.
    """

    def __init__(self, vlm: VLM, rows: Sequence[SftRow], features: Sequence[TowerFeatures] = ()):
        self.vlm, self.rows, self.features, self.prompts = vlm, rows, features, PromptCache(vlm)

    def __call__(self, numbers: list[dict[str, Any]]) -> dict[str, Any]:
        """input_ids, attention_mask and labels [B, T], and pictures; labels only where the completion is."""
        places, learnt = rows_of(numbers)
        rows = [self.rows[place] for place in places]
        ids, labels, images = [], [], []
        for row in rows:
            prompt, completion = self.prompts.encode(row.example), torch.tensor(completion_ids(self.vlm, row.text))
            ids.append(torch.cat([prompt.ids, completion]))
            labels.append(torch.cat([torch.full_like(prompt.ids, IGNORED), completion]))
            images.append(prompt.images)
        batch: dict[str, Any] = {**join_rows(self.vlm, ids, images), "labels": pad_right(labels, IGNORED)}
        if not learnt:
            batch["labels"].fill_(IGNORED)
        return batch | batch_features(self.features, [row.example for row in rows])


class SftTrainer(CountedTrainer):
    """Cross-entropy of the completions' tokens, with the LM head computed only where a completion stands."""

    def count(self, batch: Batch) -> int:
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def summed_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        labels = batch["labels"][:, 1:]
        kept = (labels != IGNORED).any(dim=0).nonzero()[:, 0]
        forward = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = model(**forward, logits_to_keep=kept, use_cache=False).logits
        labels = labels[:, kept]
        wanted = labels != IGNORED
        return functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")


def train_sft(vlm: VLM, rows: Sequence[SftRow], config: SftConfig, out: str | Path) -> VLM:
    """Train `vlm` in place and save it in `out`. Add the step tokens beforehand (`add_step_tokens`).

    ValueError if there is nothing to train on, a picture cannot be read or settings cannot work on this machine.
    """
    check(config, len(rows))
    join(vlm.device)
    folder, examples, source = Path(out), [row.example for row in rows], made_from(config, rows, vlm)
    if trained_before(vlm, folder, source):
        return vlm
    check_pictures(examples)
    lengths = row_lengths(vlm, len(rows), lambda number: (examples[number], [rows[number].text]), ending=1)
    data, left_out = row_numbers(lengths, config, context(vlm, config))
    with prepared(vlm, config) as ready, kept_features(config, examples, folder, tower=vlm) as features, quiet():
        trainer = SftTrainer(
            features=features,
            model=ready.model,
            args=arguments(TrainingArguments, config, vlm, data, folder),
            data_collator=SftCollator(vlm, rows, features),
            train_dataset=data,
        )
        return run(trainer, vlm, folder, "SFT", config, ready.types, source, [examples[n].id for n in left_out])
