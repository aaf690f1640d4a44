"""The stages of a run, in order: problems, base, SFT, labels, PRM, rounds of DPO, search, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainofstep.pipeline.measure import write_results
from chainofstep.pipeline.recipe import beams, best_policy
from chainofstep.pipeline.run import Run
from chainofstep.pipeline.sets import make_sets
from chainofstep.pipeline.workers import Scorer
from chainofstep.records import Example, to_row
from chainofstep.report import write_report
from chainofstep.scoring.pairs import PairRule, choose_pairs
from chainofstep.settings import resolved
from chainofstep.training.mini_base import make_base


def run_recipe(run: Run) -> Path:
    """All stages; the path of the report."""
    make_sets(run)
    prepare_base(run)
    fine_tune(run)
    label_steps(run)
    run.train("prm", config=resolved(run.recipe.prm))
    for number in range(1, run.recipe.rounds.rounds + 1):
        dpo_round(run, by_prm(run), number)
    if run.recipe.grpo is not None:
        run.train("grpo", config=resolved(run.recipe.grpo))
        greedy_answers(run, "grpo")
    for number in range(1, run.recipe.rounds.outcome_rounds + 1):
        dpo_round(run, by_outcome(run), number)
    search(run)
    write_results(run)
    return write_report(run.folder.path)


def prepare_base(run: Run) -> None:
    """The policy's base and the PRM's backbone: shipped, or pretrained here; and the base's answers without steps."""
    if run.recipe.base == "scratch" and not run.recipe.policy:

        def work() -> Sequence[Path]:
            return [make_base(run.recipe.pretraining, run.recipe.seed, run.path("models", "mini_base"))]

        run.stage("pretraining", work, config=resolved(run.recipe.pretraining))

    config = run.sampling("base", n=1, temperature=0.0, top_p=1.0, max_tokens=run.recipe.base_tokens)
    run.sample("base", run.base("policy"), run.examples("test"), config, steps=False)


def fine_tune(run: Run) -> None:
    """SFT on gold chains (paper A2), and what the policy then answers."""
    run.train("sft", config=resolved(run.recipe.sft), hasty=run.recipe.problems.hasty)
    greedy_answers(run, "sft")


def greedy_answers(run: Run, model: str) -> None:
    """A model's greedy chains on the unseen questions and on the held-out kinds."""
    config = run.sampling("greedy", n=1, temperature=0.0, top_p=1.0)
    run.sample(f"greedy/{model}", run.model_folder(model), run.examples("test"), config)
    if model in ("sft", best_policy(run.recipe)) and run.examples("held-out"):
        run.sample(f"held-out/{model}", run.model_folder(model), run.examples("held-out"), config)


def label_steps(run: Run) -> None:
    """Chains of the SFT model on the PRM's questions, and on some test questions, with Monte-Carlo labels (A3)."""
    sizes = run.recipe.labels
    seen, unseen = run.examples("labels"), run.examples("test")[: sizes.unseen_chains]
    sft = run.model_folder("sft")
    run.sample("labels/seen", sft, seen, run.sampling("labels", n=sizes.chains))
    run.sample("labels/unseen", sft, unseen, run.sampling("labels/unseen", n=1))
    # Rollouts that stop early need to know what label they are for; all of them serve any threshold afterwards.
    threshold = sizes.hard_threshold if sizes.adaptive and not sizes.soft else None
    sampling = run.sampling("monte-carlo", n=sizes.rollouts)
    scorer = Scorer("monte-carlo", sft, sampling, threshold, sizes.adaptive)
    run.score("labels/seen", "labels/seen", seen, scorer)
    run.score("labels/unseen", "labels/unseen", unseen, scorer)


@dataclass(frozen=True)
class Reward:
    """What rounds of DPO go by: their models are `NAME-1`, `NAME-2`, ... and start from the model `sft`."""

    name: str
    scorer: Scorer
    rule: PairRule
    sft: str = "sft"
    scored_as: str = ""  # a reward of the same scorer: its scores of the first round are taken


def by_prm(run: Run) -> Reward:
    return Reward("dpo", prm(run), run.recipe.pairs)


def by_outcome(run: Run) -> Reward:
    return Reward("outcome", Scorer("outcome"), run.recipe.outcome_pairs)


def dpo_round(run: Run, reward: Reward, number: int, here: Callable[[], Sequence[Path]] | None = None) -> None:
    """A round: sample with the last policy, score, pair, train against the SFT model (A6); `here` as in `run.train`.

    The first rounds of all rewards of one SFT model score the same rollouts.
    """
    name, last = f"{reward.name}-{number}", reward.sft if number == 1 else f"{reward.name}-{number - 1}"
    examples, rule = run.examples(f"dpo-{number}"), reward.rule
    sampled = name if number > 1 else "dpo-1" if reward.sft == "sft" else f"{reward.sft}/pool"
    run.sample(sampled, run.model_folder(last), examples, run.sampling(f"dpo-{number}"))
    scored = f"{reward.scored_as}-1" if number == 1 and reward.scored_as else name
    run.score(scored, sampled, examples, reward.scorer)
    run.stage(f"{name}/pairs", lambda: _write_pairs(run, name, sampled, scored, examples, rule), rule=resolved(rule))
    run.train(f"{name}/train", here, config=resolved(run.recipe.dpo), weights=run.recipe.rounds.weights)
    greedy_answers(run, name)


def _write_pairs(
    run: Run, name: str, sampled: str, scored_as: str, examples: Sequence[Example], rule: PairRule
) -> list[Path]:
    log, rejects = run.folder.log(f"{name}/pairs"), run.folder.rejects(name)
    for part in (log, rejects):
        part.path.unlink(missing_ok=True)  # a killed attempt left a part
    pools, scores = run.pools(sampled, examples), run.scores(scored_as, examples)
    for example, pool, scored in zip(examples, pools, scores, strict=True):
        pairs, refused = choose_pairs(example, pool, scored, rule)
        for pair in pairs:
            log.append(to_row(pair))
        for example_id, reason in refused:
            run.folder.reject(name, example_id, reason, {})
    if not log.path.exists():
        raise ValueError(f"{name}: no question gave a pair; lower the threshold (--set pairs.threshold=...)")
    return [log.path]


def prm(run: Run) -> Scorer:
    return Scorer("prm", run.model_folder("prm"))


def search(run: Run) -> None:
    """Pools of the SFT model on the unseen questions, the PRM's scores of them, and beam search.

    Where there is an exact checker, its scores too.
    """
    test, seen, sft = run.examples("test"), run.examples("labels"), run.model_folder("sft")
    unseen = test[: run.recipe.labels.unseen_chains]
    run.sample("search/pool", sft, test, run.sampling("search"))
    run.score("search/prm", "search/pool", test, prm(run))
    run.score("search/labels-seen", "labels/seen", seen, prm(run))
    run.score("search/labels-unseen", "labels/unseen", unseen, prm(run))
    if run.checked:
        run.score("search/checker", "search/pool", test, Scorer("checker"))
        run.sample("search/seen", sft, seen, run.sampling("seen", n=2))
        run.score("search/seen-prm", "search/seen", seen, prm(run))
        run.score("search/seen-checker", "search/seen", seen, Scorer("checker"))
    for n, width in beams(run.recipe):
        run.beam_search(f"search/beam-{n}-{width}", sft, test, run.sampling("beam", n=n, width=width))
