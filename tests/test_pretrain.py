"""Pretraining: its losses by hand, and that a killed one goes on to the same weights."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from chainofstep.models.tiny import Shape, build_tiny
from chainofstep.models.vlm import load_vlm
from chainofstep.problems.tasks.build import make_problem, remake
from chainofstep.problems.tasks.drills import drill
from chainofstep.problems.tasks.lessons import checked, checking_lesson
from chainofstep.training import mini_base
from chainofstep.training.mini_base import BaseConfig, make_base
from chainofstep.training.pretrain import (
    IGNORED,
    Encoder,
    PretrainConfig,
    checking_losses,
    collate,
    correction_loss,
    language_loss,
    pretrain,
    verdict_loss,
)

SMALL = Shape(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, key_value_heads=1, feed_forward=32)
QUICK = PretrainConfig(updates=200, batch_size=2, warmup=2, captions_first=3)
CONFIG = BaseConfig(
    shape=SMALL,
    looking=QUICK,
    explaining=replace(QUICK, updates=2),
    looking_longer=replace(QUICK, updates=200),
    policy_leaves=100,
    extra_layers=1,
    checking=replace(QUICK, updates=2, looking_share=0.5),
    fine_tuned_on=16,
    mistaken_questions=2,
)
HEAD = torch.eye(3)  # logits are the hidden state


def test_the_language_loss_is_the_mean_over_labelled_tokens():
    hidden = torch.tensor([[[math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    labels = torch.tensor([[IGNORED, 0, 1]])
    # The first position predicts 0 with 2/4, the second 1 with 1/3; the last predicts nothing.
    assert language_loss(hidden, HEAD, labels).item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    assert language_loss(hidden, HEAD, torch.full((1, 3), IGNORED)).item() == 0


def test_the_verdict_loss_knows_good_from_bad():
    hidden = torch.tensor([[[math.log(3), 0.0, 0.0], [math.log(3), 0.0, 0.0], [5.0, 5.0, 5.0]]])
    loss, accuracy = verdict_loss(hidden, HEAD[:2], torch.tensor([[1.0, 0.0, -1.0]]))
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert accuracy == 0.5
    loss, accuracy = verdict_loss(hidden, HEAD[:2], torch.full((1, 3), -1.0))
    assert (loss.item(), accuracy) == (0, 0)


def test_the_correction_loss_names_the_right_token():
    hidden = torch.tensor([[[0.0, 0.0, math.log(2)], [0.0, 0.0, 0.0]]])
    loss, found = correction_loss(hidden, HEAD, torch.tensor([[2, IGNORED]]))
    assert (loss.item(), found) == (pytest.approx(math.log(2)), 1.0)
    assert correction_loss(hidden, HEAD, torch.full((1, 2), IGNORED))[0].item() == 0


@pytest.mark.parametrize("kind", ["line_sum", "food_web", "relation", "circuit_lamp"])
def test_a_checking_lesson_labels_every_tag_and_claim(kind):
    vlm = build_tiny(SMALL, seed=0)
    mini_base.add_step_tokens(vlm)
    encoder = Encoder(vlm)
    for seed in range(20):
        problem = make_problem(kind, "train", seed)
        lesson = checking_lesson(problem, np.random.default_rng(seed))
        row = encoder.checking(problem, lesson)
        assert len(row.ids) == len(row.labels) == len(row.tags) == len(row.claims) == len(row.expected)
        answer = [] if lesson.chain.answer is None else [lesson.answer]
        assert [tag for tag in row.tags if tag >= 0] == [float(word) for word in (*lesson.steps, *answer)]
        # Two sentences may end in one token; otherwise each claim has its own.
        wrong = sum(not holds for claims in lesson.claims for _, _, holds in claims)
        assert row.claims.count(0.0) == wrong
        if any(token != IGNORED for token in row.expected):
            corrected = [
                token if right == IGNORED else right for token, right in zip(row.ids, row.expected, strict=True)
            ]
            assert corrected != row.ids


def test_a_drill_teaches_its_results_and_stands_beside_lessons_with_pictures():
    vlm = build_tiny(SMALL, seed=0)
    mini_base.add_step_tokens(vlm)
    encoder, drilled = Encoder(vlm), drill(np.random.default_rng(0))
    row, text = encoder.drill(drilled), vlm.tokenizer.decode
    assert [tag for tag in row.tags if tag >= 0] == [float(right) for right in drilled.steps]
    learnt = [text(token).strip() for token in row.labels if token != IGNORED]
    gold = " ".join(step.thought for step in drilled.gold.steps)
    assert learnt == re.findall(r"= (\d+)\.", gold)
    wrong = [text(token) for token in row.expected if token != IGNORED]
    assert wrong and len(wrong) >= sum(not right for right in drilled.steps)

    problem = make_problem("line_sum", "train", 0)
    other = encoder.checking(problem, checked(problem, problem.example().chain))
    pad = vlm.tokenizer.pad_token_id
    drills, mixed = collate([row, row], pad), collate([row, other], pad)
    assert "pixel_values" not in drills and mixed["pixel_values"].shape == (1, 3, 96, 96)
    for batch in (drills, mixed):
        assert torch.isfinite(checking_losses(vlm, batch)[0])


def test_a_problem_is_remade_from_its_id():
    problem = make_problem("pie_share", "test", 12)
    again = remake(problem.id)
    assert again.picture.tobytes() == problem.picture.tobytes()
    assert again.setup.seen == problem.setup.seen
    assert checked(again, again.example().chain).steps == (True,) * len(again.solution().moves)


def weights(vlm):
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


def test_a_killed_pretraining_ends_in_the_same_weights(tmp_path):
    config = PretrainConfig(updates=9, batch_size=2, warmup=2, captions_first=3)
    whole = weights(pretrain(build_tiny(SMALL, 0), "looking", config, lambda *_: None, every=2))
    killed, reported = build_tiny(SMALL, 0), []

    def kill(update, values):
        reported.append(update)
        if update == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(killed, "looking", config, kill, every=2, checkpoint=tmp_path / "at.pt")
    resumed = build_tiny(SMALL, 1)  # whatever it holds is replaced
    pretrain(resumed, "looking", config, lambda update, _: reported.append(update), 2, checkpoint=tmp_path / "at.pt")
    assert reported == [2, 4, 6, 6, 8, 9]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(resumed).items())


@pytest.mark.slow
def test_a_killed_base_ends_in_the_same_bytes(tmp_path, monkeypatch):
    make_base(CONFIG, 0, tmp_path / "whole")
    sampled = mini_base.sampled_chains
    monkeypatch.setattr(mini_base, "sampled_chains", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_base(CONFIG, 0, tmp_path / "killed")
    monkeypatch.setattr(mini_base, "sampled_chains", sampled)
    make_base(CONFIG, 0, tmp_path / "killed")
    whole, killed = (json.loads((tmp_path / name / "made.json").read_text()) for name in ("whole", "killed"))
    assert whole == killed
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [row["update"] for row in logs[0]] == [100, 200, 100, 200, 2, 2]
    assert not (tmp_path / "killed" / "unfinished").exists()
    depth = [
        load_vlm(tmp_path / "whole" / name).model.config.text_config.num_hidden_layers for name in ("policy", "prm")
    ]
    assert depth == [1, 2]
