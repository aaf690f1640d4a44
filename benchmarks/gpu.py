"""Training on a GPU against its plan: `python -m benchmarks.gpu --shape 8b --json gpu.json`.

A model of the shape with random weights is trained on rows of equal length, each an update. Printed are tokens a
second, the share of the GPU's peak that they are by the plan's own count of operations, and peak memory against the
plan. `cos plan --measured gpu.json` takes the shares.

The pictures are those of the small models and the text is long instead: to the decoder both are tokens.
"""

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from chainofstep.chain import Chain, Step, render
from chainofstep.models.batch import completion_ids
from chainofstep.models.encode import encode_prompt
from chainofstep.models.engine import Engine
from chainofstep.models.tiny import IMAGE, build_processor, build_tokenizer, language
from chainofstep.models.vlm import VLM, add_step_tokens
from chainofstep.planning import work
from chainofstep.planning.gpus import Gpus
from chainofstep.planning.memory import Pass, number_bytes, training_memory
from chainofstep.planning.shape import ModelShape, shape_from_config
from chainofstep.planning.sizes import Lengths
from chainofstep.problems.tasks.build import write_problems
from chainofstep.problems.tasks.canvas import CELL, SIZE
from chainofstep.records import Example, Pair, Request
from chainofstep.training.common import Lora, Machine, TrainConfig
from chainofstep.training.dpo import DpoConfig, train_dpo
from chainofstep.training.prm import PrmConfig, PrmRow, train_prm
from chainofstep.training.sft import SftConfig, SftRow, train_sft

PICTURE = (SIZE // CELL) ** 2
STEPS = 6


@dataclass(frozen=True)
class Size:
    """A decoder, and the rows that it is trained on."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int
    question: int  # tokens of a prompt, about
    chain: int


SIZES = {
    "8b": Size(4096, 32, 32, 8, 14336, 92553, 1400, 450),
    "2b": Size(2048, 28, 16, 8, 6144, 151936, 900, 450),
    "tiny": Size(64, 2, 4, 2, 128, 2048, 100, 150),
}


@dataclass(frozen=True)
class Measured:
    """One kind of training or decoding."""

    name: str
    tokens_per_second: float
    share: float  # of the peak
    peak: int = 0  # bytes
    planned: int = 0


def build(size: Size, device: torch.device) -> VLM:
    """Random weights, on the device in bfloat16, on a CPU in float32."""
    processor = build_processor(build_tokenizer(language()))
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    tower = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=CELL,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=PICTURE,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with device:
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    vlm = VLM(model.eval(), processor)
    add_step_tokens(vlm)
    return vlm


@dataclass(frozen=True)
class Job:
    """A training of equal rows, each an update of its own, and what the plan says of a row."""

    name: str
    train: Callable[[VLM, Path], Any]
    config: TrainConfig
    flops: Callable[[ModelShape], float]
    work: Pass
    tokens: int


def settings(kind: Callable[..., Any], rank: int, on_gpu: bool) -> Any:
    """As the recipes train large models; adapters unless the rank is 0."""
    machine = Machine("bfloat16" if on_gpu else "float32", gradient_checkpointing=True)
    lora = Lora(rank=rank, alpha=2.0 * rank)
    return kind(1e-5, epochs=1, batch_size=1, forward_rows=1, trained=("decoder",), lora=lora, machine=machine)


def equal_rows(size: Size, count: int, folder: Path) -> tuple[list[Example], Chain]:
    """Questions that differ in their pictures alone, and one chain for all."""
    made = write_problems("train", range(count), folder)
    question = made[0].question + " 7" * size.question
    step = Step("Look", " 7" * (size.chain // STEPS), "It does.")
    return [replace(example, question=question) for example in made], Chain((step,) * STEPS, "7")


def lengths_of(vlm: VLM, example: Example, chain: Chain) -> Lengths:
    prompt, text = len(encode_prompt(vlm, example).ids), len(completion_ids(vlm, render(chain)))
    return Lengths(question=prompt - PICTURE, picture=PICTURE, chain=text, steps=STEPS)


def jobs(vlm: VLM, size: Size, rows: int, rank: int, folder: Path) -> list[Job]:
    """SFT, PRM and DPO on the same questions; every pair prefers the same chain."""
    examples, chain = equal_rows(size, rows, folder / "pictures")
    on_gpu, lengths = vlm.device.type == "cuda", lengths_of(vlm, examples[0], chain)
    sft, prm, dpo = (settings(kind, rank, on_gpu) for kind in (SftConfig, PrmConfig, DpoConfig))
    text, tags = render(chain), STEPS + 1
    sft_rows = [SftRow(example, text) for example in examples]
    prm_rows = [PrmRow(example, chain, (1.0,) * STEPS, 0.0) for example in examples]
    pairs = [(example, Pair(example.id, text, text, 1.0, 0.0, "")) for example in examples]
    second = None if rank else copy.deepcopy(vlm)  # with its adapter off, the policy is its own reference

    def flops(kept: float) -> Callable[[ModelShape], float]:
        return lambda shape: work.training_flops(shape, sft, lengths, kept)

    return [
        Job(
            "sft",
            lambda model, out: train_sft(model, sft_rows, sft, out),
            sft,
            flops(lengths.chain),
            Pass(1, lengths.row, PICTURE, lengths.chain),
            lengths.row,
        ),
        Job(
            "prm",
            lambda model, out: train_prm(model, prm_rows, prm, out),
            prm,
            flops(tags),
            Pass(1, lengths.row, PICTURE, tags, 4),
            lengths.row,
        ),
        Job(
            "dpo",
            lambda model, out: train_dpo(model, second, pairs, dpo, out),
            dpo,
            lambda shape: work.dpo_flops(shape, dpo, lengths),
            Pass(2, lengths.row, 2 * PICTURE, lengths.chain, 14 if on_gpu else 12),
            2 * lengths.row,
        ),
    ]


def measure(job: Job, vlm: VLM, rows: int, gpus: Gpus, out: Path) -> Measured:
    """Speed by the training's own log, and the most memory that torch held."""
    on_gpu = vlm.device.type == "cuda"
    shape = shape_from_config(job.name, vlm.model.config)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    job.train(vlm, out)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    seconds = json.loads((out / "training_log.json").read_text("utf-8"))[-1]["train_runtime"]
    share = rows * job.flops(shape) / seconds / gpus.peak_flops
    planned = training_memory(shape, job.config, job.work, 1, "ddp").total
    if job.name == "dpo" and not job.config.lora.rank:
        planned += number_bytes(job.config) * shape.total  # the reference
    return Measured(job.name, rows * job.tokens / seconds, share, peak, planned)


def measure_decoding(vlm: VLM, size: Size, questions: int, gpus: Gpus, folder: Path) -> Measured:
    """The engine with 16 samples a question, which random weights never end."""
    examples, _ = equal_rows(size, questions, folder / "pictures")
    requests = [Request(example, 16, seed=n, max_tokens=size.chain) for n, example in enumerate(examples)]
    start = time.perf_counter()
    rollouts = Engine(vlm).sample(requests)
    seconds = time.perf_counter() - start
    tokens = sum(len(rollout.token_ids) for pool in rollouts for rollout in pool)
    shape = shape_from_config("decoding", vlm.model.config)
    return Measured("decoding", tokens / seconds, 2 * shape.total * tokens / seconds / gpus.peak_flops)


def markdown(found: list[Measured], shape: str, gpus: Gpus) -> str:
    """Rows for docs/performance.md."""
    lines = [
        f"| {shape} on {gpus} | tokens/s | share of peak | peak memory | planned |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        memory = [f"{size / 2**30:.1f} GB" if size else "" for size in (row.peak, row.planned)]
        lines.append(f"| {row.name} | {row.tokens_per_second:,.0f} | {row.share:.1%} | {' | '.join(memory)} |")
    return "\n".join(lines)


def main(
    shape: Annotated[str, typer.Option(help=f"Any of {', '.join(SIZES)}.")] = "8b",
    rows: Annotated[int, typer.Option(min=2, help="Rows of each training.")] = 24,
    rank: Annotated[int, typer.Option(min=0, help="Of the adapters; 0 trains full weights.")] = 64,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the shares for `cos plan --measured`.")
    ] = None,
) -> None:
    """Measure trainings and decoding of a model with random weights on this machine's first GPU."""
    if shape not in SIZES:
        raise typer.BadParameter(f"no shape {shape!r}; choose from {', '.join(SIZES)}")
    if shape != "tiny" and not torch.cuda.is_available():
        print(f"shape {shape} needs a CUDA GPU, and torch sees none; --shape tiny runs on a CPU", file=sys.stderr)
        raise typer.Exit(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else 2**33
    gpus, size = Gpus(1, 1, round(memory / 2**30)), SIZES[shape]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        vlm = build(size, device)
        found.append(measure_decoding(vlm, size, 2, gpus, Path(folder)))
        for job in jobs(vlm, size, rows, rank, Path(folder)):
            found.append(measure(job, vlm, rows, gpus, Path(folder) / job.name))
    print(markdown(found, shape, gpus))
    if json_file is not None:
        json_file.write_text(json.dumps(shares(found), indent=1) + "\n", "utf-8")


def shares(found: list[Measured]) -> dict[str, Any]:
    """What `cos plan --measured` reads: a training counts by SFT, a scorer reads as the PRM's training does."""
    by_name = {row.name: row.share for row in found}
    kinds = {"training": "sft", "scoring": "prm", "decoding": "decoding"}
    rows = [{"name": row.name, "tokens_per_second": row.tokens_per_second, "peak": row.peak} for row in found]
    return {"shares": {kind: by_name[name] for kind, name in kinds.items()}, "rows": rows}


if __name__ == "__main__":
    typer.run(main)
