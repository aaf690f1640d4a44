"""Plans: what is read, what fits, what is advised, and figures worked out by hand."""

import json
import shlex
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

pytest.importorskip("torch")
from chainofstep.pipeline.recipe import Problems
from chainofstep.planning import plan, plan_recipe, print_plan, work
from chainofstep.planning.gpus import Gpus, read_gpus
from chainofstep.planning.shape import shape_of
from chainofstep.planning.sizes import Lengths, sizes_of
from chainofstep.recipes import RECIPES, paper
from chainofstep.recipes.shapes import INTERNVL_8B, PUBLISHED, QWEN3_2B, SHAPES


def stage_of(made, name):
    return next(stage for stage in made.stages if stage.name == name)


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 999))
def test_gpus_are_read_as_they_are_written(nodes, per_node, gigabytes):
    gpus = Gpus(nodes, per_node, gigabytes)
    assert read_gpus(str(gpus)) == gpus


@pytest.mark.parametrize("text", ["", "80GB", "8x80", "8x80gb", "0x80GB", "8x0GB", "2x8x8x80GB", "8x80GB ", "8 x 80GB"])
def test_other_gpus_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match="write 8x80GB") as error:
        read_gpus(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_the_parameters_that_the_hub_counts(name):
    assert shape_of(name).total == PUBLISHED[name]


def test_parts_of_a_shape_add_up_by_hand():
    """InternVL's decoder by its config: 32 layers of 4,096, grouped keys and values of 1,024, and 92,553 words."""
    shape = shape_of(INTERNVL_8B)
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert shape.parameters["decoder"] == 32 * layer + 4096
    assert shape.parameters["embeddings"] == shape.parameters["head"] == 92553 * 4096
    assert shape.parameters["projector"] == 2 * 4096 + 2 * (4096 * 4096 + 4096)
    assert shape.key_value_bytes == 2 * 2 * 32 * 1024


def test_a_tied_head_counts_once():
    assert "head" not in shape_of(QWEN3_2B).parameters


def test_a_name_without_a_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        shape_of(str(tmp_path))
    with pytest.raises(ValueError, match="no config of the model 'no/such'"):
        shape_of("no/such")


def test_continuations_of_a_chain_by_hand():
    """Six steps of 120 tokens: 5 + 4 + 3 + 2 + 1 of them remain after the steps, and six times an answer of 30."""
    assert Lengths(chain=6 * 120 + 30, answer=30, steps=6).continuation == 15 * 120 + 6 * 30


def test_the_papers_sft_takes_about_the_papers_hours():
    """Nine hours on eight A800, which count as A100; the tokens of a row are assumed."""
    made = plan_recipe("internvl2_5_8b", "8x80GB")
    assert stage_of(made, "sft").hours == pytest.approx(9, rel=0.15)


def test_full_weights_take_16_bytes_shared_and_8_gpus_hold_the_38b_prm_only_just_not():
    """38.4e9 - 5.5e9 of the tower, at 16 bytes: 61 GB of each of 8 GPUs, 31 of each of 16, before any row."""
    made = plan_recipe("prm_38b", "8x80GB")
    memory, shape = stage_of(made, "prm").memory, shape_of(made.recipe.policy)
    trained = shape.total - shape.of("vision")
    assert memory.gradients + memory.optimizer == pytest.approx(12 * trained / 8, abs=16)
    assert not stage_of(made, "prm").fits
    assert stage_of(plan_recipe("prm_38b", "2x8x80GB"), "prm").fits


@pytest.mark.parametrize(("name", "gpus"), [("qwen3_vl_2b_24gb", "1x24GB"), ("qwen3_vl_8b_80gb", "1x80GB")])
def test_a_recipe_fits_the_gpu_it_is_named_after(name, gpus):
    assert plan_recipe(name, gpus).fits


def test_trainings_of_the_72b_fit_two_machines_and_sampling_needs_two_gpus():
    made = plan_recipe("qwen2_5_vl_72b", "2x8x80GB")
    assert all(stage.fits for stage in made.stages if stage.name == "sft" or stage.name.endswith("train"))
    assert "cut over 2 GPUs" in stage_of(made, "labels/sample").advice


@pytest.mark.parametrize(
    ("name", "gpus", "stage", "overrides"),
    [
        ("internvl2_5_8b", "8x80GB", "prm", []),
        ("qwen3_vl_8b_80gb", "1x24GB", "sft", []),
        ("qwen3_vl_8b_80gb", "8x80GB", "sft", ["sft.lora.rank=0", "sft.machine.gradient_checkpointing=false"]),
        ("qwen3_vl_2b_24gb", "1x24GB", "sft", ["sft.forward_rows=8"]),
    ],
)
def test_what_is_advised_makes_it_fit(name, gpus, stage, overrides):
    advice = stage_of(plan_recipe(name, gpus, overrides=overrides), stage).advice
    settings = [word for word in shlex.split(advice.partition(", or ")[0]) if "=" in word]
    assert settings, advice
    assert stage_of(plan_recipe(name, gpus, overrides=[*overrides, *settings]), stage).fits


def test_as_many_gpus_as_advised_are_enough():
    advice = stage_of(plan_recipe("internvl2_5_8b", "8x80GB"), "prm").advice
    assert "or 16 such GPUs" in advice
    assert stage_of(plan_recipe("internvl2_5_8b", "2x8x80GB"), "prm").fits


def test_more_gpus_take_less_memory_and_less_time_each():
    one, two = (stage_of(plan_recipe("internvl2_5_8b", gpus), "sft") for gpus in ("8x80GB", "2x8x80GB"))
    assert two.memory.total < one.memory.total
    assert two.hours == pytest.approx(one.hours / 2)
    assert two.flops == one.flops


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_plan_that_prints(name):
    made, out = plan_recipe(name, "8x80GB"), StringIO()
    print_plan(made, Console(file=out, width=160))
    printed = out.getvalue()
    assert all(stage.name in printed for stage in made.stages)
    assert "assumed" in printed and f"{made.gpus}" in printed
    assert all(stage.name + " does not fit" in printed for stage in made.stages if not stage.fits)


def test_grpo_has_stages_of_its_own():
    names = [stage.name for stage in plan_recipe("internvl2_5_8b_grpo", "8x80GB").stages]
    assert {"grpo/sample", "grpo/score", "grpo/train"} <= set(names) and not any("dpo" in name for name in names)


def test_measured_shares_replace_assumed_ones(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"shares": {"training": 0.2}}))
    assumed, measured = (stage_of(plan_recipe("internvl2_5_8b", "8x80GB", measured=p), "sft") for p in (None, path))
    assert measured.hours == pytest.approx(2 * assumed.hours)
    for broken in ("{}", "[1]", '{"shares": {}}', '{"shares": {"training": 1.5}}', '{"shares": {"training": "x"}}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match="shares"):
            work.read_speeds(path)


def test_a_plan_needs_to_know_how_many_rows():
    recipe = paper.internvl2_5_8b(0)
    with pytest.raises(ValueError, match=r"--set problems.dpo="):
        sizes_of(replace(recipe, problems=replace(recipe.problems, dpo=0)))


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match="internvl2_5_8b"):
        plan_recipe("internvl", "8x80GB")


def test_a_model_folder_will_do_as_well_as_a_hub_id(model):
    recipe = replace(RECIPES["smoke"](0), policy=str(model), problems=Problems(sft=8, labels=2, dpo=2, test=4))
    made = plan(recipe, read_gpus("1x24GB"))
    assert made.fits and stage_of(made, "sft").disk == 2 * shape_of(str(model)).total


def test_all_shapes_are_those_of_vision_language_models():
    for name in SHAPES:
        assert all(shape_of(name).of(part) > 0 for part in ("vision", "projector", "decoder"))
