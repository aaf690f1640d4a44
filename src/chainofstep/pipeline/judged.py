"""How good the PRM and its labels are, against the exact checker."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chainofstep.chain import Chain
from chainofstep.evaluate import Agreement, StepAgreement, calibration, step_agreement, wilson
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.workers import prm
from chainofstep.problems.tasks.build import remake
from chainofstep.problems.tasks.checker import check_steps
from chainofstep.problems.tasks.planted import PLANTERS
from chainofstep.records import Example, Scored, StepScores
from chainofstep.store import read_json, write_json

THRESHOLD = 0.5  # fixed beforehand; a PRM is trained to be calibrated, so "more likely right than not"
PER_QUESTION = 2  # rollouts of each test question that the PRM's accuracy is measured on
PLANTED_QUESTIONS = 480


def flat(scores: Sequence[Sequence[Scored]], first: int | None = None) -> list[Scored]:
    return [scored for pool in scores for scored in pool[:first]]


def _compare(run: Run, predicted: str, truth: str, questions: str, first: int | None = None) -> StepAgreement:
    examples = run.examples("test" if questions == "unseen" else "labels")
    if predicted.startswith("search/labels-unseen"):
        examples = examples[: run.recipe.labels.unseen_chains]
    guesses, labels = flat(run.scores(predicted, examples), first), flat(run.scores(truth, examples), first)
    # Where the text is no chain, neither has a score: it is no question for the PRM.
    kept = [(g, t) for g, t in zip(guesses, labels, strict=True) if isinstance(t, StepScores)]
    threshold = run.recipe.labels.hard_threshold if truth.startswith("labels/") else 0.5
    return step_agreement([g for g, _ in kept], [t for _, t in kept], THRESHOLD, threshold)


def prm_quality(run: Run) -> Iterator[dict[str, Any]]:
    """Accuracy, majority rate and AUC per tag: sampled chains of seen and unseen questions (paper Table 3)."""
    compared = [
        ("seen", "labels", _compare(run, "search/labels-seen", "labels/seen", "seen")),
        ("unseen", "labels", _compare(run, "search/labels-unseen", "labels/unseen", "unseen")),
    ]
    if run.checked:
        compared[:0] = [
            ("seen", "checker", _compare(run, "search/seen-prm", "search/seen-checker", "seen")),
            ("unseen", "checker", _compare(run, "search/prm", "search/checker", "unseen", PER_QUESTION)),
        ]
    for questions, against, agreement in compared:
        for part, tags in (("step", agreement.steps), ("answer", agreement.answers)):
            row = {"questions": questions, "part": part, "against": against, "threshold": THRESHOLD}
            yield row | _figures(tags) | {"failed": agreement.failures}


def _figures(tags: Agreement) -> dict[str, Any]:
    low, high = wilson(tags.right, tags.total)
    figures = {"accuracy": tags.accuracy, "low": low, "high": high}
    return figures | {"majority": tags.majority_rate, "auc": tags.auc, "total": tags.total}


def score_bins(run: Run) -> Iterator[dict[str, Any]]:
    """Reliability of the PRM's scores on unseen questions, against the checker or, without one, the labels."""
    examples = run.examples("test")
    guesses, truths, first = "search/prm", "search/checker", PER_QUESTION
    if not run.checked:
        guesses, truths, first = "search/labels-unseen", "labels/unseen", 1
        examples = examples[: run.recipe.labels.unseen_chains]
    pairs = zip(flat(run.scores(guesses, examples), first), flat(run.scores(truths, examples), first), strict=True)
    both = [(g, t) for g, t in pairs if isinstance(g, StepScores) and isinstance(t, StepScores)]
    steps = [(s, t > 0.5) for g, truth in both for s, t in zip(g.steps, truth.steps, strict=True)]
    answers = [(g.answer, t.answer > 0.5) for g, t in both if g.answer is not None and t.answer is not None]
    for part, items in (("step", steps), ("answer", answers)):
        for bin_ in calibration([score for score, _ in items], [label for _, label in items]):
            row = {"part": part, "low": bin_.low, "high": bin_.high, "mean_score": bin_.mean_score}
            yield row | {"share_right": bin_.share_right, "total": bin_.count}


def caught_by_kind(run: Run) -> list[dict[str, Any]]:
    """Planted errors in gold chains of unseen problems, and the share whose wrong tag the PRM scores below 0.5.

    Of "flawless" chains it counts those that the PRM wrongly refuses somewhere.
    """
    if not run.checked:
        return []
    path = run.path("search", "planted.json")
    if not path.exists():
        write_json(path, _plant(run))
    rows: list[dict[str, Any]] = read_json(path)
    return rows


def _plant(run: Run) -> list[dict[str, Any]]:
    generator, names = np.random.default_rng(run.recipe.seed), list(PLANTERS)
    planted = []
    for number, example in enumerate(run.examples("test")[:PLANTED_QUESTIONS]):
        problem, name = remake(example.id), names[number % len(names)]
        chain = PLANTERS[name](problem, generator)
        if chain is not None:
            planted.append((name, example, chain))
        if example.chain is not None:
            planted.append(("flawless (refused)", example, example.chain))
    scored = prm(run.prm).score([(example, chain) for _, example, chain in planted])
    verdicts = [(name, _caught(example, chain, s)) for (name, example, chain), s in zip(planted, scored, strict=True)]
    return [
        {"questions": "unseen", "error": name, "caught": sum(c for n, c in verdicts if n == name), "total": count}
        for name in [*names, "flawless (refused)"]
        if (count := sum(n == name for n, _ in verdicts))
    ]


def _caught(example: Example, chain: Any, scored: Scored) -> bool:
    """Whether a tag that is truly wrong scores below the threshold (in a flawless chain: whether any tag does)."""
    if not isinstance(scored, StepScores) or scored.answer is None:
        return False
    truth = [*check_steps(example, chain), chain.answer == example.answer]
    tags = [*scored.steps, scored.answer]
    suspects = tags if all(truth) else [tag for tag, right in zip(tags, truth, strict=True) if not right]
    return min(suspects) < THRESHOLD


def label_quality(run: Run) -> dict[str, Any]:
    """How many labels there are, what they cost and, where there is an exact checker, how often it agrees."""
    examples = run.examples("labels")
    labels = flat(run.scores("labels/seen", examples))
    pools = run.pools("labels/seen", examples)
    asked = [(example, rollout.chain) for example, pool in zip(examples, pools, strict=True) for rollout in pool]
    labelled = [
        (example, chain, label)
        for (example, chain), label in zip(asked, labels, strict=True)
        if chain is not None and isinstance(label, StepScores)
    ]
    spent = [row["spent"] for row in run.folder.log("labels/seen/scores").rows() if "spent" in row]
    return (_checked_labels(run, labelled) if run.checked else {}) | {
        "labelled_steps": sum(len(chain.steps) for _, chain, _ in labelled),
        "rollouts_per_step": run.recipe.labels.rollouts,
        "rollouts_used": sum(chunk["rollouts"] for chunk in spent),
        "rollouts_fixed": sum(chunk["fixed_rollouts"] for chunk in spent),  # at so many a step, each text once
    }


def _checked_labels(run: Run, labelled: Sequence[tuple[Example, Chain, StepScores]]) -> dict[str, Any]:
    """How often Monte-Carlo labels say of a step what the exact checker says."""
    threshold = run.recipe.labels.hard_threshold
    right = total = 0
    for example, chain, label in labelled:
        truth = check_steps(example, chain)
        right += sum((score > threshold) == word for score, word in zip(label.steps, truth, strict=True))
        total += len(truth)
    low, high = wilson(right, total)
    return {"agreement_with_checker": right / total, "agreement_low": low, "agreement_high": high}
