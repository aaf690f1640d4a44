"""The report's gallery: pictures with chains of several methods, each step with its score and the truth."""

from typing import Any

from chainofstep.answers import is_right
from chainofstep.pipeline.rows import read_results
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.workers import prm
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.records import Example, StepScores, to_row
from chainofstep.search import SearchResult, pool_results

SHOWN = 48  # questions: three of each kind


def write_gallery(run: Run) -> None:
    """`gallery.jsonl`: greedy, self-consistency, best-of-N and beam search on the same unseen questions."""
    examples = run.examples("test")[:SHOWN]
    pools, scores = run.pools("search/pool", examples), run.scores("search/prm", run.examples("test"))[:SHOWN]
    n, beam = max(run.recipe.pool_sizes), max(run.recipe.beams)
    greedy = [[pool[0]] for pool in run.pools("greedy/sft", examples)]
    chosen: dict[str, list[SearchResult]] = {
        "greedy": pool_results(examples, greedy, None, "self_consistency", 1),
        "self_consistency": pool_results(examples, pools, None, "self_consistency", n),
        "best_of_n": pool_results(examples, pools, scores, "best_of_n", n),
    }
    chosen["step_beam"] = read_results(run.folder.log(f"search/beam-{beam}-1/results"), examples)
    judge = prm(run.prm)
    log = run.folder.log("gallery")
    log.path.unlink(missing_ok=True)
    for method, results in chosen.items():
        unscored = [(e, r.chain) for e, r in zip(examples, results, strict=True) if r.chain is not None]
        tags = iter(judge.score(unscored))
        for example, result in zip(examples, results, strict=True):
            scored = next(tags) if result.chain is not None else None
            log.append(_row(run, example, method, result, scored if isinstance(scored, StepScores) else None))


def _row(run: Run, example: Example, method: str, result: SearchResult, scores: StepScores | None) -> dict[str, Any]:
    return {
        "example": to_row(example),
        "picture": str(example.images[0]).removeprefix(f"{run.folder.path}/") if example.images else "",
        "method": method,
        "text": result.text,
        "answer": result.answer,
        "answer_right": is_right(example, result.answer),
        "scores": None if scores is None else to_row(scores),
        "truth": None if result.chain is None or not run.checked else check_steps(example, result.chain),
        "note": result.failure,
    }
