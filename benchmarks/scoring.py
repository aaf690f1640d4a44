"""PRM scores of many chains, against one stock forward for each chain with its picture, as the authors score."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.common import Goal, Row, cost_row, seconds_of, take_in_turn
from benchmarks.models import Bench, sampled_chains
from chainofstep.chain import Chain
from chainofstep.models.prm import PRM, encode_chain_for_prm, verdict_ids
from chainofstep.models.vlm import VLM
from chainofstep.pipeline.workers import PRM_TOKENS_AT_ONCE
from chainofstep.records import Example

Item = tuple[Example, Chain]


@dataclass(frozen=True)
class Sizes:
    questions: int = 63
    samples: int = 16
    distinct: int = 1000  # chains of the second workload, of as many questions as that takes
    single: int = 60  # chains that are scored one at a time in a repeat


def measure(bench: Bench, sizes: Sizes = Sizes()) -> list[Row]:
    """Pools as search scores them, in which equal chains are scored once, and distinct chains alone."""
    pools = sampled_chains(bench, 2 * sizes.questions, sizes.samples)
    asked = {example.id for example in bench.examples(sizes.questions)}
    pool = [item for item in pools if item[0].id in asked]
    distinct = list({(example.id, chain): (example, chain) for example, chain in pools}.values())[: sizes.distinct]
    return [compare(bench.prm, items, bench.repeats, sizes.single) for items in (pool, distinct)]


def compare(vlm: VLM, items: Sequence[Item], repeats: int, single: int) -> Row:
    """Single chains are evenly spaced, and their time is scaled to all chains."""
    part = items[:: max(1, len(items) // single)][:single]
    runs = take_in_turn(
        {
            "together": lambda _: len(PRM(vlm, token_budget=PRM_TOKENS_AT_ONCE).score(items)),
            "one at a time": lambda _: len(one_at_a_time(vlm, part)),
        },
        repeats,
    )
    scaled = [run.seconds * len(items) / len(part) for run in runs["one at a time"]]
    distinct = len({(example.id, chain) for example, chain in items})
    name = f"PRM scores of {len(items):,} chains, {distinct:,} distinct, batch size 1"
    remark = f"{len(part)} chains, evenly spaced, were scored one at a time, scaled to all"
    return cost_row(name, seconds_of(runs["together"]), scaled, Goal(10), remark=remark)


@torch.inference_mode()
def one_at_a_time(vlm: VLM, items: Sequence[Item]) -> list[list[float]]:
    """P(good) of each tag by the model's own forward, picture and all, at batch size 1."""
    scores = []
    for example, chain in items:
        encoded = encode_chain_for_prm(vlm, example, chain)
        ids = encoded.ids[None]
        output = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **encoded.prompt.images, use_cache=False)
        verdicts = output.logits[0, list(encoded.tags)][:, verdict_ids(vlm)]
        scores.append(verdicts.float().softmax(-1)[:, 0].tolist())
    return scores
