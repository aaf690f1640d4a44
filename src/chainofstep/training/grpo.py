"""Group relative policy optimisation with step rewards (paper A7), on TRL's GRPOTrainer.

Rollouts come from the project's own engine, which computes a question once for its whole group. Rows are encoded and
batched as all training here does it, so the tokens trained on are the tokens sampled, whatever the family; TRL keeps
the group's advantages, the loss and the log. There is no critic, and each batch of rollouts is used `iterations` times.

Shapes: B rows, T tokens, C tokens of the longest completion.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from trl import GRPOConfig as TrlConfig
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from chainofstep.chain import ANSWER_END
from chainofstep.models.batch import PromptCache, join_rows
from chainofstep.models.engine import Engine
from chainofstep.models.prm import PRM
from chainofstep.models.sampling import control_tokens
from chainofstep.models.vlm import VLM, quiet
from chainofstep.records import Example, Request, StepScorer
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.scoring.pairs import OutcomeScorer
from chainofstep.scoring.path_score import STEP_WEIGHT
from chainofstep.scoring.rewards import StepReward
from chainofstep.training.adapters import prepared
from chainofstep.training.checkpoints import TrainedWeights, made_from
from chainofstep.training.common import IGNORED, TrainConfig, arguments, check, context
from chainofstep.training.distributed import join, processes, sharded_launch
from chainofstep.training.lengths import row_lengths
from chainofstep.training.trainer import run, trained_before


@dataclass(frozen=True)
class GrpoConfig(TrainConfig):
    """Settings of GRPO. The paper gives batch, samples, rate and updates; all else is TRL's or verl's default.

    `updates` says how long, and `epochs` nothing. The importance ratio is 1 in the first pass over a batch of
    rollouts, so `clip` acts in later `iterations` alone.
    """

    learning_rate: float = 1e-5
    batch_size: int = 128  # questions of an update, each with `samples` rollouts
    samples: int = 5
    updates: int = 100
    temperature: float = 1.0
    top_p: float = 0.95
    max_completion: int = 1024  # tokens
    kl: float = 0.0  # weight of the divergence from the model as it was at the start
    clip: float = 0.2
    iterations: int = 1  # updates from each batch of rollouts
    step_weight: float = STEP_WEIGHT  # of the reward, a path score

    @property
    def rollouts(self) -> int:
        """Of an update."""
        return self.batch_size * self.samples


def _check(config: GrpoConfig, examples: Sequence[Example]) -> None:
    if config.samples < 2 or config.updates < 1 or config.max_completion < 1 or config.iterations < 1:
        raise ValueError(
            f"samples={config.samples}, updates={config.updates}, max_completion={config.max_completion},"
            f" iterations={config.iterations}: give two samples or more, and at least 1 of the others"
        )
    if config.temperature <= 0 or config.kl < 0 or config.clip <= 0:
        raise ValueError(
            f"temperature={config.temperature}, kl={config.kl}, clip={config.clip}: give a temperature and a clip"
            " above 0, and a kl of 0 or more"
        )
    if config.forward_rows > 0 and config.rollouts % config.forward_rows:
        raise ValueError(
            f"batch_size={config.batch_size} questions of {config.samples} samples are {config.rollouts} rollouts,"
            f" no multiple of forward_rows={config.forward_rows}; change one of them"
        )
    if config.machine.save_every % config.iterations:
        raise ValueError(
            f"machine.save_every={config.machine.save_every} is no multiple of iterations={config.iterations}: rollouts"
            " are not saved; change one of them"
        )
    if config.machine.cached_features:
        raise ValueError(
            "machine.cached_features is not for GRPO, whose sampler keeps features itself; set it to false"
        )
    if sharded_launch():
        raise ValueError("GRPO samples from whole weights: launch it without FSDP or DeepSpeed")
    check(_in_rollouts(config), len(examples))


def _in_rollouts(config: GrpoConfig) -> GrpoConfig:
    """The settings as the other trainers mean them, with rows, here rollouts, for a batch size."""
    return replace(config, batch_size=config.rollouts)


def question_order(count: int, config: GrpoConfig) -> list[int]:
    """The questions of all updates in order: every one comes once before any comes again."""
    needed = -(-config.updates // config.iterations) * config.batch_size
    generator = np.random.default_rng(config.seed)
    epochs = [generator.permutation(count) for _ in range(-(-needed // count))]
    return [int(place) for place in np.concatenate(epochs)[:needed]]


class Sampling:
    """TRL's `rollout_func`: rollouts from the engine for prompts that name the place of a question in the order."""

    def __init__(self, vlm: VLM, examples: Sequence[Example], order: Sequence[int], config: GrpoConfig):
        self.engine, self.examples, self.order, self.config = Engine(vlm), examples, order, config

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Ids of prompts and completions for this process's part of the update; a group's prompts stand together."""
        first = trainer.accelerator.process_index * len(prompts)
        requests = [
            self._request(int(place), [number for number, _ in group])
            for place, group in groupby(enumerate(prompts, first), key=lambda numbered: numbered[1])
        ]
        self.engine.prefixes.forget()  # some optimizers write weights in ways that torch does not count
        pools = self.engine.sample(requests)
        encoded = [self.engine.prefixes.prompts.prompt_ids(request.example).tolist() for request in requests]
        return {
            "prompt_ids": [ids for ids, pool in zip(encoded, pools, strict=True) for _ in pool],
            "completion_ids": [list(rollout.token_ids) for pool in pools for rollout in pool],
            "logprobs": None,
        }

    def _request(self, place: int, numbers: Sequence[int]) -> Request:
        """The samples of one question that are made here; another process may make the group's others."""
        return Request(
            self.examples[self.order[place]],
            n=len(numbers),
            seed=derive_seed(self.config.seed, "grpo", place),
            max_tokens=self.config.max_completion,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            first=numbers[0] % self.config.samples,
        )


class PictureGrpoTrainer(TrainedWeights, GRPOTrainer):
    """TRL's trainer with pictures batched as all training here batches them.

    TRL knows the picture tensors of some families and pads prompts on the left. Here a row's pictures are found by
    its question's number, and rows are padded on the right, as where the policy was trained before.
    """

    def __init__(self, vlm: VLM, model: Any, examples: Sequence[Example], **kwargs: Any):
        self.vlm, self.examples, self.pictures = vlm, examples, PromptCache(vlm)
        self.rows: list[int] = []  # the questions of the rows that TRL is about to ask about
        head = vlm.model.get_output_embeddings()
        if not hasattr(head, "bias"):  # peft's wrapper of trained rows does not pass it on, and TRL reads it
            vars(head)["bias"] = head.original_module.bias
        super().__init__(model=model, processing_class=vlm.tokenizer, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rows = [int(entry["row"]) for entry in inputs]
        output = super()._generate_and_score_completions(inputs)
        return {**output, "rows": torch.tensor(self.rows, device=output["completion_ids"].device)}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self.rows = inputs["rows"].tolist()
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probabilities [B, C] of the completions, which are the last `logits_to_keep` columns, and entropies."""
        size = batch_size or len(input_ids)
        parts = []
        for begin in range(0, len(input_ids), size):
            part = slice(begin, begin + size)
            parts.append(self._forward(model, input_ids[part], attention_mask[part], logits_to_keep, self.rows[part]))
        logps, entropies = (torch.cat(side) for side in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _forward(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int, rows: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept = attention_mask.bool()
        counts = kept[:, -width:].sum(dim=1).tolist()
        ids = [row[mask] for row, mask in zip(input_ids.cpu(), kept.cpu(), strict=True)]
        images = [self.pictures.encode(self.examples[row]).images for row in rows]
        batch = {name: tensor.to(input_ids.device) for name, tensor in join_rows(self.vlm, ids, images).items()}
        labels = torch.full_like(batch["input_ids"], IGNORED)
        spans = [slice(len(row) - count, len(row)) for row, count in zip(ids, counts, strict=True)]
        for place, span in enumerate(spans):
            labels[place, span] = batch["input_ids"][place, span]
        with self.accelerator.autocast():
            outputs = model(**batch, labels=labels, fused_lm_head=True)
        entropy = outputs.log_probs if outputs.entropy is None else outputs.entropy
        return _completions(outputs.log_probs, spans, width), _completions(entropy, spans, width)


def _completions(values: torch.Tensor, spans: Sequence[slice], width: int) -> torch.Tensor:
    """The values [B, T - 1], of tokens 1 to T - 1, that stand for each row's span of tokens, as [B, width]."""
    rows = [values[place, span.start - 1 : span.stop - 1] for place, span in enumerate(spans)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return functional.pad(padded, (0, width - padded.shape[1]))


def _fitting(vlm: VLM, examples: Sequence[Example], config: GrpoConfig) -> list[Example]:
    """The examples that leave room for a completion; a picture that cannot be read is an error before training."""
    limit = context(vlm, config)
    lengths = row_lengths(vlm, len(examples), lambda number: (examples[number], [""]), config.max_completion)
    fitting = [example for example, length in zip(examples, lengths, strict=True) if length <= limit]
    if not fitting:
        raise ValueError(
            f"none of {len(examples)} questions leaves room for max_completion={config.max_completion} of {limit}"
            " tokens; set a smaller one"
        )
    return fitting


@contextmanager
def _experimental() -> Iterator[None]:
    """Without TRL's warning that `rollout_func` may change; the version of TRL is pinned."""
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
        yield


def _settings(vlm: VLM, config: GrpoConfig, data: Dataset, out: Path) -> Any:
    rows = _in_rollouts(config)
    settings = arguments(
        TrlConfig,
        rows,
        vlm,
        data,
        out,
        max_steps=config.updates,
        num_generations=config.samples,
        steps_per_generation=config.rollouts // (config.forward_rows * processes()),
        num_iterations=config.iterations,
        max_completion_length=config.max_completion,
        temperature=config.temperature,
        top_p=config.top_p,
        epsilon=config.clip,
        beta=0.0,  # TRL would load its reference from the folder that the policy came from
        router_aux_loss_coef=0.0,
        shuffle_dataset=False,  # the data set is in order
    )
    settings.warmup_steps = int(config.warmup_ratio * config.updates)
    return settings


def _keep_near(trainer: PictureGrpoTrainer, reference: Any, config: GrpoConfig) -> None:
    """Weigh in the divergence from the reference, as TRL does with one of its own; None: from the bare model."""
    if reference is not None:
        if config.machine.precision == "float32":
            reference.float()  # as the policy
        add_fused_lm_head(reference.requires_grad_(False), temperature=config.temperature)
        trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
    trainer.beta = config.kl


def _judging(scorer: StepScorer | None) -> list[VLM]:
    return [scorer.vlm] if isinstance(scorer, PRM) else []


def _name(scorer: StepScorer | None) -> str:
    """What scores, with the name under which an endpoint has it."""
    return " ".join(filter(None, [type(scorer or OutcomeScorer()).__name__, getattr(scorer, "model", "")]))


def train_grpo(
    vlm: VLM, examples: Sequence[Example], scorer: StepScorer | None, config: GrpoConfig, out: str | Path
) -> VLM:
    """Train `vlm` in place on rewards of its own rollouts, and save it in `out`. None: reward right answers alone.

    The log has the mean `reward`, the share of rollouts that are `unparseable` (reward 0) or `unscored` (left out of
    their group), the mean number of `steps`, and with a reference its `kl`. ValueError for settings that cannot work,
    questions that are all too long, and pictures that cannot be read.
    """
    _check(config, examples)
    vlm.token_id(ANSWER_END)  # a policy without step tokens fails here, not in the first rollouts
    join(vlm.device)
    folder, fitting = Path(out), _fitting(vlm, examples, config)
    order = question_order(len(fitting), config)
    places = {"prompt": [str(place) for place in range(len(order))], "row": order}
    data = Dataset.from_dict({**places, "id": [fitting[row].id for row in order]})
    reward = StepReward(fitting, vlm.tokenizer, scorer or OutcomeScorer(), config.step_weight)
    origin = made_from(config, fitting, vlm, *_judging(scorer)) | {"scorer": _name(scorer)}
    if trained_before(vlm, folder, origin):
        return vlm
    reference = copy.deepcopy(vlm.model) if config.kl and not config.lora.rank else None
    with prepared(vlm, config) as ready, _experimental():
        trainer = PictureGrpoTrainer(
            vlm,
            ready.model,
            fitting,
            reward_funcs=reward,
            args=_settings(vlm, config, data, folder),
            train_dataset=data,
            rollout_func=Sampling(vlm, fitting, order, config),
        )
        # A chain ends with its answer too; otherwise TRL would count every one as cut by the token limit.
        trainer.eos_token_ids = sorted(control_tokens(vlm).answer_ends)
        _keep_near(trainer, reference, config)
        kept = {example.id for example in fitting}
        left_out = [example.id for example in examples if example.id not in kept]
        return run(trainer, vlm, folder, "GRPO", config, ready.types, origin, left_out)
