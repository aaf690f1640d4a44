"""Monte-Carlo step labels: the engine against `generate`, and the adaptive rule against sixteen rollouts of each step.

The chains are the policy's own, right and wrong, and the exact checker knows which of their steps are. The labels are
those of the mini recipe: a step is right if any of its continuations is.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.common import Goal, Row, Timed, cost_row, rates, seconds_of, take_in_turn
from benchmarks.models import Bench, sampled_chains
from chainofstep.chain import ANSWER_END, Chain, render
from chainofstep.models.encode import encode_prompt, encode_text
from chainofstep.models.engine import Engine
from chainofstep.models.vlm import VLM
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.records import Example, Scored, StepScores
from chainofstep.scoring.adaptive import Adaptive
from chainofstep.scoring.monte_carlo import MonteCarloScorer, MonteCarloStats

Item = tuple[Example, Chain]


@dataclass(frozen=True)
class Sizes:
    chains: int = 200
    a_question: int = 2  # chains, as the recipe labels them
    continued: int = 16  # step prefixes that `generate` continues in a repeat, other ones in each
    rollouts: int = 16
    many: int = 256  # rollouts of the estimate that labels are compared with
    estimated: int = 40  # of the chains, so often continued
    max_tokens: int = 320
    top_p: float = 0.95


@dataclass(frozen=True)
class Labels:
    """What a scorer gave and what it spent."""

    scores: Sequence[Scored]
    stats: MonteCarloStats


@dataclass(frozen=True)
class Continued:
    """What `generate` did: the prefixes that it continued, and the tokens it sampled."""

    prefixes: int
    tokens: int


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Three rows: time against `generate`, rollouts of the adaptive rule, and its agreement with the checker."""
    questions = sizes.chains // sizes.a_question + 10  # more than needed, for some chains never end
    items = sampled_chains(bench, questions, sizes.a_question)[: sizes.chains]
    return compare(bench.policy, items, bench.repeats, sizes)


def compare(vlm: VLM, items: Sequence[Item], repeats: int, sizes: Sizes) -> list[Row]:
    """The rows for these chains."""
    prefixes = step_prefixes(items)
    runs = take_in_turn(
        {
            "engine": lambda repeat: label(vlm, items, sizes, repeat, None),
            "adaptive": lambda repeat: label(vlm, items, sizes, repeat, Adaptive()),
            "generate": lambda repeat: generate(vlm, spaced(prefixes, sizes.continued, repeat), sizes),
        },
        repeats,
    )
    return [
        _speed(runs["engine"], runs["generate"], len(items), len(prefixes)),
        _rollouts(runs["adaptive"], runs["engine"]),
        _agreement(runs["adaptive"], runs["engine"], items),
        _estimate(runs["adaptive"], runs["engine"], likely_labels(vlm, items[: sizes.estimated], sizes), sizes),
    ]


def likely_labels(vlm: VLM, items: Sequence[Item], sizes: Sizes) -> list[bool]:
    """For each step whether "any of 16 is right" is the likelier label, by the share of many more rollouts."""
    scorer = MonteCarloScorer(
        Engine(vlm), rollouts=sizes.many, top_p=sizes.top_p, max_tokens=sizes.max_tokens, seed=10**6
    )
    least = 1 - 0.5 ** (1 / sizes.rollouts)  # the share at which 16 rollouts hold a right one half of the time
    return [share > least for scored in scorer.score(items) if isinstance(scored, StepScores) for share in scored.steps]


def label(vlm: VLM, items: Sequence[Item], sizes: Sizes, seed: int, adaptive: Adaptive | None) -> Labels:
    """Labels of all chains by a new engine, which remembers nothing."""
    scorer = MonteCarloScorer(
        Engine(vlm),
        rollouts=sizes.rollouts,
        top_p=sizes.top_p,
        max_tokens=sizes.max_tokens,
        hard_threshold=0.0,
        seed=seed,
        adaptive=adaptive,
    )
    return Labels(scorer.score(items), scorer.stats)


def step_prefixes(items: Sequence[Item]) -> list[tuple[Example, str]]:
    """Every step's end once, as the example and the text so far."""
    texts = {(e.id, render(c.prefix(k))): e for e, c in items for k in range(1, len(c.steps) + 1)}
    return [(example, text) for (_, text), example in texts.items()]


def spaced(prefixes: Sequence[tuple[Example, str]], count: int, repeat: int) -> list[tuple[Example, str]]:
    """`count` evenly spaced prefixes (or all, if there are fewer), not the same in each repeat."""
    stride = max(1, len(prefixes) // count)
    return list(prefixes[repeat % stride :: stride])[:count]


@torch.no_grad()
def generate(vlm: VLM, prefixes: Sequence[tuple[Example, str]], sizes: Sizes) -> Continued:
    """One `generate` call for each prefix, as the authors of the method sample."""
    ends, padding = [vlm.tokenizer.eos_token_id, vlm.token_id(ANSWER_END)], vlm.tokenizer.pad_token_id
    tokens = 0
    for example, text in prefixes:
        prompt = encode_prompt(vlm, example)
        ids = torch.cat([prompt.ids, torch.tensor(encode_text(vlm, text))])[None]
        output = vlm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **prompt.images,
            do_sample=True,
            top_k=0,
            top_p=sizes.top_p,
            num_return_sequences=sizes.rollouts,
            max_new_tokens=sizes.max_tokens,
            eos_token_id=ends,
            pad_token_id=padding,
        )
        tokens += int((output[:, ids.shape[1] :] != padding).sum())
    return Continued(len(prefixes), tokens)


def _speed(ours: Sequence[Timed[Labels]], against: Sequence[Timed[Continued]], chains: int, prefixes: int) -> Row:
    """Seconds for all labels; `generate` made a part of them, and is scaled to all."""
    scaled = [run.seconds * prefixes / run.value.prefixes for run in against]
    own_rate = rates([run.value.stats.tokens for run in ours], seconds_of(ours))
    other_rate = rates([run.value.tokens for run in against], seconds_of(against))
    remark = (
        f"{prefixes} step ends; generate continued {against[0].value.prefixes} evenly spaced ones in each repeat, "
        f"scaled to all; {own_rate} against {other_rate}"
    )
    return cost_row(f"labels of {chains} chains, generate", seconds_of(ours), scaled, Goal(8), remark=remark)


def _rollouts(adaptive: Sequence[Timed[Labels]], fixed: Sequence[Timed[Labels]]) -> Row:
    ours, against = ([float(run.value.stats.rollouts) for run in runs] for runs in (adaptive, fixed))
    seconds = [statistics.median(seconds_of(runs)) for runs in (adaptive, fixed)]
    remark = f"{seconds[0]:.1f} s against {seconds[1]:.1f} s"
    return cost_row("rollouts of adaptive labels, fixed rule", ours, against, Goal(2.5), "{:,.0f}".format, remark)


def _agreement(adaptive: Sequence[Timed[Labels]], fixed: Sequence[Timed[Labels]], items: Sequence[Item]) -> Row:
    """Percent of the steps whose label is what the exact checker says."""
    truth = [verdict for example, chain in items for verdict in check_steps(example, chain)]
    ours, against = ([100 * agreement(run.value.scores, truth) for run in runs] for runs in (adaptive, fixed))
    differences = [mine - other for mine, other in zip(ours, against, strict=True)]
    text, other_text = (f"{statistics.median(shares):.1f}%" for shares in (ours, against))
    remark = f"{len(truth)} steps, {100 * statistics.mean(truth):.1f}% of them right by the checker"
    goal, raw = Goal(-0.5, unit=" points"), {"ours": ours, "against": against}
    return Row("adaptive labels the checker agrees with, fixed rule", text, other_text, differences, goal, remark, raw)


def _estimate(
    adaptive: Sequence[Timed[Labels]], fixed: Sequence[Timed[Labels]], likely: Sequence[bool], sizes: Sizes
) -> Row:
    """Percent of the steps whose label is the one that many more rollouts foretell."""
    ours, against = (
        [100 * agreement(run.value.scores[: sizes.estimated], likely) for run in runs] for runs in (adaptive, fixed)
    )
    differences = [mine - other for mine, other in zip(ours, against, strict=True)]
    text, other_text = (f"{statistics.median(shares):.1f}%" for shares in (ours, against))
    remark = f"{len(likely)} steps; the label that 16 rollouts give more often, by the share of {sizes.many} others"
    goal, raw = Goal(-0.5, unit=" points"), {"ours": ours, "against": against}
    return Row(
        f"adaptive labels as {sizes.many} rollouts foretell, fixed rule",
        text,
        other_text,
        differences,
        goal,
        remark,
        raw,
    )


def agreement(scores: Sequence[Scored], truth: Sequence[bool]) -> float:
    labels = [label == 1.0 for scored in scores if isinstance(scored, StepScores) for label in scored.steps]
    return statistics.mean(label == verdict for label, verdict in zip(labels, truth, strict=True))
