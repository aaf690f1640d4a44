"""Training from files: SFT, the process reward model, DPO."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chainofstep.chain import REASONING_TOKENS, render
from chainofstep.problems.formats import labelled
from chainofstep.records import Pair, ScoreFailure, StepRow
from chainofstep.settings import apply_overrides
from chainofstep.store import read_records
from chainofstep.verbs.files import existing, model_path, read_examples, read_pools, read_scores

if TYPE_CHECKING:
    from chainofstep.models.vlm import VLM


@dataclass(frozen=True)
class Trained:
    """Where the model is, and how many rows it was trained on or had to leave out."""

    folder: Path
    rows: int
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> rows


def _other_folder(out: Path, *models: str) -> Path:
    if any(Path(model).resolve() == out.resolve() for model in models):
        raise ValueError(f"--out {out} is the folder of a model that is read; choose another")
    return out


def _load(model: str) -> "VLM":
    from chainofstep.models.vlm import load_vlm

    return load_vlm(model_path(model))


def train_sft(model: str, examples: Path, out: Path, overrides: Sequence[str] = ()) -> Trained:
    """Fine-tune on the gold chains of the examples (paper A2). Missing step tokens are added."""
    from chainofstep.models.vlm import add_step_tokens
    from chainofstep.training.sft import SftConfig, SftRow
    from chainofstep.training.sft import train_sft as train

    config = apply_overrides(SftConfig(), overrides)
    read = read_examples(examples)
    rows = [SftRow(example, render(example.chain)) for example in read if example.chain is not None]
    vlm = _load(model)
    add_step_tokens(vlm, REASONING_TOKENS)
    train(vlm, rows, config, _other_folder(out, model))
    return Trained(out, len(rows), Counter({"no gold chain": len(read) - len(rows)}))


def train_prm(
    backbone: str, examples: Path, rollouts: Path, scores: Path, out: Path, overrides: Sequence[str] = ()
) -> Trained:
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
    vlm = _load(backbone)
    add_step_tokens(vlm)
    train(vlm, rows, config, _other_folder(out, backbone))
    return Trained(out, len(rows), left_out)


def train_dpo(
    model: str, examples: Path, pairs: Path, reference: str, out: Path, overrides: Sequence[str] = ()
) -> Trained:
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
    train(_load(model), _load(reference), rows, config, _other_folder(out, model, reference))
    return Trained(out, len(rows))
