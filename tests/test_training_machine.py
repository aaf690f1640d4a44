"""What fits a training to a machine changes what is learnt by rounding alone; and what cannot work says so."""

import copy
import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import VLM, load_vlm  # noqa: E402
from chainofstep.training.common import Machine, TrainConfig, check  # noqa: E402
from small_training import examples_of, rows_of, small, train, write_inputs  # noqa: E402

KINDS = ["sft", "prm", "dpo"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def examples(inputs):
    return examples_of(inputs)


def log_of(out):
    return [row for row in json.loads((out / "training_log.json").read_text()) if "loss" in row]


def losses(out):
    return [row["loss"] for row in log_of(out)]


def trained(what, examples, out, *overrides, dtype=torch.float32):
    """The model after a short training of a fresh one in this type."""
    vlm, reference = small(), small(1) if what == "dpo" else None
    vlm.model.to(dtype)
    return train(what, vlm, rows_of(what, examples), out, *overrides, reference=reference)


def logits(vlm, example):
    prompt = encode_prompt(vlm, example)
    with torch.no_grad():
        return vlm.model(input_ids=prompt.ids[None], **prompt.images).logits


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [("gradient_checkpointing=true", 1e-6), ("attention=eager", 1e-4), ("precision=bfloat16", 2e-2)],
    ids=lambda value: str(value).partition("=")[0],
)
def test_the_machine_changes_rounding_alone(what, setting, tolerance, examples, tmp_path):
    plain = trained(what, examples, tmp_path / "plain")
    other = trained(what, examples, tmp_path / "other", f"machine.{setting}")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=tolerance)
    assert other.model.config._attn_implementation == plain.model.config._attn_implementation
    assert not other.model.is_gradient_checkpointing and "forward" not in vars(other.model)


@pytest.mark.parametrize("lora", ["lora.rank=0", "lora.rank=4"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_are_saved_in_the_type_they_came_in_and_trained_in_float32(lora, precision, examples, tmp_path):
    """At this rate an update is lost when it is added to weights in bfloat16."""
    settings = ("learning_rate=1e-5", "epochs=8", "warmup_ratio=0", "weight_decay=0", lora)
    fresh = small()
    fresh.model.to(torch.bfloat16)
    vlm = trained("sft", examples, tmp_path, *settings, f"machine.precision={precision}", dtype=torch.bfloat16)
    assert {weight.dtype for weight in vlm.model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in load_vlm(tmp_path, dtype="bfloat16").model.parameters()} == {torch.bfloat16}
    if lora == "lora.rank=0":
        moved = [
            not torch.equal(one, other)
            for one, other in zip(fresh.model.parameters(), vlm.model.parameters(), strict=True)
        ]
        assert sum(moved) > len(moved) / 2


def test_dpo_without_a_reference_is_dpo_against_the_model_as_it_came(examples, tmp_path):
    settings = ("lora.rank=4", "learning_rate=1e-2", "epochs=2")
    pairs = rows_of("dpo", examples)
    train("dpo", small(), pairs, tmp_path / "itself", *settings)
    train("dpo", small(), pairs, tmp_path / "other", *settings, reference=small())
    for one, other in zip(log_of(tmp_path / "itself"), log_of(tmp_path / "other"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert log_of(tmp_path / "itself")[-1]["rewards/chosen"] != 0


def test_dpo_without_a_reference_or_an_adapter_is_refused(examples, tmp_path):
    with pytest.raises(ValueError, match="no reference: without an adapter"):
        train("dpo", small(), rows_of("dpo", examples), tmp_path)


def test_an_adapter_that_was_interrupted_leaves_a_plain_model(examples, tmp_path):
    vlm, rows = small(), rows_of("sft", examples)
    before = {name: weight.clone() for name, weight in vlm.model.named_parameters()}
    gone = replace(examples[0], images=(str(tmp_path / "torn.png"),))
    (tmp_path / "torn.png").write_bytes(Path(examples[0].images[0]).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"torn.png cannot be read"):
        train("sft", vlm, [replace(row, example=gone) for row in rows], tmp_path / "out", "lora.rank=2")
    after = dict(vlm.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].requires_grad for name in before)


@pytest.mark.parametrize("what", KINDS)
def test_kept_features_serve_every_training_and_leave_nothing(what, examples, tmp_path):
    settings = ("trained=projector,decoder", "epochs=2")
    trained(what, examples, tmp_path / "plain", *settings)
    trained(what, examples, tmp_path / "kept", *settings, "machine.cached_features=true")
    for one, other in zip(log_of(tmp_path / "plain"), log_of(tmp_path / "kept"), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert not (tmp_path / "kept" / "features").exists()


def test_the_tower_is_computed_once_for_each_picture(examples, tmp_path):
    vlm, calls = small(), []
    count = vlm.model.model.vision_tower.embeddings.register_forward_hook(lambda *_: calls.append(1))
    settings = ("trained=projector,decoder", "epochs=3", "machine.cached_features=true")
    train("sft", vlm, rows_of("sft", examples), tmp_path, *settings)
    count.remove()
    assert len(calls) == len({example.images for example in examples}) == 4


# Rows that are too long.


def test_rows_that_are_too_long_are_left_out_and_counted(examples, tmp_path, caplog):
    rows = rows_of("sft", examples)
    long = [replace(rows[0], text="row " * 2000), replace(rows[1], text="row " * 400)]
    with caplog.at_level(logging.WARNING):
        train("sft", small(), [*rows, *long], tmp_path / "out", "max_tokens=400")
    assert json.loads((tmp_path / "out" / "left_out.json").read_text()) == ["e0", "e1"]
    assert "2 rows are longer" in caplog.text
    train("sft", small(), rows, tmp_path / "short")
    assert losses(tmp_path / "out") == losses(tmp_path / "short")
    train("sft", small(), [*rows, *long], tmp_path / "wide")  # the context is 1024
    assert json.loads((tmp_path / "wide" / "left_out.json").read_text()) == ["e0"]
    with pytest.raises(ValueError, match="all 2 rows are longer than max_tokens or the model's context of 300"):
        train("sft", small(), long, tmp_path / "none", "max_tokens=300")


# Settings that cannot work.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trained="], "trained=: give one or more of vision, projector, decoder"),
        (["drop_path=1.0"], "drop_path=1.0"),
        (["lora.four_bit=true"], "lora.four_bit without adapters"),
        (["lora.rank=-1"], "lora.rank=-1"),
        (["machine.cached_features=true"], "cached_features with trained=vision"),
        (["lora.rank=2", "lora.four_bit=true"], "not in four bits; load the model with four_bit=True"),
        (["machine.report_to=nobody"], "report_to=nobody: not installed, pip install nobody"),
    ],
)
def test_settings_that_cannot_work_on_any_machine(overrides, message, examples, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("sft", small(), rows_of("sft", examples), tmp_path, *overrides)


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger_kernel is installed")
def test_liger_without_its_package_is_refused():
    with pytest.raises(ValueError, match="pip install liger-kernel"):
        check(TrainConfig(machine=Machine(liger=True)), 1)


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash_attn is installed")
def test_flash_attention_without_its_package_is_refused():
    with pytest.raises(ValueError, match="pip install flash-attn"):
        check(TrainConfig(machine=Machine(attention="flash_attention_2")), 1)


def test_a_model_without_a_tower_is_refused(examples, tmp_path):
    vlm = small()
    text = VLM(copy.deepcopy(vlm.model), vlm.processor)
    del text.model.model.vision_tower
    with pytest.raises(ValueError, match="no vision found among its modules"):
        train("sft", text, rows_of("sft", examples), tmp_path)


# Packages that are not needed.


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_losses(examples, tmp_path):
    trained("sft", examples, tmp_path, "machine.report_to=tensorboard", "machine.save_every=2")
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_on_four_bits_is_merged_into_what_it_was_trained_beside(inputs, examples, tmp_path):
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForImageTextToText.from_pretrained(inputs / "model", quantization_config=bits)
    vlm = VLM(model.eval(), load_vlm(inputs / "model").processor)
    settings = ("lora.rank=4", "lora.four_bit=true", "learning_rate=1e-2", "epochs=3")
    rows = rows_of("sft", examples)
    with pytest.raises(ValueError, match="cannot be trained themselves"):
        train("sft", vlm, rows, tmp_path, "learning_rate=1e-2")
    train("sft", vlm, rows, tmp_path, *settings)
    assert losses(tmp_path)[-1] < 0.9 * losses(tmp_path)[0]
    loaded = load_vlm(tmp_path)
    torch.testing.assert_close(logits(loaded, examples[0]), logits(vlm, examples[0]))
