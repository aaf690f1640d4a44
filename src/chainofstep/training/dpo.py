"""Direct preference optimisation on pairs of chains (paper A6), on TRL's DPOTrainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig as TrlConfig
from trl import DPOTrainer

from chainofstep.models.batch import Batch, PromptCache, completion_ids, join_rows, pad_right
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Pair
from chainofstep.training.common import TrainConfig, arguments, check, quiet, row_numbers, run, stock_forward


@dataclass(frozen=True)
class DpoConfig(TrainConfig):
    """Settings of a round. `chosen_nll_weight` is the authors' `rpo_alpha` (1 in their script, absent in the paper)."""

    learning_rate: float = 5e-6
    beta: float = 0.1
    chosen_nll_weight: float = 0.0


class DpoCollator:
    """Batches of pairs by number, encoded as sampling does: all chosen rows, then all rejected rows."""

    def __init__(self, vlm: VLM, pairs: Sequence[tuple[Example, Pair]]):
        self.vlm, self.prompts = vlm, PromptCache(vlm)
        self.examples = [example for example, _ in pairs]
        self.chosen = [torch.tensor(completion_ids(vlm, pair.chosen)) for _, pair in pairs]
        self.rejected = [torch.tensor(completion_ids(vlm, pair.rejected)) for _, pair in pairs]
        self.lengths = [
            len(self.prompts.prompt_ids(example)) + max(len(chosen), len(rejected))
            for example, chosen, rejected in zip(self.examples, self.chosen, self.rejected, strict=True)
        ]

    def __call__(self, numbers: list[dict[str, Any]]) -> Batch:
        """input_ids, attention_mask and completion_mask [2 B, T], and each pair's pictures twice."""
        places = [int(entry["row"]) for entry in numbers]
        prompts = [self.prompts.encode(self.examples[place]) for place in places] * 2
        completions = [side[place] for side in (self.chosen, self.rejected) for place in places]
        both = list(zip(prompts, completions, strict=True))
        ids = [torch.cat([prompt.ids, completion]) for prompt, completion in both]
        masks = [torch.cat([torch.zeros_like(prompt.ids), torch.ones_like(completion)]) for prompt, completion in both]
        batch = join_rows(self.vlm, ids, [prompt.images for prompt in prompts])
        return {**batch, "completion_mask": pad_right(masks, 0)}


def train_dpo(
    vlm: VLM, reference: VLM, pairs: Sequence[tuple[Example, Pair]], config: DpoConfig, out: str | Path
) -> VLM:
    """Train `vlm` in place against the frozen `reference` and save it in `out`.

    TRL would load a reference from the folder that the policy came from, whatever the weights in memory are by now;
    so it is always given. ValueError if both are one model, there is no pair, or a picture cannot be read.
    """
    check(config, len(pairs))
    if vlm.model is reference.model:
        raise ValueError("policy and reference are the same model in memory; load the reference a second time")
    collator, folder = DpoCollator(vlm, pairs), Path(out)
    # A column `images` tells TRL that the data is visual, to be encoded by the collator.
    data = row_numbers(collator.lengths, config, images=[list(example.images) for example, _ in pairs])
    losses: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if config.chosen_nll_weight:
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.chosen_nll_weight]}
    with stock_forward(vlm.model, reference.model), quiet():
        trainer = DPOTrainer(
            model=vlm.model,
            ref_model=reference.model,
            args=arguments(TrlConfig, config, vlm, data, folder, beta=config.beta, max_length=None, **losses),
            data_collator=collator,
            train_dataset=data,
            processing_class=vlm.processor,
        )
        return run(trainer, vlm, folder, "DPO")
