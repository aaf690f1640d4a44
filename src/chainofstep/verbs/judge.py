"""Step labels from LLM judges, and several sets of labels made one."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import cast, get_args

from chainofstep.llm import Endpoint
from chainofstep.pipeline.asking import (
    Asking,
    Examples,
    Pools,
    ask_for_verdicts,
    judged_scores,
    read_answers,
    text_settings,
)
from chainofstep.records import to_row
from chainofstep.row_index import RowIndex
from chainofstep.scoring.judge import Neutral, prompt_hash
from chainofstep.scoring.merge import Agreement, Rule, agreement_of, merge
from chainofstep.store import Log, file_hash
from chainofstep.verbs.files import choose, claim, existing, kinds_of, locate_pictures, scored_pools, write_lines


def judge(
    examples: Path,
    rollouts: Path,
    out: Path,
    judges: Sequence[Endpoint],
    votes: int = 1,
    neutral: str = "by_answer",
) -> Counter[str]:
    """Append step scores by LLM judges for each example's rollouts: {"id", "scores"} (paper A3).

    Beside `out` stand each judge's replies as they came, and the file of all that was paid for. How many were
    scored, or why not.
    """
    if not judges or votes < 1:
        raise ValueError(f"{len(judges)} judges with {votes} votes each; give at least one --judge and one vote")
    rule = cast(Neutral, choose(neutral, get_args(Neutral), "neutral"))
    read, pools = Examples(existing(examples), locate_pictures(examples)), Pools(existing(rollouts))
    made_from = {"examples": file_hash(examples), "rollouts": file_hash(rollouts), "scorer": "judge"}
    settings = {"judges": [text_settings(each) for each in judges], "votes": votes, "neutral": neutral}
    log = claim(out, made_from | settings | {"prompt": prompt_hash()})
    replies: list[Path] = []
    for number, endpoint in enumerate(judges, start=1):
        asking = Asking(endpoint, out.with_suffix(".replies.sqlite"), f"judge {number}")
        replies.append(out.with_suffix(f".judge-{number}.jsonl"))
        ask_for_verdicts(asking, Log(replies[-1]), read, pools, votes)
    names = list(read)
    missing = [name for name in names if name not in RowIndex(log.path)]
    answers = zip(*(read_answers(path, missing) for path in replies), strict=True)
    for example, pool, found in zip(read.read(missing), pools.read(missing), answers, strict=True):
        scored = judged_scores(example, pool, found, votes, rule)
        log.append({"id": example.id, "scores": [to_row(scores) for scores in scored]})
    return kinds_of(log.path, names)


@dataclass(frozen=True)
class Merged:
    """What `merge_scores` wrote, and how far each pair of files agreed."""

    kinds: Counter[str]
    agreements: dict[tuple[Path, Path], Agreement]


def merge_scores(files: Sequence[Path], out: Path, rule: Rule, weights: Sequence[float] = ()) -> Merged:
    """Labels of the same rollouts from several files as one file, and how far they agree (Cohen's kappa).

    `agree` keeps rollouts whose steps all files label alike; `weight` takes the weighted mean.
    """
    if len(files) < 2:
        raise ValueError(f"{len(files)} file of scores; give two or more to merge")
    if weights and (len(weights) != len(files) or min(weights) < 0 or not sum(weights)):
        raise ValueError(
            f"weights {', '.join(map(str, weights))} for {len(files)} files; give one of 0 or more for each"
        )
    if any(not math.isfinite(weight) for weight in weights) or out.suffix != ".jsonl":
        raise ValueError(f"weights {weights or 'equal'}, --out {out}; give finite weights, and a file ending on .jsonl")
    if out.resolve() in {path.resolve() for path in files}:
        raise ValueError(f"--out {out} would replace a file that is read; choose another")
    names = list(RowIndex(existing(files[0])))
    agreements = {pair: Agreement() for pair in combinations(files, 2)}
    rows = []
    for name, *sources in zip(names, *(scored_pools(existing(path), names) for path in files), strict=True):
        if len(set(map(len, sources))) > 1:
            raise ValueError(
                f"{name}: {' and '.join(str(len(pool)) for pool in sources)} scores; annotate the same rollouts"
            )
        merged = [merge(scored, rule, weights or None) for scored in zip(*sources, strict=True)]
        for (first, one), (second, other) in combinations(zip(files, sources, strict=True), 2):
            for pair in zip(one, other, strict=True):
                agreements[first, second] += agreement_of(*pair)
        rows.append({"id": name, "scores": [to_row(scored) for scored in merged]})
    write_lines(out, rows)
    return Merged(kinds_of(out, names), agreements)
