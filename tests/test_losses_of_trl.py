"""Our losses are TRL's, wherever TRL's do not depend on how rows are laid out over forward passes."""

import pytest

pytest.importorskip("trl")
from datasets import Dataset
from trl import DPOConfig as TrlDpo
from trl import DPOTrainer, SFTTrainer
from trl import SFTConfig as TrlSft

from chainofstep.models.encode import open_picture
from chainofstep.store import read_json
from chainofstep.training.dpo import train_dpo
from chainofstep.training.sft import train_sft
from test_training import DPO, SFT, examples, pairs, question, sft_rows, small, turn  # noqa: F401  # fixtures


def plain(kind, out, **more):
    """TRL's settings for one update of four rows in one pass, and nothing that its defaults add."""
    shared = {"per_device_train_batch_size": 4, "max_steps": 1, "max_length": None, "logging_steps": 1}
    quiet = {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": [], "disable_tqdm": True}
    return kind(output_dir=str(out), save_strategy="no", **shared, **quiet, **more)


def first_log(folder):
    return read_json(folder / "training_log.json")[0]


def test_sft_has_trls_loss(sft_rows, tmp_path):  # noqa: F811
    rows = [
        {"prompt": question(r.example), "completion": turn(r.text), "images": [open_picture(r.example.images[0])]}
        for r in sft_rows
    ]
    vlm = small()
    theirs = SFTTrainer(
        vlm.model,
        args=plain(TrlSft, tmp_path / "trl", completion_only_loss=True, loss_type="nll"),
        train_dataset=Dataset.from_list(rows),
        processing_class=vlm.processor,
    )
    theirs.train()
    train_sft(small(), sft_rows, SFT, tmp_path / "ours")
    assert first_log(tmp_path / "ours")["loss"] == pytest.approx(theirs.state.log_history[0]["loss"], abs=1e-4)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_has_trls_loss_and_rewards(pairs, tmp_path, beta):  # noqa: F811
    from dataclasses import replace

    rows = [
        {
            "prompt": question(example),
            "chosen": turn(pair.chosen),
            "rejected": turn(pair.rejected),
            "images": [open_picture(example.images[0])],
        }
        for example, pair in pairs
    ]
    vlm = small()
    theirs = DPOTrainer(
        vlm.model,
        ref_model=small(seed=1).model,
        args=plain(TrlDpo, tmp_path / "trl", beta=beta),
        train_dataset=Dataset.from_list(rows),
        processing_class=vlm.processor,
    )
    theirs.train()
    train_dpo(small(), small(seed=1), pairs, replace(DPO, beta=beta), tmp_path / "ours")
    ours, known = first_log(tmp_path / "ours"), theirs.state.log_history[0]
    for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert ours[name] == pytest.approx(known[name], rel=1e-3, abs=1e-4), name
