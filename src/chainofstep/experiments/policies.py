"""Experiments on policies: Tables 1, 2, 4, 5 and 9, Figure 6, and what parts of a step and pairs are good for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chainofstep.experiments.arms import (
    by_family,
    greedy,
    greedy_right,
    in_one_piece,
    mean_steps,
    prepare,
    prepare_prm,
    rounds,
    tell,
    without_part,
    without_reasoning,
)
from chainofstep.experiments.experiment import Cells
from chainofstep.pipeline.rows import read_results
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.stages import Reward, by_outcome, by_prm, greedy_answers
from chainofstep.pipeline.trainings import preferred, rewarded
from chainofstep.pipeline.workers import Scorer, prm
from chainofstep.problems.tasks.checker import Checker
from chainofstep.records import Example, Pair, Rollout, to_row
from chainofstep.scoring.pairs import PairRule
from chainofstep.search import Candidate, SearchResult
from chainofstep.settings import resolved
from chainofstep.store import read_json

MAIN_ROUNDS = 3  # of the paper's main results


def table1(run: Run) -> Cells:
    prepare_prm(run)
    rounds(run, by_prm(run), MAIN_ROUNDS)
    models = {"base": "base", "SFT": "sft"} | {f"DPO round {n}": f"dpo-{n}" for n in range(1, MAIN_ROUNDS + 1)}
    cells: Cells = {}
    for row, model in models.items():
        cells |= by_family(run, row, model)
    return cells


def table2(run: Run) -> Cells:
    scorer = prepare_prm(run)
    answers = Reward("answers", scorer, replace(run.recipe.pairs, step_weight=0.0), scored_as="dpo")
    models = {
        "SFT": "sft",
        "answer score (PRM)": rounds(run, answers, MAIN_ROUNDS),
        "outcome": rounds(run, by_outcome(run), MAIN_ROUNDS),
        "step and answer scores (PRM)": rounds(run, by_prm(run), MAIN_ROUNDS),
    }
    cells: Cells = {}
    for row, model in models.items():
        cells |= by_family(run, row, model)
    return cells


def table4(run: Run) -> Cells:
    prepare_prm(run)
    cells: Cells = {("base", "all"): greedy_right(run, "base")}
    for words, name, told in (
        ("no reasoning", "bare", without_reasoning),
        ("direct prompt", "direct", in_one_piece),
    ):
        tell(run, name, told)
        outcome = Reward(f"{name}-outcome", Scorer("outcome"), run.recipe.outcome_pairs, sft=name)
        last = rounds(run, outcome, MAIN_ROUNDS)
        cells[f"{words}: SFT", "all"] = greedy_right(run, name)
        cells[f"{words}: + RL (outcome)", "all"] = greedy_right(run, last)
    cells["chain of step: SFT", "all"] = greedy_right(run, "sft")
    cells["chain of step: + RL (PRM)", "all"] = greedy_right(run, rounds(run, by_prm(run), MAIN_ROUNDS))
    return cells


def table5(run: Run) -> Cells:
    scorer = prepare_prm(run)
    for name, judge in (("grpo-outcome", ""), ("grpo", scorer.model)):

        def here(name: str = name, judge: str = judge) -> Sequence[Path]:
            return rewarded(run, name, prm(judge) if judge else None)

        run.train(name, here, config=resolved(run.recipe.grpo) if run.recipe.grpo else None)
        greedy_answers(run, name)
    rows = {"SFT": "sft", "GRPO, outcome": "grpo-outcome", "GRPO, step and answer scores": "grpo"}
    cells: Cells = {(row, "all"): greedy_right(run, model) for row, model in rows.items()}
    return cells | {(row, "steps"): mean_steps(run, model) for row, model in rows.items()}


def figure6(run: Run) -> Cells:
    prepare_prm(run)
    count = run.recipe.rounds.rounds
    cells: Cells = {}
    for column, reward in (("outcome", by_outcome(run)), ("step and answer scores", by_prm(run))):
        rounds(run, reward, count)
        for number in range(count + 1):
            model = f"{reward.name}-{number}" if number else "sft"
            cells[f"round {number}", f"steps, {column}"] = mean_steps(run, model)
            cells[f"round {number}", f"accuracy, {column}"] = greedy_right(run, model)
    return cells


# Table 9: pairs of single steps


def table9(run: Run) -> Cells:
    prepare_prm(run)
    rounds(run, by_outcome(run), 1)
    examples = run.examples("dpo-1")
    search = run.sampling("per-step")
    run.beam_search("per-step/search", run.model_folder("sft"), examples, search)
    run.stage("per-step-1/pairs", lambda: _write_step_pairs(run, examples), rule=resolved(run.recipe.pairs))
    run.train("per-step-1/train", lambda: preferred(run, "per-step", 1), config=resolved(run.recipe.dpo))
    greedy_answers(run, "per-step-1")
    cells: Cells = {("SFT", "all"): greedy_right(run, "sft")}
    for row, model in (("outcome DPO", "outcome-1"), ("per-step DPO", "per-step-1")):
        cells[row, "all"] = greedy_right(run, model)
        log = [entry for entry in read_json(run.path("models", model, "training_log.json")) if "loss" in entry]
        last = log[-max(1, len(log) // 4) :]
        for side in ("chosen", "rejected"):
            cells[row, f"{side} reward"] = sum(entry[f"rewards/{side}"] for entry in last) / len(last)
        cells[row, "pairs"] = float(sum(1 for _ in run.folder.log(f"{model}/pairs").rows()))
    return cells


def _write_step_pairs(run: Run, examples: Sequence[Example]) -> list[Path]:
    log = run.folder.log("per-step-1/pairs")
    log.path.unlink(missing_ok=True)  # a killed attempt left a part
    for result in read_results(run.folder.log("per-step/search/results"), examples):
        for pair in step_pairs(result, run.recipe.pairs):
            log.append(to_row(pair))
    if not log.path.exists():
        raise ValueError("per-step-1: no step gave a pair; lower the threshold (--set pairs.threshold=...)")
    return [log.path]


def step_pairs(result: SearchResult, rule: PairRule) -> list[Pair]:
    """At every level of a beam search the kept step against the worst one (Table 9), where the margin exceeds t."""
    pairs = []
    for level, seen in enumerate(result.trace):
        ranked = [candidate for candidate in seen if candidate.value is not None]
        kept = next((candidate for candidate in ranked if candidate.kept), None)
        worst = min(ranked, key=_value, default=None)
        if kept and worst and _value(kept) - _value(worst) > rule.threshold:
            reason = f"step {level + 1}: best against worst, t={rule.threshold:g}"
            pairs.append(Pair(result.example_id, kept.text, worst.text, _value(kept), _value(worst), reason))
    return pairs


def _value(candidate: Candidate) -> float:
    assert candidate.value is not None
    return candidate.value


# What the paper left open


def parts(run: Run) -> Cells:
    prepare(run)
    cells: Cells = {}
    for row, name in (("whole step", "sft"), *((f"without the {part}", f"no-{part}") for part in PARTS)):
        if name != "sft":
            tell(run, name, without_part(name.removeprefix("no-")))
        cells[row, "right answers"] = greedy_right(run, name)
        cells[row, "chains without a false claim"] = truthful(run, greedy(run, name))
        cells[row, "tokens"] = sum(len(rollout.token_ids) for rollout in greedy(run, name)) / len(run.examples("test"))
    return cells


PARTS = ("name", "thought", "reflection")


def truthful(run: Run, chains: Sequence[Rollout]) -> list[bool]:
    """Whether a chain says nothing of the picture that is false or cannot be read; without a chain: no."""
    return [
        rollout.chain is not None and _truthful(Checker(example), rollout)
        for example, rollout in zip(run.examples("test"), chains, strict=True)
    ]


def _truthful(checker: Checker, rollout: Rollout) -> bool:
    assert rollout.chain is not None
    claims = [checker.claims(step) for step in rollout.chain.steps]
    return not any(isinstance(said, str) or any(checker.problem(claim) for claim in said) for said in claims)


THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7)


def pair_choice(run: Run) -> Cells:
    scorer = prepare_prm(run)
    own = run.recipe.pairs
    rules = {f"t = {t:g}, {own.per_question} a question": replace(own, threshold=t) for t in THRESHOLDS}
    rules |= {f"t = {own.threshold:g}, {n} a question": replace(own, per_question=n) for n in (1, 2, 4)}
    cells: Cells = {}
    for row, rule in rules.items():
        reward = Reward(f"pairs-{rule.threshold:g}-{rule.per_question}", scorer, rule, scored_as="dpo")
        if rule == own:
            reward = by_prm(run)
        model = rounds(run, reward, 1)
        cells[row, "right answers"] = greedy_right(run, model)
        cells[row, "pairs"] = float(sum(1 for _ in run.folder.log(f"{model}/pairs").rows()))
        cells[row, "steps"] = mean_steps(run, model)
    return cells
