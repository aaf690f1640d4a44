"""Experiments on search: Figures 3 and 5, how step scores are summed up, and length against quality."""

from collections.abc import Callable
from statistics import fmean

from chainofstep.answers import is_right
from chainofstep.evaluate import grade_results
from chainofstep.experiments.arms import greedy_right, pooled, prepare_prm
from chainofstep.experiments.experiment import Cells
from chainofstep.pipeline.measure import WEIGHTS, answer_of
from chainofstep.pipeline.rows import read_results
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.workers import Scorer
from chainofstep.records import Example, Rollout, Scored, StepScores
from chainofstep.scoring.path_score import path_score
from chainofstep.search import SearchResult, pool_results

SCALING_QUESTIONS = 252  # of Figure 5: beam search at N = 64 costs as much as all else together
SCALES = (4, 8, 16, 32, 64)
LONGEST = 6  # steps; longer chains are counted with these


def right(examples: list[Example], results: list[SearchResult]) -> list[bool]:
    return [outcome == "right" for outcome in grade_results(examples, results)]


def figure3(run: Run) -> Cells:
    pools, scores = pooled(run)
    test, n = run.examples("test"), run.recipe.sampling.n
    return {
        (f"{weight:.1f}", "best of 16"): right(test, pool_results(test, pools, scores, "best_of_n", n, weight))
        for weight in WEIGHTS
    }


def figure5(run: Run) -> Cells:
    prm, test = prepare_prm(run), run.examples("test")[:SCALING_QUESTIONS]
    sft = run.model_folder("sft")
    run.sample("scaling/pool", sft, test, run.sampling("scaling", n=max(SCALES)))
    run.score("scaling/prm", "scaling/pool", test, prm)
    pools, scores = run.pools("scaling/pool", test), run.scores("scaling/prm", test)
    greedy = greedy_right(run, "sft")[: len(test)]
    cells: Cells = {("N = 1", column): greedy for column in (*POOLED, "beam search")}
    for n in SCALES:
        run.beam_search(f"scaling/beam-{n}", sft, test, run.sampling("scaling/beam", n=n))
        for column, method in POOLED.items():
            cells[f"N = {n}", column] = right(test, pool_results(test, pools, scores, method, n))
        searched = read_results(run.folder.log(f"scaling/beam-{n}/results"), test)
        cells[f"N = {n}", "beam search"] = right(test, searched)
        cells[f"N = {n}", "tokens, best-of-N"] = fmean(sum(len(r.token_ids) for r in pool[:n]) for pool in pools)
        cells[f"N = {n}", "tokens, beam search"] = fmean(result.cost.sampled_tokens for result in searched)
    return cells


POOLED = {"pass@N": "pass_at_n", "self-consistency": "self_consistency", "best-of-N": "best_of_n"}


# What the paper left open


def _product(scores: StepScores) -> float:
    value = scores.answer or 0.0
    for step in scores.steps:
        value *= step
    return value


#: How the scores of a chain become one number.
COMBINED: dict[str, Callable[[StepScores], float]] = {
    "0.2 mean of steps + 0.8 answer": path_score,
    "mean of steps": lambda scores: path_score(scores, 1.0),
    "smallest of steps and answer": lambda scores: min((*scores.steps, scores.answer or 0.0)),
    "product of steps and answer": _product,
    "last step": lambda scores: scores.steps[-1] if scores.steps else scores.answer or 0.0,
    "answer": lambda scores: scores.answer or 0.0,
}


def combined(run: Run) -> Cells:
    pools, scores = pooled(run)
    test = run.examples("test")
    return {
        (row, "best of 16"): [
            _best_is_right(example, pool, scored, value)
            for example, pool, scored in zip(test, pools, scores, strict=True)
        ]
        for row, value in COMBINED.items()
    }


def _best_is_right(
    example: Example, pool: list[Rollout], scored: list[Scored], value: Callable[[StepScores], float]
) -> bool:
    """Whether the best chain of a pool answers rightly; the first of equals."""
    ranked = [(value(s), rollout) for rollout, s in zip(pool, scored, strict=True) if isinstance(s, StepScores)]
    best = max(ranked, key=lambda pair: pair[0])[1] if ranked else None
    answer = None if best is None else answer_of(best)
    return answer is not None and is_right(example, answer)


def length(run: Run) -> Cells:
    pools, scores = pooled(run)
    test = run.examples("test")
    run.score("search/checker", "search/pool", test, Scorer("checker"))
    truths = run.scores("search/checker", test)
    found: dict[int, list[tuple[float, float, float]]] = {}
    for own, scored, truth in zip(pools, scores, truths, strict=True):
        for rollout, guess, known in zip(own, scored, truth, strict=True):
            if rollout.chain and isinstance(guess, StepScores) and isinstance(known, StepScores) and known.steps:
                entry = (known.answer or 0.0, fmean(known.steps), path_score(guess))
                found.setdefault(min(len(known.steps), LONGEST), []).append(entry)
    total = sum(map(len, found.values()))
    cells: Cells = {}
    for steps in sorted(found):
        row = f"{steps}" if steps < LONGEST else f"{steps} or more"
        answers, true_steps, score = (fmean(column) for column in zip(*found[steps], strict=True))
        cells |= {
            (row, "share of chains"): len(found[steps]) / total,
            (row, "right answers"): answers,
            (row, "true steps"): true_steps,
            (row, "PRM score"): score,
        }
    return cells
