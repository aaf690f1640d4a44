"""Direct preference optimisation on pairs of chains (paper A6), with or without the likelihood of the chosen text.

TRL's trainer is not used: it weighs forward passes alike whatever they hold, drops processors' tensors that it does
not know, and reads the head's matrix past the rows that an adapter trains.
"""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import TrainingArguments

from chainofstep.models.batch import Batch, PromptCache, completion_ids, join_rows, pad_right
from chainofstep.models.vlm import VLM, quiet
from chainofstep.records import Example, Pair
from chainofstep.training.adapters import prepared
from chainofstep.training.checkpoints import made_from
from chainofstep.training.common import (
    TrainConfig,
    arguments,
    check,
    context,
    row_numbers,
    rows_of,
    stock_forward,
)
from chainofstep.training.distributed import join
from chainofstep.training.features import TowerFeatures, batch_features, kept_features
from chainofstep.training.lengths import check_pictures, row_lengths
from chainofstep.training.trainer import CountedTrainer, run, trained_before


@dataclass(frozen=True)
class DpoConfig(TrainConfig):
    """Settings of a round. `chosen_nll_weight` is the authors' `rpo_alpha` (1 in their script, absent in the paper)."""

    learning_rate: float = 5e-6
    beta: float = 0.1
    chosen_nll_weight: float = 0.0


class DpoCollator:
    """Batches of pairs by number, encoded as sampling does: all chosen rows, then all rejected rows."""

    def __init__(self, vlm: VLM, pairs: Sequence[tuple[Example, Pair]], features: Sequence[TowerFeatures] = ()):
        self.vlm, self.pairs, self.features, self.prompts = vlm, pairs, features, PromptCache(vlm)

    def __call__(self, numbers: list[dict[str, Any]]) -> dict[str, Any]:
        """input_ids, attention_mask and completion_mask [2 B, T], and each pair's pictures twice.

        In a batch with nothing to learn the completion mask is empty.
        """
        places, learnt = rows_of(numbers)
        chosen, rejected = ([self.pairs[place] for place in places] for _ in range(2))
        texts = [pair.chosen for _, pair in chosen] + [pair.rejected for _, pair in rejected]
        examples = [example for example, _ in chosen] * 2
        prompts = [self.prompts.encode(example) for example in examples]
        completions = [torch.tensor(completion_ids(self.vlm, text)) for text in texts]
        both = list(zip(prompts, completions, strict=True))
        ids = [torch.cat([prompt.ids, completion]) for prompt, completion in both]
        masks = [torch.cat([torch.zeros_like(prompt.ids), torch.ones_like(completion)]) for prompt, completion in both]
        batch = join_rows(self.vlm, ids, [prompt.images for prompt in prompts])
        mask = pad_right(masks, 0) * int(learnt)
        return {**batch, "completion_mask": mask, **batch_features(self.features, examples)}


class DpoTrainer(CountedTrainer):
    """The loss of each pair against a frozen reference; without a reference, the policy with its adapter off is it."""

    def __init__(self, config: DpoConfig, reference: VLM | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.config = config
        self.reference = None if reference is None else self._placed(reference.model)

    def _placed(self, model: Any) -> Any:
        """The reference where the policy is: sharded like it, or whole on this process's device."""
        for weight in model.parameters():
            weight.requires_grad_(False)
        model.eval()
        if self.is_deepspeed_enabled:
            from trl.models.utils import prepare_deepspeed

            return prepare_deepspeed(model, self.accelerator)
        if self.is_fsdp_enabled:
            from accelerate.utils.fsdp_utils import fsdp2_prepare_model

            return fsdp2_prepare_model(self.accelerator, model)
        return self.accelerator.prepare_model(model, evaluation_mode=True)

    def count(self, batch: Batch) -> int:
        return int(batch["completion_mask"].any(dim=1).sum()) // 2

    def summed_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        chosen, rejected = completion_logprobs(model, batch).chunk(2)
        with torch.no_grad(), self._reference_adapter():
            known = completion_logprobs(self.reference or model, batch)
        chosen_before, rejected_before = known.chunk(2)
        beta, weight = self.config.beta, self.config.chosen_nll_weight
        good, bad = beta * (chosen - chosen_before), beta * (rejected - rejected_before)
        if self.count(batch) == 0:
            return (good + bad).sum()
        losses = -functional.logsigmoid(good - bad)
        if weight:
            lengths = batch["completion_mask"].chunk(2)[0].sum(dim=1)
            losses = losses - weight * chosen / lengths
        self.note(
            batch,
            **{
                "rewards/chosen": good.sum(),
                "rewards/rejected": bad.sum(),
                "rewards/margins": (good - bad).sum(),
                "rewards/accuracies": (good > bad).sum(),
                "logps/chosen": chosen.sum(),
                "logps/rejected": rejected.sum(),
            },
        )
        return losses.sum()

    def _reference_adapter(self) -> Any:
        if self.reference is not None:
            return nullcontext()
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False).disable_adapter()


def completion_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability of each row's completion [2 B], the head computed only where a completion stands."""
    wanted = batch["completion_mask"][:, 1:].bool()
    kept = wanted.any(dim=0).nonzero()[:, 0]
    forward = {name: tensor for name, tensor in batch.items() if name != "completion_mask"}
    logits = model(**forward, logits_to_keep=kept, use_cache=False).logits.float()
    tokens = batch["input_ids"][:, 1:][:, kept]
    logs = -functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return (logs * wanted[:, kept]).sum(dim=1)


def train_dpo(
    vlm: VLM, reference: VLM | None, pairs: Sequence[tuple[Example, Pair]], config: DpoConfig, out: str | Path
) -> VLM:
    """Train `vlm` in place against the frozen `reference` and save it in `out`.

    `reference` None, with LoRA only: the policy as it comes, without its adapter. ValueError if both are one model,
    there is no pair, a picture cannot be read or settings cannot work on this machine.
    """
    _check_reference(vlm, reference, config)
    check(config, len(pairs))
    join(vlm.device)
    models = {"tower": vlm} | ({} if reference is None else {"reference_tower": reference})
    folder, examples, source = Path(out), [example for example, _ in pairs], made_from(config, pairs, *models.values())
    if trained_before(vlm, folder, source):
        return vlm
    check_pictures(examples)
    lengths = row_lengths(
        vlm, len(pairs), lambda number: (examples[number], [pairs[number][1].chosen, pairs[number][1].rejected]), 1
    )
    data, left_out = row_numbers(lengths, config, context(vlm, config))
    with ExitStack() as stack:
        ready = stack.enter_context(prepared(vlm, config))
        features = stack.enter_context(kept_features(config, examples, folder, **models))
        stack.enter_context(quiet())
        if reference is not None:
            stack.enter_context(stock_forward(reference.model))
        trainer = DpoTrainer(
            config,
            reference,
            features=features,
            model=ready.model,
            args=arguments(TrainingArguments, config, vlm, data, folder),
            data_collator=DpoCollator(vlm, pairs, features),
            train_dataset=data,
        )
        return run(trainer, vlm, folder, "DPO", config, ready.types, source, [examples[n].id for n in left_out])


def _check_reference(vlm: VLM, reference: VLM | None, config: DpoConfig) -> None:
    if reference is None and not config.lora.rank:
        raise ValueError("no reference: without an adapter the policy changes; load the reference a second time")
    if reference is not None and vlm.model is reference.model:
        raise ValueError("policy and reference are the same model in memory; load the reference a second time")
