"""Any vision-language model that transformers can load learns to write chains: step tokens, a short SFT, one sample.

Without --model a small model with random weights is built, so that everything runs at once on a laptop. It learns the
form of a chain, not to look. The chains are those of generated problems; --examples takes your own.

    python examples/own_model.py --out models/first
    python examples/own_model.py --model Qwen/Qwen3-VL-2B-Instruct --examples train.jsonl --out models/sft --lora 16
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from chainofstep import Example, Request, render
from chainofstep.chain import REASONING_TOKENS
from chainofstep.models.checks import check_policy
from chainofstep.models.engine import Engine
from chainofstep.models.tiny import Shape, build_tiny
from chainofstep.models.vlm import VLM, add_step_tokens
from chainofstep.training.common import Lora
from chainofstep.training.loading import load_for_training
from chainofstep.training.sft import SftConfig, SftRow, train_sft
from chainofstep.verbs import problems
from chainofstep.verbs.files import model_path, read_examples

SMALL = Shape(vision_width=32, vision_layers=1, width=64, layers=2, heads=2, key_value_heads=1, feed_forward=128)
CONFIG = SftConfig(batch_size=8, forward_rows=8, learning_rate=3e-3, epochs=10)  # for so small a model
LARGE = SftConfig(batch_size=8, forward_rows=1, learning_rate=1e-5, trained=("projector", "decoder"))


def load(model: str, config: SftConfig) -> VLM:
    """The model, which knows the step tokens afterwards: their embeddings begin as the mean of what they stand for."""
    vlm = load_for_training(model_path(model), config) if model else build_tiny(SMALL, seed=0)
    added = add_step_tokens(vlm, REASONING_TOKENS)
    print(f"{sum(weight.numel() for weight in vlm.model.parameters()):,} weights, {len(added)} tokens added")
    check_policy(vlm)
    return vlm


def show(vlm: VLM, example: Example) -> None:
    """What the model says now, greedily."""
    rollout = Engine(vlm).sample([Request(example, max_tokens=200, temperature=0.0)])[0][0]
    print(f"\n{example.question} ({example.answer})\n{rollout.text}")
    print(f"\nno chain yet: {rollout.parsed}" if rollout.chain is None else f"\nanswer: {rollout.chain.answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder or hub id; a small random model without it")
    parser.add_argument("--examples", type=Path, help="rows with chains; 32 generated ones without it")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--epochs", type=int, default=0, help="instead of 10 (small model) or 1")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train an adapter of this rank")
    arguments = parser.parse_args()
    config = LARGE if arguments.model else CONFIG
    config = replace(config, epochs=arguments.epochs or config.epochs, lora=Lora(rank=arguments.lora))
    if arguments.lora:
        config = replace(config, learning_rate=1e-4)
    path = arguments.examples or problems(arguments.out / "problems", ["line_sum"], "train", 32)
    taught = [example for example in read_examples(path) if example.chain is not None]
    if not taught:
        raise ValueError(f"{path} has no example with a chain; cos data build has a language model write some")
    vlm = load(arguments.model, config)
    rows = [SftRow(example, render(example.chain)) for example in taught if example.chain is not None]
    show(train_sft(vlm, rows, config, arguments.out / "model"), taught[0])
    print(f"\nthe model is in {arguments.out / 'model'}: cos ask PICTURE QUESTION --model {arguments.out / 'model'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
