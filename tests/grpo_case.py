"""A small policy that writes chains of one to four steps, and what the tests of GRPO look at."""

import copy

import numpy as np
import torch
from PIL import Image

from chainofstep.chain import ALL_TOKENS, Chain, Step, render
from chainofstep.models.engine import Engine
from chainofstep.models.tiny import Shape, build_processor, build_tiny, build_tokenizer
from chainofstep.models.vlm import add_step_tokens
from chainofstep.records import Example, Request, ScoreFailure, StepScores
from chainofstep.scoring.monte_carlo import derive_seed
from chainofstep.store import read_json
from chainofstep.training.grpo import GrpoConfig, PictureGrpoTrainer, question_order
from chainofstep.training.sft import SftConfig, SftRow, train_sft

SMALL = Shape(vision_width=32, vision_layers=1, width=32, layers=1, heads=1, key_value_heads=1, feed_forward=64)
PROCESSOR = build_processor(build_tokenizer(["What is the colour? Read row 1 2 3 4 5 is = + .", *ALL_TOKENS.values()]))
ONE = GrpoConfig(batch_size=4, samples=2, forward_rows=8, updates=1, max_completion=160, learning_rate=1e-3, top_p=1.0)


class ByLength:
    """Scores a chain by its number of steps; a number in `fails` is a failure."""

    def __init__(self, scores, fails=()):
        self.scores, self.fails = scores, fails

    def score(self, items):
        return [self._score(len(chain.steps)) for _, chain in items]

    def _score(self, steps):
        score = self.scores.get(steps, 0.0)
        return ScoreFailure("out of order") if steps in self.fails else StepScores((score,) * steps, score)


SHORT = ByLength({1: 1.0})


def chain(count):
    return Chain(tuple(Step("Read row", f"row is {n}.", f"{n} = {n}.") for n in range(1, count + 1)), "5")


def small(seed=0):
    return build_tiny(SMALL, seed, copy.deepcopy(PROCESSOR))


def make_examples(folder):
    generator = np.random.default_rng(0)
    made = []
    for number in range(4):
        path = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path)
        made.append(Example(f"e{number}", "What is the colour? " * (number + 1), (str(path),), "5", "number"))
    return made


def teach(examples, folder):
    """A policy that writes chains of one to four steps, each about as often."""
    vlm = small()
    add_step_tokens(vlm)
    rows = [SftRow(example, render(chain(count))) for example in examples for count in (1, 2, 3, 4)]
    config = SftConfig(batch_size=8, forward_rows=8, learning_rate=1e-2, epochs=60)
    return train_sft(vlm, rows, config, folder)


def watch(monkeypatch):
    """What the trainer makes of each batch of rollouts, before it shuffles them, and each forward's result."""
    kept = {"batches": [], "logps": []}
    score, logps = (
        PictureGrpoTrainer._generate_and_score_completions,
        PictureGrpoTrainer._get_per_token_logps_and_entropies,
    )

    def scored(self, inputs):
        output = score(self, inputs)
        kept["batches"].append(dict(output))
        return output

    def forwarded(self, *args, **kwargs):
        result = logps(self, *args, **kwargs)
        kept["logps"].append((list(self.rows), result[0].detach().clone()))
        return result

    monkeypatch.setattr(PictureGrpoTrainer, "_generate_and_score_completions", scored)
    monkeypatch.setattr(PictureGrpoTrainer, "_get_per_token_logps_and_entropies", forwarded)
    return kept


def pools(vlm, examples, config):
    """The groups of the first update, sampled apart from the trainer."""
    order = question_order(len(examples), config)
    requests = [
        Request(
            examples[row],
            n=config.samples,
            seed=derive_seed(config.seed, "grpo", place),
            max_tokens=config.max_completion,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        for place, row in enumerate(order[: config.batch_size])
    ]
    return [request.example for request in requests], Engine(vlm, logprobs=True).sample(requests)


def unpadded(batch, name):
    masks = batch[f"{name}_mask"].bool()
    return [ids[mask].tolist() for ids, mask in zip(batch[f"{name}_ids"], masks, strict=True)]


def steps_of(rollout):
    return 0 if rollout.chain is None else len(rollout.chain.steps)


def history(folder):
    return read_json(folder / "training_log.json")


def state(vlm):
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)
