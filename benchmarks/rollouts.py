"""Many continuations of shared prefixes: the engine, transformers' `generate`, and the floor.

`generate(num_return_sequences=16)`, one question at a time, is how the authors of the method sample. The floor is
the engine's own work without any attention to prefixes: each prefix computed once, then the same decode steps.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from chainofstep.models.encode import encode_prompt
from chainofstep.models.engine import Engine
from chainofstep.models.prefix_attention import SharedKV, partial_softmax
from chainofstep.models.tiny import POLICY, Shape, build_tiny
from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.build import write_problems
from chainofstep.records import Example, Request

DECODER_13M = Shape(width=384, layers=8, heads=12, key_value_heads=4, feed_forward=1024)


@dataclass(frozen=True)
class Case:
    """One workload; every method samples exactly `questions * samples * tokens` tokens."""

    name: str
    shape: Shape
    questions: int
    samples: int
    tokens: int
    prompt_words: int  # added to each question to make its prompt longer
    repeats: int


CASES = (
    Case("13M decoder, prompts of 1,000 tokens", DECODER_13M, 4, 16, 64, 950, 5),
    Case("mini policy, its own prompts", POLICY, 64, 16, 100, 0, 5),
)


def build(case: Case) -> VLM:
    """Random weights, and no token that ends a sample, so that all methods make the same number of tokens."""
    vlm = build_tiny(case.shape, seed=0)
    vlm.tokenizer.eos_token = None
    vlm.model.config.text_config.max_position_embeddings = 2048
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight.mul_(10)  # distributions as uneven as trained ones
    return vlm


def generate(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """One `generate` call a question."""
    count = 0
    for example in examples:
        prompt = encode_prompt(vlm, example)
        with torch.no_grad():
            output = vlm.model.generate(
                input_ids=prompt.ids[None],
                attention_mask=torch.ones_like(prompt.ids[None]),
                **prompt.images,
                do_sample=True,
                top_k=0,
                num_return_sequences=case.samples,
                min_new_tokens=case.tokens,
                max_new_tokens=case.tokens,
            )
        count += output[:, len(prompt.ids) :].numel()
    return count


def shared(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """One engine call for all questions."""
    engine = Engine(vlm)
    engine.sample(
        [Request(example, case.samples, max_tokens=case.tokens, seed=i) for i, example in enumerate(examples)]
    )
    return engine.sampled_tokens


def _own_tokens_only(
    self: SharedKV, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    keys, values = self.append(layer, key, value)
    _, total, weighted = partial_softmax(query @ keys.transpose(-1, -2), values)
    return weighted / total


def floor(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """The engine with prefixes computed and then not looked at."""
    with patch.object(SharedKV, "attend", _own_tokens_only):
        return shared(vlm, case, examples)


METHODS: dict[str, Callable[[VLM, Case, list[Example]], int]] = {
    "generate, one question at a time": generate,
    "engine, prefixes shared": shared,
    "floor: no attention to prefixes": floor,
}


def measure(case: Case, folder: Path) -> dict[str, tuple[float, int]]:
    """Median seconds and tokens of each method, the methods taken in turn so that a busy machine hurts all alike."""
    vlm = build(case)
    longer = " 7" * case.prompt_words
    examples = [replace(e, question=e.question + longer) for e in write_problems("test", range(case.questions), folder)]
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    tokens = {}
    for _ in range(case.repeats):
        for name, method in METHODS.items():
            start = time.perf_counter()
            tokens[name] = method(vlm, case, examples)
            seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(taken), tokens[name]) for name, taken in seconds.items()}


def show(case: Case, results: dict[str, tuple[float, int]], console: Console) -> None:
    title = f"{case.name}: {case.questions} questions, {case.samples} samples of {case.tokens} tokens"
    table = Table("method", "median s", "tokens/s", "time / engine", title=title)
    engine = results["engine, prefixes shared"][0]
    for name, (seconds, tokens) in results.items():
        table.add_row(name, f"{seconds:.2f}", f"{tokens / seconds:,.0f}", f"{seconds / engine:.2f}")
    console.print(table)


def main() -> None:
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {CASES[0].repeats}")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            show(case, measure(case, Path(folder)), console)
