"""Step data from files: rollouts, their step scores, preference pairs."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainofstep.pipeline.asking import Pools
from chainofstep.pipeline.rows import forget_failures, write_chunks
from chainofstep.pipeline.spread import HERE, Spread
from chainofstep.records import Pair, to_row
from chainofstep.scoring.pairs import PairRule, choose_pairs
from chainofstep.search import SearchConfig
from chainofstep.settings import resolved
from chainofstep.store import file_hash
from chainofstep.verbs.files import (
    choose,
    claim,
    fingerprint,
    kinds_of,
    read_examples,
    read_pools,
    read_scores,
    with_rows,
    write_lines,
)

SCORERS = ("checker", "monte-carlo", "judge", "prm", "outcome")
MONTE_CARLO = SearchConfig()


def sample(model: str, examples: Path, out: Path, config: SearchConfig, spread: Spread = HERE) -> Counter[str]:
    """Append `config.n` rollouts for each example that has none yet: {"id", "rollouts"}, and the "failure" where an
    example cannot be sampled (its picture is gone), which the next call tries again. How many were sampled, or why not.
    """
    read = read_examples(examples)
    made_from = {"examples": file_hash(examples), "model": fingerprint(model), "sampling": resolved(config)}
    log = claim(out, made_from)
    forget_failures(log)
    from chainofstep.pipeline.workers import sample_chunk

    with spread.start() as workers:
        write_chunks(log, "sample", read, sample_chunk, lambda _: (model, config), workers)
    wanted = {example.id for example in read}
    failures = [row["failure"] for row in log.rows() if row["id"] in wanted and "failure" in row]
    return Counter(
        {"sampled": len(read) - len(failures)} | ({f"such as {failures[0]}": len(failures)} if failures else {})
    )


def annotate(
    examples: Path,
    rollouts: Path,
    out: Path,
    scorer: str,
    model: str = "",
    sampling: SearchConfig = MONTE_CARLO,
    hard_threshold: float | None = None,
    adaptive: bool = False,
    spread: Spread = HERE,
) -> Counter[str]:
    """Append step scores for each example's rollouts: {"id", "scores"}. How many were scored, or why not.

    `model` is the PRM's folder or the policy's that Monte-Carlo continues with, `sampling.n` times from each step
    (paper A3); soft labels, unless `hard_threshold` says which share of right continuations makes a step right.
    `adaptive` stops a step's rollouts once its label is settled (see `scoring.adaptive`).
    """
    choose(scorer, SCORERS, "scorer")
    if scorer == "judge":
        raise ValueError("scorer judge asks endpoints and takes no model; call verbs.judge")
    if scorer in ("prm", "monte-carlo") and not model:
        raise ValueError(f"scorer {scorer} has no model; give its folder with --model")
    read = read_examples(examples)
    pools = Pools(with_rows(rollouts, "rollouts", read).path)
    made_from: dict[str, Any] = {"examples": file_hash(examples), "rollouts": file_hash(rollouts), "scorer": scorer}
    if model:
        made_from |= {"model": fingerprint(model), "sampling": resolved(sampling), "hard_threshold": hard_threshold}
    if adaptive:
        made_from["adaptive"] = True
    log = claim(out, made_from)
    from chainofstep.pipeline.workers import Scorer, score_chunk

    built = Scorer(scorer, model, sampling, hard_threshold, adaptive)  # type: ignore[arg-type]  # chosen above
    with spread.start() as workers:
        write_chunks(
            log, "annotate", read, score_chunk, lambda chunk: (list(pools.read([e.id for e in chunk])), built), workers
        )
    return kinds_of(out, [example.id for example in read])


@dataclass(frozen=True)
class Paired:
    """What `pairs` found: questions with pairs, and why the others have none."""

    pairs: int
    questions: int
    refused: Counter[str]  # reason -> questions
    rejects: Path


def pairs(examples: Path, rollouts: Path, scores: Path, out: Path, rule: PairRule) -> Paired:
    """Preference pairs from scored rollouts (paper A6), and beside them the questions that gave none, with reasons."""
    rejects = out.with_suffix(".rejects.jsonl")
    if {out.resolve(), rejects.resolve()} & {path.resolve() for path in (examples, rollouts, scores)}:
        raise ValueError(f"--out {out} would replace a file that is read; choose another")
    read = read_examples(examples)
    pools = read_pools(rollouts, read)
    found: list[Pair] = []
    refused: list[tuple[str, str]] = []
    for example, pool, scored in zip(read, pools, read_scores(scores, read, pools), strict=True):
        chosen, without = choose_pairs(example, pool, scored, rule)
        found += chosen
        refused += without
    write_lines(out, map(to_row, found))
    write_lines(rejects, ({"id": example_id, "reason": reason, "row": {}} for example_id, reason in refused))
    return Paired(len(found), len(read), Counter(reason for _, reason in refused), rejects)
