"""A plan on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chainofstep.planning.checks import needed_settings
from chainofstep.planning.gpus import USABLE
from chainofstep.planning.plans import Plan, StagePlan

WIDE = 124  # columns of a terminal on which one table holds everything
COSTS = ("GPU memory", "tokens", "hours", "disk", "scratch")
PARTS = ("weights", "grad+opt", "activations", "logits", "cache")


def print_plan(plan: Plan, console: Console) -> None:
    """Stages with what they cost and what fills a GPU, what does not fit with the change that would, the sums, and what
    was assumed.
    """
    console.print(Text(f"{plan.recipe.name} on {plan.gpus}", style="bold"))
    for headings in [COSTS[:1] + PARTS + COSTS[1:]] if console.width >= WIDE else [COSTS, PARTS]:
        console.print(_table(plan, headings))
    for stage in plan.stages:
        if not stage.fits:
            console.print(Text(f"{stage.name} does not fit: {stage.advice}", style="red"))
    total = f"{plan.hours:,.1f} hours, {plan.hours * plan.gpus.count:,.0f} GPU hours, {gigabytes(plan.disk)} of disk"
    console.print(Text(f"All stages: {total}", style="bold"))
    needed = needed_settings(plan.recipe, plan.gpus)
    if needed:
        settings = " ".join(f"--set {setting}" for setting in needed)
        console.print(Text(f"These hours need {settings} (docs/cluster.md)", style="bold"))
    for line in assumptions(plan):
        console.print(Text(line, style="dim"))


def _table(plan: Plan, headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Stage", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in plan.stages:
        cells, name = _cells(stage), stage.name + (f" x{stage.times}" if stage.times > 1 else "")
        red = "" if stage.fits else "red"
        table.add_row(name, *(Text(cells[name], style=red if name == COSTS[0] else "") for name in headings))
    return table


def _cells(stage: StagePlan) -> dict[str, str]:
    memory = stage.memory
    return {
        "GPU memory": gigabytes(memory.total) or "served",
        "weights": gigabytes(memory.weights),
        "grad+opt": gigabytes(memory.gradients + memory.optimizer),
        "activations": gigabytes(memory.activations),
        "logits": gigabytes(memory.logits),
        "cache": gigabytes(memory.cache),
        "tokens": count(stage.times * stage.tokens),
        "hours": f"{stage.times * stage.hours:,.1f}",
        "disk": gigabytes(stage.times * stage.disk),
        "scratch": gigabytes(stage.scratch),
    }


def assumptions(plan: Plan) -> list[str]:
    """What the figures rest on, one line each."""
    lengths, speeds = plan.sizes.lengths, plan.speeds
    longest = max(stage.longest_cache for stage in plan.stages)
    served = ["served: on other GPUs; its hours are counted as if on these"] if plan.recipe.launch.scorer else []
    return [
        f"GPU: {plan.gpus.gigabytes} GB of which {USABLE:.0%} can be used;"
        f" {plan.gpus.peak_flops / 1e12:,.0f} TFLOP/s, those of an {plan.gpus.card}",
        f"share of it in use ({speeds.source}): {speeds.training:.0%} training, {speeds.scoring:.0%} scoring,"
        f" {speeds.decoding:.0%} decoding",
        f"tokens of an average row (assumed): question {lengths.question}, picture {lengths.picture}, chain"
        f" {lengths.chain} in {lengths.steps} steps",
        "memory: of trainings for the longest rows (max_tokens; without it, twice the average)",
        f"cache: one question with all its chains at average length; {gigabytes(longest)} at"
        f" sampling.max_tokens={plan.recipe.sampling.max_tokens} (with less, rows wait)",
        *served,
        f"rows: {plan.sizes.sft:,} SFT, {plan.sizes.labelled_chains:,} labelled chains, {plan.sizes.test:,} test"
        f" questions; of a round {plan.sizes.questions:,} questions and at most {plan.sizes.pairs:,} pairs",
    ]


def gigabytes(size: float) -> str:
    """Bytes as GB of 2^30, the unit of GPUs' memory."""
    size /= 2**30
    return "" if size == 0 else f"{size:.2f} GB" if size < 10 else f"{size:,.0f} GB"


def count(number: float) -> str:
    """A large number in three figures."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"
