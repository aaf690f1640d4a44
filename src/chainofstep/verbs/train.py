"""Training from files: SFT, the process reward model, DPO, GRPO.

Each of these may run in several processes at once, started by `accelerate launch -m chainofstep train ...`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chainofstep.chain import REASONING_TOKENS, render
from chainofstep.models.endpoint import is_endpoint
from chainofstep.problems.formats import labelled
from chainofstep.records import Pair, ScoreFailure, StepRow
from chainofstep.settings import apply_overrides
from chainofstep.store import read_json, read_records
from chainofstep.verbs.files import existing, model_path, read_examples, read_pools, read_scores

if TYPE_CHECKING:
    from chainofstep.models.vlm import VLM
    from chainofstep.training.common import TrainConfig


@dataclass(frozen=True)
class Trained:
    """Where the model is, and how many rows it was trained on or had to leave out.

    Of several processes that train together the first says it, and the others None.
    """

    folder: Path
    rows: int
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> rows


def _other_folder(out: Path, *models: str) -> Path:
    if any(Path(model).resolve() == out.resolve() for model in models):
        raise ValueError(f"--out {out} is the folder of a model that is read; choose another")
    return out


def _load(model: str, config: "TrainConfig") -> "VLM":
    from chainofstep.training.loading import load_for_training

    return load_for_training(_folder(model), config)


def _folder(model: str) -> str:
    """A model whose weights can be read; an endpoint's cannot."""
    if is_endpoint(model):
        raise ValueError(f"{model} is an endpoint, and training needs the weights; give the model's folder or hub id")
    return model_path(model)


def _trained(out: Path, rows: int, left_out: Counter[str] | None = None) -> Trained | None:
    """What the first process of a launch says; rows that were too long are none that it trained on."""
    from chainofstep.training.distributed import rank

    if rank():
        return None
    listed = out / "left_out.json"
    too_long = len(read_json(listed)) if listed.exists() else 0
    return Trained(out, rows - too_long, Counter({"too long": too_long}) + (left_out or Counter()))


def train_sft(model: str, examples: Path, out: Path, overrides: Sequence[str] = ()) -> Trained | None:
    """Fine-tune on the gold chains of the examples (paper A2). Missing step tokens are added."""
    from chainofstep.models.vlm import add_step_tokens
    from chainofstep.training.sft import SftConfig, SftRow
    from chainofstep.training.sft import train_sft as train

    config = apply_overrides(SftConfig(), overrides)
    read = read_examples(examples)
    rows = [SftRow(example, render(example.chain)) for example in read if example.chain is not None]
    folder, vlm = _other_folder(out, model), _load(model, config)
    add_step_tokens(vlm, REASONING_TOKENS)
    train(vlm, rows, config, folder)
    return _trained(out, len(rows), Counter({"no gold chain": len(read) - len(rows)}))


def train_prm(
    backbone: str, examples: Path, rollouts: Path, scores: Path, out: Path, overrides: Sequence[str] = ()
) -> Trained | None:
    """Train a process reward model on scored rollouts (paper A4). Missing step and PRM tokens are added."""
    from chainofstep.models.vlm import add_step_tokens
    from chainofstep.training.prm import PrmConfig, PrmRow
    from chainofstep.training.prm import train_prm as train

    config = apply_overrides(PrmConfig(), overrides)
    read = read_examples(examples)
    pools = read_pools(rollouts, read)
    rows, left_out = [], Counter[str]()
    for example, pool, scored in zip(read, pools, read_scores(scores, read, pools), strict=True):
        for rollout, labels in zip(pool, scored, strict=True):
            if isinstance(labels, ScoreFailure):
                left_out["no chain" if rollout.chain is None else "no labels"] += 1
                continue
            try:  # a chain may stop before its answer, and labels may stop before the chain does
                chain, known = labelled(StepRow(example, rollout.text, labels))
            except ValueError as error:
                left_out[str(error).partition(":")[0]] += 1
            else:
                rows.append(PrmRow(example, chain, known.steps, known.answer))
    folder, vlm = _other_folder(out, backbone), _load(backbone, config)
    add_step_tokens(vlm)
    train(vlm, rows, config, folder)
    return _trained(out, len(rows), left_out)


def train_dpo(
    model: str, examples: Path, pairs: Path, reference: str, out: Path, overrides: Sequence[str] = ()
) -> Trained | None:
    """A round of DPO on preference pairs, against the frozen reference (paper A6: the SFT model, in every round)."""
    from chainofstep.training.dpo import DpoConfig
    from chainofstep.training.dpo import train_dpo as train

    config = apply_overrides(DpoConfig(), overrides)
    by_id = {example.id: example for example in read_examples(examples)}
    read = list(read_records(existing(pairs), Pair))
    for pair in read:
        if pair.example_id not in by_id:
            raise ValueError(f"{pairs} has a pair for {pair.example_id}, which {examples} lacks; give its examples")
    rows = [(by_id[pair.example_id], pair) for pair in read]
    if not reference and not config.lora.rank:
        raise ValueError("no --reference for full weights; give the SFT model that the policy comes from")
    folder = _other_folder(out, model, *([reference] if reference else []))
    frozen = _load(reference, config) if reference else None
    train(_load(model, config), frozen, rows, config, folder)
    return _trained(out, len(rows))


def train_grpo(model: str, examples: Path, prm: str, out: Path, overrides: Sequence[str] = ()) -> Trained | None:
    """GRPO on rewards of the policy's own rollouts: a PRM's path scores, or right answers without one (paper A7)."""
    from chainofstep.pipeline.workers import prm as scorer
    from chainofstep.training.grpo import GrpoConfig
    from chainofstep.training.grpo import train_grpo as train

    config = apply_overrides(GrpoConfig(), overrides)
    read = read_examples(examples)
    folder = _other_folder(out, model, *([prm] if prm else []))
    judge = scorer(model_path(prm)) if prm else None
    train(_load(model, config), read, judge, config, folder)
    return _trained(out, len(read))


def convert(folder: Path, out: Path, tokenizer: str = "") -> Path:
    """Weights in InternVL's own format (the authors' checkpoints too) as transformers' classes read them."""
    from chainofstep.models.conversion import convert_internvl

    return convert_internvl(folder, out, tokenizer or None)


def push(folder: Path, repo: str, public: bool = False) -> str:
    """Upload a trained model to the hub; the address of the commit."""
    from chainofstep.training.model_card import push as upload

    return upload(folder, repo, private=not public)
