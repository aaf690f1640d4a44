"""The shipped weights of the mini recipe: a policy's base and a PRM's backbone, from nothing, by one function.

out/policy, out/prm   the two models
out/log.json          the mean losses of every 100 updates
out/made.json         seed, settings and hashes
out/unfinished        checkpoints, deleted at the end: a killed call goes on from them
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

from chainofstep.chain import REASONING_TOKENS, Chain, render
from chainofstep.models.engine import Engine
from chainofstep.models.tiny import POLICY, Shape, build_tiny, grow
from chainofstep.models.vlm import VLM, add_step_tokens, load_vlm, save_vlm
from chainofstep.problems.tasks.build import Problem, chain_of, remake
from chainofstep.problems.tasks.lessons import lesson_problems, uneven
from chainofstep.progress import progress
from chainofstep.records import Example, Request, from_row, to_row
from chainofstep.store import file_hash, read_json, write_json
from chainofstep.training.pretrain import Mistakes, PretrainConfig, pretrain
from chainofstep.training.sft import SftConfig, SftRow, train_sft

LOOKING = PretrainConfig(updates=2500, schedule=5000, learning_rate=1.5e-3)
LOOKING_LONGER = PretrainConfig(updates=2000, warmup=100, captions_first=0, first_problem=50_000_000)
EXPLAINING = PretrainConfig(updates=600, schedule=1000, warmup=100, turns=3, first_problem=30_000_000)
CHECKING = PretrainConfig(
    updates=12_000, turns=3, looking_share=0.1, drill_share=0.12, mistakes_share=0.35, first_problem=20_000_000
)


@dataclass(frozen=True)
class BaseConfig:
    """How the shipped weights are made: one trunk learns to look, and the policy's base leaves it early and learns to
    explain in prose. The PRM's backbone looks to the end, grows by `extra_layers`, and learns to check chains without
    forgetting to look: as in the paper, it is the stronger of the two."""

    shape: Shape = POLICY
    looking: PretrainConfig = LOOKING
    explaining: PretrainConfig = EXPLAINING
    looking_longer: PretrainConfig = LOOKING_LONGER
    policy_leaves: int = 1000  # updates of `looking_longer` after which the policy's base leaves; a multiple of 100
    extra_layers: int = 3
    checking: PretrainConfig = CHECKING
    fine_tuned_on: int = 8000  # problems for the policy whose mistakes the backbone learns to find
    hasty: float = 0.3  # share of hasty chains among what that policy is taught
    mistaken_questions: int = 4000  # problems that it answers, six times each
    mistakes_from: int = 40_000_000


def make_base(config: BaseConfig, seed: int, out: Path) -> Path:
    """Make the policy's base (`out/policy`) and the PRM's backbone (`out/prm`), with a log and hashes beside them.

    One thread: then the same seed gives the same bytes on the same machine whatever else runs.
    """
    torch.set_num_threads(1)
    school = _School(out, seed)
    prm = build_tiny(config.shape, seed)
    school.teach(prm, "looking", "looking", config.looking)
    policy = school.teach(prm, "looking longer", "looking", config.looking_longer, leave=config.policy_leaves)
    school.teach(policy, "explaining", "explaining", config.explaining)
    save_vlm(policy, out / "policy")
    prm = grow(prm, config.extra_layers)
    add_step_tokens(prm)
    mistakes = school.mistakes(config, out / "policy")
    school.teach(prm, "checking", "checking", config.checking, mistakes)
    save_vlm(prm, out / "prm")
    hashes = {name: file_hash(out / name / "model.safetensors") for name in ("policy", "prm")}
    write_json(out / "made.json", {"seed": seed, "config": asdict(config), "sha256": hashes})
    rmtree(school.unfinished)
    return out


@dataclass(frozen=True)
class _School:
    """Teaching with a log and checkpoints."""

    out: Path
    seed: int

    @property
    def unfinished(self) -> Path:
        return self.out / "unfinished"

    def teach(
        self, vlm: VLM, name: str, stage: str, config: PretrainConfig, mistakes: Mistakes = (), leave: int = 0
    ) -> VLM:
        """Train in place, or go on with it; a copy of the model as it was after `leave` updates."""
        left = self.unfinished / f"{name} at {leave}"
        with progress(name, config.updates) as tick:

            def report(update: int, values: dict[str, float]) -> None:
                self._log({"stage": name, "update": update, **values})
                tick(update)
                if update == leave:
                    save_vlm(vlm, left)

            checkpoint = self.unfinished / f"{name}.pt"
            pretrain(vlm, stage, replace(config, seed=self.seed), report, mistakes=mistakes, checkpoint=checkpoint)
        return load_vlm(left) if leave else vlm

    def _log(self, row: dict[str, Any]) -> None:
        """One row for each report, however often a killed call reports it."""
        path = self.out / "log.json"
        rows = {(known["stage"], known["update"]): known for known in (read_json(path) if path.exists() else [])}
        write_json(path, list((rows | {(row["stage"], row["update"]): row}).values()))

    def mistakes(self, config: BaseConfig, base: Path) -> Mistakes:
        """Chains of a policy fine-tuned from the base, as a run will fine-tune one, on problems of its own."""
        path = self.unfinished / "mistakes.json"
        if not path.exists():
            made = _own_mistakes(config, self.seed, base, self.unfinished / "mistakes")
            write_json(path, [{"problem": problem.id, "chain": to_row(chain)} for problem, chain in made])
        return [(remake(row["problem"]), from_row(Chain, row["chain"])) for row in read_json(path)]


def _own_mistakes(config: BaseConfig, seed: int, base: Path, folder: Path) -> Mistakes:
    policy = load_vlm(base)
    add_step_tokens(policy, REASONING_TOKENS)
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    gold = list(islice(lesson_problems(config.mistakes_from), config.fine_tuned_on))
    taught = [uneven(chain_of(problem.solution()), config.hasty, generator) for problem in gold]
    rows = [SftRow(example, render(chain)) for example, chain in zip(_examples(gold, folder), taught, strict=True)]
    fine_tuning = SftConfig(learning_rate=1.5e-3, batch_size=8, forward_rows=8, seed=seed)
    train_sft(policy, rows, fine_tuning, folder / "sft")
    asked = list(islice(lesson_problems(config.mistakes_from + 1_000_000), config.mistaken_questions))
    return sampled_chains(policy, asked, 6, config.mistakes_from + 1_000_000, folder)


def _examples(problems: Sequence[Problem], folder: Path) -> list[Example]:
    """The examples of problems, their pictures stored in the folder."""
    examples = []
    for problem in problems:
        path = folder / f"{problem.id}.png"
        problem.picture.save(path)
        examples.append(problem.example(str(path)))
    return examples


def sampled_chains(policy: VLM, asked: Sequence[Problem], samples: int, seed: int, folder: Path) -> Mistakes:
    """Distinct chains that a fine-tuned policy samples on problems: the mistakes that policies really make."""
    examples = _examples(asked, folder)
    requests = [Request(example, samples, seed=seed, max_tokens=320, top_p=0.95) for example in examples]
    return [
        (problem, chain)
        for problem, pool in zip(asked, Engine(policy).sample(requests), strict=True)
        for chain in dict.fromkeys(rollout.chain for rollout in pool)
        if chain is not None
    ]
