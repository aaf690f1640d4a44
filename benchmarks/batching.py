"""Transformers' continuous batching (`generate_batch`, with block sharing) against the engine, on the same tokens.

It takes text alone: the decoder is lifted out of the VLM into a LlamaForCausalLM with the same weights, and the
questions have no pictures. On a CPU, transformers 5.23 runs it with its sdpa and eager attention. Its defaults are a
GPU's: the cache takes 60% of the memory, and every query of a batch is masked against every key that the batch
reads, so a step grows with the square of its rows. Sized to the work, and with `ROWS` rows at a time, it is at its
fastest here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM

from benchmarks.common import Goal, Row, cost_row, failed_row, note, seconds_of, take_in_turn
from benchmarks.models import DECODER_13M, Bench, random_decoder
from benchmarks.rollouts import Case
from chainofstep.models.encode import encode_prompt
from chainofstep.models.engine import Engine
from chainofstep.models.vlm import VLM
from chainofstep.records import Example, Request

PAGE = 256  # tokens of a cache page, the default; smaller ones share more and are no faster
ROWS = 4  # 2 to 8 differ little, 16 take a third longer
PREFILL_TOKENS = 1024  # of a batch


@dataclass(frozen=True)
class Goaled(Case):
    """Questions that are all different from their beginning, so that no two share a prefix, and the ratio to reach."""

    goal: Goal


CASES = (
    Goaled(DECODER_13M, questions=1, samples=16, tokens=64, prompt=1000, goal=Goal(3)),
    Goaled(DECODER_13M, questions=64, samples=1, tokens=32, prompt=250, goal=Goal(1)),
)


def measure(bench: Bench, cases: tuple[Goaled, ...] = CASES) -> list[Row]:
    """One row for each case."""
    return [_measure(bench, case) for case in cases]


def _measure(bench: Bench, case: Goaled) -> Row:
    vlm = random_decoder(case.shape)
    examples = [text_only(vlm, number, case.prompt) for number in range(case.questions)]
    prompts = [encode_prompt(vlm, example).ids.tolist() for example in examples]
    name = f"{case.questions} x {case.samples} continuations of {case.prompt:,} tokens, continuous batching"
    try:
        model = decoder(vlm)
        continuous(model, Goaled(case.shape, 1, 1, 1, case.prompt, case.goal), prompts[:1])
    except Exception as error:  # whatever another version or machine lacks, the row says it
        return failed_row(name, error, case.goal)
    contenders = {
        "engine": lambda _: shared(vlm, case, examples),
        "continuous batching": lambda _: continuous(model, case, prompts),
    }
    note(f"{name}:")
    runs = take_in_turn(contenders, bench.repeats)
    remark = f"{case.tokens} new tokens each; text alone; block sharing on, pages of {PAGE}, {ROWS} rows at a time"
    ours, against = (seconds_of(runs[contender]) for contender in contenders)
    return cost_row(name, ours, against, case.goal, remark=remark)


def text_only(vlm: VLM, number: int, tokens: int) -> Example:
    """A question of random numbers, each of them a token, and no picture."""
    words = np.random.default_rng(number).integers(0, 100, size=tokens)
    empty = len(encode_prompt(vlm, Example("", "", (), "", "number")).ids)
    question = "".join(f" {word}" for word in words[: tokens - empty])
    example = Example(f"numbers-{number}", question, (), "7", "number")
    assert len(encode_prompt(vlm, example).ids) == tokens
    return example


def shared(vlm: VLM, case: Goaled, examples: list[Example]) -> int:
    engine = Engine(vlm)
    engine.sample([Request(e, case.samples, max_tokens=case.tokens, seed=i) for i, e in enumerate(examples)])
    return int(engine.sampled_tokens)


def decoder(vlm: VLM) -> Any:
    """The VLM's decoder and head as a causal language model of their own."""
    model = LlamaForCausalLM(vlm.model.config.text_config).eval()
    model.model.load_state_dict(vlm.model.model.language_model.state_dict())
    model.lm_head.load_state_dict(vlm.model.lm_head.state_dict())
    return model


def continuous(model: Any, case: Goaled, prompts: list[list[int]]) -> int:
    """One `generate_batch` call for all questions; RuntimeError if it gave fewer tokens than asked for."""
    pages = -(-(case.prompt + case.tokens) // PAGE) + 1  # of one row; one more for its copy of a shared one
    config = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=ROWS * pages + 8,
        max_batch_tokens=max(PREFILL_TOKENS, ROWS),
        max_requests_per_batch=ROWS,
        allow_block_sharing=True,
    )
    sampling = GenerationConfig(
        do_sample=True,
        top_k=0,
        num_return_sequences=case.samples,
        max_new_tokens=case.tokens,
        eos_token_id=-1,  # none
        pad_token_id=0,
    )
    outputs = model.generate_batch(prompts, generation_config=sampling, continuous_batching_config=config).values()
    count = sum(len(output.generated_tokens) for output in outputs)
    if count != len(prompts) * case.samples * case.tokens:
        errors = [output.error for output in outputs if output.error]
        raise RuntimeError(errors[0] if errors else f"generate_batch gave {count} tokens only")
    return count
