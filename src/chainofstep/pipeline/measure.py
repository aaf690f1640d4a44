"""From a run's rows to `results.json` and `gallery.jsonl`: every figure is computed here, from stored text alone."""

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from chainofstep import __version__
from chainofstep.evaluate import Outcome, by_group, grade, grade_results, paired_bootstrap, tally, wilson
from chainofstep.pipeline.gallery import write_gallery
from chainofstep.pipeline.judged import caught_by_kind, label_quality, prm_quality, score_bins
from chainofstep.pipeline.recipe import beams, best_policy, policies
from chainofstep.pipeline.rows import read_results
from chainofstep.pipeline.run import Run
from chainofstep.records import Example, Rollout
from chainofstep.report.schema import check_results
from chainofstep.search import POOL_METHODS, SearchResult, pool_results
from chainofstep.store import Stage, write_json

WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
#: name, what the paper reports, and the two measurements whose difference in points is asked.
CLAIMS = (
    ("Steps beat direct answers: SFT over base", "+8.7 (LLaVA-NeXT-8B, Table 1)", "sft", "base"),
    ("DPO over SFT", "+3.4 (LLaVA-NeXT-8B, Table 1)", "dpo", "sft"),
    ("GRPO on PRM scores over SFT", "", "grpo", "sft"),
    ("PRM reward over outcome reward", "+1.2 (mean of Table 2)", "dpo", "outcome"),
    ("Best-of-N by PRM over self-consistency", "+11.5 (M3CoT, N=16, Fig. 5)", "best_of_n", "self_consistency"),
    ("Step beam search over best-of-N", "+0.5 (M3CoT, N=16, Fig. 5)", "step_beam", "best_of_n"),
    ("Step weight 0.2 over answers alone", "+1.3 (M3CoT, N=16, Fig. 3)", "best_of_n", "weight 0.0"),
    ("Step weight 0.2 over steps alone", "+7.9 (M3CoT, N=16, Fig. 3)", "best_of_n", "weight 1.0"),
)
PACKAGES = ("torch", "transformers", "trl", "tokenizers", "numpy", "scikit-learn", "pillow")


def write_results(run: Run) -> dict[str, Any]:
    """Compute, check against the schema and write `results.json`; write the gallery too."""
    measured, finished = Measurements(run), stages(run)
    results = {
        "recipe": run.folder.recipe(),
        "versions": {"python": platform.python_version(), "chain-of-step": __version__}
        | {name: version(name) for name in PACKAGES},
        "accuracy": list(measured.accuracy()),
        "methods": list(measured.methods()),
        "step_weight": list(measured.step_weights()),
        "rounds": list(measured.rounds()),
        "claims": list(measured.claims()),
        "prm": list(prm_quality(run)),
        "prm_by_error": list(caught_by_kind(run)),
        "calibration": list(score_bins(run)),
        "labels": label_quality(run),
        "wall_seconds": {stage.name: stage.seconds for stage in finished},
        "peak_memory_mb": {stage.name: stage.peak_mb for stage in finished if stage.peak_mb is not None},
        "tokens": sampled_tokens(run),
        "rejects": rejects(run),
    }
    check_results(results)
    write_gallery(run)
    write_json(run.path("results.json"), results)
    return results


def answer_of(rollout: Rollout) -> str | None:
    return rollout.chain.answer if rollout.chain is not None else None


def share(right: int, total: int) -> dict[str, Any]:
    low, high = wilson(right, total)
    return {"accuracy": right / total, "low": low, "high": high, "total": total}


class Measurements:
    """Figures of the policies and of search; `self.right` keeps right/wrong per question for paired comparisons."""

    def __init__(self, run: Run):
        self.run, self.test = run, run.examples("test")
        self.right: dict[str, list[bool]] = {}
        self.policies = policies(run.recipe)
        self.greedy = {name: [pool[0] for pool in run.pools(f"greedy/{name}", self.test)] for name in self.policies}
        self.pools, self.scores = run.pools("search/pool", self.test), run.scores("search/prm", self.test)

    def _keep(self, name: str, outcomes: Sequence[Outcome]) -> None:
        self.right[name] = [outcome == "right" for outcome in outcomes]

    def accuracy(self) -> Iterator[dict[str, Any]]:
        base = [pool[0].text.strip() for pool in self.run.pools("base", self.test)]
        yield from self._rows("base", "unseen", self.test, base)
        for name in self.policies:
            yield from self._rows(name, "unseen", self.test, [answer_of(rollout) for rollout in self.greedy[name]])
        held_out = self.run.examples("held-out")
        for name in dict.fromkeys(("sft", best_policy(self.run.recipe))) if held_out else ():
            rollouts = [pool[0] for pool in self.run.pools(f"held-out/{name}", held_out)]
            yield from self._rows(name, "held-out kinds", held_out, [answer_of(rollout) for rollout in rollouts])
        if self.run.recipe.rounds.rounds:
            self.right["dpo"] = self.right[f"dpo-{self.run.recipe.rounds.rounds}"]
        if self.run.recipe.rounds.outcome_rounds:
            self.right["outcome"] = self.right[f"outcome-{self.run.recipe.rounds.outcome_rounds}"]

    def _rows(
        self, stage: str, split: str, examples: Sequence[Example], answers: Sequence[str | None]
    ) -> Iterator[dict[str, Any]]:
        outcomes = grade(examples, answers)
        if split == "unseen":
            self._keep(stage, outcomes)
        for family, counts in {"all": tally(outcomes), **by_group(examples, outcomes)}.items():
            row = {"stage": stage, "split": split, "family": family, **asdict(counts)}
            yield row | share(counts.right, counts.total)

    def methods(self) -> Iterator[dict[str, Any]]:
        yield self._method("greedy", 1, 1, pool_of_one(self.test, self.greedy["sft"]))
        for n in self.run.recipe.pool_sizes:
            for method in POOL_METHODS:
                results = pool_results(self.test, self.pools, self.scores, method, n)
                yield self._method(method, n, 1, results)
        for n, width in beams(self.run.recipe):
            log = self.run.folder.log(f"search/beam-{n}-{width}/results")
            yield self._method("step_beam", n, width, read_results(log, self.test))

    def _method(self, method: str, n: int, width: int, results: list[SearchResult]) -> dict[str, Any]:
        outcomes = grade_results(self.test, results)
        if n == max(self.run.recipe.pool_sizes) and width == 1:
            self._keep(method, outcomes)
        costs = [result.cost for result in results]
        right = tally(outcomes).right
        spent = {
            "sampled_tokens": sum(cost.sampled_tokens for cost in costs),
            "scored_chains": sum(cost.scored_chains for cost in costs),
            "scored_steps": sum(cost.scored_steps for cost in costs),
        }
        return {
            "policy": "sft",
            "method": method,
            "n": n,
            "width": width,
            "right": right,
            **share(right, len(costs)),
        } | spent

    def step_weights(self) -> Iterator[dict[str, Any]]:
        n = max(self.run.recipe.pool_sizes)
        for weight in WEIGHTS:
            results = pool_results(self.test, self.pools, self.scores, "best_of_n", n, weight)
            outcomes = grade_results(self.test, results)
            self._keep(f"weight {weight}", outcomes)
            yield {"weight": weight, **share(tally(outcomes).right, len(results))}

    def rounds(self) -> Iterator[dict[str, Any]]:
        counts = (
            ("prm", "dpo", self.run.recipe.rounds.rounds),
            ("outcome", "outcome", self.run.recipe.rounds.outcome_rounds),
        )
        for reward, prefix, rounds in counts:
            for number in range(rounds + 1):
                name = "sft" if number == 0 else f"{prefix}-{number}"
                rollouts = self.greedy[name]
                steps = [len(rollout.chain.steps) for rollout in rollouts if rollout.chain is not None]
                tokens = [len(rollout.token_ids) for rollout in rollouts]
                right = tally(grade(self.test, [answer_of(rollout) for rollout in rollouts])).right
                row = {"reward": reward, "round": number, "mean_steps": sum(steps) / max(1, len(steps))}
                measured = share(right, len(rollouts))
                del measured["total"]
                yield row | {"mean_tokens": sum(tokens) / len(tokens)} | measured

    def claims(self) -> Iterator[dict[str, Any]]:
        for name, paper, left, right in CLAIMS:
            if left in self.right and right in self.right:
                difference, low, high = paired_bootstrap(self.right[left], self.right[right], seed=0)
                verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
                values = {"difference": 100 * difference, "low": 100 * low, "high": 100 * high}
                yield {"name": name, "paper": paper, **values, "unit": "points", "verdict": verdict}


def pool_of_one(examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[SearchResult]:
    return pool_results(examples, [[rollout] for rollout in rollouts], None, "self_consistency", 1)


def stage_names(run: Run) -> list[str]:
    """All stages in the order they ran."""
    folder = run.path("stages")
    files = sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [str(path.relative_to(folder).with_suffix("")) for path in files]


def stages(run: Run) -> list[Stage]:
    """The finished stages in the order they ran."""
    known = (run.folder.stage(name) for name in stage_names(run))
    return [stage for stage in known if stage is not None and stage.seconds is not None]


def sampled_tokens(run: Run) -> dict[str, int]:
    """Tokens sampled by each stage: whole chains, Monte-Carlo continuations, levels of beam search."""
    counts: dict[str, int] = {}
    for name in stage_names(run):
        if name.endswith("/sample") or name == "base":
            rows = run.folder.log(f"{name.removesuffix('/sample')}/rollouts").rows()
            counts[name] = sum(len(rollout["token_ids"]) for row in rows for rollout in row["rollouts"])
        elif name.startswith("labels/"):
            rows = run.folder.log(f"{name.removesuffix('/score')}/scores").rows()
            counts[name] = sum(row["spent"]["tokens"] for row in rows if "spent" in row)
        elif name.startswith("search/beam"):
            counts[name] = sum(row["cost"]["sampled_tokens"] for row in run.folder.log(f"{name}/results").rows())
    return counts


def rejects(run: Run) -> dict[str, dict[str, int]]:
    found = sorted(run.folder.path.rglob("rejects.jsonl"))
    stages = [str(path.parent.relative_to(run.folder.path)) for path in found]
    return {stage: dict(Counter(row["reason"] for row in run.folder.rejects(stage).rows())) for stage in stages}
