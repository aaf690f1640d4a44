"""Plans refuse what a run would refuse, advise nothing of that kind, and count what a process holds beside a model."""

from dataclasses import replace
from io import StringIO
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

pytest.importorskip("torch")
from chainofstep.planning import plan, plan_recipe, print_plan
from chainofstep.planning.checks import divides, needed_settings, refuses_shards
from chainofstep.planning.gpus import read_gpus
from chainofstep.planning.shape import shape_of
from chainofstep.recipes import RECIPES, paper
from chainofstep.recipes.shapes import INTERNVL_38B, QWEN3_2B
from chainofstep.settings import apply_overrides
from chainofstep.training.common import Lora
from chainofstep.training.sft import SftConfig

SERVED = ["launch.scorer=prm@http://localhost:8000/v1"]
SIZES = (
    *("sft.max_tokens", "sft.lora.rank", "sft.batch_size", "sft.forward_rows", "sft.epochs", "dpo.batch_size"),
    *("sampling.n", "sampling.max_tokens", "labels.rollouts", "labels.chains", "rounds.rounds", "problems.dpo"),
    *("grpo.samples", "grpo.updates", "grpo.iterations", "grpo.max_completion", "pairs.per_question"),
)


def stage_of(made, name):
    return next(stage for stage in made.stages if stage.name == name)


def printed(made):
    out = StringIO()
    print_plan(made, Console(file=out, width=200))
    return out.getvalue()


@given(st.dictionaries(st.sampled_from(SIZES), st.integers(-3, 10) | st.sampled_from([64, 4096]), max_size=3))
@settings(deadline=None, max_examples=200)
def test_a_plan_is_refused_in_one_line_or_has_no_negative_figure(sizes):
    recipe = apply_overrides(paper.internvl2_5_8b_grpo(0), [f"{name}={size}" for name, size in sizes.items()])
    try:
        made = plan(recipe, read_gpus("8x80GB"))
    except ValueError as error:
        assert "\n" not in str(error) and any(name.partition(".")[2].split(".")[-1] in str(error) for name in sizes)
        return
    for stage in made.stages:
        figures = (*vars(stage.memory).values(), stage.tokens, stage.flops, stage.hours, stage.disk, stage.scratch)
        assert all(figure >= 0 and isfinite(figure) for figure in figures)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sft.max_tokens=10", "sft.max_tokens=10 leaves out rows of the planned 1880 tokens"),
        ("sft.lora.rank=-3", "sft: .*lora.rank=-3"),
        ("dpo.batch_size=0", "dpo: batch_size=0"),
        ("prm.epochs=0", "prm: .*epochs=0"),
        ("sampling.n=0", "sampling.n=0: give 1 or more"),
        ("rounds.rounds=-1", "rounds.rounds=-1: give 0 or more"),
    ],
)
def test_nonsense_is_refused_with_its_name(setting, said):
    with pytest.raises(ValueError, match=said):
        plan_recipe("internvl2_5_8b", "8x80GB", overrides=[setting])


def test_adapters_of_a_tied_model_are_neither_planned_nor_advised_shared():
    recipe = RECIPES["qwen3_vl_2b_24gb"](0)
    with pytest.raises(ValueError, match="one matrix for embedding and head"):
        plan_recipe("qwen3_vl_2b_24gb", "8x24GB", overrides=["launch.sharding=fsdp2"])
    assert not refuses_shards(shape_of(QWEN3_2B), recipe.sft, "ddp")
    assert refuses_shards(shape_of(QWEN3_2B), SftConfig(lora=Lora(rank=4)), "zero3")
    assert not refuses_shards(shape_of(INTERNVL_38B), SftConfig(lora=Lora(rank=4)), "zero3")
    whole = ["launch.sharding=fsdp2", "sft.lora.rank=0", "prm.lora.rank=0", "dpo.lora.rank=0", "sft.max_tokens=200000"]
    advice = stage_of(plan_recipe("qwen3_vl_2b_24gb", "2x24GB", overrides=whole), "sft").advice
    assert advice and "lora" not in advice


def test_no_number_of_gpus_is_advised_that_cannot_share_an_update():
    """24 rows of 2 a pass: 2, 4 or 12 processes, so 8 GPUs are told of none of 16 or more."""
    config = SftConfig(batch_size=24, forward_rows=2)
    assert [count for count in (2, 4, 8, 12, 16) if divides(config, count)] == [2, 4, 12]
    overrides = ["prm.batch_size=24", "prm.forward_rows=1"]
    assert "such GPUs" not in stage_of(plan_recipe("internvl2_5_8b", "8x80GB", overrides=overrides), "prm").advice


def test_grpo_holds_whole_weights_its_cache_and_the_prm_unless_that_is_served():
    alone, served = (plan_recipe("internvl2_5_8b_grpo", "8x80GB", overrides=more) for more in ([], SERVED))
    stage = stage_of(alone, "grpo/train")
    policy, prm = shape_of(alone.recipe.policy), shape_of(INTERNVL_38B)
    assert stage.memory.weights >= 2 * policy.total + 2 * prm.total
    assert stage.memory.cache == (1430 + 5 * 450) * policy.key_value_bytes
    assert not stage.fits and stage.advice == "--set launch.scorer=MODEL@URL"
    assert stage_of(served, "grpo/train").fits
    assert stage_of(served, "grpo/train").memory.weights == stage.memory.weights - 2 * prm.total


def test_more_gpus_give_grpo_no_memory_and_are_not_advised():
    more = [*SERVED, "grpo.lora.rank=0"]
    eight, sixteen = (plan_recipe("internvl2_5_8b_grpo", gpus, overrides=more) for gpus in ("8x80GB", "2x8x80GB"))
    assert stage_of(eight, "grpo/train").memory == stage_of(sixteen, "grpo/train").memory
    assert stage_of(eight, "grpo/train").advice == "--set grpo.lora.rank=64"


def test_a_served_prm_is_on_none_of_these_gpus():
    made = plan_recipe("internvl2_5_8b", "8x80GB", overrides=SERVED)
    scored = [stage for stage in made.stages if stage.name.endswith("score")]
    assert len(scored) == 3 and all(stage.fits and stage.memory.total == 0 for stage in scored)
    assert stage_of(made, "search/beam").fits and "served" in printed(made)


def test_rounds_that_go_on_with_adapters_hold_a_second_model():
    recipe = RECIPES["qwen3_vl_8b_80gb"](0)
    weights = [
        stage_of(plan(replace(recipe, rounds=replace(recipe.rounds, rounds=rounds, weights=way)), gpus), "dpo/train")
        for gpus in [read_gpus("1x80GB")]
        for rounds, way in ((3, "restart"), (1, "continue"), (3, "continue"))
    ]
    restart, once, goes_on = (stage.memory.weights for stage in weights)
    assert once == restart
    assert goes_on == restart + 2 * shape_of(recipe.policy).total


@pytest.mark.parametrize(
    ("gigabytes", "card"),
    [(8, "RTX 4090"), (24, "RTX 4090"), (32, "RTX 4090"), (79, "L40S"), (96, "A100"), (192, "H200")],
)
def test_an_unknown_card_counts_as_the_nearest_smaller_one(gigabytes, card):
    gpus = read_gpus(f"1x{gigabytes}GB")
    assert gpus.card.startswith(card)
    assert f"those of an {card}" in printed(plan(RECIPES["qwen3_vl_2b_24gb"](0), gpus))


def test_peaks_do_not_make_a_small_card_faster_than_a_4090():
    assert read_gpus("1x8GB").peak_flops == read_gpus("1x24GB").peak_flops == 165e12


def test_what_the_cache_assumes_is_said_with_the_worst_case():
    """16 chains of 1,000 tokens after 1,430: 17,430 positions of 128 KB."""
    said = printed(plan_recipe("internvl2_5_8b", "8x80GB", overrides=["sampling.max_tokens=1000", "beams=4"]))
    assert "at average length; 2.13 GB at sampling.max_tokens=1000" in said


@pytest.mark.parametrize(
    ("name", "gpus", "needed"),
    [
        ("internvl2_5_8b", "8x80GB", ["launch.ray=auto"]),
        ("internvl2_5_8b", "1x80GB", ["launch.processes=1", "launch.workers=1"]),
        ("qwen3_vl_8b_80gb", "1x80GB", []),
        ("qwen3_vl_8b_80gb", "8x80GB", ["launch.processes=8", "launch.ray=auto"]),
        ("prm_38b", "2x8x80GB", ["launch.command=COMMAND", "launch.ray=auto"]),
    ],
)
def test_settings_that_the_hours_need_are_named(name, gpus, needed):
    assert needed_settings(RECIPES[name](0), read_gpus(gpus)) == needed
    said = printed(plan_recipe(name, gpus))
    assert all(f"--set {setting}" in said for setting in needed) and ("These hours need" in said) == bool(needed)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("gpus", ["1x80GB", "3x80GB", "8x80GB", "6x8x80GB"])
def test_with_the_settings_that_are_named_all_processes_can_share_an_update(name, gpus):
    recipe, gpus = RECIPES[name](0), read_gpus(gpus)
    changed = apply_overrides(recipe, needed_settings(recipe, gpus))
    assert changed.launch.processes == gpus.count and needed_settings(changed, gpus) == []
