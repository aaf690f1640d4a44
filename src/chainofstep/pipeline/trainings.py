"""The trainings of a run, each from the run's folder alone, so that any process of a launch can take part in one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from chainofstep.chain import REASONING_TOKENS, Chain, render
from chainofstep.models.vlm import add_step_tokens
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.workers import prm
from chainofstep.problems.tasks.lessons import uneven
from chainofstep.records import Example, Pair, StepScorer, StepScores
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.store import read_records
from chainofstep.training.dpo import train_dpo
from chainofstep.training.grpo import train_grpo
from chainofstep.training.loading import load_for_training
from chainofstep.training.prm import PrmRow, train_prm
from chainofstep.training.sft import SftRow, train_sft

Training = Callable[[], Sequence[Path]]


def training(run: Run, stage: str) -> Training:
    """The work of a training stage: `sft`, `prm`, `grpo`, or `dpo-N/train` and `outcome-N/train`."""
    if stage == "sft":
        return lambda: fine_tuned(run, "sft")
    if stage == "prm":
        return lambda: _prm(run)
    if stage == "grpo":
        return lambda: rewarded(run, "grpo", prm(run.prm))
    reward, number = stage.removesuffix("/train").split("-")
    return lambda: preferred(run, reward, int(number))


def fine_tuned(run: Run, name: str, told: Callable[[Chain], Chain] = lambda chain: chain) -> list[Path]:
    """The policy on gold chains (paper A2), some of them hasty, from the base with the reasoning tokens added.

    `told` is how a chain is told: as it is, or for comparison without some of its parts.
    """
    config = replace(run.recipe.sft, seed=derive_seed(run.recipe.seed, "sft") % 2**31)
    vlm = load_for_training(run.base("policy"), config)
    add_step_tokens(vlm, REASONING_TOKENS)
    rows = [SftRow(example, render(told(taught(run, example)))) for example in run.examples("sft")]
    train_sft(vlm, rows, config, run.path("models", name))
    return [run.path("models", name)]


def taught(run: Run, example: Example) -> Chain:
    """The chain that SFT learns for an example: whole or, in the recipe's share, hasty.

    A policy taught by chains of one kind alone has no choice of how to go about a question. Taught by thorough and
    by hasty ones it knows both ways, and the rewards must tell it which to take.
    """
    if example.chain is None:
        raise ValueError(f"{example.id}: no gold chain to learn")
    if not run.recipe.problems.hasty:
        return example.chain
    generator = np.random.default_rng(derive_seed(run.recipe.seed, "hasty", example.id))
    return uneven(example.chain, run.recipe.problems.hasty, generator)


def _prm(run: Run) -> list[Path]:
    """The PRM, from its backbone, on the labelled chains (A4)."""
    return verifying(run, "prm", labelled(run), run.base("prm"))


def labelled(run: Run) -> list[PrmRow]:
    """The chains with Monte-Carlo labels. Unparseable ones go to the rejects."""
    rows = []
    examples = run.examples("labels")
    if run.leads:
        run.folder.rejects("prm").path.unlink(missing_ok=True)
    pools, scores = run.pools("labels/seen", examples), run.scores("labels/seen", examples)
    for example, pool, labels in zip(examples, pools, scores, strict=True):
        for rollout, label in zip(pool, labels, strict=True):
            if rollout.chain is not None and isinstance(label, StepScores):
                rows.append(PrmRow(example, rollout.chain, _labels(run, label), label.answer))
            elif run.leads:
                run.folder.reject("prm", example.id, "no labelled chain", {"text": rollout.text})
    return rows


def verifying(run: Run, name: str, rows: Sequence[PrmRow], backbone: str) -> list[Path]:
    """A PRM from labelled chains."""
    config = replace(run.recipe.prm, seed=derive_seed(run.recipe.seed, "prm") % 2**31)
    vlm = load_for_training(backbone, config)
    add_step_tokens(vlm)
    train_prm(vlm, rows, config, run.path("models", name))
    return [run.path("models", name)]


def _labels(run: Run, shares: StepScores) -> tuple[float, ...]:
    """Labels from the shares of right continuations: the shares themselves, or whether they exceed the threshold."""
    settings = run.recipe.labels
    return shares.steps if settings.soft else tuple(float(share > settings.hard_threshold) for share in shares.steps)


def preferred(run: Run, reward: str, number: int, sft: str = "sft") -> list[Path]:
    """A round of DPO against the SFT model (A6), from its pairs."""
    name, last = f"{reward}-{number}", sft if number == 1 else f"{reward}-{number - 1}"
    by_id = {example.id: example for example in run.examples(f"dpo-{number}")}
    pairs = [(by_id[pair.example_id], pair) for pair in read_records(run.path(name, "pairs.jsonl"), Pair)]
    start = last if run.recipe.rounds.weights == "continue" else sft
    config = replace(run.recipe.dpo, seed=derive_seed(run.recipe.seed, name) % 2**31)
    policy = load_for_training(run.model_folder(start), config)
    # With its adapters off, a policy is what it started from: the reference, where that was the SFT model.
    inside = config.lora.rank > 0 and start == sft
    reference = None if inside else load_for_training(run.model_folder(sft), config)
    train_dpo(policy, reference, pairs, config, run.path("models", name))
    return [run.path("models", name)]


def rewarded(run: Run, name: str, scorer: StepScorer | None) -> list[Path]:
    """GRPO from the SFT model on a scorer's path scores (A7), or, without one, on right answers."""
    assert run.recipe.grpo is not None
    config = replace(run.recipe.grpo, seed=derive_seed(run.recipe.seed, "grpo") % 2**31)
    policy = load_for_training(run.model_folder("sft"), config)
    train_grpo(policy, run.examples("dpo-1"), scorer, config, run.path("models", name))
    return [run.path("models", name)]
