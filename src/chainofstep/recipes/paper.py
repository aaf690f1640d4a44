"""The paper's recipes, and what they become for other models and smaller machines.

Numbers without a comment are the paper's Table 7 and Appendix C. What the authors' scripts do instead is one switch,
`script=True`; each difference is named beside the setting it changes. Question sets are the user's own:
`--set data=FOLDER` with `sft`, `labels`, `dpo` and `test.jsonl` (docs/recipes.md).
"""

from dataclasses import replace
from typing import Any

from chainofstep.pipeline.recipe import Labels, Launch, Problems, Recipe, Rounds
from chainofstep.recipes.shapes import INTERNVL_8B, INTERNVL_38B, LLAVA_NEXT_8B, QWEN2_5_72B, QWEN3_2B, QWEN3_8B
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import SearchConfig
from chainofstep.training.common import Lora, Machine, Part
from chainofstep.training.dpo import DpoConfig
from chainofstep.training.grpo import GrpoConfig
from chainofstep.training.prm import PrmConfig
from chainofstep.training.sft import SftConfig

LONGEST = 8192  # tokens of a row at most (scripts; the paper names no limit)
TEST = 11_306  # questions of the paper's six benchmarks
#: The scripts train in bfloat16 with recomputed activations. Checkpoints are ours: an hour of work, not a night.
LARGE = Machine("bfloat16", gradient_checkpointing=True, attention="flash_attention_2", save_every=200)
LANGUAGE: tuple[Part, ...] = ("projector", "decoder")
ALL: tuple[Part, ...] = ("vision", "projector", "decoder")


def internvl2_5_8b(seed: int, script: bool = False) -> Recipe:
    """The paper's main result: InternVL2.5-MPO-8B and a 38B PRM, on eight GPUs of 80 GB."""
    return Recipe(
        "internvl2_5_8b_script" if script else "internvl2_5_8b",
        seed,
        policy=INTERNVL_8B,
        # Script: from a 38B that had SFT on the step data before (`sft_38b_mpo_5e_6`): run prm_38b, and
        # `--set backbone=FOLDER` its models/sft.
        backbone=INTERNVL_38B,
        launch=Launch(processes=8, sharding="zero3"),
        problems=_questions(script),
        sft=_sft(LARGE),
        sampling=_sampling(),
        # Half of the paper's labels are an LLM's (`cos annotate --judge`); here Monte-Carlo makes all of them. Whether
        # they were hard or soft is stated nowhere; the released trainer takes hard ones only.
        labels=Labels(chains=2, rollouts=16, soft=False),
        prm=_prm(LARGE),
        # The threshold is stated nowhere. Up to two pairs of a question are what the script's two files hint at.
        pairs=PairRule(per_question=2 if script else 1),
        dpo=_dpo(LARGE, script),
        # Rounds may restart from SFT or go on; the round-3 script restarts. No comparison with outcome rewards.
        rounds=Rounds(rounds=3, outcome_rounds=0, weights="restart"),
        pool_sizes=(1, 4, 8, 16),  # Fig. 5 goes on to 64: `--set sampling.n=64` with longer lists
        beams=(4, 8, 16),
        wide_beam=1,
    )


def internvl2_5_8b_script(seed: int) -> Recipe:
    """The same as the authors' scripts have it."""
    return internvl2_5_8b(seed, script=True)


def internvl2_5_8b_grpo(seed: int) -> Recipe:
    """The paper's comparison with GRPO (4.5): 100 updates on PRM rewards from the SFT model, instead of DPO.

    The 38B PRM leaves a GPU no room for the policy: serve it and give `--set launch.scorer=MODEL@URL`.
    """
    recipe = internvl2_5_8b(seed)
    return replace(
        recipe,
        name="internvl2_5_8b_grpo",
        rounds=Rounds(rounds=0, outcome_rounds=0),
        grpo=GrpoConfig(
            learning_rate=1e-5,
            batch_size=128,
            samples=5,
            updates=100,
            # Stated nowhere: verl's defaults, and the schedule and parts of DPO.
            kl=0.0,
            clip=0.2,
            max_completion=2048,
            forward_rows=1,
            max_tokens=LONGEST,
            drop_path=0.1,
            trained=ALL,
            # The paper names no adapters. Each process holds whole weights to sample from, and an 8B trained whole
            # takes 16 bytes of each, 120 GB.
            lora=Lora(rank=64, alpha=128.0),
            machine=LARGE,
        ),
    )


def prm_38b(seed: int, script: bool = False) -> Recipe:
    """The 38B by itself, on two machines: its SFT, which the script starts the PRM from, and the PRM."""
    return replace(
        internvl2_5_8b(seed, script),
        name="prm_38b",
        policy=INTERNVL_38B,
        backbone="sft",
        launch=Launch(processes=16, sharding="zero3"),
        rounds=Rounds(rounds=0, outcome_rounds=0),
        beams=(),
    )


def llava_next_8b(seed: int) -> Recipe:
    """The paper's second policy, with the same PRM. Its scripts were not published."""
    return replace(internvl2_5_8b(seed), name="llava_next_8b", policy=LLAVA_NEXT_8B)


def qwen3_vl_2b_24gb(seed: int) -> Recipe:
    """One GPU of 24 GB, policy and PRM of 2B. Adapters: full weights need 16 bytes each, 32 GB.

    Adapters take a rate ten to twenty times that of full weights. Rates and sizes here are ours and not measured.
    """
    machine = replace(LARGE, attention="sdpa")
    again = replace(machine, cached_features=True)  # where a picture is seen more than once
    # The projector lies in Qwen's tower, whose features are kept: neither is trained, so nothing is dropped in it.
    small: dict[str, Any] = {
        "lora": Lora(rank=64, alpha=128.0),
        "forward_rows": 1,
        "max_tokens": 4096,
        "trained": ("decoder",),
        "drop_path": 0.0,
    }
    return Recipe(
        "qwen3_vl_2b_24gb",
        seed,
        policy=QWEN3_2B,
        launch=Launch(workers=1),  # several would each load the model onto the one GPU
        # A tenth of the paper's SFT rows and a fiftieth of its labels: planned as two days of one such GPU.
        problems=Problems(sft=30_000, labels=2_000, dpo=2_000, test=TEST, held_out=0),
        sft=replace(_sft(machine), learning_rate=1e-4, **small),
        sampling=replace(_sampling(), max_tokens=2048),
        labels=Labels(chains=2, rollouts=16, adaptive=True),
        prm=replace(_prm(again), learning_rate=5e-5, **small),
        pairs=PairRule(per_question=2),
        dpo=replace(_dpo(again, False), learning_rate=2e-5, chosen_nll_weight=1.0, **small),
        rounds=Rounds(rounds=3, outcome_rounds=0, weights="restart"),
        beams=(4, 16),
        wide_beam=1,
    )


def qwen3_vl_8b_80gb(seed: int) -> Recipe:
    """One GPU of 80 GB, policy and PRM of 8B with adapters. On eight, `--set sft.lora.rank=0` trains full weights."""
    recipe = qwen3_vl_2b_24gb(seed)
    again: dict[str, Any] = {"machine": replace(LARGE, cached_features=True), "max_tokens": LONGEST}
    return replace(
        recipe,
        name="qwen3_vl_8b_80gb",
        policy=QWEN3_8B,
        problems=replace(recipe.problems, sft=100_000, labels=10_000, dpo=10_000),
        sft=replace(recipe.sft, machine=LARGE, max_tokens=LONGEST),
        prm=replace(recipe.prm, **again),
        dpo=replace(recipe.dpo, **again),
    )


def qwen2_5_vl_72b(seed: int) -> Recipe:
    """Two machines of eight GPUs of 80 GB. Adapters: full weights need 68 GB of each GPU before any row."""
    recipe = qwen3_vl_8b_80gb(seed)
    return replace(
        recipe,
        name="qwen2_5_vl_72b",
        policy=QWEN2_5_72B,
        backbone=QWEN3_8B,  # reads the policy's chains as text, so it may be of another family, and much cheaper
        launch=Launch(processes=16, sharding="fsdp2"),
    )


def _questions(script: bool) -> Problems:
    if script:
        return Problems(sft=296_543, labels=48_396, dpo=20_000, test=TEST, held_out=0)
    return Problems(sft=300_000, labels=100_000, dpo=20_000, test=TEST, held_out=0)


def _sampling() -> SearchConfig:
    """6,144 tokens are the script's; it passes no top_p, the paper has 0.95."""
    return SearchConfig(n=16, temperature=1.0, top_p=0.95, max_tokens=6144, max_steps=30)


def _sft(machine: Machine) -> SftConfig:
    return SftConfig(
        learning_rate=5e-6,
        epochs=1,
        batch_size=128,
        forward_rows=2,
        warmup_ratio=0.03,
        weight_decay=0.05,
        trained=LANGUAGE,
        drop_path=0.1,
        max_tokens=LONGEST,
        machine=machine,
    )


def _prm(machine: Machine) -> PrmConfig:
    """Script: 96,792 rows, not 200,000, with at most six tiles a picture; the processor's own setting."""
    return PrmConfig(
        learning_rate=1e-6,
        epochs=2,
        batch_size=128,
        forward_rows=2,
        warmup_ratio=0.03,
        weight_decay=0.05,
        trained=LANGUAGE,
        drop_path=0.4,
        max_tokens=LONGEST,
        machine=machine,
    )


def _dpo(machine: Machine, script: bool) -> DpoConfig:
    """One round; Table 7's three epochs are three rounds of one."""
    return DpoConfig(
        learning_rate=5e-6 if script else 1e-6,
        epochs=1,
        batch_size=256,
        forward_rows=1,
        warmup_ratio=0.03,
        weight_decay=0.05,
        trained=ALL,
        drop_path=0.1,
        max_tokens=LONGEST,
        beta=0.1,  # the script gives none, which is TRL's 0.1
        chosen_nll_weight=1.0 if script else 0.0,  # script: rpo_alpha 1
        machine=machine,
    )
