"""The paper's recipes have the paper's figures, and the scripts' where the switch is on."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")
from chainofstep.pipeline.recipe import Recipe
from chainofstep.recipes import RECIPES, paper
from chainofstep.recipes.shapes import INTERNVL_8B, INTERNVL_38B, LLAVA_NEXT_8B, SHAPES
from chainofstep.settings import apply_overrides, resolved, written
from chainofstep.training import grpo as grpo_module
from chainofstep.training.common import Machine, check

NAMED = [name for name in RECIPES if name not in ("mini", "smoke", "paper")]  # of real models


def figures(config):
    schedule = (config.learning_rate, config.epochs, config.warmup_ratio, config.weight_decay, config.batch_size)
    return *schedule, config.drop_path, config.trained


def test_the_main_recipe_is_table_7():
    recipe = paper.internvl2_5_8b(0)
    language, everything = ("projector", "decoder"), ("vision", "projector", "decoder")
    assert figures(recipe.sft) == (5e-6, 1, 0.03, 0.05, 128, 0.1, language)
    assert figures(recipe.prm) == (1e-6, 2, 0.03, 0.05, 128, 0.4, language)
    assert figures(recipe.dpo) == (1e-6, 1, 0.03, 0.05, 256, 0.1, everything)
    assert recipe.rounds.rounds == 3
    assert (recipe.dpo.beta, recipe.dpo.chosen_nll_weight) == (0.1, 0.0)
    assert recipe.problems.sft == 300_000
    assert recipe.problems.labels * recipe.labels.chains == 200_000
    assert recipe.problems.dpo * recipe.pairs.per_question == 20_000
    assert (recipe.policy, recipe.backbone) == (INTERNVL_8B, INTERNVL_38B)


def test_sampling_is_that_of_appendix_c():
    recipe = paper.internvl2_5_8b(0)
    assert (recipe.sampling.n, recipe.sampling.temperature, recipe.sampling.top_p) == (16, 1.0, 0.95)
    assert (recipe.labels.rollouts, recipe.pairs.step_weight) == (16, 0.2)


def test_the_script_differs_in_what_is_known_and_nothing_else():
    ours, script = paper.internvl2_5_8b(0), paper.internvl2_5_8b(0, script=True)
    assert (script.dpo.learning_rate, script.dpo.chosen_nll_weight) == (5e-6, 1.0)
    assert script.problems.sft == 296_543
    assert script.problems.labels * script.labels.chains == 96_792
    assert script.pairs.per_question == 2
    same = ("name", "problems", "pairs", "dpo")
    assert replace(script, **{name: getattr(ours, name) for name in same}) == ours
    assert replace(script.dpo, learning_rate=1e-6, chosen_nll_weight=0.0) == ours.dpo


def test_batches_are_those_of_the_scripts_gpus():
    """8 x 2 x 8 and 16 x 2 x 4 rows of 128; 16 x 1 x 16 of 256."""
    recipe = paper.internvl2_5_8b(0)
    assert recipe.sft.forward_rows * recipe.launch.processes * 8 == recipe.sft.batch_size
    large = paper.prm_38b(0)
    assert large.prm.forward_rows * large.launch.processes * 4 == large.prm.batch_size
    assert recipe.dpo.forward_rows * 16 * 16 == recipe.dpo.batch_size


def test_grpo_is_the_papers_ablation():
    recipe = paper.internvl2_5_8b_grpo(0)
    grpo = recipe.grpo
    assert (grpo.batch_size, grpo.samples, grpo.learning_rate, grpo.updates) == (128, 5, 1e-5, 100)
    assert grpo.step_weight == 0.2 and recipe.rounds.rounds == 0


def test_grpo_trains_adapters_since_its_weights_are_whole_on_each_gpu():
    assert paper.internvl2_5_8b_grpo(0).grpo.lora.rank == 64


@pytest.mark.parametrize("name", NAMED)
def test_no_training_of_a_recipe_is_refused_in_its_processes(name, monkeypatch):
    """As far as settings alone are asked; the kernels of a GPU are not installed here."""
    recipe = RECIPES[name](0)
    monkeypatch.setenv("WORLD_SIZE", str(recipe.launch.processes))
    for config in filter(None, (recipe.sft, recipe.prm, recipe.dpo, recipe.grpo)):
        bare = replace(config, machine=replace(config.machine, attention="sdpa"))
        if config is recipe.grpo:
            grpo_module._check(bare, range(1))
        else:
            check(bare, rows=1)


def test_llava_next_shares_the_prm():
    main, llava = paper.internvl2_5_8b(0), paper.llava_next_8b(0)
    assert llava.policy == LLAVA_NEXT_8B
    assert replace(llava, name=main.name, policy=main.policy) == main


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_can_be_kept_and_changed(name):
    recipe = RECIPES[name](7)
    assert (recipe.name, recipe.seed) == (name, 7)
    assert resolved(recipe)["sft"]["machine"]["precision"] == "bfloat16"
    changed = apply_overrides(recipe, ["sft.lora.rank=8", "dpo.machine.attention=sdpa", "data=questions"])
    assert (changed.sft.lora.rank, changed.dpo.machine.attention, changed.data) == (8, "sdpa", "questions")


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name](0).grpo is None])
def test_a_recipe_is_what_it_prints(name):
    printed = [f"{key}={value}" for key, value in written(RECIPES[name](3)) if key != "grpo"]
    assert apply_overrides(Recipe("other"), printed) == RECIPES[name](3)


@pytest.mark.parametrize("name", NAMED)
def test_models_are_known_and_settings_can_work_together(name):
    recipe = RECIPES[name](0)
    assert {recipe.policy, recipe.policy if recipe.backbone in ("", "sft") else recipe.backbone} <= set(SHAPES)
    assert max(recipe.pool_sizes) <= recipe.sampling.n
    for config in (recipe.sft, recipe.prm, recipe.dpo):
        assert config.batch_size % (config.forward_rows * recipe.launch.processes) == 0
        assert not config.machine.cached_features or not ({"vision", "projector"} & {*config.trained})
        assert not config.machine.cached_features or config.drop_path == 0
        assert config.machine != Machine()
