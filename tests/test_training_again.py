"""A finished training is not trained again and not written over; and which process of a launch says what is wrong."""

import json

import pytest

torch = pytest.importorskip("torch")
from typer.testing import CliRunner  # noqa: E402

from chainofstep.cli import app, common  # noqa: E402
from chainofstep.models.vlm import load_vlm  # noqa: E402
from chainofstep.training.common import Lora, Machine, TrainConfig  # noqa: E402
from chainofstep.training.loading import load_for_training  # noqa: E402
from small_training import examples_of, rows_of, train, write_inputs  # noqa: E402


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def trained(what, inputs, out, *overrides):
    reference = load_vlm(inputs / "model") if what == "dpo" else None
    return train(
        what, load_vlm(inputs / "model"), rows_of(what, examples_of(inputs)), out, *overrides, reference=reference
    )


def files(out):
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["sft", "prm", "dpo"])
def test_a_finished_training_gives_its_model_again(what, inputs, tmp_path, caplog):
    first = trained(what, inputs, tmp_path, "lora.rank=2")
    before = files(tmp_path)
    again = trained(what, inputs, tmp_path, "lora.rank=2", "machine.save_every=3")
    assert files(tmp_path) == before
    assert "holds the finished model of this very training" in caplog.text
    for name, weight in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)


def test_what_was_left_to_clear_is_cleared(inputs, tmp_path):
    trained("sft", inputs, tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    trained("sft", inputs, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_another_training_does_not_overwrite_a_finished_one(inputs, tmp_path):
    vlm = trained("sft", inputs, tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"finished model of another training \(config.seed differs\): delete"):
        trained("sft", inputs, tmp_path, "seed=1")
    with pytest.raises(ValueError, match=r"rows differs"):
        train("sft", load_vlm(inputs / "model"), rows_of("sft", examples_of(inputs))[1:], tmp_path)
    with pytest.raises(ValueError, match=r"models differs"):
        train("sft", vlm, rows_of("sft", examples_of(inputs)), tmp_path)
    assert files(tmp_path) == before
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"other weights than its training saved: delete"):
        trained("sft", inputs, tmp_path)


def test_a_folder_that_does_not_say_whose_it_is_is_written_over(inputs, tmp_path):
    trained("sft", inputs, tmp_path)
    (tmp_path / "made_from.json").unlink()
    trained("sft", inputs, tmp_path, "seed=1")
    assert json.loads((tmp_path / "made_from.json").read_text())["config"]["seed"] == 1


def test_settings_are_checked_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="needs the package flash_attn and a GPU"):
        load_for_training(tmp_path / "nothing", TrainConfig(machine=Machine(attention="flash_attention_2")))
    with pytest.raises(ValueError, match=r"lora\.four_bit without adapters"):
        load_for_training(tmp_path / "nothing", TrainConfig(trained=("decoder",), lora=Lora(four_bit=True)))


@pytest.mark.parametrize(("rank", "start", "pauses"), [("0", "error: ", 0), ("3", "process 3: error: ", 1)])
def test_a_process_that_is_not_the_first_waits_and_names_itself(rank, start, pauses, monkeypatch, tmp_path):
    waited = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(common.time, "sleep", waited.append)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == common.BAD_INPUT and waited == [common.ALONE] * pauses
    assert result.stderr.startswith(start) and result.stderr.count("\n") == 1
