"""What is written here is read as it is by TRL's trainers, by peft and by the stock classes."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")
from datasets import Image, List, load_dataset  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: E402

from chainofstep.chain import render  # noqa: E402
from chainofstep.models.encode import encode_prompt  # noqa: E402
from chainofstep.models.vlm import VLM, load_vlm, quiet  # noqa: E402
from chainofstep.problems.formats import FORMATS  # noqa: E402
from chainofstep.problems.formats.files import StepWriter  # noqa: E402
from chainofstep.records import StepRow  # noqa: E402
from chainofstep.scoring.pairs import OutcomeScorer  # noqa: E402
from chainofstep.scoring.rewards import StepReward  # noqa: E402
from chainofstep.store import read_json  # noqa: E402
from chainofstep.training.common import Lora  # noqa: E402
from chainofstep.training.sft import SftConfig as OwnConfig  # noqa: E402
from chainofstep.training.sft import SftRow, train_sft  # noqa: E402
from grpo_case import chain, make_examples, teach  # noqa: E402


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return make_examples(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def policy(examples, tmp_path_factory):
    """The folder of a trained policy."""
    folder = tmp_path_factory.mktemp("policy")
    teach(examples, folder)
    return folder


def exported(examples, name, folder):
    """The rows as `cos data export` writes them, read by `datasets` with their pictures opened."""
    rows = [StepRow(e, render(chain(2)), rejected=render(chain(1))) for e in examples]
    path = folder / f"{name}.jsonl"
    with StepWriter(path, FORMATS[name]) as writer:
        for row in rows:
            writer.write(row)
    cache = str(folder / "cache")
    return load_dataset("json", data_files=str(path), split="train", cache_dir=cache).cast_column(
        "images", List(Image())
    )


SETTINGS = {
    "per_device_train_batch_size": 4,
    "max_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "logging_steps": 1,
}


def losses(trainer):
    with quiet():
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def stock(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def test_trl_tunes_on_exported_rows(policy, examples, tmp_path):
    model, processor = stock(policy)
    data = exported(examples, "trl", tmp_path)
    with quiet():
        args = SFTConfig(str(tmp_path), max_length=None, **SETTINGS)
        trainer = SFTTrainer(model, args, train_dataset=data, processing_class=processor)
    assert 0 < losses(trainer)[0] < 2  # it knows these chains; of random weights it would be above 5


def test_trl_prefers_on_exported_pairs(policy, examples, tmp_path):
    model, processor = stock(policy)
    data = exported(examples, "trl-preference", tmp_path)
    with quiet():
        args = DPOConfig(str(tmp_path), max_length=None, **SETTINGS)
        trainer = DPOTrainer(model, stock(policy)[0], args, train_dataset=data, processing_class=processor)
    assert losses(trainer)[0] == pytest.approx(0.6931, abs=1e-3)


def test_trl_rewards_its_own_rollouts_by_steps(policy, examples, tmp_path):
    model, processor = stock(policy)
    processor.tokenizer.padding_side = "left"
    data = exported(examples, "trl", tmp_path).remove_columns("completion")
    data = data.add_column("id", [example.id for example in examples])
    reward = StepReward(examples, processor.tokenizer, OutcomeScorer())
    settings = {"max_completion_length": 160, "num_generations": 2, "top_k": 0, "temperature": 0.7}
    with quiet():
        args = GRPOConfig(str(tmp_path), remove_unused_columns=False, **settings, **SETTINGS)
        trainer = GRPOTrainer(model, reward, args, train_dataset=data, processing_class=processor)
    losses(trainer)
    logged = trainer.state.log_history[0]
    assert logged["unparseable"] < 1 and logged["reward"] == pytest.approx(1 - logged["unparseable"])
    assert logged["steps"] >= 1


def test_peft_puts_the_adapter_beside_its_base(policy, examples, tmp_path):
    rows = [SftRow(example, render(chain(2))) for example in examples]
    config = replace(OwnConfig(batch_size=4, forward_rows=4, learning_rate=1e-2), lora=Lora(rank=4))
    train_sft(load_vlm(policy), rows, config, tmp_path / "out")
    base, processor = stock(policy)
    with warnings.catch_warnings():
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "out/adapter")).eval()
    merged = load_vlm(tmp_path / "out")
    prompt = encode_prompt(VLM(base, processor), examples[0])
    with torch.no_grad():
        left, right, before = (
            model(prompt.ids[None], **prompt.images).logits for model in (adapted, merged.model, load_vlm(policy).model)
        )
    assert torch.allclose(left, right, atol=1e-4) and not torch.allclose(left, before, atol=1e-3)
    settings = read_json(tmp_path / "out/adapter/adapter_config.json")
    assert Path(settings["base_model_name_or_path"]) == policy and settings["trainable_token_indices"]


def test_verl_and_swift_rows_are_read_by_datasets(examples, tmp_path):
    for name in ("verl", "ms-swift-prompts"):
        path = tmp_path / f"{name}.jsonl"
        with StepWriter(path, FORMATS[name]) as writer:
            for example in examples:
                writer.write(StepRow(example))
        data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        parquet = tmp_path / f"{name}.parquet"
        data.to_parquet(str(parquet))
        again = load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "cache"))
        assert [FORMATS[name].read(row, "x").example for row in again] == [
            FORMATS[name].read(json.loads(line), "x").example for line in path.read_text("utf-8").splitlines()
        ]
