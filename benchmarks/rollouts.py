"""Many continuations of long prefixes: the engine, transformers' `generate`, and the floor.

`generate(num_return_sequences=16)`, one question at a time, is how the authors of the method sample. The floor is
the engine's own work without any attention to prefixes: each prefix computed once, then the same decode steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from transformers import DynamicCache

from benchmarks.common import Goal, Row, cost_row, note, seconds_of, take_in_turn
from benchmarks.models import DECODER_13M, Bench, lengthened, random_decoder
from chainofstep.models.encode import encode_prompt
from chainofstep.models.engine import Engine
from chainofstep.models.levels import merge
from chainofstep.models.prefix_attention import SharedKV
from chainofstep.models.tiny import Shape
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Request


@dataclass(frozen=True)
class Case:
    """One workload; every method samples exactly `questions * samples * tokens` tokens."""

    shape: Shape
    questions: int
    samples: int
    tokens: int
    prompt: int  # tokens, the picture's included


LONG = Case(DECODER_13M, questions=4, samples=16, tokens=64, prompt=1000)


def measure(bench: Bench, case: Case = LONG) -> list[Row]:
    """How fast the engine is against `generate` and the floor, and how many bytes of keys and values it holds."""
    vlm = random_decoder(case.shape)
    examples = [lengthened(vlm, example, case.prompt) for example in bench.examples(case.questions)]
    contenders: dict[str, Callable[[int], int]] = {
        "engine": lambda _: shared(vlm, case, examples),
        "floor": lambda _: floor(vlm, case, examples),
        "generate": lambda _: generate(vlm, case, examples),
    }
    runs = take_in_turn(contenders, bench.repeats)
    seconds = {name: seconds_of(of) for name, of in runs.items()}
    size = f"{case.samples} continuations of {case.prompt:,} tokens"
    work = f"{case.questions} questions, {case.samples} x {case.tokens} new tokens each; generate takes one by one"
    return [
        cost_row(f"{size}, generate", seconds["engine"], seconds["generate"], Goal(10), remark=work),
        cost_row(f"{size}, the floor", seconds["engine"], seconds["floor"], Goal(1.25, at_most=True)),
        memory_row(vlm, case, examples[0], f"{size}, keys and values"),
    ]


def generate(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """One `generate` call a question."""
    return sum(_generated(vlm, case, example)[0] for example in examples)


def _generated(vlm: VLM, case: Case, example: Example) -> tuple[int, DynamicCache]:
    """The number of sampled tokens, and the keys and values that `generate` holds at its end."""
    prompt, cache = encode_prompt(vlm, example), DynamicCache()
    with torch.no_grad():
        output = vlm.model.generate(
            input_ids=prompt.ids[None],
            attention_mask=torch.ones_like(prompt.ids[None]),
            **prompt.images,
            past_key_values=cache,
            do_sample=True,
            top_k=0,
            num_return_sequences=case.samples,
            min_new_tokens=case.tokens,
            max_new_tokens=case.tokens,
        )
    return output[:, len(prompt.ids) :].numel(), cache


def shared(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """One engine call for all questions."""
    return _sampled(vlm, case, examples).sampled_tokens


def _sampled(vlm: VLM, case: Case, examples: list[Example]) -> Engine:
    engine = Engine(vlm)
    engine.sample(
        [Request(example, case.samples, max_tokens=case.tokens, seed=i) for i, example in enumerate(examples)]
    )
    return engine


def _own_tokens_only(
    self: SharedKV, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    return merge([self.attend_own(layer, query, key, value, window)])


def floor(vlm: VLM, case: Case, examples: list[Example]) -> int:
    """The engine with prefixes computed and then not looked at."""
    with patch.object(SharedKV, "attend", _own_tokens_only):
        return shared(vlm, case, examples)


def copied_bytes(vlm: VLM, case: Case, example: Example) -> int:
    """Bytes of the keys and values that `generate` has copied for every sample of one question."""
    _, cache = _generated(vlm, case, example)
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers)


def memory_row(vlm: VLM, case: Case, example: Example, measure: str) -> Row:
    """One question with all its samples: the engine's peak, and what is in `generate`'s cache at its end."""
    note("  bytes of keys and values")
    held, copied = _sampled(vlm, case, [example]).peak_kv_bytes, copied_bytes(vlm, case, example)
    remark = "one question, ours at its peak, generate's cache at its end; the same in every repeat"
    return cost_row(measure, [held], [copied], Goal(8), lambda size: f"{size / 2**20:.1f} MiB", remark)
