"""The models that are measured: a 13M decoder with random weights for speed alone, and the mini recipe's own."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import note
from chainofstep.chain import REASONING_TOKENS, Chain, render
from chainofstep.models.encode import encode_prompt
from chainofstep.models.engine import Engine
from chainofstep.models.tiny import Shape, build_tiny
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm
from chainofstep.pipeline.run import SHIPPED
from chainofstep.problems.tasks.build import write_problems
from chainofstep.problems.tasks.lessons import uneven
from chainofstep.recipes.mini import mini
from chainofstep.records import Example, Request
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.training.sft import SftRow, train_sft

DECODER_13M = Shape(width=384, layers=8, heads=12, key_value_heads=4, feed_forward=1024)
KEPT = Path(__file__).parents[1] / "build" / "benchmarks"  # git ignores build/, `make clean` takes it away
MADE = range(9_000, 20_000)  # train problems that SFT has not seen


@dataclass
class Bench:
    """What every measure gets: how often to repeat, where pictures go, and which models to take."""

    repeats: int
    pictures: Path
    policy_folder: Path | None = None  # None: trained here, once
    prm_folder: Path = SHIPPED / "prm"  # it has learnt to check before a run fits it to its policy

    @cached_property
    def policy(self) -> VLM:
        return load_vlm(trained_policy() if self.policy_folder is None else self.policy_folder)

    @cached_property
    def prm(self) -> VLM:
        return load_vlm(self.prm_folder)

    def examples(self, count: int) -> list[Example]:
        return write_problems("train", MADE[:count], self.pictures)


def trained_policy() -> Path:
    """The folder of the mini recipe's SFT policy, trained on first use.

    The shipped base knows nothing of steps: it would never finish a chain, and labels would be all wrong.
    """
    recipe = mini(seed=0)
    folder = KEPT / f"sft-{recipe.problems.sft}"
    if (folder / "training_log.json").exists():  # written last
        return folder
    note(f"training the mini recipe's policy on {recipe.problems.sft} chains, kept in {folder}: two or three minutes")
    vlm = load_vlm(SHIPPED / "policy")
    add_step_tokens(vlm, REASONING_TOKENS)
    examples = write_problems("train", range(recipe.problems.sft), KEPT / "pictures")
    rows = [SftRow(example, render(_taught(example, recipe.problems.hasty))) for example in examples]
    train_sft(vlm, rows, recipe.sft, folder)
    return folder


def _taught(example: Example, hasty: float) -> Chain:
    """The chain that the recipe's SFT learns for an example."""
    assert example.chain is not None
    return uneven(example.chain, hasty, np.random.default_rng(derive_seed(0, "hasty", example.id)))


def random_decoder(shape: Shape) -> VLM:
    """Random weights, and no token that ends a sample, so that all methods make the same number of tokens."""
    vlm = build_tiny(shape, seed=0)
    vlm.tokenizer.eos_token = None
    vlm.model.config.text_config.max_position_embeddings = 2048
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight.mul_(10)  # distributions as uneven as trained ones
    return vlm


def lengthened(vlm: VLM, example: Example, tokens: int) -> Example:
    """The example with a question that makes its prompt, picture included, exactly so many tokens."""
    missing = tokens - len(encode_prompt(vlm, example).ids)
    longer = replace(example, question=example.question + " 7" * missing)
    assert missing >= 0 and len(encode_prompt(vlm, longer).ids) == tokens, f"no prompt of {tokens} tokens"
    return longer


def sampled_chains(bench: Bench, questions: int, samples: int) -> list[tuple[Example, Chain]]:
    """The finished chains of so many questions, of `samples` that the policy made of each, equal ones included."""
    examples = bench.examples(questions)
    requests = [Request(example, samples, seed=i, max_tokens=320, top_p=0.95) for i, example in enumerate(examples)]
    return [
        (example, rollout.chain)
        for example, rollouts in zip(examples, Engine(bench.policy).sample(requests), strict=True)
        for rollout in rollouts
        if rollout.chain is not None and rollout.chain.answer is not None
    ]
