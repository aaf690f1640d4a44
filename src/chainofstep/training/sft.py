"""Supervised fine-tuning on chains (paper A2), on TRL's SFTTrainer: the loss is on the completion alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from chainofstep.models.batch import Batch, PromptCache, completion_ids, join_rows, pad_right
from chainofstep.models.vlm import VLM
from chainofstep.records import Example
from chainofstep.training.common import IGNORED, TrainConfig, arguments, check, quiet, row_numbers, run, stock_forward


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

    TRL's own collator runs chat template, tokenizer and image processor for every row of every epoch.
    """

    def __init__(self, vlm: VLM, rows: Sequence[SftRow]):
        self.vlm, self.rows, self.prompts = vlm, rows, PromptCache(vlm)
        self.completions = [torch.tensor(completion_ids(vlm, row.text)) for row in rows]
        self.lengths = [
            len(self.prompts.prompt_ids(row.example)) + len(ids)
            for row, ids in zip(rows, self.completions, strict=True)
        ]

    def __call__(self, numbers: list[dict[str, Any]]) -> Batch:
        """input_ids, attention_mask and labels [B, T], and pictures; labels only where the completion is."""
        ids, labels, images = [], [], []
        for number in (int(entry["row"]) for entry in numbers):
            prompt, completion = self.prompts.encode(self.rows[number].example), self.completions[number]
            ids.append(torch.cat([prompt.ids, completion]))
            labels.append(torch.cat([torch.full_like(prompt.ids, IGNORED), completion]))
            images.append(prompt.images)
        return {**join_rows(self.vlm, ids, images), "labels": pad_right(labels, IGNORED)}


class CompletionTrainer(SFTTrainer):
    """TRL's trainer and loss, with the LM head computed only where a completion stands.

    On a CPU, TRL computes the head and its statistics at every position, prompts and padding too: a third of an
    update of a small model.
    """

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy of the completions' tokens, averaged over all of an update."""
        labels = inputs["labels"][:, 1:]
        kept = (labels != IGNORED).any(dim=0).nonzero()[:, 0]
        forward = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        logits = model(**forward, logits_to_keep=kept, use_cache=False).logits
        labels = labels[:, kept]
        wanted = labels != IGNORED
        loss = functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")
        return loss / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)


def train_sft(vlm: VLM, rows: Sequence[SftRow], config: SftConfig, out: str | Path) -> VLM:
    """Train `vlm` in place and save it in `out`. Add the step tokens beforehand (`add_step_tokens`).

    ValueError if there is nothing to train on or a picture cannot be read.
    """
    check(config, len(rows))
    collator, folder = SftCollator(vlm, rows), Path(out)
    # A column `images` tells TRL that the data is visual, to be encoded by the collator.
    data = row_numbers(collator.lengths, config, images=[list(row.example.images) for row in rows])
    with stock_forward(vlm.model), quiet():
        trainer = CompletionTrainer(
            model=vlm.model,
            args=arguments(TrlConfig, config, vlm, data, folder, max_length=None),  # cutting picture tokens would fail
            data_collator=collator,
            train_dataset=data,
            processing_class=vlm.processor,
        )
        return run(trainer, vlm, folder, "SFT")
